"""G-Blending's loss: every head's cross-entropy, weighed by how well the head generalises.

Source: Wang, Tran and Feiszli, "What Makes Training Multi-Modal Classification Networks Hard?",
CVPR 2020 (arXiv 1905.12681).
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from cal_mm.models.state import ForwardState
from cal_mm.registry import LOSSES

from .components import LossComponent, masked_mean

__all__ = ['BlendedCrossEntropy', 'blending_weights']


def blending_weights(before: Tensor, after: Tensor, least: float = 1e-3) -> Tensor:
    """w_k proportional to |dG_k| / dO_k^2, with sum 1.

    G is the generalisation, O = validation loss - training loss the overfitting; d is the change
    over the short training: dG = val_before - val_after, dO = O_after - O_before.

    Args:
        before: losses at the start, [K, 2]: training, validation.
        after: the same at the end.
        least: |dO| at least, nats; a head that did not overfit measurably would get everything.

    Returns:
        w [K]; uniform where no head's validation loss moved.
    """
    gain = (before[:, 1] - after[:, 1]).abs()
    overfitting = (after[:, 1] - after[:, 0]) - (before[:, 1] - before[:, 0])
    raw = gain / overfitting.abs().clamp_min(least).square()
    if not bool(raw.sum() > 0):
        return torch.full_like(raw, 1 / len(raw))
    return raw / raw.sum()


@LOSSES.register_module()
class BlendedCrossEntropy(LossComponent):
    """``loss_blend_fused`` = w_0 CE(y), ``loss_blend/<m>`` = w_m CE(u_m), nats.

    The weights are uniform until ``GBlendingHook`` has measured them; they are in the checkpoint.
    """

    weights: Tensor

    def setup(self, channels: Mapping[str, int], num_classes: int) -> None:
        """A weight for the fused head and one per modality."""
        count = len(channels) + 1
        self.register_buffer('weights', torch.full((count,), 1 / count))

    def forward(self, state: ForwardState) -> dict[str, Tensor]:
        """See the class."""
        labels = state.known_labels
        w = self.weights.unbind()
        losses = {'loss_blend_fused': w[0] * F.cross_entropy(state.logits.float(), labels)}
        for m, weight in zip(state.modalities, w[1:], strict=True):
            ce = F.cross_entropy(state.unimodal_logits(m).float(), labels, reduction='none')
            losses[f'loss_blend/{m}'] = weight * masked_mean(ce, state.present_mask(m))
        return losses
