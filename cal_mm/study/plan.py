"""Which trials a study consists of, each known by its digest, and what they cost."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cal_mm.datasets.access import column_of
from cal_mm.evaluation.report import config_digest
from cal_mm.evaluation.results import text_digest
from cal_mm.registry import DATASETS

from .build import ConfigBuilder, Row
from .spec import DatasetSpec, Study, StudyError, TrainingSpec
from .testing import study_conditions

__all__ = ['Cell', 'Plan', 'Trial', 'make_plan']


@dataclass(frozen=True)
class Cell:
    """What one choice of rate and setting is made for."""

    dataset: str
    fold: int
    training: str
    row: str

    @property
    def label(self) -> str:
        """For people."""
        fold = f' fold {self.fold}' if self.fold else ''
        return f'{self.dataset}{fold}/{self.row} ({self.training})'


@dataclass(frozen=True)
class Trial:
    """One training; with ``phase='test'`` followed by one test."""

    cell: Cell
    phase: str
    lr: float
    setting: int
    seed: int
    digest: str

    def record(self) -> dict[str, Any]:
        """As plain values."""
        return {**asdict(self.cell), **{k: v for k, v in asdict(self).items() if k != 'cell'}}

    @property
    def label(self) -> str:
        """For people."""
        return f'{self.cell.label} lr {self.lr:g} setting {self.setting} seed {self.seed}'


def trial_of(record: Mapping[str, Any]) -> Trial:
    """The trial that :meth:`Trial.record` described."""
    cell = Cell(**{k: record[k] for k in ('dataset', 'fold', 'training', 'row')})
    rest = {k: record[k] for k in ('phase', 'lr', 'setting', 'seed', 'digest')}
    return Trial(cell, **rest)


class Plan:
    """The cells of a study (of those that ``only`` names) and their trials.

    Attributes:
        cells: every cell, in the order of the file.
        left_out: (dataset, method, reason) of rows that cannot be.
    """

    def __init__(self, study: Study, builder: ConfigBuilder, only: Sequence[str] = ()) -> None:
        self.study = study
        self.builder = builder
        self.cells: list[Cell] = []
        self.left_out: list[tuple[str, str, str]] = []
        self._rows: dict[tuple[str, str], Row] = {}
        self._parts: dict[Any, str] = {}
        used = [False] * len(only)
        for spec in study.datasets.values():
            rows, reasons = builder.rows(spec)
            self.left_out += [(spec.name, m, why) for m, why in reasons]
            for training in study.training.values():
                if not _applies(training, spec):
                    continue
                for row in rows:
                    if training.methods is not None and row.method.name not in training.methods:
                        continue
                    hits = [_matches(o, spec.name, row, training.name) for o in only]
                    used = [u or h for u, h in zip(used, hits, strict=True)]
                    if only and not any(hits):
                        continue
                    self._rows[spec.name, row.name] = row
                    self.cells += [
                        Cell(spec.name, fold, training.name, row.name) for fold in self.folds(spec)
                    ]
        for text, hit in zip(only, used, strict=True):
            if not hit:
                raise StudyError(
                    f'--only {text}: nothing in {study.path} matches; it is DATASET, '
                    f'DATASET/METHOD or */METHOD, each with @TRAINING or without. '
                    f'Datasets: {", ".join(study.datasets)}; methods: {", ".join(study.methods)}; '
                    f'training: {", ".join(study.training)}'
                )
        shown = {c.dataset for c in self.cells}
        named = {o.partition('@')[0].partition('/')[2] for o in only}
        self.left_out = [
            (d, m, why)
            for d, m, why in self.left_out
            if d in shown and (not only or m in named or '' in named)
        ]

    def folds(self, spec: DatasetSpec) -> list[int]:
        """Folds that the seeds come to."""
        return sorted({seed % spec.folds for seed in self.study.seeds})

    def row(self, cell: Cell) -> Row:
        """The row of a cell."""
        return self._rows[cell.dataset, cell.row]

    def candidates(self, cell: Cell) -> list[tuple[float, int]]:
        """(learning rate, setting), the same number for every cell."""
        settings = range(len(self.row(cell).method.settings))
        return [(lr, s) for lr in self.study.lrs for s in settings]

    def selection_cell(self, cell: Cell) -> Cell:
        """The cell whose choice this one takes: itself, unless its condition says otherwise."""
        select = self.study.training[cell.training].select
        return cell if select == 'own' else Cell(cell.dataset, cell.fold, select, cell.row)

    def selections(self) -> list[Cell]:
        """Cells that a choice is made for."""
        return list(dict.fromkeys(self.selection_cell(c) for c in self.cells))

    def tuning(self, cell: Cell) -> list[Trial]:
        """The trials behind a choice: every candidate on every tuning seed."""
        return [
            self.trial(cell, 'select', lr, setting, seed)
            for lr, setting in self.candidates(cell)
            for seed in self.study.tuning_seeds
        ]

    def second_round(self, cell: Cell, candidates: Iterable[tuple[float, int]]) -> list[Trial]:
        """These candidates on the seeds of the test that are no tuning seeds."""
        return [
            self.trial(cell, 'select', lr, setting, seed)
            for lr, setting in candidates
            for seed in self.seeds(cell)
            if seed not in self.study.tuning_seeds
        ]

    def tested(self, trial: Trial) -> Trial:
        """The test of the same training."""
        return self.trial(trial.cell, 'test', trial.lr, trial.setting, trial.seed)

    def seeds(self, cell: Cell) -> list[int]:
        """Seeds that are tested in the cell's fold."""
        folds = self.study.datasets[cell.dataset].folds
        return [s for s in self.study.seeds if s % folds == cell.fold]

    def tests(self, cell: Cell, chosen: tuple[float, int]) -> list[Trial]:
        """The final trials of a cell with the chosen rate and setting."""
        return [self.trial(cell, 'test', *chosen, seed) for seed in self.seeds(cell)]

    def trial(self, cell: Cell, phase: str, lr: float, setting: int, seed: int) -> Trial:
        """A trial; its digest is of all that its result depends on but code and machine."""
        spec = self.study.datasets[cell.dataset]
        row = self.row(cell)
        parts = {
            'config': self._part(('config', spec.name, row.name, setting), self._config_digest),
            'data': self.builder.manifest(spec, cell.fold)['digest'],
            'training': self._part(('training', spec.name, cell.training), self._training_digest),
            'lr': lr,
            'seed': seed,
            'phase': phase,
        }
        if phase == 'test':
            parts['tests'] = asdict(spec.tests)
            parts['gates'] = list(row.method.gates)
            if row.modality is not None:  # its config does not say what else the noise hits
                parts['modalities'] = list(self.builder.modalities(spec))
        return Trial(cell, phase, lr, setting, seed, text_digest(json.dumps(parts, sort_keys=True)))

    def _part(self, key: tuple, compute: Any) -> str:
        if key not in self._parts:
            self._parts[key] = compute(*key[1:])
        return self._parts[key]

    def _config_digest(self, dataset: str, row: str, setting: int) -> str:
        spec = self.study.datasets[dataset]
        cfg = self.builder.setting(spec, self._rows[dataset, row], setting)
        return config_digest(cfg.to_dict())

    def _training_digest(self, dataset: str, training: str) -> str:
        spec, condition = self.study.datasets[dataset], self.study.training[training]
        does = {
            k: v
            for k, v in asdict(condition).items()
            if k in ('label_noise', 'num_samples', 'options')
        }
        if condition.transforms is not None:
            does['added'] = self.builder._transforms(spec, condition.transforms)
        return config_digest(does)

    def config(self, trial: Trial) -> Any:
        """The config that the trial trains."""
        spec = self.study.datasets[trial.cell.dataset]
        return self.builder.trial(
            spec,
            self.row(trial.cell),
            setting=trial.setting,
            lr=trial.lr,
            seed=trial.seed,
            training=self.study.training[trial.cell.training],
            fold=trial.cell.fold,
        )

    def groups(self, dataset: str) -> dict[str, str]:
        """Group of each test sample of a dataset, over its folds; {} where they have none."""
        found: dict[str, str] = {}
        for cell in {c.fold: c for c in self.cells if c.dataset == dataset}.values():
            trial = self.tuning(self.selection_cell(cell))[0]
            data = DATASETS.build(self.config(trial).test_dataloader.dataset)
            names, groups = column_of(data, 'sample_ids'), column_of(data, 'groups')
            if names is not None and groups is not None:
                found.update(zip(names.tolist(), groups.tolist(), strict=True))
        return found

    def budget(self) -> list[str]:
        """The tuning budget, in sentences."""
        counts = {len(m.settings) for m in self.study.methods.values()}
        settings = counts.pop()
        rates = ', '.join(f'{lr:g}' for lr in self.study.lrs)
        candidates = len(self.study.lrs) * settings
        second = self.study.finalists
        return [
            f'tuning budget of every method, dataset and condition: {len(self.study.lrs)} learning '
            f'rates ({rates}) x {settings} own settings = {candidates} candidates, each on '
            f'{len(self.study.tuning_seeds)} tuning seed(s)'
            + (
                f', then the {second} best of them on the seeds of the test as well'
                if second
                else ''
            ),
            'selection: mean best validation accuracy; the epoch by validation accuracy as well; '
            'no test sample is read before the choice is written',
        ]


def make_plan(study: Study, builder: ConfigBuilder, only: Iterable[str] = ()) -> Plan:
    """The plan, every config and dataset of it checked.

    Raises:
        StudyError: a dataset that is not prepared, an option that does not exist, ...
    """
    plan = Plan(study, builder, tuple(only))
    if not plan.cells:
        raise StudyError(f'{study.path}: there is nothing to run')
    for cell in plan.cells:
        builder.manifest(study.datasets[cell.dataset], cell.fold)
        _check_size(plan, cell)
    for cell in plan.selections():
        plan.tuning(cell)
    for cell in {c.dataset: c for c in plan.cells}.values():
        _check_tests(plan, cell)
    return plan


def _check_size(plan: Plan, cell: Cell) -> None:
    spec = plan.study.datasets[cell.dataset]
    manifest = plan.builder.manifest(spec, cell.fold)
    for split in ('train', 'val', 'test'):
        if split not in manifest['splits']:
            raise StudyError(
                f'{plan.study.path}: datasets.{spec.name}.data_root: '
                f'{spec.data_root.format(fold=cell.fold)} has no {split} split, only '
                f'{", ".join(manifest["splits"])}; a study selects on val and tests on test. '
                f'python -m data_prep.folds makes folds with all three'
            )
    wanted = plan.study.training[cell.training].num_samples
    there = manifest['splits']['train']['num_samples']
    if wanted is not None and wanted > there:
        raise StudyError(
            f'{plan.study.path}: training.{cell.training}.num_samples: {wanted}, but '
            f'{spec.name} has {there} training samples; name the datasets that have more with '
            f'training.{cell.training}.datasets'
        )


def _check_tests(plan: Plan, cell: Cell) -> None:
    """Refuse conditions that the dataset cannot be tested under before anything is trained."""
    spec = plan.study.datasets[cell.dataset]
    names = plan.builder.modalities(spec)
    data = plan.config(plan.tuning(plan.selection_cell(cell))[0]).test_dataloader.dataset
    try:
        study_conditions(DATASETS.build(dict(data, modalities=list(names))), names, spec.tests)
    except (LookupError, ValueError) as e:
        raise StudyError(f'{plan.study.path}: datasets.{spec.name}.tests: {e}') from e


def _applies(training: TrainingSpec, spec: DatasetSpec) -> bool:
    if training.datasets is not None and spec.name not in training.datasets:
        return False
    return training.transforms is None or training.transforms in spec.transforms


def _matches(text: str, dataset: str, row: Row, training: str) -> bool:
    place, _, condition = text.partition('@')
    wanted, _, method = place.partition('/')
    if condition not in ('', training):
        return False
    return wanted in ('*', dataset) and method in ('', '*', row.name, row.method.name)
