"""Hooks that make a run reproducible and tell the model how far it has come."""

import random
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import CheckpointHook, Hook

from cal_mm.datasets import set_dataset_epoch
from cal_mm.registry import HOOKS
from cal_mm.structures import TrainProgress, sample_key
from cal_mm.wrapping import unwrap

from ..averaged import average_model, follow_buffers
from ..rank_statistics import share_statistics

__all__ = ['EpochSeedHook', 'TrainProgressHook', 'saves_now']


@HOOKS.register_module()
class EpochSeedHook(Hook):
    """Seeds every global generator anew at each epoch, from (seed, epoch, rank), and tells the
    dataset the epoch.

    An epoch then depends on the weights it starts from and on nothing before it, so that a resumed
    run goes on exactly like the uninterrupted one, without random states in the checkpoint.
    """

    priority = 'VERY_HIGH'

    def before_train_epoch(self, runner: Any) -> None:
        """Seed, and hand the epoch to the dataset."""
        seed = sample_key('epoch', runner.seed, runner.epoch, get_rank())
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        set_dataset_epoch(runner.train_dataloader, runner.epoch)


@HOOKS.register_module()
class TrainProgressHook(Hook):
    """Sets ``model.progress`` before every training iteration; schedules read it.

    Before a checkpoint, a calibration or a validation all ranks get the same running statistics,
    and before EMAHook the average gets buffers of the sizes that the model has.
    """

    priority = 'VERY_HIGH'

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Count parameter updates, not micro-batches."""
        every = getattr(runner.optim_wrapper, '_accumulative_counts', 1)
        model = unwrap(runner.model)
        if hasattr(model, 'progress'):
            model.progress = TrainProgress(
                epoch=runner.epoch,
                max_epochs=runner.max_epochs or 1,
                update=runner.iter // every,
                max_updates=-(-runner.max_iters // every),
            )

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Before EMAHook, and before a CheckpointHook that counts iterations."""
        follow_buffers(runner, resized=True)
        if any(saves_now(runner, hook) for hook in runner.hooks):
            self._share(runner)

    def after_train_epoch(self, runner: Any) -> None:
        """Before CalibrationHook and CheckpointHook."""
        self._share(runner)

    def before_val(self, runner: Any) -> None:
        """For loops that validate by iterations; before CalibrationHook and EMAHook."""
        self._share(runner)

    @staticmethod
    def _share(runner: Any) -> None:
        for model in (unwrap(runner.model), average_model(runner)):
            if model is not None:
                share_statistics(model)


def saves_now(runner: Any, hook: Hook) -> bool:
    """Whether ``hook`` writes a checkpoint after this iteration, within an epoch."""
    if not isinstance(hook, CheckpointHook) or hook.by_epoch:
        return False
    due = hook.every_n_train_iters(runner, hook.interval, hook.save_begin)
    return due or hook.is_last_train_iter(runner)
