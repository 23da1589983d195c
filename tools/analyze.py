"""What each modality of a trained model is worth.

    python tools/analyze.py CONFIG CHECKPOINT [--split test] [--out analysis.json]

Linear probes of every encoder (fitted on train, scored on the split), Shapley values of the
modalities in accuracy and in log-likelihood, size and conflict of the gradients on train, Fisher
trace on train. Exit status: 0 done, 1 failed, 2 wrong usage.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from cal_mm import cli, compat
from cal_mm.config import ConfigError, load_config
from cal_mm.config.components import takes, wrapped_configs
from cal_mm.engine.collect import collect, plain_loader
from cal_mm.evaluation import load_weights
from cal_mm.evaluation.analysis import (
    error_cosines,
    fisher_traces,
    gradient_facts,
    linear_probe,
    shapley_report,
)
from cal_mm.files import write_atomically
from cal_mm.models.contribution.functional import coalition_plan
from cal_mm.registry import DATASETS, MODELS

PARTS = ('probes', 'shapley', 'gradients', 'fisher')


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog='analyze.py', description='What each modality of a trained model is worth.'
    )
    p.add_argument('config', help='config file')
    p.add_argument('checkpoint', help='*.pth that tools/train.py wrote')
    p.add_argument('--split', choices=['val', 'test'], default='test')
    p.add_argument('--parts', nargs='+', choices=PARTS, default=list(PARTS), metavar='PART')
    p.add_argument(
        '--samples', type=int, default=2000, help='training samples at most (default: 2000)'
    )
    p.add_argument('--fisher-samples', type=int, default=64, help='single samples (default: 64)')
    p.add_argument('--device', default='cpu', help='cpu, cuda, ... (default: cpu)')
    p.add_argument('--out', type=Path, metavar='FILE', help='write everything as JSON')
    cli.add_options_argument(p)
    cli.add_debug_argument(p)
    return p


def _dataset(cfg: Any, split: str, pipeline_of: str) -> Any:
    """The split's dataset with the evaluation pipeline of ``pipeline_of``: no augmentation."""
    loader, other = cfg.get(f'{split}_dataloader'), cfg.get(f'{pipeline_of}_dataloader')
    if loader is None or other is None:
        raise ConfigError(f'{cfg.filename}: there is no {split}_dataloader')
    return DATASETS.build(_plain(loader['dataset'], _pipeline(other['dataset'])))


def _plain(dataset: Mapping[str, Any], pipeline: Any) -> dict[str, Any]:
    """The config without augmentation, also of datasets inside wrappers."""
    found = dict(dataset)
    if isinstance(found.get('dataset'), Mapping):
        found['dataset'] = _plain(found['dataset'], pipeline)
    if isinstance(found.get('datasets'), list | tuple):
        found['datasets'] = [
            _plain(d, pipeline) if isinstance(d, Mapping) else d for d in found['datasets']
        ]
    kind = found['type']
    known = takes(DATASETS.get(kind) if isinstance(kind, str) else kind) or ()
    if 'test_mode' in known:
        found['test_mode'] = True
    if 'pipeline' in found and pipeline is not None:
        found['pipeline'] = pipeline
    return found


def _pipeline(dataset: Mapping[str, Any]) -> Any:
    """The first pipeline in a dataset's config, or None."""
    inner = (_pipeline(d) for d in wrapped_configs(dataset))
    return dataset.get('pipeline') or next((p for p in inner if p), None)


def _batches(dataset: Any, size: int, limit: int | None = None) -> DataLoader:
    """Collated batches of the first ``limit`` samples of a fixed shuffle."""
    import numpy as np

    order = np.random.default_rng(0).permutation(len(dataset))[:limit]
    return plain_loader(dataset, size, [int(i) for i in np.sort(order)])


def analyse(args: argparse.Namespace) -> dict[str, Any]:
    """Everything that was asked for, by part."""
    cfg = load_config(args.config, args.cfg_options)
    model: Any = MODELS.build(cfg.model)
    load_weights(model, args.checkpoint)
    model.to(args.device)
    train, test = _dataset(cfg, 'train', args.split), _dataset(cfg, args.split, args.split)
    size = int(cfg.train_dataloader.get('batch_size', 32))
    found: dict[str, Any] = dict(
        config=args.config, checkpoint=args.checkpoint, split=args.split, num_samples=len(test)
    )
    if {'probes', 'shapley'} & set(args.parts):
        plan = coalition_plan(len(model.modalities))
        tested = collect(model, _batches(test, size), masks=plan.masks, device='cpu')
    if 'probes' in args.parts:
        fitted = collect(model, _batches(train, size, args.samples), device='cpu')
        found['probes'] = {
            m: linear_probe(fitted.features[m], fitted.labels, tested.features[m], tested.labels)
            for m in model.modalities
        }
    if 'shapley' in args.parts:
        prior = model.class_log_prior.cpu()
        found['shapley'] = shapley_report(
            tested.by_coalition, tested.labels, prior, model.modalities
        )
        if tested.unimodal and len(model.modalities) > 1:
            found['error_cosines'] = error_cosines(tested.unimodal, tested.labels)
    if 'gradients' in args.parts:
        found['gradients'] = gradient_facts(model, _batches(train, size, args.samples))
    if 'fisher' in args.parts:
        found['fisher'] = fisher_traces(model, _batches(train, 1, args.fisher_samples))
    return found


def table(found: dict[str, Any]) -> str:
    """What a terminal shows, a line per modality."""
    blank = dict[str, str]()
    rows: dict[str, dict[str, str]] = {}

    def put(column: str, values: dict[str, str]) -> None:
        for m, text in values.items():
            rows.setdefault(m, {**blank})[column] = text

    if 'probes' in found:
        put(
            'probe %',
            {m: f'{v["accuracy"]:.1f} +- {v["error"]:.1f}' for m, v in found['probes'].items()},
        )
    for key, name, digits in (('accuracy', 'Shapley %', 1), ('log_likelihood', 'Shapley nats', 3)):
        values = found.get('shapley', {}).get(key, {})
        put(
            name,
            {m: f'{v["value"]:.{digits}f} +- {v["error"]:.{digits}f}' for m, v in values.items()},
        )
    for key, name in (('fused', '|g| fused'), ('unimodal', '|g| unimodal'), ('cosine', 'cosine')):
        values = found.get('gradients', {})
        put(name, {m: '-' if v[key] is None else f'{v[key]:.3g}' for m, v in values.items()})
    put(
        'Fisher trace',
        {m: f'{v["trace"]:.3g} +- {v["error"]:.2g}' for m, v in found.get('fisher', {}).items()},
    )
    columns = list(dict.fromkeys(c for row in rows.values() for c in row))
    width = {c: max(len(c), *(len(row.get(c, '')) for row in rows.values())) for c in columns}
    first = max([8, *map(len, rows)])
    lines = [' ' * first + ''.join(f'  {c:>{width[c]}}' for c in columns)]
    for m, row in rows.items():
        lines.append(f'{m:<{first}}' + ''.join(f'  {row.get(c, "-"):>{width[c]}}' for c in columns))
    drawn = {
        key: [v['sampling_error'] for v in values.values() if 'sampling_error' in v]
        for key, values in found.get('shapley', {}).items()
    }
    if any(drawn.values()):
        lines.append(
            f'the orders behind the Shapley values are drawn: a standard error of up to '
            f'{max(drawn["accuracy"]):.1f} points and {max(drawn["log_likelihood"]):.3f} nats '
            f'beside that over the samples'
        )
    for pair, value in found.get('error_cosines', {}).items():
        lines.append(f'error signals of {pair}: mean cosine {value:.3f}')
    return '\n'.join(lines)


def main(args: argparse.Namespace) -> None:
    """Analyse and print a table."""
    compat.setup()
    if min(args.samples, args.fisher_samples) < 1:
        raise ValueError('--samples and --fisher-samples must be at least 1')
    found = analyse(args)
    print(table(found))
    if args.out:
        write_atomically(args.out, json.dumps(found, indent=2) + '\n')
        print(f'written: {args.out}')


if __name__ == '__main__':
    cli.run(main, parser())
