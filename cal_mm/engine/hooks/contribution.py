"""CAL's hook: measures W and the held-out predictions before training and writes W's history. It
never touches a gradient.
"""

import json
import os
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.dist import broadcast, is_main_process
from mmengine.hooks import Hook
from torch import Tensor

from cal_mm.datasets import needed_column
from cal_mm.files import write_atomically
from cal_mm.models.contribution import HeldOutPosteriors
from cal_mm.registry import CONTRIBUTION_SOURCES, HOOKS
from cal_mm.wrapping import unwrap

__all__ = ['SOURCES', 'ContributionHook', 'build_source']

#: of the held-out predictions in a checkpoint
STORED = 'cal_held_out_posteriors'

#: short names of ``model.contribution.source``
SOURCES = {'train': 'TrainSource', 'pilot': 'PilotSource', 'ridge': 'RidgeSource'}


def build_source(source: str | Mapping) -> Any:
    """A contribution source from its short name, its class name or its config."""
    cfg = dict(type=SOURCES.get(source, source)) if isinstance(source, str) else dict(source)
    return CONTRIBUTION_SOURCES.build(cfg)


@HOOKS.register_module()
class ContributionHook(Hook):
    """Out-of-fold W before training, scalars while training, one JSON line per epoch.

    The history is ``<work_dir>/contribution.jsonl``: {"epoch", "update", "weights": {m: W}, "k":
    {m}, "beta": {m}, "information": {m}, "confidence": {m}, "standard_error": {m}}, and
    "sampling_error": {m} of the information where Shapley values are sampled. A resumed run drops
    the lines after the epoch it resumes from.

    With ``model.contribution.soft_targets`` the source's held-out predictions of the training
    samples are handed to the model, and kept in the run's checkpoints, not in the model's state.

    Args:
        interval: iterations between the scalars for TensorBoard and the log.
        filename: of the history.
    """

    priority = 'NORMAL'

    def __init__(self, interval: int = 10, filename: str = 'contribution.jsonl') -> None:
        self.interval = interval
        self.filename = filename
        self._lines: list[str] = []
        self._restored: dict[str, Any] | None = None
        self._sampling_error: dict[str, float] | None = None

    def before_train(self, runner: Any) -> None:
        """Measure W unless the run is resumed and has it, and open the history."""
        model = unwrap(runner.model)
        self._open_history(runner)
        tracker = getattr(model, 'contribution', None)
        if tracker is None:
            return
        has_posteriors = tracker.soft_targets == 0 or self._restored is not None
        brought = runner._resume and tracker.is_measured and has_posteriors
        if not tracker.online and not brought:
            self._measure(runner, model)
        elif self._restored is not None:
            tracker.posteriors = HeldOutPosteriors(
                self._restored['sample_ids'], self._restored['probabilities']
            )

    def _measure(self, runner: Any, model: Any) -> None:
        tracker = model.contribution
        estimate = None
        if is_main_process():
            estimate = build_source(tracker.source).measure(runner, model)
            if estimate is not None:
                tracker.set_estimate(estimate)
                sampled = estimate.details.get('sampling_error')
                if sampled is not None:
                    self._sampling_error = dict(zip(model.modalities, sampled, strict=True))
                runner.logger.info(_describe(model.modalities, estimate.details, tracker))
        for name in ('information', 'confidence', 'weights', 'standard_error', 'measured'):
            buffer = getattr(tracker, name)
            shared = buffer.float()
            broadcast(shared, src=0)
            buffer.copy_(shared.to(buffer.dtype))
        if tracker.soft_targets > 0:
            tracker.posteriors = _shared_posteriors(runner, model, estimate)

    def before_save_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """The held-out predictions go with it."""
        tracker = getattr(unwrap(runner.model), 'contribution', None)
        if tracker is not None and tracker.posteriors is not None:
            checkpoint[STORED] = {
                'sample_ids': list(tracker.posteriors.rows),
                'probabilities': tracker.posteriors.probabilities.cpu(),
            }

    def after_load_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """On resuming the held-out predictions come back."""
        if runner._resume:
            self._restored = checkpoint.get(STORED)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Scalars: W, k and beta per modality."""
        if not self.every_n_train_iters(runner, self.interval):
            return
        model = unwrap(runner.model)
        for kind, values in _measurements(runner, model).items():
            if kind in ('weights', 'k', 'beta'):
                for m, value in values.items():
                    runner.message_hub.update_scalar(f'train/{kind}/{m}', value)

    def after_train_epoch(self, runner: Any) -> None:
        """One line of history."""
        model = unwrap(runner.model)
        measured = _measurements(runner, model)
        if not measured:
            return
        if self._sampling_error is not None:
            measured.setdefault('sampling_error', self._sampling_error)
        row = {'epoch': runner.epoch + 1, 'update': model.progress.update + 1, **measured}
        self._lines.append(json.dumps(row))
        self._write(runner)

    def _open_history(self, runner: Any) -> None:
        path = os.path.join(runner.work_dir, self.filename)
        self._lines, self._sampling_error = [], None
        if runner.epoch and os.path.isfile(path):
            with open(path, encoding='utf-8') as f:
                rows = [line.strip() for line in f if line.strip()]
            self._lines = [r for r in rows if json.loads(r)['epoch'] <= runner.epoch]
            if self._lines:
                self._sampling_error = json.loads(self._lines[-1]).get('sampling_error')
        elif os.path.isfile(path) and is_main_process():
            os.replace(path, f'{path}.old')

    def _write(self, runner: Any) -> None:
        if is_main_process():
            path = os.path.join(runner.work_dir, self.filename)
            write_atomically(path, '\n'.join(self._lines) + '\n')


def _shared_posteriors(runner: Any, model: Any, estimate: Any) -> HeldOutPosteriors:
    """The held-out predictions of rank 0's ``estimate`` on every rank.

    Raises:
        ValueError: the source or the dataset does not tell what is needed.
    """
    dataset = runner.train_dataloader.dataset
    why = 'model.contribution.soft_targets needs to know which prediction is whose'
    names = needed_column(dataset, 'sample_ids', why, 'set soft_targets=0')
    device = model.class_log_prior.device
    probabilities = torch.zeros(len(names), model.num_classes, device=device)
    if estimate is not None:
        if estimate.posteriors is None:
            raise ValueError(
                f'model.contribution.soft_targets needs held-out predictions, which the source '
                f'{model.contribution.source!r} does not give: use source="pilot" or "ridge", or '
                f'set soft_targets=0'
            )
        probabilities.copy_(estimate.posteriors)
    broadcast(probabilities, src=0)
    return HeldOutPosteriors([str(name) for name in names], probabilities)


def _measurements(runner: Any, model: Any) -> dict[str, dict[str, float]]:
    """{'weights': {m: value}, ...}; empty for a model without contribution and bottleneck."""
    modalities = getattr(model, 'modalities', ())
    out: dict[str, dict[str, float]] = {}

    def put(name: str, values: Tensor | None) -> None:
        if values is not None:
            out[name] = dict(zip(modalities, values.detach().cpu().tolist(), strict=True))

    tracker = getattr(model, 'contribution', None)
    if tracker is not None:
        put('weights', tracker.weights)
        put('information', tracker.information)
        put('confidence', tracker.confidence)
        put('standard_error', tracker.standard_error)
        put('sampling_error', getattr(tracker.information_estimator, 'sampling_error', None))
        put('k', getattr(runner.optim_wrapper, 'factors', None))
    if hasattr(model, 'current_betas'):
        put('beta', model.current_betas())
    return out


def _describe(modalities: tuple[str, ...], details: dict, tracker: Any) -> str:
    parts = [
        f'{m}: W {w:.3f} +- {e:.3f} (I {i:.3f}, D {d:.3f})'
        for m, w, e, i, d in zip(
            modalities,
            tracker.weights.tolist(),
            tracker.standard_error.tolist(),
            details['information'],
            details['confidence'],
            strict=True,
        )
    ]
    text = f'contribution ({tracker.source}): ' + '; '.join(parts)
    if 'sampling_error' in details:
        errors = zip(modalities, details['sampling_error'], strict=True)
        text += '. Shapley values are sampled, standard error of I: ' + ', '.join(
            f'{m} {e:.3f}' for m, e in errors
        )
    if details['undecided']:
        text += '. The modalities do not differ by two standard errors: W is uniform'
    return text
