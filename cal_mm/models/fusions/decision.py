"""What decision fusions share: one head per modality, the decisions are combined."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .base import BaseFusion
from .branch import make_head

__all__ = ['DecisionFusion', 'at_least_float32']


def at_least_float32(x: Tensor) -> Tensor:
    """``x`` in float32 where it is narrower: decisions are combined in full precision."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


class DecisionFusion(BaseFusion):
    """Base: every modality's head gives logits l_m, :meth:`fuse_with_details` combines them.

    An absent modality takes no part in the decision, so there is no absent value to choose.

    Args:
        in_channels: width D_m by modality name.
        num_classes: C.
        hidden_channels: width of a hidden layer with ReLU in every head; None: linear heads.
        dropout: probability in [0, 1) after the hidden layers.
    """

    def __init__(
        self,
        in_channels: Mapping[str, int],
        num_classes: int,
        hidden_channels: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(in_channels, num_classes)
        self.heads = nn.ModuleDict(
            {
                m: make_head(d, num_classes, hidden_channels, dropout)
                for m, d in self.in_channels.items()
            }
        )

    def decisions(self, z: Mapping[str, Tensor]) -> Tensor:
        """Logits of every modality's head: {m: [B, D_m]} to [B, M, C], float32 or wider."""
        return at_least_float32(torch.stack([self.heads[m](z[m]) for m in self.modalities], dim=1))

    def fuse(self, z: dict[str, Tensor], present: Tensor) -> Tensor:
        """Fused logits [B, C]."""
        return self.fuse_with_details(z, present)[0]

    def fuse_with_details(
        self, z: dict[str, Tensor], present: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The subclass's combination, and what its loss reads."""
        raise NotImplementedError(f'{type(self).__name__} must implement fuse_with_details')

    def unimodal_logits(self, z: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Each modality's own prediction, [B, C]."""
        self._check(z)
        return {m: self.heads[m](v) for m, v in z.items()}
