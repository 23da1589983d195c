"""Which samples are used and with which labels: pure, seeded per sample."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from cal_mm.structures import sample_key

__all__ = ['noisy_labels', 'positions', 'sample_uniforms', 'stratified_subsample']


def sample_uniforms(sample_ids: Sequence[str], seed: int, purpose: str, count: int) -> np.ndarray:
    """[N, count] uniform numbers in [0, 1), each row from (seed, purpose, sample id) alone."""
    stream = sample_key(purpose, seed)
    draws = [np.random.default_rng([stream, sample_key(i)]).random(count) for i in sample_ids]
    return np.asarray(draws, dtype=np.float64).reshape(len(sample_ids), count)


def _quotas(counts: np.ndarray, total: int) -> np.ndarray:
    """Split ``total`` over classes in proportion to ``counts`` (largest remainder).

    Every class that has samples gets at least one when ``total`` allows it.
    """
    exact = total * counts / counts.sum()
    floor = (counts > 0).astype(np.int64) if total >= (counts > 0).sum() else np.zeros_like(counts)
    quotas = np.minimum(np.maximum(np.floor(exact).astype(np.int64), floor), counts)
    while quotas.sum() != total:
        short = quotas.sum() < total
        error = exact - quotas if short else quotas - exact
        allowed = quotas < counts if short else quotas > floor
        quotas[np.argmax(np.where(allowed, error, -np.inf))] += 1 if short else -1
    return quotas


def stratified_subsample(
    labels: np.ndarray, sample_ids: Sequence[str], num_samples: int, seed: int
) -> np.ndarray:
    """Rows of a subsample with the classes' shares, in their old order.

    Each class keeps the samples with the lowest seeded numbers: of two subsamples of one seed, the
    one with fewer samples of a class has no others of it. That need not be the smaller subsample:
    by the rounding of the shares a class can lose a sample as ``num_samples`` rises.

    Args:
        labels: int [N].
        sample_ids: N ids.
        num_samples: in [1, N].
        seed: another seed gives another subsample.

    Raises:
        ValueError: ``num_samples`` is out of range.
    """
    if not 1 <= num_samples <= len(labels):
        raise ValueError(f'num_samples must be in [1, {len(labels)}], got {num_samples}')
    classes, member, counts = np.unique(labels, return_inverse=True, return_counts=True)
    rank = sample_uniforms(sample_ids, seed, 'subsample', 1)[:, 0]
    chosen = []
    for index, quota in zip(range(len(classes)), _quotas(counts, num_samples), strict=True):
        rows = np.flatnonzero(member == index)
        chosen.append(rows[np.argsort(rank[rows], kind='stable')[:quota]])
    return np.sort(np.concatenate(chosen))


def noisy_labels(
    labels: np.ndarray, sample_ids: Sequence[str], num_classes: int, share: float, seed: int
) -> np.ndarray:
    """Labels of which exactly ``round(share * N)`` are replaced, uniformly by another class.

    A larger share of the same seed replaces a superset, by the same classes.

    Args:
        labels: int [N] in [0, num_classes).
        sample_ids: N ids.
        num_classes: at least 2 when ``share`` > 0.
        share: in [0, 1].
        seed: another seed replaces others.

    Raises:
        ValueError: ``share`` is out of range, or there is no other class.
    """
    if not 0.0 <= share <= 1.0:
        raise ValueError(f'label_noise must be in [0, 1], got {share}')
    replaced = round(share * len(labels))
    out = np.array(labels, dtype=np.int64)
    if not replaced:
        return out
    if num_classes < 2:
        raise ValueError('label_noise needs at least two classes')
    draws = sample_uniforms(sample_ids, seed, 'label_noise', 2)
    rows = np.argsort(draws[:, 0], kind='stable')[:replaced]
    shift = 1 + np.floor(draws[rows, 1] * (num_classes - 1)).astype(np.int64)
    out[rows] = (out[rows] + shift) % num_classes
    return out


def positions(indices: Any, length: int) -> list[int]:
    """Non-negative positions that ``indices`` stands for in a dataset of ``length`` samples.

    Args:
        indices: an int (the first n, or the last n when negative) or a sequence, array or tensor of
            ints; negative ones count from the end.
        length: number of samples.

    Raises:
        IndexError: an index is out of range.
        TypeError: ``indices`` is neither.
    """
    if isinstance(indices, int | np.integer) and not isinstance(indices, bool):
        if abs(int(indices)) > length:
            raise IndexError(f'indices={indices} asks for more than the {length} samples there are')
        return list(
            range(length)[: int(indices)] if indices >= 0 else range(length)[int(indices) :]
        )
    array = np.asarray(indices)
    if array.ndim != 1 or (array.size and array.dtype.kind not in 'iu'):
        raise TypeError(
            f'indices must be an int or a sequence of ints, got {type(indices).__name__}'
        )
    for index in array:
        if not -length <= index < length:
            raise IndexError(f'index {index} is out of range for {length} samples')
    return [int(index) % length for index in array]
