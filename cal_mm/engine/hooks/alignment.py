"""Moves LFM's weight of the alignment before every epoch."""

from typing import Any

import torch
from mmengine.dist import broadcast, is_main_process
from mmengine.hooks import Hook
from torch import Tensor

from cal_mm.models.losses.agreement import GapAlignment
from cal_mm.models.modes import evaluating
from cal_mm.registry import HOOKS
from cal_mm.wrapping import unwrap

from ..collect import plain_loader, prepared_batches
from ..short_training import clone_of
from .subsets import held_out, loss_component, some_of

__all__ = ['AlignmentWeightHook', 'alignment_step']


def alignment_step(held_out: Tensor, align: Tensor, classify: Tensor) -> float:
    """How much more the alignment's gradient helps held-out samples than the classification's.

    After a step along g_total = (1 - a) g_class + a g_align the held-out loss changes by
    -lr <g_held, g_total>; its derivative by a is -lr <g_held, g_align - g_class>. Norms are divided
    out, so that neither loss wins by its scale.

    Args:
        held_out, align, classify: gradients, [P].

    Returns:
        cos(g_held, g_align) - cos(g_held, g_class), in [-2, 2].
    """

    def cosine(a: Tensor, b: Tensor) -> float:
        return float(a @ b / (a.norm() * b.norm()).clamp_min(1e-12))

    return cosine(held_out, align) - cosine(held_out, classify)


@HOOKS.register_module()
class AlignmentWeightHook(Hook):
    """Before every epoch: a <- clip(a + rate * :func:`alignment_step`, least, most).

    The gradients are those of two disjoint parts of the training data, split by group. Rank 0
    measures, every rank takes the same weight over.

    Args:
        rate: step of a, > 0.
        least, most: bounds of a, in [0, 1].
        max_samples: of each part, at most.
        share: of the groups that is held out.
    """

    def __init__(
        self,
        rate: float = 0.05,
        least: float = 0.05,
        most: float = 0.95,
        max_samples: int = 256,
        share: float = 0.2,
    ) -> None:
        if rate <= 0 or not 0 <= least <= most <= 1:
            raise ValueError(
                f'AlignmentWeightHook: need rate > 0 and 0 <= least <= most <= 1, got {rate}, '
                f'{least}, {most}'
            )
        self.rate, self.least, self.most = rate, least, most
        self.max_samples, self.share = max_samples, share

    def before_train_epoch(self, runner: Any) -> None:
        """Measure with the weights that the epoch starts from."""
        model = unwrap(runner.model)
        loss = loss_component(model, GapAlignment, 'AlignmentWeightHook')
        weight = loss.alignment.clone()
        if is_main_process():
            weight += self.rate * self._measure(runner, model)
            weight.clamp_(self.least, self.most)
        broadcast(weight, src=0)
        loss.alignment.copy_(weight)
        runner.logger.info(f'LFM weight of the alignment: {float(weight):.3f}')

    def _measure(self, runner: Any, model: Any) -> float:
        dataset = runner.train_dataloader.dataset
        inside, outside = held_out(dataset, self.share, 'lfm')
        clone = clone_of(model)
        class_here, align_here = self._gradients(runner, clone, inside)
        class_there, _ = self._gradients(runner, clone, outside)
        return alignment_step(class_there, align_here, class_here)

    def _gradients(self, runner: Any, model: Any, indices: list[int]) -> tuple[Tensor, Tensor]:
        """Mean gradients of both terms, in evaluation mode: [P] each."""
        size = runner.train_dataloader.batch_size or 64
        params = [p for p in model.parameters() if p.requires_grad]
        chosen = some_of(indices, self.max_samples, 'lfm')
        loader = plain_loader(runner.train_dataloader.dataset, max(size, 64), chosen)
        sums = [0.0, 0.0]
        with evaluating(model):
            for data in prepared_batches(model, loader):
                state = model.state(**data)
                for i, term in enumerate(GapAlignment.terms(state)):
                    found = torch.autograd.grad(
                        term, params, retain_graph=i == 0, allow_unused=True
                    )
                    flat = torch.cat(
                        [
                            (torch.zeros_like(p) if g is None else g).flatten().double()
                            for p, g in zip(params, found, strict=True)
                        ]
                    )
                    sums[i] = sums[i] + state.batch_size * flat
        return sums[0], sums[1]  # type: ignore[return-value]
