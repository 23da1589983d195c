"""The test loop and tools/test.py on a fake model and dataset."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import robustness_fakes as fakes
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

import cal_mm.engine.loops
from cal_mm.evaluation import load_predictions, load_results, results_table

ROOT = Path(__file__).parents[2]
ATTACKS = ['noise:5', 'swap@image', 'FakeAttack:5@image']


def run_loop(config, workers=0, batch_size=4, **test_cfg):
    cfg = Config.fromfile(config, import_custom_modules=False)
    cfg.work_dir = str(config.parent / 'work')
    cfg.test_dataloader.update(
        num_workers=workers, batch_size=batch_size, persistent_workers=workers > 0
    )
    cfg.test_cfg.update(test_cfg)
    cfg.experiment_name = f'fake_{time.monotonic_ns()}'
    runner = Runner.from_cfg(cfg)
    runner.test()
    return runner.test_loop


def plain(rows):
    return [{k: v for k, v in row.items() if k != 'timing'} for row in rows]


@pytest.fixture
def tool(monkeypatch):
    """tools/test.py; each run with an experiment name of its own (mmengine keeps them for ever)."""
    spec = importlib.util.spec_from_file_location('test_tool', ROOT / 'tools' / 'test.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    configure = module._runner_config

    def named(args, cfg):
        cfg = configure(args, cfg)
        cfg.experiment_name = f'fake_{time.monotonic_ns()}'
        return cfg

    monkeypatch.setattr(module, '_runner_config', named)
    return module


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / 'epoch_3.pth'
    state = fakes.FakeModel().state_dict()
    torch.save({'state_dict': state, 'meta': {'epoch': 3, 'iter': 30}}, path)
    return path


def test_rows_do_not_depend_on_workers_and_batch_size(fake_config):
    kwargs = dict(attacks=ATTACKS, drop=['words'], protocol='clipped', seeds=2)
    a = run_loop(fake_config, 0, 4, **kwargs)
    b = run_loop(fake_config, 2, 5, **kwargs)
    assert plain(a.rows) == plain(b.rows)
    assert a.rows[0]['condition'] == 'clean'
    assert a.rows[0]['attack'] is None
    assert all(row['num_samples'] == 23 for row in a.rows)
    assert a.rows[0]['contribution'] == pytest.approx({'image': 0.5, 'sound': 0.3, 'words': 0.2})
    assert not any('contribution' in key for key in a.rows[0]['metrics'])
    assert a.rows[0]['per_class'].keys() == {'a', 'b', 'c'}
    by_name = {(r['condition'], r['protocol'], r['seed']): r for r in a.rows}
    assert len(by_name) == len(a.rows) == 1 + 2 * 3 + 1 + 2 * 10
    accuracy = {k: r['metrics']['accuracy/top1'] for k, r in by_name.items()}
    assert accuracy['clean', None, None] == 100
    assert accuracy['noise:5@image+sound+words', 'clipped', 0] < 80
    assert accuracy['drop words', 'missing', 0] < 80
    assert accuracy['swap@image', 'clipped', 0] < 100
    table = results_table({'rows': a.rows})
    assert table.splitlines()[0].split()[:3] == ['condition', 'acc', '%']
    assert len({len(line) for line in table.splitlines()[1:2]}) == 1
    assert table.isascii()


def test_a_loader_that_is_already_built_gives_the_same(fake_config):
    kwargs = dict(attacks=['noise:5'])
    expected = run_loop(fake_config, **kwargs)
    cfg = Config.fromfile(fake_config, import_custom_modules=False)
    cfg.work_dir, cfg.experiment_name = str(fake_config.parent), f'fake_{time.monotonic_ns()}'
    runner = Runner.from_cfg(cfg)
    runner.call_hook('before_run')
    with DefaultScope.overwrite_default_scope('cal_mm'):
        loader = Runner.build_dataloader(cfg.test_dataloader)
        loop = cal_mm.engine.loops.RobustnessTestLoop(runner, loader, cfg.test_evaluator, **kwargs)
    runner._test_loop = loop
    loop.run()
    assert plain(loop.rows) == plain(expected.rows)


def test_an_attack_may_not_change_the_model(fake_config, monkeypatch):
    monkeypatch.setattr(fakes.FakeAttack, 'breaks_model', True)
    with pytest.raises(RuntimeError, match=r'FakeAttack:2@image changed the model'):
        run_loop(fake_config, attacks=['FakeAttack:2@image'])


def test_tool_writes_results(tool, fake_config, checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = tmp_path / 'new' / 'results.json'
    argv = [str(fake_config), str(checkpoint), '--attack', 'gaussian:std=30@image', 'word_mask']
    argv += ['--drop', 'words', '--out', str(out), '--save-predictions']
    tool.run(tool.main, tool.parser(), argv)
    printed = capsys.readouterr().out
    assert 'test split, 23 samples' in printed
    assert 'gaussian:std=30@image' in printed
    results = load_results(out)
    assert [r['condition'] for r in results['rows']] == [
        'clean',
        'gaussian:std=30@image',
        *(f'word_mask:{s}@words' for s in range(1, 6)),
        'drop words',
    ]
    assert results['checkpoint']['epoch'] == 3
    assert len(results['checkpoint']['sha256']) == 64
    assert results['dataset']['name'] == 'fake'
    (noise,) = results['rows'][1]['corruptions']
    assert (noise['parameter'], noise['value'], noise['modality']) == ('std', 30.0, 'image')
    rows = load_predictions(tmp_path / 'new' / 'results.predictions.npz')
    assert len(rows) == 8
    right = np.mean(rows[-1]['predicted'] == rows[-1]['labels']) * 100
    assert right == pytest.approx(results['rows'][-1]['metrics']['accuracy/top1'])


def test_a_model_of_some_of_the_modalities_gets_the_noise_of_the_dataset(
    tool, fake_config, checkpoint, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fakes.FakeModel, 'modalities', ('image',))
    text = fake_config.read_text().replace(', sound=dict(), words=dict()', '')
    kinds = dict(image='image', sound='depth')
    text += f"test_dataloader['dataset']['kinds'] = {kinds}\n"
    fake_config.write_text(text)
    common = [str(fake_config), str(checkpoint), '--protocol', 'qmf-legacy', '--seeds', '1']
    tool.run(tool.main, tool.parser(), [*common, '--out', 'one'])
    rows = load_results('one')['rows']
    assert [r['modalities'] for r in rows[1:]] == [['image']] * 4
    assert [c['value'] for c in rows[1]['corruptions']] == [5.0]
    # planned in the same way for the check of a reference
    tool.run(tool.main, tool.parser(), [*common, '--reference', 'one'])


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--attack', 'gausian:3@image'], "Did you mean 'gaussian'"),
        (['--attack', 'gaussian:7@image'], 'severity must be from 1 to 5'),
        (['--attack', 'gaussian:3@imag'], "no modality 'imag'. Did you mean 'image'"),
        (['--attack', 'awgn:3@image'], "is of kind 'image'"),
        (['--attack', 'missing'], 'name the modality'),
        (['--attack', 'frame_drop:3@image'], 'needs several frames'),
        (['--drop', 'audio'], "no modality 'audio'"),
        (['--protocol', 'clippd'], "Did you mean 'clipped'"),
        (['--protocol', 'clipped', '--seeds', '0'], 'seeds must be at least 1'),
        (['--save-predictions'], '--save-predictions needs --out'),
        (['--out', '.'], 'is a folder'),
        (['--split', 'val'], 'there is no val_dataloader'),
    ],
)
def test_wrong_arguments_are_told_in_one_line_before_the_model_is_built(
    tool, fake_config, checkpoint, arguments, message, capsys, monkeypatch
):
    def never(*args, **kwargs):
        raise AssertionError('the model was built')

    monkeypatch.setattr(tool.Runner, 'from_cfg', never)
    monkeypatch.chdir(fake_config.parent)
    with pytest.raises(SystemExit) as stop:
        tool.run(tool.main, tool.parser(), [str(fake_config), str(checkpoint), *arguments])
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert 'Traceback' not in captured.err
    assert captured.err.count('\n') == 1


def test_a_spectrogram_is_refused_before_the_model_is_built(
    tool, fake_config, checkpoint, capsys, monkeypatch
):
    monkeypatch.chdir(fake_config.parent)
    argv = [str(fake_config), str(checkpoint), '--attack', 'awgn:3@sound']
    argv += ['--cfg-options', 'test_dataloader.dataset.spectrogram=True']
    with pytest.raises(SystemExit) as stop:
        tool.run(tool.main, tool.parser(), argv)
    assert stop.value.code == 2
    assert 'front end' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda s: s.pop('extra.weight'), 'Missing (1 of 4): extra.weight'),
        (lambda s: s.update(other=torch.zeros(1)), 'Unexpected (1 of 5): other'),
        (
            lambda s: s.update({'extra.weight': torch.zeros(2, 9)}),
            'Of another shape (1 of 4): extra.weight [2, 9] where the model has [2, 3]',
        ),
    ],
)
def test_checkpoint_of_another_architecture(
    tool, fake_config, checkpoint, change, message, capsys, monkeypatch
):
    monkeypatch.chdir(fake_config.parent)
    state = torch.load(checkpoint)
    change(state['state_dict'])
    torch.save(state, checkpoint)
    with pytest.raises(SystemExit) as stop:
        tool.run(tool.main, tool.parser(), [str(fake_config), str(checkpoint)])
    assert stop.value.code == 1
    error = capsys.readouterr().err
    assert message in error
    assert 'Give the config that it was trained with' in error


def test_checkpoint_that_is_none(tool, fake_config, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, content in (('empty.pth', b''), ('text.pth', b'hello'), ('none.pth', None)):
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(SystemExit) as stop:
            tool.run(tool.main, tool.parser(), [str(fake_config), str(path)])
        assert stop.value.code in (1, 2)
        assert name in capsys.readouterr().err
    torch.save({'optimizer': 1}, tmp_path / 'other.pth')
    with pytest.raises(SystemExit):
        tool.run(tool.main, tool.parser(), [str(fake_config), str(tmp_path / 'other.pth')])
    assert 'holds no weights' in capsys.readouterr().err


@pytest.mark.slow
def test_two_ranks_give_the_rows_of_one(tool, fake_config, checkpoint, tmp_path, monkeypatch):
    """Through torchrun and gloo: 23 samples, so that one is padded."""
    common = [
        str(fake_config),
        str(checkpoint),
        '--attack',
        'noise:4',
        'FakeAttack:2@image',
        '--out',
    ]
    monkeypatch.chdir(tmp_path)
    tool.run(tool.main, tool.parser(), [*common, 'one.json'])
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2']
    command += [str(ROOT / 'tools/test.py'), *common, 'two.json', '--launcher', 'pytorch']
    env = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (load_results(tmp_path / f'{n}.json')['rows'] for n in ('one', 'two'))
    assert json.dumps(plain(one)) == json.dumps(plain(two))


@pytest.mark.parametrize(
    ('given', 'argv', 'expected'),
    [
        ({}, [], None),
        ({}, ['--feature-cache', 'd'], 'd'),
        ({'feature_cache': 'c'}, [], 'c'),
        ({'feature_cache': 'c'}, ['--feature-cache', 'd'], 'd'),
    ],
)
def test_the_command_line_hands_the_folder_on(tool, given, argv, expected):
    cfg = Config(dict(test_dataloader={}, test_cfg=given))
    args = tool.parser().parse_args(['x.py', 'x.pth', *argv])
    assert tool._runner_config(args, cfg).test_cfg.get('feature_cache') == expected


def test_conditions_of_the_config_are_tested(tool, fake_config, checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    loop = dict(attacks=['gaussian:3@image'], drop=['words'], protocol='missing', seeds=1)
    text = fake_config.read_text()
    fake_config.write_text(
        text.replace("type='RobustnessTestLoop'", f"type='MyLoop', **{loop}")
        + "custom_imports['imports'].append('my_loop')\n"
    )
    (tmp_path / 'my_loop.py').write_text(
        'from cal_mm.engine.loops import RobustnessTestLoop\n'
        'from cal_mm.registry import LOOPS\n'
        '@LOOPS.register_module(force=True)\n'
        'class MyLoop(RobustnessTestLoop):\n'
        '    pass\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    argv = [str(fake_config), str(checkpoint), '--out', 'found.json']

    def tested(*more):
        tool.run(tool.main, tool.parser(), [*argv, *more])
        return [r['condition'] for r in load_results('found.json')['rows']]

    missing = [f'drop {m}' for m in ('image', 'sound', 'words')]
    missing += ['drop image+sound', 'drop image+words', 'drop sound+words']
    found = tested()
    assert found[:2] == ['clean', 'gaussian:3@image']
    assert sorted(found[2:]) == sorted(missing)
    # what is given takes the place of the config's, the rest stays
    found = tested('--attack', 'swap@image', 'word_mask:2')
    assert found[1:3] == ['swap@image', 'word_mask:2@words']
    assert sorted(found[3:]) == sorted(missing)


def test_a_loop_of_another_kind_is_refused(tool, fake_config, checkpoint, capsys):
    text = fake_config.read_text()
    fake_config.write_text(text.replace('RobustnessTestLoop', 'ValLoop'))
    with pytest.raises(SystemExit) as stop:
        tool.run(tool.main, tool.parser(), [str(fake_config), str(checkpoint)])
    assert stop.value.code == 2
    assert 'takes RobustnessTestLoop, a class derived' in capsys.readouterr().err


def test_adaptation_and_seeds_of_the_config(tool):
    given = dict(type='RobustnessTestLoop', adaptation=dict(type='Tent', steps=2), fp16=True)
    cfg = Config(dict(test_dataloader={}, test_cfg=given))

    def loop(*argv):
        args = tool.parser().parse_args(['x.py', 'x.pth', *argv])
        return tool._runner_config(args, Config(cfg.to_dict())).test_cfg

    assert loop() == given
    assert loop('--adapt', 'READ').adaptation == dict(type='READ')
    assert loop('--seeds', '3').seeds == 3


def test_wrong_attacks_of_the_config_show_before_the_model_is_built(
    tool, fake_config, checkpoint, capsys, monkeypatch
):
    monkeypatch.setattr(tool.Runner, 'from_cfg', lambda cfg: pytest.fail('the model was built'))
    text = fake_config.read_text()
    wrong = "type='RobustnessTestLoop', attacks=['gaussian:3@imag']"
    fake_config.write_text(text.replace("type='RobustnessTestLoop'", wrong))
    with pytest.raises(SystemExit) as stop:
        tool.run(tool.main, tool.parser(), [str(fake_config), str(checkpoint)])
    assert stop.value.code == 2
    assert "Did you mean 'image'" in capsys.readouterr().err
