"""The metrics of ``functional.py`` on many bootstrap resamples at once."""

import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from .statistics import Statistic

__all__ = ['RESAMPLED_METRICS', 'metric_statistic', 'per_sample_values', 'statistic_over_seeds']

_TINY = 1e-12  # as in functional.py
_TOPK = re.compile(r'accuracy/top([1-9]\d*)$')

#: scores [N, C], labels [N], predicted [N] of one noise seed
Arrays = Mapping[str, np.ndarray]


def _accuracy(p: Arrays, k: int) -> np.ndarray:
    scores, labels = p['scores'], p['labels']
    if not 1 <= k <= scores.shape[1]:
        raise ValueError(f'top-{k} accuracy needs k from 1 to the {scores.shape[1]} classes')
    if k == 1:  # the model's own decision, which need not be the highest score
        return 100.0 * (p['predicted'] == labels)
    top = torch.from_numpy(scores).topk(k, dim=1).indices.numpy()
    return 100.0 * (top == labels[:, None]).any(axis=1)


def _nll(p: Arrays) -> np.ndarray:
    picked = p['scores'].astype(np.float64)[np.arange(len(p['labels'])), p['labels']]
    return -np.log(np.maximum(picked, _TINY))


def _brier(p: Arrays) -> np.ndarray:
    scores = p['scores'].astype(np.float64)
    target = np.eye(scores.shape[1])[p['labels']]
    return ((scores - target) ** 2).sum(axis=1)


def per_sample_values(name: str, predictions: Arrays) -> np.ndarray | None:
    """Values [N] whose mean is the metric ``name``, or None where it is no mean over samples."""
    topk = _TOPK.match(name)
    if topk:
        return _accuracy(predictions, int(topk[1]))
    if name in ('nll', 'brier'):
        return (_nll if name == 'nll' else _brier)(predictions)
    return None


def _macro_f1(p: Arrays, num_bins: int) -> Statistic:
    labels, predicted = p['labels'], p['predicted']
    classes = np.arange(max(p['scores'].shape[1], int(predicted.max(initial=0)) + 1))
    truth = (labels[:, None] == classes).astype(np.float64)
    guess = (predicted[:, None] == classes).astype(np.float64)

    def statistic(counts: np.ndarray) -> np.ndarray:
        total = counts @ (truth + guess)  # 2 TP + FP + FN
        occurs = total > 0
        f1 = 2 * (counts @ (truth * guess)) / np.where(occurs, total, 1.0)
        return 100 * f1.sum(axis=1) / occurs.sum(axis=1)

    return statistic


def _ece(p: Arrays, num_bins: int) -> Statistic:
    scores = torch.from_numpy(p['scores']).clamp(0, 1)
    confidence, top = scores.float().max(dim=1)
    edges = torch.linspace(0, 1, num_bins + 1)
    # as torchmetrics: bins closed on the left, a confidence of exactly 1 in a bin of its own
    number = torch.bucketize(confidence, edges, right=True).numpy() - 1
    gap = (top.numpy() == p['labels']).astype(np.float64) - confidence.double().numpy()
    used, number = np.unique(number, return_inverse=True)
    gaps = np.zeros((len(gap), len(used)))
    gaps[np.arange(len(gap)), number] = gap
    return lambda counts: 100 * np.abs(counts @ gaps).sum(axis=1) / counts.sum(axis=1)


def _risk_area(p: Arrays, excess: bool) -> Statistic:
    scores = torch.from_numpy(p['scores']).double()
    confidence, top = scores.max(dim=1)
    order = np.argsort(-confidence.numpy(), kind='stable')
    wrong = (top.numpy() != p['labels']).astype(np.float64)[order]

    def statistic(counts: np.ndarray) -> np.ndarray:
        c = counts[:, order]
        n = c.sum(axis=1).astype(np.int64)
        harmonic = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, n.max() + 1))])
        # a sample drawn c times fills the places first + 1 .. last of the ranking
        last = np.cumsum(c, axis=1)
        first = last - c
        missed = c * wrong
        before = np.cumsum(missed, axis=1) - missed
        places = last.astype(np.int64)
        share = harmonic[places] - harmonic[first.astype(np.int64)]
        area = (before * share + wrong * (c - first * share)).sum(axis=1)
        if excess:
            # the best order has all e errors last: sum over k > n - e of (k - n + e) / k
            errors = missed.sum(axis=1).astype(np.int64)
            area = area - (errors - (n - errors) * (harmonic[n] - harmonic[n - errors]))
        return 100 * area / n

    return statistic


_SET_METRICS: dict[str, Callable[[Arrays, int], Statistic]] = {
    'f1/macro': _macro_f1,
    'ece': _ece,
    'aurc': lambda p, num_bins: _risk_area(p, excess=False),
    'e_aurc': lambda p, num_bins: _risk_area(p, excess=True),
}

RESAMPLED_METRICS = ('accuracy/top1', 'f1/macro', 'nll', 'ece', 'brier', 'aurc', 'e_aurc')


def metric_statistic(name: str, predictions: Arrays, num_bins: int = 15) -> Statistic:
    """Metric ``name`` of a resample, from its counts.

    Units are those of a results file; a resample may have more or fewer samples than N. Equally
    confident copies of a sample stand side by side in the ranking of AURC, ties of different
    samples in their order.

    Args:
        name: one of ``RESAMPLED_METRICS``, or ``accuracy/topK``.
        predictions: ``scores`` float [N, C], ``labels`` and ``predicted`` int [N].
        num_bins: of ``ece``.

    Raises:
        ValueError: a metric that cannot be computed from predictions; K above C.
    """
    values = per_sample_values(name, predictions)
    if values is not None:
        return lambda counts: counts @ values / counts.sum(axis=1)
    if name not in _SET_METRICS:
        raise ValueError(
            f'the metric {name!r} cannot be resampled from predictions; these can: '
            f'{", ".join(RESAMPLED_METRICS)}, accuracy/topK'
        )
    return _SET_METRICS[name](predictions, num_bins)


def statistic_over_seeds(name: str, seeds: Sequence[Arrays], num_bins: int = 15) -> Statistic:
    """Mean over noise seeds of metric ``name``; ``seeds``: each one's predictions, same samples."""
    values = [per_sample_values(name, p) for p in seeds]
    known = [v for v in values if v is not None]
    if len(known) == len(values):  # one matrix product for all seeds
        mean = np.mean(known, axis=0)
        return lambda counts: counts @ mean / counts.sum(axis=1)
    parts = [metric_statistic(name, p, num_bins) for p in seeds]
    return lambda counts: np.mean([s(counts) for s in parts], axis=0)
