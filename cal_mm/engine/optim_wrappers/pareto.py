"""MMPareto: the fused and the unimodal gradient of an encoder, combined without conflict.

Source: Wei and Hu, "MMPareto: Boosting Multimodal Learning with Innocent Unimodal Assistance", ICML
2024 (arXiv 2405.17730).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from cal_mm.registry import OPTIM_WRAPPERS

from .amp import AnyDeviceAmp
from .owned import Gradients, OwnedStep

__all__ = ['ParetoAmpOptimWrapper', 'ParetoOptimWrapper', 'pareto_gradients', 'pareto_weights']


def pareto_weights(dot: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Weights of two gradients: halves where they agree, else those of the shortest sum.

    Args:
        dot: g_1 . g_2, scalar.
        first: squared norm of g_1.
        second: squared norm of g_2.

    Returns:
        [2], sums to one: (1/2, 1/2) for dot > 0, else the minimiser of |a g_1 + (1 - a) g_2|.
    """
    square = first + second - 2 * dot
    a = ((second - dot) / square.clamp_min(torch.finfo(square.dtype).tiny)).clamp(0, 1)
    a = torch.where((dot > 0) | (square <= 0), torch.full_like(a, 0.5), a)
    return torch.stack([a, 1 - a])


def pareto_gradients(fused: list[Tensor], unimodal: list[Tensor], gamma: float) -> list[Tensor]:
    """The gradient of one encoder's tensors.

    h = 2 a_f g_f + 2 a_u g_u with the weights of the whole encoder; each tensor of h is then
    stretched to at least the length of g_f + g_u and multiplied by gamma.

    Args:
        fused: g_f of the fused loss, by tensor.
        unimodal: g_u of the modality's own loss, by tensor.
        gamma: > 0.
    """
    # in float64: a sum over millions of products of small numbers decides about its sign
    dot, first, second = (
        torch.stack([(a.double() * b.double()).sum() for a, b in zip(x, y, strict=True)]).sum()
        for x, y in ((fused, unimodal), (fused, fused), (unimodal, unimodal))
    )
    weights = 2 * pareto_weights(dot, first, second).to(fused[0].dtype)
    found = []
    for f, u in zip(fused, unimodal, strict=True):
        h = weights[0] * f + weights[1] * u
        length = h.norm()
        stretch = (f + u).norm() / length.clamp_min(torch.finfo(h.dtype).tiny)
        # nothing can stretch a zero
        stretch = torch.where(length > 0, stretch.clamp_min(1), torch.ones_like(stretch))
        found.append(gamma * stretch * h)
    return found


class ParetoStep(OwnedStep):
    """Mixin: MMPareto for encoders and bottlenecks; all else gets the sum of its gradients.

    The model needs unimodal losses (``UnimodalCrossEntropy``).

    Args:
        gamma: factor of the encoders' gradients, > 0.
    """

    def __init__(self, *args: Any, gamma: float = 1.5, **kwargs: Any) -> None:
        if gamma <= 0:
            raise ValueError(f'optim_wrapper.gamma must be > 0, got {gamma}')
        self.gamma = gamma
        super().__init__(*args, **kwargs)

    def groups(self, names: Sequence[str]) -> dict[str, list[str]]:
        """The unimodal losses, and all others."""
        unimodal = [n for n in names if n.startswith('loss_unimodal')]
        if not unimodal:
            raise ValueError(
                f'{type(self).__name__} combines fused and unimodal gradients, but the losses are '
                f"only {list(names)}: add dict(type='UnimodalCrossEntropy') to model.losses"
            )
        return {'fused': [n for n in names if n not in unimodal], 'unimodal': unimodal}

    def combine(self, gradients: Mapping[str, Gradients]) -> None:
        """See the class."""
        fused, unimodal = gradients['fused'], gradients['unimodal']
        owned: set[nn.Parameter] = set()
        for params in self._model.modality_parameters().values():
            both = [p for p in params if p in fused and p in unimodal]
            owned.update(both)
            if both:
                new = pareto_gradients(
                    [fused[p] for p in both], [unimodal[p] for p in both], self.gamma
                )
                for p, grad in zip(both, new, strict=True):
                    p.grad = grad
        for p in {**fused, **unimodal}:
            if p not in owned:
                parts = [g[p] for g in (fused, unimodal) if p in g]
                p.grad = parts[0] if len(parts) == 1 else parts[0] + parts[1]


@OPTIM_WRAPPERS.register_module()
class ParetoOptimWrapper(ParetoStep, OptimWrapper):
    """mmengine's ``OptimWrapper`` with MMPareto's gradients; see ``ParetoStep``."""


@OPTIM_WRAPPERS.register_module()
class ParetoAmpOptimWrapper(ParetoStep, AnyDeviceAmp):
    """mmengine's ``AmpOptimWrapper`` with MMPareto's gradients; see ``ParetoStep``."""
