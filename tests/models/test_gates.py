"""Gates: registered, pure, and what they read of a model."""

import math
from dataclasses import replace

import pytest
import torch
from builders import CAL, CLASSES, DIMS, batch, build

from cal_mm.models.bottlenecks import BottleneckUncertainty, posterior_numbers
from cal_mm.models.contribution import shares
from cal_mm.models.fusions.evidential import opinion
from cal_mm.models.gates import GATE_NAMES, Gate, gate_features, log_two_sided_share, pool_logits
from cal_mm.registry import GATES

NUMBERS = torch.randn(60, len(DIMS), 2, generator=torch.Generator().manual_seed(0)) + 2


def ready(gate, seed=0, **overrides):
    model = build(seed, **{**CAL, **overrides}, gate=gate).eval()
    if model.uncertainty is not None:
        data = model.data_preprocessor(batch(60, seed=7), False)
        state = model.state(**data)
        model.uncertainty.fit(posterior_numbers(model.bottlenecks, state.features, state.kl))
    return model


def logits_of(model, data):
    return torch.stack([s.logits for s in model(**data, mode='predict')])


def measured(gate):
    """A model whose W is measured and whose temperatures and typicalities are fitted."""
    model = ready(gate, contribution=dict(CAL['contribution'], lam=0.25, tau=0.3))
    tracker = model.contribution
    tracker.information.copy_(torch.tensor([-0.3, 0.4, 0.1]))
    tracker.temperature.copy_(torch.tensor([2.0, 0.5, 1.0]))
    tracker.measured.fill_(True)
    features = model.encode(model.data_preprocessor(batch(40, seed=5), False)['inputs'])
    for m in 'abc':
        tracker.typicality[m].fit(features[m].detach(), torch.arange(40) % CLASSES)
    return model


def typicality_of(model, state, m, i):
    return float(model.contribution.typicality[m](state.features[m][i : i + 1].detach()))


def test_a_gate_has_a_class_a_short_name_and_no_state():
    assert {'none', 'contribution', 'confidence', 'uncertainty', 'experts', 'evidence', 'pool'} <= {
        *GATE_NAMES
    }
    weights = None
    for name in GATE_NAMES:
        cls = GATES.get(name)
        assert issubclass(cls, Gate)
        assert GATES.get(cls.__name__) is cls
        for gate in (name, dict(type=cls.__name__)):
            model = build(**CAL, gate=gate)
            assert isinstance(model.gate, cls)
            keys = set(model.state_dict())
            weights = weights or keys
            assert keys == weights  # one checkpoint serves every gate


@pytest.mark.parametrize('name', GATE_NAMES)
def test_every_gate(name):
    model = ready(name)
    data = model.data_preprocessor(batch(6, missing=[(1, 'b'), (2, 'a'), (2, 'b')]), False)
    together = logits_of(model, data)
    assert together.shape == (6, CLASSES)
    assert torch.isfinite(together).all()
    for i in range(6):  # sample by sample: no influence of the rest of the batch
        one = batch(6, missing=[(1, 'b'), (2, 'a'), (2, 'b')])
        one = {
            'inputs': {m: v[i : i + 1] for m, v in one['inputs'].items()},
            'data_samples': one['data_samples'][i : i + 1],
        }
        alone = logits_of(model, model.data_preprocessor(one, False))
        torch.testing.assert_close(alone[0], together[i], atol=1e-5, rtol=1e-5)
    # what a missing modality's input holds does not matter
    other = {**data, 'inputs': {**data['inputs'], 'b': data['inputs']['b'].clone()}}
    other['inputs']['b'][1:3] = 50.0
    torch.testing.assert_close(logits_of(model, other), together)
    leaf = data['inputs']['c'].clone().requires_grad_()
    shifted = {**data, 'inputs': {**data['inputs'], 'c': leaf}}
    model.prediction_logits(**shifted).sum(dim=0)[0].backward()
    assert float(leaf.grad.abs().max()) > 0  # attacks need it


@pytest.mark.parametrize('dims', [{'a': 6}, {'abcdefg'[i]: 6 for i in range(7)}])
@pytest.mark.parametrize('name', GATE_NAMES)
def test_any_number_of_modalities(name, dims):
    model = build(dims=dims, **CAL, gate=name).eval()
    data = model.data_preprocessor(batch(4, dims=dims), False)
    got = logits_of(model, data)
    if len(dims) == 1 and name not in ('experts', 'evidence', 'pool'):
        torch.testing.assert_close(got, model(**data).detach())


def test_equal_weights_change_nothing_whoever_is_missing():
    model = ready('none')
    missing = [(1, 'b'), (2, 'a'), (2, 'b')]
    data = model.data_preprocessor(batch(4, missing=missing), False)
    state = model.state(**data)
    equal = shares(torch.ones(4, 3), state.present)
    for present, rows in ((state.present, slice(0, 4)), (None, slice(3, 4))):
        weighed = gate_features(state.z, equal, present)
        for i, m in enumerate('abc'):
            there = state.present[rows, i, None]
            torch.testing.assert_close(weighed[m][rows] * there, state.z[m][rows] * there)
    model.use_gate('confidence')
    got = logits_of(model, data)
    torch.testing.assert_close(got[2], state.logits[2].detach())  # 'c' alone


def test_evidence_by_hand():
    model = ready('evidence')
    data = model.data_preprocessor(batch(3, missing=[(0, 'b')]), False)
    state = model.state(**data)
    b, u = opinion(torch.nn.functional.softplus(state.unimodal_logits('a')[0]))
    for m in ('c',):  # 'b' is missing in sample 0
        b2, u2 = opinion(torch.nn.functional.softplus(state.unimodal_logits(m)[0]))
        k = b.sum() * b2.sum() - (b * b2).sum()
        b, u = (b * b2 + b * u2 + b2 * u) / (1 - k), u * u2 / (1 - k)
    expected = (b + u / CLASSES).log().detach()
    torch.testing.assert_close(logits_of(model, data)[0], expected)


def entropy_confidence(logits):
    """D of one prediction [C]."""
    p = logits.detach().softmax(dim=0)
    return 1 + float((p * p.log()).sum()) / math.log(CLASSES)


@pytest.mark.parametrize('gate', ['contribution', 'confidence'])
def test_label_free_w_and_the_gates_on_it_by_hand(gate):
    """W: typicality x (.25 I + .75 D at the temperature), softmax at .3, over who is there."""
    model = measured(gate)
    tracker = model.contribution
    missing = [(0, 'b'), (2, 'a'), (2, 'c')]
    data = model.data_preprocessor(batch(5, missing=missing), False)
    state, out = model.state(**data), model(**data, mode='predict')
    for i in range(5):
        raw, plain = [], []
        for j, m in enumerate('abc'):
            there, u = bool(data['present'][i, j]), state.unimodal_logits(m)[i]
            told = max(float(tracker.information[j]), 0)
            told = 0.25 * told + 0.75 * entropy_confidence(u / tracker.temperature[j])
            raw.append(math.exp(typicality_of(model, state, m, i) * told / 0.3) * there)
            plain.append(entropy_confidence(u) * there)
        w = [x / sum(raw) for x in raw]
        assert out[i].contribution.tolist() == pytest.approx(w, abs=1e-5)
        if gate == 'confidence':
            w = [x / sum(plain) for x in plain]
        count = int(data['present'][i].sum())
        z = {
            m: count * w[j] * state.z[m][i : i + 1]
            for j, m in enumerate('abc')
            if data['present'][i, j]
        }
        expected = model.fusion(z)[0].detach()
        torch.testing.assert_close(out[i].logits, expected, atol=1e-4, rtol=1e-4)


def test_experts_are_weighed_by_typicality():
    model = measured('experts')
    data = model.data_preprocessor(batch(3), False)
    state, tracker = model.state(**data), model.contribution
    found = logits_of(model, data)
    for i in range(3):
        total = sum(
            typicality_of(model, state, m, i)
            * (state.unimodal_logits(m)[i] / tracker.temperature[j]).log_softmax(dim=0)
            for j, m in enumerate('abc')
        )
        expected = total.log_softmax(dim=0).detach()
        torch.testing.assert_close(found[i], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('power', [0.0, 1.0, 2.0])
def test_pool_by_hand(power):
    model = measured(dict(type='PoolGate', power=power))
    tracker = model.contribution
    tracker.told.copy_(torch.tensor([0.4, 0.04, -0.2]))
    tracker.fused_temperature.fill_(3.0)
    model.class_log_prior.copy_(torch.arange(1.0, CLASSES + 1).log_softmax(dim=0))
    data = model.data_preprocessor(batch(4, missing=[(1, 'a'), (2, 'a'), (2, 'b')]), False)
    state = model.state(**data)
    got = logits_of(model, data)
    for i in range(4):
        q, total = {}, torch.zeros(CLASSES)
        for j, (m, counts) in enumerate((('a', 1.0), ('b', 0.4), ('c', 0.0))):
            there = data['present'][i, j]
            a = typicality_of(model, state, m, i) if there else 0.0
            q[m] = counts * a
            p = (state.unimodal_logits(m)[i] / tracker.temperature[j]).softmax(dim=0)
            total = total + q[m] * p.log()
        fused = (state.logits[i] / 3.0).softmax(dim=0).log()
        left = sum(q.values())
        share = (left / 1.4) ** power if left else 0.0
        # without 'a' what is there counts .4 and the prior .6; sample 2 has only 'c', which tells
        # nothing: the prior it is
        rest = {1: 0.6, 2: 1.0}.get(i, 0.0)
        total = total + share * fused + rest * model.class_log_prior
        total = total / (share + left + rest)
        expected = total.softmax(dim=0).log()
        torch.testing.assert_close(got[i], expected.detach(), atol=1e-5, rtol=1e-5)


def test_a_pool_that_trusts_nothing_is_the_fused_prediction():
    fused, unimodal = torch.randn(2, CLASSES), torch.randn(2, 3, CLASSES)
    trust, fused_trust = torch.tensor([[0.0] * 3, [1.0, 0.0, 0.0]]), torch.zeros(2)
    got = pool_logits(fused, unimodal, trust, fused_trust)
    torch.testing.assert_close(got[0], fused[0].log_softmax(dim=0))
    torch.testing.assert_close(got[1], unimodal[1, 0].log_softmax(dim=0))


def test_uncertainty_by_hand():
    model = ready(dict(type='UncertaintyGate', measure='entropy', offset=1.0, slope=2.0))
    data = model.data_preprocessor(batch(4, seed=3), False)
    state = model.state(**data)
    a = []
    for i, m in enumerate('abc'):
        sigma = model.bottlenecks[m].sigma(state.features[m])
        entropy = torch.distributions.Normal(torch.zeros_like(sigma), sigma).entropy().sum(dim=1)
        z = (entropy - model.uncertainty.centre[i, 1]) / model.uncertainty.spread[i, 1]
        a.append(torch.sigmoid((1.0 - z.abs()) / 2.0))
    a = torch.stack(a, dim=1)
    w = 3 * a / a.sum(dim=1, keepdim=True)
    expected = model.fusion({m: state.z[m] * w[:, i : i + 1] for i, m in enumerate('abc')})
    torch.testing.assert_close(logits_of(model, data), expected.detach(), atol=1e-4, rtol=1e-4)


def test_uncertainty_takes_weight_from_what_is_unlike_the_clean_data():
    model = ready('uncertainty')
    clean = model.data_preprocessor(batch(50, seed=4), False)
    noised = {**clean, 'inputs': {**clean['inputs'], 'b': 30 * clean['inputs']['b']}}
    w = []
    for data in (clean, noised):
        state = model.state(**data)
        w.append(model.gate.weights(state, model._gate_parts()).detach())
    assert float(w[0][:, 1].mean()) == pytest.approx(1 / 3, abs=0.05)
    assert float(w[1][:, 1].mean()) < 0.02


def test_uncertainty_has_weights_however_far_the_features_are():
    model = ready('uncertainty')
    data = model.data_preprocessor(batch(6, missing=[(3, 'b'), (3, 'c'), (4, 'c')]), False)
    present = data['present']
    rows = [[1.0, 2, 4], [18, 18, 18], [300, 301, 290], [20, 0, 0], [60, 61, 0], [math.inf] * 3]
    z = torch.tensor(rows).requires_grad_()
    state = replace(model.state(**data), present=present)
    parts = replace(model._gate_parts(), uncertainty=lambda numbers: z[..., None].expand(6, 3, 2))
    w = model.gate.weights(state, parts)
    # sigmoid((3 - z) / 0.5) by its logarithm, in float64
    t = (3 - z.detach().double()) / 0.5
    log_a = torch.where(present, -torch.nn.functional.softplus(-t), -math.inf)[:5]
    expected = (log_a - log_a.logsumexp(dim=1, keepdim=True)).exp().float()
    torch.testing.assert_close(w[:5].detach(), expected, atol=1e-6, rtol=1e-4)
    assert w[5].tolist() == pytest.approx([1 / 3] * 3)
    usual = shares(log_two_sided_share(z[:1, :, None], 3.0, 0.5).exp())
    torch.testing.assert_close(w[:1], usual)
    (gradient,) = torch.autograd.grad(w[:5, 0].sum(), z)
    assert torch.isfinite(gradient[:5]).all()
    nothing = replace(state, present=torch.zeros_like(present))
    assert model.gate.weights(nothing, parts).eq(0).all()


def test_shares_of_a_sum_of_nothing():
    values = torch.tensor([[0.0, 0.0, 0.0], [1e-20, 3e-20, 0.0], [0.0, 0.0, 5.0], [0.2, 0.2, 0.0]])
    present = torch.tensor([[1, 1, 1], [1, 1, 1], [1, 1, 0], [1, 1, 1]]).bool()
    assert shares(values, present).tolist() == [
        pytest.approx(row) for row in ([1 / 3] * 3, [0.25, 0.75, 0], [0.5, 0.5, 0], [0.5, 0.5, 0])
    ]
    assert shares(values[:1]).tolist() == [pytest.approx([1 / 3] * 3)]
    assert shares(values, torch.zeros_like(present)).eq(0).all()
    leaf = values.clone().requires_grad_()
    shares(leaf, present)[:, 0].sum().backward()
    assert torch.isfinite(leaf.grad).all()


def test_confidence_in_predictions_that_say_nothing():
    model = ready('confidence')
    for head in model.heads.values():
        for p in head.parameters():
            torch.nn.init.zeros_(p)
    data = model.data_preprocessor(batch(3, missing=[(1, 'b')]), False)
    torch.testing.assert_close(logits_of(model, data), model(**data).detach())


def test_statistics_of_posteriors():
    fresh = BottleneckUncertainty(3)
    assert float(fresh(NUMBERS).abs().max()) == 0  # nobody is unusual before the fit
    present = torch.ones(60, 3, dtype=torch.bool)
    present[5:, 2] = False
    with pytest.raises(ValueError, match='at least 8 samples'):
        fresh.fit(NUMBERS, present)
    present[:20, 2] = True
    holes = torch.where(present.unsqueeze(-1), NUMBERS, torch.full_like(NUMBERS, 1e4))
    fresh.fit(holes, present)
    z = fresh(NUMBERS)
    assert z[:, :2].mean(dim=0).abs().max() < 1e-5
    assert z[:, :2].std(dim=0).flatten().tolist() == pytest.approx([1] * 4, abs=1e-4)
    assert z[:20, 2].std(dim=0).tolist() == pytest.approx([1, 1], abs=1e-4)
    fresh.fit(torch.ones(10, 3, 2))
    assert torch.isfinite(fresh(NUMBERS)).all()


def test_both_sides_count():
    z = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, -3.0], [9.0, 0.0]])
    a = log_two_sided_share(z, 3.0, 0.5).exp()
    assert a.tolist() == pytest.approx([0.9975, 0.5, 0.5, 0], abs=1e-3)


def test_what_a_gate_needs_is_told():
    plain = dict(unimodal_head=dict(type='LinearHead'))
    for name in ('confidence', 'evidence'):
        build(**plain, gate=name)
        with pytest.raises(ValueError, match=r'needs model\.unimodal_head'):
            build(gate=name)
    mixed = {m: dict(type='VariationalBottleneck', out_channels=8) for m in 'abc'}
    mixed['b'] = dict(type='LinearBottleneck', out_channels=8)
    with pytest.raises(ValueError, match='that of b is LinearBottleneck'):
        build(bottleneck=mixed, gate='uncertainty')
    with pytest.raises(ValueError, match='measure must be one of'):
        build(**CAL, gate=dict(type='UncertaintyGate', measure='sigma'))
    with pytest.raises(ValueError, match='power must not be negative'):
        build(**CAL, gate=dict(type='PoolGate', power=-1.0))
    for bad in (dict(pivot=0.0), dict(share=1.5)):
        with pytest.raises(ValueError, match='PoolGate'):
            build(**CAL, gate=dict(type='PoolGate', **bad))
    with pytest.raises(ValueError, match='needs labels'):
        build(**CAL, gate=dict(type='ConfidenceGate', kind='true_class'))
    with pytest.raises(TypeError, match=r"takes no argument 'ofset'\. Did you mean 'offset'"):
        build(**CAL, gate=dict(type='UncertaintyGate', ofset=1.0))


def test_unfitted_statistics_are_refused_in_a_test_only():
    for name, message in (
        ('contribution', 'W was never measured'),
        ('uncertainty', 'posteriors were never fitted'),
        ('experts', 'typicality of the features was never fitted'),
    ):
        model = build(**CAL, gate=name).eval()
        logits_of(model, model.data_preprocessor(batch(3), False))  # validation in training
        with pytest.raises(ValueError, match=message):
            model.check_gate()
    for name in ('experts', 'pool'):  # without typicality the temperatures tell
        model = build(**{**CAL, 'contribution': dict(source='train')}, gate=name)
        model.contribution.measured.fill_(True)
        with pytest.raises(ValueError, match='temperatures of the predictions were never fitted'):
            model.check_gate()
        model.contribution.told.copy_(torch.tensor([0.3, -0.1, 0.1]))
        model.check_gate()
    for name in ('none', 'confidence', 'evidence'):
        build(**CAL, gate=name).check_gate()
    ready('uncertainty').check_gate()
