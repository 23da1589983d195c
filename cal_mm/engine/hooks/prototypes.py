"""Measures PMR's class prototypes before every epoch."""

from typing import Any

import torch
from mmengine.hooks import Hook

from cal_mm.models.losses.prototypes import PrototypeRebalance, class_means
from cal_mm.registry import HOOKS
from cal_mm.structures import sample_key
from cal_mm.wrapping import unwrap

from ..collect import collect_samples
from .subsets import loss_component

__all__ = ['PrototypeHook']


@HOOKS.register_module()
class PrototypeHook(Hook):
    """Class means of z_m over a share of the training data, for ``PrototypeRebalance``.

    The share is drawn anew each epoch from (seed, epoch), the same on every rank. Nothing is kept
    here: the prototypes are the loss's.

    Args:
        share: of the training samples, in (0, 1]; at least ``least`` samples.
        least: samples at least.
    """

    def __init__(self, share: float = 0.1, least: int = 64) -> None:
        if not 0 < share <= 1:
            raise ValueError(f'PrototypeHook: share must be in (0, 1], got {share}')
        self.share, self.least = share, least

    def before_train_epoch(self, runner: Any) -> None:
        """Measure with the weights that the epoch starts from."""
        model = unwrap(runner.model)
        loss = loss_component(model, PrototypeRebalance, 'PrototypeHook')
        total = len(runner.train_dataloader.dataset)
        count = min(total, max(self.least, round(self.share * total)))
        generator = torch.Generator().manual_seed(
            sample_key('prototypes', runner.seed, runner.epoch)
        )
        chosen = torch.randperm(total, generator=generator)[:count].tolist()
        seen = collect_samples(model, runner.train_dataloader, sorted(chosen))
        for i, m in enumerate(model.modalities):
            means, there = class_means(
                seen.z[m], seen.labels, model.num_classes, seen.present[:, i]
            )
            # those of the untrained encoder are no part of the average
            loss.set_prototypes(m, means, there, anew=runner.epoch <= 1)
