"""Frozen encoders run once: their features are cached on disk and served instead of decoded
inputs. Where a pipeline draws at random, they are kept in memory by the value that was encoded.
"""

import itertools
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.dataset import pseudo_collate
from mmengine.dist import barrier, is_main_process
from mmengine.hooks import Hook
from torch import Tensor
from torch.utils.data import DataLoader

from cal_mm.datasets import MultiModalDataset, column_of, described_datasets, set_dataset_epoch
from cal_mm.datasets.access import nested_datasets
from cal_mm.datasets.rows import ArrowRows
from cal_mm.datasets.transforms.base import is_repeatable
from cal_mm.engine.feature_memo import FeatureMemo
from cal_mm.files import locked
from cal_mm.models.encoders.cache import (
    CachedFeatureDataset,
    DrawnFeatureDataset,
    FeatureStore,
    cache_key,
    compute_features,
)
from cal_mm.models.encoders.origin import NoDigestError, encoding_facts, item_facts, state_of
from cal_mm.models.modes import evaluating
from cal_mm.registry import HOOKS
from cal_mm.wrapping import unwrap

__all__ = ['FeatureCacheHook', 'draws_at_random', 'with_dataset']

#: what the values of a prepared sample do not depend on, or what its digest and ids tell
_TOLD_ELSEWHERE = (
    'data_root',
    'indices',
    'keep_bytes',
    'label_noise',
    'lazy_init',
    'num_samples',
    'seed',
    'serialize_data',
    'split',
)


@HOOKS.register_module()
class FeatureCacheHook(Hook):
    """Before training, encode the training and validation sets with every frozen encoder, once.

    The key of a cache file holds the encoder's weights, the front end's settings, the dataset's
    config, the data's digest, the code that decodes, corrupts and encodes, the versions of the
    packages behind it and the kind of processor, so a change of any of them is noticed. Where one
    of them cannot be told (a dataset without ``metainfo['digest']``), or samples come twice,
    nothing is kept on disk.

    A training pipeline that draws at random (augmentation, dropped modalities) changes its values
    from epoch to epoch, so there is nothing to cache, unless ``draws`` says that so many different
    epochs are enough: these are encoded once and come round again.
    What it leaves as it was is still encoded once: a
    ``FeatureMemo`` serves values that come back with the same bits.

    Args:
        folder: of the cache; default ``feature_cache`` beside the work dir, shared by the runs
            there.
        batch_size: of the encoding pass.
        memo_bytes: features kept in memory at most where a pipeline draws at random; 0: none.
        draws: epochs of such a pipeline that are cached, if all encoders are frozen; 0: none.
    """

    priority = 'HIGH'

    def __init__(
        self,
        folder: str | None = None,
        batch_size: int = 64,
        memo_bytes: int = 2**28,
        draws: int = 0,
    ) -> None:
        if draws < 0:
            raise ValueError(f'FeatureCacheHook: draws must be at least 0, got {draws}')
        self.folder = folder
        self.batch_size = batch_size
        self.memo_bytes = memo_bytes
        self.draws = draws
        self._memo: FeatureMemo | None = None

    def before_train(self, runner: Any) -> None:
        """Swap the datasets of the training and validation loops."""
        model = unwrap(runner.model)
        frozen = [
            m
            for m in getattr(model, 'modalities', ())
            if getattr(model.encoders[m], 'frozen', False)
        ]
        self._memo = None
        if not frozen:
            return
        loader = runner.train_loop.dataloader
        runner.train_loop.dataloader = self._cached(runner, model, frozen, loader, 'train')
        if runner.train_loop.dataloader is loader and self.memo_bytes:
            self._memo = FeatureMemo(model, self.memo_bytes)
        if runner.val_loop is not None:
            runner.val_loop.dataloader = self._cached(
                runner, model, frozen, runner.val_loop.dataloader, 'val'
            )

    def before_train_iter(
        self, runner: Any, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        """Put the features of known values into the batch."""
        if self._memo is not None and isinstance(data_batch, dict):
            data_batch.update(self._memo.serve(data_batch))

    def after_train(self, runner: Any) -> None:
        """Free the memory."""
        self._memo = None

    def _cached(
        self, runner: Any, model: Any, frozen: list[str], loader: DataLoader, which: str
    ) -> DataLoader:
        dataset = loader.dataset
        if draws_at_random(dataset, frozen):
            if self.draws and set(frozen) == set(model.modalities):
                return self._drawn(runner, model, loader, which)
            runner.logger.warning(
                f'{which}: the pipeline draws at random, so the features of the frozen encoders '
                f'{frozen} are not cached on disk; only values that come back unchanged are '
                f'encoded once'
            )
            return loader
        cfg = runner.cfg[f'{which}_dataloader'].dataset
        try:
            keys = {m: self._key(model, m, dataset, cfg) for m in frozen}
        except NoDigestError as e:
            return _not_cached(runner, loader, which, e)
        # the first rank encodes what is not there, the others wait for it and load
        stores = self._stores(runner, model, dataset, keys, which) if is_main_process() else {}
        barrier()
        stores = stores or self._stores(runner, model, dataset, keys, which)
        _tell_widths(model, stores)
        cached = CachedFeatureDataset(dataset, stores, model.modalities)
        return with_dataset(loader, cached)

    def _stores(
        self, runner: Any, model: Any, dataset: Any, keys: dict[str, str], which: str
    ) -> dict[str, FeatureStore]:
        """Of all of ``keys``: loaded, or else encoded and loaded."""
        folder, cfg = self._folder(runner), runner.cfg[f'{which}_dataloader'].dataset
        stores = self._load(folder, keys)
        if len(stores) == len(keys):
            return stores
        stores = {**self._whole_split(model, dataset, cfg, folder, list(keys)), **stores}
        if len(stores) == len(keys):
            return stores
        # of several runs that want the same features one encodes, the others wait
        with locked(os.path.join(folder, '.lock')):
            there = self._load(folder, keys)
            lost = {m: key for m, key in keys.items() if m not in {**stores, **there}}
            if lost:
                runner.logger.info(
                    f'{which}: caching the features of the frozen encoders {sorted(lost)}'
                )
                self._compute(model, dataset, lost, folder)
        return {**stores, **self._load(folder, keys)}

    def _folder(self, runner: Any) -> str:
        beside = os.path.join(os.path.dirname(os.path.abspath(runner.work_dir)), 'feature_cache')
        return self.folder or beside

    def _drawn(self, runner: Any, model: Any, loader: DataLoader, which: str) -> DataLoader:
        """The first epochs of a pipeline that draws at random, encoded once."""
        dataset, folder = loader.dataset, self._folder(runner)
        cfg = runner.cfg[f'{which}_dataloader'].dataset
        try:
            clean = {m: self._key(model, m, dataset, cfg) for m in model.modalities}
        except NoDigestError as e:
            return _not_cached(runner, loader, which, e)
        seeds = [getattr(d, 'seed', None) for d in nested_datasets(dataset)]
        drawn = dict(modalities=list(model.modalities), seeds=seeds)
        keys = [
            {m: cache_key(clean=clean[m], epoch=epoch, **drawn) for m in model.modalities}
            for epoch in range(self.draws)
        ]
        if is_main_process():
            memo = FeatureMemo(model, self.memo_bytes)
            with locked(os.path.join(folder, '.lock')):
                for epoch, wanted in enumerate(keys):
                    if len(self._load(folder, wanted)) < len(wanted):
                        set_dataset_epoch(dataset, epoch)
                        self._compute(model, dataset, wanted, folder, memo)
        barrier()
        draws = [self._load(folder, wanted) for wanted in keys]
        _tell_widths(model, draws[0])
        return with_dataset(loader, DrawnFeatureDataset(dataset, draws, model.modalities))

    @staticmethod
    def _load(folder: str, keys: dict[str, str]) -> dict[str, FeatureStore]:
        found = {m: FeatureStore.load(folder, m, key) for m, key in keys.items()}
        return {m: store for m, store in found.items() if store is not None}

    def _whole_split(
        self, model: Any, dataset: Any, cfg: Any, folder: str, frozen: list[str]
    ) -> dict[str, FeatureStore]:
        """Stores of the split that ``dataset`` is a part of, where another run left them."""
        rows = getattr(dataset, 'rows', None)
        ids = [] if rows is None else rows.light(('sample_id',))['sample_id']
        if len(ids) <= len(dataset):
            return {}
        keys = {m: self._key(model, m, dataset, cfg, ids) for m in frozen}
        return self._load(folder, keys)

    @staticmethod
    def _key(
        model: Any, modality: str, dataset: Any, cfg: Any, ids: Sequence[str] | None = None
    ) -> str:
        return cache_key(
            **encoding_facts(model, modality),
            items=item_facts(dataset),
            config=_config_facts(dataset, cfg, modality),
            ids=_unique_ids(dataset) if ids is None else sorted(ids),
        )

    def _compute(
        self,
        model: Any,
        dataset: Any,
        keys: dict[str, str],
        folder: str,
        memo: FeatureMemo | None = None,
    ) -> None:
        def encode(batch: dict[str, Any]) -> dict[str, Tensor]:
            if memo is not None:
                found = memo.serve(batch)['features']
                return {m: _stacked(found[m], model.encoders[m].out_channels) for m in keys}
            # what no sample of the batch has gets zeros: a front end may not know its shape
            inputs, count = batch['inputs'], len(batch['data_samples'])
            absent = {m for m in model.modalities if all(v is None for v in inputs.get(m, [0]))}
            zeros = {m: torch.zeros(count, model.encoders[m].out_channels) for m in absent}
            if zeros:
                batch = {**batch, 'features': {**(batch.get('features') or {}), **zeros}}
            data = model.data_preprocessor(batch, training=False)
            masks = data.get('masks') or {}
            there = set(keys) - absent
            found = {m: model.encoders[m](data['inputs'][m], masks.get(m)) for m in there}
            return {**zeros, **found}

        loader = DataLoader(dataset, batch_size=self.batch_size, collate_fn=pseudo_collate)
        with evaluating(model):
            for store in compute_features(encode, loader, keys).values():
                store.save(folder)


def _config_facts(dataset: Any, cfg: Any, modality: str) -> dict[str, Any]:
    """What the values of ``modality`` depend on in the config of ``dataset``."""
    prepared = [d for d in nested_datasets(dataset) if isinstance(d, MultiModalDataset)]
    known: tuple[str, ...] = ()
    if all(type(d) is MultiModalDataset for d in prepared):
        known = _TOLD_ELSEWHERE
        if all(d.narrowed([modality]) is not None for d in prepared):
            known = (*known, 'modalities')  # a model of one shares with a model of all
    drawn = [d.seed for d in prepared if d.test_mode and _pipeline_draws(d, [modality])]
    return {'config': state_of(_config_without(cfg, known)), 'seeds': drawn}


def _config_without(cfg: Any, known: tuple[str, ...]) -> Any:
    """``cfg`` without the keys ``known`` of prepared datasets."""
    if isinstance(cfg, Mapping):
        kind = cfg.get('type')
        name = str(getattr(kind, '__name__', kind)).rpartition('.')[2]
        left_out = known if name == MultiModalDataset.__name__ else ()
        return {k: _config_without(v, known) for k, v in cfg.items() if k not in left_out}
    if isinstance(cfg, list | tuple):
        return [_config_without(v, known) for v in cfg]
    return cfg


def _unique_ids(dataset: Any) -> list[str]:
    found = column_of(dataset, 'sample_ids')
    if found is None:
        raise NoDigestError(
            f'{type(dataset).__name__} does not tell its samples (property `sample_ids`, N '
            f'strings), so their features cannot be cached'
        )
    ids = sorted(found.tolist())
    twice = next((a for a, b in itertools.pairwise(ids) if a == b), None)
    if twice is not None:
        raise NoDigestError(
            f'{type(dataset).__name__} has the sample {twice!r} more than once, and features are '
            f'cached by sample'
        )
    return ids


def _stacked(features: list[Tensor | None], channels: int) -> Tensor:
    """[B, H]; zeros for a missing modality, of which no feature is kept."""
    zeros = torch.zeros(channels)
    return torch.stack([zeros if f is None else f for f in features])


def _tell_widths(model: Any, stores: Mapping[str, FeatureStore]) -> None:
    """Tell the preprocessor how wide the features are: a first batch may have none."""
    preprocessor = model.data_preprocessor
    if not hasattr(preprocessor, 'seen_widths'):
        return
    for column, name in enumerate(preprocessor.modalities):
        if name in stores and not preprocessor.seen_widths[column]:
            preprocessor.seen_widths[column] = model.encoders[name].out_channels


def _not_cached(runner: Any, loader: DataLoader, which: str, why: Exception) -> DataLoader:
    runner.logger.warning(f'{which}: the features are not cached on disk: {why}')
    return loader


def draws_at_random(dataset: Any, modalities: list[str]) -> bool:
    """Whether a transform draws for one of the modalities, or the first samples that have them
    differ from one epoch to the next (a transform with a source of its own, or a wrapper). Leaves
    the dataset at epoch 0.
    """
    if isinstance(dataset, (CachedFeatureDataset, DrawnFeatureDataset)):
        return isinstance(dataset, DrawnFeatureDataset)
    inside = described_datasets(dataset)
    for inner in inside:
        if not getattr(inner, 'test_mode', True) and _pipeline_draws(inner, modalities):
            return True
    shown = [(d, _shown(d, modalities)) for d in {id(d): d for d in (dataset, *inside)}.values()]
    views = []
    for epoch in (0, 1):
        set_dataset_epoch(dataset, epoch)
        views.append([_inputs(d[i]) for d, indices in shown for i in indices])
    set_dataset_epoch(dataset, 0)
    return any(
        not _same(a.get(m), b.get(m)) for a, b in zip(*views, strict=True) for m in modalities
    )


def _pipeline_draws(dataset: Any, modalities: list[str]) -> bool:
    """Whether a transform takes numbers from the sample's generator, in training or not.

    One of cal_mm does unless it says ``repeatable``, though perhaps only for some samples (a clip
    that is too long, a text with words). Any other is tried on the first samples that have the
    modalities: a rare event (one in a hundred dropped) need not show there, but it is drawn for
    every sample.
    """
    if not hasattr(dataset, 'raw'):
        return False
    steps = dataset.pipeline.transforms
    ours = [step for step in steps if type(step).__module__.startswith('cal_mm.')]
    if any(_touches(step, modalities) and not is_repeatable(step) for step in ours):
        return True
    if len(ours) == len(steps):
        return False
    for i in _shown(dataset, modalities):
        results = dataset.raw(i)
        rng = results['rng']
        for step in steps:
            before = rng.bit_generator.state
            results = step(results)
            if rng.bit_generator.state != before and _touches(step, modalities):
                return True
    return False


def _touches(transform: Any, modalities: Sequence[str]) -> bool:
    names = getattr(transform, 'modalities', None)
    return not names or bool(set(names) & set(modalities))


def _shown(dataset: Any, modalities: Sequence[str]) -> list[int]:
    """The first four samples, and the first four with a value of each modality where rows tell."""
    found = set(range(min(4, len(dataset))))
    if getattr(type(dataset), 'raw', None) is not MultiModalDataset.raw:
        return sorted(found)
    for name in set(modalities) & set(dataset.modalities):
        rows = ArrowRows(dataset.rows.folder, [name])
        positions = ((i, dataset.get_data_info(i)['row']) for i in range(len(dataset)))
        there = (i for i, row in positions if rows.row(row)[name] is not None)
        found.update(itertools.islice(there, 4))
    return sorted(found)


def _inputs(item: Any) -> Mapping[str, Any]:
    """Those of a packed item; none of what a wrapper packs."""
    return item.get('inputs', {}) if isinstance(item, Mapping) else {}


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and torch.equal(a, b)
    return bool(a == b)


def with_dataset(loader: DataLoader, dataset: CachedFeatureDataset) -> DataLoader:
    """The same loader over another dataset of the same length."""
    workers: dict[str, Any] = {}
    if dataset.reads_items and loader.num_workers:
        # cached features alone need no workers; what is decoded beside them may
        workers = dict(
            num_workers=loader.num_workers,
            persistent_workers=loader.persistent_workers,
            prefetch_factor=loader.prefetch_factor,
            pin_memory=loader.pin_memory,
            worker_init_fn=loader.worker_init_fn,
            multiprocessing_context=loader.multiprocessing_context,
        )
    batches: dict[str, Any] = dict(
        batch_size=loader.batch_size, sampler=loader.sampler, drop_last=loader.drop_last
    )
    if loader.batch_size is None and loader.batch_sampler is not None:
        batches = dict(batch_sampler=loader.batch_sampler)
    return DataLoader(
        dataset,  # type: ignore[arg-type]
        collate_fn=loader.collate_fn,
        **batches,
        **workers,
    )
