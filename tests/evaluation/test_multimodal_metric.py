"""Metrics against torchmetrics, scikit-learn and slow loops."""

import math

import numpy as np
import pytest
import torch
import torchmetrics.functional.classification as tm
from sklearn import metrics as sk

from cal_mm.evaluation import MultiModalMetric
from cal_mm.evaluation import functional as F
from cal_mm.evaluation.metrics import unique_predictions
from cal_mm.registry import METRICS
from cal_mm.structures import MultiModalDataSample

META = {'classes': ('cat', 'dog', 'owl', 'pig'), 'modalities': {'b': 'text', 'a': 'image'}}


@pytest.fixture(params=[0, 1, 2])
def predictions(request):
    generator = torch.Generator().manual_seed(request.param)
    logits = torch.randn(97, 4, generator=generator) * 2
    labels = torch.randint(0, 4 - (request.param == 2), (97,), generator=generator)
    return logits.softmax(dim=1), labels


def samples_of(scores, labels, contribution=None):
    out = []
    for i, (score, label) in enumerate(zip(scores, labels, strict=True)):
        sample = MultiModalDataSample.of(f's{i}', int(label))
        sample.pred_score, sample.pred_label = score, score.argmax()
        sample.logits = score.log()
        if contribution is not None:
            sample.contribution = contribution[i]
        out.append(sample.to_dict())
    return out


def score(samples, batch=10, **kwargs):
    metric = MultiModalMetric(**kwargs)
    metric.dataset_meta = META
    for i in range(0, len(samples), batch):
        metric.process({}, samples[i : i + batch])
    return metric.evaluate(len(samples))


def test_against_references(predictions):
    scores, labels = predictions
    found = score(samples_of(scores, labels), topk=(1, 2, 3, 99), per_class=True)
    y, p = labels.numpy(), scores.double().numpy()
    p = p / p.sum(axis=1, keepdims=True)  # float32 sums to one only nearly
    top = scores.argmax(dim=1)
    assert found['accuracy/top1'] == pytest.approx(sk.accuracy_score(y, top) * 100)
    for k in (2, 3):
        reference = tm.multiclass_accuracy(scores, labels, 4, top_k=k, average='micro')
        assert found[f'accuracy/top{k}'] == pytest.approx(float(reference) * 100, abs=1e-4)
    assert 'accuracy/top99' not in found
    assert found['f1/macro'] == pytest.approx(
        float(tm.multiclass_f1_score(scores, labels, 4, average='macro')) * 100, abs=1e-4
    )
    assert found['nll'] == pytest.approx(sk.log_loss(y, p, labels=range(4)), rel=1e-5)
    brier = np.mean([((p[i] - np.eye(4)[y[i]]) ** 2).sum() for i in range(len(y))])
    assert found['brier'] == pytest.approx(brier, rel=1e-6)
    recall = sk.recall_score(y, top, average=None, labels=range(4), zero_division=0) * 100
    for i, name in enumerate(META['classes']):
        if (labels == i).any():
            assert found[f'accuracy/class/{name}'] == pytest.approx(recall[i])
        else:
            assert f'accuracy/class/{name}' not in found


@pytest.mark.parametrize('bins', [5, 15])
def test_ece_is_the_slow_loop(predictions, bins):
    scores, labels = predictions
    confidence, top = scores.double().max(dim=1)
    total = 0.0
    for b in range(bins):
        inside = [i for i, c in enumerate(confidence.tolist()) if b / bins <= c < (b + 1) / bins]
        if inside:
            accuracy = np.mean([float(top[i] == labels[i]) for i in inside])
            gap = abs(accuracy - np.mean([float(confidence[i]) for i in inside]))
            total += gap * len(inside) / len(labels)
    assert F.expected_calibration_error(scores, labels, bins) == pytest.approx(
        100 * total, abs=1e-4
    )


def test_aurc_is_the_slow_loop(predictions):
    scores, labels = predictions
    confidence, top = scores.double().max(dim=1)
    order = sorted(range(len(labels)), key=lambda i: -float(confidence[i]))
    risks, wrong = [], 0
    for n, i in enumerate(order, start=1):
        wrong += int(top[i] != labels[i])
        risks.append(wrong / n)
    errors = wrong
    best = [max(0, n - (len(labels) - errors)) / n for n in range(1, len(labels) + 1)]
    area, excess = F.aurc(scores, labels)
    assert area == pytest.approx(100 * np.mean(risks))
    assert excess == pytest.approx(100 * (np.mean(risks) - np.mean(best)))
    assert excess >= -1e-9


def test_perfect_and_hopeless():
    labels = torch.tensor([0, 1, 2, 3])
    right = score(samples_of(torch.eye(4), labels))
    assert right['accuracy/top1'] == right['f1/macro'] == 100
    assert right['nll'] == right['ece'] == right['brier'] == right['aurc'] == 0
    wrong = score(samples_of(torch.eye(4).roll(1, 0), labels))
    assert wrong['accuracy/top1'] == 0
    assert wrong['brier'] == 2
    assert math.isfinite(wrong['nll'])
    assert wrong['nll'] == pytest.approx(-math.log(1e-12))


def test_contribution_is_named_by_the_sorted_modalities():
    scores, labels = torch.full((3, 4), 0.25), torch.tensor([0, 1, 2])
    weights = torch.tensor([[0.2, 0.8], [0.4, 0.6], [0.6, 0.4]])
    samples = samples_of(scores, labels, weights)
    found = score(samples)
    assert found['contribution/a'] == pytest.approx(0.4)
    assert found['contribution/b'] == pytest.approx(0.6)
    named = score([{**s, 'modalities': ('x', 'y')} for s in samples])
    assert named['contribution/x'] == pytest.approx(0.4)
    assert score(samples, modalities=('l', 'r'))['contribution/r'] == pytest.approx(0.6)


def test_the_models_own_decision_counts():
    (sample,) = samples_of(torch.tensor([[0.7, 0.1, 0.1, 0.1]]), torch.tensor([1]))
    sample['pred_label'] = torch.tensor(1)
    assert score([sample])['accuracy/top1'] == 100


def test_padded_samples_count_once_and_missing_ones_are_refused():
    rows = [{'sample_id': i, 'n': n} for n, i in enumerate(['a', 'b', 'c', 'a', 'b'])]
    assert [r['n'] for r in unique_predictions(rows, 3)] == [0, 1, 2]
    with pytest.raises(ValueError, match=r'drop_last=False'):
        unique_predictions(rows, 4)
    anonymous = [{'sample_id': ''} for _ in range(5)]
    assert len(unique_predictions(anonymous, 4)) == 4
    for some in (anonymous, [*rows[:3], {'sample_id': ''}]):
        with pytest.raises(ValueError, match=r'drop_last=False'):
            unique_predictions(some, 6)


def test_errors():
    assert isinstance(METRICS.build(dict(type='MultiModalMetric', topk=1)), MultiModalMetric)
    with pytest.raises(ValueError, match='topk'):
        MultiModalMetric(topk=(0,))
    with pytest.raises(ValueError, match='num_bins'):
        MultiModalMetric(num_bins=0)
    (sample,) = samples_of(torch.full((1, 4), 0.25), torch.tensor([1]))
    metric = MultiModalMetric()
    with pytest.raises(ValueError, match="sample 's0' has no pred_score"):
        metric.process({}, [{k: v for k, v in sample.items() if k != 'pred_score'}])
    with pytest.raises(ValueError, match="prediction of sample 's0' is not finite"):
        metric.process({}, [{**sample, 'pred_score': torch.tensor([float('nan')] * 4)}])
    with pytest.raises(ValueError, match=r'nothing to score|distinct samples'):
        MultiModalMetric().evaluate(0)
    with pytest.raises(ValueError, match='top-5'):
        F.topk_accuracy(torch.zeros(2, 4), torch.zeros(2).long(), 5)


def test_an_evaluation_starts_from_nothing():
    samples = samples_of(torch.eye(4), torch.arange(4))
    metric = MultiModalMetric()
    for _ in range(2):
        metric.process({}, samples)
        assert metric.evaluate(4)['accuracy/top1'] == 100
    assert len(metric.predictions.sample_ids) == 4
