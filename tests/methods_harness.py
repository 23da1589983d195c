"""Any method of configs/_base_/methods on a small dataset, and what its file says of it.

As a script under torchrun it trains every method for an epoch on two ranks:
``methods_harness.py DATA OUT`` writes ``OUT/METHOD.pt``, the weights, or ``OUT/METHOD.txt``, the
error.
"""

import itertools
import json
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.runner import Runner

from cal_mm.wrapping import unwrap

ROOT = Path(__file__).resolve().parents[1]
METHODS = sorted(p.stem for p in (ROOT / 'configs/_base_/methods').glob('*.py'))

SYNTHETIC = ('models/synthetic_mlp.py', 'datasets/synthetic.py', 'schedules/sgd_3e.py')
#: mmengine names a run by the second it starts in; two in one second must not have the same name
RUNS = itertools.count()
#: in the names of what counts forward calls or is calibrated on the (padded) validation split
CALIBRATED = ('forward_count', 'typicality', 'temperature', 'told', 'uncertainty')
DIGITS = ('models/digits_av_small.py', 'datasets/digits_av.py', 'schedules/adamw_20e.py')


def facts(method: str) -> dict[str, Any]:
    """The ``method`` block of its file."""
    path = ROOT / f'configs/_base_/methods/{method}.py'
    return Config.fromfile(str(path)).to_dict().get('method', {})


def write_config(folder: Path, method: str, bases: tuple[str, ...] = SYNTHETIC) -> Path:
    """A config of ``method`` on ``bases``, as configs/METHOD/*.py have it."""
    base = ROOT / 'configs/_base_'
    files = [str(base / name) for name in bases]
    files += [str(base / f'methods/{method}.py'), str(base / 'default_runtime.py')]
    own = Config.fromfile(str(base / f'methods/{method}.py'))
    lines = [f'_base_ = {files!r}']
    lines += ['model = _base_.method_model', 'optim_wrapper = _base_.method_optim_wrapper']
    if 'method_hooks' in own:
        lines.append('custom_hooks = _base_.method_hooks')
    if 'method_train_dataloader' in own:
        lines.append('train_dataloader = _base_.method_train_dataloader')
    path = Path(folder) / f'{method}.py'
    path.write_text('\n'.join(lines) + '\n')
    return path


def method_config(
    folder: Path, method: str, data: Path, bases: tuple[str, ...] = SYNTHETIC, epochs: int = 3
) -> ConfigDict:
    """The config of ``method`` on the prepared dataset ``data``, ready for a Runner."""
    from cal_mm.compat import setup
    from cal_mm.config import load_config

    setup()
    folder.mkdir(parents=True, exist_ok=True)
    cfg = load_config(str(write_config(folder, method, bases)))
    for split in ('train', 'val', 'test'):
        cfg[f'{split}_dataloader'].dataset.data_root = str(data)
    if facts(method).get('modalities', '').startswith('M = 2'):
        for m in list(cfg.model.encoders)[2:]:
            del cfg.model.encoders[m], cfg.model.data_preprocessor.frontends[m]
        for split in ('train', 'val', 'test'):
            cfg[f'{split}_dataloader'].dataset.modalities = list(cfg.model.encoders)
    cfg.train_cfg.update(max_epochs=epochs, val_interval=epochs)
    cfg.default_hooks.logger.interval = 1
    cfg.default_hooks.checkpoint.max_keep_ckpts = 9
    cfg.visualizer.vis_backends = [dict(type='LocalVisBackend')]
    cfg.work_dir = str(folder / 'run')
    cfg.experiment_name = f'{method}_{next(RUNS)}'
    return cfg


def train(cfg: ConfigDict, change: Callable[[Any], None] | None = None) -> Runner:
    """Train; the Runner afterwards."""
    if change is not None:
        change(cfg)
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner


def losses_of(cfg: ConfigDict) -> list[float]:
    """The loss of every update of a run with this config."""
    path = next(Path(cfg.work_dir).glob('*/vis_data/scalars.json'))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [row['loss'] for row in rows if 'loss' in row]


def losses_fall(cfg: ConfigDict) -> bool:
    """Whether the last quarter's losses are below the first's."""
    losses = losses_of(cfg)
    quarter = len(losses) // 4
    return sum(losses[-quarter:]) < sum(losses[:quarter])


def use_mixed_precision(cfg: ConfigDict, dtype: str) -> None:
    """As ``tools/train.py --amp``, with this type."""
    from cal_mm.engine.optim_wrappers import amp_variant

    cfg.optim_wrapper.type = amp_variant(cfg.optim_wrapper.get('type', 'OptimWrapper'))
    cfg.optim_wrapper.dtype = dtype


def learnable(folder: Path) -> Path:
    """A synthetic dataset that every method learns in four epochs, prepared in ``folder``."""
    from data_prep.synthetic import make_synthetic

    make_synthetic(folder, num_train=128, num_val=48, num_test=48, signal=6.0)
    return folder


def state_of(runner: Runner) -> dict[str, torch.Tensor]:
    """Weights and buffers that must not depend on how a batch is split."""
    model = unwrap(runner.model)
    return {
        k: v.clone()
        for k, v in model.state_dict().items()
        if isinstance(v, torch.Tensor) and not any(name in k for name in CALIBRATED)
    }


def main(data: Path, out: Path) -> None:
    """Every method on this rank."""
    from cal_mm.compat import init_distributed

    for method in METHODS:
        try:
            cfg = method_config(out / f'rank{torch.distributed.get_rank()}', method, data, epochs=1)
            cfg.work_dir = str(out / 'run' / method)
            cfg.launcher = 'pytorch'
            cfg.train_dataloader.batch_size = 8
            init_distributed(cfg, 'pytorch')
            state = state_of(train(cfg))
            if torch.distributed.get_rank() == 0:
                torch.save(state, out / f'{method}.pt')
        except Exception:
            (out / f'{method}.txt').write_text(traceback.format_exc())


if __name__ == '__main__':
    torch.distributed.init_process_group('gloo')
    main(Path(sys.argv[1]), Path(sys.argv[2]))
    from cal_mm.compat import end_distributed

    end_distributed()
