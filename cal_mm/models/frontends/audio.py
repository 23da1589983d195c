"""Front ends of waveforms."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from torchaudio.functional import melscale_fbanks

from cal_mm.registry import FRONTENDS

from .base import FrontEnd, FrontEndError, FrontEndOutput, check_finite, fault_in
from .functional import (
    clip_norm,
    density_scale,
    fbank_frames,
    kaldi_fbank,
    kaldi_mel_banks,
    spectrogram,
    window_of,
)
from .presets import audio_preset

__all__ = [
    'FbankFrontEnd',
    'LogMelFrontEnd',
    'SpectrogramFrontEnd',
    'WaveformFrontEnd',
    'preset_frontend',
]


def _padded(
    front_end: FrontEnd, values: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """[B, T] on the device, padded with zeros, and the lengths [B] if they differ."""
    lengths = [v.shape[0] if isinstance(v, torch.Tensor) and v.ndim == 1 else 0 for v in values]
    if not min(lengths):
        bad = [i for i, length in enumerate(lengths) if not length]
        raise fault_in([values[i] for i in bad[:1]]) or FrontEndError(
            'expected waveforms [T] of at least one sample', bad
        )
    if min(lengths) == max(lengths):
        return front_end.stack(values), None
    x = pad_sequence(list(values), batch_first=True)
    if not bool(torch.isfinite(x.detach().sum())):
        check = [i for i, v in enumerate(values) if not bool(torch.isfinite(v).all())]
        raise FrontEndError('non-finite values (NaN or inf)', check)
    device = front_end.device
    return x.to(device, non_blocking=True), torch.tensor(lengths).to(device, non_blocking=True)


@FRONTENDS.register_module()
class WaveformFrontEnd(FrontEnd):
    """Waveforms [T] to float32 [B, T], padded to the longest, with a mask [B, T] (True = sample).

    The mask is None when all clips have one length.

    Args:
        normalize: zero mean and unit variance of each clip, padding left out.
        eps: added to the variance.
    """

    kind = 'waveform'

    def __init__(self, normalize: bool = False, eps: float = 1e-7) -> None:
        super().__init__()
        self.normalize, self.eps = normalize, eps

    def forward(self, values: Sequence[torch.Tensor]) -> FrontEndOutput:
        """Stack or pad."""
        x, lengths = _padded(self, values)
        x = x.float()
        mask = None
        if lengths is not None:
            mask = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
        if self.normalize:
            weight = torch.ones_like(x) if mask is None else mask.to(x.dtype)
            count = weight.sum(1, keepdim=True)
            x = (x - (x * weight).sum(1, keepdim=True) / count) * weight
            x = x / (x.square().sum(1, keepdim=True) / count + self.eps).sqrt()
        return x, mask


@FRONTENDS.register_module()
class SpectrogramFrontEnd(FrontEnd):
    """Waveforms [T] of one length to a (log) spectrogram, float32 [B, 1, n_fft // 2 + 1, frames].

    Args:
        n_fft: length of the transform.
        hop_length: samples between frames; n_fft // 4 by default.
        win_length: length of the window; n_fft by default.
        window: ``'hann'``, ``'hamming'``, ``'tukey'`` (a quarter tapered) or ``'rect'``, periodic.
        power: 1 for magnitude, 2 for power.
        center: frames = 1 + T // hop_length, with the ends padded; otherwise
            1 + (T - n_fft) // hop_length.
        pad_mode: ``'reflect'`` or ``'constant'``.
        detrend: subtract each frame's mean.
        density_rate: sample rate in Hz; then the values are a one-sided power density per Hz (with
            ``power=2``). None leaves them as they are.
        log_eps: natural log of (value + log_eps); None takes no log.
        normalize: zero mean, unit standard deviation of each clip, at the end.
    """

    kind = 'waveform'
    window: torch.Tensor
    scale: torch.Tensor | None

    def __init__(
        self,
        n_fft: int = 512,
        hop_length: int | None = None,
        win_length: int | None = None,
        window: str = 'hann',
        power: float = 1.0,
        center: bool = True,
        pad_mode: str = 'reflect',
        detrend: bool = False,
        density_rate: float | None = None,
        log_eps: float | None = 1e-7,
        normalize: bool = False,
    ) -> None:
        super().__init__()
        self.hop_length = _positive(hop_length or n_fft // 4, 'hop_length')
        if pad_mode not in ('reflect', 'constant'):
            raise ValueError(f"pad_mode must be 'reflect' or 'constant', got {pad_mode!r}")
        shape = window_of(window, win_length or n_fft, n_fft)
        self.register_buffer('window', shape, persistent=False)
        scale = None if density_rate is None else density_scale(shape, density_rate)[:, None]
        self.register_buffer('scale', scale, persistent=False)
        self.options: dict[str, Any] = dict(
            power=power, center=center, pad_mode=pad_mode, detrend=detrend
        )
        self.log_eps = _log_eps(log_eps)
        self.normalize = normalize

    def forward(self, values: Sequence[torch.Tensor]) -> FrontEndOutput:
        """Spectrograms of the batch."""
        x = spectrogram(_waves(self, values), self.window, self.hop_length, **self.options)
        if self.scale is not None:
            x = x * self.scale
        x = self.filtered(x)
        if self.log_eps is not None:
            x = (x + self.log_eps).log()
        return (clip_norm(x) if self.normalize else x)[:, None], None

    def filtered(self, x: torch.Tensor) -> torch.Tensor:
        """Hook for a filter bank over the frequencies of ``x`` [B, F, T]."""
        return x


@FRONTENDS.register_module()
class LogMelFrontEnd(SpectrogramFrontEnd):
    """Waveforms [T] of one length to a log-mel spectrogram, float32 [B, 1, n_mels, frames].

    Args:
        sample_rate: Hz of the waveforms; training and testing refuse data of another rate.
        n_mels: number of mel bands.
        n_fft: see ``SpectrogramFrontEnd``.
        hop_length: see ``SpectrogramFrontEnd``.
        win_length: see ``SpectrogramFrontEnd``.
        f_min: lowest frequency in Hz.
        f_max: highest frequency in Hz; sample_rate / 2 by default.
        power: 1 for magnitude, 2 for power.
        mel_scale: ``'htk'`` or ``'slaney'``.
        norm: ``'slaney'`` (filters of equal area) or None.
        center: see ``SpectrogramFrontEnd``.
        pad_mode: see ``SpectrogramFrontEnd``.
        log_eps: natural log of (value + log_eps).
        normalize: zero mean, unit standard deviation of each clip, at the end.
    """

    banks: torch.Tensor

    def __init__(
        self,
        sample_rate: int,
        n_mels: int = 64,
        n_fft: int = 512,
        hop_length: int | None = None,
        win_length: int | None = None,
        f_min: float = 0.0,
        f_max: float | None = None,
        power: float = 2.0,
        mel_scale: str = 'htk',
        norm: str | None = None,
        center: bool = True,
        pad_mode: str = 'reflect',
        log_eps: float | None = 1e-6,
        normalize: bool = False,
    ) -> None:
        super().__init__(
            n_fft,
            hop_length,
            win_length,
            power=power,
            center=center,
            pad_mode=pad_mode,
            log_eps=log_eps,
            normalize=normalize,
        )
        self.sample_rate = sample_rate
        top = sample_rate / 2 if f_max is None else f_max
        if not 0 <= f_min < top <= sample_rate / 2:
            raise ValueError(
                f'expected 0 <= f_min < f_max <= {sample_rate / 2} Hz, got {f_min} and {top}'
            )
        banks = melscale_fbanks(n_fft // 2 + 1, f_min, top, n_mels, sample_rate, norm, mel_scale)
        self.register_buffer('banks', banks.T.contiguous(), persistent=False)

    def filtered(self, x: torch.Tensor) -> torch.Tensor:
        """[B, n_mels, T]."""
        return self.banks @ x


@FRONTENDS.register_module()
class FbankFrontEnd(FrontEnd):
    """Waveforms [T] to Kaldi's log-mel filter bank, float32 [B, 1, n_mels, num_frames].

    Each clip's mean is subtracted first; shorter clips (lengths may differ within a batch) are
    padded with zeros before the scaling, longer ones cut.

    Args:
        sample_rate: Hz of the waveforms; training and testing refuse data of another rate.
        n_mels: number of mel bands.
        num_frames: frames of the result.
        frame_length_ms: length of a frame.
        frame_shift_ms: time between frames.
        mean: subtracted from every value (AudioSet's -4.503877 by default).
        std: the result is divided by 2 * std.
    """

    kind = 'waveform'
    window: torch.Tensor
    banks: torch.Tensor

    def __init__(
        self,
        sample_rate: int = 16000,
        n_mels: int = 128,
        num_frames: int = 1024,
        frame_length_ms: float = 25.0,
        frame_shift_ms: float = 10.0,
        mean: float = -4.503877,
        std: float = 5.141276,
    ) -> None:
        super().__init__()
        self.sample_rate = sample_rate
        size = _positive(int(sample_rate * frame_length_ms / 1000), 'frame_length_ms in samples')
        self.hop = _positive(int(sample_rate * frame_shift_ms / 1000), 'frame_shift_ms in samples')
        if not std > 0:
            raise ValueError(f'std must be > 0, got {std}')
        self.num_frames = _positive(num_frames, 'num_frames')
        self.mean, self.std = mean, std
        n_fft = 1 << (size - 1).bit_length()
        window = torch.hann_window(size, periodic=False)
        self.register_buffer('window', window, persistent=False)
        banks = kaldi_mel_banks(n_mels, n_fft, sample_rate)
        self.register_buffer('banks', banks, persistent=False)

    def forward(self, values: Sequence[torch.Tensor]) -> FrontEndOutput:
        """Filter banks of the batch."""
        wave, lengths = _padded(self, values)
        size = self.window.shape[0]
        short = [i for i, v in enumerate(values) if v.shape[0] < size]
        if short:
            raise FrontEndError(f'a clip shorter than one frame of {size} samples', short)
        wave = _centred(wave.float(), lengths)
        # later samples reach no frame that is kept
        wave = wave[:, : size + (self.num_frames - 1) * self.hop]
        x = kaldi_fbank(wave, self.window, self.banks, self.hop)
        if lengths is not None:
            whole = [fbank_frames(v.shape[0], size, self.hop) for v in values]
            count = torch.tensor(whole, device=x.device)[:, None, None]
            x = x * (torch.arange(x.shape[-1], device=x.device) < count)
        x = torch.nn.functional.pad(x, (0, self.num_frames - x.shape[-1]))
        return ((x - self.mean) / (2 * self.std))[:, None], None

    def empty(self, count: int) -> FrontEndOutput:
        """Zeros [count, 1, n_mels, num_frames]."""
        shape = (count, 1, self.banks.shape[0], self.num_frames)
        return torch.zeros(shape, device=self.device), None


def _centred(wave: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
    """Each clip minus its own mean, padding left at zero."""
    if lengths is None:
        return wave - wave.mean(dim=1, keepdim=True)
    mask = torch.arange(wave.shape[1], device=wave.device) < lengths[:, None]
    return (wave - (wave.sum(dim=1) / lengths)[:, None]) * mask


def _waves(front_end: FrontEnd, values: Sequence[torch.Tensor]) -> torch.Tensor:
    """[B, T] float32 on the device."""
    x = front_end.stack(values)
    if x.ndim != 2:
        raise FrontEndError(f'expected waveforms [T], got {list(x.shape[1:])}')
    check_finite(x, values)
    return x.float()


def _positive(value: int, name: str) -> int:
    if value < 1:
        raise ValueError(f'{name} must be at least 1, got {value}')
    return value


def _log_eps(value: float | None) -> float | None:
    if value is not None and not value > 0:
        raise ValueError(f'log_eps must be > 0 (or None for no log), got {value}')
    return value


@FRONTENDS.register_module(name='AudioPreset')
def preset_frontend(name: str, **overrides: Any) -> FrontEnd:
    """The front end of an audio preset (``presets.py``), with ``overrides`` of its arguments."""
    return FRONTENDS.build({**audio_preset(name).frontend, **overrides})
