"""A study from its file to its ledger: select, choose, test."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config

from cal_mm.config.loading import names_read
from cal_mm.registry import suggestion

from .build import ConfigBuilder
from .estimate import Estimate
from .parsing import TOP_KEYS, parse_study
from .plan import Trial, make_plan
from .pool import Setup, in_this_process, run_trials
from .progress import Progress, duration
from .records import Ledger, code_digest
from .selection import (
    choices_table,
    choose,
    current_choice,
    finalists,
    make_choices,
    outcome,
)
from .spec import Study, StudyError

__all__ = ['Options', 'Session', 'load_study']


def load_study(path: str, options: dict[str, Any] | None = None) -> Study:
    """Read and check a study file.

    Args:
        path: a Python file in mmengine's style (``_base_`` works).
        options: ``--cfg-options``: dotted path -> value.

    Raises:
        StudyError: names the file, the key and what was expected.
    """
    if not Path(path).is_file():
        raise StudyError(f'there is no study file {path}')
    try:
        cfg = Config.fromfile(path, import_custom_modules=False)
    except Exception as e:
        raise StudyError(f'{path}: cannot be read: {type(e).__name__}: {e}') from e
    for key, value in (options or {}).items():
        _set(cfg, key, value, path)
    raw = cfg.to_dict()
    for key in raw:
        if key not in TOP_KEYS and key not in names_read(path):
            raise StudyError(
                f'{path}: {key}: there is no such key.{suggestion(key, list(TOP_KEYS))} Known: '
                f'{", ".join(TOP_KEYS)}'
            )
    return parse_study({k: raw[k] for k in raw if k in TOP_KEYS}, path)


def _set(cfg: Config, key: str, value: Any, path: str) -> None:
    node: Any = cfg
    parts = key.split('.')
    if parts[0] not in TOP_KEYS:
        raise StudyError(
            f'--cfg-options {key}: {path} has no {parts[0]}. Known: {", ".join(TOP_KEYS)}'
        )
    for part in parts[:-1]:
        if not isinstance(node.get(part), dict):
            raise StudyError(f'--cfg-options {key}: there is no {part!r} to set something in')
        node = node[part]
    node[parts[-1]] = value


@dataclass(frozen=True)
class Options:
    """How a study is run; nothing here changes a result (``changes`` are in the study already)."""

    workers: int = 1
    devices: tuple[str, ...] = ('cpu',)
    threads: int = 1
    only: tuple[str, ...] = ()
    keep_checkpoints: bool = False
    current_code: bool = False
    debug: bool = False
    changes: dict[str, Any] = field(default_factory=dict)
    say: Callable[[str], None] = field(default=print)


class Session:
    """One call of ``tools/study.py``.

    Args:
        study: the study.
        options: of the command line.

    Raises:
        StudyError: something in the study cannot be.
    """

    def __init__(self, study: Study, options: Options) -> None:
        self.study, self.options = study, options
        self.code = code_digest() if options.current_code else None
        self.ledger = Ledger(study.work_dir)
        builder = ConfigBuilder(study, self.ledger.folder / 'tmp')
        self.plan = make_plan(study, builder, options.only)
        self.setup = Setup(
            raw=study.raw,
            path=study.path,
            folder=study.work_dir,
            features=str(self.features),
            only=options.only,
            threads=options.threads,
            keep_checkpoints=options.keep_checkpoints,
            debug=options.debug,
        )

    @property
    def features(self) -> Path:
        """The cache of frozen encoders' features, shared by the studies of a folder."""
        return self.ledger.folder.parent / 'feature_cache'

    # ---- what there is to do ---------------------------------------------------------------

    def rows(self) -> dict[str, dict[str, Any]]:
        """Trials that count, by digest."""
        rows = self.ledger.rows()
        if self.code is not None:
            rows = {d: r for d, r in rows.items() if r.get('code_sha256') == self.code}
        return rows

    def tuning(self) -> list[Trial]:
        """Every trial of the selection (of its first round, if there are two), once."""
        trials = [t for cell in self.plan.selections() for t in self.plan.tuning(cell)]
        return list({t.digest: t for t in trials}.values())

    def second_round(self) -> tuple[list[Trial], int]:
        """Every trial of the second round that is known; and how many wait for the first."""
        found: list[Trial] = []
        waiting = 0
        if self.study.finalists:
            rows = self.rows()
            for cell in self.plan.selections():
                chosen = finalists(self.plan, cell, rows)
                if chosen is None:
                    any_of_them = self.plan.candidates(cell)[: self.study.finalists]
                    waiting += len(self.plan.second_round(cell, any_of_them))
                else:
                    found += self.plan.second_round(cell, chosen)
        return found, waiting

    def tests(self) -> tuple[list[Trial], int]:
        """Every test trial of a cell with a choice; and how many wait for one."""
        choices, _ = self._choices_so_far()
        found, waiting = [], 0
        for cell in self.plan.cells:
            choice = choices.get(self.plan.selection_cell(cell))
            if choice is None:
                waiting += len(self.plan.seeds(cell))
            else:
                found += self.plan.tests(cell, (choice['lr'], choice['setting']))
        return found, waiting

    def _choices_so_far(self) -> tuple[dict[Any, dict[str, Any]], int]:
        written, rows = self.ledger.choices(), self.rows()
        found = {}
        for cell in self.plan.selections():
            choice = current_choice(self.plan, cell, written, rows, self.code)
            choice = choice or choose(self.plan, cell, rows)
            if choice is not None:
                found[cell] = choice
        return found, len(self.plan.selections()) - len(found)

    def missing(self, trials: Sequence[Trial]) -> list[Trial]:
        """Those that are not finished, or left no checkpoint where one is wanted."""
        rows = self.rows()
        found = {t.digest: outcome(self.plan, t, rows) or {} for t in trials}
        return [t for t in trials if not self._finished(t, found[t.digest])]

    def _finished(self, trial: Trial, row: Mapping[str, Any]) -> bool:
        if row.get('status') != 'done':
            return False
        if trial.phase != 'test' or not self.options.keep_checkpoints:
            return True
        return 'checkpoint' in row and (self.ledger.folder / row['checkpoint']).is_file()

    # ---- phases ----------------------------------------------------------------------------

    def describe(self, probe: bool = True) -> list[str]:
        """The plan in lines: budget, trials of each phase and how many are done, time."""
        say = [f'{self.study.title} ({self.study.path}), in {self.ledger.folder}']
        say += self.plan.budget()
        say += [f'left out: {d}/{m}: {why}' for d, m, why in self.plan.left_out]
        second, later = self.second_round()
        tuning = [*self.tuning(), *second]
        tests, waiting = self.tests()
        todo, todo_tests = self.missing(tuning), self.missing(tests)
        say += self._by_dataset()
        say.append(
            f'select: {len(tuning) + later} trials, {len(tuning) - len(todo)} done'
            + (f', {later} wait for the first round' if later else '')
        )
        say.append(
            f'test:   {len(tests) + waiting} trials, {len(tests) - len(todo_tests)} done'
            + (f', {waiting} wait for a choice' if waiting else '')
        )
        estimate = Estimate(self.rows(), self._probed([*todo, *todo_tests]) if probe else None)
        seconds = estimate.total([*todo, *todo_tests], self.options.workers)
        if waiting + later:
            per_trial = [estimate.seconds(t) for t in tuning]
            mean = sum(per_trial) / len(per_trial)
            seconds += (waiting + later) * mean / max(1, self.options.workers)
        source = 'finished trials' if self.rows() else 'a probe' if probe else 'a guess'
        say.append(
            f'time left: about {duration(seconds)} with {self.options.workers} worker(s), from '
            f'{source}'
        )
        return say

    def _by_dataset(self) -> list[str]:
        lines = []
        for name in self.study.datasets:
            cells = [c for c in self.plan.cells if c.dataset == name]
            if cells:
                count = {
                    k: len({getattr(c, k) for c in cells}) for k in ('row', 'training', 'fold')
                }
                lines.append(
                    f'  {name}: {count["row"]} rows x {count["training"]} training conditions'
                    + (f' x {count["fold"]} folds' if count['fold'] > 1 else '')
                )
        return lines

    def _probed(self, trials: Sequence[Trial]) -> dict[str, float]:
        from cal_mm import compat

        from .trial import probe

        compat.setup()
        known, found = Estimate(self.rows()), {}
        with in_this_process(self.options.devices[0], self.options.threads):
            for trial in trials:
                name = trial.cell.dataset
                if name not in found and not known.known(name):
                    found[name] = probe(self.plan, trial, self.ledger.folder, self.features)
        return found

    def run(self, phases: Sequence[str]) -> int:
        """Run what is missing of ``phases`` (select, test); returns the number of failed trials."""
        with self.ledger.writing():
            failed = 0
            if 'select' in phases:
                failed += self._run('select', self.missing(self.tuning()))
                if self.study.finalists:
                    failed += self._run('second round', self.missing(self.second_round()[0]))
            choices, undecided = make_choices(self.plan, self.ledger, self.rows(), self.code)
            if 'select' in phases:
                if choices:
                    self.options.say(choices_table(self.plan, choices).markdown())
                for cell in undecided:
                    self.options.say(f'no choice for {cell.label}: every candidate failed')
            if 'test' in phases:
                if undecided and 'select' not in phases:
                    raise StudyError(
                        f'{len(undecided)} cells have no choice yet, the first is '
                        f'{undecided[0].label}: run --phase select first'
                    )
                trials = [
                    t
                    for cell in self.plan.cells
                    if (choice := choices.get(self.plan.selection_cell(cell))) is not None
                    for t in self.plan.tests(cell, (choice['lr'], choice['setting']))
                ]
                failed += self._run('test', self.missing(trials))
        return failed

    def _run(self, phase: str, trials: Sequence[Trial]) -> int:
        if not trials:
            self.options.say(f'{phase}: nothing to do')
            return 0
        estimate = Estimate(self.rows())
        work = [estimate.seconds(t) for t in trials]
        progress = Progress(phase, work, min(max(1, self.options.workers), len(trials)))
        failures: list[str] = []

        def report(trial: Trial, row: dict[str, Any]) -> None:
            self.ledger.append(row)
            bad = row['status'] != 'done'
            if bad:
                failures.append(f'{trial.label}: {row["error"]}')
                text = f'FAILED {failures[-1].splitlines()[0][:200]}'
            else:
                text = f'{trial.label}: val {row["val"]["accuracy"]:.2f}'
            progress.step(estimate.seconds(trial), text, bad)

        run_trials(self.setup, trials, report, self.options.workers, self.options.devices)
        for line in failures[:20]:
            self.options.say(f'failed: {line}')
        return len(failures)
