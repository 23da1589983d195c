"""The ``summary`` block of a results file: conditions over their noise seeds, curves, reference."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .contribution_noise import contribution_under_noise
from .resampled import per_sample_values
from .severity import (
    Curve,
    area_under_severity,
    corruption_error,
    curves_of,
    relative_corruption_error,
)
from .statistics import group_numbers, mean_intervals

__all__ = ['LEVEL', 'RESAMPLES', 'higher_is_better', 'summarise', 'worst']

RESAMPLES = 1000
LEVEL = 0.95
_ACCURACY = 'accuracy/top1'
_UP, _DOWN = {'accuracy', 'f1'}, {'nll', 'ece', 'brier', 'aurc', 'e_aurc'}

Row = Mapping[str, Any]
Predictions = Sequence[Mapping[str, Any] | None]


def higher_is_better(metric: str) -> bool | None:
    """Whether more of ``metric`` is better; None for a metric that is not ours."""
    parts = set(metric.split('/'))
    if parts & _UP:
        return True
    return False if parts & _DOWN else None


def worst(metric: str, values: Sequence[float]) -> float | None:
    """The worst of ``values``; None for a metric without a known direction."""
    direction = higher_is_better(metric)
    return None if direction is None else (min if direction else max)(values)


def condition_groups(rows: Sequence[Row]) -> list[list[int]]:
    """Numbers of the rows of each condition, in the order of the first; several noise seeds."""
    groups: dict[tuple, list[int]] = {}
    for i, row in enumerate(rows):
        groups.setdefault((row['protocol'], row['condition']), []).append(i)
    return list(groups.values())


def _over_seeds(rows: Sequence[Row], part: str, key: str) -> dict[str, Any] | None:
    values = [v for row in rows if (v := row[part].get(key)) is not None]
    if not values:
        return None
    found = {
        'mean': statistics.fmean(values),
        'std': statistics.stdev(values) if len(values) > 1 else None,
    }
    return {**found, 'worst': worst(key, values)} if part == 'metrics' else found


def _mean_accuracy(rows: Sequence[Row], numbers: Sequence[int]) -> float | None:
    found = _over_seeds([rows[i] for i in numbers], 'metrics', _ACCURACY)
    return None if found is None else found['mean']


def _clean(rows: Sequence[Row]) -> int | None:
    return next((i for i, row in enumerate(rows) if row['attack'] is None), None)


def _condition(rows: Sequence[Row], clean: float | None) -> dict[str, Any]:
    first = rows[0]
    names = list(dict.fromkeys(k for row in rows for k in row['metrics']))
    metrics = {k: m for k in names if (m := _over_seeds(rows, 'metrics', k)) is not None}
    modalities = list(dict.fromkeys(m for row in rows for m in row['contribution']))
    accuracy = metrics.get(_ACCURACY, {}).get('mean')
    relative = None
    if first['attack'] is not None and accuracy is not None and clean:
        relative = accuracy / clean
    return {
        **{k: first[k] for k in ('condition', 'protocol', 'protocol_version', 'attack')},
        **{k: first[k] for k in ('severity', 'epsilon', 'modalities')},
        'seeds': [row['seed'] for row in rows if row['seed'] is not None],
        'metrics': metrics,
        'relative_robustness': relative,
        'contribution': {m: _over_seeds(rows, 'contribution', m) for m in modalities},
    }


def _without_any(predictions: Predictions) -> int | None:
    """Samples that have no modality (W is 0 for all), the most of a noise seed; None without W."""
    weights = [None if p is None else p.get('contribution') for p in predictions]
    known = [np.asarray(w) for w in weights if w is not None]
    if len(known) < len(weights):
        return None
    return max(int((w == 0).all(axis=1).sum()) for w in known)


def _add_intervals(
    conditions: Sequence[dict],
    groups: Sequence[Sequence[int]],
    predictions: Predictions,
    resamples: int,
    level: float,
    seed: int,
    together: np.ndarray | None,
) -> None:
    """Bootstrap intervals of accuracy over samples, a sample's noise seeds kept together."""
    columns, owners = [], []
    for condition, numbers in zip(conditions, groups, strict=True):
        known = [p for i in numbers if (p := predictions[i]) is not None]
        if len(known) == len(numbers) and _ACCURACY in condition['metrics']:
            values = [per_sample_values(_ACCURACY, p) for p in known]
            columns.append(np.mean([v for v in values if v is not None], axis=0))
            owners.append(condition)
    sizes = {len(c) for c in columns}
    if len(sizes) == 1:
        ends = mean_intervals(np.stack(columns, axis=1), resamples, level, seed, together)
        for condition, pair in zip(owners, ends.tolist(), strict=True):
            condition['metrics'][_ACCURACY]['interval'] = pair


def _area(rows: Sequence[Row], curve: Curve, clean: int) -> dict[str, float]:
    """Area of every metric that clean and all strengths have."""
    found = {}
    for metric, start in rows[clean]['metrics'].items():
        means = [_over_seeds([rows[i] for i in n], 'metrics', metric) for n in curve.members]
        values = [m['mean'] for m in means if m is not None]
        if start is not None and len(values) == len(means):
            found[metric] = area_under_severity(curve.strengths, values, start)
    return found


def _curve(rows: Sequence[Row], curve: Curve, clean: int | None) -> dict[str, Any]:
    accuracies = [_mean_accuracy(rows, numbers) for numbers in curve.members]
    start = None if clean is None else rows[clean]['metrics'].get(_ACCURACY)
    known = [a for a in accuracies if a is not None]
    relative = statistics.fmean(known) / start if known and start else None
    area = {} if clean is None or curve.axis is None else _area(rows, curve, clean)
    return {**curve.describe(), 'area': area, 'relative_robustness': relative}


def _errors(rows: Sequence[Row], curve: Curve, seeds: Sequence[set]) -> list[float] | None:
    """Mean error in percent at each strength; None where a row has no accuracy."""
    found = []
    for numbers, wanted in zip(curve.members, seeds, strict=True):
        accuracy = _mean_accuracy(rows, [i for i in numbers if rows[i]['seed'] in wanted])
        if accuracy is None:
            return None
        found.append(100 - accuracy)
    return found


def _against_reference(rows: Sequence[Row], reference: Sequence[Row]) -> dict[str, Any]:
    """CE and relative CE of each curve, their means, and relative robustness beside it."""
    theirs = {c.key: c for c in curves_of(reference)}
    clean, their_clean = _clean(rows), _clean(reference)
    start = None if clean is None else rows[clean]['metrics'].get(_ACCURACY)
    their_start = None if their_clean is None else reference[their_clean]['metrics'].get(_ACCURACY)
    found: list[dict[str, Any]] = []
    for curve in curves_of(rows):
        other = theirs.get(curve.key)
        if other is None or other.strengths != curve.strengths:
            continue
        seeds = [{rows[i]['seed'] for i in numbers} for numbers in curve.members]
        mine, base = _errors(rows, curve, seeds), _errors(reference, other, seeds)
        if mine is None or base is None or start is None or their_start is None:
            continue
        their_mean = 100 - statistics.fmean(base)
        found.append(
            {
                **curve.describe(),
                'ce': corruption_error(mine, base),
                'relative_ce': relative_corruption_error(
                    mine, 100 - start, base, 100 - their_start
                ),
                'reference_relative_robustness': their_mean / their_start if their_start else None,
            }
        )
    scaled = [c for c in found if c['axis'] is not None]
    return {
        'corruptions': found,
        'mce': _mean([c['ce'] for c in scaled]),
        'relative_mce': _mean([c['relative_ce'] for c in scaled]),
        'relative_robustness': _mean([c['reference_relative_robustness'] for c in found]),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return statistics.fmean(known) if known else None


def summarise(
    rows: Sequence[Row],
    predictions: Predictions | None = None,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
    reference: Mapping[str, Any] | None = None,
    reference_source: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What a results file says over its rows (docs/results_schema.md).

    Args:
        rows: results rows, clean first.
        predictions: per row ``scores``, ``labels``, ``predicted``, ``contribution``, ``groups`` as
            :func:`cal_mm.evaluation.report.prediction_arrays` gives them, or None.
        resamples: of the bootstrap; 0: no intervals.
        level: of the intervals.
        seed: of the resamples.
        reference: results of the model that mCE refers to, checked before
            (:mod:`cal_mm.evaluation.reference`).
        reference_source: what the summary says of that file.
    """
    known = list(predictions) if predictions is not None else [None] * len(rows)
    clean = _clean(rows)
    start = None if clean is None else rows[clean]['metrics'].get(_ACCURACY)
    groups = condition_groups(rows)
    conditions = [_condition([rows[i] for i in numbers], start) for numbers in groups]
    for condition, numbers in zip(conditions, groups, strict=True):
        condition['no_modality'] = _without_any([known[i] for i in numbers])
    measured = any(p is not None for p in known)
    named = [p['groups'] for p in known if p is not None and p.get('groups') is not None]
    together = group_numbers(named[0].tolist()) if named else None
    if resamples and measured:
        _add_intervals(conditions, groups, known, resamples, level, seed, together)
    curves = curves_of(rows)
    described = [_curve(rows, curve, clean) for curve in curves]
    found: dict[str, Any] = {
        'bootstrap': (
            {
                'resamples': resamples,
                'level': level,
                'seed': seed,
                'metrics': [_ACCURACY],
                'groups': None if together is None else int(together.max()) + 1,
            }
            if resamples and measured
            else None
        ),
        'conditions': conditions,
        'curves': described,
        'relative_robustness': _mean([c['relative_robustness'] for c in described]),
        'contribution': contribution_under_noise(
            rows, known, curves, resamples, level, seed, together
        ),
        'reference': None,
    }
    if reference is not None:
        against = _against_reference(rows, reference['rows'])
        found['reference'] = {**(reference_source or {}), **against}
    return found
