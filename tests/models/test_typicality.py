"""Typicality of features."""

import math

import numpy as np
import pytest
import torch

from cal_mm.models.contribution import Typicality
from cal_mm.models.contribution.typicality import heavy_tail


def clusters(n, seed, dims=12, classes=4, spread=1.0):
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    centres = 6 * torch.eye(classes, dims)
    return centres[labels] + spread * torch.randn(n, dims, generator=g), labels


@pytest.fixture
def fitted():
    t = Typicality(12, 4)
    t.fit(*clusters(200, 0))
    return t


def test_clean_features_pass_and_others_do_not(fitted):
    clean, _ = clusters(400, 1)
    assert float(fitted(clean).mean()) > 0.65
    assert float(fitted(torch.zeros(1, 12))[0]) < 0.4  # between the classes: too near to the middle
    assert float(fitted(10 * clean).mean()) < 0.01  # too long
    noised = clean + 9 * torch.randn(400, 12, generator=torch.Generator().manual_seed(2))
    assert float(fitted(noised).mean()) < 0.1
    assert float((fitted(noised) < fitted(clean)).float().mean()) > 0.95


def test_before_the_fit_everything_passes_and_the_state_travels(fitted):
    fresh = Typicality(12, 4)
    assert fresh(torch.randn(3, 12)).tolist() == [1, 1, 1]
    fresh.load_state_dict(fitted.state_dict())
    x = torch.randn(5, 12)
    assert torch.equal(fresh(x), fitted(x))


def test_odd_data():
    t = Typicality(12, 4)
    features, labels = clusters(40, 0)
    t.fit(features[labels != 2], labels[labels != 2])  # a class is missing
    assert torch.isfinite(t(features)).all()
    t.fit(torch.ones(20, 12), torch.arange(20) % 4)  # constant features
    assert torch.isfinite(t(torch.randn(3, 12))).all()
    wide = Typicality(300, 4)  # more dimensions than samples
    wide.fit(*clusters(24, 0, dims=300))
    assert torch.isfinite(wide(torch.randn(3, 300))).all()
    with pytest.raises(ValueError, match='at least 8'):
        t.fit(features[:4], labels[:4])


def slow_numbers(features, labels, reference, x, max_rank):
    """The three numbers of one sample, by the formulas, with numpy."""
    h = np.asarray(reference, dtype=np.float64)
    mean, std = h.mean(axis=0), h.std(axis=0, ddof=1)
    std = np.maximum(std, 0.03 * np.sort(std)[(len(std) - 1) // 2])
    z = (h - mean) / std
    values, vectors = np.linalg.eigh(np.cov(z.T))
    values, vectors = values[::-1], vectors[:, ::-1]
    rank = int((np.cumsum(values) / values.sum() < 0.9).sum()) + 1
    rank = min(rank, max_rank)
    q = (np.asarray(x, dtype=np.float64) - mean) / std
    shrunk = np.full(len(values), 0.1)
    shrunk[:rank] += 0.9 * values[:rank]
    distance = math.sqrt(sum((vectors[:, k] @ q) ** 2 / shrunk[k] for k in range(len(q))))
    outside = q - sum((vectors[:, k] @ q) * vectors[:, k] for k in range(rank))
    share = np.linalg.norm(outside) / np.linalg.norm(q)
    p, v = z @ vectors[:, :rank], q @ vectors[:, :rank]
    means = {c: p[labels == c].mean(axis=0) for c in sorted(set(labels.tolist()))}
    within = np.stack([row - means[c] for row, c in zip(p, labels.tolist(), strict=True)])
    covariance = within.T @ within / (len(p) - len(means))
    covariance = 0.9 * covariance + 0.1 * np.diag(np.diag(covariance))
    precision = np.linalg.inv(covariance)
    nearest = min(math.sqrt((v - m) @ precision @ (v - m)) for m in means.values())
    return [distance, share, nearest]


@pytest.mark.parametrize('max_rank', [128, 3])
def test_against_the_formulas(max_rank):
    """A reference from elsewhere: its numbers, and what is usual in the other features."""
    reference, labels = clusters(90, 3)
    reference = reference @ torch.diag(torch.linspace(1, 5, 12))
    clean, clean_labels = clusters(41, 4)
    clean = clean @ torch.diag(torch.linspace(1, 5, 12))
    known = Typicality(12, 4, max_rank=max_rank)
    known.fit(clean, clean_labels, (reference, labels))
    rank = min(max_rank, 6)

    def numbers(x):
        return slow_numbers(None, labels, reference, x, rank)

    usual = np.array([numbers(row) for row in clean])
    low, middle, high = np.quantile(usual, [0.16, 0.5, 0.84], axis=0)
    x = torch.cat([1.5 * clean[:6], torch.zeros(1, 12), 0.1 * clean[:2]])
    for row, s, a in zip(x, known.atypicality(x).tolist(), known(x).tolist(), strict=True):
        off = np.array(numbers(row)) - middle
        z = np.where(off > 0, off / (high - middle), np.maximum(-off / (middle - low) - 2, 0))
        assert s == pytest.approx(z.max(), rel=1e-3, abs=1e-3)
        assert a == pytest.approx(1 / (1 + math.log1p(math.exp((s - 1) / 1.5)) ** 2), rel=1e-4)


def test_a_reference_is_not_what_is_usual():
    """Features of an overfitted encoder lie closer to their own subspace than others."""
    reference, labels = clusters(60, 0, spread=0.3)
    clean, clean_labels = clusters(200, 1)
    known = Typicality(12, 4)
    known.fit(clean, clean_labels, (reference, labels))
    assert float(known(clusters(200, 2)[0]).mean()) > 0.7
    few = Typicality(12, 4)
    few.fit(clean, clean_labels, (reference[:4], labels[:4]))  # too few to tell anything
    alone = Typicality(12, 4)
    alone.fit(clean, clean_labels)
    assert torch.equal(few(clean), alone(clean))


@pytest.mark.parametrize(('width', 'rank'), [(64, 1), (64, 3), (512, 1), (1, 1)])
@pytest.mark.parametrize('elsewhere', [False, True])
def test_features_of_low_rank(width, rank, elsewhere):
    """What lies outside their subspace is rounding: neither unusual nor without a gradient."""
    g = torch.Generator().manual_seed(0)
    mix = torch.randn(rank, width, generator=g)

    def features(n):
        return 5 + torch.randn(n, rank, generator=g) @ mix

    known = Typicality(width, 3)
    reference = (features(600), torch.arange(600) % 3) if elsewhere else None
    known.fit(features(200), torch.arange(200) % 3, reference)
    x = features(200).requires_grad_()
    a = known(x)
    a.sum().backward()
    assert float(a.detach().mean()) > 0.65
    assert torch.isfinite(x.grad).all()
    assert float(x.grad.abs().amax()) > 0
    if width > rank:
        noised = x.detach() + torch.randn(x.shape, generator=g)
        assert float(known(noised).max()) < 0.01


def test_a_gradient_at_the_mean():
    known = Typicality(6, 2)
    known.fit(torch.ones(20, 6), torch.arange(20) % 2)  # an encoder that says nothing
    x = torch.ones(3, 6, requires_grad=True)
    known(x).sum().backward()
    assert torch.isfinite(x.grad).all()


def test_features_that_are_too_near_are_noticed():
    """A constant input need not lie far out."""
    known = Typicality(40, 2)
    g = torch.Generator().manual_seed(0)
    known.fit(torch.randn(300, 40, generator=g), torch.arange(300) % 2)
    clean = known(torch.randn(300, 40, generator=g))
    assert float(known(torch.zeros(1, 40))[0]) < float(clean.quantile(0.05))


def test_the_heavy_tail_keeps_ratios():
    t = torch.tensor([8.0, 0.0, -20.0, -40.0])
    a = heavy_tail(t)
    soft = [math.log1p(math.exp(-x)) for x in t.tolist()]
    assert a.tolist() == pytest.approx([1 / (1 + s * s) for s in soft], rel=1e-5)
    assert float(a[0]) > 0.999
    assert float(a[2] / a[3]) == pytest.approx(4, rel=0.02)  # the logistic one: e^20
    values = {}
    for tail in ('logistic', 'heavy'):
        known = Typicality(12, 4, tail=tail)
        known.fit(*clusters(200, 0))
        values[tail] = known(clusters(12, 1)[0] * torch.linspace(0.5, 3, 12)[:, None])
    assert values['heavy'].argsort().tolist() == values['logistic'].argsort().tolist()
    with pytest.raises(ValueError, match='tail must be one of'):
        Typicality(6, 3, tail='long')
    with pytest.raises(ValueError, match='slope must be greater than 0'):
        Typicality(6, 3, slope=0.0)
