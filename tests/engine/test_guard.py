"""What counts as broken weights, and where a resumed run begins."""

import pytest
import torch
from cli_runner import own_name
from commands import CONFIG, ROOT
from mmengine.config import Config
from mmengine.hooks import Hook
from torch import nn

from cal_mm.compat import setup
from cal_mm.config import load_config
from cal_mm.engine.hooks import CheckpointGuardHook
from cal_mm.engine.hooks.guard import non_finite_names
from cal_mm.study.trial import StudyRunner
from data_prep.synthetic import make_synthetic


@pytest.fixture
def model():
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    net.register_buffer('mask', torch.tensor([0.0, float('-inf')]))
    net[0].bias.requires_grad_(False)
    return net


def test_whole_weights(model):
    assert non_finite_names(model) == []


@pytest.mark.parametrize('value', [float('nan'), float('inf'), float('-inf')])
def test_one_bad_value_is_found(model, value):
    with torch.no_grad():
        model[0].weight[1, 1] = value
        model[0].bias[0] = value
    assert non_finite_names(model) == ['0.weight', '0.bias']
    # what does not learn is looked at when a checkpoint is written
    assert non_finite_names(model, frozen=False) == ['0.weight']


def test_infinities_of_both_signs_do_not_cancel(model):
    with torch.no_grad():
        model[0].weight[0] = torch.tensor([float('inf'), float('-inf')])
    assert non_finite_names(model) == ['0.weight']


def test_a_sum_that_overflows_is_not_broken():
    net = nn.Linear(4, 4).half()
    nn.init.constant_(net.weight, 60000.0)
    assert not net.weight.sum().isfinite()
    assert non_finite_names(net) == []


def test_buffers_may_be_infinite_but_not_nan(model):
    model[1].running_mean[0] = float('nan')
    assert non_finite_names(model) == ['1.running_mean']


class Iterations(Hook):
    """(epoch, iteration, update) of every iteration."""

    def __init__(self):
        self.seen = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.seen.append((runner.epoch, runner.iter, runner.model.progress.update))


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """Two epochs of 10 iterations, a checkpoint after each 8, an update after each 4."""
    folder = tmp_path_factory.mktemp('run')
    make_synthetic(folder / 'data', num_train=40, num_val=8, num_test=8)
    setup()

    def train(resume=None, **checkpoint):
        cfg = load_config(str(ROOT / CONFIG.format('concat')))
        cfg.experiment_name = own_name().split('=')[1]
        cfg.train_dataloader.dataset.data_root = str(folder / 'data')
        cfg.train_dataloader.batch_size = 4
        for split in ('val', 'test'):
            cfg[f'{split}_dataloader'] = cfg[f'{split}_cfg'] = cfg[f'{split}_evaluator'] = None
        cfg.visualizer = dict(type='Visualizer', vis_backends=[], name=cfg.experiment_name)
        cfg.log_level = 'ERROR'
        cfg.train_cfg = dict(by_epoch=True, max_epochs=2)
        cfg.optim_wrapper.accumulative_counts = 4
        cfg.default_hooks.checkpoint = dict(type='CheckpointHook', **checkpoint)
        cfg.work_dir = str(folder / 'work')
        if resume:
            cfg.resume, cfg.load_from = True, str(folder / 'work' / resume)
        runner = StudyRunner.from_cfg(cfg)
        warnings = []
        runner.logger.warning = lambda text, *args: warnings.append(text)
        hook = Iterations()
        for one in (CheckpointGuardHook(), hook):
            runner.register_hook(one, priority='LOW')
        with pytest.MonkeyPatch.context() as quick:
            quick.setattr(Config, 'pretty_text', '')  # half a second in every checkpoint
            runner.train()
        return hook.seen, [w for w in warnings if 'begins after' in w]

    return train


def test_a_checkpoint_of_within_an_epoch_begins_the_epoch_anew(run):
    whole, _ = run(by_epoch=False, interval=8)
    assert len(whole) == 20
    seen, warnings = run('iter_16.pth', by_epoch=False, interval=8)
    assert seen == whole[10:]
    (text,) = warnings
    assert 'iter_16.pth is of iteration 16, but epoch 2 begins after 10 (10 an epoch)' in text


def test_a_checkpoint_of_the_last_iteration_has_nothing_to_do(run):
    run(by_epoch=False, interval=8)
    assert run('iter_20.pth', by_epoch=False, interval=8) == ([], [])


def test_a_checkpoint_of_the_end_of_an_epoch_goes_on(run):
    whole, _ = run(by_epoch=True, interval=1)
    seen, warnings = run('epoch_1.pth', by_epoch=True, interval=1)
    assert seen == whole[10:]
    assert warnings == []
