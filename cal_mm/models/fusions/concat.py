"""Fusion by concatenation, the plain baseline."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from cal_mm.registry import FUSIONS

from .base import BaseFusion
from .branch import make_head
from .functional import additive_coalitions

__all__ = ['ConcatFusion']


@FUSIONS.register_module()
class ConcatFusion(BaseFusion):
    """Features side by side, then Linear(sum of D_m, C), or one hidden layer before it.

    Args:
        in_channels: width D_m by modality name.
        num_classes: C.
        hidden_channels: width of a hidden layer with ReLU; None: the head is linear.
        dropout: probability in [0, 1) after the hidden layer.
        absent: see :class:`BaseFusion`.
        momentum: see :class:`BaseFusion`.
    """

    def __init__(
        self,
        in_channels: Mapping[str, int],
        num_classes: int,
        hidden_channels: int | None = None,
        dropout: float = 0.0,
        absent: str = 'zeros',
        momentum: float = 0.1,
    ) -> None:
        super().__init__(in_channels, num_classes, absent, momentum)
        width = sum(self.in_channels.values())
        self.head = make_head(width, num_classes, hidden_channels, dropout)

    def fuse(self, z: dict[str, Tensor], present: Tensor) -> Tensor:
        """Logits [B, C] of the concatenated features."""
        return self.head(torch.cat([z[m] for m in self.modalities], dim=1))

    def _slices(self, linear: nn.Linear) -> dict[str, Tensor]:
        """The head's columns W^m [C, D_m] by modality."""
        widths = list(self.in_channels.values())
        return dict(zip(self.modalities, linear.weight.split(widths, dim=1), strict=True))

    def unimodal_logits(self, z: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Each modality's share W^m z^m + b / M of the logits, [B, C]; the shares add up.

        This is what OGM-like methods read. With a hidden layer there are no shares: each modality
        alone, the others at their absent value.
        """
        if not isinstance(self.head, nn.Linear):
            return super().unimodal_logits(z)
        self._check(z)
        weights = self._slices(self.head)
        share = self.head.bias / len(self.modalities)
        return {m: functional.linear(v, weights[m], share) for m, v in z.items()}

    def _coalitions(self, z: Mapping[str, Tensor], keep: Tensor) -> Tensor:
        if not isinstance(self.head, nn.Linear):
            return super()._coalitions(z, keep)
        weights = self._slices(self.head)
        z = {m: v.to(self.head.weight.dtype) for m, v in z.items()}
        empty = self._absent_row(next(iter(z.values())))
        absent = {m: functional.linear(empty[m], weights[m]) for m in self.modalities}
        parts = [
            functional.linear(z[m], weights[m]) if m in z else absent[m].expand(keep.shape[1], -1)
            for m in self.modalities
        ]
        rows = torch.cat([absent[m] for m in self.modalities])
        return additive_coalitions(torch.stack(parts), rows, self.head.bias, keep)
