"""The same corruptions in a training pipeline, as noise augmentation."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from cal_mm.registry import CORRUPTIONS, TRANSFORMS

from .base import SEVERITIES, Corruption, check_value
from .parse import facts_for

__all__ = ['CorruptSample']


@TRANSFORMS.register_module()
class CorruptSample:
    """Corrupt a training sample, with draws from the sample's own ``results['rng']``.

    Stands before ``PackInputs``, where the values are already of their packed kind. A corruption
    configured without severity or physical value gets a severity drawn from ``severities``.
    ``MultiModalDataset`` hands it the modalities' facts, so that noise means the same in training
    as in ``tools/test.py``: ``sample_rate``, and the unit of ``FeatureGaussianNoise``.

    Args:
        corruptions: configs for ``CORRUPTIONS``, each with ``modality``.
        probability: share of the samples that are hit.
        choose: 'one' corruption drawn at random, or 'all' in their order, each with its own
            ``probability``; those of one ``event`` share the draw. Where the dataset does not read
            the modality of the one that was drawn, nothing happens: every modality is hit as often
            alone as beside the others.
        severities: drawn from, evenly, where a config names no strength.

    Raises:
        ValueError: no corruptions, ``choose`` unknown, a corruption without modality, or one that
            acts on batches.
    """

    def __init__(
        self,
        corruptions: Sequence[dict],
        probability: float = 1.0,
        choose: str = 'one',
        severities: Sequence[int] = SEVERITIES,
    ) -> None:
        if not corruptions:
            raise ValueError('CorruptSample needs at least one corruption')
        if choose not in ('one', 'all'):
            raise ValueError(f"CorruptSample: choose must be 'one' or 'all', got {choose!r}")
        if not 0 <= probability <= 1:
            raise ValueError(f'CorruptSample: probability must be in [0, 1], got {probability!r}')
        self.probability = probability
        self.choose = choose
        self.severities = tuple(severities)
        self.cfgs = tuple(dict(cfg) for cfg in corruptions)
        self.versions = [self._versions(cfg, severities) for cfg in self.cfgs]
        #: the dataset checks these names, and takes away those that it does not read
        self.modalities = tuple(sorted({str(v[0].modality) for v in self.versions}))

    def with_facts(self, facts: Mapping[str, Mapping[str, Any]]) -> 'CorruptSample':
        """A copy whose corruptions know ``facts``, {m: {'kind': ..., 'sample_rate': ...}}.

        What a config says itself (such as ``sample_rate=8000``) wins.
        """
        bound = copy.copy(self)
        bound.versions = []
        for cfg, versions in zip(self.cfgs, self.versions, strict=True):
            known = facts_for(type(versions[0]), facts.get(str(cfg['modality']), {}))
            bound.versions.append(self._versions({**known, **cfg}, self.severities))
        return bound

    @staticmethod
    def _versions(cfg: dict, severities: Sequence[int]) -> list[Corruption]:
        """One corruption per severity that may be drawn, a single one where the config fixes it."""
        cls = CORRUPTIONS.get(cfg['type']) if isinstance(cfg.get('type'), str) else cfg.get('type')
        free = (
            isinstance(cls, type)
            and issubclass(cls, Corruption)
            and 'severity' not in cfg
            and cls.parameter not in cfg
            and cls.default is None
        )
        cfgs = [{**cfg, 'severity': s} for s in severities] if free else [cfg]
        built = [CORRUPTIONS.build(c) for c in cfgs]
        if built[0].modality is None:
            raise ValueError(f"CorruptSample: {built[0].name} needs modality='...'")
        if not built[0].sample_wise or built[0].needs_dataset:
            raise ValueError(f'CorruptSample: {built[0].name} does not work on single samples')
        return built

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """``results`` with some modalities corrupted."""
        rng = results['rng']
        if rng.random() >= self.probability:
            return results
        chosen = self.versions
        if self.choose == 'one':
            chosen = [chosen[int(rng.integers(len(chosen)))]]
        chosen = [v for v in chosen if v[0].modality in self.modalities]
        events: dict[str, float] = {}
        for versions in chosen:
            corruption = versions[int(rng.integers(len(versions)))]
            results = self._hit(results, corruption, rng, events)
        return results

    def _hit(
        self, results: dict[str, Any], corruption: Corruption, rng: Any, events: dict[str, float]
    ) -> dict[str, Any]:
        name = str(corruption.modality)
        if name not in results:
            known = ', '.join(sorted(map(str, results)))
            raise LookupError(f'CorruptSample: no modality {name!r} among {known}')
        value = results[name]
        draw = rng.random()
        if corruption.event is not None:
            draw = events.setdefault(corruption.event, draw)
        if value is None or draw >= corruption.probability:
            return results
        sample_id = str(results.get('sample_id', ''))
        check_value(corruption.kind, value, corruption.name, name, sample_id)
        results = {**results, name: corruption.corrupt(value, rng)}
        if name in (results.get('features') or {}):
            # what a frozen encoder said of the clean value does not hold any more
            results['features'] = {**results['features'], name: None}
        return results
