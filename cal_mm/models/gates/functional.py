"""Sample-wise gates at inference, as pure functions.

Source: ours, as options of the reconstruction of CAL; none is the paper's known form.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

__all__ = ['expert_logits', 'gate_features', 'log_two_sided_share', 'pool_logits']


def gate_features(
    z: dict[str, Tensor], weights: Tensor, present: Tensor | None = None
) -> dict[str, Tensor]:
    """z_m times n * w_m, sample by sample, with n the number of modalities that are there: equal
    weights change nothing.

    Args:
        z: {m: [B, D_m]} in sorted order of the names.
        weights: [B, M], sums to one over the modalities that are there.
        present: bool [B, M]; None: nothing is missing.
    """
    n = weights.shape[1] if present is None else present.sum(dim=1, keepdim=True)
    return {name: z[name] * (n * weights[:, i : i + 1]) for i, name in enumerate(sorted(z))}


def expert_logits(
    unimodal: Tensor, gate: Tensor, temperature: Tensor, log_prior: Tensor | None = None
) -> Tensor:
    """Product of calibrated unimodal posteriors: log p = sum_m a_m log softmax(u_m / T_m),
    normalised.

    Args:
        unimodal: u [B, M, C].
        gate: a [B, M], in [0, 1]; 0 leaves an expert out.
        temperature: T [M], > 0.
        log_prior: log class prior [C]; given, each expert counts relative to it, as conditionally
            independent evidence would.

    Returns:
        log-probabilities [B, C].
    """
    log_p = (unimodal / temperature[None, :, None]).log_softmax(dim=-1)
    if log_prior is None:
        return (gate.unsqueeze(-1) * log_p).sum(dim=1).log_softmax(dim=-1)
    evidence = (gate.unsqueeze(-1) * (log_p - log_prior)).sum(dim=1)
    return torch.log_softmax(log_prior + evidence, dim=-1)


def pool_logits(fused: Tensor, unimodal: Tensor, trust: Tensor, fused_trust: Tensor) -> Tensor:
    """Log-linear pool of the fused and the unimodal predictions, normalised:
    log p = (f log p_fused + sum_m q_m log p_m) / (f + sum_m q_m).

    The weights sum to one, since the predictions share what they know: a sum would count it
    several times and be too sure.

    Args:
        fused: calibrated fused logits [B, C].
        unimodal: calibrated logits of the predictions beside it [B, M, C].
        trust: q [B, M], >= 0.
        fused_trust: f [B], >= 0.

    Returns:
        log-probabilities [B, C]; the fused ones for a sample that none is trusted for.

    Source: the logarithmic opinion pool (Genest and Zidek 1986).
    """
    log_p = fused.log_softmax(dim=-1)
    pooled = fused_trust[:, None] * log_p
    pooled = pooled + (trust.unsqueeze(-1) * unimodal.log_softmax(dim=-1)).sum(dim=1)
    total = (fused_trust + trust.sum(dim=-1))[:, None]
    pooled = pooled / total.clamp_min(torch.finfo(total.dtype).tiny)
    return torch.where(total <= 0, log_p, pooled.log_softmax(dim=-1))


def log_two_sided_share(z: Tensor, offset: float, slope: float) -> Tensor:
    """log a, a = sigmoid((offset - max over the last dimension of abs(z)) / slope).

    Args:
        z: standardised numbers [..., K]; too large and too small count alike.
        offset: the largest abs(z) that still passes (there a = 0.5).
        slope: > 0, how sharply it falls.

    Returns:
        [...], < 0; a itself underflows far from clean data.
    """
    return logsigmoid((offset - z.abs().amax(dim=-1)) / slope)
