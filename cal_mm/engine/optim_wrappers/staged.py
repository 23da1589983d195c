"""Steps of a loss that trains parts of the model in turn, each with a fresh optimiser."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.optim import OptimWrapper

from cal_mm.registry import OPTIM_WRAPPERS

from .amp import AnyDeviceAmp
from .owned import Gradients, OwnedStep

__all__ = ['StagedAmpOptimWrapper', 'StagedOptimWrapper']


class StagedStep(OwnedStep):
    """Mixin: what the losses do not reach is not stepped, not even by momentum or weight decay.

    With several ranks too, where a plain wrapper asks for a gradient of everything. Where the loss
    with a ``phase(epoch, M)`` (``ReconBoostLoss``) goes on to another phase, the optimiser forgets
    its momenta.
    """

    optimizer: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._phase: Any = None
        super().__init__(*args, **kwargs)

    def bind(self, model: Any) -> None:
        """See ``BoundStep``.

        Raises:
            ValueError: no loss has phases.
        """
        super().bind(model)
        found = [loss for loss in self._model.losses if hasattr(loss, 'phase')]
        if not found:
            raise ValueError(
                f'{type(self).__name__} needs a loss with phases, such as ReconBoostLoss'
            )
        self._loss = found[0]

    def groups(self, names: Sequence[str]) -> dict[str, list[str]]:
        """All losses together."""
        return {'all': list(names)}

    def combine(self, gradients: Mapping[str, Gradients]) -> None:
        """The plain gradient; at the start of a phase the optimiser starts anew."""
        phase = self._loss.phase(self.progress.epoch, len(self._model.modalities))
        if self._phase is not None and list(phase) != list(self._phase):
            self.optimizer.state.clear()
        self._phase = phase
        for p, grad in gradients['all'].items():
            p.grad = grad

    def method_state(self) -> dict[str, Any]:
        """The phase of the last update."""
        return {} if self._phase is None else {'phase': list(self._phase)}

    def load_method_state(self, state: dict[str, Any]) -> None:
        """See :meth:`method_state`."""
        self._phase = state['phase']


@OPTIM_WRAPPERS.register_module()
class StagedOptimWrapper(StagedStep, OptimWrapper):
    """mmengine's ``OptimWrapper`` for losses with phases; see ``StagedStep``."""


@OPTIM_WRAPPERS.register_module()
class StagedAmpOptimWrapper(StagedStep, AnyDeviceAmp):
    """mmengine's ``AmpOptimWrapper`` for losses with phases; see ``StagedStep``."""
