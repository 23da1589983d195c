"""Each corruption, measured on its output, is as strong as its physical value says.

One way of measuring per class, at all five severities; a class that is registered without one
fails.
"""

import io

import numpy as np
import pytest
import torch
from corruption_cases import CLASSES, grey, run
from PIL import Image
from scipy import ndimage, stats

from cal_mm.structures import MultiModalDataSample

SIDE = 400
RATE = 16000


def ramp(axis):
    """Pixels that hold their own row (0) or column (1), one channel of 224 x 224."""
    places = torch.arange(224, dtype=torch.uint8)
    return (places[:, None] if axis == 0 else places[None]).expand(1, 224, 224).contiguous()


def changed(out, level):
    return float((out != level).any(dim=0).double().mean())


def tail_std(out, level, std):
    """The standard deviation that explains how many pixels are a deviation above ``level``."""
    edge = min(250, round(level + std)) + 0.5
    share = float((out.double() > edge).double().mean())
    return (edge - level) / stats.norm.isf(share)


def edge_width(noise, low, high):
    """Pixels between the levels ``low`` and ``high`` (shares) of a blurred step."""
    step = torch.zeros(1, SIDE, SIDE, dtype=torch.uint8)
    step[..., SIDE // 2 :] = 255
    row = run(noise, step)[0, SIDE // 2].double().numpy() / 255
    rising = slice(int(np.argmax(row > 0.02)), int(np.argmax(row > 0.98)))
    places = np.arange(SIDE, dtype=float)
    return np.interp(high, row[rising], places[rising]) - np.interp(
        low, row[rising], places[rising]
    )


def image_gaussian(noise):
    return tail_std(run(noise, grey(128)), 128, noise.value), noise.value, 0.02 * noise.value


def image_speckle(noise):
    return (
        tail_std(run(noise, grey(100)), 100, 100 * noise.value) / 100,
        noise.value,
        0.02 * noise.value,
    )


def image_shot(noise):
    out = run(noise, grey(20)).double()
    assert float(out.mean()) == pytest.approx(20, rel=0.02)
    return float(out.var()) / (255 * 20), noise.value, 0.04 * noise.value


def image_salt_pepper(noise):
    out = run(noise, grey(128))
    assert float((out[0] == 0).double().mean()) == pytest.approx(noise.value / 2, abs=0.01)
    return changed(out, 128), noise.value, 0.01


def image_gaussian_blur(noise):
    one = stats.norm.cdf(1)
    sigma = edge_width(noise, 1 - one, one) / 2 / SIDE
    return sigma, noise.value, 0.02 * noise.value


def image_defocus(noise):
    # share of a disk that lies left of half its radius
    share = 0.5 + (0.5 * np.sqrt(0.75) + np.arcsin(0.5)) / np.pi
    radius = edge_width(noise, 1 - share, share)
    return radius, noise.value * SIDE + 0.5, 0.03 * noise.value * SIDE


def image_motion(noise):
    block, half = 9, SIDE // 2
    given = torch.zeros(1, SIDE, SIDE, dtype=torch.uint8)
    given[:, half - 4 : half + 5, half - 4 : half + 5] = 255
    weight = run(noise, given)[0].double().numpy()
    weight /= weight.sum()
    rows, cols = np.mgrid[:SIDE, :SIDE] - half
    spread = (weight * (rows**2 + cols**2)).sum()
    # what the block and the line's own thickness add
    spread -= 2 * (block**2 - 1) / 12 + 1 / 6 + 1 / 12
    return np.sqrt(12 * spread) / SIDE, noise.value, 0.03 * noise.value


def image_zoom(noise):
    given = torch.zeros(1, SIDE, SIDE, dtype=torch.uint8)
    given[:, 198:202, 299:302] = 255  # 100.5 from the centre
    lit = np.flatnonzero(run(noise, given)[0, 199].numpy())
    return (lit.max() - 199.5) / 101.5 - 1, noise.value, 0.02


def image_glass(noise):
    reach = noise.value * 224
    dot = np.zeros((101, 101))
    dot[50, 50] = 1
    averaging = np.sqrt((ndimage.gaussian_filter(dot, reach / 5) ** 2).sum())
    moved = run(noise, ramp(1))[0].double().numpy() - np.arange(224)
    inner = moved[:, 20:-20]
    assert np.abs(inner).max() <= reach + 0.5
    expected = np.sqrt((reach * averaging) ** 2 / 3 + 1 / 12)
    # below two pixels whole levels are coarse
    return inner.std(), expected, 0.02 * expected + 0.03


def image_elastic(noise):
    found = []
    for seed in range(8):
        moved = [
            run(noise, ramp(axis), seed)[0].double() - ramp(axis)[0].double() for axis in (0, 1)
        ]
        square = (moved[0] ** 2 + moved[1] ** 2)[25:-25, 25:-25] - 2 / 12
        found.append(float(square.mean()))
    return np.sqrt(np.mean(found)) / 224, noise.value, 0.06 * noise.value


def image_contrast(noise):
    given = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 90, 90), np.uint8))
    kept = float(run(noise, given).double().std() / given.double().std())
    return 1 - kept, noise.value, 0.02 * (1 - noise.value) + 0.002


def image_brightness(noise):
    return float(run(noise, grey(128)).double().mean()) - 128, noise.value, 0.01


def mean_over_black(colour):
    def measure(noise):
        found = [float(run(noise, grey(0, 1, 224), s).double().mean()) for s in range(4)]
        # rounding to levels: up to half a level
        return np.mean(found) / (sum(colour) / 3), noise.value, 0.01

    return measure


def image_saturate(noise):
    given = torch.tensor([140, 120, 128], dtype=torch.uint8).reshape(3, 1, 1).expand(3, 4, 4)
    out = run(noise, given)[:, 0, 0].tolist()
    assert 0.299 * out[0] + 0.587 * out[1] + 0.114 * out[2] == pytest.approx(
        0.299 * 140 + 0.587 * 120 + 0.114 * 128, abs=1
    )
    return (out[0] - out[1]) / 20 - 1, noise.value, 0.06


def image_low_light(noise):
    out = run(noise, grey(200)).double()
    kept = 200 * (1 - noise.value)
    expected = np.sqrt(255 * kept / noise.photons + 1 / 12)
    assert float(out.std()) == pytest.approx(expected, rel=0.02)
    return 1 - float(out.mean()) / 200, noise.value, 0.01


def image_pixelate(noise):
    given = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 240, 240), np.uint8))
    row = run(noise, given)[0].numpy()
    blocks = 1 + int((row[:, 1:] != row[:, :-1]).any(axis=0).sum())
    return 240 / blocks, noise.value, 0.02 * noise.value


def image_jpeg(noise):
    rng = np.random.default_rng(0)
    given = ndimage.gaussian_filter(rng.integers(0, 256, (64, 48, 3)).astype(float), (3, 3, 0))
    given = np.clip(given * 3 - 250, 0, 255).astype(np.uint8)
    same = []
    for quality in range(1, 101):
        buffer = io.BytesIO()
        Image.fromarray(given).save(buffer, 'JPEG', quality=quality)
        decoded = torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1)
        if torch.equal(decoded, run(noise, torch.from_numpy(given).permute(2, 0, 1))):
            same.append(100 - quality)
    return same, [noise.value], 0


def image_spatter(noise):
    return changed(run(noise, grey(255)), 255), noise.value, 0.01


def frames():
    return torch.arange(1, 21, dtype=torch.uint8).reshape(20, 1, 1, 1).expand(20, 3, 4, 4)


def frame_drop(noise):
    out = run(noise, frames())
    return float((out.amax(dim=(1, 2, 3)) == 0).double().mean()), noise.value, 0.01


def frame_freeze(noise):
    out = run(noise, frames())[:, 0, 0, 0]
    assert out[0] == 1
    # the first frame has none before it
    return int((out[1:] == out[:-1]).sum()) / 20, min(noise.value, 0.95), 0.01


def depth_gaussian(noise):
    out = run(noise, torch.full((1, SIDE, SIDE), 20.0))
    return float(out.std()), noise.value, 0.02 * noise.value


def depth_salt_pepper(noise):
    out = run(noise, torch.full((1, SIDE, SIDE), 3.0))
    assert set(out.unique().tolist()) == {0.0, 3.0, 10.0}
    assert float((out == 0).double().mean()) == pytest.approx(noise.value / 2, abs=0.01)
    return changed(out, 3.0), noise.value, 0.01


def depth_holes(noise):
    out = run(noise, torch.full((1, 50, 60), 2.0))
    return float((out == 0).double().mean()), noise.value, 0.001


def depth_quantisation(noise):
    given = torch.linspace(0.01, 8, 4000).reshape(1, 50, 80)
    out = run(noise, given)
    assert float((out - given)[given > noise.value].abs().max()) <= noise.value / 2 + 1e-5
    return float(out.unique().diff().min()), noise.value, 1e-4


def depth_edge(noise):
    given = (1 + torch.arange(SIDE) * 0.01).expand(1, SIDE, SIDE)
    moved = ((run(noise, given) - given) / 0.01)[..., 60:-60]
    reach = noise.value * SIDE
    expected = np.sqrt(reach**2 + 1 / 6)  # of rounding up or down at random
    return float(moved.std()), expected, 0.02 * expected


def tone(seconds=1.0):
    time = torch.arange(int(RATE * seconds)) / RATE
    return (0.3 * torch.sin(2 * torch.pi * 440 * time)).float()


def snr(noise):
    wave = tone()
    wave[: RATE // 2] = 0  # half a clip of silence counts
    added = (run(noise, wave) - wave).double()
    power = wave.double().square().mean() / added.square().mean()
    return float(10 * torch.log10(power)), noise.value, 0.2


def hiss():
    rng = np.random.default_rng(5)
    return torch.from_numpy(rng.standard_normal(1 << 16).astype(np.float32)) * 0.2


def waveform_clipping(noise):
    wave = hiss()
    return float((run(noise, wave) != wave).double().mean()), noise.value, 0.01


def waveform_dropout(noise):
    return float((run(noise, hiss()) == 0).double().mean()), noise.value, 0.01


def waveform_low_pass(noise):
    wave = hiss()
    power = np.abs(np.fft.rfft(run(noise, wave).numpy()) / np.fft.rfft(wave.numpy())) ** 2
    half = int(np.argmax(power < 0.5)) / len(power)
    return 1 - half, noise.value, 0.01


def waveform_reverb(noise):
    click = torch.zeros(int(RATE * noise.value * 1.2))
    click[0] = 1.0
    wet = run(noise, click).double().numpy()
    length = int(RATE * noise.value)
    windows = [wet[int(a * length) :][: length // 10] for a in np.linspace(0.05, 0.85, 9)]
    levels = 10 * np.log10([np.mean(w**2) for w in windows])
    slope = np.polyfit(np.linspace(0.05, 0.85, 9) * noise.value, levels, 1)[0]  # dB per second
    return -60 / slope, noise.value, 0.05 * noise.value


def waveform_shift(noise):
    wave = torch.arange(1000, dtype=torch.float32)
    first = int(run(noise, wave)[0])
    return min(first, 1000 - first) / 1000, noise.value, 1e-6


def waveform_jitter(noise):
    length = 20 * RATE
    wave = torch.arange(length, dtype=torch.float32)
    moved = (run(noise, wave) - wave).double()[RATE:-RATE]
    return float(moved.std()) / RATE, noise.value, 0.05 * noise.value


WORDS = [f'w{i}' for i in range(20000)]


def word_mask(noise):
    return run(noise, ' '.join(WORDS)).split().count('_') / len(WORDS), noise.value, 0.02


def word_delete(noise):
    kept = run(noise, ' '.join(WORDS)).split()
    numbers = [int(word[1:]) for word in kept]
    assert numbers == sorted(set(numbers))
    return 1 - len(kept) / len(WORDS), noise.value, 0.02


def word_shuffle(noise):
    out = run(noise, ' '.join(WORDS)).split()
    assert sorted(out) == sorted(WORDS)
    return np.mean([a != b for a, b in zip(WORDS, out, strict=True)]), noise.value, 0.02


def text_typos(noise):
    # letters that stand alone cannot change places, so each error is one place that differs
    letters = [chr(97 + i % 26) for i in range(20000)]
    out = run(noise, ' '.join(letters)).split(' ')
    return np.mean([a != b for a, b in zip(letters, out, strict=True)]), noise.value, 0.02


def text_ocr(noise):
    out = run(noise, ('o' * 10000) + ('k' * 10000))  # k looks like nothing else
    assert out.endswith('k' * 10000)
    return out.count('0') / 10000, noise.value, 0.02


def feature_gaussian(noise):
    return float(run(noise, torch.zeros(40000)).std()), noise.value, 0.02 * noise.value


def feature_dropout(noise):
    out = run(noise, torch.ones(40000))
    return float((out == 0).double().mean()), noise.value, 0.01


def missing(noise):
    items = (
        {'inputs': {'m': 'x'}, 'data_samples': MultiModalDataSample.of(f's{i}', 0)}
        for i in range(6000)
    )
    return np.mean([noise.apply(i)['inputs']['m'] is None for i in items]), noise.value, 0.02


MEASURES = {
    'DepthEdgeNoise': depth_edge,
    'DepthGaussianNoise': depth_gaussian,
    'DepthHoles': depth_holes,
    'DepthQuantisation': depth_quantisation,
    'DepthSaltPepper': depth_salt_pepper,
    'FeatureDropout': feature_dropout,
    'FeatureGaussianNoise': feature_gaussian,
    'FrameDrop': frame_drop,
    'FrameFreeze': frame_freeze,
    'ImageBrightness': image_brightness,
    'ImageContrast': image_contrast,
    'ImageDefocusBlur': image_defocus,
    'ImageElastic': image_elastic,
    'ImageFog': mean_over_black((255, 255, 255)),
    'ImageFrost': mean_over_black((225, 236, 246)),
    'ImageGaussianBlur': image_gaussian_blur,
    'ImageGaussianNoise': image_gaussian,
    'ImageGlassBlur': image_glass,
    'ImageJPEG': image_jpeg,
    'ImageLowLight': image_low_light,
    'ImageMotionBlur': image_motion,
    'ImagePixelate': image_pixelate,
    'ImageSaltPepper': image_salt_pepper,
    'ImageSaturate': image_saturate,
    'ImageShotNoise': image_shot,
    'ImageSnow': mean_over_black((255, 255, 255)),
    'ImageSpatter': image_spatter,
    'ImageSpeckleNoise': image_speckle,
    'ImageZoomBlur': image_zoom,
    'MissingModality': missing,
    'TextOCR': text_ocr,
    'TextTypos': text_typos,
    'TextWordDelete': word_delete,
    'TextWordMask': word_mask,
    'TextWordShuffle': word_shuffle,
    'WaveformBabble': snr,
    'WaveformClipping': waveform_clipping,
    'WaveformColouredNoise': snr,
    'WaveformDropout': waveform_dropout,
    'WaveformEnvironment': snr,
    'WaveformJitter': waveform_jitter,
    'WaveformLowPass': waveform_low_pass,
    'WaveformNoise': snr,
    'WaveformReverb': waveform_reverb,
    'WaveformShift': waveform_shift,
}


@pytest.mark.parametrize('severity', [1, 2, 3, 4, 5])
@pytest.mark.parametrize('name', sorted(CLASSES))
def test_the_output_is_as_strong_as_the_value_says(name, severity):
    assert name in MEASURES, f'say in this file how the output of {name} is measured'
    measured, expected, tolerance = MEASURES[name](CLASSES[name]('m', severity))
    assert measured == pytest.approx(expected, abs=tolerance)
