"""Every method of configs/_base_/methods: the folder is the test list."""

import sys

import pytest
import torch
from commands import ROOT, gap, run
from methods_harness import (
    DIGITS,
    METHODS,
    facts,
    learnable,
    losses_fall,
    method_config,
    state_of,
    train,
    use_mixed_precision,
)

NEEDED = ('title', 'acts_on', 'formula', 'source', 'modalities', 'splits', 'differences')


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return learnable(tmp_path_factory.mktemp('data') / 'synthetic')


@pytest.fixture(scope='module')
def digits(tmp_path_factory):
    from data_prep.digits_av import DigitsOptions, make_digits_av

    out = tmp_path_factory.mktemp('data') / 'digits_av'
    make_digits_av(out, options=DigitsOptions(num_train=320, num_val=60, num_test=60))
    return out


@pytest.mark.parametrize('method', METHODS)
def test_says_what_it_is(method):
    found = facts(method)
    assert not [key for key in NEEDED if not str(found.get(key, '')).strip()]


@pytest.mark.parametrize('method', METHODS)
def test_learns(data, tmp_path, method):
    """Four epochs: the losses fall, the validation accuracy is far above chance."""
    cfg = method_config(tmp_path, method, data, epochs=4)
    runner = train(cfg)
    assert losses_fall(cfg)
    assert all(torch.isfinite(p).all() for p in runner.model.parameters())
    assert runner.message_hub.get_scalar('val/accuracy/top1').current() > 40  # chance is 25


@pytest.mark.slow
@pytest.mark.parametrize('method', METHODS)
def test_mixed_precision_learns(data, tmp_path, method):
    """bfloat16 where there is no GPU; test_gpu.py has float16 too."""
    cfg = method_config(tmp_path, method, data, epochs=4)
    use_mixed_precision(cfg, 'bfloat16')
    runner = train(cfg)
    assert all(torch.isfinite(p).all() for p in runner.model.parameters())
    assert runner.message_hub.get_scalar('val/accuracy/top1').current() > 40  # chance is 25


@pytest.mark.slow
@pytest.mark.parametrize('method', METHODS)
def test_resume_goes_on_exactly(data, tmp_path, method):
    """Started again from the second of three epochs: the same weights."""
    cfg = method_config(tmp_path, method, data)
    whole = train(cfg)
    again = method_config(tmp_path / 'again', method, data)
    again.resume, again.load_from = True, f'{whole.work_dir}/epoch_2.pth'
    parts = train(again)
    assert parts.epoch == 3
    after = state_of(parts)
    assert gap(state_of(whole), after) == 0
    before = torch.load(again.load_from, weights_only=False)['state_dict']
    assert gap({k: before[k] for k in after}, after) > 0


@pytest.fixture(scope='module')
def two_ranks(data, tmp_path_factory):
    """Folder with the weights of every method after an epoch on two ranks."""
    out = tmp_path_factory.mktemp('two_ranks')
    launch = ['-m', 'torch.distributed.run', '--nproc_per_node=2', '--standalone']
    script = str(ROOT / 'tests/methods_harness.py')
    run([sys.executable, *launch, script, str(data), str(out)], timeout=900)
    return out


@pytest.mark.slow
@pytest.mark.parametrize('method', METHODS)
def test_ranks_and_micro_batches(data, tmp_path, two_ranks, method):
    """One batch of 16, 4 micro-batches of 4, 2 ranks of 8: the same update where the file says
    ``exact``.
    """

    def accumulate(cfg):
        cfg.train_dataloader.batch_size = 4
        cfg.optim_wrapper.accumulative_counts = 4

    whole = state_of(train(method_config(tmp_path / 'a', method, data, epochs=1)))
    parts = state_of(train(method_config(tmp_path / 'b', method, data, epochs=1), accumulate))
    failed = two_ranks / f'{method}.txt'
    assert not failed.exists(), failed.read_text()
    ranks = torch.load(two_ranks / f'{method}.pt', weights_only=True)
    for state in (parts, ranks):
        assert all(torch.isfinite(v).all() for v in state.values() if v.is_floating_point())
        if facts(method)['splits'].startswith('exact'):
            assert gap(state, whole) < 5e-6


@pytest.mark.slow
@pytest.mark.parametrize('method', METHODS)
def test_digits_av(digits, tmp_path, method):
    """An epoch of the embedded audio-image dataset with convolutional encoders."""

    def shorten(cfg):  # the pilot takes far longer than the epoch
        if (cfg.model.get('contribution') or {}).get('source') == 'pilot':
            cfg.model.contribution.source = dict(type='PilotSource', updates=20)

    runner = train(method_config(tmp_path, method, digits, DIGITS, epochs=1), shorten)
    assert 'val/accuracy/top1' in runner.message_hub.log_scalars
    assert all(torch.isfinite(p).all() for p in runner.model.parameters())
