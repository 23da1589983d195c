"""The raw layouts that need no special library: an index with files, and side-by-side PNGs."""

import csv
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .items import RgbdItem, Scenes, stamps_of

__all__ = ['SPLITS', 'Found', 'read_index_layout', 'read_scene_list', 'read_side_by_side']

SPLITS = {
    'train': 'train',
    'training': 'train',
    'val': 'val',
    'valid': 'val',
    'validation': 'val',
    'dev': 'val',
    'test': 'test',
    'testing': 'test',
}

#: split -> pairs
Found = dict[str, list[RgbdItem]]


def _split(name: str, where: str) -> str:
    split = SPLITS.get(name.strip().lower())
    if split is None:
        raise ValueError(f'{where}: unknown split {name!r}, expected train, val or test')
    return split


def read_index_layout(
    raw: Path, scenes: Scenes, depth_scale: str, left_out: dict[str, int]
) -> Found:
    """``index.csv`` with id, split, scene, scene_type, label, rgb, depth; paths relative to it.

    ``scene`` may be absent; of ``scene_type`` and ``label`` one is enough. Where both are given and
    contradict each other, the pair is unusable.

    Args:
        raw: folder of the index.
        scenes: classes.
        depth_scale: see ``RgbdItem``.
        left_out: counts scene types that are not a class of the dataset.

    Raises:
        FileNotFoundError: there is no index.
        ValueError: a column or field is missing, a split or label is unknown (names the line).
    """
    path = raw / 'index.csv'
    try:
        with path.open(encoding='utf-8-sig', newline='') as f:
            reader = csv.DictReader(f)
            columns = [c.strip() for c in reader.fieldnames or ()]
            reader.fieldnames = columns
            rows = [(reader.line_num, row) for row in reader]
    except FileNotFoundError as e:
        raise FileNotFoundError(f'{path} is missing: the index layout needs it') from e
    except (csv.Error, UnicodeDecodeError) as e:
        raise ValueError(f'{path} cannot be read as a csv file: {e}') from e
    lacking = [c for c in ('id', 'split', 'rgb', 'depth') if c not in columns]
    if not {'label', 'scene_type'} & set(columns):
        lacking.append('label (or scene_type)')
    if lacking:
        raise ValueError(f'{path} lacks {", ".join(lacking)}; it has {", ".join(columns)}')
    found: Found = {}
    for number, row in rows:
        item = _index_item(raw, row, f'{path} line {number}', scenes, depth_scale, left_out)
        if item is not None:
            found.setdefault(_split(row['split'] or '', f'{path} line {number}'), []).append(item)
    return found


def _index_item(
    raw: Path,
    row: Mapping[str, Any],
    where: str,
    scenes: Scenes,
    depth_scale: str,
    left_out: dict[str, int],
) -> RgbdItem | None:
    for column in ('id', 'split', 'rgb', 'depth'):
        if not (row[column] or '').strip():
            raise ValueError(f'{where}: {column} is empty')
    given = [(row.get(c) or '').strip() for c in ('label', 'scene_type')]
    names = [scenes.find(given[0], where)] if given[0] else []
    if given[1] and (not given[0] or scenes.knows(given[1])):
        names.append(scenes.find(given[1], where))
    if not names:
        raise ValueError(f'{where}: neither a label nor a scene type')
    if all(n is None for n in names):
        left_out[given[0] or given[1]] = left_out.get(given[0] or given[1], 0) + 1
        return None
    problem = ''
    if len(set(names)) > 1:
        problem = f'{where}: label {given[0]!r} and scene type {given[1]!r} contradict each other'
    identity = row['id'].strip()
    paths = tuple(str(raw / row[c].strip()) for c in ('rgb', 'depth'))
    return RgbdItem(
        sample_id=f'{int(identity):04d}' if identity.isdigit() else identity,
        label=scenes.classes.index(next(n for n in names if n is not None)),
        scene=(row.get('scene') or '').strip(),
        kind='pair',
        paths=paths,
        depth_scale=depth_scale,
        stamps=stamps_of(paths),
        problem=problem,
    )


def read_scene_list(path: Path) -> dict[str, str]:
    """id -> scene from a csv with these columns (``index.csv`` has them).

    An id is the whole id of a pair (``train/kitchen/0007``), its name, or its number alone.

    Raises:
        ValueError: a column is missing, or an id is listed with two scenes.
    """
    with path.open(encoding='utf-8-sig', newline='') as f:
        reader = csv.DictReader(f)
        if not {'id', 'scene'} <= set(reader.fieldnames or ()):
            raise ValueError(f'{path} needs the columns id and scene, has {reader.fieldnames}')
        found: dict[str, str] = {}
        for row in reader:
            name, scene = _plain(row['id']), row['scene'].strip()
            if found.setdefault(name, scene) != scene:
                raise ValueError(
                    f'{path} row {reader.line_num}: the id {row["id"]!r} has the scene {scene!r}, '
                    f'and {found[name]!r} before'
                )
        return found


def _plain(name: str) -> str:
    """A number without zeros in front; anything else as it is."""
    name = name.strip()
    return str(int(name)) if name.isdigit() else name


def _number(name: str) -> str:
    """``'0007'``, ``'img_7'`` -> ``'7'``; a name without a number stays."""
    digits = re.findall(r'\d+', name)
    return str(int(digits[-1])) if digits else name


def _scene(scene_of: Mapping[str, str], pair: str, path: Path, seen: dict[str, str]) -> str:
    """The scene of a pair by its id, its name or its number.

    Args:
        scene_of: of :func:`read_scene_list`.
        pair: its id.
        path: its file.
        seen: names that were used so far, and by which pair.
    """
    for name in (pair, _plain(path.stem), _number(path.stem)):
        if name in scene_of:
            other = seen.setdefault(name, pair)
            if other != pair:
                raise ValueError(
                    f'{path}: the list of scenes has {name!r} for {other} and {pair}: give whole '
                    f'ids in it, such as {pair}'
                )
            return scene_of[name]
    raise ValueError(f'{path}: its id {path.stem!r} is not in the list of scenes')


def read_side_by_side(
    raw: Path,
    scenes: Scenes,
    depth_scale: str,
    left_out: dict[str, int],
    scene_of: Mapping[str, str],
) -> Found:
    """``{train,val,test}/<class>/*.png``: colour in the left half, depth or HHA in the right.

    The id of a pair is ``<split>/<class>/<name>``: names may repeat between folders.

    Raises:
        ValueError: no folder is called as a split, or a class is unknown.
    """
    found: Found = {}
    seen: dict[str, str] = {}
    for folder in sorted(p for p in raw.iterdir() if p.is_dir() and p.name.lower() in SPLITS):
        split = SPLITS[folder.name.lower()]
        for kind in sorted(p for p in folder.iterdir() if p.is_dir()):
            name = scenes.find(kind.name, str(kind))
            files = sorted(p for p in kind.iterdir() if p.suffix.lower() == '.png')
            if name is None:
                left_out[kind.name] = left_out.get(kind.name, 0) + len(files)
                continue
            for path in files:
                pair = f'{split}/{name}/{path.stem}'
                scene = _scene(scene_of, pair, path, seen) if scene_of else ''
                found.setdefault(split, []).append(
                    RgbdItem(
                        sample_id=pair,
                        label=scenes.classes.index(name),
                        scene=scene,
                        kind='side',
                        paths=(str(path),),
                        depth_scale=depth_scale,
                        stamps=stamps_of([str(path)]),
                    )
                )
    if not found:
        raise ValueError(
            f'{raw} has no train/<class>/*.png, val/... or test/...: the side-by-side layout needs '
            'them'
        )
    return found
