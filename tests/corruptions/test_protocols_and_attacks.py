import json

import numpy as np
import pytest
import torch

from cal_mm.corruptions import (
    PROTOCOLS,
    FeatureGaussianNoise,
    ImageGaussianNoise,
    MissingModality,
    TextWordMask,
    WaveformReverb,
    attack_names,
    check_conditions,
    drop_conditions,
    get_protocol,
    parse_attack,
)
from cal_mm.corruptions.plan import modality_facts, plan_conditions
from cal_mm.registry import CORRUPTIONS
from cal_mm.structures import MultiModalDataSample, sample_key

MVSA = {'image': 'image', 'text': 'text'}
ALL = {
    'image': {'kind': 'image'},
    'audio': {'kind': 'waveform', 'sample_rate': 8000},
    'text': 'text',
    'view': 'features',
    'range': 'depth',
}


def image_item(number, pixels, text='a b c d'):
    sample = MultiModalDataSample.of(f'id{number}', 0)
    return {'inputs': {'image': pixels, 'text': text}, 'data_samples': sample}


def find(conditions, attack, epsilon):
    return next(c for c in conditions if c.attack == attack and c.epsilon == epsilon)


def apply(condition, item):
    for corruption in condition.corruptions:
        item = corruption.apply(item)
    return item


@pytest.mark.parametrize('epsilon', [5, 10])
def test_qmf_legacy_gaussian_is_the_written_out_emulation(epsilon):
    """The legacy code in plain numpy, with the seed's generator: bit for bit."""
    seed = 3
    condition = find(get_protocol('qmf-legacy').conditions(MVSA, [seed]), 'gaussian', epsilon)
    hit = 0
    for i in range(60):
        pixels = np.random.default_rng(i).integers(0, 256, (3, 20, 24)).astype(np.uint8)
        out = apply(condition, image_item(i, torch.from_numpy(pixels)))['inputs']['image'].numpy()

        key = sample_key(
            seed, 'qmf-legacy', 'ImageGaussianNoise', float(10 * epsilon), 'image', f'id{i}'
        )
        draws = np.random.default_rng(key)
        if draws.random() < 0.5:
            hit += 1
            field = draws.standard_normal((1, 20, 24), dtype=np.float32) * np.float32(10 * epsilon)
            noised = np.repeat(field, 3, axis=0) + pixels
            noised[noised > 255] = 255
            expected = np.zeros_like(pixels)
            for place, value in np.ndenumerate(noised):
                whole = int(value)  # towards zero
                while whole < 0:
                    whole += 256
                expected[place] = whole
        else:
            expected = pixels
        np.testing.assert_array_equal(out, expected)
    assert 15 < hit < 45


def test_qmf_legacy_shares():
    conditions = get_protocol('qmf-legacy').conditions(MVSA, [0])
    grey = torch.full((3, 16, 16), 128, dtype=torch.uint8)
    text = ' '.join(['w'] * 40)
    for epsilon, images, words in ((5, 0.25, 0.5), (10, 0.5, 1.0)):
        condition = find(conditions, 'salt_pepper', epsilon)
        outs = [apply(condition, image_item(i, grey, text))['inputs'] for i in range(3000)]
        changed = [bool((o['image'] != 128).any()) for o in outs]
        assert np.mean(changed) == pytest.approx(images, abs=0.03)
        share = [float((o['image'][0] != 128).double().mean()) for o in outs]
        assert np.mean([s for s in share if s]) == pytest.approx(0.1, abs=0.01)
        masked = [o['text'].count('_') / 40 for o in outs]
        assert np.mean([m > 0 for m in masked]) == pytest.approx(0.5, abs=0.03)
        assert np.mean([m for m in masked if m]) == pytest.approx(words, abs=0.02)
    strong = find(get_protocol('qmf-2025').conditions(MVSA, [0]), 'salt_pepper', 10)
    assert strong.corruptions[0].probability == pytest.approx(0.05)


def test_qmf_legacy_on_rgb_d_pairs_uses_epsilon_itself():
    conditions = get_protocol('qmf-legacy').conditions({'rgb': 'image', 'depth': 'image'}, [0])
    noises = find(conditions, 'gaussian', 5).corruptions
    assert {(n.modality, n.value, n.probability) for n in noises} == {
        ('rgb', 5.0, 0.5),
        ('depth', 5.0, 0.5),
    }


@pytest.mark.parametrize('name', sorted(PROTOCOLS))
def test_every_protocol_carries_its_name_version_and_seed(name):
    protocol = get_protocol(name)
    conditions = protocol.conditions(ALL, [0, 4])
    assert {c.protocol for c in conditions} == {name}
    assert {c.protocol_version for c in conditions} == {protocol.version}
    assert {c.seed for c in conditions} == {0, 4}
    assert {n.seed for c in conditions for n in c.corruptions} == {0, 4}
    assert len({(c.label, c.seed) for c in conditions}) == len(conditions)
    json.dumps([c.describe() for c in conditions], allow_nan=False)


def test_clipped_hits_every_sample_each_modality_alone_and_all():
    conditions = get_protocol('clipped').conditions(MVSA, [0])
    assert all(n.probability == 1 for c in conditions for n in c.corruptions)
    five = [c.modalities for c in conditions if c.attack == 'noise' and c.epsilon == 5]
    assert sorted(five) == [('image',), ('image', 'text'), ('text',)]


def test_missing_takes_every_proper_subset():
    conditions = get_protocol('missing').conditions({'a': 'text', 'b': 'text', 'c': 'text'}, [0])
    assert sorted(c.modalities for c in conditions) == [
        ('a',), ('a', 'b'), ('a', 'c'), ('b',), ('b', 'c'), ('c',),
    ]  # fmt: skip


def test_missing_takes_each_of_more_than_six_alone():
    seven = dict.fromkeys('abcdefg', 'text')
    conditions = get_protocol('missing').conditions(seven, [0])
    assert [c.modalities for c in conditions] == [(m,) for m in seven]


def test_a_corruption_of_ones_own_joins_no_protocol(monkeypatch):
    monkeypatch.setattr(CORRUPTIONS, '_module_dict', dict(CORRUPTIONS.module_dict))

    def told():
        return [c.describe() for p in PROTOCOLS.values() for c in p.conditions(ALL, [0])]

    before = told()

    @CORRUPTIONS.register_module()
    class OwnNoise(FeatureGaussianNoise):
        pass

    assert told() == before


def test_protocol_errors():
    with pytest.raises(LookupError, match=r"not a noise protocol\. Did you mean 'clipped'"):
        get_protocol('cliped')
    with pytest.raises(ValueError, match='says nothing about these modalities: v'):
        get_protocol('qmf-legacy').conditions({'v': 'features'}, [0])


def only(text, modalities=ALL, **kwargs):
    (condition,) = parse_attack(text, modalities, **kwargs)
    return condition


def test_parse_attack():
    condition = only('gaussian:3@image', seed=5)
    (noise,) = condition.corruptions
    assert isinstance(noise, ImageGaussianNoise)
    assert (noise.modality, noise.severity, noise.value, noise.seed) == ('image', 3, 50.0, 5)
    assert condition.label == 'gaussian:3@image'
    assert only('gaussian:std=30@image').corruptions[0].value == 30.0
    assert only('noise:snr_db=-5@audio').corruptions[0].value == -5.0
    assert isinstance(only('gaussian:1@view').corruptions[0], FeatureGaussianNoise)
    assert isinstance(only('ImageGaussianNoise:2').corruptions[0], ImageGaussianNoise)
    assert only('GAUSSIAN:2@image').corruptions[0].value == 25.0
    assert [c.severity for c in parse_attack('word_mask', ALL)] == [1, 2, 3, 4, 5]
    assert [c.severity for c in parse_attack('word_mask:1-3,5@text', ALL)] == [1, 2, 3, 5]
    assert isinstance(only('missing@audio').corruptions[0], MissingModality)
    assert only('noise:3').modalities == ('audio', 'image', 'range', 'text', 'view')
    assert only('noise:3@image+text').modalities == ('image', 'text')
    assert isinstance(only('word_mask:2').corruptions[0], TextWordMask)
    reverb = only('reverb:2').corruptions[0]
    assert isinstance(reverb, WaveformReverb)
    assert reverb.sample_rate == 8000


@pytest.mark.parametrize(
    ('text', 'error', 'message'),
    [
        ('gausian:3', LookupError, "'gausian' is not a corruption. Did you mean 'gaussian'"),
        ('gaussian:9@image', ValueError, 'severity must be from 1 to 5'),
        ('gaussian:0@image', ValueError, 'severity must be from 1 to 5'),
        ('gaussian:-1@image', ValueError, 'severity must be from 1 to 5'),
        ('gaussian:2.5@image', ValueError, 'neither an integer from 1 to 5 nor'),
        ('gaussian:x@image', ValueError, 'neither an integer from 1 to 5 nor'),
        ('gaussian:std=x@image', ValueError, "'x' in 'std=x' is not a number"),
        ('gaussian:snr_db=3@image', ValueError, 'takes std='),
        ('gaussian:std=-3@image', ValueError, r'std must be a number in \[0'),
        ('gaussian:std=nan@image', ValueError, 'std must be a number in'),
        ('gaussian:3@imag', LookupError, "no modality 'imag'. Did you mean 'image'"),
        ('word_mask:3@image', ValueError, "modality 'image' is of kind 'image'"),
        ('missing', ValueError, 'name the modality'),
        ('gaussian:std=3', ValueError, 'takes snr_db='),
        ('', ValueError, 'not of the form'),
        ('gaussian:b:c', ValueError, 'neither an integer from 1 to 5 nor'),
        ('@image', ValueError, 'not of the form'),
    ],
)
def test_parse_errors(text, error, message):
    with pytest.raises(error, match=message):
        parse_attack(text, ALL)


def test_attack_that_fits_nothing():
    with pytest.raises(ValueError, match=r'none of the modalities is: image \(image\)'):
        parse_attack('awgn:3', {'image': 'image'})


def test_short_names_are_unique_within_a_kind():
    for name, classes in attack_names().items():
        assert len({c.kind for c in classes}) == len(classes), name


def test_drop():
    (one, two) = drop_conditions(['text', 'text+image'], ALL)
    assert one.modalities == ('text',)
    assert two.modalities == ('image', 'text')
    with pytest.raises(LookupError, match='no modality'):
        drop_conditions(['words'], MVSA)
    with pytest.raises(ValueError, match='nothing is left'):
        drop_conditions(['text'], {'text': 'text'})


def test_a_spectrogram_where_a_waveform_is_expected_shows_before_the_model_loads():
    item = {
        'inputs': {'audio': torch.zeros(1, 64, 100)},
        'data_samples': MultiModalDataSample.of('clip7', 0),
    }
    with pytest.raises(ValueError, match=r"'clip7' is a float32 tensor .*front end"):
        check_conditions(parse_attack('awgn:3@audio', ALL), item)
    with pytest.raises(LookupError, match="packs no modality 'text'"):
        check_conditions(parse_attack('word_mask:3@text', ALL), item)


def test_plan():
    plan = plan_conditions(MVSA, ['gaussian:3@image'] * 2, ['text'], 'clipped', 2)
    assert [c.seed for c in plan if c.attack == 'gaussian'] == [0, 1]
    assert sum(c.attack == 'missing' for c in plan) == 1
    assert len(plan_conditions(MVSA, protocol='clipped')) == 5 * 8
    with pytest.raises(ValueError, match='at least 1'):
        plan_conditions(MVSA, seeds=0)
    assert modality_facts({'modalities': ALL}, ['text']) == {'text': 'text'}
    with pytest.raises(ValueError, match='kind'):
        modality_facts({'modalities': ['image']})
    with pytest.raises(LookupError, match='encoder'):
        modality_facts({'modalities': MVSA}, ['audio'])
