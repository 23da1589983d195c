"""What every OptimWrapper of cal_mm shares: it knows the model and whose parameters are whose."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from cal_mm.models.contribution.ledger import Ledger
from cal_mm.models.state import ForwardState
from cal_mm.structures import TrainProgress
from cal_mm.wrapping import unwrap

__all__ = ['BoundStep']


class BoundStep:
    """Mixin over an OptimWrapper: bound to the model before the first iteration.

    ``step`` runs once per update on complete gradients (after accumulation, after DDP's reduction),
    before clipping.
    """

    clip_grad_kwargs: dict | None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._model: Any = None
        #: statistics of this update, by name
        self.ledger = Ledger()
        super().__init__(*args, **kwargs)

    def initialize_count_status(self, model: nn.Module, init_counts: int, max_counts: int) -> None:
        """Called by the Runner once the model, the optimiser and a checkpoint are loaded."""
        super().initialize_count_status(model, init_counts, max_counts)  # type: ignore[misc]
        self.bind(model)

    def bind(self, model: Any) -> None:
        """Learn whose parameters are whose.

        Raises:
            TypeError: the model does not say which parameters belong to which modality.
        """
        model = unwrap(model)
        if not hasattr(model, 'modality_parameters'):
            raise TypeError(
                f'{type(self).__name__} needs a model with modality_parameters(), such as '
                f'MultiModalClassifier; '
                f'{type(model).__name__} has none. Use OptimWrapper for it.'
            )
        self._model = model

    def observe(self, name: str, statistics: Callable[[ForwardState], Tensor | None]) -> None:
        """Book ``statistics(state)`` [B, K] of every training batch in :attr:`ledger`."""

        def book(state: ForwardState) -> None:
            values = statistics(state)
            if values is not None:
                self.ledger.add(name, values)

        self._model.record.observers[name] = book

    def method_state(self) -> dict[str, Any]:
        """What a method must find again after a resume, beside the optimiser's state."""
        return {}

    def load_method_state(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`method_state` gave."""

    def state_dict(self) -> dict[str, Any]:
        """The optimiser's state, and the method's under ``method``."""
        found = super().state_dict()  # type: ignore[misc]
        method = self.method_state()
        return {**found, 'method': method} if method else found

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave."""
        rest = dict(state_dict)
        method = rest.pop('method', None)
        super().load_state_dict(rest)  # type: ignore[misc]
        if method:
            self.load_method_state(method)

    @property
    def progress(self) -> TrainProgress:
        """How far training has come."""
        return self._model.progress or TrainProgress()

    def _clip_grad(self) -> None:
        """Clip the model's gradient; probes on detached features are clipped on their own.

        Sharing one norm would let the probes' gradient shorten the model's step.
        """
        probes = set() if self._model is None else set(self._model.diagnostic_parameters())
        if not probes:
            super()._clip_grad()  # type: ignore[misc]
            return
        held = {p: p.grad for p in probes if p.grad is not None}
        for p in held:
            p.grad = None
        super()._clip_grad()  # type: ignore[misc]
        for p, grad in held.items():
            p.grad = grad
        if held:
            self.clip_func(list(held), **(self.clip_grad_kwargs or {}))  # type: ignore[attr-defined]
