import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from cal_mm.corruptions.adversarial_functional import (
    ball_radius,
    log_odds_against,
    project,
    random_in_ball,
    round_within,
    steepest,
)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_the_loss_rises_with_the_cross_entropy_and_points_the_same_way():
    logits, labels = normal(9, 4).mul(3).requires_grad_(), torch.arange(9) % 4
    odds = log_odds_against(logits, labels)
    entropy = F.cross_entropy(logits, labels, reduction='none')
    torch.testing.assert_close(F.softplus(odds), entropy)
    ours = torch.autograd.grad(odds.sum(), logits)[0]
    theirs = torch.autograd.grad(entropy.sum(), logits)[0]
    torch.testing.assert_close(F.normalize(ours), F.normalize(theirs))


def test_the_loss_does_not_vanish_where_the_softmax_saturates():
    logits = torch.tensor([[200.0, 0.0, -5.0]], requires_grad=True)
    label = torch.tensor([0])
    lost = torch.autograd.grad(F.cross_entropy(logits, label), logits)[0]
    assert float(lost.abs().sum()) == 0  # why it is not the cross-entropy itself
    kept = torch.autograd.grad(log_odds_against(logits, label).sum(), logits)[0]
    torch.testing.assert_close(kept[0, :2], torch.tensor([-1.0, 1.0]), atol=0.01, rtol=0)


def test_steepest_is_the_best_step_of_its_norm():
    g = normal(5, 7)
    assert torch.equal(steepest(g, 'linf'), g.sign())
    step = steepest(g, 'l2')
    torch.testing.assert_close(step.norm(dim=1), torch.ones(5, dtype=torch.float64))
    torch.testing.assert_close((step * g).sum(1), g.norm(dim=1))
    small = steepest(g.float() * 1e-30, 'l2')  # squares would be zero
    torch.testing.assert_close(small, step.float())
    assert not steepest(torch.zeros(2, 3), 'l2').any()
    assert not steepest(torch.zeros(2, 3), 'linf').any()


@pytest.mark.parametrize('norm', ['linf', 'l2'])
def test_project_is_the_nearest_point_without_a_range_and_stays_in_the_ball_with_one(norm):
    v = normal(6, 5) * 2
    radius = torch.full((6, 1), 1.3, dtype=torch.float64)
    free = torch.full_like(v, torch.inf)
    out = project(v, radius, norm, -free, free)
    for row, done in zip(v.numpy(), out.numpy(), strict=True):
        if norm == 'linf':
            expected = np.array([min(max(x, -1.3), 1.3) for x in row])
        else:
            expected = row * min(1, 1.3 / np.sqrt(sum(x * x for x in row)))
        np.testing.assert_allclose(done, expected)
    high = torch.full_like(v, 0.1)
    inside = project(v, radius, norm, -high * 0, high)
    assert float(inside.min()) >= 0
    assert float(inside.max()) <= 0.1


def test_random_points_fill_the_ball():
    rng = np.random.default_rng(0)
    square = np.stack([random_in_ball(rng, 3, 'linf') for _ in range(4000)])
    assert np.abs(square).max() <= 1
    assert np.std(square) == pytest.approx(1 / np.sqrt(3), rel=0.02)
    ball = np.stack([random_in_ball(rng, 3, 'l2') for _ in range(4000)])
    radii = np.linalg.norm(ball, axis=1)
    assert radii.max() <= 1 + 1e-6
    # a share r**3 of an even ball lies within r
    assert np.mean(radii < 0.5) == pytest.approx(0.125, abs=0.02)
    assert np.abs(ball.mean(axis=0)).max() < 0.05


def test_radius_is_a_root_mean_square():
    counts = torch.tensor([4, 9])
    assert ball_radius(0.5, counts, 'l2').tolist() == [[1.0], [1.5]]
    assert ball_radius(0.5, counts, 'linf').tolist() == [[0.5], [0.5]]


def test_rounding_stays_within_the_budget():
    delta = normal(40, 30, seed=3) * 1.5
    size = delta.norm(dim=1, keepdim=True)
    out = round_within(delta, size, 'l2')
    assert torch.equal(out, out.round())
    assert bool((out.norm(dim=1, keepdim=True) <= size * (1 + 1e-6)).all())
    assert bool(((out - delta).abs() < 1).all())
    assert float((out.norm(dim=1) / size[:, 0]).mean()) > 0.97
    radius = torch.full((40, 1), 2.5)
    out = round_within(delta.clamp(-2.5, 2.5), radius, 'linf')
    expected = delta.clamp(-2.5, 2.5).round().clamp(-2, 2)
    assert torch.equal(out, expected)


def test_rounding_of_a_small_perturbation_keeps_what_matters_most():
    """No better whole numbers of that norm: all of them are tried."""
    delta = torch.tensor([[0.4, -0.3, 0.2, 0.1, -0.45, 0.05]], dtype=torch.float64) * 2.2
    radius = delta.norm(dim=1, keepdim=True)
    out = round_within(delta, radius, 'l2')
    best = max(
        float((torch.tensor(z, dtype=torch.float64) * delta[0]).sum())
        for z in itertools.product((-1, 0, 1), repeat=6)
        if sum(x * x for x in z) <= float(radius**2)
    )
    assert float((out * delta).sum()) == pytest.approx(best)
    assert not round_within(torch.zeros(1, 4), torch.ones(1, 1), 'l2').any()
