import io
import pickle

import numpy as np
import pytest
import torch
from fixtures import media, png, wav
from PIL import Image

from cal_mm.datasets.transforms import SampleError
from cal_mm.datasets.transforms.audio import fit_length
from cal_mm.datasets.transforms.images import segment_indices
from cal_mm.registry import TRANSFORMS


def make(kind, **kwargs):
    return TRANSFORMS.build(dict(type=kind, **kwargs))


def run(transform, value, kind='image', seed=0, **more):
    results = dict(
        sample_id='s1', split='train', kinds={'x': kind}, x=value, rng=np.random.default_rng(seed)
    )
    return transform.transform({**results, **more})['x']


def random_image(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def tall(height=9, width=12):
    """An image whose pixels say where they are: channel 0 the row, channel 1 the column."""
    rows, cols = torch.meshgrid(torch.arange(height), torch.arange(width), indexing='ij')
    return torch.stack([rows, cols, rows]).to(torch.uint8)


# ---- images


def test_load_image_colours():
    array = random_image(5, 7, 3)
    rgb = run(make('LoadImage', modality='x'), png(array))
    assert torch.equal(rgb, torch.from_numpy(array).permute(2, 0, 1))
    gray = run(make('LoadImage', modality='x', color='grayscale'), png(array))
    expected = (array @ np.array([299, 587, 114]) / 1000).round()
    assert gray.shape == (1, 5, 7)
    assert np.abs(gray[0].numpy() - expected).max() <= 1
    rgba = random_image(5, 7, 4)
    assert run(make('LoadImage', modality='x', color='unchanged'), png(rgba)).shape[0] == 4
    one = random_image(5, 7)
    assert torch.equal(
        run(make('LoadImage', modality='x'), png(one)),
        torch.from_numpy(one).expand(3, -1, -1),
    )


def test_load_image_from_path_palette_and_16_bit(tmp_path):
    array = random_image(4, 4, 3)
    path = tmp_path / 'a.png'
    path.write_bytes(png(array))
    assert run(make('LoadImage', modality='x'), str(path)).shape == (3, 4, 4)
    palette = io.BytesIO()
    image = Image.fromarray(array).quantize(8)
    image.save(palette, 'PNG', transparency=bytes([0] * 8))
    assert run(make('LoadImage', modality='x'), palette.getvalue()).shape == (3, 4, 4)
    deep = np.array([[0, 256, 65535]], dtype=np.uint16)
    got = run(make('LoadImage', modality='x', color='grayscale'), png(deep))
    assert got.flatten().tolist() == [0, 1, 255]


@pytest.mark.parametrize('cut', [1, 20, 60, -20])
@pytest.mark.parametrize('form', ['PNG', 'JPEG'])
def test_truncated_images(cut, form):
    buffer = io.BytesIO()
    Image.fromarray(random_image(32, 32, 3)).save(buffer, form)
    with pytest.raises(SampleError, match=r"'s1'.*'x': cannot decode \d+ bytes as an image"):
        run(make('LoadImage', modality='x'), buffer.getvalue()[:cut])


def test_missing_image_file(tmp_path):
    with pytest.raises(SampleError, match=r"modality 'x': the file cannot be read.*gone\.png"):
        run(make('LoadImage', modality='x'), str(tmp_path / 'gone.png'))
    with pytest.raises(SampleError, match='expected encoded bytes or a path, got int'):
        run(make('LoadImage', modality='x'), 3)


def test_frames():
    frames = [png(np.full((2, 3, 3), i, np.uint8)) for i in range(10)]
    every = run(make('LoadImage', modality='x'), frames)
    assert every.shape == (10, 3, 2, 3)
    middle = run(make('LoadImage', modality='x', num_frames=2), frames)
    assert middle[:, 0, 0, 0].tolist() == [2, 7]
    drawn = [
        run(make('LoadImage', modality='x', num_frames=2, frame_sampling='random'), frames, seed=s)[
            :, 0, 0, 0
        ].tolist()
        for s in range(30)
    ]
    assert {d[0] for d in drawn} == set(range(5))
    assert {d[1] for d in drawn} == set(range(5, 10))
    with pytest.raises(SampleError, match='no frames'):
        run(make('LoadImage', modality='x'), [])
    with pytest.raises(SampleError, match='frame 1: it is empty'):
        run(make('LoadImage', modality='x'), [frames[0], b''])
    with pytest.raises(SampleError, match='different sizes'):
        run(make('LoadImage', modality='x'), [frames[0], png(random_image(4, 4, 3))])


def test_segments_cover_short_clips():
    assert segment_indices(1, 3) == [0, 0, 0]
    assert segment_indices(3, 3) == [0, 1, 2]
    rng = np.random.default_rng(0)
    for total in range(1, 9):
        for count in range(1, 9):
            chosen = segment_indices(total, count, rng)
            assert chosen == sorted(chosen)
            assert 0 <= min(chosen) <= max(chosen) < total


def test_load_depth():
    millimetres = np.array([[0, 1000, 2345]], dtype=np.uint16)
    metres = run(make('LoadDepth', modality='x'), png(millimetres), 'depth')
    assert metres.dtype == torch.float32
    torch.testing.assert_close(metres, torch.tensor([[[0, 1, 2.345]]]))
    eight = png(np.array([[0, 51]], dtype=np.uint8))
    torch.testing.assert_close(
        run(make('LoadDepth', modality='x', scale=1 / 25.5), eight, 'depth'),
        torch.tensor([[[0.0, 2.0]]]),
    )
    with pytest.raises(SampleError, match='8-bit depth needs scale'):
        run(make('LoadDepth', modality='x'), eight, 'depth')
    with pytest.raises(SampleError, match='one channel of depth'):
        run(make('LoadDepth', modality='x'), png(random_image(3, 3, 3)), 'depth')
    with pytest.raises(SampleError, match='cannot decode'):
        run(make('LoadDepth', modality='x'), png(millimetres)[:40], 'depth')


# ---- geometry


def test_resize_matches_pil():
    array = random_image(40, 30, 3)
    got = run(make('Resize', modality='x', size=(16, 12)), torch.from_numpy(array).permute(2, 0, 1))
    expected = np.asarray(Image.fromarray(array).resize((12, 16), Image.Resampling.BILINEAR))
    assert np.abs(got.permute(1, 2, 0).numpy().astype(int) - expected).max() <= 1


@pytest.mark.parametrize(
    ('shape', 'size'), [((3, 40, 30), (27, 20)), ((3, 30, 40), (20, 27)), ((3, 9, 9), (20, 20))]
)
def test_resize_shorter_side(shape, size):
    assert run(make('Resize', modality='x', size=20), torch.zeros(shape)).shape[1:] == size


def test_depth_is_resized_without_new_values():
    depth = torch.tensor([[[0.0, 4.0], [0.0, 4.0]]]).repeat(1, 8, 8)
    got = run(make('Resize', modality='x', size=(5, 5)), depth, 'depth')
    assert set(got.unique().tolist()) <= {0.0, 4.0}


def test_crops_are_parts_of_the_image():
    image = tall()
    centre = run(make('CenterCrop', modality='x', size=(3, 4)), image)
    assert (centre[0, 0, 0], centre[1, 0, 0]) == (3, 4)
    places = set()
    for seed in range(200):
        part = run(make('RandomCrop', modality='x', size=(7, 11)), image, seed=seed)
        assert part.shape == (3, 7, 11)
        assert torch.equal(part[0, :, 0], part[0, 0, 0] + torch.arange(7))
        places.add((int(part[0, 0, 0]), int(part[1, 0, 0])))
    assert places == {(r, c) for r in range(3) for c in range(2)}
    padded = run(make('RandomCrop', modality='x', size=(13, 16), padding=2), image + 1)
    assert (padded[0, :2] == 0).all()
    with pytest.raises(SampleError, match='too few for a crop of 10 x 10'):
        run(make('RandomCrop', modality='x', size=10), image)


def test_random_resized_crop_stays_in_range():
    image = torch.zeros(3, 20, 30)
    transform = make('RandomResizedCrop', modality='x', size=8, scale=(0.2, 0.5))
    areas = []
    for seed in range(300):
        top, left, height, width = transform.draw(np.random.default_rng(seed), (20, 30))
        assert min(top, left) >= 0
        assert max(top + height, left + width) <= 1 + 1e-9
        areas.append(height * width)
        assert 0.74 < width * 30 / (height * 20) < 1.34
    assert 0.2 <= min(areas) < 0.23
    assert 0.47 < max(areas) <= 0.5
    assert run(transform, image).shape == (3, 8, 8)
    # nothing fits a long strip: the largest centred part in range is taken
    strip = make('RandomResizedCrop', modality='x', size=4, scale=(1.0, 1.0))
    top, left, height, width = strip.draw(np.random.default_rng(0), (10, 100))
    assert (top, height) == (0, 1.0)
    assert width * 100 == pytest.approx(10 * 4 / 3)
    assert left == pytest.approx((1 - width) / 2)


def test_one_draw_for_several_modalities():
    image = tall(18, 24)
    depth = image[:1].float()
    half = image[:, ::2, ::2]
    steps = [
        make('RandomCrop', modalities=('image', 'depth'), size=(10, 12)),
        make('RandomFlip', modalities=('image', 'depth')),
    ]
    flips = set()
    for seed in range(20):
        results = dict(
            kinds=dict(image='image', depth='depth'), image=image, depth=depth, sample_id='s'
        )
        results['rng'] = np.random.default_rng(seed)
        for step in steps:
            results = step.transform(results)
        assert torch.equal(results['image'][:1].float(), results['depth'])
        flips.add(bool(results['image'][1, 0, 0] > results['image'][1, 0, -1]))
    assert flips == {True, False}
    # other resolutions see the same part
    resized = make('RandomResizedCrop', modalities=('image', 'small'), size=6, scale=(0.3, 0.6))
    results = dict(kinds=dict(image='depth', small='depth'), image=image, small=half, sample_id='s')
    results['rng'] = np.random.default_rng(0)
    results = resized.transform(results)
    apart = (results['image'].int() - results['small'].int()).abs().max()
    assert apart <= 3


def test_vertical_flip_and_probability():
    image = tall()
    up = run(make('RandomFlip', modality='x', prob=1, direction='vertical'), image)
    assert torch.equal(up, image.flip(1))
    assert torch.equal(run(make('RandomFlip', modality='x', prob=0), image), image)
    with pytest.raises(ValueError, match='prob'):
        make('RandomFlip', modality='x', prob=2)


def test_geometry_refuses_bytes():
    for kind in ('Resize', 'RandomCrop'):
        with pytest.raises(SampleError, match='put LoadImage or LoadDepth before it'):
            run(make(kind, modality='x', size=4), b'abc')


def test_color_jitter():
    image = torch.from_numpy(random_image(3, 8, 8))
    strong = make(
        'ColorJitter', modality='x', brightness=0.5, contrast=0.5, saturation=0.5, hue=0.2
    )
    first, second = run(strong, image, seed=1), run(strong, image, seed=2)
    assert first.dtype == torch.uint8
    assert not torch.equal(first, second)
    assert torch.equal(first, run(strong, image, seed=1))
    assert torch.equal(run(make('ColorJitter', modality='x'), image), image)
    gray = torch.full((1, 4, 4), 100, dtype=torch.uint8)
    values = [
        int(run(make('ColorJitter', modality='x', brightness=0.5, hue=0.1), gray, seed=s)[0, 0, 0])
        for s in range(60)
    ]
    assert 50 <= min(values) < 60
    assert 140 < max(values) <= 150


# ---- audio


def test_load_audio_mono_and_lengths():
    left = np.linspace(-0.5, 0.5, 100)
    stereo = np.stack([left, np.zeros(100)], axis=1)
    wave = run(make('LoadAudio', modality='x'), wav(stereo, subtype='FLOAT'), 'waveform')
    assert wave.dtype == torch.float32
    np.testing.assert_allclose(wave.numpy(), left / 2, atol=1e-6)
    flac = run(make('LoadAudio', modality='x'), wav(left, form='FLAC'), 'waveform')
    np.testing.assert_allclose(flac.numpy(), left, atol=1e-4)
    long = make('LoadAudio', modality='x', sample_rate=8000, duration=0.02, short='tile')
    assert run(long, wav(left), 'waveform').shape == (160,)


def test_resampling_keeps_the_tone():
    tone = np.sin(2 * np.pi * 440 * np.arange(8000) / 8000) * 0.5
    wave = run(make('LoadAudio', modality='x', sample_rate=16000), wav(tone), 'waveform')
    assert wave.shape == (16000,)
    peak = np.abs(np.fft.rfft(wave.numpy())).argmax()
    assert peak == 440
    expected = np.sin(2 * np.pi * 440 * np.arange(16000) / 16000) * 0.5
    np.testing.assert_allclose(wave.numpy()[500:-500], expected[500:-500], atol=5e-3)


def test_fit_length():
    wave = torch.arange(1.0, 6.0)
    assert fit_length(wave, 7).tolist() == [1, 2, 3, 4, 5, 0, 0]
    assert fit_length(wave, 12, short='tile').tolist() == [1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 1, 2]
    assert fit_length(wave, 3, crop='start').tolist() == [1, 2, 3]
    assert fit_length(wave, 3).tolist() == [2, 3, 4]
    starts = {
        int(fit_length(wave, 3, crop='random', rng=np.random.default_rng(s))[0]) for s in range(40)
    }
    assert starts == {1, 2, 3}


def test_load_audio_presets_and_arguments():
    clip = wav(np.full(4000, 0.25), rate=16000)
    assert run(make('LoadAudio', modality='x', preset='pmr'), clip, 'waveform').shape == (48000,)
    shorter = make('LoadAudio', modality='x', preset='pmr', duration=0.5)
    assert run(shorter, clip, 'waveform').shape == (8000,)
    with pytest.raises(LookupError, match=r"no audio preset 'omg'. Did you mean 'ogm'"):
        make('LoadAudio', modality='x', preset='omg')
    with pytest.raises(ValueError, match='duration needs sample_rate'):
        make('LoadAudio', modality='x', duration=1.0)
    with pytest.raises(ValueError, match='crop must be'):
        make('LoadAudio', modality='x', crop='middle')


@pytest.mark.parametrize(
    ('encoded', 'reason'),
    [
        (b'', 'empty'),
        (wav(np.zeros(0)), 'no samples'),
        (wav(np.zeros(500))[:300], 'truncated'),
        (wav(np.zeros(500))[:30], 'truncated'),
        (b'RIFF\x00\x00\x00\x00WAVEgarbage', 'cannot decode'),
        (b'x' * 300, 'cannot decode'),
        (
            wav(np.random.default_rng(0).uniform(-1, 1, 9000), form='FLAC')[:4000],
            'truncated|cannot',
        ),
        (wav(np.array([0.0, np.nan, 0.0]), subtype='FLOAT'), 'non-finite sample at index 1'),
    ],
    # not the bytes: a float wav holds the second in which it was written
    ids=['empty', 'no_samples', 'half', 'header', 'garbage', 'noise', 'cut_flac', 'nan'],
)
def test_bad_audio(encoded, reason):
    with pytest.raises(SampleError, match=rf"'s1'.*modality 'x': .*({reason})"):
        run(make('LoadAudio', modality='x'), encoded, 'waveform')


def test_audio_augmentation():
    wave = torch.linspace(0.1, 1, 10)
    gain = make('AudioRandomGain', modality='x', low_db=-6, high_db=6)
    ratios = [float(run(gain, wave, 'waveform', seed=s)[0] / wave[0]) for s in range(50)]
    assert 10 ** (-6 / 20) <= min(ratios) < 0.6
    assert 1.7 < max(ratios) <= 10 ** (6 / 20) + 1e-6
    shifted = [
        run(make('AudioRandomTimeShift', modality='x', max_shift=0.2), wave, 'waveform', seed=s)
        for s in range(40)
    ]
    zeros = {int((s == 0).sum()) for s in shifted}
    assert zeros == {0, 1, 2}
    rolled = run(make('AudioRandomTimeShift', modality='x', max_shift=1, roll=True), wave)
    assert sorted(rolled.tolist()) == sorted(wave.tolist())
    assert wave[0] == pytest.approx(0.1)


# ---- text and features


def test_text():
    assert run(make('LoadText', modality='x', lower=True), '  Ab C ', 'text') == 'ab c'
    assert run(make('LoadText', modality='x'), 'ä'.encode(), 'text') == 'ä'
    with pytest.raises(SampleError, match='not UTF-8'):
        run(make('LoadText', modality='x'), b'\xff\xfe\xfa', 'text')
    with pytest.raises(SampleError, match='expected a text, got int'):
        run(make('LoadText', modality='x'), 5, 'text')


def test_word_dropout():
    words = [str(i) for i in range(200)]
    kept = run(make('WordDropout', modality='x', prob=0.3), ' '.join(words), 'text').split()
    assert 110 < len(kept) < 170
    assert [w for w in words if w in set(kept)] == kept
    assert run(make('WordDropout', modality='x', prob=0.99), 'one', 'text') == 'one'
    assert run(make('WordDropout', modality='x'), '', 'text') == ''


def test_load_features():
    got = run(make('LoadFeatures', modality='x', dim=3), [1, 2.5, 3], 'features')
    assert (got.dtype, got.tolist()) == (torch.float32, [1, 2.5, 3])
    frozen = np.arange(3, dtype=np.float32)
    frozen.flags.writeable = False
    assert run(make('LoadFeatures', modality='x'), frozen, 'features').tolist() == [0, 1, 2]
    with pytest.raises(SampleError, match=r"'s1'.*2 of 4 features are not finite.*index 1 \(nan\)"):
        run(make('LoadFeatures', modality='x'), [0, np.nan, 1, np.inf], 'features')
    with pytest.raises(SampleError, match=r'index \(1, 0\)'):
        run(make('LoadFeatures', modality='x'), [[0, 1], [np.inf, 1]], 'features')
    with pytest.raises(SampleError, match='expected 3 features, got 2'):
        run(make('LoadFeatures', modality='x', dim=3), [1, 2], 'features')
    with pytest.raises(SampleError, match='equal length'):
        run(make('LoadFeatures', modality='x'), [[1], [1, 2]], 'features')
    with pytest.raises(SampleError, match='expected features'):
        run(make('LoadFeatures', modality='x'), [], 'features')


def test_compute_spectrogram():
    wave = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, 800).astype(np.float32))
    step = make(
        'ComputeSpectrogram',
        modality='x',
        frontend=dict(type='SpectrogramFrontEnd', n_fft=64, hop_length=32),
    )
    results = dict(sample_id='s', kinds={'x': 'waveform'}, x=wave, label=0)
    results = step.transform(results)
    assert results['x'].shape == (1, 33, 26)
    assert results['kinds'] == {'x': 'features'}
    assert make('PackInputs').transform(results)['inputs']['x'].shape == (1, 33, 26)
    with pytest.raises(ValueError, match='kind waveform'):
        make('ComputeSpectrogram', modality='x', frontend=dict(type='ImageFrontEnd'))


# ---- dropping and packing


def drop(probabilities, count=400, **missing):
    transform = make('RandomModalityDrop', probabilities=probabilities)
    kept = []
    for seed in range(count):
        results = dict(a=1, b=2, c=3, kinds=dict(a='', b='', c=''))
        results.update(missing, rng=np.random.default_rng(seed))
        results = transform.transform(results)
        kept.append({m for m in 'abc' if results[m] is not None})
    return kept


def test_random_modality_drop():
    kept = drop(dict(a=0.5, b=0.25))
    assert all('c' in k for k in kept)
    assert abs(sum('a' in k for k in kept) - 200) < 45
    assert abs(sum('b' in k for k in kept) - 300) < 45
    only = drop(dict(a=0.9, b=0.9, c=0.9))
    assert min(len(k) for k in only) == 1
    assert {'a'} in only
    assert {'c'} in only
    assert all(drop(dict(a=1.0, b=1.0), count=20, c=None))
    with pytest.raises(ValueError, match=r"'a' must be in \[0, 1\]"):
        make('RandomModalityDrop', probabilities=dict(a=1.5))


@pytest.mark.parametrize(
    ('kind', 'value', 'reason'),
    [
        ('image', b'png', r'not loaded as image \(got bytes\); put LoadImage before PackInputs'),
        ('image', torch.zeros(3, 4, 4), 'expected torch.uint8'),
        ('depth', torch.zeros(3, 4, 4), 'one channel'),
        ('waveform', torch.zeros(2, 9), r'float32 \[T\]'),
        ('waveform', torch.zeros(0), 'not empty'),
        ('waveform', torch.tensor([0.0, np.inf]), r'non-finite value at index \[1\]'),
        ('text', 5, 'put LoadText'),
        ('features', torch.zeros(3, dtype=torch.float64), 'torch.float64'),
    ],
)
def test_pack_refuses(kind, value, reason):
    results = dict(sample_id='s1', label=0, kinds={'x': kind}, x=value)
    with pytest.raises(SampleError, match=rf"sample 's1', modality 'x': .*{reason}"):
        make('PackInputs').transform(results)


def test_pack_keeps_own_kinds_and_cached_features():
    results = dict(sample_id='s1', label=1, kinds={'x': 'graph', 'y': 'text'}, x=object(), y=None)
    packed = make('PackInputs').transform({**results, 'features': {'y': torch.ones(2)}})
    assert packed['data_samples'].missing == ('y',)
    assert packed['features']['y'].tolist() == [1, 1]
    assert packed['inputs']['x'] is results['x']


# ---- what every transform does

CONFIGS = dict(
    LoadImage={},
    LoadDepth={},
    LoadAudio={},
    LoadText={},
    LoadFeatures={},
    ComputeSpectrogram=dict(frontend=dict(type='WaveformFrontEnd')),
    Resize=dict(size=4),
    CenterCrop=dict(size=4),
    RandomCrop=dict(size=4),
    RandomResizedCrop=dict(size=4),
    RandomFlip={},
    ColorJitter={},
    AudioRandomGain={},
    AudioRandomTimeShift={},
    WordDropout={},
    DepthToHHA={},
)


@pytest.mark.parametrize('kind', sorted(CONFIGS))
def test_missing_value_left_alone_and_typo_refused(kind):
    transform = pickle.loads(pickle.dumps(make(kind, modality='x', **CONFIGS[kind])))
    assert run(transform, None) is None
    typo = make(kind, modality='xx', **CONFIGS[kind])
    with pytest.raises(LookupError, match=r"no modality 'xx' in the sample. Did you mean 'x'"):
        run(typo, None)


def test_every_registered_transform_is_tested():
    own = {
        n for n, c in TRANSFORMS.module_dict.items() if c.__module__.startswith('cal_mm.datasets')
    }
    assert own == {*CONFIGS, 'PackInputs', 'RandomModalityDrop'}


def test_random_transform_needs_the_generator():
    results = dict(x=tall(), kinds={'x': 'image'}, sample_id='s')
    with pytest.raises(LookupError, match="no 'rng'"):
        make('RandomFlip', modality='x').transform(results)
    with pytest.raises(ValueError, match='needs modality'):
        make('RandomFlip')


def test_media_of_the_fixture_is_deterministic():
    assert media(3)['image'] == media(3)['image'] != media(4)['image']
