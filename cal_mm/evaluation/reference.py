"""The results file that mCE and relative robustness refer to, checked before a model is loaded."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .comparison import hit_modalities, same_noise
from .results import ResultsError, load_results, sha256_of

__all__ = ['check_reference', 'load_reference', 'reference_source']

_SHOWN = 3
_HOW = 'write it with tools/test.py --out and the same --protocol, --attack, --drop and --seeds'


def load_reference(path: str | Path) -> dict[str, Any]:
    """Read the reference.

    Raises:
        FileNotFoundError: no such file.
        ResultsError: not a results file, or a damaged one.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f'there is no reference {path}; {_HOW}')
    return load_results(path)


def reference_source(path: str | Path, reference: Mapping[str, Any]) -> dict[str, Any]:
    """Which file and model it was, for the summary."""
    return {
        'path': str(path),
        'sha256': sha256_of(path),
        'config': reference['config'].get('path'),
        'checkpoint': reference['checkpoint'].get('path'),
    }


def check_reference(
    reference: Mapping[str, Any],
    where: str | Path,
    metainfo: Mapping[str, Any] | None,
    split: str,
    num_samples: int,
    conditions: Sequence[Mapping[str, Any]],
) -> None:
    """See that ``reference`` has the data and every condition of the test to come.

    Args:
        reference: as :func:`load_reference` gives it.
        where: its path, for the message.
        metainfo: the dataset's.
        split: as asked for.
        num_samples: of the dataset.
        conditions: ``Condition.describe()`` of each, clean left out.

    Raises:
        ValueError: no conditions to compare under; the first thing that differs is named.
    """
    if not conditions:
        raise ValueError(
            '--reference compares under noise, and only clean was asked for: add --protocol, '
            '--attack or --drop'
        )
    facts = metainfo or {}
    pairs: list[tuple[str, Any, Any]] = [('split', reference['split'], split)]
    named = (('name', 'dataset'), ('version', 'version'), ('protocol', 'protocol'))
    for key, fact in (*named, ('digest', 'digest'), ('split', 'split')):
        pairs.append((f'dataset {key}', reference['dataset'].get(key), facts.get(fact)))
    pairs.append(('number of samples', reference['num_samples'], num_samples))
    for what, theirs, ours in pairs:
        if theirs != ours:
            raise ResultsError(
                f'the reference {where} is of other data: its {what} is {theirs!r}, here it is '
                f'{ours!r}'
            )
    _check_conditions(reference['rows'], where, conditions)


def _check_conditions(
    rows: Sequence[Mapping[str, Any]], where: str | Path, conditions: Sequence[Mapping[str, Any]]
) -> None:
    have = {(row['protocol'], row['condition'], row['seed']): row for row in rows}
    versions: dict[str | None, set] = {}
    for row in rows:
        versions.setdefault(row['protocol'], set()).add(row['protocol_version'])
    if not any(row['attack'] is None for row in rows):
        raise ResultsError(f'the reference {where} has no clean row; {_HOW}')
    lone = hit_modalities(rows) ^ hit_modalities(conditions)
    missing = []
    for condition in conditions:
        protocol, version = condition['protocol'], condition['protocol_version']
        found = have.get((protocol, condition['condition'], condition['seed']))
        known = versions.get(protocol, {version}) if found is None else {found['protocol_version']}
        if version not in known:
            theirs = ', '.join(str(v) for v in known)
            raise ResultsError(
                f'the reference {where} is of version {theirs} of the protocol {protocol}, this '
                f'is version {version}: they are different noise; {_HOW}'
            )
        if found is None:
            missing.append(f'{condition["condition"]} ({protocol}, seed {condition["seed"]})')
        elif not same_noise(found['corruptions'], _plain(condition['corruptions']), lone):
            raise ResultsError(
                f'the reference {where} has other noise under the name '
                f'{condition["condition"]!r}: {found["corruptions"]} where this is '
                f'{condition["corruptions"]}; {_HOW}'
            )
        elif found['metrics'].get('accuracy/top1') is None:
            raise ResultsError(
                f'the reference {where} has no accuracy/top1 for {condition["condition"]!r}'
            )
    if missing:
        more = f' and {len(missing) - _SHOWN} more' if len(missing) > _SHOWN else ''
        protocols = sorted({str(p) for p in versions if p}) or ['none']
        raise ResultsError(
            f'the reference {where} lacks {len(missing)} of {len(conditions)} conditions: '
            f'{", ".join(missing[:_SHOWN])}{more} (its protocols: {", ".join(protocols)}); {_HOW}'
        )


def _plain(value: Any) -> Any:
    """As it comes back from JSON: tuples are lists."""
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value
