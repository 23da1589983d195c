"""The plain-text table of a robustness test: ASCII, right in a dumb terminal and in a CI log."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from .summary import condition_groups

__all__ = ['curves_table', 'group_rows', 'render', 'results_table', 'summary_lines']

_ACCURACY = 'accuracy/top1'
_METRICS = (
    ('f1/macro', 'macro F1', 1),
    ('nll', 'NLL', 3),
    ('ece', 'ECE', 1),
    ('brier', 'Brier', 3),
    ('aurc', 'AURC', 2),
)
_NAMED = 3


def render(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table, the first column left and the others right aligned, a rule under the header."""
    widths = [max(len(line[i]) for line in (header, *rows)) for i in range(len(header))]
    lines = [
        '  '.join(
            cell.ljust(w) if i == 0 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in (header, *rows)
    ]
    lines.insert(1, '  '.join('-' * w for w in widths))
    return '\n'.join(lines)


def group_rows(rows: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Rows of one condition under several noise seeds together, in the order of the first."""
    return [[rows[i] for i in numbers] for numbers in condition_groups(rows)]


def _mean(rows: Sequence[Mapping[str, Any]], part: str, key: str) -> float | None:
    values = [row[part].get(key) for row in rows]
    known = [v for v in values if v is not None]
    return statistics.fmean(known) if known else None


def _number(value: float | None, digits: int) -> str:
    return '-' if value is None else f'{value:.{digits}f}'


def results_table(results: Mapping[str, Any], per_seed: bool = False) -> str:
    """A line per condition: accuracy, loss against clean, calibration, W.

    Over several noise seeds the mean, its standard deviation and the worst seed.

    Args:
        results: as ``load_results`` gives it; ``rows``, and of the ``summary``, if there is one,
            the intervals of accuracy.
        per_seed: also a line per noise seed, under its condition.
    """
    rows = results['rows']
    groups = group_rows(rows)
    several = any(len(g) > 1 for g in groups)
    intervals = _intervals(results)
    modalities = sorted({m for row in rows for m in row['contribution']})
    metrics = [m for m in _METRICS if any(m[0] in row['metrics'] for row in rows)]
    header = ['condition', 'acc %']
    header += ['95 % interval'] if intervals else []
    header += ['worst', 'seeds'] if several else []
    header += ['vs clean', *(name for _, name, _ in metrics), *(f'W {m}' for m in modalities)]
    clean = _mean(groups[0], 'metrics', _ACCURACY) if groups else None

    def line(name: str, members: Sequence[Mapping[str, Any]], interval: str | None) -> list[str]:
        accuracy = _mean(members, 'metrics', _ACCURACY)
        gap = None if accuracy is None or clean is None else accuracy - clean
        return [
            name,
            _accuracy(members),
            *([interval or ''] if intervals else []),
            *(_spread(members) if several else []),
            '' if members is groups[0] or gap is None else f'{gap:+.2f}',
            *(_number(_mean(members, 'metrics', k), digits) for k, _, digits in metrics),
            *(_number(_mean(members, 'contribution', m), 3) for m in modalities),
        ]

    lines = []
    for group in groups:
        first = group[0]
        name = first['condition']
        lines.append(line(name, group, intervals.get((first['protocol'], name))))
        if per_seed and len(group) > 1:
            lines += [line(f'  seed {row["seed"]}', [row], None) for row in group]
    return render(header, lines)


def _intervals(results: Mapping[str, Any]) -> dict[tuple[str | None, str], str]:
    found = {}
    for c in (results.get('summary') or {}).get('conditions', ()):
        ends = c['metrics'].get(_ACCURACY, {}).get('interval')
        if ends:
            found[c['protocol'], c['condition']] = f'{ends[0]:.1f} to {ends[1]:.1f}'
    return found


def _values(group: Sequence[Mapping[str, Any]]) -> list[float]:
    return [v for row in group if (v := row['metrics'].get(_ACCURACY)) is not None]


def _accuracy(group: Sequence[Mapping[str, Any]]) -> str:
    values = _values(group)
    if len(values) < 2:
        return _number(values[0] if values else None, 2)
    return f'{statistics.fmean(values):.2f} +- {statistics.stdev(values):.2f}'


def _spread(group: Sequence[Mapping[str, Any]]) -> list[str]:
    values = _values(group)
    return [f'{min(values):.2f}' if len(values) > 1 else '', str(len(group))]


def curves_table(summary: Mapping[str, Any]) -> str:
    """A line per corruption and modality: area, relative robustness, CE, W against strength.

    Empty where only clean was tested.

    Args:
        summary: of a results file.
    """
    if not summary['curves']:
        return ''
    against = summary['reference']
    errors = {_key(c): c for c in (against['corruptions'] if against else ())}
    weights = {_key(c): c for c in summary['contribution']}
    header = ['corruption', 'strengths', 'area', 'relative']
    header += ['CE', 'rel. CE'] if against else []
    header += ['W falls %', 'rho(W, strength)'] if weights else []
    lines = []
    for curve in summary['curves']:
        line = [curve['label'], _strengths(curve)]
        line += [_number(curve['area'].get(_ACCURACY), 2), _number(curve['relative_robustness'], 3)]
        if against:
            error = errors.get(_key(curve), {})
            line += [_number(error.get('ce'), 1), _number(error.get('relative_ce'), 1)]
        if weights:
            hit = weights.get(_key(curve), {}).get('hit', {})
            last = {m: h['falls'][-1] for m, h in hit.items()}
            percent = {m: None if share is None else 100 * share for m, share in last.items()}
            line.append(_per_modality(percent, 0))
            line.append(_per_modality({m: h['spearman'] for m, h in hit.items()}, 2))
        lines.append(line)
    return render(header, lines)


def _key(curve: Mapping[str, Any]) -> tuple:
    return curve['protocol'], curve['label'], curve['axis'], tuple(curve['modalities'])


def _per_modality(values: Mapping[str, float | None], digits: int) -> str:
    """One value without its name, a few with names, many as their range."""
    known = [v for v in values.values() if v is not None]
    if not known:
        return '-'
    if len(values) == 1:
        return _number(known[0], digits)
    if len(values) <= _NAMED:
        return ' '.join(f'{m} {_number(v, digits)}' for m, v in values.items())
    return f'{_number(min(known), digits)} to {_number(max(known), digits)}'


def _strengths(curve: Mapping[str, Any]) -> str:
    if curve['axis'] is None:
        return '-'
    points = curve['strengths']
    if len(points) > 2 and points == list(range(int(points[0]), int(points[-1]) + 1)):
        return f'{points[0]:g}-{points[-1]:g}'
    return ','.join(f'{s:g}' for s in points)


def summary_lines(summary: Mapping[str, Any]) -> list[str]:
    """What the columns of :func:`curves_table` are, the figures over all corruptions, and how many
    samples have no modality left.
    """
    nothing = _nothing_left(summary)
    if not summary['curves']:
        return nothing
    lines = [
        'area: accuracy over the strength, clean included, averaged; relative: accuracy / clean '
        f'accuracy, {_number(summary["relative_robustness"], 3)} on average'
    ]
    against = summary['reference']
    if against:
        scaled = [c for c in against['corruptions'] if c['axis'] is not None]
        counts = [sum(c[k] is not None for c in scaled) for k in ('ce', 'relative_ce')]
        lines.append(
            f'mCE {_number(against["mce"], 1)} over {counts[0]} corruptions, relative mCE '
            f"{_number(against['relative_mce'], 1)} over {counts[1]} that raise the reference's "
            f'error (100: as the reference {against["path"]}, whose relative robustness is '
            f'{_number(against["relative_robustness"], 3)})'
        )
    if summary['contribution']:
        lines.append(
            'W falls: share of the samples with the modality that is hit whose W of it is lower at '
            "the last strength than clean; rho: Spearman's correlation"
        )
    return lines + nothing


def _nothing_left(summary: Mapping[str, Any]) -> list[str]:
    # a file of an older version does not tell
    left = {c['condition']: n for c in summary['conditions'] if (n := c.get('no_modality'))}
    if not left:
        return []
    told = ', '.join(f'{n} under {name}' for name, n in left.items())
    if len(left) > _NAMED:
        told = f'{min(left.values())} to {max(left.values())} under {len(left)} conditions'
    return [
        f'samples without any modality left: {told}; they are scored too, with the class prior or '
        f'whatever fusion and gate make of nothing'
    ]
