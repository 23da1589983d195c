"""What each corruption costs: microseconds of processor time per sample, on one thread.

    python tools/benchmark_corruptions.py [NAME ...] [--side 224] [--seconds 3] [--words 20]

Samples of the size that the options say, made here; severities 1, 3 and 5. A corruption runs in
the loader's workers, so the share of a test that noise takes also depends on the number of workers
and on the model: tools/test.py --out writes both times for every condition (``timing``).
"""

import argparse
import json
import statistics
import time
from typing import Any

import numpy as np
import torch

from cal_mm import cli
from cal_mm.corruptions import Corruption, attack_names
from cal_mm.files import write_atomically
from cal_mm.registry import CORRUPTIONS, suggestion

SEVERITIES = (1, 3, 5)
FRAMES = 4
RATE = 16000


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog='benchmark_corruptions.py', description='Microseconds per sample and corruption.'
    )
    p.add_argument('names', nargs='*', metavar='NAME', help='classes or short names; default: all')
    p.add_argument('--side', type=int, default=224, help='pixels of images and depth maps')
    p.add_argument('--seconds', type=float, default=3.0, help=f'of audio at {RATE} Hz')
    p.add_argument('--words', type=int, default=20, help='of a text')
    p.add_argument('--features', type=int, default=512, help='of a feature vector')
    p.add_argument('--repeats', type=int, default=9, help='the median counts (default: 9)')
    p.add_argument('--json', metavar='FILE', help='write the figures here')
    cli.add_debug_argument(p)
    return p


def sample_values(args: argparse.Namespace) -> dict[str, Any]:
    """One packed value of each kind; ``clip`` for corruptions of frames."""
    rng = np.random.default_rng(0)
    side = args.side
    clip = torch.from_numpy(rng.integers(0, 256, (FRAMES, 3, side, side)).astype(np.uint8))
    wave = rng.standard_normal(int(args.seconds * RATE)).astype(np.float32) * 0.1
    return {
        'image': clip[0],
        'clip': clip,
        'depth': torch.from_numpy(rng.uniform(0.5, 9, (1, side, side)).astype(np.float32)),
        'waveform': torch.from_numpy(wave),
        'text': ' '.join(f'word{i}' for i in range(args.words)),
        'features': torch.from_numpy(rng.standard_normal(args.features).astype(np.float32)),
        'any': 'whatever it is',
    }


def _chosen(names: list[str]) -> list[type[Corruption]]:
    """The classes by kind and name; those that need a model or a dataset are left out."""
    known = {name.lower(): classes for name, classes in attack_names().items()}
    classes: set[type[Corruption]] = set()
    for name in names:
        if name.lower() not in known:
            raise LookupError(
                f'{name!r} is not a corruption.{suggestion(name, sorted(known))} '
                f'docs/corruptions.md lists them.'
            )
        classes.update(known[name.lower()])
    every = classes or set(CORRUPTIONS.module_dict.values())
    alone = [c for c in every if c.sample_wise and not c.needs_dataset]
    return sorted(alone, key=lambda c: (c.kind, c.__name__))


def measure(noise: Corruption, value: Any, repeats: int) -> float:
    """Median microseconds of processor time for one sample."""
    spent = []
    for number in range(repeats + 1):
        rng = np.random.default_rng(number)
        start = time.process_time()
        noise.corrupt(value, rng)
        spent.append((time.process_time() - start) * 1e6)
    return statistics.median(spent[1:])  # the first one warms up


def main(args: argparse.Namespace) -> None:
    """Measure and print."""
    for key in ('side', 'seconds', 'words', 'features', 'repeats'):
        if getattr(args, key) <= 0:
            raise ValueError(f'--{key} must be positive, got {getattr(args, key)}')
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    values, rows = sample_values(args), []
    print(f'{"corruption":24} {"kind":9}' + ''.join(f'{f"severity {s}":>12}' for s in SEVERITIES))
    for cls in _chosen(args.names):
        value = values['clip' if cls.needs_frames else cls.kind]
        micros = [measure(cls('m', s), value, args.repeats) for s in SEVERITIES]
        rows.append(dict(name=cls.__name__, kind=cls.kind, microseconds=micros))
        print(f'{cls.__name__:24} {cls.kind:9}' + ''.join(f'{m:12.0f}' for m in micros))
    torch.set_num_threads(threads)
    if args.json:
        sizes = {k: getattr(args, k) for k in ('side', 'seconds', 'words', 'features')}
        write_atomically(args.json, json.dumps(dict(sizes=sizes, rows=rows), indent=1) + '\n')


if __name__ == '__main__':
    cli.run(main, parser())
