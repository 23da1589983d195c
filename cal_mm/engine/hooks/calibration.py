"""Fits what the label-free per-sample W and the gates need, on clean validation data."""

from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop
from torch import Tensor

from cal_mm.models.contribution.functional import best_temperature, told_information
from cal_mm.models.contribution.typicality import LEAST
from cal_mm.registry import HOOKS
from cal_mm.wrapping import unwrap

from ..averaged import averaged_weights
from ..collect import Collected, collect, collect_samples, gathered
from .feature_cache import draws_at_random
from .guard import non_finite_names
from .progress import saves_now
from .subsets import some_of

__all__ = ['CalibrationHook']


@HOOKS.register_module()
class CalibrationHook(Hook):
    """Temperatures of the unimodal and the fused logits, what each modality's own prediction tells,
    typicality and the bottlenecks' statistics from the clean validation set, before a checkpoint is
    written. A sample counts for the modalities that it has.

    Runs at the end of every epoch that a checkpoint may be taken from. A training by iterations is
    calibrated before each of its validations; any training before a checkpoint of a CheckpointHook
    that counts iterations, too. Test data are never touched.

    Where the features of a frozen encoder lie is told by the training samples, which are more; the
    validation samples tell what is usual. If the training pipeline draws at random (noise,
    augmentation), both come from the validation samples, as for encoders that learn.

    Args:
        interval: epochs; the last epoch is always included. Does not count for what is validated
            or saved by iterations.
        max_samples: validation samples used at most, drawn from all of them the same way in every
            epoch, and training samples.
    """

    priority = 'BELOW_NORMAL'

    def __init__(self, interval: int = 1, max_samples: int = 1000) -> None:
        self.interval = interval
        self._settled: set[str] = set()
        self._reference: dict[str, tuple[Tensor, Tensor]] = {}
        self._warned = False
        #: iterations that the weights of the last calibration had; None: no training is running
        self._iterations: int | None = None
        self.max_samples = max_samples

    def before_train(self, runner: Any) -> None:
        """A new run fits everything anew."""
        self._settled, self._warned, self._iterations = set(), False, -1
        self._reference = self._training_features(runner, unwrap(runner.model))

    def _training_features(self, runner: Any, model: Any) -> dict[str, tuple[Tensor, Tensor]]:
        """Features and labels of training samples, of the frozen encoders with a typicality."""
        tracker = getattr(model, 'contribution', None)
        if tracker is None or tracker.typicality is None or runner.val_loop is None:
            return {}
        loader = runner.train_loop.dataloader
        frozen = [m for m in model.modalities if getattr(model.encoders[m], 'frozen', False)]
        frozen = [m for m in frozen if not draws_at_random(loader.dataset, [m])]
        if not frozen:
            return {}
        step = -(-len(loader.dataset) // self.max_samples)
        seen = collect_samples(model, loader, range(0, len(loader.dataset), step))
        found = {}
        for m in frozen:
            there = seen.present[:, model.modalities.index(m)]
            found[m] = seen.features[m][there], seen.labels[there]
        return found

    def after_train_epoch(self, runner: Any) -> None:
        """Before the CheckpointHook (VERY_LOW)."""
        if self.every_n_epochs(runner, self.interval) or self.is_last_train_epoch(runner):
            self._calibrate_average(runner)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Before a CheckpointHook that counts iterations."""
        if any(saves_now(runner, hook) for hook in runner.hooks):
            self._within_epoch(runner, runner.iter + 1)

    def before_val(self, runner: Any) -> None:
        """In a training by iterations, before EMAHook lends the model the average."""
        if self._iterations is None or isinstance(runner.train_loop, EpochBasedTrainLoop):
            return
        if self._iterations != runner.iter:
            self._within_epoch(runner, runner.iter)

    def after_train(self, runner: Any) -> None:
        """A validation is none of the training's any more."""
        self._iterations = None

    def _within_epoch(self, runner: Any, iterations: int) -> None:
        """Calibrate the weights of so many iterations; the training draws the same numbers as if it
        had not happened. Broken weights are left to who refuses to save them.
        """
        if non_finite_names(unwrap(runner.model), frozen=False):
            return
        self._iterations = iterations
        with torch.random.fork_rng(devices=[]):
            self._calibrate_average(runner)

    def _calibrate_average(self, runner: Any) -> None:
        """If there is anything to fit, and validation data to fit it on."""
        model = unwrap(runner.model)
        fitted = [getattr(model, name, None) for name in ('contribution', 'uncertainty')]
        if all(part is None for part in fitted) or runner.val_loop is None:
            return
        with averaged_weights(runner):
            self._calibrate(runner, model)

    def _validation_samples(self, runner: Any, model: Any) -> Collected:
        loader = runner.val_dataloader
        everything = list(range(len(loader.dataset)))
        if len(everything) <= self.max_samples:
            return gathered(collect(model, loader, self.max_samples))
        # the first ones may be of a few classes only
        return collect_samples(model, loader, some_of(everything, self.max_samples, 'calibration'))

    def _warn_of_few(self, runner: Any, model: Any, seen: Collected) -> None:
        """Once per run, of modalities that cannot be described or whose predictions are hardly
        known.
        """
        counts = dict(zip(model.modalities, seen.present.sum(dim=0).tolist(), strict=True))
        few = {m: n for m, n in counts.items() if n < LEAST}
        contribution = getattr(model, 'contribution', None)
        texts = []
        if (
            getattr(contribution, 'typicality', None) is not None
            or getattr(model, 'uncertainty', None) is not None
        ):
            texts.append('its features always count as usual')
        if contribution is not None and seen.unimodal:
            if 0 in few.values():
                texts.append("without any, its own prediction does not count in the gate 'pool'")
            if any(few.values()):
                texts.append('its temperature and what its prediction tells come from these alone')
        if few and texts and not self._warned:
            self._warned = True
            named = ', '.join(f'{m} ({n} samples)' for m, n in few.items())
            runner.logger.warning(
                f'CalibrationHook: too little validation data to tell what is usual of {named}, at '
                f'least {LEAST} samples are needed: {"; ".join(texts)}'
            )

    @torch.no_grad()
    def _calibrate(self, runner: Any, model: Any) -> None:
        seen = self._validation_samples(runner, model)
        self._warn_of_few(runner, model, seen)
        contribution: Any = getattr(model, 'contribution', None)
        if contribution is not None:
            contribution.fused_temperature.fill_(best_temperature(seen.logits, seen.labels))
        for i, m in enumerate(model.modalities if contribution is not None else ()):
            there = seen.present[:, i]
            labels = seen.labels[there]
            if not len(labels):
                continue
            if m in seen.unimodal:
                logits = seen.unimodal[m][there]
                contribution.temperature[i] = t = best_temperature(logits, labels)
                contribution.told[i] = told_information(logits / t, labels, model.class_log_prior)
            typical = contribution.typicality is not None and m not in self._settled
            if typical and len(labels) >= LEAST:
                contribution.typicality[m].fit(
                    seen.features[m][there], labels, self._reference.pop(m, None)
                )
                if getattr(model.encoders[m], 'frozen', False):
                    self._settled.add(m)  # the same features in every epoch
        uncertainty = getattr(model, 'uncertainty', None)
        if uncertainty is not None and int(seen.present.sum(dim=0).min()) >= LEAST:
            uncertainty.fit(seen.posteriors, seen.present)
