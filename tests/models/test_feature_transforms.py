"""OPM, AMCo and EAU's weights against straightforward computations in float64."""

import math

import pytest
import torch
from builders import CAL, batch, build

from cal_mm.engine.modulators import UncertaintyModulator
from cal_mm.models.feature_transforms import OPM, AMCo, FeatureContext, VarianceWeights
from cal_mm.models.feature_transforms.amco import dependence, masked_share
from cal_mm.models.feature_transforms.opm import drop_probabilities
from cal_mm.models.feature_transforms.variance_weights import variance_weights
from cal_mm.models.losses.aleatoric import AleatoricLoss, info_nce
from cal_mm.models.noise import SampleDraws
from cal_mm.structures import TrainProgress


def table(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def context(names, logits, counter, present=None, training=True, progress=None):
    """u_m is whatever ``logits`` says, for as many samples as it has."""
    count = len(next(iter(logits.values())))
    draws = SampleDraws(torch.arange(count), seed=1, counter=counter) if training else None
    return FeatureContext(
        modalities=names,
        num_classes=3,
        training=training,
        progress=progress or TrainProgress(update=counter, max_updates=99),
        labels=torch.zeros(count, dtype=torch.int64),
        present=present,
        draws=draws,
        head=lambda m, z: logits[m],
    )


def test_drop_probabilities_by_hand():
    q = drop_probabilities(torch.tensor([0.6, 0.4], dtype=torch.float64), 0.4, 0.5)
    assert q.tolist() == pytest.approx([0.4 * (1 + 0.5 * math.tanh(0.5)), 0])
    assert drop_probabilities(torch.ones(2), 0.4, 0.5).tolist() == [0, 0]
    three = drop_probabilities(torch.tensor([0.9, 0.2, 0.4], dtype=torch.float64), 0.9, 5)
    assert three.tolist() == [1, 0, 0]  # capped
    assert drop_probabilities(torch.ones(1), 0.4, 0.5).tolist() == [0]


NAMES = ('a', 'b')
SURE = torch.tensor([[9.0, 0, 0]])
UNSURE = torch.zeros(1, 3)


def trained(transform, widths, logits, present=None, **kwargs):
    """What the second update makes of features of ones."""
    transform.setup(widths, 3)
    count = len(next(iter(logits.values())))
    z = {m: torch.ones(count, w) for m, w in widths.items()}
    names = tuple(widths)
    first = transform(z, context(names, logits, 0, present, **kwargs))
    assert all(first[m] is z[m] for m in z)  # nothing is known yet
    out = transform(z, context(names, logits, 1, present, **kwargs))
    still = transform(z, context(names, logits, 2, present, training=False))
    assert all(still[m] is z[m] for m in z)  # evaluation
    return out


@pytest.mark.parametrize('drop', ['sample', 'dimension'])
def test_opm_drops_the_dominant_modality(drop):
    logits = {'a': SURE.repeat(4000, 1), 'b': UNSURE.repeat(4000, 1)}
    out = trained(OPM(p_exe=1.0, drop=drop), {'a': 4, 'b': 12}, logits)
    score = torch.stack([SURE[0].double().softmax(0)[0], torch.tensor(1 / 3).double()])
    q = float(drop_probabilities(score, 0.4, 0.5)[0])
    scale = 1 / (1 - 4 * q / 16)
    assert torch.allclose(out['b'], torch.full_like(out['b'], scale))  # never dropped
    values = out['a'].unique().tolist()
    assert values == pytest.approx([0, scale])
    assert float((out['a'] == 0).float().mean()) == pytest.approx(q, abs=0.03)
    whole = (out['a'] == 0).all(dim=1) | (out['a'] != 0).all(dim=1)
    assert bool(whole.all()) == (drop == 'sample')


def test_opm_leaves_a_sample_its_last_modality():
    logits = {'a': SURE.repeat(64, 1), 'b': UNSURE.repeat(64, 1)}
    present = torch.tensor([[True, False], [True, True]]).repeat(32, 1)
    out = trained(OPM(q_base=1.0, p_exe=1.0), {'a': 2, 'b': 6}, logits, present)
    assert (out['a'][::2] > 0).all()
    assert (out['a'][1::2] == 0).all()
    assert trained(OPM(p_exe=0.0), {'a': 2, 'b': 6}, logits)['a'].eq(1).all()
    with pytest.raises(ValueError, match='needs unimodal logits'):
        FeatureContext(('a',), 3, True, TrainProgress()).unimodal_logits('a', torch.ones(1, 1))


def test_amco_by_loops():
    logits = {'a': table(5, 3), 'b': table(5, 3, seed=1), 'c': table(5, 3, seed=2)}
    got = dependence(list(logits.values()))
    for i in range(5):
        weights = {m: sum(math.exp(float(v)) for v in logits[m][i]) for m in logits}
        expected = [w / sum(weights.values()) for w in weights.values()]
        assert got[i].tolist() == pytest.approx(expected, rel=1e-5)
    assert masked_share(50, 100) == pytest.approx(math.sin(math.pi / 4))
    assert masked_share(500, 100) == 1
    logits = {'a': SURE.repeat(8, 1), 'b': UNSURE.repeat(8, 1)}
    progress = TrainProgress(epoch=5, max_epochs=10, update=5 * 20 + 1, max_updates=200)
    out = trained(AMCo(threshold=0.6, length=1.0), {'a': 10, 'b': 4}, logits, progress=progress)
    share = math.sin(math.pi / 2 * 0.5)
    zeros = (out['a'] == 0).sum(dim=1)
    assert zeros.tolist() == [int(10 * share)] * 8
    assert out['a'].max() == pytest.approx(1 / (1 - share))
    assert (out['a'] == out['a'][0]).all()  # one mask for the update
    assert out['b'].eq(1).all()
    calm = trained(AMCo(threshold=1.0, length=1.0), {'a': 10, 'b': 4}, logits, progress=progress)
    assert calm['a'].eq(1).all()


def test_amco_counts_modalities_that_are_there():
    """The logits of what is missing are of an encoded zero: they say nothing."""
    logits = {'a': UNSURE.repeat(8, 1), 'b': SURE.repeat(8, 1), 'c': table(8, 3)}
    present = torch.ones(8, 3, dtype=torch.bool)
    present[2:, 1] = False  # 'b' is sure only of what it does not see ...
    present[4:, 2] = False  # ... and 'a' alone depends on nothing else
    present[7] = False
    logits['b'][:2] = UNSURE
    got = dependence(list(logits.values()), present)
    for i in range(8):
        there = [m for j, m in enumerate('abc') if present[i, j]]
        mass = {m: float(logits[m][i].double().exp().sum()) for m in there}
        expected = [mass.get(m, 0.0) / (sum(mass.values()) or 1.0) for m in 'abc']
        assert got[i].tolist() == pytest.approx(expected, rel=1e-5)
    transform, z = AMCo(threshold=0.6, length=1.0), {m: torch.ones(8, 4) for m in 'abc'}
    transform.setup(dict.fromkeys('abc', 4), 3)
    progress = TrainProgress(epoch=5, max_epochs=10, update=5 * 20 + 1, max_updates=200)
    for counter in (0, 1):
        out = transform(z, context(tuple('abc'), logits, counter, present, progress=progress))
    assert all(out[m].eq(1).all() for m in 'abc')
    expected = [got[:4, 0].mean(), got[:2, 1].mean(), got[:4, 2].mean()]
    assert transform.shares.mean.tolist() == pytest.approx([float(v) for v in expected])


@torch.no_grad()
@pytest.mark.parametrize(
    ('name', 'sampling'),
    [('VarianceWeights', 'abc'), ('MMTM', 'abc'), ('MMTM', 'ab'), ('OPM', 'ab'), ('AMCo', 'abc')],
)
def test_means_go_through_the_transforms_as_in_evaluation(name, sampling):
    """Where a bottleneck samples, W is measured on what the model uses at inference."""
    kinds = {m: 'Variational' if m in sampling else 'Linear' for m in 'abc'}
    bottleneck = {m: dict(type=f'{k}Bottleneck', out_channels=8) for m, k in kinds.items()}
    model = build(**{**CAL, 'bottleneck': bottleneck, 'feature_transforms': [dict(type=name)]})
    data = model.data_preprocessor(batch(6, missing=((1, 'b'),)), training=True)
    inference = model.state(**data)
    for update in range(3):
        model.progress = TrainProgress(update=update, max_updates=9, epoch=1, max_epochs=3)
        state = model.state(**data, training=True)
        for m in 'abc':
            torch.testing.assert_close(state.mu[m], inference.z[m], rtol=0, atol=0)
            assert m not in sampling or not torch.equal(state.z[m], state.mu[m])
        torch.testing.assert_close(
            state.mean_unimodal_logits('a'), inference.unimodal_logits('a'), rtol=0, atol=0
        )


@pytest.mark.parametrize('count', [1, 2, 3])
def test_variance_weights_by_loops(count):
    var = table(count, 4, 5).exp()
    present = torch.ones(4, count, dtype=torch.bool)
    present[1, 0] = count == 1
    got = variance_weights(var, present)
    for b in range(4):
        there = [m for m in range(count) if present[b, m]]
        for d in range(5):
            others = {
                m: sum(float(var[n, b, d]) for n in there if n != m) / max(1, len(there) - 1)
                for m in there
            }
            total = sum(math.exp(v) for v in others.values())
            for m in range(count):
                expected = math.exp(others[m]) / total if m in there else 0.0
                assert float(got[m, b, d]) == pytest.approx(expected, rel=1e-12)


def test_info_nce_by_loops():
    a, b = table(4, 3), table(4, 3, seed=1)

    def e(x, y):
        return math.exp(float(torch.nn.functional.cosine_similarity(x, y, dim=0)) / 0.5)

    def way(x, y, i):
        below = sum(e(x[i], y[j]) for j in range(4)) + sum(
            e(x[i], x[j]) for j in range(4) if j != i
        )
        return -math.log(e(x[i], y[i]) / below)

    expected = [(way(a, b, i) + way(b, a, i)) / 2 for i in range(4)]
    assert info_nce(a, b, 0.5).tolist() == pytest.approx(expected, rel=1e-10)


def eau(sigma=0.13, **kwargs):
    return build(
        bottleneck=dict(type='VariationalBottleneck', out_channels=8, init_sigma=sigma),
        feature_transforms=[dict(type='VarianceWeights')],
        losses=[dict(type='AleatoricLoss', **kwargs)],
    )


def test_eau_kl_terms():
    model = eau(contrast=0.0, kl=1.0, cross=1.0)
    data = model.data_preprocessor(batch(6, missing=((1, 'b'),)), training=True)
    losses, state = model(**data, mode='loss'), model.state(**data, training=True)
    normal = {
        m: torch.distributions.Normal(*(v.detach() for v in state.gaussian(m)))
        for m in model.modalities
    }
    kl = torch.distributions.kl_divergence
    terms = []
    for m in model.modalities:
        mask = state.present_mask(m).float()
        one = (kl(normal[m], torch.distributions.Normal(0.0, 1.0)).sum(1) * mask).mean()
        assert torch.allclose(losses[f'loss_eau/{m}'].detach(), one, rtol=1e-5)
        for n in model.modalities:
            if m != n:
                both = mask * state.present_mask(n)
                terms.append(float((kl(normal[m], normal[n]).sum(1) * both).mean()))
    expected = sum(terms) / len(terms)
    assert float(losses['loss_eau_cross'].detach()) == pytest.approx(expected, rel=1e-5)
    assert 'loss_eau/a' in eau(contrast=1.0, kl=0.0)(**data, mode='loss')


@torch.no_grad()
def test_eau_weighs_what_enters_the_fusion():
    model = eau().eval()
    for m in 'abc':
        torch.nn.init.normal_(model.bottlenecks[m].log_scale.weight)
    data = model.data_preprocessor(batch(5), training=False)
    h = model.encode(data['inputs'])
    variance = {m: model.bottlenecks[m].sigma(h[m]).square() for m in h}
    raw = {m: (sum(variance[n] for n in h if n != m) / 2).exp() for m in h}
    z = {m: raw[m] / sum(raw.values()) * model.bottlenecks[m].mean(h[m]) for m in h}
    torch.testing.assert_close(model(**data), model.fusion(z), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_eau_contrasts_two_draws():
    """Not one with itself: the loss is among those of other pairs of draws, above any such."""
    model = eau(sigma=0.8, contrast=2.0, kl=0.0, cross=0.0)
    data = model.data_preprocessor(batch(12), training=True)
    losses, state = model(**data, mode='loss'), model.state(**data, training=True)
    g = torch.Generator().manual_seed(0)
    for m in 'abc':
        mu, sigma = state.gaussian(m)
        pairs = mu + sigma * torch.randn(200, 2, *mu.shape, generator=g)
        two = [2 * float(info_nce(x, y, 0.5).mean()) for x, y in pairs]
        one = [2 * float(info_nce(x, x, 0.5).mean()) for x, _ in pairs]
        assert min(two) < float(losses[f'loss_eau/{m}']) < max(two)
        assert float(losses[f'loss_eau/{m}']) > max(one)


def test_eau_needs_a_spread_and_one_width():
    plain = build(feature_transforms=[dict(type='VarianceWeights')])
    data = plain.data_preprocessor(batch(4), training=True)
    with pytest.raises(ValueError, match='VariationalBottleneck'):
        plain.state(**data)
    with pytest.raises(ValueError, match='one width'):
        VarianceWeights().setup({'a': 4, 'b': 5}, 3)
    for bad in (dict(kl=-1.0), dict(temperature=0.0)):
        with pytest.raises(ValueError, match='AleatoricLoss'):
            AleatoricLoss(**bad)
    for bad in (dict(q_base=2.0), dict(strength=-1.0), dict(drop='all')):
        with pytest.raises(ValueError, match='OPM'):
            OPM(**bad)
    for bad in (dict(threshold=0.0), dict(length=0.0)):
        with pytest.raises(ValueError, match='AMCo'):
            AMCo(**bad)


def test_uncertainty_after_an_autocast_and_by_hand():
    """Statistics are booked once the autocast is off."""
    model = eau()
    data = model.data_preprocessor(batch(6, missing=((1, 'b'),)), training=True)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        state = model.state(**data, training=True)
    assert state.features['a'].dtype == torch.bfloat16
    modulator = UncertaintyModulator(strength=0.5)
    shares = modulator.statistics(state).detach()
    variance = [state.spread(m).square().mean(dim=1).detach() for m in 'abc']
    assert torch.allclose(shares[0], torch.stack(variance)[:, 0] / sum(v[0] for v in variance))
    assert float(shares[1, 1]) == 0
    assert shares.sum(dim=1).tolist() == pytest.approx([1.0] * 6)
    k = modulator(shares.double().mean(dim=0), TrainProgress())
    assert k.tolist() == pytest.approx((1 + 0.5 * shares.double().mean(dim=0)).tolist())
    with pytest.raises(ValueError, match='strength'):
        UncertaintyModulator(strength=-1.0)
