"""How FGM, FGSM and PGD run over a batch, on one modality or on several at once."""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor

from .adversarial_budgets import Budget
from .adversarial_model import Victim, attackable, undisturbed
from .adversarial_targets import EmbeddingTarget, Target, ValueTarget
from .base import Corruption, _joined

__all__ = ['FGM', 'FGSM', 'PGD', 'PGDL2', 'Adversarial', 'act', 'attack_jointly', 'joint_steps']


class Adversarial(Budget):
    """An attack on one modality; call it as ``attack(batch, model)``.

    The loss is the log-odds against the true label (an increasing function of the cross-entropy),
    of the prediction with its inference gate, in evaluation mode, float32, with sampled bottlenecks
    off. A sample that was hit carries the modality in ``corrupted``; attacked texts are in the
    batch's ``embedding_shifts``, which ``MultiModalPreprocessor`` hands on to the model.
    """

    norm: ClassVar[str] = 'linf'
    attack_options: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    steps: int = 1
    step_size: float = 1.0
    random_start: bool = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.options = MappingProxyType({**cls.budget_options, **cls.attack_options})
        if cls.norm == 'l2' and 'unit' not in vars(cls):
            cls.unit = cls.l2_unit

    @property
    def settings(self) -> tuple[Any, ...]:
        """What attacks must have in common to act jointly."""
        return self.norm, self.steps, self.step, self.random_start

    @property
    def step(self) -> float:
        """Size of a step as a share of the budget."""
        return float(self.step_size) or 2.5 / self.steps

    def check_model(self, model: Any) -> None:
        """Refuse a text encoder without token embeddings, before anything runs."""
        if self.kind != 'text':
            return
        from cal_mm.models.encoders import embedding_module

        encoders = getattr(attackable(model), 'encoders', None)
        if encoders is None or self.modality not in encoders:
            raise ValueError(
                f'{self.name} acts on token embeddings, but {type(model).__name__} has no encoder '
                f'for modality {self.modality!r}'
            )
        embedding_module(encoders[self.modality], str(self.modality))

    def apply(self, item: dict, dataset: Any = None) -> dict:
        """Refused: one packed sample is not enough.

        Raises:
            ValueError: always, where there is a value of the kind to attack.
        """
        if self._value_of(item, item['data_samples'].sample_id) is None:
            return item
        raise ValueError(
            f'{self.name} needs the model: call attack(batch, model) on a collated batch, or use '
            f'tools/test.py --attack'
        )

    def __call__(self, batch: dict, model: Any = None) -> dict:
        """``batch`` attacked; see :func:`attack_jointly`."""
        return attack_jointly([self], batch, model)

    def describe(self) -> dict[str, Any]:
        """As the base does, with the attack's settings."""
        return {
            **super().describe(),
            'norm': self.norm,
            'steps': self.steps,
            'step_size': self.step,
            'random_start': self.random_start,
        }


class FGSM(Adversarial):
    """One step of the whole budget along the sign of the gradient (L-inf)."""

    aliases = ('fgsm',)


class FGM(Adversarial):
    """One step of the whole budget along the gradient (L2)."""

    norm = 'l2'
    aliases = ('fgm',)


class PGD(Adversarial):
    """Projected gradient ascent (L-inf): ``steps`` steps, the iterate of the highest loss counts.

    Options: ``steps`` (10), ``step_size`` as a share of the budget (0: 2.5 / steps),
    ``random_start`` (from the ball, by the sample's own generator).
    """

    attack_options = MappingProxyType({'steps': 10, 'step_size': 0.0, 'random_start': True})
    aliases = ('pgd',)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if isinstance(self.steps, bool) or not 1 <= self.steps <= 100_000 or self.steps % 1:
            raise ValueError(f'{self.name}: steps must be an integer >= 1, got {self.steps!r}')
        self.steps = int(self.steps)
        if not 0 <= self.step_size < math.inf:
            raise ValueError(
                f'{self.name}: step_size must be > 0, or 0 for 2.5 / steps, got {self.step_size!r}'
            )


class PGDL2(PGD):
    """Projected gradient ascent (L2), with the options of PGD."""

    norm = 'l2'
    aliases = ('pgd_l2',)


def act(corruptions: Sequence[Corruption], batch: dict, model: Any) -> dict:
    """``batch`` under each corruption in turn, neighbouring attacks of one kind jointly."""
    for group in joint_steps(corruptions):
        if len(group) == 1:
            batch = group[0](batch, model)
        else:
            batch = attack_jointly([c for c in group if isinstance(c, Adversarial)], batch, model)
    return batch


def joint_steps(corruptions: Sequence[Corruption]) -> list[list[Corruption]]:
    """Corruptions in the groups that act at once: neighbouring attacks with equal settings."""
    groups: list[list[Corruption]] = []
    for c in corruptions:
        last = groups[-1][-1] if groups else None
        if (
            isinstance(c, Adversarial)
            and isinstance(last, Adversarial)
            and c.settings == last.settings
        ):
            groups[-1].append(c)
        else:
            groups.append([c])
    return groups


def attack_jointly(attacks: Sequence[Adversarial], batch: dict, model: Any) -> dict:
    """``batch`` with several modalities attacked at once, one budget each.

    Args:
        attacks: with equal settings, each on another modality.
        batch: collated, ``{'inputs': {m: list}, 'data_samples': list}``; it is left as it is.
        model: see :class:`Victim`; it is left as it is, too.

    Raises:
        LookupError: the batch has no such modality.
        ValueError: no model, a value of another kind, no label, no gradient, or two attacks on one
            modality.
    """
    names = [str(a.modality) for a in attacks]
    if len(set(names)) < len(names) or len({a.settings for a in attacks}) > 1:
        raise ValueError('a joint attack takes one attack per modality, with equal settings')
    model = attackable(model)
    chosen = [_chosen(a, batch) for a in attacks]
    if not any(chosen):
        return batch
    hit = [(a, rows) for a, rows in zip(attacks, chosen, strict=True) if rows]
    for attack, _ in hit:
        attack.check_model(model)
    with undisturbed(model):
        victim = Victim(model, batch, [str(a.modality) for a, _ in hit])
        targets = [_target(a, list(rows), batch, victim) for a, rows in hit]
        if attacks[0].random_start:
            for target, (_, rows) in zip(targets, hit, strict=True):
                target.start_at_random(list(rows.values()))
        _maximise(targets, victim, attacks[0])
        return _delivered(targets, batch)


def _chosen(attack: Adversarial, batch: dict) -> dict[int, Any]:
    """Rows of the batch that are hit, each with the sample's generator."""
    found = {}
    for i, sample in enumerate(batch['data_samples']):
        item = {'inputs': {m: v[i] for m, v in batch['inputs'].items()}}
        features = (batch.get('features') or {}).get(attack.modality)
        cached = features is not None and features[i] is not None
        # a cached feature without its value is an error that Victim explains
        if attack._value_of(item, sample.sample_id) is None and not cached:
            continue
        rng = attack.generator(sample.sample_id)
        if attack._is_hit(sample.sample_id, rng):
            found[i] = rng
    return found


def _target(attack: Adversarial, rows: list[int], batch: dict, victim: Victim) -> Target:
    if attack.kind == 'text':
        return EmbeddingTarget(attack, rows, victim)
    return ValueTarget(attack, rows, batch, victim.device)


def _losses(targets: Sequence[Target], points: Sequence[Tensor], victim: Victim) -> Tensor:
    inputs: dict[str, Any] = {}
    shifts: dict[str, Tensor] = {}
    for target, v in zip(targets, points, strict=True):
        target.put(v, inputs, shifts)
    return victim.losses(inputs, shifts)


def _maximise(targets: Sequence[Target], victim: Victim, settings: Adversarial) -> None:
    """Move all targets together; with several iterates, each sample keeps its best."""
    ids = [s.sample_id for s in victim.batch['data_samples']]
    best = torch.full((len(ids),), -torch.inf, dtype=torch.float64, device=victim.device)
    for _ in range(settings.steps):
        points = [t.v.detach().requires_grad_() for t in targets]
        losses = _losses(targets, points, victim)
        gradients: Sequence[Tensor | None] = [None] * len(points)
        if losses.requires_grad:
            # a sum over samples: no sample's gradient depends on the size of the batch
            gradients = torch.autograd.grad(losses.sum(), points, allow_unused=True)
        best = _keep_better(targets, losses.detach(), best)
        for target, gradient in zip(targets, gradients, strict=True):
            target.ascend(gradient, settings.step, ids)
    if settings.steps == 1 and not settings.random_start:
        return
    with torch.no_grad():
        _keep_better(targets, _losses(targets, [t.v for t in targets], victim), best)
    for target in targets:
        target.v = target.best


def _keep_better(targets: Sequence[Target], losses: Tensor, best: Tensor) -> Tensor:
    better = losses > best
    for target in targets:
        target.keep_better(better)
    return torch.where(better, losses, best)


def _delivered(targets: Sequence[Target], batch: dict) -> dict:
    """A copy of ``batch`` with the results; hit samples say so, their cached features go."""
    out = {**batch, 'inputs': dict(batch['inputs']), 'data_samples': list(batch['data_samples'])}
    features = dict(batch.get('features') or {})
    for target in targets:
        m = str(target.attack.modality)
        target.deliver(out)
        for i in target.rows:
            sample = out['data_samples'][i].clone()
            sample.set_metainfo({'corrupted': _joined(sample, 'corrupted', m)})
            out['data_samples'][i] = sample
        if features.get(m) is not None:
            hit = set(target.rows)
            features[m] = [None if i in hit else f for i, f in enumerate(features[m])]
    if features:
        out['features'] = features
    return out
