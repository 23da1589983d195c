"""A tiny dataset of features whose modalities contribute a known amount, for tests.

    python -m data_prep.synthetic --out data/synthetic

By default modality ``a`` tells the class, ``b`` tells it but is drawn for a wrong class in 30 % of
the samples, and ``c`` is noise.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

if __package__ in (None, ''):  # started as a file: make the package importable
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
from numpy.typing import NDArray

from cal_mm.seeding import sample_key
from data_prep.common import DatasetSpec, Sample, WriteReport, make_parser, run_cli, write_dataset

__all__ = ['MODALITIES', 'make_synthetic']

#: share of the samples that a modality draws for a wrong class; None: it is pure noise
MODALITIES: dict[str, float | None] = {'a': 0.0, 'b': 0.3, 'c': None}


def make_synthetic(
    out: str | Path,
    *,
    num_train: int = 200,
    num_val: int = 100,
    num_test: int = 100,
    num_classes: int = 4,
    dim: int | Mapping[str, int] = 8,
    modalities: Mapping[str, float | None] | None = None,
    label_noise: float = 0.0,
    signal: float = 6.0,
    seed: int = 0,
    overwrite: bool = False,
) -> WriteReport:
    """Prepare the dataset.

    A sample of class c has in each modality ``signal`` times the unit vector of a class, plus
    standard normals. The unit vectors of the classes are orthogonal, so two classes are
    ``signal * sqrt(2)`` apart: at the default 6, the best classifier errs on far below one sample
    in a thousand, and a modality with a share w of wrong classes reaches an accuracy of 1 - w, pure
    noise 1 / C.

    Args:
        out: folder of the dataset.
        num_train: samples, as ``num_val`` and ``num_test``; the classes take turns.
        num_val: see above.
        num_test: see above.
        num_classes: C, at least 2.
        dim: length of every modality, or of each by name; at least ``num_classes``.
        modalities: share of wrong samples by name, as :data:`MODALITIES`, the default. Which
            samples are wrong is drawn for each modality, exactly ``round(share * N)`` of them.
        label_noise: share of the training labels that are replaced by another class; the features
            stay those of the true class. Validation and test labels are right.
        signal: distance of a class's mean from zero, in standard deviations of the noise.
        seed: of everything drawn.
        overwrite: replace another dataset at ``out``.

    Returns:
        The report; the manifest's ``facts`` name the wrong samples of each split: ``wrong`` by
        modality, ``wrong_label``.

    Raises:
        ValueError: a number is out of its range.
    """
    shares = dict(MODALITIES if modalities is None else modalities)
    dims = {m: dim if isinstance(dim, int) else dim[m] for m in shares}
    sizes = dict(train=num_train, val=num_val, test=num_test)
    _check(sizes, num_classes, dims, shares, label_noise, signal)
    splits: dict[str, list[Sample]] = {}
    facts: dict[str, Any] = {'wrong': {}, 'wrong_label': {}}
    for split, count in sizes.items():
        noise = label_noise if split == 'train' else 0.0
        splits[split], wrong, wrong_label = _split(
            split, count, num_classes, dims, shares, noise, signal, seed
        )
        facts['wrong'][split], facts['wrong_label'][split] = wrong, wrong_label
    settings = dict(sizes=sizes, dims=dims, shares=shares, label_noise=label_noise)
    spec = DatasetSpec(
        name='synthetic',
        version='1',
        protocol='known-contributions',
        classes=tuple(f'class_{c}' for c in range(num_classes)),
        modalities={m: dict(kind='features', shape=[dims[m]], wrong=shares[m]) for m in shares},
        settings={**settings, 'signal': signal, 'seed': seed},
        facts=facts,
    )
    return write_dataset(out, spec, splits, overwrite=overwrite, progress=False)


def _check(
    sizes: Mapping[str, int],
    num_classes: int,
    dims: Mapping[str, int],
    shares: Mapping[str, float | None],
    label_noise: float,
    signal: float,
) -> None:
    if num_classes < 2 or min(sizes.values()) < 1:
        raise ValueError(f'expected at least 2 classes and 1 sample, got {num_classes} and {sizes}')
    for name, length in dims.items():
        if length < num_classes:
            raise ValueError(
                f'{name}: dim {length} must be at least the number of classes, {num_classes}'
            )
    for name, share in {**shares, 'label_noise': label_noise}.items():
        if share is not None and not 0 <= share <= 1:
            raise ValueError(f'{name}: the share of wrong samples must lie in [0, 1], got {share}')
    if signal <= 0:
        raise ValueError(f'signal must be positive, got {signal}')


def class_means(dim: int, num_classes: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Orthogonal unit vectors, [C, dim]."""
    basis, _ = np.linalg.qr(rng.standard_normal((dim, num_classes)))
    return basis.T


def _turned(
    true: NDArray[np.int64], share: float, num_classes: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], list[int]]:
    """``true`` with ``round(share * N)`` entries replaced by another class; and which."""
    rows = np.sort(rng.permutation(len(true))[: round(share * len(true))])
    result = true.copy()
    result[rows] = (true[rows] + rng.integers(1, num_classes, len(rows))) % num_classes
    return result, [int(i) for i in rows]


def _split(
    split: str,
    count: int,
    num_classes: int,
    dims: Mapping[str, int],
    shares: Mapping[str, float | None],
    label_noise: float,
    signal: float,
    seed: int,
) -> tuple[list[Sample], dict[str, list[str]], list[str]]:
    """Samples, the ids that each modality has wrong, the ids with a wrong label."""
    true = np.arange(count, dtype=np.int64) % num_classes
    ids = [f'{split}-{i:05d}' for i in range(count)]
    values: dict[str, NDArray[np.float32]] = {}
    wrong: dict[str, list[str]] = {}
    for name, share in shares.items():
        means = class_means(
            dims[name], num_classes, np.random.default_rng(sample_key(seed, 'means', name))
        )
        rng = np.random.default_rng(sample_key(seed, 'synthetic', split, name))
        x = rng.standard_normal((count, dims[name]))
        if share is not None:
            seen, rows = _turned(true, share, num_classes, rng)
            x += signal * means[seen]
            wrong[name] = [ids[i] for i in rows]
        values[name] = x.astype(np.float32)
    rng = np.random.default_rng(sample_key(seed, 'synthetic', split, 'labels'))
    labels, rows = _turned(true, label_noise, num_classes, rng)
    samples = [
        dict(
            sample_id=ids[i], label=int(labels[i]), group='', **{m: x[i] for m, x in values.items()}
        )
        for i in range(count)
    ]
    return samples, wrong, [ids[i] for i in rows]


def _width(text: str) -> tuple[str, int]:
    name, _, width = text.partition('=')
    if name not in MODALITIES or not width.isdigit():
        raise argparse.ArgumentTypeError(
            f'expected one of {", ".join(MODALITIES)} and its width, such as c=300, got {text!r}'
        )
    return name, int(width)


def _wrong(text: str) -> tuple[str, float | None]:
    name, _, share = text.partition('=')
    try:
        if name not in MODALITIES or not 0 <= float(share) <= 1:
            raise ValueError
    except ValueError:
        raise argparse.ArgumentTypeError(
            f'expected one of {", ".join(MODALITIES)} and a share in [0, 1], such as b=0.2, got '
            f'{text!r}'
        ) from None
    return name, float(share)


def _prepare(args: argparse.Namespace) -> WriteReport:
    return make_synthetic(
        args.out,
        num_train=args.num_train,
        num_val=args.num_val,
        num_test=args.num_test,
        modalities={**MODALITIES, **dict(args.wrong)},
        dim={m: dict(args.dim).get(m, 8) for m in MODALITIES},
        signal=args.signal,
        label_noise=args.label_noise,
        seed=args.seed,
        overwrite=args.overwrite,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see ``--help``."""
    parser = make_parser('synthetic', (__doc__ or '').splitlines()[0], raw=False)
    parser.add_argument('--num-train', type=int, default=200, metavar='N')
    parser.add_argument('--num-val', type=int, default=100, metavar='N')
    parser.add_argument('--num-test', type=int, default=100, metavar='N')
    parser.add_argument(
        '--dim', type=_width, nargs='+', default=[], metavar='M=N', help='widths (default: 8 each)'
    )
    parser.add_argument(
        '--wrong',
        type=_wrong,
        nargs='+',
        default=[],
        metavar='M=SHARE',
        help='samples that a modality draws for a wrong class (default: b=0.3; c is noise)',
    )
    parser.add_argument(
        '--signal', type=float, default=6.0, help='distance of the classes (default: 6)'
    )
    parser.add_argument(
        '--label-noise', type=float, default=0.0, metavar='SHARE', help='of the training labels'
    )
    return run_cli(_prepare, parser, argv)


if __name__ == '__main__':
    sys.exit(main())
