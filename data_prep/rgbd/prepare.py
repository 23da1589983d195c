"""From the pairs of a layout to a prepared dataset: checks, validation part, manifest."""

import argparse
import hashlib
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cal_mm.seeding import sample_key
from data_prep.common import DatasetSpec, WriteReport, write_dataset
from data_prep.common.grouped import grouped_choice
from data_prep.common.splits import stratified_choice

from .items import DEPTH_MM, RgbdItem, Scenes, convert
from .layouts import Found, read_index_layout, read_scene_list, read_side_by_side

__all__ = ['PROTOCOLS', 'RgbdOptions', 'add_rgbd_arguments', 'options_of', 'prepare_rgbd']

PROTOCOLS = ('auto', 'scene-disjoint', 'published', 'stratified')
LAYOUTS = ('auto', 'index', 'side-by-side', 'mat')
MatReader = Callable[[Path, Scenes], Found]


@dataclass(frozen=True)
class RgbdOptions:
    """How a scene dataset is prepared.

    Attributes:
        layout: one of index, side-by-side, mat; auto: what is found.
        protocol: where the validation split comes from. ``published``: the raw files have one.
            ``scene-disjoint``: whole scenes of train. ``stratified``: single pairs of train, whose
            near-duplicates then stay in train. auto: the first of these that is possible.
        also: further raw folders of the same layout, such as one with the test pairs.
        scenes: csv with id and scene, for side-by-side files.
        depth_scale: metres per stored unit, or ``sunrgbd``; '': 1 / 25.5 for 8 bits, 0.001 for 16,
            and side-by-side files stay rendered images.
        val_share: share of the training pairs that becomes the validation split.
        drop_overlap: leave out training pairs whose scene or file is in the test split too.
        seed: of the validation draw.
    """

    layout: str = 'auto'
    protocol: str = 'auto'
    also: tuple[Path, ...] = ()
    scenes: Path | None = None
    depth_scale: str = ''
    val_share: float = 0.2
    drop_overlap: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS or self.protocol not in PROTOCOLS:
            raise ValueError(
                f'layout {self.layout!r} must be one of {", ".join(LAYOUTS)}, protocol '
                f'{self.protocol!r} one of {", ".join(PROTOCOLS)}'
            )
        if self.depth_scale and self.depth_scale != 'sunrgbd':
            try:
                good = 0 < float(self.depth_scale) < float('inf')
            except ValueError:
                good = False
            if not good:
                raise ValueError(
                    f'depth scale {self.depth_scale!r}: expected metres per unit, > 0, or sunrgbd'
                )


def prepare_rgbd(
    name: str,
    version: str,
    scenes: Scenes,
    raw: str | Path,
    out: str | Path,
    options: RgbdOptions,
    *,
    read_mat: MatReader | None = None,
    official: dict[str, int] | None = None,
    workers: int = 1,
    overwrite: bool = False,
    progress: bool = True,
) -> WriteReport:
    """Prepare a scene dataset with the modalities ``rgb`` and ``depth``.

    Args:
        name: of the dataset.
        version: of the preparation.
        scenes: its classes.
        raw: folder (or mat file).
        out: folder of the dataset.
        options: see there.
        read_mat: reader of the mat layout, if the dataset has one.
        official: numbers of pairs of the published splits, for the manifest.
        workers: processes that read and check the files.
        overwrite: replace another dataset at ``out``.
        progress: show progress on a terminal.

    Raises:
        FileNotFoundError: no known layout is at ``raw``.
        ValueError: a line, an id or an option is wrong.
    """
    raw = Path(raw)
    layout = _layout(raw, options.layout, read_mat is not None)
    scene_of = read_scene_list(options.scenes) if options.scenes else {}
    left_out: dict[str, int] = {}
    found: Found = {}
    for folder in (raw, *options.also):
        if layout == 'index':
            part = read_index_layout(folder, scenes, options.depth_scale, left_out)
        elif layout == 'side-by-side':
            part = read_side_by_side(folder, scenes, options.depth_scale, left_out, scene_of)
        elif read_mat is not None:
            part = read_mat(folder, scenes)
        else:
            raise ValueError(f'{name} has no mat layout')
        for split, items in part.items():
            found.setdefault(split, []).extend(items)
    _check_ids(name, found)
    checks = _checks(found)
    if options.drop_overlap:
        found, checks['dropped_from_train'] = _without_overlap(found, checks)
    pairs = {s: len(items) for s, items in found.items()}
    classes = {s: _per_class(items, scenes) for s, items in found.items()}
    protocol, found = _with_validation(name, found, options)
    rendered = layout == 'side-by-side' and not options.depth_scale
    depth = dict(kind='image', encoding='PNG', rendered=True) if rendered else DEPTH_MM
    spec = DatasetSpec(
        name=name,
        version=version,
        protocol=protocol,
        classes=scenes.classes,
        modalities=dict(rgb=dict(kind='image', encoding='as found'), depth=depth),
        settings=dict(
            layout=layout,
            protocol=protocol,
            depth='rendered' if rendered else 'native',
            depth_scale=options.depth_scale,
            val_share=options.val_share,
            drop_overlap=options.drop_overlap,
            seed=options.seed,
        ),
        facts=dict(
            raw_pairs=pairs,
            raw_pairs_per_class=classes,
            official_pairs=official or {},
            scenes={s: len({i.scene for i in items if i.scene}) for s, items in found.items()},
            left_out_scene_types=dict(sorted(left_out.items())),
            checks=checks,
        ),
    )
    return write_dataset(
        out,
        spec,
        {s: found[s] for s in ('train', 'val', 'test') if s in found},
        convert,
        tools=('pillow', 'h5py') if layout == 'mat' else ('pillow',),
        workers=workers,
        overwrite=overwrite,
        progress=progress,
    )


def _layout(raw: Path, wanted: str, has_mat: bool) -> str:
    if wanted != 'auto':
        return wanted
    if not raw.exists():
        raise FileNotFoundError(f'{raw} does not exist: --raw must be the folder of the raw files')
    if has_mat and (raw.suffix == '.mat' or any(raw.glob('*labeled*.mat'))):
        return 'mat'
    if (raw / 'index.csv').is_file():
        return 'index'
    if any((raw / s).is_dir() for s in ('train', 'val', 'test')):
        return 'side-by-side'
    raise FileNotFoundError(
        f'{raw} has none of the known layouts: index.csv; train/<class>/*.png'
        + ('; nyu_depth_v2_labeled.mat' if has_mat else '')
    )


def _check_ids(name: str, found: Found) -> None:
    if not any(found.values()):
        raise ValueError(f'{name}: the raw files hold no pair of a known class')
    seen: dict[str, str] = {}
    for split, items in found.items():
        for item in items:
            if item.sample_id in seen:
                raise ValueError(
                    f'{name}: the id {item.sample_id!r} occurs twice, in {seen[item.sample_id]} '
                    f'and in {split} ({item.paths[0]}): take the second out of the raw files'
                )
            seen[item.sample_id] = split


def _checks(found: Found) -> dict[str, Any]:
    """Scenes in more than one split, and files with the same content."""
    of_scene: dict[str, set[str]] = defaultdict(set)
    for split, items in found.items():
        for item in items:
            if item.scene:
                of_scene[item.scene].add(split)
    shared = {s: sorted(splits) for s, splits in sorted(of_scene.items()) if len(splits) > 1}
    return dict(scenes_in_several_splits=shared, identical_files=_identical(found))


def _identical(found: Found) -> list[list[str]]:
    """``split/id`` of pairs whose colour file has the same bytes; only equal sizes are read."""
    of_size: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for split, items in found.items():
        for item in items:
            if item.kind != 'mat' and item.stamps and item.stamps[0][0] > 0:
                of_size[item.stamps[0][0]].append((f'{split}/{item.sample_id}', item.paths[0]))
    of_digest: dict[str, list[str]] = defaultdict(list)
    for same in of_size.values():
        for key, path in same if len(same) > 1 else ():
            with open(path, 'rb') as f:
                of_digest[hashlib.file_digest(f, 'sha256').hexdigest()].append(key)
    return sorted(keys for keys in of_digest.values() if len(keys) > 1)


def _without_overlap(found: Found, checks: dict[str, Any]) -> tuple[Found, list[str]]:
    """``found`` without training pairs that share scene or content with a test pair."""
    scenes = {s for s, splits in checks['scenes_in_several_splits'].items() if 'test' in splits}
    twins = {
        key
        for keys in checks['identical_files']
        if any(k.startswith('test/') for k in keys)
        for key in keys
    }
    train = found.get('train', [])
    kept = [i for i in train if i.scene not in scenes and f'train/{i.sample_id}' not in twins]
    dropped = [i.sample_id for i in train if i not in kept]
    return {**found, 'train': kept} if train else found, dropped


def _with_validation(name: str, found: Found, options: RgbdOptions) -> tuple[str, Found]:
    """The protocol that was followed, and the splits with a validation part."""
    train = found.get('train', [])
    wanted = options.protocol
    known = bool(train) and all(i.scene for i in train)
    if wanted == 'auto':
        wanted = 'published' if 'val' in found else 'scene-disjoint' if known else 'stratified'
        if wanted == 'stratified' and train:
            print(
                f'{name}: the scenes are not known, so single pairs of train are drawn for '
                'validation and near-duplicates stay in train: its accuracy will be too high. '
                'Give --scenes FILE for a scene-disjoint one.',
                file=sys.stderr,
            )
    if not train:
        return 'published', found
    if wanted == 'published':
        if 'val' not in found:
            raise ValueError(
                f'{name}: protocol published needs a validation split in the raw files'
            )
        return wanted, found
    if 'val' in found:  # drawn anew from both parts
        train = train + found['val']
    rows = _rows(name, train, options, wanted, all(i.scene for i in train))
    chosen = set(rows)
    parts = dict(
        train=[x for i, x in enumerate(train) if i not in chosen],
        val=[train[i] for i in rows],
    )
    return wanted, {**found, **parts}


def _rows(
    name: str, train: Sequence[RgbdItem], options: RgbdOptions, protocol: str, known: bool
) -> list[int]:
    if protocol == 'scene-disjoint':
        if not known:
            lacks = next(i for i in train if not i.scene)
            raise ValueError(
                f'{name}: protocol scene-disjoint needs the scene of every training pair, '
                f'{lacks.sample_id} has none: give --scenes FILE or --protocol stratified'
            )
        # by id, so that the draw is the same for every layout
        order = sorted(range(len(train)), key=lambda i: train[i].sample_id)
        rng = np.random.default_rng(sample_key(options.seed, name, 'val'))
        rows = grouped_choice(
            [train[i].label for i in order],
            [train[i].scene for i in order],
            options.val_share,
            rng,
        )
        return sorted(order[i] for i in rows)
    labels = np.array([i.label for i in train], dtype=np.int64)
    rng = np.random.default_rng(sample_key(options.seed, name, 'val', 'stratified'))
    count = max(1, round(options.val_share * len(train)))
    return [int(i) for i in stratified_choice(labels, count, rng)]


def _per_class(items: Sequence[RgbdItem], scenes: Scenes) -> dict[str, int]:
    counts = Counter(scenes.classes[i.label] for i in items)
    return {c: counts[c] for c in scenes.classes}


def add_rgbd_arguments(parser: argparse.ArgumentParser, layouts: Sequence[str]) -> None:
    """The options of :class:`RgbdOptions` on a command line."""
    parser.add_argument('--layout', choices=layouts, default='auto')
    parser.add_argument(
        '--protocol',
        choices=PROTOCOLS,
        default='auto',
        help='where the validation split comes from: the raw files, whole scenes of train, or '
        'single pairs of train (default: the first that is possible)',
    )
    parser.add_argument(
        '--also',
        type=Path,
        nargs='+',
        default=[],
        metavar='DIR',
        help='further folders of the same layout, such as one with the test pairs',
    )
    parser.add_argument(
        '--scenes', type=Path, metavar='CSV', help='id and scene of side-by-side files'
    )
    parser.add_argument(
        '--depth-scale',
        default='',
        metavar='METRES',
        help='metres per unit of the depth files, or sunrgbd (millimetres turned by three bits); '
        'default: 1/25.5 for 8 bits, 0.001 for 16 bits; side-by-side: stays a rendered image',
    )
    parser.add_argument('--val-share', type=float, default=0.2, metavar='SHARE', help='of train')
    parser.add_argument(
        '--drop-overlap',
        action='store_true',
        help='leave out training pairs whose scene or file is in test too',
    )


def options_of(args: argparse.Namespace) -> RgbdOptions:
    """The parsed options."""
    return replace(
        RgbdOptions(),
        layout=args.layout,
        protocol=args.protocol,
        also=tuple(args.also),
        scenes=args.scenes,
        depth_scale=args.depth_scale,
        val_share=args.val_share,
        drop_overlap=args.drop_overlap,
        seed=args.seed,
    )
