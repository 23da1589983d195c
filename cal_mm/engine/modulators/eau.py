"""EAU's modulation: an uncertain modality's encoder learns a little faster.

Source: Gao et al., "Embracing Unimodal Aleatoric Uncertainty for Robust Multimodal Fusion",
CVPR 2024.
"""

import torch
from torch import Tensor

from cal_mm.models.state import ForwardState
from cal_mm.registry import MODULATORS
from cal_mm.structures import TrainProgress

from .base import Modulator

__all__ = ['UncertaintyModulator']


@MODULATORS.register_module()
class UncertaintyModulator(Modulator):
    """k_m = 1 + strength U_m.

    U_m is the modality's share of the posteriors' variance, averaged over the update's samples:
    U_m = v_m / sum v, v_m = mean over dimensions of sigma_m^2 (the measure is our reading).

    Args:
        strength: >= 0.
    """

    needs_contribution = False

    def __init__(self, strength: float = 0.01) -> None:
        if strength < 0:
            raise ValueError(f'UncertaintyModulator: strength must not be negative, got {strength}')
        self.strength = strength

    def statistics(self, state: ForwardState) -> Tensor:
        """Shares of the variance, [B, M]; an absent modality has none."""
        rows = [state.spread(m).square().mean(dim=1) for m in state.modalities]
        variance = torch.stack(rows, dim=1)
        if state.present is not None:
            variance = variance * state.present
        return variance / variance.sum(dim=1, keepdim=True).clamp_min(1e-12)

    def __call__(self, values: Tensor, progress: TrainProgress) -> Tensor:
        """U [M] -> k [M]."""
        return 1 + self.strength * values
