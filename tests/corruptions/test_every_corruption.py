"""What holds for every registered corruption; a new one is tested by being registered."""

import copy
import difflib
import itertools

import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate

import cal_mm.corruptions as corruptions
from cal_mm.corruptions import SEVERITIES
from cal_mm.registry import CORRUPTIONS
from cal_mm.structures import MultiModalDataSample

OWN = sorted(
    (c for c in CORRUPTIONS.module_dict.values() if c.__module__.startswith('cal_mm.')),
    key=lambda c: c.__name__,
)
SINGLE = [c for c in OWN if c.sample_wise and not c.needs_dataset]
WORDS = [
    'the',
    'quick',
    'brown',
    'fox',
    'jumps',
    'over',
    'a',
    'lazy',
    'dog',
    'while',
    'hello',
    'worlds',
    'sit',
    'in',
    'boxes',
]


def sample_value(cls, number):
    """A packed value that looks like the real thing: smooth, with detail."""
    rng = np.random.default_rng(number)
    grid = np.linspace(0, 6, 32)
    wave = np.sin(grid[:, None] * (1 + number % 3)) * np.cos(grid[None] * 1.3)
    if cls.kind == 'image':
        image = np.stack([wave, wave.T, -wave]) * 90 + 110 + rng.normal(0, 12, (3, 32, 32))
        frames = np.stack([np.roll(image, 3 * t, axis=2) for t in range(10)])
        pixels = frames if cls.needs_frames else image
        return torch.from_numpy(np.clip(pixels, 0, 255).astype(np.uint8))
    if cls.kind == 'depth':
        return torch.from_numpy((wave[None] * 1.5 + 3).astype(np.float32))
    if cls.kind == 'text':
        return ' '.join(rng.permutation(np.array(WORDS * 3)))
    if cls.kind == 'waveform':
        time = np.arange(4000) / 16000
        # one slow swing over the clip, so that a shift in time can be told by distance
        tone = np.cos(8 * np.pi * time) * 0.4 + np.sin(600 * np.pi * time) * 0.05
        tone += rng.normal(0, 0.05, 4000)
        return torch.from_numpy(tone.astype(np.float32))
    return torch.from_numpy(rng.standard_normal(200).astype(np.float32))


def make_item(cls, number, modality='m'):
    value = sample_value(cls, number)
    return {'inputs': {modality: value}, 'data_samples': MultiModalDataSample.of(f's{number}', 0)}


def distance(clean, noised):
    if noised is None:
        return 1.0
    if isinstance(clean, str):
        return 1.0 - difflib.SequenceMatcher(None, clean, noised, autojunk=False).ratio()
    return float(((clean.double() - noised.double()) ** 2).mean())


def equal(a, b):
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@pytest.mark.parametrize('cls', SINGLE, ids=lambda c: c.__name__)
def test_severity_is_monotone(cls):
    means = []
    for severity in SEVERITIES:
        noise = cls('m', severity)
        total = 0.0
        for i in range(24):
            item = make_item(cls, i)
            total += distance(item['inputs']['m'], noise.apply(item)['inputs']['m'])
        means.append(total / 24)
    assert means[0] > 0
    assert all(b > a for a, b in itertools.pairwise(means)), means


@pytest.mark.parametrize('cls', SINGLE, ids=lambda c: c.__name__)
def test_shape_type_and_the_given_value_are_kept(cls):
    item = make_item(cls, 1)
    before = copy.deepcopy(item['inputs']['m'])
    out = cls('m', 5).apply(item)['inputs']['m']
    assert equal(item['inputs']['m'], before)
    if isinstance(out, torch.Tensor):
        assert out.shape == before.shape
        assert out.dtype == before.dtype
        assert out.data_ptr() != item['inputs']['m'].data_ptr()
        assert torch.isfinite(out.double()).all()


@pytest.mark.parametrize('cls', SINGLE, ids=lambda c: c.__name__)
def test_batches_give_the_bits_of_single_samples_in_any_order(cls):
    noise = cls('m', 3, seed=7, probability=0.7)
    items = [make_item(cls, i) for i in range(6)]
    single = {i['data_samples'].sample_id: noise.apply(i)['inputs']['m'] for i in items}
    for order in ([0, 1, 2, 3, 4, 5], [5, 2, 0], [4, 1, 3]):
        batch = noise(pseudo_collate([items[i] for i in order]))
        for sample, value in zip(batch['data_samples'], batch['inputs']['m'], strict=True):
            assert equal(value, single[sample.sample_id])


@pytest.mark.parametrize('cls', SINGLE, ids=lambda c: c.__name__)
def test_same_key_same_bits_and_random_ones_differ_by_seed_and_id(cls):
    noise = cls('m', 3, seed=1)
    item = make_item(cls, 0)
    value = noise.apply(item)['inputs']['m']
    assert equal(value, cls('m', 3, seed=1).apply(item)['inputs']['m'])
    # the physical value and its severity are one and the same
    physical = cls('m', **{cls.parameter: cls.levels[2]}, seed=1)
    assert equal(value, physical.apply(item)['inputs']['m'])
    keys = {
        cls('m', 3, seed=s, protocol=p).generator(i).integers(1 << 62)
        for s in (1, 2)
        for p in ('clipped', 'other')
        for i in ('a', 'b')
    }
    assert len(keys) == 8


@pytest.mark.parametrize('cls', OWN, ids=lambda c: c.__name__)
def test_bad_arguments(cls):
    for bad in (0, 6, -1, 2.5, '3', True):
        with pytest.raises(ValueError, match=r'severity must be an integer from 1 to 5'):
            cls('m', bad)
    with pytest.raises(ValueError, match='not both'):
        cls('m', 2, **{cls.parameter: cls.levels[0]})
    with pytest.raises(ValueError, match='must be a number in'):
        cls('m', **{cls.parameter: cls.bounds[0] - 1})
    with pytest.raises(ValueError, match='must be a number in'):
        cls('m', **{cls.parameter: float('nan')})
    with pytest.raises(TypeError, match="takes no argument 'strenght'"):
        cls('m', 2, strenght=1)
    with pytest.raises(ValueError, match='probability'):
        cls('m', 2, probability=1.5)
    if cls.default is None:
        with pytest.raises(ValueError, match=f'give severity .* or {cls.parameter}'):
            cls('m')
    built = CORRUPTIONS.build(dict(type=cls.__name__, modality='m', severity=2))
    assert built.value == cls.levels[1]


@pytest.mark.parametrize('cls', SINGLE, ids=lambda c: c.__name__)
def test_wrong_kind_missing_value_and_wrong_modality(cls):
    noise = cls('m', 3)
    item = make_item(cls, 0)
    gone = {**item, 'inputs': {'m': None}}
    assert noise.apply(gone) is gone
    with pytest.raises(LookupError, match=r"no modality 'm'; it has x"):
        noise.apply({**item, 'inputs': {'x': item['inputs']['m']}})
    if cls.kind != 'any':
        with pytest.raises(ValueError, match=r"sample 's0'.*front end"):
            noise.apply({**item, 'inputs': {'m': torch.zeros(2, 3, 4, 5, 6)}})


def test_every_class_is_exported_and_documented():
    for cls in OWN:
        assert getattr(corruptions, cls.__name__) is cls
        assert len(cls.levels) == 5
        assert cls.unit
        assert cls.__doc__
