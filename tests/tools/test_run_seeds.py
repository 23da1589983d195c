"""tools/run_seeds.py: which attacks a config is tested under, what a second call does again, whose
checkpoint is taken, the table.
"""

import json
import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from cli_runner import ROOT, call, load_tool
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope

from cal_mm.config import load_config
from cal_mm.config.options import parse_option
from data_prep.synthetic import make_synthetic

CONFIG = str(ROOT / 'configs/concat/synthetic_mlp_concat_concat.py')


@pytest.fixture
def options(tmp_path):
    """--cfg-options of a model of a and b on the dataset of a, b and c."""
    make_synthetic(tmp_path / 'data', num_train=32, num_val=16, num_test=16)
    found = [f'{s}_dataloader.dataset.data_root={tmp_path}/data' for s in ('train', 'val', 'test')]
    return [*found, 'train_cfg.max_epochs=1']


@pytest.fixture
def pair(tmp_path):
    """A config of a and b alone."""
    path = tmp_path / 'pair.py'
    path.write_text(
        f'_base_ = [{CONFIG!r}]\n'
        'parts = _base_.model\n'
        'front = {m: parts.data_preprocessor.frontends[m] for m in ("a", "b")}\n'
        'encoders = {m: parts.encoders[m] for m in ("a", "b")}\n'
        'model = dict(\n'
        '    data_preprocessor=dict(frontends=dict(_delete_=True, **front)),\n'
        '    encoders=dict(_delete_=True, **encoders),\n'
        ')\n'
    )
    return str(path)


def test_only_attacks_on_other_modalities_are_left_out(pair, options):
    tool = load_tool('run_seeds')
    cfg = load_config(pair, dict(parse_option(o) for o in options))
    both = 'noise:3@a+b'
    attacks = ['noise:1', 'noise:2@a', both, 'noise:3@b+c', 'noise:4@c']
    assert tool.fitting(attacks, cfg) == (attacks[:3], attacks[3:])
    # what the dataset was told to read does not make the others unknown
    cfg.test_dataloader.dataset.modalities = ['a', 'b']
    assert tool.fitting(attacks, cfg) == (attacks[:3], attacks[3:])


def test_what_is_left_out_is_said_and_the_rest_tested(pair, options, tmp_path):
    out = tmp_path / 'runs.jsonl'
    argv = [pair, '--seeds', '0', '--out', str(out), '--keep']
    argv += ['--attack', 'noise:3@a+b', 'noise:4@c', '--cfg-options', *options]
    tool = load_tool('run_seeds')
    args = tool.parser().parse_args(argv)
    folder = Path(tool.run_config(load_config(pair, args.cfg_options), None, 0, args).work_dir)
    folder.mkdir(parents=True)
    stale = folder / 'best_accuracy_top1_epoch_0.pth'
    stale.write_text('of a training that was killed')
    code, _, err = call('run_seeds', *argv)
    assert code == 0, err
    row = json.loads(out.read_text().splitlines()[-1])
    assert [r['condition'] for r in row['rows']] == ['clean', 'noise:3@a+b']
    assert f'{pair}: noise:4@c left out' in err
    assert Path(row['checkpoint']) == folder / 'best_accuracy_top1_epoch_1.pth'
    assert not stale.exists()


def test_runs_of_one_name_in_one_second(pair, options, tmp_path, monkeypatch):
    stopped = SimpleNamespace(
        time=lambda: 1e9, localtime=time.localtime, strftime=time.strftime
    )  # mmengine names what it keeps for ever by the experiment and the second
    monkeypatch.setattr('mmengine.runner.runner.time', stopped)
    out = tmp_path / 'runs.jsonl'
    argv = [pair, '--seeds', '0', '--out', out, '--keep', '--cfg-options', *options]
    for attack in ('noise:3', 'noise:5'):
        code, _, err = call('run_seeds', *argv, '--attack', attack)
        assert code == 0, err
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    # trained once, tested twice
    assert [len(r.get('rows', ())) for r in rows] == [0, 2, 2]
    for manager in (DefaultScope, MessageHub, MMLogger):
        assert not [k for k in manager._instance_dict if str(k).startswith(rows[0]['run'])]


def test_a_misspelt_modality_shows_before_anything_is_trained(pair, options, tmp_path):
    out = tmp_path / 'new' / 'runs.jsonl'
    code, _, err = call(
        'run_seeds', pair, '--seeds', '0', '--out', out,
        '--attack', 'noise:3@a+z', '--cfg-options', *options,
    )  # fmt: skip
    assert code == 1
    assert "attack 'noise:3@a+z': there is no modality 'z'" in err
    assert not out.parent.exists()


@pytest.fixture
def work(monkeypatch):
    """What is trained and tested (runs' names), by stubs of both."""
    tool = load_tool('run_seeds')
    done = {'trained': [], 'tested': []}

    def train(cfg):
        done['trained'].append(cfg.experiment_name)
        os.makedirs(cfg.work_dir, exist_ok=True)
        checkpoint = Path(cfg.work_dir, 'best.pth')
        checkpoint.write_text('weights')
        return dict(val=80.0, checkpoint=str(checkpoint), weights=None, beta=None)

    def test(cfg, checkpoint, args):
        assert Path(checkpoint).is_file()
        done['tested'].append(cfg.experiment_name)
        top1 = 70.0 + (args.noise_seeds or 0) + cfg.optim_wrapper.optimizer.lr
        return [{'condition': 'clean', 'metrics': {'accuracy/top1': top1}}]

    monkeypatch.setattr(tool, 'train', train)
    monkeypatch.setattr(tool, 'test', test)

    def counts():
        """Of the trained and the tested since the last time."""
        found = len(done['trained']), len(done['tested'])
        done['trained'].clear()
        done['tested'].clear()
        return found

    return counts


@pytest.fixture
def config(tmp_path):
    """A config that a test may edit."""
    path = tmp_path / 'one.py'
    path.write_text(f'_base_ = [{CONFIG!r}]\n')
    return path


def runs(*argv):
    code, out, err = call('run_seeds', *argv)
    assert code == 0, err
    return out, err


@pytest.mark.parametrize('name', ['first.jsonl', 'first'])
def test_only_folders_of_the_plan_are_removed(work, config, tmp_path, name):
    mine = tmp_path / 'work_dirs' / 'first' / 'epoch_1.pth'
    if name != 'first':
        mine.parent.mkdir(parents=True)
        mine.write_text('of another training')
    out = tmp_path / 'work_dirs' / name
    start = (config, '--seeds', '0', '--out', out)
    runs(*start)
    assert out.is_file()
    assert not Path(f'{out}.runs').exists()
    assert name == 'first' or mine.is_file()
    runs(*start, '--lr', '0.5', '--keep')
    other = list(Path(f'{out}.runs').iterdir())
    runs(*start, '--lr', '0.25')
    assert list(Path(f'{out}.runs').iterdir()) == other


def test_configs_of_one_file_name_share_no_run(work, config, tmp_path):
    other = tmp_path / 'other' / 'one.py'
    other.parent.mkdir()
    other.write_text(f'{config.read_text()}optim_wrapper = dict(optimizer=dict(lr=0.5))\n')
    start = ('--seeds', '0', '--out', tmp_path / 'o.jsonl')
    out, _ = runs(config, other, *start, '--versus', config)
    assert work() == (2, 2)
    assert f'| {config} | - | 80.0 | 70.0 |' in out
    assert f'| {other} | - | 80.0 | 70.5 |' in out
    assert f'| {other} | +0.5 |' in out
    # equal configs are one run, and a row each
    other.write_text(config.read_text())
    out, _ = runs(config, other, *start)
    assert work() == (0, 0)
    assert f'| {other} | - | 80.0 | 70.0 |' in out


def test_only_the_same_config_and_tests_are_done(work, config, tmp_path):
    start = (config, '--seeds', '0', '1', '--out', tmp_path / 'o.jsonl')
    runs(*start, '--keep')
    assert work() == (2, 2)
    runs(*start, '--keep')
    assert work() == (0, 0)
    out, _ = runs(*start, '--noise-seeds', '3')
    assert work() == (0, 2)
    assert '| one | - | 80.0 ± 0.0 | 73.0 ± 0.0 |' in out
    # its checkpoints are gone by now; the first tests are still known
    out, _ = runs(*start)
    assert work() == (0, 0)
    assert '| one | - | 80.0 ± 0.0 | 70.0 ± 0.0 |' in out
    runs(*start, '--noise-seeds', '4')
    assert work() == (2, 2)
    runs(*start, '--cfg-options', 'train_cfg.max_epochs=1')
    assert work() == (2, 2)
    config.write_text(f'{config.read_text()}optim_wrapper = dict(optimizer=dict(lr=0.5))\n')
    out, _ = runs(*start)
    assert work() == (2, 2)
    assert '| one | - | 80.0 ± 0.0 | 70.5 ± 0.0 |' in out


def test_no_test_leaves_the_checkpoints_to_a_later_test(work, config, tmp_path):
    start = (config, '--seeds', '0', '--out', tmp_path / 'o.jsonl')
    runs(*start, '--no-test')
    assert work() == (1, 0)
    runs(*start)
    assert work() == (0, 1)
    assert not (tmp_path / 'o.jsonl.runs').exists()


def test_an_unfinished_line_spoils_no_other(work, config, tmp_path):
    out = tmp_path / 'o.jsonl'
    start = (config, '--seeds', '0', '--out', out)
    runs(*start)
    lines = out.read_text().splitlines()
    out.write_text('\n'.join([lines[0], lines[1][:20]]))
    work()
    _, err = runs(*start)
    assert 'left out an unfinished line' in err
    assert work() == (1, 1)  # the checkpoint went with the first call
    runs(*start)
    assert work() == (0, 0)


def test_a_single_seed_has_no_spread(work, config, tmp_path):
    table = tmp_path / 'new' / 'table.md'
    start = (config, CONFIG, '--out', tmp_path / 'o.jsonl')
    versus = ('--versus', os.path.relpath(config))
    out, _ = runs(*start, *versus, '--seeds', '0', '--table', table)
    assert '±' not in out
    assert '| one | - | 80.0 | 70.0 |' in out
    assert 'Paired differences to one ' in out
    assert '| synthetic_mlp_concat_concat | +0.0 |' in out
    assert table.read_text() == out[out.index('| config') :]
    out, _ = runs(*start, *versus, '--seeds', '0', '1')
    assert '| synthetic_mlp_concat_concat | +0.0 ± 0.0 |' in out


def test_versus_another_config_is_refused_before_anything_is_trained(work, config, tmp_path):
    out = tmp_path / 'new' / 'o.jsonl'
    code, _, err = call('run_seeds', config, '--out', out, '--versus', tmp_path / 'two.py')
    assert code == 1
    assert f'--versus {tmp_path}/two.py is none of the configs' in err
    assert work() == (0, 0)
    assert not out.parent.exists()


def test_options_are_those_of_the_other_tools():
    parse = load_tool('run_seeds').parser().parse_args
    text = 'a.b={"type": "Flip", "sizes": [1, 2]}'
    found = parse(['c.py', '--out', 'o', '--cfg-options', text, 'lr=0.5']).cfg_options
    assert found == {'a.b': {'type': 'Flip', 'sizes': [1, 2]}, 'lr': 0.5}
