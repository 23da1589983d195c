"""Choosing rate and setting on validation, written down before anything is tested."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from .plan import Cell, Plan, Trial
from .records import Ledger
from .tables import Cell as TableCell
from .tables import Table

__all__ = [
    'choices_table',
    'choose',
    'codes_of',
    'current_choice',
    'finalists',
    'make_choices',
    'outcome',
]


def outcome(
    plan: Plan, trial: Trial, rows: Mapping[str, Mapping[str, Any]]
) -> Mapping[str, Any] | None:
    """The row of a trial; in the place of a tuning trial also that of a test of the same training.

    A test trains as the tuning trial does, to the bit. There are tests before a choice where a grid
    was widened later, and only their validation scores are read.
    """
    row = rows.get(trial.digest)
    if (row is None or row['status'] != 'done') and trial.phase == 'select':
        tested = rows.get(plan.tested(trial).digest)
        if tested is not None and tested['status'] == 'done':
            return tested
    return row


def finalists(
    plan: Plan, cell: Cell, rows: Mapping[str, Mapping[str, Any]]
) -> list[tuple[float, int]] | None:
    """The candidates of the second round, the best first; None while the first is not complete."""
    found = _candidates(plan, rows, plan.tuning(cell))
    return None if found is None else _best(found.values())[: plan.study.finalists]


def choose(plan: Plan, cell: Cell, rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """The choice of a cell from its finished tuning trials.

    The candidate with the highest mean validation accuracy over the tuning seeds; of equals the one
    with the lower mean negative log-likelihood, then the first. A candidate of which a trial failed
    does not take part. With ``finalists`` the best so many get a second round on the seeds of the
    test, and the mean over all of their seeds decides between them.

    Args:
        plan: of the study.
        cell: one that selects by itself.
        rows: finished and failed trials by digest.

    Returns:
        What ``selection.jsonl`` says; None while a trial has not been run, or when all failed.
    """
    candidates = _candidates(plan, rows, plan.tuning(cell))
    if candidates is None:
        return None
    taking_part = list(candidates)
    if plan.study.finalists:
        taking_part = _best(candidates.values())[: plan.study.finalists]
        second = _candidates(plan, rows, plan.second_round(cell, taking_part))
        if second is None:
            return None
        for key, more in second.items():
            for name in ('seeds', 'val', 'nll', 'epochs', 'trials', 'codes', 'failed'):
                candidates[key][name] += more[name]
    order = _best(candidates[key] for key in taking_part)
    if not order:
        return None
    best = candidates[order[0]]
    return {
        **asdict(cell),
        'lr': best['lr'],
        'setting': best['setting'],
        'options': best['options'],
        'val': statistics.fmean(best['val']),
        'on_edge': _on_edge(plan, best['lr']),
        'finalists': plan.study.finalists,
        'candidates': list(candidates.values()),
    }


def _candidates(
    plan: Plan, rows: Mapping[str, Mapping[str, Any]], trials: Sequence[Trial]
) -> dict[tuple[float, int], dict[str, Any]] | None:
    """What the trials of each candidate gave; None while one has not been run."""
    found: dict[tuple[float, int], dict[str, Any]] = {}
    for trial in trials:
        row = outcome(plan, trial, rows)
        if row is None:
            return None
        one = found.setdefault(
            (trial.lr, trial.setting),
            {
                'lr': trial.lr,
                'setting': trial.setting,
                'options': dict(plan.row(trial.cell).method.settings[trial.setting]),
                'seeds': [],
                'val': [],
                'nll': [],
                'epochs': [],
                'trials': [],
                'codes': [],
                'failed': 0,
            },
        )
        one['seeds'].append(trial.seed)
        one['val'].append(_value(row, 'accuracy'))
        one['nll'].append(_value(row, 'nll'))
        one['epochs'].append(_value(row, 'epoch'))
        one['trials'].append(trial.digest)
        one['codes'].append(row.get('code_sha256'))
        one['failed'] += row['status'] != 'done'
    return found


def _best(candidates: Iterable[Mapping[str, Any]]) -> list[tuple[float, int]]:
    """Those without a failure, in the order of their scores."""
    whole = [c for c in candidates if not c['failed']]
    # equal means of other numbers differ in their last bits
    ranked = sorted(
        whole, key=lambda c: (-round(statistics.fmean(c['val']), 9), statistics.fmean(c['nll']))
    )
    return [(c['lr'], c['setting']) for c in ranked]


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


def current_choice(
    plan: Plan,
    cell: Cell,
    choices: list[dict[str, Any]],
    rows: Mapping[str, Mapping[str, Any]],
    code: str | None = None,
) -> dict[str, Any] | None:
    """The written choice of a cell, if it was made from the trials that the study asks for now.

    One that had to leave out a candidate does not stand once that one's trials have succeeded; with
    ``code`` only one whose trials all ran with that code (``code_sha256``) does.
    """
    for choice in reversed(choices):
        if all(choice[k] == v for k, v in asdict(cell).items()):
            if choice.get('finalists', 0) != plan.study.finalists or _mended(choice, rows):
                return None
            if code is not None and codes_of(choice) != {code}:
                return None
            first = len(plan.study.tuning_seeds)
            further = [
                (c['lr'], c['setting']) for c in choice['candidates'] if len(c['seeds']) > first
            ]
            trials = [*plan.tuning(cell), *plan.second_round(cell, further)]
            behind = {d for c in choice['candidates'] for d in c['trials']}
            return choice if behind == {t.digest for t in trials} else None
    return None


def codes_of(choice: Mapping[str, Any]) -> set[str]:
    """The code that its trials ran with; '' for a choice that does not say."""
    return {c for one in choice['candidates'] for c in one.get('codes', ['']) if c is not None}


def _mended(choice: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]]) -> bool:
    failed = [c for c in choice['candidates'] if c['failed']]
    return any(all(rows.get(d, {}).get('status') == 'done' for d in c['trials']) for c in failed)


def make_choices(
    plan: Plan, ledger: Ledger, rows: Mapping[str, Mapping[str, Any]], code: str | None = None
) -> tuple[dict[Cell, dict[str, Any]], list[Cell]]:
    """Every cell's choice, written before it is returned, and the cells that have none yet.

    A choice that stands is kept: what was chosen before a test cannot be changed by it.

    Args:
        plan: of the study.
        ledger: gets the new choices.
        rows: trials that count, by digest.
        code: see :func:`current_choice`.
    """
    written = ledger.choices()
    made: dict[Cell, dict[str, Any]] = {}
    open_cells = []
    for cell in plan.selections():
        choice = current_choice(plan, cell, written, rows, code)
        if choice is None:
            choice = choose(plan, cell, rows)
            if choice is None:
                open_cells.append(cell)
                continue
            choice['time'] = datetime.now(UTC).isoformat(timespec='seconds')
            ledger.choose(choice)
        made[cell] = choice
    return made, open_cells
