"""Base of the methods that own the step: the gradient of each objective is kept apart."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.model import is_model_wrapper
from torch import Tensor, nn

from .bound import BoundStep

__all__ = ['Gradients', 'OwnedStep', 'SelfReducing', 'reduce_gradients']

#: gradient of one objective by parameter; parameters that it does not reach are left out
Gradients = dict[nn.Parameter, Tensor]


class SelfReducing(BoundStep):
    """Mixin of the wrappers that reduce their gradients over the ranks themselves.

    The model keeps the losses and the state of a training batch for them: :meth:`take_batch` takes
    what the method needs of a micro-batch, :meth:`update` makes one update of all that was taken.
    """

    _inner_count: int

    def bind(self, model: Any) -> None:
        """See ``BoundStep``; the model keeps its losses apart from now on."""
        super().bind(model)
        self._model.record.keeps_objectives = True

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """As mmengine's, but never reducing inside the backward pass: that happens here."""
        quiet = getattr(model, 'no_sync', None) if is_model_wrapper(model) else None
        with super().optim_context(model):  # type: ignore[misc]
            if quiet is None:
                yield
            else:
                with quiet():
                    yield

    def take_batch(self) -> None:
        """Take a micro-batch out of the model's record."""
        raise NotImplementedError(f'{type(self).__name__} must implement take_batch')

    def update(self, step: Callable[[], None]) -> None:
        """One update: write complete ``p.grad``, and call ``step`` as often as the method steps."""
        raise NotImplementedError(f'{type(self).__name__} must implement update')

    def update_params(
        self,
        loss: Tensor,
        step_kwargs: dict | None = None,
        zero_kwargs: dict | None = None,
    ) -> None:
        """One micro-batch; on the last of an update, the update."""

        def step() -> None:
            self.step(**(step_kwargs or {}))  # type: ignore[attr-defined]
            self.zero_grad(**(zero_kwargs or {}))  # type: ignore[attr-defined]

        self._check_bound()
        self.take_batch()
        self._model.record.forget()
        self._inner_count += 1
        if self.should_update():  # type: ignore[attr-defined]
            self.update(step)

    def _scaled(self, total: Tensor) -> Tensor:
        """``total`` times the loss scale of mixed precision, where there is one."""
        scaler = getattr(self, 'loss_scaler', None)
        return total if scaler is None else scaler.scale(total)

    def _check_bound(self) -> None:
        if self._model is None:
            raise RuntimeError(
                f'{type(self).__name__} is not bound to a model yet: the Runner does that; '
                f'elsewhere call initialize_count_status(model, 0, max_counts) first'
            )


def reduce_gradients(grads: Gradients) -> None:
    """Mean over the ranks, in one message; every rank has the same keys in the same order."""
    world = get_world_size()
    if world == 1:
        return
    flat = torch.cat([g.flatten() for g in grads.values()])
    all_reduce(flat)
    flat /= world  # in place: a 'mean' would hold all gradients once more
    start = 0
    for p, g in grads.items():
        grads[p] = flat[start : start + g.numel()].view_as(g)
        start += g.numel()


class OwnedStep(SelfReducing):
    """Mixin over an OptimWrapper for methods that combine several objectives' gradients.

    Each micro-batch differentiates every group of losses on its own; once per update the sums are
    reduced over the ranks, :meth:`combine` writes ``p.grad``, and the optimiser steps (clipping and
    unscaling as always). The groups are those of :meth:`groups`; a loss that none of them names
    belongs to the first.

    With mixed precision all gradients carry the same loss scale: ratios, angles and norms relative
    to each other do not notice it.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._kept: dict[str, Gradients] = {}

    def groups(self, names: Sequence[str]) -> dict[str, list[str]]:
        """Group name -> keys of the losses, in the order in which they are differentiated.

        Args:
            names: the losses' keys, such as ``loss_fused``, ``loss_unimodal/audio``.
        """
        raise NotImplementedError(f'{type(self).__name__} must implement groups')

    def combine(self, gradients: Mapping[str, Gradients]) -> None:
        """Write ``p.grad`` of every parameter from the complete gradients of each group."""
        raise NotImplementedError(f'{type(self).__name__} must implement combine')

    def take_batch(self) -> None:
        """Differentiate every group of losses and add the gradients to those of the update."""
        objectives = self._model.record.take_objectives()
        groups = self.groups(list(objectives))
        named = {name for names in groups.values() for name in names}
        rest = [name for name in objectives if name not in named]
        first = next(iter(groups))
        groups = {**groups, first: [*groups[first], *rest]}
        present = {g: [objectives[n] for n in names] for g, names in groups.items() if names}
        for i, (group, losses) in enumerate(present.items()):
            total = self.scale_loss(torch.stack([v.sum() for v in losses]).sum())  # type: ignore[attr-defined]
            self._accumulate(group, total, last=i == len(present) - 1)

    def update(self, step: Callable[[], None]) -> None:
        """Reduce, combine, step."""
        for grads in self._kept.values():
            reduce_gradients(grads)
        self._model.finish_update()
        self.combine(self._kept)
        self._kept = {}
        step()

    def _accumulate(self, group: str, total: Tensor, last: bool) -> None:
        params = [p for p in self._model.parameters() if p.requires_grad]
        found = torch.autograd.grad(
            self._scaled(total), params, retain_graph=not last, allow_unused=True
        )
        kept = self._kept.setdefault(group, {})
        for p, grad in zip(params, found, strict=True):
            if grad is not None:
                kept[p] = kept[p].add_(grad) if p in kept else grad.clone()
