"""Kinetics-Sounds: 31 classes of Kinetics-400 that can be seen and heard, 10 s videos.

    python -m data_prep.kinetics_sounds --raw DIR --out data/kinetics_sounds

``DIR`` holds ``<split>/<class>/<YouTube id>_<start>_<end>.mp4``, or the files of a split without
class folders and Kinetics' csv files. ``docs/datasets/kinetics_sounds.md`` has the protocols.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

if __package__ in (None, ''):  # started as a file: make the package importable
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from data_prep.av_parts import (
    Clip,
    ClipOptions,
    add_clip_arguments,
    carve_rows,
    draw_val,
    prepare_clips,
    shared_arguments,
)
from data_prep.av_parts.kinetics import (
    CLASSES,
    Segment,
    Store,
    index_media,
    read_csvs,
    read_lists,
)
from data_prep.common import WriteReport, make_parser, run_cli
from data_prep.common.keys import generator

__all__ = ['PROTOCOLS', 'make_kinetics_sounds']

VERSION = '1'
PROTOCOLS = ('published', 'kinetics', 'random')
SAMPLE_RATE = 16000


def make_kinetics_sounds(
    raw: str | Path,
    out: str | Path,
    *,
    protocol: str = 'auto',
    split_list: Sequence[str] = (),
    csv_files: Sequence[str] = (),
    val_share: float = 0.1,
    seed: int = 0,
    options: ClipOptions | None = None,
    repair: bool = False,
    workers: int = 1,
    overwrite: bool = False,
    progress: bool = True,
    **kwargs: Any,
) -> WriteReport:
    """Prepare Kinetics-Sounds.

    Args:
        raw: folder of the videos.
        out: folder of the dataset.
        protocol: ``published`` (needs ``split_list``), ``kinetics`` (Kinetics' own splits, from the
            folders or the csv files), ``random`` (80 / 10 / 10, every class in proportion, no video
            in two splits), or ``auto``: the first of these that the files allow.
        split_list: ``SPLIT=FILE`` entries; a line is ``name,seconds,class index``.
        csv_files: Kinetics' csv files; by default those in ``raw`` and ``raw/annotations``.
        val_share: of train that becomes val where there is none.
        seed: of what is drawn.
        options: how clips are decoded; 16,000 Hz and 1 picture per second by default.
        repair: see ``--repair``.
        workers: processes that decode.
        overwrite: replace another dataset at ``out``.
        progress: show progress on a terminal.
        kwargs: passed on to ``prepare_clips``.

    Raises:
        FileNotFoundError: ``raw`` is no folder.
        ValueError: nothing was found, or a list cannot be understood.
    """
    raw = Path(raw)
    if protocol not in ('auto', *PROTOCOLS):
        raise ValueError(f'protocol {protocol!r}: expected one of auto, {", ".join(PROTOCOLS)}')
    if protocol == 'auto' and split_list:
        protocol = 'published'
    if bool(split_list) != (protocol == 'published'):
        raise ValueError(f'protocol {protocol!r}: --split-list goes with published, and only there')
    store = index_media(raw)
    labels = {segment: index for _, index, segment in store.placed}
    if split_list:
        lists = read_lists(split_list)
        splits = {s: [_clip(store, raw, *e, labels) for e in part] for s, part in lists.items()}
    else:
        protocol, splits = _own_splits(raw, store, csv_files, protocol, seed, labels)
    splits = draw_val(splits, val_share, generator(seed, 'kinetics_sounds', 'val'), by='group')
    return prepare_clips(
        out,
        splits,
        name='kinetics_sounds',
        version=VERSION,
        protocol=protocol,
        classes=CLASSES,
        options=options or ClipOptions(sample_rate=SAMPLE_RATE),
        settings=dict(seed=seed, val_share=val_share),
        facts=dict(
            files_found=len(store.paths),
            names_not_understood=store.odd,
            replaced=store.replaced,
            group='video',
        ),
        groups='videos',
        repaired=repair,
        workers=workers,
        overwrite=overwrite,
        progress=progress,
        **kwargs,
    )


def _clip(
    store: Store, raw: Path, segment: Segment, label: int, labels: dict[Segment, int]
) -> Clip:
    """A clip of a list; its file may be missing, which is then reported."""
    path = store.find(segment)
    where = str(path or raw / '*' / CLASSES[label] / f'{segment.name}.mp4')
    folder = labels.get(segment, label)
    return Clip(
        segment.name,
        segment.name,
        label,
        segment.video,
        where,
        where,
        other_label=None if folder == label else folder,
    )


def _own_splits(
    raw: Path,
    store: Store,
    csv_files: Sequence[str],
    protocol: str,
    seed: int,
    labels: dict[Segment, int],
) -> tuple[str, dict[str, list[Clip]]]:
    """Name of the protocol and splits, from csv files, or else from folders."""
    rows = read_csvs(raw, csv_files) or store.placed
    if not rows:
        raise ValueError(
            f'{raw}: found no video in a folder of one of the {len(CLASSES)} classes, '
            '<split>/<class>/<id>_<start>_<end>.mp4, and no csv with the columns label, '
            f'youtube_id, time_start, split; {len(store.paths)} videos stand elsewhere'
        )
    named = {split for split, _, _ in rows}
    if protocol == 'random' or not {'train'} < named:
        if protocol == 'kinetics':
            raise ValueError(
                f'{raw}: protocol kinetics needs train and test or val, found '
                f'{", ".join(sorted(named - {""})) or "no split"}; use --protocol random'
            )
        unique = list({segment: (segment, index) for _, index, segment in rows}.values())
        return 'random', _random([_clip(store, raw, *e, labels) for e in unique], seed)
    if '' in named:
        loose = sorted({CLASSES[index] for split, index, _ in rows if not split})
        raise ValueError(
            f'{raw}: the folders of {", ".join(loose)} stand outside train, val and test: move '
            'them into a split, or use --protocol random'
        )
    splits: dict[str, list[Clip]] = {s: [] for s in ('train', 'val', 'test') if s in named}
    for split, index, segment in rows:
        splits[split].append(_clip(store, raw, segment, index, labels))
    if 'test' in splits:
        return 'kinetics', splits
    # Kinetics' test labels are often left out; its validation split is then the test split
    return 'kinetics, val as test', dict(train=splits['train'], test=splits['val'])


def _random(clips: Iterable[Clip], seed: int) -> dict[str, list[Clip]]:
    every = list(clips)
    count = max(1, round(0.1 * len(every)))
    rng = generator(seed, 'kinetics_sounds', 'random')
    rest, test = carve_rows(every, count, rng, by='group')
    train, val = carve_rows(rest, count, rng, by='group')
    return dict(train=train, val=val, test=test)


def _prepare(args: argparse.Namespace) -> WriteReport:
    return make_kinetics_sounds(
        args.raw,
        args.out,
        csv_files=args.csv,
        **shared_arguments(args),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see ``--help``."""
    parser = make_parser('kinetics_sounds', (__doc__ or '').splitlines()[0], raw=True)
    add_clip_arguments(parser, protocols=PROTOCOLS, sample_rate=SAMPLE_RATE)
    parser.add_argument(
        '--csv',
        nargs='+',
        default=[],
        metavar='FILE',
        help="Kinetics' csv files (default: those in DIR and DIR/annotations)",
    )
    return run_cli(_prepare, parser, argv)


if __name__ == '__main__':
    sys.exit(main())
