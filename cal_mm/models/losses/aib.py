"""The asymmetric information bottleneck as a loss component."""

import torch
from mmengine.dist import get_world_size
from torch import Tensor

from cal_mm.models.bottlenecks.functional import bottleneck_betas
from cal_mm.models.state import ForwardState
from cal_mm.registry import LOSSES

from .components import LossComponent, masked_mean

__all__ = ['AIBLoss']


@LOSSES.register_module()
class AIBLoss(LossComponent):
    """Asymmetric information bottleneck: ``loss_aib/<m>`` = beta_m * mean KL_m.

    beta_m follows from the contribution of earlier updates (this step's does not exist yet). With
    ``beta=0`` the bottlenecks do not sample: the model is the plain one.

    Args:
        beta: base strength, >= 0.
        rule: see ``bottleneck_betas``: ``floor`` (from the normalised information), ``fixed_sum``,
            ``uniform``, ``inverse`` (from the weights W), and the controls ``floor_uniform`` and
            ``floor_inverse``.
        warmup: share of the run's updates over which the strength rises linearly from 0, in [0, 1].
        alpha, pivot, share, power, beta_min, beta_max: see ``bottleneck_betas``.

    Source: reconstruction of CAL's AIB; the paper's equation is not public.
    """

    def __init__(
        self,
        beta: float = 2e-2,
        rule: str = 'floor',
        warmup: float = 0.25,
        alpha: float = 9.0,
        pivot: float = 0.2,
        share: float | None = None,
        power: float = 1.0,
        beta_min: float | None = None,
        beta_max: float | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= warmup <= 1:
            raise ValueError(f'AIBLoss: warmup is a share of the run in [0, 1], got {warmup}')
        self.beta = beta
        self.rule = rule
        self.warmup = warmup
        self.shape = dict(
            alpha=alpha,
            pivot=pivot,
            share=share,
            power=power,
            beta_min=beta_min,
            beta_max=beta_max,
        )
        self.betas(torch.tensor([0.5, 0.5]), torch.tensor([0.5, 0.5]), 1.0)  # checks the arguments
        self.needs_noise = beta > 0

    def betas(self, weights: Tensor, information: Tensor, fraction: float) -> Tensor:
        """beta_m [M] at a given share of the run.

        Args:
            weights: W [M].
            information: I_norm [M], a share of H(Y).
            fraction: share of the run's updates that are done.
        """
        driver = information if self.rule.startswith('floor') else weights
        betas = bottleneck_betas(driver, self.beta, self.rule, **self.shape)  # type: ignore[arg-type]
        ramp = min(1.0, fraction / self.warmup) if self.warmup > 0 else 1.0
        return betas * ramp

    def forward(self, state: ForwardState) -> dict[str, Tensor]:
        """``{'loss_aib/<m>': scalar}`` for every modality.

        With ``beta=0`` nothing in one process; on several ranks zeros, because DDP stops where a
        parameter (the spread's) is in no loss.
        """
        betas = state.betas
        if betas is None:
            if get_world_size() == 1:
                return {}
            betas = state.logits.new_zeros(len(state.modalities))
        return {
            f'loss_aib/{m}': beta * masked_mean(state.kl[m], state.present_mask(m))
            for m, beta in zip(state.modalities, betas.unbind(), strict=True)
        }
