"""FGM, FGSM and PGD on the model: against a slow reference, and that they leave no trace."""

import copy

import numpy as np
import pytest
import torch
from builders import CAL, build, samples
from mmengine.dataset import pseudo_collate
from mmengine.model import BaseDataPreprocessor, BaseModel
from torch import nn

from cal_mm.corruptions import (
    DepthFGSM,
    DepthPGDL2,
    FeatureFGM,
    FeatureFGSM,
    FeaturePGD,
    FeaturePGDL2,
    ImageFGM,
    ImageFGSM,
    ImagePGD,
    ImagePGDL2,
    WaveformFGM,
    WaveformFGSM,
    WaveformPGD,
    parse_attack,
)
from cal_mm.corruptions.adversarial_attack import act
from cal_mm.corruptions.adversarial_functional import log_odds_against, random_in_ball
from cal_mm.engine.loops import state_fingerprint
from cal_mm.models.encoders import BaseEncoder
from cal_mm.registry import ENCODERS
from cal_mm.structures import MultiModalDataSample

DIMS = {'a': 6, 'b': 5}


def linear_model():
    """Logits are an affine function of the features of both modalities."""
    return build(
        dims=DIMS,
        encoders={m: dict(type='IdentityEncoder', in_channels=d) for m, d in DIMS.items()},
        bottleneck=None,
    )


def feature_batch(n=8, **kwargs):
    return pseudo_collate(samples(n, dims=DIMS, **kwargs))


class Linear:
    """The linear model again, one sample at a time in float64."""

    def __init__(self, model):
        self.weight = model.fusion.head.weight.detach().double().numpy()
        self.bias = model.fusion.head.bias.detach().double().numpy()

    def loss_and_gradient(self, x, label):
        """log((1 - p) / p) and its gradient: the others' posterior mean minus the label's row."""
        logits = self.weight @ x + self.bias
        others = [c for c in range(len(logits)) if c != label]
        weights = np.exp(logits[others] - logits[others].max())
        loss = np.log(weights.sum()) + logits[others].max() - logits[label]
        mean = sum(w * self.weight[c] for w, c in zip(weights, others, strict=True))
        return loss, mean / weights.sum() - self.weight[label]


def parts(batch, row):
    return {m: batch['inputs'][m][row].double().numpy() for m in DIMS}


STD = {'a': [0.5, 1.0, 2.0, 0.0, 1.5, 0.1], 'b': [1.0] * 5}


def test_single_steps_have_a_closed_form_on_a_linear_softmax():
    """Jointly, with another budget and unit for each modality; FGM and FGSM."""
    model, batch = linear_model(), feature_batch()
    reference = Linear(model)
    for cls in (FeatureFGSM, FeatureFGM):
        attacks = [cls('a', eps=0.3, std=STD['a']), cls('b', eps=0.7)]
        out = act(attacks, batch, model)
        for row, sample in enumerate(batch['data_samples']):
            x = parts(batch, row)
            _, gradient = reference.loss_and_gradient(
                np.concatenate([x['a'], x['b']]), int(sample.gt_label)
            )
            for m, g, eps in (('a', gradient[:6], 0.3), ('b', gradient[6:], 0.7)):
                unit = np.array(STD[m])
                step = np.sign(unit * g)
                if cls is FeatureFGM:
                    step = np.sqrt((unit > 0).sum()) * unit * g / np.linalg.norm(unit * g)
                expected = x[m] + eps * unit * step
                got = out['inputs'][m][row].double().numpy()
                np.testing.assert_allclose(got, expected, atol=2e-6)


@pytest.mark.parametrize('cls', [FeaturePGD, FeaturePGDL2])
def test_pgd_is_a_plain_loop_over_samples_and_steps(cls):
    model, batch = linear_model(), feature_batch()
    reference = Linear(model)
    eps, steps, share = {'a': 0.4, 'b': 0.8}, 5, 0.3
    attacks = [cls(m, eps=eps[m], steps=steps, step_size=share, seed=4) for m in DIMS]
    out = act(attacks, batch, model)
    for row, sample in enumerate(batch['data_samples']):
        clean, delta, radius = parts(batch, row), {}, {}
        for attack in attacks:
            m = attack.modality
            radius[m] = eps[m] * (np.sqrt(DIMS[m]) if attack.norm == 'l2' else 1)
            rng = attack.generator(sample.sample_id)
            rng.random()  # whether the sample is hit
            delta[m] = random_in_ball(rng, DIMS[m], attack.norm).astype(np.float64) * radius[m]
        best = (-np.inf, None)
        for step in range(steps + 1):
            x = np.concatenate([clean[m] + delta[m] for m in DIMS])
            loss, gradient = reference.loss_and_gradient(x, int(sample.gt_label))
            if loss > best[0]:
                best = (loss, dict(delta))
            if step == steps:
                break
            for m, g in (('a', gradient[:6]), ('b', gradient[6:])):
                if cls is FeaturePGD:
                    moved = delta[m] + share * radius[m] * np.sign(g)
                    delta[m] = np.clip(moved, -radius[m], radius[m])
                else:
                    moved = delta[m] + share * radius[m] * g / np.linalg.norm(g)
                    delta[m] = moved * min(1, radius[m] / np.linalg.norm(moved))
        for m in DIMS:
            got = out['inputs'][m][row].double().numpy()
            np.testing.assert_allclose(got, clean[m] + best[1][m], atol=3e-6)


def trained(model, make, steps=60, lr=0.02):
    """A few steps of Adam, so that the model knows something."""
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=lr)
    for step in range(steps):
        model.train()
        data = model.data_preprocessor(make(step), training=True)
        total, _ = model.parse_losses(model(**data, mode='loss'))
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        optimizer.step()
    model.zero_grad(set_to_none=True)
    return model.eval()


def losses(model, batch):
    with torch.no_grad():
        logits = model(**model.data_preprocessor(copy.deepcopy(batch)), mode='tensor')
    labels = torch.stack([s.gt_label for s in batch['data_samples']])
    return log_odds_against(logits, labels)


@pytest.fixture(scope='module')
def mlp():
    model = build(dims=DIMS)
    return trained(model, lambda step: feature_batch(32, seed=step + 10))


def with_noise(batch, eps, norm, seed):
    """Random noise that uses the whole budget of an attack."""
    rng = np.random.default_rng(seed)
    out = copy.deepcopy(batch)
    for m in DIMS:
        for i, v in enumerate(out['inputs'][m]):
            noise = rng.standard_normal(v.shape)
            if norm == 'linf':
                noise = np.sign(noise)
            noise *= eps * np.sqrt(v.numel()) / np.linalg.norm(noise)
            out['inputs'][m][i] = v + torch.from_numpy(noise).float()
    return out


def test_pgd_stays_in_its_ball_rises_and_beats_one_step_and_noise(mlp):
    batch, eps = feature_batch(40), 0.5
    clean = losses(mlp, batch)
    for cls, single in ((FeaturePGD, FeatureFGSM), (FeaturePGDL2, FeatureFGM)):
        mean, previous = [], None
        for steps in (1, 3, 10, 30):
            attacks = [cls(m, eps=eps, steps=steps, random_start=False) for m in DIMS]
            out = act(attacks, batch, mlp)
            previous = losses(mlp, out)
            mean.append(float(previous.mean()))
            for m in DIMS:
                delta = torch.stack(out['inputs'][m]) - torch.stack(batch['inputs'][m])
                size = delta.abs().amax(1) if cls.norm == 'linf' else delta.norm(dim=1)
                most = eps if cls.norm == 'linf' else eps * DIMS[m] ** 0.5
                assert float(size.max()) <= most * (1 + 1e-5)
        assert mean[0] <= mean[1] + 1e-3
        assert mean[1] <= mean[2] + 1e-3
        assert bool((previous >= clean).all())
        once = losses(mlp, act([single(m, eps=eps) for m in DIMS], batch, mlp))
        assert float(once.mean()) <= mean[3] + 1e-6
        noise = [losses(mlp, with_noise(batch, eps, cls.norm, s)) for s in range(5)]
        assert float(torch.stack(noise).amax(0).mean()) < float(once.mean())


def test_a_joint_attack_is_stronger_than_each_alone_and_keeps_each_budget(mlp):
    batch = feature_batch(40)
    one, two = FeatureFGSM('a', eps=0.5), FeatureFGSM('b', eps=0.2)
    means = [float(losses(mlp, act(a, batch, mlp)).mean()) for a in ([one], [two], [one, two])]
    assert means[2] > max(means[:2])
    both = act([one, two], batch, mlp)
    for m, eps in (('a', 0.5), ('b', 0.2)):
        delta = torch.stack(both['inputs'][m]) - torch.stack(batch['inputs'][m])
        assert float(delta.abs().max()) == pytest.approx(eps, rel=1e-5)
    # both gradients are taken at the clean point, so the order does not matter
    other = act([two, one], batch, mlp)
    for m in DIMS:
        assert all(map(torch.equal, both['inputs'][m], other['inputs'][m]))
    with pytest.raises(ValueError, match='one attack per modality'):
        act([one, one], batch, mlp)


# ---- pictures, sound and depth through their front ends ----

KINDS = {
    'image': dict(type='ImageFrontEnd', mean=0.5, std=0.25),
    'sound': dict(type='LogMelFrontEnd', sample_rate=8000, n_mels=16, n_fft=128, hop_length=64),
    'range': dict(type='DepthFrontEnd', mode='jet'),
}


def av_model(frozen=False, size=None, waveform=False, **overrides):
    frontends = copy.deepcopy(KINDS)
    frontends['image']['size'] = size
    sound = dict(type='AudioCNN', channels=(4, 8))
    if waveform:
        frontends['sound'] = dict(type='WaveformFrontEnd', normalize=True)
        sound = dict(type='MeanPower')
    return build(
        dims=dict.fromkeys(KINDS, 1),
        data_preprocessor=dict(type='MultiModalPreprocessor', frontends=frontends),
        encoders=dict(
            image=dict(type='SmallImageCNN', channels=(4, 8), in_channels=3, frozen=frozen),
            sound=dict(sound, frozen=frozen),
            range=dict(type='SmallImageCNN', channels=(4, 8), in_channels=3, frozen=frozen),
        ),
        **overrides,
    )


@ENCODERS.register_module()
class MeanPower(BaseEncoder):
    """Waveforms [B, T] of any length: power and slope, over the valid samples."""

    def __init__(self, frozen=False):
        super().__init__(2)
        if frozen:
            self.freeze()

    def encode(self, x, mask=None):
        weight = torch.ones_like(x) if mask is None else mask.to(x.dtype)
        count = weight.sum(1)
        slope = ((x[:, 1:] - x[:, :-1]).square() * weight[:, 1:]).sum(1) / count
        return torch.stack([(x**3 * weight).sum(1) / count, slope], dim=1)


def av_item(number, length=2000, side=12):
    rng = np.random.default_rng(number)
    label = number % 3
    image = rng.integers(0, 256, (3, side, side)).astype(np.uint8)
    image[label] //= 2
    time = np.arange(length) / 8000
    sound = 0.3 * np.sin(2 * np.pi * (400 + 500 * label) * time) + rng.normal(0, 0.05, length)
    depth = rng.uniform(0.5, 6 + label, (1, 12, 12)) * (rng.random((1, 12, 12)) > 0.2)
    return {
        'inputs': {
            'image': torch.from_numpy(image),
            'sound': torch.from_numpy(sound.astype(np.float32)),
            'range': torch.from_numpy(depth.astype(np.float32)),
        },
        'data_samples': MultiModalDataSample.of(f'id{number}', label),
    }


def av_batch(numbers=range(6), **kwargs):
    return pseudo_collate([av_item(i, **kwargs) for i in numbers])


@pytest.fixture(scope='module')
def av():
    return trained(av_model(), lambda step: av_batch(range(20 * step, 20 * step + 12)), 25)


@pytest.mark.parametrize('cls', [ImageFGSM, ImagePGD, ImageFGM, ImagePGDL2])
@pytest.mark.parametrize('eps', [1.0, 2.5, 0.2])
def test_attacked_images_are_images_within_the_budget(av, cls, eps):
    if eps < cls.bounds[0]:
        with pytest.raises(ValueError, match='eps must be a number in'):
            cls('image', eps=eps)
        return
    batch = av_batch()
    out = cls('image', eps=eps)(batch, av)
    assert batch['data_samples'][0].metainfo.get('corrupted') is None
    changed = 0
    for clean, value, sample in zip(
        batch['inputs']['image'], out['inputs']['image'], out['data_samples'], strict=True
    ):
        assert value.dtype == torch.uint8
        assert value.shape == clean.shape
        assert sample.metainfo['corrupted'] == ('image',)
        delta = value.double() - clean.double()
        if cls.norm == 'linf':
            assert float(delta.abs().max()) == np.floor(eps)
        else:
            rms = float(delta.square().mean().sqrt())
            assert 0.85 * eps < rms <= eps * (1 + 1e-6)
        changed += int(delta.count_nonzero())
    assert changed
    assert float(losses(av, out).mean()) > float(losses(av, batch).mean())
    assert out['inputs']['sound'] is batch['inputs']['sound']


def test_fgsm_on_an_image_is_the_rounded_sign_of_the_gradient_at_the_pixels(av):
    """The gradient by autograd on the whole model, image by image."""
    batch = av_batch()
    out = ImageFGSM('image', eps=3)(batch, av)
    for row in range(6):
        one = pseudo_collate([av_item(row)])
        pixels = one['inputs']['image'][0].float().requires_grad_()
        one['inputs']['image'] = [pixels]
        logits = av(**av.data_preprocessor(one), mode='tensor')
        # in float64: where the model is sure, float32 rounds the gradient away
        entropy = torch.nn.functional.cross_entropy(logits.double(), torch.tensor([row % 3]))
        entropy.backward()
        expected = (pixels.detach() + 3 * pixels.grad.sign()).clamp(0, 255).to(torch.uint8)
        assert int((out['inputs']['image'][row] != expected).sum()) <= 1
    av.zero_grad(set_to_none=True)


def test_attacked_waveforms_keep_their_snr_and_silence_stays_silent(av):
    batch = av_batch()
    batch['inputs']['sound'][2] = torch.zeros(2000)
    for cls in (WaveformFGM, WaveformFGSM):
        out = cls('sound', snr_db=25)(batch, av)
        for i, (clean, value) in enumerate(
            zip(batch['inputs']['sound'], out['inputs']['sound'], strict=True)
        ):
            assert value.dtype == torch.float32
            noise = (value - clean).double()
            if i == 2:
                assert not noise.any()
                continue
            snr = 10 * float(torch.log10(clean.double().square().sum() / noise.square().sum()))
            assert snr == pytest.approx(25, abs=0.02)
            if cls is WaveformFGSM:
                rms = float(clean.double().square().mean().sqrt())
                assert float(noise.abs().max()) == pytest.approx(rms * 10 ** (-25 / 20), rel=1e-4)


def test_attacked_waveforms_stay_in_range_unless_they_were_beyond(av):
    batch = av_batch([0])
    loud = batch['inputs']['sound'][0].clone()
    loud[:1000] = loud[:1000].sign() * 0.999
    loud[5] = 1.5
    batch['inputs']['sound'] = [loud]
    out = WaveformFGSM('sound', snr_db=0)(batch, av)['inputs']['sound'][0]
    assert float(out[5]) <= 1.5
    out[5] = 0
    assert float(out.abs().max()) == 1
    assert float((out - loud)[1000:].abs().max()) > 0.3


def test_depth_keeps_its_holes_and_stays_positive(av):
    batch = av_batch()
    for cls in (DepthFGSM, DepthPGDL2):
        out = cls('range', eps=2.0)(batch, av)
        for clean, value in zip(batch['inputs']['range'], out['inputs']['range'], strict=True):
            assert torch.equal(value == 0, clean == 0)
            assert float(value[value > 0].min()) >= 0.999e-3
            delta = (value - clean)[clean > 0].double()
            size = delta.abs().max() if cls is DepthFGSM else delta.square().mean().sqrt()
            assert 0.1 < float(size) <= 2.0 * (1 + 1e-5)


def test_all_kinds_at_once_lower_the_accuracy(av):
    batch = av_batch(range(300, 330))
    (condition,) = parse_attack(
        'pgd:5@image+range+sound', {'image': 'image', 'range': 'depth', 'sound': 'waveform'}
    )
    out = act(condition.corruptions, batch, av)
    assert float((losses(av, batch) < 0).double().mean()) > 0.8
    assert float((losses(av, out) < 0).double().mean()) < 0.75
    assert out['data_samples'][0].metainfo['corrupted'] == ('image', 'range', 'sound')


@pytest.mark.parametrize(
    'attacks',
    [
        [ImagePGD('image', 3), WaveformPGD('sound', 3)],
        [ImageFGM('image', 3), WaveformFGM('sound', 3)],
    ],
)
def test_a_sample_does_not_depend_on_its_batch(attacks):
    """Alone, in another order, with clips of other lengths beside it: up to float rounding."""
    model = trained(
        av_model(waveform=True, size=12),
        lambda step: av_batch(range(20 * step, 20 * step + 12)),
        25,
    )
    items = [av_item(i, length=1500 + 70 * i, side=10 + i) for i in range(6)]
    items[1]['inputs']['sound'] = None
    items[4]['inputs']['image'] = None
    whole = act(attacks, pseudo_collate(items), model)
    for order in ([3], [5, 4, 1, 0], [1], [4, 2]):
        some = act(attacks, pseudo_collate([items[i] for i in order]), model)
        for row, i in enumerate(order):
            sound = some['inputs']['sound'][row], whole['inputs']['sound'][i]
            image = some['inputs']['image'][row], whole['inputs']['image'][i]
            assert (sound[0] is None) == (i == 1)
            assert (image[0] is None) == (i == 4)
            if i != 1:
                torch.testing.assert_close(*sound, atol=1e-4, rtol=0)
            if i != 4:
                # a level up or down where rounding meets a difference in the last bit
                assert float((image[0] != image[1]).double().mean()) < 0.02
    for item, out_sample in zip(items, whole['data_samples'], strict=True):
        hit = {m for m in ('image', 'sound') if item['inputs'][m] is not None}
        assert set(out_sample.metainfo['corrupted']) == hit


def test_probability_chooses_the_samples_of_the_seed(av):
    batch = av_batch(range(12))
    attack = ImageFGSM('image', 5, probability=0.5, seed=3)
    out = attack(batch, av)
    for i, sample in enumerate(out['data_samples']):
        hit = attack.generator(sample.sample_id).random() < 0.5
        same = torch.equal(out['inputs']['image'][i], batch['inputs']['image'][i])
        assert same != hit
        assert ('corrupted' in sample.metainfo) == hit
        full = ImageFGSM('image', 5, seed=3)(batch, av)['inputs']['image'][i]
        assert not hit or torch.equal(out['inputs']['image'][i], full)
    nobody = ImageFGSM('image', 5, probability=0.0)(batch, av)
    assert nobody is batch


# ---- the model is left as it was ----


def test_the_model_and_the_generators_are_left_as_they_were():
    """In training mode, with batch statistics, dropout and a preprocessor that saw nothing yet."""
    model = build(
        dims=DIMS,
        encoders={
            m: dict(type='MLPEncoder', in_channels=d, norm='batch', dropout=0.5)
            for m, d in DIMS.items()
        },
        **CAL,
    )
    model.train()
    model.encoders['a'].eval()
    next(model.parameters()).requires_grad_(False)
    before = state_fingerprint(model)
    modes = [m.training for m in model.modules()]
    grads = [p.requires_grad for p in model.parameters()]
    state = torch.get_rng_state()
    recorded = copy.deepcopy(model.data_preprocessor._recorded)
    batch = feature_batch()
    given = copy.deepcopy(batch['inputs'])
    out = act([FeaturePGD(m, 3) for m in DIMS], batch, model)
    again = act([FeaturePGD(m, 3) for m in DIMS], batch, model)
    assert state_fingerprint(model) == before
    assert [m.training for m in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == grads
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert model.data_preprocessor._recorded == recorded == [False, False]
    for m in DIMS:
        assert all(map(torch.equal, given[m], batch['inputs'][m]))
        # nothing is sampled: neither dropout nor the bottleneck
        assert all(map(torch.equal, out['inputs'][m], again['inputs'][m]))
        assert not any(v.requires_grad for v in out['inputs'][m])
    model.eval()
    clean = act([FeaturePGD(m, 3) for m in DIMS], batch, model)
    assert all(map(torch.equal, clean['inputs']['a'], out['inputs']['a']))


def test_autocast_and_inference_mode_around_it_change_nothing(av):
    attacks = [ImagePGD('image', 3), WaveformPGD('sound', 3)]
    expected = act(attacks, av_batch(), av)['inputs']
    with torch.autocast('cpu', dtype=torch.bfloat16):
        amp = act(attacks, av_batch(), av)['inputs']
        assert torch.is_autocast_enabled('cpu')
    with torch.inference_mode():
        bare = act(attacks, av_batch(), av)['inputs']
    with torch.no_grad():
        none = act(attacks, av_batch(), av)['inputs']
    for m in ('image', 'sound'):
        for other in (amp, bare, none):
            assert all(map(torch.equal, expected[m], other[m]))


def test_gradients_pass_through_frozen_encoders():
    torch.manual_seed(1)
    thawed = av_model(waveform=True)
    frozen = av_model(waveform=True, frozen=True)
    frozen.load_state_dict(thawed.state_dict())
    attacks = [ImagePGD('image', 5), WaveformPGD('sound', 5)]
    expected = act(attacks, av_batch(), thawed.eval())
    out = act(attacks, av_batch(), frozen)
    for m in ('image', 'sound'):
        assert all(map(torch.equal, out['inputs'][m], expected['inputs'][m]))
    assert all(e.frozen and not e.passes_gradient for e in frozen.encoders.values())
    data = frozen.data_preprocessor(av_batch())
    assert not frozen.encode(**{k: data[k] for k in ('inputs', 'masks')})['image'].requires_grad


def test_cached_features_of_what_is_attacked_are_not_used():
    model = build(
        dims=DIMS,
        encoders={m: dict(type='MLPEncoder', in_channels=d, frozen=True) for m, d in DIMS.items()},
    ).eval()
    batch = feature_batch()
    data = model.data_preprocessor(batch)
    known = {m: list(f) for m, f in model.encode(data['inputs']).items()}
    expected = FeatureFGSM('a', eps=0.5)(batch, model)
    out = FeatureFGSM('a', eps=0.5)({**batch, 'features': known}, model)
    assert all(map(torch.equal, out['inputs']['a'], expected['inputs']['a']))
    assert out['features']['a'] == [None] * 8
    assert out['features']['b'] is known['b']
    torch.testing.assert_close(losses(model, out), losses(model, expected))
    only = {**batch, 'inputs': {**batch['inputs'], 'a': [None] * 8}, 'features': known}
    with pytest.raises(ValueError, match=r"sample 's0-0' is there as a cached feature"):
        FeatureFGSM('a', eps=0.5)(only, model)


@pytest.mark.parametrize('gate', ['none', 'contribution', 'confidence', 'experts'])
def test_the_gradient_is_that_of_the_prediction_with_its_gate(gate):
    model = build(dims=DIMS, gate=gate, **CAL)
    tracker = model.contribution
    tracker.information.copy_(torch.tensor([0.8, 0.3]))
    with torch.no_grad():
        for seed in range(2):
            data = model.data_preprocessor(feature_batch(64, seed=50 + seed))
            labels = torch.stack([s.gt_label for s in data['data_samples']])
            for m, h in model.encode(data['inputs']).items():
                tracker.typicality[m].fit(h, labels)
    model.eval()
    batch = feature_batch(4)
    label = torch.stack([s.gt_label for s in batch['data_samples']])
    x, other = (torch.stack(batch['inputs'][m]) for m in ('a', 'b'))

    def loss(value):
        data = {'inputs': {'a': value, 'b': other}}
        return log_odds_against(model.prediction_logits(**data), label)

    predicted = model({'a': x, 'b': other}, data_samples=batch['data_samples'], mode='predict')
    logits = torch.stack([s.logits for s in predicted])
    torch.testing.assert_close(loss(x), log_odds_against(logits, label), atol=1e-5, rtol=0)
    point = x.clone().requires_grad_()
    gradient = torch.autograd.grad(loss(point).sum(), point)[0]
    step = 5e-3
    for i in range(6):
        move = torch.zeros_like(x)
        move[:, i] = step
        slope = (loss(x + move) - loss(x - move)) / (2 * step)
        torch.testing.assert_close(gradient[:, i].double(), slope, atol=5e-3, rtol=2e-2)


# ---- errors ----


class Severed(nn.Module):
    """An encoder through which no gradient comes."""

    out_channels = 6

    def forward(self, x, mask=None):
        return x.detach()


def test_errors():
    model, batch = linear_model(), feature_batch(3)
    attack = FeatureFGSM('a', eps=0.1)
    with pytest.raises(ValueError, match=r'call attack\(batch, model\) with a model'):
        attack(batch)
    with pytest.raises(ValueError, match=r'FeatureFGSM needs the model'):
        attack.apply({'inputs': {'a': torch.zeros(6)}, 'data_samples': batch['data_samples'][0]})
    with pytest.raises(LookupError, match="no modality 'x'; it has a, b"):
        FeatureFGSM('x', eps=0.1)(batch, model)
    with pytest.raises(ValueError, match='corrupts a image'):
        ImageFGSM('a', 3)(batch, model)
    with pytest.raises(ValueError, match=r'std has 2 numbers.*has 6 features'):
        FeatureFGSM('a', eps=0.1, std=[1, 2])(batch, model)
    for bad in ({'steps': 0}, {'steps': 2.5}, {'steps': True}, {'step_size': -1.0}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            FeaturePGD('a', eps=0.1, **bad)
    model.encoders['a'] = Severed()
    with pytest.raises(ValueError, match="no gradient of the prediction reaches modality 'a'"):
        attack(batch, model)
    sample = MultiModalDataSample(metainfo=dict(sample_id='q7', sample_key=1))
    batch['data_samples'][1] = sample
    with pytest.raises(ValueError, match="needs the true label, and sample 'q7' has none"):
        attack(batch, linear_model())
    with pytest.raises(ValueError, match=r'severity must be from 1 to 5'):
        parse_attack('fgsm:6@a', {'a': 'features'})
    with pytest.raises(LookupError, match="no modality 'q'"):
        parse_attack('pgd_l2:2@q', {'a': 'features'})


def test_gradients_that_are_not_finite_are_told_and_leave_the_rest(caplog):
    class Rooted(BaseEncoder):
        def __init__(self):
            super().__init__(6)

        def encode(self, x, mask=None):
            return x.abs().sqrt()  # an infinite slope at 0

    model, batch = linear_model(), feature_batch(3)
    model.encoders['a'] = Rooted()
    batch['inputs']['a'][1][2] = 0.0
    out = FeatureFGSM('a', eps=0.1)(batch, model)['inputs']['a']
    moved = torch.stack(out) - torch.stack(batch['inputs']['a'])
    assert float(moved[1, 2]) == 0
    assert int((moved == 0).sum()) == 1


class Plain(BaseModel):
    """A model of one's own, without anything of MultiModalClassifier."""

    def __init__(self):
        super().__init__(PlainPreprocessor())
        self.head = nn.Linear(11, 3)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        logits = self.head(inputs)
        return data_samples if mode == 'predict' else logits


class PlainPreprocessor(BaseDataPreprocessor):
    def forward(self, data, training=False):
        x = torch.cat([torch.stack(data['inputs'][m]) for m in ('a', 'b')], dim=1)
        return {'inputs': x, 'data_samples': data['data_samples']}


def test_a_model_of_ones_own_that_gives_logits():
    own, ours, batch = Plain(), linear_model(), feature_batch()
    own.head.load_state_dict(ours.fusion.head.state_dict())
    attacks = [FeaturePGD(m, 4) for m in DIMS]
    expected, out = act(attacks, batch, ours), act(attacks, batch, own)
    for m in DIMS:
        torch.testing.assert_close(
            torch.stack(out['inputs'][m]), torch.stack(expected['inputs'][m])
        )
    own.forward = lambda **kwargs: None
    with pytest.raises(ValueError, match=r'needs logits \[B, C\] from Plain'):
        act(attacks, batch, own)
