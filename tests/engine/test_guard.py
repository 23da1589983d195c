"""What counts as broken weights."""

import pytest
import torch
from torch import nn

from cal_mm.engine.hooks.guard import non_finite_names


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
