"""Where W is measured: folds, ridge probes, the estimate and its uncertainty."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from builders import CAL, batch, build, model_config, samples
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from torch import nn
from torch.nn import functional as F

from cal_mm.engine.collect import plain_loader
from cal_mm.engine.short_training import preserved_rng
from cal_mm.engine.sources import pilot
from cal_mm.engine.sources.estimate import _Calibrated, estimate_from_predictions, make_folds
from cal_mm.engine.sources.probes import coalition_scores, fit_ridge
from cal_mm.models.contribution.functional import coalition_plan
from cal_mm.models.encoders import BaseEncoder
from cal_mm.registry import CONTRIBUTION_SOURCES


def test_folds_keep_groups_together_and_classes_balanced():
    g = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (400,), generator=g)
    groups = [f'actor{int(i)}' for i in torch.randint(40, (400,), generator=g)]
    folds = make_folds(labels, groups, 2, seed=0)
    for actor in set(groups):
        mine = [int(f) for f, name in zip(folds, groups, strict=True) if name == actor]
        assert len(set(mine)) == 1
    for c in range(4):
        assert 0.35 < float((folds[labels == c] == 0).float().mean()) < 0.65
    alone = make_folds(
        labels, [str(i) for i in range(400)], 4, seed=0
    )  # every sample its own group
    assert sorted(alone.bincount().tolist()) == [100] * 4
    assert torch.equal(alone, make_folds(labels, None, 4, seed=0))
    assert not torch.equal(alone, make_folds(labels, None, 4, seed=1))
    rare = torch.tensor([0] * 20 + [1])
    assert set(make_folds(rare, None, 2, seed=0).tolist()) == {0, 1}
    with pytest.raises(ValueError, match='too few'):
        make_folds(labels[:3], None, 2, 0)
    with pytest.raises(ValueError, match='at least 2 folds'):
        make_folds(labels, None, 1, 0)


@pytest.mark.parametrize('shape', [(60, 8), (20, 50)])
def test_ridge_against_the_normal_equations_and_real_leave_one_out(shape):
    n, d = shape
    g = torch.Generator().manual_seed(1)
    x = torch.randn(n, d, generator=g, dtype=torch.float64)
    y = x[:, :3] @ torch.randn(3, 2, generator=g, dtype=torch.float64)
    y = y + 0.5 * torch.randn(n, 2, generator=g, dtype=torch.float64)
    alphas = (0.1, 10.0, 1000.0)
    weight, bias = fit_ridge(x, y, alphas)
    scale = np.linalg.svd((x - x.mean(0)).numpy())[1].max() ** 2 / 1e3

    def solve(a, b, penalty):
        ac, bc = a - a.mean(0), b - b.mean(0)
        w = torch.linalg.solve(ac.T @ ac + penalty * torch.eye(d, dtype=a.dtype), ac.T @ bc)
        return w, b.mean(0) - a.mean(0) @ w

    errors = []
    for alpha in alphas:  # leave one out by brute force (penalty held)
        residuals = []
        for i in range(n):
            keep = torch.arange(n) != i
            w, c = solve(x[keep], y[keep], alpha * scale)
            residuals.append(((x[i] @ w + c - y[i]) ** 2).mean())
        errors.append(float(torch.stack(residuals).mean()))
    w, c = solve(x, y, alphas[int(np.argmin(errors))] * scale)
    assert torch.allclose(weight, w, atol=1e-8)
    assert torch.allclose(bias, c, atol=1e-8)


def test_one_probe_per_coalition():
    g = torch.Generator().manual_seed(2)
    labels = torch.randint(3, (60,), generator=g)
    targets = F.one_hot(labels, 3).double()
    features = {
        'a': torch.randn(60, 4, generator=g).double(),
        'b': 100 + 7 * torch.randn(60, 9, generator=g).double(),
    }
    features['a'][:, :3] += 3 * targets
    inside = torch.arange(60) % 3 != 0
    plan = coalition_plan(2)
    found, alone = coalition_scores(features, labels, 3, inside, plan.masks)
    assert found.shape == (4, 20, 3)
    assert float(found[0].abs().max()) == 0
    for row, members in zip(plan.masks.tolist()[1:], (['a'], ['b'], ['a', 'b']), strict=True):
        assert row == ['a' in members, 'b' in members]
        blocks = []
        for m in members:
            x = features[m]
            x = (x - x[inside].mean(0)) / x[inside].std(0)
            blocks.append(x / x.shape[1] ** 0.5)
        x = torch.cat(blocks, dim=1)
        weight, bias = fit_ridge(x[inside], targets[inside])
        expected = 10 * (x[~inside] @ weight + bias)
        assert torch.allclose(found[sum(2**i * k for i, k in enumerate(row))], expected)
    assert torch.equal(alone[0], found[1])
    assert torch.equal(alone[1], found[2])
    accuracy = (alone.argmax(-1) == labels[~inside]).float().mean(-1)
    assert float(accuracy[0]) > 0.6 > float(accuracy[1])


def test_a_modality_whose_features_never_change_tells_nothing():
    g = torch.Generator().manual_seed(4)
    labels = torch.randint(3, (300,), generator=g)
    features = {
        'a': F.one_hot(labels, 3) + 0.1 * torch.randn(300, 3, generator=g).double(),
        'b': torch.full((300, 5), 7.0).double(),
    }
    folds, plan = torch.arange(300) % 2, coalition_plan(2)
    logits = torch.zeros(4, 300, 3, dtype=torch.float64)
    alone = torch.zeros(2, 300, 3, dtype=torch.float64)
    for fold in (0, 1):
        out = folds == fold
        logits[:, out], alone[:, out] = coalition_scores(features, labels, 3, ~out, plan.masks)
    assert torch.allclose(
        alone[1][folds == 0], 10 * F.one_hot(labels, 3)[folds == 1].double().mean(0)
    )
    tracker = build(dims={'a': 3, 'b': 5}, **CAL).contribution
    prior = labels.bincount().double().div(300).log()
    found = estimate_from_predictions(tracker, plan, logits, alone, labels, folds, prior)
    assert float(found.information[0]) > 0.5
    assert abs(float(found.information[1])) < 0.01


def predictions(strengths, n=400, classes=4, seed=0):
    """Logits of every coalition: the sum of its members' evidence of a given strength, plus
    noise.
    """
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=g)
    plan = coalition_plan(len(strengths))
    own = torch.stack(
        [s * F.one_hot(labels, classes) + torch.randn(n, classes, generator=g) for s in strengths]
    )
    logits = torch.einsum('sm,mnc->snc', plan.masks.float(), own)
    return plan, logits, own, labels, torch.arange(n) % 2


def estimate(strengths, **kwargs):
    plan, logits, own, labels, folds = predictions(strengths, **kwargs)
    tracker = build(dims={f'm{i}': 3 for i in range(len(strengths))}, **CAL).contribution
    tracker.tau = 0.15
    prior = torch.full((4,), 0.25, dtype=torch.float64).log()
    return estimate_from_predictions(tracker, plan, logits, own, labels, folds, prior)


def test_estimate_orders_the_modalities():
    found = estimate([3.0, 1.5, 0.0])
    w, info = found.weights, found.information
    assert w[0] > w[1] > w[2]
    assert info[0] > info[1] > info[2]
    assert -0.2 < float(info[2]) < 0.03  # its noise costs the coalitions that it joins
    assert float(w.sum()) == pytest.approx(1)
    assert not found.details['undecided']
    assert (found.standard_error > 0).all()
    assert float(found.standard_error.max()) < 0.1


def test_estimate_falls_back_to_uniform_where_nothing_differs():
    undecided = [estimate([1.0, 1.0], n=60, seed=s).details['undecided'] for s in range(8)]
    assert sum(undecided) >= 6
    found = next(
        e for s in range(8) if (e := estimate([1.0, 1.0], n=60, seed=s)).details['undecided']
    )
    assert found.weights.tolist() == pytest.approx([0.5, 0.5])
    assert found.information[0] == found.information[1]


def clustered(seed, groups=20, size=20):
    """Estimates of two equal modalities whose reliability belongs to the group, without and with
    the groups told.
    """
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (groups * size,), generator=g)
    names = [f'g{i // size}' for i in range(len(labels))]
    sign = (labels * 2 - 1).float()
    plan, own = coalition_plan(2), []
    for _ in range(2):
        reliable = 1 + torch.randn(groups, generator=g).repeat_interleave(size)
        evidence = sign * reliable + torch.randn(len(labels), generator=g)
        own.append(torch.stack([-evidence, evidence], dim=-1))
    own = torch.stack(own)
    logits = torch.einsum('sm,mnc->snc', plan.masks.float(), own)
    tracker = build(dims={'a': 3, 'b': 3}, **CAL).contribution
    tracker.tau = 0.15
    prior = torch.full((2,), 0.5, dtype=torch.float64).log()
    folds = make_folds(labels, names, 2, 0)
    return [
        estimate_from_predictions(
            tracker, plan, logits, own, labels, folds, prior, groups=told
        ).details
        for told in (None, [str(i) for i in range(len(labels))], names)
    ]


def test_the_jackknife_leaves_out_whole_groups():
    found = [clustered(seed) for seed in range(12)]
    for without, each_alone, _ in found:
        assert without == each_alone
    decided = [sum(not each[i]['undecided'] for each in found) for i in (0, 2)]
    assert decided[1] < decided[0] / 1.5
    errors = [sum(each[i]['gap_standard_error'] for each in found) for i in (0, 2)]
    assert errors[1] > 1.5 * errors[0]


def test_a_group_that_is_a_fold_of_its_own_can_be_left_out():
    plan, logits, own, labels, _ = predictions([2.0, 0.0], n=90)
    folds = (torch.arange(90) >= 60).long()
    tracker = build(dims={'a': 3, 'b': 3}, **CAL).contribution
    prior = torch.full((4,), 0.25, dtype=torch.float64).log()
    for groups in ([str(i // 30) for i in range(90)], [str(int(f)) for f in folds], ['one'] * 90):
        found = estimate_from_predictions(
            tracker, plan, logits, own, labels, folds, prior, groups=groups
        )
        assert torch.isfinite(found.standard_error).all()


def test_sampled_shapley_values_come_with_their_error():
    found = estimate([2.0, 1.0, 0.5, 0.0, 0.0, 0.0, 0.0], n=120)
    plan, logits, own, labels, folds = predictions([2.0, 1.0, 0.5, 0.0, 0.0, 0.0, 0.0], n=120)
    prior = torch.full((120,), 0.25).log()
    everything = torch.ones(120, dtype=torch.bool)
    values = _Calibrated(plan, logits, own, labels, folds, prior).means(everything)[0]
    entropy = float(np.log(4))
    each = torch.stack([pair @ values.clamp_min(-entropy) for pair in plan.pairs]) / entropy
    expected = each.std(dim=0) / len(each) ** 0.5
    assert found.details['sampling_error'] == pytest.approx(expected.tolist(), rel=1e-4)
    assert 0 < max(found.details['sampling_error']) < 0.1
    assert 'sampling_error' not in estimate([2.0, 0.0]).details


@pytest.mark.parametrize('every', [1, 4])
def test_a_share_of_the_run_is_counted_in_updates(monkeypatch, every):
    """Of 2001 micro-batches."""
    source = CONTRIBUTION_SOURCES.build(dict(type='PilotSource', updates=10, share=0.5))
    trained = []
    for name, stand_in in (
        ('_build', lambda *args: None),
        ('_train', lambda *args: trained.append(args[4])),
        ('_read', lambda *args: (torch.zeros(4, 2, 3), torch.zeros(2, 2, 3))),
    ):
        monkeypatch.setattr(source, name, stand_in)
    runner = SimpleNamespace(
        train_dataloader=SimpleNamespace(dataset=None, batch_size=2),
        optim_wrapper=SimpleNamespace(_accumulative_counts=every),
        max_iters=2001,
        seed=0,
        logger=SimpleNamespace(info=lambda text: None),
    )
    model = SimpleNamespace(modalities=('a', 'b'), num_classes=3)
    source.predict(runner, model, torch.zeros(4).long(), torch.arange(4) % 2, coalition_plan(2))
    assert trained == [{1: 1000, 4: 250}[every]] * 2


def test_a_pilot_learns_from_the_other_folds_only(monkeypatch):
    rows, model = samples(40), build(**CAL)
    labels = torch.tensor([int(row['data_samples'].gt_label) for row in rows])
    folds, plan = torch.arange(40) % 2, coalition_plan(3)
    source = CONTRIBUTION_SOURCES.build(dict(type='PilotSource', updates=30, readout='heads'))
    pilots, seen, batches = [], [], pilot.shuffled_batches

    def make(*args):
        losses = [dict(type='FusedCrossEntropy'), dict(type='UnimodalCrossEntropy')]
        pilots.append(build(unimodal_head=dict(type='LinearHead'), losses=losses))
        return pilots[-1]

    def spied(dataset, index, *args):
        seen.append(index)
        return batches(dataset, index, *args)

    monkeypatch.setattr(source, '_build', make)
    monkeypatch.setattr(pilot, 'shuffled_batches', spied)
    runner = SimpleNamespace(
        train_dataloader=plain_loader(rows, 8),
        cfg=Config(dict(optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.3)))),
        optim_wrapper=SimpleNamespace(),
        max_iters=10,
        seed=0,
        logger=SimpleNamespace(info=lambda text: None),
    )
    logits, alone = source.predict(runner, model, labels, folds, plan)

    @torch.no_grad()
    def state_of(net, index):
        chosen = pseudo_collate([rows[i] for i in index.tolist()])
        return net.state(**net.data_preprocessor(chosen, False))

    for fold, (net, index) in enumerate(zip(pilots, seen, strict=True)):
        assert folds[index].tolist() == [1 - fold] * 20
        net.eval()
        assert float(F.cross_entropy(state_of(net, index).logits, labels[index])) < 0.7  # learnt
        out = (folds == fold).nonzero().flatten()
        state = state_of(net, out)
        expected = state.coalition_logits(plan.masks).detach()
        torch.testing.assert_close(logits[:, out], expected, atol=1e-5, rtol=1e-4)
        for j, m in enumerate('abc'):
            expected = net.heads[m](state.z[m]).detach()
            torch.testing.assert_close(alone[j, out], expected, atol=1e-5, rtol=1e-4)


def test_a_pilot_learns_alike_however_an_update_is_split():
    """No forward pass has more samples than the run's, and what is drawn is the update's."""
    rows, overrides = samples(48), {**CAL, 'feature_transforms': [dict(type='OPM', p_exe=1.0)]}
    cfg = dict(model=model_config(**overrides), optim_wrapper=dict(optimizer=dict(type='SGD')))
    cfg['optim_wrapper']['optimizer']['lr'] = 0.1
    runner = SimpleNamespace(
        train_dataloader=plain_loader(rows, 4), cfg=Config(cfg), optim_wrapper=None
    )
    found, sizes, model = [], [], build(**overrides)
    for most in (16, 5):
        with preserved_rng(3):
            net = pilot.PilotSource._build(runner, model)
            start = [p.detach().clone() for p in net.parameters()]
            net.encoders['a'].register_forward_hook(lambda *args: sizes.append(len(args[2])))
            pilot.PilotSource._train(net, runner, rows, torch.arange(48), 6, 16, most)
        found.append(list(net.parameters()))
    assert net.feature_transforms[0].scores.local
    assert sizes == [16] * 6 + [4] * 24
    assert any((x - y).abs().max() > 1e-2 for x, y in zip(found[0], start, strict=True))
    for x, y in zip(*found, strict=True):
        torch.testing.assert_close(x, y, atol=1e-5, rtol=1e-4)


class PartlyFixed(BaseEncoder):
    """A fixed layer with statistics, a fixed scale, and a layer that learns."""

    def __init__(self):
        super().__init__(4)
        self.norm = nn.BatchNorm1d(6).requires_grad_(False)
        self.scale = nn.Parameter(torch.ones(6), requires_grad=False)
        self.last = nn.Linear(6, 4)

    def encode(self, x, mask=None):
        return self.last(self.norm(x) * self.scale)


def test_what_does_not_learn_in_a_pilot_is_the_runs():
    """As it is after load_from; what learns starts anew, and nothing more is drawn for that."""
    encoders = dict(model_config()['encoders'], b=dict(type=PartlyFixed))
    encoders['a'] = dict(encoders['a'], frozen=True)
    runner = SimpleNamespace(cfg=Config(dict(model=model_config(encoders=encoders))))
    model = build(encoders=encoders)
    states, drawn = [], []
    for _ in range(2):
        with preserved_rng(3):
            states.append(pilot.PilotSource._build(runner, model).encoders.state_dict())
            drawn.append(torch.rand(3))
        with torch.no_grad():  # load_from
            for value in model.encoders.state_dict().values():
                value.fill_(2)
    assert torch.equal(*drawn)
    for name, value in states[1].items():
        fixed = name.startswith(('a.', 'b.norm', 'b.scale'))
        expected = torch.full_like(value, 2) if fixed else states[0][name]
        assert torch.equal(value, expected), name


def test_a_source_splits_by_the_batch_of_the_run(monkeypatch):
    source = CONTRIBUTION_SOURCES.build(dict(type='PilotSource'))
    seen = []
    monkeypatch.setattr(source, '_build', lambda *args: None)
    monkeypatch.setattr(source, '_train', lambda *args: seen.append(args[-2:]))

    runner = SimpleNamespace(
        train_dataloader=SimpleNamespace(batch_size=8, dataset=None),
        optim_wrapper=SimpleNamespace(_accumulative_counts=4),
        max_iters=10,
        seed=0,
        logger=SimpleNamespace(info=lambda text: None),
    )
    plan = coalition_plan(3)

    def read(*args):
        seen.append(args[-1:])
        return torch.zeros(plan.num_coalitions, 10, 3), torch.zeros(3, 10, 3)

    monkeypatch.setattr(source, '_read', read)
    source.predict(runner, build(), torch.zeros(20).long(), torch.arange(20) % 2, plan)
    assert seen == [(32, 8), (8,)] * 2


def test_what_ridge_probes_read():
    """A frozen encoder's output; of what is wide, one projection for all batches."""
    dims = {'a': 6, 'b': 40}
    model = build(dims=dims, **CAL)
    model.encoders['a'].frozen = True
    source = CONTRIBUTION_SOURCES.build(dict(type='RidgeSource', max_dim=8))
    found = source._features(model, samples(150, dims=dims), 16)
    inputs = model.data_preprocessor(batch(150, dims=dims), False)['inputs']
    expected = model.eval().encoders['a'](inputs['a']).detach().double()
    torch.testing.assert_close(found['a'], expected, atol=1e-5, rtol=1e-4)
    assert found['b'].shape == (150, 8)
    x = inputs['b'].double()
    fit = x @ torch.linalg.lstsq(x, found['b']).solution  # linear, the same for every row
    torch.testing.assert_close(fit, found['b'], atol=1e-5, rtol=1e-4)


def test_preserved_rng():
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    with preserved_rng(5):
        first = torch.rand(3), np.random.rand(3)  # noqa: NPY002
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()  # noqa: NPY002
    with preserved_rng(5):
        assert torch.equal(first[0], torch.rand(3))


@pytest.mark.parametrize('name', sorted(CONTRIBUTION_SOURCES.module_dict))
def test_every_registered_source_builds(name):
    assert hasattr(CONTRIBUTION_SOURCES.build(dict(type=name)), 'measure')


def test_bad_pilots():
    for bad in (dict(updates=0), dict(share=2.0), dict(readout='knn')):
        with pytest.raises(ValueError, match='PilotSource'):
            CONTRIBUTION_SOURCES.build(dict(type='PilotSource', **bad))


def test_a_samples_own_label_does_not_set_its_temperature():
    plan, logits, own, labels, folds = predictions([2.0, 0.0])
    prior = torch.full((400,), 0.25).log()
    tables = _Calibrated(plan, logits, own, labels, folds, prior)
    everything = torch.ones(400, dtype=torch.bool)
    _, before = tables.means(folds == 0, everything)
    changed = labels.clone()
    changed[folds == 0] = (changed[folds == 0] + 1) % 4
    tables = _Calibrated(plan, logits, own, changed, folds, prior)
    _, after = tables.means(folds == 0, everything)
    assert torch.equal(before, after)
    assert float(before[1]) < 0.1 < float(before[0])
