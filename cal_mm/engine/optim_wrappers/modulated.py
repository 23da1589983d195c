"""OptimWrappers that act on a modality's gradients once per update, between the reduced backward
pass and clipping.
"""

import inspect
import math
from collections.abc import Mapping
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from cal_mm.registry import MODULATORS, OPTIM_WRAPPERS
from cal_mm.structures import sample_key

from ..modulators import Modulator
from .amp import AnyDeviceAmp
from .bound import BoundStep

__all__ = ['CALAmpOptimWrapper', 'CALOptimWrapper', 'ModulatedStep', 'is_scale_invariant']

TARGETS = ('auto', 'gradient', 'update', 'feature')


def is_scale_invariant(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a constant factor on the gradient leaves the optimiser's update as it is (Adam and
    its kin).

    Found out by taking one step with g and one with 4 g on a number of its own.
    """
    moves = []
    for factor in (1.0, 4.0):
        p = nn.Parameter(torch.tensor([1.0, -2.0]))
        probe = type(optimizer)([p], **_probe_arguments(optimizer))
        before = p.detach().clone()
        p.grad = factor * torch.tensor([0.3, 0.1])
        probe.step()
        moves.append(p.detach() - before)
    return bool(torch.allclose(moves[0], moves[1], rtol=0.05))


def _probe_arguments(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimiser's own settings, as far as its constructor takes them, without weight decay and
    fused kernels.
    """
    takes = inspect.signature(type(optimizer)).parameters
    skip = ('capturable', 'fused', 'foreach', 'differentiable', 'weight_decay')
    return {k: v for k, v in optimizer.defaults.items() if k in takes and k not in skip}


class ModulatedStep(BoundStep):
    """Mixin over an OptimWrapper's ``step``: closes the contribution ledger and applies k_m.

    ``step`` runs once per update on complete gradients (after accumulation, after DDP's reduction),
    before clipping. k is the same on every rank because the ledger is reduced over them.

    Args:
        modulator: config of a registered modulator; None: the ledger is closed, nothing is scaled.
        apply_to: ``gradient``: multiply the gradient of the modality's encoder and bottleneck;
            ``update``: multiply the step that the optimiser takes for them (the modality's learning
                rate); ``feature``: a scale node at z_m, which reaches the task gradient but not
            the bottleneck's KL (it uses the k of the update before); ``auto``: ``update`` for
            optimisers that cancel a constant factor of the gradient (Adam and its kin), else
            ``gradient``.

    Source: reconstruction of CAL; ``update`` and ``feature`` are ours.
    """

    optimizer: torch.optim.Optimizer

    def __init__(
        self, *args: Any, modulator: dict | None = None, apply_to: str = 'auto', **kwargs: Any
    ) -> None:
        if apply_to not in TARGETS:
            raise ValueError(f'optim_wrapper.apply_to must be one of {TARGETS}, got {apply_to!r}')
        self.modulator = (
            MODULATORS.build(modulator) if isinstance(modulator, Mapping) else modulator
        )
        if apply_to == 'feature' and not getattr(self.modulator, 'only_scales', True):
            raise ValueError(
                f"optim_wrapper.apply_to='feature' leaves {type(self.modulator).__name__} nothing "
                f'but its factors: it changes gradients beyond them, or those of some parameters '
                f"only; use 'auto', 'gradient' or 'update'"
            )
        self.apply_to = apply_to
        self.factors: Tensor | None = None
        super().__init__(*args, **kwargs)

    def bind(self, model: Any) -> None:
        """See ``BoundStep``; also settles what k acts on.

        Raises:
            ValueError: the modulator needs W and the model does not measure it.
        """
        super().bind(model)
        model = self._model
        if self.modulator is None:
            return
        if not self._reads_weights:
            self.observe('modulator', self.modulator.statistics)
        elif getattr(model, 'contribution', None) is None:
            raise ValueError(
                f'optim_wrapper.modulator={type(self.modulator).__name__} needs W, but '
                f'model.contribution is None'
            )
        if self.apply_to == 'auto':
            self.apply_to = 'update' if is_scale_invariant(self.optimizer) else 'gradient'
            reason = (
                'cancels a constant factor of the gradient'
                if self.apply_to == 'update'
                else 'keeps a factor of the gradient'
            )
            print_log(
                f'gradient acceleration acts on the {self.apply_to} '
                f'({type(self.optimizer).__name__} {reason})',
                logger='current',
            )
        model.scales_features = self.apply_to == 'feature'

    def step(self, **kwargs: Any) -> None:
        """One parameter update: W, k, scale, clip, step."""
        if self._model is None:  # used without a Runner and never bound
            super().step(**kwargs)  # type: ignore[misc]
            return
        self.factors = factors = self._new_factors(self._model.finish_update())
        if factors is None or self.apply_to == 'feature':
            super().step(**kwargs)  # type: ignore[misc]
            if factors is not None:
                self._model.feature_scale.copy_(factors)
        elif self.apply_to == 'update':
            self._adjust(factors)
            with self._scaled_updates(factors):
                super().step(**kwargs)  # type: ignore[misc]
        else:
            self._scale_gradients(factors)
            self._adjust(factors)
            super().step(**kwargs)  # type: ignore[misc]

    def method_state(self) -> dict[str, Any]:
        """See ``BoundStep``: the modulator's."""
        return self.modulator.state() if isinstance(self.modulator, Modulator) else {}

    def load_method_state(self, state: dict[str, Any]) -> None:
        """See ``BoundStep``: the modulator's."""
        if isinstance(self.modulator, Modulator):
            self.modulator.load_state(state)

    @property
    def _reads_weights(self) -> bool:
        return getattr(self.modulator, 'needs_contribution', True)

    def _new_factors(self, weights: Tensor | None) -> Tensor | None:
        """k [M] of this update; None where there is nothing to compute it from."""
        values = weights
        if not self._reads_weights:
            values = self.ledger.close().get('modulator')
        if self.modulator is None or values is None:
            return None
        if not self._reads_weights:
            values = self.modulator.finish(values)
        values = values.detach().float() if self._reads_weights else values
        factors = self.modulator(values, self.progress)
        self._check(factors)
        return factors.to(self._model.class_log_prior)

    @staticmethod
    def _check(factors: Tensor) -> None:
        if not all(0 < k < math.inf for k in factors.tolist()):
            raise ValueError(
                f'the modulator gave factors that are not positive: {factors.tolist()}'
            )

    def _owned(self, factors: Tensor) -> list[tuple[list[nn.Parameter], float]]:
        """Parameters with a gradient and their factor; those with factor 1 are left alone."""
        out = []
        for params, factor in zip(
            self._model.modality_parameters().values(), factors.tolist(), strict=True
        ):
            with_grad = self._scaled(params)
            if factor != 1.0 and with_grad:
                out.append((with_grad, factor))
        return out

    def _scaled(self, params: list[nn.Parameter]) -> list[nn.Parameter]:
        """Those of a modality's parameters that k scales."""
        with_grad = [p for p in params if p.grad is not None]
        if getattr(self.modulator, 'parameters', 'all') == 'conv':
            # the kernels of 1-d, 2-d and 3-d convolutions
            return [p for p in with_grad if p.dim() > 2] or with_grad
        return with_grad

    def _scale_gradients(self, factors: Tensor) -> None:
        for params, factor in self._owned(factors):
            torch._foreach_mul_([p.grad for p in params if p.grad is not None], factor)

    def _adjust(self, factors: Tensor) -> None:
        if isinstance(self.modulator, Modulator):
            owned = {m: self._scaled(p) for m, p in self._model.modality_parameters().items()}
            seed = sample_key('modulator', self._model.seed, self.progress.update)
            scaler = getattr(self, 'loss_scaler', None)
            if scaler is not None and self.modulator.needs_loss_scale:
                self.modulator.loss_scale = float(scaler.get_scale())
            self.modulator.adjust(owned, factors, self.progress, seed)

    @contextmanager
    def _scaled_updates(self, factors: Tensor) -> Any:
        """Let the optimiser step, then stretch the modality's step by its factor: p_old + k (p_new
        - p_old).

        That is the modality's learning rate times k, for any optimiser, whatever its parameter
        groups are.
        """
        owned = self._owned(factors)
        before = [[p.detach().clone() for p in params] for params, _ in owned]
        yield
        for (params, factor), old in zip(owned, before, strict=True):
            new = [p.detach() for p in params]
            moved = torch._foreach_sub(new, old)
            torch._foreach_mul_(moved, factor)
            torch._foreach_copy_(new, torch._foreach_add(old, moved))


@OPTIM_WRAPPERS.register_module()
class CALOptimWrapper(ModulatedStep, OptimWrapper):
    """mmengine's ``OptimWrapper`` with CAL's acceleration; see ``ModulatedStep`` for the
    arguments.
    """


@OPTIM_WRAPPERS.register_module()
class CALAmpOptimWrapper(ModulatedStep, AnyDeviceAmp):
    """mmengine's ``AmpOptimWrapper`` with CAL's acceleration; see ``ModulatedStep`` for the
    arguments.

    The factors multiply the still-scaled gradient, so nothing is unscaled twice. Unlike mmengine's
    it also runs on a CPU, with bfloat16 and no loss scaling.
    """
