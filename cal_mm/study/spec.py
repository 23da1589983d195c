"""What a study is: datasets, methods, rates, seeds and conditions as plain values.

Nothing here builds a model or reads data; docs/study.md describes the file.
"""

from dataclasses import dataclass, field
from typing import Any

__all__ = [
    'OWN_GATE',
    'DatasetSpec',
    'MethodSpec',
    'Study',
    'StudyError',
    'TestPlan',
    'TrainingSpec',
]

#: in place of a gate's name: the one that the config has
OWN_GATE = 'config'

Options = dict[str, Any]


class StudyError(ValueError):
    """A study that cannot be run as it is written; names the file and the key."""


@dataclass(frozen=True)
class TestPlan:
    """What a trained model is tested under, besides clean.

    Attributes:
        attacks: as of ``tools/test.py --attack``.
        drop: as of ``--drop``.
        protocols: names of noise protocols.
        seeds: noise seeds; None: each protocol's own, 1 for attacks.
    """

    __test__ = False  # no test of pytest's

    attacks: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    protocols: tuple[str, ...] = ()
    seeds: int | None = None


@dataclass(frozen=True)
class DatasetSpec:
    """One dataset and the model that every method gets on it.

    Attributes:
        name: its key.
        title: in tables.
        base: config files (model, dataset, schedule, ...), relative to ``_base_`` or the study.
        data_root: of the prepared data; may hold ``{fold}``.
        prepare: command that makes it, for the message where it is missing.
        epochs: of every training; the schedule is stretched to them.
        val_interval: epochs between two validations.
        modalities: those that are used; None: all of the model's.
        folds: number of prepared folds behind ``{fold}``; seed s is tested on fold s mod folds.
        options: dotted path -> value, for every method.
        transforms: lists of transforms by name, which training conditions may put before packing.
        tests: conditions of the test.
    """

    name: str
    base: tuple[str, ...]
    data_root: str
    title: str = ''
    prepare: str = ''
    epochs: int = 20
    val_interval: int = 1
    modalities: tuple[str, ...] | None = None
    folds: int = 1
    options: Options = field(default_factory=dict)
    transforms: dict[str, Any] = field(default_factory=dict)
    tests: TestPlan = TestPlan()


@dataclass(frozen=True)
class MethodSpec:
    """One row of the tables, or with ``each_modality`` one for each modality alone.

    Attributes:
        name: its key.
        method: name of a file in ``_base_/methods``, or else beside the study.
        title: in tables.
        options: dotted path -> value, fixed.
        settings: the candidates of its own that are tuned, each path -> value.
        datasets: options for single datasets, by their name; they win over ``options``.
        only: datasets that it runs on; None: all.
        gates: how inference decides, each tested on the same trained model; ``config`` is what the
            config has.
        each_modality: train on each modality alone.
    """

    name: str
    method: str
    title: str = ''
    options: Options = field(default_factory=dict)
    settings: tuple[Options, ...] = ({},)
    datasets: dict[str, Options] = field(default_factory=dict)
    only: tuple[str, ...] | None = None
    gates: tuple[str, ...] = (OWN_GATE,)
    each_modality: bool = False


@dataclass(frozen=True)
class TrainingSpec:
    """What training is like.

    Attributes:
        name: its key.
        title: in tables.
        label_noise: share of training labels that are wrong, drawn by the trial's seed.
        num_samples: of training samples, drawn by the trial's seed; None: all.
        transforms: name of one of the dataset's ``transforms``; datasets without it are left out.
        options: dotted path -> value.
        datasets: those it is run on; None: all.
        methods: those it is run for; None: all.
        select: where learning rate and setting come from: ``own``, or another condition's name.
    """

    name: str
    title: str = ''
    label_noise: float = 0.0
    num_samples: int | None = None
    transforms: str | None = None
    options: Options = field(default_factory=dict)
    datasets: tuple[str, ...] | None = None
    methods: tuple[str, ...] | None = None
    select: str = 'own'


@dataclass(frozen=True)
class Study:
    """A whole study; ``raw`` is what it was read from, ``path`` where.

    ``finalists`` candidates of the tuning seeds are trained on all seeds before one is chosen; 0:
    the tuning seeds decide.
    """

    name: str
    title: str
    path: str
    raw: dict[str, Any]
    datasets: dict[str, DatasetSpec]
    methods: dict[str, MethodSpec]
    training: dict[str, TrainingSpec]
    lrs: tuple[float, ...]
    seeds: tuple[int, ...]
    tuning_seeds: tuple[int, ...]
    reference: str | None
    statistics: dict[str, Any]
    work_dir: str
    notes: str = ''
    finalists: int = 0
