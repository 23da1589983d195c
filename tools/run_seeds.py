"""Several configs, several seeds, one table: select on validation, test once, clean and under
noise.

    python tools/run_seeds.py CONFIG [CONFIG ...] --seeds 0 1 2 3 4 --lr 3e-4 1e-3 \
        --attack gaussian:3@image word_mask:3@text --out work_dirs/mvsa.jsonl

Every run (config, learning rate, seed) trains in a folder of <out>.runs, keeps the epoch that is
best on the validation split, and is written to --out as a JSON line; a second call goes on where
the first stopped. Each config's learning rate is the one whose mean validation accuracy is best;
only those runs are then tested. The table gives mean +- standard deviation over the seeds and,
with --versus CONFIG, the paired difference to that config. The folders are removed at the end,
but for --keep and --no-test; a test under other noise then trains again.
"""

import argparse
import contextlib
import copy
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
from mmengine.runner import Runner
from torch import Tensor

from cal_mm import cli, compat
from cal_mm.config import load_config, set_seed
from cal_mm.corruptions.condition import kind_of
from cal_mm.corruptions.plan import modality_facts
from cal_mm.engine.experiments import forget_experiment
from cal_mm.evaluation import load_weights
from cal_mm.evaluation.report import config_digest
from cal_mm.files import write_atomically
from cal_mm.registry import DATASETS
from cal_mm.study.records import append_line

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
    cli.add_options_argument(p)
    cli.add_debug_argument(p)
    return p


def memoised(encode: Callable[..., Tensor], key: str) -> Callable[..., Tensor]:
    """A frozen encoder that encodes an input once: the models of a study share it, also noisy."""

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


def run_config(config: Any, lr: float | None, seed: int, args: argparse.Namespace) -> Any:
    """The config of one run of ``config``.

    Its ``experiment_name`` is the run's: another for all that its training depends on but the data.
    """
    cfg = copy.deepcopy(config)
    set_seed(cfg, seed)
    if lr is not None:
        cfg.optim_wrapper.optimizer.lr = lr
    digest = config_digest(cfg.to_dict())
    cfg.experiment_name = f'{Path(config.filename).stem}_lr{lr}_seed{seed}_{digest[:16]}'
    cfg.work_dir = os.path.join(f'{args.out}.runs', cfg.experiment_name)
    cfg.default_hooks.checkpoint.update(interval=10**6, save_last=False)
    cfg.default_hooks.feature_cache.folder = str(Path(args.out).with_name('feature_cache'))
    cfg.visualizer = dict(type='Visualizer', vis_backends=[])
    cfg.log_level = 'WARNING'
    return cfg


def train(cfg: Any) -> dict[str, Any]:
    """Train in an emptied folder; the best validation accuracy, in percent, and its checkpoint."""
    shutil.rmtree(cfg.work_dir, ignore_errors=True)
    try:
        runner = Runner.from_cfg(cfg)
        runner.train()
        tracker = getattr(runner.model, 'contribution', None)
        betas = runner.model.current_betas()
        return {
            'val': float(runner.message_hub.get_info('best_score')),
            'checkpoint': runner.message_hub.get_info('best_ckpt'),
            'weights': None if tracker is None else tracker.weights.tolist(),
            'beta': None if betas is None else betas.tolist(),
        }
    finally:
        forget_experiment(cfg.experiment_name)


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
    try:
        runner = Runner.from_cfg(cfg)
        load_weights(runner.model, checkpoint)
        share_frozen_encoders(runner.model)
        runner.test()
        return runner.test_loop.rows
    finally:
        forget_experiment(cfg.experiment_name)


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
    """What earlier calls finished; a line cut off by a kill is ended and left out."""
    rows = []
    with open(path, 'a+', encoding='utf-8') as f:
        f.seek(0)
        text = f.read()
        if text and not text.endswith('\n'):
            f.write('\n')
    for line in text.splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            print(f'{path}: left out an unfinished line', file=sys.stderr)
    return rows


def table(rows: list[dict[str, Any]], versus: str | None) -> str:
    """Markdown: a line per config, a column per condition."""
    configs = list(dict.fromkeys(r['config'] for r in rows))
    stems = [Path(c).stem for c in configs]
    names = {c: s if stems.count(s) == 1 else c for c, s in zip(configs, stems, strict=True)}
    columns = list(dict.fromkeys(c for r in rows for c in r['test']))
    lines = [
        '| ' + ' | '.join(['config', 'lr', 'val', *columns]) + ' |',
        '|---' * (3 + len(columns)) + '|',
    ]
    for config in configs:
        mine = [r for r in rows if r['config'] == config]
        cells = [names[config], f'{mine[0]["lr"]:g}' if mine[0]['lr'] else '-']
        cells.append(_spread([r['val'] for r in mine]))
        cells += [_spread([r['test'][c] for r in mine if c in r['test']]) for c in columns]
        lines.append('| ' + ' | '.join(cells) + ' |')
    if versus:
        reference = f'Paired differences to {names[versus]} (mean, standard error over seeds):'
        lines += ['', reference, '', '| config | ' + ' | '.join(columns) + ' |']
        lines.append('|---' * (1 + len(columns)) + '|')
        base = {r['seed']: r['test'] for r in rows if r['config'] == versus}
        for config in configs:
            if config == versus:
                continue
            pairs = [(r['test'], base.get(r['seed'], {})) for r in rows if r['config'] == config]
            differences = [[a[c] - b[c] for a, b in pairs if c in a and c in b] for c in columns]
            cells = [names[config], *(_spread(d, '+', of_mean=True) for d in differences)]
            lines.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def _spread(values: list[float], sign: str = '', of_mean: bool = False) -> str:
    """Mean and standard deviation, or error ``of_mean``; of a single value itself alone."""
    if not values:
        return '-'
    mean = f'{np.mean(values):{sign}.1f}'
    if len(values) == 1:
        return mean
    return f'{mean} ± {np.std(values, ddof=1) / (len(values) ** 0.5 if of_mean else 1):.1f}'


def main(args: argparse.Namespace) -> None:
    """Train what is missing, choose rates, test the chosen runs, print the table."""
    compat.setup()
    configs = {path: load_config(path, args.cfg_options) for path in args.configs}
    versus = args.versus and {os.path.abspath(c): c for c in configs}.get(
        os.path.abspath(args.versus)
    )
    if args.versus and not versus:
        raise ValueError(f'--versus {args.versus} is none of the configs')
    for path, config in configs.items() if args.attack and not args.no_test else ():
        # here, so that a misspelt modality shows before the first training
        for attack in fitting(args.attack, config)[1]:
            print(f'{path}: {attack} left out: the model lacks a modality', file=sys.stderr)
    rates: list[float | None] = list(args.lr or [None])
    seeds = list(dict.fromkeys(args.seeds))
    plan = {
        (path, lr, seed): run_config(config, lr, seed, args)
        for path, config in configs.items()
        for lr in rates
        for seed in seeds
    }
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    # a training's row has no tests; a tested run has one more row for each of the asked tests
    tests = json.dumps([args.attack, args.protocol, args.noise_seeds])
    done = {(r.get('run'), r.get('tests')): r for r in load_rows(args.out)}
    for i, ((path, lr, seed), cfg) in enumerate(plan.items()):
        name = cfg.experiment_name
        if (name, None) in done:
            continue
        row = dict(run=name, config=path, lr=lr, seed=seed, **train(cfg))
        done[name, None] = row
        append_line(Path(args.out), row)
        print(f'[{i + 1}/{len(plan)}] {name}: val {row["val"]:.2f}', flush=True)
    chosen = []
    for path in configs:
        runs = {lr: [done[plan[path, lr, s].experiment_name, None] for s in seeds] for lr in rates}
        best = max(rates, key=lambda lr: np.mean([r['val'] for r in runs[lr]]))
        # runs of equal configs are one
        chosen += [dict(r, config=path, test={}) for r in runs[best]]
    for row in chosen if not args.no_test else ():
        if (row['run'], tests) not in done:
            cfg = plan[row['config'], row['lr'], row['seed']]
            if not os.path.isfile(row['checkpoint']):
                row.update(train(cfg))
            row['rows'] = test(cfg, row['checkpoint'], args)
            row.update(tests=tests, test=summarise(row['rows']))
            done[row['run'], tests] = row
            append_line(Path(args.out), row)
            print(f'{Path(row["config"]).stem} seed {row["seed"]}: {row["test"]}', flush=True)
        row['test'] = done[row['run'], tests]['test']
    text = table(chosen, versus)
    print(text)
    if args.table:
        write_atomically(args.table, text + '\n')
    if not args.keep and not args.no_test:
        for cfg in plan.values():
            shutil.rmtree(cfg.work_dir, ignore_errors=True)
        with contextlib.suppress(OSError):  # runs of other calls stay
            os.rmdir(f'{args.out}.runs')


if __name__ == '__main__':
    cli.run(main, parser())
