"""The maths of the attacks: pure functions on one row per sample.

A perturbation is a matrix ``v`` [n, N] in units of its budget's scale: the physical value becomes
clean + scale * v. The ball is max |v_i| <= radius (``linf``) or ||v||_2 <= radius (``l2``). Every
function acts on each row by itself, so that a sample's result does not depend on its neighbours.

Sources: FGSM, Goodfellow et al. 2015; FGM, Miyato et al. 2017; PGD, Madry et al. 2018.
"""

import numpy as np
import torch
from torch import Tensor

__all__ = [
    'NORMS',
    'ball_radius',
    'log_odds_against',
    'project',
    'random_in_ball',
    'round_within',
    'steepest',
]

NORMS = ('linf', 'l2')


def log_odds_against(logits: Tensor, labels: Tensor) -> Tensor:
    """log((1 - p) / p) of the label's probability p, float64 [B]: the attack's loss.

    It is a strictly increasing function of the cross-entropy (CE = softplus of it), so its gradient
    points the same way, but it does not vanish where the softmax saturates.

    Args:
        logits: [B, C], C >= 2.
        labels: int64 [B].
    """
    scores = logits.double()
    own = scores.gather(1, labels[:, None])
    hidden = torch.zeros_like(scores).scatter(1, labels[:, None], -torch.inf)
    return (scores + hidden).logsumexp(dim=1) - own[:, 0]


def ball_radius(eps: float, counts: Tensor, norm: str) -> Tensor:
    """Radius [n, 1] of each row's ball: eps, or for ``l2`` eps * sqrt(counts), a root mean square.

    Args:
        eps: budget in units of the scale.
        counts: number of values that may change, [n].
        norm: one of ``NORMS``.
    """
    root = counts.double().sqrt() if norm == 'l2' else torch.ones_like(counts, dtype=torch.float64)
    return (eps * root)[:, None]


def steepest(gradient: Tensor, norm: str) -> Tensor:
    """The step of size 1 along which the loss rises fastest: [n, N]; zeros for a zero gradient."""
    if norm == 'linf':
        return gradient.sign()
    tiny = torch.finfo(gradient.dtype).tiny
    # scaled first: the square of a small number is none
    scaled = gradient / gradient.abs().amax(dim=1, keepdim=True).clamp_min(tiny)
    length = scaled.double().square().sum(dim=1, keepdim=True).sqrt()
    return (scaled / length.clamp_min(tiny)).to(gradient.dtype)


def project(v: Tensor, radius: Tensor, norm: str, low: Tensor, high: Tensor) -> Tensor:
    """``v`` [n, N] into its ball and then into the valid range.

    Args:
        v: [n, N].
        radius: [n, 1].
        norm: one of ``NORMS``.
        low: [n, N], <= 0; the range holds 0, so the second step does not leave the ball.
        high: [n, N], >= 0.
    """
    if norm == 'linf':
        r = radius.to(v.dtype)
        v = torch.minimum(torch.maximum(v, -r), r)
    else:
        length = v.double().square().sum(dim=1, keepdim=True).sqrt()
        v = (v * (radius / length.clamp_min(1e-300)).clamp_max(1)).to(v.dtype)
    return torch.minimum(torch.maximum(v, low), high)


def random_in_ball(rng: np.random.Generator, size: int, norm: str) -> np.ndarray:
    """A point drawn evenly from the unit ball, float32 [size]."""
    if norm == 'linf':
        return rng.uniform(-1, 1, size).astype(np.float32)
    direction = rng.standard_normal(size)
    length = rng.random() ** (1 / max(size, 1)) / max(float(np.linalg.norm(direction)), 1e-300)
    return (direction * length).astype(np.float32)


def round_within(delta: Tensor, radius: Tensor, norm: str) -> Tensor:
    """Whole numbers near ``delta`` that are no larger than it in the attack's norm: [n, N].

    ``linf``: the nearest ones, at most floor(radius). ``l2``: first towards zero; then the values
    that lost most for what it costs are moved up, as long as the norm stays within ``delta``'s. A
    perturbation of less than half a level everywhere so becomes one level where it matters most.

    Args:
        delta: [n, N].
        radius: [n, 1].
        norm: one of ``NORMS``.
    """
    if norm == 'linf':
        most = radius.to(delta.dtype).floor()
        return torch.minimum(torch.maximum(delta.round(), -most), most)
    size = delta.abs().double()
    down = size.floor()
    lost, cost = size - down, 2 * down + 1
    budget = torch.minimum(size.square().sum(1, keepdim=True), radius.double().square())
    spare = budget * (1 + 1e-9) - down.square().sum(1, keepdim=True)
    gain = lost / cost
    order = gain.argsort(dim=1, descending=True, stable=True)
    affordable = cost.gather(1, order).cumsum(1) <= spare
    up = torch.zeros_like(size).scatter(1, order, affordable.double()) * (lost > 0)
    return (delta.sign() * (down + up)).to(delta.dtype)
