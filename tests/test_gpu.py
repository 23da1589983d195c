"""What only a GPU shows: every method in mixed precision, and the same answers as on the CPU.

Skipped without one. The other tests use a GPU too where there is one, as the Runner does.
"""

import pytest
import torch
from methods_harness import (
    METHODS,
    learnable,
    losses_fall,
    losses_of,
    method_config,
    train,
    use_mixed_precision,
)
from mmengine.hooks import Hook
from mmengine.runner import Runner

from cal_mm.wrapping import unwrap

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return learnable(tmp_path_factory.mktemp('data') / 'synthetic')


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
@pytest.mark.parametrize('method', METHODS)
def test_mixed_precision_learns(data, tmp_path, method, dtype):
    cfg = method_config(tmp_path, method, data, epochs=4)
    use_mixed_precision(cfg, dtype)
    cfg.optim_wrapper.loss_scale = 'dynamic' if dtype == 'float16' else 1.0
    runner = train(cfg)
    assert next(runner.model.parameters()).is_cuda
    assert losses_fall(cfg)
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
        first[name] = losses_of(cfg)[0]
        assert all(torch.isfinite(p).all() for p in runner.model.parameters())
    assert first['compiled'] == pytest.approx(first['plain'], rel=1e-2)
