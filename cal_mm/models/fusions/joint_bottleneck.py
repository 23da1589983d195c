"""MIB's fusion: a variational bottleneck on all modalities together.

Source: Mai, Zeng and Hu, "Multimodal Information Bottleneck: Learning Minimal Sufficient Unimodal
and Multimodal Representations", IEEE TMM 2022 (arXiv 2210.17444).
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from cal_mm.models.bottlenecks import gaussian_kl
from cal_mm.registry import FUSIONS

from .base import BaseFusion

__all__ = ['JointBottleneckFusion']

LEAST_SIGMA = 1e-3


@FUSIONS.register_module()
class JointBottleneckFusion(BaseFusion):
    """q(t | z) = N(mu(z), diag sigma(z)^2) on the concatenated features, then Linear(D, C).

    In training with ``noise`` t is a draw, else the mean; ``details['joint_kl']`` [B] is
    KL(q || N(0, I)) in nats, for ``JointBottleneckLoss``.

    Args:
        in_channels, num_classes, absent, momentum: see :class:`BaseFusion`.
        out_channels: D.
        init_sigma: standard deviation at the start, > 0 (1e-3 is added to it).
    """

    def __init__(
        self,
        in_channels: Mapping[str, int],
        num_classes: int,
        out_channels: int = 64,
        init_sigma: float = 0.13,
        absent: str = 'zeros',
        momentum: float = 0.1,
    ) -> None:
        super().__init__(in_channels, num_classes, absent, momentum)
        if not init_sigma > 0:
            raise ValueError(
                f'JointBottleneckFusion: init_sigma must be positive, got {init_sigma}'
            )
        width = sum(self.in_channels.values())
        self.mean = nn.Linear(width, out_channels)
        self.log_scale = nn.Linear(width, out_channels)
        nn.init.normal_(self.log_scale.weight, std=1e-3)
        nn.init.constant_(self.log_scale.bias, math.log(math.expm1(init_sigma)))
        self.head = nn.Linear(out_channels, num_classes)
        #: numbers per sample that a draw needs
        self.noise_channels = out_channels
        self._noise: Tensor | None = None

    def forward_with_details(
        self, z: Mapping[str, Tensor], present: Tensor | None = None, noise: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """As :meth:`BaseFusion.forward_with_details`; ``noise`` is standard normal, [B, D]."""
        self._noise = noise
        try:
            return super().forward_with_details(z, present)
        finally:
            self._noise = None

    def fuse(self, z: dict[str, Tensor], present: Tensor) -> Tensor:
        """Logits [B, C]."""
        return self.fuse_with_details(z, present)[0]

    def fuse_with_details(
        self, z: dict[str, Tensor], present: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits [B, C], and ``joint_kl`` [B]."""
        joint = torch.cat([z[m] for m in self.modalities], dim=1)
        mu, raw = self.mean(joint), self.log_scale(joint)
        wide = mu.dtype if mu.dtype == torch.float64 else torch.float32
        with torch.autocast(joint.device.type, enabled=False):
            mu, sigma = mu.to(wide), functional.softplus(raw.to(wide)) + LEAST_SIGMA
            t = mu if self._noise is None else mu + sigma * self._noise.to(wide)
            kl = gaussian_kl(mu, sigma)
        return self.head(t), {'joint_kl': kl}
