"""Contribution from small pilot trainings on folds: for encoders that learn from scratch."""

import copy
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmengine.dist import get_world_size
from mmengine.registry import OPTIMIZERS
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from cal_mm.datasets import set_dataset_epoch
from cal_mm.models.contribution.functional import CoalitionPlan
from cal_mm.registry import CONTRIBUTION_SOURCES, MODELS
from cal_mm.structures import sample_key

from .estimate import CrossFittedSource

__all__ = ['PilotSource', 'preserved_rng', 'shuffled_batches', 'update_size']


@contextmanager
def preserved_rng(seed: int) -> Iterator[None]:
    """Seed every global generator inside and restore all of them after."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    states = random.getstate(), np.random.get_state()  # noqa: NPY002  (mmengine seeds this one)
    with torch.random.fork_rng(devices=devices):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002


@CONTRIBUTION_SOURCES.register_module()
class PilotSource(CrossFittedSource):
    """Grouped K-fold pilot training: I and D of samples that the pilot never saw.

    Per fold a fresh model of the run's own config (deterministic bottleneck, fused and unimodal
    cross-entropy) trains for a few updates on the other folds with the run's optimiser at its base
    rate; the fold's predictions are calibrated across folds.

    Args:
        folds: K >= 2. Samples with one ``group`` stay in one fold.
        updates: updates per fold, at least.
        share: of the run's updates, at least; the larger of the two counts.
        batch_size: default: the samples of one update, over micro-batches and ranks.
        seed: of the folds, the initialisation and the order.
        fallback: fall back to uniform W when the modalities do not differ by two standard errors.

    Source: ours; a prototype found that W from training batches points the wrong way on small or
    noisy data, and this does not.
    """

    def __init__(
        self,
        folds: int = 2,
        updates: int = 120,
        share: float = 0.0,
        batch_size: int | None = None,
        seed: int = 0,
        fallback: bool = True,
    ) -> None:
        if updates < 1:
            raise ValueError(f'PilotSource: updates must be at least 1, got {updates}')
        if not 0 <= share <= 1:
            raise ValueError(f'PilotSource: share must be in [0, 1], got {share}')
        super().__init__(folds, seed, fallback)
        self.updates = updates
        self.share = share
        self.batch_size = batch_size

    def predict(
        self, runner: Any, model: Any, labels: Tensor, folds: Tensor, plan: CoalitionPlan
    ) -> tuple[Tensor, Tensor]:
        """Predictions of a pilot per fold."""
        loader = runner.train_dataloader
        dataset = loader.dataset
        updates = max(self.updates, int(self.share * runner.max_iters))
        size = self.batch_size or update_size(runner, loader)
        shape = (len(labels), model.num_classes)
        coalitions = torch.zeros(plan.num_coalitions, *shape)
        unimodal = torch.zeros(len(model.modalities), *shape)
        with preserved_rng(sample_key('pilot', self.seed, runner.seed)):
            for fold in range(self.folds):
                runner.logger.info(f'contribution pilot {fold + 1}/{self.folds}: {updates} updates')
                pilot = self._build(runner, model)
                inside = (folds != fold).nonzero().flatten()
                held_out = (folds == fold).nonzero().flatten()
                self._train(pilot, runner, dataset, inside, updates, size)
                c, u = self._held_out(pilot, dataset, held_out, plan, size)
                coalitions[:, held_out], unimodal[:, held_out] = c, u
        return coalitions, unimodal

    @staticmethod
    def _build(runner: Any, model: Any) -> Any:
        cfg = copy.deepcopy(runner.cfg.model)
        cfg.contribution = None
        cfg.gate = 'none'
        cfg.unimodal_head = cfg.get('unimodal_head') or dict(type='LinearHead')
        cfg.losses = [dict(type='FusedCrossEntropy'), dict(type='UnimodalCrossEntropy', weight=1.0)]
        pilot = MODELS.build(cfg)
        pilot.init_weights()
        # fitted statistics of the front ends, not weights
        pilot.data_preprocessor.load_state_dict(model.data_preprocessor.state_dict())
        pilot.class_log_prior.copy_(model.class_log_prior.cpu())
        return pilot.to(next(model.parameters()).device)

    def _train(
        self, pilot: Any, runner: Any, dataset: Any, index: Tensor, updates: int, size: int
    ) -> None:
        cfg = copy.deepcopy(runner.cfg.optim_wrapper)
        params = [p for p in pilot.parameters() if p.requires_grad]
        optimizer = OPTIMIZERS.build(cfg.optimizer, default_args=dict(params=params))
        clip = {k: v for k, v in (cfg.get('clip_grad') or {}).items() if k != 'type'}
        pilot.train()
        for data in shuffled_batches(dataset, index, updates, size):
            data = pilot.data_preprocessor(data, training=True)
            total, _ = pilot.parse_losses(pilot(**data, mode='loss'))
            optimizer.zero_grad()
            total.backward()
            if clip.get('max_norm'):
                nn.utils.clip_grad_norm_(params, **clip)
            optimizer.step()

    @staticmethod
    @torch.no_grad()
    def _held_out(
        pilot: Any, dataset: Any, index: Tensor, plan: CoalitionPlan, size: int
    ) -> tuple[Tensor, Tensor]:
        pilot.eval()
        masks = plan.masks.to(next(pilot.parameters()).device)
        coalitions, unimodal = [], []
        loader = DataLoader(
            Subset(dataset, index.tolist()), batch_size=max(size, 64), collate_fn=pseudo_collate
        )
        for data in loader:
            data = pilot.data_preprocessor(data, training=False)
            state = pilot.state(**data)
            coalitions.append(state.coalition_logits(masks).float().cpu())
            heads = [state.mean_unimodal_logits(m) for m in pilot.modalities]
            unimodal.append(torch.stack(heads).float().cpu())
        return torch.cat(coalitions, dim=1), torch.cat(unimodal, dim=1)


def update_size(runner: Any, loader: Any) -> int:
    """Samples of one parameter update, over micro-batches and ranks."""
    every = getattr(runner.optim_wrapper, '_accumulative_counts', 1)
    return (loader.batch_size or 32) * every * get_world_size()


def shuffled_batches(dataset: Any, index: Tensor, updates: int, size: int) -> Iterator[Any]:
    """``updates`` shuffled batches of the samples in ``index``, epoch after epoch."""
    done, epoch = 0, 0
    while done < updates:
        set_dataset_epoch(dataset, epoch)
        subset = Subset(dataset, index.tolist())
        loader = DataLoader(
            subset,
            batch_size=min(size, len(subset)),
            shuffle=True,
            drop_last=True,
            collate_fn=pseudo_collate,
        )
        for data in loader:
            yield data
            done += 1
            if done == updates:
                break
        epoch += 1
    set_dataset_epoch(dataset, 0)
