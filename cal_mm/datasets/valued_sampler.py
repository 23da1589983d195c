"""A sampler that repeats samples by a weight, the same on every rank."""

from collections.abc import Iterator, Sized

import torch
from mmengine.dist import get_dist_info
from torch import Tensor
from torch.utils.data import Sampler

from cal_mm.registry import DATA_SAMPLERS
from cal_mm.structures import sample_key

__all__ = ['ValuedSampler', 'systematic_resample']


def systematic_resample(weights: Tensor, count: int, offset: float) -> Tensor:
    """``count`` indices; index i comes floor or ceil of count * w_i / sum w times.

    Args:
        weights: [N] >= 0, not all 0.
        count: how many.
        offset: in [0, 1), where the comb starts.

    Returns:
        int64 [count], ascending.
    """
    edges = weights.double().cumsum(0)
    teeth = (torch.arange(count, dtype=torch.float64) + offset) * (edges[-1] / count)
    return torch.searchsorted(edges, teeth, right=True).clamp_max(len(weights) - 1)


@DATA_SAMPLERS.register_module()
class ValuedSampler(Sampler):
    """As many samples per epoch as the dataset has, each as often as its weight says.

    With equal weights every sample comes once. Order and rounding follow (seed, epoch) alone, so
    that a resumed epoch is the same; ranks take turns as with mmengine's ``DefaultSampler``. A hook
    sets :attr:`weights` before an epoch.

    Args:
        dataset: to sample from.
        seed: the run's; all ranks need the same.
    """

    def __init__(self, dataset: Sized, seed: int | None = None) -> None:
        self.rank, self.world_size = get_dist_info()
        self.seed = seed or 0
        self.size = len(dataset)
        self.epoch = 0
        self.num_samples = -(-self.size // self.world_size)
        self.weights = torch.ones(self.size)

    def set_weights(self, weights: Tensor) -> None:
        """Take over a weight per sample, [N] >= 0, from the next epoch on.

        Raises:
            ValueError: wrong length, negative, not finite or all 0.
        """
        if tuple(weights.shape) != (self.size,):
            raise ValueError(f'need a weight for each of {self.size} samples, got {weights.shape}')
        good = bool(torch.isfinite(weights).all() and (weights >= 0).all() and weights.sum() > 0)
        if not good:
            raise ValueError('weights must be finite, not negative and not all 0')
        self.weights = weights.detach().cpu().clone()

    def indices(self) -> Tensor:
        """Of the whole epoch, for all ranks, shuffled: int64 [N rounded up to the ranks]."""
        generator = torch.Generator().manual_seed(sample_key('valued', self.seed, self.epoch))
        offset = float(torch.rand(1, generator=generator, dtype=torch.float64))
        # a fresh order each time, so that rounding does not favour the same samples
        order = torch.randperm(self.size, generator=generator)
        chosen = order[systematic_resample(self.weights[order], self.size, offset)]
        shuffled = chosen[torch.randperm(self.size, generator=generator)]
        total = self.num_samples * self.world_size
        return shuffled.repeat(-(-total // self.size))[:total]

    def __iter__(self) -> Iterator[int]:
        """This rank's share."""
        yield from self.indices()[self.rank :: self.world_size].tolist()

    def __len__(self) -> int:
        """Samples of this rank."""
        return self.num_samples

    def set_epoch(self, epoch: int) -> None:
        """Number of the epoch."""
        self.epoch = epoch
