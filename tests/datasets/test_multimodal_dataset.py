import copy
import json
import pickle
from collections import Counter

import numpy as np
import pytest
import torch
from fixtures import LOADERS, wav, write_prepared
from mmcv.transforms import BaseTransform
from mmengine.dataset import (
    ClassBalancedDataset,
    ConcatDataset,
    RepeatDataset,
    pseudo_collate,
)
from torch.utils.data import DataLoader, Subset

from cal_mm.datasets import (
    MultiModalDataset,
    column_of,
    dataset_of,
    datasets_of,
    feature_statistics,
    set_dataset_epoch,
)
from cal_mm.datasets.transforms import LoadFeatures, ModalityTransform, WordDropout
from cal_mm.datasets.transforms.base import is_repeatable
from cal_mm.engine.hooks.feature_cache import draws_at_random
from cal_mm.models.frontends import SpectrogramFrontEnd
from cal_mm.registry import DATASETS, TRANSFORMS
from data_prep.common import DatasetSpec, write_dataset


class Draw(BaseTransform):
    """Packs one number of the sample's generator."""

    def transform(self, results):
        return {'id': results['sample_id'], 'draw': float(results['rng'].random())}


class Nothing(BaseTransform):
    def transform(self, results):
        return None


def build(root, split='train', **kwargs):
    return DATASETS.build(
        dict(type='MultiModalDataset', data_root=str(root), split=split, **kwargs)
    )


def draws(loader):
    return {i: d for batch in loader for i, d in zip(batch['id'], batch['draw'], strict=True)}


def test_packs_every_kind(prepared):
    item = build(prepared, pipeline=LOADERS)[3]
    inputs, sample = item['inputs'], item['data_samples']
    assert (inputs['image'].dtype, inputs['image'].shape) == (torch.uint8, (3, 6, 8))
    assert (inputs['depth'].dtype, inputs['depth'].shape) == (torch.float32, (1, 6, 8))
    assert (inputs['audio'].dtype, inputs['audio'].shape) == (torch.float32, (400,))
    assert inputs['text'] == 'word3 is a word'
    assert inputs['feats'].shape == (5,)
    assert (sample.sample_id, sample.group, int(sample.gt_label)) == ('train-3', 'g3', 0)
    assert sample.missing == ()


def test_metainfo(prepared):
    data = build(prepared, modalities=['text', 'image'])
    meta = data.metainfo
    assert meta['classes'] == ('a', 'b', 'c')
    assert meta['modalities'] == {'image': {'kind': 'image'}, 'text': {'kind': 'text'}}
    assert (meta['dataset'], meta['version'], meta['split']) == ('tiny', '1', 'train')
    assert len(meta['digest']) == 64
    assert build(prepared, metainfo=dict(classes=['x', 'y', 'z'])).metainfo['classes'] == tuple(
        'xyz'
    )
    with pytest.raises(ValueError, match='2 classes'):
        build(prepared, metainfo=dict(classes=['x', 'y']))


class Shift(ModalityTransform):
    """Adds a number that it draws to a feature vector."""

    def apply(self, value, modality, results, *args):
        return value + float(results['rng'].random())


def test_narrowed_gives_the_same_samples_with_fewer_modalities(prepared):
    steps = [*LOADERS[:-1], dict(type='Resize', modality=['image', 'depth'], size=4)]
    data = build(prepared, pipeline=[*steps, Shift('feats'), LOADERS[-1]])
    narrow = data.narrowed(['feats', 'depth'])
    data.set_epoch(2)
    for index in range(3):
        whole, part = data[index], narrow[index]
        assert list(part['inputs']) == ['depth', 'feats']
        for m, value in part['inputs'].items():
            assert torch.equal(value, whole['inputs'][m])
        assert part['data_samples'].metainfo == whole['data_samples'].metainfo
    # the columns of the others are not even read
    assert set(narrow.raw(0)) >= {'feats', 'depth'}
    assert not set(narrow.raw(0)) & {'image', 'audio', 'text'}
    assert list(data[0]['inputs']) == ['audio', 'depth', 'feats', 'image', 'text']
    data.set_epoch(3)
    assert torch.equal(narrow[1]['inputs']['feats'], data[1]['inputs']['feats'])


def test_nothing_is_left_out_where_a_transform_may_read_it(prepared):
    drop = dict(type='RandomModalityDrop', probabilities=dict(feats=0.5))  # asks who else is there
    flip = dict(type='RandomFlip', modality=['image', 'depth'])
    for step, whole in ((drop, True), (Draw(), True), (flip, False)):
        data = build(prepared, pipeline=[*LOADERS[:-1], step])
        assert (data.narrowed(['feats']) is None) == whole


def test_nothing_is_left_out_by_a_subclass_with_items_of_its_own(prepared):
    class Upper(MultiModalDataset):
        def prepare_data(self, idx):
            item = super().prepare_data(idx)
            item['inputs']['text'] = item['inputs']['text'].upper()
            return item

    own = Upper(prepared, 'train', LOADERS)
    assert own.narrowed(['feats', 'text']) is None
    assert MultiModalDataset(prepared, 'train', LOADERS).narrowed(['feats', 'text']) is not None


FEATS = [
    dict(type='LoadFeatures', modality='feats'),
    dict(type='PackInputs', modalities=('feats',)),
]


class Unlike(LoadFeatures):
    """A subclass that has not said whether it draws."""

    def apply(self, value, modality, results, *args):
        return super().apply(value, modality, results) + float(results['rng'].random())


def reads_of(data, monkeypatch):
    """Ids of the samples that are read from the disk from now on."""
    seen, inner = [], type(data.rows).row
    monkeypatch.setattr(type(data.rows), 'row', lambda self, i: seen.append(i) or inner(self, i))
    return seen


@pytest.mark.parametrize('pipeline', [FEATS, LOADERS], ids=['features', 'every kind'])
def test_what_draws_nothing_is_read_once(prepared, monkeypatch, pipeline):
    data = build(prepared, pipeline=pipeline, label_noise=0.5)
    seen = reads_of(data, monkeypatch)
    first = [data[i] for i in range(len(data))]
    first[2]['inputs']['feats'] = None  # what a user does to an item stays with it
    first[2]['data_samples'].set_metainfo({'missing': ('feats',)})
    again = [data[i] for i in range(len(data))]
    assert seen == list(range(len(data)))
    fresh = [build(prepared, pipeline=pipeline, label_noise=0.5)[i] for i in range(len(data))]
    for mine, theirs in zip(again, fresh, strict=True):
        assert mine['inputs'].keys() == theirs['inputs'].keys()
        for m, value in theirs['inputs'].items():
            same = torch.equal if isinstance(value, torch.Tensor) else str.__eq__
            assert same(mine['inputs'][m], value), m
        sample, other = mine['data_samples'], theirs['data_samples']
        assert sample.metainfo == other.metainfo
        assert torch.equal(sample.gt_label, other.gt_label)


@pytest.mark.parametrize('how', ['draws', 'subclass', 'no room', 'raw'])
def test_what_may_draw_or_has_no_room_is_read_every_time(prepared, monkeypatch, how):
    class Raw(MultiModalDataset):
        def raw(self, idx):
            return super().raw(idx)

    pipeline = list(FEATS)
    if how == 'draws':
        pipeline.insert(1, Shift('feats'))
    if how == 'subclass':
        pipeline[0] = Unlike('feats')
    kind = Raw if how == 'raw' else MultiModalDataset
    keep = dict(keep_bytes=1500) if how == 'no room' else {}  # for one sample
    data = kind(prepared, 'train', pipeline=pipeline, **keep)
    seen = reads_of(data, monkeypatch)
    for epoch in (0, 1):
        data.set_epoch(epoch)
        for i in (0, 1):
            data[i]
    assert seen == ([0, 1, 1] if how == 'no room' else [0, 1, 0, 1])
    with pytest.raises(ValueError, match='keep_bytes must be >= 0'):
        build(prepared, keep_bytes=-1)


def test_a_part_of_a_recording_is_kept_without_the_rest(prepared):
    load = dict(type='LoadAudio', modality='audio', num_samples=40, crop='center')
    data = build(prepared, pipeline=[load, dict(type='PackInputs', modalities=('audio',))])
    whole = data[0]['inputs']['audio']
    kept = data[0]['inputs']['audio']
    assert torch.equal(whole, kept)
    assert whole.untyped_storage().nbytes() > 160 == kept.untyped_storage().nbytes()


def test_another_pipeline_or_subset_is_not_served_what_was_kept(prepared):
    data = build(prepared, pipeline=FEATS)
    before = data[3]['inputs']['feats']
    part = data.get_subset([3, 1])
    assert [part[i]['data_samples'].sample_id for i in (0, 1)] == ['train-3', 'train-1']
    assert torch.equal(part[0]['inputs']['feats'], before)
    shift = Shift('feats')
    data.pipeline.transforms.insert(1, shift)
    assert not torch.equal(data[3]['inputs']['feats'], before)
    data.pipeline.transforms.remove(shift)
    assert torch.equal(data[3]['inputs']['feats'], before)
    narrow = build(prepared, pipeline=LOADERS)
    narrow[3]
    assert list(narrow.narrowed(['text'])[3]['inputs']) == ['text']


def test_modalities_left_out_are_not_read_and_their_transforms_dropped(prepared):
    item = build(prepared, pipeline=LOADERS, modalities=['text'])[0]
    assert list(item['inputs']) == ['text']


def test_shared_transform_keeps_the_selected_modality(prepared):
    flip = dict(type='RandomFlip', modalities=('image', 'depth'), prob=1.0)
    pipeline = [*LOADERS[:2], flip, dict(type='PackInputs')]
    both = build(prepared, pipeline=pipeline, modalities=['image', 'depth'])[0]['inputs']
    one = build(prepared, pipeline=pipeline, modalities=['image'])[0]['inputs']
    assert set(one) == {'image'}
    assert torch.equal(one['image'], both['image'])


def test_null_is_missing(tmp_path):
    root = write_prepared(tmp_path, change={'train-2': dict(audio=None, feats=None)})
    item = build(root, pipeline=LOADERS)[2]
    assert item['inputs']['audio'] is None
    assert item['data_samples'].missing == ('audio', 'feats')
    batch = pseudo_collate([item, build(root, pipeline=LOADERS)[0]])
    assert batch['inputs']['audio'][0] is None
    assert batch['inputs']['audio'][1].shape == (400,)


def test_indices_and_subsets(prepared):
    ids = [f'train-{i}' for i in range(30)]
    assert build(prepared, indices=4).sample_ids == ids[:4]
    assert build(prepared, indices=-4).sample_ids == ids[-4:]
    assert build(prepared, indices=np.array([5, -1])).sample_ids == ['train-5', 'train-29']
    data = build(prepared)
    assert data.get_subset(torch.tensor([2, 0])).sample_ids == ['train-2', 'train-0']
    assert data.get_subset(-30).sample_ids == ids
    plain = build(prepared, serialize_data=False).get_subset([1, 2])
    assert plain.sample_ids == ids[1:3]
    with pytest.raises(IndexError, match='out of range for 30'):
        build(prepared, indices=[30])
    with pytest.raises(IndexError, match='31'):
        build(prepared, indices=31)
    with pytest.raises(TypeError, match='sequence of ints'):
        build(prepared, indices=[0.5])


def test_groups_and_labels(prepared):
    data = build(prepared, indices=[0, 1, 5])
    assert data.labels.tolist() == [0, 1, 2]
    assert data.groups.tolist() == ['g0', 'g1', 'g1']
    assert data.get_cat_ids(2) == [2]


def test_subsample_is_stratified_seeded_and_nested(prepared):
    small = build(prepared, num_samples=9, seed=1)
    large = build(prepared, num_samples=18, seed=1)
    assert Counter(small.labels.tolist()) == {0: 3, 1: 3, 2: 3}
    assert set(small.sample_ids) < set(large.sample_ids)
    assert small.sample_ids == build(prepared, num_samples=9, seed=1).sample_ids
    assert small.sample_ids != build(prepared, num_samples=9, seed=2).sample_ids
    with pytest.raises(ValueError, match=r'num_samples must be in \[1, 30\], got 31'):
        build(prepared, num_samples=31)


def test_label_noise(prepared):
    data = build(prepared, label_noise=0.4, seed=3)
    changed = data.labels != data.clean_labels
    assert changed.sum() == 12
    assert set(data.labels.tolist()) == {0, 1, 2}
    less = build(prepared, label_noise=0.2, seed=3)
    kept = less.labels != less.clean_labels
    assert (changed | ~kept).all()
    assert (less.labels[kept] == data.labels[kept]).all()
    # a fold of the data has the same noisy labels as the whole
    fold = build(prepared, label_noise=0.4, seed=3, indices=[7, 20, 29])
    assert fold.labels.tolist() == data.labels[[7, 20, 29]].tolist()
    assert (build(prepared, label_noise=0.4, seed=4).labels != data.labels).any()
    assert int(data[int(np.flatnonzero(changed)[0])]['label']) != -1
    with pytest.raises(ValueError, match='only training labels'):
        build(prepared, split='test', label_noise=0.1)
    with pytest.raises(ValueError, match=r'\[0, 1\]'):
        build(prepared, label_noise=1.5)


def test_noise_reaches_the_packed_sample(prepared):
    data = build(prepared, label_noise=1.0, pipeline=LOADERS)
    assert all(int(data[i]['data_samples'].gt_label) != i % 3 for i in range(6))


def test_draws_depend_on_seed_epoch_and_id_only(prepared):
    data = build(prepared, pipeline=[Draw()])
    first = {data[i]['id']: data[i]['draw'] for i in range(30)}
    assert len(set(first.values())) == 30
    fold = build(prepared, pipeline=[Draw()], indices=[11, 4])
    assert fold[0]['draw'] == first['train-11']
    assert build(prepared, pipeline=[Draw()], seed=1)[0]['draw'] != first['train-0']
    data.set_epoch(1)
    assert data[0]['draw'] != first['train-0']
    data.set_epoch(0)
    assert data[0]['draw'] == first['train-0']


def test_evaluation_stays_at_epoch_zero(prepared):
    data = build(prepared, pipeline=[Draw()], test_mode=True)
    before = data[0]['draw']
    data.set_epoch(5)
    assert (data[0]['draw'], data.epoch) == (before, 0)
    assert before == build(prepared, pipeline=[Draw()])[0]['draw']


def test_epoch_reaches_live_persistent_workers(prepared):
    data = build(prepared, pipeline=[Draw()])
    expected = []
    for epoch in range(3):
        data.set_epoch(epoch)
        expected.append({data[i]['id']: data[i]['draw'] for i in range(30)})
    loader = DataLoader(
        data,
        batch_size=7,
        num_workers=2,
        shuffle=True,
        persistent_workers=True,
        collate_fn=pseudo_collate,
        multiprocessing_context='fork',
    )
    for epoch in (0, 2, 1):
        set_dataset_epoch(loader, epoch)
        assert draws(loader) == expected[epoch]


@pytest.mark.slow
def test_spawned_workers_follow_the_epoch_too(prepared):
    data = build(prepared, pipeline=LOADERS)
    loader = DataLoader(
        data,
        batch_size=16,
        num_workers=1,
        persistent_workers=True,
        collate_fn=pseudo_collate,
        multiprocessing_context='spawn',
    )
    data.pipeline.transforms.insert(0, RecordEpoch(data))
    for epoch in (3, 4):
        data.set_epoch(epoch)
        batches = list(loader)
        assert {s.group for b in batches for s in b['data_samples']} == {str(epoch)}


class RecordEpoch(BaseTransform):
    def __init__(self, data):
        self.shared = data._epoch

    def transform(self, results):
        results['group'] = str(self.shared.get())
        return results


def test_pickle_and_deepcopy(prepared):
    data = build(prepared, pipeline=LOADERS, label_noise=0.3)
    data[0]  # opens the file
    assert len(pickle.dumps(data)) < 20_000
    for other in (pickle.loads(pickle.dumps(data)), copy.deepcopy(data)):
        assert other.labels.tolist() == data.labels.tolist()
        assert torch.equal(other[4]['inputs']['image'], data[4]['inputs']['image'])
        assert other._epoch._value.is_shared()
        other.set_epoch(9)
        assert data.epoch == 0


def test_wrappers(prepared):
    first, second = build(prepared), build(prepared, split='test')
    joined = ConcatDataset([first, second], ignore_keys=['split'])
    assert datasets_of(joined) == [first, second]
    with pytest.raises(TypeError, match='found 2'):
        dataset_of(joined)
    assert dataset_of(ClassBalancedDataset(first, 0.9)) is first
    loader = DataLoader(Subset(RepeatDataset(first, 2), [0, 1]), collate_fn=pseudo_collate)
    assert dataset_of(loader) is first
    set_dataset_epoch(loader, 4)
    assert (first.epoch, second.epoch) == (4, 0)
    with pytest.raises(TypeError, match='found 0'):
        dataset_of([1, 2])


def test_columns_behind_wrappers(prepared):
    first, second = build(prepared), build(prepared, split='test')
    for name in ('labels', 'groups', 'sample_ids'):
        a, b = np.asarray(getattr(first, name)), np.asarray(getattr(second, name))
        joined = ConcatDataset([first, second], ignore_keys=['split'])
        assert column_of(joined, name).tolist() == [*a, *b]
        nested = Subset(RepeatDataset(first, 2), [len(first) + 3, 1])
        assert column_of(nested, name).tolist() == [a[3], a[1]]
    balanced = ClassBalancedDataset(first, 0.9)
    ids = [balanced[i]['sample_id'] for i in range(len(balanced))]
    assert column_of(balanced, 'sample_ids').tolist() == ids
    assert len(ids) > len(set(ids))
    assert column_of(torch.utils.data.ConcatDataset([first, [1, 2]]), 'labels') is None


def test_lazy_init_knows_its_metainfo(prepared):
    data = build(prepared, lazy_init=True)
    assert data.metainfo['classes'] == ('a', 'b', 'c')
    data.full_init()
    assert len(data) == 30


def test_feature_statistics(prepared):
    data = build(prepared)
    rows = np.stack([data.raw(i)['feats'] for i in range(30)]).astype(np.float64)
    got = feature_statistics(data, 'feats')
    np.testing.assert_allclose(got['mean'], rows.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got['std'], rows.std(0), rtol=1e-5)
    with pytest.raises(ValueError, match='no modality of kind features'):
        feature_statistics(data, 'image')


def test_folder_without_manifest(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'no manifest\.json.*data_prep'):
        build(tmp_path)
    with pytest.raises(FileNotFoundError, match='does not exist'):
        build(tmp_path / 'nowhere')


def test_unknown_split_and_modality(prepared):
    with pytest.raises(LookupError, match=r"no split 'tests'.*'test'.*test, train"):
        build(prepared, split='tests')
    with pytest.raises(LookupError, match=r"no modality 'imag'. Did you mean 'image'"):
        build(prepared, modalities=['imag'])
    with pytest.raises(LookupError, match=r"LoadImage.*no modality 'imgae'. Did you mean 'image'"):
        build(prepared, pipeline=[dict(type='LoadImage', modality='imgae')])


@pytest.mark.parametrize('label', [3, -1, None])
def test_label_outside_the_classes(tmp_path, label):
    root = write_prepared(tmp_path, change={'train-4': dict(label=label)})
    with pytest.raises(ValueError, match=rf"'train-4'.*label {label}.*\[0, 3\).*a, b, c"):
        build(root)


def test_a_split_without_samples_says_why(tmp_path):
    root = tmp_path / 'data'
    spec = DatasetSpec('x', '1', 'p', ('a',), {'x': dict(kind='features')})
    one = dict(sample_id='s', label=0, group='', x=[1.0])
    write_dataset(root, spec, {'train': [one], 'val': []}, progress=False)
    with pytest.raises(ValueError, match=r"split 'val' of .* holds no samples; choose another"):
        MultiModalDataset(root, 'val')
    manifest = json.loads((root / 'manifest.json').read_text())
    manifest['bad'] = [dict(split='val', sample_id='v0', reason='shape [5]')]
    (root / 'manifest.json').write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"all 1 were left out .* such as 'v0' \(shape \[5\]\)"):
        MultiModalDataset(root, 'val')


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda m: m.pop('classes'), 'lacks classes'),
        (lambda m: m.update(format_version=2), 'format_version is 2'),
        (lambda m: m.update(format='other'), 'expected a manifest'),
        (lambda m: m['modalities'].update(label={'kind': 'text'}), "'label' cannot name"),
        (lambda m: m['splits']['train'].update(num_samples=31), 'holds 30 samples.*says 31'),
        (lambda m: m['modalities'].update(extra={'kind': 'text'}), 'no column extra'),
    ],
)
def test_manifest_errors(tmp_path, change, message):
    root = write_prepared(tmp_path)
    manifest = json.loads((root / 'manifest.json').read_text())
    change(manifest)
    (root / 'manifest.json').write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=message):
        build(root)[0]


def test_damaged_manifest_and_split(tmp_path):
    root = write_prepared(tmp_path)
    for file in (root / 'train').iterdir():
        file.write_bytes(b'x')
    with pytest.raises(ValueError, match='cannot be read as a prepared split'):
        build(root)
    (root / 'manifest.json').write_text('{')
    with pytest.raises(ValueError, match='not valid JSON'):
        build(root)


@pytest.mark.parametrize(
    ('modality', 'value', 'reason'),
    [
        ('image', b'', r'empty \(0 bytes\)'),
        ('image', b'not an image', 'cannot decode 12 bytes as an image'),
        ('audio', b'', r'empty \(0 bytes\)'),
        ('audio', b'RIFFnonsense', 'truncated|cannot decode'),
        ('feats', [0.0, float('nan'), 1.0, 1.0, 1.0], 'first at index 1'),
    ],
)
def test_decode_failures_name_sample_modality_and_reason(tmp_path, modality, value, reason):
    root = write_prepared(tmp_path, change={'test-1': {modality: value}})
    data = build(root, split='test', pipeline=LOADERS, test_mode=True)
    data[0]
    with pytest.raises(ValueError, match=rf"sample 'test-1'.*modality '{modality}': .*({reason})"):
        data[1]


def test_error_in_a_worker_names_the_sample(tmp_path):
    root = write_prepared(tmp_path, change={'test-1': dict(image=b'')})
    loader = DataLoader(
        build(root, split='test', pipeline=LOADERS),
        num_workers=1,
        collate_fn=pseudo_collate,
        multiprocessing_context='fork',
    )
    with pytest.raises(ValueError, match=r"sample 'test-1'.*modality 'image'"):
        list(loader)


def test_transform_that_returns_none_is_refused(prepared):
    with pytest.raises(ValueError, match=r"Nothing returned None for sample 'train-0'"):
        build(prepared, pipeline=[Nothing()])[0]


def test_class_is_importable():
    assert MultiModalDataset is DATASETS.get('MultiModalDataset')


class OwnDropout(WordDropout):
    """Takes its numbers from the sample's generator."""


class OwnSource(ModalityTransform):
    """Takes its numbers from elsewhere."""

    source = np.random.default_rng(0)

    def apply(self, value, modality, results, *args):
        return f'{value} {self.source.random()}'


class OwnSpectrogram(SpectrogramFrontEnd):
    pass


def test_draws_are_noticed_where_the_first_samples_do_not_draw(tmp_path):
    def clip(length):
        return dict(audio=wav(np.random.default_rng(0).uniform(-0.5, 0.5, length)))

    change = {f'train-{i}': clip(400 if i > 3 else 100) for i in range(12)}
    for i in range(5):
        change[f'train-{i}']['text'] = None
    write_prepared(tmp_path, dict(train=12), change=change)

    def drawn(modality, *steps, wrapped=False):
        pipeline = [*LOADERS[:2], *steps, *LOADERS[3:]]
        dataset = build(tmp_path, pipeline=pipeline, modalities=['audio', 'text'])
        return draws_at_random(Subset(dataset, range(10)) if wrapped else dataset, [modality])

    plain, crop = dict(type='LoadAudio', modality='audio'), dict(crop='random')
    assert not drawn('audio', plain)
    assert drawn('audio', dict(plain, num_samples=200, **crop))
    assert not drawn('audio', dict(plain, **crop))  # of what length?
    assert not drawn('text', dict(plain, num_samples=200, **crop))
    text = dict(type='LoadText', modality='text')
    shipped = dict(type='WordDropout', modality='text')
    for step in (shipped, OwnDropout(modality='text'), OwnSource(modality='text')):
        for wrapped in (False, True):
            assert drawn('text', plain, text, step, wrapped=wrapped)
        assert not drawn('audio', plain, text, step)


def test_which_transforms_with_a_choice_are_repeatable():
    def told(kind, **options):
        return is_repeatable(TRANSFORMS.build(dict(type=kind, modality='x', **options)))

    assert told('LoadImage', frame_sampling='random')  # all frames
    assert not told('LoadImage', frame_sampling='random', num_frames=2)
    assert told('LoadAudio', crop='random')
    assert not told('LoadAudio', crop='random', num_samples=2)
    assert told('ComputeSpectrogram', frontend=dict(type='SpectrogramFrontEnd'))
    assert not told('ComputeSpectrogram', frontend=dict(type=OwnSpectrogram))
