"""Measures of predictions, as pure functions on probabilities [N, C] and labels [N]."""

import numpy as np
import torch
from sklearn.metrics import f1_score
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

__all__ = [
    'aurc',
    'brier_score',
    'expected_calibration_error',
    'macro_f1',
    'negative_log_likelihood',
    'per_class_accuracy',
    'topk_accuracy',
]

_TINY = 1e-12


def topk_accuracy(scores: Tensor, labels: Tensor, k: int) -> float:
    """Percent of the samples whose label is among the ``k`` highest scores.

    Args:
        scores: [N, C], probabilities or logits.
        labels: [N], indices in [0, C).
        k: 1 to C.

    Raises:
        ValueError: ``k`` is not in 1..C.
    """
    if not 1 <= k <= scores.shape[1]:
        raise ValueError(f'top-{k} accuracy needs k from 1 to the {scores.shape[1]} classes')
    hit = (scores.topk(k, dim=1).indices == labels[:, None]).any(dim=1)
    return float(hit.double().mean() * 100)


def macro_f1(predicted: Tensor, labels: Tensor) -> float:
    """Mean F1 in percent over the classes that occur in ``labels`` or ``predicted`` [N]."""
    return float(
        f1_score(labels.numpy(), predicted.numpy(), average='macro', zero_division=0) * 100
    )


def negative_log_likelihood(scores: Tensor, labels: Tensor) -> float:
    """Mean -log p(label) in nats; ``scores`` [N, C] sum to one, bounded below at 1e-12."""
    picked = scores.double().gather(1, labels[:, None]).clamp_min(_TINY)
    return float(-picked.log().mean())


def expected_calibration_error(scores: Tensor, labels: Tensor, num_bins: int = 15) -> float:
    """Percent; mean gap of confidence and accuracy over equal-width bins of the top probability."""
    # torchmetrics takes scores above 1, by rounding alone, for logits
    error = multiclass_calibration_error(
        scores.double().clamp(0, 1), labels, num_classes=scores.shape[1], n_bins=num_bins, norm='l1'
    )
    return float(error * 100)


def brier_score(scores: Tensor, labels: Tensor) -> float:
    """Mean squared distance of ``scores`` [N, C] from the one-hot label, in [0, 2]."""
    target = torch.nn.functional.one_hot(labels, scores.shape[1]).double()
    return float(((scores.double() - target) ** 2).sum(dim=1).mean())


def aurc(scores: Tensor, labels: Tensor) -> tuple[float, float]:
    """Area under the risk-coverage curve and its excess over the best possible order, in percent.

    Samples are taken from the most to the least confident (highest probability, ties in their
    order); the risk at a coverage is the error rate among those taken.

    Args:
        scores: [N, C].
        labels: [N].

    Returns:
        (AURC, E-AURC).
    """
    confidence, predicted = scores.double().max(dim=1)
    wrong = (predicted != labels).numpy().astype(np.float64)
    order = np.argsort(-confidence.numpy(), kind='stable')
    return 100 * _mean_risk(wrong[order]), 100 * (
        _mean_risk(wrong[order]) - _mean_risk(np.sort(wrong))
    )


def _mean_risk(wrong: np.ndarray) -> float:
    return float(np.mean(np.cumsum(wrong) / np.arange(1, wrong.size + 1)))


def per_class_accuracy(predicted: Tensor, labels: Tensor, num_classes: int) -> list[float | None]:
    """Percent of each class's samples that are right (recall); None for a class without samples."""
    right = torch.bincount(labels[predicted == labels], minlength=num_classes)
    count = torch.bincount(labels, minlength=num_classes)
    return [float(100 * r / n) if n else None for r, n in zip(right.double(), count, strict=True)]
