"""Ranks over many blocks: Friedman's test, Nemenyi's critical difference, Wilcoxon with Holm."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from cal_mm.evaluation.statistics import holm

__all__ = ['Ranking', 'cliques', 'critical_difference', 'rank_methods', 'wilcoxon_p_value']


@dataclass(frozen=True)
class Ranking:
    """Mean ranks of K methods over B blocks; rank 1 is the best.

    Attributes:
        names: K names, best first.
        ranks: mean rank of each.
        blocks: B.
        p_friedman: of Friedman's test that all are alike; None with fewer than three methods.
        critical: Nemenyi's critical difference of mean ranks.
        pairs: (i, j) -> Wilcoxon p-value, Holm-corrected over all pairs; positions in ``names``.
    """

    names: tuple[str, ...]
    ranks: tuple[float, ...]
    blocks: int
    p_friedman: float | None
    critical: float
    pairs: dict[tuple[int, int], float]


def critical_difference(methods: int, blocks: int, level: float = 0.95) -> float:
    """Nemenyi: q / sqrt(2) * sqrt(K (K + 1) / (6 B)), q of the studentised range with infinitely
    many degrees of freedom. Source: Demsar, JMLR 2006.

    Raises:
        ValueError: fewer than two methods or no blocks.
    """
    if methods < 2 or blocks < 1:
        raise ValueError(
            f'a critical difference needs at least two methods and one block, got {methods} and '
            f'{blocks}'
        )
    q = float(stats.studentized_range.ppf(level, methods, np.inf))
    return q / 2**0.5 * (methods * (methods + 1) / (6 * blocks)) ** 0.5


def wilcoxon_p_value(first: ArrayLike, second: ArrayLike) -> float:
    """Two-sided signed-rank test; 1 where no pair differs."""
    gap = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    if not np.any(np.abs(gap) > 1e-12):
        return 1.0
    return float(stats.wilcoxon(gap).pvalue)


def rank_methods(names: list[str], values: ArrayLike, level: float = 0.95) -> Ranking:
    """Rank methods by values [B, K], higher is better, in every block.

    Raises:
        ValueError: values of another shape, not finite, or too few.
    """
    x = np.asarray(values, dtype=float)
    if x.ndim != 2 or x.shape[1] != len(names) or not np.isfinite(x).all():
        raise ValueError(
            f'expected finite values [blocks, {len(names)}], got shape {list(x.shape)}'
        )
    blocks, k = x.shape
    ranks = np.mean([stats.rankdata(-row) for row in x], axis=0)
    order = np.argsort(ranks, kind='stable')
    x, ranks = x[:, order], ranks[order]
    p_friedman = None
    if k >= 3 and blocks >= 2:
        test: Any = stats.friedmanchisquare(*x.T) if np.ptp(x, axis=1).any() else None
        p_friedman = 1.0 if test is None else float(test.pvalue)
    pairs = [(i, j) for i in range(k) for j in range(i + 1, k)]
    p = holm([wilcoxon_p_value(x[:, i], x[:, j]) for i, j in pairs])
    return Ranking(
        names=tuple(names[i] for i in order),
        ranks=tuple(float(r) for r in ranks),
        blocks=blocks,
        p_friedman=p_friedman,
        critical=critical_difference(k, blocks, level),
        pairs=dict(zip(pairs, p, strict=True)),
    )


def cliques(ranks: ArrayLike, critical: float) -> list[tuple[int, int]]:
    """Longest runs (first, last) of sorted mean ranks that span at most ``critical``."""
    r = np.asarray(ranks, dtype=float)
    found: list[tuple[int, int]] = []
    for i in range(len(r)):
        j = int(np.flatnonzero(r <= r[i] + critical)[-1])
        if j > i and not any(a <= i and j <= b for a, b in found):
            found.append((i, j))
    return found
