"""Intervals, McNemar, paired bootstrap and Holm against slow loops and known values."""

import math
from fractions import Fraction

import numpy as np
import pytest

from cal_mm.evaluation import statistics as S


def drawn(n, resamples, seed):
    return np.concatenate(list(S.resample_counts(n, resamples, seed)))


def test_resamples_are_seeded_and_of_the_right_size(monkeypatch):
    a, b, other = drawn(37, 50, 3), drawn(37, 50, 3), drawn(37, 50, 4)
    assert a.shape == (50, 37)
    assert (a.sum(axis=1) == 37).all()
    np.testing.assert_array_equal(a, b)
    assert (a != other).any()
    # a sample is drawn Poisson-like: mean 1, variance 1 - 1/N
    many = drawn(50, 4000, 0)
    assert many.mean() == 1
    assert many.var() == pytest.approx(1 - 1 / 50, rel=0.02)
    monkeypatch.setattr(S, '_CELLS', 100)
    pieces = list(S.resample_counts(37, 50, 3))
    assert [len(p) for p in pieces] == [2] * 25
    with pytest.raises(ValueError, match='at least one sample and one resample'):
        next(S.resample_counts(0, 5))
    with pytest.raises(ValueError, match='0 resamples'):
        next(S.resample_counts(5, 0))
    with pytest.raises(ValueError, match='a group for each of 5 samples'):
        next(S.resample_counts(5, 3, groups=[0, 1]))


def test_resamples_of_whole_groups():
    names = ['b', 'a', '', 'b', 'b', '']
    numbers = S.group_numbers(names)
    assert [(numbers == k).sum() for k in numbers] == [3, 1, 1, 3, 3, 1]
    drawn = np.concatenate(list(S.resample_counts(6, 50, 1, numbers)))
    per_group = np.concatenate(list(S.resample_counts(4, 50, 1)))
    assert (drawn == per_group[:, numbers]).all()
    assert (drawn[:, 0] == drawn[:, 3]).all()
    assert (drawn[:, 2] != drawn[:, 5]).any()
    assert S.group_numbers(['a', 'b', '']) is None
    pieces = list(S.resample_counts(1_000_000, 5, 0, np.arange(1_000_000) % 3))
    assert [len(p) for p in pieces] == [2, 2, 1]
    assert S.smallest_group_p_value(numbers) == 0.125
    assert S.smallest_group_p_value(None) == 0
    assert S.group_numbers(['a', 'a']) is None


def test_interval_is_that_of_the_slow_loop():
    rng = np.random.default_rng(0)
    values = rng.normal(size=23)
    means = []
    for counts in drawn(23, 200, 7):
        sample = [v for v, c in zip(values, counts, strict=True) for _ in range(int(c))]
        means.append(sum(sample) / len(sample))
    expected = np.quantile(means, [0.05, 0.95])
    assert S.mean_interval(values, 200, 0.9, 7) == pytest.approx(tuple(expected))
    np.testing.assert_allclose(
        S.mean_intervals(np.stack([values, 2 * values], 1), 200, 0.9, 7),
        [expected, 2 * expected],
    )


def test_noise_seeds_of_a_sample_stay_together():
    rng = np.random.default_rng(1)
    right = (rng.random(80) < 0.7).astype(float)
    low, high = S.mean_interval(right, 500)
    # five copies are no more evidence than one
    assert S.mean_interval(np.repeat(right[:, None], 5, axis=1), 500) == pytest.approx((low, high))
    apart = S.mean_interval(np.repeat(right, 5), 500)
    assert apart[1] - apart[0] < 0.6 * (high - low)
    with pytest.raises(ValueError, match=r'\[N\] or \[N, S\]'):
        S.mean_interval(np.zeros((2, 2, 2)))


def test_intervals_cover_and_tests_hold_their_level():
    rng = np.random.default_rng(2)
    covered = wrong_b = wrong_m = 0
    runs, n = 300, 120
    for i in range(runs):
        a, b = (rng.random((2, n)) < 0.7).astype(float)
        low, high = S.mean_interval(a, 300, seed=i)
        covered += low <= 0.7 <= high
        statistic = [lambda c, v=v: c @ v / n for v in (a, b)]
        (found,) = S.paired_bootstrap(statistic[:1], statistic[1:], n, 300, seed=i)
        wrong_b += found.p < 0.05
        wrong_m += S.mcnemar(a > 0, b > 0).p < 0.05
    assert 0.91 <= covered / runs <= 0.985
    assert wrong_b / runs <= 0.085
    assert wrong_m / runs <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / runs)


def test_paired_bootstrap_is_the_slow_loop():
    rng = np.random.default_rng(3)
    a, b = rng.random(31), rng.random(31) + 0.1
    gaps = []
    for counts in drawn(31, 150, 5):
        idx = [i for i, c in enumerate(counts) for _ in range(int(c))]
        gaps.append(np.mean([b[i] for i in idx]) - np.mean([a[i] for i in idx]))
    below, above = sum(g <= 0 for g in gaps), sum(g >= 0 for g in gaps)
    (found,) = S.paired_bootstrap(
        [lambda c: c @ a / 31], [lambda c: c @ b / 31], 31, 150, level=0.8, seed=5
    )
    assert found.first == pytest.approx(a.mean())
    assert found.value == pytest.approx(b.mean() - a.mean())
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(gaps, [0.1, 0.9])))
    assert found.p == pytest.approx(min(1, 2 * (min(below, above) + 1) / 151))


def test_models_that_are_alike_do_not_differ():
    v = np.random.default_rng(4).random(40)
    # the same numbers, summed in another order
    same = [lambda c: c @ v / 40], [lambda c: (c[:, ::-1] @ v[::-1]) / 40]
    (found,) = S.paired_bootstrap(*same, 40, 200)
    assert (found.low, found.high, found.p) == (0, 0, 1)


def test_p_value_never_is_zero():
    assert S.bootstrap_p_value([1.0] * 999) == pytest.approx(0.002)
    assert S.smallest_p_value(999) == pytest.approx(0.002)
    assert S.bootstrap_p_value([-1.0] * 3 + [1.0] * 96) == pytest.approx(0.08)
    assert S.bootstrap_p_value([0.0] * 10) == 1


@pytest.mark.parametrize(('first', 'second'), [(0, 0), (1, 0), (5, 0), (3, 12), (10, 10), (8, 9)])
def test_mcnemar_is_the_binomial_sum(first, second):
    a = np.array([1] * first + [0] * second + [1] * 7 + [0] * 4, bool)
    b = np.array([0] * first + [1] * second + [1] * 7 + [0] * 4, bool)
    found = S.mcnemar(a, b)
    n = first + second
    tail = sum(Fraction(math.comb(n, k), 2**n) for k in range(min(first, second) + 1))
    assert (found.first_only, found.second_only) == (first, second)
    assert found.p == pytest.approx(min(1.0, float(2 * tail)))


def test_mcnemar_counts_a_sample_once():
    a = np.array([[1, 1, 1], [0, 0, 1], [1, 0, 0], [0, 0, 0]], bool)
    b = np.array([[0, 0, 1], [0, 1, 1], [0, 1, 0], [0, 0, 0]], bool)
    found = S.mcnemar(a, b)
    assert (found.first_only, found.second_only) == (1, 1)
    one = S.mcnemar(a[:, 0], b[:, 0])
    copies = S.mcnemar(np.repeat(a[:, :1], 9, 1), np.repeat(b[:, :1], 9, 1))
    assert copies == one
    with pytest.raises(ValueError, match='same shape'):
        S.mcnemar(a, b[:3])


def test_holm_is_the_definition():
    rng = np.random.default_rng(5)
    p = rng.random(12) ** 3
    order = sorted(range(12), key=lambda i: p[i])
    expected, running = [0.0] * 12, 0.0
    for rank, i in enumerate(order):
        running = max(running, min(1.0, (12 - rank) * p[i]))
        expected[i] = running
    assert S.holm(p) == pytest.approx(expected)
    assert S.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert S.holm([]) == []
    with pytest.raises(ValueError, match=r'in \[0, 1\]'):
        S.holm([0.1, 1.2])


def test_level():
    with pytest.raises(ValueError, match='between 0 and 1'):
        S.percentile_interval([1.0, 2.0], 95)
