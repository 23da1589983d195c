"""Folds of a prepared dataset, each with training, validation and test samples.

    python -m data_prep.folds --data data/nyud2 --out data/nyud2_folds --folds 5

For data without a test split of its own, or too small for one. All samples of ``--splits`` are
dealt into K parts of whole groups, about alike in every class; fold k tests on part k, validates on
part k + 1 and trains on the rest. A class with fewer than three groups cannot be in all three: its
groups are in every fold's training samples. ``OUT/0`` to ``OUT/K-1`` are prepared datasets.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __package__ in (None, ''):  # started as a file: make the package importable
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from cal_mm.seeding import sample_key
from data_prep.common import DatasetSpec, Sample, WriteReport, make_parser, run_cli, write_dataset
from data_prep.common.grouped import grouped_choice

if TYPE_CHECKING:
    from cal_mm.datasets.rows import ArrowRows

__all__ = ['deal', 'make_folds']

Place = tuple[str, int]


def deal(labels: Sequence[int], groups: Sequence[str], folds: int, seed: int = 0) -> list[int]:
    """The part of each row, in [0, folds), or -1 for always in training; a group lies in one part.

    Groups that hold a class with fewer than three groups get -1: a part without them would leave
    nothing to learn that class from.

    Args:
        labels: class of each row.
        groups: group of each row; an empty one stands for a group of its own.
        folds: K >= 3, so that something is left to train on.
        seed: of the draw.

    Raises:
        ValueError: fewer than three folds, or too few groups.
    """
    if folds < 3:
        raise ValueError(f'folds need at least 3 parts (train, val, test), got {folds}')
    names = [g or f'\0{i}' for i, g in enumerate(groups)]
    if len(set(names)) < folds:
        raise ValueError(f'{len(set(names))} groups cannot be dealt into {folds} parts')
    of_class: dict[int, set[str]] = {}
    for label, name in zip(labels, names, strict=True):
        of_class.setdefault(int(label), set()).add(name)
    kept = set().union(*(g for g in of_class.values() if len(g) < 3))
    part = np.full(len(labels), folds - 1)
    part[[n in kept for n in names]] = -1
    left = np.flatnonzero(part >= 0)
    if not len(left):
        raise ValueError('every class has fewer than three groups: nothing can be tested')
    rng = np.random.default_rng(sample_key(seed, 'folds', folds))
    for k in range(folds - 1):
        chosen = grouped_choice(
            [int(labels[int(i)]) for i in left],
            [names[int(i)] for i in left],
            1 / (folds - k),
            rng,
        )
        part[left[chosen]] = k
        left = np.delete(left, chosen)
    return part.tolist()


def make_folds(
    data: str | Path,
    out: str | Path,
    *,
    folds: int = 5,
    splits: Sequence[str] = ('train', 'val'),
    seed: int = 0,
    overwrite: bool = False,
    progress: bool = True,
) -> list[WriteReport]:
    """Prepare every fold.

    Args:
        data: a prepared dataset.
        out: folder that gets one prepared dataset per fold, ``0`` to ``folds - 1``.
        folds: K >= 3.
        splits: of ``data`` whose samples are dealt.
        seed: of the draw.
        overwrite: replace other datasets there.
        progress: show progress on a terminal.

    Raises:
        FileNotFoundError: there is no prepared dataset.
        LookupError: it has no such split.
        ValueError: see :func:`deal`.
    """
    # these load torch, which a spawned worker of another script must not
    from cal_mm.datasets.manifest import read_manifest
    from cal_mm.datasets.rows import ArrowRows

    manifest = read_manifest(str(data))
    for split in splits:
        if split not in manifest['splits']:
            raise LookupError(
                f'{data} has no split {split!r}, only {", ".join(manifest["splits"])}'
            )
    names = tuple(manifest['modalities'])
    rows = {s: ArrowRows(Path(data) / s, names) for s in splits}
    light = {s: rows[s].light(('sample_id', 'label', 'group')) for s in splits}
    places = [(s, i) for s in splits for i in range(len(light[s]['label']))]
    labels = [int(light[s]['label'][i]) for s, i in places]
    groups = [light[s]['group'][i] or '' for s, i in places]
    parts = deal(labels, groups, folds, seed)
    reports = []
    for fold in range(folds):
        roles = {fold: 'test', (fold + 1) % folds: 'val'}
        chosen: dict[str, list[Place]] = {'train': [], 'val': [], 'test': []}
        for place, part in zip(places, parts, strict=True):
            chosen[roles.get(part, 'train')].append(place)
        spec = DatasetSpec(
            name=manifest['name'],
            version=str(manifest['version']),
            protocol=f'fold {fold} of {folds} over {"+".join(splits)} of {manifest["protocol"]}',
            classes=manifest['classes'],
            modalities={m: _facts(manifest, rows, m, chosen['train']) for m in names},
            settings=dict(seed=seed, folds=folds, fold=fold, splits=list(splits)),
            facts=dict(source_digest=manifest['digest'], always_in_training=parts.count(-1)),
        )
        samples = {s: list(_samples(rows, light, chosen[s], names)) for s in chosen}
        reports.append(
            write_dataset(
                Path(out) / str(fold),
                spec,
                samples,
                source=manifest['digest'],
                overwrite=overwrite,
                progress=progress,
            )
        )
    return reports


def _facts(
    manifest: dict[str, Any], rows: dict[str, 'ArrowRows'], modality: str, train: list[Place]
) -> dict[str, Any]:
    """The modality's facts; mean and standard deviation are those of this fold's training part."""
    facts = dict(manifest['modalities'][modality])
    if 'mean' in facts:
        seen = [rows[s].row(i)[modality] for s, i in train]
        values = np.stack([v for v in seen if v is not None]).astype(np.float64)
        facts['mean'], facts['std'] = values.mean(axis=0).tolist(), values.std(axis=0).tolist()
    return facts


def _samples(
    rows: dict[str, 'ArrowRows'],
    light: dict[str, dict[str, list]],
    places: list[Place],
    names: tuple[str, ...],
) -> Iterator[Sample]:
    for split, i in places:
        columns = {k: v[i] for k, v in light[split].items()}
        yield dict(columns, **{m: rows[split].row(i)[m] for m in names})


def _prepare(args: argparse.Namespace) -> WriteReport:
    reports = make_folds(
        args.data,
        args.out,
        folds=args.folds,
        splits=args.splits,
        seed=args.seed,
        overwrite=args.overwrite,
    )
    for report in reports[:-1]:
        counts = ', '.join(f'{split} {n}' for split, n in report.counts.items())
        print(f'{report.out}: {counts}')
    return reports[-1]


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see ``--help``."""
    parser = make_parser('folds', (__doc__ or '').splitlines()[0], raw=False)
    parser.add_argument('--data', required=True, metavar='DIR', help='a prepared dataset')
    parser.add_argument('--folds', type=int, default=5, metavar='K', help='default: 5')
    parser.add_argument(
        '--splits', nargs='+', default=['train', 'val'], help='dealt out (default: train val)'
    )
    return run_cli(_prepare, parser, argv)


if __name__ == '__main__':
    sys.exit(main())
