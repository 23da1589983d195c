"""One head for all modalities; their decisions are weighed by certainty."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from cal_mm.registry import FUSIONS

from .base import BaseFusion
from .decision import at_least_float32

__all__ = ['SharedHeadFusion', 'certainty_weights']


def certainty_weights(logits: Tensor, present: Tensor | None = None) -> Tensor:
    """exp(H_max - H_m), normalised over the modalities that are present.

    Args:
        logits: [B, M, C].
        present: bool [B, M], or None.

    Returns:
        [B, M]; zeros for a sample that has no modality.
    """
    entropy = torch.special.entr(logits.softmax(dim=-1)).sum(dim=-1)
    if present is None:
        return (-entropy).softmax(dim=1)
    masked = (-entropy).masked_fill(~present, -torch.inf)
    none = ~present.any(dim=1, keepdim=True)
    return masked.masked_fill(none, 0).softmax(dim=1) * present


@FUSIONS.register_module()
class SharedHeadFusion(BaseFusion):
    """y = sum_m w_m head(z_m), with one linear head for all modalities.

    All modalities need the same width. An absent one takes no part; where none is there the logits
    are zeros.

    Args:
        in_channels: width D by modality name, all equal.
        num_classes: C.
        weights: ``entropy``: per sample, see :func:`certainty_weights`; ``equal``.

    Source: MLA's test-time fusion (arXiv 2311.10707).
    """

    def __init__(
        self, in_channels: Mapping[str, int], num_classes: int, weights: str = 'entropy'
    ) -> None:
        super().__init__(in_channels, num_classes)
        widths = set(self.in_channels.values())
        if len(widths) != 1:
            raise ValueError(
                f'SharedHeadFusion needs one width for all modalities, got {self.in_channels}: '
                f"give model.bottleneck=dict(type='LinearBottleneck', out_channels=D)"
            )
        if weights not in ('entropy', 'equal'):
            raise ValueError(
                f"SharedHeadFusion: weights must be 'entropy' or 'equal', got {weights!r}"
            )
        self.weights = weights
        self.shared_head = nn.Linear(widths.pop(), num_classes)

    def fuse(self, z: dict[str, Tensor], present: Tensor) -> Tensor:
        """Fused logits [B, C]."""
        logits = torch.stack([self.shared_head(z[m]) for m in self.modalities], dim=1)
        logits = at_least_float32(logits)
        if self.weights == 'entropy':
            share = certainty_weights(logits, present)
        else:
            share = present / present.sum(dim=1, keepdim=True).clamp_min(1)
        return (share.unsqueeze(-1) * logits).sum(dim=1)

    def unimodal_logits(self, z: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The head's decision on each modality, [B, C]."""
        self._check(z)
        return {m: self.shared_head(v) for m, v in z.items()}
