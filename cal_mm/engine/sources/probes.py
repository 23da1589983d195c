"""Linear probes: ridge regression from features to classes."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ['coalition_scores', 'fit_ridge']

#: penalties that are tried, in thousandths of the largest squared singular value
ALPHAS = tuple(10.0**k for k in range(-3, 7))


def fit_ridge(x: Tensor, y: Tensor, alphas: tuple[float, ...] = ALPHAS) -> tuple[Tensor, Tensor]:
    """Ridge regression whose penalty is chosen by the closed-form leave-one-out error.

    Args:
        x: float64 [N, d].
        y: float64 [N, C].
        alphas: penalties to choose from, in thousandths of the largest squared singular value of
            the centred ``x``.

    Returns:
        ``(weight [d, C], bias [C])``; without a column (d = 0) the bias is the mean of ``y``.
    """
    mean_x, mean_y = x.mean(dim=0), y.mean(dim=0)
    if not x.shape[1]:
        return y.new_zeros(0, y.shape[1]), mean_y
    xc, yc = x - mean_x, y - mean_y
    n, d = xc.shape
    if n <= d:
        values, u = torch.linalg.eigh(xc @ xc.T)
        values = values.clamp_min(0)
    else:
        values, v = torch.linalg.eigh(xc.T @ xc)
        values = values.clamp_min(0)
        u = xc @ v / values.clamp_min(1e-12 * values.max().clamp_min(1e-12)).sqrt()
    scale = values.max().clamp_min(1e-12) / 1e3
    projected = u.T @ yc
    best, best_error = alphas[0], float('inf')
    for alpha in alphas:
        shrink = values / (values + alpha * scale)
        fitted = u @ (shrink[:, None] * projected)
        leverage = 1 / n + (u.square() * shrink).sum(dim=1)
        residual = (yc - fitted) / (1 - leverage).clamp_min(1e-6)[:, None]
        error = float(residual.square().mean())
        if error < best_error:
            best, best_error = alpha, error
    if n <= d:
        weight = xc.T @ (u @ (projected / (values + best * scale)[:, None]))
    else:
        weight = v @ (v.T @ (xc.T @ yc) / (values + best * scale)[:, None])
    return weight, mean_y - mean_x @ weight


def coalition_scores(
    features: Mapping[str, Tensor],
    labels: Tensor,
    num_classes: int,
    inside: Tensor,
    masks: Tensor,
) -> tuple[Tensor, Tensor]:
    """Scores of the samples outside ``inside`` by ridge probes fitted on those inside: one probe
    per coalition, on the features of its members, standardised on the samples inside.

    Args:
        features: {m: float64 [N, d_m]} in the order of the modalities.
        labels: int64 [N].
        num_classes: C.
        inside: bool [N].
        masks: coalitions, bool [S, M]; the empty one scores 0.

    Returns:
        Of the coalitions [S, n, C] and of each modality alone [M, n, C], on about the scale of
        logits; n is the number of samples outside.
    """
    targets = F.one_hot(labels, num_classes).double()
    blocks = {m: _standardised(x, inside) for m, x in features.items()}
    fitted: dict[tuple[str, ...], Tensor] = {(): torch.zeros_like(targets[~inside])}

    def scores(*members: str) -> Tensor:
        if members not in fitted:
            x = torch.cat([blocks[m] for m in members], dim=1)
            weight, bias = fit_ridge(x[inside], targets[inside])
            # Ridge scores live in about [0, 1]; the temperature that follows wants logits.
            fitted[members] = (x[~inside] @ weight + bias) * 10
        return fitted[members]

    coalitions = [
        scores(*(m for m, keep in zip(features, mask, strict=True) if keep))
        for mask in masks.tolist()
    ]
    return torch.stack(coalitions), torch.stack([scores(m) for m in features])


def _standardised(x: Tensor, inside: Tensor) -> Tensor:
    """Standardised columns; the block's total variance is 1 per sample, so that wide blocks do not
    outweigh narrow ones.
    """
    mean = x[inside].mean(dim=0)
    std = x[inside].std(dim=0)
    alive = std > 1e-9
    scaled = (x - mean)[:, alive] / std[alive]
    return scaled / max(1, scaled.shape[1]) ** 0.5
