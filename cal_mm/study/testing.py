"""Testing one trained model under a study's conditions; features of frozen encoders are kept."""

import dataclasses
import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.dataset import pseudo_collate
from torch.utils.data import DataLoader, Dataset

from cal_mm.corruptions import CLEAN, Condition, CorruptedDataset
from cal_mm.corruptions.modality import MissingModality
from cal_mm.corruptions.plan import modality_facts, plan_conditions
from cal_mm.datasets.kept import KeptItems
from cal_mm.engine.feature_memo import FeatureMemo
from cal_mm.engine.loops import RobustnessTestLoop
from cal_mm.files import locked
from cal_mm.models.encoders.cache import CachedFeatureDataset, FeatureStore, cache_key
from cal_mm.models.encoders.origin import NoDigestError, encoding_facts, item_facts
from cal_mm.registry import DATASETS
from cal_mm.wrapping import unwrap

from .spec import TestPlan

__all__ = ['FeatureBank', 'StudyTestLoop', 'conditions_of', 'study_conditions']

logger = logging.getLogger(__name__)


def study_conditions(dataset: Any, modalities: Sequence[str], tests: TestPlan) -> list[Condition]:
    """Every condition of a dataset but the clean one, as planned for all of its modalities.

    Args:
        dataset: with ``metainfo``.
        modalities: those of the study, whatever the model at hand takes.
        tests: of the dataset.
    """
    facts = modality_facts(dataset.metainfo, list(modalities))
    found = plan_conditions(facts, tests.attacks, tests.drop, None, tests.seeds)
    for name in tests.protocols:
        found += plan_conditions(facts, protocol=name, seeds=tests.seeds)
    return list({(c.label, c.protocol, c.seed): c for c in found}.values())


def conditions_of(
    conditions: Sequence[Condition], modalities: Sequence[str]
) -> list[tuple[Condition, str]]:
    """What becomes of each condition for a model of some of the modalities.

    Returns:
        (condition, how): ``test``, with the corruptions of the model's own modalities; ``clean``,
        none of which it sees; ``nothing``, where it would be left without input.
    """
    kept = []
    for condition in conditions:
        own = tuple(c for c in condition.corruptions if str(c.modality) in modalities)
        gone = {
            str(c.modality)
            for c in own
            if isinstance(c, MissingModality) and min(c.value, c.probability) >= 1
        }
        how = 'nothing' if gone >= set(modalities) else 'test' if own else 'clean'
        kept.append((dataclasses.replace(condition, corruptions=own), how))
    return kept


class FeatureBank:
    """Features of frozen encoders under each condition, on the disk, shared by all trials.

    A key holds the encoder, the front end, the pipeline, the data and the corruptions of that
    modality, the code of all of them and the packages' versions. It holds nothing of the other
    modalities, so a model of one and a model of all share what they have in common.

    Args:
        folder: of the files.
        model: with frozen encoders for all of its modalities, else nothing is kept.
        dataset: of the test split.
        pipeline: its config.
    """

    def __init__(self, folder: str | Path, model: Any, dataset: Any, pipeline: Any) -> None:
        self.folder = Path(folder)
        self.model = model
        self.dataset = dataset
        self.pipeline = pipeline
        encoders = getattr(model, 'encoders', None) or {}
        self.usable = bool(encoders) and all(getattr(e, 'frozen', False) for e in encoders.values())
        self._keys: dict[str, str] = {}
        self._memo = FeatureMemo(model, folder=folder)
        if self.usable:
            try:
                self._keys = {m: self._base_key(m) for m in encoders}
                item_facts(dataset)
            except NoDigestError as e:
                logger.warning('the test features are not kept: %s', e)
                self.usable = False

    def serves(self, condition: Condition) -> bool:
        """Whether the features under ``condition`` are known without the model's other parts."""
        return self.usable and all(c.sample_wise for c in condition.corruptions)

    def stores(self, switch: CorruptedDataset, condition: Condition) -> dict[str, FeatureStore]:
        """The features under ``condition``, encoded unless they are there."""
        keys = {m: self._key(m, condition) for m in self.model.encoders}
        found = self._load(keys)
        if len(found) < len(keys):
            # one process encodes, the others wait and read
            with locked(self.folder / '.lock'):
                found = self._load(keys)
                if len(found) < len(keys):
                    missing = {m: k for m, k in keys.items() if m not in found}
                    self._encode(switch, missing)
                    found = self._load(keys)
        return found

    def _load(self, keys: Mapping[str, str]) -> dict[str, FeatureStore]:
        stores = {m: FeatureStore.load(self.folder, m, key) for m, key in keys.items()}
        return {m: s for m, s in stores.items() if s is not None}

    def _key(self, modality: str, condition: Condition) -> str:
        own = [c for c in condition.corruptions if str(c.modality) == modality]
        who = [condition.seed, condition.protocol, condition.protocol_version] if own else []
        return cache_key(
            always=self._keys[modality],
            items=item_facts(self.dataset, own),
            condition=who,
        )

    def _base_key(self, modality: str) -> str:
        """What all conditions have in common: weights are read once, not once per condition."""
        ids = '\0'.join(self.dataset.sample_ids)
        return cache_key(
            **encoding_facts(self.model, modality),
            pipeline=self.pipeline,
            data=self.dataset.metainfo.get('digest'),
            split=self.dataset.metainfo.get('split'),
            # in their order: a swapped value is that of the sample at a drawn place
            ids=hashlib.sha256(ids.encode()).hexdigest(),
        )

    @torch.no_grad()
    def _encode(self, switch: CorruptedDataset, keys: Mapping[str, str]) -> None:
        rows: dict[str, list] = {m: [] for m in keys}
        ids: dict[str, list[str]] = {m: [] for m in keys}
        absent: dict[str, list[str]] = {m: [] for m in keys}
        for batch in DataLoader(switch, batch_size=32, collate_fn=pseudo_collate):
            served = self._memo.serve(batch)['features']
            for m in keys:
                for sample, feature in zip(batch['data_samples'], served[m], strict=True):
                    if feature is None:
                        absent[m].append(sample.sample_id)
                    else:
                        ids[m].append(sample.sample_id)
                        rows[m].append(feature)
        for m, key in keys.items():
            features = torch.stack(rows[m]) if rows[m] else None
            FeatureStore(m, key, ids[m], features, absent[m]).save(self.folder)
        self._memo.flush()


class _Switch(Dataset):
    """The test set under the selected condition, from the bank where it has it."""

    def __init__(self, dataset: Any, conditions: Sequence[Condition], bank: FeatureBank) -> None:
        self.dataset = dataset
        self.inner = CorruptedDataset(KeptItems(dataset), conditions)
        self.bank = bank
        self._cached: CachedFeatureDataset | None = None

    @property
    def metainfo(self) -> Any:
        return self.dataset.metainfo

    def select(self, condition: Condition | None) -> None:
        self.inner.select(condition)
        active = CLEAN if condition is None else condition
        self._cached = None
        if self.bank.serves(active):
            stores = self.bank.stores(self.inner, active)
            self._cached = CachedFeatureDataset(self.dataset, stores, sorted(stores))

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        if self._cached is None:
            return [self.inner[index] for index in indices]
        return self._cached.__getitems__(indices)

    def __deepcopy__(self, memo: dict) -> '_Switch':
        return self


class StudyTestLoop(RobustnessTestLoop):
    """The robustness test of ``tools/test.py`` with conditions of several protocols and a bank.

    Args:
        runner: with the trained model.
        dataloader: config.
        evaluator: config.
        tests: the dataset's.
        modalities: of the study's dataset; the model may take fewer.
        folder: of the bank.
    """

    def __init__(
        self,
        runner: Any,
        dataloader: dict,
        evaluator: dict | list,
        tests: TestPlan,
        modalities: Sequence[str],
        folder: str | Path,
    ) -> None:
        model = unwrap(runner.model)
        dataset = DATASETS.build(dataloader['dataset'])
        wider = dict(dataloader['dataset'], modalities=list(modalities))
        everything = DATASETS.build(wider) if len(modalities) > len(model.encoders) else dataset
        planned = study_conditions(everything, modalities, tests)
        self.planned = conditions_of(planned, tuple(model.encoders))
        chosen = [c for c, how in self.planned if how == 'test']
        for corruption in (c for condition in chosen for c in condition.corruptions):
            corruption.check_model(model)
        pipeline = dataloader['dataset'].get('pipeline', [])
        bank = FeatureBank(folder, model, dataset, pipeline)
        self._served = _Switch(dataset, chosen, bank)
        loader = {**dataloader, 'dataset': self._served}
        if bank.usable:  # there is nothing to decode
            loader['num_workers'] = 0
        if not loader.get('num_workers'):
            loader.pop('persistent_workers', None)
            loader.pop('prefetch_factor', None)
        super().__init__(runner, loader, evaluator, feature_cache=folder)
        self.conditions = chosen

    def _select(self, condition: Condition) -> None:
        super()._select(CLEAN)
        self._condition = condition
        self._served.select(None if condition is CLEAN else condition)

    def full_rows(self) -> list[tuple[dict[str, Any], Any]]:
        """(row, predictions) of clean and of every planned condition, after ``run``.

        A condition that touches none of the model's modalities has the clean ones.
        """
        tested = list(zip(self.rows, self.predictions, strict=True))
        clean, others = tested[0], iter(tested[1:])
        found = [clean]
        for condition, how in self.planned:
            if how == 'test':
                found.append(next(others))
            elif how == 'clean':
                found.append(({**clean[0], **condition.describe()}, clean[1]))
        return found
