"""What the modality analysis computes, against independent computations."""

import itertools
import math

import pytest
import torch
from builders import CLASSES, batch, build
from torch.nn import functional as F

from cal_mm.evaluation.analysis import (
    error_cosines,
    fisher_traces,
    gradient_facts,
    linear_probe,
    shapley_report,
)

HEADS = dict(unimodal_head=dict(type='LinearHead'))


def test_shapley_against_all_orders():
    g = torch.Generator().manual_seed(0)
    coalitions = torch.randn(8, 40, CLASSES, generator=g)
    labels = torch.randint(CLASSES, (40,), generator=g)
    prior = torch.tensor([0.5, 0.3, 0.2]).log()
    names = ('a', 'b', 'c')
    found = shapley_report(coalitions, labels, prior, names)

    def value(members, kind):  # bit i of the row is modality i
        row = sum(1 << i for i in members)
        log_p = coalitions[row].log_softmax(-1) if row else prior.expand(40, -1)
        if kind == 'accuracy':
            return 100 * (log_p.argmax(-1) == labels).float().mean().item()
        return log_p[torch.arange(40), labels].mean().item()

    for kind in ('accuracy', 'log_likelihood'):
        for i, m in enumerate(names):
            gains = [
                value(set(order[: order.index(i) + 1]), kind)
                - value(set(order[: order.index(i)]), kind)
                for order in itertools.permutations(range(3))
            ]
            assert found[kind][m]['value'] == pytest.approx(sum(gains) / 6, abs=1e-4)
        total = sum(v['value'] for v in found[kind].values())
        assert total == pytest.approx(value({0, 1, 2}, kind) - value(set(), kind), abs=1e-4)


def test_the_masks_are_in_that_order():
    from cal_mm.models.contribution.functional import coalition_plan

    masks = coalition_plan(3).masks.tolist()
    assert masks == [[bool(row >> i & 1) for i in range(3)] for row in range(8)]


def test_probe_finds_what_is_linear_and_nothing_in_noise():
    g = torch.Generator().manual_seed(0)
    y = torch.arange(300) % 3
    signal = F.one_hot(y, 3).float() * 4 + torch.randn(300, 3, generator=g)
    noise = torch.randn(300, 5, generator=g)
    good = linear_probe(signal[:200], y[:200], signal[200:], y[200:])
    bad = linear_probe(noise[:200], y[:200], noise[200:], y[200:])
    assert good['accuracy'] > 90
    assert abs(bad['accuracy'] - 100 / 3) < 4 * bad['error']
    assert good['error'] == pytest.approx(
        100 * math.sqrt(good['accuracy'] / 100 * (1 - good['accuracy'] / 100) / 100)
    )


def test_error_cosines_by_hand():
    labels = torch.tensor([0, 0])
    u = dict(a=torch.tensor([[2.0, 0.0, 0.0]] * 2), b=torch.tensor([[2.0, 0.0, 0.0]] * 2))
    assert error_cosines(u, labels)['a, b'] == pytest.approx(1.0)
    u['b'] = torch.tensor([[0.0, 9.0, 0.0], [0.0, 0.0, 9.0]])
    a = torch.tensor([2.0, 0, 0]).softmax(0) - torch.tensor([1.0, 0, 0])
    b = torch.tensor([0.0, 9, 0]).softmax(0) - torch.tensor([1.0, 0, 0])
    expected = float(a @ b / a.norm() / b.norm())
    assert error_cosines(u, labels)['a, b'] == pytest.approx(expected, abs=1e-5)


def test_gradients_are_those_of_the_mean_loss_however_it_is_batched():
    model = build(**HEADS)
    whole, halves = batch(12), [batch(12)]
    parts = [
        dict(
            inputs={m: v[i : i + 5] for m, v in halves[0]['inputs'].items()},
            data_samples=halves[0]['data_samples'][i : i + 5],
        )
        for i in (0, 5, 10)
    ]
    one, three = gradient_facts(model, [whole]), gradient_facts(model, parts)
    model.eval()
    state = model.state(**model.data_preprocessor(whole, False))
    for m in model.modalities:
        params = model.modality_parameters()[m]
        fused = torch.autograd.grad(
            F.cross_entropy(state.logits, state.labels), params, retain_graph=True
        )
        alone = torch.autograd.grad(
            F.cross_entropy(state.unimodal_logits(m), state.labels), params, retain_graph=True
        )
        fused, alone = (torch.cat([g.flatten() for g in gs]) for gs in (fused, alone))
        for found in (one, three):
            assert found[m]['fused'] == pytest.approx(float(fused.norm()), rel=1e-4)
            assert found[m]['cosine'] == pytest.approx(
                float(fused @ alone / fused.norm() / alone.norm()), abs=1e-4
            )
    plain = gradient_facts(build(), [whole])
    assert plain['a']['unimodal'] is None
    assert plain['a']['cosine'] is None


def test_fisher_is_the_mean_squared_score():
    model = build(**HEADS)
    singles = [
        dict(
            inputs={m: [v[i]] for m, v in batch(6)['inputs'].items()},
            data_samples=[batch(6)['data_samples'][i]],
        )
        for i in range(6)
    ]
    found = fisher_traces(model, singles, labels='data')
    model.eval()
    params = model.modality_parameters()['b']
    squares = []
    for single in singles:
        state = model.state(**model.data_preprocessor(single, False))
        score = state.logits.log_softmax(-1)[0, state.labels[0]]
        grads = torch.autograd.grad(score, params)
        squares.append(sum(float(g.square().sum()) for g in grads))
    assert found['b']['trace'] == pytest.approx(sum(squares) / 6, rel=1e-4)
    drawn = fisher_traces(model, singles, labels='model')
    assert drawn['b']['trace'] != found['b']['trace']
    assert drawn == fisher_traces(model, singles, labels='model')
    with pytest.raises(ValueError, match="'model' or 'data'"):
        fisher_traces(model, singles, labels='some')


def test_nothing_changes_the_model():
    model = build(**HEADS).train()
    model.data_preprocessor(batch(1), False)  # it remembers the shapes that it has seen
    before = {k: v.clone() for k, v in model.state_dict().items()}
    gradient_facts(model, [batch(4)])
    fisher_traces(model, [batch(1)])
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
