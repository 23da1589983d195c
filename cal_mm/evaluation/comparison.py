"""Several results files side by side: one row per condition, one column per model."""

import statistics
from collections.abc import Mapping, Sequence, Set
from itertools import combinations
from typing import Any

from .table import group_rows, render

__all__ = [
    'check_same_data',
    'check_same_noise',
    'comparison_table',
    'hit_modalities',
    'same_noise',
    'seeds_note',
    'standard_error',
]

Condition = tuple[str | None, str]

_DATA = ('digest', 'split')


def standard_error(accuracy: float, num_samples: int) -> float:
    """Binomial standard error of an accuracy, both in percent.

    Args:
        accuracy: in [0, 100].
        num_samples: N >= 1.
    """
    share = accuracy / 100
    return 100 * (share * (1 - share) / num_samples) ** 0.5


def _means(results: Mapping[str, Any], metric: str) -> dict[Condition, float]:
    """Mean over the noise seeds per condition, in the file's order."""
    found: dict[Condition, float] = {}
    for group in group_rows(results['rows']):
        values = [v for row in group if (v := row['metrics'].get(metric)) is not None]
        if values:
            found[group[0]['protocol'], group[0]['condition']] = statistics.fmean(values)
    return found


def check_same_data(
    files: Sequence[Mapping[str, Any]], labels: Sequence[str], refused: str
) -> None:
    """See that several models were tested on the same samples.

    Args:
        files: as ``load_results`` gives them.
        labels: one name per file.
        refused: what results of different data cannot do, such as ``be in one figure``.

    Raises:
        ValueError: labels that do not match the files, or files of different data, splits or
            numbers of samples.
    """
    if len(labels) != len(files):
        raise ValueError(f'{len(labels)} labels for {len(files)} results files')
    facts = {f'dataset {key}': [r['dataset'].get(key) for r in files] for key in _DATA}
    facts['number of samples'] = [r['num_samples'] for r in files]
    for what, values in facts.items():
        if len(set(values)) > 1:
            listed = ', '.join(f'{n}: {v}' for n, v in zip(labels, values, strict=True))
            raise ValueError(
                f'these results are not of the same data, so they cannot {refused}: {what} {listed}'
            )


def hit_modalities(rows: Sequence[Mapping[str, Any]]) -> set[str]:
    """The modalities that noise hits in any of ``rows``."""
    return {m for row in rows for m in row['modalities']}


def same_noise(first: Sequence[Any], second: Sequence[Any], lone: Set[str]) -> bool:
    """Whether two rows' ``corruptions`` are equal, but for those of the modalities ``lone``, and
    for the sample rate, which is the signal's and not the noise's.
    """
    kept = [
        [_without_rate(c) for c in noise if c.get('modality') not in lone]
        for noise in (first, second)
    ]
    return kept[0] == kept[1]


def _without_rate(corruption: Mapping[str, Any]) -> dict[str, Any]:
    options = corruption.get('options') or {}
    return {**corruption, 'options': {k: v for k, v in options.items() if k != 'sample_rate'}}


def check_same_noise(
    files: Sequence[Mapping[str, Any]], labels: Sequence[str], refused: str
) -> None:
    """See that conditions of one protocol, version and name are the same noise in all files.

    A model may take some of the modalities only: of two files, noise on a modality that is hit in
    one of them alone does not count.

    Args:
        files: as ``load_results`` gives them.
        labels: one name per file.
        refused: what results of different noise cannot do.

    Raises:
        ValueError: other noise under one name.
    """
    hit = [hit_modalities(f['rows']) for f in files]
    keys = ('protocol', 'protocol_version', 'condition')
    rows = [{tuple(row[k] for k in keys): row['corruptions'] for row in f['rows']} for f in files]
    for i, j in combinations(range(len(files)), 2):
        for key in rows[i]:
            if key in rows[j] and not same_noise(rows[i][key], rows[j][key], hit[i] ^ hit[j]):
                raise ValueError(
                    f'{key[2]} ({key[0]}) is not the same noise in all of these results, so they '
                    f'cannot {refused}: {labels[i]}: {rows[i][key]}; {labels[j]}: {rows[j][key]}'
                )


def seeds_note(
    files: Sequence[Mapping[str, Any]], labels: Sequence[str], metric: str | None = None
) -> str | None:
    """What to say beside means over the noise seeds, if the files have other seeds for a condition.

    Args:
        files: as ``load_results`` gives them.
        labels: one name per file.
        metric: only rows that have it count; None: all.

    Returns:
        A line with each file's seeds; None where they are the same.
    """
    seeds: dict[tuple, dict[int, set[int | None]]] = {}
    for i, file in enumerate(files):
        for row in file['rows']:
            if metric is None or row['metrics'].get(metric) is not None:
                key = row['protocol'], row['protocol_version'], row['condition']
                seeds.setdefault(key, {}).setdefault(i, set()).add(row['seed'])
    other: dict[int, set[int | None]] = {}
    for found in seeds.values():
        if len(set(map(frozenset, found.values()))) > 1:
            for i, values in found.items():
                other.setdefault(i, set()).update(values)
    if not other:
        return None
    listed = '; '.join(f'{labels[i]}: {_listed(other[i])}' for i in sorted(other))
    return f'averaged over different noise seeds: {listed}'


def _listed(seeds: Set[int | None]) -> str:
    known = sorted(s for s in seeds if s is not None)
    if len(known) > 2 and known[-1] - known[0] == len(known) - 1:
        return f'{known[0]} to {known[-1]}'
    return ', '.join(map(str, known)) or 'none'


def _check_versions(files: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> None:
    first: dict[Condition, tuple[Any, str]] = {}
    for file, label in zip(files, labels, strict=True):
        for row in file['rows']:
            version = row['protocol_version']
            known, owner = first.setdefault((row['protocol'], row['condition']), (version, label))
            if version != known:
                raise ValueError(
                    f'{row["condition"]}: the noise protocol {row["protocol"]} has version {known} '
                    f'in {owner} and {version} in {label}, so they cannot stand in one table'
                )


def comparison_table(
    files: Sequence[Mapping[str, Any]],
    labels: Sequence[str],
    metric: str = 'accuracy/top1',
    digits: int = 2,
) -> str:
    """Plain-text table of ``metric``; the last column is the last model minus the first.

    Conditions that a file lacks show ``-``. Several noise seeds of a condition are averaged; a line
    under the table says where the files have other seeds.

    Args:
        files: as ``load_results`` gives them; the first is the baseline.
        labels: one name per file.
        metric: key in ``metrics``.
        digits: after the decimal point.

    Raises:
        ValueError: fewer than two files, labels that do not match, files of different data, splits,
            numbers of samples or noise, or none has the metric.
    """
    if len(files) < 2:
        raise ValueError(f'a comparison needs at least two results files, got {len(files)}')
    check_same_data(files, labels, 'stand in one table')
    _check_versions(files, labels)
    check_same_noise(files, labels, 'stand in one table')
    columns = [_means(r, metric) for r in files]
    conditions = list(dict.fromkeys(c for column in columns for c in column))
    if not conditions:
        raise ValueError(f'none of the results files has the metric {metric!r}')
    repeated = len({name for _, name in conditions}) < len(conditions)
    rows = []
    for condition in conditions:
        values = [column.get(condition) for column in columns]
        name = f'{condition[1]} ({condition[0]})' if repeated and condition[0] else condition[1]
        cells = ['-' if v is None else f'{v:.{digits}f}' for v in values]
        first, last = values[0], values[-1]
        gap = '' if first is None or last is None else f'{last - first:+.{digits}f}'
        rows.append([name, *cells, gap])
    table = render(['condition', *labels, f'{labels[-1]} - {labels[0]}'], rows)
    note = seeds_note(files, labels, metric)
    return f'{table}\n\n{note}' if note else table
