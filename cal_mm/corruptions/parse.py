"""Attacks as text: ``NAME[:SEVERITY][@MODALITY]``.

``NAME`` is a registered class or a short name such as ``gaussian``, ``awgn``, ``word_mask``,
``missing``; a short name stands for one class per kind of modality. ``SEVERITY`` is 1..5, a list or
range of them (``1,3,5``, ``1-5``), or the physical value (``std=30``, ``snr_db=5``); left out, it
is all of 1 to 5, or the full effect for ``missing`` and ``swap``. Options of the class and
``probability`` follow it, separated by commas (``3,liquid=water``). ``MODALITY`` is a name or
several (``image+audio``, hit together); left out, every modality of a fitting kind is hit together.

``correlated`` (or ``all``) is one event such as a rainy night: a share of the samples, one half
unless ``probability`` says otherwise, drawn once for all modalities, is hit in all of them.
"""

import re
from collections.abc import Mapping
from typing import Any

from cal_mm.registry import CORRUPTIONS, UnknownComponentError, suggestion

from .base import SEVERITIES, Corruption
from .condition import Condition, Modalities, kind_of
from .modality import nothing_left

__all__ = ['EVENTS', 'EVENT_SHARE', 'attack_names', 'build_corruption', 'facts_for', 'parse_attack']

_PATTERN = re.compile(r'^(?P<name>[^:@\s]+)(?::(?P<severity>[^@\s]+))?(?:@(?P<modality>\S+))?$')
_USAGE = (
    'NAME[:SEVERITY][@MODALITY], for example gaussian:3@image, noise:snr_db=5@audio, missing@text'
)

#: short names of a correlated event: one draw decides for all modalities which samples are hit
EVENTS = ('correlated', 'all')
EVENT_SHARE = 0.5


def attack_names() -> dict[str, list[type[Corruption]]]:
    """Every name that an attack can have: registered classes and their short names."""
    names: dict[str, list[type[Corruption]]] = {}
    for registered, cls in CORRUPTIONS.module_dict.items():
        if not (isinstance(cls, type) and issubclass(cls, Corruption)):
            raise TypeError(
                f'{registered} is registered in CORRUPTIONS but is no Corruption subclass'
            )
        for name in (registered, *cls.aliases):
            classes = names.setdefault(name, [])
            if cls not in classes:
                classes.append(cls)
    return names


def _classes(name: str, text: str) -> list[type[Corruption]]:
    names = attack_names()
    folded = {n.lower(): n for n in names}
    if name.lower() not in folded:
        raise UnknownComponentError(
            f'attack {text!r}: {name!r} is not a corruption.{suggestion(name, sorted(names))} '
            f'Known: {", ".join(sorted(n for n in names if n.islower()))}, or a class name from '
            f'tools/list_components.py. A class of your own needs custom_imports in the config.'
        )
    return names[folded[name.lower()]]


def _strength(text: str | None, attack: str) -> tuple[list[int], dict[str, str]]:
    """Severities and keywords that ``text`` asks for; both may be empty."""
    levels: list[int] = []
    keywords: dict[str, str] = {}
    for part in text.split(',') if text else ():
        key, equals, value = part.partition('=')
        if equals:
            keywords[key] = value
            continue
        ends = re.fullmatch(r'(-?\d+)(?:-(\d+))?', part)
        if ends is None:
            raise ValueError(
                f'attack {attack!r}: severity {part!r} is neither an integer from 1 to 5 nor '
                f'KEY=VALUE such as std=30; expected {_USAGE}'
            )
        first, last = int(ends[1]), int(ends[2] or ends[1])
        levels.extend(range(first, last + 1))
        if not 1 <= first <= last <= SEVERITIES[-1]:
            raise ValueError(f'attack {attack!r}: severity must be from 1 to 5, got {part!r}')
    return levels, keywords


def _number(key: str, text: str, attack: str) -> float:
    try:
        return float(text)
    except ValueError as e:
        raise ValueError(f"attack {attack!r}: {text!r} in '{key}={text}' is not a number") from e


def _keywords(
    given: Mapping[str, str], targets: Mapping[str, type[Corruption]], attack: str
) -> dict[str, Any]:
    """``given`` as numbers or words: ``probability``, options, or the physical value."""
    found: dict[str, Any] = {}
    for key, text in given.items():
        defaults = [cls.options.get(key) for cls in targets.values()]
        if key == 'probability':
            found[key] = _number(key, text, attack)
        elif None not in defaults:
            found[key] = _option(key, text, defaults[0], attack)
        else:
            _check_parameter(key, targets, attack)
            found[key] = _number(key, text, attack)
    return found


def _option(key: str, text: str, default: Any, attack: str) -> Any:
    """``text`` as the type that the option's default has."""
    if isinstance(default, bool):
        if text.lower() not in ('true', 'false'):
            raise ValueError(f'attack {attack!r}: {key} must be true or false, got {text!r}')
        return text.lower() == 'true'
    if isinstance(default, int | float):
        number = _number(key, text, attack)
        return int(number) if isinstance(default, int) and number == int(number) else number
    return text


def _targets(
    classes: list[type[Corruption]], where: str | None, modalities: Modalities, attack: str
) -> dict[str, type[Corruption]]:
    """Which class hits which modality."""
    by_kind = {cls.kind: cls for cls in reversed(classes)}
    names = where.split('+') if where else sorted(modalities)
    found = {}
    for name in names:
        kind = kind_of(modalities, name, f'attack {attack!r}')
        if kind in by_kind or 'any' in by_kind:
            found[name] = by_kind.get(kind) or by_kind['any']
        elif where:
            raise ValueError(
                f'attack {attack!r}: {"/".join(c.__name__ for c in classes)} corrupts '
                f'{" or ".join(sorted(by_kind))}, but modality {name!r} is of kind {kind!r}'
            )
    if not where and 'any' in by_kind:
        raise ValueError(
            f'attack {attack!r}: name the modality, {attack}@MODALITY with one of '
            f'{", ".join(sorted(modalities))}'
        )
    if not found:
        kinds = ', '.join(f'{m} ({kind_of(modalities, m)})' for m in sorted(modalities))
        raise ValueError(
            f'attack {attack!r} corrupts {" or ".join(sorted(by_kind))}, which none of the '
            f'modalities is: {kinds}'
        )
    return found


def facts_for(cls: type[Corruption], facts: str | Mapping[str, Any]) -> dict[str, Any]:
    """The options of ``cls`` that a modality's facts fill (``sample_rate``, ``std`` as a unit)."""
    if not isinstance(facts, Mapping):
        return {}
    found = {key: facts.get(cls.fact_keys.get(key, key)) for key in cls.options}
    return {key: fact for key, fact in found.items() if fact is not None}


def build_corruption(
    cls: type[Corruption], modality: str, facts: str | Mapping[str, Any], **kwargs: Any
) -> Corruption:
    """``cls`` on ``modality``, with options that the facts know (``sample_rate``) filled in."""
    return cls(modality, **{**facts_for(cls, facts), **kwargs})


def parse_attack(
    text: str, modalities: Modalities, seed: int = 0, protocol: str = 'clipped'
) -> list[Condition]:
    """The conditions that ``text`` asks for, one per severity.

    Args:
        text: ``NAME[:SEVERITY][@MODALITY]``, see the module's docstring.
        modalities: name to kind, or to the manifest's facts.
        seed: noise seed.
        protocol: name of the noise protocol, part of every sample's seed.

    Raises:
        ValueError: not of that form, severity or value out of range, kind that does not fit.
        LookupError: unknown corruption or modality.
    """
    match = _PATTERN.match(text.strip())
    if match is None:
        raise ValueError(f'attack {text!r} is not of the form {_USAGE}')
    name = match['name']
    targets = _targets(_classes(name, text), match['modality'], modalities, text)
    levels, given = _strength(match['severity'], text)
    keywords = _keywords(given, targets, text)
    physical = {cls.parameter for cls in targets.values()} & set(keywords)
    if levels and physical:
        raise ValueError(
            f'attack {text!r}: give either a severity or {", ".join(physical)}=, not both'
        )
    strengths: list[int | None] = [*levels]
    if not levels:
        full = physical or all(cls.default is not None for cls in targets.values())
        strengths = [None] if full else [*SEVERITIES]
    conditions = [
        _condition(name, targets, modalities, seed, protocol, severity, keywords)
        for severity in strengths
    ]
    _check_something_is_left(conditions, modalities, text)
    return conditions


def _check_something_is_left(
    conditions: list[Condition], modalities: Modalities, attack: str
) -> None:
    for condition in conditions:
        if nothing_left(condition.corruptions, modalities):
            raise ValueError(
                f'attack {attack!r}: the model has only {", ".join(sorted(modalities))}; with '
                f'all of it missing from every sample nothing is left to classify'
            )


def _check_parameter(key: str, targets: Mapping[str, type[Corruption]], attack: str) -> None:
    """A physical value is of one class: its unit would differ on another."""
    for name, cls in targets.items():
        if key != cls.parameter:
            raise ValueError(
                f'attack {attack!r}: {cls.__name__} on {name!r} takes {cls.parameter}= '
                f'({cls.unit}), not {key}='
            )
    if len({cls.__name__ for cls in targets.values()}) > 1:
        raise ValueError(
            f'attack {attack!r}: {key} has another unit on each of {", ".join(targets)}; '
            f'name the modality with @MODALITY'
        )


def _condition(
    name: str,
    targets: Mapping[str, type[Corruption]],
    modalities: Modalities,
    seed: int,
    protocol: str,
    severity: int | None,
    keywords: dict[str, Any],
) -> Condition:
    common: dict[str, Any] = dict(severity=severity, seed=seed, protocol=protocol, **keywords)
    if name.lower() in EVENTS:
        common = {'probability': EVENT_SHARE, 'event': EVENTS[0], **common}
    corruptions = tuple(
        build_corruption(cls, m, modalities[m], **common) for m, cls in targets.items()
    )
    parts = [] if severity is None else [str(severity)]
    parts += [f'{k}={v:g}' if isinstance(v, float) else f'{k}={v}' for k, v in keywords.items()]
    strength = f':{",".join(parts)}' if parts else ''
    return Condition(
        f'{name}{strength}@{"+".join(targets)}',
        corruptions,
        attack=name,
        severity=severity,
        seed=seed,
        protocol=protocol,
        protocol_version=1 if protocol == 'clipped' else None,
    )
