"""One split, written shard by shard; a finished shard survives a kill."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from .errors import BadSampleError
from .parallel import ordered_map
from .spec import DatasetSpec, Sample, checksum
from .storage import write_json

__all__ = ['ShardRecord', 'write_split']

#: rows of a shard: [sample id, label, sha256]; bad: [sample id, reason];
#: missing: modality -> ids of the samples without it
ShardRecord = dict[str, Any]
_BATCH_BYTES = 8 << 20


def write_split(
    folder: Path,
    records: Path,
    spec: DatasetSpec,
    items: Iterable[Any],
    convert: Callable[[Any], Sample] | None,
    pool: ProcessPoolExecutor | None,
    *,
    tools: dict[str, str],
    shard_size: int,
    tick: Callable[[int], None],
) -> list[ShardRecord]:
    """Write ``items`` to Arrow files of ``shard_size`` items under ``folder``.

    Args:
        folder: of the split.
        records: folder for the record of each finished shard, which says that it may be reused.
        spec: of the dataset.
        items: consumed lazily; samples, or what ``convert`` takes.
        convert: item -> sample. With it, a shard is skipped when its record has the same key: spec,
            shapes, tools and the ``repr`` of its items, which must therefore say everything (path,
            size).
        pool: worker processes or None.
        tools: versions of the packages whose work ends in the bytes.
        shard_size: items per file.
        tick: called with the number of items done.
    """
    folder.mkdir(parents=True, exist_ok=True)
    records.mkdir(parents=True, exist_ok=True)
    done = []
    for number, chunk in enumerate(_chunks(items, shard_size)):
        path = folder / f'data-{number:05d}.arrow'
        record_path = records / f'{folder.name}-{number:05d}.json'
        key = _shard_key(spec, tools, chunk) if convert is not None else None
        record = _finished(record_path, path, key)
        if record is None:
            record_path.unlink(missing_ok=True)
            record = _write_shard(path, spec, chunk, convert, pool, tick)
            write_json(record_path, {**record, 'key': key}, indent=None)
        else:
            tick(len(chunk))
        done.append(record)
    for stale in sorted(folder.glob('data-*.arrow'))[len(done) :]:
        stale.unlink()
    return done


def _chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of ``size`` items; one empty list when there are none, for an empty split."""
    iterator = iter(items)
    chunk = list(islice(iterator, size))
    yield chunk
    while chunk := list(islice(iterator, size)):
        yield chunk


def _shard_key(spec: DatasetSpec, tools: dict[str, str], chunk: list[Any]) -> str:
    shapes = {m: facts.get('shape') for m, facts in spec.modalities.items()}
    items = [repr(item) for item in chunk]
    text = json.dumps([spec.identity, shapes, tools, items], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _finished(record_path: Path, path: Path, key: str | None) -> ShardRecord | None:
    """The record of a shard that an earlier, killed run finished, if it is the same shard."""
    if key is None or not path.is_file():
        return None
    try:
        record = json.loads(record_path.read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return None
    same = record.get('key') == key and record.get('bytes') == path.stat().st_size
    return record if same else None


def _write_shard(
    path: Path,
    spec: DatasetSpec,
    chunk: list[Any],
    convert: Callable[[Any], Sample] | None,
    pool: ProcessPoolExecutor | None,
    tick: Callable[[int], None],
) -> ShardRecord:
    schema = spec.features().arrow_schema
    rows: list[list[Any]] = []
    bad: list[list[str]] = []
    missing: dict[str, list[str]] = {}
    batch: list[Sample] = []
    size = 0
    outcomes = ordered_map(convert or _itself, chunk, None if convert is None else pool)
    with path.open('wb') as sink:
        with pa.ipc.new_stream(sink, schema) as writer:
            for sample, failure in outcomes:
                tick(1)
                try:
                    if failure is not None:
                        raise BadSampleError(*failure)
                    row = spec.checked(sample)
                except BadSampleError as e:
                    bad.append([e.sample_id, e.reason])
                    continue
                rows.append([row['sample_id'], row['label'], checksum(row)])
                for name in spec.modalities:
                    if row[name] is None:
                        missing.setdefault(name, []).append(row['sample_id'])
                batch.append(row)
                size += _bytes_of(row)
                if size >= _BATCH_BYTES:
                    writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=schema))
                    batch, size = [], 0
            if batch:
                writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=schema))
        sink.flush()
        os.fsync(sink.fileno())
    return {
        'file': path.name,
        'bytes': path.stat().st_size,
        'rows': rows,
        'bad': bad,
        'missing': missing,
    }


def _bytes_of(row: Sample) -> int:
    """About what a row takes in memory."""
    flat = [v for value in row.values() for v in (value if isinstance(value, list) else [value])]
    return 1024 + sum(len(v) for v in flat if isinstance(v, bytes | str))


def _itself(item: Any) -> Any:
    """Samples that are given ready-made; an error stands for a bad one."""
    if isinstance(item, BadSampleError):
        raise item
    return item
