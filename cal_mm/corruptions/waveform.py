"""Noise on waveforms: float32 [T].

Additive noise is scaled to the exact SNR of the whole clip, 10 log10(P_signal / P_noise), with
the mean square as power. A silent clip has no SNR and is returned as it is. Sums are not
clipped: a value may leave [-1, 1], and the SNR stays what was asked for.
"""

from types import MappingProxyType

import numpy as np
import torch

from cal_mm.registry import CORRUPTIONS

from .base import Corruption

__all__ = [
    'Additive',
    'WaveformBabble',
    'WaveformColouredNoise',
    'WaveformNoise',
    'add_at_snr',
    'babble',
    'coloured_noise',
]

SNR_LEVELS = (40, 30, 20, 10, 0)
_SILENCE = 1e-12  # mean square, -120 dB of full scale; one step of 16 bits is -90 dB


def add_at_snr(wave: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """``wave + g * noise`` with g such that the clip's SNR is exactly ``snr_db``.

    Args:
        wave: [T].
        noise: [T], any scale.
        snr_db: dB; 0 is equal power.

    Returns:
        [T] float32; a copy of ``wave`` where it or the noise is silent.
    """
    power = float(np.mean(np.square(wave, dtype=np.float64))) if wave.size else 0.0
    noise_power = float(np.mean(np.square(noise, dtype=np.float64))) if noise.size else 0.0
    if power < _SILENCE or noise_power <= 0:
        return wave.astype(np.float32, copy=True)
    gain = np.sqrt(power / noise_power * 10.0 ** (-snr_db / 10.0))
    return (wave + gain * noise).astype(np.float32)


def coloured_noise(length: int, exponent: float, rng: np.random.Generator) -> np.ndarray:
    """Noise [length] of power spectrum 1 / f**exponent: 0 white, 1 pink, 2 brown."""
    if length < 2:
        return rng.standard_normal(length)
    spectrum = np.fft.rfft(rng.standard_normal(length))
    shape = np.arange(spectrum.size, dtype=np.float64)
    shape[0] = np.inf if exponent > 0 else 1.0
    return np.fft.irfft(spectrum * shape ** (-exponent / 2), n=length)


def babble(
    length: int, sample_rate: float, rng: np.random.Generator, talkers: int = 6
) -> np.ndarray:
    """Synthetic babble [length]: speech-shaped noises, each with its own syllabic rhythm.

    Not recorded speech: every talker is noise with a speech-like long-term spectrum (flat from 100
    to 500 Hz, -9 dB an octave above) times an envelope that beats at 3 to 6 Hz.
    """
    if length < 1:
        return np.zeros(0)
    frequency = np.fft.rfftfreq(length, 1.0 / sample_rate)
    shape = np.minimum(1.0, (np.maximum(frequency, 1.0) / 500.0) ** -1.5) * (frequency > 100.0)
    time = np.arange(length) / sample_rate
    total = np.zeros(length)
    for _ in range(talkers):
        speech = np.fft.irfft(np.fft.rfft(rng.standard_normal(length)) * shape, n=length)
        beat = np.sin(2 * np.pi * (rng.uniform(3.0, 6.0) * time + rng.random()))
        total += speech * np.clip(0.5 + beat, 0.0, None)
    return total


class Additive(Corruption):
    """Base of noise of some shape that is added at ``snr_db``: write :meth:`noise`."""

    kind = 'waveform'
    parameter = 'snr_db'
    unit = 'dB'
    levels = SNR_LEVELS
    bounds = (-60, 120)

    def noise(self, length: int, rng: np.random.Generator) -> np.ndarray:
        """Noise [length], any scale."""
        raise NotImplementedError

    def corrupt(self, value: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Noised copy [T]."""
        wave = value.numpy()
        noise = self.noise(wave.size, rng)
        if not np.any(noise):  # a clip of some samples has no room for a spectrum
            noise = rng.standard_normal(wave.size)
        return torch.from_numpy(add_at_snr(wave, noise, self.value))


@CORRUPTIONS.register_module()
class WaveformNoise(Additive):
    """White noise added at ``snr_db``; silence stays silence."""

    aliases = ('noise', 'awgn', 'white', 'gaussian')

    def noise(self, length: int, rng: np.random.Generator) -> np.ndarray:
        """White noise [length]."""
        return rng.standard_normal(length)


@CORRUPTIONS.register_module()
class WaveformColouredNoise(Additive):
    """Noise of power spectrum 1 / f**exponent (option; 1: pink, 2: brown) added at ``snr_db``."""

    options = MappingProxyType({'exponent': 1.0})
    aliases = ('pink', 'coloured')
    exponent: float

    def noise(self, length: int, rng: np.random.Generator) -> np.ndarray:
        """Coloured noise [length]."""
        return coloured_noise(length, self.exponent, rng)


@CORRUPTIONS.register_module()
class WaveformBabble(Additive):
    """Synthetic babble (see :func:`babble`) added at ``snr_db``; option ``sample_rate`` in Hz."""

    options = MappingProxyType({'sample_rate': 16000})
    aliases = ('babble',)
    sample_rate: float

    def noise(self, length: int, rng: np.random.Generator) -> np.ndarray:
        """Babble [length]."""
        return babble(length, self.sample_rate, rng)
