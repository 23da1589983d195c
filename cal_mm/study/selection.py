"""Choosing rate and setting on validation, written down before anything is tested."""

import math
import statistics
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from .plan import Cell, Plan
from .records import Ledger
from .tables import Cell as TableCell
from .tables import Table

__all__ = ['choices_table', 'choose', 'current_choice', 'make_choices']


def choose(plan: Plan, cell: Cell, rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """The choice of a cell from its finished tuning trials.

    The candidate with the highest mean validation accuracy over the tuning seeds; of equals the one
    with the lower mean negative log-likelihood, then the first. A candidate of which a trial failed
    does not take part.

    Args:
        plan: of the study.
        cell: one that selects by itself.
        rows: finished and failed trials by digest.

    Returns:
        What ``selection.jsonl`` says; None while a trial has not been run, or when all failed.
    """
    trials = plan.tuning(cell)
    if any(t.digest not in rows for t in trials):
        return None
    candidates: list[dict[str, Any]] = []
    for lr, setting in plan.candidates(cell):
        mine = [t for t in trials if (t.lr, t.setting) == (lr, setting)]
        found = [rows[t.digest] for t in mine]
        failed = [r for r in found if r['status'] != 'done']
        candidates.append(
            {
                'lr': lr,
                'setting': setting,
                'options': dict(plan.row(cell).method.settings[setting]),
                'seeds': [t.seed for t in mine],
                'val': [_value(r, 'accuracy') for r in found],
                'nll': [_value(r, 'nll') for r in found],
                'epochs': [_value(r, 'epoch') for r in found],
                'trials': [t.digest for t in mine],
                'failed': len(failed),
            }
        )
    whole = [c for c in candidates if not c['failed']]
    if not whole:
        return None
    best = max(whole, key=lambda c: (statistics.fmean(c['val']), -statistics.fmean(c['nll'])))
    return {
        **asdict(cell),
        'lr': best['lr'],
        'setting': best['setting'],
        'options': best['options'],
        'val': statistics.fmean(best['val']),
        'on_edge': _on_edge(plan, best['lr']),
        'candidates': candidates,
    }


def _value(row: Mapping[str, Any], key: str) -> float | None:
    value = (row.get('val') or {}).get(key)
    return value if value is not None and math.isfinite(value) else None


def _on_edge(plan: Plan, lr: float) -> bool:
    """Whether it is the smallest or largest of three rates or more: the grid may be too narrow."""
    return len(plan.study.lrs) > 2 and lr in (min(plan.study.lrs), max(plan.study.lrs))


def choices_table(plan: Plan, choices: Mapping[Cell, Mapping[str, Any]]) -> Table:
    """Validation accuracy of every candidate, the chosen one of each line bold."""
    several = any(len(m.settings) > 1 for m in plan.study.methods.values())
    candidates = plan.candidates(plan.selections()[0])
    header = [f'lr {lr:g}' + (f' / {s}' if several else '') for lr, s in candidates]
    rows = []
    for cell, choice in choices.items():
        found = {(c['lr'], c['setting']): c for c in choice['candidates']}
        cells = []
        for key in candidates:
            val = found[key]['val']
            text = 'failed' if found[key]['failed'] else _spread(val)
            cells.append(TableCell(text, bold=key == (choice['lr'], choice['setting'])))
        rows.append((TableCell(cell.label), *cells))
    return Table(('validation accuracy', *header), tuple(rows))


def _spread(values: list[float]) -> str:
    text = f'{statistics.fmean(values):.1f}'
    return text if len(values) < 2 else f'{text} ± {statistics.stdev(values):.1f}'


def current_choice(plan: Plan, cell: Cell, choices: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The written choice of a cell, if it was made from the trials that the study asks for now."""
    wanted = {t.digest for t in plan.tuning(cell)}
    for choice in reversed(choices):
        if all(choice[k] == v for k, v in asdict(cell).items()):
            behind = {d for c in choice['candidates'] for d in c['trials']}
            return choice if behind == wanted else None
    return None


def make_choices(plan: Plan, ledger: Ledger) -> tuple[dict[Cell, dict[str, Any]], list[Cell]]:
    """Every cell's choice, written before it is returned, and the cells that have none yet.

    A choice that stands is kept: what was chosen before a test cannot be changed by it.
    """
    rows, written = ledger.rows(), ledger.choices()
    made: dict[Cell, dict[str, Any]] = {}
    open_cells = []
    for cell in plan.selections():
        choice = current_choice(plan, cell, written)
        if choice is None:
            choice = choose(plan, cell, rows)
            if choice is None:
                open_cells.append(cell)
                continue
            choice['time'] = datetime.now(UTC).isoformat(timespec='seconds')
            ledger.choose(choice)
        made[cell] = choice
    return made, open_cells
