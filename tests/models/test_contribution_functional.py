"""The maths of W^m against slow, independent references."""

import itertools
import math

import numpy as np
import pytest
import torch
from builders import CAL, batch, build

from cal_mm.models.contribution import ContributionTracker
from cal_mm.models.contribution.functional import (
    CONFIDENCE_KINDS,
    best_temperature,
    coalition_masks,
    coalition_plan,
    confidence,
    contribution_weights,
    dynamic_weights,
    entropy_of,
    information_from_values,
    information_quantity,
    sampled_shapley_values,
    shapley_values,
    told_information,
)
from cal_mm.registry import CONTRIBUTIONS


def shapley_by_orders(values: np.ndarray) -> np.ndarray:
    """Average marginal gain over all M! orders."""
    m = int(math.log2(len(values)))
    phi = np.zeros((m, *values.shape[1:]))
    for order in itertools.permutations(range(m)):
        coalition = 0
        for i in order:
            phi[i] += values[coalition | 1 << i] - values[coalition]
            coalition |= 1 << i
    return phi / math.factorial(m)


@pytest.mark.parametrize('m', [1, 2, 3, 4, 5, 6])
def test_shapley_equals_a_loop_over_all_orders(m):
    values = torch.randn(2**m, 4, generator=torch.Generator().manual_seed(m), dtype=torch.float64)
    expected = shapley_by_orders(values.numpy())
    assert np.abs(shapley_values(values).numpy() - expected).max() < 1e-12
    assert np.abs(shapley_values(values.float()).numpy() - expected).max() < 1e-5


def test_shapley_axioms():
    g = torch.Generator().manual_seed(0)
    v, w = torch.randn(2, 16, generator=g, dtype=torch.float64)
    total = shapley_values(v).sum()
    assert float(total) == pytest.approx(float(v[-1] - v[0]), abs=1e-12)  # efficiency
    both = shapley_values(2 * v - 3 * w)  # linearity
    assert torch.allclose(both, 2 * shapley_values(v) - 3 * shapley_values(w))
    null = v.clone()  # modality 2 never changes anything
    for s in range(16):
        null[s] = v[s & ~4]
    assert float(shapley_values(null)[2]) == pytest.approx(0, abs=1e-12)
    size = coalition_masks(4).sum(dim=1)  # a game of size alone is symmetric
    phi = shapley_values(size.double() ** 2)
    assert torch.allclose(phi, phi[0].expand(4))


def test_shapley_takes_integers_and_half_and_refuses_other_sizes():
    assert shapley_values(torch.tensor([0, 1, 2, 5])).tolist() == [2.0, 3.0]
    assert shapley_values(torch.zeros(4, dtype=torch.float16)).dtype == torch.float32
    for shape in [(3,), (1,), (0,), ()]:
        with pytest.raises(ValueError, match=r'2\*\*M'):
            shapley_values(torch.zeros(shape))


def test_bit_order_of_the_masks():
    masks = coalition_masks(3)
    assert masks[0].tolist() == [False, False, False]
    assert masks[1].tolist() == [True, False, False]
    assert masks[6].tolist() == [False, True, True]


def test_exact_plan_is_the_exact_value():
    values = torch.randn(8, 5, generator=torch.Generator().manual_seed(3))
    plan = coalition_plan(3)
    assert torch.equal(plan.masks, coalition_masks(3))
    assert torch.allclose(plan.shapley(values), shapley_values(values))
    assert plan.standard_error(values).abs().max() == 0


def test_sampled_values_are_exact_in_sum_and_near_in_each():
    m, weights = 8, torch.randn(8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def game(masks):
        x = masks.double() @ weights
        return x + 0.2 * x**2

    phi, error = sampled_shapley_values(game, m, num_permutations=400)
    exact = shapley_values(game(coalition_masks(m)))
    grand = game(torch.ones(1, m, dtype=torch.bool))[0]
    assert float(phi.sum()) == pytest.approx(float(grand), abs=1e-10)
    assert ((phi - exact).abs() <= 5 * error + 1e-9).all()
    assert float(error.max()) < 0.2
    with pytest.raises(ValueError, match='at least 4'):
        sampled_shapley_values(game, m, num_permutations=2)


def test_sampled_plan_starts_empty_and_ends_full():
    plan = coalition_plan(7, max_exact=6, num_permutations=8)
    assert not plan.masks[0].any()
    assert plan.masks[-1].all()
    assert len(plan.masks.unique(dim=0)) == len(plan.masks)
    assert torch.allclose(plan.matrix.sum(dim=1), torch.zeros(7, dtype=torch.float64))


def test_information_by_hand():
    # two modalities, two samples, two equally likely classes
    p = torch.tensor([[0.5, 0.5], [0.9, 0.8], [0.5, 0.5], [0.9, 0.8]], dtype=torch.float64)
    prior = torch.full((2,), math.log(0.5), dtype=torch.float64)
    expected = (math.log(0.9 / 0.5) + math.log(0.8 / 0.5)) / 2
    info = information_quantity(p.log(), prior)
    assert info.tolist() == pytest.approx([expected, 0.0])
    normalised = information_quantity(p.log(), prior, normalize=True)
    assert normalised.tolist() == pytest.approx([expected / math.log(2), 0.0])


def test_information_sums_to_the_grand_coalition_and_is_bounded():
    g = torch.Generator().manual_seed(2)
    log_probs = torch.rand(8, 50, generator=g, dtype=torch.float64).log()
    prior = torch.full((50,), math.log(0.25), dtype=torch.float64)
    info = information_quantity(log_probs, prior)
    expected = max(float((log_probs[-1] - prior).mean()), -math.log(4))
    assert float(info.sum()) == pytest.approx(expected)
    wrong = torch.full((4, 10), -1e6, dtype=torch.float64)  # confidently wrong
    info = information_quantity(wrong, torch.full((10,), math.log(0.25), dtype=torch.float64))
    assert info.tolist() == pytest.approx([-math.log(4) / 2] * 2)


def test_information_with_a_plan():
    values = torch.randn(8, generator=torch.Generator().manual_seed(0)).abs()
    values[0] = 0
    a = information_from_values(values, 1.0)
    assert torch.allclose(a, information_from_values(values, 1.0, coalition_plan(3)))


@pytest.mark.parametrize('kind', CONFIDENCE_KINDS)
def test_confidence_is_between_zero_and_one(kind):
    g = torch.Generator().manual_seed(0)
    logits = 20 * torch.randn(200, 7, generator=g)
    labels = torch.randint(7, (200,), generator=g)
    d = confidence(logits, kind, labels)
    assert d.shape == (200,)
    assert (d >= 0).all()
    assert (d <= 1).all()


def test_confidence_by_hand():
    p = torch.tensor([[0.7, 0.2, 0.1]], dtype=torch.float64)
    entropy = -sum(x * math.log(x) for x in (0.7, 0.2, 0.1))
    logits = p.log()
    assert float(confidence(logits)[0]) == pytest.approx(1 - entropy / math.log(3))
    assert float(confidence(logits, 'max_prob')[0]) == pytest.approx(0.7)
    assert float(confidence(logits, 'margin')[0]) == pytest.approx(0.5)
    assert float(confidence(logits, 'true_class', torch.tensor([2]))[0]) == pytest.approx(0.1)
    assert float(confidence(logits, 'energy')[0]) == pytest.approx(1 / (1 + 3))  # sum exp = 1
    uniform = torch.zeros(1, 3)
    assert float(confidence(uniform)[0]) == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match='unknown confidence kind'):
        confidence(logits, 'entropie')
    with pytest.raises(ValueError, match='needs labels'):
        confidence(logits, 'true_class')
    with pytest.raises(ValueError, match='at least 2 classes'):
        confidence(torch.zeros(3, 1))


def test_weights():
    information, d = torch.tensor([0.8, 0.1]), torch.tensor([0.5, 0.9])
    w = contribution_weights(information, d, lam=0.25, tau=0.5)
    scores = np.array([0.25 * 0.8 + 0.75 * 0.5, 0.25 * 0.1 + 0.75 * 0.9]) / 0.5
    expected = np.exp(scores) / np.exp(scores).sum()
    assert w.tolist() == pytest.approx(expected.tolist(), abs=1e-6)
    w = contribution_weights(information, d, tau=0.5, combine='product')
    scores = np.array([0.4, 0.09]) / 0.5
    assert w.tolist() == pytest.approx((np.exp(scores) / np.exp(scores).sum()).tolist(), abs=1e-6)
    batch = contribution_weights(torch.rand(5, 3), torch.rand(5, 3))
    assert torch.allclose(batch.sum(dim=-1), torch.ones(5))
    for bad in (dict(lam=1.5), dict(tau=0.0), dict(combine='mean')):
        with pytest.raises(ValueError):  # noqa: PT011  (three messages)
            contribution_weights(information, d, **bad)


def test_told_information_by_hand():
    prior = torch.tensor([0.5, 0.3, 0.2])
    labels = torch.tensor([0, 1, 2, 0])
    p = torch.tensor([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.3, 0.3, 0.4], [0.6, 0.2, 0.2]])
    of_prior = -sum(math.log(prior[k]) for k in labels) / 4
    of_p = -sum(math.log(p[i, k]) for i, k in enumerate(labels)) / 4
    got = told_information(p.log() + 3.0, labels, prior.log())
    assert float(got) == pytest.approx(1 - of_p / of_prior, abs=1e-6)
    nothing = told_information(prior.log().expand(4, 3), labels, prior.log().double())
    assert float(nothing) == pytest.approx(0, abs=1e-6)
    assert float(told_information(-5 * p.log(), labels, prior.log())) < 0


def test_best_temperature_flattens_noise_and_keeps_signal():
    g = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (400,), generator=g)
    noise = torch.randn(400, 4, generator=g) * 8
    assert best_temperature(noise, labels) > 20
    signal = 3 * torch.nn.functional.one_hot(labels, 4) + torch.randn(400, 4, generator=g)
    assert 0.2 < best_temperature(signal, labels) < 1.5


def test_dynamic_weights():
    information = torch.tensor([0.4, 0.1, -0.3, 0.3])
    s = dynamic_weights(information, floor=0.1, pivot=0.9, share=0.5)
    assert s.tolist() == pytest.approx([1, 0.1 + 0.9 * 0.5, 0.1, 1])
    assert dynamic_weights(information / 50).tolist() == pytest.approx(s.tolist())
    enough = dynamic_weights(information, floor=0.1, pivot=0.1)
    assert enough.tolist() == pytest.approx([1, 1, 0.1, 1])
    assert dynamic_weights(information, floor=1.0).tolist() == [1] * 4
    assert dynamic_weights(-information.abs()).tolist() == [1] * 4  # nobody tells anything
    control = dynamic_weights(information, pivot=0.9, rule='uniform')
    assert control.tolist() == pytest.approx([2.65 / 4] * 4)
    inverse = dynamic_weights(information, pivot=0.9, rule='inverse')
    assert sorted(inverse.tolist()) == pytest.approx(sorted(s.tolist()))
    assert float(inverse[2]) == 1
    assert float(inverse[0]) < 0.6
    assert dynamic_weights(torch.rand(5, 3)).shape == (5, 3)
    for bad in (dict(floor=-0.1), dict(pivot=0.0), dict(share=1.5), dict(rule='invers')):
        with pytest.raises(ValueError, match=next(iter(bad))):
            dynamic_weights(information, **bad)


def test_averages_by_hand():
    """W moves from 1/M on; I and D are plain means until the window of ten updates is full."""
    tracker = ContributionTracker(
        {'a': 3, 'b': 3},
        2,
        information=dict(type='UnimodalInformation'),
        lam=0.25,
        tau=0.5,
        momentum=0.9,
    )
    prior, w = torch.tensor([0.5, 0.5]).log(), np.full(2, 0.5)
    seen, mean = [], np.zeros((2, 2))
    for i in range(14):
        now = np.array([[0.1 * (i % 4), 0.3], [0.2, 0.05 * i]])
        for name, values in zip(('information', 'confidence'), now, strict=True):
            tracker.ledger.add(name, torch.from_numpy(values)[None])
        e = np.exp((0.25 * now[0] + 0.75 * now[1]) / 0.5)
        w = 0.9 * w + 0.1 * e / e.sum()
        seen.append(now)
        mean = np.mean(seen, axis=0) if i < 10 else 0.9 * mean + 0.1 * now
        assert tracker.update(prior).tolist() == pytest.approx(w.tolist(), abs=1e-6)
        assert tracker.information.tolist() == pytest.approx(mean[0].tolist(), abs=1e-6)
        assert tracker.confidence.tolist() == pytest.approx(mean[1].tolist(), abs=1e-6)


def estimated(name, present, **kwargs):
    """Values of an estimator for a batch in which the mask holds."""
    model = build(**CAL)
    state = model.state(**model.data_preprocessor(batch(4), False))
    state.present = present
    return CONTRIBUTIONS.build(dict(type=name, **kwargs)), state


@pytest.mark.parametrize('name', ['UnimodalInformation', 'LearningPotential'])
def test_a_missing_modality_tells_nothing(name):
    present = torch.ones(4, 3, dtype=torch.bool)
    present[1, 0] = present[2, 1] = False
    whole, masked = (
        estimator.statistics(state)
        for estimator, state in (estimated(name, None), estimated(name, present))
    )
    assert (whole != 0).all()
    assert torch.equal(masked, whole * present)


@torch.no_grad()
def drawn_state(count=7):
    """A training state, in which z is a draw, under an uneven prior; and its model."""
    model = build(**CAL)
    model.class_log_prior.copy_(torch.tensor([0.5, 0.3, 0.2]).log())
    state = model.state(**model.data_preprocessor(batch(count)), training=True)
    assert not torch.equal(state.z['a'], state.mu['a'])
    return model, state


@torch.no_grad()
def test_estimators_by_loops():
    """On the means, one coalition after the other."""
    model, state = drawn_state()
    prior, y = model.class_log_prior, state.labels
    entropy = -sum(p * math.log(p) for p in (0.5, 0.3, 0.2))
    log_p = {'': prior.expand(7, -1)}
    for size in (1, 2, 3):
        for names in itertools.combinations('abc', size):
            logits = model.fusion({m: state.mu[m] for m in names})
            log_p[''.join(names)] = logits.log_softmax(dim=1)
    right = {s: (p.argmax(dim=1) == y).tolist() for s, p in log_p.items()}
    names = ('LeaveOneOutInformation', 'UnimodalInformation', 'ShapleyAccuracy')
    without, alone, accuracy = (CONTRIBUTIONS.build(dict(type=n))(state) for n in names)
    for j, m in enumerate('abc'):
        u = model.heads[m](state.mu[m]).log_softmax(dim=1)
        rest = log_p['abc'.replace(m, '')]
        for i, k in enumerate(y.tolist()):
            expected = float(log_p['abc'][i, k] - rest[i, k]) / entropy
            assert float(without[i, j]) == pytest.approx(expected, abs=1e-5)
            expected = float(u[i, k] - prior[k]) / entropy
            assert float(alone[i, j]) == pytest.approx(expected, abs=1e-5)
            gains = []
            for order in map(''.join, itertools.permutations('abc')):
                earlier = order[: order.index(m)]
                joined = ''.join(sorted(earlier + m))
                gains.append(right[joined][i] - right[''.join(sorted(earlier))][i])
            assert float(accuracy[i, j]) == pytest.approx(sum(gains) / 6 / 0.5, abs=1e-5)
    bounded = CONTRIBUTIONS.build(dict(type='UnimodalInformation'))
    assert bounded.summarise(torch.tensor([-3.0, 0.2]), prior).tolist() == pytest.approx([-1, 0.2])


@torch.no_grad()
@pytest.mark.parametrize('kind', CONFIDENCE_KINDS)
def test_the_confidence_estimator_has_its_kind(kind):
    model, state = drawn_state()
    d = CONTRIBUTIONS.build(dict(type='Confidence', kind=kind))(state)
    for j, m in enumerate('abc'):
        expected = confidence(model.heads[m](state.mu[m]), kind, state.labels)
        torch.testing.assert_close(d[:, j], expected)


def test_learning_potential_by_hand():
    estimator = CONTRIBUTIONS.build(dict(type='LearningPotential', window=10))
    slow = fast = 2.0
    for loss in (2.0, 1.5, 1.2, 0.7):
        slow, fast = slow + 0.1 * (loss - slow), fast + 0.5 * (loss - fast)
        found = estimator.summarise(torch.tensor([loss, 2.0]), torch.zeros(3))
        assert found.tolist() == pytest.approx([(slow - fast) / slow, 0], abs=1e-6)


def test_averages_keep_their_device_whatever_the_checkpoint_is_on():
    estimator = CONTRIBUTIONS.build(dict(type='LearningPotential'))
    stored = {k: torch.ones(3, device='meta') for k in ('slow', 'fast')}
    estimator._load_from_state_dict(stored, '', {}, True, [], [], [])
    assert estimator.slow.shape == (3,)
    assert estimator.slow.device.type == 'cpu'


@torch.no_grad()
def test_the_estimator_knows_the_error_of_sampled_orders():
    dims = dict.fromkeys('abcdefg', 3)
    model = build(dims=dims, **CAL)
    state = model.state(**model.data_preprocessor(batch(6, dims=dims), False))
    estimator = CONTRIBUTIONS.build(dict(type='ShapleyInformation'))
    mean = estimator.statistics(state).double().mean(dim=0)
    assert estimator.sampling_error is None
    estimator.summarise(mean, state.log_prior.double())
    entropy = entropy_of(state.log_prior.double())
    bounded = mean.clamp_min(-float(entropy))
    expected = estimator.plan(7).standard_error(bounded) / entropy
    assert float(expected.max()) > 0
    assert torch.allclose(estimator.sampling_error, expected)
    small, state = estimated('ShapleyInformation', None)
    small.summarise(small.statistics(state).mean(dim=0), state.log_prior)
    assert small.sampling_error is None
