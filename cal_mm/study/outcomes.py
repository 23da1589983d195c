"""The tests of a study, read back: accuracy by dataset, condition, method and seed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cal_mm.evaluation.statistics import group_numbers

from .plan import Plan
from .records import Ledger
from .spec import OWN_GATE

#: the others are called by their name
_GATE_TITLES = {'none': 'no'}

__all__ = ['Entry', 'Outcome', 'Panel', 'column_of', 'load_panels']

ACCURACY = 'accuracy/top1'


@dataclass(frozen=True)
class Entry:
    """A line of a table: a row of the study, with one gate."""

    row: str
    gate: str
    title: str
    method: str

    @property
    def key(self) -> str:
        """Unique in a panel."""
        return self.row if self.gate == OWN_GATE else f'{self.row}+{self.gate}'


@dataclass
class Outcome:
    """What one entry reached in one column of one panel.

    Attributes:
        seeds: S seeds, sorted.
        accuracy: [S] in percent.
        ece: [S] in percent.
        right: [S, N] share of noise draws in which sample n was right; nan where the seed's fold
            does not test it.
    """

    seeds: list[int] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    ece: list[float] = field(default_factory=list)
    right: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return float(np.mean(self.accuracy))

    @property
    def std(self) -> float | None:
        """Of a single seed, with n - 1; None for one seed."""
        return float(np.std(self.accuracy, ddof=1)) if len(self.accuracy) > 1 else None


@dataclass
class Panel:
    """One dataset under one training condition.

    Attributes:
        entries: in the study's order.
        columns: test columns, ``clean`` first.
        outcomes: by (entry key, column).
        trials: the rows of the ledger, by entry key.
        missing: number of planned test trials that are not there.
        groups: [N], see :func:`cal_mm.evaluation.statistics.group_numbers`.
    """

    dataset: str
    training: str
    entries: list[Entry]
    columns: list[str]
    outcomes: dict[tuple[str, str], Outcome]
    trials: dict[str, list[dict[str, Any]]]
    missing: int
    groups: np.ndarray | None = None


def column_of(row: Mapping[str, Any]) -> str:
    """The column that a test row belongs to; a protocol's strength is one, over its attacks."""
    if row['attack'] is None and row['protocol'] is None:
        return 'clean'
    if row['epsilon'] is not None:
        return f'{row["protocol"]} {row["epsilon"]:g}'
    prefix = '' if row['protocol'] in (None, 'clipped', 'missing') else f'{row["protocol"]} '
    return prefix + str(row['condition'])


def load_panels(
    plan: Plan, ledger: Ledger, choices: Mapping[Any, Mapping[str, Any]]
) -> list[Panel]:
    """Panels of every dataset and training condition with at least one test.

    Only trials of the chosen rate and setting count.
    """
    rows = ledger.rows()
    groups: dict[tuple[str, str], list] = {}
    for cell in plan.cells:
        groups.setdefault((cell.dataset, cell.training), []).append(cell)
    found = []
    for (dataset, training), cells in groups.items():
        trials: dict[str, list[dict[str, Any]]] = {}
        missing = 0
        for cell in cells:
            choice = choices.get(plan.selection_cell(cell))
            if choice is None:
                missing += len(plan.seeds(cell))
                continue
            for trial in plan.tests(cell, (choice['lr'], choice['setting'])):
                row = rows.get(trial.digest)
                if row is None or row['status'] != 'done':
                    missing += 1
                else:
                    trials.setdefault(cell.row, []).append(row)
        if trials:
            found.append(_panel(plan, ledger, dataset, training, trials, missing))
    return found


def _panel(
    plan: Plan,
    ledger: Ledger,
    dataset: str,
    training: str,
    trials: Mapping[str, list[dict[str, Any]]],
    missing: int,
) -> Panel:
    panel = Panel(dataset, training, [], [], {}, {}, missing)
    index: dict[str, int] = {}
    for name, mine in trials.items():
        mine = sorted(mine, key=lambda r: r['seed'])
        row = plan._rows[dataset, name]
        arrays = [_predictions(ledger.folder / r['predictions']) for r in mine]
        for a in arrays:
            for sample in a['sample_ids'].tolist():
                index.setdefault(sample, len(index))
        for gate in row.method.gates:
            title = (
                row.title
                if gate == OWN_GATE
                else f'{row.title}, {_GATE_TITLES.get(gate, gate)} gate'
            )
            entry = Entry(name, gate, title, row.method.name)
            panel.entries.append(entry)
            panel.trials[entry.key] = mine
            for column, outcome in _outcomes(mine, arrays, gate, index).items():
                panel.outcomes[entry.key, column] = outcome
    panel.columns = _ordered(trials.values())
    for outcome in panel.outcomes.values():  # later entries may have added samples
        extra = len(index) - outcome.right.shape[1]
        outcome.right = np.pad(outcome.right, ((0, 0), (0, extra)), constant_values=np.nan)
    panel.groups = _groups(plan, dataset, index)
    return panel


def _groups(plan: Plan, dataset: str, index: Mapping[str, int]) -> np.ndarray | None:
    known = plan.groups(dataset)
    return group_numbers([known.get(sample, '') for sample in index])


def _ordered(trials: Iterable[Sequence[Mapping[str, Any]]]) -> list[str]:
    """Every column once, in the order of the row that has most of them."""
    per_row = [dict.fromkeys(column_of(t) for t in mine[0]['test']) for mine in trials]
    longest = sorted(per_row, key=len, reverse=True)
    return list(dict.fromkeys(c for columns in longest for c in columns))


def _outcomes(
    trials: Sequence[Mapping[str, Any]],
    arrays: Sequence[Mapping[str, np.ndarray]],
    gate: str,
    index: Mapping[str, int],
) -> dict[str, Outcome]:
    found: dict[str, Outcome] = {}
    for trial, predictions in zip(trials, arrays, strict=True):
        places = [index[s] for s in predictions['sample_ids'].tolist()]
        columns: dict[str, list[int]] = {}
        for i, row in enumerate(trial['test']):
            if row['gate'] == gate:
                columns.setdefault(column_of(row), []).append(i)
        for column, numbers in columns.items():
            metrics = [trial['test'][i]['metrics'] for i in numbers]
            right = np.mean(
                [predictions[f'{i}/predicted'] == predictions['labels'] for i in numbers], axis=0
            )
            line = np.full((1, len(index)), np.nan)
            line[0, places] = right
            outcome = found.setdefault(column, Outcome(right=np.zeros((0, len(index)))))
            outcome.seeds.append(trial['seed'])
            outcome.accuracy.append(float(np.mean([m[ACCURACY] for m in metrics])))
            outcome.ece.append(float(np.mean([m['ece'] for m in metrics])))
            outcome.right = np.concatenate([outcome.right, line])
    return found


def _predictions(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as archive:
        return {k: archive[k] for k in archive.files if not k.endswith('scores')}
