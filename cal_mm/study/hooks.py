"""Hooks of a trial: the best epoch in memory, and what a step costs."""

import time
from typing import Any

import torch
from mmengine.hooks import Hook
from torch import Tensor, nn

from cal_mm.registry import HOOKS
from cal_mm.wrapping import unwrap

__all__ = ['KeepBestHook', 'StepTimeHook', 'Stopwatch']


@HOOKS.register_module()
class KeepBestHook(Hook):
    """Keeps the weights of the epoch with the best validation accuracy; of equals the one with the
    lower negative log-likelihood, then the earlier one.

    Frozen encoders do not change and are not copied.

    Attributes:
        best: {'epoch', 'accuracy' in percent, 'nll'}, None before the first validation.
        history: [epoch, accuracy] of every validation.
        state: the best epoch's ``state_dict`` without the frozen encoders.
    """

    priority = 'VERY_LOW'

    def __init__(self) -> None:
        self.best: dict[str, float] | None = None
        self.history: list[list[float]] = []
        self.state: dict[str, Any] = {}

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Compare, and copy what is better."""
        found = metrics or {}
        accuracy, nll = float(found['accuracy/top1']), float(found['nll'])
        self.history.append([runner.epoch, accuracy])
        if self.best is not None and (accuracy, -nll) <= (self.best['accuracy'], -self.best['nll']):
            return
        self.best = {'epoch': runner.epoch, 'accuracy': accuracy, 'nll': nll}
        model = unwrap(runner.model)
        frozen = _frozen_prefixes(model)
        self.state = {
            k: v.detach().clone() if isinstance(v, Tensor) else v
            for k, v in model.state_dict().items()
            if not k.startswith(frozen)
        }

    def restore(self, model: nn.Module) -> None:
        """Load the best epoch's weights into ``model``, strictly."""
        frozen = _frozen_prefixes(model)
        there = {k: v for k, v in model.state_dict().items() if k.startswith(frozen)}
        model.load_state_dict({**self.state, **there}, strict=True)


def _frozen_prefixes(model: Any) -> tuple[str, ...]:
    encoders = getattr(model, 'encoders', None) or {}
    names = [m for m, e in encoders.items() if getattr(e, 'frozen', False)]
    return tuple(f'encoders.{m}.' for m in names) or ('\0',)


@HOOKS.register_module()
class StepTimeHook(Hook):
    """Seconds of a training step: loading, forward, backward and update, no validation.

    Attributes:
        wall: of each step, the first one of the run left out.
        cpu: of this process in each step.
    """

    priority = 'VERY_LOW'

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.cpu: list[float] = []
        self._start: tuple[float, float] | None = None

    def before_train_epoch(self, runner: Any) -> None:
        """The first step of an epoch begins."""
        self._start = _now()

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """A step ends, the next begins."""
        end = _now()
        if self._start is not None and runner.iter > 0:
            self.wall.append(end[0] - self._start[0])
            self.cpu.append(end[1] - self._start[1])
        self._start = end

    def summary(self) -> dict[str, float | None]:
        """Median wall time and mean CPU time of a step, in seconds."""
        if not self.wall:
            return {'step_seconds': None, 'step_cpu_seconds': None}
        return {
            'step_seconds': float(torch.tensor(self.wall).median()),
            'step_cpu_seconds': float(torch.tensor(self.cpu).mean()),
        }


class Stopwatch:
    """Seconds spent in methods of objects.

    Attributes:
        wall: by the clock, all calls together.
        cpu: of this process.
    """

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0

    def watch(self, target: Any, method: str) -> None:
        """Count the calls of ``target.method`` from now on."""
        inner = getattr(target, method)

        def counted(*args: Any, **kwargs: Any) -> Any:
            start = _now()
            try:
                return inner(*args, **kwargs)
            finally:
                end = _now()
                self.wall += end[0] - start[0]
                self.cpu += end[1] - start[1]

        setattr(target, method, counted)


def _now() -> tuple[float, float]:
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter(), time.process_time()
