"""The dataset: rows of prepared Arrow data, read lazily, through a pipeline of transforms."""

import copy
import pickle
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dataset import BaseDataset

from cal_mm.registry import DATASETS, TRANSFORMS
from cal_mm.structures import sample_key

from .epoch import SharedEpoch
from .kept import KeptInputs
from .manifest import choose, read_manifest
from .rows import ArrowRows
from .selection import noisy_labels, positions, stratified_subsample

__all__ = ['MultiModalDataset']


@DATASETS.register_module()
class MultiModalDataset(BaseDataset):
    """One split of a prepared dataset (docs/architecture.md, "Prepared data").

    ``dataset[i]`` reads row i, builds ``results`` (``sample_id``, ``label``, ``group``, ``split``,
    ``kinds``: modality -> kind, ``rng``, and each modality's raw column value, None where it is
    missing) and runs the pipeline. ``results['rng']`` is seeded from (seed, epoch, sample id) only,
    so what a sample draws depends neither on workers nor on order. In test mode the epoch is fixed
    at 0. (A ``RepeatDataset`` therefore repeats a sample with the same draw inside one epoch.)

    ``metainfo``: ``classes`` (tuple), ``modalities`` {m: kind and facts of the packed value: the
    manifest's, as far as no transform has changed them}, ``dataset``, ``version``, ``protocol``,
    ``digest``, ``split``. To concatenate two splits give ``ConcatDataset`` the
    argument ``ignore_keys='split'``.

    Args:
        data_root: folder with ``manifest.json``.
        split: name of a split in the manifest.
        pipeline: transforms (configs or callables); those of modalities that are not selected are
            left out, those of modalities that the dataset does not have are refused.
        modalities: the modalities to read; None for all.
        label_noise: share in [0, 1] of the labels that is replaced uniformly by another class,
            after ``num_samples`` and before ``indices``; only for splits whose name starts with
            "train".
        seed: of augmentation, label noise and subsample.
        indices: the first n (int), the last n (negative int) or these positions.
        num_samples: size of a seeded, stratified subsample; None for all.
        metainfo: overrides entries of ``metainfo``, for instance nicer class names (same number).
        test_mode: no augmentation epoch; what evaluation uses.
        keep_bytes: of packed values that stay in memory once they were read, over all workers of a
            loader, where no transform draws anything (``repeatable``); 0: none.
        serialize_data: keep the light metadata as one block of bytes, which forked workers share.
        lazy_init: read the rows' metadata on first use.

    Raises:
        FileNotFoundError: ``data_root`` has no manifest.
        LookupError: unknown split or modality.
        ValueError: a label outside the classes, a split without samples, or a folder that does not
            match its manifest.
    """

    data_list: list[dict]

    def __init__(
        self,
        data_root: str | Path,
        split: str,
        pipeline: Sequence[dict | Callable] = (),
        modalities: Sequence[str] | None = None,
        label_noise: float = 0.0,
        seed: int = 0,
        indices: int | Sequence[int] | None = None,
        num_samples: int | None = None,
        metainfo: Mapping | None = None,
        test_mode: bool = False,
        serialize_data: bool = True,
        lazy_init: bool = False,
        keep_bytes: int = 2**26,
    ) -> None:
        self.manifest = read_manifest(data_root)
        self.split = choose(split, self.manifest['splits'], 'split', data_root)
        self.modalities = _selected(modalities, self.manifest['modalities'], data_root)
        if label_noise and not split.startswith('train'):
            raise ValueError(
                f'label_noise={label_noise} on the split {split!r}: only training labels may be '
                'noisy'
            )
        self.label_noise = label_noise
        self.seed = seed
        self.num_samples = num_samples
        self.kinds = {m: self.manifest['modalities'][m]['kind'] for m in self.modalities}
        self.rows = ArrowRows(Path(data_root) / split, self.modalities)
        self._facts = {m: dict(self.manifest['modalities'][m]) for m in self.modalities}
        self._epoch = SharedEpoch()
        self._kept = KeptInputs(keep_bytes)
        super().__init__(
            data_root=str(data_root),
            data_prefix={},
            indices=indices,
            pipeline=self._built(pipeline),
            test_mode=test_mode,
            serialize_data=serialize_data,
            lazy_init=True,
        )
        self._metainfo = self._described(dict(metainfo or {}))
        if not lazy_init:
            self.full_init()

    def _described(self, given: dict) -> dict:
        manifest = self.manifest
        described = dict(
            classes=tuple(manifest['classes']),
            modalities=self._facts,
            dataset=manifest['name'],
            version=manifest.get('version'),
            protocol=manifest.get('protocol'),
            digest=manifest['digest'],
            split=self.split,
        )
        described.update(given)
        described['classes'] = tuple(described['classes'])
        if len(described['classes']) != len(manifest['classes']):
            raise ValueError(
                f'metainfo gives {len(described["classes"])} classes, '
                f'{self.rows.folder.parent} has {len(manifest["classes"])}'
            )
        return described

    def _built(self, pipeline: Sequence[dict | Callable]) -> list[Callable]:
        """Build the transforms, check their modalities and drop those that have none left.

        One with ``with_facts`` is told what is known of the values at its place; one with
        ``update_facts`` says what it makes of them.
        """
        built = []
        for step in pipeline:
            transform: Any = TRANSFORMS.build(step) if isinstance(step, dict) else step
            where = f'{type(transform).__name__} in the pipeline of {self.rows.folder}'
            for name in _named(transform):
                choose(name, self.manifest['modalities'], 'modality', where)
            transform = _restricted(transform, self.modalities)
            if transform is None:
                continue
            if hasattr(transform, 'with_facts'):
                transform = transform.with_facts(copy.deepcopy(self._facts))
            if hasattr(transform, 'update_facts'):
                transform.update_facts(self._facts)
            built.append(transform)
        return built

    def narrowed(self, modalities: Sequence[str]) -> 'MultiModalDataset | None':
        """The same samples with some of the modalities only; the others are not even read.

        It shares metadata and epoch with this dataset; ``metainfo`` still describes all. What a
        transform draws is the same as long as those left out draw nothing.

        Returns:
            None where a transform may read other modalities than its own, or does not say (see
            ``ModalityTransform.separable``), and for a subclass that makes items in its own way.
        """
        steps = self.pipeline.transforms
        own = any(
            getattr(type(self), name) is not getattr(MultiModalDataset, name)
            for name in ('__getitem__', 'prepare_data', 'raw')
        )
        if own or not all(getattr(step, 'separable', False) for step in steps):
            return None
        names = tuple(m for m in self.modalities if m in modalities)
        narrow = copy.copy(self)
        narrow.modalities = names
        narrow.kinds = {m: self.kinds[m] for m in names}
        narrow.rows = ArrowRows(self.rows.folder, names)
        narrow._kept = KeptInputs(self._kept.max_bytes)
        narrow.pipeline = copy.copy(self.pipeline)
        kept = [_restricted(step, names) for step in steps]
        narrow.pipeline.transforms = [step for step in kept if step is not None]
        return narrow

    def load_data_list(self) -> list[dict]:
        """Light metadata of the chosen samples: row, sample_id, label, clean_label, group."""
        columns = self.rows.light(('sample_id', 'label', 'group'))
        ids, groups = columns['sample_id'], columns['group']
        self._check_size(len(ids))
        labels = self._checked_labels(columns['label'], ids)
        chosen = np.arange(len(ids))
        if self.num_samples is not None:
            chosen = stratified_subsample(labels, ids, self.num_samples, self.seed)
        clean = labels[chosen]
        kept = [ids[row] for row in chosen]
        classes = len(self.manifest['classes'])
        noisy = noisy_labels(clean, kept, classes, self.label_noise, self.seed)
        return [
            dict(
                row=int(row),
                sample_id=ids[row],
                label=int(label),
                clean_label=int(true),
                group=groups[row] or '',
            )
            for row, label, true in zip(chosen, noisy, clean, strict=True)
        ]

    def _check_size(self, length: int) -> None:
        expected = self.manifest['splits'][self.split].get('num_samples', length)
        if length == expected == 0:
            bad = [b for b in self.manifest.get('bad') or () if b.get('split') == self.split]
            why = ''
            if bad:
                why = (
                    f': all {len(bad)} were left out when it was prepared, such as '
                    f'{bad[0].get("sample_id")!r} ({bad[0].get("reason")})'
                )
            raise ValueError(
                f'the split {self.split!r} of {self.data_root} holds no samples{why}; choose '
                'another split, or prepare the dataset again from raw files that give it some'
            )
        if length != expected:
            raise ValueError(
                f'{self.rows.folder} holds {length} samples, its manifest says {expected}; '
                f'it needs at least one and the same number: prepare the dataset again'
            )

    def _checked_labels(self, labels: list, ids: list) -> np.ndarray:
        classes = self.manifest['classes']
        for sample_id, label in zip(ids, labels, strict=True):
            if label is None or not 0 <= label < len(classes):
                raise ValueError(
                    f'sample {sample_id!r} in {self.rows.folder} has the label {label}, expected '
                    f'an index in [0, {len(classes)}) of the classes '
                    f'{", ".join(map(str, classes))}; correct the raw label and prepare the '
                    'dataset again'
                )
        return np.asarray(labels, dtype=np.int64)

    def prepare_data(self, idx: int) -> Any:
        """Sample ``idx`` after the pipeline.

        Raises:
            ValueError: a value cannot be decoded (names sample, modality and reason), or a
                transform returned None: samples are never replaced by others.
        """
        steps = self.pipeline.transforms
        keeps = type(self).raw is MultiModalDataset.raw and self._kept.serves(steps)
        if keeps:
            info = self.get_data_info(idx)
            if (kept := self._kept.get(info)) is not None:
                return kept
        results = self.raw(idx)
        where = f'sample {results["sample_id"]!r} (split {self.split!r} of {self.data_root})'
        packed: Any = results
        for transform in steps:
            try:
                packed = transform(packed)
            except Exception as e:
                e.add_note(f'in {type(transform).__name__} on {where}')
                raise
            if packed is None:
                raise ValueError(f'{type(transform).__name__} returned None for {where}')
        if keeps:
            self._kept.put(info, packed)
        return packed

    def raw(self, idx: int) -> dict[str, Any]:
        """``results`` of sample ``idx`` as the first transform gets it."""
        results = self.get_data_info(idx)
        results['split'] = self.split
        results['kinds'] = dict(self.kinds)
        results['rng'] = self._generator(results['sample_id'])
        results.update(self.rows.row(results['row']))
        return results

    def _generator(self, sample_id: str) -> np.random.Generator:
        epoch = 0 if self.test_mode else self._epoch.get()
        stream = sample_key('augmentation', self.seed, epoch)
        return np.random.default_rng([stream, sample_key(sample_id)])

    @property
    def epoch(self) -> int:
        """The epoch that augmentation draws from (always 0 in test mode)."""
        return 0 if self.test_mode else self._epoch.get()

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, also in workers that already run; call it before the loader's ``iter``."""
        self._epoch.set(epoch)

    def get_cat_ids(self, idx: int) -> list[int]:
        """The class of sample ``idx``, for ``ClassBalancedDataset``."""
        return [self.get_data_info(idx)['label']]

    def _column(self, key: str) -> list:
        return [self.get_data_info(i)[key] for i in range(len(self))]

    @property
    def labels(self) -> np.ndarray:
        """Labels in use (noisy where ``label_noise`` says so), int64 [N]."""
        return np.asarray(self._column('label'), dtype=np.int64)

    @property
    def clean_labels(self) -> np.ndarray:
        """Labels before label noise, int64 [N]."""
        return np.asarray(self._column('clean_label'), dtype=np.int64)

    @property
    def groups(self) -> np.ndarray:
        """Groups (actor, scene, ...), str [N]; for grouped folds."""
        return np.asarray(self._column('group'), dtype=str)

    @property
    def sample_ids(self) -> list[str]:
        """Ids of the samples, in order."""
        return self._column('sample_id')

    def _serialize_data(self) -> tuple[np.ndarray, np.ndarray]:
        # as the base class does it, without its full garbage collection (0.2 s for each dataset)
        blocks = [pickle.dumps(info, protocol=4) for info in self.data_list]
        self.data_list = []
        ends = np.cumsum([len(block) for block in blocks], dtype=np.int64)
        return np.frombuffer(b''.join(blocks), dtype=np.uint8), ends

    def _get_unserialized_subset(self, indices: Any) -> list:
        return super()._get_unserialized_subset(positions(indices, len(self.data_list)))

    def _get_serialized_subset(self, indices: Any) -> tuple[np.ndarray, np.ndarray]:
        return super()._get_serialized_subset(positions(indices, len(self)))


def _named(transform: Any) -> tuple[str, ...]:
    """The modalities that ``transform`` names; none where it is for all or does not say."""
    names = getattr(transform, 'modalities', None)
    return tuple(names) if isinstance(names, list | tuple) else ()


def _restricted(transform: Any, modalities: Sequence[str]) -> Any:
    """``transform`` for those of its modalities only; None when there are none."""
    names = _named(transform)
    kept = tuple(name for name in names if name in modalities)
    if names and not kept:
        return None
    if kept != names:
        transform = copy.copy(transform)
        transform.modalities = kept
    return transform


def _selected(
    modalities: Sequence[str] | None, known: Mapping[str, Any], where: object
) -> tuple[str, ...]:
    if modalities is None:
        return tuple(sorted(known))
    if isinstance(modalities, str):
        modalities = [modalities]
    if not modalities:
        raise ValueError(f'{where}: modalities=[] selects nothing; None selects all')
    return tuple(sorted({choose(m, known, 'modality', where) for m in modalities}))
