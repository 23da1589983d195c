"""AUG's loss: every modality's classifier, and its newest block on what the others leave."""

import torch
from torch import Tensor
from torch.nn import functional as F

from cal_mm.models.state import ForwardState
from cal_mm.registry import LOSSES

from .components import LossComponent, masked_mean

__all__ = ['BoostingLoss']


@LOSSES.register_module()
class BoostingLoss(LossComponent):
    """``loss_aug/<m>`` = CE(u_m) + mean (1 - residual p_rest(label)) CE(newest block), nats.

    p_rest is the prediction of the older blocks, without gradient. With one block only CE(u_m).
    Needs ``BoostedFusion``. Source: see ``BoostedFusion``; our reading of the residual labels.

    Args:
        residual: lambda in [0, 1].
    """

    def __init__(self, residual: float = 0.33) -> None:
        super().__init__()
        if not 0 <= residual <= 1:
            raise ValueError(f'BoostingLoss: residual must be in [0, 1], got {residual}')
        self.residual = residual

    def forward(self, state: ForwardState) -> dict[str, Tensor]:
        """``{'loss_aug/<m>': scalar}`` for every modality."""
        labels, losses = state.known_labels, {}
        for m in state.modalities:
            if f'boost_last/{m}' not in state.details:
                raise ValueError(
                    "BoostingLoss needs the fusion's blocks: use fusion=dict(type='BoostedFusion')"
                )
            rest = state.details[f'boost_rest/{m}'].float()
            last = state.details[f'boost_last/{m}'].float()
            values = F.cross_entropy(rest + last, labels, reduction='none')
            if bool((rest != 0).any()):  # there are older blocks
                known = rest.detach().softmax(dim=-1).gather(1, labels[:, None])[:, 0]
                ce = F.cross_entropy(last, labels, reduction='none')
                values = values + (1 - self.residual * known) * ce
            losses[f'loss_aug/{m}'] = masked_mean(values, state.present_mask(m))
        return losses


def true_class_score(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean probability of the true class: [N, C], [N] -> scalar."""
    return torch.softmax(logits, dim=-1).gather(1, labels[:, None]).mean()
