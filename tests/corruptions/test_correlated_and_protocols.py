"""Events that hit all modalities of the same samples; the legacy rule for RGB-D; missing ones."""

from itertools import combinations

import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate

from cal_mm.corruptions import PROTOCOLS, get_protocol, parse_attack
from cal_mm.corruptions.plan import plan_conditions
from cal_mm.datasets.transforms import LoadImage
from cal_mm.structures import MultiModalDataSample, sample_key

KINDS = {'cam': 'image', 'mic': 'waveform', 'words': 'text', 'view': 'features', 'range': 'depth'}


def item(i):
    rng = np.random.default_rng(i)
    inputs = {
        'cam': torch.full((3, 6, 6), 200, dtype=torch.uint8),
        'mic': torch.from_numpy(rng.standard_normal(200).astype(np.float32)),
        'words': 'the quick brown fox jumps over some lazy dogs and runs away for ever',
        'view': torch.from_numpy(rng.standard_normal(5).astype(np.float32)),
        'range': torch.full((1, 8, 8), 2.0),
    }
    return {'inputs': inputs, 'data_samples': MultiModalDataSample.of(f's{i}', 0)}


def apply(condition, given):
    for corruption in condition.corruptions:
        given = corruption.apply(given)
    return given


def same(a, b):
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def hit(condition, i):
    """Modalities of sample i that are not what they were."""
    out = apply(condition, item(i))['inputs']
    return {m for m, value in item(i)['inputs'].items() if not same(value, out[m])}


def hits(text, number=400, **kwargs):
    (condition,) = parse_attack(text, KINDS, **kwargs)
    return [hit(condition, i) for i in range(number)]


def test_a_sample_is_hit_in_all_modalities_or_in_none():
    found = hits('correlated:5')
    assert {frozenset(f) for f in found} == {frozenset(), frozenset(KINDS)}
    assert np.mean([bool(f) for f in found]) == pytest.approx(0.5, abs=0.06)


def test_the_same_samples_at_every_severity_and_name_and_others_with_another_seed():
    def who(text, **kwargs):
        return [bool(f) for f in hits(text, 60, **kwargs)]

    strong = who('correlated:5')
    assert who('all:5') == strong
    assert [bool('mic' in f) for f in hits('correlated:1', 60)] == strong
    assert who('correlated:5@cam+words') == strong
    assert who('correlated:5', seed=1) != strong
    few = np.mean([bool(f) for f in hits('correlated:5,probability=0.2@words', 1500)])
    assert few == pytest.approx(0.2, abs=0.04)
    assert all(who('correlated:5,probability=1'))


def test_a_batch_gets_the_bits_of_single_samples():
    (condition,) = parse_attack('correlated:3', KINDS, seed=4)
    batch = pseudo_collate([item(i) for i in range(8)])
    for corruption in condition.corruptions:
        batch = corruption(batch)
    for i in range(8):
        out = apply(condition, item(i))['inputs']
        for m in KINDS:
            assert same(batch['inputs'][m][i], out[m])


def test_what_an_event_is_made_of_and_what_a_row_says():
    (condition,) = parse_attack('correlated:3', KINDS)
    assert [c.name for c in condition.corruptions] == [
        'ImageLowLight', 'WaveformEnvironment', 'DepthHoles', 'FeatureGaussianNoise', 'TextTypos',
    ]  # fmt: skip
    assert {c.severity for c in condition.corruptions} == {3}
    told = condition.describe()
    assert (told['condition'], told['severity']) == ('correlated:3@cam+mic+range+view+words', 3)
    assert {(c['probability'], c['event']) for c in told['corruptions']} == {(0.5, 'correlated')}
    (alone,) = parse_attack('noise:3@cam', KINDS)
    assert 'event' not in alone.describe()['corruptions'][0]


def test_corruption_1_has_the_event_at_five_severities():
    conditions = get_protocol('corruption-1').conditions(KINDS, [0])
    events = [c for c in conditions if c.attack == 'correlated']
    assert [c.severity for c in events] == [1, 2, 3, 4, 5]
    assert all(c.modalities == tuple(sorted(KINDS)) for c in events)
    assert PROTOCOLS['corruption-1'].version == 3
    alone = get_protocol('corruption-1').conditions({'cam': 'image'}, [0])
    assert {c.attack for c in alone}.isdisjoint({'correlated', 'noise', 'missing', 'swap'})


def test_corruption_1_leaves_out_what_cannot_act():
    def names(**facts):
        conditions = get_protocol('corruption-1').conditions({'m': {'kind': 'image', **facts}})
        return {c.attack for c in conditions}

    assert 'ImageSaturate' in names(shape=[3, 8, 8])
    assert 'ImageSaturate' in names()
    assert 'ImageSaturate' not in names(shape=[1, 28, 28])
    assert 'FrameDrop' not in names(frames=1)
    assert 'FrameDrop' in names(frames=3)
    assert 'FrameDrop' in names(frames=True)
    assert 'ImageSaturate' not in names(channels=1)


def test_corruption_1_of_what_loading_makes_of_the_images():
    def facts(known, **options):
        found = {'m': {'kind': 'image', **known}}
        LoadImage('m', **options).update_facts(found)
        return found['m']

    assert facts({'frames': True}) == {'kind': 'image', 'frames': True}
    assert facts({'frames': True}, num_frames=3)['frames'] == 3
    assert facts({'frames': True}, num_frames=1)['frames'] == 1
    assert facts({}, num_frames=3) == {'kind': 'image'}  # single images stay single
    assert facts({}, color='grayscale') == {'kind': 'image', 'channels': 1}
    grey = get_protocol('corruption-1').conditions({'m': facts({}, color='grayscale')})
    assert 'ImageSaturate' not in {c.attack for c in grey}


@pytest.mark.parametrize('shape', [(1, 3, 6, 6), (3, 6, 6)])
def test_one_frame_is_no_clip(shape):
    kinds = {'m': {'kind': 'image', 'frames': True}}
    sample = MultiModalDataSample.of('s', 0)
    one = {'inputs': {'m': torch.zeros(shape, dtype=torch.uint8)}, 'data_samples': sample}
    two = {**one, 'inputs': {'m': torch.zeros(2, 3, 6, 6, dtype=torch.uint8)}}
    names = [
        {c.attack for c in plan_conditions(kinds, protocol='corruption-1', item=item)}
        for item in (one, two)
    ]
    assert names[1] - names[0] == {'FrameDrop', 'FrameFreeze'}
    for attack in ('frame_drop:5@m', 'frame_freeze:1@m'):
        with pytest.raises(ValueError, match='needs several frames'):
            plan_conditions(kinds, [attack], item=one)
        assert plan_conditions(kinds, [attack], item=two)


@pytest.mark.parametrize('protocol', ['qmf-legacy', 'clipped', 'corruption-1', 'missing'])
def test_a_model_of_some_of_the_modalities_gets_the_noise_of_all(protocol):
    everything = {'depth': 'depth', 'rgb': 'image'}
    whole = plan_conditions(everything, protocol=protocol, seeds=2)
    again = plan_conditions(everything, protocol=protocol, seeds=2, everything=everything)
    assert [c.describe() for c in again] == [c.describe() for c in whole]
    if protocol == 'missing':
        with pytest.raises(ValueError, match='needs at least two modalities, the model has only'):
            plan_conditions({'rgb': 'image'}, protocol=protocol, everything=everything)
        return
    own = plan_conditions({'rgb': 'image'}, protocol=protocol, seeds=2, everything=everything)
    noise = {
        (c.label, c.seed): [str(n.describe()) for n in c.corruptions if n.modality == 'rgb']
        for c in whole
    }
    found = {(c.label, c.seed): [str(n.describe()) for n in c.corruptions] for c in own}
    assert found.items() <= noise.items()
    kept = list(dict.fromkeys(label for label, _ in found))
    gaussian = next(c for c in own if c.attack in ('gaussian', 'noise', 'ImageGaussianNoise'))
    assert (
        gaussian.corruptions[0].value
        == {'qmf-legacy': 5, 'clipped': 50, 'corruption-1': 10}[protocol]
    )
    if protocol == 'clipped':  # noise on all is that on rgb
        assert kept == [f'{n}@rgb eps {e}' for e in (5, 10) for n in ('noise', 'salt_pepper')]
    if protocol == 'corruption-1':
        assert {'swap@rgb', 'correlated:5@depth+rgb'} < set(kept)
        assert not {'missing@rgb', 'swap@depth', 'noise:5@depth+rgb'} & set(kept)


def test_missing_of_a_model_of_some_of_the_modalities():
    kinds = dict.fromkeys('abc', 'text')
    own = plan_conditions({'a': 'text', 'b': 'text'}, protocol='missing', everything=kinds)
    assert [c.label for c in own] == ['drop a', 'drop b']


def test_the_names_of_imagenet_c():
    names = [
        'gaussian_noise',
        'shot_noise',
        'impulse_noise',
        'speckle_noise',
        'defocus_blur',
        'glass_blur',
        'motion_blur',
        'zoom_blur',
        'gaussian_blur',
        'snow',
        'frost',
        'fog',
        'brightness',
        'contrast',
        'elastic_transform',
        'pixelate',
        'jpeg_compression',
        'spatter',
        'saturate',
    ]
    found = {parse_attack(f'{name}:3@cam', KINDS)[0].corruptions[0].name for name in names}
    assert len(found) == len(names) == 19


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('gaussian:3,std=4@cam', 'either a severity or std=, not both'),
        ('salt_pepper:3,field=each@cam', 'field must be one of channel, shared'),
        ('salt_pepper:3,probability=2@cam', 'probability must be in'),
        ('salt_pepper:3,probability=x@cam', "'x' in 'probability=x' is not a number"),
        ('gaussian:3,scale=4@view', 'takes std='),
        ('gaussian:2,relative=maybe@view', 'relative must be true or false'),
    ],
)
def test_options_that_cannot_be(text, message):
    with pytest.raises(ValueError, match=message):
        parse_attack(text, KINDS)


def test_options_as_text():
    (condition,) = parse_attack('gaussian:2,relative=true@view', KINDS)
    assert condition.corruptions[0].relative is True
    (condition,) = parse_attack('packet_loss:2,packets=7@mic', KINDS)
    assert condition.corruptions[0].packets == 7
    assert isinstance(condition.corruptions[0].packets, int)
    (condition,) = parse_attack('salt_pepper:amount=0.2,field=channel,probability=0.5@cam', KINDS)
    (noise,) = condition.corruptions
    assert (noise.value, noise.field, noise.probability) == (0.2, 'channel', 0.5)
    assert condition.label == 'salt_pepper:amount=0.2,field=channel,probability=0.5@cam'
    out = noise.corrupt(torch.full((3, 50, 50), 100, dtype=torch.uint8), np.random.default_rng(0))
    assert not torch.equal(out[0], out[1])


def wrapped(level):
    """A float level as the legacy code leaves it in an unsigned byte, in plain integers."""
    if level > 255:
        level = 255
    whole = int(level)  # towards zero
    while whole < 0:
        whole += 256
    return whole


@pytest.mark.parametrize('epsilon', [5, 10])
def test_legacy_on_rgb_and_depth_in_metres_written_out(epsilon):
    """NYUD2's rule: std = epsilon on both, each with probability .5 of its own."""
    kinds = {'rgb': 'image', 'depth': 'depth'}
    conditions = get_protocol('qmf-legacy').conditions(kinds, [2])
    (condition,) = [c for c in conditions if c.attack == 'gaussian' and c.epsilon == epsilon]
    seen = set()
    for i in range(40):
        rng = np.random.default_rng(i)
        pixels = rng.integers(0, 256, (3, 7, 9)).astype(np.uint8)
        depth = rng.uniform(0, 1.5, (1, 7, 9)).astype(np.float32)
        depth[0, 2:4] = 0
        given = {
            'inputs': {'rgb': torch.from_numpy(pixels), 'depth': torch.from_numpy(depth)},
            'data_samples': MultiModalDataSample.of(f'n{i}', 0),
        }
        out = apply(condition, given)['inputs']

        key = sample_key(2, 'qmf-legacy', 'ImageGaussianNoise', float(epsilon), 'rgb', f'n{i}')
        draws = np.random.default_rng(key)
        rgb_hit = draws.random() < 0.5
        expected = pixels.copy()
        if rgb_hit:
            field = draws.standard_normal((1, 7, 9), dtype=np.float32)
            for (c, y, x), level in np.ndenumerate(pixels):
                expected[c, y, x] = wrapped(
                    np.float32(level) + field[0, y, x] * np.float32(epsilon)
                )
        np.testing.assert_array_equal(out['rgb'].numpy(), expected)

        metres = epsilon * 10 / 255
        key = sample_key(2, 'qmf-legacy', 'DepthGaussianNoise', metres, 'depth', f'n{i}')
        draws = np.random.default_rng(key)
        depth_hit = draws.random() < 0.5
        expected = depth.astype(np.float64)
        if depth_hit:
            field = draws.standard_normal((1, 7, 9), dtype=np.float32)
            for place, value in np.ndenumerate(depth):
                if value > 0:
                    level = round(float(value) * 25.5) + float(field[place]) * epsilon
                    expected[place] = wrapped(level) / 25.5
        # float32 against float64: a level may be cut off at another whole number
        wrong = np.abs(out['depth'].numpy() - expected) > 1e-4
        assert wrong.sum() <= 1
        seen.add((rgb_hit, depth_hit))
        if depth_hit and epsilon == 10:
            assert (out['depth'] > 8).any()  # what fell below zero is far away now
    assert seen == {(a, b) for a in (False, True) for b in (False, True)}


def test_legacy_salt_and_pepper_on_depth_in_metres():
    conditions = get_protocol('qmf-legacy').conditions({'rgb': 'image', 'depth': 'depth'}, [0])
    (condition,) = [c for c in conditions if c.attack == 'salt_pepper' and c.epsilon == 10]
    found = {(c.modality, c.name, c.value, c.probability) for c in condition.corruptions}
    assert found == {
        ('rgb', 'ImageSaltPepper', 0.1, 0.5),
        ('depth', 'DepthSaltPepper', 0.1, 0.5),
    }


def test_legacy_with_text_or_sound_beside_the_picture_keeps_ten_epsilon():
    for other in ('text', 'waveform', 'features'):
        conditions = get_protocol('qmf-legacy').conditions({'a': 'image', 'b': other}, [0])
        noise = next(c for c in conditions if c.attack == 'gaussian' and c.epsilon == 5)
        assert noise.corruptions[0].value == 50


@pytest.mark.parametrize('number', [2, 3, 4, 5, 6])
def test_missing_takes_every_proper_subset_up_to_six(number):
    names = 'abcdef'[:number]
    conditions = get_protocol('missing').conditions(dict.fromkeys(names, 'text'), [0])
    expected = [s for size in range(1, number) for s in combinations(names, size)]
    assert [c.modalities for c in conditions] == expected
    assert len(conditions) == 2**number - 2
    given = {
        'inputs': dict.fromkeys(names, 'x'),
        'data_samples': MultiModalDataSample.of('s', 0),
    }
    for condition in conditions:
        out = apply(condition, given)
        gone = tuple(m for m in names if out['inputs'][m] is None)
        assert gone == condition.modalities == out['data_samples'].missing


def test_missing_of_seven_takes_each_alone_and_of_one_is_refused():
    seven = get_protocol('missing').conditions(dict.fromkeys('abcdefg', 'text'), [0])
    assert [c.modalities for c in seven] == [(m,) for m in 'abcdefg']
    with pytest.raises(ValueError, match='needs at least two modalities, the model has only a'):
        get_protocol('missing').conditions({'a': 'text'}, [0])


@pytest.mark.parametrize(
    ('text', 'kinds'),
    [
        ('missing@a', {'a': 'text'}),
        ('missing:5@a', {'a': 'text'}),
        ('missing@a+b', {'a': 'text', 'b': 'image'}),
        ('missing:3-5@a+b', {'a': 'text', 'b': 'image'}),
    ],
)
def test_nothing_left_is_refused(text, kinds):
    with pytest.raises(ValueError, match='nothing is left to classify'):
        plan_conditions(kinds, [text])


def test_missing_and_swap_of_some():
    kinds = {'a': 'text', 'b': 'image'}
    for text in ('missing:4@a+b', 'missing@a', 'swap@a+b'):
        assert plan_conditions(kinds, [text])
    with pytest.raises(LookupError, match="no modality 'c'"):
        plan_conditions(kinds, ['swap@c'])
    with pytest.raises(ValueError, match='name the modality'):
        plan_conditions(kinds, ['swap'])


def test_a_modality_that_no_attack_fits_does_not_matter_to_a_model_without_it():
    """A kind of one's own beside the image that the model takes."""
    own, everything = {'image': 'image'}, {'graph': 'graph', 'image': 'image'}
    alone = plan_conditions(own, protocol='adversarial')
    beside = plan_conditions(own, protocol='adversarial', everything=everything)
    assert [c.label for c in beside] == [c.label for c in alone]
    with pytest.raises(ValueError, match='graph'):
        plan_conditions(everything, protocol='adversarial')
