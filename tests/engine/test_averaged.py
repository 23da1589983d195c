"""mmengine's average of the weights beside buffers that grow while the model learns."""

from types import SimpleNamespace

import pytest
import torch
from builders import CAL, build
from mmengine.hooks import EMAHook
from mmengine.runner.priority import get_priority
from torch import nn

from cal_mm.engine.averaged import averaged_weights, follow_buffers
from cal_mm.engine.hooks import TrainProgressHook
from cal_mm.models.losses.sample_history import SampleHistory


def runner_with(hook):
    """As much of a runner as the hooks look at; the model's table has room for two samples."""
    model = nn.ModuleDict(dict(history=SampleHistory(1, capacity=2), head=nn.Linear(1, 1)))
    runner = SimpleNamespace(model=model, hooks=[TrainProgressHook(), hook], iter=0, epoch=0)
    hook.before_run(runner)
    return runner


def after_iteration(runner):
    assert get_priority(TrainProgressHook.priority) < get_priority(EMAHook.priority)
    for hook in runner.hooks:
        hook.after_train_iter(runner, runner.iter)
    runner.iter += 1


@pytest.mark.parametrize(
    'given', [{}, dict(update_buffers=True), dict(begin_iter=2), dict(begin_epoch=1)]
)
def test_the_average_follows_a_table_that_grows(given):
    hook = EMAHook(momentum=0.5, **given)
    runner = runner_with(hook)
    history = runner.model['history']
    average = hook.ema_model.module['history']
    for step in range(4):
        history.book([f's{step}', f't{step}'], torch.ones(2, 1))
        before = average.sums.clone()
        after_iteration(runner)
        expected = history.sums
        if given.get('update_buffers') and step and before.shape == expected.shape:
            expected = (before + expected) / 2  # else taken over: the table has grown
        assert torch.equal(average.sums, expected)
    assert len(history.keys) == 8
    hook._swap_ema_parameters()
    assert history.sums.shape == (8, 1)


def test_an_average_that_was_loaded_with_another_size_is_averaged():
    """On resuming the table takes the checkpoint's size, and mmengine holds what was there."""
    first = runner_with(EMAHook(momentum=0.5, update_buffers=True))
    first.model['history'].book(list('abc'), torch.ones(3, 1))
    after_iteration(first)
    hook = EMAHook(momentum=0.5, update_buffers=True)
    runner = runner_with(hook)
    runner.model.load_state_dict(first.model.state_dict())
    hook.ema_model.load_state_dict(first.hooks[1].ema_model.state_dict())
    follow_buffers(runner, resized=True)
    runner.model['history'].book(list('abc'), torch.ones(3, 1))
    after_iteration(runner)
    assert hook.ema_model.module['history'].sums.flatten().tolist() == [1.5, 1.5, 1.5, 0]


@pytest.mark.parametrize('given', [{}, dict(update_buffers=True)])
def test_what_is_measured_on_the_average_stays(given):
    hook, model = EMAHook(momentum=0.1, **given), build(**CAL)
    runner = SimpleNamespace(model=model, hooks=[TrainProgressHook(), hook], iter=0, epoch=0)
    hook.before_run(runner)
    after_iteration(runner)
    tracker = model.contribution
    features = torch.randn(40, 10, generator=torch.Generator().manual_seed(0))
    with averaged_weights(runner):
        tracker.told.fill_(0.4)
        tracker.temperature.fill_(2.0)
        tracker.fused_temperature.fill_(3.0)
        tracker.typicality['a'].fit(features, torch.arange(40) % 2)  # nothing of the third class
        model.uncertainty.fit(torch.randn(40, 3, 2))
        expected = tracker.typicality['a'](features)
        state = {k: v.clone() for k, v in model.state_dict().items()}
    names = [k for k in state if k.startswith(('contribution.t', 'contribution.f', 'uncertainty'))]
    for _ in range(3):
        after_iteration(runner)
    for part in (model, hook.ema_model.module):
        for k in names:
            assert torch.equal(part.state_dict()[k], state[k]), k
    for _ in range(2):  # the last weights, then the average
        assert torch.equal(tracker.typicality['a'](features), expected)
        hook._swap_ema_parameters()
