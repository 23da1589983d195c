"""The parts of a model and one pass through them, from encoders to fusion."""

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

from .assembly import build_bottlenecks, build_heads, width
from .bookkeeping import StepRecord
from .bottlenecks import BottleneckUncertainty
from .contribution import ContributionTracker
from .feature_transforms import FeatureContext
from .fusions import coalition_logits
from .gates import Gate

__all__ = ['MultiModalNetwork']


class MultiModalNetwork(BaseModel):
    """What ``MultiModalClassifier`` is made of, who owns which parameter, and :meth:`state`.

    The arguments are those of ``MultiModalClassifier``, which adds training and inference.
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
        if len(self._stochastic()) == len(self.modalities):
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
            plain = [m for m in self.modalities if m not in self._stochastic()]
            raise ValueError(
                f'{name} needs bottlenecks with a KL (VariationalBottleneck), but that of '
                f'{", ".join(f"{m} is {type(self.bottlenecks[m]).__name__}" for m in plain)}'
            )

    def _stochastic(self) -> list[str]:
        """Modalities whose bottleneck samples."""
        return [m for m in self.modalities if getattr(self.bottlenecks[m], 'stochastic', False)]

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
        if self.heads is None or not any(
            getattr(loss, 'detaches_heads', False) for loss in self.losses
        ):
            return []
        return list(self.heads.parameters())

    # ---- one pass ----

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
                try:
                    with shifted_embeddings(self.encoders[m], m, shift):
                        out[m] = self.encoders[m](inputs[m], masks.get(m) if masks else None)
                except Exception as e:
                    e.add_note(
                        f'in {type(self.encoders[m]).__name__} of the modality {m!r} '
                        f'(model.encoders.{m})'
                    )
                    raise
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
        keys = torch.tensor([s.sample_key for s in samples], dtype=torch.int64)
        counter = int(self.forward_count) if self.progress is None else self.progress.update
        return SampleDraws(keys, self.seed, counter, device)

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
        if draws is not None and any(getattr(loss, 'needs_noise', False) for loss in self.losses):
            noise = draws.normals({m: width(self.bottlenecks[m]) for m in self._stochastic()})
        z, kl = {}, {}
        for m in self.modalities:
            z[m], kl[m] = self.bottlenecks[m](h[m], noise.get(m), labels if training else None)
        parts: Any = self.bottlenecks
        mu = {m: parts[m].mean(h[m]) if m in noise else z[m] for m in self.modalities}
        z = self._transformed(h, z, labels, present, draws, training)
        mu = self._transformed(h, mu, labels, present, None, False) if noise else dict(z)
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
        z = self._weighed(z)
        width = getattr(fusion, 'noise_channels', 0)
        if width and draws is not None:  # a fusion that samples
            return fusion.forward_with_details(z, present, draws.normal('fusion', width))
        if hasattr(fusion, 'forward_with_details'):
            return fusion.forward_with_details(z, present)
        return fusion(z, present), {}

    def _weighed(self, z: dict[str, Tensor]) -> dict[str, Tensor]:
        """What enters the fusion: z_m times its dynamic weight."""
        s = None if self.contribution is None else self.contribution.feature_weights()
        if s is None:
            return z
        return {m: z[m] * s[i].to(z[m].dtype) for i, m in enumerate(self.modalities)}

    def _fuse(self, z: dict[str, Tensor], present: Tensor | None) -> Tensor:
        return self.fusion(self._weighed(z), present)

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
        self,
        z: dict[str, Tensor],
        masks: Tensor,
        present: Tensor | None,
        as_trained: bool = False,
    ) -> Tensor:
        """Fused logits of coalitions, without dropout unless ``as_trained``: [S, B, C]."""
        return coalition_logits(self.fusion, self._weighed(z), masks, present, as_trained)

    @staticmethod
    def _labels(samples: list[MultiModalDataSample] | None, device: torch.device) -> Tensor | None:
        if not samples or any('gt_label' not in s for s in samples):
            return None
        return torch.stack([s.gt_label for s in samples]).to(device, non_blocking=True)
