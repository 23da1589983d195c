"""Paired tests and ranks against scipy and slow references."""

import numpy as np
import pytest
from scipy import stats

from cal_mm.evaluation.statistics import holm
from cal_mm.study.outcomes import Outcome
from cal_mm.study.paired import best_of, compare, seed_p_value
from cal_mm.study.plots import mean_interval_t
from cal_mm.study.ranks import cliques, critical_difference, rank_methods, wilcoxon_p_value


def outcome(right, seeds=None):
    right = np.asarray(right, dtype=float)
    seeds = list(range(len(right))) if seeds is None else seeds
    return Outcome(seeds, (100 * np.nanmean(right, axis=1)).tolist(), [0.0] * len(right), right)


def draw(share, shape=(4, 200), seed=0):
    return (np.random.default_rng(seed).random(shape) < share).astype(float)


def test_seed_p_value_is_the_paired_t_test():
    a, b = np.random.default_rng(0).normal(size=(2, 7))
    assert seed_p_value(a - b) == pytest.approx(stats.ttest_rel(a, b).pvalue)
    assert seed_p_value([1.0]) is None
    assert seed_p_value([0.0, 0.0]) == 1.0
    # without spread there is only the sign to go by
    assert seed_p_value([1.0, 1.0, 1.0]) == 0.25


def test_compare_against_a_slow_bootstrap():
    a, b = draw(0.8), draw(0.7, seed=1)
    found = compare(outcome(a), {'b': outcome(b)}, resamples=20_000)['b']
    per_sample = (a - b).mean(axis=0) * 100
    assert found.difference == pytest.approx(per_sample.mean())
    rng = np.random.default_rng(3)
    gaps = (a - b) * 100
    slow = [gaps[rng.integers(0, 4, 4)][:, rng.integers(0, 200, 200)].mean() for _ in range(20_000)]
    low, high = np.quantile(slow, [0.025, 0.975])
    assert found.low == pytest.approx(low, abs=0.35)
    assert found.high == pytest.approx(high, abs=0.35)
    slow = [per_sample[rng.integers(0, 200, 200)].mean() - per_sample.mean() for _ in range(20_000)]
    beyond = np.mean(np.array(slow) <= -per_sample.mean())
    assert found.p_samples == pytest.approx(2 * beyond, abs=0.004)
    assert found.p_seeds == pytest.approx(stats.ttest_rel(a.mean(axis=1), b.mean(axis=1)).pvalue)
    assert found.p == max(found.p_samples, found.p_seeds)


def test_whole_groups_are_resampled():
    """40 speakers of 5 samples with one fate each: as much is known as from 40 samples."""
    speakers = np.repeat([1.0, 0.0, -1.0], [16, 16, 8])
    alone, zero = np.tile(speakers, (3, 1)), np.zeros((3, 40))
    groups = np.repeat(np.arange(40), 5)
    grouped = compare(
        outcome(np.repeat(alone, 5, axis=1)),
        {'x': outcome(np.repeat(zero, 5, axis=1))},
        resamples=2000,
        groups=groups,
    )['x']
    few = compare(outcome(alone), {'x': outcome(zero)}, resamples=2000)['x']
    assert grouped == few
    assert few.p_samples > 0.05
    assert grouped.p == few.p_seeds == 0.25
    many = compare(
        outcome(np.repeat(alone, 5, axis=1)), {'x': outcome(np.repeat(zero, 5, axis=1))}, 2000
    )['x']
    assert many.p_samples < 0.01
    assert many.high - many.low < 0.6 * (grouped.high - grouped.low)


def test_few_groups_prove_little():
    """Two speakers, both for the first by a hair: a coin does that half of the time."""
    rng = np.random.default_rng(0)
    a = 1 - (rng.random((10, 200)) < 0.01)
    b = np.zeros((10, 200))
    found = compare(outcome(a), {'b': outcome(b)}, 500, groups=np.arange(200) % 2)['b']
    assert found.p_seeds < 0.001
    assert found.p == 0.5


def test_one_seed_of_several_proves_nothing():
    a, b = draw(0.9), draw(0.1, seed=1)
    one = Outcome([2], [10.0], [0.0], b[2:3])
    assert compare(outcome(a), {'b': one}, 500)['b'].p == 1
    alone = Outcome([2], [90.0], [0.0], a[2:3])
    assert compare(alone, {'b': one}, 500)['b'].p < 0.01


def test_the_interval_covers_seeds_too():
    """Two seeds that disagree on every sample: the samples alone would say 50 +- 0."""
    a = np.vstack([np.ones(50), np.zeros(50)])
    found = compare(outcome(a), {'b': outcome(np.zeros((2, 50)))}, resamples=1000)['b']
    assert (found.low, found.difference, found.high) == (0, 50, 100)


def test_holm_over_the_rivals():
    first = outcome(draw(0.8))
    rivals = {f'r{i}': outcome(draw(0.8 - 0.02 * i, seed=i + 1)) for i in range(5)}
    found = compare(first, rivals, resamples=2000)
    expected = holm([found[k].p for k in rivals])
    assert [found[k].p_holm for k in rivals] == expected
    alone = compare(first, {'r3': rivals['r3']}, resamples=2000)['r3']
    assert alone.p_holm == alone.p == found['r3'].p


def test_a_difference_of_the_seeds_alone_is_none():
    """Certain over the samples, but one of two seeds points the other way."""
    a = np.vstack([np.ones(300), np.zeros(300)])
    b = np.vstack([np.zeros(300), np.ones(300)])
    b[1, :150] = 0
    found = compare(outcome(a), {'b': outcome(b)}, resamples=2000)['b']
    assert found.p_samples < 0.01
    assert found.p_seeds > 0.3
    assert found.p_holm > 0.3


def test_shared_seeds_and_folds():
    """A seed tests its fold alone; only seeds that both have count."""
    right = np.full((2, 8), np.nan)
    right[0, :4], right[1, 4:] = [1, 1, 0, 1], [1, 0, 0, 1]
    other = np.full((3, 8), np.nan)
    other[0, :4], other[1, 4:], other[2, :4] = [0, 1, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0]
    found = compare(outcome(right, [0, 1]), {'x': outcome(other, [0, 1, 5])}, resamples=500)['x']
    assert found.seeds == 2
    assert found.difference == pytest.approx(100 * 2 / 8)
    assert compare(outcome(right, [0, 1]), {'x': outcome(right, [7, 8])}) == {}


def test_best_is_proven_or_not():
    strong, weak = outcome(draw(0.95)), outcome(draw(0.4, seed=1))
    best = best_of({'weak': weak, 'strong': strong}, resamples=1000)
    assert (best.name, best.proven, best.ties) == ('strong', True, ())
    twin = outcome(draw(0.95, seed=2))
    best = best_of({'weak': weak, 'strong': strong, 'twin': twin}, resamples=1000)
    assert not best.proven
    assert set(best.ties) == {'strong', 'twin'} - {best.name}
    assert not best_of({'alone': strong}).proven
    assert best_of({}).name is None
    # one that lacks seeds, or has none in common, is not passed over
    fewer = Outcome([0, 1], strong.accuracy[:2], [0.0] * 2, strong.right[:2])
    best = best_of({'weak': weak, 'strong': strong, 'fewer': fewer}, resamples=1000)
    assert not best.proven
    # better on seeds of its own, worse on what both have
    easy, hard = draw(0.95, (6, 200), seed=3), draw(0.5, (6, 200), seed=4)
    only, both = outcome(easy - 0.1, range(6)), outcome(np.vstack([easy, hard]), range(12))
    assert compare(only, {'both': both}, 500)['both'].p_holm < 0.05
    best = best_of({'only': only, 'both': both}, resamples=500)
    assert (best.name, best.proven, best.ties) == ('only', False, ('both',))
    strange = Outcome([8, 9], [1.0, 1.0], [0.0] * 2, np.zeros((2, 200)))
    best = best_of({'weak': weak, 'strong': strong, 'strange': strange}, resamples=1000)
    assert (best.proven, best.ties) == (False, ('strange',))


# ---- ranks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('methods', 'q'), [(2, 1.960), (3, 2.343), (4, 2.569), (5, 2.728), (10, 3.164)]
)
def test_critical_difference_is_demsars_table(methods, q):
    expected = q * (methods * (methods + 1) / (6 * 30)) ** 0.5
    assert critical_difference(methods, 30) == pytest.approx(expected, rel=1e-3)


def test_ranking_against_scipy():
    x = np.random.default_rng(0).normal(size=(12, 4)) + np.array([0, 1, 0.5, 2])
    found = rank_methods(['a', 'b', 'c', 'd'], x)
    assert found.names == ('d', 'b', 'c', 'a')
    ranks = {n: np.mean([stats.rankdata(-row)[i] for row in x]) for i, n in enumerate('abcd')}
    assert found.ranks == pytest.approx([ranks[n] for n in found.names])
    assert found.p_friedman == pytest.approx(stats.friedmanchisquare(*x.T).pvalue)
    pairs = [(i, j) for i in range(4) for j in range(i + 1, 4)]
    columns = [x[:, 'abcd'.index(n)] for n in found.names]
    expected = holm([stats.wilcoxon(columns[i], columns[j]).pvalue for i, j in pairs])
    assert [found.pairs[p] for p in pairs] == pytest.approx(expected)


def test_ranks_of_equals():
    found = rank_methods(['a', 'b', 'c'], np.ones((5, 3)))
    assert found.ranks == (2, 2, 2)
    assert found.p_friedman == 1.0
    assert set(found.pairs.values()) == {1.0}
    assert wilcoxon_p_value([1, 2], [1, 2]) == 1.0
    with pytest.raises(ValueError, match='finite'):
        rank_methods(['a', 'b'], [[1, np.nan]])


def test_cliques():
    assert cliques([1, 1.5, 2.4, 4], 1.0) == [(0, 1), (1, 2)]
    assert cliques([1, 1.5, 1.9], 1.0) == [(0, 2)]
    assert cliques([1, 3, 5], 1.0) == []


def test_interval_of_the_mean():
    values = np.random.default_rng(0).normal(size=6)
    mean, low, high = mean_interval_t(values)
    expected = stats.t.interval(0.95, 5, loc=values.mean(), scale=stats.sem(values))
    assert (low, high) == pytest.approx(expected)
    assert mean == pytest.approx(values.mean())
    assert mean_interval_t([3.0]) == (3.0, 3.0, 3.0)
