"""How the contribution of a modality turns into the factor k_m of its gradient or update.

Source: reconstruction of CAL (arXiv 2510.26289): "the gradients of high-contribution modalities are
reinforced, strong modalities are not suppressed". The paper's equation is not public.
"""

import torch
from torch import Tensor

from cal_mm.registry import MODULATORS
from cal_mm.structures import TrainProgress, sample_key

from .base import Modulator

__all__ = ['ACCELERATION_MODES', 'AsymmetricAcceleration', 'acceleration']

ACCELERATION_MODES = ('all', 'above_mean', 'uniform', 'inverse', 'random')


def acceleration(weights: Tensor, gamma: float, mode: str = 'all', update: int = 0) -> Tensor:
    """The factors k_m >= 1.

    Args:
        weights: W [M], sums to one.
        gamma: strength, >= 0; 0 gives ones.
        mode: ``all``: 1 + gamma * W_m; ``above_mean``: 1 + gamma * max(0, M * W_m - 1); controls
            with the same sum as ``all``:
            ``uniform``: 1 + gamma / M; ``inverse``: 1 + gamma * (1 - W_m) / (M - 1); ``random``:
            those of ``all`` in an order drawn anew for every update.
        update: number of the update, which decides the order of ``random``: the same on every rank
            and after resuming.

    Returns:
        [M].

    Raises:
        ValueError: negative gamma or unknown mode.

    Source: reconstruction of CAL; the paper's equation is not public.
    """
    if gamma < 0:
        raise ValueError(f'gamma must not be negative (no modality is suppressed), got {gamma}')
    m = weights.shape[-1]
    if mode == 'all':
        return 1 + gamma * weights
    if mode == 'above_mean':
        return 1 + gamma * (m * weights - 1).clamp_min(0)
    if mode == 'uniform' or (mode == 'inverse' and m == 1):
        return torch.full_like(weights, 1 + gamma / m)
    if mode == 'inverse':
        return 1 + gamma * (1 - weights) / (m - 1)
    if mode == 'random':
        generator = torch.Generator().manual_seed(sample_key('random acceleration', update))
        return 1 + gamma * weights[..., torch.randperm(m, generator=generator).to(weights.device)]
    raise ValueError(f'unknown acceleration mode {mode!r}; expected one of {ACCELERATION_MODES}')


@MODULATORS.register_module()
class AsymmetricAcceleration(Modulator):
    """CAL's asymmetric gradient acceleration.

    Args:
        gamma: strength, >= 0.
        mode: see ``acceleration``.
        begin: share of the run's updates before which k = 1 (warm-up), in [0, 1].
        end: share of the run's updates from which on k = 1 again, in [0, 1].
        budget: divide the factors by their mean, so that they sum to M: a control that takes away
            the larger learning rate and leaves the direction; some k_m are then below 1.
    """

    def __init__(
        self,
        gamma: float = 1.0,
        mode: str = 'all',
        begin: float = 0.1,
        end: float = 1.0,
        budget: bool = False,
    ) -> None:
        if not 0 <= begin <= end <= 1:
            raise ValueError(f'need 0 <= begin <= end <= 1, got begin={begin}, end={end}')
        acceleration(torch.tensor([0.5, 0.5]), gamma, mode)  # checks the arguments
        self.gamma = gamma
        self.mode = mode
        self.begin = begin
        self.end = end
        self.budget = budget

    def __call__(self, values: Tensor, progress: TrainProgress) -> Tensor:
        """W [M] and how far training has come -> k [M]."""
        done = progress.update / max(1, progress.max_updates)
        if self.begin <= done < self.end or (done >= 1 and self.end >= 1):
            k = acceleration(values, self.gamma, self.mode, progress.update)
            return k / k.mean() if self.budget else k
        return torch.ones_like(values)
