"""The table of :mod:`data_prep.folder`: rows, cells, and how a cell becomes a modality's value."""

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cal_mm.encoded import require_complete
from data_prep.common import BadSampleError, Sample
from data_prep.common.media import check_image, decoding, encode_wav, read_file
from data_prep.common.png import encode_png
from data_prep.common.texts import decode_text

__all__ = ['Item', 'Row', 'Source', 'Table', 'convert', 'parse_source', 'read_table']

KINDS = ('image', 'depth', 'waveform', 'text', 'textfile', 'features')


@dataclass(frozen=True)
class Row:
    """``line`` is the line in the file, counted from 1 (a csv's header is line 1)."""

    line: int
    cells: dict[str, Any]


@dataclass(frozen=True)
class Table:
    """A csv or jsonl file; ``columns`` in their order."""

    path: Path
    columns: list[str]
    rows: list[Row]

    def at(self, row: Row, column: str) -> str:
        """Where a cell is, for an error."""
        return f'{self.path} row {row.line}' + (f', column {column!r}' if column else '')

    def require(self, columns: Sequence[str]) -> None:
        """Refuse a column that the table does not have."""
        for column in columns:
            if column not in self.columns:
                raise ValueError(
                    f'{self.path} has no column {column!r}; it has: {", ".join(self.columns)}'
                )

    def cell(self, row: Row, column: str) -> Any:
        """The value, or None for an empty cell."""
        value = row.cells.get(column)
        if value is None or (isinstance(value, str) and not value.strip()):
            return None
        return value

    def text(self, row: Row, column: str) -> str:
        """The value as text without surrounding blanks; empty for an empty cell."""
        value = self.cell(row, column)
        if isinstance(value, list | dict):
            raise ValueError(f'{self.at(row, column)}: expected a text or a number, got {value!r}')
        return '' if value is None else str(value).strip()


@dataclass(frozen=True)
class FileRef:
    """A file to read.

    Attributes:
        kind: one of :data:`KINDS`.
        path: of the file.
        where: row and column, for an error.
        stamp: size and time of change, so that a resumed run sees a changed file.
    """

    kind: str
    path: str
    where: str
    stamp: tuple[int, int]


#: what a row says of a modality before any file is read
Value = str | tuple[float, ...] | FileRef | None


@dataclass(frozen=True)
class Item:
    """A row to convert; ``values``: per modality None, a text, numbers or a :class:`FileRef`."""

    sample_id: str
    label: int
    group: str
    values: dict[str, Value]


@dataclass(frozen=True)
class Source:
    """Where a modality comes from: one of :data:`KINDS` and its columns."""

    kind: str
    columns: tuple[str, ...]

    def facts(self, values: Sequence[Value], train: Sequence[Value]) -> dict[str, Any]:
        """The modality's entry in the manifest; the shape of features is the most frequent one.

        Args:
            values: of all samples.
            train: of those of the training split, which mean and std of features come from.
        """
        kind = 'text' if self.kind == 'textfile' else self.kind
        facts: dict[str, Any] = dict(kind=kind, columns=list(self.columns))
        if self.kind == 'waveform':
            rates = sorted({rate for v in values if (rate := _rate_of(v)) is not None})
            if len(rates) > 1:
                facts['sample_rates'] = rates
            elif rates:
                facts['sample_rate'] = rates[0]
        if self.kind == 'features':
            shapes = Counter(s for v in values if (s := _shape_of(v)) is not None)
            if shapes:
                shape = list(shapes.most_common(1)[0][0])  # of equally frequent ones the first
                facts.update(shape=shape, **_statistics(train, shape))
        return facts

    def read(self, data: Table, row: Row) -> Value:
        """The value of a row, files not read yet.

        Raises:
            ValueError: the cell cannot be what the kind says, with row and column.
        """
        if self.kind == 'features':
            return self._numbers(data, row)
        column = self.columns[0]
        value = data.cell(row, column)
        if value is None:
            return None
        if not isinstance(value, str):
            if self.kind == 'text' and isinstance(value, int | float):
                return str(value)
            raise ValueError(f'{data.at(row, column)}: expected a text, got {value!r}')
        return value if self.kind == 'text' else _reference(self.kind, value, data, row, column)

    def _numbers(self, data: Table, row: Row) -> Value:
        cells = [data.cell(row, column) for column in self.columns]
        if all(cell is None for cell in cells):
            return None
        if len(cells) == 1:
            return _list_cell(cells[0], data, row, self.columns[0])
        for cell, column in zip(cells, self.columns, strict=True):
            if cell is None:
                raise ValueError(
                    f'{data.at(row, column)}: empty, while other columns of the same modality are '
                    'not; leave all of them empty for a missing modality'
                )
        return tuple(
            _number(cell, data.at(row, column))
            for cell, column in zip(cells, self.columns, strict=True)
        )


def _rate_of(value: Value) -> int | None:
    import soundfile

    try:
        return int(soundfile.info(value.path).samplerate) if isinstance(value, FileRef) else None
    except (RuntimeError, OSError):
        return None  # reported when the sample is read


def _shape_of(value: Value) -> tuple[int, ...] | None:
    """``(D,)``; None for a missing value or a file without numbers [D], which is reported later."""
    array = _features_of(value, mmap_mode='r')
    return None if array is None else array.shape


def _features_of(value: Value, **options: Any) -> np.ndarray | None:
    try:
        if not isinstance(value, FileRef):
            return None if value is None else np.asarray(value)
        array = _one_row(np.load(value.path, allow_pickle=False, **options))
    except (ValueError, OSError, EOFError):
        return None
    return array if array.ndim == 1 and array.dtype.kind in 'biuf' else None


def _one_row(array: np.ndarray) -> np.ndarray:
    """[1, D], which is one row of numbers as well, as [D]."""
    return array[0] if array.ndim == 2 and len(array) == 1 else array


def _statistics(train: Sequence[Value], shape: Sequence[int]) -> dict[str, list[float]]:
    """Mean and standard deviation (population) of the values that can be used.

    They are the unit of noise on features, and what the front end standardises by.
    """
    count, total, squares = 0, np.zeros(shape), np.zeros(shape)
    origin: np.ndarray | None = None
    for value in train:
        array = _features_of(value)
        if array is None or list(array.shape) != list(shape):
            continue
        wide = array.astype(np.float64)
        if not (np.abs(wide) <= np.finfo(np.float32).max).all():  # nor NaN
            continue
        origin = wide if origin is None else origin  # sums of large numbers would lose digits
        count, total, squares = count + 1, total + wide - origin, squares + (wide - origin) ** 2
    if origin is None:
        return {}
    mean, std = total / count, np.sqrt(np.maximum(squares / count - (total / count) ** 2, 0))
    rounded = {'mean': mean + origin, 'std': std}
    return {name: [float(f'{v:.9g}') for v in values] for name, values in rounded.items()}


def parse_source(entry: str) -> tuple[str, Source]:
    """``'feat=features:f1,f2'`` -> ``('feat', Source('features', ('f1', 'f2')))``."""
    name, equals, rest = entry.partition('=')
    kind, colon, columns = rest.partition(':')
    names = tuple(c.strip() for c in columns.split(',') if c.strip())
    if not (name and equals and colon and names):
        raise ValueError(
            f'--modality {entry!r}: expected NAME=KIND:COLUMN[,COLUMN...], such as '
            'image=image:photo or feat=features:f1,f2'
        )
    if kind not in KINDS:
        raise ValueError(
            f'--modality {entry!r}: unknown kind {kind!r}, expected one of {", ".join(KINDS)}'
        )
    if len(names) > 1 and kind != 'features':
        raise ValueError(f'--modality {entry!r}: only features take several columns')
    return name, Source(kind, names)


def _reference(kind: str, value: str, data: Table, row: Row, column: str) -> FileRef:
    path = data.path.parent / value.strip()
    try:
        found = path.stat()
        stamp = (found.st_size, found.st_mtime_ns)
    except (OSError, ValueError):
        stamp = (-1, -1)  # reported when the sample is read
    return FileRef(kind, str(path), f'row {row.line}, column {column!r}', stamp)


def _number(value: Any, where: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError) as e:
        raise ValueError(f'{where}: expected a number, got {value!r}') from e
    if isinstance(value, bool) or not math.isfinite(number):
        raise ValueError(f'{where}: expected a finite number, got {value!r}')
    return number


def _list_cell(value: Any, data: Table, row: Row, column: str) -> Value:
    if isinstance(value, str) and value.strip().lower().endswith('.npy'):
        return _reference('features', value, data, row, column)
    where = data.at(row, column)
    if isinstance(value, str) and value.strip().startswith('['):
        try:
            value = json.loads(value)
        except ValueError as e:
            raise ValueError(f'{where}: not a JSON list ({e}): {value!r}') from e
    values = value if isinstance(value, list) else [value]
    if not values:
        raise ValueError(f'{where}: the list is empty')
    return tuple(_number(v, f'{where}, entry {i}') for i, v in enumerate(values))


def read_table(path: Path) -> Table:
    """Read a csv, tsv (by its suffix) or jsonl file.

    Raises:
        FileNotFoundError: it is missing.
        ValueError: it is not UTF-8, has no rows, or a row does not fit, with the row number.
    """
    try:
        content = path.read_bytes().decode('utf-8-sig')
    except FileNotFoundError as e:
        raise FileNotFoundError(f'--table {path} is missing') from e
    except UnicodeDecodeError as e:
        raise ValueError(f'{path} is not UTF-8 ({e}): save it as UTF-8') from e
    suffix = path.suffix.lower()
    if suffix in ('.jsonl', '.ndjson'):
        table = _read_jsonl(path, content)
    elif suffix in ('.csv', '.tsv', '.txt'):
        table = _read_csv(path, content, '\t' if suffix == '.tsv' else ',')
    else:
        raise ValueError(f'{path}: unknown suffix {suffix!r}, expected .csv, .tsv or .jsonl')
    if not table.rows:
        raise ValueError(f'{path} has no rows')
    return table


def _read_csv(path: Path, content: str, delimiter: str) -> Table:
    reader = csv.reader(io.StringIO(content, newline=''), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    rows = []
    try:
        for cells in reader:
            if not any(cells):
                continue
            if header is None:
                header = [c.strip() for c in cells]
                if len(set(header)) != len(header):
                    raise ValueError(f'{path} row 1: a column name occurs twice: {header}')
                continue
            if len(cells) != len(header):
                raise ValueError(
                    f'{path} row {reader.line_num}: {len(cells)} cells, the header has '
                    f'{len(header)} columns (a text with a {delimiter!r} needs quotes)'
                )
            rows.append(Row(reader.line_num, dict(zip(header, cells, strict=True))))
    except csv.Error as e:
        raise ValueError(f'{path} row {reader.line_num}: {e}') from e
    return Table(path, header or [], rows)


def _read_jsonl(path: Path, content: str) -> Table:
    rows = []
    columns: dict[str, None] = {}
    for number, line in enumerate(content.split('\n'), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except ValueError as e:
            raise ValueError(f'{path} row {number}: not JSON ({e})') from e
        if not isinstance(entry, dict):
            raise ValueError(f'{path} row {number}: expected a JSON object, got {entry!r}')
        rows.append(Row(number, entry))
        columns.update(dict.fromkeys(entry))
    return Table(path, list(columns), rows)


def convert(item: Item, shapes: Mapping[str, Sequence[int]] | None = None) -> Sample:
    """Read the files of a row.

    Args:
        item: the row.
        shapes: modality -> the shape that its features must have.

    Raises:
        BadSampleError: a file is missing, empty or does not decode, or features have another shape;
            names row, column and file.
    """
    values = {}
    for name, value in item.values.items():
        read = _read(item.sample_id, value) if isinstance(value, FileRef) else value
        values[name] = read
        shape = (shapes or {}).get(name)
        if read is None or shape is None or list(np.shape(read)) == list(shape):
            continue
        what = f'{value.where}: {value.path}' if isinstance(value, FileRef) else name
        raise BadSampleError(
            item.sample_id,
            f'{what}: shape {list(np.shape(read))}, expected {list(shape)}, which is the most '
            f'frequent one of {name}',
        )
    return dict(sample_id=item.sample_id, label=item.label, group=item.group, **values)


def _read(sample_id: str, ref: FileRef) -> Any:
    what = f'{ref.where}: {ref.path}'
    try:
        data = read_file(sample_id, Path(ref.path))
    except BadSampleError as e:
        raise BadSampleError(sample_id, f'{ref.where}: {e.reason}') from e
    if ref.kind == 'textfile':
        return decode_text(data).text.strip('\r\n')
    if ref.kind == 'features':
        with decoding(sample_id, what):
            return _row_of_numbers(np.load(io.BytesIO(data), allow_pickle=False))
    if ref.kind == 'waveform':
        return _wave_file(sample_id, data, what)
    check_image(sample_id, data, what)
    with decoding(sample_id, what):
        return _png_or_jpeg(data, depth=ref.kind == 'depth')


def _row_of_numbers(array: np.ndarray) -> np.ndarray:
    """float32 [D].

    Raises:
        ValueError: another shape than [D] or [1, D], other values than finite numbers.
    """
    array = _one_row(array)
    if array.dtype.kind not in 'biuf':
        raise ValueError(f'values of the type {array.dtype}, expected numbers')
    if array.ndim != 1:
        raise ValueError(
            f'shape {list(array.shape)}, expected one row of numbers [D]: save it flattened '
            '(array.reshape(-1)); an encoder of yours restores the shape'
        )
    with np.errstate(over='ignore'):
        row = array.astype(np.float32)
    wrong = np.flatnonzero(~np.isfinite(row))
    if wrong.size:
        raise ValueError(
            f'value {wrong[0]} is {array[wrong[0]]}, expected a finite float32 number: correct the '
            'file, or leave the cell empty for a missing modality'
        )
    return row


def _png_or_jpeg(data: bytes, depth: bool) -> bytes:
    """``data`` as it is when it is PNG or JPEG, other formats as PNG; 16 bits stay 16 bits.

    Raises:
        ValueError: the pixels are floats, or do not fit into 16 bits, or depth has colours.
    """
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        if depth and len(image.getbands()) > 1:
            raise ValueError(
                f'expected one channel of depth, got {"".join(image.getbands())}; depth rendered '
                'as colours (HHA, jet) is of the kind image'
            )
        if image.format in ('PNG', 'JPEG'):
            return data
        if image.mode.startswith(('I', 'F')):
            pixels = np.asarray(image)
            if pixels.dtype.kind == 'f' or pixels.min() < 0 or pixels.max() > 65535:
                raise ValueError(
                    f'pixels of the type {pixels.dtype} from {pixels.min():g} to {pixels.max():g} '
                    'have no certain meaning: save it with 8 or 16 bits (depth: 16-bit PNG, '
                    'millimetres)'
                )
            return encode_png(pixels.astype(np.uint16))
        if depth and image.mode == 'L':
            return encode_png(np.asarray(image))
        sink = io.BytesIO()
        image.convert('RGB').save(sink, format='PNG')
    return sink.getvalue()


def _wave_file(sample_id: str, data: bytes, what: str) -> bytes:
    """``data`` as it is when it is a mono wav or flac, else averaged to mono, 16-bit wav."""
    import soundfile

    with decoding(sample_id, what):
        require_complete(data)
        with soundfile.SoundFile(io.BytesIO(data)) as f:
            form, channels, rate = f.format, f.channels, f.samplerate
            samples = f.read(dtype='float64', always_2d=True)
    if samples.size == 0:
        raise BadSampleError(sample_id, f'{what}: no audio samples')
    if not np.isfinite(samples).all():
        raise BadSampleError(sample_id, f'{what}: values that are not finite')
    if channels == 1 and form in ('WAV', 'FLAC'):
        return data
    return encode_wav(samples.mean(1), rate)
