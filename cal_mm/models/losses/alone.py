"""The fused head's view of each modality alone, and its cross-entropy."""

import torch
from torch import Tensor
from torch.nn import functional as F

from cal_mm.models.state import ForwardState
from cal_mm.registry import LOSSES

from .components import LossComponent, masked_mean

__all__ = ['AloneCrossEntropy', 'alone_logits']


def alone_logits(state: ForwardState, as_trained: bool = False) -> Tensor:
    """Fused logits of every modality alone, the others at their absent value: [M, B, C].

    On what enters fusion, in float32 at least. For a linear concat head that is W^m z^m + b, with
    the whole bias.

    Args:
        state: the forward pass.
        as_trained: with the head's dropout, as a loss on them wants it.
    """
    count = len(state.modalities)
    masks = torch.eye(count, dtype=torch.bool, device=state.logits.device)
    logits = state.fuse(state.z, masks, state.present, as_trained=as_trained)
    return logits if logits.dtype == torch.float64 else logits.float()


@LOSSES.register_module()
class AloneCrossEntropy(LossComponent):
    """gamma times the cross-entropy of each modality alone: ``loss_unimodal/<m>``, nats.

    Shares the fused head (:func:`alone_logits`): no parameters of its own.

    Args:
        weight: gamma, >= 0.
        begin: epochs before which the weight is 1 instead.

    Source: ARL (arXiv 2507.10203), its auxiliary regularisers.
    """

    def __init__(self, weight: float = 1.0, begin: int = 0) -> None:
        super().__init__()
        if weight < 0:
            raise ValueError(f'AloneCrossEntropy: weight must not be negative, got {weight}')
        self.weight, self.begin = weight, begin

    def forward(self, state: ForwardState) -> dict[str, Tensor]:
        """``{'loss_unimodal/<m>': scalar}``."""
        weight = self.weight if state.progress.epoch >= self.begin else 1.0
        losses = {}
        for m, logits in zip(state.modalities, alone_logits(state, True), strict=True):
            ce = F.cross_entropy(logits, state.known_labels, reduction='none')
            losses[f'loss_unimodal/{m}'] = weight * masked_mean(ce, state.present_mask(m))
        return losses
