"""Tables of a study in Markdown, LaTeX and CSV."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .outcomes import Outcome, Panel
from .paired import Best, Versus, best_of, compare

__all__ = ['Cell', 'Table', 'csv_text', 'panel_records', 'panel_table', 'versus_table']

NOISED = 'mean noised'


@dataclass(frozen=True)
class Cell:
    """A number with what is to be seen of its significance.

    Attributes:
        text: as printed, without marks.
        bold: the best, and proven to be.
        tie: not significantly worse than the best (or the best itself, unproven).
    """

    text: str
    bold: bool = False
    tie: bool = False


@dataclass(frozen=True)
class Table:
    """A table that can be rendered; ``notes`` explain its marks."""

    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()

    def markdown(self) -> str:
        """GitHub's."""
        lines = [_line(_md(h) for h in self.header), '|---' * len(self.header) + '|']
        for row in self.rows:
            cells = []
            for cell in row:
                text = f'**{_md(cell.text)}**' if cell.bold else _md(cell.text)
                cells.append(text + (' †' if cell.tie else ''))
            lines.append(_line(cells))
        return '\n'.join(lines)

    def latex(self, caption: str, label: str) -> str:
        """A ``table`` with booktabs' rules."""
        align = 'l' + 'r' * (len(self.header) - 1)
        lines = [
            r'\begin{table}',
            rf'  \caption{{{_tex(caption)}}}\label{{{label}}}',
            rf'  \begin{{tabular}}{{{align}}}',
            r'    \toprule',
            '    ' + ' & '.join(map(_tex, self.header)) + r' \\',
            r'    \midrule',
        ]
        for row in self.rows:
            cells = []
            for cell in row:
                text = rf'\textbf{{{_tex(cell.text)}}}' if cell.bold else _tex(cell.text)
                cells.append(text + (r'$^\dagger$' if cell.tie else ''))
            lines.append('    ' + ' & '.join(cells) + r' \\')
        return '\n'.join([*lines, r'    \bottomrule', r'  \end{tabular}', r'\end{table}'])


def _line(cells: Any) -> str:
    return '| ' + ' | '.join(cells) + ' |'


def _md(text: str) -> str:
    return text.replace('|', '\\|')


def _tex(text: str) -> str:
    for char in '&%$#_{}':
        text = text.replace(char, '\\' + char)
    for char, tex in (('±', r'$\pm$'), ('†', r'$\dagger$'), ('~', r'\textasciitilde{}')):
        text = text.replace(char, tex)
    return text


def mean_std(outcome: Outcome | None) -> str:
    """``77.4 ± 0.6``; ``-`` where nothing was tested."""
    if outcome is None:
        return '-'
    return f'{outcome.mean:.1f}' + ('' if outcome.std is None else f' ± {outcome.std:.1f}')


def noised(panel: Panel, entry: str, columns: Sequence[str]) -> Outcome | None:
    """The mean over the columns, where there are several and the entry has all of them."""
    parts = [panel.outcomes.get((entry, c)) for c in columns]
    whole = [p for p in parts if p is not None]
    if len(columns) < 2 or len(whole) < len(columns) or len({tuple(p.seeds) for p in whole}) > 1:
        return None
    return Outcome(
        seeds=list(whole[0].seeds),
        accuracy=np.mean([p.accuracy for p in whole], axis=0).tolist(),
        ece=np.mean([p.ece for p in whole], axis=0).tolist(),
        right=np.mean([p.right for p in whole], axis=0),
    )


def with_mean(panel: Panel, protocols: Sequence[str] = ()) -> Panel:
    """The panel with the column ``mean noised``, where there are several noised ones.

    Args:
        panel: without it.
        protocols: that it was tested under; the first one counts, beside attacks and missing
            modalities, for figures of several protocols have no common scale.
    """
    others = tuple(f'{p} ' for p in protocols[1:])
    columns = [c for c in panel.columns if c != 'clean' and not c.startswith(others)]
    found = {e.key: noised(panel, e.key, columns) for e in panel.entries}
    if all(o is None for o in found.values()):
        return panel
    outcomes = dict(panel.outcomes)
    outcomes.update({(k, NOISED): o for k, o in found.items() if o is not None})
    return replace(panel, columns=[*panel.columns, NOISED], outcomes=outcomes)


def panel_table(
    panel: Panel, choices: Mapping[str, Sequence[Mapping[str, Any]]], statistics: Mapping[str, Any]
) -> Table:
    """Accuracy of a panel, mean and standard deviation over the seeds.

    Args:
        panel: with its mean column.
        choices: by row name, of the selection, one of every fold.
        statistics: ``resamples`` and ``level``.
    """
    bests: dict[str, Best] = {}
    for name in panel.columns:
        there = {
            e.key: o for e in panel.entries if (o := panel.outcomes.get((e.key, name))) is not None
        }
        bests[name] = best_of(there, **statistics, groups=panel.groups)
    cost = relative_cost(panel)
    extra = ['worst seed', 'ECE'] + ([f'ECE {NOISED}'] if NOISED in panel.columns else [])
    header = ('method', 'lr', 'val', *panel.columns, *extra, *COSTS)
    rows = []
    for entry in panel.entries:
        clean = panel.outcomes.get((entry.key, 'clean'))
        mine = panel.trials[entry.key]
        val = [t['val']['accuracy'] for t in mine]
        cells = [
            Cell(entry.title + (f' ({len(mine)} seeds)' if _fewer(panel, entry.key) else '')),
            Cell(_rate(choices.get(entry.row, ()))),
            Cell(f'{np.mean(val):.1f}'),
        ]
        for name in panel.columns:
            best = bests[name]
            proven = best.proven and entry.key == best.name
            tie = not best.proven and entry.key == best.name and bool(best.ties)
            cells.append(
                Cell(
                    mean_std(panel.outcomes.get((entry.key, name))),
                    bold=proven,
                    tie=tie or entry.key in best.ties,
                )
            )
        cells.append(Cell('-' if clean is None else f'{min(clean.accuracy):.1f}'))
        cells.append(Cell('-' if clean is None else f'{np.mean(clean.ece):.1f}'))
        if NOISED in panel.columns:
            outcome = panel.outcomes.get((entry.key, NOISED))
            cells.append(Cell('-' if outcome is None else f'{np.mean(outcome.ece):.1f}'))
        cells += [Cell(_ratio(cost.get(entry.key, {}).get(name))) for name in COSTS]
        rows.append(tuple(cells))
    notes = (
        'Bold: significantly better than every other line of the column; †: the best, or not '
        'significantly worse than the best.',
    )
    return Table(header, tuple(rows), notes)


def _fewer(panel: Panel, key: str) -> bool:
    return len(panel.trials[key]) < max(len(t) for t in panel.trials.values())


def _rate(choices: Sequence[Mapping[str, Any]]) -> str:
    """The chosen rate; where folds chose different ones the lowest and the highest."""
    if not choices:
        return '-'
    rates = sorted({c['lr'] for c in choices})
    text = f'{rates[0]:g}' if len(rates) == 1 else f'{rates[0]:g} to {rates[-1]:g}'
    return text + (' (edge)' if any(c.get('on_edge') for c in choices) else '')


def _ratio(value: float | None) -> str:
    return '-' if value is None else f'{value:.2f}'


COSTS = ('step x', 'train x', 'params x')


def relative_cost(panel: Panel) -> dict[str, dict[str, float | None]]:
    """Each of ``COSTS`` (a training step, a whole training with what goes before it, trained
    parameters) of each entry relative to ``concat``; {} without such a row.

    Times compare only between trainings of the same code: None where the two rows have none.
    """
    base = next((e for e in panel.entries if e.method == 'concat'), None)
    if base is None:
        return {}
    trials = [t for ts in panel.trials.values() for t in ts]
    # the CPU time does not suffer from what else runs; on an accelerator it does not count
    cpu = '_cpu' if all(t['device'] == 'cpu' for t in trials) else ''
    keys = (f'step{cpu}_seconds', f'train{cpu}_seconds', 'parameters')

    def codes(entry: str) -> set[str]:
        return {t['code_sha256'] for t in panel.trials[entry]}

    def median(entry: str, key: str, shared: set[str]) -> float | None:
        values = [t[key] for t in panel.trials[entry] if t.get(key) and t['code_sha256'] in shared]
        return float(np.median(values)) if values else None

    found: dict[str, dict[str, float | None]] = {}
    for entry in panel.entries:
        found[entry.key] = {}
        for name, key in zip(COSTS, keys, strict=True):
            shared = codes(entry.key) & codes(base.key)
            if key == 'parameters':  # no time
                shared = codes(entry.key) | codes(base.key)
            mine, other = median(entry.key, key, shared), median(base.key, key, shared)
            found[entry.key][name] = None if mine is None or other is None else mine / other
    return found


def versus_table(
    panel: Panel, reference: str, statistics: Mapping[str, Any]
) -> tuple[Table, dict[tuple[str, str], Versus]] | None:
    """The reference minus every other entry, with intervals; None without the reference."""
    if all(e.key != reference for e in panel.entries):
        return None
    rivals = [e for e in panel.entries if e.key != reference]
    found: dict[tuple[str, str], Versus] = {}
    for name in panel.columns:
        first = panel.outcomes.get((reference, name))
        others = {e.key: o for e in rivals if (o := panel.outcomes.get((e.key, name))) is not None}
        if first is not None and others:
            compared = compare(first, others, **statistics, groups=panel.groups)
            for key, versus in compared.items():
                found[key, name] = versus
    level = statistics['level']
    rows = []
    for entry in rivals:
        cells = [Cell(entry.title)]
        for name in panel.columns:
            versus_one = found.get((entry.key, name))
            if versus_one is None:
                cells.append(Cell('-'))
                continue
            v = versus_one
            text = f'{v.difference:+.1f} [{v.low:+.1f}, {v.high:+.1f}]'
            cells.append(Cell(text, bold=v.p_holm < 1 - level))
        rows.append(tuple(cells))
    notes = (
        f'Points, with the {100 * level:g} % bootstrap interval over samples and seeds. Bold: '
        f'significant after Holm over the lines of the column.',
    )
    return Table(('minus', *panel.columns), tuple(rows), notes), found


def panel_records(
    panel: Panel, versus: Mapping[tuple[str, str], Versus], reference: str | None
) -> list[dict[str, Any]]:
    """A record per entry and column, for the CSV."""
    cost = relative_cost(panel)
    found = []
    for entry in panel.entries:
        step, train, parameters = (cost.get(entry.key, {}).get(name) for name in COSTS)
        for name in panel.columns:
            outcome = panel.outcomes.get((entry.key, name))
            if outcome is None:
                continue
            v = versus.get((entry.key, name))
            found.append(
                {
                    'dataset': panel.dataset,
                    'training': panel.training,
                    'method': entry.key,
                    'title': entry.title,
                    'column': name,
                    'seeds': len(outcome.seeds),
                    'accuracy_mean': round(outcome.mean, 4),
                    'accuracy_std': None if outcome.std is None else round(outcome.std, 4),
                    'accuracy_worst': round(min(outcome.accuracy), 4),
                    'ece_mean': round(float(np.mean(outcome.ece)), 4),
                    'step_ratio': None if step is None else round(step, 4),
                    'train_ratio': None if train is None else round(train, 4),
                    'parameter_ratio': None if parameters is None else round(parameters, 4),
                    'reference': reference if v else None,
                    'reference_minus': None if v is None else round(v.difference, 4),
                    'low': None if v is None else round(v.low, 4),
                    'high': None if v is None else round(v.high, 4),
                    'p_samples': None if v is None else v.p_samples,
                    'p_seeds': None if v is None else v.p_seeds,
                    'p_holm': None if v is None else v.p_holm,
                }
            )
    return found


def csv_text(records: Sequence[Mapping[str, Any]]) -> str:
    """Records of the same keys as CSV; empty cells for None."""
    if not records:
        return ''
    out = io.StringIO()
    writer = csv.DictWriter(out, list(records[0]), lineterminator='\n')
    writer.writeheader()
    writer.writerows(records)
    return out.getvalue()
