"""The base of every corruption: severity, seeding, and where it meets a sample.

A corruption changes the *packed physical value* of one modality (pixels, waveform, words, metres,
features): it acts before the model's front end. What a sample gets is a function of (seed,
protocol, corruption, value, modality, sample id) and of nothing else, so it is the same for any
number of workers, batch size, order and rank.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import torch

from cal_mm.registry import suggestion
from cal_mm.structures import sample_key

__all__ = ['KINDS', 'SEVERITIES', 'Corruption', 'check_value', 'value_fits']

KINDS = ('image', 'depth', 'waveform', 'text', 'features')
SEVERITIES = (1, 2, 3, 4, 5)

_EXPECTED = {
    'image': 'a uint8 tensor [C, H, W] or [T, C, H, W]',
    'depth': 'a float tensor [1, H, W] in metres',
    'waveform': 'a float tensor [T] (the samples)',
    'text': 'a str',
    'features': 'a float tensor [D] (or [T, D])',
}


def value_fits(kind: str, value: object) -> bool:
    """Whether ``value`` is a packed value of ``kind`` (docs/architecture.md, kinds)."""
    if kind == 'any':
        return True
    if kind == 'text':
        return isinstance(value, str)
    if not isinstance(value, torch.Tensor):
        return False
    if kind == 'image':
        return value.dtype == torch.uint8 and value.ndim in (3, 4)
    if kind == 'depth':
        return value.is_floating_point() and value.ndim == 3 and value.shape[0] == 1
    # features may be a sequence of vectors
    dims = (1, 2, 3) if kind == 'features' else (1,)
    return value.is_floating_point() and value.ndim in dims


def check_value(kind: str, value: object, name: str, modality: str | None, sample_id: str) -> None:
    """Refuse a value that is not of ``kind``.

    Raises:
        ValueError: names the corruption, the modality, the sample, and what to do.
    """
    if value_fits(kind, value):
        return
    got = type(value).__name__
    if isinstance(value, torch.Tensor):
        got = f'a {str(value.dtype).removeprefix("torch.")} tensor of shape {list(value.shape)}'
    raise ValueError(
        f'{name} corrupts a {kind}: it needs {_EXPECTED[kind]}, but modality {modality!r} of '
        f'sample {sample_id!r} is {got}. Noise goes in before the front end: pack the physical '
        f'value and move the conversion (spectrogram, normalisation, tokenising) from the '
        f"dataset's pipeline to the front end of the model's preprocessor."
    )


def _joined(sample: Any, key: str, modality: str | None) -> tuple[str, ...]:
    return tuple(sorted({*sample.metainfo.get(key, ()), str(modality)}))


class Corruption:
    """Noise on one modality, at a severity 1..5 or at a physical value.

    A subclass states ``kind``, ``parameter`` (the keyword of its physical value), ``unit``,
    ``levels`` (the physical value at severities 1 to 5) and ``bounds``, and writes
    :meth:`corrupt`. ``options`` names further keywords with their defaults; they become attributes.
    Attacks that need the model set ``sample_wise = False`` and override :meth:`__call__`.

    Args:
        modality: name of the modality that is hit.
        severity: 1 (weakest) to 5, an index into ``levels``.
        probability: share of the samples that are hit, drawn per sample.
        seed: noise seed.
        protocol: name of the noise protocol, part of the seed.
        event: corruptions of the same event (any name), seed and protocol hit the same samples,
            whatever their modality and severity; None: each draws for itself.
        physical: the physical value under the name ``parameter`` in place of ``severity``, and any
            of ``options``.

    Raises:
        ValueError: severity or value out of range, both given, or neither and no default.
        TypeError: a keyword that the class does not take.
    """

    kind: ClassVar[str] = 'any'
    parameter: ClassVar[str] = 'ratio'
    unit: ClassVar[str] = ''
    levels: ClassVar[tuple[float, ...]] = ()
    bounds: ClassVar[tuple[float, float]] = (-math.inf, math.inf)
    default: ClassVar[float | None] = None
    options: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    #: option -> the values it can have, for options that are one of some words
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = MappingProxyType({})
    #: option -> key of the dataset's facts that fills it (the option's own name where not listed)
    fact_keys: ClassVar[Mapping[str, str]] = MappingProxyType({})
    aliases: ClassVar[tuple[str, ...]] = ()
    sample_wise: ClassVar[bool] = True
    #: frames are needed ([T, C, H, W]), so a single image cannot be hit
    needs_frames: ClassVar[bool] = False
    #: an image of one channel is left as it is
    needs_colour: ClassVar[bool] = False
    #: other samples of the dataset are needed
    needs_dataset: ClassVar[bool] = False

    def __init__(
        self,
        modality: str | None = None,
        severity: int | None = None,
        *,
        probability: float = 1.0,
        seed: int = 0,
        protocol: str = 'clipped',
        event: str | None = None,
        **physical: Any,
    ) -> None:
        takes = [self.parameter, *self.options]
        for key in physical:
            if key not in takes:
                known = ['modality', 'severity', 'probability', 'seed', 'protocol']
                known += ['event', *takes]
                raise TypeError(
                    f'corruption {self.name!r} takes no argument {key!r}.{suggestion(key, known)} '
                    f'It takes: {", ".join(known)}.'
                )
        if not 0 <= probability <= 1:
            raise ValueError(f'{self.name}: probability must be in [0, 1], got {probability!r}')
        self.modality = modality
        self.severity = severity
        self.probability = float(probability)
        self.seed = int(seed)
        self.protocol = protocol
        self.event = event
        self.value = self._resolve(severity, physical.get(self.parameter))
        for key, value in self.options.items():
            setattr(self, key, physical.get(key, value))
        for key, words in self.choices.items():
            if getattr(self, key) not in words:
                raise ValueError(
                    f'{self.name}: {key} must be one of {", ".join(words)}, '
                    f'got {getattr(self, key)!r}'
                )

    @property
    def name(self) -> str:
        """Name of the class, as it is registered."""
        return type(self).__name__

    def _resolve(self, severity: int | None, value: float | None) -> float:
        """The physical value that severity or keyword asks for, checked."""
        if severity is not None and value is not None:
            raise ValueError(
                f'{self.name}: give either severity or {self.parameter}, not both '
                f'(got severity={severity!r}, {self.parameter}={value!r})'
            )
        if severity is not None:
            return self._level(severity)
        if value is None:
            value = self.default
        if value is None:
            raise ValueError(
                f'{self.name}: give severity (1 to {len(self.levels)}) or {self.parameter} '
                f'({self.unit or "a number"})'
            )
        low, high = self.bounds
        # bool is an int, and nan is in no interval
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float))
            or not low <= value <= high
        ):
            raise ValueError(
                f'{self.name}: {self.parameter} must be a number in [{low:g}, {high:g}], '
                f'got {value!r}'
            )
        return float(value)

    def _level(self, severity: int) -> float:
        whole = isinstance(severity, int) and not isinstance(severity, bool)
        if not whole or not 1 <= severity <= len(self.levels):
            raise ValueError(
                f'{self.name}: severity must be an integer from 1 to {len(self.levels)}, '
                f'got {severity!r}; for a physical value use {self.parameter}='
            )
        return float(self.levels[severity - 1])

    def generator(self, sample_id: str) -> np.random.Generator:
        """The only source of randomness for ``sample_id``."""
        return np.random.default_rng(
            sample_key(
                self.seed, self.protocol, self.name, self.value, self.modality or '', sample_id
            )
        )

    def _is_hit(self, sample_id: str, rng: np.random.Generator) -> bool:
        """Whether the sample is among the share ``probability``."""
        draw = rng.random()  # drawn in any case, so that the noise is the same with an event
        if self.event is not None:
            key = sample_key(self.seed, self.protocol, 'event', self.event, sample_id)
            draw = np.random.default_rng(key).random()
        return draw < self.probability

    def corrupt(self, value: Any, rng: np.random.Generator) -> Any:
        """The corrupted copy of one packed value; ``value`` itself is left as it is.

        Args:
            value: packed value of ``kind``, see docs/architecture.md.
            rng: draws of this sample.
        """
        raise NotImplementedError(f'{self.name} must implement corrupt(value, rng)')

    def apply(self, item: dict, dataset: Any = None) -> dict:
        """``item`` with its modality corrupted; the item that was given is left as it is.

        Args:
            item: ``{'inputs': {m: value or None}, 'data_samples': MultiModalDataSample}``.
            dataset: where the item comes from, for corruptions that take other samples.

        Raises:
            LookupError: the item has no such modality.
            ValueError: the value is not of the corruption's kind.
        """
        sample_id = item['data_samples'].sample_id
        value = self._value_of(item, sample_id)
        if value is None:  # already missing: nothing to hit
            return item
        rng = self.generator(sample_id)
        if not self._is_hit(sample_id, rng):
            return item
        return self._replace(item, self.corrupt(value, rng))

    def _value_of(self, item: dict, sample_id: str) -> Any:
        inputs = item['inputs']
        if self.modality not in inputs:
            raise LookupError(
                f'{self.name}: sample {sample_id!r} has no modality {self.modality!r}; '
                f'it has {", ".join(sorted(inputs))}'
            )
        value = inputs[self.modality]
        if value is not None:
            check_value(self.kind, value, self.name, self.modality, sample_id)
        return value

    def _replace(self, item: dict, value: Any) -> dict:
        """``item`` with the new value; ``sample.corrupted`` names it, its cached feature goes."""
        sample = item['data_samples'].clone()
        sample.set_metainfo({'corrupted': _joined(sample, 'corrupted', self.modality)})
        inputs = {**item['inputs'], self.modality: value}
        item = {**item, 'inputs': inputs, 'data_samples': sample}
        if item.get('features') and self.modality in item['features']:
            # what a frozen encoder said of the clean value does not hold any more
            item['features'] = {**item['features'], self.modality: None}
        return item

    def __call__(self, batch: dict, model: Any = None) -> dict:
        """``batch`` corrupted sample by sample, with the same bits as inside a worker.

        Args:
            batch: collated, ``{'inputs': {m: list}, 'data_samples': list}``.
            model: for attacks that need it; sample-wise ones do not look at it.
        """
        per_modality = [key for key in ('inputs', 'features') if batch.get(key)]
        items = []
        for i, sample in enumerate(batch['data_samples']):
            item: dict = {key: {m: v[i] for m, v in batch[key].items()} for key in per_modality}
            items.append(self.apply({**item, 'data_samples': sample}))
        out = {**batch, 'data_samples': [item['data_samples'] for item in items]}
        for key in per_modality:
            out[key] = {m: [item[key][m] for item in items] for m in batch[key]}
        return out

    def check_model(self, model: Any) -> None:
        """For attacks on the model: refuse one that they cannot attack, before anything runs."""

    def describe(self) -> dict[str, Any]:
        """What a results file says of it: type, modality, parameter, value, unit, ...

        ``event`` and ``options`` (those that are not at their default) only where there are any.
        """
        told = {
            'type': self.name,
            'modality': self.modality,
            'severity': self.severity,
            'parameter': self.parameter,
            'value': self.value,
            'unit': self.unit,
            'probability': self.probability,
        }
        if self.event is not None:
            told['event'] = self.event
        options = {k: getattr(self, k) for k, v in self.options.items() if getattr(self, k) != v}
        plain = {k: v for k, v in options.items() if isinstance(v, (str, int, float))}
        return {**told, 'options': plain} if plain else told

    def __repr__(self) -> str:
        return f'{self.name}({self.modality!r}, {self.parameter}={self.value:g})'
