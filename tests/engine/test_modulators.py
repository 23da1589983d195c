"""Gradient acceleration: the factors, and what they do to an update."""

import pytest
import torch
from builders import CAL, batch, build

from cal_mm.engine.modulators import ACCELERATION_MODES, AsymmetricAcceleration, acceleration
from cal_mm.engine.optim_wrappers import (
    CALAmpOptimWrapper,
    CALOptimWrapper,
    amp_variant,
    is_scale_invariant,
)
from cal_mm.registry import MODULATORS, OPTIM_WRAPPERS
from cal_mm.structures import TrainProgress

W = torch.tensor([0.5, 0.3, 0.2])


class Constant:
    """k = the same numbers always."""

    def __init__(self, factors):
        self.factors = torch.tensor(factors)

    def __call__(self, weights, progress):
        return self.factors


def test_factors_by_hand():
    assert acceleration(W, 2.0).tolist() == pytest.approx([2.0, 1.6, 1.4])
    assert acceleration(W, 2.0, 'above_mean').tolist() == pytest.approx([2.0, 1.0, 1.0])
    assert acceleration(W, 2.0, 'uniform').tolist() == pytest.approx([1 + 2 / 3] * 3)
    assert acceleration(W, 2.0, 'inverse').tolist() == pytest.approx([1.5, 1.7, 1.8])
    assert acceleration(torch.ones(1), 2.0, 'inverse').tolist() == pytest.approx([3.0])


@pytest.mark.parametrize('mode', ACCELERATION_MODES)
@pytest.mark.parametrize('gamma', [0.0, 0.5, 3.0])
def test_nobody_is_suppressed(mode, gamma):
    k = acceleration(W, gamma, mode)
    assert (k >= 1).all()
    if mode != 'above_mean':  # the same sum for the method and its controls
        assert float(k.mean()) == pytest.approx(1 + gamma / 3)
    if mode in ('all', 'above_mean') and gamma > 0:
        assert k.argmax() == W.argmax()


def test_random_factors_change_with_the_update_only():
    drawn = [acceleration(W, 2.0, 'random', update).tolist() for update in range(40)]
    assert drawn == [acceleration(W, 2.0, 'random', update).tolist() for update in range(40)]
    assert len({tuple(k) for k in drawn}) == 6  # every order
    expected = acceleration(W, 2.0).sort().values
    assert all(torch.equal(torch.tensor(k).sort().values, expected) for k in drawn)


@pytest.mark.parametrize('mode', ACCELERATION_MODES)
def test_a_budget_takes_the_larger_rate_away(mode):
    kept = dict(gamma=2.0, mode=mode, begin=0.0)
    progress = TrainProgress(update=7, max_updates=100)
    k = AsymmetricAcceleration(budget=True, **kept)(W, progress)
    free = AsymmetricAcceleration(**kept)(W, progress)
    assert float(k.sum()) == pytest.approx(3)
    assert (k * free.mean()).tolist() == pytest.approx(free.tolist())
    before = AsymmetricAcceleration(gamma=2.0, budget=True, begin=0.5)(W, progress)
    assert before.tolist() == [1, 1, 1]


def test_schedule():
    modulator = AsymmetricAcceleration(gamma=1.0, begin=0.25, end=0.75)
    for update, on in ((0, False), (24, False), (25, True), (74, True), (75, False), (99, False)):
        k = modulator(W, TrainProgress(update=update, max_updates=100))
        assert (float(k.max()) > 1) == on, update
    always = AsymmetricAcceleration(gamma=1.0, begin=0.0)
    assert float(always(W, TrainProgress(update=99, max_updates=100)).max()) > 1
    for bad in (dict(gamma=-1), dict(mode='some'), dict(begin=0.5, end=0.2), dict(begin=-0.1)):
        with pytest.raises(ValueError):  # noqa: PT011
            AsymmetricAcceleration(**bad)


#: ARL compares two modalities
@pytest.mark.parametrize('name', sorted(set(MODULATORS.module_dict) - {'ARL'}))
def test_every_registered_modulator(name):
    modulator = MODULATORS.build(dict(type=name))
    k = modulator(W, TrainProgress(update=50, max_updates=100))
    assert k.shape == (3,)
    assert (k > 0).all()


@pytest.mark.parametrize(
    ('name', 'kwargs', 'expected'),
    [
        ('SGD', dict(lr=0.1, momentum=0.9), False),
        ('Adam', dict(lr=0.1), True),
        ('AdamW', dict(lr=0.1, weight_decay=0.5), True),
        ('RMSprop', dict(lr=0.1), True),
        ('Adagrad', dict(lr=0.1), True),
        ('Adamax', dict(lr=0.1), True),
        ('NAdam', dict(lr=0.1), True),
        ('Rprop', dict(lr=0.1), True),
        ('ASGD', dict(lr=0.1), False),
    ],
)
def test_which_optimisers_cancel_a_factor(name, kwargs, expected):
    p = torch.nn.Parameter(torch.ones(3))
    assert is_scale_invariant(getattr(torch.optim, name)([p], **kwargs)) is expected


def one_update(factors, optimizer, apply_to, steps=1, clip=None, losses=CAL['losses'], **kwargs):
    model = build(**{**CAL, 'losses': losses})
    opt = optimizer([p for p in model.parameters() if p.requires_grad], **kwargs)
    modulator = None if factors is None else Constant(factors)
    wrap = CALOptimWrapper(
        optimizer=opt, modulator=modulator, apply_to=apply_to, clip_grad=clip and dict(clip)
    )
    wrap.initialize_count_status(model, 0, steps)
    before = {k: v.clone() for k, v in model.named_parameters()}
    for i in range(steps):
        model.progress = TrainProgress(update=i, max_updates=steps)
        model.train_step(batch(8, seed=i), wrap)
    return {k: (v - before[k]).detach() for k, v in model.named_parameters()}


def owner(name):
    part, modality = name.split('.')[:2]
    return modality if part in ('encoders', 'bottlenecks') else None


@pytest.mark.parametrize('apply_to', ['gradient', 'update'])
def test_constant_factors_under_sgd_are_learning_rates(apply_to):
    plain = one_update(None, torch.optim.SGD, 'auto', lr=0.1)
    scaled = one_update([3.0, 1.0, 2.0], torch.optim.SGD, apply_to, lr=0.1)
    for name, move in plain.items():
        factor = {'a': 3.0, 'b': 1.0, 'c': 2.0, None: 1.0}[owner(name)]
        assert torch.allclose(scaled[name], factor * move, rtol=1e-4, atol=1e-7), name


def test_adam_cancels_a_factor_of_the_gradient_but_not_of_the_update():
    plain = one_update(None, torch.optim.Adam, 'auto', lr=0.01, steps=3)
    gradient = one_update([3.0, 3.0, 3.0], torch.optim.Adam, 'gradient', lr=0.01, steps=3)
    update = one_update([3.0, 3.0, 3.0], torch.optim.Adam, 'update', lr=0.01, steps=3)
    name = 'encoders.a.layers.0.weight' if 'encoders.a.layers.0.weight' in plain else None
    names = (
        [n for n in plain if owner(n) == 'a' and n.endswith('weight')] if name is None else [name]
    )
    for n in names:
        moved = plain[n].abs().mean()
        assert (gradient[n] - plain[n]).abs().mean() < 0.02 * moved
        assert (update[n] - plain[n]).abs().mean() > 0.5 * moved


def test_scaling_comes_before_clipping():
    plain = one_update(None, torch.optim.SGD, 'auto', lr=1.0, clip=dict(max_norm=0.01))
    scaled = one_update(
        [100.0, 1.0, 1.0], torch.optim.SGD, 'gradient', lr=1.0, clip=dict(max_norm=0.01)
    )

    def norm(moves):
        return float(sum((m**2).sum() for m in moves.values()) ** 0.5)

    assert norm(plain) == pytest.approx(0.01, rel=1e-3)
    assert norm(scaled) == pytest.approx(0.01, rel=1e-3)
    share = sum((m**2).sum() for n, m in scaled.items() if owner(n) == 'a') ** 0.5 / 0.01
    assert float(share) > 0.99


def test_feature_target_spares_the_kl():
    """A scale node at z reaches the task gradient only."""
    only_kl = {**CAL, 'losses': [dict(type='AIBLoss', beta=0.1, rule='uniform', warmup=0.0)]}
    grads = []
    for factors in (None, [5.0, 5.0, 5.0]):
        model = build(**only_kl)
        wrap = CALOptimWrapper(
            optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
            modulator=factors and Constant(factors),
            apply_to='feature',
        )
        wrap.initialize_count_status(model, 0, 2)
        model.feature_scale.fill_(5.0 if factors else 1.0)
        total = sum(
            v
            for k, v in model(**model.data_preprocessor(batch(8)), mode='loss').items()
            if 'loss' in k
        )
        total.backward()
        grads.append([p.grad.clone() for p in model.modality_parameters()['a']])
    assert all(torch.allclose(x, y) for x, y in zip(*grads, strict=True))
    task = {**CAL, 'losses': [dict(type='FusedCrossEntropy')]}
    grads = []
    for scale in (1.0, 5.0):
        model = build(**task)
        model.scales_features = True
        model.feature_scale.fill_(scale)
        model(**model.data_preprocessor(batch(8)), mode='loss')['loss_fused'].backward()
        grads.append([p.grad.clone() for p in model.encoders['a'].parameters()])
    assert all(torch.allclose(5 * x, y, rtol=1e-4) for x, y in zip(*grads, strict=True))


def test_the_feature_target_acts_from_the_second_update_on():
    """With the k that the first one found."""
    losses = [dict(type='FusedCrossEntropy')]
    moves = [
        one_update(factors, torch.optim.SGD, target, steps, losses=losses, lr=0.1)
        for factors, target in ((None, 'auto'), ([3.0, 1.0, 2.0], 'feature'))
        for steps in (1, 2)
    ]
    first, both, scaled_first, scaled_both = moves
    for name, move in first.items():
        assert torch.equal(scaled_first[name], move), name
        factor = {'a': 3.0, 'b': 1.0, 'c': 2.0, None: 1.0}[owner(name)]
        expected = factor * (both[name] - move)
        found = scaled_both[name] - move
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)


def test_bad_modulators_and_models():
    with pytest.raises(ValueError, match='not positive'):
        one_update([0.0, 1.0, 1.0], torch.optim.SGD, 'gradient', lr=0.1)
    with pytest.raises(ValueError, match='apply_to must be'):
        one_update([1.0, 1.0, 1.0], torch.optim.SGD, 'grad', lr=0.1)
    for name in ('OGM', 'InfoReg'):  # both do more than their factors
        with pytest.raises(ValueError, match=f"apply_to='feature' leaves {name} nothing"):
            OPTIM_WRAPPERS.get('CALOptimWrapper')(
                optimizer=torch.optim.SGD(build().parameters(), lr=0.1),
                modulator=dict(type=name),
                apply_to='feature',
            )
    plain = dict(type='OGM', noise=False, parameters='all')
    wrap = CALOptimWrapper(
        optimizer=torch.optim.SGD(build().parameters(), lr=0.1), modulator=plain, apply_to='feature'
    )
    assert wrap.modulator.only_scales
    model = build()
    wrap = CALOptimWrapper(
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1), modulator=Constant([1.0, 1.0, 1.0])
    )
    with pytest.raises(ValueError, match=r'model\.contribution is None'):
        wrap.initialize_count_status(model, 0, 1)
    with pytest.raises(TypeError, match='modality_parameters'):
        wrap.initialize_count_status(torch.nn.Linear(2, 2), 0, 1)


def test_amp_on_a_cpu_is_bfloat16_and_applies_the_factors():
    moves = []
    for factors in ([1.0, 1.0, 1.0], [3.0, 1.0, 1.0]):
        model = build(**CAL)
        wrap = CALAmpOptimWrapper(
            optimizer=torch.optim.SGD(model.parameters(), lr=0.1), modulator=Constant(factors)
        )
        wrap.initialize_count_status(model, 0, 1)
        before = [p.clone() for p in model.modality_parameters()['a']]
        model.train_step(batch(8), wrap)
        after = model.modality_parameters()['a']
        moves.append([(b - a).detach() for a, b in zip(before, after, strict=True)])
        assert all(p.dtype == torch.float32 for p in model.parameters())
        state = wrap.state_dict()
        wrap.load_state_dict(state)
    assert all(torch.allclose(3 * x, y, rtol=1e-3, atol=1e-6) for x, y in zip(*moves, strict=True))
    with pytest.raises(ValueError, match='bfloat16'):
        CALAmpOptimWrapper(optimizer=torch.optim.SGD(model.parameters(), lr=0.1), dtype='float16')


def test_every_own_wrapper_has_an_amp_variant():
    for name in OPTIM_WRAPPERS.module_dict:
        variant = amp_variant(name)
        assert variant is not None, name
        assert amp_variant(variant) == variant
    assert amp_variant('OptimWrapper') == 'AnyDeviceAmpOptimWrapper'
    assert amp_variant('NoSuchOptimWrapper') is None
