"""Results files: a versioned JSON schema, written atomically (docs/results_schema.md)."""

import hashlib
import io
import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cal_mm.files import write_atomically
from cal_mm.versions import installed_versions

from .summary import summarise

__all__ = [
    'FORMAT',
    'SCHEMA_VERSION',
    'ResultsError',
    'load_predictions',
    'load_results',
    'save_predictions',
    'save_results',
    'sha256_of',
    'software_versions',
    'text_digest',
    'validate_results',
]

FORMAT = 'cal_mm.results'
SCHEMA_VERSION = 2
#: 1 has no summary
READABLE_VERSIONS = (1, 2)

_PACKAGES = (
    'cal_mm',
    'torch',
    'mmengine',
    'numpy',
    'timm',
    'transformers',
    'datasets',
    'scikit-learn',
)
_TOP: dict[str, tuple[type, ...]] = {
    'config': (dict,),
    'checkpoint': (dict,),
    'dataset': (dict,),
    'split': (str,),
    'num_samples': (int,),
    'units': (dict,),
    'software': (dict,),
    'rows': (list,),
}
_ROW: dict[str, tuple[type, ...]] = {
    'condition': (str,),
    'protocol': (str, type(None)),
    'protocol_version': (int, type(None)),
    'attack': (str, type(None)),
    'severity': (int, type(None)),
    'epsilon': (int, float, type(None)),
    'modalities': (list,),
    'seed': (int, type(None)),
    'corruptions': (list,),
    'num_samples': (int,),
    'metrics': (dict,),
    'contribution': (dict,),
    'timing': (dict,),
}
_SUMMARY: dict[str, tuple[type, ...]] = {
    'bootstrap': (dict, type(None)),
    'conditions': (list,),
    'curves': (list,),
    'relative_robustness': (int, float, type(None)),
    'contribution': (list,),
    'reference': (dict, type(None)),
}
_CONDITION: dict[str, tuple[type, ...]] = {
    **{k: _ROW[k] for k in ('condition', 'protocol', 'attack', 'severity', 'epsilon')},
    'modalities': (list,),
    'seeds': (list,),
    'metrics': (dict,),
    'relative_robustness': (int, float, type(None)),
    'contribution': (dict,),
}
_CURVE: dict[str, tuple[type, ...]] = {
    'attack': (str,),
    'modalities': (list,),
    'axis': (str, type(None)),
    'label': (str,),
    'strengths': (list,),
}
_SUMMARY_LISTS = {
    'conditions': _CONDITION,
    'curves': {**_CURVE, 'area': (dict,)},
    'contribution': {**_CURVE, 'mean': (dict,), 'hit': (dict,)},
}


class ResultsError(ValueError):
    """A file that is not a results file, or a damaged one."""


def sha256_of(path: str | Path) -> str:
    """Hex digest of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, 'rb') as f:
        while block := f.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def text_digest(text: str) -> str:
    """Hex digest of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def software_versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on."""
    return {'python': platform.python_version(), **installed_versions(_PACKAGES)}


def validate_results(results: Any, where: str = 'results') -> dict:
    """``results`` if it keeps to the schema.

    Raises:
        ResultsError: names ``where`` and the key that is missing or of the wrong type.
    """
    if not isinstance(results, dict) or results.get('format') != FORMAT:
        raise ResultsError(
            f'{where} is not a results file: expected a JSON object with "format": "{FORMAT}" as '
            f'tools/test.py --out writes it'
        )
    version = results.get('schema_version')
    if isinstance(version, bool) or version not in READABLE_VERSIONS:
        readable = ' and '.join(map(str, READABLE_VERSIONS))
        raise ResultsError(
            f'{where} has schema_version {version!r}, this cal_mm reads {readable}: '
            f'write it again with this version, or read it with the one that wrote it'
        )
    _check_keys(results, _TOP, where)
    _check_objects(results['rows'], _ROW, f'{where}: rows')
    if version > 1:
        _check_keys(results, {'summary': (dict,)}, where)
        _check_keys(results['summary'], _SUMMARY, f'{where}: summary')
        for name, keys in _SUMMARY_LISTS.items():
            _check_objects(results['summary'][name], keys, f'{where}: summary.{name}')
    return results


def _check_objects(
    items: Sequence[Any], expected: Mapping[str, tuple[type, ...]], where: str
) -> None:
    for i, item in enumerate(items):
        if not isinstance(item, dict):
            raise ResultsError(f'{where}[{i}] is {type(item).__name__}, expected an object')
        _check_keys(item, expected, f'{where}[{i}]')


def _check_keys(found: Mapping, expected: Mapping[str, tuple[type, ...]], where: str) -> None:
    for key, types in expected.items():
        names = ' or '.join('null' if t is type(None) else t.__name__ for t in types)
        if key not in found:
            raise ResultsError(f'{where}: the key "{key}" ({names}) is missing')
        value = found[key]
        if not isinstance(value, types) or isinstance(value, bool):
            raise ResultsError(f'{where}: "{key}" is {value!r}, expected {names}')


def save_results(path: str | Path, results: Mapping[str, Any]) -> Path:
    """Write ``results`` to ``path``: whole or not at all; an older file is replaced at once.

    Without a ``summary`` the one that its rows alone give is written.

    Raises:
        ResultsError: it does not keep to the schema, or holds a number that JSON lacks (nan, inf).
    """
    path = Path(path)
    full = {'format': FORMAT, 'schema_version': SCHEMA_VERSION}
    full.update({k: v for k, v in results.items() if k not in full})
    if 'summary' not in full:
        checked = validate_results({**full, 'schema_version': 1}, str(path))
        full['summary'] = summarise(checked['rows'])
    validate_results(full, str(path))
    try:
        text = json.dumps(full, indent=1, allow_nan=False) + '\n'
    except ValueError as e:
        raise ResultsError(f'{path}: a metric is not finite ({e}); nothing was written') from e
    write_atomically(path, text)
    return path


def load_results(path: str | Path) -> dict:
    """Read and check a results file.

    Raises:
        FileNotFoundError: no such file.
        ResultsError: no JSON, or not of the schema; the file and the key are named.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'there is no results file {path}; tools/test.py --out writes one')
    try:
        results = json.loads(path.read_text(encoding='utf-8'))
    except ValueError as e:
        raise ResultsError(f'{path} is not valid JSON ({e}); it may have been cut off') from e
    return validate_results(results, str(path))


def save_predictions(path: str | Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write per-sample predictions of each row to an npz file, for paired tests later.

    Args:
        path: file to write.
        rows: per row ``{'sample_ids': [N], 'labels': [N], 'scores': [N, C], 'predicted': [N],
            'contribution': [N, M] or None, 'groups': [N] or None}``, in the order of the results
            file's rows.
    """
    arrays: dict[str, np.ndarray] = {}
    for i, row in enumerate(rows):
        for key, value in row.items():
            if value is not None:
                arrays[f'{i}/{key}'] = np.asarray(value)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    write_atomically(path, buffer.getvalue())
    return Path(path)


def load_predictions(path: str | Path) -> list[dict[str, np.ndarray]]:
    """Read what :func:`save_predictions` wrote, one dictionary per row."""
    rows: dict[int, dict[str, np.ndarray]] = {}
    # in memory: numpy leaves a damaged file open
    content = io.BytesIO(Path(path).read_bytes())
    with np.load(content, allow_pickle=False) as archive:
        for name in archive.files:
            index, _, key = name.partition('/')
            rows.setdefault(int(index), {})[key] = archive[name]
    return [rows[i] for i in sorted(rows)]
