"""Running the real command lines, and reading what they leave."""

import json
import os
import subprocess
import sys
from pathlib import Path

from cal_mm.compat import load_trusted_types

ROOT = Path(__file__).resolve().parents[1]
CONFIG = 'configs/{0}/synthetic_mlp_concat_{0}.py'


def run(command, expect=0, timeout=300):
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)}
    done = subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=timeout
    )
    assert done.returncode == expect, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def train(data, work_dir, method='cal_paper', ranks=1, extra=(), options=(), expect=0):
    start = [sys.executable]
    if ranks > 1:
        start += ['-m', 'torch.distributed.run', f'--nproc_per_node={ranks}', '--standalone']
        extra = [*extra, '--launcher', 'pytorch']
    roots = [f'{s}_dataloader.dataset.data_root={data}' for s in ('train', 'val', 'test')]
    command = [
        *start,
        'tools/train.py',
        CONFIG.format(method),
        '--work-dir',
        str(work_dir),
        *extra,
        '--cfg-options',
        *roots,
        *options,
    ]
    return run(command, expect)


def weights(work_dir, epoch=3):
    return load_trusted_types(str(work_dir / f'epoch_{epoch}.pth'), 'cpu')['state_dict']


def history(work_dir):
    return [json.loads(line) for line in (work_dir / 'contribution.jsonl').read_text().splitlines()]


def gap(a, b):
    assert a.keys() == b.keys()
    return max(float((a[k].double() - b[k].double()).abs().max()) for k in a if a[k].numel())
