"""W^m of the samples against the strength of the noise on m."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata

from .severity import Curve
from .statistics import mean_intervals

__all__ = ['contribution_under_noise', 'falls', 'rank_correlation']

#: W falls when it is lower by more than this: float32 rounding of a mean over seeds is no fall
TOLERANCE = 1e-6

_DIGITS = 6  # of the numbers in a results file


def rank_correlation(strengths: ArrayLike, weights: ArrayLike) -> float | None:
    """Spearman's correlation of strength and W over samples x strengths; ties share their ranks.

    Args:
        strengths: [L].
        weights: [N, L].

    Returns:
        In [-1, 1]; None where the strength or W does not vary.
    """
    w = np.asarray(weights, dtype=float)
    x = rankdata(np.broadcast_to(np.asarray(strengths, dtype=float), w.shape).ravel())
    y = rankdata(w.ravel())
    x, y = x - x.mean(), y - y.mean()
    scale = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / scale) if scale > 0 else None


def falls(clean: ArrayLike, noisy: ArrayLike) -> float:
    """Share of the samples whose W is lower under noise; ties (within 1e-6) are no falls.

    Args:
        clean: [N].
        noisy: [N].
    """
    return float(np.mean(np.asarray(noisy, float) < np.asarray(clean, float) - TOLERANCE))


def _weights(predictions: Sequence[Mapping[str, Any] | None]) -> np.ndarray | None:
    """Mean over noise seeds of W [N, M], or None where it was not measured."""
    found = [None if p is None else p.get('contribution') for p in predictions]
    if any(w is None for w in found) or not found:
        return None
    return np.mean([np.asarray(w, dtype=np.float64) for w in found], axis=0)


def contribution_under_noise(
    rows: Sequence[Mapping[str, Any]],
    predictions: Sequence[Mapping[str, Any] | None],
    curves: Sequence[Curve],
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    groups: ArrayLike | None = None,
) -> list[dict[str, Any]]:
    """How W^m of the samples moves with the strength of each corruption (docs/results_schema.md).

    W of a sample is averaged over the noise seeds first. A curve without W, or without a clean row
    to compare with, is left out.

    Args:
        rows: results rows.
        predictions: per row ``{'contribution': [N, M] or None, ...}``, samples in one order.
        curves: of :func:`cal_mm.evaluation.severity.curves_of`.
        resamples: of the bootstrap over samples; 0: no intervals.
        level: of the intervals.
        seed: of the resamples.
        groups: [N], see :func:`cal_mm.evaluation.statistics.resample_counts`.
    """
    clean_row = next((i for i, row in enumerate(rows) if row['attack'] is None), None)
    clean = None if clean_row is None else _weights([predictions[clean_row]])
    if clean is None or clean_row is None:
        return []
    names = list(rows[clean_row]['contribution'])
    found = []
    for curve in curves:
        levels = [_weights([predictions[i] for i in numbers]) for numbers in curve.members]
        known = [w for w in levels if w is not None and w.shape == clean.shape]
        if len(known) < len(levels) or clean.shape[1] != len(names):
            continue
        weights = np.stack([clean, *known])  # [L + 1, N, M]
        strengths = [0.0, *curve.strengths]
        entry = {**curve.describe(), 'strengths': strengths}
        entry['mean'] = {m: _round(weights[:, :, j].mean(axis=1)) for j, m in enumerate(names)}
        if resamples:
            columns = weights.transpose(1, 0, 2).reshape(clean.shape[0], -1)
            ends = mean_intervals(columns, resamples, level, seed, groups)
            ends = ends.reshape(len(strengths), len(names), 2)
            entry['interval'] = {m: _round(ends[:, j]) for j, m in enumerate(names)}
        entry['hit'] = {
            m: _hit(strengths, weights[:, :, names.index(m)], scaled=curve.axis is not None)
            for m in curve.modalities
            if m in names
        }
        found.append(entry)
    return found


def _hit(strengths: Sequence[float], weights: np.ndarray, scaled: bool) -> dict[str, Any]:
    """``weights`` [L + 1, N] of a modality that is hit; samples without it (W 0) do not count."""
    weights = weights[:, weights[0] > 0]
    if not weights.size:
        return {'spearman': None, 'falls': [None] * (len(strengths) - 1)}
    correlation = rank_correlation(strengths, weights.T) if scaled else None
    return {
        'spearman': None if correlation is None else round(correlation, _DIGITS),
        'falls': [round(falls(weights[0], w), _DIGITS) for w in weights[1:]],
    }


def _round(values: np.ndarray) -> list:
    return np.round(values, _DIGITS).tolist()
