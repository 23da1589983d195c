"""Is one method better than another, over the samples and over the seeds?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from cal_mm.evaluation.statistics import (
    bootstrap_p_value,
    holm,
    percentile_interval,
    resample_counts,
    smallest_group_p_value,
)

from .outcomes import Outcome

__all__ = ['Best', 'Versus', 'best_of', 'compare', 'seed_p_value']

_SMALL = 1e-10
_BOTH = 10_000  # resamples of an interval, which needs fewer than a p-value


@dataclass(frozen=True)
class Versus:
    """First minus second, in points.

    Attributes:
        difference: of the means over the seeds that both have.
        low, high: bootstrap interval, samples and seeds resampled; not corrected.
        p_samples: of the bootstrap over the samples, seeds averaged.
        p_seeds: of the paired t-test over the seeds; None with fewer than two.
        p: the larger of both; with groups at least what their number allows, and 1 where the two
            share one seed of several.
        p_holm: ``p`` corrected over the rivals.
        seeds: number of seeds that both have.
    """

    difference: float
    low: float
    high: float
    p_samples: float
    p_seeds: float | None
    p: float
    p_holm: float
    seeds: int


def seed_p_value(differences: Sequence[float]) -> float | None:
    """Two-sided paired t-test over seeds; None for fewer than two seeds.

    Differences that are all alike have no spread to test with; they give what a sign test does,
    2 / 2^seeds, and all zero 1.
    """
    d = np.asarray(differences, dtype=float)
    if d.size < 2:
        return None
    if np.ptp(d) <= _SMALL:
        return 1.0 if abs(d[0]) <= _SMALL else 2.0 ** (1 - d.size)
    return float(stats.ttest_1samp(d, 0.0).pvalue)


def compare(
    first: Outcome,
    rivals: Mapping[str, Outcome],
    resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
    groups: ArrayLike | None = None,
) -> dict[str, Versus]:
    """``first`` against each rival, on the same resamples, Holm-corrected over the rivals.

    A sample's value is the mean over the seeds that both methods have; the samples are resampled.
    A difference counts over the samples *and* over the seeds: its p is the larger of the
    bootstrap's and of a paired t-test's over the seeds. The interval resamples both (each by
    itself, as in Owen's pigeonhole bootstrap, Annals of Applied Statistics 2007).

    Args:
        first: right [S, N].
        rivals: the same samples; seeds may be fewer.
        resamples: of the bootstrap; the interval takes at most 10,000 of them.
        level: of the interval.
        seed: of the resamples.
        groups: [N], of the samples; whole groups are resampled. None: every sample by itself.
    """
    names = [name for name, r in rivals.items() if set(first.seeds) & set(r.seeds)]
    if not names:
        return {}
    pairs, gaps, per_seed = [], [], []
    for name in names:
        both = sorted(set(first.seeds) & set(rivals[name].seeds))
        a = first.right[[first.seeds.index(s) for s in both]]
        b = rivals[name].right[[rivals[name].seeds.index(s) for s in both]]
        pairs.append((a - b) * 100)
        per_seed.append(np.nanmean(a - b, axis=1) * 100)
        gaps.append(_sample_means(a - b))
    known = np.stack([~np.isnan(g) for g in gaps], axis=1).astype(float)
    values = np.nan_to_num(np.stack(gaps, axis=1)) * 100
    drawn = np.concatenate(
        [
            (counts @ values) / np.maximum(counts @ known, 1)
            for counts in resample_counts(len(values), resamples, seed, groups)
        ]
    )
    drawn[np.abs(drawn) <= _SMALL] = 0.0
    least = smallest_group_p_value(groups)
    both_drawn = _over_both(pairs, min(resamples, _BOTH), seed, groups)
    found = []
    for k, name in enumerate(names):
        low, high = percentile_interval(both_drawn[k], level)
        p_samples, p_seeds = bootstrap_p_value(drawn[:, k]), seed_p_value(per_seed[k])
        difference = float(values[:, k].sum() / known[:, k].sum())
        p = max(p_samples, least)
        if p_seeds is not None:
            p = max(p, p_seeds)
        elif max(len(first.seeds), len(rivals[name].seeds)) > 1:
            p = 1.0  # one seed of several says nothing about the others
        found.append((name, difference, low, high, p_samples, p_seeds, p, len(per_seed[k])))
    corrected = holm([f[6] for f in found])
    return {
        f[0]: Versus(*f[1:7], p_holm=p_holm, seeds=f[7])
        for f, p_holm in zip(found, corrected, strict=True)
    }


def _over_both(
    pairs: Sequence[np.ndarray], resamples: int, seed: int, groups: ArrayLike | None
) -> list[np.ndarray]:
    """Mean of each of the gaps [S, N] where seeds and samples are resampled: [R] each.

    A resample that has no value (of a seed only samples that it does not know) is left out.
    """
    n = pairs[0].shape[1]
    seeds = {
        s: np.concatenate([*resample_counts(s, resamples, seed + 1)])
        for s in {len(p) for p in pairs}
    }
    parts: list[list[np.ndarray]] = [[] for _ in pairs]
    start = 0
    for counts in resample_counts(n, resamples, seed, groups):
        for k, gap in enumerate(pairs):
            there = ~np.isnan(gap)
            drawn = seeds[len(gap)][start : start + len(counts)]
            total = (drawn * (counts @ np.where(there, gap, 0.0).T)).sum(axis=1)
            number = (drawn * (counts @ there.T.astype(float))).sum(axis=1)
            parts[k].append(total[number > 0] / number[number > 0])
        start += len(counts)
    return [np.concatenate(p) for p in parts]


def _sample_means(values: np.ndarray) -> np.ndarray:
    """Mean over the seeds [N]; nan where no seed has the sample."""
    known = ~np.isnan(values)
    count = known.sum(axis=0)
    total = np.where(known, values, 0.0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


@dataclass(frozen=True)
class Best:
    """The best of a column.

    Attributes:
        name: of the highest mean; None where nothing was tested.
        proven: it is significantly better than every rival.
        ties: rivals that are not significantly worse.
    """

    name: str | None
    proven: bool
    ties: tuple[str, ...]


def best_of(
    outcomes: Mapping[str, Outcome],
    resamples: int = 10_000,
    level: float = 0.95,
    groups: ArrayLike | None = None,
) -> Best:
    """Which entry is best, and whether the tests support it. An entry without a seed in common
    with the best was not compared and counts as a tie, and so does one that is better where both
    were tested."""
    if not outcomes:
        return Best(None, False, ())
    name = max(outcomes, key=lambda k: outcomes[k].mean)
    rivals = {k: o for k, o in outcomes.items() if k != name}
    found = compare(outcomes[name], rivals, resamples, level, groups=groups)
    ties = tuple(
        k
        for k in rivals
        if k not in found or found[k].p_holm >= 1 - level or found[k].difference <= 0
    )
    return Best(name, bool(rivals) and not ties, ties)
