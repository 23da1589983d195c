"""From what a user asks for to the list of test conditions, checked before a model is loaded."""

from collections.abc import Sequence
from dataclasses import replace

from .condition import Condition, Modalities, check_conditions, drop_conditions, short_of_frames
from .modality import nothing_left
from .parse import parse_attack
from .protocols import get_protocol

__all__ = ['modality_facts', 'plan_conditions']


def modality_facts(metainfo: dict | None, modalities: Sequence[str] | None = None) -> dict:
    """The dataset's facts {m: {'kind': ...}} of the modalities that the model takes.

    Args:
        metainfo: the dataset's; its ``modalities`` maps name to kind or facts.
        modalities: the model's names; None for all of the dataset's.

    Raises:
        ValueError: the dataset does not tell its modalities' kinds.
        LookupError: the dataset lacks a modality of the model.
    """
    known = (metainfo or {}).get('modalities')
    if not isinstance(known, dict) or not known:
        raise ValueError(
            "noise needs each modality's kind: the dataset's metainfo['modalities'] must map "
            "name to kind, such as dict(image='image', audio='waveform')"
        )
    for name in modalities or ():
        if name not in known:
            raise LookupError(
                f'the model has an encoder for {name!r}, but the dataset has only '
                f'{", ".join(sorted(known))}'
            )
    return {m: known[m] for m in (modalities if modalities is not None else known)}


def plan_conditions(
    modalities: Modalities,
    attacks: Sequence[str] = (),
    drop: Sequence[str] = (),
    protocol: str | None = None,
    seeds: int | None = None,
    item: dict | None = None,
    everything: Modalities | None = None,
) -> list[Condition]:
    """Every condition but the clean one, in the order asked for, each once.

    Args:
        modalities: name to kind or facts.
        attacks: ``NAME[:SEVERITY][@MODALITY]`` each.
        drop: names of modalities (``a+b``: both) that every sample lacks.
        protocol: name of a noise protocol.
        seeds: number of noise seeds; None: the protocol's own, 1 for attacks.
        item: a packed sample, to see that each corruption fits what the dataset packs. What a
            protocol does to the frames of a clip is left out where there is one frame only.
        everything: the dataset's modalities, where the model takes but some of them. A protocol is
            planned for all, so that its noise on one does not depend on the others that the model
            takes; the rest of it is left out. None: ``modalities``.

    Raises:
        ValueError: a malformed attack, a severity out of range, a kind that does not fit.
        LookupError: an unknown corruption, modality or protocol.
    """
    if seeds is not None and seeds < 1:
        raise ValueError(f'seeds must be at least 1, got {seeds}')
    found = [
        c for seed in range(seeds or 1) for a in attacks for c in parse_attack(a, modalities, seed)
    ]
    found += drop_conditions(drop, modalities)
    if protocol is not None:
        chosen = get_protocol(protocol)
        numbers = range(seeds or chosen.seeds)
        try:
            planned = _narrowed(chosen.conditions(everything or modalities, numbers), modalities)
        except ValueError:  # of a modality that the model does not take, or the same again below
            planned = []
        # where nothing is left, the protocol itself says why
        planned = planned or chosen.conditions(modalities, numbers)
        found += [c for c in planned if item is None or not _short_of_frames(c, item)]
    unique = {(c.label, c.protocol, c.seed): c for c in found}
    conditions = list(unique.values())
    if item is not None:
        check_conditions(conditions, item)
    return conditions


def _narrowed(conditions: Sequence[Condition], modalities: Modalities) -> list[Condition]:
    """``conditions`` for a model of ``modalities`` alone.

    Those that do not touch it, that leave it nothing, or that come down to another one are left
    out.
    """
    own = [
        replace(c, corruptions=tuple(n for n in c.corruptions if n.modality in modalities))
        for c in conditions
    ]
    whole = [c == full for c, full in zip(own, conditions, strict=True)]
    known = {_noise(c) for c, w in zip(own, whole, strict=True) if w}
    kept = []
    for condition, unchanged in zip(own, whole, strict=True):
        noise = _noise(condition)
        touches = condition.corruptions and not nothing_left(condition.corruptions, modalities)
        if touches and (unchanged or noise not in known):
            kept.append(condition)
            known.add(noise)
    return kept


def _noise(condition: Condition) -> tuple:
    return (condition.seed, *(str(c.describe()) for c in condition.corruptions))


def _short_of_frames(condition: Condition, item: dict) -> bool:
    return any(short_of_frames(c, item['inputs'].get(c.modality)) for c in condition.corruptions)
