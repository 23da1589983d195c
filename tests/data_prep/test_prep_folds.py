"""python -m data_prep.folds: parts of whole groups, every fold with all three splits."""

from collections import Counter

import numpy as np
import pytest

from cal_mm.datasets import MultiModalDataset
from data_prep.common import DatasetSpec, write_dataset
from data_prep.folds import deal, main


def test_deal_keeps_groups_and_classes():
    rng = np.random.default_rng(0)
    groups = [f'g{i}' for i in rng.integers(0, 60, 600)]
    labels = [int(g[1:]) % 3 for g in groups]
    parts = deal(labels, groups, 5, seed=1)
    where = {}
    for group, part in zip(groups, parts, strict=True):
        assert where.setdefault(group, part) == part
    for part in range(5):
        counts = Counter(label for label, p in zip(labels, parts, strict=True) if p == part)
        for label in range(3):
            assert counts[label] == pytest.approx(labels.count(label) / 5, rel=0.15)
    assert parts == deal(labels, groups, 5, seed=1) != deal(labels, groups, 5, seed=2)


def test_a_rare_class_stays_in_training():
    labels = [0] * 30 + [1] * 4
    groups = [f'a{i}' for i in range(30)] + ['b', 'b', 'c', 'c']
    parts = deal(labels, groups, 3)
    assert parts[30:] == [-1] * 4
    assert Counter(parts[:30]) == {0: 10, 1: 10, 2: 10}


@pytest.mark.parametrize(
    ('folds', 'groups', 'message'), [(2, 'abcd', 'at least 3'), (5, 'abbb', '2 groups')]
)
def test_what_cannot_be_dealt(folds, groups, message):
    with pytest.raises(ValueError, match=message):
        deal([0] * 4, list(groups), folds)


@pytest.fixture
def prepared(tmp_path):
    rng = np.random.default_rng(0)
    values = rng.normal(2, 3, (60, 4)).astype(np.float32)
    spec = DatasetSpec(
        'mine', '1', 'whole', ('x', 'y'),
        {
            'f': {'kind': 'features', 'shape': [4], 'mean': [0.0] * 4, 'std': [1.0] * 4},
            't': {'kind': 'text'},
        },
    )  # fmt: skip
    rows = [
        dict(sample_id=f's{i}', label=i % 2, group=f'g{i // 4}', f=values[i], t=f'text {i}')
        for i in range(60)
    ]
    write_dataset(tmp_path / 'data', spec, {'train': rows[:40], 'val': rows[40:]}, progress=False)
    return tmp_path


def test_every_sample_is_tested_once(prepared, capsys):
    arguments = ['--data', str(prepared / 'data'), '--out', str(prepared / 'folds'), '--folds', '3']
    assert main(arguments) == 0
    tested = []
    for fold in range(3):
        parts = {
            s: MultiModalDataset(str(prepared / f'folds/{fold}'), s, [])
            for s in ('train', 'val', 'test')
        }
        groups = [set(p.groups) for p in parts.values()]
        assert len(set.union(*groups)) == sum(map(len, groups))
        assert sum(map(len, parts.values())) == 60
        tested += parts['test'].sample_ids
        train = np.stack([parts['train'].raw(i)['f'] for i in range(len(parts['train']))])
        facts = parts['train'].metainfo['modalities']['f']
        np.testing.assert_allclose(facts['mean'], train.mean(axis=0), rtol=1e-5)
        np.testing.assert_allclose(facts['std'], train.std(axis=0), rtol=1e-5)
        row = parts['test'].raw(0)
        assert row['t'] == f'text {row["sample_id"][1:]}'
    assert sorted(tested) == sorted(f's{i}' for i in range(60))
    capsys.readouterr()
    assert main(arguments) == 0
    assert 'up to date' in capsys.readouterr().out
    assert main([*arguments, '--splits', 'train', 'test']) == 1
    assert 'has no split' in capsys.readouterr().err
