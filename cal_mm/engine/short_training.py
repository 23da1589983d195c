"""Trainings of copies of a model: teachers, and measurements of how a head generalises."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmengine.registry import OPTIMIZERS, PARAM_SCHEDULERS
from torch import Tensor, nn
from torch.nn import functional as F

from cal_mm.datasets import set_dataset_epoch
from cal_mm.models.bookkeeping import StepRecord
from cal_mm.models.losses.components import masked_mean
from cal_mm.models.state import ForwardState

from .sources.pilot import preserved_rng, shuffled_batches, update_size

__all__ = ['clone_of', 'cross_entropies', 'train_clone', 'updates_per_epoch']


def clone_of(model: Any) -> Any:
    """A deep copy of an unwrapped model that books nothing for the original's OptimWrapper."""
    record, model.record = model.record, StepRecord()
    try:
        clone = copy.deepcopy(model)
    finally:
        model.record = record
    clone.contribution = None
    clone.progress = None
    clone.zero_grad(set_to_none=True)
    return clone


def updates_per_epoch(runner: Any) -> int:
    """Parameter updates of an epoch of the run."""
    every = getattr(runner.optim_wrapper, '_accumulative_counts', 1)
    return max(1, -(-len(runner.train_dataloader) // every))


def cross_entropies(
    state: ForwardState, heads: Mapping[str, nn.Module] | None = None
) -> dict[str, Tensor]:
    """Cross-entropy of every modality's logits: the model's own, or those of ``heads`` on z_m."""
    losses = {}
    for m in state.modalities:
        logits = state.unimodal_logits(m) if heads is None else heads[m](state.z[m])
        ce = F.cross_entropy(logits.float(), state.known_labels, reduction='none')
        losses[m] = masked_mean(ce, state.present_mask(m))
    return losses


def train_clone(
    runner: Any,
    clone: Any,
    groups: Sequence[list[nn.Parameter]],
    objective: Callable[[ForwardState], Tensor],
    indices: Tensor,
    updates: int,
    key: int,
    scheduled: bool = False,
) -> None:
    """Train ``clone`` with the run's optimiser; nothing else is changed.

    Args:
        runner: its config, its training data and its rate are used.
        clone: of :func:`clone_of`; it is in training mode.
        groups: parameters that learn; each group's gradient is clipped on its own.
        objective: scalar from the state of a batch.
        indices: int64 [N], the training samples.
        updates: parameter updates.
        key: seed of order and dropout; the global generators are restored.
        scheduled: the rate goes through the run's schedule from its start; otherwise it stays what
            the run's is at present.
    """
    wrapper = copy.deepcopy(runner.cfg.optim_wrapper)
    params = [p for group in groups for p in group]
    optimizer = OPTIMIZERS.build(wrapper.optimizer, default_args=dict(params=params))
    schedule = _Schedule(runner, optimizer) if scheduled else None
    if schedule is None:
        rate = runner.optim_wrapper.optimizer.param_groups[0]['lr']
        for group in optimizer.param_groups:
            group['lr'] = rate
    clip = {k: v for k, v in (wrapper.get('clip_grad') or {}).items() if k != 'type'}
    dataset = runner.train_dataloader.dataset
    clone.train()
    with preserved_rng(key):
        for data in shuffled_batches(
            dataset, indices, updates, update_size(runner, runner.train_dataloader)
        ):
            data = clone.data_preprocessor(data, training=True)
            clone.forward_count += 1  # fresh noise
            loss = objective(clone.state(**data, training=True))
            optimizer.zero_grad()
            loss.backward()
            for group in groups:
                if clip.get('max_norm'):
                    nn.utils.clip_grad_norm_(group, **clip)
            optimizer.step()
            if schedule is not None:
                schedule.step()
    set_dataset_epoch(dataset, runner.epoch)
    for p in clone.parameters():
        p.grad = None


class _Schedule:
    """The run's schedulers on another optimiser, stepped once per update.

    Those that wait for a validation figure are left out: a copy is not validated.
    """

    def __init__(self, runner: Any, optimizer: Any) -> None:
        given: Any = copy.deepcopy(runner.cfg.get('param_scheduler') or [])
        self.per_epoch = updates_per_epoch(runner)
        self.micro_batches = getattr(runner.optim_wrapper, '_accumulative_counts', 1)
        self.updates = 0
        self.schedulers = []
        cfg: Any
        for cfg in [given] if isinstance(given, Mapping) else given:
            if 'OnPlateau' in str(cfg.type):
                continue
            by_epoch = cfg.get('by_epoch', True)
            cfg.setdefault('end', runner.max_epochs if by_epoch else runner.max_iters)
            defaults = dict(optimizer=optimizer, epoch_length=len(runner.train_dataloader))
            self.schedulers.append(PARAM_SCHEDULERS.build(cfg, default_args=defaults))

    def step(self) -> None:
        """After an update."""
        self.updates += 1
        for scheduler in self.schedulers:
            if not scheduler.by_epoch:  # mmengine counts micro-batches
                for _ in range(self.micro_batches):
                    scheduler.step()
            elif self.updates % self.per_epoch == 0:
                scheduler.step()
