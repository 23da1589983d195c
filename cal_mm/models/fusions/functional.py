"""The fusions' maths as pure functions. M modalities, batch B, S coalitions, C classes."""

import math

import torch
from torch import Tensor

__all__ = [
    'additive_coalitions',
    'masked_mean_logits',
    'masked_softmax',
    'masked_softmax_mix',
    'updated_mean',
]


def additive_coalitions(parts: Tensor, absent_parts: Tensor, bias: Tensor, keep: Tensor) -> Tensor:
    """Logits of coalitions where every modality adds its own part.

    Args:
        parts: [M, B, C], what a present modality adds.
        absent_parts: [M, C], what its absent value adds.
        bias: [C] or a scalar, added once.
        keep: bool [S, B, M], which modalities are there.

    Returns:
        [S, B, C].
    """
    total = bias.expand(*keep.shape[:2], parts.shape[-1])
    for i in range(parts.shape[0]):
        total = total + torch.where(keep[..., i, None], parts[i], absent_parts[i])
    return total


def masked_mean_logits(logits: Tensor, keep: Tensor, average: str) -> Tensor:
    """Average of the present modalities' predictions.

    Args:
        logits: [..., M, C].
        keep: bool [..., M].
        average: 'logits' (their mean) or 'probs' (log of the mean of the softmax probabilities).

    Returns:
        [..., C]; zeros (the uniform prediction) where no modality is present.
    """
    keep = keep.unsqueeze(-1)
    count = keep.sum(dim=-2).clamp(min=1).to(logits.dtype)
    if average == 'logits':
        return torch.where(keep, logits, torch.zeros_like(logits)).sum(dim=-2) / count
    half = logits.dtype in (torch.float16, torch.bfloat16)
    log_probs = (logits.float() if half else logits).log_softmax(dim=-1)
    # -inf would give NaN gradients where a whole row is absent; so low a number adds exactly 0
    low = torch.full_like(log_probs, torch.finfo(torch.float32).min / 4)
    mean = torch.where(keep, log_probs, low).logsumexp(dim=-2) - count.log()
    return torch.where(keep.any(dim=-2), mean, torch.zeros_like(mean)).to(logits.dtype)


def masked_softmax(scores: Tensor, keep: Tensor) -> Tensor:
    """Softmax over the present modalities.

    Args:
        scores: [B, M, ...].
        keep: bool, broadcast to ``scores``.

    Returns:
        like ``scores``: 0 for an absent modality, and everywhere where none is present.
    """
    low = torch.full_like(scores, torch.finfo(scores.dtype).min)
    weights = torch.where(keep, scores, low).softmax(dim=1)
    return torch.where(keep, weights, torch.zeros_like(weights))


def masked_softmax_mix(values: Tensor, scores: Tensor, keep: Tensor) -> Tensor:
    """Mix of the present modalities, weighted per channel by a softmax over them.

    Args:
        values: [B, M, H].
        scores: [B, M, H].
        keep: bool [B, M].

    Returns:
        [B, H]; zeros where no modality is present.
    """
    keep = keep.unsqueeze(-1)
    weights = masked_softmax(scores, keep)
    return (weights * torch.where(keep, values, torch.zeros_like(values))).sum(dim=1)


def updated_mean(mean: Tensor, batch: Tensor, momentum: float, first: bool) -> Tensor:
    """Exponential moving average [D] after the rows of ``batch`` [N >= 1, D], in float32.

    The first update takes the batch's mean as it is.
    """
    now = batch.detach().float().mean(dim=0)
    return now if first else mean + momentum * (now - mean)


def uniform_bound(fan_in: int) -> float:
    """Bound of the usual uniform initialisation of a linear map, 1 / sqrt(fan_in)."""
    return 1 / math.sqrt(max(1, fan_in))
