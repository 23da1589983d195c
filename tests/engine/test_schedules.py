"""The cosine of the shipped schedules ends with the training, however long that is made."""

from types import SimpleNamespace

import pytest
import torch
from commands import ROOT
from mmengine.config import Config
from mmengine.hooks import ParamSchedulerHook
from mmengine.runner import Runner

from cal_mm.compat import setup
from cal_mm.engine.short_training import _Schedule
from cal_mm.study.build import _stretch

COSINE = ['adamw_20e', 'adamw_40e', 'adamw_finetune_10e']


def schedule(name):
    return Config.fromfile(str(ROOT / f'configs/_base_/schedules/{name}.py'))


def cosine(epochs):
    return ((torch.arange(epochs) / epochs * torch.pi).cos() + 1) / 2


@pytest.mark.parametrize('name', COSINE)
@pytest.mark.parametrize('epochs', [None, 6])
def test_of_a_copy(name, epochs):
    cfg = schedule(name)
    epochs = epochs or cfg.train_cfg.max_epochs
    runner = SimpleNamespace(
        cfg=cfg, max_epochs=epochs, train_dataloader=range(1), optim_wrapper=None
    )
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    steps, rates = _Schedule(runner, optimizer), []
    for _ in range(epochs):
        rates.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        steps.step()
    torch.testing.assert_close(torch.tensor(rates), cosine(epochs), rtol=1e-4, atol=1e-6)


def test_of_a_run(tmp_path):
    setup()
    cfg = schedule('adamw_20e')
    runner = Runner(
        model=torch.nn.Linear(1, 1),
        work_dir=str(tmp_path),
        train_dataloader=dict(dataset=[1], sampler=dict(type='DefaultSampler'), batch_size=1),
        train_cfg=dict(by_epoch=True, max_epochs=60),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=1.0)),
        param_scheduler=cfg.param_scheduler,
        default_scope='cal_mm',
        experiment_name='sixty_epochs',
        log_level='ERROR',
    )
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    runner.param_schedulers = runner.build_param_scheduler(runner.param_schedulers)
    rates = []
    for _ in range(60):
        rates.append(runner.optim_wrapper.get_lr()['lr'][0])
        runner.optim_wrapper.step()
        ParamSchedulerHook().after_train_epoch(runner)
    torch.testing.assert_close(torch.tensor(rates), cosine(60), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('name', COSINE)
def test_a_study_says_the_length_in_full(name):
    """Digests of trials hold it."""
    cfg = schedule(name)
    _stretch(cfg, 7)
    assert cfg.train_cfg.max_epochs == 7
    expected = dict(type='CosineAnnealingLR', by_epoch=True, begin=0, end=7, T_max=7)
    assert cfg.param_scheduler == [expected]
