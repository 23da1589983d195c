"""UCI Multiple Features: six views of 2,000 handwritten digits.

    python -m data_prep.uci_digits --raw DIR --out data/uci_digits

``DIR`` holds ``handwritten_6views.npz`` with arrays ``pix_train``, ``pix_test``, ..., ``y_train``
and ``y_test`` (labels 1 to 10; the digit ``c`` has the label ``c + 1``). The test split of 400 is
the published one; 300 of the 1,600 training samples become the validation split. Values are stored
as they are; mean and standard deviation of the training split are in the manifest, for the front
end to standardise with.
"""

import argparse
import hashlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

if __package__ in (None, ''):  # started as a file: make the package importable
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
from numpy.typing import NDArray

from cal_mm.seeding import sample_key
from data_prep.common import DatasetSpec, Sample, WriteReport, make_parser, run_cli, write_dataset
from data_prep.common.splits import stratified_choice

__all__ = ['VIEWS', 'make_uci_digits']

FILE = 'handwritten_6views.npz'
#: view -> what it is (the data set's own description)
VIEWS = {
    'pix': 'pixel averages in 2 x 3 windows',
    'fou': 'Fourier coefficients of the character shapes',
    'fac': 'profile correlations',
    'zer': 'Zernike moments',
    'kar': 'Karhunen-Loeve coefficients',
    'mor': 'morphological features',
}
NUM_CLASSES = 10
Arrays = dict[str, NDArray[Any]]


def make_uci_digits(
    raw: str | Path,
    out: str | Path,
    *,
    seed: int = 0,
    num_val: int = 300,
    overwrite: bool = False,
    progress: bool = True,
) -> WriteReport:
    """Prepare the six views.

    Args:
        raw: folder with the file, or the file.
        out: folder of the dataset.
        seed: of the draw of the validation samples.
        num_val: size of the validation split, drawn per class from the training split.
        overwrite: replace another dataset at ``out``.
        progress: show progress on a terminal.

    Raises:
        FileNotFoundError: the file is not there.
        ValueError: the file has another layout than expected.
    """
    path = Path(raw)
    path = path / FILE if path.is_dir() else path
    data, labels, digest = _load(path)
    rng = np.random.default_rng(sample_key(seed, 'uci_digits', 'val'))
    val = stratified_choice(labels['train'], num_val, rng)
    rows = {
        'train': ('train', np.setdiff1d(np.arange(len(labels['train'])), val)),
        'val': ('train', val),
        'test': ('test', np.arange(len(labels['test']))),
    }
    spec = DatasetSpec(
        name='uci_digits',
        version='1',
        protocol='tmc-1600-400',
        classes=tuple(str(c) for c in range(NUM_CLASSES)),
        modalities={view: _facts(data['train'][view][rows['train'][1]], view) for view in VIEWS},
        settings=dict(seed=seed, num_val=num_val),
        facts=dict(raw_sha256=digest, label='label - 1 of the file'),
    )
    splits = {
        split: list(_samples(data[part], labels[part], index, part))
        for split, (part, index) in rows.items()
    }
    return write_dataset(out, spec, splits, source=digest, overwrite=overwrite, progress=progress)


def _load(path: Path) -> tuple[dict[str, Arrays], Arrays, str]:
    """Views and labels of both published splits, and the sha256 of the file."""
    try:
        content = path.read_bytes()
    except FileNotFoundError as e:
        raise FileNotFoundError(
            f'{path} is missing: --raw must be the folder that holds {FILE} (or the file)'
        ) from e
    try:
        with np.load(path, allow_pickle=False) as f:
            arrays = dict(f)
    except (ValueError, OSError, EOFError) as e:
        raise ValueError(f'{path} is not a readable npz file: {e}') from e
    parts = ('train', 'test')
    missing = [f'{v}_{p}' for v in (*VIEWS, 'y') for p in parts if f'{v}_{p}' not in arrays]
    if missing:
        raise ValueError(f'{path} lacks {", ".join(missing)}; it has {", ".join(sorted(arrays))}')
    labels = {p: arrays[f'y_{p}'].ravel().astype(np.int64) - 1 for p in parts}
    data = {p: {v: arrays[f'{v}_{p}'].astype(np.float32) for v in VIEWS} for p in parts}
    for part in parts:
        if labels[part].size == 0 or labels[part].min() < 0 or labels[part].max() >= NUM_CLASSES:
            raise ValueError(f'{path}: y_{part} must hold labels 1 to {NUM_CLASSES}')
        for view in VIEWS:
            found, train = data[part][view].shape, data['train'][view].shape
            if len(found) != 2 or found[0] != len(labels[part]) or found[1:] != train[1:]:
                raise ValueError(
                    f'{path}: {view}_{part} has the shape {found}, expected {len(labels[part])} '
                    f'rows as in y_{part} and {train[1:]} columns as in {view}_train'
                )
    return data, labels, hashlib.sha256(content).hexdigest()


def _facts(train: NDArray[np.float32], view: str) -> dict[str, Any]:
    """Shape, and mean and standard deviation (population) of the training split."""
    wide = train.astype(np.float64)
    return dict(
        kind='features',
        shape=[train.shape[1]],
        description=VIEWS[view],
        mean=[float(f'{v:.9g}') for v in wide.mean(0)],
        std=[float(f'{v:.9g}') for v in wide.std(0)],
    )


def _samples(
    views: Arrays, labels: NDArray[np.int64], index: NDArray[np.int64], part: str
) -> Iterator[Sample]:
    """``part`` and row of the file make the id, whichever split the sample ends in."""
    for i in index:
        row = {view: views[view][i] for view in VIEWS}
        yield dict(sample_id=f'{part}-{i:04d}', label=int(labels[i]), group='', **row)


def _prepare(args: argparse.Namespace) -> WriteReport:
    return make_uci_digits(
        args.raw, args.out, seed=args.seed, num_val=args.num_val, overwrite=args.overwrite
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see ``--help``."""
    parser = make_parser('uci_digits', (__doc__ or '').splitlines()[0], raw=True)
    parser.add_argument(
        '--num-val',
        type=int,
        default=300,
        metavar='N',
        help='validation samples, drawn from the 1,600 for training (default: 300)',
    )
    return run_cli(_prepare, parser, argv)


if __name__ == '__main__':
    sys.exit(main())
