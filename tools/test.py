"""Test a checkpoint, clean and under noise.

    python tools/test.py CONFIG CHECKPOINT
    python tools/test.py CONFIG CHECKPOINT --attack gaussian:3@image noise:snr_db=5@audio
    python tools/test.py CONFIG CHECKPOINT --drop audio --protocol clipped --out results.json
    python tools/test.py CONFIG CHECKPOINT --protocol clipped --reference concat.json
    python tools/test.py CONFIG CHECKPOINT --gate uncertainty --attack noise:1-5

Attacks, drops, protocol, seeds and adapter that are not given are those of the config's
RobustnessTestLoop (or of a class derived from it), if that is its test_cfg.
Prints a table, a line per condition; --out writes the results (docs/results_schema.md).
Exit status: 0 done, 1 failed, 2 wrong usage.
"""

import argparse
import os
import sys
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.registry import RUNNERS
from mmengine.runner import Runner, TestLoop

from cal_mm.cli import add_config_arguments, run
from cal_mm.compat import end_distributed, init_distributed, setup
from cal_mm.config import ConfigError, load_config
from cal_mm.corruptions import PROTOCOLS
from cal_mm.corruptions.plan import modality_facts, plan_conditions
from cal_mm.engine.loops import RobustnessTestLoop
from cal_mm.evaluation import load_weights, results_table, save_predictions, save_results
from cal_mm.evaluation.reference import check_reference, load_reference, reference_source
from cal_mm.evaluation.report import (
    config_digest,
    describe_results,
    prediction_arrays,
    predictions_path,
)
from cal_mm.evaluation.summary import RESAMPLES
from cal_mm.evaluation.table import curves_table, summary_lines
from cal_mm.models.gates import GATE_NAMES
from cal_mm.registry import (
    ADAPTERS,
    DATASETS,
    GATES,
    LOOPS,
    UnknownComponentError,
    suggestion,
)
from cal_mm.wrapping import unwrap

#: what --adapt takes
ADAPTER_NAMES = sorted(ADAPTERS.module_dict)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(
        prog='tools/test.py',
        description='Test a checkpoint, clean and under noise.',
        epilog='Attacks and their severities: docs/corruptions.md.',
    )
    found.add_argument('config', help='config file')
    found.add_argument('checkpoint', help='*.pth that tools/train.py wrote')
    found.add_argument(
        '--attack',
        action='extend',
        nargs='+',
        metavar='NAME[:SEVERITY][@MODALITY]',
        help='gaussian:3@image, noise:snr_db=5@audio, word_mask:1-5, missing@text, noise:3 (all)',
    )
    found.add_argument(
        '--drop',
        action='extend',
        nargs='+',
        metavar='MODALITY',
        help='test without this modality (a+b: without both)',
    )
    found.add_argument('--protocol', help=f'a grid of conditions: {", ".join(PROTOCOLS)}')
    found.add_argument(
        '--seeds',
        type=int,
        metavar='N',
        help="noise seeds 0 to N - 1 (default: the protocol's, else 1)",
    )
    found.add_argument(
        '--gate',
        metavar='NAME',
        help=f"how predictions are made, in place of the config's: {', '.join(GATE_NAMES)}",
    )
    found.add_argument(
        '--adapt',
        metavar='NAME',
        help=f'go on learning from the unlabelled test batches: {", ".join(ADAPTER_NAMES)}; '
        f'the figures then depend on the order and size of the batches',
    )
    found.add_argument(
        '--feature-cache',
        metavar='DIR',
        help='keep what frozen encoders give here, and do not encode what is there already',
    )
    found.add_argument('--split', choices=['val', 'test'], default='test')
    found.add_argument('--out', metavar='FILE', help='write the results here (JSON)')
    found.add_argument(
        '--save-predictions',
        action='store_true',
        help="with --out: also every sample's prediction, in FILE's name with .predictions.npz",
    )
    found.add_argument(
        '--reference',
        metavar='FILE',
        help="results of the model that mCE and relative robustness refer to (another run's --out)",
    )
    found.add_argument(
        '--bootstrap',
        type=int,
        default=RESAMPLES,
        metavar='N',
        help='resamples behind the 95 %% intervals (default: %(default)s; 0: no intervals)',
    )
    found.add_argument('--per-seed', action='store_true', help='print a line per noise seed too')
    add_config_arguments(found)
    return found


def _loader_config(cfg: Config, split: str) -> Any:
    loader = cfg.get(f'{split}_dataloader')
    if loader is None:
        raise ConfigError(f'{cfg.filename}: there is no {split}_dataloader, so no split {split!r}')
    return loader


def _loop_config(args: argparse.Namespace, cfg: Config) -> dict[str, Any]:
    """The config of the loop: the config's own, and what the command line says.

    Raises:
        ConfigError: the config's loop tests no conditions.
    """
    given = dict(cfg.get('test_cfg') or {})
    kind = given.setdefault('type', 'TestLoop')
    cls = LOOPS.get(kind) if isinstance(kind, str) else kind
    if cls is TestLoop:
        given['type'] = 'RobustnessTestLoop'
    elif not (isinstance(cls, type) and issubclass(cls, RobustnessTestLoop)):
        raise ConfigError(
            f'{args.config}: test_cfg: tools/test.py takes RobustnessTestLoop, a class derived '
            f'from it, or TestLoop, in whose place it puts it; got {kind}'
        )
    asked = dict(
        attacks=args.attack,
        drop=args.drop,
        protocol=args.protocol,
        seeds=args.seeds,
        adaptation=None if args.adapt is None else dict(type=args.adapt),
        feature_cache=args.feature_cache,
    )
    return {**given, **{key: value for key, value in asked.items() if value is not None}}


def _check(
    args: argparse.Namespace, loop: Mapping[str, Any], loader: Any, encoders: Any
) -> dict[str, Any] | None:
    """Everything that can be wrong with the arguments, before the model is built.

    Args:
        args: of the command line.
        loop: of :func:`_loop_config`.
        loader: config of the split's loader.
        encoders: of the model, by modality.

    Returns:
        The reference's results, where one was asked for.
    """
    if args.gate is not None and GATES.get(args.gate) is None:
        known = ', '.join(GATE_NAMES)
        near = suggestion(args.gate, list(GATES.module_dict))
        raise UnknownComponentError(
            f'--gate {args.gate}: there is no such gate.{near} Known: {known}'
        )
    if args.adapt is not None and ADAPTERS.get(args.adapt) is None:
        raise UnknownComponentError(
            f'--adapt {args.adapt}: there is no such adapter.'
            f'{suggestion(args.adapt, ADAPTER_NAMES)} Known: {", ".join(ADAPTER_NAMES)}'
        )
    if args.bootstrap < 0:
        raise ValueError(f'--bootstrap must be at least 0, got {args.bootstrap}')
    if args.save_predictions and not args.out:
        raise ValueError('--save-predictions needs --out')
    if args.out and os.path.isdir(args.out):
        raise ValueError(
            f'--out {args.out} is a folder; give a file, such as {args.out}/results.json'
        )
    if not os.path.isfile(args.checkpoint):
        raise FileNotFoundError(f'there is no checkpoint {args.checkpoint}')
    reference = load_reference(args.reference) if args.reference else None
    attacks, drop, protocol = (loop.get(k) for k in ('attacks', 'drop', 'protocol'))
    if not (attacks or drop or protocol or reference):
        return None
    dataset = DATASETS.build(loader['dataset'])
    metainfo = getattr(dataset, 'metainfo', None)
    facts = modality_facts(metainfo, sorted(encoders) or None)
    conditions = plan_conditions(
        facts,
        attacks or (),
        drop or (),
        protocol,
        loop.get('seeds'),
        dataset[0],
        everything=modality_facts(metainfo),
    )
    if reference is not None:
        described = [c.describe() for c in conditions]
        check_reference(reference, args.reference, metainfo, args.split, len(dataset), described)
    return reference


def _runner_config(args: argparse.Namespace, cfg: Config) -> Config:
    """``cfg`` as a test of ``args.split`` under the asked conditions."""
    evaluator = cfg.get(f'{args.split}_evaluator') or cfg.get('test_evaluator')
    cfg.test_dataloader = _loader_config(cfg, args.split)
    cfg.test_evaluator = evaluator or dict(type='MultiModalMetric')
    cfg.test_cfg = _loop_config(args, cfg)
    stem = os.path.splitext(os.path.basename(args.config))[0]
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or os.path.join('work_dirs', stem)
    # the weights are loaded strictly below, and nothing is resumed
    cfg.load_from, cfg.resume, cfg.launcher = None, False, args.launcher
    return cfg


def main(args: argparse.Namespace) -> None:
    """Test, print the table, write the results."""
    setup()
    gate = {} if args.gate is None else {'model.gate': args.gate}
    cfg = load_config(args.config, {**(args.cfg_options or {}), **gate})
    digest = config_digest(cfg.to_dict())
    try:
        loop = _loop_config(args, cfg)
        loader = _loader_config(cfg, args.split)
        reference = _check(args, loop, loader, cfg.model.get('encoders') or {})
    except (ValueError, LookupError, OSError) as e:
        if args.debug:
            raise
        print(f'tools/test.py: error: {e}', file=sys.stderr)
        sys.exit(2)
    init_distributed(cfg, args.launcher)
    cfg = _runner_config(args, cfg)
    runner = RUNNERS.build(cfg) if cfg.get('runner_type') else Runner.from_cfg(cfg)
    meta = load_weights(runner.model, args.checkpoint)
    runner.test()
    if is_main_process():
        adapter = (loop.get('adaptation') or {}).get('type')
        _report(args, digest, meta, runner.test_loop, reference, adapter)
    end_distributed()


def _report(
    args: argparse.Namespace,
    digest: str,
    meta: dict,
    loop: Any,
    reference: dict[str, Any] | None,
    adapter: str | None,
) -> None:
    model_part = unwrap(loop.runner.model)
    gate = type(getattr(model_part, 'gate', None)).__name__
    results = describe_results(
        config=args.config,
        digest=digest,
        checkpoint=args.checkpoint,
        meta=meta,
        metainfo=loop.dataloader.dataset.metainfo,
        split=args.split,
        rows=loop.rows,
        predictions=loop.predictions,
        bootstrap=args.bootstrap,
        reference=reference,
        reference_source=reference_source(args.reference, reference) if reference else None,
        inference=dict(gate=gate, adaptation=adapter),
    )
    noise, model = (
        sum(r['timing'][k] for r in loop.rows) for k in ('noise_seconds', 'model_seconds')
    )
    print(f'\n{args.split} split, {results["num_samples"]} samples, {args.checkpoint}\n')
    print(results_table(results, args.per_seed))
    curves = curves_table(results['summary'])
    print(f'\n{curves}\n' if curves else '')
    for line in summary_lines(results['summary']):
        print(line)
    if len(loop.rows) > 1:
        share = f' ({noise / model:.3f} of the model)' if model else ''
        print(f'\nmodel {model:.1f} s, noise {noise:.1f} s{share}')
    if args.out:
        print(f'results: {save_results(args.out, results)}')
    if args.save_predictions:
        rows = [prediction_arrays(p) for p in loop.predictions if p is not None]
        print(f'predictions: {save_predictions(predictions_path(args.out), rows)}')


if __name__ == '__main__':
    run(main, parser())
