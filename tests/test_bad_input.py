"""Bad input through the command lines: one message that names it, a non-zero exit, no traceback."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import datasets as hf_datasets
import numpy as np
import pytest
import torch
from cli_runner import ROOT, call, own_name

from cal_mm import cli
from cal_mm.compat import load_trusted_types
from cal_mm.datasets.transforms.base import SampleError
from data_prep.synthetic import make_synthetic

SYNTHETIC = str(ROOT / 'configs/cal_paper/synthetic_mlp_concat_cal_paper.py')

_spec = importlib.util.spec_from_file_location(
    'media_fixtures', ROOT / 'tests/datasets/fixtures.py'
)
media = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(media)

MEDIA_CONFIG = """
model = dict(
    type='MultiModalClassifier', num_classes=3,
    data_preprocessor=dict(type='MultiModalPreprocessor', frontends=dict(
        image=dict(type='ImageFrontEnd'),
        audio=dict(type='SpectrogramFrontEnd', n_fft=64, hop_length=32),
        feats=dict(type='FeatureFrontEnd'))),
    encoders=dict(
        image=dict(type='SmallImageCNN', in_channels=3, channels=(4,)),
        audio=dict(type='AudioCNN', channels=(4,)),
        feats=dict(type='MLPEncoder', in_channels=5, hidden_channels=[4], out_channels=4)),
    fusion=dict(type='ConcatFusion'))
modalities = ('image', 'audio', 'feats')
pipeline = [
    dict(type='LoadImage', modality='image'), dict(type='LoadAudio', modality='audio'),
    dict(type='LoadFeatures', modality='feats'), dict(type='PackInputs', modalities=modalities)]
data = dict(type='MultiModalDataset', data_root='DATA', pipeline=pipeline, modalities=modalities)
train_dataloader = dict(
    batch_size=6, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(**data, split='train'))
test_dataloader = dict(
    batch_size=6, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(**data, split='test', test_mode=True))
test_evaluator = dict(type='MultiModalMetric')
test_cfg = dict(type='TestLoop')
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=2)
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01))
default_hooks = dict(logger=dict(type='LoggerHook', interval=1),
                     checkpoint=dict(type='CheckpointHook', interval=1, max_keep_ckpts=1),
                     statistics=dict(type='DataStatisticsHook'),
                     progress=dict(type='TrainProgressHook'))
"""


@pytest.fixture(scope='session', autouse=True)
def _quiet():
    hf_datasets.disable_progress_bars()


@pytest.fixture
def config(tmp_path):
    """A config over a prepared dataset; ``config(change)`` overwrites columns of samples."""

    def config(change=None, text=MEDIA_CONFIG, **kwargs):
        root = tmp_path / 'media'
        media.write_prepared(root, dict(train=12, test=6), change=change, **kwargs)
        path = tmp_path / 'media_config.py'
        path.write_text(text.replace('DATA', str(root)))
        return path

    config.folder = tmp_path
    return config


@pytest.fixture(scope='module')
def synthetic(tmp_path_factory):
    out = tmp_path_factory.mktemp('data') / 'synthetic'
    make_synthetic(out, num_train=48, num_val=16, num_test=16)
    return out


def roots(folder):
    return [f'{s}_dataloader.dataset.data_root={folder}' for s in ('train', 'val', 'test')]


@pytest.fixture(scope='module')
def trained(synthetic, tmp_path_factory):
    work_dir = tmp_path_factory.mktemp('trained')
    options = [own_name(), *roots(synthetic), 'train_cfg.max_epochs=1']
    code, _, err = call('train', SYNTHETIC, '--work-dir', work_dir, '--cfg-options', *options)
    assert code == 0, err
    return work_dir / 'epoch_1.pth'


def refused(err, *expected):
    """One readable message on stderr."""
    assert 'Traceback' not in err
    message = err[err.index('error: ') :].strip()
    assert message.count('\n') <= 3, message
    for part in expected:
        assert part in message, message
    return message


def cut(data):
    return data[: len(data) // 2]


BAD_SAMPLES = {
    'truncated image': ('image', cut(media.media(4)['image']), ['cannot decode', 'truncated']),
    'no image': ('image', b'<html>404</html>', ['cannot decode 16 bytes as an image']),
    'empty image': ('image', b'', ['empty (0 bytes)']),
    'empty wav': ('audio', media.wav(np.zeros(0)), ['holds no samples']),
    'no bytes of wav': ('audio', b'', ['empty (0 bytes)']),
    'corrupt wav': (
        'audio',
        b'RIFF' + b'\x00' * 60,
        ['cannot decode 64 bytes as audio', 'corrupt'],
    ),
    'truncated wav': ('audio', cut(media.wav(np.zeros(400))), ['truncated']),
    'NaN feature': (
        'feats',
        np.array([0, 1, np.nan, 3, 4], dtype=np.float32),
        ['1 of 5 features are not finite', 'index 2'],
    ),
}


@pytest.mark.parametrize(
    ('name', 'workers'),
    [(n, 0) for n in BAD_SAMPLES]
    + [(n, 2) for n in ('truncated image', 'corrupt wav', 'NaN feature')],
)
def test_samples_that_cannot_be_used(config, name, workers):
    modality, value, expected = BAD_SAMPLES[name]
    path = config({'train-4': {modality: value}})
    options = [own_name(), f'train_dataloader.num_workers={workers}']
    options += [f'train_dataloader.persistent_workers={workers > 0}']
    code, _, err = call('train', path, '--work-dir', config.folder / 'w', '--cfg-options', *options)
    assert code == 1
    refused(err, "sample 'train-4'", "split 'train'", f'modality {modality!r}', *expected)


def test_features_of_another_width(config):
    path = config({'train-4': {'feats': np.zeros(3, dtype=np.float32)}})
    code, _, err = call(
        'train', path, '--work-dir', config.folder / 'w', '--cfg-options', own_name()
    )
    assert code == 1
    refused(err, "modality 'feats'", 'train-4')


def test_a_missing_value_is_no_error(config):
    path = config({'train-4': {'image': None}, 'train-5': {'audio': None, 'feats': None}})
    code, _, err = call(
        'train', path, '--work-dir', config.folder / 'w', '--cfg-options', own_name()
    )
    assert code == 0, err


@pytest.mark.parametrize('label', [3, -1, None])
def test_unknown_label(config, label):
    path = config({'train-4': {'label': label}})
    code, _, err = call(
        'train', path, '--work-dir', config.folder / 'w', '--cfg-options', own_name()
    )
    assert code == 1
    refused(err, "'train-4'", f'the label {label}', 'expected an index in [0, 3)', 'a, b, c')


@pytest.mark.parametrize('count', [2, 4])
def test_other_classes_than_the_model_has(config, count):
    """Labels that the head does not have, and outputs that no label is for."""
    path = config()
    options = [own_name(), f'model.num_classes={count}']
    code, _, err = call('train', path, '--work-dir', config.folder / 'w', '--cfg-options', *options)
    assert code == 1
    refused(err, f'model.num_classes is {count}', '3 classes', 'a, b, c')


@pytest.mark.parametrize('rate', [4000, 8000])
def test_a_front_end_of_another_sample_rate(config, rate):
    mel = f"'LogMelFrontEnd', sample_rate={rate}, n_mels=8"
    text = MEDIA_CONFIG.replace("'SpectrogramFrontEnd'", mel)
    path = config(text=text, facts={'audio': {'sample_rate': 8000}})
    options = [own_name(), 'train_cfg.max_epochs=1']
    code, _, err = call('train', path, '--work-dir', config.folder / 'w', '--cfg-options', *options)
    assert code == (rate == 4000), err
    if rate == 4000:
        place = 'model.data_preprocessor.frontends.audio.sample_rate is 4000'
        refused(err, place, 'gives audio with 8000 Hz', 'sample_rate=4000 in LoadAudio')


def test_an_encoder_that_does_not_take_its_input(config):
    path = config()
    options = [own_name(), 'model.encoders.image.in_channels=1']
    code, _, err = call('train', path, '--work-dir', config.folder / 'w', '--cfg-options', *options)
    assert code == 1
    refused(err, 'SmallImageCNN expects [B, 1, H, W]', "modality 'image' (model.encoders.image)")


CONFIG_MISTAKES = [
    ("'SmallImageCNN'", "'SmalImageCNN'", ['not a registered encoder', "'SmallImageCNN'"]),
    ("'LoadAudio'", "'LoadAudi'", ['pipeline[1]', "Did you mean 'LoadAudio'"]),
    ('hidden_channels', 'hiden_channels', ['model.encoders.feats', "'hidden_channels'"]),
    ('train_dataloader =', 'train_dataloadr =', ["'train_dataloadr'", "'train_dataloader'"]),
    (
        'hop_length=32',
        "hop_length='x'",
        ['model.data_preprocessor.frontends.audio.hop_length', 'int'],
    ),
    ("modality='image'", "modality='imgae'", ["'imgae'", "Did you mean 'image'"]),
    (
        "('image', 'audio', 'feats')",
        "('image', 'sound', 'feats')",
        ["no modality 'sound'", 'audio'],
    ),
    ("image=dict(type='ImageFrontEnd'),", '', ["'image'"]),
    ("split='train'", "split='trian'", ["no split 'trian'", "'train'"]),
    ('model = dict(', 'model = dict((', ['cannot be read as a config', 'SyntaxError']),
]


@pytest.mark.parametrize(
    ('right', 'wrong', 'expected'), CONFIG_MISTAKES, ids=[m[1] for m in CONFIG_MISTAKES]
)
def test_mistakes_in_a_config(config, right, wrong, expected):
    assert right in MEDIA_CONFIG
    path = config(text=MEDIA_CONFIG.replace(right, wrong))
    code, _, err = call(
        'train', path, '--work-dir', config.folder / 'w', '--cfg-options', own_name()
    )
    assert code == 1
    refused(err, *expected)


def test_a_modality_of_the_model_that_the_data_lacks(config):
    text = MEDIA_CONFIG.replace("('image', 'audio', 'feats')", "('image', 'audio')")
    text = text.replace("    dict(type='LoadFeatures', modality='feats'),", '')
    code, _, err = call(
        'train', config(text=text), '--work-dir', config.folder / 'w', '--cfg-options', own_name()
    )
    assert code == 1
    refused(err, "'feats'", 'audio', 'image')


OPTION_MISTAKES = [
    ('model.fusion.droput=0.1', ['--cfg-options model.fusion.droput', "Did you mean 'dropout'"]),
    ('model.losses.0.beta=1', ['model.losses']),
    ('modle.gate=none', ["'modle'", "'model'"]),
    ('train_dataloader.dataset.data_rot=x', ["Did you mean 'data_root'"]),
    (
        'model.gate=contributon',
        ["'contributon' is not a registered gate", "Did you mean 'contribution'"],
    ),
    ('optim_wrapper.optimizer.type=SGDD', ["'SGDD' is not a registered optimizer", "'SGD'"]),
]


@pytest.mark.parametrize(
    ('option', 'expected'), OPTION_MISTAKES, ids=[o[0] for o in OPTION_MISTAKES]
)
def test_mistakes_in_cfg_options(config, option, expected):
    code, _, err = call(
        'train', config(), '--work-dir', config.folder / 'w', '--cfg-options', own_name(), option
    )
    assert code == 1
    refused(err, *expected)


@pytest.mark.parametrize('option', ['model.gate', '=3'])
def test_malformed_cfg_options_are_wrong_usage(config, option):
    code, _, err = call('train', config(), '--cfg-options', option)
    assert code == 2
    refused(err, 'expected KEY=VALUE', option)


def test_missing_data_root(config, tmp_path):
    path = config()
    gone = tmp_path / 'gone'
    option = f'train_dataloader.dataset.data_root={gone}'
    common = [path, '--work-dir', tmp_path / 'w', '--cfg-options', option]
    code, _, err = call('train', *common, own_name())
    assert code == 1
    refused(err, f'{gone} is not a prepared dataset', 'data_prep', 'data_root')
    (gone / 'sub').mkdir(parents=True)
    code, _, err = call('train', *common, own_name())
    assert code == 1
    refused(err, 'has no manifest.json')


# ---- checkpoints --------------------------------------------------------------------------------


def test_checkpoint_of_another_architecture(synthetic, trained, tmp_path):
    other = ['model.encoders.a.out_channels=20', 'model.fusion.hidden_channels=6']
    common = ['--work-dir', tmp_path, '--cfg-options', *roots(synthetic), *other]
    code, _, err = call('train', SYNTHETIC, '--resume', trained, *common, own_name())
    assert code == 1
    refused(err, str(trained), 'Of another shape', 'encoders.a', 'Missing', 'fusion.head', 'config')
    assert not list(tmp_path.glob('*.pth'))
    code, _, err = call('test', SYNTHETIC, trained, *common, own_name())
    assert code == 1
    refused(err, str(trained), 'Of another shape', 'encoders.a', 'config')


def test_resuming_what_cannot_be_resumed(synthetic, trained, tmp_path):
    loaded = load_trusted_types(str(trained))
    weights = tmp_path / 'weights.pth'
    torch.save({'state_dict': loaded['state_dict'], 'meta': {}}, weights)
    common = ['--work-dir', tmp_path / 'w', '--cfg-options', *roots(synthetic)]
    code, _, err = call('train', SYNTHETIC, '--resume', weights, *common, own_name())
    assert code == 1
    refused(err, str(weights), 'lacks message_hub, optimizer', 'load_from=')
    more = ['optim_wrapper.optimizer={"type": "AdamW", "lr": 0.1, "_delete_": True}']
    code, _, err = call('train', SYNTHETIC, '--resume', trained, *common, own_name(), *more)
    assert code == 1
    refused(err, 'another optimiser', 'AdamW', 'betas')
    code, _, err = call('train', SYNTHETIC, '--resume', tmp_path / 'none.pth', *common, own_name())
    assert code == 1
    refused(err, '--resume: no checkpoint at', 'none.pth')


def test_weights_alone_start_a_new_run(synthetic, trained, tmp_path):
    options = [own_name(), *roots(synthetic), f'load_from={trained}', 'train_cfg.max_epochs=1']
    code, _, err = call('train', SYNTHETIC, '--work-dir', tmp_path, '--cfg-options', *options)
    assert code == 0, err


ATTACKS = [
    (['--attack', 'gaussian:7@a'], ['gaussian', '7', '1', '5']),
    (['--attack', 'gaussian:0@a'], ['0']),
    (['--attack', 'gaussian:x@a'], ['x']),
    (['--attack', 'gausian:3@a'], ["'gausian'", 'gaussian']),
    (['--attack', 'gaussian:3@smell'], ["'smell'", 'a', 'b', 'c']),
    (['--attack', 'salt_pepper:3@a'], ['features']),
    (['--drop', 'smell'], ["'smell'", 'a', 'b', 'c']),
    (['--drop', 'a+b+c'], ['a']),
    (['--protocol', 'nothing'], ["'nothing'"]),
    (['--seeds', '0', '--drop', 'a'], ['seeds', '0']),
]


@pytest.mark.parametrize(('arguments', 'expected'), ATTACKS, ids=[' '.join(a[0]) for a in ATTACKS])
def test_attacks_that_cannot_be(synthetic, trained, tmp_path, arguments, expected):
    code, _, err = call(
        'test',
        SYNTHETIC,
        trained,
        *arguments,
        '--work-dir',
        tmp_path,
        '--cfg-options',
        own_name(),
        *roots(synthetic),
    )
    assert code == 2
    refused(err, *expected)


# ---- losses and weights that are not finite -----------------------------------------------------


def last_good(work_dir, epoch):
    """The checkpoint that last_checkpoint names: of ``epoch``, loadable and finite."""
    named = Path((work_dir / 'last_checkpoint').read_text())
    assert named.name == f'epoch_{epoch}.pth'
    loaded = load_trusted_types(str(named))
    assert loaded['meta']['epoch'] == epoch
    assert all(
        torch.isfinite(v).all() for v in loaded['state_dict'].values() if v.is_floating_point()
    )
    return loaded


def test_a_huge_feature_stops_the_run(config):
    """Finite in the file, infinite in the network: the sample and the term are named."""
    change = {'train-7': {'feats': np.full(5, 3e38, dtype=np.float32)}}
    scale = '{"type": "FeatureFrontEnd", "mean": [0, 0, 0, 0, 0], "std": [0.1, 0.1, 0.1, 0.1, 0.1]}'
    options = [own_name(), f'model.data_preprocessor.frontends.feats={scale}']
    work_dir = config.folder / 'w'
    code, _, err = call('train', config(change), '--work-dir', work_dir, '--cfg-options', *options)
    assert code == 1
    refused(err, 'update 1', 'epoch 1', 'loss_fused = nan', 'train-7', 'learning rate')
    assert not list(work_dir.glob('*.pth'))


def schedule(gamma):
    return f'param_scheduler={{"type": "StepLR", "step_size": 1, "gamma": {gamma}}}'


def test_a_huge_learning_rate_leaves_the_last_checkpoint(config):
    options = ['train_cfg.max_epochs=4', schedule(1e36), 'train_dataloader.batch_size=3']
    path, work_dir = config(), config.folder / 'w'
    common = ['--work-dir', work_dir, '--cfg-options', own_name()]
    code, _, err = call('train', path, *common, *options)
    assert code == 1
    refused(err, 'not finite', 'update ', 'epoch 2', 'loss_fused', 'train-')
    last_good(work_dir, 1)
    common[-1] = own_name()
    code, out, err = call('test', path, work_dir / 'epoch_1.pth', *common)
    assert code == 0, err
    assert 'clean' in out


def test_weights_that_break_in_the_last_iteration_are_not_saved(config):
    """One iteration an epoch: no later loss could tell, and max_keep_ckpts=1 keeps one file."""
    options = ['train_cfg.max_epochs=4', 'train_dataloader.batch_size=12', schedule(1e42)]
    options += ['optim_wrapper.optimizer.lr=1e-4', 'optim_wrapper.optimizer.weight_decay=1000.0']
    work_dir = config.folder / 'w'
    code, _, err = call(
        'train', config(), '--work-dir', work_dir, '--cfg-options', own_name(), *options
    )
    assert code == 1
    refused(err, 'weights are not finite', 'iteration 2', 'epoch 2', 'learning rate')
    last_good(work_dir, 1)


# ---- the command line itself --------------------------------------------------------------------


def test_the_message_of_a_worker_is_unwrapped():
    """torch hands on the whole traceback as the message."""
    from torch._utils import ExceptionWrapper

    def fail(error):
        try:
            try:
                raise ZeroDivisionError('the cause')
            except ZeroDivisionError as e:
                raise error from e
        except Exception:
            wrapped = ExceptionWrapper(where='in DataLoader worker process 1')
        with pytest.raises(type(error)) as caught:
            wrapped.reraise()
        return cli.message_of(caught.value)

    assert fail(SampleError("sample 'x': bad\nin two lines")) == "sample 'x': bad\nin two lines"
    assert fail(ValueError('plain: with colon')) == 'plain: with colon'
    assert 'no such key' in fail(KeyError('no such key'))
    assert cli.message_of(KeyError('k')) == 'k'
    assert cli.message_of(ValueError()) == 'ValueError'
    noted = ValueError('text')
    noted.add_note('in LoadImage')
    assert cli.message_of(noted) == 'text\nin LoadImage'


def test_a_bug_keeps_its_traceback():
    with pytest.raises(AttributeError):
        cli.run(lambda args: None.x, _parser(), [])
    with pytest.raises(RuntimeError):
        cli.run(lambda args: torch.zeros(2) @ torch.zeros(3), _parser(), [])


def _parser():
    import argparse

    parser = argparse.ArgumentParser(prog='tool')
    cli.add_config_arguments(parser)
    return parser


@pytest.mark.slow
def test_through_a_shell(config):
    """As a user sees it: exit code, one message; --debug shows where it comes from."""
    path = config({'train-4': {'image': cut(media.media(4)['image'])}})
    env = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}
    command = [sys.executable, str(ROOT / 'tools/train.py'), str(path), '--work-dir', 'w']
    command += ['--cfg-options', 'train_dataloader.num_workers=2']
    done = subprocess.run(command, env=env, cwd=config.folder, capture_output=True, text=True)
    assert done.returncode == 1
    refused(done.stderr, "sample 'train-4'", 'cannot decode')
    debug = [*command[:-2], '--debug', *command[-2:]]
    done = subprocess.run(debug, env=env, cwd=config.folder, capture_output=True, text=True)
    assert done.returncode == 1
    assert 'Traceback' in done.stderr
    assert 'decode_image' in done.stderr
    assert json.loads((config.folder / 'media' / 'manifest.json').read_text())['name'] == 'tiny'
