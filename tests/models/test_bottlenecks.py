"""The information bottleneck against torch.distributions and by hand."""

import math
import sys

import pytest
import torch
from builders import CAL, CLASSES, batch, build
from commands import run
from torch.distributions import Independent, Normal, kl_divergence
from torch.nn import functional as F

from cal_mm.models.bottlenecks import (
    LinearBottleneck,
    VariationalBottleneck,
    bottleneck_betas,
    gaussian_kl,
)
from cal_mm.models.noise import SampleDraws, counter_normal, isolated_rng
from cal_mm.registry import BOTTLENECKS
from cal_mm.structures import TrainProgress


def test_kl_equals_torch_distributions():
    g = torch.Generator().manual_seed(0)
    mu = torch.randn(20, 7, generator=g, dtype=torch.float64)
    sigma = torch.rand(20, 7, generator=g, dtype=torch.float64) + 0.05
    q = Independent(Normal(mu, sigma), 1)
    p = Independent(Normal(torch.zeros_like(mu), torch.ones_like(mu)), 1)
    assert (gaussian_kl(mu, sigma) - kl_divergence(q, p)).abs().max() < 1e-12
    p = Independent(Normal(torch.full_like(mu, 0.3), torch.full_like(mu, 1.7)), 1)
    assert (gaussian_kl(mu, sigma, 0.3, 1.7) - kl_divergence(q, p)).abs().max() < 1e-12
    assert gaussian_kl(torch.zeros(3, 2), torch.ones(3, 2)).tolist() == [0, 0, 0]
    assert gaussian_kl(torch.zeros(3, 2), torch.ones(3, 2), free_bits=0.5).tolist() == [1, 1, 1]


def test_fixed_sum_rule():
    w = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    b = bottleneck_betas(w, 0.02)
    assert b.tolist() == pytest.approx([0.02 * 1.5 * (1 - x) for x in (0.6, 0.3, 0.1)])
    assert float(b.mean()) == pytest.approx(0.02)
    assert b.argmax() == w.argmin()
    squared = bottleneck_betas(w, 0.02, power=2.0)
    assert float(squared.mean()) == pytest.approx(0.02)
    assert squared[2] / squared[0] > b[2] / b[0]
    assert bottleneck_betas(torch.ones(1), 0.02).tolist() == pytest.approx([0.02])
    clamped = bottleneck_betas(w, 0.02, beta_min=0.015, beta_max=0.025)
    assert float(clamped.min()) >= 0.015
    assert float(clamped.max()) <= 0.025


def test_floor_rule_and_controls():
    info = torch.tensor([0.5, 0.1, -0.3, 0.2])
    b = bottleneck_betas(info, 0.01, 'floor', alpha=9, pivot=0.2)
    assert b.tolist() == pytest.approx([0.01, 0.01 * 5.5, 0.1, 0.01])
    mean = sum((0.01, 0.01 * 5.5, 0.1, 0.01)) / 4
    control = bottleneck_betas(info, 0.01, 'floor_uniform', alpha=9, pivot=0.2)
    assert control.tolist() == pytest.approx([mean] * 4)
    control = bottleneck_betas(info, 0.01, 'floor_inverse', alpha=9, pivot=0.2)
    assert sorted(control.tolist()) == pytest.approx(sorted(b.tolist()))
    assert float(control[2]) == pytest.approx(0.01)
    assert int(control.argmax()) in (0, 3)
    share = bottleneck_betas(info, 0.01, 'floor', alpha=9, pivot=9.0, share=0.5)
    assert share.tolist() == pytest.approx([0.01, 0.01 * (1 + 9 * 0.6), 0.1, 0.01 * (1 + 9 * 0.2)])
    tenth = bottleneck_betas(info / 10, 0.01, 'floor', alpha=9, pivot=0.25, share=0.5)
    assert tenth.tolist() == pytest.approx(share.tolist())
    both = bottleneck_betas(info, 0.01, 'floor', alpha=9, pivot=0.2, share=0.5)
    assert both.tolist() == pytest.approx(b.tolist())  # a fifth of H(Y) is less than half of .5
    for nobody in ([-0.1, -0.3], [0.0, 0.0]):  # none is known to tell more than another
        for share in (None, 0.5):
            b = bottleneck_betas(torch.tensor(nobody), 0.01, 'floor', share=share)
            assert b.tolist() == pytest.approx([0.01, 0.01])
    w = torch.tensor([0.7, 0.3])
    assert bottleneck_betas(w, 0.01, 'uniform').tolist() == pytest.approx([0.01, 0.01])
    assert bottleneck_betas(w, 0.01, 'inverse').tolist() == pytest.approx([0.014, 0.006])
    assert bottleneck_betas(w, 0.0, 'floor').tolist() == [0, 0]
    lists = (dict(beta=-1.0), dict(rule='flor'), dict(pivot=0.0), dict(share=0.0))
    for bad in (*lists, dict(alpha=-5.0), dict(beta_min=0.1, beta_max=0.01)):
        with pytest.raises(ValueError):  # noqa: PT011
            bottleneck_betas(w, **{'beta': 0.1, **bad})


@pytest.mark.parametrize('name', sorted(BOTTLENECKS.module_dict))
def test_every_registered_bottleneck(name):
    extra = {} if name == 'IdentityBottleneck' else dict(out_channels=5)
    torch.manual_seed(0)
    b = BOTTLENECKS.build(dict(type=name, in_channels=8, **extra))
    h = torch.randn(4, 8, requires_grad=True)
    z, kl = b(h)
    assert z.shape == (4, b.out_channels)
    assert kl.shape == (4,)
    assert kl.dtype == torch.float32
    z.sum().backward()
    assert h.grad is not None
    again, _ = b(h)
    assert torch.equal(z, again)  # deterministic without noise
    other = BOTTLENECKS.build(dict(type=name, in_channels=8, **extra))
    other.load_state_dict(b.state_dict())
    assert torch.equal(other(h)[0], z)


def test_variational_starts_like_the_linear_one():
    torch.manual_seed(3)
    plain = LinearBottleneck(6, 4)
    after_plain = torch.rand(1)
    torch.manual_seed(3)
    variational = VariationalBottleneck(6, 4)
    assert torch.equal(plain.mu.weight, variational.mu.weight)
    assert torch.equal(after_plain, torch.rand(1))  # the global generator is where it was
    sigma = variational.sigma(torch.randn(50, 6)).detach()
    assert float(sigma.mean()) == pytest.approx(0.13, abs=0.01)


def test_variational_sample_and_priors():
    torch.manual_seed(0)
    b = VariationalBottleneck(6, 4)
    h, noise = torch.randn(3, 6), torch.randn(3, 4)
    z, kl = b(h, noise)
    assert torch.allclose(z, b.mean(h) + b.sigma(h) * noise)
    assert torch.allclose(kl, gaussian_kl(b.mean(h), b.sigma(h)))
    learned = VariationalBottleneck(6, 4, prior='learned')
    learned(h)[1].sum().backward()
    assert learned.prior_mu.grad is not None
    assert learned.prior_log_sigma.grad is not None
    by_class = VariationalBottleneck(6, 4, prior='class', num_classes=3)
    with torch.no_grad():
        by_class.prior_mu.normal_()
    each = torch.stack([by_class(h, None, torch.full((3,), c))[1] for c in range(3)])
    assert torch.allclose(by_class(h)[1], each.min(dim=0).values)
    with pytest.raises(ValueError, match='unknown prior'):
        VariationalBottleneck(6, 4, prior='flat')
    with pytest.raises(ValueError, match='num_classes'):
        VariationalBottleneck(6, 4, prior='class')
    with pytest.raises(ValueError, match='min_sigma'):
        VariationalBottleneck(6, 4, init_sigma=0.0)


@torch.no_grad()
@pytest.mark.parametrize('prior', ['standard', 'learned', 'class'])
def test_free_bits_by_hand(prior):
    """Every dimension costs at least 1.7 nats, whatever the others cost."""
    torch.manual_seed(0)
    b = VariationalBottleneck(6, 4, prior=prior, num_classes=3, free_bits=1.7)
    h, labels = torch.randn(8, 6), torch.arange(8) % 3
    centres, scale = torch.zeros(3, 4), torch.ones(4)
    if prior != 'standard':
        b.prior_mu.normal_()
        centres = b.prior_mu.expand(3, 4)
    if prior == 'learned':
        b.prior_log_sigma.normal_()
        scale = b.prior_log_sigma.exp()
    q = Normal(b.mean(h)[:, None], b.sigma(h)[:, None])
    each = kl_divergence(q, Normal(centres, scale))
    assert 0.2 < float((each < 1.7).float().mean()) < 0.8
    cost = each.clamp_min(1.7).sum(dim=2)
    torch.testing.assert_close(b(h, None, labels)[1], cost[torch.arange(8), labels])
    torch.testing.assert_close(b(h)[1], cost.min(dim=1).values)


@torch.no_grad()
def test_sigma_has_its_floor():
    b, h = VariationalBottleneck(6, 4, min_sigma=0.05), torch.randn(50, 6)
    assert float(b.sigma(h).mean()) == pytest.approx(0.13, abs=0.01)  # the start is above it
    assert float(b.sigma(h).std()) > 0
    b.log_scale.weight.normal_()
    torch.testing.assert_close(b.sigma(h), F.softplus(b.log_scale(h)) + 0.05)
    b.log_scale.bias.fill_(-200.0)
    assert b.sigma(h).unique().tolist() == pytest.approx([0.05])


def kl_of(model, data, m, centre=0.0):
    """Mean KL of a modality's posterior to N(centre, I), by torch.distributions."""
    h, part = model.encoders[m](data['inputs'][m]), model.bottlenecks[m]
    kl = kl_divergence(Normal(part.mean(h), part.sigma(h)), Normal(centre, 1.0))
    return float(kl.detach().sum(dim=1).mean())


@pytest.mark.parametrize('rule', ['fixed_sum', 'floor'])
def test_bottleneck_loss_by_hand(rule):
    """W drives the one rule and I the other; the strength rises over half of the run."""
    loss = dict(type='AIBLoss', beta=0.02, rule=rule, warmup=0.5)
    model = build(**{**CAL, 'losses': [loss]})
    model.contribution.weights.copy_(torch.tensor([0.6, 0.3, 0.1]))
    model.contribution.information.copy_(torch.tensor([0.05, 0.5, 0.1]))
    betas = {
        'fixed_sum': [0.02 * 1.5 * x for x in (0.4, 0.7, 0.9)],
        'floor': [0.02 * (1 + 9 * x) for x in (0.75, 0.0, 0.5)],
    }[rule]
    data = model.data_preprocessor(batch(8), True)
    for update, ramp in ((0, 0.0), (10, 0.2), (50, 1.0), (90, 1.0)):
        model.progress = TrainProgress(update=update, max_updates=100)
        out = model(**data, mode='loss')
        for m, b in zip('abc', betas, strict=True):
            expected = ramp * b * kl_of(model, data, m)
            assert float(out[f'loss_aib/{m}'].detach()) == pytest.approx(expected, rel=1e-5)


OFF = [
    dict(type='FusedCrossEntropy'),
    dict(type='UnimodalCrossEntropy'),
    dict(type='AIBLoss', beta=0.0),
]


@pytest.mark.parametrize('ranks', [1, 2])
def test_without_a_strength_the_loss_is_zero(monkeypatch, ranks):
    """On several ranks a zero that knows every parameter; in one process none."""
    monkeypatch.setattr('cal_mm.models.losses.aib.get_world_size', lambda: ranks)
    model = build(**{**CAL, 'losses': OFF})
    out = model(**model.data_preprocessor(batch(8), True), mode='loss')
    zeros = [float(v.detach()) for k, v in out.items() if k.startswith('loss_aib')]
    assert zeros == ([0, 0, 0] if ranks == 2 else [])
    model.parse_losses(out)[0].backward()
    for m in 'abc':
        for p in model.bottlenecks[m].log_scale.parameters():
            assert (p.grad is None) == (ranks == 1)
            assert ranks == 1 or not p.grad.any()


RANKS = """
import sys
sys.path.append('tests')
import torch.distributed as dist
from builders import CAL, batch, build
from cal_mm.compat import end_distributed
from torch.nn.parallel import DistributedDataParallel
dist.init_process_group('gloo')
model = build(**{**CAL, 'losses': %r})
net = DistributedDataParallel(model)
for seed in range(3):
    data = model.data_preprocessor(batch(6, seed=seed), True)
    model.parse_losses(net(**data, mode='loss'))[0].backward()
end_distributed()
"""


@pytest.mark.slow
def test_two_ranks_train_without_a_strength(tmp_path):
    script = tmp_path / 'ranks.py'
    script.write_text(RANKS % OFF)
    launch = ['-m', 'torch.distributed.run', '--nproc_per_node=2', '--standalone']
    run([sys.executable, *launch, str(script)])


def test_the_class_prior_of_a_training_sample_is_that_of_its_label():
    part = dict(type='VariationalBottleneck', out_channels=8, prior='class', num_classes=CLASSES)
    loss = dict(type='AIBLoss', beta=1.0, rule='uniform', warmup=0.0)
    model = build(**{**CAL, 'bottleneck': part, 'losses': [loss]})
    data = model.data_preprocessor(batch(8), True)
    labels = model.state(**data).labels
    for m in 'abc':
        torch.nn.init.normal_(model.bottlenecks[m].prior_mu)
    out = model(**data, mode='loss')
    for m in 'abc':
        expected = kl_of(model, data, m, model.bottlenecks[m].prior_mu[labels])
        assert float(out[f'loss_aib/{m}'].detach()) == pytest.approx(expected, rel=1e-5)


def test_sigma_stays_float32_under_autocast():
    b = VariationalBottleneck(6, 4)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        z, kl = b(torch.randn(3, 6), torch.randn(3, 4))
    assert kl.dtype == torch.float32
    assert z.dtype == torch.float32


def test_noise_belongs_to_the_sample():
    keys = torch.tensor([5, 9, 2**32 - 1])
    a = counter_normal(keys, 7, seed=1, counter=2, stream=3)
    assert torch.equal(a[1:2], counter_normal(keys[1:2], 7, 1, 2, 3))  # not to the batch
    assert torch.equal(a[:, :4], counter_normal(keys, 4, 1, 2, 3))
    for other in (dict(seed=2), dict(counter=3), dict(stream=4)):
        args = {'seed': 1, 'counter': 2, 'stream': 3, **other}
        assert not torch.equal(a, counter_normal(keys, 7, **args))
    before = torch.get_rng_state()
    counter_normal(keys, 7, 1, 2, 3)
    with isolated_rng('x'):
        torch.rand(3)
    assert torch.equal(before, torch.get_rng_state())


def slow_normal(key, dim, seed, counter, stream):
    """splitmix64 with Python's integers, and Box and Muller's transform, for one sample."""
    mask, golden = 2**64 - 1, 0x9E3779B97F4A7C15

    def mix(x):
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
        return x ^ (x >> 31)

    state = key & mask
    for part in (seed, counter, stream):
        state = mix(((state + golden) & mask) ^ mix((part + golden) & mask))
    out = []
    for lane in range(1, (dim + 1) // 2 + 1):
        bits = mix((state + lane * golden) & mask)
        u1, u2 = ((bits >> 40) + 0.5) / 2**24, ((bits & 0xFFFFFF) + 0.5) / 2**24
        radius = math.sqrt(-2 * math.log(u1))
        out += [radius * math.cos(2 * math.pi * u2), radius * math.sin(2 * math.pi * u2)]
    return out[:dim]


def test_noise_against_the_definition():
    keys, address = [0, 5, 2**32 - 1], dict(seed=7, counter=123, stream=2**31 + 5)
    expected = torch.tensor([slow_normal(k, 9, **address) for k in keys])
    found = counter_normal(torch.tensor(keys), 9, **address)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_noise_of_several_names_is_that_of_each():
    draws = SampleDraws(torch.tensor([5, 9, 2**32 - 1]), seed=1, counter=2)
    found = draws.normals({'a': 6, 'b': 4, 'c': 6})
    assert set(found) == {'a', 'b', 'c'}
    for name, dim in (('a', 6), ('b', 4), ('c', 6)):
        torch.testing.assert_close(found[name], draws.normal(name, dim), rtol=1e-6, atol=1e-6)
    assert draws.normals({}) == {}


def test_noise_is_standard_normal():
    x = counter_normal(torch.arange(4000), 64, 0, 0, 0).double()
    n = x.numel()
    assert abs(float(x.mean())) < 5 / n**0.5
    assert float(x.var()) == pytest.approx(1, abs=5 * (2 / n) ** 0.5)
    assert float((x**4).mean()) == pytest.approx(3, abs=0.1)
    grid = torch.tensor([-1.5, -0.5, 0.0, 0.7, 2.0], dtype=torch.float64)
    share = (x.flatten()[:, None] <= grid).double().mean(dim=0)
    expected = Normal(0.0, 1.0).cdf(grid)
    assert (share - expected).abs().max() < 0.005
    correlation = torch.corrcoef(x.T) - torch.eye(64, dtype=torch.float64)
    assert correlation.abs().max() < 0.09
    across = torch.corrcoef(counter_normal(torch.arange(64), 4000, 0, 0, 0).double())
    assert (across - torch.eye(64, dtype=torch.float64)).abs().max() < 0.09
