"""Distortion of waveforms that is not additive noise: float32 [T]."""

from types import MappingProxyType

import numpy as np
import torch
from scipy.signal import fftconvolve

from cal_mm.registry import CORRUPTIONS

from .base import Corruption

__all__ = [
    'WaveformClipping',
    'WaveformDropout',
    'WaveformJitter',
    'WaveformLowPass',
    'WaveformReverb',
    'WaveformShift',
    'jitter_offsets',
    'low_pass',
    'reverberate',
]


def low_pass(wave: np.ndarray, cutoff: float, order: int = 8) -> np.ndarray:
    """``wave`` [T] with the magnitude response of a Butterworth filter, no phase shift.

    Args:
        wave: [T].
        cutoff: -3 dB point as a share of the Nyquist frequency, (0, 1].
        order: steepness.
    """
    spectrum = np.fft.rfft(wave)
    frequency = np.linspace(0.0, 1.0, spectrum.size)
    gain = 1.0 / np.sqrt(1.0 + (frequency / cutoff) ** (2 * order))
    return np.fft.irfft(spectrum * gain, n=wave.size).astype(np.float32)


def reverberate(
    wave: np.ndarray, rt60: float, sample_rate: float, rng: np.random.Generator
) -> np.ndarray:
    """``wave`` [T] in a room whose sound decays by 60 dB in ``rt60`` seconds; power is kept.

    The room is the direct sound plus exponentially decaying noise (Polack's model). The tail's
    energy is ``rt60`` (in seconds) times the direct sound's energy.
    """
    length = max(2, int(rt60 * sample_rate))
    decay = np.exp(-6.9078 * np.arange(length) / length)
    tail = rng.standard_normal(length) * decay
    tail *= np.sqrt(rt60 / np.sum(tail**2))
    tail[0] = 1.0
    wet = fftconvolve(wave, tail)[: wave.size]
    power = np.mean(wet**2)
    scale = np.sqrt(np.mean(np.square(wave, dtype=np.float64)) / power) if power > 0 else 1.0
    return (wet * scale).astype(np.float32)


@CORRUPTIONS.register_module()
class WaveformClipping(Corruption):
    """Amplitude limited so that a share ``ratio`` of the samples is cut off."""

    kind = 'waveform'
    parameter = 'ratio'
    unit = 'share of the samples'
    levels = (0.02, 0.05, 0.1, 0.25, 0.5)
    bounds = (0, 1)
    aliases = ('clipping',)

    def corrupt(self, value: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Clipped copy [T]."""
        if not value.numel():
            return value.clone()
        limit = float(np.quantile(np.abs(value.numpy()), 1.0 - self.value))
        return value.clamp(-limit, limit)


@CORRUPTIONS.register_module()
class WaveformDropout(Corruption):
    """Packets lost: a share ``ratio`` of ``packets`` (option) equal pieces is silenced."""

    kind = 'waveform'
    parameter = 'ratio'
    unit = 'share of the duration'
    levels = (0.05, 0.1, 0.2, 0.35, 0.5)
    bounds = (0, 1)
    options = MappingProxyType({'packets': 100})
    aliases = ('packet_loss',)
    packets: int

    def corrupt(self, value: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Copy [T] with holes."""
        out = value.clone()
        edges = np.linspace(0, value.numel(), self.packets + 1).astype(int)
        for i in rng.permutation(self.packets)[: round(self.value * self.packets)]:
            out[edges[i] : edges[i + 1]] = 0.0
        return out


@CORRUPTIONS.register_module()
class WaveformLowPass(Corruption):
    """Highs removed: a share ``ratio`` of the band up to the Nyquist frequency is lost."""

    kind = 'waveform'
    parameter = 'ratio'
    unit = 'share of the band'
    levels = (0.3, 0.5, 0.7, 0.8, 0.9)
    bounds = (0, 0.99)
    aliases = ('low_pass', 'lowpass')

    def corrupt(self, value: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Filtered copy [T]."""
        if value.numel() < 2:
            return value.clone()
        return torch.from_numpy(low_pass(value.numpy(), 1.0 - self.value))


@CORRUPTIONS.register_module()
class WaveformReverb(Corruption):
    """Reverberation of ``rt60`` seconds; option ``sample_rate`` in Hz."""

    kind = 'waveform'
    parameter = 'rt60'
    unit = 'seconds'
    levels = (0.2, 0.4, 0.8, 1.4, 2.5)
    bounds = (0.01, 20)
    options = MappingProxyType({'sample_rate': 16000})
    aliases = ('reverb',)
    sample_rate: float

    def corrupt(self, value: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Reverberant copy [T]."""
        if not value.numel():
            return value.clone()
        return torch.from_numpy(reverberate(value.numpy(), self.value, self.sample_rate, rng))


@CORRUPTIONS.register_module()
class WaveformShift(Corruption):
    """Audio out of step with the other modalities: moved in time by ``shift`` times its duration.

    Earlier or later, drawn per sample. What leaves at one end comes in at the other, so the sound
    itself is kept and only its alignment (with video) is lost; half the duration is the farthest.
    """

    kind = 'waveform'
    parameter = 'shift'
    unit = 'share of the duration'
    levels = (0.05, 0.1, 0.2, 0.3, 0.5)
    bounds = (0, 0.5)
    aliases = ('misalign', 'shift')

    def corrupt(self, value: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Rotated copy [T]."""
        sign = 1 if rng.random() < 0.5 else -1
        return torch.roll(value, sign * round(self.value * value.numel()))


@CORRUPTIONS.register_module()
class WaveformJitter(Corruption):
    """Time jitter: the playing position wavers by ``jitter`` seconds (standard deviation).

    The offset is random every 50 ms and linear in between; its standard deviation over the clip is
    exact. Option ``sample_rate`` in Hz.
    """

    kind = 'waveform'
    parameter = 'jitter'
    unit = 'seconds'
    levels = (0.001, 0.003, 0.008, 0.02, 0.05)
    bounds = (0, 10)
    options = MappingProxyType({'sample_rate': 16000})
    aliases = ('jitter', 'time_jitter')
    sample_rate: float

    def corrupt(self, value: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Wavering copy [T]; before its start and after its end the clip is mirrored."""
        wave = value.numpy()
        if wave.size < 2:
            return value.clone()
        places = np.arange(wave.size)
        places = places + jitter_offsets(wave.size, self.value, self.sample_rate, rng)
        period = 2 * (wave.size - 1)
        places = np.abs((places + wave.size - 1) % period - (wave.size - 1))
        out = np.interp(places, np.arange(wave.size), wave)
        return torch.from_numpy(out.astype(np.float32))


def jitter_offsets(
    length: int, jitter: float, sample_rate: float, rng: np.random.Generator
) -> np.ndarray:
    """Offsets in time [length], in samples: mean 0, standard deviation ``jitter`` seconds."""
    knots = int(np.ceil(length / (0.05 * sample_rate))) + 3
    offsets = np.interp(
        np.linspace(0, knots - 1, length), np.arange(knots), rng.standard_normal(knots)
    )
    offsets -= offsets.mean()
    spread = offsets.std()
    return offsets * (jitter * sample_rate / spread) if spread > 0 else offsets
