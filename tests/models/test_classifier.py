"""The wiring of the model, and the invariants that method.md states for it."""

import pytest
import torch
from builders import CAL, CLASSES, DIMS, batch, build
from mmengine.optim import OptimWrapper
from torch.nn import functional as F

from cal_mm.engine.optim_wrappers import CALOptimWrapper
from cal_mm.models import NonFiniteLossError
from cal_mm.models.contribution.functional import shapley_values
from cal_mm.models.gates import GATE_NAMES
from cal_mm.registry import BOTTLENECKS, LOSSES
from cal_mm.structures import TrainProgress


def processed(model, data, training=True):
    return model.data_preprocessor(data, training)


def total(losses):
    return sum(v for k, v in losses.items() if 'loss' in k)


def test_modes():
    model = build(**CAL)
    data = processed(model, batch(4))
    assert model(**data).shape == (4, CLASSES)
    losses = model(**data, mode='loss')
    expected = {'loss_fused', 'accuracy_fused'}
    expected |= {f'loss_{kind}/{m}' for kind in ('unimodal', 'aib') for m in DIMS}
    assert set(losses) == expected
    model.eval()
    out = model(**data, mode='predict')
    assert [s.sample_id for s in out] == [f's0-{i}' for i in range(4)]
    for s in out:
        assert float(s.pred_score.sum()) == pytest.approx(1, abs=1e-5)
        assert s.pred_label == s.logits.argmax()
        assert float(s.contribution.sum()) == pytest.approx(1, abs=1e-5)
    with pytest.raises(ValueError, match='mode must be'):
        model(**data, mode='train')
    with pytest.raises(ValueError, match='data_samples'):
        model(inputs=data['inputs'], mode='predict')


@pytest.mark.parametrize('dims', [{'a': 6}, {'a': 6, 'b': 5}, {'abcdefgh'[i]: 6 for i in range(8)}])
def test_any_number_of_modalities(dims):
    model = build(dims=dims, **CAL)
    data = processed(model, batch(6, dims=dims))
    total(model(**data, mode='loss')).backward()
    for params in model.modality_parameters().values():
        assert all(p.grad is not None for p in params)
    weights = model.finish_update()
    assert float(weights.sum()) == pytest.approx(1, abs=1e-6)
    assert float(model.current_betas().mean()) == pytest.approx(1e-2)


def test_no_monitor_contains_loss():
    model = build(**CAL)
    losses = model(**processed(model, batch(4)), mode='loss')
    model.finish_update()
    names = [k for k in losses if not k.startswith('loss_')]
    assert names == ['accuracy_fused']


def test_ownership():
    model = build(**CAL)
    owned = model.modality_parameters()
    ids = [id(p) for params in owned.values() for p in params]
    assert len(ids) == len(set(ids))
    shared = {id(p) for p in model.fusion.parameters()} | {id(p) for p in model.heads.parameters()}
    assert not shared & set(ids)
    assert len(ids) + len(shared) == len(list(model.parameters()))
    assert model.diagnostic_parameters() == []
    probing = build(**{**CAL, 'losses': [dict(type='UnimodalCrossEntropy', weight=0.0)]})
    assert len(probing.diagnostic_parameters()) == len(list(probing.heads.parameters()))


@pytest.mark.parametrize('clip', [None, dict(max_norm=0.5)])
@pytest.mark.parametrize('optimizer', ['SGD', 'AdamW'])
def test_everything_off_is_plain_joint_training_bit_for_bit(clip, optimizer):
    """gamma = 0, beta = 0, eta = 0, the same seed: the same parameters after ten updates."""
    off = {
        **CAL,
        'losses': [
            dict(type='FusedCrossEntropy'),
            dict(type='UnimodalCrossEntropy', weight=0.0),
            dict(type='AIBLoss', beta=0.0),
        ],
    }
    states = []
    for wrapper, overrides in ((OptimWrapper, {}), (CALOptimWrapper, off)):
        model = build(seed=5, **overrides)
        params = [p for p in model.parameters() if p.requires_grad]
        extra = (
            {}
            if wrapper is OptimWrapper
            else dict(modulator=dict(type='AsymmetricAcceleration', gamma=0.0, begin=0.0))
        )
        opt = getattr(torch.optim, optimizer)(params, lr=0.05)
        wrap = wrapper(optimizer=opt, clip_grad=dict(clip) if clip else None, **extra)
        wrap.initialize_count_status(model, 0, 10)
        for step in range(10):
            model.train_step(batch(8, seed=step), wrap)
        names = ('encoders', 'fusion', 'bottlenecks')
        states.append({k: v for k, v in model.state_dict().items() if k.startswith(names)})
    plain, cal = states
    assert set(plain) <= set(cal)
    for name, value in plain.items():
        assert torch.equal(value, cal[name]), name


def test_eta_zero_leaves_the_encoders_alone():
    losses = [
        dict(type='FusedCrossEntropy', weight=0.0),
        dict(type='UnimodalCrossEntropy', weight=0.0),
    ]
    model = build(**{**CAL, 'losses': losses})
    total(model(**processed(model, batch(8)), mode='loss')).backward()
    for params in model.modality_parameters().values():
        assert all(p.grad is None or float(p.grad.abs().max()) == 0 for p in params)
    assert all(float(p.grad.abs().max()) > 0 for p in model.heads.parameters())


def test_eta_and_smoothing_by_hand():
    losses = [
        dict(type='FusedCrossEntropy', weight=2.0, label_smoothing=0.3),
        dict(type='UnimodalCrossEntropy', weight=0.4, label_smoothing=0.3),
    ]
    model = build(**{**CAL, 'losses': losses})
    data = processed(model, batch(8, missing=[(1, 'b')]))
    out = model(**data, mode='loss')
    with torch.no_grad():
        state = model.state(**data)
    target = 0.7 * F.one_hot(state.labels, CLASSES) + 0.3 / CLASSES

    def cross_entropy(logits):
        return -(target * logits.detach().log_softmax(dim=1)).sum(dim=1)

    expected = 2 * float(cross_entropy(state.logits).mean())
    assert float(out['loss_fused'].detach()) == pytest.approx(expected, rel=1e-5)
    for j, m in enumerate('abc'):
        rows = cross_entropy(model.heads[m](state.z[m])) * state.present[:, j]
        expected = 0.4 * float(rows.sum()) / 8
        assert float(out[f'loss_unimodal/{m}'].detach()) == pytest.approx(expected, rel=1e-5)


def test_information_of_a_batch_by_hand():
    """I from the ledger equals Shapley values of coalitions evaluated one by one."""
    model = build(**CAL)
    data = processed(model, batch(12))
    model.eval()
    with torch.no_grad():
        state = model.state(**data)
    model.contribution.observe(state)
    labels = state.labels
    values = torch.zeros(8, dtype=torch.float64)
    prior = model.class_log_prior[labels].double()
    for s in range(1, 8):
        kept = {m: state.mu[m] for i, m in enumerate(model.modalities) if s >> i & 1}
        log_p = model.fusion(kept).detach().double().log_softmax(-1)
        values[s] = (log_p.gather(1, labels[:, None])[:, 0] - prior).mean()
    entropy = torch.log(torch.tensor(3.0, dtype=torch.float64))
    expected = shapley_values(values.clamp_min(-entropy)) / entropy
    model.finish_update()
    assert torch.allclose(model.contribution.information.double(), expected, atol=1e-6)
    assert float(expected.sum() * entropy) == pytest.approx(float(values[-1]), abs=1e-9)


def test_weights_do_not_depend_on_the_split():
    data = batch(16)
    results = []
    for parts in ([16], [4, 4, 4, 4], [1, 15], [7, 9]):
        model = build(**CAL)
        start = 0
        for size in parts:
            part = {
                'inputs': {m: v[start : start + size] for m, v in data['inputs'].items()},
                'data_samples': data['data_samples'][start : start + size],
            }
            model(**processed(model, part), mode='loss')
            start += size
        results.append(model.finish_update().clone())
    for w in results[1:]:
        assert torch.allclose(results[0], w, atol=1e-6)
    assert not torch.allclose(results[0], torch.full((3,), 1 / 3), atol=1e-3)


def test_dynamic_weights_scale_what_enters_the_fusion_everywhere():
    rule = dict(floor=0.2, pivot=0.9, share=0.5)
    weighed = {**CAL, 'contribution': dict(CAL['contribution'], feature_weights=rule)}
    model, plain = build(**weighed), build(**CAL)
    data = model.data_preprocessor(batch(6), False)
    model.eval(), plain.eval()
    # before anything is measured the model is the plain one
    assert torch.equal(model(**data), plain(**data))
    for net in (model, plain):
        net.contribution.information.copy_(torch.tensor([0.4, 0.1, -1.0]))
        net.contribution.measured.fill_(True)
    s = dict(a=1.0, b=0.2 + 0.8 * 0.5, c=0.2)
    state, before = model.state(**data), plain.state(**data)
    expected = plain.fusion({m: s[m] * before.z[m] for m in 'abc'})
    torch.testing.assert_close(state.logits, expected)
    torch.testing.assert_close(model.gate(state, model._gate_parts()), expected)
    fused = model._gate_parts().fuse(state.z, None)
    torch.testing.assert_close(fused, expected)
    mask = torch.tensor([[True, True, False]])
    expected = plain.fusion({m: s[m] * before.z[m] for m in 'ab'})
    torch.testing.assert_close(state.coalition_logits(mask)[0], expected)
    for m in 'abc':  # the unimodal heads see all of z
        torch.testing.assert_close(state.unimodal_logits(m), before.unimodal_logits(m))
    model.contribution.update(model.class_log_prior)
    with pytest.raises(ValueError, match='floor must be in'):
        build(**{**CAL, 'contribution': dict(feature_weights=dict(floor=2.0))})
    with pytest.raises(TypeError, match='pivto'):
        build(**{**CAL, 'contribution': dict(feature_weights=dict(pivto=0.5))})


def test_noise_is_per_sample_and_per_update():
    model = build(**CAL)
    full = processed(model, batch(6))
    half = processed(model, batch(6))
    half = {
        'inputs': {m: v[:3] for m, v in half['inputs'].items()},
        'data_samples': half['data_samples'][:3],
    }
    z = model.state(**full, training=True).z['a']
    assert torch.allclose(z[:3], model.state(**half, training=True).z['a'])
    assert torch.equal(z, model.state(**full, training=True).z['a'])
    model.progress = TrainProgress(update=7, max_updates=10)
    assert not torch.equal(z, model.state(**full, training=True).z['a'])
    assert torch.equal(model.state(**full).z['a'], model.state(**full).mu['a'])


def test_missing_modalities():
    missing = [(0, 'a'), (1, 'b'), (1, 'c')]
    model = build(**CAL)
    data = processed(model, batch(4, missing=missing))
    assert data['present'].tolist()[:2] == [[False, True, True], [True, False, False]]
    losses = model(**data, mode='loss')
    total(losses).backward()
    model.eval()
    out = model(**data, mode='predict')
    assert float(out[0].contribution[0]) == 0
    assert out[1].contribution.tolist() == pytest.approx([1, 0, 0])
    state = model.state(**data)
    kept = model.fusion({'b': state.z['b'][:1], 'c': state.z['c'][:1]})
    assert torch.allclose(state.logits[:1], kept, atol=1e-5)


def test_losses_of_a_missing_modality_count_nothing():
    model = build(**CAL)
    full = processed(model, batch(2))
    gone = processed(model, batch(2, missing=[(0, 'b'), (1, 'b')]))
    model.progress = TrainProgress()
    losses = model(**gone, mode='loss')
    assert losses['loss_unimodal/b'].item() == 0
    assert losses['loss_aib/b'].item() == 0
    assert model(**full, mode='loss')['loss_unimodal/b'].item() > 0


@pytest.mark.parametrize('gate', GATE_NAMES)
def test_gates(gate):
    model = build(**CAL, gate=gate).eval()
    numbers = torch.randn(40, 3, 2, generator=torch.Generator().manual_seed(0))
    model.uncertainty.fit(numbers)
    data = processed(model, batch(5, missing=[(0, 'b')]))
    out = model(**data, mode='predict')
    scores = torch.stack([s.pred_score for s in out])
    assert torch.allclose(scores.sum(dim=1), torch.ones(5), atol=1e-5)
    plain = model.state(**data).logits.softmax(-1)
    assert torch.allclose(scores, plain, atol=1e-6) == (gate == 'none')


def test_gate_experts_by_hand():
    model = build(**CAL, gate='experts').eval()
    data = processed(model, batch(3))
    model.contribution.temperature[:] = torch.tensor([1.0, 2.0, 4.0])
    state = model.state(**data)
    expected = sum(
        (state.unimodal_logits(m) / t).log_softmax(-1)
        for m, t in zip('abc', (1.0, 2.0, 4.0), strict=True)
    ).softmax(-1)
    got = torch.stack([s.pred_score for s in model(**data, mode='predict')])
    assert torch.allclose(got, expected, atol=1e-6)


def test_non_finite_loss_stops_with_the_facts():
    model = build(**CAL)
    data = batch(3)
    with torch.no_grad():
        model.heads['b'].fc.bias[0] = float('nan')
    wrap = CALOptimWrapper(optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    before = {k: v.clone() for k, v in model.encoders.state_dict().items()}
    model.progress = TrainProgress(epoch=2, update=41, max_updates=100)
    with pytest.raises(NonFiniteLossError) as e:
        model.train_step(data, wrap)
    text = str(e.value)
    assert 'update 41' in text
    assert 'loss_unimodal/b' in text
    assert 'loss_fused' not in text
    assert 's0-0' in text
    assert 's0-2' in text
    assert all(torch.equal(v, before[k]) for k, v in model.encoders.state_dict().items())


def test_unmeasured_contribution_is_refused():
    model = build(**{**CAL, 'contribution': dict(source='pilot')})
    with pytest.raises(ValueError, match='measured before training'):
        model(**processed(model, batch(2)), mode='loss')


def test_bad_configs():
    with pytest.raises(ValueError, match='at least one encoder'):
        build(encoders={})
    with pytest.raises(ValueError, match='at least 2'):
        build(num_classes=1)
    with pytest.raises(LookupError, match="'soft' is not a registered gate"):
        build(gate='soft')
    with pytest.raises(ValueError, match=r'ExpertsGate needs model\.unimodal_head'):
        build(gate='experts', contribution=dict())
    with pytest.raises(ValueError, match=r'ContributionGate needs model\.contribution'):
        build(gate='contribution')
    with pytest.raises(ValueError, match=r'UncertaintyGate needs .* a is LinearBottleneck, b is'):
        build(gate='uncertainty')
    with pytest.raises(ValueError, match=r"\['b', 'c'\] missing"):
        build(bottleneck=dict(a=dict(type='IdentityBottleneck')))
    with pytest.raises(LookupError, match="encoder for 'c'"):
        build()({'a': torch.zeros(1, 6), 'b': torch.zeros(1, 5)})


def test_an_error_of_an_encoder_names_its_modality():
    model = build()
    x = {m: torch.zeros(2, d) for m, d in DIMS.items()}
    for wrong in (torch.zeros(2, 99), torch.zeros(2, 99, dtype=torch.int64)):
        with pytest.raises((ValueError, RuntimeError)) as found:
            model.encode({**x, 'b': wrong})
        assert found.value.__notes__ == ["in MLPEncoder of the modality 'b' (model.encoders.b)"]


def test_state_dict_round_trip():
    model = build(**CAL)
    wrap = CALOptimWrapper(
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        modulator=dict(type='AsymmetricAcceleration'),
    )
    wrap.initialize_count_status(model, 0, 5)
    for i in range(3):
        model.train_step(batch(8, seed=i), wrap)
    other = build(seed=9, **CAL)
    other.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(other.contribution.weights, model.contribution.weights)
    data = processed(model.eval(), batch(4))
    a = [s.pred_score for s in model(**data, mode='predict')]
    b = [s.pred_score for s in other.eval()(**data, mode='predict')]
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


#: these need a fusion, a hook or earlier updates of their own; tests/test_methods.py trains them
SPECIAL = {
    'BlendedCrossEntropy',
    'BoostingLoss',
    'ConfidenceRanking',
    'DirectionAlignment',
    'EvidentialLoss',
    'JointBottleneckLoss',
    'OptimalBottleneckLoss',
    'PrototypeRebalance',
    'ReconBoostLoss',
    'TeacherDistillation',
    'TrueClassConfidence',
}


@pytest.mark.parametrize('name', sorted(set(LOSSES.module_dict) - SPECIAL))
def test_every_registered_loss(name):
    model = build(**{**CAL, 'losses': [dict(type=name)]})
    losses = model(**processed(model, batch(8)), mode='loss')
    named = {k: v for k, v in losses.items() if 'loss' in k}
    assert named
    assert all(v.ndim == 0 and torch.isfinite(v) for v in named.values())
    total(losses).backward()
    touched = [
        any(p.grad is not None and float(p.grad.abs().max()) > 0 for p in params)
        for params in model.modality_parameters().values()
    ]
    assert all(touched)


class OwnLoss(torch.nn.Module):
    """A loss of a user's own, with nothing but ``forward``."""

    def forward(self, state):
        return {'loss_own': (state.z['a'] ** 2).mean()}


class OwnBottleneck(torch.nn.Module):
    """A bottleneck of a user's own, with nothing but what architecture.md asks for."""

    def __init__(self, in_channels):
        super().__init__()
        self.out_channels = in_channels

    def forward(self, h, noise=None, labels=None):
        assert noise is None
        return h, torch.zeros(len(h))


def test_parts_of_ones_own_need_no_base_class(monkeypatch):
    for registry, cls in ((LOSSES, OwnLoss), (BOTTLENECKS, OwnBottleneck)):
        monkeypatch.setitem(registry.module_dict, cls.__name__, cls)
    own = dict(type='OwnLoss')
    model = build(**{**CAL, 'bottleneck': dict(type='OwnBottleneck'), 'losses': [own]})
    assert model.uncertainty is None
    assert model.current_betas() is None
    assert model.diagnostic_parameters() == []
    wrap = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    assert 'loss_own' in model.train_step(batch(4), wrap)
    # beside parts that sample
    model = build(**{**CAL, 'losses': [own, *CAL['losses']]})
    assert {'loss_own', 'loss_aib/a'} <= set(model(**processed(model, batch(4)), mode='loss'))
    assert float(model.current_betas().mean()) == pytest.approx(1e-2)
    with pytest.raises(ValueError, match='a is OwnBottleneck'):
        build(bottleneck=dict(type='OwnBottleneck'), gate='uncertainty')
