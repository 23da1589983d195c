"""Time a training step: CAL against concat + unimodal heads, the Runner against a bare loop; and a
prediction with CAL's gate against one without.

    python tools/benchmark_step.py
    python tools/benchmark_step.py --setup resnet --steps 20 --threads 1 --json step.json

All candidates of a table run side by side in one process: each round times one step of every
candidate, in an order that rotates, so that whatever else the machine does hits all of them alike.
A ratio is taken within a round; its median and quartiles are printed. The data are in memory.
docs/benchmarks.md says what is in a step.
"""

import argparse
import copy
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.runner import Runner
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

import cal_mm.datasets
import cal_mm.engine
import cal_mm.models  # noqa: F401  (registers everything)
from cal_mm import cli
from cal_mm.engine.hooks.teachers import teachers_like
from cal_mm.engine.optim_wrappers import amp_variant
from cal_mm.files import write_atomically
from cal_mm.models.contribution import ContributionEstimate, HeldOutPosteriors
from cal_mm.models.encoders.cnn import ConvStack
from cal_mm.models.losses.distillation import TeacherDistillation
from cal_mm.models.losses.prototypes import PrototypeRebalance
from cal_mm.registry import MODELS, OPTIM_WRAPPERS
from cal_mm.structures import MultiModalDataSample, TrainProgress

CONFIGS = Path(__file__).resolve().parents[1] / 'configs' / '_base_'
CLIP = 5.0
LOG_EVERY = 20
#: what a step may take on the ResNets, as a multiple of the reference's: CAL against joint training
#: with unimodal heads, the rest against plain joint training
TARGETS = {
    'concat_uni': {'cal': 1.05, 'cal_paper': 1.05},
    'concat': {
        'agm': 1.4,
        'arl': 1.06,
        'cal': 1.06,
        'mla': 1.1,
        'mmpareto': 1.9,
        'ogm_ge': 1.06,
        'qmf': 1.06,
        'tmc': 1.06,
    },
    'bare loop': {'Runner': 1.03},
    'gate none': {'gate pool': 1.02},
}


PARTS = {
    'methods': 'method step',
    'runner': 'Runner against a bare loop',
    'gate': 'prediction of a batch',
    'layout': 'memory format of the small CNNs',
}


@dataclass(frozen=True)
class Setup:
    """Encoders and input shapes of one benchmark.

    Attributes:
        encoders: config by modality.
        shapes: of one sample: float32 features ``audio`` and uint8 pixels ``image``.
        num_classes: C.
        width: D, of the bottlenecks.
        batch_size: the default.
    """

    encoders: dict[str, dict]
    shapes: dict[str, tuple[int, ...]]
    num_classes: int
    width: int
    batch_size: int


SETUPS = {
    'resnet': Setup(
        encoders=dict(
            audio=dict(type='SpectrogramResNet', depth=18),
            image=dict(type='TimmEncoder', model_name='resnet18'),
        ),
        shapes=dict(audio=(257, 188), image=(3, 224, 224)),
        num_classes=6,
        width=128,
        batch_size=8,
    ),
    'small': Setup(
        encoders=dict(audio=dict(type='AudioCNN'), image=dict(type='SmallImageCNN')),
        shapes=dict(audio=(64, 32), image=(1, 28, 28)),
        num_classes=10,
        width=64,
        batch_size=64,
    ),
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog='benchmark_step.py', description=(__doc__ or '').split('\n')[0]
    )
    p.add_argument('--setup', choices=[*SETUPS, 'both'], default='both')
    p.add_argument('--part', choices=[*PARTS, 'all'], default='all')
    p.add_argument(
        '--methods',
        nargs='+',
        metavar='NAME',
        default=['concat_uni', 'cal_paper', 'cal'],
        help='of configs/_base_/methods; the first is the reference (default: %(default)s)',
    )
    p.add_argument('--device', default='cpu', help='cpu, cuda, cuda:1, ... (default cpu)')
    p.add_argument('--batch-size', type=int, help='default 8 (resnet), 64 (small)')
    p.add_argument('--steps', type=int, default=30, help='timed rounds (default 30)')
    p.add_argument('--warmup', type=int, default=3, help='rounds before them (default 3)')
    p.add_argument('--optimizer', choices=['SGD', 'AdamW'], default='SGD')
    p.add_argument('--amp', action='store_true', help='mixed precision, in all candidates')
    p.add_argument('--compile', action='store_true', help='torch.compile the encoders, in all')
    p.add_argument('--threads', type=int, help='torch threads; default: what torch takes')
    p.add_argument(
        '--clock',
        choices=['wall', 'cpu'],
        default='wall',
        help='cpu: processor time of this process, for a busy machine (CPU only)',
    )
    p.add_argument('--json', metavar='OUT', help='write the figures here')
    cli.add_debug_argument(p)
    return p


# ---- data and models ---------------------------------------------------------------------------


def _name(i: int) -> str:
    return f's{i}'


def make_samples(setup: Setup, count: int) -> list[dict[str, Any]]:
    """Packed samples of noise, the same in every run."""
    g = torch.Generator().manual_seed(0)
    samples = []
    for i in range(count):
        inputs = {
            'audio': torch.randn(setup.shapes['audio'], generator=g),
            'image': torch.randint(0, 256, setup.shapes['image'], generator=g, dtype=torch.uint8),
        }
        label = int(torch.randint(setup.num_classes, (1,), generator=g))
        samples.append(dict(inputs=inputs, data_samples=MultiModalDataSample.of(_name(i), label)))
    return samples


def method_config(setup: Setup, method: str) -> Config:
    """The shipped method ``configs/_base_/methods/<method>.py`` on this setup's encoders."""
    model = dict(
        type='MultiModalClassifier',
        num_classes=setup.num_classes,
        data_preprocessor=dict(
            type='MultiModalPreprocessor',
            frontends=dict(
                audio=dict(type='FeatureFrontEnd'),
                image=dict(type='ImageFrontEnd', mean=0.5, std=0.5),
            ),
        ),
        encoders=copy.deepcopy(setup.encoders),
        bottleneck=dict(type='LinearBottleneck', out_channels=setup.width),
        fusion=dict(type='ConcatFusion'),
    )
    shipped = Config.fromfile(str(CONFIGS / 'methods' / f'{method}.py'))
    cfg = Config(dict(model=model, optim_wrapper=dict(type='OptimWrapper')))
    cfg.merge_from_dict(dict(model=shipped.method_model))
    cfg.merge_from_dict(dict(optim_wrapper=shipped.method_optim_wrapper))
    return cfg


def _batch_size(args: argparse.Namespace, setup: Setup) -> int:
    return args.batch_size or setup.batch_size


def build_model(setup: Setup, method: str, args: argparse.Namespace) -> tuple[Any, Config]:
    """The model on the device, W measured where the method measures it before training."""
    cfg = method_config(setup, method)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).to(args.device)
    tracker = model.contribution
    if tracker is not None and not tracker.online:
        values = torch.tensor([0.5, 0.04]), torch.tensor([0.8, 0.4]), torch.tensor([0.7, 0.3])
        tracker.set_estimate(ContributionEstimate(*values, torch.zeros(2)))
        names = [_name(i) for i in range(2 * _batch_size(args, setup))]
        uniform = torch.full((len(names), setup.num_classes), 1 / setup.num_classes)
        tracker.posteriors = HeldOutPosteriors(names, uniform)
    _stand_in_for_hooks(model)
    if args.compile:
        for encoder in model.encoders.values():
            encoder.compile()
    return model.train(), cfg


def _stand_in_for_hooks(model: Any) -> None:
    """What hooks measure or train before an epoch, so that a step costs what it does in a run."""
    for loss in model.losses:
        if isinstance(loss, TeacherDistillation):
            loss.set_teachers(teachers_like(model))
        if isinstance(loss, PrototypeRebalance):
            for m in model.modalities:
                shape = loss.get_buffer(f'prototypes_of_{m}').shape
                loss.set_prototypes(m, torch.randn(shape), torch.ones(shape[0], dtype=torch.bool))


def make_optimizer(model: Any, args: argparse.Namespace) -> torch.optim.Optimizer:
    """The same for every candidate."""
    if args.optimizer == 'SGD':
        return torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)
    return torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=1e-2)


def make_wrapper(model: Any, cfg: Config, args: argparse.Namespace) -> Any:
    """The method's OptimWrapper around that optimiser, with clipping."""
    wrapper = dict(cfg.optim_wrapper, optimizer=make_optimizer(model, args))
    wrapper['clip_grad'] = dict(max_norm=CLIP)
    if args.amp:
        wrapper['type'] = amp_variant(wrapper.get('type', 'OptimWrapper'))
    return OPTIM_WRAPPERS.build(wrapper)


# ---- candidates: each is a function of (number of the step, batch) ------------------------------

Step = Callable[[int, dict], Any]


def method_step(setup: Setup, method: str, args: argparse.Namespace) -> Step:
    """A step as the training loop calls it, two fifths through the run: warm-ups are over, and what
    ends half way (OGM's modulation) has not ended.
    """
    model, cfg = build_model(setup, method, args)
    return wrapped_step(model, make_wrapper(model, cfg, args))


def wrapped_step(model: Any, wrapper: Any) -> Step:
    """A step of this model with its OptimWrapper."""
    wrapper.initialize_count_status(model, 0, 10**6)

    def step(number: int, batch: dict) -> None:
        model.progress = TrainProgress(4, 10, 400_000 + number, 10**6)
        model.train_step(batch, wrapper)

    return step


def layout_step(memory_format: torch.memory_format, setup: Setup, args: argparse.Namespace) -> Step:
    """A step of ``concat`` whose small CNNs hold their feature maps like this."""
    model, cfg = build_model(setup, 'concat', args)
    for module in model.modules():
        if isinstance(module, ConvStack):
            module.memory_format = memory_format
    return wrapped_step(model, make_wrapper(model, cfg, args))


def runner_step(
    setup: Setup, samples: list, args: argparse.Namespace, folder: str
) -> tuple[Step, Any]:
    """One iteration of mmengine's Runner with the shipped hooks and logs; and the model."""
    model, cfg = build_model(setup, 'concat_uni', args)
    runtime = Config.fromfile(str(CONFIGS / 'default_runtime.py'))
    hooks = {k: v for k, v in runtime.default_hooks.items() if k != 'statistics'}
    data: Any = samples
    loader: Any = DataLoader(data, batch_size=len(samples), collate_fn=pseudo_collate)
    wrapper = make_wrapper(model, cfg, args)
    runner = Runner(
        model=model,
        work_dir=folder,
        train_dataloader=loader,
        train_cfg=dict(by_epoch=True, max_epochs=10**6),
        optim_wrapper=wrapper,
        default_hooks=hooks,
        visualizer=runtime.visualizer,
        log_processor=runtime.log_processor,
        env_cfg=runtime.env_cfg,
        randomness=dict(seed=0),
        default_scope='cal_mm',
        log_level='ERROR',
        experiment_name=f'benchmark_{time.monotonic_ns()}',
    )
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    wrapper.initialize_count_status(runner.model, 0, 10**6)
    for stage in ('before_run', 'before_train', 'before_train_epoch'):
        runner.call_hook(stage)
    runner.model.to(args.device).train()
    loop: Any = runner.train_loop
    return loop.run_iter, runner.model


def bare_step(setup: Setup, args: argparse.Namespace) -> tuple[Step, Any]:
    """The same maths as one would write it by hand, on the same modules; and the model."""
    model, _ = build_model(setup, 'concat_uni', args)
    optimizer = make_optimizer(model, args)
    device = torch.device(args.device)
    half = torch.float16 if device.type == 'cuda' else torch.bfloat16
    scaler = torch.amp.GradScaler(device.type, enabled=args.amp and device.type == 'cuda')
    losses: list[float] = []

    def forward(batch: dict) -> Tensor:
        audio = torch.stack(batch['inputs']['audio']).to(device, non_blocking=True)
        image = torch.stack(batch['inputs']['image']).to(device, non_blocking=True)
        labels = torch.stack([s.gt_label for s in batch['data_samples']]).to(device)
        x = dict(audio=audio, image=(image.float() / 255 - 0.5) / 0.5)
        z = {m: model.bottlenecks[m].mu(model.encoders[m](x[m])) for m in ('audio', 'image')}
        loss = F.cross_entropy(model.fusion.head(torch.cat(list(z.values()), dim=1)), labels)
        for m, value in z.items():
            loss = loss + F.cross_entropy(model.heads[m].fc(value), labels)
        return loss

    def step(number: int, batch: dict) -> None:
        with torch.autocast(device.type, dtype=half, enabled=args.amp):
            loss = forward(batch)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        scaler.step(optimizer)
        scaler.update()
        # where mmengine has it: neither candidate holds gradients while the other runs
        optimizer.zero_grad()
        if number % LOG_EVERY == 0:
            losses.append(loss.item())

    return step, model


def predict_step(setup: Setup, gate: str, samples: list, args: argparse.Namespace) -> Step:
    """Predictions of a batch by a ``cal`` model with this gate, its statistics fitted."""
    model, _ = build_model(setup, 'cal', args)
    model.eval()
    with torch.no_grad():
        data = model.data_preprocessor(pseudo_collate(samples), training=False)
        features = model.state(**data).features
    g = torch.Generator().manual_seed(0)
    for m, typicality in model.contribution.typicality.items():
        near = features[m].float().cpu().repeat(8, 1)
        near = near + near.std() * torch.randn(near.shape, generator=g)
        typicality.fit(near.to(args.device), torch.arange(len(near)) % setup.num_classes)
    model.use_gate(gate)
    model.check_gate()

    def step(number: int, batch: dict) -> None:
        with torch.no_grad():
            model.test_step(batch)

    return step


# ---- timing ------------------------------------------------------------------------------------


def time_side_by_side(
    steps: dict[str, Step], batches: list[dict], args: argparse.Namespace
) -> dict[str, list[float]]:
    """Seconds of every step by candidate; the candidates take turns within each round."""
    names = list(steps)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    clock = time.process_time if args.clock == 'cpu' else time.perf_counter
    for number in range(args.warmup + args.steps):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            batch = batches[number % len(batches)]
            _synchronise(args.device)
            start = clock()
            steps[name](number, batch)
            _synchronise(args.device)
            if number >= args.warmup:
                seconds[name].append(clock() - start)
    return seconds


def _synchronise(device: str) -> None:
    if device.startswith('cuda'):
        torch.cuda.synchronize(device)


class OperatorCount(TorchDispatchMode):
    """Counts torch's operators and the values that Python reads out of tensors.

    On a GPU each operator is a kernel or more that the CPU has to start, and each read waits for
    the queue. Neither depends on the machine, but on a CPU the optimiser goes through the
    parameters one by one, on a GPU through many at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operators = self.reads = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        self.operators += 1
        self.reads += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def count_operators(steps: dict[str, Step], batch: dict, number: int) -> dict[str, dict[str, int]]:
    """Operators and reads of one step, by candidate."""
    found = {}
    for name, step in steps.items():
        with OperatorCount() as count:
            step(number, batch)
        found[name] = {'operators': count.operators, 'reads': count.reads}
    return found


def measure(
    steps: dict[str, Step], batches: list[dict], args: argparse.Namespace
) -> dict[str, dict[str, Any]]:
    """Times and, unless compiled, counts."""
    found = summarise(time_side_by_side(steps, batches, args))
    if not args.compile:
        counts = count_operators(steps, batches[0], args.warmup + args.steps)
        for name, values in counts.items():
            found[name].update(values)
    return found


def summarise(seconds: dict[str, list[float]]) -> dict[str, dict[str, Any]]:
    """Per candidate: median seconds; the ratio to the first within rounds, with quartiles."""
    first = next(iter(seconds.values()))
    found = {}
    for name, values in seconds.items():
        ratios = [v / f for v, f in zip(values, first, strict=True)]
        low, middle, high = _quartiles(ratios)
        found[name] = {
            'median_seconds': statistics.median(values),
            'quartiles_seconds': _quartiles(values)[::2],
            'ratio': middle,
            'ratio_quartiles': [low, high],
            'ratio_of_totals': sum(values) / sum(first),
            'seconds': values,
        }
    return found


def _quartiles(values: list[float]) -> list[float]:
    if len(values) < 2:
        return [values[0]] * 3
    return statistics.quantiles(values, n=4, method='inclusive')


def weight_difference(a: Any, b: Any) -> float:
    """Largest difference of a parameter: Runner and bare loop must have done the same."""
    pairs = zip(a.parameters(), b.parameters(), strict=True)
    return max(float((p.detach() - q.detach()).abs().max()) for p, q in pairs)


def part_steps(part: str, setup: Setup, samples: list, args: argparse.Namespace) -> dict[str, Step]:
    """The candidates of a part without a Runner."""
    if part == 'gate':
        return {f'gate {g}': predict_step(setup, g, samples, args) for g in ('none', 'pool')}
    if part == 'layout':
        formats = {'contiguous': torch.contiguous_format, 'channels last': torch.channels_last}
        return {n: layout_step(memory_format, setup, args) for n, memory_format in formats.items()}
    return {m: method_step(setup, m, args) for m in args.methods}


def run_part(name: str, part: str, args: argparse.Namespace) -> dict[str, Any]:
    """One table."""
    setup = SETUPS[name]
    size = _batch_size(args, setup)
    samples = make_samples(setup, 2 * size)
    batches = [pseudo_collate(samples[:size]), pseudo_collate(samples[size:])]
    facts: dict[str, Any] = {'setup': name, 'part': part, 'batch_size': size}
    if part != 'runner':
        facts['candidates'] = measure(part_steps(part, setup, samples, args), batches, args)
        return facts
    with tempfile.TemporaryDirectory() as folder:
        bare, bare_model = bare_step(setup, args)
        runner, runner_model = runner_step(setup, samples, args, folder)
        steps = {'bare loop': bare, 'Runner': runner}
        facts['candidates'] = measure(steps, batches, args)
        facts['largest_weight_difference'] = weight_difference(bare_model, runner_model)
    return facts


# ---- report ------------------------------------------------------------------------------------


def machine(args: argparse.Namespace) -> dict[str, Any]:
    """What the figures depend on; no names of machines."""
    cuda = args.device.startswith('cuda')
    return {
        'date': time.strftime('%Y-%m-%d'),
        'device': torch.cuda.get_device_name(args.device) if cuda else platform.machine(),
        'cores': os.cpu_count(),
        'threads': torch.get_num_threads(),
        'load_average': os.getloadavg()[0] if hasattr(os, 'getloadavg') else None,
        'torch': torch.__version__.split('+')[0],
        'python': platform.python_version(),
        'optimizer': args.optimizer,
        'amp': args.amp,
        'compile': args.compile,
        'steps': args.steps,
        'clock': args.clock,
    }


def table(facts: dict[str, Any]) -> str:
    """One part for the screen."""
    lines = [f'{facts["setup"]}, batch {facts["batch_size"]}: {PARTS[facts["part"]]}']
    lines.append(
        f'  {"":<12} {"median ms":>10} {"ratio":>7}  {"quartiles":<15} {"of totals":>9} '
        f'{"operators":>9} {"reads":>5}'
    )
    for name, c in facts['candidates'].items():
        low, high = c['ratio_quartiles']
        line = (
            f'  {name:<12} {1e3 * c["median_seconds"]:>10.2f} {c["ratio"]:>7.3f}  '
            f'{f"{low:.3f} to {high:.3f}":<15} {c["ratio_of_totals"]:>9.3f} '
            f'{c.get("operators", "-"):>9} {c.get("reads", "-"):>5}'
        )
        reference = next(iter(facts['candidates']))
        target = TARGETS.get(reference, {}).get(name) if facts['setup'] == 'resnet' else None
        if target is not None:
            line += f'  target {target}: {"met" if c["ratio"] <= target else "missed"}'
        lines.append(line)
    if 'largest_weight_difference' in facts:
        lines.append(f'  largest weight difference: {facts["largest_weight_difference"]:.2g}')
    return '\n'.join(lines) + '\n'


def main(args: argparse.Namespace) -> None:
    """Measure, print, write."""
    if args.steps < 1 or args.warmup < 0:
        raise ValueError(
            f'--steps must be at least 1 and --warmup 0, got {args.steps}, {args.warmup}'
        )
    if args.batch_size is not None and args.batch_size < 2:
        raise ValueError(f'--batch-size must be at least 2 (BatchNorm), got {args.batch_size}')
    for method in args.methods:
        known = sorted(f.stem for f in (CONFIGS / 'methods').glob('*.py'))
        if method not in known:
            raise ValueError(f'--methods {method}: there is none of that name; there are {known}')
    if args.device.startswith('cuda') and not torch.cuda.is_available():
        raise ValueError(
            f'--device {args.device}: torch sees no CUDA device here; use --device cpu'
        )
    if args.clock == 'cpu' and args.device != 'cpu':
        raise ValueError(f'--clock cpu measures nothing of {args.device}; leave it out')
    if args.part == 'layout' and args.setup == 'resnet':
        raise ValueError('--part layout times the small CNNs; use --setup small')
    if args.threads:
        torch.set_num_threads(args.threads)
    facts = machine(args)
    print(', '.join(f'{k} {v}' for k, v in facts.items()) + '\n', flush=True)
    parts = []
    for name in SETUPS if args.setup == 'both' else [args.setup]:
        for part in PARTS if args.part == 'all' else [args.part]:
            if part == 'layout' and name != 'small':
                continue
            parts.append(run_part(name, part, args))
            print(table(parts[-1]), flush=True)
    if args.json:
        results = {'format': 'cal_mm.benchmark_step', 'format_version': 1, **facts, 'parts': parts}
        write_atomically(args.json, json.dumps(results, indent=1) + '\n')


if __name__ == '__main__':
    cli.run(main, parser())
