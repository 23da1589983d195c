"""MBSD, CML, LFM, OMIB and UMT against scipy, loops and autograd."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from builders import DIMS, batch, build
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy
from torch import nn
from torch.nn import functional as F

from cal_mm.engine.hooks.alignment import AlignmentWeightHook, alignment_step
from cal_mm.engine.hooks.subsets import held_out
from cal_mm.engine.hooks.teachers import TeacherHook
from cal_mm.models.losses import ConfidenceOrder, OptimalBottleneckLoss, SymmetricDistillation
from cal_mm.models.losses.agreement import jensen_shannon, margin_weights, symmetric_kl
from cal_mm.models.losses.optimal_bottleneck import bottleneck_ratio, strength_bound
from cal_mm.structures import TrainProgress


def table(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def softmax(row):
    e = np.exp(np.asarray(row, dtype=np.float64))
    return e / e.sum()


def stepped(model, data, update=0):
    model.progress = TrainProgress(update=update, max_updates=9)
    return model(**data, mode='loss'), model.state(**data, training=True)


def test_divergences_by_scipy():
    a, b = table(6, 4), table(6, 4, seed=1)
    for i in range(6):
        p, q = softmax(a[i]), softmax(b[i])
        expected = (entropy(p, q) + entropy(q, p)) / 2
        assert float(symmetric_kl(a, b)[i]) == pytest.approx(expected, rel=1e-10)
        assert float(jensen_shannon(a, b)[i]) == pytest.approx(jensenshannon(p, q) ** 2, rel=1e-9)
    assert float(jensen_shannon(100 * a, -100 * a).max()) <= math.log(2) + 1e-12


def test_margin_weights_by_hand():
    first = torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.0, 2.0]])
    second = torch.tensor([[0.0, 2.0], [1.0, 0.0], [0.0, 1.0]])
    p = [softmax(v)[0] for v in first.tolist()], [softmax(v)[0] for v in second.tolist()]
    expected = [abs(p[0][0] - p[1][0]), abs(p[0][1] - p[1][1]), 0.0]  # both wrong: nothing
    got = margin_weights(first, second, torch.zeros(3, dtype=torch.int64))
    assert got.tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize('weights', ['none', 'margin'])
def test_mbsd_counts_pairs_that_are_there(weights):
    loss = dict(type='SymmetricDistillation', weight=2.0, sample_weights=weights)
    model = build(unimodal_head=dict(type='LinearHead'), losses=[loss])
    data = model.data_preprocessor(batch(6, missing=((1, 'b'),)), training=True)
    out, state = stepped(model, data)
    total = []
    for m, n in itertools.combinations('abc', 2):
        u, v = (state.unimodal_logits(k).detach() for k in (m, n))
        factor = margin_weights(u, v, state.labels) if weights == 'margin' else torch.ones(6)
        rows = [
            float(factor[i]) * (entropy(p, q) + entropy(q, p)) / 2
            for i, (p, q) in enumerate((softmax(x), softmax(y)) for x, y in zip(u, v, strict=True))
        ]
        total.append(sum(r for i, r in enumerate(rows) if i != 1 or 'b' not in (m, n)) / 6)
    assert float(out['loss_mbsd'].detach()) == pytest.approx(2 * sum(total) / 3, rel=1e-4)


def test_cml_along_a_chain():
    model = build(losses=[dict(type='ConfidenceOrder', weight=0.5)])
    data = model.data_preprocessor(batch(8), training=True)
    seen = set()
    for update in range(8):
        out, state = stepped(model, data, update)
        found = []
        for order in itertools.permutations('abc'):
            chain = [state.subset_logits(order[k:]).detach().double() for k in range(3)]
            ce = sum(float(F.cross_entropy(v, state.labels)) for v in chain) / 3
            conf = [v.softmax(1).max(1).values for v in chain]
            rank = sum(float((conf[k + 1] - conf[k]).clamp_min(0).mean()) for k in range(2))
            if float(out['loss_cml'].detach()) == pytest.approx(ce, rel=1e-5) and float(
                out['loss_cml_order'].detach()
            ) == pytest.approx(0.5 * rank, rel=1e-4, abs=1e-8):
                found.append(order)
        assert len(found) == 1
        seen.update(found)
    assert len(seen) > 1  # another chain for another update
    alone = build(dims={'a': DIMS['a']}, losses=[dict(type='ConfidenceOrder')])
    data = alone.data_preprocessor(batch(8, dims={'a': DIMS['a']}), training=True)
    assert 'loss_cml_order' not in stepped(alone, data)[0]
    for cls in (ConfidenceOrder, SymmetricDistillation):
        with pytest.raises(ValueError, match='weight'):
            cls(weight=-1.0)


# ---- LFM ----


def test_lfm_terms_and_step():
    model = build(unimodal_head='fusion', losses=[dict(type='GapAlignment', alignment=0.3)])
    data = model.data_preprocessor(batch(6), training=True)
    out, state = stepped(model, data)
    ce = float(F.cross_entropy(state.logits.detach(), state.labels))
    gaps = [
        np.mean(
            [
                jensenshannon(softmax(x), softmax(y)) ** 2
                for x, y in zip(*(state.unimodal_logits(m).detach() for m in pair), strict=True)
            ]
        )
        for pair in itertools.combinations('abc', 2)
    ]
    assert float(out['loss_lfm_class'].detach()) == pytest.approx(1.4 * ce, rel=1e-5)
    assert float(out['loss_lfm_align'].detach()) == pytest.approx(0.6 * np.mean(gaps), rel=1e-4)
    e = torch.eye(3, dtype=torch.float64)
    assert alignment_step(e[0], 7 * e[0], e[1]) == pytest.approx(1)
    assert alignment_step(e[0], e[1], 2 * e[0] + 2 * e[2]) == pytest.approx(-(0.5**0.5))


def test_omib_by_hand():
    assert float(bottleneck_ratio(torch.tensor(3.0))) == pytest.approx(
        1 - math.tanh(math.log(3)), rel=1e-6
    )
    assert strength_bound(0.5, 4.0) == pytest.approx(1 / 6)
    dims = {'a': 6, 'b': 5}
    model = build(
        dims=dims,
        bottleneck=dict(type='VariationalBottleneck', out_channels=8),
        unimodal_head=dict(type='LinearHead'),
        losses=[dict(type='OptimalBottleneckLoss', beta=0.2)],
    )
    data = model.data_preprocessor(batch(5, dims=dims), training=True)
    first, state = stepped(model, data, 0)
    ratios = []
    for i in range(5):
        fused = softmax(state.logits[i].detach())
        kl = [entropy(softmax(state.unimodal_logits(m)[i].detach()), fused) for m in 'ab']
        ratios.append(max(kl[1], 1e-3) / max(kl[0], 1e-3))
    r = 1 - math.tanh(math.log(np.mean(ratios)))
    kl = {m: float(state.kl[m].mean().detach()) for m in 'ab'}
    assert float(first['loss_omib/b'].detach()) == pytest.approx(0.2 * kl['b'], rel=1e-5)
    second, _ = stepped(model, data, 1)
    assert float(second['loss_omib/a'].detach()) == pytest.approx(0.2 * kl['a'], rel=1e-5)
    assert float(second['loss_omib/b'].detach()) == pytest.approx(0.2 * r * kl['b'], rel=1e-3)
    with pytest.raises(ValueError, match='two modalities'):
        OptimalBottleneckLoss().setup({'a': 1, 'b': 1, 'c': 1}, 3)
    with pytest.raises(ValueError, match='entropies'):
        OptimalBottleneckLoss(entropies=0.0)


# ---- hooks of LFM and UMT ----


class Data:
    def __init__(self, count, seed=0):
        from builders import samples

        self.rows = samples(count, seed=seed)
        self.groups = np.array([r['data_samples'].group for r in self.rows])

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return self.rows[i]


def fake_runner(model):
    from cal_mm.engine.collect import plain_loader

    wrapper = dict(optimizer=dict(type='SGD', lr=0.3), clip_grad=dict(max_norm=5.0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    return SimpleNamespace(
        model=model,
        train_dataloader=plain_loader(Data(40), 8),
        epoch=0,
        max_epochs=10,
        seed=3,
        logger=SimpleNamespace(info=lambda text: None),
        cfg=Config(dict(optim_wrapper=wrapper)),
        optim_wrapper=SimpleNamespace(optimizer=optimizer),
        _resume=False,
    )


def test_alignment_hook_moves_the_weight_within_its_bounds():
    model = build(unimodal_head='fusion', losses=[dict(type='GapAlignment', alignment=0.5)])
    runner = fake_runner(model)
    before = {k: v.clone() for k, v in model.named_parameters()}
    hook = AlignmentWeightHook(rate=0.1)
    step = hook._measure(runner, model)
    hook.before_train_epoch(runner)
    assert float(model.losses[0].alignment) == pytest.approx(0.5 + 0.1 * step, rel=1e-5)
    assert all(torch.equal(v, before[k]) for k, v in model.named_parameters())
    assert all(p.grad is None for p in model.parameters())
    AlignmentWeightHook(rate=9.0, least=0.4, most=0.6).before_train_epoch(runner)
    assert float(model.losses[0].alignment) in (pytest.approx(0.4), pytest.approx(0.6))
    with pytest.raises(ValueError, match='least'):
        AlignmentWeightHook(least=0.9, most=0.1)


def test_alignment_step_by_autograd():
    """Gradients of the whole parts at once, the divergences written out."""
    model = build(unimodal_head='fusion', losses=[dict(type='GapAlignment', alignment=0.5)])
    runner = fake_runner(model)
    data = runner.train_dataloader.dataset
    found = AlignmentWeightHook()._measure(runner, model)
    params = list(model.eval().parameters())

    def gradients(index):
        rows = pseudo_collate([data[i] for i in index])
        state = model.state(**model.data_preprocessor(rows, False))
        gaps = []
        for pair in itertools.combinations('abc', 2):
            p, q = (state.unimodal_logits(m).softmax(dim=1) for m in pair)
            middle = (p + q) / 2
            gaps += [(x * (x / middle).log()).sum(dim=1).mean() / 2 for x in (p, q)]
        for term in (F.cross_entropy(state.logits, state.labels), sum(gaps) / 3):
            of_each = torch.autograd.grad(term, params, retain_graph=True, allow_unused=True)
            yield torch.cat(
                [
                    (torch.zeros_like(p) if g is None else g).flatten()
                    for p, g in zip(params, of_each, strict=True)
                ]
            )

    inside, outside = held_out(data, 0.2, 'lfm')
    (classify, align), (held, _) = gradients(inside), gradients(outside)
    expected = F.cosine_similarity(held, align, dim=0) - F.cosine_similarity(held, classify, dim=0)
    assert found == pytest.approx(float(expected), abs=1e-4)
    assert abs(found) > 0.05


def test_umt_pulls_to_the_teachers(tmp_path):
    losses = [dict(type='FusedCrossEntropy'), dict(type='TeacherDistillation', weight=10.0)]
    model = build(losses=losses)
    data = model.data_preprocessor(batch(6, missing=((1, 'b'),)), training=True)
    assert 'loss_umt/a' not in stepped(model, data)[0]
    before = {k: v.clone() for k, v in model.state_dict().items()}
    runner = fake_runner(model)
    hook = TeacherHook(epochs=2)
    hook.before_train(runner)
    assert set(model.state_dict()) == set(before)  # the teachers are not the model's
    out, state = stepped(model, data)
    teachers = model.losses[1].teachers
    for m in 'abc':
        h = teachers[m].encoder(data['inputs'][m])
        target = teachers[m].bottleneck.mean(h).detach()
        rows = (state.z[m].detach() - target).square().mean(dim=1)
        keep = [i for i in range(6) if (i, m) != (1, 'b')]
        expected = 10 * float(rows[keep].sum()) / 6
        assert expected > 0
        assert float(out[f'loss_umt/{m}'].detach()) == pytest.approx(expected, rel=1e-4)
        assert not any(p.requires_grad for p in teachers[m].parameters())
    stored = {}
    hook.before_save_checkpoint(runner, stored)
    again = TeacherHook(epochs=2)
    runner._resume = True
    again.after_load_checkpoint(runner, stored)
    with torch.no_grad():
        for p in model.encoders.parameters():
            p.add_(1)  # the student moves on, the teachers do not
    again.before_train(runner)
    for m in 'abc':
        for k, v in model.losses[1].teachers[m].state_dict().items():
            assert torch.equal(v, stored['umt_teachers'][m][k])
    with pytest.raises(ValueError, match='no teachers'):
        again.after_load_checkpoint(runner, {})


@pytest.mark.parametrize(('epochs', 'updates'), [(None, 50), (0.4, 2)])
def test_umt_teachers_learn_as_long_as_the_run(monkeypatch, epochs, updates):
    seen = {}

    def train(runner, clone, groups, objective, indices, updates, key, scheduled):
        seen.update(updates=updates, scheduled=scheduled, samples=len(indices))

    monkeypatch.setattr('cal_mm.engine.hooks.teachers.train_clone', train)
    model = build(losses=[dict(type='TeacherDistillation')])
    TeacherHook(epochs=epochs).before_train(fake_runner(model))
    assert seen == dict(updates=updates, scheduled=epochs is None, samples=40)
    with pytest.raises(ValueError, match='positive'):
        TeacherHook(epochs=0)


def test_umt_teachers_learn_to_classify(monkeypatch):
    """By heads of their own, which learn with them."""
    found = {}

    def train(runner, clone, groups, objective, *args, **kwargs):
        found.update(groups=groups, clone=clone, objective=objective)

    monkeypatch.setattr('cal_mm.engine.hooks.teachers.train_clone', train)
    model = build(losses=[dict(type='TeacherDistillation')])
    TeacherHook(epochs=1).before_train(fake_runner(model))
    clone = found['clone']
    state = clone.state(**clone.data_preprocessor(batch(6, missing=((1, 'b'),)), training=True))
    expected = 0.0
    for m, params in zip('abc', found['groups'], strict=True):
        *own, weight, bias = params
        theirs = list(clone.modality_parameters()[m])
        assert all(p is q for p, q in zip(own, theirs, strict=True))
        rows = F.cross_entropy(state.z[m] @ weight.T + bias, state.labels, reduction='none')
        expected += float((rows * state.present_mask(m)).detach().sum()) / 6
    assert float(found['objective'](state).detach()) == pytest.approx(expected, rel=1e-5)


def test_umt_teachers_from_checkpoints(tmp_path):
    model = build(losses=[dict(type='TeacherDistillation')])
    other = build(seed=7)
    path = tmp_path / 'a.pth'
    torch.save({'state_dict': other.state_dict()}, path)
    TeacherHook(epochs=1, checkpoints={m: str(path) for m in 'abc'}).before_train(
        fake_runner(model)
    )
    teacher = model.losses[0].teachers['b']
    for k, v in other.encoders['b'].state_dict().items():
        assert torch.equal(teacher.encoder.state_dict()[k], v)
    with pytest.raises(LookupError, match="'x'"):
        TeacherHook(checkpoints={'x': str(path)}).before_train(fake_runner(model))
    wrong = build(dims={'b': 9})
    torch.save({'state_dict': wrong.state_dict()}, path)
    with pytest.raises(ValueError, match='no teacher for'):
        TeacherHook(epochs=1, checkpoints={m: str(path) for m in 'abc'}).before_train(
            fake_runner(model)
        )
    assert isinstance(teacher, nn.Module)
