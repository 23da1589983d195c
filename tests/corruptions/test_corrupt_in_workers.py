"""The same bits whoever applies a corruption: workers, batches, orders, the training pipeline."""

import copy
import pickle

import numpy as np
import pytest
import torch
from corruption_cases import CLASSES
from mmengine.dataset import pseudo_collate
from torch.utils.data import DataLoader, Dataset

from cal_mm.corruptions import (
    Condition,
    CorruptedDataset,
    CorruptSample,
    SwapModality,
    TextWordMask,
    parse_attack,
)
from cal_mm.registry import TRANSFORMS
from cal_mm.structures import MultiModalDataSample

MODALITIES = {'image': 'image', 'audio': 'waveform', 'text': 'text', 'view': 'features'}
ATTACKS = ('noise:3', 'swap@text', 'missing:2@audio', 'babble:5')


class Items(Dataset):
    metainfo = {'modalities': MODALITIES}  # noqa: RUF012
    extra = 'reached'

    def __init__(self, length=13):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, i):
        rng = np.random.default_rng(i)
        inputs = {
            'image': torch.from_numpy(rng.integers(0, 256, (3, 6, 6)).astype(np.uint8)),
            'audio': torch.from_numpy(rng.standard_normal(50).astype(np.float32)),
            'text': f'some words of number {i}',
            'view': torch.from_numpy(rng.standard_normal(5).astype(np.float32)),
        }
        return {'inputs': inputs, 'data_samples': MultiModalDataSample.of(f'n{i}', i % 3)}


def read(loader):
    """Every sample's inputs by id."""
    found = {}
    for batch in loader:
        for i, sample in enumerate(batch['data_samples']):
            found[sample.sample_id] = {m: v[i] for m, v in batch['inputs'].items()}
    return found


def assert_same(a, b):
    assert sorted(a) == sorted(b)
    for key in a:
        for m, value in a[key].items():
            other = b[key][m]
            assert type(value) is type(other), (key, m)
            same = torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other
            assert same, (key, m)


@pytest.mark.filterwarnings('ignore:This DataLoader will create')  # on two cores
@pytest.mark.parametrize('workers', [1, 4])
def test_same_bits_for_any_workers_batch_size_and_order_and_persistent_workers_follow(workers):
    conditions = [c for a in ATTACKS for c in parse_attack(a, MODALITIES, seed=2)]
    single, many = CorruptedDataset(Items(), conditions), CorruptedDataset(Items(), conditions)
    plain = DataLoader(single, batch_size=1, collate_fn=pseudo_collate)
    loader = DataLoader(
        many,
        batch_size=3,
        collate_fn=pseudo_collate,
        num_workers=workers,
        persistent_workers=True,
        sampler=list(reversed(range(13))),
    )
    seen = []
    for condition in (None, *conditions, None):
        single.select(condition)
        many.select(condition)
        expected = read(plain)
        assert_same(expected, read(loader))
        seen.append(expected)
    assert_same(seen[0], seen[-1])
    for other in seen[1:-1]:
        with pytest.raises(AssertionError):
            assert_same(seen[0], other)


class EveryKind(Items):
    """A modality of each kind, and clips; small, so that every corruption can be tried."""

    def __getitem__(self, i):
        item = super().__getitem__(i)
        rng = np.random.default_rng(100 + i)
        item['inputs'] |= {
            'clip': torch.from_numpy(rng.integers(0, 256, (4, 3, 9, 8)).astype(np.uint8)),
            'depth': torch.from_numpy(rng.uniform(0, 8, (1, 8, 9)).astype(np.float32)),
        }
        return item


@pytest.mark.filterwarnings('ignore:This DataLoader will create')  # on two cores
def test_every_corruption_gives_the_same_bits_with_0_1_and_4_workers():
    targets = {'image': 'image', 'depth': 'depth', 'waveform': 'audio', 'text': 'text'}
    targets |= {'features': 'view', 'any': 'text'}
    noises = [
        cls('clip' if cls.needs_frames else targets[cls.kind], 4, seed=1, probability=0.8)
        for cls in CLASSES.values()
    ]
    conditions = [Condition(n.name, (n,)) for n in noises]
    clean, read_with = read(DataLoader(EveryKind(7), collate_fn=pseudo_collate)), {}
    for workers, size in ((0, 1), (1, 3), (4, 2)):
        data = CorruptedDataset(EveryKind(7), conditions)
        loader = DataLoader(
            data,
            batch_size=size,
            collate_fn=pseudo_collate,
            num_workers=workers,
            persistent_workers=workers > 0,
            sampler=list(range(7)) if workers else [3, 6, 0, 5, 1, 4, 2],
        )
        for condition in conditions:
            data.select(condition)
            read_with[workers, condition.label] = read(loader)
    for condition in conditions:
        alone = read_with[0, condition.label]
        assert_same(alone, read_with[1, condition.label])
        assert_same(alone, read_with[4, condition.label])
        with pytest.raises(AssertionError):
            assert_same(alone, clean)


def test_two_ranks_share_gives_the_bits_of_one():
    (condition,) = parse_attack('noise:4', MODALITIES)
    data = CorruptedDataset(Items(), [condition])
    data.select(condition)
    whole = read(DataLoader(data, batch_size=4, collate_fn=pseudo_collate))
    parts = {}
    for rank in (0, 1):
        indices = list(range(rank, 13, 2))
        parts |= read(DataLoader(data, batch_size=3, collate_fn=pseudo_collate, sampler=indices))
    assert_same(whole, parts)


def test_wrapper_passes_on_what_it_lacks_and_pickles():
    data = CorruptedDataset(Items(), [])
    assert data.extra == 'reached'
    assert data.metainfo == Items.metainfo
    assert len(data) == 13
    with pytest.raises(AttributeError):
        _ = data.nothing
    assert len(pickle.loads(pickle.dumps(CorruptedDataset(Items(), [])))) == 13


def test_swap_takes_another_class_and_needs_the_dataset():
    data, noise = Items(60), SwapModality('text')
    for i in range(60):
        item = data[i]
        out = noise.apply(item, data)
        other = int(out['inputs']['text'].split()[-1])
        assert other % 3 != i % 3
        assert out['inputs']['view'] is item['inputs']['view']
        assert int(out['data_samples'].gt_label) == i % 3
    with pytest.raises(ValueError, match='RobustnessTestLoop'):
        noise(pseudo_collate([data[0]]))
    with pytest.raises(ValueError, match='no sample of another class'):
        noise.apply(data[0], [data[0], data[3]])
    some, data = SwapModality('text', ratio=0.3), Items(600)
    items = [data[i] for i in range(600)]
    swapped = [some.apply(i, data)['inputs']['text'] != i['inputs']['text'] for i in items]
    assert np.mean(swapped) == pytest.approx(0.3, abs=0.06)


def results(i, seed=0):
    rng = np.random.default_rng([seed, i])
    return {'sample_id': f'n{i}', 'label': 0, 'rng': rng, **Items()[i]['inputs']}


def test_corrupt_sample_draws_from_the_samples_own_generator():
    cfg = dict(
        type='CorruptSample',
        corruptions=[
            dict(type='ImageGaussianNoise', modality='image'),
            dict(type='TextWordMask', modality='text', ratio=1.0),
        ],
        probability=0.8,
    )
    transform = TRANSFORMS.build(cfg)
    assert isinstance(transform, CorruptSample)
    assert transform.modalities == ('image', 'text')
    kinds = set()
    for i in range(40):
        clean, a, b = results(i), transform(results(i)), transform(results(i))
        assert torch.equal(a['image'], b['image'])
        assert a['text'] == b['text']
        image, text = not torch.equal(a['image'], clean['image']), a['text'] != clean['text']
        assert not (image and text)
        kinds.add((image, text))
    assert kinds == {(False, False), (True, False), (False, True)}
    # a modality is hit in the same samples, by the same noise, where the other is not read
    alone = copy.copy(transform)
    alone.modalities = ('text',)
    for i in range(40):
        out = alone(results(i))
        assert torch.equal(out['image'], results(i)['image'])
        assert out['text'] == transform(results(i))['text']


def test_corrupt_sample_all_and_cached_features():
    transform = CorruptSample(
        [
            dict(type='TextWordMask', modality='text', severity=5),
            dict(type='MissingModality', modality='view'),
        ],
        choose='all',
    )
    given = {**results(1), 'features': {'text': 1, 'image': 2}}
    out = transform(given)
    assert set(out['text']) == {'_', ' '}
    assert out['view'] is None
    assert out['features'] == {'text': None, 'image': 2}
    assert given['features'] == {'text': 1, 'image': 2}


def test_corrupt_sample_of_one_event_hits_all_or_none():
    common = dict(severity=5, probability=0.5, event='rain')
    transform = CorruptSample(
        [
            dict(type='ImageLowLight', modality='image', **common),
            dict(type='TextWordMask', modality='text', **common),
            dict(type='FeatureGaussianNoise', modality='view', **common),
        ],
        choose='all',
    )
    hits = [
        {m for m in ('image', 'text', 'view') if out[m] is not clean[m]}
        for i in range(200)
        for clean in [results(i)]
        for out in [transform({**clean})]
    ]
    assert {len(h) for h in hits} == {0, 3}
    assert np.mean([bool(h) for h in hits]) == pytest.approx(0.5, abs=0.12)


@pytest.mark.parametrize('number', [1, 2, 3, 6])
def test_swap_of_any_number_of_modalities(number):
    names = 'abcdef'[:number]
    items = [
        {
            'inputs': {m: f'{m}{i}' for m in names},
            'data_samples': MultiModalDataSample.of(f's{i}', i % 3),
        }
        for i in range(30)
    ]
    for m in names:
        for i, item in enumerate(items):
            out = SwapModality(m).apply(item, items)
            assert int(out['inputs'][m][1:]) % 3 != i % 3
            assert all(out['inputs'][o] == item['inputs'][o] for o in names if o != m)
            assert int(out['data_samples'].gt_label) == i % 3
    if number > 1:  # two swapped modalities come from two samples
        both = [SwapModality('b').apply(SwapModality('a').apply(i, items), items) for i in items]
        assert any(o['inputs']['a'][1:] != o['inputs']['b'][1:] for o in both)


def test_corrupt_sample_errors():
    with pytest.raises(ValueError, match='at least one'):
        CorruptSample([])
    with pytest.raises(ValueError, match='modality='):
        CorruptSample([dict(type='TextWordMask', severity=1)])
    with pytest.raises(ValueError, match='single samples'):
        CorruptSample([dict(type='SwapModality', modality='text')])
    with pytest.raises(ValueError, match='choose'):
        CorruptSample([dict(type='TextWordMask', modality='text')], choose='some')
    with pytest.raises(LookupError, match="no modality 'speech'"):
        CorruptSample([dict(type='TextWordMask', modality='speech')])(results(0))
    with pytest.raises(ValueError, match='front end'):
        CorruptSample([dict(type='TextWordMask', modality='view')])(results(0))


def test_probability_share():
    noise = TextWordMask('text', ratio=1.0, probability=0.3)
    data = Items(1500)
    hit = np.mean([noise.apply(data[i])['inputs']['text'].startswith('_') for i in range(1500)])
    assert hit == pytest.approx(0.3, abs=0.04)
