"""PMR: prototypes, coefficients and the loss, against loops in float64."""

import math

import pytest
import torch
from builders import batch, build

from cal_mm.models.losses.prototypes import (
    PrototypeRebalance,
    class_means,
    prototype_logits,
    rebalance_coefficients,
)
from cal_mm.models.update_mean import UpdateMean
from cal_mm.structures import TrainProgress

LOSSES = [dict(type='FusedCrossEntropy'), dict(type='PrototypeRebalance', alpha=0.5)]


def table(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_distances_and_means_by_loops():
    z, protos = table(5, 3), table(4, 3, seed=1)
    logits = prototype_logits(z, protos)
    for i in range(5):
        for k in range(4):
            expected = -math.sqrt(sum(float(z[i, d] - protos[k, d]) ** 2 for d in range(3)))
            assert float(logits[i, k]) == pytest.approx(expected, rel=1e-12)
    labels = torch.tensor([0, 2, 2, 0, 1])
    present = torch.tensor([True, True, False, True, True])
    means, seen = class_means(z, labels, 4, present)
    assert torch.allclose(means[0], (z[0] + z[3]) / 2)
    assert torch.equal(means[2], z[1])
    assert seen.tolist() == [True, True, True, False]


def test_a_sample_on_its_prototype_has_a_gradient():
    z = table(2, 3).requires_grad_()
    prototype_logits(z, z.detach()[:1]).sum().backward()
    assert torch.isfinite(z.grad).all()


def test_coefficients():
    scores = torch.tensor([0.6, 0.3, 0.5], dtype=torch.float64)
    assert rebalance_coefficients(scores).tolist() == [0, 1, 0]
    assert rebalance_coefficients(torch.ones(2)).tolist() == [0, 0]
    gap = rebalance_coefficients(scores, 'gap')
    assert gap.tolist() == pytest.approx([0, 1, 0.2])  # 0.6 / 0.3 - 1 is clipped at 1


def test_new_prototypes_are_mixed_with_the_old():
    loss = PrototypeRebalance(momentum=0.25)
    loss.setup({'a': 2, 'b': 3}, 2)
    first, second = torch.ones(2, 2), torch.full((2, 2), 3.0)
    loss.set_prototypes('a', first, torch.tensor([True, False]))
    loss.set_prototypes('a', second, torch.tensor([True, True]))
    held = loss.get_buffer('prototypes_of_a')
    assert held[0].tolist() == pytest.approx([0.25 * 1 + 0.75 * 3] * 2)
    assert held[1].tolist() == [3, 3]  # seen for the first time: nothing to mix with
    loss.set_prototypes('a', first, torch.tensor([True, False]), anew=True)
    assert held.tolist() == [[1, 1], [3, 3]]


def update(model, number, data):
    model.progress = TrainProgress(update=number, max_updates=9)
    data = model.data_preprocessor(data, training=True)
    return model(**data, mode='loss'), model.state(**data)


@pytest.mark.parametrize('missing', [(), ((2, 'a'), (3, 'c'))])
def test_loss_of_the_modality_that_was_weaker(missing):
    """The first update decides for the second."""
    model = build(losses=LOSSES)
    data = batch(12, missing=missing)
    assert not [k for k in update(model, 0, data)[0] if 'pmr' in k]  # no prototypes yet
    loss = model.losses[1]
    for i, m in enumerate(model.modalities):
        width = loss.get_buffer(f'prototypes_of_{m}').shape[1]
        loss.set_prototypes(m, table(3, width, seed=i).float(), torch.ones(3, dtype=torch.bool))
    first, state = update(model, 1, data)
    assert not [k for k in first if 'pmr' in k]  # nobody knows yet who is weaker
    second, _ = update(model, 2, data)
    scores, ce = {}, {}
    for m in model.modalities:
        there = state.present_mask(m)
        there = [True] * 12 if there is None else there.tolist()
        logits = prototype_logits(
            state.z[m].detach().double(), loss.get_buffer(f'prototypes_of_{m}')
        )
        rows = [
            float(logits[i].detach().log_softmax(0)[state.labels[i]]) for i in range(12) if there[i]
        ]
        scores[m] = sum(map(math.exp, rows)) / len(rows)
        ce[m] = -sum(rows) / 12
    weakest = min(scores, key=scores.get)
    for m in model.modalities:
        expected = 0.5 * ce[m] if m == weakest else 0.0
        assert float(second[f'loss_pmr/{m}'].detach()) == pytest.approx(expected, rel=1e-5)


def test_bad_arguments():
    for bad in (dict(alpha=-1), dict(momentum=1), dict(coefficient='some')):
        with pytest.raises(ValueError, match='PrototypeRebalance'):
            PrototypeRebalance(**bad)


def test_mean_of_the_update_before():
    """However an update is split: the mean over its samples, once it is complete."""
    values = table(6, 2)
    seen = torch.tensor([[1, 1], [1, 0], [1, 1], [1, 0], [1, 1], [1, 0]], dtype=torch.bool)
    whole, parts = UpdateMean(2), UpdateMean(2)
    assert whole(values, 0, seen) is None
    for i in range(3):
        assert parts(values[2 * i : 2 * i + 2], 0, seen[2 * i : 2 * i + 2]) is None
    for mean in (whole(values, 1, seen), parts(values, 1, seen)):
        assert mean.tolist() == pytest.approx(
            [float(values[:, 0].mean()), float(values[[0, 2, 4], 1].mean())]
        )
    again = UpdateMean(2)
    again.load_state_dict(whole.state_dict())
    assert torch.equal(again(values, 2, seen), whole(values, 2, seen))
    assert whole.half().sums.dtype == torch.float64
