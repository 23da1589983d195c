import json
import os

import numpy as np
import pytest

from cal_mm.evaluation import (
    ResultsError,
    load_predictions,
    load_results,
    results_table,
    save_predictions,
    save_results,
)
from cal_mm.evaluation.report import config_digest
from cal_mm.evaluation.results import sha256_of


def make_row(condition='clean', attack=None, seed=None, accuracy=90.0, **more):
    row = dict(
        condition=condition, protocol=None, protocol_version=None, attack=attack, severity=None,
        epsilon=None, modalities=[], seed=seed, corruptions=[], num_samples=5,
        metrics={'accuracy/top1': accuracy, 'f1/macro': accuracy - 1, 'nll': 0.5},
        contribution={'a': 0.25, 'b': 0.75}, timing={'noise_seconds': 0.0, 'model_seconds': 1.0},
    )  # fmt: skip
    return {**row, **more}


def make_results(rows=None):
    return dict(
        config={'path': 'c.py', 'sha256': '0'}, checkpoint={'path': 'p.pth', 'sha256': '1'},
        dataset={'name': 'd'}, split='test', num_samples=5, units={}, software={},
        rows=rows or [make_row()],
    )  # fmt: skip


def test_round_trip(tmp_path):
    path = save_results(tmp_path / 'deep' / 'r.json', make_results())
    found = load_results(path)
    assert found['format'] == 'cal_mm.results'
    assert found['schema_version'] == 2
    assert {k: found[k] for k in make_results()} == make_results()
    assert os.listdir(path.parent) == ['r.json']


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = save_results(tmp_path / 'r.json', make_results())
    before = path.read_bytes()
    for metrics in ({'accuracy/top1': float('nan')}, {'accuracy/top1': float('inf')}):
        with pytest.raises(ResultsError, match='not finite'):
            save_results(path, make_results([make_row(metrics=metrics)]))

    def broken(*args):
        raise OSError('disk full')

    monkeypatch.setattr(os, 'replace', broken)
    with pytest.raises(OSError, match='disk full'):
        save_results(path, make_results([make_row(accuracy=1.0)]))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ['r.json']


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda r: r.pop('format'), 'is not a results file'),
        (lambda r: r.update(schema_version=99), 'has schema_version 99'),
        (lambda r: r.pop('checkpoint'), 'the key "checkpoint" .* is missing'),
        (lambda r: r.update(num_samples='5'), '"num_samples" is \'5\', expected int'),
        (lambda r: r.update(num_samples=True), '"num_samples" is True'),
        (lambda r: r['rows'].append(3), r'rows\[1\] is int'),
        (lambda r: r['rows'][0].pop('metrics'), r'rows\[0\]: the key "metrics"'),
        (lambda r: r['rows'][0].update(severity='3'), r'rows\[0\]: "severity" is'),
    ],
)
def test_damaged_files_are_told(tmp_path, change, message):
    path = save_results(tmp_path / 'r.json', make_results())
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))
    with pytest.raises(ResultsError, match=message):
        load_results(path)


def test_other_files(tmp_path):
    with pytest.raises(FileNotFoundError, match='there is no results file'):
        load_results(tmp_path / 'none.json')
    for content in ('', '{"a": ', '[]', 'null'):
        (tmp_path / 'r.json').write_text(content)
        with pytest.raises(ResultsError, match=r'r\.json'):
            load_results(tmp_path / 'r.json')


def test_predictions(tmp_path):
    rows = [
        {'sample_ids': np.array(['x', 'y']), 'scores': np.eye(2), 'contribution': None},
        {'sample_ids': np.array(['x', 'y']), 'scores': np.ones((2, 2)), 'contribution': np.eye(2)},
    ]
    found = load_predictions(save_predictions(tmp_path / 'p.npz', rows))
    assert found[0].keys() == {'sample_ids', 'scores'}
    assert found[0]['sample_ids'].tolist() == ['x', 'y']
    np.testing.assert_array_equal(found[1]['contribution'], np.eye(2))


def test_table():
    rows = [
        make_row(),
        make_row('g:3@a', 'g', 0, 80.0),
        make_row('g:3@a', 'g', 1, 84.0),
        make_row('drop b', 'missing', 0, 50.0, contribution={}),
        make_row('odd', 'odd', 0, metrics={}),
    ]
    table = results_table({'rows': rows}).splitlines()
    assert table[0].split() == [
        'condition', 'acc', '%', 'worst', 'seeds', 'vs', 'clean', 'macro', 'F1', 'NLL', 'W', 'a',
        'W', 'b',
    ]  # fmt: skip
    assert set(table[1]) == {'-', ' '}
    assert table[3].split() == (
        ['g:3@a', '82.00', '+-', '2.83', '80.00', '2', '-8.00', '81.0', '0.500', '0.250', '0.750']
    )
    assert table[4].split()[:3] == ['drop', 'b', '50.00']
    assert table[5].split()[:2] == ['odd', '-']
    assert len(table) == 6
    assert 'worst' not in results_table({'rows': rows[:1]})
    seeds = results_table({'rows': rows}, per_seed=True).splitlines()
    assert [line.split()[:3] for line in seeds[3:6]] == [
        ['g:3@a', '82.00', '+-'],
        ['seed', '0', '80.00'],
        ['seed', '1', '84.00'],
    ]
    assert len(seeds) == 8


def test_digests(tmp_path):
    (tmp_path / 'f').write_bytes(b'abc')
    assert sha256_of(tmp_path / 'f').startswith('ba7816bf8f01cfea')
    assert config_digest({'a': 1, 'b': [2]}) == config_digest({'b': [2], 'a': 1})
    assert config_digest({'a': 1}) != config_digest({'a': 2})
