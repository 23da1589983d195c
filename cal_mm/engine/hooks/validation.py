"""Validations that a kill cut off are made up for, and what they change is in the checkpoint."""

from typing import Any

from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import EpochBasedTrainLoop

from cal_mm.registry import HOOKS

__all__ = ['ResumedValidationHook']


@HOOKS.register_module()
class ResumedValidationHook(Hook):
    """Makes a resumed run validate, and schedule on it, like the uninterrupted one.

    A checkpoint is written before its epoch is validated, and says whether it was. On resuming from
    one that was not, what is due is validated before the training goes on.

    Where a scheduler steps on validation metrics (``ReduceOnPlateauLR``), the epoch's checkpoint is
    written again after the validation; without one, a later validation of the same weights gives
    the same, and nothing is written.
    """

    priority = 'LOWEST'

    def __init__(self) -> None:
        self._pending = False
        self._written = 0

    def before_save_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Note whether the epoch is validated: the loop counts it before that, saves it after."""
        epoch = checkpoint['meta'].get('epoch', 0)
        checkpoint['meta']['validated'] = runner.epoch >= epoch
        if 'optimizer' in checkpoint and runner.epoch >= epoch:
            self._written = epoch

    def after_load_checkpoint(self, runner: Any, checkpoint: Any) -> None:
        """One of before this hook does not say."""
        meta = checkpoint.get('meta', {}) if runner._resume else {}
        self._pending = not meta.get('validated', True)

    def before_train(self, runner: Any) -> None:
        """Make up for a validation."""
        if self._pending and _is_due(runner):
            runner.logger.info(
                f'the checkpoint of epoch {runner.epoch} is of before its validation: validating'
            )
            runner.val_loop.run()
        self._pending = False

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Write the schedulers' state, after CheckpointHook, which may have done it."""
        if not any(getattr(s, 'need_val_args', False) for s in _schedulers(runner)):
            return
        for hook in runner.hooks:
            if not isinstance(hook, CheckpointHook) or not hook.by_epoch or not hook.last_ckpt:
                continue
            name = hook.filename_tmpl.format(runner.epoch)
            here = hook.last_ckpt == hook.file_backend.join_path(hook.out_dir, name)
            if here and self._written != runner.epoch:
                meta = dict(epoch=runner.epoch, iter=runner.iter)
                hook._save_checkpoint_with_step(runner, runner.epoch, meta)


def _schedulers(runner: Any) -> list[Any]:
    """Those that are built, in one list."""
    given = runner.param_schedulers
    lists = given.values() if isinstance(given, dict) else [given]
    return [s for one in lists if isinstance(one, list) for s in one]


def _is_due(runner: Any) -> bool:
    """Whether the loop validates after the epoch that was trained last."""
    loop = runner.train_loop
    if runner.val_loop is None or not isinstance(loop, EpochBasedTrainLoop):
        return False
    loop._decide_current_val_interval()
    last = loop.epoch == loop.max_epochs
    return loop.epoch >= loop.val_begin and (loop.epoch % loop.val_interval == 0 or last)
