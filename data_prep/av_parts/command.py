"""The command line of the audio-video datasets, and their last step."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from data_prep.common import DatasetSpec, WriteReport, write_dataset
from data_prep.common.video import FrameOptions

from .audit import Finding, audit, repair, unique_ids
from .clips import Clip, ClipOptions, convert, stamp

__all__ = ['add_clip_arguments', 'prepare_clips', 'shared_arguments']

TOOLS = ('av', 'pillow')
SHARD_SIZE = 256


def add_clip_arguments(
    parser: argparse.ArgumentParser, *, protocols: Sequence[str], sample_rate: int
) -> None:
    """Options that all of them have."""
    parser.add_argument(
        '--protocol',
        choices=['auto', *protocols],
        default='auto',
        help='where the splits come from (default: auto, the first that the files allow)',
    )
    parser.add_argument(
        '--split-list',
        nargs='+',
        default=[],
        metavar='SPLIT=FILE',
        help='published lists, such as train=train.csv test=test.csv (or names that tell)',
    )
    parser.add_argument(
        '--val-share',
        type=float,
        default=0.1,
        metavar='S',
        help='share of train that becomes val where there is none (default: 0.1)',
    )
    parser.add_argument(
        '--fps', type=float, default=1.0, help='pictures per second that are kept (default: 1)'
    )
    parser.add_argument(
        '--short-side',
        type=int,
        default=256,
        metavar='PIXELS',
        help='larger pictures are reduced to this shorter side (default: 256)',
    )
    parser.add_argument(
        '--sample-rate',
        type=int,
        default=sample_rate,
        metavar='HZ',
        help=f'of the sound that is kept (default: {sample_rate})',
    )
    parser.add_argument(
        '--repair',
        action='store_true',
        help='drop duplicates and ids of val or test from train, correct contradicted labels',
    )
    parser.add_argument(
        '--keep-partial',
        action='store_true',
        help='keep a clip without usable pictures, or without usable sound, with that one missing',
    )
    parser.add_argument(
        '--accept-truncated',
        action='store_true',
        help='take what can be decoded of a truncated or damaged file',
    )


def shared_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """What the command line says that every ``make_...`` takes."""
    options = ClipOptions(
        frames=FrameOptions(fps=args.fps, short_side=args.short_side),
        sample_rate=args.sample_rate,
        keep_partial=args.keep_partial,
        accept_truncated=args.accept_truncated,
    )
    names = ('protocol', 'split_list', 'val_share', 'seed', 'repair', 'workers', 'overwrite')
    return {**{name: getattr(args, name) for name in names}, 'options': options}


def prepare_clips(
    out: str | Path,
    splits: Mapping[str, Sequence[Clip]],
    *,
    name: str,
    version: str,
    protocol: str,
    classes: Sequence[str],
    options: ClipOptions,
    settings: Mapping[str, Any],
    facts: Mapping[str, Any],
    groups: str = '',
    repaired: bool = False,
    workers: int = 1,
    overwrite: bool = False,
    progress: bool = True,
    shard_size: int = SHARD_SIZE,
) -> WriteReport:
    """Check the lists, say what was found, repair when asked, decode and write.

    What was found goes to stderr and, in full, into the manifest under ``facts.checks``.

    Args:
        out: folder of the dataset.
        splits: train, val and test.
        name: of the dataset.
        version: of the preparation.
        protocol: where the splits come from, for the manifest.
        classes: names.
        options: how clips are decoded.
        settings: what else the result depends on.
        facts: for readers of the manifest.
        groups: see :func:`audit`.
        repaired: whether to repair.
        workers: processes that decode.
        overwrite: replace another dataset at ``out``.
        progress: show progress on a terminal.
        shard_size: clips per file; a killed run loses at most one file's work.
    """
    stamped = {s: [_completed(c, options) for c in clips] for s, clips in splits.items()}
    found = audit(stamped, groups)
    odd = tuple(facts.get('names_not_understood', ()))
    if odd:
        found.append(Finding('files whose name is no id of this dataset, left out', odd))
    for finding in found:
        print(f'check: {finding}', file=sys.stderr)
    listed = {s: len(clips) for s, clips in stamped.items()}
    if repaired:
        stamped = repair(stamped)
    _check_usable(name, stamped)
    spec = DatasetSpec(
        name=name,
        version=version,
        protocol=protocol + (', repaired' if repaired else ''),
        classes=classes,
        modalities=dict(
            audio=dict(kind='waveform', sample_rate=options.sample_rate),
            image=dict(kind='image', frames=True, fps=options.frames.fps, encoding='jpeg'),
        ),
        settings={**settings, 'repair': repaired, 'clips': asdict(options)},
        facts={
            **facts,
            'listed': listed,
            'checks': {f.name: {'count': len(f.ids), 'ids': list(f.ids)} for f in found},
        },
    )
    return write_dataset(
        out,
        spec,
        unique_ids(stamped),
        convert,
        tools=TOOLS,
        workers=workers,
        overwrite=overwrite,
        shard_size=shard_size,
        progress=progress,
    )


def _check_usable(name: str, splits: Mapping[str, Sequence[Clip]]) -> None:
    """A split without any file means a wrong folder, not bad clips."""
    for split, clips in splits.items():
        if not clips:
            raise ValueError(f'{name}: the split {split} is empty')
        if all(c.missing for c in clips):
            lost = clips[0].video if clips[0].stamps[0] == (-1, -1) else clips[0].audio
            raise FileNotFoundError(
                f'{name}: none of the {len(clips)} clips of {split} has its files, the first lacks '
                f'{lost}: is --raw right?'
            )


def _completed(clip: Clip, options: ClipOptions) -> Clip:
    return replace(clip, options=options, stamps=(stamp(clip.video), stamp(clip.audio)))
