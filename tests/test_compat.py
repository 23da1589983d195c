"""The work-arounds: checkpoints load without running code and are written whole."""

import json
import os
import pickle
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_runner import ROOT, call, load_tool, own_name
from mmengine.config import Config
from mmengine.fileio import get_file_backend
from mmengine.logging import HistoryBuffer
from mmengine.runner.checkpoint import CheckpointLoader, load_from_local, save_checkpoint

from cal_mm import compat
from cal_mm.config import load_config
from cal_mm.evaluation import load_weights
from cal_mm.registry import MODELS
from data_prep.synthetic import make_synthetic

CONFIG = str(ROOT / 'configs/cal_paper/synthetic_mlp_concat_cal_paper.py')


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    out = tmp_path_factory.mktemp('data') / 'synthetic'
    make_synthetic(out, num_train=48, num_val=16, num_test=16)
    return out


def options(data, *more):
    roots = [f'{s}_dataloader.dataset.data_root={data}' for s in ('train', 'val', 'test')]
    return ['--cfg-options', own_name(), *roots, *more]


@pytest.fixture(scope='module')
def trained(data, tmp_path_factory):
    """A work dir with the checkpoints of two epochs."""
    work_dir = tmp_path_factory.mktemp('trained')
    code, _, err = call(
        'train', CONFIG, '--work-dir', work_dir, *options(data, 'train_cfg.max_epochs=2')
    )
    assert code == 0, err
    return work_dir


def test_a_training_checkpoint_loads_with_everything(trained):
    loaded = compat.load_trusted_types(str(trained / 'epoch_2.pth'))
    assert {'meta', 'state_dict', 'message_hub', 'optimizer', 'param_schedulers'} <= set(loaded)
    buffer = loaded['message_hub']['log_scalars']['train/loss']
    assert isinstance(buffer, HistoryBuffer)
    values, _ = buffer.data
    assert len(values) == 6  # 48 samples in batches of 16, two epochs
    assert np.isfinite(values).all()
    assert buffer.mean() == pytest.approx(float(values.mean()))
    assert loaded['meta']['epoch'] == 2
    momenta = [s['momentum_buffer'] for s in loaded['optimizer']['state'].values()]
    assert any(float(m.abs().max()) > 0 for m in momenta)
    compat.setup()
    again = CheckpointLoader.load_checkpoint(str(trained / 'epoch_2.pth'), map_location='cpu')
    assert again['state_dict'].keys() == loaded['state_dict'].keys()


def test_weights_load_without_setup(trained, monkeypatch):
    # as mmengine leaves it
    monkeypatch.setattr(CheckpointLoader, '_schemes', {'': load_from_local})
    model = MODELS.build(load_config(CONFIG).model)
    assert load_weights(model, trained / 'epoch_2.pth')['epoch'] == 2
    with pytest.raises(ValueError, match='not a readable checkpoint'):
        load_weights(model, trained / 'contribution.jsonl')


class Malicious:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize('how', ['torch', 'pickle', 'getattr'])
def test_a_malicious_checkpoint_is_refused_and_not_run(tmp_path, how):
    marker = tmp_path / 'executed'
    path = tmp_path / 'epoch_1.pth'
    payload = {'state_dict': {}, 'meta': Malicious(f'touch {marker}')}
    if how == 'torch':
        torch.save(payload, path)
    elif how == 'pickle':
        path.write_bytes(pickle.dumps(payload))
    else:  # through the one function that is allowed in place of getattr

        class Lookup:
            def __reduce__(self):
                return getattr, (HistoryBuffer, '__init__')

        torch.save({'meta': Lookup()}, path)
    with pytest.raises(ValueError, match='not a readable checkpoint') as e:
        compat.load_trusted_types(str(path))
    assert str(path) in str(e.value)
    assert not marker.exists()


def broken(kind, trained, path):
    whole = (trained / 'epoch_2.pth').read_bytes()
    content = dict(truncated=whole[: len(whole) // 2], empty=b'', text=b'hello, I am no checkpoint')
    path.write_bytes(content[kind])
    return path


@pytest.mark.parametrize('kind', ['truncated', 'empty', 'text'])
def test_broken_files_are_named(trained, data, tmp_path, kind):
    path = broken(kind, trained, tmp_path / 'epoch_9.pth')
    with pytest.raises(ValueError, match='not a readable checkpoint') as e:
        compat.load_trusted_types(str(path))
    assert str(path) in str(e.value)
    assert 'Take an earlier' in str(e.value)
    for extra in (['--resume', path], ['--resume']):
        code, _, err = call('train', CONFIG, '--work-dir', tmp_path, *extra, *options(data))
        assert code == 1
        assert 'epoch_9.pth: not a readable checkpoint' in err
        assert 'Traceback' not in err


def test_resume_finds_the_latest(tmp_path):
    assert compat.latest_checkpoint(str(tmp_path)) is None
    for name in ('epoch_2.pth', 'epoch_10.pth', 'best_accuracy_epoch_50.pth', 'notes.pth'):
        (tmp_path / name).write_bytes(b'x')
    pointer = tmp_path / 'last_checkpoint'
    pointer.write_text('')  # killed while writing it
    assert compat.latest_checkpoint(str(tmp_path)) == str(tmp_path / 'epoch_10.pth')
    pointer.write_text(str(tmp_path / 'epoch_2.pth'))
    assert compat.latest_checkpoint(str(tmp_path)) == str(tmp_path / 'epoch_2.pth')
    pointer.write_text('/moved/from/elsewhere/epoch_2.pth')
    assert compat.latest_checkpoint(str(tmp_path)) == str(tmp_path / 'epoch_2.pth')
    pointer.write_text('/moved/from/elsewhere/epoch_3.pth')
    assert compat.latest_checkpoint(str(tmp_path)) == str(tmp_path / 'epoch_10.pth')


def test_resume_with_nothing_there_starts_anew(data, tmp_path):
    code, _, err = call(
        'train',
        CONFIG,
        '--work-dir',
        tmp_path,
        '--resume',
        *options(data, 'train_cfg.max_epochs=1'),
    )
    assert code == 0
    assert 'no checkpoint' in err
    assert (tmp_path / 'epoch_1.pth').is_file()


def test_resume_with_nothing_there_keeps_what_to_start_from(tmp_path):
    tool = load_tool('train')
    given = ['--work-dir', str(tmp_path), '--resume', '--cfg-options', 'load_from=pretrained.pth']
    cfg = tool.configure(tool.parser().parse_args([CONFIG, *given]))
    assert (cfg.resume, cfg.load_from) == (False, 'pretrained.pth')
    (tmp_path / 'epoch_1.pth').write_bytes(b'')
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_1.pth'))
    cfg = tool.configure(tool.parser().parse_args([CONFIG, *given]))
    assert (cfg.resume, cfg.load_from) == (True, str(tmp_path / 'epoch_1.pth'))


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    compat.setup()
    path = tmp_path / 'epoch_1.pth'
    save_checkpoint({'state_dict': {'w': torch.ones(3)}}, str(path))

    def fail(source, target):
        raise OSError('disk full')

    monkeypatch.setattr(compat.os, 'replace', fail)
    with pytest.raises(OSError, match='disk full'):
        save_checkpoint({'state_dict': {'w': torch.zeros(3)}}, str(path))
    assert compat.load_trusted_types(str(path))['state_dict']['w'].tolist() == [1, 1, 1]
    assert [p.name for p in tmp_path.iterdir()] == ['epoch_1.pth']


def test_text_and_new_folders(tmp_path):
    compat.setup()
    backend = get_file_backend(str(tmp_path))
    assert type(backend) is compat.AtomicLocalBackend
    backend.put_text('gr\xfc\xdfe', tmp_path / 'new' / 'a.txt')
    assert backend.get_text(tmp_path / 'new' / 'a.txt') == 'gr\xfc\xdfe'


KILLED = """
import os, sys, torch
from mmengine.runner.checkpoint import save_checkpoint
from cal_mm import compat
from cal_mm.config import load_config
from cal_mm.evaluation import load_weights
from cal_mm.registry import MODELS
compat.setup()
print('ready', flush=True)
n = 0
while True:
    n += 1
    save_checkpoint({'state_dict': {'w': torch.full((200_000,), float(n))}}, sys.argv[1])
"""


@pytest.mark.slow
def test_a_kill_while_saving_never_leaves_half_a_file(tmp_path):
    path = tmp_path / 'epoch_1.pth'
    env = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}
    command = [sys.executable, '-c', KILLED, str(path)]
    for delay in (0.11, 0.27, 0.43):
        process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == 'ready\n'
        time.sleep(delay)
        process.kill()
        process.communicate()
        if path.exists():
            w = compat.load_trusted_types(str(path))['state_dict']['w']
            assert len(w.unique()) == 1
    assert path.exists()


def test_the_config_travels_in_the_checkpoint(trained):
    """The meta information is plain data (a user reads it without cal_mm)."""
    meta = compat.load_trusted_types(str(trained / 'epoch_2.pth'))['meta']
    assert 'MultiModalClassifier' in meta['cfg']
    assert json.dumps(meta['dataset_meta']['classes'])
    assert Path(trained / 'last_checkpoint').read_text().endswith('epoch_2.pth')


@pytest.mark.parametrize('gpu', [False, True])
@pytest.mark.parametrize(
    ('given', 'seconds'),
    [
        ({}, compat.TIMEOUT),
        (dict(env_cfg=dict(dist_cfg=dict(backend='nccl'))), compat.TIMEOUT),
        (dict(env_cfg=dict(cudnn_benchmark=True, dist_cfg=dict(timeout=7))), 7),
    ],
)
def test_ranks_wait_for_hours_unless_the_config_says(monkeypatch, given, seconds, gpu):
    started = []
    monkeypatch.setenv('RANK', '0')
    monkeypatch.setattr(compat.torch.cuda, 'is_available', lambda: gpu)
    monkeypatch.setattr(compat.dist, 'init_process_group', lambda *a, **k: started.append((a, k)))
    cfg = Config(given)
    compat.init_distributed(cfg, 'pytorch')
    # of the config mmengine starts the group where there is a GPU
    assert started == ([] if gpu else [(('gloo',), dict(timeout=timedelta(seconds=seconds)))])
    assert cfg.env_cfg.dist_cfg.timeout == seconds
    kept = given.get('env_cfg', {})
    assert {**kept, **cfg.env_cfg, 'dist_cfg': None} == {**cfg.env_cfg, 'dist_cfg': None}
    assert cfg.env_cfg.dist_cfg.get('backend') == kept.get('dist_cfg', {}).get('backend')


def test_one_process_needs_no_timeout():
    cfg = Config()
    compat.init_distributed(cfg, 'none')
    assert not cfg.to_dict()


@pytest.mark.parametrize('timeout', ['1h', 0, True])
def test_a_timeout_is_seconds(monkeypatch, timeout):
    monkeypatch.setenv('RANK', '0')
    cfg = Config(dict(env_cfg=dict(dist_cfg=dict(timeout=timeout))))
    with pytest.raises(ValueError, match=r'env_cfg\.dist_cfg\.timeout must be seconds > 0'):
        compat.init_distributed(cfg, 'pytorch')
