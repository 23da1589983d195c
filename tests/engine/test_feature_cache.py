"""Features of frozen encoders on the disk: which datasets share them, which have none."""

import copy
import logging
from types import SimpleNamespace

import pytest
import torch
from builders import build
from mmengine.config import ConfigDict
from mmengine.dataset import pseudo_collate
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

from cal_mm.datasets import column_of
from cal_mm.engine.hooks import FeatureCacheHook, feature_cache
from cal_mm.engine.hooks.feature_cache import with_dataset
from cal_mm.models.encoders.cache import (
    CachedFeatureDataset,
    DrawnFeatureDataset,
    FeatureStore,
    compute_features,
)
from cal_mm.models.encoders.origin import NoDigestError
from cal_mm.registry import DATASETS
from cal_mm.structures import MultiModalDataSample
from data_prep.synthetic import make_synthetic

LOAD = [dict(type='LoadFeatures', modality=m) for m in 'abc']
PACK = [dict(type='PackInputs', modalities=('a', 'b', 'c'))]
NOISE = dict(
    type='CorruptSample',
    probability=0.5,
    corruptions=[dict(type='FeatureGaussianNoise', modality='a')],
)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    out = tmp_path_factory.mktemp('data') / 'synthetic'
    make_synthetic(out, num_train=24, num_val=8, num_test=8)
    return out


@pytest.fixture(scope='module')
def model():
    encoder = dict(type='MLPEncoder', in_channels=8, hidden_channels=[8], out_channels=6)
    net = build(encoders=dict.fromkeys('abc', encoder))
    for encoder in net.encoders.values():
        encoder.freeze()
    return net.eval()


@DATASETS.register_module()
class ScaledRows(torch.utils.data.Dataset):
    """A dataset of one's own; ``scale`` stands nowhere but in its arguments."""

    def __init__(self, scale=1.0, digest=None):
        generator = torch.Generator().manual_seed(0)
        values = {m: torch.randn(6, 8, generator=generator) * scale for m in 'abc'}
        self.values = values
        self.sample_ids = [f's{i}' for i in range(6)]
        self.labels = [i % 4 for i in range(6)]
        self.metainfo = dict(modalities={m: dict(kind='features') for m in 'abc'})
        if digest is not None:
            self.metainfo['digest'] = digest

    def __len__(self):
        return 6

    def __getitem__(self, i):
        sample = MultiModalDataSample.of(self.sample_ids[i], self.labels[i])
        return dict(inputs={m: v[i] for m, v in self.values.items()}, data_samples=sample)


def runner_of(model, cfg, folder):
    """As much of a runner as the hook looks at."""
    dataset = DATASETS.build(dict(cfg))
    loader = DataLoader(dataset, batch_size=4, collate_fn=pseudo_collate)
    return SimpleNamespace(
        model=model,
        cfg=ConfigDict(train_dataloader=dict(dataset=cfg)),
        train_loop=SimpleNamespace(dataloader=loader),
        val_loop=None,
        work_dir=str(folder / 'run'),
        logger=logging.getLogger('test'),
    )


def run_hook(runner):
    """The dataset that training then reads, and how many cache files there are."""
    FeatureCacheHook(memo_bytes=0).before_train(runner)
    return runner.train_loop.dataloader.dataset


def key(model, modality='a', **cfg):
    cfg = ConfigDict(cfg)
    return FeatureCacheHook._key(model, modality, DATASETS.build(cfg.to_dict()), cfg)


def test_prepared_data_share_what_their_values_have_in_common(model, data):
    def of(steps=(), modality='a', **options):
        found = dict(type='MultiModalDataset', data_root=str(data), split='train')
        found.update(pipeline=[*LOAD, *steps, *PACK], **options)
        return key(model, modality, **found)

    half = dict(indices=12)
    plain, part = of(), of(**half)
    assert of(seed=1, lazy_init=True, serialize_data=False, label_noise=0.2) == plain
    assert of(modalities=['a']) == plain
    assert of(**half, num_samples=24, seed=0, modalities=['a', 'c']) == part
    drop = dict(type='RandomModalityDrop', probabilities=dict(a=0.0, b=0.0))
    others = [
        part,
        of(modality='b'),
        of(split='val'),
        of([drop]),
        # what looks at other modalities may depend on which there are
        of([drop], modalities=['a', 'b']),
        # in test mode every epoch has the same draw: the seed's
        of([NOISE], test_mode=True),
        of([NOISE], test_mode=True, seed=1),
    ]
    assert len({plain, *others}) == len(others) + 1
    assert of([NOISE], 'b', test_mode=True) == of([NOISE], 'b', test_mode=True, seed=1)


def test_a_wrapper_does_not_hide_the_pipeline(model, data):
    def of(*steps, split='val', seed=0):
        inner = dict(
            type='cal_mm.MultiModalDataset', data_root=str(data), pipeline=[*LOAD, *steps, *PACK]
        )
        parts = [dict(inner, split='train', seed=seed), dict(inner, split=split)]
        return key(model, type='ConcatDataset', datasets=parts, ignore_keys='split')

    scale = dict(type='RandomModalityDrop', probabilities=dict(a=0.0))
    assert len({of(), of(scale), of(split='test')}) == 3
    assert of() == of(seed=1)


def test_arguments_of_an_own_dataset_count(model):
    assert key(model, type='ScaledRows', digest='x') == key(model, type='ScaledRows', digest='x')
    given = [dict(digest='x'), dict(digest='y'), dict(digest='x', scale=2.0)]
    assert len({key(model, type='ScaledRows', **options) for options in given}) == 3


def test_without_a_digest_nothing_is_kept(model, tmp_path, caplog):
    with pytest.raises(NoDigestError, match=r"ScaledRows has no metainfo\['digest'\]"):
        key(model, type='ScaledRows')
    runner = runner_of(model, dict(type='ScaledRows'), tmp_path)
    before = runner.train_loop.dataloader
    assert run_hook(runner) is before.dataset
    assert runner.train_loop.dataloader is before
    assert 'train: the features are not cached on disk: ScaledRows has no' in caplog.text
    assert not list(tmp_path.rglob('*.safetensors'))


def encoded(model, dataset):
    batch = pseudo_collate([dataset[i] for i in range(len(dataset))])
    inputs = model.data_preprocessor(batch, training=False)['inputs']
    return {m: model.encoders[m](inputs[m]) for m in model.modalities}


@pytest.mark.parametrize('scale', [1.0, 3.0])
def test_an_own_dataset_is_served_without_get_data_info(model, tmp_path, scale):
    runner = runner_of(model, dict(type='ScaledRows', digest='x', scale=scale), tmp_path)
    plain = runner.train_loop.dataloader.dataset
    cached = run_hook(runner)
    assert cached is not plain
    for m, features in encoded(model, plain).items():
        found = torch.stack([cached[i]['features'][m] for i in range(len(cached))])
        torch.testing.assert_close(found, features)
    assert [cached[i]['data_samples'].gt_label.item() for i in range(6)] == plain.labels


def test_joined_splits_are_served(model, data, tmp_path):
    inner = dict(type='cal_mm.MultiModalDataset', data_root=str(data), pipeline=[*LOAD, *PACK])
    parts = [dict(inner, split=split) for split in ('train', 'val')]
    cfg = dict(type='ConcatDataset', datasets=parts, ignore_keys='split')
    runner = runner_of(model, cfg, tmp_path)
    plain = runner.train_loop.dataloader.dataset
    cached = run_hook(runner)
    assert len(list(tmp_path.rglob('*.safetensors'))) == 3
    assert not cached.reads_items
    assert column_of(cached, 'labels').tolist() == column_of(plain, 'labels').tolist()
    for m, features in encoded(model, plain).items():
        found = torch.stack([cached[i]['features'][m] for i in range(len(cached))])
        torch.testing.assert_close(found, features)


def test_repeated_samples_and_unknown_ones_are_not_kept(model, data, tmp_path, caplog, monkeypatch):
    inner = dict(type='cal_mm.MultiModalDataset', data_root=str(data), split='train')
    inner['pipeline'] = [*LOAD, *PACK]
    runner = runner_of(model, dict(type='RepeatDataset', dataset=inner, times=2), tmp_path)
    assert len(run_hook(runner)) == 48
    assert 'RepeatDataset has the sample' in caplog.text
    build_own = ScaledRows.__init__

    def without_ids(self, **kwargs):
        build_own(self, **kwargs)
        del self.sample_ids

    monkeypatch.setattr(ScaledRows, '__init__', without_ids)
    with pytest.raises(NoDigestError, match='ScaledRows does not tell its samples'):
        key(model, type='ScaledRows', digest='x')


@pytest.mark.parametrize('rank', [0, 1])
@pytest.mark.parametrize('known', [False, True])
def test_every_rank_waits_and_the_first_encodes(model, data, tmp_path, monkeypatch, rank, known):
    """Also where the features are there when a rank first looks: the others may have come before
    they were.
    """
    cfg = dict(type='MultiModalDataset', data_root=str(data), split='train')
    cfg['pipeline'] = [*LOAD, *PACK]
    if known:
        run_hook(runner_of(model, cfg, tmp_path))
    events = []
    compute = FeatureCacheHook._compute

    def computing(*args):
        events.append('encode')
        compute(*args)

    def barrier():
        events.append('barrier')
        if rank == 1 and not known:  # what the first rank does before it comes here
            with monkeypatch.context() as first:
                first.setattr(feature_cache, 'is_main_process', lambda: True)
                first.setattr(feature_cache, 'barrier', lambda: None)
                first.setattr(FeatureCacheHook, '_compute', compute)
                run_hook(runner_of(model, cfg, tmp_path))

    monkeypatch.setattr(FeatureCacheHook, '_compute', computing)
    monkeypatch.setattr(feature_cache, 'is_main_process', lambda: rank == 0)
    monkeypatch.setattr(feature_cache, 'barrier', barrier)
    cached = run_hook(runner_of(model, cfg, tmp_path))
    assert events == ([] if known or rank else ['encode']) + ['barrier']
    assert set(cached[0]['features']) == set('abc')


def test_workers_that_go_on_serve_the_draw_of_the_epoch():
    inner = ScaledRows()  # without `get_data_info`: items are read, so the workers stay
    draws = [
        {m: FeatureStore(m, str(k), inner.sample_ids, torch.full((6, 2), float(k))) for m in 'abc'}
        for k in range(2)
    ]
    dataset = DrawnFeatureDataset(inner, draws, 'abc')
    loader = DataLoader(
        dataset, 6, collate_fn=pseudo_collate, num_workers=1, persistent_workers=True
    )
    served = []
    for epoch in range(3):
        dataset.set_epoch(epoch)
        (batch,) = loader
        served.append([float(row[0]) for row in batch['features']['b']])
    assert served == [[0.0] * 6, [1.0] * 6, [0.0] * 6]


def test_batches_of_a_batch_sampler_stay():
    dataset = ScaledRows()
    batches = BatchSampler(RandomSampler(dataset), 4, drop_last=True)
    loader = DataLoader(dataset, batch_sampler=batches, collate_fn=pseudo_collate)
    stores = {m: FeatureStore(m, 'k', dataset.sample_ids, torch.randn(6, 8)) for m in 'abc'}
    cached = with_dataset(loader, CachedFeatureDataset(dataset, stores, 'abc'))
    (batch,) = cached
    assert len(batch['data_samples']) == 4
    assert cached.batch_sampler is batches


@DATASETS.register_module()
class LateImages(ScaledRows):
    """The first four of six samples have no image; their data samples do not say so."""

    def __getitem__(self, i):
        item = super().__getitem__(i)
        image = None if i < 4 else torch.full((3, 8, 8), 40 * i, dtype=torch.uint8)
        return {**item, 'inputs': dict(a=item['inputs']['a'], image=image)}


@pytest.mark.parametrize('draws', [0, 1])
def test_a_modality_that_the_first_batches_lack(tmp_path, monkeypatch, draws):
    encoders = dict(
        a=dict(type='MLPEncoder', in_channels=8, out_channels=6, frozen=True),
        image=dict(type='SmallImageCNN', in_channels=3, channels=[4], frozen=True),
    )
    front_ends = dict(a=dict(type='FeatureFrontEnd'), image=dict(type='ImageFrontEnd'))
    preprocessor = dict(type='MultiModalPreprocessor', frontends=front_ends)
    fresh = build(data_preprocessor=preprocessor, encoders=encoders).eval()
    monkeypatch.setattr(feature_cache, 'draws_at_random', lambda *_: draws > 0)
    for known in (False, True):
        model = copy.deepcopy(fresh)
        runner = runner_of(model, dict(type='LateImages', digest='x'), tmp_path)
        if known:
            monkeypatch.setattr(FeatureCacheHook, '_compute', None)
        FeatureCacheHook(batch_size=2, draws=draws).before_train(runner)
        first, last = runner.train_loop.dataloader  # batches of 4
        out = model.data_preprocessor(first, training=True)
        assert out['features']['image'].shape == (4, model.encoders['image'].out_channels)
        assert out['present'].tolist() == [[True, False]] * 4
        out = model.data_preprocessor(last, training=True)
        assert out['present'] is None
        plain = [runner.train_loop.dataloader.dataset.dataset[i] for i in (4, 5)]
        told = fresh.data_preprocessor(pseudo_collate(plain))['inputs']['image']
        torch.testing.assert_close(out['features']['image'], fresh.encoders['image'](told))


def test_an_input_that_is_none_is_missing_whatever_the_sample_says():
    samples = [MultiModalDataSample.of(f's{i}', 0) for i in range(3)]
    batch = dict(inputs=dict(a=[1, None, 1]), data_samples=samples)
    store = compute_features(lambda _: dict(a=torch.ones(3, 2)), [batch], dict(a='k'))['a']
    assert store.missing == {'s1'}
    assert store.sample_ids == ['s0', 's2']
