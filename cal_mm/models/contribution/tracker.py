"""The contribution of every modality: where it is kept, averaged and handed out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from cal_mm.models.flags import SeenFlag
from cal_mm.models.state import ForwardState
from cal_mm.registry import CONTRIBUTIONS

from .functional import confidence, contribution_weights, dynamic_weights, shares
from .ledger import Ledger
from .targets import HeldOutPosteriors, check_soft_targets, label_targets, mixed_targets
from .typicality import Typicality

__all__ = ['ContributionEstimate', 'ContributionTracker']

#: sources that measure on the running training batches
ONLINE = ('train', 'TrainSource')


@dataclass
class ContributionEstimate:
    """What a contribution source found out before training.

    Attributes:
        information: I_norm [M], a share of H(Y).
        confidence: D [M], in [0, 1].
        weights: W [M], sums to one.
        standard_error: of W, [M].
        details: further facts for the log (JSON-serialisable).
        posteriors: class probabilities of the training samples in the dataset's order, each by a
            predictor of all modalities that never saw it, calibrated, [N, C]; None where the
            source has none.
    """

    information: Tensor
    confidence: Tensor
    weights: Tensor
    standard_error: Tensor
    details: dict[str, Any] = field(default_factory=dict)
    posteriors: Tensor | None = None


class ContributionTracker(nn.Module):
    """W^m over the run: batch-level W [M] for gradients and bottlenecks, per-sample W for analysis
    and gating.

    Args:
        feature_channels: H_m of every modality.
        num_classes: C.
        information: config of the estimator of I.
        confidence: config of the estimator of D.
        source: where I and D are measured: ``'pilot'``, ``'ridge'`` (out of fold, before training),
            ``'train'`` (the running batches), or the config of a registered contribution source.
        lam: share of I in the score.
        tau: temperature of the softmax.
        combine: ``sum`` or ``product``.
        momentum: of the moving average over updates (``train``), in [0, 1).
        typicality: keyword arguments of ``Typicality``, or None to leave it out of the per-sample
            W.
        feature_weights: keyword arguments of ``dynamic_weights``: what of each modality's features
            enters the fusion; None: all.
        soft_targets: share in [0, 1) of the source's held-out prediction of a sample in what the
            cross-entropies learn, ``mixed_targets``; 0: they learn the labels.

    Kept in the checkpoint: everything (the held-out predictions by ``ContributionHook``).

    Source: reconstruction of CAL; the paper's equations are not public.
    """

    weights: Tensor
    information: Tensor
    confidence: Tensor
    standard_error: Tensor
    temperature: Tensor
    told: Tensor
    fused_temperature: Tensor
    measured: Tensor
    num_updates: Tensor

    def __init__(
        self,
        feature_channels: Mapping[str, int],
        num_classes: int,
        information: dict | None = None,
        confidence: dict | None = None,
        source: str | dict = 'train',
        lam: float = 0.5,
        tau: float = 0.5,
        combine: str = 'sum',
        momentum: float = 0.9,
        typicality: dict | None = None,
        feature_weights: dict | None = None,
        soft_targets: float = 0.0,
    ) -> None:
        super().__init__()
        self.modalities = tuple(sorted(feature_channels))
        m = len(self.modalities)
        self.source = source
        if not 0 <= momentum < 1:
            raise ValueError(f'contribution: momentum must be in [0, 1), got {momentum}')
        contribution_weights(torch.zeros(m), torch.zeros(m), lam, tau, combine)  # checks
        dynamic_weights(torch.zeros(m), **(feature_weights or {}))  # checks
        check_soft_targets(soft_targets)
        self.feature_rule = feature_weights
        if soft_targets and self.online:
            raise ValueError(
                f'contribution.soft_targets={soft_targets} needs predictions of samples that their '
                f"predictor never saw, which source={source!r} does not make: use 'pilot' or "
                f"'ridge', or soft_targets=0"
            )
        self.soft_targets = soft_targets
        #: of the training samples, once they are measured; they belong to the run, not to the model
        self.posteriors: HeldOutPosteriors | None = None
        self.lam, self.tau, self.combine, self.momentum = lam, tau, combine, momentum
        self.information_estimator = CONTRIBUTIONS.build(
            information or dict(type='ShapleyInformation')
        )
        self.confidence_estimator = CONTRIBUTIONS.build(confidence or dict(type='Confidence'))
        self.register_buffer('weights', torch.full((m,), 1 / m))
        self.register_buffer('information', torch.zeros(m))
        self.register_buffer('confidence', torch.zeros(m))
        self.register_buffer('standard_error', torch.zeros(m))
        self.register_buffer('temperature', torch.ones(m))
        self.register_buffer('told', torch.zeros(m))
        self.register_buffer('fused_temperature', torch.tensor(1.0))
        self.register_buffer('measured', torch.tensor(False))
        self._flag = SeenFlag()
        self.register_buffer('num_updates', torch.tensor(0))
        self.typicality: nn.ModuleDict | None = None
        if typicality is not None:
            self.typicality = nn.ModuleDict(
                {
                    name: Typicality(feature_channels[name], num_classes, **typicality)
                    for name in self.modalities
                }
            )
        self.ledger = Ledger()

    @property
    def online(self) -> bool:
        """Whether W follows the running training batches."""
        source = self.source.get('type') if isinstance(self.source, Mapping) else self.source
        return source in ONLINE

    @property
    def is_measured(self) -> bool:
        """Whether I and D are there."""
        return self._flag.read(self.measured)

    def combined(self, information: Tensor, confidence: Tensor) -> Tensor:
        """W [..., M] from I_norm and D with this tracker's options."""
        return contribution_weights(information, confidence, self.lam, self.tau, self.combine)

    def feature_weights(self) -> Tensor | None:
        """s [M], what of each modality's features enters the fusion; None where it is all of them:
        without the option, and before anything is measured.
        """
        if self.feature_rule is None or not self.is_measured:
            return None
        return dynamic_weights(self.information, **self.feature_rule)

    @torch.no_grad()
    def targets(self, sample_ids: Sequence[str], labels: Tensor) -> Tensor | None:
        """What the cross-entropies learn, [B, C] float32; None where it is the labels.

        Args:
            sample_ids: B names. A sample without a held-out prediction keeps its label.
            labels: int64 [B].
        """
        if self.soft_targets == 0 or self.posteriors is None:
            return None
        posterior, known = self.posteriors.to(labels.device).read(sample_ids)
        mixed = mixed_targets(posterior.float(), labels, self.soft_targets)
        if known is None:
            return mixed
        return torch.where(known.unsqueeze(-1), mixed, label_targets(labels, mixed))

    @torch.no_grad()
    def observe(self, state: ForwardState) -> None:
        """Book a training batch's statistics (micro-batch of one rank)."""
        if not self.online:
            return
        with torch.autocast(state.logits.device.type, enabled=False):
            self.ledger.add('information', self.information_estimator.statistics(state))
            self.ledger.add('confidence', self.confidence_estimator.statistics(state))

    @torch.no_grad()
    def update(self, log_prior: Tensor) -> Tensor:
        """Close an update: reduce the ledger over micro-batches and ranks, move the average.

        Args:
            log_prior: log class prior [C].

        Returns:
            W [M], the same on every rank.
        """
        means = self.ledger.close()
        if means:
            information = self.information_estimator.summarise(means['information'], log_prior)
            conf = self.confidence_estimator.summarise(means['confidence'], log_prior)
            now = self.combined(information, conf)
            # W starts from 1/M: the first updates of an untrained model must not decide. I and D
            # have no neutral start, so theirs is a plain mean until the window is full.
            step = 1 - self.momentum
            early = max(step, 1 / (int(self.num_updates) + 1))
            self.weights.lerp_(now.to(self.weights), step)
            self.information.lerp_(information.to(self.information), early)
            self.confidence.lerp_(conf.to(self.confidence), early)
            self.measured.fill_(True)
        self.num_updates += 1
        return self.weights

    @torch.no_grad()
    def set_estimate(self, estimate: ContributionEstimate) -> None:
        """Take over what a source measured."""
        for name in ('information', 'confidence', 'weights', 'standard_error'):
            buffer = getattr(self, name)
            buffer.copy_(getattr(estimate, name).to(buffer))
        self.measured.fill_(True)

    def typicalities(self, state: ForwardState) -> Tensor:
        """a [B, M] of the encoder features, float32; ones where no typicality is fitted. Computed
        once per forward pass.
        """
        if state.typicalities is None:
            if self.typicality is None:
                state.typicalities = state.logits.new_ones(
                    state.batch_size, len(self.modalities), dtype=torch.float32
                )
            else:
                found = [self.typicality[m](state.features[m].float()) for m in self.modalities]
                state.typicalities = torch.stack(found, dim=1)
        return state.typicalities

    def sample_weights(self, state: ForwardState) -> Tensor:
        """Label-free W per sample, [B, M], sums to one over the present modalities.

        score_m = a_m(x) * (lam * max(I_norm(m), 0) + (1 - lam) * D_m(x)), with the population's
        information, the confidence at the calibrated temperature and the typicality a of the
        features. A missing modality gets 0.
        """
        with torch.autocast(state.logits.device.type, enabled=False):
            if state.head is None:
                conf = self.confidence.expand(state.batch_size, -1)
            else:
                conf = torch.stack(
                    [
                        confidence(state.mean_unimodal_logits(m).float() / self.temperature[i])
                        for i, m in enumerate(self.modalities)
                    ],
                    dim=1,
                )
            information = self.information.clamp_min(0).expand_as(conf)
            a = self.typicalities(state)
            weights = contribution_weights(
                a * information, a * conf, self.lam, self.tau, self.combine
            )
        return weights if state.present is None else shares(weights, state.present)
