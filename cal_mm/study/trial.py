"""One trial in this process: train, keep the epoch that validation likes best, test it."""

import io
import json
import math
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from cal_mm.engine.experiments import forget_experiment
from cal_mm.engine.hooks import CheckpointGuardHook, FeatureCacheHook
from cal_mm.evaluation.report import config_digest
from cal_mm.wrapping import unwrap

from .hooks import KeepBestHook, StepTimeHook, Stopwatch
from .plan import Plan, Trial
from .records import Ledger
from .spec import OWN_GATE, StudyError
from .testing import StudyTestLoop

__all__ = ['StudyRunner', 'probe', 'run_trial']

#: of the results rows of a test
_KEPT = ('condition', 'protocol', 'attack', 'severity', 'epsilon', 'seed')


class StudyRunner(Runner):
    """mmengine's Runner without what takes longer than a small training: the description of the
    machine and the printed config, both of which the ledger has once.
    """

    def _log_env(self, env_cfg: dict) -> None:
        """Nothing."""

    def dump_config(self) -> None:
        """Nothing."""


def run_trial(
    plan: Plan,
    trial: Trial,
    ledger: Ledger,
    *,
    features: Path,
    provenance: Mapping[str, Any],
    keep_checkpoint: bool = False,
) -> dict[str, Any]:
    """Train and, in the test phase, test; returns the row for the ledger.

    Args:
        plan: with the configs.
        trial: what to run.
        ledger: gets the predictions (not the row).
        features: folder of the feature cache.
        provenance: versions and code, see :func:`cal_mm.study.records.provenance`.
        keep_checkpoint: leave the best epoch's weights and the config in ``checkpoints``.

    Raises:
        StudyError: the files changed since the trial was planned.
    """
    again = plan.trial(trial.cell, trial.phase, trial.lr, trial.setting, trial.seed)
    if again.digest != trial.digest:
        raise StudyError(
            f'{trial.label}: the configs or the data have changed since the study was started; '
            f'start it again'
        )
    start = time.perf_counter(), time.process_time()
    cfg = plan.config(trial)
    config_sha = config_digest(cfg.to_dict())
    folder = ledger.folder / 'tmp' / f'{trial.digest[:16]}-{os.getpid()}'
    try:
        gates = plan.row(trial.cell).method.gates
        best, steps, encoding, runner = _train(cfg, folder, features, trial, gates)
        row = {
            **trial.record(),
            'status': 'done',
            'config_sha256': config_sha,
            'data_digest': plan.builder.manifest(
                plan.study.datasets[trial.cell.dataset], trial.cell.fold
            )['digest'],
            'val': best.best,
            'val_history': best.history,
            **steps.summary(),
            'parameters': sum(p.numel() for p in runner.model.parameters() if p.requires_grad),
            'weights': _last_weights(folder),
            'device': str(next(unwrap(runner.model).parameters()).device.type),
            **provenance,
        }
        # the features of frozen encoders are there already, or serve all trials from now on
        row['train_seconds'] = time.perf_counter() - start[0] - encoding.wall
        row['train_cpu_seconds'] = time.process_time() - start[1] - encoding.cpu
        if trial.phase == 'test':
            model = unwrap(runner.model)
            best.restore(model)
            row.update(_test(plan, trial, cfg, runner, ledger, features))
            if keep_checkpoint:
                row['checkpoint'] = _keep(cfg, model, best, ledger, trial)
        row['wall_seconds'] = time.perf_counter() - start[0]
        row['cpu_seconds'] = time.process_time() - start[1]
        return row
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        forget_experiment(folder.name)


def probe(plan: Plan, trial: Trial, folder: Path, features: Path) -> float:
    """Seconds that a trial will take, from two epochs of it; nothing is kept but cached features.

    Methods and conditions of a dataset are taken to cost alike, and a test to cost nothing.
    """
    cfg = plan.config(trial)
    epochs = cfg.train_cfg.max_epochs
    cfg.train_cfg.update(max_epochs=min(2, epochs), val_interval=1)
    place = folder / 'tmp' / f'probe-{os.getpid()}'
    start = time.perf_counter()
    try:
        _, steps, _, _ = _train(cfg, place, features, trial, ())
        step = steps.summary()['step_seconds'] or 0.0
        per_epoch = step * (len(steps.wall) + 1) / cfg.train_cfg.max_epochs
        return time.perf_counter() - start + per_epoch * (epochs - cfg.train_cfg.max_epochs)
    finally:
        shutil.rmtree(place, ignore_errors=True)
        forget_experiment(place.name)


def _train(
    cfg: Config, folder: Path, features: Path, trial: Trial, gates: Sequence[str]
) -> tuple[KeepBestHook, StepTimeHook, Stopwatch, Runner]:
    cfg = Config(cfg.to_dict())
    cfg.work_dir = str(folder)
    cfg.experiment_name = folder.name
    cfg.log_level = 'ERROR'
    cfg.visualizer = dict(type='Visualizer', vis_backends=[], name=folder.name)
    hooks = cfg.setdefault('default_hooks', {})
    hooks.update(logger=None, timer=None, checkpoint=None)
    if hooks.get('feature_cache'):
        hooks.feature_cache.folder = str(features)
    if hooks.get('calibration'):
        # only these epochs can be the best
        hooks.calibration.interval = cfg.train_cfg.val_interval
    cfg.test_dataloader = cfg.test_evaluator = cfg.test_cfg = None
    cfg.load_from, cfg.resume, cfg.launcher = None, False, 'none'
    runner = StudyRunner.from_cfg(cfg)
    model: Any = unwrap(runner.model)
    trained_gate = getattr(model, 'gate', None)
    for gate in (*gates, OWN_GATE):  # a gate that does not fit shows before the training
        _use_gate(model, gate, trained_gate)
    best, steps = KeepBestHook(), StepTimeHook()
    for hook in (CheckpointGuardHook(), best, steps):
        runner.register_hook(hook)
    encoding = Stopwatch()
    for hook in runner.hooks:
        if isinstance(hook, FeatureCacheHook):
            encoding.watch(hook, 'before_train')
    runner.train()
    if best.best is None:
        raise StudyError(f'{trial.label}: no epoch was validated')
    if not math.isfinite(best.best['accuracy'] + best.best['nll']):
        raise FloatingPointError(f'{trial.label}: the validation metrics are not finite')
    return best, steps, encoding, runner


def _last_weights(folder: Path) -> dict[str, Any] | None:
    """W, beta and k of the last epoch, where the method measures them."""
    path = folder / 'contribution.jsonl'
    if not path.is_file():
        return None
    last = json.loads(path.read_text(encoding='utf-8').splitlines()[-1])
    return {k: last[k] for k in ('weights', 'beta', 'k') if k in last}


def _test(
    plan: Plan, trial: Trial, cfg: Config, runner: Runner, ledger: Ledger, features: Path
) -> dict[str, Any]:
    """Every condition with every gate; the predictions go to the disk."""
    start = time.perf_counter()
    spec = plan.study.datasets[trial.cell.dataset]
    model: Any = unwrap(runner.model)
    rows: list[dict[str, Any]] = []
    arrays: dict[str, np.ndarray] = {}
    trained_gate = getattr(model, 'gate', None)
    for gate in plan.row(trial.cell).method.gates:
        _use_gate(model, gate, trained_gate)
        loop = StudyTestLoop(
            runner,
            cfg.test_dataloader.to_dict(),
            cfg.get('test_evaluator') or dict(type='MultiModalMetric'),
            spec.tests,
            plan.builder.modalities(spec),
            features,
        )
        loop.run()
        for row, predictions in loop.full_rows():
            arrays.setdefault('sample_ids', np.array(predictions.sample_ids))
            arrays.setdefault('labels', predictions.labels.numpy().astype(np.int32))
            if [*arrays['sample_ids']] != predictions.sample_ids:
                raise StudyError(f'{trial.label}: the conditions do not have the same samples')
            arrays[f'{len(rows)}/predicted'] = predictions.predicted.numpy().astype(np.int32)
            arrays[f'{len(rows)}/scores'] = predictions.scores.numpy().astype(np.float16)
            named = {k: row[k] for k in _KEPT}
            rows.append({**named, 'gate': gate, 'metrics': row['metrics']})
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return {
        'test': rows,
        'num_test': len(arrays['labels']),
        'predictions': ledger.keep(trial.digest, buffer.getvalue()),
        'test_seconds': time.perf_counter() - start,
    }


def _use_gate(model: Any, name: str, trained: Any) -> None:
    """Decide with the gate ``name``; ``config`` is what the config has."""
    if name == OWN_GATE:
        if trained is not None:
            model.gate = trained
    elif hasattr(model, 'use_gate'):
        model.use_gate(name)
    else:
        raise StudyError(f'gate {name!r}: {type(model).__name__} has no gates')


def _keep(cfg: Config, model: Any, best: KeepBestHook, ledger: Ledger, trial: Trial) -> str:
    """Weights and config, as tools/test.py takes them."""
    name = f'checkpoints/{trial.digest[:16]}'
    folder = ledger.folder / name
    folder.mkdir(parents=True, exist_ok=True)
    cfg.dump(str(folder / 'config.py'))
    meta = {'epoch': (best.best or {}).get('epoch')}
    partial = folder / '.best.pth.tmp'
    torch.save({'state_dict': model.state_dict(), 'meta': meta}, partial)
    os.replace(partial, folder / 'best.pth')
    return f'{name}/best.pth'
