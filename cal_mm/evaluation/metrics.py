"""``MultiModalMetric``: everything a results row says about a set of predictions."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.dist import all_gather_object, broadcast_object_list, is_main_process
from mmengine.evaluator import BaseMetric

from cal_mm.registry import METRICS

from .functional import (
    aurc,
    brier_score,
    expected_calibration_error,
    macro_f1,
    negative_log_likelihood,
    per_class_accuracy,
    topk_accuracy,
)

__all__ = ['UNITS', 'MultiModalMetric', 'Predictions', 'unique_predictions']

#: unit of each metric, by the part of its key before the last slash or by the whole key
UNITS = {
    'accuracy': 'percent',
    'accuracy/class': 'percent',
    'f1': 'percent',
    'nll': 'nats',
    'ece': 'percent',
    'brier': 'squared distance, 0 to 2',
    'aurc': 'percent',
    'e_aurc': 'percent',
    'contribution': 'share, the modalities sum to one',
}


class Predictions:
    """Predictions of a whole split, sample by sample, in the order in which they were scored.

    Attributes:
        sample_ids: N names ('' where the samples have none).
        groups: N groups, as the samples name them (speaker, scene, ...; '' where they have none).
        labels: int64 [N].
        scores: float32 [N, C], sum to one.
        predicted: int64 [N].
        logits: float32 [N, C] or None.
        contribution: float32 [N, M] or None.
    """

    def __init__(self, rows: Sequence[dict]) -> None:
        self.sample_ids = [row['sample_id'] for row in rows]
        self.groups = [row['group'] for row in rows]
        self.labels = torch.stack([row['label'] for row in rows])
        self.scores = torch.stack([row['score'] for row in rows])
        self.predicted = torch.stack([row['predicted'] for row in rows])
        self.logits = _stack(rows, 'logits')
        self.contribution = _stack(rows, 'contribution')


def _stack(rows: Sequence[dict], key: str) -> torch.Tensor | None:
    values = [row[key] for row in rows]
    return None if any(v is None for v in values) else torch.stack(values)


def unique_predictions(rows: Sequence[dict], size: int) -> list[dict]:
    """``rows`` without what a distributed sampler padded: one row per sample id.

    Without ids only the padding at the end can be told: the first ``size`` rows.

    Raises:
        ValueError: not every one of the ``size`` samples was scored.
    """
    named = all(row['sample_id'] for row in rows)
    seen: dict[str | int, dict] = {}
    for i, row in enumerate(rows if named else rows[:size]):
        seen.setdefault(row['sample_id'] if named else i, row)
    if len(seen) != size:
        raise ValueError(
            f'{len(seen)} distinct samples were scored but the dataset has {size}: set '
            f'drop_last=False in the dataloader, and make sure that every sample_id is unique'
        )
    return list(seen.values())


@METRICS.register_module()
class MultiModalMetric(BaseMetric):
    """Accuracy, macro F1, likelihood, calibration, selective risk, and mean W^m per modality.

    Exact in distributed runs: samples that a sampler repeats to fill up the ranks count once.

    Keys and units: ``accuracy/top1`` (and further k) percent; ``accuracy/class/<name>`` percent
    (recall; classes without samples are left out); ``f1/macro`` percent; ``nll`` nats; ``ece``
    percent; ``brier`` 0 to 2; ``aurc`` and ``e_aurc`` percent; ``contribution/<modality>`` share.

    Args:
        topk: which top-k accuracies; those above the number of classes are left out.
        num_bins: bins of the calibration error.
        modalities: names of W's columns, sorted; by default those that the predicted samples name
            in ``modalities``, else the dataset's.
        per_class: each class's accuracy among the metrics too (results files have it anyway).
        collect_device: see mmengine's ``BaseMetric``.
        prefix: put before every key.

    Raises:
        ValueError: no ``topk`` or one below 1, fewer than 1 bin.
    """

    default_prefix = ''  # not None: mmengine would warn about it

    def __init__(
        self,
        topk: Sequence[int] | int = (1,),
        num_bins: int = 15,
        modalities: Sequence[str] | None = None,
        per_class: bool = False,
        collect_device: str = 'cpu',
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.topk = (topk,) if isinstance(topk, int) else tuple(topk)
        if not self.topk or min(self.topk) < 1:
            raise ValueError(f'MultiModalMetric: topk must be integers from 1 on, got {topk!r}')
        if num_bins < 1:
            raise ValueError(f'MultiModalMetric: num_bins must be at least 1, got {num_bins!r}')
        self.num_bins = num_bins
        self.modalities = tuple(modalities) if modalities else None
        self.per_class = per_class
        #: what the last evaluation was computed from (main process only)
        self.predictions: Predictions | None = None
        self._seen_modalities: tuple[str, ...] | None = None
        self.results: list[dict] = []

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keep label and prediction of each sample.

        Raises:
            ValueError: a prediction is missing, or not finite; the sample is named.
        """
        for sample in data_samples:
            self.results.append(self._row(sample))

    def _row(self, sample: dict) -> dict:
        sample_id = str(sample.get('sample_id', ''))
        for key in ('gt_label', 'pred_score'):
            if key not in sample:
                raise ValueError(
                    f"MultiModalMetric: sample {sample_id!r} has no {key}: the model's "
                    f"forward(mode='predict') must return its data samples with pred_score"
                )
        score = sample['pred_score'].detach().float().cpu()
        if not torch.isfinite(score).all():
            raise ValueError(
                f'MultiModalMetric: the prediction of sample {sample_id!r} is not finite: '
                f'{score.tolist()}; look at its inputs and at the checkpoint'
            )
        if sample.get('modalities'):
            self._seen_modalities = tuple(sample['modalities'])
        predicted = sample.get('pred_label')
        return {
            'sample_id': sample_id,
            'group': '' if sample.get('group') is None else str(sample.get('group')),
            'label': torch.as_tensor(sample['gt_label']).cpu().long().reshape(()),
            'score': score,
            'predicted': score.argmax() if predicted is None else predicted.cpu().reshape(()),
            'logits': _cpu(sample.get('logits')),
            'contribution': _cpu(sample.get('contribution')),
        }

    def evaluate(self, size: int) -> dict:
        """Metrics over all ranks' samples; ``size``: length of the dataset."""
        parts = all_gather_object(self.results)
        self.results = []
        metrics: list[dict | None] = [None]
        error: list[Exception | None] = [None]
        if is_main_process():
            try:
                rows = [row for group in _interleave(parts) for row in group]
                metrics = [self.compute_metrics(unique_predictions(rows, size))]
            except ValueError as e:  # raised on every rank, else the others wait for ever
                error = [e]
        broadcast_object_list(error)
        if error[0] is not None:
            raise error[0]
        broadcast_object_list(metrics)
        found = metrics[0] or {}
        return {f'{self.prefix}/{k}': v for k, v in found.items()} if self.prefix else found

    def compute_metrics(self, results: list) -> dict:
        """Metrics of ``results``, one row per sample."""
        if not results:
            raise ValueError('MultiModalMetric: there is nothing to score, the dataset is empty')
        predictions = self.predictions = Predictions(results)
        scores, labels = predictions.scores, predictions.labels
        classes = scores.shape[1]
        metrics: dict[str, float] = {
            f'accuracy/top{k}': topk_accuracy(scores, labels, k) for k in self.topk if k <= classes
        }
        if 1 in self.topk:  # the model's own decision, which need not be the highest score
            right = (predictions.predicted == labels).double().mean()
            metrics['accuracy/top1'] = float(right * 100)
        metrics['f1/macro'] = macro_f1(predictions.predicted, labels)
        metrics['nll'] = negative_log_likelihood(scores, labels)
        metrics['ece'] = expected_calibration_error(scores, labels, self.num_bins)
        metrics['brier'] = brier_score(scores, labels)
        metrics['aurc'], metrics['e_aurc'] = aurc(scores, labels)
        metrics.update(self._contributions(predictions))
        if self.per_class:
            found = per_class_accuracy(predictions.predicted, labels, classes)
            names = self.class_names(classes)
            metrics.update(
                {
                    f'accuracy/class/{n}': v
                    for n, v in zip(names, found, strict=True)
                    if v is not None
                }
            )
        return metrics

    def _contributions(self, predictions: Predictions) -> dict[str, float]:
        if predictions.contribution is None:
            return {}
        mean = predictions.contribution.double().mean(dim=0)
        names = self.modality_names(mean.numel())
        return {f'contribution/{m}': float(w) for m, w in zip(names, mean, strict=True)}

    def modality_names(self, count: int) -> tuple[str, ...]:
        """Names of W's ``count`` columns, as well as they are known."""
        known = (self.dataset_meta or {}).get('modalities') or ()
        for names in (self.modalities, self._seen_modalities, tuple(sorted(known))):
            if names is not None and len(names) == count:
                return names
        return tuple(f'modality_{i}' for i in range(count))

    def class_names(self, count: int) -> list[str]:
        """Names of the ``count`` classes, their numbers where the dataset does not tell."""
        names = (self.dataset_meta or {}).get('classes') or ()
        return [str(n) for n in names] if len(names) == count else [str(i) for i in range(count)]


def _cpu(value: Any) -> torch.Tensor | None:
    return None if value is None else value.detach().float().cpu()


def _interleave(parts: Sequence[list]) -> list[list]:
    """Undo the sampler's deal of sample i to rank i modulo the number of ranks."""
    longest = max(len(part) for part in parts)
    return [[part[i] for part in parts if i < len(part)] for i in range(longest)]
