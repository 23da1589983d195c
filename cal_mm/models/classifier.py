"""The model: encoders, bottlenecks, unimodal heads, fusion, losses and the contribution of each
modality.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn

from cal_mm.models.encoders import shifted_embeddings
from cal_mm.models.noise import SampleDraws, isolated_rng
from cal_mm.models.scale import scale_gradient
from cal_mm.models.state import ForwardState
from cal_mm.registry import (
    ENCODERS,
    FEATURE_TRANSFORMS,
    FUSIONS,
    GATES,
    LOSSES,
    MODELS,
)
from cal_mm.structures import MultiModalDataSample, TrainProgress

from .assembly import build_bottlenecks, build_heads, check_finite_loss, width
from .bookkeeping import StepRecord
from .bottlenecks import BottleneckUncertainty
from .contribution import ContributionTracker
from .feature_transforms import FeatureContext
from .fusions import coalition_logits
from .gates import Gate, GateParts

__all__ = ['MultiModalClassifier']


@MODELS.register_module()
class MultiModalClassifier(BaseModel):
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
            (z_m times M W_m of the sample), ``confidence`` (the same with D alone), ``uncertainty``
            (with how usual the bottleneck's posterior is), ``experts`` (product of calibrated
            unimodal posteriors, weighted by typicality), ``evidence`` (Dempster's combination of
            the heads' evidence).
        seed: of the bottlenecks' noise, which has its own generator.
        data_preprocessor: config of the preprocessor.

    Modes of ``forward``: ``tensor`` logits [B, C]; ``loss`` named scalars; ``predict`` the data
        samples with predictions.
    """

    class_log_prior: Tensor
    forward_count: Tensor
    feature_scale: Tensor

    def __init__(
        self,
        encoders: Mapping[str, dict],
        fusion: dict,
        num_classes: int,
        bottleneck: dict | None = None,
        unimodal_head: dict | str | None = None,
        losses: list[dict] | None = None,
        feature_transforms: list[dict] | None = None,
        contribution: dict | None = None,
        gate: str | dict = 'none',
        seed: int = 0,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        if isinstance(data_preprocessor, Mapping):
            data_preprocessor = MODELS.build(data_preprocessor)
        super().__init__(data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        if not encoders:
            raise ValueError('a MultiModalClassifier needs at least one encoder')
        if num_classes < 2:
            raise ValueError(f'num_classes must be at least 2, got {num_classes}')
        self.modalities: tuple[str, ...] = tuple(sorted(encoders))
        self.num_classes = num_classes
        self.gate: Gate = GATES.build(dict(type=gate) if isinstance(gate, str) else gate)
        self.seed = seed
        self.encoders = nn.ModuleDict({m: ENCODERS.build(encoders[m]) for m in self.modalities})
        widths = {m: width(self.encoders[m]) for m in self.modalities}
        self.bottlenecks = build_bottlenecks(bottleneck, widths)
        z_widths = {m: width(self.bottlenecks[m]) for m in self.modalities}
        self.fusion = FUSIONS.build(
            fusion, default_args=dict(in_channels=z_widths, num_classes=num_classes)
        )
        #: whether u_m is the fusion's own view of the modality
        self.fusion_is_head = unimodal_head == 'fusion'
        heads = None if self.fusion_is_head else unimodal_head
        self.heads = build_heads(heads, z_widths, num_classes)
        self.feature_transforms = nn.ModuleList(
            [FEATURE_TRANSFORMS.build(cfg) for cfg in feature_transforms or []]
        )
        self.losses = nn.ModuleList(
            [LOSSES.build(cfg) for cfg in losses or [dict(type='FusedCrossEntropy')]]
        )
        part: Any
        for part in (*self.feature_transforms, *self.losses):
            if hasattr(part, 'setup'):  # a user's own need not have it
                with isolated_rng('setup', type(part).__name__):
                    part.setup(z_widths, num_classes)
        self.contribution: ContributionTracker | None = None
        if contribution is not None:
            self.contribution = ContributionTracker(widths, num_classes, **contribution)
        self.uncertainty: BottleneckUncertainty | None = None
        if all(self.bottlenecks[m].stochastic for m in self.modalities):
            self.uncertainty = BottleneckUncertainty(len(self.modalities))
        uniform = -torch.log(torch.tensor(float(num_classes)))
        self.register_buffer('class_log_prior', uniform.expand(num_classes).clone())
        self.register_buffer('forward_count', torch.tensor(0))
        self.register_buffer('feature_scale', torch.ones(len(self.modalities)))
        #: set before every iteration by ``TrainProgressHook``; None outside a Runner
        self.progress: TrainProgress | None = None
        #: set by an OptimWrapper whose factors act on the features
        self.scales_features = False
        #: for OptimWrappers that look inside a step
        self.record = StepRecord()
        self._last_sample_ids: list[str] = []
        self._check()

    def _check(self) -> None:
        name = type(self.gate).__name__
        if self.gate.needs_heads and not self.has_unimodal_logits:
            raise ValueError(f'{name} needs model.unimodal_head, which is None')
        if self.gate.needs_contribution and self.contribution is None:
            raise ValueError(f'{name} needs model.contribution, which is None')
        if self.gate.needs_uncertainty and self.uncertainty is None:
            plain = [m for m in self.modalities if not self.bottlenecks[m].stochastic]
            raise ValueError(
                f'{name} needs bottlenecks with a KL (VariationalBottleneck), but that of '
                f'{", ".join(f"{m} is {type(self.bottlenecks[m]).__name__}" for m in plain)}'
            )

    # ---- ownership: who a parameter belongs to ----

    def modality_parameters(self) -> dict[str, list[nn.Parameter]]:
        """The trainable parameters of each modality: its encoder and bottleneck, never fusion or
        heads.
        """
        return {
            m: [
                p
                for part in (self.encoders[m], self.bottlenecks[m])
                for p in part.parameters()
                if p.requires_grad
            ]
            for m in self.modalities
        }

    def diagnostic_parameters(self) -> list[nn.Parameter]:
        """Heads that learn as probes on detached features; they must not share a clipping norm with
        the model.
        """
        if self.heads is None or not any(loss.detaches_heads for loss in self.losses):
            return []
        return list(self.heads.parameters())

    # ---- forward ----

    def encode(
        self,
        inputs: Mapping[str, Any],
        masks: Mapping[str, Any] | None = None,
        features: Mapping[str, Tensor] | None = None,
        embedding_shifts: Mapping[str, Tensor] | None = None,
        modalities: Sequence[str] | None = None,
    ) -> dict[str, Tensor]:
        """Encoder outputs {m: [B, H_m]}; cached ``features`` stand in for a frozen encoder's
        output, ``embedding_shifts`` are added to the token embeddings of a text encoder.

        Args:
            inputs, masks, features, embedding_shifts: the preprocessor's output.
            modalities: only these; None: all.
        """
        out = {}
        for m in self.modalities if modalities is None else modalities:
            shift = (embedding_shifts or {}).get(m)
            if shift is None and features is not None and features.get(m) is not None:
                out[m] = features[m]
            elif m in inputs:
                with shifted_embeddings(self.encoders[m], m, shift):
                    out[m] = self.encoders[m](inputs[m], masks.get(m) if masks else None)
            else:
                raise LookupError(
                    f'the model has an encoder for {m!r} but the batch has only {sorted(inputs)}; '
                    f'pack that modality (PackInputs) or leave the encoder out'
                )
        return out

    @property
    def has_unimodal_logits(self) -> bool:
        """Whether there is a u_m: heads, or the fusion's own view."""
        return self.heads is not None or self.fusion_is_head

    def _draws(self, samples: list[MultiModalDataSample], device: torch.device) -> SampleDraws:
        keys = torch.tensor([s.sample_key for s in samples], dtype=torch.int64, device=device)
        counter = int(self.forward_count) if self.progress is None else self.progress.update
        return SampleDraws(keys, self.seed, counter)

    def state(
        self,
        inputs: Mapping[str, Any],
        data_samples: list[MultiModalDataSample] | None = None,
        masks: Mapping[str, Any] | None = None,
        present: Tensor | None = None,
        features: Mapping[str, Tensor] | None = None,
        embedding_shifts: Mapping[str, Tensor] | None = None,
        training: bool = False,
    ) -> ForwardState:
        """One pass through encoders, bottlenecks and fusion, with everything it computed.

        Args:
            inputs, data_samples, masks, present, features, embedding_shifts: the preprocessor's
                output.
            training: the bottlenecks sample (if a loss component needs it) and the scale nodes are
                in place.
        """
        h = self.encode(inputs, masks, features, embedding_shifts)
        device = next(iter(h.values())).device
        labels = self._labels(data_samples, device)
        draws = self._draws(data_samples, device) if training and data_samples else None
        noise: dict[str, Tensor] = {}
        if draws is not None and any(loss.needs_noise for loss in self.losses):
            noise = {
                m: draws.normal(m, width(self.bottlenecks[m]))
                for m in self.modalities
                if self.bottlenecks[m].stochastic
            }
        z, kl = {}, {}
        for m in self.modalities:
            z[m], kl[m] = self.bottlenecks[m](h[m], noise.get(m), labels if training else None)
        z = self._transformed(h, z, labels, present, draws, training)
        parts: Any = self.bottlenecks
        mu = {m: parts[m].mean(h[m]) if m in noise else z[m] for m in self.modalities}
        scaled = self._scale_nodes(z) if training else z
        logits, details = self._fused(scaled, present, draws)
        return ForwardState(
            modalities=self.modalities,
            num_classes=self.num_classes,
            features=h,
            z=scaled,
            mu=mu,
            kl=kl,
            logits=logits,
            log_prior=self.class_log_prior,
            fuse=self._fuse_coalitions,
            head=self._head if self.has_unimodal_logits else None,
            labels=labels,
            present=present,
            sample_ids=[s.sample_id for s in data_samples or []],
            progress=self.progress or TrainProgress(),
            details=details,
            draws=draws,
            posterior=partial(self._posterior, h=h),
            inputs=inputs,
            masks=masks,
        )

    def _posterior(self, modality: str, h: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        bottleneck: Any = self.bottlenecks[modality]
        if not hasattr(bottleneck, 'sigma'):
            raise ValueError(
                f'this needs the spread of z, but the bottleneck of {modality!r} is '
                f"{type(bottleneck).__name__}: use dict(type='VariationalBottleneck')"
            )
        x = h[modality]
        if not torch.is_autocast_enabled(x.device.type) and x.dtype in (torch.bfloat16, torch.half):
            x = x.float()  # computed under an autocast that is off by now
        return bottleneck.mean(x).float(), bottleneck.sigma(x)

    def _transformed(
        self,
        h: dict[str, Tensor],
        z: dict[str, Tensor],
        labels: Tensor | None,
        present: Tensor | None,
        draws: SampleDraws | None,
        training: bool,
    ) -> dict[str, Tensor]:
        if not len(self.feature_transforms):
            return z
        context = FeatureContext(
            self.modalities,
            self.num_classes,
            training,
            self.progress or TrainProgress(),
            labels,
            present,
            draws,
            self._head if self.has_unimodal_logits else None,
            partial(self._posterior, h=h),
        )
        for transform in self.feature_transforms:
            z = transform(z, context)
        return z

    def _fused(
        self, z: dict[str, Tensor], present: Tensor | None, draws: SampleDraws | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        fusion: Any = self.fusion
        width = getattr(fusion, 'noise_channels', 0)
        if width and draws is not None:  # a fusion that samples
            return fusion.forward_with_details(z, present, draws.normal('fusion', width))
        if hasattr(fusion, 'forward_with_details'):
            return fusion.forward_with_details(z, present)
        return fusion(z, present), {}

    def _scale_nodes(self, z: dict[str, Tensor]) -> dict[str, Tensor]:
        """Scale nodes at z: they reach the task gradient only, not the KL's."""
        if not self.scales_features:
            return z
        return {
            m: scale_gradient(z[m], self.feature_scale[i]) for i, m in enumerate(self.modalities)
        }

    def _head(self, modality: str, z: Tensor) -> Tensor:
        if self.heads is not None:
            return self.heads[modality](z)
        if not self.fusion_is_head:
            raise ValueError('the model has no unimodal heads')
        fusion: Any = self.fusion
        return fusion.unimodal_logits({modality: z})[modality]

    def _fuse_coalitions(
        self, z: dict[str, Tensor], masks: Tensor, present: Tensor | None
    ) -> Tensor:
        """Fused logits of coalitions with dropout and batch statistics off: [S, B, C]."""
        return coalition_logits(self.fusion, z, masks, present)

    @staticmethod
    def _labels(samples: list[MultiModalDataSample] | None, device: torch.device) -> Tensor | None:
        if not samples or any('gt_label' not in s for s in samples):
            return None
        return torch.stack([s.gt_label for s in samples]).to(device, non_blocking=True)

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
        if not tracker.online and not tracker.measured:
            raise ValueError(
                f'model.contribution.source={tracker.source!r} is measured before training, and '
                f'was not: train with '
                f"the ContributionHook (configs/_base_/default_runtime.py), or use source='train'"
            )

    def current_betas(self) -> Tensor | None:
        """The bottleneck strengths beta_m [M] in force, or None without an information
        bottleneck.
        """
        component: Any
        for component in self.losses:
            if component.needs_noise and hasattr(component, 'betas'):
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
        """The total and the values to log; refuses a total that is not finite, before any parameter
        moves.
        """
        total, log_vars = super().parse_losses(losses)
        calls, ids = int(self.forward_count), self._last_sample_ids
        check_finite_loss(total, log_vars, self.progress, calls, ids)
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
            fuse=self.fusion,
            bottlenecks=dict(self.bottlenecks.items()),
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
        """Refuse to test with a gate whose statistics this model's weights do not hold.

        Validation during training does without: until they are fitted every modality counts alike.

        Raises:
            ValueError: says what is missing and where it comes from.
        """
        missing = self.gate.unfitted(self._gate_parts())
        if missing is not None:
            raise ValueError(
                f'{type(self.gate).__name__} cannot be used with these weights: {missing}. Train '
                f'with the CalibrationHook and the ContributionHook '
                f"(configs/_base_/default_runtime.py), or test with gate='none'"
            )

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
