"""Loading and augmenting waveforms."""

import io
from typing import Any

import numpy as np
import soundfile
import torch
from torchaudio.transforms import Resample

from cal_mm.encoded import require_complete
from cal_mm.registry import TRANSFORMS

from .base import ModalityTransform, generator_of
from .images import read_bytes

__all__ = ['AudioRandomGain', 'AudioRandomTimeShift', 'LoadAudio', 'decode_audio', 'fit_length']


def decode_audio(source: Any) -> tuple[np.ndarray, int]:
    """Samples float32 [T, channels] and the sample rate in Hz, of wav, flac, ogg, ... data.

    Raises:
        ValueError: empty, truncated, corrupt, without samples or with non-finite samples.
    """
    encoded = read_bytes(source)
    try:
        require_complete(encoded)
        with soundfile.SoundFile(io.BytesIO(encoded)) as file:
            expected, rate = file.frames, file.samplerate
            wave = file.read(dtype='float32', always_2d=True)
    except Exception as e:  # soundfile raises its own errors, and RuntimeError or TypeError
        raise ValueError(
            f'cannot decode {len(encoded)} bytes as audio ({type(e).__name__}: {e}); the file is '
            f'corrupt or no audio: replace the raw file and prepare the dataset again'
        ) from e
    if not len(wave):
        raise ValueError('the audio file holds no samples; list it as bad or replace it')
    if len(wave) < expected:
        raise ValueError(f'the audio is truncated: {len(wave)} of {expected} samples')
    if not np.isfinite(wave).all():
        index = int(np.argwhere(~np.isfinite(wave))[0][0])
        raise ValueError(f'the audio has a non-finite sample at index {index}')
    return wave, int(rate)


def fit_length(
    wave: torch.Tensor,
    length: int,
    short: str = 'pad',
    crop: str = 'center',
    rng: np.random.Generator | None = None,
) -> torch.Tensor:
    """``wave`` [T] cut or extended to [length].

    Args:
        wave: at least one sample.
        length: samples wanted.
        short: what to do with a shorter one: ``'pad'`` with zeros at the end, or ``'tile'``.
        crop: which part of a longer one: ``'start'``, ``'center'`` or ``'random'`` (needs ``rng``).
        rng: source of the random crop.
    """
    total = wave.shape[0]
    if total == length:
        return wave
    if total < length:
        if short == 'tile':
            return wave.repeat(-(-length // total))[:length]
        return torch.nn.functional.pad(wave, (0, length - total))
    offset = 0
    if crop == 'center':
        offset = (total - length) // 2
    elif crop == 'random':
        if rng is None:
            raise ValueError("crop='random' needs a generator")
        offset = int(rng.integers(0, total - length + 1))
    return wave[offset : offset + length]


@TRANSFORMS.register_module()
class LoadAudio(ModalityTransform):
    """Decode audio to a mono float32 waveform [T].

    Order: decode, average the channels, resample, cut or extend, clip.

    Args:
        modality: name of the modality.
        sample_rate: Hz to resample to; None keeps the file's.
        num_samples: length in samples.
        duration: length in seconds (needs ``sample_rate``); give at most one of the two. None keeps
            the clip's length.
        short: ``'pad'`` (zeros at the end) or ``'tile'`` a shorter clip.
        crop: ``'center'``, ``'start'`` or ``'random'`` (training) part of a longer one.
        clip: limit to [-1, 1] (resampling can overshoot).
        preset: name of an audio preset that sets the above (``cal_mm.models.frontends.presets``);
            arguments given beside it win.

    Raises:
        SampleError: empty, truncated or corrupt audio.
    """

    def __init__(
        self,
        modality: str,
        sample_rate: int | None = None,
        num_samples: int | None = None,
        duration: float | None = None,
        short: str | None = None,
        crop: str | None = None,
        clip: bool | None = None,
        preset: str | None = None,
    ) -> None:
        super().__init__(modality)
        if preset is not None:
            # imported late: the models package is not needed to load data
            from cal_mm.models.frontends.presets import audio_preset

            load = audio_preset(preset).load
            sample_rate = load.get('sample_rate') if sample_rate is None else sample_rate
            if duration is None and num_samples is None:
                duration = load.get('duration')
            short = load.get('short') if short is None else short
            crop = load.get('crop') if crop is None else crop
            clip = load.get('clip') if clip is None else clip
        self.sample_rate = sample_rate
        self.num_samples = _length(sample_rate, num_samples, duration)
        self.short = short or 'pad'
        self.crop = crop or 'center'
        self.clip = bool(clip)
        if self.short not in ('pad', 'tile'):
            raise ValueError(f"short must be 'pad' or 'tile', got {self.short!r}")
        if self.crop not in ('start', 'center', 'random'):
            raise ValueError(f"crop must be 'start', 'center' or 'random', got {self.crop!r}")
        self._resamplers: dict[int, Resample] = {}

    @property
    def repeatable(self) -> bool:
        """See ``ModalityTransform``."""
        return self.crop != 'random' or self.num_samples is None

    def update_facts(self, facts: dict[str, dict[str, Any]]) -> None:
        """The rate after resampling.

        Raises:
            ValueError: the files have several rates and ``sample_rate`` is None.
        """
        for modality in self.modalities:
            rates = facts[modality].pop('sample_rates', None)
            if self.sample_rate is not None:
                facts[modality]['sample_rate'] = self.sample_rate
            elif rates:
                raise ValueError(
                    f'LoadAudio: the files of {modality!r} have sample rates of '
                    f'{", ".join(map(str, rates))} Hz: give sample_rate=..., to which each is '
                    f'resampled'
                )

    def apply(self, value: Any, modality: str, results: dict, *args: Any) -> torch.Tensor:
        """Decode ``value`` (bytes or a path)."""
        samples, rate = decode_audio(value)
        wave = torch.from_numpy(samples).mean(dim=1)
        if self.sample_rate is not None and rate != self.sample_rate:
            # the resampling kernel is costly to make and the same for every clip
            if rate not in self._resamplers:
                self._resamplers[rate] = Resample(rate, self.sample_rate)
            wave = self._resamplers[rate](wave)
        if self.num_samples is not None:
            rng = generator_of(results) if self.crop == 'random' else None
            wave = fit_length(wave, self.num_samples, self.short, self.crop, rng)
        return wave.clamp(-1, 1) if self.clip else wave.contiguous()


def _length(sample_rate: int | None, num_samples: int | None, duration: float | None) -> int | None:
    if sample_rate is not None and sample_rate < 1:
        raise ValueError(f'sample_rate must be a positive number of Hz, got {sample_rate}')
    if duration is not None:
        if num_samples is not None:
            raise ValueError('give num_samples or duration, not both')
        if sample_rate is None:
            raise ValueError('duration needs sample_rate')
        num_samples = round(duration * sample_rate)
    if num_samples is not None and num_samples < 1:
        raise ValueError(f'the clip length must be at least one sample, got {num_samples}')
    return num_samples


@TRANSFORMS.register_module()
class AudioRandomGain(ModalityTransform):
    """Multiply a waveform by a gain drawn uniformly in dB.

    Args:
        modality: name of the modality.
        low_db: lowest gain in dB.
        high_db: highest gain in dB.
        prob: probability of applying it.
    """

    def __init__(
        self, modality: str, low_db: float = -6.0, high_db: float = 6.0, prob: float = 1.0
    ) -> None:
        super().__init__(modality)
        if low_db > high_db:
            raise ValueError(f'low_db must not exceed high_db, got {low_db} and {high_db}')
        self.low_db, self.high_db, self.prob = low_db, high_db, prob

    def apply(self, value: Any, modality: str, results: dict, *args: Any) -> torch.Tensor:
        """Scaled waveform [T]."""
        rng = generator_of(results)
        hit, gain = rng.random() < self.prob, rng.uniform(self.low_db, self.high_db)
        return value * float(10 ** (gain / 20)) if hit else value


@TRANSFORMS.register_module()
class AudioRandomTimeShift(ModalityTransform):
    """Shift a waveform in time by a number of samples drawn uniformly.

    Args:
        modality: name of the modality.
        max_shift: largest shift, as a share of the clip's length, in [0, 1].
        roll: samples that leave on one side come in on the other; otherwise zeros come in.
    """

    def __init__(self, modality: str, max_shift: float = 0.1, roll: bool = False) -> None:
        super().__init__(modality)
        if not 0 <= max_shift <= 1:
            raise ValueError(
                f"max_shift is a share of the clip's length in [0, 1], got {max_shift}"
            )
        self.max_shift, self.roll = max_shift, roll

    def apply(self, value: Any, modality: str, results: dict, *args: Any) -> torch.Tensor:
        """Shifted waveform [T]."""
        limit = int(self.max_shift * value.shape[0])
        shift = int(generator_of(results).integers(-limit, limit + 1))
        moved = torch.roll(value, shift)
        if shift and not self.roll:
            moved[slice(0, shift) if shift > 0 else slice(shift, None)] = 0
        return moved
