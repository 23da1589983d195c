"""MIB: draws and KL of the bottleneck after fusion."""

import pytest
import torch
from builders import batch, build

from cal_mm.models.losses import JointBottleneckLoss

MIB = dict(
    fusion=dict(type='JointBottleneckFusion', out_channels=5),
    losses=[dict(type='FusedCrossEntropy'), dict(type='JointBottleneckLoss', beta=0.5)],
)


def test_draws_in_training_and_the_mean_after():
    model = build(**MIB)
    data = model.data_preprocessor(batch(6), training=True)
    state = model.state(**data, training=True)
    joint = torch.cat([state.z[m] for m in 'abc'], dim=1)
    part = model.fusion
    mu = part.mean(joint)
    sigma = torch.log1p(part.log_scale(joint).exp()) + 1e-3
    assert float(sigma.detach().mean()) == pytest.approx(0.131, abs=0.01)
    t = mu + sigma * state.draws.normal('fusion', 5)
    assert torch.allclose(state.logits, model.fusion.head(t), atol=1e-6)
    calm = model.state(**data)
    assert torch.allclose(calm.logits, model.fusion.head(mu), atol=1e-6)
    normal = torch.distributions.Normal(mu.detach(), sigma.detach())
    kl = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).sum(1)
    out = model(**data, mode='loss')
    assert torch.allclose(out['loss_joint_kl'].detach(), 0.5 * kl.mean(), rtol=1e-5)


def test_bad_use():
    with pytest.raises(ValueError, match='init_sigma'):
        build(fusion=dict(type='JointBottleneckFusion', init_sigma=0.0))
    with pytest.raises(ValueError, match='negative'):
        JointBottleneckLoss(beta=-1.0)
    model = build(losses=[dict(type='JointBottleneckLoss')])
    data = model.data_preprocessor(batch(4), training=True)
    with pytest.raises(ValueError, match='JointBottleneckFusion'):
        model(**data, mode='loss')
