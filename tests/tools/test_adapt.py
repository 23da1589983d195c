"""tools/test.py --adapt: a batch is predicted before it teaches, conditions start afresh."""

import json
import sys

import numpy as np
import pytest
from commands import ROOT, run
from methods_harness import method_config, train

from cal_mm.evaluation import load_predictions
from data_prep.synthetic import make_synthetic


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp('adapt')
    data = folder / 'synthetic'
    make_synthetic(data, num_train=128, num_val=48, num_test=96, signal=3.0)
    cfg = method_config(folder, 'attention', data, epochs=2)
    train(cfg)
    return folder, data


def test_adapt(trained, tmp_path):
    folder, data = trained
    command = [sys.executable, str(ROOT / 'tools/test.py'), str(folder / 'attention.py')]
    command += [str(folder / 'run/epoch_2.pth'), '--save-predictions']
    roots = [f'{s}_dataloader.dataset.data_root={data}' for s in ('train', 'val', 'test')]
    options = ['--cfg-options', *roots, 'test_dataloader.batch_size=32']
    noises = ['gaussian:5@a', 'gaussian:3@b']
    found = {}
    for name, extra in (
        ('plain', ['--attack', *noises]),
        ('read', ['--adapt', 'READ', '--attack', *noises]),
        ('turned', ['--adapt', 'READ', '--attack', *noises[::-1]]),
    ):
        out = tmp_path / f'{name}.json'
        run([*command, '--out', str(out), *extra, *options])
        rows = [r['condition'] for r in json.loads(out.read_text())['rows']]
        arrays = load_predictions(out.with_suffix('.predictions.npz'))
        found[name] = {
            c: dict(zip(a['sample_ids'].tolist(), a['scores'], strict=True))
            for c, a in zip(rows, arrays, strict=True)
        }
    plain, read, turned = (found[n] for n in ('plain', 'read', 'turned'))
    stored, order = list(plain['clean']), list(read['clean'])
    assert order != stored
    assert sorted(order) == sorted(stored)

    def gap(ids):
        return max(np.abs(read[condition][i] - plain[condition][i]).max() for i in ids)

    for condition in plain:
        assert list(read[condition]) == order
        # a batch is predicted before it teaches
        assert gap(order[:32]) < 1e-6
        assert gap(order[32:]) > 1e-5
        # the order of the conditions does not matter: each starts from the checkpoint
        assert all((read[condition][i] == turned[condition][i]).all() for i in order)
    assert json.loads((tmp_path / 'read.json').read_text())['inference'] == {
        'gate': 'NoGate',
        'adaptation': 'READ',
    }
    text = run([*command[:-1], '--adapt', 'Tend', *options], expect=2)
    assert "Did you mean 'Tent'" in text
