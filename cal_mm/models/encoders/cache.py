"""Cached features of frozen encoders: computed once, read instead of decoding and encoding.

``compute_features`` runs the encoders over a loader, ``FeatureStore`` keeps one modality's result
on disk under a key that changes with everything the features depend on, ``CachedFeatureDataset``
serves them.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cal_mm.files import write_atomically
from cal_mm.structures import MultiModalDataSample

__all__ = [
    'CachedFeatureDataset',
    'DrawnFeatureDataset',
    'FeatureStore',
    'cache_key',
    'compute_features',
]

logger = logging.getLogger(__name__)

FORMAT = 'cal_mm.features'
FORMAT_VERSION = 1
TENSOR = 'features'


def cache_key(**parts: Any) -> str:
    """sha256 (64 hex digits) over named parts: what the features depend on.

    Give the encoder's ``digest()``, the front end's and the pipeline's configs and the data
    manifest's digest. Parts may be nested mappings, sequences, numbers, strings, types and None.

    Raises:
        TypeError: a part holds an object without a stable text, which would miss every time.
    """
    text = json.dumps(_plain(parts), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, (set, frozenset)):
        return sorted((_plain(v) for v in value), key=str)
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    if isinstance(value, type):
        return f'{value.__module__}.{value.__qualname__}'
    if isinstance(value, (Path, torch.dtype)):
        return str(value)
    raise TypeError(
        f'a cache key cannot be made of {type(value).__name__} ({value!r}): '
        f'give its config (a dict) or a digest'
    )


class FeatureStore:
    """One modality's features, float32 [N, H], by sample id.

    Args:
        modality: the modality's name.
        key: what the features depend on, see :func:`cache_key`.
        sample_ids: N unique ids.
        features: [N, H] (or [0, 0] for none).
        missing: ids of samples that are known to lack the modality.

    Raises:
        ValueError: ids are not unique, shapes disagree, or a feature is not finite.
    """

    def __init__(
        self,
        modality: str,
        key: str,
        sample_ids: Sequence[str] = (),
        features: Tensor | None = None,
        missing: Iterable[str] = (),
    ) -> None:
        rows = torch.zeros(0, 0) if features is None else features.detach().cpu().float()
        self.modality = modality
        self.key = key
        self.sample_ids = list(sample_ids)
        self.features = rows.contiguous()
        self.missing = frozenset(missing)
        self._index = {s: i for i, s in enumerate(self.sample_ids)}
        self._check()

    def _check(self) -> None:
        place = f'features of {self.modality!r}'
        count = len(self.sample_ids)
        if self.features.dim() != 2 or self.features.shape[0] != count:
            raise ValueError(
                f'{place}: expected [N, H] with N = {count} ids, got {tuple(self.features.shape)}'
            )
        if len(self._index) != count:
            twice = next(s for i, s in enumerate(self.sample_ids) if self._index[s] != i)
            raise ValueError(f'{place}: sample id {twice!r} stands there twice')
        finite = self.features.isfinite().all(dim=1)
        if not bool(finite.all()):
            bad = self.sample_ids[int((~finite).nonzero()[0])]
            raise ValueError(f'{place}: sample {bad!r} has NaN or infinite values')
        both = self.missing & set(self._index)
        if both:
            raise ValueError(f'{place}: sample {min(both)!r} is both missing and there')

    def __len__(self) -> int:
        return len(self.sample_ids)

    def __contains__(self, sample_id: object) -> bool:
        """Whether the sample's features, or that it has none, are known."""
        return sample_id in self._index or sample_id in self.missing

    @property
    def out_channels(self) -> int:
        """H."""
        return self.features.shape[1]

    def get(self, sample_ids: Sequence[str]) -> Tensor:
        """Features [B, H] of ``sample_ids``, in their order; a copy.

        Raises:
            LookupError: a sample is not in the store, or lacks the modality.
        """
        try:
            rows = [self._index[s] for s in sample_ids]
        except KeyError as e:
            lost = e.args[0]
            why = 'lacks the modality' if lost in self.missing else 'is not in the cache'
            raise LookupError(
                f'sample {lost!r} {why} {self.modality!r} ({len(self)} cached samples)'
            ) from e
        return self.features[rows]

    def row(self, sample_id: str) -> Tensor | None:
        """Features [H] of one sample; None when it lacks the modality."""
        return self.rows([sample_id])[0]

    def rows(self, sample_ids: Sequence[str]) -> list[Tensor | None]:
        """Features [H] of each sample, read at once; None where it lacks the modality."""
        if not self.missing:
            return list(self.get(sample_ids).unbind())
        there = [s for s in sample_ids if s not in self.missing]
        found = iter(self.get(there).unbind())
        return [None if s in self.missing else next(found) for s in sample_ids]

    @staticmethod
    def path(folder: str | Path, modality: str, key: str) -> Path:
        """Where a store lies: ``<folder>/<modality>-<start of the key>.safetensors``."""
        return Path(folder) / f'{modality}-{key[:16]}.safetensors'

    def save(self, folder: str | Path) -> Path:
        """Write the store in one file, atomically; returns its path."""
        from safetensors.torch import save

        target = self.path(folder, self.modality, self.key)
        meta = dict(
            format=FORMAT,
            format_version=str(FORMAT_VERSION),
            modality=self.modality,
            key=self.key,
            sample_ids=json.dumps(self.sample_ids),
            missing=json.dumps(sorted(self.missing)),
            sha256=_sha256(self.features),
        )
        write_atomically(target, save({TENSOR: self.features}, metadata=meta))
        return target

    @classmethod
    def load(cls, folder: str | Path, modality: str, key: str) -> 'FeatureStore | None':
        """The store of exactly this key, or None when it must be computed.

        A file that is truncated or altered gives None with a warning in the log, one made under
        another key (other weights, front end, pipeline or data) None with a note.
        """
        path = cls.path(folder, modality, key)
        if not path.exists():
            _note_other_keys(path, modality)
            return None
        try:
            store = cls._read(path)
        except Exception as e:  # whatever is wrong with a cache file: it can be made again
            logger.warning('feature cache %s is unusable (%s); computing it again', path, e)
            return None
        if (store.modality, store.key) != (modality, key):
            logger.warning('feature cache %s belongs to another key; computing it again', path)
            return None
        return store

    @classmethod
    def _read(cls, path: Path) -> 'FeatureStore':
        from safetensors import safe_open

        with safe_open(path, framework='pt') as file:
            meta = file.metadata() or {}
            features = file.get_tensor(TENSOR)
        if meta.get('format') != FORMAT or meta.get('format_version') != str(FORMAT_VERSION):
            raise ValueError(f'no {FORMAT} file of version {FORMAT_VERSION}')
        if _sha256(features) != meta['sha256']:
            raise ValueError('its checksum does not fit')
        ids, missing = json.loads(meta['sample_ids']), json.loads(meta['missing'])
        return cls(meta['modality'], meta['key'], ids, features, missing)


def _sha256(features: Tensor) -> str:
    return hashlib.sha256(features.contiguous().numpy().tobytes()).hexdigest()


def _note_other_keys(path: Path, modality: str) -> None:
    others = [p for p in path.parent.glob('*.safetensors') if p.stem.rpartition('-')[0] == modality]
    if others:
        logger.info(
            'features of %r are cached for other weights, settings or data only; computing them',
            modality,
        )


def compute_features(
    encode: Callable[[dict[str, Any]], Mapping[str, Tensor]],
    loader: Iterable[dict[str, Any]],
    keys: Mapping[str, str],
) -> dict[str, FeatureStore]:
    """Run frozen encoders over a loader, once, without gradients.

    Args:
        encode: a collated batch to {m: [B, H_m]}; it holds preprocessor and encoders.
        loader: batches ``{'inputs': ..., 'data_samples': [samples]}``; every sample once. Its
            pipeline should be the one of evaluation: a cached feature knows no augmentation.
        keys: cache key by modality; these modalities are stored.

    Returns:
        a store per modality, not yet saved. A sample whose ``missing`` names the modality, or whose
        input is None, is noted as missing.

    Raises:
        LookupError: ``encode`` did not give one of the modalities.
        ValueError: a sample comes twice, or a feature is not finite.
    """
    ids: dict[str, list[str]] = {m: [] for m in keys}
    rows: dict[str, list[Tensor]] = {m: [] for m in keys}
    missing: dict[str, set[str]] = {m: set() for m in keys}
    for batch in loader:
        with torch.no_grad():
            encoded = encode(batch)
        for m in keys:
            if m not in encoded:
                raise LookupError(f'no features of {m!r} came out, only of {sorted(encoded)}')
            values = (batch.get('inputs') or {}).get(m)
            _collect(m, batch['data_samples'], values, encoded[m], ids[m], rows[m], missing[m])
    return {
        m: FeatureStore(m, key, ids[m], torch.cat(rows[m]) if rows[m] else None, missing[m])
        for m, key in keys.items()
    }


def _collect(
    modality: str,
    samples: Sequence[MultiModalDataSample],
    values: Sequence[Any] | None,
    features: Tensor,
    ids: list[str],
    rows: list[Tensor],
    missing: set[str],
) -> None:
    there = [
        i
        for i, s in enumerate(samples)
        if modality not in s.metainfo.get('missing', ())
        and (values is None or values[i] is not None)
    ]
    missing.update(s.sample_id for i, s in enumerate(samples) if i not in set(there))
    if there:
        ids.extend(samples[i].sample_id for i in there)
        rows.append(features.detach().float().cpu()[there])


class CachedFeatureDataset:
    """A dataset that hands out cached features in place of decoded inputs.

    An item is ``{'inputs': {m: value or None}, 'features': {m: [H_m] or None}, 'data_samples':
    sample}``. Where every modality is cached nothing is decoded and no transform runs: only
    ``dataset.get_data_info(i)`` (``sample_id``, ``label``, ``group``) is asked, if it has that.
    Otherwise the other modalities are read (by ``dataset.narrowed``, where the dataset can leave
    modalities out; else the whole item is taken), and the cached modalities' inputs are None. A
    modality that the sample lacks has the feature None and stands in the sample's ``missing``.

    Cached features know neither augmentation nor corruption: wrap only what needs none.

    Every other attribute (``metainfo``, ``set_epoch``, ``full_init``, ``labels``, ``groups``) is
    the wrapped dataset's.

    Args:
        dataset: a map-style dataset of cal_mm.
        stores: store by modality.
        modalities: every modality that the model uses; None: those in ``stores``.

    Raises:
        ValueError: no store, or a store for a modality that is not used.
    """

    def __init__(
        self,
        dataset: Any,
        stores: Mapping[str, FeatureStore],
        modalities: Sequence[str] | None = None,
    ) -> None:
        used = tuple(sorted(stores if modalities is None else modalities))
        unused = sorted(set(stores) - set(used))
        if not stores or unused:
            raise ValueError(
                f'CachedFeatureDataset: stores for {sorted(stores)}, modalities {list(used)}: '
                f'needs at least one store, each for one of the modalities'
            )
        self.dataset = dataset
        self.stores = dict(stores)
        self.modalities = used
        #: whether an item is read from ``dataset``
        self.reads_items = not (self.fully_cached and _has_facts(dataset))
        self._uncached = dataset if self.fully_cached else _without(dataset, stores, used)

    @property
    def fully_cached(self) -> bool:
        """Whether no modality needs decoding."""
        return set(self.modalities) <= set(self.stores)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str) -> Any:
        # asked only for what is not found here; before __init__ (unpickling) there is no dataset
        if name.startswith('__') or 'dataset' not in self.__dict__:
            raise AttributeError(f'{type(self).__name__!r} object has no attribute {name!r}')
        if name in ('labels', 'groups', 'sample_ids'):
            return self._column(name)
        return getattr(self.dataset, name)

    def _column(self, name: str) -> Any:
        """The dataset's; a wrapper may hand through those of more samples than it has."""
        from cal_mm.datasets import column_of

        found = getattr(self.dataset, name, None)
        if found is None or len(found) != len(self):
            found = column_of(self.dataset, name)
        if found is None:
            raise AttributeError(f'{type(self.dataset).__name__!r} does not tell its {name}')
        return found

    def _served(self) -> dict[str, FeatureStore]:
        """The stores that an item is made of."""
        return self.stores

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """The items of a batch, which a ``DataLoader`` asks for at once."""
        if self.reads_items:
            return [self._mixed(index) for index in indices]
        facts = [self.dataset.get_data_info(index) for index in indices]
        ids = [info['sample_id'] for info in facts]
        columns = {m: s.rows(ids) for m, s in self._served().items()}
        return [
            self._item(info, {m: c[i] for m, c in columns.items()}) for i, info in enumerate(facts)
        ]

    def _item(self, info: Mapping[str, Any], features: dict[str, Tensor | None]) -> dict[str, Any]:
        sample = MultiModalDataSample.of(
            info['sample_id'],
            int(info['label']),
            group=info.get('group') or '',
            missing=tuple(m for m in self.modalities if features[m] is None),
        )
        inputs = dict.fromkeys(self.modalities)
        return {'inputs': inputs, 'features': features, 'data_samples': sample}

    def _mixed(self, index: int) -> dict[str, Any]:
        item = dict(self._uncached[index])
        sample = item['data_samples']
        features = {m: store.row(sample.sample_id) for m, store in self._served().items()}
        names = sorted({*item['inputs'], *features})
        inputs = {m: None if m in features else item['inputs'][m] for m in names}
        lacking = {m for m, feature in features.items() if feature is None}
        lacking.update(m for m in sample.missing if m not in features)
        sample.set_metainfo({'missing': tuple(sorted(lacking))})
        return {**item, 'inputs': inputs, 'features': features}


def _has_facts(dataset: Any) -> bool:
    """Whether ``get_data_info`` works, through wrappers of mmengine's and torch's."""
    from cal_mm.datasets.access import wrapped_datasets

    inner = wrapped_datasets(dataset)
    return hasattr(dataset, 'get_data_info') and all(_has_facts(one) for one in inner)


def _without(dataset: Any, stores: Mapping[str, FeatureStore], modalities: Sequence[str]) -> Any:
    """``dataset`` with the modalities that have no store, where it can leave some out."""
    # of the class: a wrapper that hands attributes through would be left out with what it does
    if not hasattr(type(dataset), 'narrowed'):
        return dataset
    return dataset.narrowed([m for m in modalities if m not in stores]) or dataset


class DrawnFeatureDataset(CachedFeatureDataset):
    """Cached features of several random draws of a pipeline; every epoch has the next one.

    Args:
        dataset: see :class:`CachedFeatureDataset`; its own epoch follows.
        draws: stores by modality, of draw 0, 1, ...; all modalities in each.
        modalities: every modality that the model uses.

    Raises:
        ValueError: no draws, or a modality is not in all of them.
    """

    def __init__(
        self, dataset: Any, draws: Sequence[Mapping[str, FeatureStore]], modalities: Sequence[str]
    ) -> None:
        if not draws or any(set(d) != set(modalities) for d in draws):
            raise ValueError(
                f'DrawnFeatureDataset needs draws with stores for all of {sorted(modalities)}, got '
                f'{[sorted(d) for d in draws]}'
            )
        from cal_mm.datasets.epoch import SharedEpoch

        super().__init__(dataset, draws[0], modalities)
        self.draws = [dict(d) for d in draws]
        self._draw = SharedEpoch()

    def _served(self) -> dict[str, FeatureStore]:
        return self.draws[self._draw.get()]

    def set_epoch(self, epoch: int) -> None:
        """Serve the draw of ``epoch``, also in workers that are already running."""
        from cal_mm.datasets import set_dataset_epoch

        self._draw.set(epoch % len(self.draws))
        set_dataset_epoch(self.dataset, self._draw.get())
