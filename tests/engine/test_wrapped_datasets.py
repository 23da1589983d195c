"""Training data behind mmengine's wrappers: prior and contribution are those of what is inside."""

import pytest
import torch
from cli_runner import own_name
from commands import CONFIG, ROOT
from mmengine.dataset import ConcatDataset, RepeatDataset
from mmengine.runner.runner import _SlicedDataset

from cal_mm.compat import setup
from cal_mm.config import load_config
from cal_mm.datasets import MultiModalDataset, column_of
from cal_mm.datasets.access import nested_datasets, wrapped_datasets
from cal_mm.engine.sources.estimate import _groups, make_folds
from cal_mm.study.trial import StudyRunner
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
    cfg.experiment_name = own_name().split('=')[1]
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


def test_what_is_behind_wrappers(data):
    first, second = MultiModalDataset(data, 'train'), MultiModalDataset(data, 'val')
    both = ConcatDataset([first, second], ignore_keys='split')
    part = _SlicedDataset(both, 130)
    assert wrapped_datasets(part) == [both]
    assert wrapped_datasets(both) == [first, second]
    assert wrapped_datasets(first) == []
    assert nested_datasets(part) == [part, both, first, second]
    assert column_of(part, 'labels').tolist() == [*first.labels, *second.labels[:10]]
    assert column_of(_SlicedDataset([1, 2], 1), 'labels') is None


@pytest.mark.parametrize('frozen', [False, True])
def test_training_on_some_batches_of_an_epoch(data, tmp_path, frozen):
    setup()
    cfg = load_config(str(ROOT / CONFIG.format('cal')))
    cfg.experiment_name = own_name().split('=')[1]
    for split in ('train', 'val'):
        cfg[f'{split}_dataloader'].dataset.data_root = str(data)
    for encoder in cfg.model.encoders.values():
        encoder.frozen = frozen
    cfg.model.contribution.source = 'ridge'
    cfg.test_dataloader = cfg.test_cfg = cfg.test_evaluator = None
    cfg.train_dataloader.update(num_batch_per_epoch=2, batch_size=16)
    cfg.train_cfg.max_epochs = 1
    cfg.default_hooks.checkpoint.update(interval=9, save_last=False, save_best=None)
    cfg.visualizer = dict(type='Visualizer', vis_backends=[], name=cfg.experiment_name)
    cfg.work_dir = str(tmp_path / 'run')
    runner = StudyRunner.from_cfg(cfg)
    runner.train()
    counts = torch.as_tensor(MultiModalDataset(data, 'train').labels[:32]).bincount(minlength=4)
    expected = ((counts + 1) / (counts + 1).sum()).log()
    torch.testing.assert_close(runner.model.class_log_prior, expected, rtol=1e-5, atol=1e-6)
    assert ('features' in runner.train_loop.dataloader.dataset[0]) == frozen
