"""Tables as they are printed; features of frozen encoders served instead of encoded."""

import csv
import io
import time

import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate

from cal_mm.compat import setup
from cal_mm.corruptions import CLEAN, CorruptedDataset
from cal_mm.engine.hooks import FeatureCacheHook
from cal_mm.models.encoders.cache import DrawnFeatureDataset, FeatureStore
from cal_mm.registry import DATASETS, MODELS
from cal_mm.study.outcomes import Entry, Outcome, Panel, column_of
from cal_mm.study.records import Ledger
from cal_mm.study.spec import TestPlan
from cal_mm.study.tables import (
    Cell,
    Table,
    csv_text,
    panel_records,
    panel_table,
    versus_table,
    with_mean,
)
from cal_mm.study.testing import FeatureBank, conditions_of, study_conditions
from cal_mm.study.trial import run_trial

STATISTICS = dict(resamples=500, level=0.95)


def test_renderings():
    table = Table(
        ('a_b', 'x|y'), ((Cell('50 % ± 1', bold=True), Cell('3')), (Cell('z'), Cell('4', tie=True)))
    )
    assert table.markdown().splitlines() == [
        '| a_b | x\\|y |', '|---|---|', '| **50 % ± 1** | 3 |', '| z | 4 † |'
    ]  # fmt: skip
    latex = table.latex('100 % sure †', 'tab:x')
    assert r'\caption{100 \% sure $\dagger$}\label{tab:x}' in latex
    assert r'\textbf{50 \% $\pm$ 1} & 3 \\' in latex
    assert r'a\_b & x|y \\' in latex
    assert r'4$^\dagger$ \\' in latex


@pytest.mark.parametrize(
    ('row', 'column'),
    [
        (dict(attack=None, protocol=None, epsilon=None, condition='clean'), 'clean'),
        (dict(attack='noise', protocol='clipped', epsilon=None, condition='n:3'), 'n:3'),
        (dict(attack='missing', protocol='missing', epsilon=None, condition='drop a'), 'drop a'),
        (dict(attack='gaussian', protocol='pdf', epsilon=5.0, condition='g'), 'pdf 5'),
        (dict(attack='blur', protocol='qmf-2025', epsilon=None, condition='b'), 'qmf-2025 b'),
    ],
)  # fmt: skip
def test_column_of(row, column):
    assert column_of(row) == column


@pytest.fixture
def panel():
    rng = np.random.default_rng(0)
    entries = [Entry(m, 'config', m.upper(), m) for m in ('concat', 'good', 'twin')]
    outcomes, trials = {}, {}
    for entry, share in zip(entries, (0.5, 0.9, 0.9), strict=True):
        for column in ('clean', 'x', 'y'):
            right = (rng.random((4, 300)) < share).astype(float)
            accuracy = (100 * right.mean(axis=1)).tolist()
            outcomes[entry.key, column] = Outcome([0, 1, 2, 3], accuracy, [1.0] * 4, right)
        cost = 2.0 if entry.row == 'good' else 1.0
        trials[entry.key] = [
            dict(val=dict(accuracy=50.0), device='cpu', parameters=100 * cost, code_sha256='a',
                 step_cpu_seconds=cost, step_seconds=7.0,
                 train_cpu_seconds=1.5 * cost**2, train_seconds=9.0 / cost)
            for _ in range(4)
        ]  # fmt: skip
    return with_mean(Panel('d', 't', entries, ['clean', 'x', 'y'], outcomes, trials, 0))


def test_panel_table(panel):
    choices = {'good': [{'lr': 0.1, 'on_edge': True}], 'twin': [{'lr': 0.1}, {'lr': 0.01}]}
    table = panel_table(panel, choices, STATISTICS)
    assert table.header[3:7] == ('clean', 'x', 'y', 'mean noised')
    by_name = {r[0].text: dict(zip(table.header, r, strict=True)) for r in table.rows}
    good = panel.outcomes['good', 'clean']
    expected = f'{np.mean(good.accuracy):.1f} ± {np.std(good.accuracy, ddof=1):.1f}'
    assert by_name['GOOD']['clean'].text == expected
    assert by_name['GOOD']['lr'].text == '0.1 (edge)'
    assert by_name['TWIN']['lr'].text == '0.01 to 0.1'
    assert by_name['CONCAT']['lr'].text == '-'
    assert by_name['GOOD']['worst seed'].text == f'{min(good.accuracy):.1f}'
    costs = [by_name['GOOD'][name].text for name in ('step x', 'train x', 'params x')]
    assert costs == ['2.00', '4.00', '2.00']
    # GOOD and TWIN are alike, so none is bold; CONCAT is proven to be worse
    assert not any(c.bold for r in table.rows for c in r)
    assert [by_name[n]['clean'].tie for n in ('CONCAT', 'GOOD', 'TWIN')] == [False, True, True]
    mean = panel.outcomes['good', 'mean noised']
    both = [panel.outcomes['good', c].accuracy for c in ('x', 'y')]
    assert mean.accuracy == pytest.approx(np.mean(both, axis=0))


def test_the_mean_is_of_one_protocol():
    columns = ['clean', 'clipped 5', 'clipped 10', 'qmf-legacy 5', 'drop a']
    outcomes = {
        ('m', c): Outcome([0], [value], [1.0], np.zeros((1, 3)))
        for c, value in zip(columns, (90.0, 70.0, 60.0, 20.0, 50.0), strict=True)
    }
    panel = Panel('d', 't', [Entry('m', 'config', 'M', 'm')], columns, outcomes, {'m': []}, 0)
    means = [
        with_mean(panel, p).outcomes['m', 'mean noised'].mean
        for p in (['clipped', 'qmf-legacy'], ['clipped'], ['qmf-legacy', 'clipped'])
    ]
    assert means == [60, 50, 35]


def test_a_training_without_its_processor_time_has_no_cost(panel):
    """The clock of trials that ran beside others is not put in its place."""
    for trial in panel.trials['twin']:
        del trial['train_cpu_seconds']
    table = panel_table(panel, {}, STATISTICS)
    at = table.header.index('train x')
    assert [r[at].text for r in table.rows] == ['1.00', '4.00', '-']


def test_times_compare_within_one_code(panel):
    for i, trial in enumerate(panel.trials['good']):
        trial['code_sha256'] = 'b' if i else 'a'
        trial['step_cpu_seconds'] = 50.0 if i else 3.0
    for trial in panel.trials['twin']:
        trial['code_sha256'] = 'c'
    table = panel_table(panel, {}, STATISTICS)
    costs = [[r[table.header.index(c)].text for r in table.rows] for c in ('step x', 'params x')]
    assert costs == [['1.00', '3.00', '-'], ['1.00', '2.00', '1.00']]


def test_groups_count_in_both_tables(panel):
    """The lead is one of two speakers: nothing is proven."""
    panel.entries.pop()
    speakers = np.arange(300) % 2
    right = np.tile(speakers, (4, 1)).astype(float)
    right[1, 1:4], right[2, 1:8] = 0, 0
    panel.outcomes['good', 'clean'].right = right
    panel.outcomes['concat', 'clean'].right = np.zeros_like(right)
    assert panel_table(panel, {}, STATISTICS).rows[1][3].bold
    panel.groups = speakers
    assert not panel_table(panel, {}, STATISTICS).rows[1][3].bold
    assert not versus_table(panel, 'good', STATISTICS)[0].rows[0][1].bold


def test_the_best_is_bold_where_it_is_proven(panel):
    panel.entries.pop()
    rows = panel_table(panel, {}, STATISTICS).rows
    assert [r[3].bold for r in rows] == [False, True]
    assert not any(c.tie for r in rows for c in r)


def test_versus_and_csv(panel):
    table, versus = versus_table(panel, 'good', STATISTICS)
    assert [r[0].text for r in table.rows] == ['CONCAT', 'TWIN']
    assert table.rows[0][1].bold
    assert not table.rows[1][1].bold
    rows = list(csv.DictReader(io.StringIO(csv_text(panel_records(panel, versus, 'good')))))
    assert len(rows) == 3 * 4
    one = next(r for r in rows if (r['method'], r['column']) == ('concat', 'clean'))
    assert float(one['reference_minus']) == pytest.approx(
        versus['concat', 'clean'].difference, abs=1e-3
    )
    assert float(one['p_holm']) < 0.05
    assert versus_table(panel, 'nothing', STATISTICS) is None


# ---- conditions and frozen encoders --------------------------------------------------------------


@pytest.fixture
def frozen(raw):
    for m in 'abc':
        raw['datasets']['synthetic'].setdefault('options', {})[f'model.encoders.{m}.frozen'] = True
    return raw


def test_conditions_of_a_part_of_the_modalities(data):
    setup()
    dataset = DATASETS.build(
        dict(type='MultiModalDataset', data_root=str(data), split='test', test_mode=True)
    )
    tests = TestPlan(attacks=('noise:3@a', 'noise:3@b'), drop=('a', 'b'))
    planned = study_conditions(dataset, ['a', 'b', 'c'], tests)
    hows = [how for _, how in conditions_of(planned, ('a',))]
    assert hows == ['test', 'clean', 'nothing', 'clean']
    assert [how for _, how in conditions_of(planned, ('a', 'c'))] == [
        'test',
        'clean',
        'test',
        'clean',
    ]


def test_served_features_are_the_encoders(frozen, plan_of, tmp_path):
    plan = plan_of(frozen)
    cfg = plan.config(plan.tuning(plan.cells[0])[0])
    model = MODELS.build(cfg.model).eval()
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    tests = plan.study.datasets['synthetic'].tests
    planned = study_conditions(dataset, 'abc', tests)
    switch = CorruptedDataset(dataset, planned)
    bank = FeatureBank(tmp_path, model, dataset, cfg.pipeline)
    for condition in (CLEAN, *planned):
        switch.select(None if condition is CLEAN else condition)
        stores = bank.stores(switch, condition)
        batch = pseudo_collate([switch[i] for i in range(20)])
        with torch.no_grad():
            state = model.state(**model.data_preprocessor(batch))
        for m in 'abc':
            if condition.attack == 'missing' and m == 'a':
                assert len(stores[m]) == 0
                assert len(stores[m].missing) == len(dataset)
            else:
                got = stores[m].get([s.sample_id for s in batch['data_samples']])
                torch.testing.assert_close(got, state.features[m])
    # b and c are alike in all conditions
    assert len(list(tmp_path.glob('a-*'))) == 3
    assert len(list(tmp_path.glob('b-*'))) == 1


def test_a_trial_with_frozen_encoders_is_that_without_a_cache(
    frozen, plan_of, tmp_path, monkeypatch
):
    plan = plan_of(frozen)
    trial = plan.tests(plan.cells[0], (0.05, 0))[0]

    def run(name):
        ledger = Ledger(tmp_path / name)
        row = run_trial(plan, trial, ledger, features=tmp_path / name / 'f', provenance={})
        return [t['metrics']['nll'] for t in row['test']], row['val']

    served = run('served')
    assert list((tmp_path / 'served/f').glob('*.safetensors'))
    monkeypatch.setattr(FeatureBank, 'serves', lambda *args: False)
    plain = run('plain')
    assert served[0] == pytest.approx(plain[0], rel=1e-4)
    assert served[1]['accuracy'] == plain[1]['accuracy']


def test_draws_of_noise_are_cached_and_come_round(frozen, plan_of, tmp_path):
    noise = dict(
        type='CorruptSample',
        probability=0.5,
        corruptions=[dict(type='FeatureGaussianNoise', modality='a')],
    )
    drop = dict(type='RandomModalityDrop', probabilities=dict(b=0.3))
    frozen['datasets']['synthetic']['transforms'] = {'noise': [noise, drop]}
    frozen['datasets']['synthetic']['options']['default_hooks.feature_cache.draws'] = 2
    frozen['training']['noise'] = dict(transforms='noise')
    plan = plan_of(frozen)
    cell = next(c for c in plan.cells if c.training == 'noise')
    for seed in (0, 1):
        trial = plan.trial(cell, 'select', 0.05, 0, seed)
        assert plan.config(trial).train_dataloader.dataset.seed == 0
    files = []
    for lr in (0.05, 0.1):
        trial = plan.trial(cell, 'select', lr, 0, 0)
        row = run_trial(plan, trial, Ledger(tmp_path / 'w'), features=tmp_path / 'f', provenance={})
        assert len(row['val_history']) == 2
        files.append({p: p.stat().st_mtime_ns for p in (tmp_path / 'f').glob('*.safetensors')})
    # two draws and the validation split of three modalities, encoded by the first trial
    assert len(files[0]) == 9
    assert files[0] == files[1]


def test_drawn_features_follow_the_epoch():
    class Inner:
        epoch = None

        def set_epoch(self, epoch):
            self.epoch = epoch

        def get_data_info(self, index):
            return {'sample_id': 's', 'label': 0}

    draws = [
        {'a': FeatureStore('a', str(k), ['s'], torch.full((1, 2), float(k)))} for k in range(2)
    ]
    dataset = DrawnFeatureDataset(Inner(), draws, ['a'])
    seen = []
    for epoch in range(4):
        dataset.set_epoch(epoch)
        assert dataset.dataset.epoch == epoch % 2
        seen.append(float(dataset[0]['features']['a'][0]))
    assert seen == [0, 1, 0, 1]
    with pytest.raises(ValueError, match='needs draws'):
        DrawnFeatureDataset(Inner(), [{}], ['a'])


def test_parts_of_a_split_are_served_from_the_whole(frozen, plan_of, tmp_path):
    plan = plan_of(frozen)
    cells = {c.training: c for c in plan.cells if c.row == 'concat'}
    files = []
    for training in ('clean', 'n60', 'labels20'):
        trial = plan.trial(cells[training], 'select', 0.05, 0, 0)
        run_trial(plan, trial, Ledger(tmp_path / 'w'), features=tmp_path / 'f', provenance={})
        files.append(sorted(p.name for p in (tmp_path / 'f').glob('*.safetensors')))
    assert len(files[0]) == 6
    assert files[0] == files[1] == files[2]


def test_the_time_of_a_training_is_without_the_encoding(frozen, plan_of, tmp_path, monkeypatch):
    inner = FeatureCacheHook.before_train

    def slow(self, runner):
        time.sleep(3)
        inner(self, runner)

    monkeypatch.setattr(FeatureCacheHook, 'before_train', slow)
    plan = plan_of(frozen)
    trial = plan.tuning(plan.cells[0])[0]
    row = run_trial(plan, trial, Ledger(tmp_path / 'w'), features=tmp_path, provenance={})
    assert row['wall_seconds'] - row['train_seconds'] > 2.9


@pytest.mark.parametrize('part', ['all', 'one'])
def test_a_second_trial_encodes_nothing(raw, plan_of, tmp_path, memos, part):
    dataset = raw['datasets']['synthetic']
    frozen_ones = 'abc' if part == 'all' else 'a'
    dataset['options'] = {f'model.encoders.{m}.frozen': True for m in frozen_ones}
    dataset['tests'] = dict(attacks=['noise:3@a', 'swap@a', 'fgsm:2@b'], drop=['c'], seeds=1)
    plan = plan_of(raw)
    trial = plan.tests(plan.cells[0], (0.05, 0))[0]
    # without the features of training, whose epochs are not the test's
    rows = []
    for name in ('first', 'second'):
        ledger = Ledger(tmp_path / name)
        rows.append(run_trial(plan, trial, ledger, features=tmp_path / 'f', provenance={}))
        rows[-1]['encoded'] = sum(
            n for m in memos for x, n in m.encoded.items() if x in frozen_ones
        )
        memos.clear()
    assert rows[0]['encoded'] > 0
    assert rows[1]['encoded'] == 0
    assert rows[0]['test'] == rows[1]['test']


def test_another_front_end_or_package_is_not_served(frozen, plan_of, tmp_path, monkeypatch):
    plan = plan_of(frozen)
    cfg = plan.config(plan.tuning(plan.cells[0])[0])
    model = MODELS.build(cfg.model).eval()
    dataset = DATASETS.build(cfg.test_dataloader.dataset)

    def key():
        return FeatureBank(tmp_path, model, dataset, cfg.pipeline)._key('a', CLEAN)

    def cached():
        return FeatureCacheHook._key(model, 'a', dataset, cfg.test_dataloader.dataset)

    before = key(), cached()
    assert before == (key(), cached())
    model.data_preprocessor.frontends['a'].std_floor = 0.5
    changed = key(), cached()
    monkeypatch.setattr(torch, '__version__', '0.0')
    newer = key(), cached()
    assert len({before, changed, newer}) == len({b for b, _ in (before, changed, newer)}) == 3
    assert len({c for _, c in (before, changed, newer)}) == 3


def test_what_cannot_be_told_is_not_kept(frozen, plan_of, tmp_path, caplog):
    plan = plan_of(frozen)
    cfg = plan.config(plan.tuning(plan.cells[0])[0])
    model = MODELS.build(cfg.model).eval()
    model.data_preprocessor.frontends['a'].shape = lambda x: x
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    bank = FeatureBank(tmp_path, model, dataset, cfg.pipeline)
    assert not bank.serves(CLEAN)
    assert 'lambda' in caplog.text
