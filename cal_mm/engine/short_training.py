"""Trainings of copies of a model: teachers, pilots, and measurements of how a head generalises."""

import copy
import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmengine.dist import get_world_size
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import OPTIMIZERS, PARAM_SCHEDULERS
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset

from cal_mm.datasets import set_dataset_epoch
from cal_mm.models.bookkeeping import StepRecord
from cal_mm.models.losses.components import masked_mean
from cal_mm.models.state import ForwardState
from cal_mm.models.update_mean import UpdateMean
from cal_mm.wrapping import unwrap

__all__ = [
    'alone',
    'clone_of',
    'cross_entropies',
    'micro_batch_size',
    'preserved_rng',
    'shuffled_batches',
    'step_of_run',
    'train_clone',
    'update_size',
    'updates_per_epoch',
]


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


def alone(model: Any) -> Any:
    """``model`` as one rank can train it: nothing in it waits for the others."""
    for part in model.modules():
        if isinstance(part, UpdateMean):
            part.local = True
    return revert_sync_batchnorm(model)


def clone_of(model: Any) -> Any:
    """A deep copy of an unwrapped model, for one rank (:func:`alone`), that books nothing for the
    original's OptimWrapper.
    """
    record, model.record = model.record, StepRecord()
    try:
        clone = copy.deepcopy(model)
    finally:
        model.record = record
    clone.contribution = None
    clone.progress = None
    clone.zero_grad(set_to_none=True)
    return alone(clone)


def micro_batch_size(loader: Any) -> int:
    """Samples of one forward pass of the run."""
    return loader.batch_size or 32


def update_size(runner: Any, loader: Any) -> int:
    """Samples of one parameter update, over micro-batches and ranks."""
    every = getattr(runner.optim_wrapper, '_accumulative_counts', 1)
    return micro_batch_size(loader) * every * get_world_size()


def shuffled_batches(
    dataset: Any, index: Tensor, updates: int, size: int, most: int
) -> Iterator[list[tuple[float, Any]]]:
    """``updates`` shuffled batches of the samples in ``index``, epoch after epoch.

    Args:
        dataset: of packed samples.
        index: int64 [N].
        updates: parameter updates.
        size: samples of an update.
        most: samples of one forward pass, at most.

    Yields:
        The micro-batches of an update, collated, each after its share of the samples.
    """

    def split(rows: list[Any]) -> list[tuple[float, Any]]:
        count = -(-len(rows) // most)
        bounds = [len(rows) * i // count for i in range(count + 1)]  # no rest of a single sample
        parts = [rows[a:b] for a, b in itertools.pairwise(bounds)]
        return [(len(part) / len(rows), pseudo_collate(part)) for part in parts]

    done, epoch = 0, 0
    while done < updates:
        set_dataset_epoch(dataset, epoch)
        subset = Subset(dataset, index.tolist())
        loader = DataLoader(
            subset,
            batch_size=min(size, len(subset)),
            shuffle=True,
            drop_last=True,
            collate_fn=split,
        )
        for parts in loader:
            yield parts
            done += 1
            if done == updates:
                break
        epoch += 1
    set_dataset_epoch(dataset, 0)


def updates_per_epoch(runner: Any) -> int:
    """Parameter updates of an epoch of the run."""
    every = getattr(runner.optim_wrapper, '_accumulative_counts', 1)
    return max(1, -(-len(runner.train_dataloader) // every))


def step_of_run(
    runner: Any,
    model: nn.Module,
    groups: Sequence[list[nn.Parameter]],
    scheduled: bool = False,
    present: bool = False,
) -> Callable[[Iterable[Tensor]], None]:
    """A new optimiser as the run's config has it; the returned function steps along a sum of
    losses, each differentiated before the next is asked for.

    Args:
        runner: its config's optimiser and clipping are used, and where the config tells parameters
            apart (``paramwise_cfg``, ``constructor``) what its optimiser has for each.
        model: a copy of the run's model, or one that is built like it.
        groups: parameters that learn; each group's gradient is clipped on its own.
        scheduled: the rates go through the run's schedule from its start.
        present: the rates are what the run's are at present; otherwise those of the config.
    """
    cfg = copy.deepcopy(runner.cfg.optim_wrapper)
    params: list[Any] = [p for group in groups for p in group]
    apart = bool(cfg.get('paramwise_cfg') or cfg.get('constructor'))
    if apart:
        params = _groups_of_run(runner, model, params, present)
    optimizer = OPTIMIZERS.build(cfg.optimizer, default_args=dict(params=params))
    if present and not apart:
        for group in optimizer.param_groups:
            group['lr'] = runner.optim_wrapper.optimizer.param_groups[0]['lr']
    schedule = _Schedule(runner, optimizer) if scheduled else None
    clip = {k: v for k, v in (cfg.get('clip_grad') or {}).items() if k != 'type'}

    def step(losses: Iterable[Tensor]) -> None:
        optimizer.zero_grad()
        for loss in losses:
            loss.backward()
        for group in groups:
            if clip.get('max_norm'):
                nn.utils.clip_grad_norm_(group, **clip)
        optimizer.step()
        if schedule is not None:
            schedule.step()

    return step


def _groups_of_run(
    runner: Any, model: nn.Module, params: Sequence[nn.Parameter], present: bool
) -> list[dict[str, Any]]:
    """A group for each of ``params``, with what the run's optimiser has for the parameter of the
    same name. A parameter that the run does not have learns at the config's rate.
    """
    groups = {id(p): g for g in runner.optim_wrapper.optimizer.param_groups for p in g['params']}
    of_run = {n: groups.get(id(p), {}) for n, p in unwrap(runner.model).named_parameters()}
    names = {id(p): n for n, p in model.named_parameters()}
    found = []
    for p in params:
        group = of_run.get(names.get(id(p), ''), {})
        # a scheduler keeps what it started from under this prefix
        options = {
            k: group.get(f'initial_{k}', v)
            for k, v in group.items()
            if k != 'params' and not k.startswith('initial_')
        }
        if present and group:
            options['lr'] = group['lr']
        found.append({**options, 'params': [p]})
    return found


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

    An update has the samples of one of the run's, over its micro-batches and ranks, and goes
    through in micro-batches of the run's size.

    Args:
        runner: its config, its training data and its rate are used.
        clone: of :func:`clone_of`; it is in training mode.
        groups: parameters that learn; each group's gradient is clipped on its own.
        objective: scalar from the state of a batch, a mean over its samples.
        indices: int64 [N], the training samples.
        updates: parameter updates.
        key: seed of order and dropout; the global generators are restored.
        scheduled: the rate goes through the run's schedule from its start; otherwise it stays what
            the run's is at present.
    """
    step = step_of_run(runner, clone, groups, scheduled, present=not scheduled)
    loader = runner.train_dataloader
    dataset, size, most = loader.dataset, update_size(runner, loader), micro_batch_size(loader)

    def loss(data: Any) -> Tensor:
        return objective(clone.state(**clone.data_preprocessor(data, training=True), training=True))

    clone.train()
    with preserved_rng(key):
        for parts in shuffled_batches(dataset, indices, updates, size, most):
            clone.forward_count += 1  # fresh noise
            step(share * loss(data) for share, data in parts)
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
