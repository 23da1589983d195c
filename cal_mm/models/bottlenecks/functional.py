"""The maths of the asymmetric information bottleneck (AIB), as pure functions.

Source: reconstruction of CAL (arXiv 2510.26289); the paper's equations are not public.
"""

import torch
from torch import Tensor

from cal_mm.models.contribution.functional import check_enough, redirected, share_in_training

__all__ = ['BETA_RULES', 'bottleneck_betas', 'gaussian_kl']

BETA_RULES = ('fixed_sum', 'floor', 'uniform', 'inverse', 'floor_uniform', 'floor_inverse')


def gaussian_kl(
    mu: Tensor,
    sigma: Tensor,
    prior_mu: Tensor | float = 0.0,
    prior_sigma: Tensor | float = 1.0,
    free_bits: float = 0.0,
) -> Tensor:
    """KL(N(mu, diag sigma^2) || N(prior_mu, diag prior_sigma^2)), in nats, summed over dimensions.

    Args:
        mu: [B, D].
        sigma: [B, D], standard deviation, > 0.
        prior_mu: mean of the prior, broadcast to [B, D].
        prior_sigma: standard deviation of the prior, > 0, broadcast to [B, D].
        free_bits: nats per dimension that cost nothing: each dimension counts max(kl, free_bits).

    Returns:
        [B], >= 0.
    """
    given = isinstance(prior_mu, Tensor) or isinstance(prior_sigma, Tensor)
    if given or (prior_mu, prior_sigma) != (0, 1):
        prior_sigma = torch.as_tensor(prior_sigma, dtype=mu.dtype, device=mu.device)
        shift, ratio = (mu - prior_mu) / prior_sigma, sigma / prior_sigma
    else:
        shift, ratio = mu, sigma
    kl = 0.5 * (shift.square() + ratio.square() - 1) - ratio.log()
    if free_bits > 0:
        kl = kl.clamp_min(free_bits)
    return kl.sum(dim=-1)


def bottleneck_betas(
    weights: Tensor,
    beta: float,
    rule: str = 'fixed_sum',
    alpha: float = 9.0,
    pivot: float = 0.2,
    share: float | None = None,
    power: float = 1.0,
    beta_min: float | None = None,
    beta_max: float | None = None,
) -> Tensor:
    """How hard each modality is compressed: beta_m.

    Args:
        weights: [M]. For ``fixed_sum``, ``uniform`` and ``inverse`` the contribution weights W
            (they sum to one); for ``floor`` and its controls the normalised information I_norm (a
            share of H(Y)).
        beta: the base strength, >= 0.
        rule: ``fixed_sum``: beta * M (1 - W_m)^power / sum (1 - W)^power, the mean is beta and the
            weakest modality gets most (for power 1: beta * M / (M - 1) * (1 - W_m)). ``floor``:
            beta * (1 + alpha * clamp(1 - I_norm(m) / pivot, 0, 1)): no modality gets less than
            beta, and all get beta where none has information. ``uniform``: beta for all (control).
            ``inverse``: beta * M * W_m (control: the wrong direction). ``floor_uniform`` and
            ``floor_inverse``: controls with the sum of ``floor``: its mean for all, and its values
            in the opposite order.
        alpha: how much more a modality without information gets (``floor``).
        pivot: the normalised information from which on a modality gets just beta (``floor``), > 0.
        share: this share of the strongest modality's information is enough as well, in (0, 1];
            None: it is not (``floor``).
        power: of (1 - W) (``fixed_sum``).
        beta_min: lower bound of every beta_m.
        beta_max: upper bound of every beta_m.

    Returns:
        [M]. For one modality ``fixed_sum``, ``uniform`` and ``inverse`` give beta.

    Raises:
        ValueError: a negative beta or alpha, an unknown rule, a pivot that is not positive, bounds
            in the wrong order.

    Source: reconstruction of CAL; the paper's equation is not public.
    """
    if beta < 0:
        raise ValueError(f'beta must not be negative, got {beta}')
    if alpha < 0:
        raise ValueError(f'alpha must not be negative, got {alpha}: who tells less gets more')
    if beta_min is not None and beta_max is not None and beta_min > beta_max:
        raise ValueError(f'beta_min {beta_min} is above beta_max {beta_max}')
    if rule not in BETA_RULES:
        raise ValueError(f'unknown bottleneck rule {rule!r}; expected one of {BETA_RULES}')
    check_enough(pivot, share)
    m = weights.shape[-1]
    if rule.startswith('floor'):
        betas = beta * (1 + alpha * (1 - share_in_training(weights, pivot, share)))
        betas = redirected(betas, rule.removeprefix('floor_'))
    elif rule == 'uniform' or m == 1:
        betas = torch.full_like(weights, beta)
    elif rule == 'inverse':
        betas = beta * m * weights
    else:
        raw = (1 - weights).clamp_min(0).pow(power)
        betas = beta * m * raw / raw.sum(dim=-1, keepdim=True)
    if beta_min is None and beta_max is None:
        return betas
    return betas.clamp(min=beta_min, max=beta_max)
