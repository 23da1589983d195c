"""Subjective logic against torch.distributions, by hand, and by counting."""

import itertools

import pytest
import torch
from torch.distributions import Dirichlet, kl_divergence

from cal_mm.models.fusions.evidential import (
    dempster_fold,
    dempster_pair,
    dirichlet_kl,
    evidence_from_logits,
    evidence_from_opinion,
    evidential_loss,
    expected_log_probs,
    opinion,
)


def random_opinions(count, classes=3, seed=0, batch=5):
    g = torch.Generator().manual_seed(seed)
    return opinion(4 * torch.rand(batch, count, classes, generator=g, dtype=torch.float64))


def test_opinion_by_hand():
    b, u = opinion(torch.tensor([[4.0, 1.0, 2.0]]))
    assert b[0].tolist() == pytest.approx([0.4, 0.1, 0.2])
    assert u.tolist() == pytest.approx([0.3])
    assert evidence_from_opinion(b, u)[0].tolist() == pytest.approx([4, 1, 2])
    nothing, all_of_it = opinion(torch.zeros(1, 3))
    assert (nothing[0].tolist(), all_of_it.tolist()) == ([0, 0, 0], [1])
    assert evidence_from_logits(torch.tensor([0.0])).item() == pytest.approx(0.693147, abs=1e-5)


def test_two_sources_by_hand():
    b, u = dempster_pair(
        torch.tensor([0.6, 0.1]), torch.tensor(0.3), torch.tensor([0.2, 0.5]), torch.tensor(0.3)
    )
    conflict = 0.6 * 0.5 + 0.1 * 0.2
    expected = [(0.6 * 0.2 + 0.6 * 0.3 + 0.2 * 0.3), (0.1 * 0.5 + 0.1 * 0.3 + 0.5 * 0.3)]
    assert b.tolist() == pytest.approx([e / (1 - conflict) for e in expected])
    assert float(u) == pytest.approx(0.09 / (1 - conflict))
    assert float(b.sum() + u) == pytest.approx(1)


def counted(beliefs, uncertainty):
    """Dempster's rule over sets of classes, source by source, as the textbook states it."""
    classes = len(beliefs[0])
    everything = frozenset(range(classes))
    total = {everything: 1.0}
    for b, u in zip(beliefs, uncertainty, strict=True):
        masses = {frozenset([c]): float(b[c]) for c in range(classes)} | {everything: float(u)}
        joint = {}
        for (x, p), (y, q) in itertools.product(total.items(), masses.items()):
            if x & y:
                joint[x & y] = joint.get(x & y, 0.0) + p * q
        scale = sum(joint.values())
        total = {k: v / scale for k, v in joint.items()}
    return [total[frozenset([c])] for c in range(classes)], total[everything]


@pytest.mark.parametrize('count', [1, 2, 4])
def test_fold_is_the_rule_over_sets_in_any_order(count):
    b, u = random_opinions(count)
    fused, left = dempster_fold(b, u)
    for i in range(len(b)):
        expected, rest = counted(b[i].tolist(), u[i].tolist())
        assert fused[i].tolist() == pytest.approx(expected)
        assert float(left[i]) == pytest.approx(rest)
    backwards = dempster_fold(b.flip(1), u.flip(1))
    torch.testing.assert_close(backwards, (fused, left))


def test_absent_sources_are_left_out():
    b, u = random_opinions(3)
    present = torch.tensor([[1, 0, 1], [0, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]]).bool()
    fused, left = dempster_fold(b, u, present)
    for i, kept in enumerate(present):
        if kept.any():
            alone = dempster_fold(b[i : i + 1, kept], u[i : i + 1, kept])
            torch.testing.assert_close((fused[i : i + 1], left[i : i + 1]), alone)
    assert (fused[2].tolist(), float(left[2])) == ([0, 0, 0], 1)
    log_p = expected_log_probs(fused, left)
    assert log_p[2].exp().tolist() == pytest.approx([1 / 3] * 3)
    torch.testing.assert_close(log_p.exp().sum(dim=1), torch.ones(5, dtype=torch.float64))


def test_mean_of_the_fused_dirichlet():
    b, u = dempster_fold(*random_opinions(2))
    mean = Dirichlet(evidence_from_opinion(b, u) + 1).mean
    torch.testing.assert_close(expected_log_probs(b, u).exp(), mean)


def test_extreme_evidence_stays_finite():
    logits = torch.tensor([[[1e6, -1e6, 0.0], [-1e6, 1e6, 0.0]]] * 2)
    b, u = dempster_fold(*opinion(evidence_from_logits(logits)))
    log_p = expected_log_probs(b, u)
    assert torch.isfinite(log_p).all()
    assert log_p[0, 0].item() == pytest.approx(log_p[0, 1].item(), abs=1e-4)
    certain = torch.eye(3)[:2].unsqueeze(0)
    assert torch.isfinite(expected_log_probs(*dempster_fold(certain, torch.zeros(1, 2)))).all()


def test_dirichlet_kl_equals_torch_distributions():
    g = torch.Generator().manual_seed(1)
    alpha = 1 + 6 * torch.rand(20, 4, generator=g, dtype=torch.float64)
    expected = kl_divergence(Dirichlet(alpha), Dirichlet(torch.ones_like(alpha)))
    torch.testing.assert_close(dirichlet_kl(alpha), expected)
    assert dirichlet_kl(torch.ones(1, 5)).abs().item() < 1e-6


def test_loss_by_sampling_and_by_hand():
    evidence = torch.tensor([[3.0, 0.5, 1.0], [0.0, 2.0, 0.0]], dtype=torch.float64)
    labels = torch.tensor([0, 2])
    torch.manual_seed(0)
    draws = Dirichlet(evidence + 1).sample((200_000,))
    expected = -draws[:, [0, 1], labels].log().mean(dim=0)
    torch.testing.assert_close(evidential_loss(evidence, labels, 0.0), expected, atol=0.02, rtol=0)
    # only what speaks for wrong classes counts: [1, 1.5, 2] and [1, 3, 1]
    wrong = torch.tensor([[1, 1.5, 2], [1, 3, 1]], dtype=torch.float64)
    extra = evidential_loss(evidence, labels, 0.7) - evidential_loss(evidence, labels, 0.0)
    torch.testing.assert_close(
        extra, 0.7 * kl_divergence(Dirichlet(wrong), Dirichlet(torch.ones(2, 3).double()))
    )


def test_gradients_exist():
    logits = torch.randn(3, 2, 4, requires_grad=True)
    evidence = evidence_from_logits(logits)
    fused = evidence_from_opinion(*dempster_fold(*opinion(evidence)))
    evidential_loss(fused, torch.tensor([0, 1, 3]), 0.5).sum().backward()
    assert torch.isfinite(logits.grad).all()
    assert float(logits.grad.abs().min()) > 0
