"""Fits what the label-free per-sample W and the gates need, on clean validation data."""

from dataclasses import dataclass
from typing import Any

import torch
from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from torch import Tensor

from cal_mm.models.bottlenecks import posterior_numbers
from cal_mm.models.contribution.functional import best_temperature
from cal_mm.models.modes import evaluating
from cal_mm.registry import HOOKS

from .progress import unwrap

__all__ = ['CalibrationHook']

#: samples that a fit needs at least
LEAST = 8


@HOOKS.register_module()
class CalibrationHook(Hook):
    """Unimodal temperatures, typicality and the bottlenecks' statistics from the clean validation
    set, before a checkpoint is written. A sample counts for the modalities that it has.

    Runs at the end of every epoch that a checkpoint may be taken from. Test data are never touched.

    Args:
        interval: epochs; the last epoch is always included.
        max_samples: validation samples used at most (per rank).
    """

    priority = 'BELOW_NORMAL'

    def __init__(self, interval: int = 1, max_samples: int = 1000) -> None:
        self.interval = interval
        self.max_samples = max_samples

    def after_train_epoch(self, runner: Any) -> None:
        """Before the CheckpointHook (VERY_LOW)."""
        model = unwrap(runner.model)
        fitted = [getattr(model, name, None) for name in ('contribution', 'uncertainty')]
        if all(part is None for part in fitted) or runner.val_loop is None:
            return
        if self.every_n_epochs(runner, self.interval) or self.is_last_train_epoch(runner):
            self._calibrate(runner, model)

    @torch.no_grad()
    def _calibrate(self, runner: Any, model: Any) -> None:
        with evaluating(model):
            seen = self._collect(runner.val_dataloader, model)
        contribution: Any = getattr(model, 'contribution', None)
        for i, m in enumerate(model.modalities if contribution is not None else ()):
            there = seen.present[:, i]
            labels = seen.labels[there]
            if not len(labels):
                continue
            if m in seen.unimodal:
                contribution.temperature[i] = best_temperature(seen.unimodal[m][there], labels)
            if contribution.typicality is not None and len(labels) >= LEAST:
                contribution.typicality[m].fit(seen.features[m][there], labels)
        uncertainty = getattr(model, 'uncertainty', None)
        if uncertainty is not None and int(seen.present.sum(dim=0).min()) >= LEAST:
            uncertainty.fit(seen.posteriors, seen.present)

    def _collect(self, loader: Any, model: Any) -> '_Seen':
        features: dict[str, list[Tensor]] = {m: [] for m in model.modalities}
        unimodal: dict[str, list[Tensor]] = {m: [] for m in model.modalities}
        posteriors, present, labels = [], [], []
        count = 0
        for data in loader:
            data = model.data_preprocessor(data, training=False)
            state = model.state(**data)
            for m in model.modalities:
                features[m].append(state.features[m].float())
                if state.head is not None:
                    unimodal[m].append(state.mean_unimodal_logits(m).float())
            posteriors.append(posterior_numbers(model.bottlenecks, state.features, state.kl))
            labels.append(state.known_labels)
            here = state.present
            if here is None:
                here = torch.ones(state.batch_size, len(model.modalities), dtype=torch.bool)
            present.append(here.to(state.logits.device))
            count += state.batch_size
            if count >= self.max_samples:
                break
        return _Seen(
            features={m: _gather(torch.cat(parts)) for m, parts in features.items()},
            unimodal={m: _gather(torch.cat(parts)) for m, parts in unimodal.items() if parts},
            posteriors=_gather(torch.cat(posteriors)),
            present=_gather(torch.cat(present).to(torch.uint8)).bool(),
            labels=_gather(torch.cat(labels)),
        )


@dataclass
class _Seen:
    """What the model made of N clean samples, of every rank.

    Attributes:
        features: {m: [N, H_m]}.
        unimodal: {m: [N, C]}; empty without unimodal heads.
        posteriors: KL and entropy, [N, M, 2].
        present: bool [N, M].
        labels: int64 [N].
    """

    features: dict[str, Tensor]
    unimodal: dict[str, Tensor]
    posteriors: Tensor
    present: Tensor
    labels: Tensor


def _gather(values: Tensor) -> Tensor:
    """The rows of every rank (equal counts: the validation sampler pads)."""
    if get_world_size() == 1:
        return values
    parts = [torch.empty_like(values) for _ in range(get_world_size())]
    torch.distributed.all_gather(parts, values.contiguous())
    return torch.cat(parts)
