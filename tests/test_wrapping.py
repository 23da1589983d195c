"""The model behind a wrapper."""

import subprocess
import sys

import torch
from commands import ROOT
from mmengine.registry import MODEL_WRAPPERS
from torch import nn

from cal_mm.wrapping import unwrap


def test_unwrap(monkeypatch):
    class Wrapper(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

    inner = nn.Linear(2, 2)
    own = Wrapper(inner)  # a model's own part that has the same name
    assert unwrap(inner) is inner
    assert unwrap(own) is own
    monkeypatch.setitem(MODEL_WRAPPERS.module_dict, 'Wrapper', Wrapper)
    assert unwrap(Wrapper(inner)) is inner
    assert unwrap(torch.nn.parallel.DataParallel(inner)) is inner


def test_the_models_are_not_imported_for_it():
    code = (
        'import sys, cal_mm.wrapping, cal_mm.evaluation; '
        'print([m for m in sys.modules if m.startswith(("cal_mm.models", "cal_mm.engine"))])'
    )
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == '[]', done.stderr
