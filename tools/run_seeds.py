"""Several configs, several seeds, one table: select on validation, test once, clean and under
noise.

    python tools/run_seeds.py CONFIG [CONFIG ...] --seeds 0 1 2 3 4 --lr 3e-4 1e-3 \
        --attack gaussian:3@image word_mask:3@text --out work_dirs/mvsa.jsonl

Every run (config, learning rate, seed) trains, keeps the epoch that is best on the validation
split, and is written to --out as a JSON line; a second call goes on where the first stopped. Each
config's learning rate is the one whose mean validation accuracy is best; only those runs are then
tested. The table gives mean +- standard deviation over the seeds and, with --versus CONFIG, the
paired difference to that config.
"""

import argparse
import glob
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import DictAction
from mmengine.runner import Runner
from torch import Tensor

from cal_mm import cli, compat
from cal_mm.config import load_config, set_seed
from cal_mm.corruptions.condition import kind_of
from cal_mm.corruptions.plan import modality_facts
from cal_mm.evaluation import load_weights
from cal_mm.registry import DATASETS

MEMO: dict[tuple[str, bytes], Tensor] = {}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog='run_seeds.py', description=__doc__.splitlines()[0])
    p.add_argument('configs', nargs='+', help='config files')
    p.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2, 3, 4])
    p.add_argument('--lr', type=float, nargs='+', help='learning rates to choose from')
    p.add_argument('--attack', nargs='+', default=[], help='as of tools/test.py')
    p.add_argument('--protocol', help='as of tools/test.py')
    p.add_argument('--noise-seeds', type=int, help="noise seeds; default: the protocol's")
    p.add_argument('--out', required=True, help='JSON lines, one per run')
    p.add_argument('--table', help='write the Markdown table here too')
    p.add_argument('--versus', help='config that paired differences refer to')
    p.add_argument('--no-test', action='store_true', help='leave the test split alone')
    p.add_argument('--keep', action='store_true', help='keep the work dirs')
    p.add_argument('--cfg-options', nargs='+', action=DictAction, help='for every config')
    p.add_argument('--debug', action='store_true', help='show the traceback of an error')
    return p


def memoised(encode: Callable[..., Tensor], key: str) -> Callable[..., Tensor]:
    """A frozen encoder that encodes an input once: the models of a study share it, and its
    noise.
    """

    def wrapped(x: Tensor, mask: Tensor | None = None) -> Tensor:
        parts = [x] if mask is None else [x, mask]
        rows = [
            (key, hashlib.sha1(b''.join(p[i].numpy().tobytes() for p in parts)).digest())
            for i in range(len(x))
        ]
        new = [i for i, r in enumerate(rows) if r not in MEMO]
        if new:
            done = encode(x[new], None if mask is None else mask[new])
            MEMO.update(zip((rows[i] for i in new), done, strict=True))
        return torch.stack([MEMO[r] for r in rows])

    return wrapped


def share_frozen_encoders(model: Any) -> None:
    """Let every model of this process share the frozen encoders' results."""
    for encoder in model.encoders.values():
        if getattr(encoder, 'frozen', False):
            encoder.encode = memoised(encoder.encode, encoder.digest())


def run_config(
    path: str, lr: float | None, seed: int, args: argparse.Namespace, folder: str
) -> Any:
    """The config of one run."""
    cfg = load_config(path, args.cfg_options)
    set_seed(cfg, seed)
    if lr is not None:
        cfg.optim_wrapper.optimizer.lr = lr
    cfg.work_dir = folder
    cfg.default_hooks.checkpoint.update(interval=10**6, save_last=False)
    cfg.default_hooks.feature_cache.folder = os.path.join(
        os.path.dirname(args.out) or '.', 'feature_cache'
    )
    cfg.visualizer = dict(type='Visualizer', vis_backends=[])
    cfg.log_level = 'WARNING'
    cfg.experiment_name = os.path.basename(folder)
    return cfg


def train(cfg: Any) -> dict[str, Any]:
    """Train one run; the best validation accuracy, in percent, and where its checkpoint is."""
    runner = Runner.from_cfg(cfg)
    runner.train()
    best = glob.glob(os.path.join(cfg.work_dir, 'best_*.pth'))
    tracker = getattr(runner.model, 'contribution', None)
    betas = runner.model.current_betas()
    return {
        'val': float(runner.message_hub.get_info('best_score')),
        'checkpoint': best[0],
        'weights': None if tracker is None else tracker.weights.tolist(),
        'beta': None if betas is None else betas.tolist(),
    }


def fitting(attacks: Sequence[str], cfg: Any) -> tuple[list[str], list[str]]:
    """The attacks on modalities that the config's model takes, and those on another as well.

    Raises:
        LookupError: an attack names a modality that the dataset lacks.
    """
    if not attacks:
        return [], []
    whole = {k: v for k, v in cfg.test_dataloader.dataset.items() if k != 'modalities'}
    there = modality_facts(getattr(DATASETS.build(whole), 'metainfo', None))
    kept: list[str] = []
    left_out: list[str] = []
    for attack in attacks:
        _, at, where = attack.partition('@')
        names = where.split('+') if at else []
        for name in names:
            kind_of(there, name, f'attack {attack!r}')
        (kept if set(names) <= set(cfg.model.encoders) else left_out).append(attack)
    return kept, left_out


def test(cfg: Any, checkpoint: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Clean and under noise; one row per condition."""
    cfg.test_cfg = dict(
        type='RobustnessTestLoop',
        attacks=fitting(args.attack, cfg)[0],
        protocol=args.protocol,
        seeds=args.noise_seeds,
        feature_cache=cfg.default_hooks.feature_cache.folder,
    )
    cfg.load_from, cfg.resume = None, False
    runner = Runner.from_cfg(cfg)
    load_weights(runner.model, checkpoint)
    share_frozen_encoders(runner.model)
    runner.test()
    return runner.test_loop.rows


def condition_name(row: dict[str, Any]) -> str:
    """A column's heading: the condition, and the protocol where it is not the default."""
    protocol = row.get('protocol')
    prefix = '' if protocol in (None, 'clipped') else f'{protocol} '
    return prefix + str(row['condition'])


def summarise(rows: list[dict[str, Any]]) -> dict[str, float]:
    """{condition: accuracy in percent}, averaged over noise seeds."""
    found: dict[str, list[float]] = {}
    for row in rows:
        found.setdefault(condition_name(row), []).append(row['metrics']['accuracy/top1'])
    return {k: float(np.mean(v)) for k, v in found.items()}


def load_rows(path: str) -> list[dict[str, Any]]:
    """What earlier calls finished; a line cut off by a kill is dropped."""
    rows = []
    if os.path.isfile(path):
        for line in Path(path).read_text(encoding='utf-8').splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                print(f'{path}: dropped an unfinished line', file=sys.stderr)
    return rows


def table(rows: list[dict[str, Any]], versus: str | None) -> str:
    """Markdown: a line per config, a column per condition."""
    configs = list(dict.fromkeys(r['config'] for r in rows))
    columns = list(dict.fromkeys(c for r in rows for c in r['test']))
    lines = [
        '| ' + ' | '.join(['config', 'lr', 'val', *columns]) + ' |',
        '|---' * (3 + len(columns)) + '|',
    ]
    for config in configs:
        mine = [r for r in rows if r['config'] == config]
        cells = [Path(config).stem, f'{mine[0]["lr"]:g}' if mine[0]['lr'] else '-']
        cells.append(_mean_sd([r['val'] for r in mine]))
        cells += [_mean_sd([r['test'][c] for r in mine if c in r['test']]) for c in columns]
        lines.append('| ' + ' | '.join(cells) + ' |')
    if versus:
        lines += [
            '',
            f'Paired differences to {Path(versus).stem} (mean, standard error over seeds):',
            '',
        ]
        lines += ['| config | ' + ' | '.join(columns) + ' |', '|---' * (1 + len(columns)) + '|']
        for config in configs:
            if config != versus:
                lines.append(_difference(rows, config, versus, columns))
    return '\n'.join(lines)


def _mean_sd(values: list[float]) -> str:
    if not values:
        return '-'
    sd = np.std(values, ddof=1) if len(values) > 1 else 0.0
    return f'{np.mean(values):.1f} ± {sd:.1f}'


def _difference(rows: list[dict[str, Any]], config: str, versus: str, columns: list[str]) -> str:
    by_seed = {(r['config'], r['seed']): r['test'] for r in rows}
    cells = []
    for c in columns:
        pairs = [
            test[c] - by_seed[versus, seed][c]
            for (name, seed), test in by_seed.items()
            if name == config and c in test and c in by_seed.get((versus, seed), {})
        ]
        if not pairs:
            cells.append('-')
            continue
        error = np.std(pairs, ddof=1) / len(pairs) ** 0.5 if len(pairs) > 1 else 0.0
        cells.append(f'{np.mean(pairs):+.1f} ± {error:.1f}')
    return '| ' + ' | '.join([Path(config).stem, *cells]) + ' |'


def main(args: argparse.Namespace) -> None:
    """Train what is missing, choose rates, test the chosen runs, print the table."""
    compat.setup()
    for config in args.configs if args.attack and not args.no_test else ():
        # here, so that a misspelt modality shows before the first training
        _, left_out = fitting(args.attack, load_config(config, args.cfg_options))
        for attack in left_out:
            print(f'{config}: {attack} left out: the model lacks a modality', file=sys.stderr)
    os.makedirs(os.path.dirname(args.out) or '.', exist_ok=True)
    rates: list[float | None] = list(args.lr or [None])
    done = {(r['config'], r['lr'], r['seed']): r for r in load_rows(args.out)}
    plan = [(c, lr, s) for c in args.configs for lr in rates for s in args.seeds]
    for i, (config, lr, seed) in enumerate(plan):
        if (config, lr, seed) in done:
            continue
        folder = f'{os.path.splitext(args.out)[0]}/{Path(config).stem}_lr{lr}_seed{seed}'
        found = train(run_config(config, lr, seed, args, folder))
        done[config, lr, seed] = row = dict(config=config, lr=lr, seed=seed, **found)
        _append(args.out, row)
        print(
            f'[{i + 1}/{len(plan)}] {Path(config).stem} lr {lr} seed {seed}: val {row["val"]:.2f}',
            flush=True,
        )
    chosen = []
    for config in args.configs:
        means = {lr: np.mean([done[config, lr, s]['val'] for s in args.seeds]) for lr in rates}
        best = max(rates, key=lambda lr: means[lr])
        chosen += [done[config, best, s] for s in args.seeds]
    for row in chosen:
        if args.no_test:
            row['test'] = {}
        elif 'rows' in row:
            row['test'] = summarise(row['rows'])
        else:
            folder = os.path.dirname(row['checkpoint'])
            cfg = run_config(row['config'], row['lr'], row['seed'], args, folder)
            rows = test(cfg, row['checkpoint'], args)
            row['test'] = summarise(rows)
            row['rows'] = rows
            _append(args.out, row)
            print(f'{Path(row["config"]).stem} seed {row["seed"]}: {row["test"]}', flush=True)
    text = table(chosen, args.versus)
    print(text)
    if args.table:
        Path(args.table).write_text(text + '\n', encoding='utf-8')
    if not args.keep:
        shutil.rmtree(os.path.splitext(args.out)[0], ignore_errors=True)


def _append(path: str, row: dict[str, Any]) -> None:
    with open(path, 'a', encoding='utf-8') as f:
        f.write(json.dumps(row, allow_nan=False) + '\n')


if __name__ == '__main__':
    cli.run(main, parser())
