"""The two layouts of MVSA-Single, read into pairs; a pair becomes a sample."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cal_mm.seeding import sample_key
from data_prep.common import BadSampleError, Sample
from data_prep.common.media import check_image, read_file
from data_prep.common.splits import read_split_list, stratified_choice, stratified_splits
from data_prep.common.texts import decode_text

__all__ = [
    'CLASSES',
    'RULES',
    'Pair',
    'convert',
    'duplicates',
    'joint_label',
    'read_jsonl_layout',
    'read_label_table',
    'read_raw_layout',
]

CLASSES = ('positive', 'negative', 'neutral')
RULES = ('agree', 'classic')


@dataclass(frozen=True)
class Pair:
    """One image with its text.

    Attributes:
        sample_id: id of the pair.
        label: index into :data:`CLASSES`.
        image: path.
        text: the text itself, or None when it is in ``text_file``.
        text_file: path, or None.
        stamps: size and time of change of the files, so that a resumed run sees a changed one.
    """

    sample_id: str
    label: int
    image: str
    text: str | None
    text_file: str | None
    stamps: tuple[tuple[int, int], ...]


def stamp(path: Path) -> tuple[int, int]:
    """Size in bytes and time of change in ns; (-1, -1) for a file that is not there."""
    try:
        found = path.stat()
    except OSError:
        return (-1, -1)
    return (found.st_size, found.st_mtime_ns)


def convert(pair: Pair) -> Sample:
    """Read and check the files of a pair.

    Raises:
        BadSampleError: a file is missing or empty, or the image does not decode.
    """
    data = read_file(pair.sample_id, Path(pair.image))
    check_image(pair.sample_id, data, pair.image)
    text = pair.text
    if text is None:
        text = _read_text(pair).text.strip('\r\n')
    return dict(sample_id=pair.sample_id, label=pair.label, group='', image=data, text=text)


def _read_text(pair: Pair) -> Any:
    return decode_text(read_file(pair.sample_id, Path(pair.text_file or '')))


def read_jsonl_layout(raw: Path, files: dict[str, str]) -> dict[str, list[Pair]]:
    """The published split, in the order of its files.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a line is not as expected, or an id occurs twice.
    """
    seen: dict[str, str] = {}
    splits = {}
    for split, name in files.items():
        path = raw / name
        if not path.is_file():
            raise FileNotFoundError(f'{path} is missing: the jsonl layout needs {name}')
        pairs = []
        for number, line in enumerate(path.read_text(encoding='utf-8').split('\n'), 1):
            if not line.strip():
                continue
            where = f'{path} line {number}'
            pair = _pair_of_line(raw, line, where)
            if pair.sample_id in seen:
                raise ValueError(
                    f'{where}: the id {pair.sample_id!r} occurs already in {seen[pair.sample_id]}'
                )
            seen[pair.sample_id] = where
            pairs.append(pair)
        splits[split] = pairs
    return splits


def _pair_of_line(raw: Path, line: str, where: str) -> Pair:
    try:
        entry = json.loads(line)
    except ValueError as e:
        raise ValueError(f'{where}: not JSON ({e})') from e
    for key in ('id', 'label', 'text', 'img'):
        if not isinstance(entry, dict) or not isinstance(entry.get(key), str | int):
            raise ValueError(
                f'{where}: expected the keys id, label, text and img; {key!r} is wrong'
            )
    image = raw / str(entry['img'])
    return Pair(
        sample_id=str(entry['id']),
        label=_class_index(str(entry['label']), where),
        image=str(image),
        text=str(entry['text']),
        text_file=None,
        stamps=(stamp(image),),
    )


def _class_index(name: str, where: str) -> int:
    if name not in CLASSES:
        raise ValueError(f'{where}: unknown label {name!r}, expected one of {", ".join(CLASSES)}')
    return CLASSES.index(name)


def joint_label(text: str, image: str, rule: str) -> str | None:
    """The label of a pair, or None when the rule drops it.

    Args:
        text: label of the text.
        image: label of the image.
        rule: ``agree``: equal, or dropped. ``classic``: positive against negative is dropped, of
            two others the one that is not neutral wins.
    """
    if rule not in RULES:
        raise ValueError(f'rule {rule!r}: expected one of {", ".join(RULES)}')
    if text == image:
        return text
    if rule == 'agree' or 'neutral' not in (text, image):
        return None
    return image if text == 'neutral' else text


def read_label_table(path: Path) -> dict[str, tuple[str, str]]:
    """``labelResultAll.txt``: id -> (label of the text, label of the image).

    Raises:
        FileNotFoundError: it is missing.
        ValueError: a line is not as expected, or an id occurs twice.
    """
    try:
        lines = path.read_text(encoding='utf-8-sig').splitlines()
    except FileNotFoundError as e:
        raise FileNotFoundError(f'{path} is missing: the raw layout needs it beside data/') from e
    table: dict[str, tuple[str, str]] = {}
    for number, line in enumerate(lines, 1):
        fields = line.replace(',', '\t').split()
        if not fields or (number == 1 and fields[0].lower() == 'id'):
            continue
        where = f'{path} line {number}'
        if len(fields) != 3:
            raise ValueError(f'{where}: expected "ID<tab>text,image", got {line!r}')
        name, text, image = fields
        if name in table:
            raise ValueError(f'{where}: the id {name!r} occurs twice')
        for label in (text, image):
            _class_index(label, where)
        table[name] = (text, image)
    if not table:
        raise ValueError(f'{path} has no entries')
    return table


def read_raw_layout(
    raw: Path, rule: str, split_list: Sequence[str], seed: int
) -> tuple[dict[str, list[Pair]], dict[str, Any]]:
    """Pairs that the rule keeps, split; and facts about them for the manifest."""
    table = read_label_table(raw / 'labelResultAll.txt')
    labels = {}
    for name, (text, image) in table.items():
        label = joint_label(text, image, rule)
        if label is not None:
            labels[name] = CLASSES.index(label)
    ids = _listed(labels, table, split_list, seed) if split_list else _drawn(labels, seed)
    splits = {split: [_raw_pair(raw, i, labels[i]) for i in names] for split, names in ids.items()}
    used = sum(map(len, ids.values()))
    facts = dict(pairs_in_table=len(table), kept_by_rule=len(labels), used=used)
    return splits, {**facts, **_text_facts(splits)}


def _raw_pair(raw: Path, name: str, label: int) -> Pair:
    image, text = raw / 'data' / f'{name}.jpg', raw / 'data' / f'{name}.txt'
    return Pair(name, label, str(image), None, str(text), (stamp(image), stamp(text)))


def _drawn(labels: dict[str, int], seed: int) -> dict[str, list[str]]:
    """60 / 20 / 20, every class in proportion; the order of the table is kept."""
    names, values = list(labels), np.array(list(labels.values()), dtype=np.int64)
    sizes = dict(train=round(0.6 * len(names)), val=round(0.2 * len(names)))
    sizes['test'] = len(names) - sum(sizes.values())
    rng = np.random.default_rng(sample_key(seed, 'mvsa_single', 'splits'))
    rows = stratified_splits(values, sizes, rng)
    return {split: [names[i] for i in index] for split, index in rows.items()}


def _listed(
    labels: dict[str, int],
    table: dict[str, tuple[str, str]],
    split_list: Sequence[str],
    seed: int,
) -> dict[str, list[str]]:
    """The ids of the lists; an id that the rule drops is an error, not silently left out."""
    lists = {('val' if s == 'dev' else s): ids for s, ids in read_split_list(split_list).items()}
    unknown = set(lists) - {'train', 'val', 'test'}
    if unknown or not {'train', 'test'} <= set(lists):
        raise ValueError(
            f'--split-list names {", ".join(lists)}: expected train, test and, if there is one, val'
        )
    for split, ids in lists.items():
        for name in ids:
            if name not in labels:
                why = 'is not in labelResultAll.txt'
                if name in table:
                    why = f'is dropped by the rule (text, image: {", ".join(table[name])})'
                raise ValueError(f'--split-list {split}: the id {name!r} {why}')
    if 'val' not in lists:
        values = np.array([labels[i] for i in lists['train']], dtype=np.int64)
        rng = np.random.default_rng(sample_key(seed, 'mvsa_single', 'val'))
        rows = stratified_choice(values, max(1, round(0.1 * len(values))), rng)
        chosen = {lists['train'][i] for i in rows}
        lists['val'] = [i for i in lists['train'] if i in chosen]
        lists['train'] = [i for i in lists['train'] if i not in chosen]
    return {split: lists[split] for split in ('train', 'val', 'test')}


def duplicates(splits: dict[str, list[Pair]]) -> dict[str, dict[str, int]]:
    """Tweets and images that occur more than once: groups of equal ones, those in several splits,
    and the test pairs whose text or image is in train as well.

    Texts are compared without case and blanks around them, images by their bytes.
    """
    readers: dict[str, Callable[[Pair], bytes]] = {
        'text': lambda p: _text_of(p).strip().lower().encode('utf-8', 'surrogatepass'),
        'image': lambda p: read_file(p.sample_id, Path(p.image)),
    }
    found = {}
    for name, read in readers.items():
        places: dict[bytes, list[str]] = {}
        for split, pairs in splits.items():
            for pair in pairs:
                try:
                    key = hashlib.sha256(read(pair)).digest()
                except BadSampleError:
                    continue  # it is listed when the samples are written
                places.setdefault(key, []).append(split)
        several = [p for p in places.values() if len(p) > 1]
        found[name] = dict(
            groups_of_equal=len(several),
            in_several_splits=sum(len(set(p)) > 1 for p in several),
            test_pairs_also_in_train=sum(p.count('test') for p in several if 'train' in p),
        )
    return found


def _text_of(pair: Pair) -> str:
    return _read_text(pair).text if pair.text is None else pair.text


def _text_facts(splits: dict[str, list[Pair]]) -> dict[str, Any]:
    """Encodings of the text files, and the ids whose bytes had to be replaced."""
    encodings: Counter[str] = Counter()
    replaced = {}
    for pair in (pair for pairs in splits.values() for pair in pairs):
        try:
            decoded = _read_text(pair)
        except BadSampleError:
            continue  # it is listed when the samples are written
        encodings[decoded.encoding] += 1
        if decoded.replaced:
            replaced[pair.sample_id] = decoded.replaced
    return dict(text_encodings=dict(sorted(encodings.items())), text_bytes_replaced=replaced)
