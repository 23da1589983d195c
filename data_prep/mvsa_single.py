"""MVSA-Single: image and tweet, three sentiments.

    python -m data_prep.mvsa_single --raw DIR --out data/mvsa_single

Two layouts of ``DIR`` are read:

* ``jsonl``: ``train.jsonl``, ``dev.jsonl``, ``test.jsonl`` (id, label, text, img) and the images.
  The published split is kept: 1,555 / 518 / 519.
* ``raw``: ``data/<id>.jpg``, ``data/<id>.txt`` and ``labelResultAll.txt``. ``--rule agree`` keeps
  the pairs whose text and image label are equal (2,592), ``classic`` drops positive against
  negative and takes the label that is not neutral (4,511). Splits from ``--split-list``, or drawn
  60 / 20 / 20.

Classes in this order: positive, negative, neutral.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __package__ in (None, ''):  # started as a file: make the package importable
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from data_prep.common import DatasetSpec, WriteReport, make_parser, run_cli, write_dataset
from data_prep.mvsa_parts import (
    CLASSES,
    RULES,
    convert,
    duplicates,
    read_jsonl_layout,
    read_raw_layout,
)

__all__ = ['make_mvsa_single']

JSONL_FILES = {'train': 'train.jsonl', 'val': 'dev.jsonl', 'test': 'test.jsonl'}


def make_mvsa_single(
    raw: str | Path,
    out: str | Path,
    *,
    layout: str = 'auto',
    rule: str = 'agree',
    split_list: Sequence[str] = (),
    seed: int = 0,
    workers: int = 1,
    overwrite: bool = False,
    progress: bool = True,
) -> WriteReport:
    """Prepare MVSA-Single.

    Args:
        raw: folder of the raw files.
        out: folder of the dataset.
        layout: ``jsonl``, ``raw``, or ``auto`` for what is found, ``jsonl`` first.
        rule: ``agree`` or ``classic``; only for ``raw``.
        split_list: ``SPLIT=FILE`` entries with ids (train, val, test); only for ``raw``. Without
            one for ``val``, a tenth of ``train`` is drawn for it.
        seed: of the draw of splits; only for ``raw``.
        workers: processes that read and check the images.
        overwrite: replace another dataset at ``out``.
        progress: show progress on a terminal.

    Raises:
        FileNotFoundError: a file of the layout is missing.
        ValueError: a line cannot be understood, or an option does not fit the layout.
    """
    raw = Path(raw)
    layout = _layout(raw, layout)
    settings: dict[str, Any] = dict(layout=layout)
    facts: dict[str, Any] = {}
    if layout == 'jsonl':
        if split_list or rule != 'agree':
            raise ValueError(
                f'{raw} has the jsonl layout, whose published split follows the rule agree: '
                '--split-list and --rule go with --layout raw'
            )
        splits = read_jsonl_layout(raw, JSONL_FILES)
        protocol = 'agree, published split (QMF)'
    else:
        splits, facts = read_raw_layout(raw, rule, split_list, seed)
        settings.update(rule=rule, split_list=bool(split_list), seed=seed)
        protocol = f'{rule}, {"split list" if split_list else "drawn split"}'
    facts['checks'] = dict(duplicates=duplicates(splits))
    spec = DatasetSpec(
        name='mvsa_single',
        version='1',
        protocol=protocol,
        classes=CLASSES,
        modalities=dict(image=dict(kind='image', encoding='as found'), text=dict(kind='text')),
        settings=settings,
        facts=facts,
    )
    return write_dataset(
        out,
        spec,
        splits,
        convert,
        tools=('pillow',),
        workers=workers,
        overwrite=overwrite,
        progress=progress,
    )


def _layout(raw: Path, wanted: str) -> str:
    jsonl = [name for name in JSONL_FILES.values() if (raw / name).is_file()]
    table = (raw / 'labelResultAll.txt').is_file()
    if wanted == 'auto':
        if len(jsonl) == len(JSONL_FILES):
            return 'jsonl'
        if table:
            return 'raw'
        raise FileNotFoundError(
            f'{raw} has neither {", ".join(JSONL_FILES.values())} (found: {jsonl or "none"}) nor '
            'labelResultAll.txt: --raw must be the folder that holds them and data/'
        )
    if wanted not in ('jsonl', 'raw'):
        raise ValueError(f'layout {wanted!r}: expected auto, jsonl or raw')
    return wanted


def _prepare(args: argparse.Namespace) -> WriteReport:
    return make_mvsa_single(
        args.raw,
        args.out,
        layout=args.layout,
        rule=args.rule,
        split_list=args.split_list,
        seed=args.seed,
        workers=args.workers,
        overwrite=args.overwrite,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see ``--help``."""
    parser = make_parser('mvsa_single', (__doc__ or '').splitlines()[0], raw=True)
    parser.add_argument('--layout', choices=['auto', 'jsonl', 'raw'], default='auto')
    parser.add_argument(
        '--rule', choices=RULES, default='agree', help='how two labels become one (raw layout)'
    )
    parser.add_argument(
        '--split-list',
        nargs='+',
        default=[],
        metavar='SPLIT=FILE',
        help='files with the ids of train, val and test (raw layout)',
    )
    return run_cli(_prepare, parser, argv)


if __name__ == '__main__':
    sys.exit(main())
