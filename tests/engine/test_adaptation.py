"""Test-time adaptation: the losses by hand, what moves, and that everything comes back."""

import math
import time

import pytest
import torch
from builders import CLASSES, DIMS, batch, build, model_config, samples
from mmengine.config import Config
from mmengine.dataset import DefaultSampler, pseudo_collate
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, Dataset

from cal_mm.engine.adaptation import READ, Tent, confidence_loss, prediction_entropy
from cal_mm.engine.loops import RobustnessTestLoop
from cal_mm.registry import ADAPTERS, DATASETS

ATTENTION = dict(fusion=dict(type='AttentionFusion', embed_dims=8, num_heads=2))


def test_losses_by_hand():
    logits = torch.tensor([[1.0, -0.5, 0.2], [0.3, 2.0, -1.0]], dtype=torch.float64)
    p = [[math.exp(v) / sum(math.exp(w) for w in row) for v in row] for row in logits.tolist()]
    entropy = sum(-q * math.log(q) for row in p for q in row) / 2
    assert float(prediction_entropy(logits)) == pytest.approx(entropy, abs=1e-12)
    mean = [(a + b) / 2 for a, b in zip(*p, strict=True)]
    expected = sum(-max(row) * math.log(max(row)) for row in p) / 2
    expected += sum(q * math.log(q) for q in mean)
    assert float(confidence_loss(logits)) == pytest.approx(expected, abs=1e-12)


def loss_of(adapter, model, data):
    with torch.no_grad():
        data = model.data_preprocessor(data, False)
        return float(adapter.loss(model.prediction_logits(**data)))


def changed(model, before):
    return sorted(k for k, v in model.state_dict().items() if not torch.equal(v, before[k]))


@pytest.mark.parametrize('adapter', [READ(lr=1e-2), Tent(lr=1e-2, steps=2)])
def test_only_its_parameters_move_and_all_comes_back(adapter):
    model = build(**ATTENTION).eval()
    data = batch(12)
    model.test_step(data)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    adapter.start(model)
    loss = [loss_of(adapter, model, data)]
    for _ in range(5):
        adapter.learn(model, data)
    loss.append(loss_of(adapter, model, data))
    assert loss[1] < loss[0]
    moved = changed(model, before)
    assert moved
    word = 'in_proj' if isinstance(adapter, READ) else 'norm'
    assert all(k.startswith('fusion.') and word in k for k in moved), moved
    adapter.stop(model)
    assert changed(model, before) == []
    assert all(p.grad is None for p in model.parameters())
    assert not model.training


class WithBatchNorm(nn.Module):
    out_channels = 10

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 10), nn.BatchNorm1d(10))

    def forward(self, x, mask=None):
        return self.net(x)


def test_tent_uses_the_statistics_of_the_batch_and_gives_back_the_old_ones():
    model = build().eval()
    model.encoders['a'] = WithBatchNorm().eval()
    data = batch(12)
    old = model.prediction_logits(**model.data_preprocessor(data, False))
    tent = Tent(lr=1e-8)
    tent.start(model)
    x = model.data_preprocessor(data, False)['inputs']['a']
    norm = model.encoders['a'].net[1]
    y = norm(model.encoders['a'].net[0](x))
    torch.testing.assert_close(y.mean(0), torch.zeros(10), atol=1e-5, rtol=0)
    tent.learn(model, data)
    tent.stop(model)
    assert norm.track_running_stats
    assert torch.equal(old, model.prediction_logits(**model.data_preprocessor(data, False)))


def test_a_single_row_gets_the_statistics_of_training():
    model = build().eval()
    model.encoders['a'] = WithBatchNorm().eval()
    norm = model.encoders['a'].net[1]
    norm.running_mean.fill_(0.3)

    def logits(n):
        with torch.no_grad():
            return model.prediction_logits(**model.data_preprocessor(batch(n), False))

    alone, several = logits(1), logits(8)
    tent = Tent(lr=1e-2)
    for _ in range(2):  # a condition leaves nothing for the next
        tent.start(model)
        assert torch.equal(logits(1), alone)
        assert float((logits(8) - several).abs().max()) > 1e-2
        assert torch.equal(logits(1), alone)
        tent.learn(model, batch(1))
        tent.stop(model)
        assert torch.equal(logits(8), several)
    assert not norm._forward_pre_hooks


@DATASETS.register_module()
class ByClass(Dataset):
    """33 samples, one class after another; batches of 8 leave one."""

    metainfo = dict(  # noqa: RUF012
        modalities={m: {'kind': 'features'} for m in DIMS}, classes=('x', 'y', 'z')
    )

    def __init__(self):
        self.items = sorted(samples(33), key=lambda s: int(s['data_samples'].gt_label))

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return self.items[i]


ENCODERS = {
    m: dict(type='MLPEncoder', in_channels=d, hidden_channels=[12], out_channels=10, norm='batch')
    for m, d in DIMS.items()
}
TENT = dict(type='Tent', lr=1e-2)


@pytest.fixture
def runner(tmp_path):
    cfg = dict(
        default_scope='cal_mm',
        model=model_config(encoders=ENCODERS),
        work_dir=str(tmp_path),
        experiment_name=f'adapt_{time.monotonic_ns()}',
        randomness=dict(seed=3),
        test_dataloader=dict(
            batch_size=8,
            num_workers=0,
            dataset=dict(type='ByClass'),
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=dict(type='pseudo_collate'),
        ),
        test_evaluator=dict(type='MultiModalMetric'),
        test_cfg=dict(type='RobustnessTestLoop', attacks=['gaussian:3@a', 'fgsm:3@b']),
    )
    return Runner.from_cfg(Config(cfg))


def test_adapted_samples_come_shuffled_in_the_same_order_under_every_condition(runner):
    runner._test_loop = dict(runner._test_loop, adaptation=TENT)
    runner.test()
    orders = [p.sample_ids for p in runner.test_loop.predictions]
    stored = [s['data_samples'].sample_id for s in ByClass().items]
    mixed = torch.randperm(33, generator=torch.Generator().manual_seed(0)).tolist()
    assert orders == [[stored[i] for i in mixed]] * 3
    assert runner.test_loop.predictions[0].labels[:8].unique().numel() == CLASSES
    assert [r['num_samples'] for r in runner.test_loop.rows] == [33] * 3


def test_samples_come_as_they_are_stored_without_an_adapter(runner):
    runner.test()
    stored = [s['data_samples'].sample_id for s in ByClass().items]
    assert [p.sample_ids for p in runner.test_loop.predictions] == [stored] * 3


@pytest.mark.parametrize('how', ['plain', 'sampler', 'batch_sampler', 'shuffled'])
def test_a_built_loader_in_the_order_of_the_dataset_is_warned_about(runner, monkeypatch, how):
    data = ByClass()
    sampler = DefaultSampler(data, shuffle=how == 'shuffled', seed=0)
    options = dict(
        plain=dict(batch_size=8),
        batch_sampler=dict(batch_sampler=BatchSampler(sampler, 8, drop_last=False)),
    ).get(how, dict(batch_size=8, sampler=sampler))
    loader = DataLoader(data, collate_fn=pseudo_collate, **options)
    told = []
    monkeypatch.setattr(runner.logger, 'warning', told.append)
    RobustnessTestLoop(runner, loader, dict(type='MultiModalMetric'))
    assert told == []
    RobustnessTestLoop(runner, loader, dict(type='MultiModalMetric'), adaptation=TENT)
    assert len(told) == (how != 'shuffled')
    assert all('Tent learns from batches in the order' in text for text in told)


def test_labels_do_not_matter():
    model = build(**ATTENTION).eval()
    model.test_step(batch(2))  # the preprocessor remembers the shapes that it has seen
    moved = []
    for shift in (0, 1):
        data = batch(12)
        for sample in data['data_samples']:
            sample.gt_label = (sample.gt_label + shift) % CLASSES
        tent = Tent(lr=1e-2)
        tent.start(model)
        tent.learn(model, data)
        moved.append({k: v.clone() for k, v in model.state_dict().items()})
        tent.stop(model)
    assert all(torch.equal(v, moved[1][k]) for k, v in moved[0].items())


def test_nothing_to_adapt_and_bad_arguments():
    model = build()  # no normalisation, no attention
    for adapter in (Tent(), READ()):
        with pytest.raises(ValueError, match='finds nothing to adapt'):
            adapter.start(model)
    with pytest.raises(ValueError, match='lr > 0'):
        ADAPTERS.build(dict(type='Tent', lr=0.0))
    with pytest.raises(RuntimeError, match='call start'):
        Tent().learn(model, batch(2))
