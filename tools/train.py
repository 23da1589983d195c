"""Train a model from a config file.

python tools/train.py CONFIG [--work-dir D] [--resume [PATH]] [--amp] [--seed N]
                             [--cfg-options k=v ...]
torchrun --nproc_per_node=2 tools/train.py CONFIG --launcher pytorch
"""

import argparse
import os
import os.path as osp
import sys

from mmengine.config import Config
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from cal_mm import cli, compat
from cal_mm.config import ConfigError, load_config, set_seed
from cal_mm.engine.hooks import CheckpointGuardHook
from cal_mm.engine.optim_wrappers import amp_variant


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog='train.py', description='Train a model from a config file.')
    p.add_argument('config', help='config file')
    p.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='PATH',
        help='go on from PATH, or from the last checkpoint in the work dir',
    )
    p.add_argument('--amp', action='store_true', help='mixed precision (bfloat16 on a CPU)')
    p.add_argument('--seed', type=int, help='of weights, order, noise, augmentation')
    cli.add_config_arguments(p)
    return p


def use_amp(cfg: Config) -> None:
    """Replace the OptimWrapper by its mixed-precision variant, if one is known."""
    kind = cfg.optim_wrapper.get('type', 'OptimWrapper')
    variant = amp_variant(kind)
    if variant is None:
        raise ConfigError(
            f'--amp: no mixed-precision variant of optim_wrapper.type={kind!r} is registered. '
            f'Register {kind.replace("OptimWrapper", "AmpOptimWrapper")}, or set the variant in '
            f'the config instead.'
        )
    cfg.optim_wrapper.type = variant


def configure(args: argparse.Namespace) -> Config:
    """The config with the command line's changes."""
    cfg = load_config(args.config, args.cfg_options)
    cfg.launcher = args.launcher
    name = osp.splitext(osp.basename(args.config))[0]
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or osp.join('work_dirs', name)
    if args.seed is not None:
        set_seed(cfg, args.seed)
    if args.amp:
        use_amp(cfg)
    if args.resume == 'auto':
        found = compat.latest_checkpoint(cfg.work_dir)
        cfg.resume = found is not None
        if found is None:
            print(f'--resume: no checkpoint in {cfg.work_dir} yet, starting anew', file=sys.stderr)
        else:
            cfg.load_from = found
    elif args.resume:
        if not osp.isfile(args.resume):
            raise FileNotFoundError(f'--resume: no checkpoint at {args.resume!r}')
        cfg.resume, cfg.load_from = True, args.resume
    return cfg


def main(args: argparse.Namespace) -> None:
    """Build the Runner and train."""
    cfg = configure(args)
    compat.setup()
    compat.init_distributed(cfg, args.launcher)
    os.makedirs(cfg.work_dir, exist_ok=True)
    runner = RUNNERS.build(cfg) if cfg.get('runner_type') else Runner.from_cfg(cfg)
    runner.register_hook(CheckpointGuardHook())
    runner.train()
    compat.end_distributed()


if __name__ == '__main__':
    cli.run(main, parser())
