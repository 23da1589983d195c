"""Inputs at the edge of what can be: one pixel, one sample, no text, black, white, silence."""

import numpy as np
import pytest
import torch
from corruption_cases import CLASSES, grey, run

from cal_mm.corruptions.image import to_uint8
from cal_mm.structures import MultiModalDataSample

SMALL = {
    'image': [
        torch.full(shape, 77, dtype=torch.uint8)
        for shape in [(3, 1, 1), (1, 1, 1), (1, 1, 2), (3, 2, 1), (2, 1, 3), (4, 5, 1), (3, 1, 64)]
    ]
    + [torch.full(shape, 200, dtype=torch.uint8) for shape in [(1, 3, 1, 1), (2, 1, 4, 3)]],
    'depth': [torch.zeros(1, 1, 1), torch.ones(1, 1, 1), torch.ones(1, 1, 7), torch.ones(1, 3, 2)],
    'waveform': [
        *(torch.full((n,), 0.5) for n in (0, 1, 2, 3, 17)),
        torch.zeros(1),
        torch.zeros(400),
        torch.full((100,), 1e-7),
    ],
    'text': ['', ' ', '\n\t', 'a', '?', '\U0001f600', 'é', 'x' * 500, '١٢', 'one'],
    'features': [torch.ones(1), torch.ones(0), torch.zeros(2, 1), torch.ones(1, 1, 1)],
    'any': ['x'],
}


@pytest.mark.parametrize('severity', [1, 5])
@pytest.mark.parametrize('name', sorted(CLASSES))
def test_tiny_values_keep_shape_and_type_and_stay_finite(name, severity):
    cls = CLASSES[name]
    noise = cls('m', severity)
    for value in SMALL[cls.kind]:
        if cls.needs_frames and (value.ndim != 4 or len(value) < 2):
            with pytest.raises(ValueError, match='needs several frames'):
                run(noise, value)
            continue
        for seed in range(3):
            out = run(noise, value, seed)
            if cls.kind == 'any':
                continue
            assert type(out) is type(value)
            if isinstance(value, torch.Tensor):
                assert (out.shape, out.dtype) == (value.shape, value.dtype)
                assert torch.isfinite(out.double()).all()
            if cls.kind == 'depth':
                assert (out >= 0).all()


@pytest.mark.parametrize('name', sorted(n for n, c in CLASSES.items() if c.kind == 'features'))
def test_a_feature_without_dimension_is_refused(name):
    item = {
        'inputs': {'m': torch.tensor(1.0)},
        'data_samples': MultiModalDataSample.of('s7', 0),
    }
    with pytest.raises(ValueError, match=r"needs a float tensor \[D\].*'s7' is a float32 tensor"):
        CLASSES[name]('m', 1).apply(item)


@pytest.mark.parametrize('frames', [False, True])
@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('name', sorted(n for n, c in CLASSES.items() if c.kind == 'image'))
def test_images_of_any_size_and_channels(name, channels, frames):
    cls = CLASSES[name]
    if cls.needs_frames and not frames:
        pytest.skip('needs frames')
    rng = np.random.default_rng(0)
    for height, width in ((28, 28), (37, 64), (97, 30)):
        shape = (4, channels, height, width) if frames else (channels, height, width)
        value = torch.from_numpy(rng.integers(0, 256, shape).astype(np.uint8))
        if frames and not cls.needs_frames:
            value[:] = value[:1].clone()
        out = run(cls('m', 4), value)
        assert out.shape == value.shape
        # a grey picture has no colours to saturate
        assert torch.equal(out, value) == (cls.needs_colour and channels == 1)
        one_field = name not in ('ImageSnow', 'FrameDrop', 'FrameFreeze') and not name.endswith(
            ('Noise', 'SaltPepper', 'LowLight')
        )
        if frames and one_field:  # weather and lens are the same in each frame of a still
            assert all(torch.equal(frame, out[0]) for frame in out)


#: those that may well make a white pixel black
TO_BLACK = {'FrameDrop', 'FrameFreeze', 'ImageLowLight', 'ImageSaltPepper', 'ImageSpatter'}


@pytest.mark.parametrize('name', sorted(n for n, c in CLASSES.items() if c.kind == 'image'))
def test_levels_never_wrap(name):
    cls = CLASSES[name]
    noise = cls('m', 1)
    frames = 5 if cls.needs_frames else 1
    for level in (0, 1, 254, 255):
        given = grey(level, 3 * frames, 40).reshape(frames, 3, 40, 40)
        out = run(noise, given if cls.needs_frames else given[0]).int()
        if level > 250 and name not in TO_BLACK:
            assert out.min() > 60
        if level < 5 and name != 'ImageSaltPepper':
            # snow, frost and fog are bright, but blended, not wrapped: most stays dark
            assert (out > 200).double().mean() < 0.05


def test_to_uint8_rounds_and_clips():
    given = np.array([-1e9, -0.6, -0.4, 0.4, 0.6, 254.6, 255.4, 256.0, 300.0, 1e9])
    assert to_uint8(given).tolist() == [0, 0, 0, 0, 1, 255, 255, 255, 255, 255]


@pytest.mark.parametrize('severity', [1, 3, 5])
@pytest.mark.parametrize('name', sorted(n for n, c in CLASSES.items() if c.kind == 'depth'))
def test_depth_is_never_negative_and_holes_stay(name, severity):
    rng = np.random.default_rng(2)
    depth = torch.from_numpy(rng.uniform(0.4, 9.5, (1, 60, 80)).astype(np.float32))
    depth[torch.from_numpy(rng.random((1, 60, 80)) < 0.2)] = 0
    depth[:, 10:30, 20:50] = 0
    out = run(CLASSES[name]('m', severity), depth)
    assert (out >= 0).all()
    assert (out[depth == 0] == 0).all()
    if name in ('DepthEdgeNoise', 'DepthQuantisation'):  # these lose no measurement
        assert (out[depth > 0] > 0).all()


@pytest.mark.parametrize('snr_db', [40, 20, 0, -10])
@pytest.mark.parametrize('name', sorted(n for n, c in CLASSES.items() if c.parameter == 'snr_db'))
def test_snr_is_exact_on_awkward_clips(name, snr_db):
    rng = np.random.default_rng(3)
    burst = np.zeros(24000)
    burst[9000:9050] = 0.9
    clips = {
        'a burst in silence': burst,
        'direct current': np.full(8000, 0.7),
        'direct current and speech': 0.5 + 0.01 * rng.standard_normal(8000),
        'quiet': 1e-4 * rng.standard_normal(8000),
        'one sample': np.array([0.3]),
        'two samples': np.array([0.3, -0.2]),
        'ten samples': 0.1 * rng.standard_normal(10),
        'loud': 5 * rng.standard_normal(4000),
    }
    for rate in (8000, 16000, 44100):
        options = {'sample_rate': rate} if 'sample_rate' in CLASSES[name].options else {}
        noise = CLASSES[name]('m', snr_db=snr_db, **options)
        for what, clip in clips.items():
            wave = torch.from_numpy(clip.astype(np.float32))
            added = (run(noise, wave).double() - wave.double()).square().mean()
            measured = 10 * np.log10(float(wave.double().square().mean() / added))
            assert measured == pytest.approx(snr_db, abs=0.2), what
