"""Brings UMT its unimodal teachers: from checkpoints, or trained on the spot."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.dist import broadcast, is_main_process
from mmengine.hooks import Hook
from torch import Tensor, nn

from cal_mm.compat import load_trusted_types
from cal_mm.models.heads import LinearHead
from cal_mm.models.losses.distillation import TeacherDistillation
from cal_mm.models.noise import isolated_rng
from cal_mm.registry import HOOKS
from cal_mm.structures import sample_key
from cal_mm.wrapping import unwrap

from ..short_training import clone_of, cross_entropies, train_clone, updates_per_epoch
from .subsets import loss_component

__all__ = ['TeacherHook', 'teachers_like']

STORED = 'umt_teachers'


class _Teacher(nn.Module):
    """A copy of one modality's encoder (None where it is frozen) and bottleneck."""

    def __init__(self, model: Any, modality: str) -> None:
        super().__init__()
        encoder = model.encoders[modality]
        frozen = getattr(encoder, 'frozen', False)
        self.encoder = None if frozen else copy.deepcopy(encoder)
        self.bottleneck = copy.deepcopy(model.bottlenecks[modality])


def teachers_like(model: Any) -> dict[str, nn.Module]:
    """A teacher per modality with the model's present encoders and bottlenecks, in copies."""
    return {m: _Teacher(model, m) for m in model.modalities}


@HOOKS.register_module()
class TeacherHook(Hook):
    """Before training: a teacher per modality for ``TeacherDistillation``.

    A teacher has the student's encoder and bottleneck. Without a checkpoint it starts where the
    student starts and learns CE(u_m) alone, with a linear head of its own (all modalities in one
    copy of the model, which share no parameter), as long and at the same rates as the run, unless
    ``epochs`` says otherwise. Rank 0 trains. The teachers are in every checkpoint of the run under
    ``umt_teachers``, not in the model's state.

    Args:
        epochs: budget of the training on the spot, in epochs of the run, > 0, at the rate with
            which the run starts; None: all of the run's, with its schedule of rates (but for
            schedulers that follow a validation figure).
        checkpoints: {modality: file} of unimodal runs with the same encoder and bottleneck.
    """

    def __init__(
        self, epochs: float | None = None, checkpoints: Mapping[str, str] | None = None
    ) -> None:
        if epochs is not None and epochs <= 0:
            raise ValueError(f'TeacherHook: epochs must be positive, got {epochs}')
        self.epochs, self.checkpoints = epochs, dict(checkpoints or {})
        self._restored: dict[str, dict[str, Tensor]] | None = None

    def before_train(self, runner: Any) -> None:
        """Make the teachers, or take those of the checkpoint that is resumed."""
        model = unwrap(runner.model)
        loss = loss_component(model, TeacherDistillation, 'TeacherHook')
        unknown = sorted(set(self.checkpoints) - set(model.modalities))
        if unknown:
            raise LookupError(
                f'TeacherHook.checkpoints has {unknown[0]!r}, which is no modality of the model: '
                f'{model.modalities}'
            )
        if self._restored is None:
            self._restored = self._make(runner, model)
        teachers = teachers_like(model)
        device = model.class_log_prior.device
        for m, teacher in teachers.items():
            teacher.load_state_dict(self._restored[m])
            teacher.to(device)
            for value in teacher.state_dict().values():
                broadcast(value, src=0)
        loss.set_teachers(teachers)

    def _make(self, runner: Any, model: Any) -> dict[str, dict[str, Tensor]]:
        clone = clone_of(model)
        missing = [m for m in model.modalities if m not in self.checkpoints]
        if missing and is_main_process():
            self._train(runner, clone)
        found = {m: teacher.state_dict() for m, teacher in teachers_like(clone).items()}
        for m, path in self.checkpoints.items():
            found[m] = _from_checkpoint(path, m, found[m])
        return found

    def _train(self, runner: Any, clone: Any) -> None:
        epochs = runner.max_epochs if self.epochs is None else self.epochs
        updates = max(1, round(epochs * updates_per_epoch(runner)))
        runner.logger.info(f'UMT: training unimodal teachers for {updates} updates')
        device = clone.class_log_prior.device
        with isolated_rng('umt heads', runner.seed):
            heads = {
                m: LinearHead(clone.bottlenecks[m].out_channels, clone.num_classes).to(device)
                for m in clone.modalities
            }
        groups = [
            [*params, *heads[m].parameters()] for m, params in clone.modality_parameters().items()
        ]
        train_clone(
            runner,
            clone,
            groups,
            lambda state: torch.stack(list(cross_entropies(state, heads).values())).sum(),
            torch.arange(len(runner.train_dataloader.dataset)),
            updates,
            sample_key('umt', runner.seed),
            scheduled=self.epochs is None,
        )

    def before_save_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """The teachers go with it."""
        loss = loss_component(unwrap(runner.model), TeacherDistillation, 'TeacherHook')
        checkpoint[STORED] = {
            m: {k: v.cpu() for k, v in teacher.state_dict().items()}
            for m, teacher in (loss.teachers or {}).items()
        }

    def after_load_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """On resuming the teachers come back.

        Raises:
            ValueError: the checkpoint is of a run without this hook.
        """
        if not runner._resume:
            return
        if not checkpoint.get(STORED):
            raise ValueError(
                f'TeacherHook: the checkpoint has no teachers ({STORED!r}), it was not written by '
                f'a run with this hook; start a new run with load_from instead'
            )
        self._restored = checkpoint[STORED]


def _from_checkpoint(path: str, modality: str, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The modality's encoder and bottleneck in a checkpoint of cal_mm."""
    stored = load_trusted_types(path, 'cpu')['state_dict']
    found = {}
    for name, value in like.items():
        part, rest = name.split('.', 1)
        key = f'{part}s.{modality}.{rest}'
        if key not in stored or stored[key].shape != value.shape:
            has = f'has the shape {tuple(stored[key].shape)}' if key in stored else 'is missing'
            raise ValueError(
                f'TeacherHook: {path} is no teacher for {modality!r}: {key} {has}, expected '
                f'{tuple(value.shape)}; train it with the same encoder and bottleneck'
            )
        found[name] = stored[key]
    return found
