"""A paired comparison as text, Markdown, CSV or JSON."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from .paired import Comparison
from .table import render

__all__ = ['FORMATS', 'comparison_text']

FORMATS = ('text', 'markdown', 'csv', 'json')

_DIGITS = {'nll': 4, 'brier': 4}


def _cells(c: Comparison, labels: Sequence[str]) -> list[str]:
    digits = _DIGITS.get(c.metric, 2)
    d = c.difference
    cells = [
        c.condition,
        str(max(1, len(c.seeds))),
        f'{d.first:.{digits}f}',
        f'{d.second:.{digits}f}',
        f'{d.value:+.{digits}f}',
        f'{d.low:+.{digits}f} to {d.high:+.{digits}f}',
        _p(d.p),
        _p(c.p_holm),
    ]
    if c.mcnemar is not None and c.mcnemar_holm is not None:
        cells += [
            f'{c.mcnemar.first_only} / {c.mcnemar.second_only}',
            _p(c.mcnemar.p),
            _p(c.mcnemar_holm),
        ]
    winner = {'first': labels[0], 'second': labels[1], None: '-'}[c.better]
    return [*cells, winner]


def _p(value: float) -> str:
    return f'{value:.4f}' if value >= 1e-4 else f'{value:.0e}'


def _tables(comparisons: Sequence[Comparison], labels: Sequence[str], level: float) -> list[tuple]:
    """(metric, header, rows) per metric."""
    first, second = labels
    found = []
    for metric in dict.fromkeys(c.metric for c in comparisons):
        mine = [c for c in comparisons if c.metric == metric]
        header = ['condition', 'seeds', first, second, 'difference', f'{100 * level:g} % interval']
        header += ['p', 'p Holm']
        if mine[0].mcnemar is not None:
            header += ['only right', 'McNemar p', 'p Holm']
        found.append((metric, [*header, 'better'], [_cells(c, labels) for c in mine]))
    return found


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return '| ' + ' | '.join(c.replace('|', r'\|') for c in cells) + ' |'

    return '\n'.join([line(header), '|---' + '|---:' * (len(header) - 1) + '|', *map(line, rows)])


def _unit(comparison: Comparison) -> str:
    number = comparison.num_groups
    return 'samples' if number is None else f"data's {number} groups of samples"


def comparison_text(
    comparisons: Sequence[Comparison],
    labels: Sequence[str],
    summary: Sequence[str],
    notes: Sequence[str],
    facts: Mapping[str, Any],
    form: str = 'text',
) -> str:
    """The comparison in one of ``FORMATS``, without a final newline.

    Args:
        comparisons: of :func:`cal_mm.evaluation.paired.compare_pairs`.
        labels: names of the first and second model.
        summary: its sentences.
        notes: what was left out.
        facts: files, ``resamples``, ``seed``, ``level``; JSON holds all of them.
        form: which format.
    """
    if form == 'json':
        records = [c.record() for c in comparisons]
        content = dict(
            format='cal_mm.comparison',
            schema_version=1,
            **facts,
            labels=list(labels),
            comparisons=records,
            summary=list(summary),
            notes=list(notes),
        )
        return json.dumps(content, indent=1, allow_nan=False)
    if form == 'csv':
        out = io.StringIO()
        writer = csv.DictWriter(out, list(comparisons[0].record()), lineterminator='\n')
        writer.writeheader()
        writer.writerows(c.record() for c in comparisons)
        return out.getvalue().rstrip('\n')
    parts = []
    for metric, header, rows in _tables(comparisons, labels, facts['level']):
        title = f'**{metric}**' if form == 'markdown' else metric
        body = _markdown(header, rows) if form == 'markdown' else render(header, rows)
        parts.append(f'{title}, {labels[1]} minus {labels[0]}\n\n{body}')
    legend = (
        f'{comparisons[0].num_samples} samples; p and interval: paired bootstrap, '
        f'{facts["resamples"]} resamples of the {_unit(comparisons[0])} (noise seeds of a sample '
        f'stay together); '
        f'intervals are not corrected for the number of conditions'
    )
    if any(c.mcnemar is not None for c in comparisons):
        legend += (
            '; only right: samples that only the first / only the second model has right (under '
            'more noise seeds)'
        )
    bullets = [f'- {t}' for t in summary] if form == 'markdown' else list(summary)
    extra = [f'note: {t}' for t in notes]
    return '\n\n'.join([*parts, legend, '\n'.join(bullets), *(['\n'.join(extra)] if extra else [])])
