"""MIB's loss on the bottleneck after fusion."""

from torch import Tensor

from cal_mm.models.state import ForwardState
from cal_mm.registry import LOSSES

from .components import LossComponent

__all__ = ['JointBottleneckLoss']


@LOSSES.register_module()
class JointBottleneckLoss(LossComponent):
    """``loss_joint_kl`` = beta * mean KL of the fused representation, nats.

    Needs ``JointBottleneckFusion``, which says the source.

    Args:
        beta: >= 0.
    """

    def __init__(self, beta: float = 1e-3) -> None:
        super().__init__()
        if beta < 0:
            raise ValueError(f'JointBottleneckLoss: beta must not be negative, got {beta}')
        self.beta = beta

    def forward(self, state: ForwardState) -> dict[str, Tensor]:
        """``{'loss_joint_kl': scalar}``."""
        if 'joint_kl' not in state.details:
            raise ValueError("JointBottleneckLoss needs fusion=dict(type='JointBottleneckFusion')")
        return {'loss_joint_kl': self.beta * state.details['joint_kl'].float().mean()}
