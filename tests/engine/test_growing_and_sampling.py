"""Sample-level valuation and AUG against loops."""

import math
from itertools import combinations, permutations
from types import SimpleNamespace

import pytest
import torch
from builders import batch, build, samples
from torch.nn import functional as F

from cal_mm.datasets.valued_sampler import ValuedSampler, systematic_resample
from cal_mm.engine.collect import plain_loader
from cal_mm.engine.hooks.growth import GrowthHook
from cal_mm.engine.hooks.valuation import SampleValuationHook, extra_copies, sample_values
from cal_mm.models.contribution.functional import coalition_plan
from cal_mm.models.losses import BoostingLoss

# ---- the sampler ----


def test_how_often_each_sample_comes():
    weights = torch.tensor([1.0, 2.5, 0.0, 4.0, 0.5])
    for offset in (0.0, 0.3, 0.99):
        chosen = systematic_resample(weights, 20, offset)
        for i, w in enumerate(weights.tolist()):
            expected = 20 * w / 8
            assert math.floor(expected) <= int((chosen == i).sum()) <= math.ceil(expected)


def sampler(rank, world, weights=None, epoch=0, seed=5, size=11):
    made = ValuedSampler(range(size), seed=seed)
    made.rank, made.world_size = rank, world
    made.num_samples = -(-size // world)
    made.set_epoch(epoch)
    if weights is not None:
        made.set_weights(weights)
    return made


def test_ranks_share_one_order():
    weights = torch.arange(11.0)
    one = list(sampler(0, 1, weights))
    two = [list(sampler(r, 2, weights)) for r in range(2)]
    assert len(two[0]) == len(two[1]) == len(sampler(0, 2)) == 6
    together = [i for pair in zip(*two, strict=True) for i in pair]
    assert together[:11] == one
    assert list(sampler(0, 1, weights)) == one
    assert list(sampler(0, 1, weights, epoch=1)) != one
    assert list(sampler(0, 1, weights, seed=6)) != one
    assert sorted(sampler(0, 1)) == list(range(11))  # equal weights: each once
    for bad in (torch.ones(3), -torch.ones(11), torch.zeros(11), torch.full((11,), float('nan'))):
        with pytest.raises(ValueError, match='weight'):
            sampler(0, 1, bad)


# ---- the values ----


@pytest.mark.parametrize('count', [1, 2, 3])
def test_values_by_permutations(count):
    plan = coalition_plan(count)
    g = torch.Generator().manual_seed(count)
    logits = torch.randn(6, plan.num_coalitions, 3, generator=g)
    labels = torch.randint(3, (6,), generator=g)
    got = sample_values(logits, labels, plan)
    rows = {tuple(mask.nonzero().flatten().tolist()): k for k, mask in enumerate(plan.masks)}

    def value(i, members):
        right = int(logits[i, rows[tuple(sorted(members))]].argmax()) == int(labels[i])
        return len(members) if right and members else 0

    for i in range(6):
        for m in range(count):
            gains = []
            for order in permutations(range(count)):
                before = list(order[: order.index(m)])
                gains.append(value(i, [*before, m]) - value(i, before))
            assert float(got[i, m]) == pytest.approx(sum(gains) / len(gains), abs=1e-9)


def test_copies():
    values = torch.tensor([1.5, 1.0, 0.9, 0.4, 0.3, -0.1, -0.2], dtype=torch.float64)
    assert extra_copies(values).tolist() == [0, 0, 1, 1, 2, 2, 3]


class Data(list):
    pass


def fake_runner(model, epoch, rows):
    loader = plain_loader(Data(rows), 8)
    loader = torch.utils.data.DataLoader(
        loader.dataset,
        batch_size=8,
        collate_fn=loader.collate_fn,
        sampler=ValuedSampler(loader.dataset, seed=1),
    )
    return SimpleNamespace(
        model=model,
        train_dataloader=loader,
        epoch=epoch,
        max_epochs=10,
        logger=SimpleNamespace(info=lambda text: None),
        message_hub=SimpleNamespace(update_scalar=lambda name, value: None),
        _resume=True,
    )


def test_hook_weighs_samples():
    model = build()
    rows = samples(12, missing=((0, 'b'),))
    runner = fake_runner(model, 0, rows)
    hook = SampleValuationHook(begin=1)
    hook.before_train_epoch(runner)
    weights = runner.train_dataloader.sampler
    assert weights.weights.eq(1).all()
    runner.epoch = 1
    hook.before_train_epoch(runner)
    plan = coalition_plan(3)
    state = model.eval().state(
        **model.data_preprocessor(plain_loader(rows, 8).collate_fn(rows), training=False)
    )
    values = sample_values(state.coalition_logits(plan.masks).transpose(0, 1), state.labels, plan)
    copies = extra_copies(values)
    copies[0, 1] = 0  # not there
    assert torch.equal(weights.weights, 1 + copies.sum(dim=1).float())
    stored = {}
    hook.before_save_checkpoint(runner, stored)
    again = SampleValuationHook()
    other = fake_runner(model, 2, rows)
    again.after_load_checkpoint(other, stored)
    again.before_train(other)
    assert torch.equal(other.train_dataloader.sampler.weights, weights.weights)
    other.train_dataloader = plain_loader(rows, 8)
    with pytest.raises(ValueError, match='ValuedSampler'):
        again.before_train_epoch(other)
    with pytest.raises(ValueError, match='interval'):
        SampleValuationHook(interval=0)


# ---- AUG ----


def boosted(blocks=3, residual=0.5):
    return build(
        fusion=dict(type='BoostedFusion', hidden_channels=7, blocks=blocks),
        losses=[dict(type='BoostingLoss', residual=residual)],
    )


def test_a_new_block_changes_nothing_and_then_learns():
    model = boosted()
    data = model.data_preprocessor(batch(6, missing=((1, 'b'),)), training=True)
    before = model.state(**data)
    assert model.fusion.grow('b')
    after = model.state(**data)
    assert torch.equal(before.logits, after.logits)
    assert model.fusion.active.tolist() == [1, 2, 1]
    out = model(**data, mode='loss')
    out['loss_aug/b'].backward()
    new = model.fusion.blocks['b'][1]
    assert float(new[2].weight.grad.abs().max()) > 0
    idle = model.fusion.blocks['b'][2]
    assert float(idle[2].weight.grad.abs().max()) == 0  # there, for DDP
    assert model.fusion.grow('b')
    assert not model.fusion.grow('b')
    again = boosted()
    again.load_state_dict(model.state_dict())
    assert again.fusion.active.tolist() == [1, 3, 1]


def test_boosted_predictions_and_losses_by_loops():
    model = boosted()
    model.fusion.grow('a')
    torch.manual_seed(0)
    for p in model.fusion.blocks['a'][1].parameters():
        torch.nn.init.normal_(p)
    data = model.data_preprocessor(batch(6, missing=((1, 'b'),)), training=True)
    out, state = model(**data, mode='loss'), model.state(**data)
    blocks = model.fusion.blocks
    u = {m: blocks[m][0](state.z[m]) for m in 'abc'}
    rest, last = u['a'], blocks['a'][1](state.z['a'])
    u['a'] = rest + last
    for i in range(6):
        names = [m for m in 'abc' if (i, m) != (1, 'b')]
        mean = sum(u[m][i] for m in names) / len(names)
        assert torch.allclose(state.logits[i], mean, atol=1e-6)
    y = state.labels
    weight = 1 - 0.5 * rest.detach().softmax(1).gather(1, y[:, None])[:, 0]
    expected = (
        F.cross_entropy(u['a'], y) + (weight * F.cross_entropy(last, y, reduction='none')).mean()
    )
    assert torch.allclose(out['loss_aug/a'], expected)
    assert torch.allclose(out['loss_aug/c'], F.cross_entropy(u['c'], y))
    for pair in combinations('abc', 2):
        assert state.subset_logits(pair).shape == (6, 3)
    with pytest.raises(ValueError, match='BoostedFusion'):
        build(losses=[dict(type='BoostingLoss')])(**data, mode='loss')
    with pytest.raises(ValueError, match='residual'):
        BoostingLoss(residual=2.0)
    with pytest.raises(ValueError, match='blocks'):
        boosted(blocks=0)


def test_the_weakest_grows():
    model = boosted()
    with torch.no_grad():
        for m, scale in (('a', 0.0), ('b', 0.0), ('c', 0.0)):
            model.fusion.blocks[m][0].weight.mul_(scale)
            model.fusion.blocks[m][0].bias.zero_()
        rows = [r for r in samples(60) if int(r['data_samples'].gt_label) == 0]
        model.fusion.blocks['a'][0].bias[0] = 3.0
        model.fusion.blocks['b'][0].bias[1] = 3.0  # sure of what is wrong
    runner = fake_runner(model, 0, rows)
    hook = GrowthHook(interval=2)
    for epoch in (0, 1):
        runner.epoch = epoch
        hook.before_train_epoch(runner)
    assert model.fusion.active.tolist() == [1, 1, 1]
    runner.epoch = 2
    hook.before_train_epoch(runner)
    assert model.fusion.active.tolist() == [1, 2, 1]
    GrowthHook(interval=2, tolerance=1.0).before_train_epoch(runner)
    assert model.fusion.active.tolist() == [1, 2, 1]
    runner.model = build()
    with pytest.raises(ValueError, match='BoostedFusion'):
        hook.before_train_epoch(runner)
    with pytest.raises(ValueError, match='interval'):
        GrowthHook(interval=0)
