"""Environment noise from the user's recordings, and the procedural kind."""

import numpy as np
import pytest
import soundfile
import torch
from corruption_cases import run
from scipy import signal

from cal_mm.corruptions import WaveformEnvironment, parse_attack
from cal_mm.corruptions.waveform_environment import SCENES
from cal_mm.structures import MultiModalDataSample

RATE = 8000


def tone(frequency, seconds, rate, level=0.2):
    return level * np.sin(2 * np.pi * frequency * np.arange(int(seconds * rate)) / rate)


@pytest.fixture
def recordings(tmp_path):
    """A 200 Hz tone at 16 kHz and, one folder down, 700 Hz in stereo at 11,025 Hz."""
    folder = tmp_path / 'noises'
    (folder / 'more').mkdir(parents=True)
    soundfile.write(folder / 'a.wav', tone(200, 4, 16000), 16000)
    stereo = np.stack([tone(700, 0.3, 11025), tone(700, 0.3, 11025)], axis=1)
    soundfile.write(folder / 'more' / 'b.flac', stereo, 11025)
    (folder / 'notes.txt').write_text('no recording')
    return folder


def speech(length=2 * RATE):
    wave = np.random.default_rng(0).standard_normal(length) * 0.1
    return torch.from_numpy(wave.astype(np.float32))


def added(noise, seed):
    wave = speech()
    return (run(noise, wave, seed) - wave).double().numpy()


def test_recordings_are_mixed_in_resampled_at_the_snr(recordings):
    noise = WaveformEnvironment('m', snr_db=5, recordings=str(recordings), sample_rate=RATE)
    heard = set()
    for seed in range(12):
        sound = added(noise, seed)
        power = float(speech().double().square().mean()) / np.mean(sound**2)
        assert 10 * np.log10(power) == pytest.approx(5, abs=0.01)
        frequency, density = signal.periodogram(sound, RATE, 'hann')
        peak = frequency[np.argmax(density)]
        heard.add(min((200, 700), key=lambda f: abs(f - peak)))
        assert min(abs(peak - 200), abs(peak - 700)) < 5
    assert heard == {200, 700}
    assert noise.describe()['source'] == '2 recordings'
    assert noise.describe()['options'] == {'recordings': str(recordings), 'sample_rate': RATE}


def test_the_segment_depends_on_the_sample_only(recordings):
    soundfile.write(recordings / 'a.wav', np.random.default_rng(1).normal(0, 0.1, 64000), 16000)
    (recordings / 'more' / 'b.flac').unlink()
    noise = WaveformEnvironment('m', 3, recordings=str(recordings), sample_rate=16000)

    def of(sample_id):
        sample = MultiModalDataSample.of(sample_id, 0)
        return noise.apply({'inputs': {'m': speech(4000)}, 'data_samples': sample})['inputs']['m']

    assert torch.equal(of('a'), of('a'))
    assert not torch.allclose(of('a'), of('b'))
    source = soundfile.read(recordings / 'a.wav')[0]
    segment = (of('a') - speech(4000)).double().numpy()
    match = signal.correlate(source, segment, 'valid')
    norm = np.sqrt(np.convolve(source**2, np.ones(4000), 'valid') * (segment**2).sum())
    assert (match / norm).max() > 0.999


def test_silent_places_are_drawn_again(recordings):
    wave = np.zeros(16000 * 4)
    wave[:40000] = tone(300, 2.5, 16000)
    soundfile.write(recordings / 'a.wav', wave, 16000)
    (recordings / 'more' / 'b.flac').unlink()
    noise = WaveformEnvironment('m', snr_db=0, recordings=str(recordings), sample_rate=RATE)
    wave = speech(800)
    for seed in range(20):
        assert not torch.equal(run(noise, wave, seed), wave)


def test_errors_name_the_folder_or_file(tmp_path, recordings):
    def build(folder):
        return WaveformEnvironment('m', 1, recordings=str(folder))

    with pytest.raises(FileNotFoundError, match=r'no folder .*nowhere'):
        build(tmp_path / 'nowhere')
    (tmp_path / 'empty').mkdir()
    with pytest.raises(ValueError, match=r'empty.* holds no recordings; put files .*\.wav'):
        build(tmp_path / 'empty')
    soundfile.write(recordings / 'z.wav', np.zeros(5000), 16000)
    with pytest.raises(ValueError, match=r'z\.wav.* is silent or empty \(5000 samples\)'):
        build(recordings)
    soundfile.write(recordings / 'z.wav', np.zeros(0), 16000)
    with pytest.raises(ValueError, match=r'z\.wav.* is silent or empty \(0 samples\)'):
        build(recordings)
    (recordings / 'z.wav').write_bytes(b'RIFF no more')
    with pytest.raises(ValueError, match=r'z\.wav.* cannot be read'):
        build(recordings)
    (recordings / 'z.wav').unlink()
    noise = build(recordings)
    for file in noise.files:
        file.unlink()
    with pytest.raises(ValueError, match=r"(a\.wav|b\.flac)' cannot be used"):
        run(noise, speech())


def test_on_the_command_line(recordings):
    modalities = {'audio': {'kind': 'waveform', 'sample_rate': RATE}}
    text = f'environment:2,recordings={recordings}'
    (condition,) = parse_attack(text, modalities)
    (noise,) = condition.corruptions
    assert (noise.severity, noise.sample_rate, len(noise.files)) == (2, RATE, 2)
    assert str(recordings) in condition.label
    (condition,) = parse_attack('environment:snr_db=7,scene=wind@audio', modalities)
    assert (condition.corruptions[0].value, condition.corruptions[0].scene) == (7, 'wind')
    with pytest.raises(FileNotFoundError, match='nowhere'):
        parse_attack('environment:2,recordings=/nowhere', modalities)
    with pytest.raises(ValueError, match='scene must be one of any, rain, engine, wind'):
        parse_attack('environment:2,scene=sea@audio', modalities)


def test_scenes_sound_like_themselves():
    def centre(scene, seed):
        wave = SCENES[scene](4 * RATE, RATE, np.random.default_rng(seed))
        frequency, density = signal.periodogram(wave, RATE)
        return (frequency * density).sum() / density.sum()

    for seed in range(4):
        assert centre('wind', seed) < 200
        assert 20 < centre('engine', seed) < 500
        assert centre('rain', seed) > 2000
    source = WaveformEnvironment('m', 1).describe()['source']
    assert source == 'procedural (rain, engine or wind)'
    assert WaveformEnvironment('m', 1, scene='rain').describe()['source'] == 'procedural (rain)'
    drawn = {
        round(float(np.abs(np.fft.rfft(added(WaveformEnvironment('m', 5), s)))[4000:].mean()), 3)
        for s in range(12)
    }
    assert len(drawn) == 12
