"""Keeps checkpoints good: none with broken weights is written, none of another model is resumed."""

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.runner import EpochBasedTrainLoop

from cal_mm.evaluation.checkpoint import CheckpointMismatchError, fit_weights
from cal_mm.registry import HOOKS
from cal_mm.wrapping import unwrap

__all__ = ['CheckpointGuardHook', 'NonFiniteWeightsError', 'non_finite_names']

_NEEDED = ('state_dict', 'meta', 'message_hub', 'optimizer')


class NonFiniteWeightsError(FloatingPointError):
    """A parameter is NaN or infinite."""


def non_finite_names(model: torch.nn.Module, frozen: bool = True) -> list[str]:
    """Parameters that are NaN or infinite, and buffers that are NaN (masks may be infinite).

    Args:
        model: any module.
        frozen: whether parameters that do not learn are looked at, too.
    """
    bad = [
        n for n, p in model.named_parameters() if (frozen or p.requires_grad) and not _is_finite(p)
    ]
    return bad + [
        n
        for n, b in model.named_buffers()
        if b.is_floating_point() and not _is_finite(b) and bool(torch.isnan(b).any())
    ]


def _is_finite(values: torch.Tensor) -> bool:
    """One pass over the values; a second only where their sum is not finite (it may overflow)."""
    with torch.no_grad():
        return bool(values.sum().isfinite()) or bool(torch.isfinite(values).all())


@HOOKS.register_module()
class CheckpointGuardHook(Hook):
    """Refuses to write broken weights and to resume from what does not fit.

    A finite loss can have an infinite gradient; where that happens in the last iteration of an
    epoch, no later loss would tell before the checkpoint is written over a good one.
    ``tools/train.py`` registers this hook in every run.
    """

    priority = 'ABOVE_NORMAL'

    def after_train_epoch(self, runner: Any) -> None:
        """Before calibration and CheckpointHook, which would replace an older checkpoint."""
        self._check_finite(runner, frozen=False)

    def before_save_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Also where checkpoints are written by iterations."""
        self._check_finite(runner)

    @staticmethod
    def _check_finite(runner: Any, frozen: bool = True) -> None:
        bad = non_finite_names(unwrap(runner.model), frozen)
        if bad:
            more = f' and {len(bad) - 3} more' if len(bad) > 3 else ''
            raise NonFiniteWeightsError(
                f'weights are not finite after iteration {runner.iter} (epoch {runner.epoch + 1}): '
                f'{", ".join(bad[:3])}{more}. No checkpoint is written with them and the last one '
                f'is untouched. Lower the learning rate, or clip gradients '
                f'(optim_wrapper.clip_grad).'
            )

    def after_load_checkpoint(self, runner: Any, checkpoint: Any) -> None:
        """On resuming: nothing is lacking; weights and optimiser are those of this config.

        A checkpoint from within an epoch goes on at the epoch's start, with a warning.
        """
        if not runner._resume:
            return
        path = runner._load_from or runner.work_dir
        lacking = [k for k in _NEEDED if not isinstance(checkpoint, Mapping) or k not in checkpoint]
        if lacking:
            raise CheckpointMismatchError(
                f'{path} cannot be resumed: it lacks {", ".join(lacking)}; expected a checkpoint '
                f'that tools/train.py wrote. To start a new run from weights give '
                f'--cfg-options load_from={path} instead of --resume.'
            )
        fit_weights(runner.model, checkpoint['state_dict'], path)
        if isinstance(runner.optim_wrapper, OptimWrapper):
            _check_optimizer(runner.optim_wrapper.optimizer, checkpoint['optimizer'], path)
        _start_at_epoch(runner, checkpoint['meta'], path)


def _start_at_epoch(runner: Any, meta: Any, path: str) -> None:
    """The loop begins an epoch with its first batch; so must the count of iterations."""
    if not isinstance(runner.train_loop, EpochBasedTrainLoop):
        return
    length = len(runner.train_loop.dataloader)
    start = meta['epoch'] * length
    if meta['iter'] == start:
        return
    if meta['iter'] == start + length == runner.train_loop.max_iters:
        meta['epoch'] += 1  # written by iterations after the last one: there is nothing left to do
        return
    runner.logger.warning(
        f'{path} is of iteration {meta["iter"]}, but epoch {meta["epoch"] + 1} begins after '
        f'{start} ({length} an epoch): it was written by iterations, within that epoch or at its '
        f'end, or with another batch size or number of processes. The weights are kept, the epoch '
        f'is trained from its first batch and iterations are counted from {start}; schedules by '
        f'iteration stay where they were. To go on like the uninterrupted run, resume from a '
        f'checkpoint of the end of an epoch (epoch_*.pth) with the same batches.'
    )
    meta['iter'] = start


def _check_optimizer(optimizer: torch.optim.Optimizer, stored: Mapping, path: str) -> None:
    groups = stored.get('param_groups', [])
    now = optimizer.state_dict()['param_groups']
    lacking = sorted({key for group in now for key in group} - {key for g in groups for key in g})
    if lacking or len(groups) != len(now):
        reason = f'it has no {", ".join(lacking)}' if lacking else f'it has {len(groups)} groups'
        raise CheckpointMismatchError(
            f'{path} holds the state of another optimiser than optim_wrapper.optimizer, '
            f'{type(optimizer).__name__} with {len(now)} parameter groups: {reason}. Resume with '
            f'the config of that run, or start a new one with --cfg-options load_from={path}.'
        )
