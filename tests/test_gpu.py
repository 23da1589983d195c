"""What only a GPU shows: every method in mixed precision, and the same answers as on the CPU.

Skipped without one. The other tests use a GPU too where there is one, as the Runner does.
"""

import json

import pytest
import torch
from methods_harness import METHODS, method_config, train
from mmengine.hooks import Hook
from mmengine.runner import Runner

from cal_mm.engine.optim_wrappers import amp_variant
from cal_mm.wrapping import unwrap
from data_prep.synthetic import make_synthetic

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    out = tmp_path_factory.mktemp('data') / 'synthetic'
    make_synthetic(out, num_train=128, num_val=48, num_test=48, signal=6.0)
    return out


def mixed(dtype):
    def change(cfg):
        cfg.optim_wrapper.type = amp_variant(cfg.optim_wrapper.get('type', 'OptimWrapper'))
        cfg.optim_wrapper.dtype = dtype
        cfg.optim_wrapper.loss_scale = 'dynamic' if dtype == 'float16' else 1.0

    return change


def losses_of(folder):
    path = next(folder.glob('run/*/vis_data/scalars.json'))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [row['loss'] for row in rows if 'loss' in row]


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
@pytest.mark.parametrize('method', METHODS)
def test_mixed_precision_learns(data, tmp_path, method, dtype):
    runner = train(method_config(tmp_path, method, data, epochs=4), mixed(dtype))
    assert next(runner.model.parameters()).is_cuda
    losses = losses_of(tmp_path)
    quarter = len(losses) // 4
    assert sum(losses[-quarter:]) < sum(losses[:quarter])
    assert all(torch.isfinite(p).all() for p in runner.model.parameters())
    assert all(p.dtype == torch.float32 for p in runner.model.parameters())
    assert runner.message_hub.get_scalar('val/accuracy/top1').current() > 40  # chance is 25


@pytest.mark.parametrize('method', METHODS)
def test_predicts_as_on_the_cpu(data, tmp_path, method):
    """The same trained model, the same scores."""
    runner = train(method_config(tmp_path, method, data, epochs=1))
    model = unwrap(runner.model).eval()
    batch = next(iter(runner.val_dataloader))
    scores = {}
    with torch.no_grad():
        for device in ('cuda', 'cpu'):
            found = model.to(device).test_step(batch)
            scores[device] = torch.stack([sample.pred_score.cpu() for sample in found])
    torch.testing.assert_close(scores['cuda'], scores['cpu'], rtol=1e-3, atol=1e-4)


class CompileEncoders(Hook):
    """torch.compile of the encoders, as tools/benchmark_step.py does it."""

    def before_train(self, runner):
        for encoder in unwrap(runner.model).encoders.values():
            encoder.compile()


@pytest.mark.parametrize('method', ['concat_uni', 'cal', 'cal_paper', 'qmf'])
def test_compiled_encoders_train_the_same(data, tmp_path, method):
    first = {}
    for name in ('plain', 'compiled'):
        cfg = method_config(tmp_path / name, method, data, epochs=1)
        runner = Runner.from_cfg(cfg)
        if name == 'compiled':
            runner.register_hook(CompileEncoders())
        runner.train()
        first[name] = losses_of(tmp_path / name)[0]
        assert all(torch.isfinite(p).all() for p in runner.model.parameters())
    assert first['compiled'] == pytest.approx(first['plain'], rel=1e-2)
