"""A test condition: the corruptions that act together, and how a results row calls them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cal_mm.registry import suggestion

from .base import Corruption, value_fits

__all__ = [
    'CLEAN',
    'Condition',
    'Modalities',
    'check_conditions',
    'drop_conditions',
    'kind_of',
    'short_of_frames',
]

#: modality name -> kind, or the manifest's facts ``{'kind': ..., 'sample_rate': ...}``
Modalities = Mapping[str, str | Mapping[str, Any]]


@dataclass(frozen=True)
class Condition:
    """One row of a robustness table.

    Attributes:
        label: what the table prints, unique within a run apart from the seed.
        corruptions: applied in this order; empty for clean.
        attack: short name of the noise, None for clean.
        severity: 1..5 where it was asked for by severity.
        epsilon: strength within a protocol's grid.
        seed: noise seed.
        protocol: name of the noise protocol, part of every sample's seed.
        protocol_version: version of the protocol's definition.
    """

    label: str
    corruptions: tuple[Corruption, ...] = ()
    attack: str | None = None
    severity: int | None = None
    epsilon: float | None = None
    seed: int | None = None
    protocol: str | None = None
    protocol_version: int | None = None

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the modalities that are hit, sorted."""
        return tuple(sorted({str(c.modality) for c in self.corruptions}))

    def describe(self) -> dict[str, Any]:
        """What a results row says of the condition (docs/results_schema.md)."""
        return {
            'condition': self.label,
            'protocol': self.protocol,
            'protocol_version': self.protocol_version,
            'attack': self.attack,
            'severity': self.severity,
            'epsilon': self.epsilon,
            'modalities': list(self.modalities),
            'seed': self.seed,
            'corruptions': [c.describe() for c in self.corruptions],
        }


CLEAN = Condition('clean')


def kind_of(modalities: Modalities, name: str, asked: str = '') -> str:
    """Kind of modality ``name``.

    Args:
        modalities: name to kind, or to facts.
        name: of one of them.
        asked: what names it, for the message.

    Raises:
        LookupError: there is no such modality; the known ones are listed.
    """
    if name not in modalities:
        known = sorted(modalities)
        raise LookupError(
            f'{asked}{": " if asked else ""}there is no modality {name!r}.'
            f'{suggestion(name, known)} This model and dataset have: {", ".join(known)}.'
        )
    facts = modalities[name]
    return facts if isinstance(facts, str) else str(facts['kind'])


def drop_conditions(names: Sequence[str], modalities: Modalities, seed: int = 0) -> list[Condition]:
    """One condition per name in which every sample lacks that modality (``'a+b'``: both).

    Raises:
        LookupError: no such modality.
        ValueError: nothing would be left.
    """
    from .modality import MissingModality

    conditions = []
    for name in names:
        parts = name.split('+')
        for part in parts:
            kind_of(modalities, part, f'drop {name!r}')
        if not set(modalities) - set(parts):
            raise ValueError(
                f'--drop {name}: the model has only {", ".join(sorted(modalities))}; '
                f'with {name} dropped nothing is left to classify'
            )
        conditions.append(
            Condition(
                f'drop {name}',
                tuple(MissingModality(part, seed=seed, protocol='missing') for part in parts),
                attack='missing',
                seed=seed,
                protocol='missing',
                protocol_version=1,
            )
        )
    return conditions


def short_of_frames(corruption: Corruption, value: Any) -> bool:
    """Whether ``corruption`` needs several frames and ``value`` is an image or a clip of one."""
    return (
        corruption.needs_frames
        and value_fits('image', value)
        and (value.ndim != 4 or len(value) < 2)
    )


def check_conditions(conditions: Sequence[Condition], item: Mapping[str, Any]) -> None:
    """Try every corruption's kind on one packed sample: a misfit shows before the model loads.

    Raises:
        LookupError: the packed sample has no such modality.
        ValueError: the packed value is not of the corruption's kind.
    """
    from .base import check_value

    sample_id = item['data_samples'].sample_id
    for condition in conditions:
        for corruption in condition.corruptions:
            name = str(corruption.modality)
            if name not in item['inputs']:
                known = sorted(item['inputs'])
                raise LookupError(
                    f'{condition.label}: the dataset packs no modality {name!r}.'
                    f'{suggestion(name, known)} It packs: {", ".join(known)}.'
                )
            value = item['inputs'][name]
            if value is None:
                continue
            check_value(corruption.kind, value, corruption.name, name, sample_id)
            if short_of_frames(corruption, value):
                raise ValueError(
                    f'{condition.label}: {corruption.name} needs several frames [T, C, H, W], but '
                    f'modality {name!r} holds single images {list(value.shape)}'
                )
