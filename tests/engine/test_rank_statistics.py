"""Running statistics over the ranks: what is validated is what is saved."""

import json
import sys

import pytest
import torch
from cli_runner import own_name
from commands import CONFIG, ROOT, run, train
from mmengine.runner import Runner
from torch import nn

from cal_mm.compat import load_trusted_types, setup
from cal_mm.config import load_config
from cal_mm.engine.rank_statistics import share_statistics
from data_prep.synthetic import make_synthetic

RANKS = """
import sys, torch, torch.distributed as dist
from types import SimpleNamespace
from mmengine.hooks import CheckpointHook, EMAHook
from torch import nn
from cal_mm.compat import end_distributed
from cal_mm.engine.hooks import TrainProgressHook
from cal_mm.models.fusions.concat import ConcatFusion
from cal_mm.models.losses.sample_history import SampleHistory

dist.init_process_group('gloo')
rank = dist.get_rank()
torch.manual_seed(0)
norm = nn.BatchNorm1d(3)
fusion = ConcatFusion({'a': 3, 'b': 3, 'c': 3}, 2, absent='mean')
model = nn.ModuleDict(dict(norm=norm, fusion=fusion, history=SampleHistory(1, capacity=2)))
average, saving = EMAHook(), CheckpointHook(by_epoch=False, interval=2)
runner = SimpleNamespace(model=model, hooks=[average, saving], iter=0, max_iters=9)
average.before_run(runner)
x = torch.randn(8, 3, generator=torch.Generator().manual_seed(rank)) * (rank + 1)
norm(x)
# b is on one rank only, c on none
present = torch.tensor([True, rank == 0, False]).expand(8, -1)
fusion(dict(a=x, b=x, c=x), present)
model['history'].keys.fill_(2**62)
if rank:  # of the rank's own batches, too
    average.ema_model.module['norm'].running_mean.fill_(4)
state = lambda: {k: v.clone() for k, v in model.state_dict().items()}
hook, states = TrainProgressHook(), [state()]
hook.after_train_iter(runner, 0)
states.append(state())
if sys.argv[2] == 'epoch':
    hook.after_train_epoch(runner)
else:
    runner.iter = 1
    hook.after_train_iter(runner, 1)
states.append(state())
hook.before_val(runner)
states.append(state())
ema = average.ema_model.module['norm'].running_mean
torch.save((states, ema), f'{sys.argv[1]}/{rank}.pt')
end_distributed()
"""


@pytest.mark.slow
@pytest.mark.parametrize('when', ['epoch', 'iteration'])
def test_ranks_have_the_mean_of_their_statistics(tmp_path, when):
    script = tmp_path / 'ranks.py'
    script.write_text(RANKS)
    launch = ['-m', 'torch.distributed.run', '--nproc_per_node=2', '--standalone']
    run([sys.executable, *launch, str(script), str(tmp_path), when])
    (one, ema), (two, _) = (torch.load(tmp_path / f'{r}.pt') for r in range(2))
    own = one[0], two[0]
    assert not torch.equal(own[0]['norm.running_mean'], own[1]['norm.running_mean'])
    for states, before in zip((one, two), own, strict=True):
        assert all(torch.equal(states[1][k], before[k]) for k in before)  # nothing is saved yet
        shared = states[2]
        for name in ('norm.running_mean', 'norm.running_var', 'fusion.mean_of_a'):
            torch.testing.assert_close(shared[name], (own[0][name] + own[1][name]) / 2)
        assert torch.equal(shared['fusion.mean_of_b'], own[0]['fusion.mean_of_b'])
        assert shared['fusion.means_seen'].tolist() == [True, True, False]
        assert shared['fusion.mean_of_c'].tolist() == [0, 0, 0]
        assert shared['history.keys'].tolist() == [2**62, 2**62]
        # once more changes nothing, not a bit
        assert all(torch.equal(states[3][k], shared[k]) for k in shared)
    assert all(torch.equal(one[2][k], two[2][k]) for k in one[2])
    assert ema.tolist() == [2, 2, 2]


@pytest.mark.slow
def test_two_ranks_validate_what_they_save(tmp_path):
    """Through tools/train.py, with BatchNorm in the encoders."""
    data = tmp_path / 'data'
    make_synthetic(data, num_train=96, num_val=50, num_test=8)
    options = [f'model.encoders.{m}.norm=batch' for m in 'abc']
    options += ['train_cfg.max_epochs=2', 'train_dataloader.batch_size=8']
    train(data, tmp_path / 'run', 'concat', ranks=2, options=options)
    (path,) = (tmp_path / 'run').glob('*/vis_data/scalars.json')
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    logged = [row['nll'] for row in rows if 'nll' in row]

    setup()
    cfg = load_config(str(ROOT / CONFIG.format('concat')))
    cfg.experiment_name = own_name().split('=')[1]
    for encoder in cfg.model.encoders.values():
        encoder.norm = 'batch'
    for split in ('train', 'val', 'test'):
        cfg[f'{split}_dataloader'].dataset.data_root = str(data)
    for name in ('save_best', 'rule'):
        cfg.default_hooks.checkpoint.pop(name)
    cfg.visualizer = dict(type='Visualizer', vis_backends=[], name=cfg.experiment_name)
    cfg.log_level, cfg.work_dir = 'ERROR', str(tmp_path / 'one')
    runner = Runner.from_cfg(cfg)
    for epoch, nll in enumerate(logged, 1):
        saved = load_trusted_types(str(tmp_path / f'run/epoch_{epoch}.pth'), 'cpu')
        runner.model.load_state_dict(saved['state_dict'])
        runner._has_loaded = True
        assert runner.val()['nll'] == pytest.approx(nll, rel=1e-5)
    assert len(logged) == 2


def test_one_process_keeps_its_own():
    norm = nn.BatchNorm1d(2)
    norm(torch.randn(4, 2))
    before = norm.running_mean.clone()
    share_statistics(norm)
    assert torch.equal(norm.running_mean, before)
