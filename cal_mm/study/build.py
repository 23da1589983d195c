"""From a study to the config of one trial, as a config file of its parts would say it."""

import copy
import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict

from cal_mm.config import ConfigError, load_config, set_seed
from cal_mm.config.checking import Checker
from cal_mm.config.options import apply_option
from cal_mm.datasets.manifest import read_manifest
from cal_mm.registry import suggestion

from .spec import DatasetSpec, MethodSpec, Study, StudyError, TrainingSpec

__all__ = ['ConfigBuilder', 'Row', 'base_folder', 'typed_path']

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
_METHOD_KEYS = {
    'method_model': 'model',
    'method_optim_wrapper': 'optim_wrapper',
    'method_train_dataloader': 'train_dataloader',
}


@dataclass(frozen=True)
class Row:
    """A method on one dataset; ``modality`` where it sees that one alone."""

    method: MethodSpec
    modality: str | None = None

    @property
    def name(self) -> str:
        """Key of the row: ``cal``, ``unimodal:image``."""
        return self.method.name if self.modality is None else f'{self.method.name}:{self.modality}'

    @property
    def title(self) -> str:
        """What tables call it."""
        title = self.method.title or self.method.name
        return title if self.modality is None else f'{title}: {self.modality}'


def base_folder(study_path: str) -> Path:
    """``_base_`` of the configs folder that the study lies in, else of the current folder.

    Raises:
        StudyError: there is none.
    """
    places = [*Path(study_path).resolve().parents, Path.cwd() / 'configs']
    for place in places:
        if (place / '_base_').is_dir():
            return place / '_base_'
    raise StudyError(
        f'{study_path}: no folder _base_ beside it or above it, and none in ./configs: put the '
        f'study into configs/studies, or start in the repository'
    )


def typed_path(cfg: Mapping[str, Any], path: str) -> str:
    """``model.losses.AIBLoss.beta`` with the number of the entry of that type in the list."""
    node: Any = cfg
    parts: list[str] = []
    for part in path.split('.'):
        if isinstance(node, list) and not part.isdigit():
            types = [str(e.get('type')) if isinstance(e, Mapping) else '' for e in node]
            if types.count(part) != 1:
                raise ConfigError(
                    f'{path}: {".".join(parts)} has {types.count(part)} entries of the type '
                    f'{part!r}.{suggestion(part, types)} It has: {", ".join(types)}'
                )
            part = str(types.index(part))
        parts.append(part)
        if isinstance(node, list):
            node = node[int(part)] if int(part) < len(node) else None
        else:
            node = node.get(part) if isinstance(node, Mapping) else None
    return '.'.join(parts)


class ConfigBuilder:
    """Configs of a study's trials. What is read and checked once is kept.

    Args:
        study: the study.
        scratch: folder for the files that only name bases.
    """

    def __init__(self, study: Study, scratch: str | Path) -> None:
        self.study = study
        self.scratch = Path(scratch)
        self.base = base_folder(study.path)
        self.place = Path(study.path).resolve().parent
        self._datasets: dict[str, Config] = {}
        self._methods: dict[str, Config] = {}
        self._rows: dict[tuple[str, str], Config] = {}
        self._manifests: dict[str, dict[str, Any]] = {}

    # ---- what the files say ----------------------------------------------------------------

    def dataset(self, spec: DatasetSpec) -> Config:
        """Model, data and schedule of a dataset, without a method."""
        if spec.name not in self._datasets:
            key = f'datasets.{spec.name}.base'
            files = [self._find(key, name) for name in spec.base]
            _import_from([self.place, *(f.parent for f in files)])
            runtime = self.base / 'default_runtime.py'
            if runtime.is_file() and runtime not in files:
                files.append(runtime)
            path = self.scratch / f'{spec.name}-{os.getpid()}.py'
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f'_base_ = {[str(f) for f in files]!r}\n', encoding='utf-8')
            try:
                self._datasets[spec.name] = load_config(str(path))
            except ConfigError as e:
                raise self._error(key, str(e).replace(str(path), ' + '.join(spec.base))) from e
            finally:
                path.unlink(missing_ok=True)
        return self._datasets[spec.name]

    def method(self, spec: MethodSpec) -> Config:
        """The method's file."""
        if spec.method not in self._methods:
            key = f'methods.{spec.name}'
            path = self._find(key, self.method_file(spec))
            _import_from([self.place])
            try:
                found = Config.fromfile(str(path))
            except Exception as e:
                text = f'{path} cannot be read: {type(e).__name__}: {e}'
                raise self._error(key, text) from e
            if not any(name in found for name in (*_METHOD_KEYS, 'method_hooks')):
                raise self._error(
                    key, f'{path} is no method: it sets none of {", ".join(_METHOD_KEYS)}'
                )
            self._methods[spec.method] = found
        return self._methods[spec.method]

    def method_file(self, spec: MethodSpec) -> str:
        """Its name as ``base`` names files: in ``_base_/methods``, else beside the study.

        Raises:
            StudyError: there is none.
        """
        folder = self.base / 'methods'
        if (folder / f'{spec.method}.py').is_file():
            return f'methods/{spec.method}.py'
        if (self.place / f'{spec.method}.py').is_file():
            return f'{spec.method}.py'
        known = sorted(p.stem for p in folder.glob('*.py'))
        raise self._error(
            f'methods.{spec.name}',
            f'there is no method {spec.method!r}, and no such file beside the study.'
            f'{suggestion(spec.method, known)} Known (files of {folder.name}): {", ".join(known)}',
        )

    def manifest(self, spec: DatasetSpec, fold: int = 0) -> dict[str, Any]:
        """The manifest of the prepared data.

        Raises:
            StudyError: it is not prepared; says with which command it is.
        """
        root = spec.data_root.format(fold=fold)
        if root not in self._manifests:
            try:
                self._manifests[root] = read_manifest(root)
            except (OSError, ValueError) as e:
                prepare = spec.prepare or self._prepare_command(spec) or 'a script of data_prep/'
                raise self._error(
                    f'datasets.{spec.name}.data_root',
                    f'{root} is no prepared dataset ({e}). Prepare it with: {prepare}',
                ) from e
        return self._manifests[root]

    def modalities(self, spec: DatasetSpec) -> tuple[str, ...]:
        """Those that the methods get."""
        known = tuple(sorted(self.dataset(spec).model.encoders))
        for name in spec.modalities or ():
            if name not in known:
                raise self._error(
                    f'datasets.{spec.name}.modalities',
                    f'the model has no {name!r}.{suggestion(name, list(known))} It has: '
                    f'{", ".join(known)}',
                )
        return spec.modalities or known

    def rows(self, spec: DatasetSpec) -> tuple[list[Row], list[tuple[str, str]]]:
        """Rows of the dataset's table, and (method, reason) of those that it cannot have."""
        names = self.modalities(spec)
        rows: list[Row] = []
        left_out = []
        for method in self.study.methods.values():
            if method.only is not None and spec.name not in method.only:
                continue
            if method.each_modality:
                rows += [Row(method, m) for m in names]
                continue
            needs = str(self.method(method).get('method', {}).get('modalities', ''))
            count = re.match(r'M (=|>=) (\d+)', needs)
            exact, number = (count[1] == '=', int(count[2])) if count else (False, 1)
            if len(names) < number or (exact and len(names) != number):
                left_out.append(
                    (method.name, f'is for {count[0] if count else ""}, not {len(names)}')
                )
            else:
                rows.append(Row(method))
        return rows, left_out

    # ---- configs ---------------------------------------------------------------------------

    def row(self, spec: DatasetSpec, row: Row) -> Config:
        """The config of a row before a setting, a rate, a seed and a condition are put in."""
        key = (spec.name, row.name)
        if key not in self._rows:
            cfg = copy.deepcopy(self.dataset(spec))
            own = self.method(row.method)
            for name, target in _METHOD_KEYS.items():
                if own.get(name):
                    cfg.merge_from_dict({target: copy.deepcopy(own[name].to_dict())})
            hooks = [*(cfg.get('custom_hooks') or []), *(own.get('method_hooks') or [])]
            cfg.custom_hooks = [ConfigDict(copy.deepcopy(h)) for h in hooks]
            # no trial is resumed, so how a run is resumed is no part of its digest
            (cfg.get('default_hooks') or {}).pop('resumed_validation', None)
            keep = (row.modality,) if row.modality else self.modalities(spec)
            # before modalities are left out: options may name any of them
            self._apply(cfg, spec.options, f'datasets.{spec.name}.options')
            _restrict(cfg, keep)
            _stretch(cfg, spec.epochs)
            cfg.train_cfg.val_interval = min(spec.val_interval, spec.epochs)
            place = f'{self.study.path}: datasets.{spec.name} with methods.{row.name}'
            self._apply(cfg, row.method.options, f'methods.{row.method.name}.options')
            special = row.method.datasets.get(spec.name, {})
            self._apply(cfg, special, f'methods.{row.method.name}.datasets.{spec.name}')
            Checker(cfg, place).run(set(cfg.keys()))
            self._rows[key] = cfg
        return copy.deepcopy(self._rows[key])

    def setting(self, spec: DatasetSpec, row: Row, index: int) -> Config:
        """The same with one of the method's own settings."""
        cfg = self.row(spec, row)
        key = f'methods.{row.method.name}.settings[{index}]'
        self._apply(cfg, row.method.settings[index], key)
        return cfg

    def trial(
        self,
        spec: DatasetSpec,
        row: Row,
        *,
        setting: int,
        lr: float,
        seed: int,
        training: TrainingSpec,
        fold: int = 0,
    ) -> Config:
        """The config that a trial trains, without what a runner adds (folders, hooks)."""
        cfg = self.setting(spec, row, setting)
        self._apply(cfg, training.options, f'training.{training.name}.options')
        for name in LOADERS:
            _dataset_of(cfg, name).data_root = spec.data_root.format(fold=fold)
        train = _dataset_of(cfg, 'train_dataloader')
        set_seed(cfg, seed)
        train.seed = 0 if _cached_draws(cfg, training) else seed
        if training.label_noise:
            train.label_noise = training.label_noise
        if training.num_samples is not None:
            train.num_samples = training.num_samples
        if training.transforms is not None:
            added = self._transforms(spec, training.transforms)
            train.pipeline = [*train.pipeline[:-1], *added, train.pipeline[-1]]
        cfg.optim_wrapper.optimizer.lr = lr
        return cfg

    def _transforms(self, spec: DatasetSpec, name: str) -> list[Any]:
        given = spec.transforms[name]
        key = f'datasets.{spec.name}.transforms.{name}'
        if isinstance(given, str):
            return copy.deepcopy(list(Config.fromfile(str(self._find(key, given)))['augmentation']))
        if not isinstance(given, list | tuple):
            raise self._error(key, f'expected a list of transforms or a file, got {given!r}')
        return copy.deepcopy(list(given))

    # ---- helpers ---------------------------------------------------------------------------

    def _apply(self, cfg: Config, options: Mapping[str, Any], key: str) -> None:
        for path, value in options.items():
            try:
                real = typed_path(cfg._cfg_dict, path)
                checker = Checker(cfg, self.study.path)
                checker.run(set(cfg.keys()))
                apply_option(cfg, real, copy.deepcopy(value), checker)
                Checker(cfg, self.study.path).run(set(cfg.keys()))
            except ConfigError as e:
                raise self._error(key, str(e).replace('--cfg-options ', '')) from e

    def _find(self, key: str, name: str) -> Path:
        for path in (self.base / name, self.place / name, Path(name)):
            if path.is_file():
                return path.resolve()
        raise self._error(key, f'there is no file {name!r} in {self.base} or beside the study')

    def _prepare_command(self, spec: DatasetSpec) -> str | None:
        for name in spec.base:
            text = self._find(f'datasets.{spec.name}.base', name).read_text(encoding='utf-8')
            found = re.search(r'python -m data_prep\.[^\n]*', text)
            if found:
                return found[0]
        return None

    def _error(self, key: str, text: str) -> StudyError:
        return StudyError(f'{self.study.path}: {key}: {text}')


def _import_from(folders: Iterable[Path]) -> None:
    """Let ``custom_imports`` find modules in the current folder and in these, in this order."""
    for folder in map(str, (Path.cwd(), *folders)):
        if folder not in sys.path:
            sys.path.append(folder)


def _cached_draws(cfg: Config, training: TrainingSpec) -> bool:
    """Whether nothing but cached augmentation draws from the seed: then all trials share it."""
    hook = (cfg.get('default_hooks') or {}).get('feature_cache') or {}
    subset = training.num_samples is not None or bool(training.label_noise)
    return bool(hook.get('draws')) and training.transforms is not None and not subset


def _dataset_of(cfg: Config, loader: str) -> Any:
    """The config of the innermost dataset of a loader."""
    node = cfg[loader].dataset
    while 'dataset' in node and 'data_root' not in node:
        node = node.dataset
    return node


def _restrict(cfg: Config, keep: tuple[str, ...]) -> None:
    """Leave the model and the datasets these modalities alone."""
    for m in [m for m in cfg.model.encoders if m not in keep]:
        del cfg.model.encoders[m], cfg.model.data_preprocessor.frontends[m]
    for name in LOADERS:
        _dataset_of(cfg, name).modalities = list(keep)


def _stretch(cfg: Config, epochs: int) -> None:
    """Make the training ``epochs`` long and its schedule with it."""
    before = cfg.train_cfg.max_epochs
    cfg.train_cfg.max_epochs = epochs
    given: Any = cfg.get('param_scheduler') or []
    schedules: list[Any] = [given] if isinstance(given, Mapping) else list(given)
    for one in schedules:
        if not one.get('by_epoch', True):
            continue
        for key in ('begin', 'end', 'T_max', 'milestones', 'step_size'):
            value = one.get(key)
            if isinstance(value, int) and not isinstance(value, bool):
                least = 0 if key == 'begin' else 1
                one[key] = max(least, round(value * epochs / before))
            elif isinstance(value, list | tuple):
                one[key] = [max(1, round(v * epochs / before)) for v in value]
        if str(one.get('type')) == 'CosineAnnealingLR':
            # what it defaults to: the length is part of a trial's digest
            one.setdefault('end', epochs)
            one.setdefault('T_max', one['end'] - one.get('begin', 0))
