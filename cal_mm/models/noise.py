"""Standard normal noise that belongs to a sample, not to a batch.

A bottleneck's draw depends on (seed, update, stream, sample) alone. So the same sample gets the
same noise however a batch is split over micro-batches and ranks, and a resumed run draws what the
uninterrupted run drew. The draws never touch torch's global generator.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from cal_mm.structures import sample_key

__all__ = ['SampleDraws', 'counter_normal', 'counter_uniform', 'isolated_rng']

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


@contextmanager
def isolated_rng(*key: object) -> Iterator[None]:
    """Seed torch's global CPU generator from ``key`` and the run's seed inside, and restore it
    after.

    For parts that the plain model does not have: with or without them, the rest starts from the
        same weights.
    """
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(sample_key(*key, torch.initial_seed()))
    try:
        yield
    finally:
        torch.set_rng_state(state)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64 (torch's is arithmetic)."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    """Finaliser of splitmix64 (Steele, Lea and Flood 2014): 64 well-mixed bits."""
    x = (x ^ _shift(x, 30)) * _MIX_1
    x = (x ^ _shift(x, 27)) * _MIX_2
    return x ^ _shift(x, 31)


def _bits(keys: Tensor, lanes: int, seed: int, counter: int, stream: int) -> Tensor:
    """64 well-mixed bits per address: int64 [B, lanes]."""
    state = keys.clone()
    for part in torch.tensor([seed, counter, stream], dtype=torch.int64, device=keys.device):
        state = _mix((state + _GOLDEN) ^ _mix(part + _GOLDEN))
    lane = torch.arange(1, lanes + 1, dtype=torch.int64, device=keys.device) * _GOLDEN
    return _mix(state[:, None] + lane)


def counter_uniform(keys: Tensor, dim: int, seed: int, counter: int, stream: int) -> Tensor:
    """Numbers in (0, 1) as a pure function of their address; see :func:`counter_normal`.

    Returns:
        float32 [B, dim] on the device of ``keys``.
    """
    return (_shift(_bits(keys, dim, seed, counter, stream), 40).float() + 0.5) / (1 << 24)


def counter_normal(keys: Tensor, dim: int, seed: int, counter: int, stream: int) -> Tensor:
    """Standard normal numbers as a pure function of their address.

    Args:
        keys: int64 [B], one per sample (``MultiModalDataSample.sample_key``).
        dim: numbers per sample.
        seed: the run's seed.
        counter: the update's number; a new one gives fresh noise.
        stream: keeps modalities apart, e.g. a crc32 of the name.

    Returns:
        float32 [B, dim] on the device of ``keys``.
    """
    bits = _bits(keys, (dim + 1) // 2, seed, counter, stream)
    scale = 1.0 / (1 << 24)
    u1 = (_shift(bits, 40).float() + 0.5) * scale
    u2 = ((bits & 0xFFFFFF).float() + 0.5) * scale
    radius = (-2 * u1.log()).sqrt()
    angle = 2 * math.pi * u2
    return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=-1).flatten(1)[:, :dim]


@dataclass(frozen=True)
class SampleDraws:
    """Random numbers of a batch's samples in one update, by name.

    Attributes:
        keys: int64 [B], ``MultiModalDataSample.sample_key``.
        seed: the model's.
        counter: number of the update.
    """

    keys: Tensor
    seed: int
    counter: int

    def normal(self, name: str, dim: int) -> Tensor:
        """Standard normal, float32 [B, dim]; another name gives other numbers."""
        return counter_normal(self.keys, dim, self.seed, self.counter, sample_key(name))

    def uniform(self, name: str, dim: int) -> Tensor:
        """In (0, 1), float32 [B, dim]; another name gives other numbers."""
        return counter_uniform(self.keys, dim, self.seed, self.counter, sample_key(name))

    def shared(self, name: str, dim: int) -> Tensor:
        """In (0, 1), float32 [1, dim], the same for every sample of the update."""
        one = torch.zeros(1, dtype=torch.int64, device=self.keys.device)
        return counter_uniform(one, dim, self.seed, self.counter, sample_key('shared', name))
