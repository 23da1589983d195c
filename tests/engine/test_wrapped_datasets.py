"""Training data behind mmengine's wrappers: prior and contribution are those of what is inside."""

import pytest
import torch
from commands import CONFIG, ROOT
from mmengine.dataset import RepeatDataset

from cal_mm.compat import setup
from cal_mm.config import load_config
from cal_mm.datasets import MultiModalDataset
from cal_mm.engine.sources.estimate import _groups, make_folds
from data_prep.synthetic import make_synthetic


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    out = tmp_path_factory.mktemp('data') / 'synthetic'
    make_synthetic(out, num_train=120, num_val=30, num_test=30)
    return out


def test_a_repeated_sample_stays_in_one_fold(data):
    once = MultiModalDataset(data, 'train')
    twice = RepeatDataset(once, 2)
    labels = torch.as_tensor(once.labels).repeat(2)
    folds = make_folds(labels, _groups(twice), 3, seed=0)
    assert torch.equal(folds[: len(once)], folds[len(once) :])
    assert folds.bincount().min() > 60
    # without wrapper and groups nothing is grouped
    assert torch.equal(
        make_folds(labels[:120], _groups(once), 3, 0), make_folds(labels[:120], None, 3, 0)
    )


@pytest.mark.parametrize('wrapper', ['RepeatDataset', 'ConcatDataset'])
def test_training_on_a_wrapped_dataset(data, tmp_path, wrapper):
    from mmengine.runner import Runner

    setup()
    cfg = load_config(str(ROOT / CONFIG.format('cal')))
    inner = dict(cfg.train_dataloader.dataset, data_root=str(data))
    if wrapper == 'RepeatDataset':
        wrapped = dict(type=wrapper, dataset=inner, times=2)
    else:
        wrapped = dict(type=wrapper, datasets=[inner, dict(inner, indices=40)])
    cfg.train_dataloader.dataset = wrapped
    cfg.val_dataloader.dataset.data_root = str(data)
    cfg.test_dataloader = cfg.test_cfg = cfg.test_evaluator = None
    cfg.train_cfg.max_epochs = 1
    cfg.work_dir = str(tmp_path)
    runner = Runner.from_cfg(cfg)
    runner.train()
    model = runner.model
    labels = MultiModalDataset(data, 'train').labels
    counts = torch.as_tensor(labels).bincount(minlength=model.num_classes) * 2
    if wrapper == 'ConcatDataset':
        counts = torch.as_tensor([*labels, *labels[:40]]).bincount(minlength=model.num_classes)
    expected = ((counts + 1) / (counts + 1).sum()).log()
    torch.testing.assert_close(model.class_log_prior.cpu(), expected, rtol=1e-5, atol=1e-6)
    assert bool(model.contribution.measured)
