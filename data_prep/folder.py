"""Your own data: a csv or jsonl table with a column per modality, a label and a split.

    python -m data_prep.folder --table my.csv --out data/mine --label emotion --split split \\
        --modality image=image:photo audio=waveform:wav text=text:caption feat=features:f1,f2,f3

``--modality NAME=KIND:COLUMN[,COLUMN...]``. Kinds:

* ``image``, ``depth``, ``waveform``: the column holds a path, relative to the table's folder.
* ``text``: the text itself; ``textfile``: the path of a text file.
* ``features``: several columns with a number each; or one column with a number, a JSON list (a
  plain list in jsonl), or the path of a .npy file with one row of numbers [D]. A window [T, D] is
  saved flattened (array.reshape(-1)); an encoder of yours restores the shape. Samples of another
  length than the most frequent one are left out.

An empty cell (null in jsonl) is a missing modality. Splits are train, val and test (dev, valid and
validation count as val); a table without a column split is all train, for data_prep.folds. Without
a val split, a tenth of train is drawn for it, of whole groups if there are any.
"""

import argparse
import hashlib
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

if __package__ in (None, ''):  # started as a file: make the package importable
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from cal_mm.seeding import sample_key
from data_prep.common import DatasetSpec, WriteReport, make_parser, run_cli, write_dataset
from data_prep.common.grouped import grouped_choice
from data_prep.common.splits import stratified_choice
from data_prep.folder_parts import Item, Row, Source, Table, convert, parse_source, read_table

__all__ = ['make_folder']

SPLITS = {
    'train': 'train',
    'training': 'train',
    'val': 'val',
    'valid': 'val',
    'validation': 'val',
    'dev': 'val',
    'test': 'test',
}


def make_folder(
    table: str | Path,
    out: str | Path,
    modalities: Sequence[str],
    *,
    label: str = 'label',
    split: str | None = None,
    sample_id: str | None = None,
    group: str | None = None,
    classes: Sequence[str] | None = None,
    name: str | None = None,
    seed: int = 0,
    workers: int = 1,
    overwrite: bool = False,
    progress: bool = True,
) -> WriteReport:
    """Prepare the dataset that a table describes.

    Args:
        table: csv, tsv or jsonl file, UTF-8.
        out: folder of the dataset.
        modalities: entries ``NAME=KIND:COLUMN[,COLUMN...]``.
        label: column of the label; its texts are the class names.
        split: column of the split. None: ``'split'`` if there is one, else every row is train.
        sample_id: column of the id; by default ``row-N`` with the line number.
        group: column of the group (actor, scene), kept for grouped folds; a validation split that
            is drawn here takes whole groups.
        classes: class names in their order; by default the labels that occur, sorted (as numbers
            when all of them are).
        name: of the dataset; by default the table's name.
        seed: of the draw of a validation split.
        workers: processes that read and check the files.
        overwrite: replace another dataset at ``out``.
        progress: show progress on a terminal.

    Raises:
        FileNotFoundError: the table is missing.
        ValueError: a cell, with row and column; an option; a duplicate id. Media that cannot be
            read are no error: the sample is left out and listed under ``bad``; a split that has
            no other samples is one.
    """
    path = Path(table)
    sources = _sources(modalities)
    data = read_table(path)
    if split is None and 'split' in data.columns:
        split = 'split'
    if split is None:
        print(
            f"note: {path} has no column 'split' and --split names no other: every row counts as "
            'train; data_prep.folds makes folds with test parts of it',
            file=sys.stderr,
        )
    used = [label, *(c for c in (split, sample_id, group) if c)]
    data.require([*used, *(c for s in sources.values() for c in s.columns)])
    names = _class_names(data, label, classes)
    items = _items(data, sources, names, label, split, sample_id, group)
    drawn = 'val' not in items
    if drawn:
        _draw_val(items, seed)
    elif group:
        _report_straddling(path, group, items)
    facts = _facts(sources, items)
    spec = DatasetSpec(
        name=name or path.stem,
        version='2',
        protocol='splits of the table' + (', val drawn from train' if drawn else ''),
        classes=names,
        modalities=facts,
        settings=dict(
            modalities=sorted(modalities),
            columns=[label, split, sample_id, group],
            seed=seed if drawn else None,
        ),
        facts=dict(table_sha256=hashlib.sha256(path.read_bytes()).hexdigest()),
    )
    return write_dataset(
        out,
        spec,
        {s: items[s] for s in ('train', 'val', 'test') if s in items},
        partial(convert, shapes={m: f['shape'] for m, f in facts.items() if 'shape' in f}),
        tools=('pillow', 'soundfile'),
        workers=workers,
        overwrite=overwrite,
        progress=progress,
    )


def _sources(entries: Sequence[str]) -> dict[str, Source]:
    sources: dict[str, Source] = {}
    for entry in entries:
        name, source = parse_source(entry)
        if name in sources:
            raise ValueError(f'--modality {entry!r}: the modality {name!r} is given twice')
        sources[name] = source
    if not sources:
        raise ValueError('at least one --modality NAME=KIND:COLUMN is needed')
    return sources


def _class_names(data: Table, label: str, classes: Sequence[str] | None) -> list[str]:
    found = {data.text(row, label) for row in data.rows} - {''}
    if classes is not None:
        return list(classes)
    try:
        return sorted(found, key=float)
    except ValueError:
        return sorted(found)


def _items(
    data: Table,
    sources: Mapping[str, Source],
    names: Sequence[str],
    label: str,
    split: str | None,
    sample_id: str | None,
    group: str | None,
) -> dict[str, list[Item]]:
    items: dict[str, list[Item]] = {}
    seen: dict[str, int] = {}
    for row in data.rows:
        part = 'train' if split is None else _split_of(data, row, split)
        found = data.text(row, label)
        if found not in names:
            raise ValueError(
                f'{data.at(row, label)}: unknown label {found!r}, expected one of '
                f'{", ".join(names)}'
            )
        one = data.text(row, sample_id) if sample_id else f'row-{row.line}'
        if not one or one in seen:
            other = f' is that of row {seen[one]} already' if one else ' is empty'
            raise ValueError(f'{data.at(row, sample_id or "")}: the sample id {one!r}{other}')
        seen[one] = row.line
        values = {m: s.read(data, row) for m, s in sources.items()}
        item = Item(one, names.index(found), data.text(row, group) if group else '', values)
        items.setdefault(part, []).append(item)
    if 'train' not in items:
        raise ValueError(f'{data.path}: no row has the split train (column {split!r})')
    return items


def _split_of(data: Table, row: Row, column: str) -> str:
    found = SPLITS.get(data.text(row, column).lower())
    if found is None:
        raise ValueError(
            f'{data.at(row, column)}: unknown split {data.text(row, column)!r}, expected one of '
            f'{", ".join(SPLITS)}'
        )
    return found


def _facts(
    sources: Mapping[str, Source], items: Mapping[str, Sequence[Item]]
) -> dict[str, dict[str, Any]]:
    every = [item for part in items.values() for item in part]
    facts = {
        m: s.facts([i.values[m] for i in every], [i.values[m] for i in items['train']])
        for m, s in sources.items()
    }
    for name, found in facts.items():
        if 'sample_rates' in found:
            rates = ', '.join(map(str, found['sample_rates']))
            print(
                f'note: the files of {name} have sample rates of {rates} Hz; load them with '
                'LoadAudio(sample_rate=...), which resamples each',
                file=sys.stderr,
            )
    return facts


def _report_straddling(path: Path, column: str, items: Mapping[str, Sequence[Item]]) -> None:
    """Say which groups lie in several splits of the table."""
    where: dict[str, list[str]] = {}
    for part, found in items.items():
        for group in {item.group for item in found} - {''}:
            where.setdefault(group, []).append(part)
    shared = {g: parts for g, parts in sorted(where.items()) if len(parts) > 1}
    if shared:
        group, parts = next(iter(shared.items()))
        print(
            f'note: {len(shared)} of the {len(where)} groups of {path} (column {column!r}) lie in '
            f'several splits, such as {group!r} in {" and ".join(parts)}: what is measured on one '
            'of them is not independent of the other',
            file=sys.stderr,
        )


def _draw_val(items: dict[str, list[Item]], seed: int) -> None:
    """Move a tenth of train to val, every class in proportion and groups as wholes."""
    train = items['train']
    labels = np.array([item.label for item in train], dtype=np.int64)
    if len(train) < 2:
        raise ValueError('there is no val split, and train has too few samples to draw one from')
    rng = np.random.default_rng(sample_key(seed, 'folder', 'val'))
    if any(item.group for item in train):
        groups = [(item.group, '' if item.group else item.sample_id) for item in train]
        chosen = set(grouped_choice(labels.tolist(), groups, 0.1, rng))
    else:
        chosen = set(stratified_choice(labels, max(1, round(0.1 * len(train))), rng).tolist())
    items['val'] = [item for i, item in enumerate(train) if i in chosen]
    items['train'] = [item for i, item in enumerate(train) if i not in chosen]


def _prepare(args: argparse.Namespace) -> WriteReport:
    return make_folder(
        args.table,
        args.out,
        args.modality,
        label=args.label,
        split=args.split,
        sample_id=args.id,
        group=args.group,
        classes=args.classes.split(',') if args.classes else None,
        name=args.name,
        seed=args.seed,
        workers=args.workers,
        overwrite=args.overwrite,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see ``--help``."""
    parser = make_parser('folder', __doc__ or '', raw=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument('--table', type=Path, required=True, metavar='FILE', help='csv, tsv, jsonl')
    parser.add_argument(
        '--modality',
        nargs='+',
        action='extend',
        required=True,
        metavar='NAME=KIND:COLUMN',
        help='see above; may be given several times',
    )
    parser.add_argument('--label', default='label', metavar='COLUMN')
    parser.add_argument(
        '--split', metavar='COLUMN', help='default: split if there is one, else all is train'
    )
    parser.add_argument('--id', metavar='COLUMN', help='default: the line number')
    parser.add_argument(
        '--group',
        metavar='COLUMN',
        help='actor, scene, ... that no two parts may share (default: none)',
    )
    parser.add_argument('--classes', metavar='A,B,...', help='default: the labels found, sorted')
    parser.add_argument('--name', help="of the dataset (default: the table's name)")
    return run_cli(_prepare, parser, argv)


if __name__ == '__main__':
    sys.exit(main())
