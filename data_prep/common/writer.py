"""Write a prepared dataset: streamed, resumable, atomic, checksummed."""

import hashlib
import json
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sized
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .errors import DatasetExistsError
from .parallel import worker_pool
from .shards import ShardRecord, write_split
from .spec import FORMAT, FORMAT_VERSION, DatasetSpec, Sample
from .storage import check_target, exclusive, fsync_tree, publish, size_problems, write_json

__all__ = ['WriteReport', 'dataset_digest', 'split_digest', 'tool_versions', 'write_dataset']

_ALWAYS = ('numpy', 'pyarrow', 'datasets')


@dataclass(frozen=True)
class WriteReport:
    """What :func:`write_dataset` did.

    Attributes:
        out: folder of the dataset.
        digest: sha256 over all samples.
        up_to_date: the finished dataset was there already and was left alone.
        counts: samples per split.
        bad: ``{'split', 'sample_id', 'reason'}`` of every sample that was left out.
    """

    out: Path
    digest: str
    up_to_date: bool
    counts: dict[str, int]
    bad: list[dict[str, str]]


def write_dataset(
    out: str | Path,
    spec: DatasetSpec,
    splits: Mapping[str, Iterable[Any]],
    convert: Callable[[Any], Sample] | None = None,
    *,
    tools: Iterable[str] = (),
    source: str | None = None,
    workers: int = 1,
    overwrite: bool = False,
    shard_size: int = 1000,
    progress: bool = True,
) -> WriteReport:
    """Write ``splits`` to ``out``, which appears complete or not at all.

    Everything is built in ``.NAME.partial`` beside ``out`` and renamed at the end. At any time one
    row per worker and a few megabytes are in memory. When the run is killed, the next one with the
    same arguments keeps the shards that were finished (only with ``convert``).

    Args:
        out: folder of the dataset.
        spec: classes, modalities, identity.
        splits: name -> items. An item is a sample (dict with ``sample_id``, ``label``, ``group``
            and a value or None per modality) or a ``BadSampleError``; with ``convert``, anything
            picklable whose ``repr`` says all that the result depends on (path, size, options).
        convert: item -> sample, a module-level function; raises ``BadSampleError`` for a sample
            that cannot be used, which is then listed under ``bad``.
        tools: packages whose version matters, for the manifest.
        source: fingerprint of the raw data, if one is known beforehand: a finished dataset with
            the same identity and source is then left alone without building it again.
        workers: processes for ``convert``; the result does not depend on it.
        overwrite: replace a dataset that is another one. Only prepared datasets are ever replaced.
        shard_size: items per Arrow file; part of the layout, not of the digest.
        progress: show a progress bar (on a terminal).

    Raises:
        DatasetExistsError: ``out`` is another dataset (without ``overwrite``) or no dataset at all.
        ValueError: a sample does not fit ``spec``, a sample id occurs twice, or a split has samples
            and none that can be used.
        RuntimeError: ``convert`` failed, or another process is writing ``out``.
    """
    out = Path(out)
    _check_splits(spec, splits)
    versions = tool_versions(tools)
    if source is None and convert is not None:
        splits = {
            s: items if isinstance(items, Sized) else list(items) for s, items in splits.items()
        }
        source = _fingerprint(spec, versions, splits)
    with exclusive(out) as partial:
        try:
            existing = _existing(out, spec, overwrite)
            if existing and not overwrite and source and existing.get('source') == source:
                shutil.rmtree(partial)
                _check_not_emptied(existing)
                return _report(out, existing, up_to_date=True)
            manifest = _build(
                partial, spec, splits, convert, versions, source, workers, shard_size, progress
            )
            same = existing is not None and all(
                existing.get(key) == manifest[key] for key in ('digest', 'identity')
            )
            if existing and same and not overwrite:  # only sizes are known to be right
                shutil.rmtree(partial)
                return _report(out, existing, up_to_date=True)
            if existing and not overwrite:
                raise DatasetExistsError(
                    f'{out} holds the same dataset with other samples (digest '
                    f'{existing["digest"][:12]}, now {manifest["digest"][:12]}): the raw files or '
                    'the tools changed; use --overwrite to replace it'
                )
            publish(partial, out)
        except BaseException:
            if convert is None:  # nothing in it could be reused
                shutil.rmtree(partial, ignore_errors=True)
            raise
    shutil.rmtree(out / '.records', ignore_errors=True)
    return _report(out, manifest, up_to_date=False)


def _check_splits(spec: DatasetSpec, splits: Mapping[str, Any]) -> None:
    if not splits:
        raise ValueError(f'{spec.name}: a dataset needs at least one split')
    for split in splits:
        if not split.isidentifier():
            raise ValueError(f'{spec.name}: split {split!r} must be a plain name such as train')


def _existing(out: Path, spec: DatasetSpec, overwrite: bool) -> dict[str, Any] | None:
    """The manifest of an intact dataset at ``out``; None when it must be written in any case."""
    manifest = check_target(out)
    if manifest is None:
        return None
    identity = spec.identity
    if not overwrite and manifest.get('identity') != identity:
        changed = _differences(manifest.get('identity') or {}, identity)
        raise DatasetExistsError(
            f'{out} holds another dataset ({manifest.get("name")}; {"; ".join(changed)}): '
            'use --overwrite to replace it, or another --out'
        )
    problems = size_problems(out, manifest)
    if problems:
        print(f'{out} is damaged and is written again: {problems[0]}', file=sys.stderr)
        return None
    return manifest


def _differences(there: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """``key: value there, value wanted`` of every entry that differs, those of mappings singly."""
    result = []
    for key in sorted({*there, *wanted}):
        old, new = there.get(key), wanted.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            result += _differences(old, new)
        elif old != new:
            result.append(f'{key}: {old} there, {new} wanted')
    return result


def _build(
    partial: Path,
    spec: DatasetSpec,
    splits: Mapping[str, Iterable[Any]],
    convert: Callable[[Any], Sample] | None,
    versions: dict[str, str],
    source: str | None,
    workers: int,
    shard_size: int,
    progress: bool,
) -> dict[str, Any]:
    """Write everything under ``partial``, the manifest last, and return it."""
    (partial / 'manifest.json').unlink(missing_ok=True)
    for path in partial.iterdir():  # splits of an older, other run
        if path.is_dir() and path.name not in splits and path.name != '.records':
            shutil.rmtree(path)
    done: dict[str, list[ShardRecord]] = {}
    with worker_pool(workers) as pool:
        for split, items in splits.items():
            total = len(items) if isinstance(items, Sized) else None
            with tqdm(
                desc=f'{spec.name} {split}', total=total, unit=' samples', disable=_quiet(progress)
            ) as bar:
                done[split] = write_split(
                    partial / split,
                    partial / '.records',
                    spec,
                    items,
                    convert,
                    pool,
                    tools=versions,
                    shard_size=shard_size,
                    tick=lambda n, bar=bar: bar.update(n),  # type: ignore[misc]
                )
    _check_unique(spec, done)
    manifest = _manifest(spec, done, versions, source)
    _check_not_emptied(manifest)
    for split, records in done.items():
        _write_hf_files(partial / split, spec, split, records, manifest['splits'][split]['digest'])
    _write_checksums(partial / 'checksums.jsonl', done)
    manifest['files'] = {
        path.relative_to(partial).as_posix(): path.stat().st_size
        for split in splits
        for path in sorted((partial / split).iterdir())
    }
    fsync_tree(partial)
    write_json(partial / 'manifest.json', manifest)
    return manifest


def _quiet(progress: bool) -> bool | None:
    """What tqdm takes: None shows the bar on a terminal only."""
    return None if progress else True


def _check_unique(spec: DatasetSpec, done: dict[str, list[ShardRecord]]) -> None:
    seen: dict[str, str] = {}
    for split, records in done.items():
        for record in records:
            for sample_id, _, _ in record['rows']:
                if sample_id in seen:
                    raise ValueError(
                        f'{spec.name}: the sample id {sample_id!r} occurs twice, in '
                        f'{seen[sample_id]} and in {split}: ids must be unique in the dataset'
                    )
                seen[sample_id] = split


def _check_not_emptied(manifest: Mapping[str, Any]) -> None:
    """Refuse a split that has samples and none that can be used."""
    for split, facts in manifest['splits'].items():
        reasons = [b['reason'] for b in manifest['bad'] if b['split'] == split]
        if reasons and not facts['num_samples']:
            reason, count = Counter(reasons).most_common(1)[0]
            raise ValueError(
                f'{manifest["name"]}: none of the {len(reasons)} samples of {split} can be used, '
                f'so nothing is written; most frequent reason ({count} of them): {reason}'
            )


def split_digest(rows: Iterable[tuple[str, str]]) -> str:
    """sha256 over the lines ``sample_id sha256`` in the order of the split."""
    digest = hashlib.sha256()
    for sample_id, value in rows:
        digest.update(f'{sample_id} {value}\n'.encode('utf-8', 'surrogatepass'))
    return digest.hexdigest()


def dataset_digest(manifest: Mapping[str, Any]) -> str:
    """sha256 over the classes, the kinds of the modalities and the digests of the splits."""
    content = [
        list(manifest['classes']),
        {m: f['kind'] for m, f in sorted(manifest['modalities'].items())},
        {s: f['digest'] for s, f in sorted(manifest['splits'].items())},
    ]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _manifest(
    spec: DatasetSpec,
    done: dict[str, list[ShardRecord]],
    versions: dict[str, str],
    source: str | None,
) -> dict[str, Any]:
    splits: dict[str, Any] = {}
    bad = []
    for split, records in done.items():
        rows = [row for record in records for row in record['rows']]
        per_class = dict.fromkeys(spec.classes, 0)
        for _, label, _ in rows:
            per_class[spec.classes[label]] += 1
        digest = split_digest((sample_id, value) for sample_id, _, value in rows)
        splits[split] = {'num_samples': len(rows), 'per_class': per_class, 'digest': digest}
        missing = _missing(spec, records)
        if missing:
            splits[split]['missing'] = missing
        bad += [
            {'split': split, 'sample_id': sample_id, 'reason': reason}
            for record in records
            for sample_id, reason in record['bad']
        ]
    manifest: dict[str, Any] = {
        'format': FORMAT,
        'format_version': FORMAT_VERSION,
        'name': spec.name,
        'version': spec.version,
        'protocol': spec.protocol,
        'classes': list(spec.classes),
        'modalities': {m: dict(f) for m, f in spec.modalities.items()},
        'splits': splits,
        'bad': bad,
        'tools': versions,
        'facts': dict(spec.facts),
        'identity': spec.identity,
        'source': source,
    }
    manifest['digest'] = dataset_digest(manifest)
    return manifest


def _missing(spec: DatasetSpec, records: list[ShardRecord]) -> dict[str, list[str]]:
    """Modality -> ids of the samples of a split that lack it, if there are any."""
    found = {
        m: [i for record in records for i in record.get('missing', {}).get(m, [])]
        for m in spec.modalities
    }
    return {m: ids for m, ids in found.items() if ids}


def _write_hf_files(
    folder: Path, spec: DatasetSpec, split: str, records: list[ShardRecord], digest: str
) -> None:
    """The two files that make a folder of Arrow files one that ``load_from_disk`` reads."""
    from datasets import DatasetInfo

    state: dict[str, Any] = {
        '_data_files': [{'filename': record['file']} for record in records],
        '_fingerprint': digest[:16],
        '_format_columns': None,
        '_format_kwargs': {},
        '_format_type': None,
        '_output_all_columns': False,
        '_split': split,
    }
    write_json(folder / 'state.json', state)
    info = DatasetInfo(features=spec.features(), dataset_name=spec.name)
    info.write_to_directory(str(folder), pretty_print=True)


def _write_checksums(path: Path, done: dict[str, list[ShardRecord]]) -> None:
    with path.open('w', encoding='utf-8') as f:
        for split, records in done.items():
            for record in records:
                for sample_id, _, value in record['rows']:
                    line = {'split': split, 'sample_id': sample_id, 'sha256': value}
                    f.write(json.dumps(line) + '\n')


def _fingerprint(
    spec: DatasetSpec, versions: dict[str, str], splits: Mapping[str, Iterable[Any]]
) -> str:
    digest = hashlib.sha256(json.dumps([spec.identity, versions], sort_keys=True).encode())
    for split, items in splits.items():
        digest.update(f'\n{split}\n'.encode())
        for item in items:
            digest.update(repr(item).encode('utf-8', 'surrogatepass') + b'\n')
    return digest.hexdigest()


def tool_versions(packages: Iterable[str]) -> dict[str, str]:
    """Versions of ``packages`` and of those that always matter; one not installed is left out."""
    result = {'python': '.'.join(map(str, sys.version_info[:3]))}
    for name in sorted({*_ALWAYS, *packages}):
        try:
            result[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return result


def _report(out: Path, manifest: dict[str, Any], up_to_date: bool) -> WriteReport:
    counts = {split: facts['num_samples'] for split, facts in manifest['splits'].items()}
    return WriteReport(out, manifest['digest'], up_to_date, counts, manifest['bad'])
