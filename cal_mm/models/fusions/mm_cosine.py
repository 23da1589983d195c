"""MMCosine: a concat head whose features and weights have length one per modality."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from cal_mm.registry import FUSIONS

from .base import BaseFusion
from .functional import additive_coalitions

__all__ = ['MMCosineFusion']


@FUSIONS.register_module()
class MMCosineFusion(BaseFusion):
    """logits = scale * sum over m of cos(z_m, W_m), W_m [C, D_m]; no bias.

    No modality can dominate by the length of its features or weights. A feature of zeros, such as
    an absent modality's, has the cosine 0.

    Source: Xu et al., "MMCosine: Multi-Modal Cosine Loss Towards Balanced Audio-Visual Fine-Grained
    Learning", ICASSP 2023 (arXiv 2303.05338).

    Args:
        in_channels: width D_m by modality name.
        num_classes: C.
        scale: > 0; the logits are within M * scale.
        absent: see :class:`BaseFusion`.
        momentum: see :class:`BaseFusion`.

    Raises:
        ValueError: ``scale`` is not positive.
    """

    def __init__(
        self,
        in_channels: Mapping[str, int],
        num_classes: int,
        scale: float = 15.0,
        absent: str = 'zeros',
        momentum: float = 0.1,
    ) -> None:
        super().__init__(in_channels, num_classes, absent, momentum)
        if scale <= 0:
            raise ValueError(f'MMCosineFusion: scale must be positive, got {scale}')
        self.scale = scale
        self.heads = nn.ModuleDict(
            {m: nn.Linear(d, num_classes, bias=False) for m, d in self.in_channels.items()}
        )

    def _share(self, modality: str, z: Tensor) -> Tensor:
        """scale * cos(z, W): [..., D_m] to [..., C]; lengths are taken in full precision."""
        head: nn.Module = self.heads[modality]
        with torch.autocast(z.device.type, enabled=False):
            weight: Tensor = head.get_parameter('weight')
            unit = functional.normalize(z.to(weight.dtype), dim=-1)
            return self.scale * functional.linear(unit, functional.normalize(weight, dim=-1))

    def fuse(self, z: dict[str, Tensor], present: Tensor) -> Tensor:
        """Logits [B, C]: the sum of the shares."""
        return torch.stack([self._share(m, z[m]) for m in self.modalities]).sum(dim=0)

    def unimodal_logits(self, z: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Each modality's share scale * cos(z_m, W_m), [B, C]; they add up to the logits."""
        self._check(z)
        return {m: self._share(m, v) for m, v in z.items()}

    def _coalitions(self, z: Mapping[str, Tensor], keep: Tensor) -> Tensor:
        empty = self._absent_row(next(iter(z.values())))
        absent = {m: self._share(m, empty[m]) for m in self.modalities}
        parts = [
            self._share(m, z[m]) if m in z else absent[m].expand(keep.shape[1], -1)
            for m in self.modalities
        ]
        rows = torch.cat([absent[m] for m in self.modalities])
        return additive_coalitions(torch.stack(parts), rows, rows.new_zeros(()), keep)
