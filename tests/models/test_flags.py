import copy

import torch
from torch import nn

from cal_mm.models.flags import SeenFlag


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer('done', torch.tensor(False))
        self.flag = SeenFlag()

    def read(self):
        return self.flag.read(self.done)


def test_follows_the_buffer_through_everything_that_changes_it():
    model = Model()
    assert not model.read()
    model.done.fill_(True)
    assert model.read()
    model.load_state_dict({'done': torch.tensor(False)})
    assert not model.read()
    model.load_state_dict({'done': torch.tensor(True)}, assign=True)
    assert model.read()
    other = copy.deepcopy(model)
    other.done.fill_(False)
    assert not other.read()
    assert model.read()
    assert model.double().read()


def test_reads_the_device_once_per_change(monkeypatch):
    model, reads = Model(), []
    true = torch.Tensor.__bool__
    monkeypatch.setattr(torch.Tensor, '__bool__', lambda x: reads.append(x) or true(x))
    for _ in range(5):
        model.read()
    assert len(reads) == 1
    model.done.fill_(True)
    assert model.read()
    assert len(reads) == 2
