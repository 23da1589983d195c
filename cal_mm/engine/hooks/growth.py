"""AUG's schedule: the weaker modality's classifier gets a block, now and then."""

from typing import Any

import torch
from mmengine.hooks import Hook

from cal_mm.models.fusions.boosted import BoostedFusion
from cal_mm.models.losses.boosting import true_class_score
from cal_mm.registry import HOOKS
from cal_mm.structures import epochs_of
from cal_mm.wrapping import unwrap

from ..collect import collect_samples

__all__ = ['GrowthHook']


@HOOKS.register_module()
class GrowthHook(Hook):
    """Every ``interval`` epochs the modality with the lowest mean p(label) on training data grows.

    Args:
        interval: epochs; a float in (0, 1) is a share of the run.
        tolerance: the best modality must lead by more than this, >= 0.
        max_samples: training samples looked at, at most.
    """

    def __init__(
        self, interval: int | float = 0.1, tolerance: float = 0.01, max_samples: int = 1000
    ) -> None:
        if interval <= 0 or tolerance < 0:
            raise ValueError(
                f'GrowthHook: need interval > 0 and tolerance >= 0, got {interval}, {tolerance}'
            )
        self.interval, self.tolerance, self.max_samples = interval, tolerance, max_samples

    def before_train_epoch(self, runner: Any) -> None:
        """Compare, and let the weaker grow."""
        if not runner.epoch or runner.epoch % epochs_of(self.interval, runner.max_epochs):
            return
        model = unwrap(runner.model)
        if not isinstance(model.fusion, BoostedFusion):
            raise ValueError(
                f"GrowthHook needs model.fusion=dict(type='BoostedFusion'), got "
                f'{type(model.fusion).__name__}'
            )
        total = len(runner.train_dataloader.dataset)
        step = max(1, -(-total // self.max_samples))
        seen = collect_samples(model, runner.train_dataloader, range(0, total, step))
        scores = []
        for i, m in enumerate(model.modalities):
            there = seen.present[:, i]
            u = model.fusion.unimodal_logits({m: seen.z[m][there]})[m].detach()
            scores.append(float(true_class_score(u, seen.labels[there])))
        weakest = model.modalities[int(torch.tensor(scores).argmin())]
        if max(scores) - min(scores) > self.tolerance and model.fusion.grow(weakest):
            runner.logger.info(f'AUG: {weakest} gets a block, {model.fusion.active.tolist()}')
