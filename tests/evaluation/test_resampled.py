"""Metrics of resamples against the metrics of the samples written out, and other libraries."""

import numpy as np
import pytest
import torch
import torchmetrics.functional.classification as tm
from sklearn import metrics as sk

from cal_mm.evaluation import functional as F
from cal_mm.evaluation.resampled import (
    RESAMPLED_METRICS,
    metric_statistic,
    per_sample_values,
    statistic_over_seeds,
)
from cal_mm.evaluation.statistics import resample_counts

N, C = 61, 4

REFERENCES = {
    'accuracy/top1': lambda s, y, p: 100 * sk.accuracy_score(y, p),
    'accuracy/top2': lambda s, y, p: 100 * sk.top_k_accuracy_score(y, s, k=2, labels=range(C)),
    'f1/macro': lambda s, y, p: 100 * sk.f1_score(y, p, average='macro', zero_division=0),
    'nll': lambda s, y, p: -np.mean([np.log(s[i, y[i]]) for i in range(len(y))]),
    'ece': lambda s, y, p: 100 * float(
        tm.multiclass_calibration_error(torch.tensor(s), torch.tensor(y), C, n_bins=15)
    ),
    'brier': lambda s, y, p: np.mean(
        [((s[i] - np.eye(C)[y[i]]) ** 2).sum() for i in range(len(y))]
    ),
    'aurc': lambda s, y, p: slow_aurc(s, y)[0],
    'e_aurc': lambda s, y, p: slow_aurc(s, y)[1],
}  # fmt: skip


def slow_aurc(scores, labels):
    order = sorted(range(len(labels)), key=lambda i: -scores[i].max())
    wrong = [int(scores[i].argmax() != labels[i]) for i in order]
    areas = []
    for sequence in (wrong, sorted(wrong)):
        areas.append(np.mean([sum(sequence[: k + 1]) / (k + 1) for k in range(len(wrong))]))
    return 100 * areas[0], 100 * (areas[0] - areas[1])


def predictions(seed, classes=C):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, N)
    logits = rng.normal(size=(N, C)) * 2
    logits[np.arange(N), labels] += 2
    logits[3] = logits[4]  # ties in confidence
    scores = torch.from_numpy(logits).softmax(1).float().numpy()
    return {'scores': scores, 'labels': labels, 'predicted': scores.argmax(1)}


@pytest.mark.parametrize('name', REFERENCES)
@pytest.mark.parametrize('seed', [0, 1])
def test_every_metric_is_that_of_the_samples_written_out(name, seed):
    p = predictions(seed, classes=C - seed)  # a class that does not occur
    counts = next(resample_counts(N, 20, seed))
    groups = np.arange(N) // 7  # their resamples have more or fewer samples
    counts = np.vstack([counts, next(resample_counts(N, 20, seed, groups))])
    assert len(set(counts.sum(axis=1))) > 1
    counts = np.vstack([np.ones(N), counts, np.eye(N)[0] * N])  # as they are, and one sample only
    found = metric_statistic(name, p)(counts)
    for value, row in zip(found, counts, strict=True):
        idx = np.repeat(np.arange(N), row.astype(int))
        s, y, guess = p['scores'][idx], p['labels'][idx], p['predicted'][idx]
        if name == 'accuracy/top2':
            s = s.astype(float)
        assert value == pytest.approx(REFERENCES[name](s, y, guess), abs=1e-4)


def test_the_same_as_the_metrics_of_a_results_row():
    p = predictions(2)
    scores, labels = torch.from_numpy(p['scores']), torch.from_numpy(p['labels'])
    area, excess = F.aurc(scores, labels)
    expected = {
        'accuracy/top1': F.topk_accuracy(scores, labels, 1),
        'f1/macro': F.macro_f1(scores.argmax(1), labels),
        'nll': F.negative_log_likelihood(scores, labels),
        'ece': F.expected_calibration_error(scores, labels),
        'brier': F.brier_score(scores, labels),
        'aurc': area,
        'e_aurc': excess,
    }
    assert tuple(expected) == RESAMPLED_METRICS
    for name, value in expected.items():
        found = metric_statistic(name, p)(np.ones((1, N)))[0]
        assert found == pytest.approx(value, abs=2e-5), name


def test_certain_predictions():
    scores = np.array([[1, 0], [1, 0], [0, 1], [0.5, 0.5]], np.float32)
    p = {'scores': scores, 'labels': np.array([0, 1, 1, 0]), 'predicted': scores.argmax(1)}
    t = torch.from_numpy(scores), torch.from_numpy(p['labels'])
    for name, value in (
        ('nll', F.negative_log_likelihood(*t)),
        ('ece', F.expected_calibration_error(*t)),
        ('aurc', F.aurc(*t)[0]),
    ):
        assert metric_statistic(name, p)(np.ones((1, 4)))[0] == pytest.approx(value), name


def test_scores_that_round_above_one_are_probabilities():
    scores = torch.tensor([[1 + 2**-23, 0.0], [0.25, 0.75]])
    labels = torch.tensor([0, 0])
    clamped = float(tm.multiclass_calibration_error(scores.clamp(0, 1), labels, 2, n_bins=15))
    assert F.expected_calibration_error(scores, labels) == pytest.approx(100 * clamped)


def test_the_models_own_decision_counts():
    p = predictions(0)
    p['predicted'] = p['labels'].copy()
    ones = np.ones((1, N))
    assert metric_statistic('accuracy/top1', p)(ones)[0] == 100
    assert metric_statistic('f1/macro', p)(ones)[0] == pytest.approx(100)
    assert metric_statistic('aurc', p)(ones)[0] > 0


@pytest.mark.parametrize('name', RESAMPLED_METRICS)
def test_over_seeds_is_the_mean(name):
    seeds = [predictions(s) for s in (0, 1, 2)]
    counts = next(resample_counts(N, 7, 0))
    expected = np.mean([metric_statistic(name, p)(counts) for p in seeds], axis=0)
    np.testing.assert_allclose(statistic_over_seeds(name, seeds)(counts), expected, rtol=1e-12)


def test_metrics_that_cannot_be():
    with pytest.raises(ValueError, match=r"'auc' cannot be resampled.*accuracy/topK"):
        metric_statistic('auc', predictions(0))
    with pytest.raises(ValueError, match='top-9 accuracy'):
        metric_statistic('accuracy/top9', predictions(0))
    assert per_sample_values('ece', predictions(0)) is None
