"""Environment noise on waveforms: the user's own recordings, or rain, an engine and wind made here.

The noise is scaled to the exact SNR of the clip, as in :mod:`cal_mm.corruptions.waveform`.
"""

from collections.abc import Callable
from math import gcd
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray
from scipy import signal

from cal_mm.registry import CORRUPTIONS

from .waveform import Additive, coloured_noise

__all__ = ['SCENES', 'WaveformEnvironment', 'find_recordings', 'random_segment']

Array = NDArray[np.float64]
_SUFFIXES = ('.wav', '.flac', '.ogg')
_TRIES = 20
_AUDIBLE = 1e-5  # root mean square, -100 dB of full scale
_BLOCK = 1 << 16


def rain(length: int, rate: float, rng: np.random.Generator) -> Array:
    """Rain [length]: a hiss that rises with frequency, and some 200 drops a second that click."""
    hiss = np.diff(rng.standard_normal(length + 1))
    drops = np.where(rng.random(length) < min(0.5, 200 / rate), rng.exponential(6.0, length), 0.0)
    click = np.exp(-np.arange(max(1, int(0.004 * rate))) / max(1.0, 0.0008 * rate))
    click[1::2] *= -1
    return hiss + signal.fftconvolve(drops, click)[:length]


def engine(length: int, rate: float, rng: np.random.Generator) -> Array:
    """An engine's hum [length]: harmonics of 25 to 60 Hz that waver, over low noise."""
    time = np.arange(length) / rate
    speed = rng.uniform(25, 60)
    wobble = 0.01 * np.sin(2 * np.pi * (rng.uniform(0.3, 1.5) * time + rng.random()))
    phase = 2 * np.pi * np.cumsum(speed * (1 + wobble)) / rate
    total = np.zeros(length)
    for harmonic in range(1, 9):
        if harmonic * speed * 1.02 < rate / 2:
            total += np.sin(harmonic * phase + rng.uniform(0, 2 * np.pi)) / harmonic
    return total + 0.3 * _unit(coloured_noise(length, 1.0, rng))


def wind(length: int, rate: float, rng: np.random.Generator) -> Array:
    """Wind [length]: noise of power 1 / f**1.5 in gusts of about a second."""
    knots = max(2, int(np.ceil(2 * length / rate)) + 2)
    gusts = np.interp(np.arange(length), np.linspace(0, length, knots), rng.random(knots))
    return coloured_noise(length, 1.5, rng) * (0.15 + gusts**2)


def _unit(wave: Array) -> Array:
    rms = np.sqrt(np.mean(wave**2)) if wave.size else 0.0
    return wave / rms if rms > 0 else wave


#: what is made where there are no recordings
SCENES: MappingProxyType[str, Callable[[int, float, np.random.Generator], Array]] = (
    MappingProxyType({'rain': rain, 'engine': engine, 'wind': wind})
)


def find_recordings(folder: str | Path) -> list[Path]:
    """The wav, flac and ogg files below ``folder``, sorted by their path; headers are read.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no recordings in it, or one that cannot be read, has no samples or is silent
            from end to end (names the file).
    """
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(
            f'recordings: there is no folder {str(folder)!r}; give one with wav or flac files'
        )
    files = sorted(p for p in root.rglob('*') if p.suffix.lower() in _SUFFIXES and p.is_file())
    if not files:
        raise ValueError(
            f'recordings: {str(folder)!r} holds no recordings; '
            f'put files that end in {", ".join(_SUFFIXES)} into it'
        )
    for file in files:
        _check_audible(file)
    return files


def _check_audible(file: Path) -> None:
    """Read until the first sound: a whole file only where it is silent."""
    try:
        frames = soundfile.info(file).frames
        heard = any(
            np.isfinite(block).all() and np.sqrt(np.mean(block**2)) > _AUDIBLE
            for block in soundfile.blocks(file, _BLOCK, dtype='float32')
            if len(block)
        )
    except (OSError, RuntimeError, ValueError) as e:
        raise ValueError(
            f'recordings: {str(file)!r} cannot be read ({type(e).__name__}: {e}); '
            f'replace it or take it out of the folder'
        ) from e
    if not frames or not heard:
        raise ValueError(
            f'recordings: {str(file)!r} is silent or empty ({frames} samples); '
            f'noise of a given SNR cannot be made from silence: take it out of the folder'
        )


def random_segment(file: Path, length: int, rate: float, rng: np.random.Generator) -> Array:
    """``length`` samples at ``rate`` Hz from a random place in ``file``, channels averaged.

    A shorter recording is repeated. Places that are silent are drawn again.

    Raises:
        ValueError: the file cannot be read, or only silence was found in it.
    """
    try:
        with soundfile.SoundFile(file) as source:
            up, down = _ratio(rate, source.samplerate)
            needed = min(source.frames, -(-length * down // up))
            for _ in range(_TRIES):
                source.seek(int(rng.integers(0, source.frames - needed + 1)))
                wave = source.read(needed, dtype='float64', always_2d=True).mean(axis=1)
                if wave.size and np.isfinite(wave).all() and np.sqrt(np.mean(wave**2)) > _AUDIBLE:
                    break
            else:
                raise ValueError(f'{_TRIES} segments of {length / rate:.3g} s are all silent')
    except (OSError, RuntimeError, ValueError) as e:
        raise ValueError(
            f'recordings: {str(file)!r} cannot be used ({type(e).__name__}: {e}); '
            f'replace it or take it out of the folder'
        ) from e
    if up != down:
        wave = signal.resample_poly(wave, up, down)
    return np.resize(wave, length)


def _ratio(rate: float, of_file: int) -> tuple[int, int]:
    common = gcd(round(rate), of_file)
    return round(rate) // common, of_file // common


@CORRUPTIONS.register_module()
class WaveformEnvironment(Additive):
    """Environment noise added at ``snr_db``; a silent clip stays silent.

    Options: ``recordings``, a folder of wav, flac or ogg files of one's own: each sample gets a
    random segment of a random file, mono, resampled to ``sample_rate`` (Hz). Without a folder
    the noise is procedural, not recorded: ``scene`` 'rain', 'engine' or 'wind', or 'any' (drawn
    per sample).

    Raises:
        FileNotFoundError: no folder ``recordings``.
        ValueError: an empty folder, or a file that is unreadable or silent.
    """

    options = MappingProxyType({'sample_rate': 16000, 'recordings': '', 'scene': 'any'})
    choices = MappingProxyType({'scene': ('any', *SCENES)})
    aliases = ('environment', 'correlated', 'all')
    sample_rate: float
    recordings: str
    scene: str

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.files = find_recordings(self.recordings) if self.recordings else []

    def noise(self, length: int, rng: np.random.Generator) -> np.ndarray:
        """Noise [length]."""
        if self.files:
            file = self.files[int(rng.integers(len(self.files)))]
            return random_segment(file, length, self.sample_rate, rng)
        names = list(SCENES) if self.scene == 'any' else [self.scene]
        scene = SCENES[names[int(rng.integers(len(names)))]]
        return scene(length, self.sample_rate, rng)

    def describe(self) -> dict[str, Any]:
        """As the base does, with ``source``: how many recordings, or that it is procedural."""
        made = f'procedural ({"rain, engine or wind" if self.scene == "any" else self.scene})'
        source = f'{len(self.files)} recordings' if self.files else made
        return {**super().describe(), 'source': source}
