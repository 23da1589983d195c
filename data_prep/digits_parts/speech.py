"""Spoken digits: which voice says what how, and the noise that is mixed in."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd

import numpy as np
from numpy.typing import NDArray
from scipy.signal import resample_poly

from cal_mm.seeding import sample_key
from data_prep.common.espeak import SAMPLE_RATE, synthesise

__all__ = [
    'WORDS',
    'Utterance',
    'coloured_noise',
    'mix_at_snr',
    'plan_utterances',
    'split_voices',
    'to_waveform',
    'voice_family',
]

WORDS = ('zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine')

#: the accents of English; any voice may speak with any of them
ACCENTS = (
    'en',
    'en-029',
    'en-gb-scotland',
    'en-gb-x-gbclan',
    'en-gb-x-gbcwmd',
    'en-gb-x-rp',
    'en-us',
    'en-us-nyc',
)

#: too slow for clips of one second
_LEFT_OUT = ('Marco',)
#: variants of one voice under different names
_SAME_FAMILY = {'anikarobot': 'anika', 'whisperf': 'whisper'}


@dataclass(frozen=True)
class Utterance:
    """A request to the synthesiser; ``rate`` in words per minute, ``pitch`` 0 to 100."""

    digit: int
    voice: str
    accent: str
    rate: int
    pitch: int

    def speak(self) -> NDArray[np.int16]:
        """int16 [T] at the synthesiser's rate."""
        return synthesise(WORDS[self.digit], f'{self.accent}+{self.voice}', self.rate, self.pitch)


def voice_family(voice: str) -> str:
    """``'klatt4'`` -> ``'klatt'``: near copies of a voice share a family, and so a split."""
    stem = re.sub(r'\d+$', '', voice.lower())
    return _SAME_FAMILY.get(stem, stem)


def split_voices(
    voices: Sequence[str], share: dict[str, float], rng: np.random.Generator
) -> dict[str, list[str]]:
    """Give every voice to one split, whole families together.

    Args:
        voices: names of the voice variants.
        share: the wanted share of the voices of each split; must sum to one.
        rng: the only source of randomness.

    Returns:
        For each split its voices, sorted; no family is in two splits, no split is empty.
    """
    families: dict[str, list[str]] = {}
    for voice in sorted(set(voices) - set(_LEFT_OUT)):
        families.setdefault(voice_family(voice), []).append(voice)
    total = sum(map(len, families.values()))
    result: dict[str, list[str]] = {split: [] for split in share}
    for i in rng.permutation(len(families)):
        family = list(families.values())[i]
        # the split that is furthest behind its share
        behind = max(share, key=lambda s: share[s] - len(result[s]) / total)
        result[behind].extend(family)
    return {split: sorted(names) for split, names in result.items()}


def plan_utterances(
    split: str, voices: Sequence[str], per_class: int, num_classes: int, seed: int
) -> list[Utterance]:
    """Who says what: voices in turn, the rest drawn; all different.

    Returns:
        ``per_class * num_classes`` utterances, class after class.
    """
    seen: set[Utterance] = set()
    plan: list[Utterance] = []
    for digit in range(num_classes):
        order = np.random.default_rng(sample_key(seed, 'voices', split, digit)).permutation(
            len(voices)
        )
        for i in range(per_class):
            rng = np.random.default_rng(sample_key(seed, 'utterance', split, digit, i))
            voice = voices[order[i % len(voices)]]
            plan.append(_draw_new(digit, voice, rng, seen))
    return plan


def _draw_new(digit: int, voice: str, rng: np.random.Generator, seen: set[Utterance]) -> Utterance:
    while True:
        one = Utterance(
            digit=digit,
            voice=voice,
            accent=ACCENTS[int(rng.integers(len(ACCENTS)))],
            rate=int(rng.integers(120, 241)),
            pitch=int(rng.integers(25, 76)),
        )
        if one not in seen:
            seen.add(one)
            return one


def to_waveform(
    pcm: NDArray[np.int16], rng: np.random.Generator, *, rate: int, samples: int
) -> tuple[NDArray[np.float64], slice]:
    """Trim the silence, resample (polyphase, anti-aliased), place in a clip of fixed length.

    Args:
        pcm: int16 [T] at the synthesiser's rate.
        rng: draws where in the clip the word starts.
        rate: wanted sample rate, Hz.
        samples: length of the clip.

    Returns:
        float64 [samples], the word at unit power, silence elsewhere; and where the word is.
    """
    loud = np.flatnonzero(np.abs(pcm.astype(np.int32)) > 200)
    if loud.size == 0:
        raise ValueError('the utterance is silent')
    word = pcm[loud[0] : loud[-1] + 1].astype(np.float64)
    divisor = gcd(rate, SAMPLE_RATE)
    word = resample_poly(word, rate // divisor, SAMPLE_RATE // divisor)[:samples]
    word /= np.sqrt(np.mean(word**2))
    start = int(rng.integers(samples - len(word) + 1))
    clip = np.zeros(samples)
    clip[start : start + len(word)] = word
    return clip, slice(start, start + len(word))


def coloured_noise(samples: int, exponent: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Gaussian noise with the power spectrum 1 / f**exponent (0 white, 1 pink, 2 brown).

    Returns:
        float64 [samples], zero mean, unit power.
    """
    spectrum = np.fft.rfft(rng.normal(size=samples))
    frequency = np.arange(len(spectrum), dtype=np.float64)
    frequency[0] = np.inf  # no constant part
    noise = np.fft.irfft(spectrum * frequency ** (-exponent / 2), n=samples)
    return noise / np.sqrt(np.mean(noise**2))


def mix_at_snr(
    clip: NDArray[np.float64],
    where: slice,
    babble: NDArray[np.float64],
    noise: NDArray[np.float64],
    snr_db: float,
    babble_share: float,
) -> NDArray[np.float64]:
    """Add babble and noise at a signal-to-noise ratio.

    Args:
        clip: float64 [T], the word.
        where: where in ``clip`` the word is; its power is taken there.
        babble: float64 [T], the sum of other utterances.
        noise: float64 [T].
        snr_db: dB, 0 = word and disturbance of equal power.
        babble_share: share of the babble in the disturbance's power, in [0, 1].

    Returns:
        float64 [T], scaled to a peak of 0.9.
    """

    def unit(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return x / max(float(np.sqrt(np.mean(x**2))), 1e-12)

    disturbance = np.sqrt(babble_share) * unit(babble) + np.sqrt(1 - babble_share) * unit(noise)
    power = float(np.mean(clip[where] ** 2))
    mixed = clip + unit(disturbance) * np.sqrt(power * 10 ** (-snr_db / 10))
    return mixed * (0.9 / np.max(np.abs(mixed)))
