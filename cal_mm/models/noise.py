"""Standard normal noise that belongs to a sample, not to a batch.

A bottleneck's draw depends on (seed, update, stream, sample) alone. So the same sample gets the
same noise however a batch is split over micro-batches and ranks, and a resumed run draws what the
uninterrupted run drew. The draws never touch torch's global generator.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
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


def _mix_array(x: np.ndarray) -> np.ndarray:
    """:func:`_mix` of uint64 numbers, whose arithmetic wraps around."""
    x = (x ^ (x >> np.uint64(30))) * _unsigned(_MIX_1)
    x = (x ^ (x >> np.uint64(27))) * _unsigned(_MIX_2)
    return x ^ (x >> np.uint64(31))


def _unsigned(value: int) -> np.ndarray:
    return np.array([value & 0xFFFFFFFFFFFFFFFF], dtype=np.uint64)


def _addresses(keys: Tensor, seed: int, counter: int, streams: Sequence[int]) -> Tensor:
    """What is the same for all lanes of an address: int64 [len(streams) * B] on the CPU, a stream
    after the other.

    Some dozen operations on few numbers, which a GPU would spend a kernel on each.
    """
    golden = _unsigned(_GOLDEN)
    rows = keys.cpu().numpy().view(np.uint64)
    for part in (seed, counter):
        rows = _mix_array((rows + golden) ^ _mix_array(_unsigned(part) + golden))
    out = [_mix_array((rows + golden) ^ _mix_array(_unsigned(s) + golden)) for s in streams]
    return torch.from_numpy(np.concatenate(out).view(np.int64))


def _bits(addresses: Tensor, lanes: int) -> Tensor:
    """64 well-mixed bits per lane of an address: int64 [len(addresses), lanes]."""
    lane = torch.arange(1, lanes + 1, dtype=torch.int64, device=addresses.device) * _GOLDEN
    return _mix(addresses[:, None] + lane)


def _uniform(addresses: Tensor, dim: int) -> Tensor:
    return (_shift(_bits(addresses, dim), 40).float() + 0.5) / (1 << 24)


def _normal(addresses: Tensor, dim: int) -> Tensor:
    """Box and Muller's transform of the two halves of the bits."""
    bits = _bits(addresses, (dim + 1) // 2)
    scale = 1.0 / (1 << 24)
    u1 = (_shift(bits, 40).float() + 0.5) * scale
    u2 = ((bits & 0xFFFFFF).float() + 0.5) * scale
    radius = (-2 * u1.log()).sqrt()
    angle = 2 * math.pi * u2
    return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=-1).flatten(1)[:, :dim]


def counter_uniform(keys: Tensor, dim: int, seed: int, counter: int, stream: int) -> Tensor:
    """Numbers in (0, 1) as a pure function of their address; see :func:`counter_normal`.

    Returns:
        float32 [B, dim] on the device of ``keys``.
    """
    return _uniform(_addresses(keys, seed, counter, [stream]).to(keys.device), dim)


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
    return _normal(_addresses(keys, seed, counter, [stream]).to(keys.device), dim)


@dataclass(frozen=True)
class SampleDraws:
    """Random numbers of a batch's samples in one update, by name.

    Attributes:
        keys: int64 [B] on the CPU, ``MultiModalDataSample.sample_key``.
        seed: the model's.
        counter: number of the update.
        device: of the numbers.
    """

    keys: Tensor
    seed: int
    counter: int
    device: torch.device | str = 'cpu'

    def normal(self, name: str, dim: int) -> Tensor:
        """Standard normal, float32 [B, dim]; another name gives other numbers."""
        return _normal(self._addresses([name]), dim)

    def normals(self, widths: Mapping[str, int]) -> dict[str, Tensor]:
        """:meth:`normal` of several names, of equal widths together: the same numbers in as many
        kernels as one name takes.
        """
        out: dict[str, Tensor] = {}
        for dim in set(widths.values()):
            names = [name for name, width in widths.items() if width == dim]
            rows = _normal(self._addresses(names), dim)
            out.update(zip(names, rows.split(len(self.keys)), strict=True))
        return out

    def uniform(self, name: str, dim: int) -> Tensor:
        """In (0, 1), float32 [B, dim]; another name gives other numbers."""
        return _uniform(self._addresses([name]), dim)

    def shared(self, name: str, dim: int) -> Tensor:
        """In (0, 1), float32 [1, dim], the same for every sample of the update."""
        stream = sample_key('shared', name)
        one = torch.zeros(1, dtype=torch.int64)
        return _uniform(_addresses(one, self.seed, self.counter, [stream]).to(self.device), dim)

    def _addresses(self, names: Sequence[str]) -> Tensor:
        streams = [sample_key(name) for name in names]
        found = _addresses(self.keys, self.seed, self.counter, streams)
        return found.to(self.device, non_blocking=True)
