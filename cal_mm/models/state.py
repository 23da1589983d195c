"""Everything one forward pass knows, by name: what losses and contribution estimators read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from cal_mm.models.noise import SampleDraws
from cal_mm.structures import TrainProgress

__all__ = ['ForwardState']


@dataclass
class ForwardState:
    """One forward pass of a ``MultiModalClassifier`` on a batch of B samples.

    Attributes:
        modalities: names in their fixed (sorted) order; M of them.
        num_classes: C.
        features: encoder outputs h_m [B, H_m].
        z: what enters fusion, [B, D_m].
        mu: the bottlenecks' means [B, D_m], after the feature transforms as in evaluation; equal to
            ``z`` where no bottleneck samples.
        kl: nats per sample, [B], float32.
        logits: fused logits y [B, C].
        log_prior: log of the class prior of the training data, [C].
        labels: int64 [B], or None.
        targets: what the cross-entropies of CAL learn, probabilities [B, C]; None: the labels.
        present: bool [B, M], or None where nothing is missing.
        sample_ids: B strings.
        betas: the bottleneck strengths beta_m [M] that this update uses, or None.
        progress: how far training has come.
        details: what the fusion says beside its logits, by name (``forward_with_details``).
        draws: random numbers that belong to the samples, in training; else None.
        posterior: ``modality -> (mean, sigma)``, [B, D_m] each, of q(z_m | h_m), before any feature
            transform; an error where the bottleneck has no spread.
        typicalities: a [B, M], once the contribution tracker has computed it.
        inputs, masks: the preprocessor's output {m: x}, {m: mask or None}.
        head: ``(modality, z) -> [B, C]``; the unimodal head, or None where the model has none.
        fuse: ``(z, masks [S, M], present, as_trained=False) -> [S, B, C]``; fused logits of
            coalitions, with the fusion's dropout if ``as_trained``.
    """

    modalities: tuple[str, ...]
    num_classes: int
    features: dict[str, Tensor]
    z: dict[str, Tensor]
    mu: dict[str, Tensor]
    kl: dict[str, Tensor]
    logits: Tensor
    log_prior: Tensor
    fuse: Callable[..., Tensor]
    head: Callable[[str, Tensor], Tensor] | None = None
    labels: Tensor | None = None
    targets: Tensor | None = None
    present: Tensor | None = None
    sample_ids: list[str] = field(default_factory=list)
    betas: Tensor | None = None
    progress: TrainProgress = field(default_factory=TrainProgress)
    details: dict[str, Tensor] = field(default_factory=dict)
    draws: SampleDraws | None = None
    posterior: Callable[[str], tuple[Tensor, Tensor]] | None = None
    inputs: Mapping[str, Any] = field(default_factory=dict)
    masks: Mapping[str, Any] | None = None
    typicalities: Tensor | None = None
    _unimodal: dict[tuple[str, str, bool], Tensor] = field(default_factory=dict)

    @property
    def batch_size(self) -> int:
        """B."""
        return self.logits.shape[0]

    def spread(self, modality: str) -> Tensor:
        """sigma_m [B, D_m] of the bottleneck, float32.

        Raises:
            ValueError: the bottleneck is deterministic.
        """
        return self.gaussian(modality)[1]

    def gaussian(self, modality: str) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of q(z_m | h_m), [B, D_m] each, float32.

        Raises:
            ValueError: the bottleneck is deterministic.
        """
        if self.posterior is None:
            raise ValueError('this needs the posterior of z, which this state does not know')
        return self.posterior(modality)

    @property
    def update(self) -> int:
        """Number of the running parameter update; outside a Runner that of the forward call."""
        return self.progress.update if self.draws is None else self.draws.counter

    def unimodal_logits(self, modality: str, detach: bool = False) -> Tensor:
        """u_m [B, C] on what enters fusion (in training a sample of the bottleneck); computed once.

        Args:
            modality: a name.
            detach: stop the gradient between head and encoder (the head still learns).

        Raises:
            ValueError: the model has no unimodal heads.
        """
        z = self.z[modality]
        return self._head_logits(modality, z.detach() if detach else z, f'z{detach}')

    def mean_unimodal_logits(self, modality: str) -> Tensor:
        """u_m [B, C] on the bottleneck's mean, as at inference: what the contribution is measured
        on.
        """
        if self.mu[modality] is self.z[modality]:
            return self.unimodal_logits(modality)
        return self._head_logits(modality, self.mu[modality], 'mu')

    def _head_logits(self, modality: str, z: Tensor, kind: str) -> Tensor:
        if self.head is None:
            raise ValueError(
                'this needs unimodal logits: give the model unimodal heads '
                "(model.unimodal_head=dict(type='LinearHead'))"
            )
        # A value computed under no_grad must not stand in for one that a loss differentiates.
        for grad in (True, torch.is_grad_enabled()):
            if (modality, kind, grad) in self._unimodal:
                return self._unimodal[modality, kind, grad]
        if not torch.is_autocast_enabled(z.device.type):
            z = z.float()  # computed under an autocast that is off by now
        logits = self.head(modality, z)
        self._unimodal[modality, kind, torch.is_grad_enabled()] = logits
        return logits

    def present_mask(self, modality: str) -> Tensor | None:
        """bool [B], or None where nothing is missing."""
        return None if self.present is None else self.present[:, self.modalities.index(modality)]

    def coalition_logits(self, masks: Tensor) -> Tensor:
        """Fused logits of coalitions on the bottlenecks' means: bool [S, M] -> [S, B, C]."""
        return self.fuse({m: v.float() for m, v in self.mu.items()}, masks, self.present)

    def subset_logits(self, keep: tuple[str, ...] | list[str]) -> Tensor:
        """Fused logits when only the modalities in ``keep`` are present: [B, C]."""
        mask = torch.tensor([[m in keep for m in self.modalities]], device=self.logits.device)
        return self.coalition_logits(mask)[0]

    @property
    def known_labels(self) -> Tensor:
        """int64 [B].

        Raises:
            ValueError: the samples carry no labels.
        """
        if self.labels is None:
            raise ValueError('this needs labels: it cannot run on unlabelled samples')
        return self.labels

    @property
    def known_targets(self) -> Tensor:
        """Class probabilities [B, C] where there are soft targets, else the labels, int64 [B].

        Either is a target of ``torch.nn.functional.cross_entropy``.

        Raises:
            ValueError: the samples carry no labels.
        """
        return self.known_labels if self.targets is None else self.targets

    def log_likelihood(self, logits: Tensor) -> Tensor:
        """log p(label): [..., B, C] -> [..., B], float32."""
        log_probs = logits.float().log_softmax(dim=-1)
        index = self.known_labels.expand(log_probs.shape[:-1]).unsqueeze(-1)
        return log_probs.gather(-1, index).squeeze(-1)
