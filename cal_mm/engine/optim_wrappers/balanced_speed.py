"""Balanced conditional utilisation: a modality that leans on the others learns alone for a while.

Source: Wu et al., "Characterizing and Overcoming the Greedy Nature of Learning in Multi-modal Deep
Neural Networks", ICML 2022 (arXiv 2202.05306).
"""

from typing import Any

import torch
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from cal_mm.models.feature_transforms.mmtm import MMTM
from cal_mm.registry import OPTIM_WRAPPERS

from .amp import AnyDeviceAmp
from .bound import BoundStep

__all__ = [
    'BalancedSpeedAmpOptimWrapper',
    'BalancedSpeedOptimWrapper',
    'conditional_speeds',
    'learning_speed',
]


def learning_speed(params: list[nn.Parameter]) -> Tensor:
    """|g|^2 / |theta|^2 of a set of parameters, float64 scalar.

    Parameters without a gradient count in |theta| only.
    """
    grads = [p.grad for p in params if p.grad is not None]
    squares = [
        torch.stack(torch._foreach_norm(v)).double().square().sum() if v else torch.zeros(())
        for v in (grads, [p.detach() for p in params])
    ]
    return squares[0].to(squares[1]).double() / squares[1].double().clamp_min(1e-30)


def conditional_speeds(bypass: Tensor, main: Tensor) -> Tensor:
    """log10(bypass / main) [M]: how much faster a modality's way through the others learns than
    its own encoder.

    Args:
        bypass: sum of the :func:`learning_speed` over updates [M].
        main: the same of the encoders [M].
    """
    return (bypass.clamp_min(1e-30) / main.clamp_min(1e-30)).log10()


class BalancedSpeedStep(BoundStep):
    """Mixin: compares the conditional learning speeds before every update.

    Where the largest exceeds the smallest by more than ``epsilon``, the modality with the largest
    is left alone (``MMTM.caring``) for the next ``window`` updates, in which nothing is booked. A
    modality without trainable parameters has no speed and is never left alone.

    Args:
        epsilon: >= 0.
        window: updates, >= 1.
        begin: epochs before which nobody is left alone; speeds are booked all the same.
    """

    def __init__(
        self, *args: Any, epsilon: float = 0.01, window: int = 5, begin: int = 0, **kwargs: Any
    ) -> None:
        if epsilon < 0 or window < 1:
            raise ValueError(
                f'optim_wrapper needs epsilon >= 0 and window >= 1, got {epsilon} and {window}'
            )
        self.epsilon, self.window, self.begin = epsilon, window, begin
        #: sums of the speeds, bypass and main, of the modalities that learn: [2, M]
        self._speeds: Tensor | None = None
        self._left = 0
        super().__init__(*args, **kwargs)

    def bind(self, model: Any) -> None:
        """See ``BoundStep``.

        Raises:
            ValueError: the model has no MMTM.
        """
        super().bind(model)
        found = [t for t in self._model.feature_transforms if isinstance(t, MMTM)]
        if len(found) != 1:
            raise ValueError(
                f'{type(self).__name__} needs exactly one MMTM in model.feature_transforms, '
                f'there are {len(found)}'
            )
        self._mmtm = found[0]

    def step(self, **kwargs: Any) -> None:
        """Measure, decide about the next updates, step."""
        if self._model is not None:
            self._model.finish_update()
            self._mmtm.close_update()
            self._decide()
        super().step(**kwargs)  # type: ignore[misc]

    @torch.no_grad()
    def _decide(self) -> None:
        if self._left > 0:
            self._left -= 1
            if self._left == 0:
                self._mmtm.caring.fill_(-1)
            return
        owned = self._model.modality_parameters()
        learners = [i for i, params in enumerate(owned.values()) if params]
        if len(learners) < 2:
            return
        pairs = [(self._mmtm.bypass_parameters(m), params) for m, params in owned.items() if params]
        rows = [
            torch.stack([learning_speed(group) for group in row])
            for row in zip(*pairs, strict=True)
        ]
        scaler = getattr(self, 'loss_scaler', None)
        new = torch.stack(rows) / (1.0 if scaler is None else float(scaler.get_scale()) ** 2)
        new = torch.where(torch.isfinite(new), new, 0.0)
        self._speeds = new if self._speeds is None else self._speeds.to(new) + new
        speeds = conditional_speeds(*self._speeds)
        if self.progress.epoch >= self.begin and bool(speeds.max() - speeds.min() > self.epsilon):
            self._mmtm.caring.fill_(learners[int(speeds.argmax())])
            self._left = self.window

    def method_state(self) -> dict[str, Any]:
        """Sums of the speeds and what is left of a window; who is left alone is in the model."""
        found: dict[str, Any] = {'left': self._left}
        return found if self._speeds is None else {**found, 'speeds': self._speeds.clone()}

    def load_method_state(self, state: dict[str, Any]) -> None:
        """See :meth:`method_state`."""
        self._left, self._speeds = state['left'], state.get('speeds')


@OPTIM_WRAPPERS.register_module()
class BalancedSpeedOptimWrapper(BalancedSpeedStep, OptimWrapper):
    """mmengine's ``OptimWrapper`` with balanced speeds; see ``BalancedSpeedStep``."""


@OPTIM_WRAPPERS.register_module()
class BalancedSpeedAmpOptimWrapper(BalancedSpeedStep, AnyDeviceAmp):
    """mmengine's ``AmpOptimWrapper`` with balanced speeds; see ``BalancedSpeedStep``."""
