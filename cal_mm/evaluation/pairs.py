"""Two results files and their predictions, brought to the same samples, conditions and seeds."""

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .comparison import hit_modalities, same_noise
from .report import predictions_path
from .results import ResultsError, load_predictions, load_results

__all__ = ['ConditionPair', 'Run', 'load_run', 'pair_conditions']

_SHOWN = 3
_NEEDED = ('sample_ids', 'labels', 'scores', 'predicted')

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Run:
    """A results file with its predictions.

    Attributes:
        path: of the results file.
        results: its contents.
        predictions: per row ``sample_ids``, ``labels``, ``scores``, ``predicted`` and, where the
            data have them, ``groups``.
    """

    path: Path
    results: dict[str, Any]
    predictions: list[Arrays]


@dataclass(frozen=True)
class ConditionPair:
    """What two models predicted for the same samples under the same noise.

    Attributes:
        condition: its name.
        protocol: noise protocol; None for clean.
        seeds: noise seeds; empty for clean.
        first: predictions of the first model for each seed, in the order of its clean row.
        second: of the second model, its samples in the first model's order.
    """

    condition: str
    protocol: str | None
    seeds: tuple[int, ...]
    first: list[Arrays]
    second: list[Arrays]


def load_run(path: str | Path) -> Run:
    """Read a results file and the predictions beside it.

    Raises:
        FileNotFoundError: no results, or no predictions.
        ResultsError: a damaged file, or predictions of another run than the results.
    """
    results = load_results(path)
    beside = predictions_path(path)
    again = f'run tools/test.py again with --out {path} --save-predictions'
    if not beside.is_file():
        raise FileNotFoundError(
            f'a paired comparison needs the prediction of every sample, and there is no {beside} '
            f'beside {path}: {again}'
        )
    try:
        predictions = load_predictions(beside)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as e:
        raise ResultsError(f'{beside} is damaged ({e}): {again}') from e
    rows = results['rows']
    if len(predictions) != len(rows):
        raise ResultsError(
            f'{beside} has the predictions of {len(predictions)} rows, {path} has {len(rows)}: '
            f'they are not of the same run; {again}'
        )
    for i, (row, arrays) in enumerate(zip(rows, predictions, strict=True)):
        _check_row(row, arrays, f'{beside}: row {i} ({row["condition"]})', again)
    return Run(Path(path), results, predictions)


def _check_row(row: Mapping[str, Any], arrays: Arrays, where: str, again: str) -> None:
    missing = [k for k in _NEEDED if k not in arrays]
    if missing:
        raise ResultsError(f'{where} lacks {", ".join(missing)}: {again}')
    n = len(arrays['sample_ids'])
    shapes = {k: list(v.shape) for k, v in arrays.items() if k in (*_NEEDED, 'groups')}
    if arrays['scores'].ndim != 2 or any(s[:1] != [n] for s in shapes.values()) or not n:
        raise ResultsError(f'{where} has arrays of lengths that do not fit, {shapes}: {again}')
    told = row['metrics'].get('accuracy/top1')
    found = 100 * float(np.mean(arrays['predicted'] == arrays['labels']))
    if told is not None and abs(told - found) > 1e-6:
        raise ResultsError(
            f'{where} has an accuracy of {found:.4f}, the results say {told:.4f}: the predictions '
            f'are of another run than the results; {again}'
        )


def _first(names: Sequence[Any]) -> str:
    more = len(names) - _SHOWN
    return ', '.join(map(str, names[:_SHOWN])) + (f' and {more} more' if more > 0 else '')


def _check_data(a: Run, b: Run) -> None:
    for key in ('name', 'version', 'protocol', 'digest', 'split', 'classes'):
        mine, theirs = (r.results['dataset'].get(key) for r in (a, b))
        if mine != theirs:
            raise ValueError(
                f'these results are not of the same data: dataset {key} is {mine!r} in {a.path} '
                f'and {theirs!r} in {b.path}'
            )
    if a.results['split'] != b.results['split']:
        raise ValueError(
            f'these results are of different splits: {a.results["split"]} in {a.path}, '
            f'{b.results["split"]} in {b.path}'
        )


def _order(a: Arrays, b: Arrays, where: str) -> np.ndarray:
    """Places in ``b`` of the samples of ``a``.

    Raises:
        ValueError: an id that is empty, repeated or missing on one side, or another label.
    """
    places = []
    for arrays in (a, b):
        ids = arrays['sample_ids'].astype(str)
        names, counts = np.unique(ids, return_counts=True)
        if not all(names):
            raise ValueError(f'{where}: samples without an id cannot be paired')
        if (counts > 1).any():
            raise ValueError(
                f'{where}: sample ids occur more than once: {_first(list(names[counts > 1]))}'
            )
        places.append({name: i for i, name in enumerate(ids.tolist())})
    lacking = [[k for k in p if k not in q] for p, q in (places, places[::-1])]
    if any(lacking):
        raise ValueError(
            f'{where}: the two files have different samples: {len(lacking[0])} only in the first '
            f'({_first(lacking[0]) or "none"}), {len(lacking[1])} only in the second '
            f'({_first(lacking[1]) or "none"}); test both on the same samples'
        )
    order = np.array([places[1][k] for k in places[0]])
    other = np.flatnonzero(a['labels'] != b['labels'][order])
    if other.size:
        raise ValueError(
            f'{where}: {other.size} samples have another label in the second file, such as '
            f'{_first([str(a["sample_ids"][i]) for i in other])}'
        )
    return order


def _numbers(run: Run) -> dict[tuple[str | None, str], dict[int | None, int]]:
    """{(protocol, condition): {noise seed: number of the row}}."""
    found: dict[tuple[str | None, str], dict[int | None, int]] = {}
    for i, row in enumerate(run.results['rows']):
        found.setdefault((row['protocol'], row['condition']), {})[row['seed']] = i
    return found


def _check_noise(a: Run, b: Run, i: int, j: int) -> None:
    mine, theirs = a.results['rows'][i], b.results['rows'][j]
    if mine['protocol_version'] != theirs['protocol_version']:
        raise ValueError(
            f'{mine["condition"]}: the noise protocol {mine["protocol"]} has version '
            f'{mine["protocol_version"]} in {a.path} and {theirs["protocol_version"]} in {b.path}'
        )
    lone = hit_modalities(a.results['rows']) ^ hit_modalities(b.results['rows'])
    if not same_noise(mine['corruptions'], theirs['corruptions'], lone):
        raise ValueError(
            f'{mine["condition"]} is not the same noise in both files: {mine["corruptions"]} in '
            f'{a.path}, {theirs["corruptions"]} in {b.path}'
        )


def pair_conditions(a: Run, b: Run) -> tuple[list[ConditionPair], list[str]]:
    """Conditions that both files have, under the noise seeds that both have.

    Returns:
        (pairs in the order of the first file, notes on what was left out).

    Raises:
        ValueError: other data, split, samples, labels, protocol version or noise; nothing common.
    """
    _check_data(a, b)
    mine, theirs = _numbers(a), _numbers(b)
    pairs, notes = [], []
    anchor: Arrays | None = None
    for key, rows in mine.items():
        if key not in theirs:
            continue
        seeds = [s for s in rows if s in theirs[key]]
        if set(rows) ^ set(theirs[key]):
            notes.append(f'{key[1]}: only the noise seeds that both files have ({len(seeds)})')
        if not seeds:
            continue
        pair = ConditionPair(key[1], key[0], tuple(s for s in seeds if s is not None), [], [])
        for seed in seeds:
            i, j = rows[seed], theirs[key][seed]
            _check_noise(a, b, i, j)
            anchor = anchor or a.predictions[i]
            for run, number, side in ((a, i, pair.first), (b, j, pair.second)):
                where = f'{run.path}, {key[1]}' if run is a else f'{a.path} and {b.path}, {key[1]}'
                order = _order(anchor, run.predictions[number], where)
                arrays = run.predictions[number]
                side.append({k: v[order] for k, v in arrays.items() if k in (*_NEEDED, 'groups')})
        pairs.append(pair)
    for run, here, there in ((a, mine, theirs), (b, theirs, mine)):
        lone = [name for protocol, name in here if (protocol, name) not in there]
        if lone:
            notes.append(f'only in {run.path}, left out: {_first(lone)}')
    if not pairs:
        raise ValueError(f'{a.path} and {b.path} have no condition and noise seed in common')
    return pairs, notes
