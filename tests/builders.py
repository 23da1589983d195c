"""Small models and batches that several test files share."""

import copy

import torch
from mmengine.dataset import pseudo_collate

from cal_mm.models import MultiModalClassifier
from cal_mm.structures import MultiModalDataSample

DIMS = {'a': 6, 'b': 5, 'c': 4}
CLASSES = 3

CAL = dict(
    bottleneck=dict(type='VariationalBottleneck', out_channels=8),
    unimodal_head=dict(type='LinearHead'),
    losses=[
        dict(type='FusedCrossEntropy'),
        dict(type='UnimodalCrossEntropy', weight=1.0),
        dict(type='AIBLoss', beta=1e-2, rule='fixed_sum', warmup=0.0),
    ],
    contribution=dict(source='train', momentum=0.9, typicality=dict()),
)


def model_config(dims=None, **overrides):
    """A MultiModalClassifier of MLPs on features; no BatchNorm, no dropout."""
    dims = dims or DIMS
    cfg = dict(
        type='MultiModalClassifier',
        num_classes=CLASSES,
        data_preprocessor=dict(
            type='MultiModalPreprocessor',
            frontends={m: dict(type='FeatureFrontEnd') for m in dims},
        ),
        encoders={
            m: dict(type='MLPEncoder', in_channels=d, hidden_channels=[12], out_channels=10)
            for m, d in dims.items()
        },
        bottleneck=dict(type='LinearBottleneck', out_channels=8),
        fusion=dict(type='ConcatFusion'),
    )
    cfg.update(copy.deepcopy(overrides))
    return cfg


def build(seed=0, dims=None, **overrides):
    cfg = model_config(dims, **overrides)
    cfg.pop('type')
    torch.manual_seed(seed)
    return MultiModalClassifier(**cfg)


def samples(n, dims=None, seed=0, classes=CLASSES, missing=()):
    """n packed samples; modality 'a' carries the class."""
    dims = dims or DIMS
    g = torch.Generator().manual_seed(seed)
    out = []
    for i in range(n):
        label = int(torch.randint(classes, (1,), generator=g))
        inputs = {m: torch.randn(d, generator=g) for m, d in dims.items()}
        inputs['a'][label] += 2.0
        absent = tuple(m for j, m in missing if j == i)
        for m in absent:
            inputs[m] = None
        sample = MultiModalDataSample.of(f's{seed}-{i}', label, f'g{i % 5}', absent)
        out.append({'inputs': inputs, 'data_samples': sample})
    return out


def batch(n=16, **kwargs):
    return pseudo_collate(samples(n, **kwargs))
