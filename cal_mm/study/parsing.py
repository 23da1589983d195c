"""Reading a study file: every value checked, every error with its key."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cal_mm.registry import suggestion

from .spec import DatasetSpec, MethodSpec, Options, Study, StudyError, TestPlan, TrainingSpec

__all__ = ['TOP_KEYS', 'parse_study']

#: of the report's tests
STATISTICS = dict(resamples=10_000, level=0.95)

TOP_KEYS = (
    'title',
    'datasets',
    'methods',
    'training',
    'lrs',
    'seeds',
    'tuning_seeds',
    'finalists',
    'reference',
    'statistics',
    'work_dir',
    'notes',
)


class _Reader:
    """Takes values out of the file and says where one is wrong."""

    def __init__(self, path: str) -> None:
        self.path = path

    def fail(self, key: str, text: str) -> StudyError:
        return StudyError(f'{self.path}: {key}: {text}')

    def keys(self, key: str, found: Any, known: Sequence[str]) -> dict[str, Any]:
        if not isinstance(found, Mapping):
            raise self.fail(key, f'expected a dict, got {found!r}')
        for name in found:
            if name not in known:
                hint = suggestion(str(name), list(known))
                raise self.fail(
                    f'{key}.{name}', f'there is no such key.{hint} Known: {", ".join(known)}'
                )
        return dict(found)

    def names(self, key: str, value: Any) -> tuple[str, ...]:
        if isinstance(value, str) or not isinstance(value, list | tuple):
            raise self.fail(key, f'expected a list of names, got {value!r}')
        return tuple(str(v) for v in value)

    def integer(self, key: str, value: Any, least: int) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise self.fail(key, f'expected an integer of at least {least}, got {value!r}')
        return value

    def integers(self, key: str, value: Any) -> tuple[int, ...]:
        if not isinstance(value, list | tuple) or not value:
            raise self.fail(key, f'expected a list of integers, got {value!r}')
        found = tuple(self.integer(f'{key}[{i}]', v, 0) for i, v in enumerate(value))
        if len(set(found)) < len(found):
            raise self.fail(key, f'a seed stands there twice: {list(found)}')
        return found

    def options(self, key: str, value: Any) -> Options:
        if not isinstance(value, Mapping) or not all(isinstance(k, str) for k in value):
            raise self.fail(key, f"expected {{'dotted.path': value}}, got {value!r}")
        return dict(value)

    def one_of(self, key: str, value: str, known: Sequence[str]) -> str:
        if value not in known:
            raise self.fail(
                key,
                f'{value!r} is unknown.{suggestion(value, list(known))} Known: {", ".join(known)}',
            )
        return value


def parse_study(raw: Mapping[str, Any], path: str) -> Study:
    """The study that a file's contents say.

    Args:
        raw: the file's variables.
        path: of the file, for messages and for the study's name.

    Raises:
        StudyError: names the file, the key, what was expected and the nearest name.
    """
    read = _Reader(path)
    for key in ('datasets', 'methods', 'lrs', 'seeds'):
        if not raw.get(key):
            raise read.fail(key, 'is missing or empty; docs/study.md describes a study file')
    top = read.keys('the study', {k: raw[k] for k in raw if k in TOP_KEYS}, TOP_KEYS)
    datasets = {n: _dataset(read, n, v) for n, v in _entries(read, top, 'datasets')}
    methods = {n: _method(read, n, v, datasets) for n, v in _entries(read, top, 'methods')}
    top.setdefault('training', {'clean': {}})
    training = {
        n: _training(read, n, v, datasets, methods) for n, v in _entries(read, top, 'training')
    }
    _check_select(read, training)
    lrs = top['lrs']
    if not isinstance(lrs, list | tuple) or not all(
        isinstance(v, int | float) and not isinstance(v, bool) and v > 0 for v in lrs
    ):
        raise read.fail('lrs', f'expected a list of learning rates above 0, got {lrs!r}')
    seeds = read.integers('seeds', top['seeds'])
    name = Path(path).stem
    study = Study(
        name=name,
        title=str(top.get('title') or name),
        path=path,
        raw={k: raw[k] for k in raw if k in TOP_KEYS},
        datasets=datasets,
        methods=methods,
        training=training,
        lrs=tuple(float(v) for v in lrs),
        seeds=seeds,
        tuning_seeds=read.integers('tuning_seeds', top.get('tuning_seeds') or [seeds[0]]),
        finalists=read.integer('finalists', top['finalists'], 2) if top.get('finalists') else 0,
        reference=top.get('reference'),
        statistics={
            **STATISTICS,
            **read.keys('statistics', top.get('statistics', {}), tuple(STATISTICS)),
        },
        notes=str(top.get('notes') or '').strip(),
        work_dir=str(top.get('work_dir') or f'work_dirs/studies/{name}'),
    )
    if study.reference is not None:
        read.one_of('reference', study.reference, tuple(methods))
    _check_budget(read, study)
    return study


def _entries(read: _Reader, top: Mapping[str, Any], key: str) -> list[tuple[str, Any]]:
    if not isinstance(top[key], Mapping):
        raise read.fail(key, f'expected {{name: dict(...)}}, got {top[key]!r}')
    for name in top[key]:
        if not str(name) or any(c in str(name) for c in '/:@| \n'):
            raise read.fail(key, f'{name!r} cannot be a name: it is used in paths and --only')
    return [(str(n), v) for n, v in top[key].items()]


def _dataset(read: _Reader, name: str, value: Any) -> DatasetSpec:
    key = f'datasets.{name}'
    known = [k for k in DatasetSpec.__dataclass_fields__ if k != 'name']
    given = read.keys(key, value, known)
    for needed in ('base', 'data_root'):
        if not given.get(needed):
            raise read.fail(f'{key}.{needed}', 'is missing')
    given['base'] = read.names(f'{key}.base', given['base'])
    for k, least in (('epochs', 1), ('val_interval', 1), ('folds', 1)):
        if k in given:
            given[k] = read.integer(f'{key}.{k}', given[k], least)
    if given.get('modalities') is not None:
        given['modalities'] = tuple(sorted(read.names(f'{key}.modalities', given['modalities'])))
    given['options'] = read.options(f'{key}.options', given.get('options', {}))
    given['tests'] = _tests(read, f'{key}.tests', given.get('tests', {}))
    given['transforms'] = read.options(f'{key}.transforms', given.get('transforms', {}))
    folded = '{fold}' in given['data_root']
    if folded != (given.get('folds', 1) > 1):
        raise read.fail(
            f'{key}.folds', "folds > 1 and a data_root with '{fold}' in it belong together"
        )
    return DatasetSpec(name=name, **given)


def _tests(read: _Reader, key: str, value: Any) -> TestPlan:
    given = read.keys(key, value, list(TestPlan.__dataclass_fields__))
    for k in ('attacks', 'drop', 'protocols'):
        if k in given:
            given[k] = read.names(f'{key}.{k}', given[k])
    if given.get('seeds') is not None:
        given['seeds'] = read.integer(f'{key}.seeds', given['seeds'], 1)
    return TestPlan(**given)


def _method(
    read: _Reader, name: str, value: Any, datasets: Mapping[str, DatasetSpec]
) -> MethodSpec:
    key = f'methods.{name}'
    known = [k for k in MethodSpec.__dataclass_fields__ if k != 'name']
    given = read.keys(key, value, [*known, 'grid'])
    given.setdefault('method', name)
    given['options'] = read.options(f'{key}.options', given.get('options', {}))
    given['settings'] = _settings(read, key, given)
    given.pop('grid', None)
    overrides = read.keys(f'{key}.datasets', given.get('datasets', {}), list(datasets))
    given['datasets'] = {d: read.options(f'{key}.datasets.{d}', v) for d, v in overrides.items()}
    if given.get('only') is not None:
        given['only'] = read.names(f'{key}.only', given['only'])
        for d in given['only']:
            read.one_of(f'{key}.only', d, list(datasets))
    if 'gates' in given:
        given['gates'] = read.names(f'{key}.gates', given['gates'])
    return MethodSpec(name=name, **given)


def _settings(read: _Reader, key: str, given: Mapping[str, Any]) -> tuple[Options, ...]:
    if 'grid' in given and 'settings' in given:
        raise read.fail(f'{key}.grid', 'give either grid or settings, not both')
    if 'grid' in given:
        grid = read.options(f'{key}.grid', given['grid'])
        for path, values in grid.items():
            if not isinstance(values, list | tuple) or not values:
                raise read.fail(f'{key}.grid.{path}', f'expected a list of values, got {values!r}')
        product = itertools.product(*grid.values())
        return tuple(dict(zip(grid, chosen, strict=True)) for chosen in product)
    settings = given.get('settings', [{}])
    if not isinstance(settings, list | tuple) or not settings:
        raise read.fail(f'{key}.settings', f'expected a list of dicts, got {settings!r}')
    found = [read.options(f'{key}.settings[{i}]', s) for i, s in enumerate(settings)]
    for i, one in enumerate(found):
        if one in found[:i]:
            raise read.fail(f'{key}.settings[{i}]', f'{one} stands there twice')
    return tuple(found)


def _training(
    read: _Reader,
    name: str,
    value: Any,
    datasets: Mapping[str, DatasetSpec],
    methods: Mapping[str, MethodSpec],
) -> TrainingSpec:
    key = f'training.{name}'
    given = read.keys(key, value, [k for k in TrainingSpec.__dataclass_fields__ if k != 'name'])
    share = given.get('label_noise', 0.0)
    if not isinstance(share, int | float) or not 0 <= share <= 1:
        raise read.fail(f'{key}.label_noise', f'expected a share in [0, 1], got {share!r}')
    if given.get('num_samples') is not None:
        read.integer(f'{key}.num_samples', given['num_samples'], 1)
    given['options'] = read.options(f'{key}.options', given.get('options', {}))
    for k, known in (('datasets', datasets), ('methods', methods)):
        if given.get(k) is not None:
            given[k] = read.names(f'{key}.{k}', given[k])
            for one in given[k]:
                read.one_of(f'{key}.{k}', one, list(known))
    lists = {t for d in datasets.values() for t in d.transforms}
    if given.get('transforms') is not None and given['transforms'] not in lists:
        raise read.fail(
            f'{key}.transforms',
            f'no dataset has transforms.{given["transforms"]}; there are: '
            f'{", ".join(sorted(lists)) or "none"}',
        )
    return TrainingSpec(name=name, **given)


def _check_select(read: _Reader, training: Mapping[str, TrainingSpec]) -> None:
    for spec in training.values():
        if spec.select == 'own':
            continue
        key = f'training.{spec.name}.select'
        read.one_of(key, spec.select, ['own', *training])
        if training[spec.select].select != 'own':
            raise read.fail(key, f'{spec.select!r} does not select by itself')


def _check_budget(read: _Reader, study: Study) -> None:
    counts = {m.name: len(m.settings) for m in study.methods.values()}
    if len(set(counts.values())) > 1:
        listed = ', '.join(f'{name}: {n}' for name, n in counts.items())
        raise read.fail(
            'methods',
            f'unequal tuning budgets: every method needs the same number of own settings, got '
            f'{listed}. A method without settings of its own can spend them on common ones, such '
            f"as settings=[{{}}, {{'optim_wrapper.optimizer.weight_decay': 1e-2}}]",
        )
