"""The real command lines on a tiny dataset: split invariance, resume, seeds."""

import sys

import pytest
import torch
from commands import CONFIG, ROOT, gap, history, train, weights
from methods_harness import CALIBRATED

from data_prep.synthetic import make_synthetic


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    out = tmp_path_factory.mktemp('data') / 'synthetic'
    make_synthetic(out, num_train=96, num_val=32, num_test=32, signal=5.0)
    return out


SPLITS = {
    '16': dict(),
    '4 x accumulation 4': dict(
        options=['train_dataloader.batch_size=4', 'optim_wrapper.accumulative_counts=4']
    ),
    '2 ranks x 8': dict(ranks=2, options=['train_dataloader.batch_size=8']),
    '2 ranks x 4 x accumulation 2': dict(
        ranks=2,
        options=['train_dataloader.batch_size=4', 'optim_wrapper.accumulative_counts=2'],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(('method', 'lr'), [('cal_paper', 0.2), ('cal', 0.02)])
def test_the_update_does_not_depend_on_how_the_batch_is_split(data, tmp_path, method, lr):
    """Same weights and W for every split of 16 samples, with clipping on.

    A pilot's updates are split, too: at a high rate its many steps enlarge the rounding.
    """
    fast = ['optim_wrapper.clip_grad.max_norm=1.0', f'optim_wrapper.optimizer.lr={lr}']
    fast += ['model.contribution.tau=0.15']
    found = {}
    for i, (name, how) in enumerate(SPLITS.items()):
        options = [*fast, *how.get('options', [])]
        train(data, tmp_path / str(i), method, how.get('ranks', 1), options=options)
        found[name] = weights(tmp_path / str(i))
        # counts of forward calls and what calibration saw of the padded validation set may differ
        for k in list(found[name]):
            if any(n in k for n in CALIBRATED):
                del found[name][k]
    w = found['16']['contribution.weights']
    assert float((w - 1 / 3).abs().max()) > 0.01
    for name, state in found.items():
        assert gap(state, found['16']) < 2e-6, name


@pytest.mark.slow
@pytest.mark.parametrize('method', ['cal_paper', 'cal'])
def test_resume_goes_on_exactly(data, tmp_path, method):
    """Two epochs, then a resume: the same weights, W and history as three epochs in one go."""
    options = ['default_hooks.checkpoint.max_keep_ckpts=5', 'model.fusion.dropout=0.2']
    options += ['model.fusion.hidden_channels=16']
    whole, parts = tmp_path / 'whole', tmp_path / 'parts'
    train(data, whole, method, options=options)
    # as a kill in the third epoch leaves it: no third checkpoint, a history that may be ahead
    train(data, parts, method, options=options)
    (parts / 'epoch_3.pth').unlink()
    lines = (parts / 'contribution.jsonl').read_text().splitlines()
    (parts / 'contribution.jsonl').write_text('\n'.join([*lines, lines[-1]]) + '\n')
    (parts / 'last_checkpoint').write_text(str(parts / 'epoch_2.pth'))
    text = train(data, parts, method, extra=['--resume'], options=options)
    assert 'resumed epoch: 2' in text
    assert gap(weights(whole), weights(parts)) == 0
    assert history(whole) == history(parts)
    assert [row['epoch'] for row in history(parts)] == [1, 2, 3]
    again = tmp_path / 'again'  # from a named file, into another folder
    train(data, again, method, extra=['--resume', str(whole / 'epoch_2.pth')], options=options)
    assert gap(weights(whole), weights(again)) == 0


@pytest.mark.slow
def test_the_same_seed_gives_the_same_and_another_seed_another(data, tmp_path):
    train(data, tmp_path / 'a', extra=['--seed', '3'])
    train(data, tmp_path / 'b', extra=['--seed', '3'])
    train(data, tmp_path / 'c', extra=['--seed', '4'])
    assert gap(weights(tmp_path / 'a'), weights(tmp_path / 'b')) == 0
    assert history(tmp_path / 'a') == history(tmp_path / 'b')
    assert gap(weights(tmp_path / 'a'), weights(tmp_path / 'c')) > 1e-3


@pytest.mark.slow
def test_amp_keeps_cal(data, tmp_path):
    """--amp maps CAL's wrapper to its AMP variant instead of replacing it."""
    text = train(data, tmp_path / 'amp', extra=['--amp'])
    assert (
        'CALAmpOptimWrapper' in (tmp_path / 'amp' / 'synthetic_mlp_concat_cal_paper.py').read_text()
    )
    assert 'gradient acceleration acts on the gradient' in text
    k = history(tmp_path / 'amp')[-1]['k']
    assert max(k.values()) > 1.2
    assert torch.isfinite(
        torch.cat([v.flatten().float() for v in weights(tmp_path / 'amp').values()])
    ).all()


def test_amp_refuses_an_unknown_wrapper(data, tmp_path):
    sys.path.insert(0, str(ROOT / 'tools'))
    import train as tool

    from cal_mm.config import ConfigError, load_config

    cfg = load_config(str(ROOT / CONFIG.format('cal')))
    cfg.optim_wrapper.type = 'MyOptimWrapper'
    with pytest.raises(ConfigError, match='no mixed-precision variant'):
        tool.use_amp(cfg)
