"""Results files of made-up models, with predictions."""

import numpy as np

from cal_mm.evaluation import save_predictions, save_results
from cal_mm.evaluation.report import predictions_path
from cal_mm.evaluation.summary import summarise

CLASSES = 3


def make_row(condition='clean', accuracy=90.0, **more):
    """A valid row; ``attack='g', severity=2, modalities=['a'], seed=0`` and so on."""
    row = dict(
        condition=condition, protocol='clipped' if more.get('attack') else None,
        protocol_version=1 if more.get('attack') else None, attack=None, severity=None,
        epsilon=None, modalities=[], seed=None, corruptions=[], num_samples=5,
        metrics={'accuracy/top1': accuracy}, contribution={}, timing={},
    )  # fmt: skip
    return {**row, **more}


def make_results(rows, name='model', predictions=None, **dataset):
    facts = dict(name='d', version='1', protocol='p', digest='0', split='test', classes=['x'] * 3)
    return dict(
        config={'path': f'configs/{name}.py', 'sha256': '0'},
        checkpoint={'path': f'work/{name}/e.pth', 'sha256': '1', 'epoch': 1, 'iter': 1},
        dataset={**facts, **dataset}, split='test', num_samples=rows[0]['num_samples'],
        units={}, software={}, summary=summarise(rows, predictions), rows=rows,
    )  # fmt: skip


def make_predictions(seed, n, share=0.8, weights=None, labels_seed=0):
    """Predictions of n samples that are right with probability ``share``."""
    rng = np.random.default_rng(seed)
    labels = np.random.default_rng(labels_seed).integers(0, CLASSES, n)
    scores = rng.random((n, CLASSES)) + 0.1
    hit = rng.random(n) < share
    scores[np.arange(n), np.where(hit, labels, (labels + 1) % CLASSES)] += 1.5
    scores = (scores / scores.sum(1, keepdims=True)).astype(np.float32)
    found = {
        'sample_ids': np.array([f's{i}' for i in range(n)]),
        'labels': labels,
        'scores': scores,
        'predicted': scores.argmax(1),
    }
    return found if weights is None else {**found, 'contribution': np.float32(weights)}


def accuracy_of(predictions):
    return 100 * float(np.mean(predictions['predicted'] == predictions['labels']))


def make_run(name, n=60, shares=(0.9, 0.7), seeds=(0, 1), seed=0, order=None, **dataset):
    """Results and predictions: clean, and g:3@a under noise seeds. ``order`` permutes samples."""
    predictions = [make_predictions(seed, n, shares[0])]
    predictions += [make_predictions(seed + 10 + s, n, shares[1]) for s in seeds]
    if order is not None:
        predictions = [{k: v[order] for k, v in p.items()} for p in predictions]
    rows = [make_row(accuracy=accuracy_of(predictions[0]), num_samples=n)]
    for s, p in zip(seeds, predictions[1:], strict=True):
        noise = dict(attack='g', severity=3, modalities=['a'], seed=s, num_samples=n)
        rows.append(make_row('g:3@a', accuracy_of(p), **noise))
    return make_results(rows, name, predictions, **dataset), predictions


def write_run(path, results, predictions):
    save_results(path, results)
    save_predictions(predictions_path(path), predictions)
    return path
