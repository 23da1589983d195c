"""Typicality of features."""

import math

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
    assert float(fitted(clean).mean()) > 0.9
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
