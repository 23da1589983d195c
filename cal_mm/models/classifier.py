"""The model: training losses and inference on top of the parts in ``network.py``."""

import logging
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor

from cal_mm.models.state import ForwardState
from cal_mm.registry import GATES, MODELS
from cal_mm.structures import MultiModalDataSample

from .assembly import check_finite_loss
from .contribution import ContributionTracker
from .gates import GateParts
from .network import MultiModalNetwork

__all__ = ['MultiModalClassifier']


@MODELS.register_module()
class MultiModalClassifier(MultiModalNetwork):
    """Classifies samples of M >= 1 modalities.

    h_m = encoder(x_m) [B, H_m]; z_m, kl_m = bottleneck(h_m) [B, D_m], [B]; u_m = head(z_m) [B, C];
    y = fusion({m: z_m}) [B, C].

    Args:
        encoders: one config per modality. The order of modalities is the sorted order of its keys.
        fusion: config of the fusion; it learns the widths and the number of classes from here.
        num_classes: C >= 2.
        bottleneck: config for all modalities, or one per modality; default: the identity.
        unimodal_head: config of the heads u_m, e.g. ``dict(type='LinearHead')``; ``'fusion'``: the
            fusion's own view of each modality alone (its share of a concat head, the head of a late
            fusion); None for none.
        feature_transforms: configs of what happens between bottleneck and fusion, in order.
        losses: configs of the loss components; default: cross-entropy of the fused logits.
        contribution: keyword arguments of ``ContributionTracker``; None: W is not measured.
        gate: how inference makes the prediction, a name or a config: ``none``, ``contribution``
            (z_m times W_m of the sample, times the number of its modalities), ``confidence`` (the
            same with D alone), ``uncertainty`` (with how usual the bottleneck's posterior is),
            ``experts`` (product of calibrated unimodal posteriors, weighted by typicality),
            ``pool`` (of the fused and the unimodal posteriors, by what each modality's own
            prediction tells on validation and by typicality),
            ``evidence`` (Dempster's combination of the heads' evidence).
        seed: of the bottlenecks' noise, which has its own generator.
        data_preprocessor: config of the preprocessor.

    Modes of ``forward``: ``tensor`` logits [B, C]; ``loss`` named scalars; ``predict`` the data
        samples with predictions.
    """

    def forward(
        self,
        inputs: Mapping[str, Any],
        data_samples: list[MultiModalDataSample] | None = None,
        mode: str = 'tensor',
        masks: Mapping[str, Any] | None = None,
        present: Tensor | None = None,
        features: Mapping[str, Tensor] | None = None,
        embedding_shifts: Mapping[str, Tensor] | None = None,
    ) -> Any:
        """See the class for the modes; the other arguments are the preprocessor's output."""
        if mode not in ('tensor', 'loss', 'predict'):
            raise ValueError(f"mode must be 'tensor', 'loss' or 'predict', got {mode!r}")
        training = mode == 'loss'
        state = self.state(
            inputs, data_samples, masks, present, features, embedding_shifts, training
        )
        if mode == 'tensor':
            return state.logits
        if mode == 'loss':
            return self._loss(state)
        if data_samples is None:
            raise ValueError("mode='predict' needs data_samples to write the predictions to")
        return self._predict(state, data_samples)

    # ---- training ----

    def _loss(self, state: ForwardState) -> dict[str, Tensor]:
        if state.labels is None:
            raise ValueError("mode='loss' needs a label on every data sample")
        self._last_sample_ids = state.sample_ids
        self.forward_count += 1
        state.betas = self.current_betas()
        if self.contribution is not None:
            self._require_measured(self.contribution)
            state.targets = self.contribution.targets(state.sample_ids, state.known_labels)
        out: dict[str, Tensor] = {}
        for component in self.losses:
            out.update(component(state))
        if self.contribution is not None:
            self.contribution.observe(state)
        self.record.book(state, out)
        out['accuracy_fused'] = (state.logits.argmax(-1) == state.labels).float().mean() * 100
        return out

    @staticmethod
    def _require_measured(tracker: ContributionTracker) -> None:
        if not tracker.online and not tracker.is_measured:
            raise ValueError(
                f'model.contribution.source={tracker.source!r} is measured before training, and '
                f'was not: train with '
                f"the ContributionHook (configs/_base_/default_runtime.py), or use source='train'"
            )
        if tracker.soft_targets > 0 and tracker.posteriors is None:
            raise ValueError(
                'model.contribution.soft_targets needs held-out predictions of the training '
                'samples: train with the ContributionHook (configs/_base_/default_runtime.py), or '
                'set soft_targets=0'
            )

    def current_betas(self) -> Tensor | None:
        """The bottleneck strengths beta_m [M] in force, or None without an information
        bottleneck.
        """
        component: Any
        for component in self.losses:
            if getattr(component, 'needs_noise', False) and hasattr(component, 'betas'):
                m = len(self.modalities)
                tracker = self.contribution
                device = self.class_log_prior.device
                weights = (
                    torch.full((m,), 1 / m, device=device) if tracker is None else tracker.weights
                )
                # Without a measurement nobody is known to be weak.
                info = torch.ones(m, device=device) if tracker is None else tracker.information
                fraction = 1.0 if self.progress is None else self.progress.fraction
                return component.betas(weights, info, fraction)
        return None

    def set_class_prior(self, counts: Tensor) -> None:
        """Take over the class counts [C] of the training data (add-one smoothed)."""
        smoothed = counts.double() + 1
        self.class_log_prior.copy_((smoothed / smoothed.sum()).log())

    def finish_update(self) -> Tensor | None:
        """Close the contribution ledger of this update; W [M], or None where it is not measured."""
        if self.contribution is None:
            return None
        return self.contribution.update(self.class_log_prior)

    def parse_losses(self, losses: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The total and, on the CPU, the values to log, which a GPU hands over together; refuses a
        total that is not finite, before any parameter moves.
        """
        total, terms = super().parse_losses(losses)
        values = torch.stack([v.detach().float() for v in terms.values()]).cpu()
        log_vars = dict(zip(terms, values.unbind(), strict=True))
        check_finite_loss(log_vars, self.progress, self.forward_count, self._last_sample_ids)
        return total, log_vars

    # ---- inference ----

    def prediction_logits(self, **data: Any) -> Tensor:
        """The logits [B, C] that ``predict`` reports, gate included, with their gradient.

        Args:
            data: the preprocessor's output.
        """
        return self._final(self.state(**data))[0]

    def _final(self, state: ForwardState) -> tuple[Tensor, Tensor | None]:
        """Logits after the gate [B, C], and the samples' W [B, M] where it is measured."""
        weights = None if self.contribution is None else self.contribution.sample_weights(state)
        return self.gate(state, self._gate_parts(weights)), weights

    def _gate_parts(self, weights: Tensor | None = None) -> GateParts:
        return GateParts(
            fuse=self._fuse,
            bottlenecks=dict(self.bottlenecks.items()),
            log_prior=self.class_log_prior,
            contribution=self.contribution,
            uncertainty=self.uncertainty,
            weights=weights,
        )

    def use_gate(self, gate: str | dict) -> None:
        """Decide with another gate from now on; see ``gate`` of the class.

        Raises:
            ValueError: this model lacks what the gate needs.
        """
        built, before = GATES.build(dict(type=gate) if isinstance(gate, str) else gate), self.gate
        self.gate = built.to(self.forward_count.device)
        try:
            self._check()
        except ValueError:
            self.gate = before
            raise

    def check_gate(self) -> None:
        """Refuse to test with a gate whose statistics this model's weights do not hold; a part that
        it can do without is logged.

        Validation during training does without: until they are fitted every modality counts alike.

        Raises:
            ValueError: says what is missing and where it comes from.
        """
        parts = self._gate_parts()
        missing = self.gate.unfitted(parts)
        if missing is not None:
            raise ValueError(
                f'{type(self.gate).__name__} cannot be used with these weights: {missing}. Train '
                f'with validation data, the CalibrationHook and the ContributionHook '
                f"(configs/_base_/default_runtime.py), or test with gate='none'"
            )
        doubt = self.gate.partly_fitted(parts)
        if doubt is not None:
            print_log(f'{type(self.gate).__name__}: {doubt}', 'current', logging.WARNING)

    @torch.no_grad()
    def _predict(
        self, state: ForwardState, data_samples: list[MultiModalDataSample]
    ) -> list[MultiModalDataSample]:
        logits, weights = self._final(state)
        scores, labels = logits.softmax(dim=-1), logits.argmax(dim=-1)
        for i, sample in enumerate(data_samples):
            sample.logits, sample.pred_score, sample.pred_label = logits[i], scores[i], labels[i]
            if weights is not None:
                sample.contribution = weights[i]
        return data_samples
