"""OGM, AGM, ARL, CGGM, InfoReg, Greedy and ReconBoost against straightforward computations."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from builders import CLASSES, DIMS, batch, build
from scipy import stats
from torch.nn import functional as F

from cal_mm.engine.modulators import ARL, CGGM, OGM, InfoReg, arl_coefficients, ogm_coefficients
from cal_mm.engine.modulators.base import present_means, with_presence
from cal_mm.engine.modulators.inforeg import information_growth, regulation_strength
from cal_mm.engine.modulators.ogm import _draws
from cal_mm.engine.optim_wrappers import (
    BalancedSpeedOptimWrapper,
    CALAmpOptimWrapper,
    CALOptimWrapper,
    StagedOptimWrapper,
)
from cal_mm.engine.optim_wrappers.balanced_speed import conditional_speeds, learning_speed
from cal_mm.models.feature_transforms import MMTM, FeatureContext
from cal_mm.models.losses.agm import AdaptiveGradientModulation, agm_coefficients
from cal_mm.models.losses.alone import alone_logits
from cal_mm.models.losses.direction import improvement_balance
from cal_mm.models.losses.reconboost import boosting_loss, boosting_phase
from cal_mm.structures import TrainProgress

LR = 0.1
START = TrainProgress(0, 2, 0, 20)
TWO = {m: DIMS[m] for m in ('a', 'b')}
SHARED = dict(unimodal_head='fusion')
HEADS = dict(
    unimodal_head=dict(type='LinearHead'),
    losses=[dict(type='FusedCrossEntropy'), dict(type='UnimodalCrossEntropy')],
)
HIDDEN = dict(fusion=dict(type='ConcatFusion', hidden_channels=7))


def wrapped(kind, model, **kwargs):
    wrapper = kind(optimizer=torch.optim.SGD(model.parameters(), lr=LR), **kwargs)
    wrapper.initialize_count_status(model, 0, 100)
    return wrapper


def state_of(model, n=9, **kwargs):
    return model.state(**model.data_preprocessor(batch(n, **kwargs), True), training=True)


def gradients_and_steps(model, data, modulator, kind=CALOptimWrapper, **kwargs):
    """{name: plain gradient}, {name: step / LR} of one update."""
    plain = copy.deepcopy(model)
    total, _ = plain.parse_losses(plain(**plain.data_preprocessor(data, True), mode='loss'))
    total.backward()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    kwargs.setdefault('apply_to', 'gradient')
    model.train_step(data, wrapped(kind, model, modulator=modulator, **kwargs))
    steps = {n: (before[n] - p.detach()) / LR for n, p in model.named_parameters()}
    return {n: p.grad for n, p in plain.named_parameters()}, steps


def owner(name):
    part, rest = f'{name}..'.split('.')[:2]
    return rest if part in ('encoders', 'bottlenecks') else None


# ---- OGM ----


@pytest.mark.parametrize('scores', [(0.6, 0.2), (0.2, 0.6), (0.31, 0.30)])
@pytest.mark.parametrize('alpha', [0.1, 0.8])
def test_ogm_factors_of_two_modalities(scores, alpha):
    a, v = scores
    if v / a > 1:
        expected = (1.0, 1 - math.tanh(alpha * v / a))
    else:
        expected = (1 - math.tanh(alpha * a / v), 1.0)
    found = ogm_coefficients(torch.tensor(scores).double(), alpha)
    assert found.tolist() == pytest.approx(expected, rel=1e-6)


def test_ogm_factors_at_the_edges():
    assert ogm_coefficients(torch.tensor([0.4, 0.4]), 0.8).tolist() == [1, 1]  # nobody dominates
    three = ogm_coefficients(torch.tensor([0.2, 0.6, 0.4]).double(), 0.5)
    assert three.tolist() == pytest.approx([1, 1 - math.tanh(1.5), 1 - math.tanh(1.0)])
    assert ogm_coefficients(torch.tensor([1.0, 1e-9]), 5.0).min() > 0
    for bad in (dict(alpha=-1), dict(parameters='some')):
        with pytest.raises(ValueError, match='OGM'):
            OGM(**bad)


def test_ogm_step():
    """The share of a concat head, W^m z^m + b / M, decides; one modality is damped."""
    model = build(dims=TWO, **SHARED)
    data = batch(9, dims=TWO)
    state = state_of(copy.deepcopy(model), dims=TWO)
    weight, bias = model.fusion.head.weight, model.fusion.head.bias
    shares = {'a': weight[:, :8], 'b': weight[:, 8:]}
    scores = []
    for m, w in shares.items():
        p = (state.z[m] @ w.T + bias / 2).softmax(-1)
        scores.append(sum(p[i, y].item() for i, y in enumerate(state.labels)))
    strong = int(np.argmax(scores))
    k = 1 - math.tanh(0.8 * scores[strong] / scores[1 - strong])
    plain, steps = gradients_and_steps(model, data, dict(type='OGM', noise=False, alpha=0.8))
    for name, g in plain.items():
        factor = k if owner(name) == 'ab'[strong] else 1.0
        torch.testing.assert_close(steps[name], factor * g, rtol=1e-4, atol=1e-6)


def test_ogm_ge_noise_is_as_wide_as_the_gradient():
    """Also where the factor is 1; the deviation is that of the gradient before the factor."""
    p = [torch.nn.Parameter(torch.zeros(4, 3, 50, 50)) for _ in range(2)]
    raw = [torch.randn(q.shape) * s + 0.3 for q, s in zip(p, (1.0, 3.0), strict=True)]
    for q, g, k in zip(p, raw, (0.25, 1.0), strict=True):
        q.grad = k * g
    OGM(noise=True).adjust({'a': p[:1], 'b': p[1:]}, torch.tensor([0.25, 1.0]), START, seed=3)
    for q, g, k in zip(p, raw, (0.25, 1.0), strict=True):
        noise = q.grad - k * g
        assert float(noise.std() / g.std()) == pytest.approx(1, abs=0.02)
        assert abs(float(noise.mean() / g.std())) < 0.02
    again = [torch.nn.Parameter(torch.zeros_like(q)) for q in p]
    for q, g, k in zip(again, raw, (0.25, 1.0), strict=True):
        q.grad = k * g
    modulator = OGM(noise=True)
    modulator.adjust({'a': again[:1], 'b': again[1:]}, torch.tensor([0.25, 1.0]), START, seed=3)
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(p, again, strict=True))


@pytest.mark.parametrize(
    ('window', 'expected'),
    [
        ({}, '111111'),
        (dict(end=0.5), '111000'),
        (dict(begin=1, end=4), '011100'),
        (dict(begin=0.3, end=0.999), '001111'),
        (dict(end=0), '000000'),
    ],
)
def test_ogm_modulates_within_its_window(window, expected):
    """Factors and noise alike, in epochs or in shares of the run."""
    modulator = OGM(alpha=0.8, noise=True, **window)
    found = ''
    for epoch in range(6):
        progress = TrainProgress(epoch, 6, epoch, 6)
        k = modulator(torch.tensor([0.6, 0.2]).double(), progress)
        p = torch.nn.Parameter(torch.zeros(2, 2, 3, 3))
        p.grad = torch.arange(36.0).view(2, 2, 3, 3)
        modulator.adjust({'a': [p]}, k[:1], progress, seed=0)
        noisy = not torch.equal(p.grad, torch.arange(36.0).view(2, 2, 3, 3))
        assert noisy == bool(k[0] < 1)
        found += str(int(noisy))
    assert found == expected


@pytest.mark.parametrize('spare', [0, 1000, 10**6])
def test_ogm_ge_noise_is_independent_within_and_between_tensors(monkeypatch, spare):
    """Also where the tensors read stretches of one pool."""
    monkeypatch.setattr('cal_mm.engine.modulators.ogm.SPARE', spare)
    like = [torch.empty(3, 40, 50), torch.empty(5000), torch.empty(7000), torch.empty(7, 1000)]
    draws = _draws(like, seed=5)
    assert [d.shape for d in draws] == [t.shape for t in like]
    for d in draws:
        assert len(d.unique()) > 0.999 * d.numel()
        assert stats.kstest(d.flatten().numpy(), 'norm').pvalue > 1e-3
    assert all(torch.equal(a, b) for a, b in zip(draws, _draws(like, seed=5), strict=True))
    assert not torch.equal(draws[0], _draws(like, seed=6)[0])
    if spare:
        for a, b in itertools.combinations(draws, 2):
            n = min(a.numel(), b.numel())
            assert abs(np.corrcoef(a.flatten()[:n], b.flatten()[:n])[0, 1]) < 0.06
    if spare == 10**6:  # nothing is read twice
        assert len(torch.cat([d.flatten() for d in draws]).unique()) > 24950


def test_statistics_leave_missing_modalities_out():
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]).double()
    present = torch.tensor([[True, True], [False, True], [True, False]])
    found = present_means(with_presence(values, present).mean(0))
    assert found.tolist() == pytest.approx([3, 3])
    assert present_means(with_presence(values, None).mean(0)).tolist() == pytest.approx([3, 4])
    model = build(**SHARED)
    some = state_of(model, missing=((0, 'a'), (3, 'a')))
    rest = [i for i in range(9) if i not in (0, 3)]
    p = some.unimodal_logits('a').softmax(-1)
    expected = np.mean([p[i, some.labels[i]].item() for i in rest])
    modulator = OGM()
    scores = modulator.finish(modulator.statistics(some).double().mean(0))
    assert scores[0].item() == pytest.approx(expected, rel=1e-5)


def test_a_modality_that_an_update_lacks_is_in_no_comparison():
    """It has no score: nobody is damped or favoured for being better than nothing."""
    there = torch.tensor([[True, False, True]] * 4)
    values = torch.tensor([[0.6, 0.1, 0.2]] * 4).double()
    modulator = OGM(alpha=0.8)
    found = modulator(modulator.finish(with_presence(values, there).mean(0)), START)
    assert found.tolist() == pytest.approx([1 - math.tanh(0.8 * 3), 1, 1])
    only = modulator.finish(with_presence(values[:, :2], there[:, :2]).mean(0))
    assert modulator(only, START).tolist() == [1, 1]
    assert CGGM(rho=1.3)(only, START).tolist() == pytest.approx([0.65, 0.65])
    arl = ARL()
    both = with_presence(values[:, :2].repeat(1, 2), there[:, :2]).mean(0)
    assert arl(arl.finish(both), START).tolist() == [1.5, 1.5]


def test_cggm_goes_on_from_the_last_known_accuracy():
    modulator = CGGM(rho=1.3)
    for accuracies in ([0.2, 0.3], [0.5, math.nan]):
        modulator(torch.tensor(accuracies).double(), START)
    found = modulator(torch.tensor([0.6, 0.6]).double(), START)  # changes .1 and .3
    assert found.tolist() == pytest.approx([1.3 * 0.75, 1.3 * 0.25])


@pytest.mark.parametrize('loss', [None, dict(type='AdaptiveGradientModulation', alpha=1.0)])
def test_steps_without_one_modality(loss):
    """A whole update without ``b``: ``a`` is trained as if nothing had been compared."""
    missing = tuple((i, 'b') for i in range(9))
    losses = [loss] if loss else [dict(type='FusedCrossEntropy')]
    model = build(dims=TWO, **SHARED, losses=losses)
    model.data_preprocessor(batch(9, dims=TWO), True)  # so that the shape of b is known
    off = copy.deepcopy(model)
    off.losses[0].begin = 1
    data = batch(9, dims=TWO, missing=missing)
    modulator = None if loss else dict(type='OGM', noise=False)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    model.train_step(data, wrapped(CALOptimWrapper, model, modulator=modulator))
    off.train_step(data, wrapped(CALOptimWrapper, off))
    for n, p in model.named_parameters():
        if owner(n) == 'a':
            assert not torch.equal(p, before[n])
        torch.testing.assert_close(p, off.get_parameter(n), rtol=1e-4, atol=1e-6)


def test_inforeg_regulates_nobody_where_only_one_is_there():
    p, q = (torch.nn.Parameter(torch.ones(2, 2)) for _ in range(2))
    modulator = InfoReg()
    for scores in ([0.9, 0.1], [0.9, math.nan]):
        modulator(torch.tensor(scores).double(), START)
        p.grad, q.grad = torch.zeros(2, 2), torch.zeros(2, 2)
        modulator.adjust({'a': [p], 'b': [q]}, torch.ones(2), START, 0)
        with torch.no_grad():
            p += 1
    assert p.grad.abs().max() == 0
    r = torch.nn.Parameter(torch.ones(2, 2))
    three = InfoReg()
    three(torch.tensor([math.nan, 0.5, 0.2]).double(), START)
    for x in (p, q, r):
        x.grad = torch.zeros(2, 2)
    owned = {'a': [p], 'b': [q], 'c': [r]}
    three.adjust(owned, torch.ones(3), START, 0)
    with torch.no_grad():
        q += 1
    three.adjust(owned, torch.ones(3), START, 0)
    expected = 0.95 * math.exp(math.tanh(64 * 0.3))
    torch.testing.assert_close(q.grad, torch.full((2, 2), expected))


# ---- AGM ----


def shapley_by_orders(value, names):
    """Mean marginal contribution over every order; nothing at all is worth 0."""
    total = dict.fromkeys(names, 0.0)
    orders = list(itertools.permutations(names))
    for order in orders:
        for i, m in enumerate(order):
            before = value(order[:i]) if i else 0.0
            total[m] = total[m] + (value(order[: i + 1]) - before) / len(orders)
    return total


@pytest.mark.parametrize('dims', [TWO, DIMS])
def test_agm_shares(dims):
    model = build(dims=dims, **HIDDEN)
    state = state_of(model, dims=dims)
    model.double()
    state.z = {m: v.double() for m, v in state.z.items()}
    state.logits = model.fusion(state.z)

    def value(keep):
        return model.fusion(
            {m: v if m in keep else torch.zeros_like(v) for m, v in state.z.items()}
        )

    expected = shapley_by_orders(value, model.modalities)
    found = AdaptiveGradientModulation.shares(state)
    for m, phi in zip(model.modalities, found, strict=True):
        torch.testing.assert_close(phi, expected[m])
    torch.testing.assert_close(found.sum(0), state.logits)


def test_agm_coefficients():
    """As the public code writes them for two and for three modalities."""
    s, before, alpha = [0.9, 1.6], [1.1, 1.3], 0.7
    r = [math.exp(s[1] - s[0]), math.exp(s[0] - s[1])]
    tau = [math.exp(before[1] - before[0]), math.exp(before[0] - before[1])]
    expected = [math.exp(alpha * min(t - x, 10)) for t, x in zip(tau, r, strict=True)]
    found = agm_coefficients(torch.tensor(s).double(), torch.tensor(before).double(), alpha)
    assert found.tolist() == pytest.approx(expected)
    assert expected[0] < 1 < expected[1]  # the one that got ahead of its usual lead is damped
    s, before = [0.9, 1.6, 0.2], [1.1, 1.3, 3.9]
    r = [math.exp((np.mean(s) - x) * 3 / 2) for x in s]
    tau = [math.exp((np.mean(before) - x) * 3 / 2) for x in before]
    expected = [math.exp(alpha * min(t - x, 2.0)) for t, x in zip(tau, r, strict=True)]
    found = agm_coefficients(torch.tensor(s).double(), torch.tensor(before).double(), alpha, 2.0)
    assert found.tolist() == pytest.approx(expected)
    assert agm_coefficients(torch.tensor([0.7]), torch.tensor([0.5]), 1.0).tolist() == [1]


def test_agm_gradients_and_running_scores():
    """Three updates: tau is the mean over the updates before, the first one has 1."""
    model = build(dims=TWO, losses=[dict(type='AdaptiveGradientModulation', alpha=0.8)], **HIDDEN)
    history = []
    for number in range(3):
        model.progress = TrainProgress(0, 1, number, 3)
        data = model.data_preprocessor(batch(8, seed=number, dims=TWO), True)
        model.zero_grad()
        model(**data, mode='loss')['loss_fused'].backward()
        found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        state = model.state(**data)
        f = model.fusion
        zero = {m: torch.zeros_like(v) for m, v in state.z.items()}
        both, a, b = (
            f(z) for z in (state.z, {**zero, 'a': state.z['a']}, {**zero, 'b': state.z['b']})
        )
        phi = [(both - b + a) / 2, (both - a + b) / 2]
        s = [F.cross_entropy(x, state.labels).item() for x in phi]
        mean = np.mean(history, axis=0) if history else [0.0, 0.0]
        k = [
            math.exp(0.8 * min(math.exp(mean[1 - i] - mean[i]) - math.exp(s[1 - i] - s[i]), 10))
            for i in range(2)
        ]
        history.append(s)
        # d loss / d phi is the same for both shares
        g = torch.autograd.grad(F.cross_entropy(sum(phi), state.labels), phi[0], retain_graph=True)
        model.zero_grad()
        torch.autograd.backward(phi, [k[0] * g[0], k[1] * g[0]])
        for n, p in model.named_parameters():
            torch.testing.assert_close(found[n], p.grad, rtol=1e-3, atol=1e-6)


def test_agm_window_one_modality_and_missing_ones():
    off = build(losses=[dict(type='AdaptiveGradientModulation', begin=1)])
    plain = build()
    for model in (off, plain):
        model(**model.data_preprocessor(batch(8), True), mode='loss')['loss_fused'].backward()
    for p, q in zip(off.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-6)
    one = build(dims={'a': 6}, losses=[dict(type='AdaptiveGradientModulation')])
    out = one(**one.data_preprocessor(batch(8, dims={'a': 6}), True), mode='loss')
    assert out['agm/a'] == 1
    model = build(losses=[dict(type='AdaptiveGradientModulation')])
    data = model.data_preprocessor(batch(8, missing=((0, 'a'), (1, 'b'))), True)
    out = model(**data, mode='loss')
    assert torch.isfinite(out['loss_fused'])
    state = model.state(**data)
    ce = F.cross_entropy(
        AdaptiveGradientModulation.shares(state)[0], state.labels, reduction='none'
    )
    assert model.losses[0].scores.present()[0].item() == pytest.approx(ce[1:].mean().item(), 1e-4)
    with pytest.raises(ValueError, match='alpha must be >= 0'):
        AdaptiveGradientModulation(alpha=-1)


# ---- ARL ----


def test_arl_coefficients():
    h, d, t = [1.2, 0.7], [0.5, 0.4], 4.0
    x = [t * (1 / h[0]) / (1 / h[1]), t * d[0] / d[1]]
    expected = [math.exp(v) / sum(math.exp(w) for w in x) for v in x]
    found = arl_coefficients(torch.tensor(h).double(), torch.tensor(d).double(), t)
    assert found.tolist() == pytest.approx(expected)
    # relied on less than its variance would have it: it learns faster
    a = arl_coefficients(torch.tensor([0.5, 1.0]), torch.tensor([0.3, 0.3]), 4.0)
    assert a[0] > a[1]
    with pytest.raises(ValueError, match='one pair of modalities, got 3'):
        arl_coefficients(torch.ones(3), torch.ones(3), 1.0)
    with pytest.raises(ValueError, match='temperature'):
        ARL(temperature=-1)


def test_arl_step():
    losses = [dict(type='FusedCrossEntropy'), dict(type='AloneCrossEntropy', weight=4.0)]
    model = build(dims=TWO, losses=losses)
    state = state_of(copy.deepcopy(model), dims=TWO)
    weight, bias = model.fusion.head.weight, model.fusion.head.bias
    alone = [state.z['a'] @ weight[:, :8].T + bias, state.z['b'] @ weight[:, 8:].T + bias]
    for s, found in zip(alone, alone_logits(state), strict=True):
        torch.testing.assert_close(found, s)
    total = F.cross_entropy(state.logits, state.labels)
    total = total + 4 * sum(F.cross_entropy(s, state.labels) for s in alone)
    out = model(**model.data_preprocessor(batch(9, dims=TWO), True), mode='loss')
    found = sum(v.item() for k, v in out.items() if 'loss' in k)
    assert found == pytest.approx(total.item(), rel=1e-5)
    p = [s.detach().softmax(-1).double().numpy() for s in alone]
    h = [-(x * np.log(x)).sum(1).mean() for x in p]
    d = [np.mean([x[i, y] for i, y in enumerate(state.labels)]) for x in p]
    x = 8 * np.array([h[1] / h[0], d[0] / d[1]])
    a = np.exp(x - x.max()) / np.exp(x - x.max()).sum()
    plain, steps = gradients_and_steps(model, batch(9, dims=TWO), dict(type='ARL', temperature=8))
    for name, g in plain.items():
        factor = 1 + a['ab'.index(owner(name))] if owner(name) else 1.0
        torch.testing.assert_close(steps[name], float(factor) * g, rtol=1e-3, atol=1e-6)


def test_arl_trains_the_head_with_its_dropout_and_measures_without():
    losses = [dict(type='AloneCrossEntropy', weight=1.0)]
    fusion = dict(type='ConcatFusion', hidden_channels=16, dropout=0.5)
    model = build(dims=TWO, losses=losses, fusion=fusion).train()
    data = model.data_preprocessor(batch(9, dims=TWO), True)
    first, second = (model(**data, mode='loss')['loss_unimodal/a'].item() for _ in range(2))
    assert first != second
    state = model.state(**data)
    torch.testing.assert_close(alone_logits(state), alone_logits(state))
    model.eval()
    torch.testing.assert_close(alone_logits(state, as_trained=True), alone_logits(state))


def test_arl_warm_up():
    modulator = ARL(begin=2)
    values = torch.tensor([0.3, 0.9, 0.5, 0.2]).double()
    assert modulator(values, TrainProgress(epoch=1)).tolist() == [1, 1]
    assert modulator(values, TrainProgress(epoch=2)).sum().item() == pytest.approx(3)
    model = build(dims=TWO, losses=[dict(type='AloneCrossEntropy', weight=5.0, begin=1)])
    data = model.data_preprocessor(batch(9, dims=TWO), True)
    values = []
    for epoch in (0, 1):
        model.progress = TrainProgress(epoch=epoch)
        values.append(model(**data, mode='loss')['loss_unimodal/a'].item())
    assert values[1] == pytest.approx(5 * values[0], rel=1e-6)


# ---- CGGM ----


def test_cggm_balance():
    delta = [0.3, 0.1, 0.2]
    found = improvement_balance(torch.tensor(delta).double())
    assert found.tolist() == pytest.approx([(sum(delta) - d) / sum(delta) for d in delta])
    for change in ([-0.2, 0.1], [0.0, 0.0]):  # no net improvement
        assert improvement_balance(torch.tensor(change)).tolist() == [0.5, 0.5]
    assert improvement_balance(torch.tensor([0.3, -0.1])).tolist() == [0, 1]
    modulator = CGGM(rho=1.3)
    first = modulator(torch.tensor([0.5, 0.25]).double(), START)
    assert first.tolist() == pytest.approx([1.3 / 3, 2.6 / 3])
    other = CGGM(rho=1.3)
    other.load_state(modulator.state())
    second = other(torch.tensor([0.6, 0.55]).double(), START)
    assert second.tolist() == pytest.approx([1.3 * 0.75, 1.3 * 0.25])
    assert other(torch.tensor([0.6, 0.65]).double(), START)[1] > 0
    with pytest.raises(ValueError, match='rho'):
        CGGM(rho=0)


def test_cggm_directions():
    losses = [
        dict(type='FusedCrossEntropy'),
        dict(type='UnimodalCrossEntropy', weight=0.0),
        dict(type='DirectionAlignment', weight=0.2),
    ]
    model = build(dims=TWO, unimodal_head=dict(type='LinearHead'), losses=losses)
    accuracies = [np.zeros(2)]
    for number in range(3):
        model.progress = TrainProgress(0, 1, number, 3)
        data = model.data_preprocessor(batch(11, seed=number, dims=TWO), True)
        out = model(**data, mode='loss')
        state = model.state(**data)
        p = {m: state.unimodal_logits(m).detach().softmax(-1).numpy() for m in TWO}
        y = np.eye(CLASSES)[state.labels.numpy()]
        if number == 0:
            assert 'loss_direction' not in out
        else:
            delta = accuracies[-1] - accuracies[-2]
            b = improvement_balance(torch.from_numpy(delta)).numpy()
            f = state.logits.detach().softmax(-1).numpy()
            terms = []
            for i in range(11):
                cos = [
                    (p[m][i] - y[i])
                    @ (f[i] - y[i])
                    / np.linalg.norm(p[m][i] - y[i])
                    / np.linalg.norm(f[i] - y[i])
                    for m in TWO
                ]
                terms.append((np.abs(b).sum() - b @ np.array(cos)) / 2)
            assert out['loss_direction'].item() == pytest.approx(0.2 * np.mean(terms), rel=1e-4)
        accuracies.append(np.array([(p[m].argmax(1) == y.argmax(1)).mean() for m in TWO]))


# ---- InfoReg ----


def test_inforeg_growth_and_strength():
    assert information_growth([]) == 1
    assert information_growth([2.0]) == 1
    assert information_growth([2.0, 3.0]) == pytest.approx(3 / 5)
    traces = [float(i) for i in range(1, 15)]
    now, before = np.mean(traces[-10:]), np.mean(traces[-11:-1])
    assert information_growth(traces) == pytest.approx((now - before) / now)
    s = torch.tensor([0.5, 0.47]).double()
    expected = 0.95 * math.exp(math.tanh(64 * 0.03))
    assert regulation_strength(s, 0.95, 64) == pytest.approx(expected)
    with pytest.raises(ValueError, match='window'):
        InfoReg(window=0)


def test_inforeg_pulls_the_dominant_modality_back():
    model = build(dims=TWO, **HEADS)
    wrapper = wrapped(CALOptimWrapper, model, modulator=dict(type='InfoReg'), apply_to='gradient')
    anchor = {n: p.detach().clone() for n, p in model.named_parameters()}
    traces = []
    for number in range(2):
        model.progress = TrainProgress(0, 2, number, 4)
        data = batch(9, seed=number, dims=TWO)
        reference = copy.deepcopy(model)
        out = reference(**reference.data_preprocessor(data, True), mode='loss')
        reference.parse_losses(out)[0].backward()
        state = reference.state(**reference.data_preprocessor(data, True))
        s = []
        for m in TWO:
            p = state.unimodal_logits(m).softmax(-1)
            s.append(np.mean([p[i, y].item() for i, y in enumerate(state.labels)]))
        top = 'ab'[int(np.argmax(s))]
        strength = 0.95 * math.exp(math.tanh(64 * abs(s[0] - s[1])))
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        model.train_step(data, wrapper)
        row = dict.fromkeys(TWO, 0.0)
        for n, p in reference.named_parameters():
            g = p.grad.clone()
            if owner(n) == top:
                g += strength * (before[n] - anchor[n])
            if owner(n) and g.dim() > 1:
                row[owner(n)] += float((g**2).mean())
            step = (before[n] - model.get_parameter(n).detach()) / LR
            torch.testing.assert_close(step, g, rtol=1e-3, atol=1e-5)
        traces.append([row[m] for m in TWO])
    running = wrapper.modulator.state()['running']
    np.testing.assert_allclose(running.numpy(), np.sum(traces, axis=0), rtol=1e-3)


def test_inforeg_stops_when_nothing_is_gained():
    modulator = InfoReg(threshold=0.05, window=2)
    modulator.load_state({'epoch': torch.tensor(3), 'traces': torch.tensor([[5.0], [5.0], [5.0]])})
    assert modulator.growth(0) == 0
    other = InfoReg(window=2)
    other.load_state(modulator.state())
    assert other.growth(0) == 0


def test_inforeg_goes_on_within_an_epoch():
    """Resumed there, it holds on to the weights it was resumed with; the epoch, trained from its
    start, is booked anew."""
    p, q = (torch.nn.Parameter(torch.ones(2, 2)) for _ in range(2))
    modulator = InfoReg()
    modulator.load_state({'epoch': torch.tensor(0), 'running': torch.tensor([1.0, 2.0]).double()})
    for shift in (0.0, 0.5):
        modulator(torch.tensor([0.9, 0.1]).double(), START)
        with torch.no_grad():
            p += shift
        p.grad, q.grad = torch.ones(2, 2), torch.zeros(2, 2)
        modulator.adjust({'a': [p], 'b': [q]}, torch.ones(2), START, 0)
    pull = 0.5 * regulation_strength(torch.tensor([0.9, 0.1]), 0.95, 64)
    torch.testing.assert_close(p.grad, torch.full((2, 2), 1 + pull))
    assert modulator.state()['running'].tolist() == pytest.approx([1 + (1 + pull) ** 2, 0])
    assert 'traces' not in modulator.state()


def test_inforeg_leaves_a_frozen_modality_alone():
    q = torch.nn.Parameter(torch.ones(2, 2))
    modulator = InfoReg()
    for _ in range(2):
        modulator(torch.tensor([0.9, 0.1]).double(), START)
        q.grad = torch.ones(2, 2)
        modulator.adjust({'a': [], 'b': [q]}, torch.ones(2), START, 0)
        assert torch.equal(q.grad, torch.ones(2, 2))
    assert modulator.state()['running'].tolist() == [0, 2]
    modulator.adjust({'a': [], 'b': []}, torch.ones(2), START, 0)


def test_inforeg_on_another_device():
    """Traces of the epochs stay on the CPU; that of an update is where the weights are."""
    q = torch.nn.Parameter(torch.ones(2, 2, device='meta'))
    bias = torch.nn.Parameter(torch.ones(2, device='meta'))
    q.grad, bias.grad = torch.ones_like(q), torch.ones_like(bias)
    modulator = InfoReg(threshold=1.0)
    modulator(torch.tensor([0.9, 0.1]).double(), START)
    modulator.adjust({'a': [bias], 'b': [q]}, torch.ones(2), START, 0)
    assert modulator.state()['running'].is_meta

    class Elsewhere:
        def cpu(self):
            return torch.tensor([[4.0], [5.0]])

    modulator.load_state({'epoch': torch.tensor(1), 'traces': Elsewhere()})
    assert modulator.growth(0) == pytest.approx(5 / 9)


def test_inforeg_knows_the_loss_scale():
    """The pull and the trace are in units of the unscaled gradient."""
    found = []
    for scale in (1.0, 8.0):
        p = torch.nn.Parameter(torch.full((2, 2), 3.0))
        modulator = InfoReg()
        modulator.loss_scale = scale
        q = torch.nn.Parameter(torch.ones(2, 2))
        p.grad, q.grad = torch.zeros(2, 2), torch.zeros(2, 2)
        modulator(torch.tensor([0.9, 0.1]), START)
        modulator.adjust({'a': [p], 'b': [q]}, torch.ones(2), START, 0)
        with torch.no_grad():
            p += 1
        p.grad, q.grad = torch.full((2, 2), scale), torch.zeros(2, 2)
        modulator.adjust({'a': [p], 'b': [q]}, torch.ones(2), START, 0)
        found.append((p.grad / scale, modulator.state()['running']))
    torch.testing.assert_close(found[0][0], found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1])


# ---- Greedy ----


def context(present=None, training=True):
    return FeatureContext(('a', 'b'), CLASSES, training, START, present=present)


def mmtm():
    torch.manual_seed(0)
    module = MMTM(ratio=2.0)
    module.setup({'a': 3, 'b': 2}, CLASSES)
    return module


def test_mmtm_gates():
    module = mmtm()
    z = {'a': torch.randn(4, 3), 'b': torch.randn(4, 2)}
    out = module(z, context())
    hidden = (torch.cat([z['a'], z['b']], 1) @ module.squeeze.weight.T + module.squeeze.bias).relu()
    gates = {}
    for m in z:
        excite = module.excite[m]
        gates[m] = 1 / (1 + (-(hidden @ excite.weight.T + excite.bias)).exp())
        torch.testing.assert_close(out[m], z[m] * gates[m])
    module.close_update()
    for m in z:
        torch.testing.assert_close(module.get_buffer(f'gates_of_{m}'), gates[m].mean(0))
    module.caring.fill_(1)
    out = module(z, context())
    torch.testing.assert_close(out['a'], z['a'] * gates['a'])
    torch.testing.assert_close(out['b'], z['b'] * gates['b'].mean(0))
    grads = torch.autograd.grad(out['b'].sum(), list(module.bypass_parameters('b')))
    assert all(g.abs().max() == 0 for g in grads)  # there, but nothing is learned
    torch.testing.assert_close(module(z, context(training=False))['b'], z['b'] * gates['b'])
    there = torch.tensor([[True, True]] * 3 + [[True, False]])
    wild = {'a': z['a'], 'b': z['b'].clone()}
    wild['b'][3] = 1e9
    out = module(wild, context(there, training=False))
    blank = {'a': z['a'], 'b': z['b'] * there[:, 1:]}
    torch.testing.assert_close(out['a'], module(blank, context(training=False))['a'])


def test_mean_gates_do_not_depend_on_the_split():
    whole, parts = mmtm(), mmtm()
    z = {'a': torch.randn(6, 3), 'b': torch.randn(6, 2)}
    for module, size in ((whole, 6), (parts, 2)):
        for i in range(0, 6, size):
            module({m: v[i : i + size] for m, v in z.items()}, context())
        module.close_update()
    torch.testing.assert_close(whole.gates_of_a, parts.gates_of_a)


def test_speeds():
    p = [torch.nn.Parameter(torch.tensor([3.0, 4.0])), torch.nn.Parameter(torch.tensor([5.0]))]
    p[0].grad = torch.tensor([1.0, 2.0])
    assert float(learning_speed(p)) == pytest.approx(5 / 50)
    found = conditional_speeds(torch.tensor([1e-2, 1.0]), torch.tensor([1.0, 1.0]))
    assert found.tolist() == pytest.approx([-2, 0])


def test_greedy_leaves_a_modality_alone_for_a_window():
    model = build(dims=TWO, feature_transforms=[dict(type='MMTM')], fusion=dict(type='LateFusion'))
    reference = copy.deepcopy(model)
    wrapper = wrapped(BalancedSpeedOptimWrapper, model, epsilon=1e-9, window=3)
    seen = []
    for number in range(9):
        model.progress = TrainProgress(0, 2, number, 18)
        model.train_step(batch(8, seed=number, dims=TWO), wrapper)
        seen.append(int(model.feature_transforms[0].caring))
    # decided after the first update, held for three, free for one, decided again
    assert [s >= 0 for s in seen] == [True, True, True, False, True, True, True, False, True]
    total, _ = reference.parse_losses(
        reference(**reference.data_preprocessor(batch(8, seed=0, dims=TWO), True), mode='loss')
    )
    total.backward()
    speeds = []
    for m in TWO:
        sums = []
        for params in (
            reference.feature_transforms[0].bypass_parameters(m),
            reference.modality_parameters()[m],
        ):
            g = sum((q.grad**2).sum().item() for q in params)
            sums.append(g / sum((q**2).sum().item() for q in params))
        speeds.append(math.log10(sums[0] / sums[1]))
    assert seen[0] == int(np.argmax(speeds))
    with pytest.raises(ValueError, match='exactly one MMTM'):
        wrapped(BalancedSpeedOptimWrapper, build())
    with pytest.raises(ValueError, match='window >= 1'):
        wrapped(BalancedSpeedOptimWrapper, build(), window=0)


@pytest.mark.parametrize('frozen', ['a', 'ab'])
def test_greedy_passes_over_a_frozen_modality(frozen):
    model = build(feature_transforms=[dict(type='MMTM')], fusion=dict(type='LateFusion'))
    for m in frozen:
        for part in (model.encoders[m], model.bottlenecks[m]):
            part.requires_grad_(False)
    wrapper = wrapped(BalancedSpeedOptimWrapper, model, epsilon=1e-9, window=1)
    seen = []
    for number in range(6):
        model.progress = TrainProgress(0, 2, number, 12)
        model.train_step(batch(8, seed=number), wrapper)
        seen.append(int(model.feature_transforms[0].caring))
    alone = {i for i in seen if i >= 0}
    assert alone <= {1, 2}
    assert bool(alone) == (frozen == 'a')


# ---- ReconBoost ----


def test_reconboost_phases():
    found = [boosting_phase(e, 2, 2, 1) for e in range(7)]
    assert found == [(0, 0), (0, 0), (0, None), (1, 1), (1, 1), (1, None), (2, 0)]
    assert boosting_phase(5, 3, 1, 0) == (5, 2)


def test_reconboost_loss():
    g = torch.Generator().manual_seed(0)
    own, rest = (torch.randn(5, 4, generator=g).double() for _ in range(2))
    labels = torch.tensor([0, 3, 1, 2, 2])
    target = F.one_hot(labels, 4)
    by_hand = -5.0 * (target * own.log_softmax(1)).mean(-1)
    by_hand += 1.0 * (target * rest.softmax(1) * own.log_softmax(1)).mean(-1)
    torch.testing.assert_close(boosting_loss(own, rest, labels, (5.0, 1.0)), by_hand)
    first = boosting_loss(own, None, labels, (5.0, 1.0))
    torch.testing.assert_close(first, F.cross_entropy(own, labels, reduction='none'))


BOOST = dict(fusion=dict(type='SumFusion'), unimodal_head='fusion')


def test_reconboost_moves_one_modality_at_a_time():
    model = build(**BOOST, losses=[dict(type='ReconBoostLoss', stage_epochs=1, correct_epochs=1)])
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9, weight_decay=0.1)
    wrapper = StagedOptimWrapper(optimizer=optimizer)
    wrapper.initialize_count_status(model, 0, 100)
    moved = []
    for epoch in range(4):
        model.progress = TrainProgress(epoch, 6, epoch, 6)
        before = copy.deepcopy(model.state_dict())
        out = model.train_step(batch(8), wrapper)
        assert torch.isfinite(out['loss'])
        after = model.state_dict()
        moved.append(
            ''.join(
                m
                for m in model.modalities
                if any(not torch.equal(after[n], before[n]) for n in after if owner(n) == m)
            )
        )
    # b is not moved by momentum in epoch 0, a not by what is left of epoch 1
    assert moved == ['a', 'a', 'b', 'ab']
    with pytest.raises(ValueError, match='loss with phases'):
        wrapped(StagedOptimWrapper, build())


def test_reconboost_agreement_has_a_gradient_when_asked_for():
    grads = []
    for align in (0.0, 2.0):
        model = build(**BOOST, losses=[dict(type='ReconBoostLoss', align=align)])
        model.progress = TrainProgress(epoch=8, max_epochs=9)
        data = model.data_preprocessor(batch(8), True)
        model(**data, mode='loss')['loss_boost/b'].backward()
        grads.append(model.fusion.heads['b'].weight.grad.clone())
        assert model.fusion.heads['a'].weight.grad is None
    state = model.state(**data)
    own, before = state.unimodal_logits('b'), state.unimodal_logits('a').detach()
    gap = ((own.softmax(1) - before.softmax(1)) ** 2).mean()
    (extra,) = torch.autograd.grad(2.0 * gap, model.fusion.heads['b'].weight)
    torch.testing.assert_close(grads[1] - grads[0], extra, rtol=1e-3, atol=1e-6)
    with pytest.raises(ValueError, match='stage_epochs >= 1'):
        build(losses=[dict(type='ReconBoostLoss', stage_epochs=0)])


@pytest.mark.parametrize('modulator', ['InfoReg', 'CGGM', 'OGM'])
def test_mixed_precision(modulator):
    model = build(dims=TWO, **HEADS)
    wrapper = wrapped(
        CALAmpOptimWrapper, model, modulator=dict(type=modulator), apply_to='gradient'
    )
    for number in range(3):
        model.progress = TrainProgress(number, 3, number, 3)
        model.train_step(batch(6, dims=TWO), wrapper)
    assert all(torch.isfinite(p).all() for p in model.parameters())
