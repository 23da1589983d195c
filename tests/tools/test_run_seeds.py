"""tools/run_seeds.py: which attacks a config of some modalities is tested under."""

import json

import pytest
from cli_runner import ROOT, call, load_tool

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
    code, _, err = call(
        'run_seeds', pair, '--seeds', '0', '--out', out,
        '--attack', 'noise:3@a+b', 'noise:4@c', '--cfg-options', *options,
    )  # fmt: skip
    assert code == 0, err
    row = json.loads(out.read_text().splitlines()[-1])
    assert [r['condition'] for r in row['rows']] == ['clean', 'noise:3@a+b']
    assert f'{pair}: noise:4@c left out' in err


def test_a_misspelt_modality_shows_before_anything_is_trained(pair, options, tmp_path):
    out = tmp_path / 'new' / 'runs.jsonl'
    code, _, err = call(
        'run_seeds', pair, '--seeds', '0', '--out', out,
        '--attack', 'noise:3@a+z', '--cfg-options', *options,
    )  # fmt: skip
    assert code == 1
    assert "attack 'noise:3@a+z': there is no modality 'z'" in err
    assert not out.parent.exists()
