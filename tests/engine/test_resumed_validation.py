"""A run that steps on validation metrics, cut off anywhere, goes on like the uninterrupted one."""

import contextlib

import pytest
from cli_runner import own_name
from commands import CONFIG, ROOT
from mmengine.config import Config
from mmengine.hooks import Hook

from cal_mm.compat import load_trusted_types, setup
from cal_mm.config import load_config
from cal_mm.study.trial import StudyRunner
from data_prep.synthetic import make_synthetic

# training makes it worse: the rate falls, and no epoch but the first is the best
WORSE = dict(rule='less')
PLATEAU = dict(type='ReduceOnPlateauLR', monitor='accuracy/top1', factor=0.3, patience=0, **WORSE)
EPOCHS = 4


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    out = tmp_path_factory.mktemp('data') / 'synthetic'
    make_synthetic(out, num_train=40, num_val=12, num_test=8)
    return out


class Rates(Hook):
    """Rate of every epoch, epochs that were validated; interrupts where it is told to."""

    def __init__(self, epoch=None, validating=False):
        self.rates, self.validated = {}, []
        self.epoch, self.validating = epoch, validating

    def before_train_epoch(self, runner):
        self.rates[runner.epoch] = runner.optim_wrapper.get_lr()['lr'][0]

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.epoch == self.epoch and not self.validating:
            raise KeyboardInterrupt

    def before_val_iter(self, runner, batch_idx, data_batch=None):
        if runner.epoch == self.epoch and self.validating:
            raise KeyboardInterrupt

    def after_val_epoch(self, runner, metrics=None):
        self.validated.append(runner.epoch)


def run(data, folder, hook, resume=None, scheduler=(PLATEAU,), **loop):
    setup()
    cfg = load_config(str(ROOT / CONFIG.format('concat')))
    cfg.experiment_name = own_name().split('=')[1]
    for split in ('train', 'val'):
        cfg[f'{split}_dataloader'].dataset.data_root = str(data)
    cfg.test_dataloader = cfg.test_cfg = cfg.test_evaluator = None
    cfg.visualizer = dict(type='Visualizer', vis_backends=[], name=cfg.experiment_name)
    cfg.log_level = 'ERROR'
    cfg.train_cfg.update(max_epochs=EPOCHS, **loop)
    cfg.default_hooks.checkpoint.update(WORSE)
    cfg.param_scheduler = [dict(s) for s in scheduler]
    cfg.work_dir = str(folder)
    if resume is not None:
        cfg.resume, cfg.load_from = True, str(folder / f'epoch_{resume}.pth')
    runner = StudyRunner.from_cfg(cfg)
    runner.register_hook(hook)
    with contextlib.suppress(KeyboardInterrupt), pytest.MonkeyPatch.context() as quick:
        quick.setattr(Config, 'pretty_text', '')  # half a second in every checkpoint
        runner.train()
    return hook, runner.optim_wrapper.get_lr()['lr'][0]


def meta(folder, epoch):
    return load_trusted_types(str(folder / f'epoch_{epoch}.pth'), 'cpu')['meta']


@pytest.fixture(scope='module')
def whole(data, tmp_path_factory):
    hook, last = run(data, tmp_path_factory.mktemp('whole'), Rates())
    assert len(set(hook.rates.values())) > 2
    return hook, last


@pytest.mark.parametrize(('epoch', 'validating'), [(2, False), (2, True), (EPOCHS, True)])
def test_rates_are_those_of_the_uninterrupted_run(data, tmp_path, whole, epoch, validating):
    first, _ = run(data, tmp_path, Rates(epoch, validating))
    assert meta(tmp_path, epoch)['validated'] != validating
    second, last = run(data, tmp_path, Rates(), resume=epoch)
    assert {**first.rates, **second.rates} == whole[0].rates
    assert last == whole[1]
    # each once, whatever was the best
    assert first.validated + second.validated == whole[0].validated


def test_a_validation_that_was_not_due_is_not_made_up_for(data, tmp_path):
    run(data, tmp_path, Rates(3), val_interval=2)
    second, _ = run(data, tmp_path, Rates(), resume=3, val_interval=2)
    assert second.validated == [EPOCHS]


def test_only_what_a_validation_changed_is_written_again(data, tmp_path):
    class Saves(Rates):
        def before_save_checkpoint(self, runner, checkpoint):
            if 'optimizer' in checkpoint:
                self.rates.setdefault('saves', []).append(checkpoint['meta']['epoch'])

    # mmengine writes again what is the best so far
    first, _ = run(data, tmp_path / 'constant', Saves(), scheduler=())
    assert 1 in {first.rates['saves'].count(e + 1) for e in range(EPOCHS)}
    first, _ = run(data, tmp_path / 'plateau', Saves())
    assert first.rates['saves'] == [e + 1 for e in range(EPOCHS) for _ in range(2)]
