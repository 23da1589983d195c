"""CGGM's loss: the fused gradient should point where the modalities' classifiers point.

Source: Guo et al., "Classifier-guided Gradient Modulation for Enhanced Multimodal Learning",
NeurIPS 2024 (arXiv 2411.01409).
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from cal_mm.models.state import ForwardState
from cal_mm.models.update_mean import UpdateChange
from cal_mm.registry import LOSSES

from .components import LossComponent

__all__ = ['DirectionAlignment', 'improvement_balance']


def improvement_balance(change: Tensor) -> Tensor:
    """B_m = (sum delta - delta_m) / sum delta, kept in [0, 1].

    Where everything improves B is in [0, 1] by itself and sums to M - 1. Where accuracies fall the
    quotient changes its sense or explodes; without a net improvement every B is (M - 1) / M (ours).

    Args:
        change: delta [M], change of the auxiliary classifiers' accuracy; NaN where one is unknown,
            which counts as no net improvement.
    """
    total, m = change.sum(), len(change)
    balance = ((total - change) / torch.where(total > 1e-8, total, 1.0)).clamp(0, 1)
    return torch.where(total > 1e-8, balance, torch.full_like(change, (m - 1) / m))


@LOSSES.register_module()
class DirectionAlignment(LossComponent):
    """``loss_direction`` = weight mean_b (sum_m |B_m| - sum_m B_m cos(u_b^m, u_b)) / M.

    u_b = p_b - onehot(label), the gradient of the fused cross-entropy by the logits, u_b^m that of
    the unimodal head, which serves as the target (without gradient). B is that of the update
    before.

    Args:
        weight: lambda, >= 0.
    """

    def __init__(self, weight: float = 0.2) -> None:
        super().__init__()
        if weight < 0:
            raise ValueError(f'DirectionAlignment: weight must not be negative, got {weight}')
        self.weight = weight

    def setup(self, channels: Mapping[str, int], num_classes: int) -> None:
        """The accuracies, a number per modality."""
        self.accuracy = UpdateChange(len(channels))

    def forward(self, state: ForwardState) -> dict[str, Tensor]:
        """``{'loss_direction': scalar}``; empty in the first update."""
        labels = state.known_labels
        heads = torch.stack([state.unimodal_logits(m, detach=True) for m in state.modalities])
        heads = heads.detach().float()
        right = (heads.argmax(dim=-1) == labels).T.double()
        if self.accuracy(right, state.update, state.present) is None:
            return {}
        balance = improvement_balance(self.accuracy.change).to(heads)
        target = F.one_hot(labels, state.num_classes).to(heads)
        fused = state.logits.float().softmax(dim=-1) - target
        cosine = F.cosine_similarity(heads.softmax(dim=-1) - target, fused[None], dim=-1)
        terms = (balance * (1 - cosine.T)).to(fused)  # [B, M]; B is not negative
        if state.present is not None:
            terms = terms * state.present
        return {'loss_direction': self.weight * terms.sum(dim=1).mean() / len(state.modalities)}
