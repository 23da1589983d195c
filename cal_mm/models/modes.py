"""The mode of a module, for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ['differentiable', 'evaluating']


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, every submodule's own mode again afterwards."""
    modes = [(m, m.training) for m in module.modules()]
    try:
        module.eval()
        yield
    finally:
        for part, mode in modes:
            part.training = mode


@contextmanager
def differentiable(module: nn.Module) -> Iterator[None]:
    """Frozen encoders inside ``module`` hand gradients on to their input, but learn nothing.

    Fusions that cut a gradient in training let it through.
    """
    parts = [m for m in module.modules() if getattr(m, 'passes_gradient', None) is False]
    try:
        for part in parts:
            part.passes_gradient = True  # type: ignore[assignment]
        yield
    finally:
        for part in parts:
            part.passes_gradient = False  # type: ignore[assignment]
