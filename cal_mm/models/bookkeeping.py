"""What a training step leaves for the OptimWrapper: statistics, single losses, the state."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from cal_mm.models.state import ForwardState

__all__ = ['StepRecord']


class StepRecord:
    """The last training batch, for methods that look inside a step.

    Attributes:
        observers: called with the state of every training batch, without gradient: an
            OptimWrapper's statistics, by name.
        keeps_objectives: set by an OptimWrapper that differentiates the losses one by one.
    """

    def __init__(self) -> None:
        self.observers: dict[str, Callable[[ForwardState], None]] = {}
        self.keeps_objectives = False
        self._objectives: dict[str, Tensor] = {}
        self._state: ForwardState | None = None

    def book(self, state: ForwardState, losses: Mapping[str, Tensor]) -> None:
        """Tell the observers, and keep what was asked for."""
        with torch.no_grad(), torch.autocast(state.logits.device.type, enabled=False):
            for observe in self.observers.values():
                observe(state)
        if self.keeps_objectives:
            self._objectives = {k: v for k, v in losses.items() if 'loss' in k}
            self._state = state

    def take_objectives(self) -> dict[str, Tensor]:
        """The losses of the last training batch by name, with their graph; handed out once."""
        if not self._objectives:
            raise RuntimeError(
                "there are no losses to take: set keeps_objectives and call forward(mode='loss')"
            )
        found, self._objectives = self._objectives, {}
        return found

    def take_state(self) -> ForwardState:
        """The state of the last training batch, with its graph; handed out once."""
        if self._state is None:
            raise RuntimeError(
                "there is no state to take: set keeps_objectives and call forward(mode='loss')"
            )
        found, self._state = self._state, None
        return found

    def forget(self) -> None:
        """Drop what was kept: a graph would hold memory, and cannot be copied with the model."""
        self._objectives, self._state = {}, None
