"""MMPareto and MLA against straightforward computations."""

import copy

import numpy as np
import pytest
import torch
from builders import CLASSES, batch, build
from scipy.optimize import minimize_scalar
from torch.nn import functional as F

from cal_mm.engine.optim_wrappers import (
    AlternatingAmpOptimWrapper,
    AlternatingOptimWrapper,
    ParetoAmpOptimWrapper,
    ParetoOptimWrapper,
)
from cal_mm.engine.optim_wrappers.alternating import updated_projection
from cal_mm.engine.optim_wrappers.pareto import pareto_gradients, pareto_weights
from cal_mm.models.fusions.shared_head import certainty_weights
from cal_mm.structures import TrainProgress

UNIMODAL = dict(
    unimodal_head=dict(type='LinearHead'),
    losses=[dict(type='FusedCrossEntropy'), dict(type='UnimodalCrossEntropy')],
)
SHARED = dict(
    fusion=dict(type='SharedHeadFusion'),
    unimodal_head='fusion',
    losses=[dict(type='UnimodalCrossEntropy')],
)
LR = 0.1


def wrapped(kind, model, every=1, **kwargs):
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    wrapper = kind(optimizer=optimizer, accumulative_counts=every, **kwargs)
    wrapper.initialize_count_status(model, 0, 100)
    return wrapper


@pytest.mark.parametrize('seed', range(6))
def test_weights_minimise_the_norm(seed):
    rng = np.random.default_rng(seed)
    f, u = rng.normal(size=5), rng.normal(size=5)
    f = f - (1.2 if seed % 2 else 0.1) * (f @ u) / (u @ u) * u * (f @ u > 0) - 0.3 * u
    a, b = pareto_weights(*(torch.tensor(v) for v in (f @ u, f @ f, u @ u))).tolist()
    assert a + b == pytest.approx(1)
    if f @ u > 0:
        assert a == 0.5
        return
    best = minimize_scalar(
        lambda t: np.linalg.norm(t * f + (1 - t) * u), bounds=(0, 1), options=dict(xatol=1e-10)
    )
    assert a == pytest.approx(best.x, abs=1e-5)
    both = a * f + b * u  # no conflict with either
    assert both @ f > -1e-12
    assert both @ u > -1e-12


def test_weights_at_the_edges():
    def weights(f, u):
        f, u = torch.tensor(f).double(), torch.tensor(u).double()
        return pareto_weights(f @ u, f @ f, u @ u).tolist()

    assert weights([0.0, 0], [0, 0]) == [0.5, 0.5]
    assert weights([1.0, 0], [-1, 0]) == [0.5, 0.5]
    assert weights([3.0, 0], [-1, 0]) == pytest.approx([0.25, 0.75])
    assert weights([0.0, 0], [1, 2]) == pytest.approx([1, 0])


def by_hand(fused, unimodal, gamma):
    """As the public code does it, tensor by tensor, in numpy."""
    f, u = (np.concatenate([t.ravel() for t in x]) for x in (fused, unimodal))
    a = 0.5
    if f @ u <= 0:
        # d/da |a f + (1 - a) u|^2 = 0, by bisection
        low, high = 0.0, 1.0
        for _ in range(80):
            a = (low + high) / 2
            slope = (a * f + (1 - a) * u) @ (f - u)
            low, high = (low, a) if slope > 0 else (a, high)
    out = []
    for x, y in zip(fused, unimodal, strict=True):
        h = 2 * a * x + 2 * (1 - a) * y
        ratio = np.linalg.norm(x + y) / np.linalg.norm(h)
        out.append((ratio if ratio > 1 else 1) * h * gamma)
    return out


@pytest.mark.parametrize('sign', [1, -1])
def test_gradients_of_an_encoder(sign):
    rng = np.random.default_rng(3)
    fused = [rng.normal(size=(3, 2)), rng.normal(size=4)]
    unimodal = [sign * f + rng.normal(size=f.shape) * 0.6 for f in fused]
    found = pareto_gradients(*([torch.from_numpy(t) for t in x] for x in (fused, unimodal)), 1.5)
    for a, b in zip(found, by_hand(fused, unimodal, 1.5), strict=True):
        np.testing.assert_allclose(a.numpy(), b, rtol=1e-9)


def separate_gradients(model, data):
    state = model.state(**model.data_preprocessor(data, True), training=True)
    params = list(model.parameters())
    losses = [F.cross_entropy(state.logits, state.labels)]
    losses.append(
        sum(F.cross_entropy(state.unimodal_logits(m), state.labels) for m in model.modalities)
    )
    return [
        torch.autograd.grad(loss, params, retain_graph=True, allow_unused=True) for loss in losses
    ]


def test_mmpareto_step():
    model = build(**UNIMODAL)
    data = batch(12)
    fused, unimodal = separate_gradients(copy.deepcopy(model), data)
    before = [p.detach().clone() for p in model.parameters()]
    index = {id(p): i for i, p in enumerate(model.parameters())}
    owned = {m: [index[id(p)] for p in ps] for m, ps in model.modality_parameters().items()}
    model.train_step(data, wrapped(ParetoOptimWrapper, model))
    steps = [(b - p.detach()) / LR for b, p in zip(before, model.parameters(), strict=True)]
    seen = set()
    for where in owned.values():
        expected = by_hand(
            [fused[i].numpy() for i in where], [unimodal[i].numpy() for i in where], 1.5
        )
        for i, e in zip(where, expected, strict=True):
            np.testing.assert_allclose(steps[i].numpy(), e, rtol=1e-3, atol=1e-6)
        seen.update(where)
    for i, (f, u) in enumerate(zip(fused, unimodal, strict=True)):
        if i not in seen:
            plain = sum(g for g in (f, u) if g is not None)
            torch.testing.assert_close(steps[i], plain, rtol=1e-3, atol=1e-6)


def test_mmpareto_needs_unimodal_losses():
    model = build()
    with pytest.raises(ValueError, match='UnimodalCrossEntropy'):
        model.train_step(batch(4), wrapped(ParetoOptimWrapper, model))
    with pytest.raises(ValueError, match='gamma must be > 0'):
        wrapped(ParetoOptimWrapper, model, gamma=0.0)


def test_projection_by_hand():
    rng = np.random.default_rng(0)
    p, r, alpha = np.eye(4), rng.normal(size=4), 0.05
    for _ in range(3):
        new = updated_projection(torch.from_numpy(p), torch.from_numpy(r), alpha).numpy()
        k = p @ r
        p = p - np.outer(k, k) / (alpha + k @ r)
        p = p / np.sqrt((p**2).sum())
        np.testing.assert_allclose(new, p, rtol=1e-12)
        # a gradient along r is nearly taken away
        assert np.linalg.norm(p @ r) < 0.1 * np.linalg.norm(r) * np.linalg.norm(p)
        r = rng.normal(size=4)


@pytest.mark.parametrize('project', [True, False])
def test_mla_is_a_sequence_of_steps(project):
    """The steps of two updates, each written out with an optimiser of its own."""
    model = build(**SHARED)
    reference = copy.deepcopy(model)
    wrapper = wrapped(AlternatingOptimWrapper, model, project=project)
    p, first = None, True
    for number in range(2):
        data = batch(10)
        model.progress = TrainProgress(update=number, max_updates=4, max_epochs=1)
        model.train_step(data, wrapper)
        inputs = reference.data_preprocessor(data, True)
        for m in reference.modalities:
            head = reference.fusion.shared_head
            params = [*reference.modality_parameters()[m], *head.parameters()]
            z = reference.state(**inputs).z[m]
            labels = torch.stack([s.gt_label for s in data['data_samples']])
            grads = torch.autograd.grad(F.cross_entropy(head(z), labels), params)
            grads = dict(zip(params, grads, strict=True))
            r = z.detach().mean(0)
            if first:
                p, first = torch.eye(len(r)), False
            else:
                k = p @ r
                p = p - torch.outer(k, k) / (0.1 ** (1 + number / 4) + k @ r)
                p = p / p.norm()
                if project:
                    grads[head.weight] = grads[head.weight] @ p.T
            with torch.no_grad():
                for q, g in grads.items():
                    q -= LR * g
    for a, b in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_mla_keeps_its_projection_in_the_checkpoint():
    model = build(**SHARED)
    wrapper = wrapped(AlternatingOptimWrapper, model)
    model.train_step(batch(8), wrapper)
    other = wrapped(AlternatingOptimWrapper, copy.deepcopy(model))
    other.load_state_dict(copy.deepcopy(wrapper.state_dict()))
    assert torch.equal(other._projection, wrapper._projection)
    with pytest.raises(TypeError, match='SharedHeadFusion'):
        wrapped(AlternatingOptimWrapper, build())


@pytest.mark.parametrize(
    ('kind', 'overrides'), [(ParetoAmpOptimWrapper, UNIMODAL), (AlternatingAmpOptimWrapper, SHARED)]
)
def test_mixed_precision(kind, overrides):
    model = build(**overrides)
    wrapper = wrapped(kind, model, every=2)
    before = [p.detach().clone() for p in model.parameters()]
    for _ in range(2):
        model.train_step(batch(6), wrapper)
    moved = [not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
    assert sum(moved) > len(moved) / 2
    assert all(torch.isfinite(p).all() for p in model.parameters())
    copy.deepcopy(model)  # no graph is left behind


def test_certainty_weights():
    logits = torch.randn(5, 3, CLASSES, generator=torch.Generator().manual_seed(0)).double()
    p = logits.softmax(-1)
    entropy = -(p * p.log()).sum(-1)
    expected = (entropy.max(1, keepdim=True).values - entropy).exp()
    expected = expected / expected.sum(1, keepdim=True)
    torch.testing.assert_close(certainty_weights(logits), expected)
    present = torch.tensor([[True, False, True]] * 4 + [[False] * 3])
    found = certainty_weights(logits, present)
    assert (found[:, 1] == 0).all()
    torch.testing.assert_close(found.sum(1), torch.tensor([1.0, 1, 1, 1, 0]).double())
    two = certainty_weights(logits[:4, [0, 2]])
    torch.testing.assert_close(found[:4, [0, 2]], two)


def test_one_width_is_needed():
    from cal_mm.registry import FUSIONS

    with pytest.raises(ValueError, match='one width'):
        FUSIONS.build(dict(type='SharedHeadFusion', in_channels=dict(a=3, b=4), num_classes=2))
    with pytest.raises(ValueError, match="'entropy' or 'equal'"):
        FUSIONS.build(
            dict(type='SharedHeadFusion', in_channels=dict(a=3), num_classes=2, weights='some')
        )
