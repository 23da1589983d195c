"""Measures G-Blending's weights by short trainings of copies, once per super-epoch."""

from typing import Any

import torch
from mmengine.dist import broadcast, is_main_process
from mmengine.hooks import Hook
from torch import Tensor
from torch.nn import functional as F

from cal_mm.models.losses.blended import BlendedCrossEntropy, blending_weights
from cal_mm.registry import HOOKS
from cal_mm.structures import epochs_of, sample_key
from cal_mm.wrapping import unwrap

from ..collect import collect, plain_loader
from ..short_training import clone_of, cross_entropies, train_clone, updates_per_epoch
from .subsets import held_out, loss_component, some_of

__all__ = ['GBlendingHook']


@HOOKS.register_module()
class GBlendingHook(Hook):
    """Before every super-epoch: how do the fused head and each modality's overfit and generalise?

    Two copies of the model train for a while on a part of the training data, one on CE(y), one on
    sum_m CE(u_m) (the modalities share no parameter, so that is M trainings at once). The rest of
    the training data, held out by group, measures generalisation; validation data are not
    touched. Rank 0 measures, every rank takes the same weights over.

    Args:
        super_epoch: epochs between measurements; a float in (0, 1) is a share of the run.
        updates: of each short training; None: those of one epoch.
        share: of the training groups that is held out, in (0, 1).
        max_samples: samples on which each loss is measured, at most; as many of the training part
            as are held out.
    """

    def __init__(
        self,
        super_epoch: int | float = 5,
        updates: int | None = None,
        share: float = 0.2,
        max_samples: int = 1000,
    ) -> None:
        if super_epoch <= 0 or (updates is not None and updates < 1):
            raise ValueError(
                f'GBlendingHook: super_epoch and updates must be positive, got {super_epoch} and '
                f'{updates}'
            )
        self.super_epoch, self.updates = super_epoch, updates
        self.share, self.max_samples = share, max_samples

    def before_train_epoch(self, runner: Any) -> None:
        """Measure at the start of a super-epoch."""
        model = unwrap(runner.model)
        loss = loss_component(model, BlendedCrossEntropy, 'GBlendingHook')
        if runner.epoch % epochs_of(self.super_epoch, runner.max_epochs):
            return
        weights = loss.weights.clone()
        if is_main_process():
            weights.copy_(self._measure(runner, model))
        broadcast(weights, src=0)
        loss.weights.copy_(weights)
        names = ('fused', *model.modalities)
        shown = ', '.join(f'{n} {w:.3f}' for n, w in zip(names, weights.tolist(), strict=True))
        runner.logger.info(f'G-Blending weights: {shown}')

    def _measure(self, runner: Any, model: Any) -> Tensor:
        dataset = runner.train_dataloader.dataset
        inside, outside = held_out(dataset, self.share, 'g_blending')
        key = sample_key('g_blending', runner.seed, runner.epoch)
        updates = self.updates or updates_per_epoch(runner)
        outside = some_of(outside, self.max_samples, 'g_blending')
        seen = some_of(inside, len(outside), 'g_blending')
        before = self._losses(runner, model, seen, outside)
        after = []
        for fused in (True, False):
            clone = clone_of(model)
            trained = [p for p in clone.parameters() if p.requires_grad]
            groups = [trained] if fused else _by_modality(clone)

            def objective(state: Any, fused: bool = fused) -> Tensor:
                if fused:
                    return F.cross_entropy(state.logits.float(), state.known_labels)
                return torch.stack(list(cross_entropies(state).values())).sum()

            train_clone(runner, clone, groups, objective, torch.tensor(inside), updates, key)
            after.append(self._losses(runner, clone, seen, outside))
        return blending_weights(before, torch.cat([after[0][:1], after[1][1:]]))

    def _losses(self, runner: Any, model: Any, inside: list[int], outside: list[int]) -> Tensor:
        """[1 + M, 2]: training and held-out loss of the fused head and of each modality."""
        size = runner.train_dataloader.batch_size or 64
        columns = []
        for indices in (inside, outside):
            loader = plain_loader(runner.train_dataloader.dataset, max(size, 64), indices)
            seen = collect(model, loader)
            rows = [F.cross_entropy(seen.logits.double(), seen.labels)]
            for i, m in enumerate(model.modalities):
                there = seen.present[:, i]
                rows.append(F.cross_entropy(seen.unimodal[m][there].double(), seen.labels[there]))
            columns.append(torch.stack(rows))
        return torch.stack(columns, dim=1).nan_to_num(0.0)


def _by_modality(clone: Any) -> list[list[Any]]:
    """Each modality's parameters with those of its head."""
    owned = clone.modality_parameters()
    if clone.heads is None:  # the fusion is everybody's head
        rest = [p for p in clone.fusion.parameters() if p.requires_grad]
        return [*owned.values(), rest]
    return [[*params, *clone.heads[m].parameters()] for m, params in owned.items()]
