"""G-Blending, D&R, PMR's prototypes and the collecting they share: measured against loops."""

import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from builders import batch, build, model_config, samples
from commands import run
from mmengine.dataset import pseudo_collate
from torch.nn import functional as F

from cal_mm.engine.collect import collect, collect_samples, plain_loader
from cal_mm.engine.hooks.g_blending import GBlendingHook
from cal_mm.engine.hooks.prototypes import PrototypeHook
from cal_mm.engine.hooks.relearning import (
    ReLearningHook,
    cluster_purity,
    purity_of_labels,
    relearning_weights,
)
from cal_mm.engine.hooks.subsets import held_out, loss_component, some_of
from cal_mm.engine.short_training import clone_of, step_of_run, train_clone
from cal_mm.models.losses import BlendedCrossEntropy
from cal_mm.models.losses.blended import blending_weights
from cal_mm.structures import epochs_of


class Data:
    """A list of packed samples as a dataset."""

    def __init__(self, rows):
        self.rows = rows
        self.groups = np.array([r['data_samples'].group for r in rows])

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return self.rows[i]


def fake_runner(model, count=40, epoch=0, missing=(), **kwargs):
    dataset = Data(samples(count, missing=missing))
    loader = plain_loader(dataset, 8)
    return SimpleNamespace(
        model=model,
        train_dataloader=loader,
        val_dataloader=plain_loader(Data(samples(24, seed=1)), 8),
        val_loop=object(),
        epoch=epoch,
        max_epochs=10,
        seed=3,
        logger=SimpleNamespace(info=lambda text: None),
        _resume=False,
        **kwargs,
    )


# ---- collecting ----


def test_collect_is_the_model_on_every_sample():
    model = build(unimodal_head=dict(type='LinearHead'))
    model.train()
    rows = samples(11, missing=((3, 'b'),))
    masks = torch.tensor([[True, False, False], [True, True, True]])
    before = torch.get_rng_state()
    seen = collect_samples(model, plain_loader(Data(rows), 4), masks=masks)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    model.eval()
    for i, row in enumerate(rows):
        data = model.data_preprocessor(pseudo_collate([row]), training=False)
        state = model.state(**data)
        assert torch.allclose(seen.logits[i], state.logits[0], atol=1e-6)
        assert torch.allclose(seen.z['c'][i], state.z['c'][0], atol=1e-6)
        assert torch.allclose(seen.unimodal['a'][i], state.unimodal_logits('a')[0], atol=1e-6)
        assert torch.allclose(seen.coalitions[i], state.coalition_logits(masks)[:, 0], atol=1e-6)
        assert int(seen.labels[i]) == int(row['data_samples'].gt_label)
    assert torch.equal(seen.by_coalition[1], seen.coalitions[:, 1])
    assert seen.present[3].tolist() == [True, False, True]
    assert len(collect(model, plain_loader(Data(rows), 4), max_samples=5)) == 8
    elsewhere = collect(model, plain_loader(Data(rows), 4), device='meta')
    assert elsewhere.logits.is_meta
    assert elsewhere.features['a'].is_meta
    with pytest.raises(ValueError, match='masks'):
        _ = elsewhere.by_coalition
    with pytest.raises(ValueError, match='no batch'):
        collect(model, [])


def test_held_out_groups_never_change_sides():
    rows = samples(40)
    inside, outside = held_out(Data(rows), 0.4, 'x')
    assert sorted(inside + outside) == list(range(40))
    groups = [{rows[i]['data_samples'].group for i in part} for part in (inside, outside)]
    assert not groups[0] & groups[1]
    assert len(groups[1]) == 2  # 0.4 of five groups
    assert held_out(Data(rows), 0.4, 'x') == (inside, outside)
    few = Data([r for r in rows if r['data_samples'].group == 'g0'])
    assert all(held_out(few, 0.25, 'x'))
    with pytest.raises(ValueError, match='share'):
        held_out(few, 1.0, 'x')


def test_some_samples_are_of_all_classes_and_always_the_same():
    """Of indices sorted by class, where the first ones are of one class."""
    chosen = some_of(list(range(0, 3000, 3)), 100, 'x')
    assert chosen == sorted(set(chosen))
    assert len(chosen) == 100
    assert set(chosen) <= set(range(0, 3000, 3))
    assert all(np.histogram(chosen, bins=5, range=(0, 3000))[0] > 8)
    assert chosen == some_of(list(range(0, 3000, 3)), 100, 'x')
    assert chosen != some_of(list(range(0, 3000, 3)), 100, 'y')
    assert some_of([5, 7], 2, 'x') == [5, 7]


# ---- G-Blending ----


def test_blending_weights_by_hand():
    before = torch.tensor([[1.0, 1.1], [1.0, 1.2]], dtype=torch.float64)
    after = torch.tensor([[0.5, 0.8], [0.2, 0.9]], dtype=torch.float64)
    # head 0: dG = .3, O .1 -> .3; head 1: dG = .3, O .2 -> .7
    raw = [0.3 / 0.2**2, 0.3 / 0.5**2]
    assert blending_weights(before, after).tolist() == pytest.approx([r / sum(raw) for r in raw])
    assert blending_weights(before, before).tolist() == [0.5, 0.5]
    flat = before - torch.tensor([0.1, 0.1])  # no overfitting: bounded by ``least``
    assert torch.isfinite(blending_weights(before, flat)).all()


def test_blended_loss():
    model = build(unimodal_head=dict(type='LinearHead'), losses=[dict(type='BlendedCrossEntropy')])
    model.losses[0].weights.copy_(torch.tensor([0.1, 0.2, 0.3, 0.4]))
    data = model.data_preprocessor(batch(8, missing=((2, 'b'),)), training=True)
    out, state = model(**data, mode='loss'), model.state(**data)
    ce = F.cross_entropy(state.logits, state.labels)
    assert torch.allclose(out['loss_blend_fused'], 0.1 * ce)
    for i, m in enumerate('abc'):
        rows = F.cross_entropy(state.unimodal_logits(m), state.labels, reduction='none')
        keep = [j for j in range(8) if (j, m) != (2, 'b')]
        expected = (0.2 + 0.1 * i) * rows[keep].sum() / 8
        assert torch.allclose(out[f'loss_blend/{m}'], expected)


def blending_runner(model):
    from mmengine.config import Config

    wrapper = dict(optimizer=dict(type='SGD', lr=0.5), clip_grad=dict(max_norm=5.0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return fake_runner(
        model,
        cfg=Config(dict(optim_wrapper=wrapper)),
        optim_wrapper=SimpleNamespace(optimizer=optimizer),
    )


def test_measuring_leaves_the_run_as_it_was():
    model = build(unimodal_head=dict(type='LinearHead'), losses=[dict(type='BlendedCrossEntropy')])
    runner = blending_runner(model)
    booked = []
    model.record.observers['x'] = booked.append
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.get_rng_state()
    hook = GBlendingHook(super_epoch=4, updates=3)
    hook.before_train_epoch(runner)
    assert torch.equal(torch.get_rng_state(), state)
    assert not booked
    changed = [
        k
        for k, v in model.state_dict().items()
        if not k.startswith('data_preprocessor') and not torch.equal(v, before[k])
    ]
    assert changed == ['losses.0.weights']
    weights = model.losses[0].weights
    assert float(weights.sum()) == pytest.approx(1)
    assert float(weights.max() - weights.min()) > 1e-4
    again = weights.clone()
    hook.before_train_epoch(runner)
    assert torch.equal(model.losses[0].weights, again)
    runner.epoch = 3  # inside the super-epoch
    weights.fill_(0.25)
    hook.before_train_epoch(runner)
    assert weights.tolist() == [0.25] * 4


def test_each_head_is_read_from_its_own_training(monkeypatch):
    """The fused head's losses from the copy that learned on it, the others' from the other."""
    model = build(unimodal_head=dict(type='LinearHead'), losses=[dict(type='BlendedCrossEntropy')])
    tables = torch.arange(24, dtype=torch.float64).reshape(3, 4, 2)
    left, found = list(tables), []

    def weigh(*args):
        found.extend(args)
        return torch.ones(4)

    hook = GBlendingHook(updates=1)
    monkeypatch.setattr(hook, '_losses', lambda *args: left.pop(0))
    monkeypatch.setattr('cal_mm.engine.hooks.g_blending.blending_weights', weigh)
    hook._measure(blending_runner(model), model)
    before, after = found
    assert torch.equal(before, tables[0])
    assert torch.equal(after, torch.cat([tables[1][:1], tables[2][1:]]))


def test_a_clone_does_not_share():
    model = build()
    model.record.observers['x'] = lambda state: None
    clone = clone_of(model)
    assert not clone.record.observers
    assert model.record.observers
    with torch.no_grad():
        next(clone.parameters()).add_(1)
    assert not torch.equal(next(clone.parameters()), next(model.parameters()))


def synced(net):
    return any(isinstance(m, torch.nn.SyncBatchNorm) for m in net.modules())


def test_a_clone_waits_for_nobody(monkeypatch):
    overrides = model_config(
        unimodal_head=dict(type='LinearHead'), feature_transforms=[dict(type='OPM')]
    )
    for encoder in overrides['encoders'].values():
        encoder['norm'] = 'batch'
    model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(build(**overrides))
    monkeypatch.setattr('cal_mm.models.update_mean.all_reduce', None)
    clone = clone_of(model)
    assert [synced(net) for net in (model, clone)] == [True, False]
    assert clone.state_dict().keys() == model.state_dict().keys()
    clone.state(**clone.data_preprocessor(batch(8), True), training=True)
    with pytest.raises(TypeError):  # the run's own sums over the ranks
        model.feature_transforms[0].scores(torch.ones(2, 3), 0)


ALONE = """
import datetime, sys
sys.path.append('tests')
import torch.distributed as dist
from builders import batch, build
from cal_mm.compat import end_distributed
from cal_mm.engine.short_training import clone_of
dist.init_process_group('gloo', timeout=datetime.timedelta(seconds=20))
for name in ('OPM', 'AMCo'):
    model = build(unimodal_head=dict(type='LinearHead'), feature_transforms=[dict(type=name)])
    if dist.get_rank() == 0:
        clone = clone_of(model).train()
        clone.state(**clone.data_preprocessor(batch(8), True), training=True)
    dist.barrier()
end_distributed()
"""


@pytest.mark.slow
def test_one_of_two_ranks_trains_a_copy(tmp_path):
    script = tmp_path / 'alone.py'
    script.write_text(ALONE)
    launch = ['-m', 'torch.distributed.run', '--nproc_per_node=2', '--standalone']
    run([sys.executable, *launch, str(script)])


@pytest.mark.parametrize('transforms', [[], [dict(type='OPM', p_exe=1.0)]])
def test_a_copy_learns_alike_however_an_update_is_split(transforms):
    """Batches of 16; of 4, 4 to an update; of 6, into which 16 do not go."""
    model = build(unimodal_head=dict(type='LinearHead'), feature_transforms=transforms)
    found = []
    for batch_size, every, expected in ((16, 1, {16}), (4, 4, {4}), (6, 3, {5, 6})):
        runner, sizes = blending_runner(model), []
        runner.train_dataloader = plain_loader(runner.train_dataloader.dataset, batch_size)
        runner.optim_wrapper._accumulative_counts = every
        indices = torch.arange(16)  # all of them in every update
        clone = clone_of(model)
        clone.encoders['a'].register_forward_hook(
            lambda *args, sizes=sizes: sizes.append(len(args[2]))
        )

        def objective(state):
            return F.cross_entropy(state.logits, state.known_labels)

        train_clone(runner, clone, [list(clone.parameters())], objective, indices, 5, 0)
        assert set(sizes) == expected
        found.append(list(clone.parameters()))
    moved = zip(found[0], model.parameters(), strict=True)
    assert any((x - y).abs().max() > 1e-2 for x, y in moved)
    for parts in found[1:]:
        for x, y in zip(found[0], parts, strict=True):
            torch.testing.assert_close(x, y, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize('scheduled', [True, False])
def test_a_training_of_a_copy_goes_through_the_rates_of_the_run(monkeypatch, scheduled):
    """20 micro-batches in 4 epochs of 3 updates (5 micro-batches, 2 to an update)."""
    model = build()
    runner = blending_runner(model)
    runner.max_epochs, runner.max_iters = 4, 20
    runner.optim_wrapper._accumulative_counts = 2
    runner.cfg.param_scheduler = [
        dict(type='CosineAnnealingLR', by_epoch=True, T_max=4),
        dict(type='LinearLR', by_epoch=False, start_factor=0.4, end=4),
        dict(type='ReduceOnPlateauLR', monitor='accuracy/top1'),
    ]
    rates = []

    class Spy(torch.optim.SGD):
        def step(self, closure=None):
            rates.append(self.param_groups[0]['lr'])

    monkeypatch.setattr(
        'cal_mm.engine.short_training.OPTIMIZERS',
        SimpleNamespace(build=lambda cfg, default_args: Spy(default_args['params'], lr=cfg.lr)),
    )
    clone = clone_of(model)
    params = list(clone.parameters())
    train_clone(
        runner, clone, [params], lambda s: s.logits.sum(), torch.arange(40), 12, 0, scheduled
    )
    if not scheduled:
        assert rates == [0.1] * 12  # the run's present rate
        return
    expected = [
        0.5 * 0.5 * (1 + math.cos(math.pi * (u // 3) / 4)) * (0.4 + 0.6 * min(1, 2 * u / 3))
        for u in range(12)
    ]
    assert rates == pytest.approx(expected)


@pytest.mark.parametrize('kind', ['present', 'scheduled', 'base'])
def test_parameters_that_the_config_tells_apart_keep_their_options(monkeypatch, kind):
    """A tenth of the rate for encoders, while the run has gone half the way."""
    from mmengine.config import Config
    from mmengine.optim import build_optim_wrapper

    paramwise = dict(custom_keys=dict(encoders=dict(lr_mult=0.1, decay_mult=0.0)))
    wrapper = dict(optimizer=dict(type='AdamW', lr=0.01, weight_decay=0.1), paramwise_cfg=paramwise)
    model = build()
    runner = fake_runner(
        model,
        cfg=Config(dict(optim_wrapper=wrapper)),
        optim_wrapper=build_optim_wrapper(model, dict(wrapper, type='OptimWrapper')),
        max_iters=50,
    )
    schedule = dict(type='CosineAnnealingLR', by_epoch=True, T_max=10)
    runner.cfg.param_scheduler = [schedule]
    for group in runner.optim_wrapper.optimizer.param_groups:
        group['initial_lr'] = group['lr']
        group['lr'] = group['lr'] / 2
    clone, head = clone_of(model), torch.nn.Linear(2, 2)
    built = []

    def adamw(cfg, default_args):
        options = {k: v for k, v in cfg.items() if k != 'type'}
        built.append(torch.optim.AdamW(default_args['params'], **options))
        return built[0]

    monkeypatch.setattr('cal_mm.engine.short_training.OPTIMIZERS', SimpleNamespace(build=adamw))
    params = [*clone.parameters(), *head.parameters()]
    step_of_run(runner, clone, [params], kind == 'scheduled', kind == 'present')
    found = {id(p): g for g in built[0].param_groups for p in g['params']}
    assert len(found) == len(params)
    part = 0.5 if kind == 'present' else 1
    for name, p in clone.named_parameters():
        slow = name.startswith('encoders')
        expected = (0.001 * part, 0.0) if slow else (0.01 * part, 0.1)
        group = found[id(p)]
        assert (group['lr'], group['weight_decay']) == pytest.approx(expected), name
    assert found[id(head.weight)]['lr'] == 0.01  # the run has no such parameter


def test_epochs_of_an_interval():
    assert [epochs_of(i, 30) for i in (5, 0.2, 0.01, 0, 40)] == [5, 6, 1, 0, 40]
    for bad in (dict(super_epoch=0), dict(updates=0)):
        with pytest.raises(ValueError, match='GBlendingHook'):
            GBlendingHook(**bad)
    with pytest.raises(ValueError, match='BlendedCrossEntropy'):
        loss_component(build(), BlendedCrossEntropy, 'GBlendingHook')


# ---- D&R ----


def test_purity_by_hand():
    labels = np.array([0, 0, 1, 1, 1, 2])
    assert purity_of_labels(labels, np.array([5, 5, 5, 7, 7, 7])) == pytest.approx(4 / 6)
    centres = 10 * torch.eye(3, dtype=torch.float64)
    labels = torch.arange(30) % 3
    noise = 0.01 * torch.randn(30, 3, generator=torch.Generator().manual_seed(0))
    assert cluster_purity(centres[labels] + noise, labels, 3) == 1
    assert cluster_purity(torch.zeros(30, 3), labels, 3) == pytest.approx(1 / 3)
    weights = relearning_weights(torch.tensor([0.9, 0.5]), torch.tensor([0.4, 0.6]), 3.0)
    assert weights.tolist() == pytest.approx([math.tanh(1.5), math.tanh(0.3)])


def test_relearning_mixes_with_the_initial_state():
    model = build()
    runner = fake_runner(model)
    hook = ReLearningHook(interval=2, times=1)
    hook.before_train(runner)
    start = {m: [p.clone() for p in ps] for m, ps in model.modality_parameters().items()}
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1.0)
    now = {k: p.clone() for k, p in model.named_parameters()}
    for epoch in (0, 1, 4):  # not the turn, or no turn left
        runner.epoch = epoch
        hook.before_train_epoch(runner)
        assert all(torch.equal(p, now[k]) for k, p in model.named_parameters())
    stored = {}
    hook.before_save_checkpoint(runner, stored)
    other = ReLearningHook(interval=2, times=1)
    runner._resume = True
    other.after_load_checkpoint(runner, stored)
    other.before_train(runner)  # must keep what the checkpoint brought
    runner.epoch = 2
    weights = other._diagnose(runner, model)
    other.before_train_epoch(runner)
    assert float(weights.max()) > 0
    for (m, params), a in zip(model.modality_parameters().items(), weights.tolist(), strict=True):
        for p, old in zip(params, start[m], strict=True):
            assert torch.allclose(p, a * old + (1 - a) * (old + 1), atol=1e-6)
    assert torch.equal(model.fusion.head.weight, now['fusion.head.weight'])
    with pytest.raises(ValueError, match='no initial state'):
        other.after_load_checkpoint(runner, {})
    with pytest.raises(ValueError, match='positive'):
        ReLearningHook(interval=0)


# ---- PMR ----


def test_prototypes_are_class_means_of_the_share():
    model = build(losses=[dict(type='PrototypeRebalance', momentum=0.0)])
    runner = fake_runner(model, missing=((0, 'a'), (1, 'a')))
    PrototypeHook(share=1.0).before_train_epoch(runner)
    sums, counts = torch.zeros(3, 8), torch.zeros(3)
    model.eval()
    for i, row in enumerate(runner.train_dataloader.dataset.rows):
        state = model.state(**model.data_preprocessor(pseudo_collate([row]), training=False))
        if i > 1:
            sums[int(state.labels)] += state.z['a'][0].detach()
            counts[int(state.labels)] += 1
    expected = sums / counts[:, None]
    assert torch.allclose(model.losses[0].get_buffer('prototypes_of_a'), expected, atol=1e-5)
    with pytest.raises(ValueError, match='share'):
        PrototypeHook(share=0.0)
