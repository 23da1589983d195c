"""Intervals and tests for test sets, as pure functions: the samples are what is resampled.

A resample is told by how often each sample is in it, ``counts [R, N]``, so that most statistics of
1,000 resamples are one matrix product. Everything that one sample gave (both models, all noise
seeds) has the same count: the bootstrap is paired, and noise seeds of a sample stay together.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binomtest

__all__ = [
    'FEW_GROUPS',
    'Difference',
    'McNemar',
    'Statistic',
    'bootstrap_distribution',
    'bootstrap_interval',
    'bootstrap_p_value',
    'group_numbers',
    'holm',
    'mcnemar',
    'mean_interval',
    'mean_intervals',
    'paired_bootstrap',
    'percentile_interval',
    'resample_counts',
    'smallest_group_p_value',
    'smallest_p_value',
]

#: counts [R, N], whose rows need not sum to N -> the statistic of each resample [R]
Statistic = Callable[[np.ndarray], np.ndarray]

_CELLS = 2_000_000  # counts kept at a time

#: with fewer groups than this a bootstrap over them is too sure of itself
FEW_GROUPS = 30


def resample_counts(
    num_samples: int, resamples: int, seed: int = 0, groups: ArrayLike | None = None
) -> Iterator[np.ndarray]:
    """Bootstrap resamples of ``num_samples`` samples, some rows at a time.

    Args:
        num_samples: N >= 1.
        resamples: R >= 1, over all pieces.
        seed: the same seed gives the same resamples.
        groups: [N], samples that depend on each other (of one speaker, of one scene) share one:
            whole groups are drawn, as many as there are (the cluster bootstrap). None: each sample
            by itself.

    Yields:
        float64 [r, N], how often each sample is in each resample; every row sums to N, or, with
        groups of several sizes, to about N.

    Raises:
        ValueError: no samples, no resamples, or another number of groups.
    """
    if groups is not None:
        member = np.unique(np.asarray(groups), return_inverse=True)[1]
        if member.shape != (num_samples,):
            raise ValueError(
                f'expected a group for each of {num_samples} samples, got shape '
                f'{list(np.shape(groups))}'
            )
        step = max(1, _CELLS // num_samples)
        for counts in resample_counts(int(member.max(initial=-1)) + 1, resamples, seed):
            for start in range(0, len(counts), step):
                yield counts[start : start + step, member]
        return
    if num_samples < 1 or resamples < 1:
        raise ValueError(
            f'a bootstrap needs at least one sample and one resample, got {num_samples} samples '
            f'and {resamples} resamples'
        )
    generator = np.random.Generator(np.random.PCG64(seed))
    step = max(1, _CELLS // num_samples)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn = generator.integers(0, num_samples, (rows, num_samples))
        drawn += np.arange(rows)[:, None] * num_samples
        counts = np.bincount(drawn.ravel(), minlength=rows * num_samples)
        yield counts.reshape(rows, num_samples).astype(np.float64)


def group_numbers(names: Sequence[str]) -> np.ndarray | None:
    """Number [N] of each sample's group, for :func:`resample_counts`.

    Args:
        names: N groups; '' stands for a group of its own.

    Returns:
        None where no two samples share a group, and where all share one: that cannot be resampled.
    """
    own = [name or f'\0{i}' for i, name in enumerate(names)]
    kinds, numbers = np.unique(own, return_inverse=True)
    return None if len(kinds) in (1, len(own)) else numbers


def bootstrap_distribution(
    statistics: Sequence[Statistic],
    num_samples: int,
    resamples: int = 1000,
    seed: int = 0,
    groups: ArrayLike | None = None,
) -> np.ndarray:
    """Each statistic on each resample; all of them see the same resamples.

    Args:
        statistics: K functions of counts [R, N].
        num_samples: N.
        resamples: R.
        seed: of the resamples.
        groups: see :func:`resample_counts`.

    Returns:
        float64 [K, R].
    """
    parts = [
        np.stack([np.asarray(s(counts), dtype=np.float64) for s in statistics])
        for counts in resample_counts(num_samples, resamples, seed, groups)
    ]
    return np.concatenate(parts, axis=1)


def percentile_interval(values: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """Quantiles (1 - level) / 2 and (1 + level) / 2 of the resampled ``values`` [R].

    Raises:
        ValueError: ``level`` is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise ValueError(f'the level of an interval must be between 0 and 1, got {level}')
    low, high = np.quantile(np.asarray(values, dtype=float), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bootstrap_interval(
    statistic: Statistic,
    num_samples: int,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of ``statistic`` over ``num_samples`` samples."""
    values = bootstrap_distribution([statistic], num_samples, resamples, seed)[0]
    return percentile_interval(values, level)


def mean_interval(
    values: ArrayLike, resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean.

    Args:
        values: [N], or [N, S] with what S noise seeds gave a sample: these stay together.
        resamples: R.
        level: of the interval.
        seed: of the resamples.

    Raises:
        ValueError: neither one nor two dimensions, or empty.
    """
    array = np.asarray(values, dtype=float)
    if array.ndim not in (1, 2) or not array.size:
        raise ValueError(f'expected values [N] or [N, S], got shape {list(array.shape)}')
    per_sample = array if array.ndim == 1 else array.mean(axis=1)
    n = per_sample.size
    return bootstrap_interval(lambda counts: counts @ per_sample / n, n, resamples, level, seed)


def mean_intervals(
    values: ArrayLike,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    groups: ArrayLike | None = None,
) -> np.ndarray:
    """Percentile bootstrap intervals of K means over the same samples.

    Args:
        values: [N, K].
        resamples: R.
        level: of the intervals.
        seed: of the resamples, which all columns share.
        groups: see :func:`resample_counts`.

    Returns:
        float64 [K, 2].
    """
    array = np.asarray(values, dtype=float)
    parts = [
        counts @ array / counts.sum(axis=1, keepdims=True)
        for counts in resample_counts(len(array), resamples, seed, groups)
    ]
    ends = [(1 - level) / 2, (1 + level) / 2]
    return np.quantile(np.concatenate(parts), ends, axis=0).T


def bootstrap_p_value(differences: ArrayLike) -> float:
    """Two-sided p-value that resampled ``differences`` [R] are about zero.

    Twice the smaller share of resamples on one side of zero (zero counts on both sides), each with
    one added to count and total, at most 1: it is never 0, and below 1 - level about where the
    percentile interval leaves zero out.
    """
    d = np.asarray(differences, dtype=float)
    tail = min(int((d <= 0).sum()), int((d >= 0).sum()))
    return min(1.0, 2 * (tail + 1) / (d.size + 1))


def smallest_p_value(resamples: int) -> float:
    """The least that :func:`bootstrap_p_value` can give with so many resamples."""
    return min(1.0, 2 / (resamples + 1))


def smallest_group_p_value(groups: ArrayLike | None) -> float:
    """The least two-sided p-value that G groups can give: that all of them point the same way has
    the probability 2^(1 - G) where there is no difference. Of few groups a bootstrap says less.

    Args:
        groups: [N] as of :func:`resample_counts`; None: 0.
    """
    return 0.0 if groups is None else 2.0 ** (1 - len(np.unique(np.asarray(groups))))


@dataclass(frozen=True)
class Difference:
    """Second minus first, with its interval and two-sided p-value."""

    first: float
    second: float
    low: float
    high: float
    p: float

    @property
    def value(self) -> float:
        """The difference on the samples as they are."""
        return self.second - self.first


def paired_bootstrap(
    first: Sequence[Statistic],
    second: Sequence[Statistic],
    num_samples: int,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    groups: ArrayLike | None = None,
) -> list[Difference]:
    """Difference of two models in each of K statistics, both on the same resamples.

    Args:
        first: K statistics of the first model, functions of counts [R, N].
        second: the same of the second model, its samples in the same order.
        num_samples: N.
        resamples: R.
        level: of the intervals.
        seed: of the resamples.
        groups: see :func:`resample_counts`.
    """
    both = [*first, *second]
    ones = np.ones((1, num_samples))
    values = [float(s(ones)[0]) for s in both]
    drawn = bootstrap_distribution(both, num_samples, resamples, seed, groups)
    k = len(first)
    found = []
    for i in range(k):
        gap = drawn[k + i] - drawn[i]
        # sums in another order leave 1e-15 where the two models are alike
        gap[np.abs(gap) <= 1e-10 * max(1.0, abs(values[i]))] = 0.0
        low, high = percentile_interval(gap, level)
        p = max(bootstrap_p_value(gap), smallest_group_p_value(groups))
        found.append(Difference(values[i], values[k + i], low, high, p))
    return found


@dataclass(frozen=True)
class McNemar:
    """Exact McNemar test.

    Attributes:
        first_only: samples that only the first model has right (with several noise seeds: that it
            has right under more of them).
        second_only: the same of the second model.
        p: exact two-sided p-value, 1 without any such sample.
    """

    first_only: int
    second_only: int
    p: float


def mcnemar(first_right: ArrayLike, second_right: ArrayLike) -> McNemar:
    """Exact test whether two models are right equally often on the same samples.

    With noise seeds the pairs of one sample are not independent, so each sample counts once, for
    the model that is right under more of its seeds (the exact sign test); with one seed this is
    McNemar's test.

    Args:
        first_right: bool [N] or [N, S].
        second_right: the same shape.

    Raises:
        ValueError: shapes differ.
    """
    a, b = np.asarray(first_right, dtype=int), np.asarray(second_right, dtype=int)
    if a.shape != b.shape or a.ndim not in (1, 2):
        raise ValueError(
            f'paired results need the same shape, [N] or [N, S]: got {list(a.shape)} and '
            f'{list(b.shape)}'
        )
    net = b - a if a.ndim == 1 else (b - a).sum(axis=1)
    first, second = int((net < 0).sum()), int((net > 0).sum())
    p = float(binomtest(first, first + second, 0.5).pvalue) if first + second else 1.0
    return McNemar(first, second, p)


def holm(p_values: ArrayLike) -> list[float]:
    """Holm's step-down correction: adjusted p-values [K], in the order given, at most 1.

    Raises:
        ValueError: a p-value outside of [0, 1].
    """
    p = np.asarray(p_values, dtype=float)
    if p.size and not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f'p-values must be in [0, 1], got {p.tolist()}')
    order = np.argsort(p, kind='stable')
    steps = p[order] * np.arange(p.size, 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps)) if p.size else steps
    return adjusted.tolist()
