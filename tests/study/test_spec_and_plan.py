"""What a study file may say, the configs it gives, the digests and the budget."""

import pytest
from cli_runner import ROOT

from cal_mm.config import ConfigError, load_config
from cal_mm.study import StudyError, load_study
from cal_mm.study.build import typed_path


def changed(raw, path, value):
    *places, last = path.split('/')
    node = raw
    for place in places:
        node = node[place]
    node[last] = value
    return raw


@pytest.mark.parametrize(
    ('path', 'value', 'message'),
    [
        ('methods/cal/mehtod', 'x', r'methods\.cal\.mehtod.*Did you mean .method'),
        ('methods/cal/method', 'call', r'methods\.cal: there is no method .call.*mean .cal.'),
        ('methods/concat/settings', [{}], r'methods: unequal tuning budgets.*concat: 1, cal: 2'),
        ('methods/cal/grid', {'model.losses.AIB.beta': [1, 2]}, r'cal\.settings\[0\].*AIBLoss'),
        ('methods/cal/options', {'model.fusoin.type': 'x'}, r'methods\.cal\.options.*fusion'),
        ('methods/cal/only', ['synthetik'], r'methods\.cal\.only.*Did you mean .synthetic'),
        ('methods/cal/datasets', {'other': {}}, r'methods\.cal\.datasets\.other'),
        ('datasets/synthetic/base', ['models/nothing.py'], r'datasets\.synthetic\.base.*nothing'),
        ('datasets/synthetic/epochs', 0, r'datasets\.synthetic\.epochs.*at least 1, got 0'),
        ('datasets/synthetic/modalities', ['a', 'z'], r'datasets\.synthetic\.modalities.*.z.'),
        ('datasets/synthetic/folds', 5, r'datasets\.synthetic\.folds.*fold'),
        ('datasets/synthetic/tests', {'atacks': []}, r'tests\.atacks.*Did you mean .attacks'),
        ('datasets/synthetic/tests', {'attacks': ['noise:5@z']}, r'synthetic\.tests: .*noise:5@z'),
        ('datasets/synthetic/tests', {'drop': ['z']}, r'synthetic\.tests: .*z'),
        ('datasets/synthetic/tests', {'protocols': ['cliped']}, r'synthetic\.tests: .*clipped'),
        ('training/clean', {'label_noise': 2}, r'training\.clean\.label_noise.*\[0, 1\]'),
        ('training/n60/select', 'labels10', r'training\.n60\.select.*labels20'),
        ('training/n60/select', 'n60', r'does not select by itself'),
        ('training/n60/num_samples', 1000, r'training\.n60\.num_samples: 1000.*64 training'),
        ('training/clean', {'transforms': 'noise'}, r'no dataset has transforms\.noise'),
        ('lrs', [0], r'lrs: expected a list of learning rates'),
        ('finalists', 1, r'finalists: expected an integer of at least 2'),
        ('seeds', [1, 1], r'seeds: a seed stands there twice'),
        ('reference', 'call', r'reference.*Did you mean .cal.'),
    ],
)  # fmt: skip
def test_errors_name_the_key(raw, plan_of, path, value, message):
    with pytest.raises(StudyError, match=message):
        plan_of(changed(raw, path, value))


def test_data_that_is_not_prepared_names_the_command(raw, plan_of, tmp_path):
    raw['datasets']['synthetic']['data_root'] = str(tmp_path / 'nothing')
    with pytest.raises(StudyError, match=r'data_root.*python -m data_prep\.synthetic'):
        plan_of(raw)


def test_an_unknown_key_of_the_file(tmp_path):
    path = tmp_path / 'mine.py'
    path.write_text('sedes = [1]\n')
    with pytest.raises(StudyError, match=r'sedes.*Did you mean .seeds'):
        load_study(str(path))


@pytest.mark.parametrize('method', ['concat', 'cal', 'cal_paper'])
def test_the_config_is_that_of_a_config_file(raw, plan_of, method):
    """The same parts, merged by the study and by mmengine's inheritance."""
    raw['methods'] = {method: {}}
    raw['reference'] = None
    raw['datasets']['synthetic']['epochs'] = 3
    plan = plan_of(raw)
    spec = plan.study.datasets['synthetic']
    mine = plan.builder.row(spec, plan.row(plan.cells[0]))
    theirs = load_config(str(ROOT / f'configs/{method}/synthetic_mlp_concat_{method}.py'))
    del theirs.default_hooks['resumed_validation']  # no trial is resumed
    for key in ('model', 'optim_wrapper', 'param_scheduler', 'default_hooks'):
        assert mine[key] == theirs[key], key


def test_conditions_reach_the_config(raw, plan_of):
    added = [dict(type='FeatureDrop')]
    raw['datasets']['synthetic'].update(modalities=['a', 'b'], epochs=6, transforms={'drop': added})
    raw['training']['drop'] = dict(transforms='drop')
    raw['methods']['single'] = dict(method='concat', each_modality=True, settings=[{}, {'seed': 1}])
    del raw['methods']['single']['settings'][1]['seed']
    raw['methods']['single']['settings'][1]['optim_wrapper.optimizer.momentum'] = 0.5
    plan = plan_of(raw)
    rows = [c.row for c in plan.cells if c.training == 'labels20']
    assert rows == ['concat', 'cal', 'single:a', 'single:b']

    def config(row, training, **kwargs):
        cell = next(c for c in plan.cells if (c.row, c.training) == (row, training))
        trial = dict(lr=0.3, setting=1, seed=7, phase='select')
        return plan.config(plan.trial(cell, **{**trial, **kwargs}))

    cfg = config('cal', 'labels20')
    train = cfg.train_dataloader.dataset
    assert (train.label_noise, train.seed, train.get('num_samples')) == (0.2, 7, None)
    assert cfg.val_dataloader.dataset.get('label_noise') is None
    assert (cfg.randomness.seed, cfg.model.seed, cfg.optim_wrapper.optimizer.lr) == (7, 7, 0.3)
    assert cfg.model.losses[2].beta == 5e-2
    assert cfg.train_cfg.max_epochs == 6
    assert cfg.param_scheduler[0].milestones == [4]  # 2 of 3 epochs
    single = config('single:b', 'clean')
    assert list(single.model.encoders) == ['b'] == single.test_dataloader.dataset.modalities
    assert single.optim_wrapper.optimizer.momentum == 0.5
    kinds = [t['type'] for t in config('concat', 'drop').train_dataloader.dataset.pipeline]
    assert kinds[-2:] == ['FeatureDrop', 'PackInputs']
    assert config('concat', 'n60').train_dataloader.dataset.num_samples == 60


def test_methods_that_cannot_be_are_left_out(raw, plan_of):
    raw['methods']['arl'] = dict(settings=[{}, {'optim_wrapper.optimizer.momentum': 0.5}])
    plan = plan_of(raw)
    assert plan.left_out == [('synthetic', 'arl', 'is for M = 2, not 3')]
    assert {c.row for c in plan.cells} == {'concat', 'cal'}


def test_digests_know_what_a_result_depends_on(raw, plan_of, tmp_path):
    def digests(raw):
        plan = plan_of(raw)
        cell = plan.cells[0]
        return [t.digest for t in plan.tuning(cell)] + [
            t.digest for t in plan.tests(cell, (0.05, 0))
        ]

    before = digests(raw)
    assert len(set(before)) == len(before) == 6
    # seeds, titles and other methods do not matter
    raw['seeds'], raw['title'] = [0, 1, 5], 'another'
    raw['methods']['concat']['title'] = 'another'
    assert digests(raw)[:6] == before
    raw['datasets']['synthetic']['tests']['drop'] = ['b']
    after = digests(raw)
    assert after[:4] == before[:4]
    assert not set(after[4:]) & set(before)
    raw['datasets']['synthetic']['options'] = {'model.fusion.dropout': 0.1}
    assert not set(digests(raw)) & {*before, *after}


def test_one_modality_alone_is_tested_under_the_noise_of_its_dataset(raw, plan_of):
    """Its config has no other modality, but the conditions hit those of the dataset."""
    raw['methods'] = {'single': dict(method='concat', each_modality=True)}
    raw['reference'] = None
    raw['training'] = {'clean': {}}

    def digests(modalities):
        raw['datasets']['synthetic']['modalities'] = modalities
        plan = plan_of(raw)
        cell = next(c for c in plan.cells if c.row == 'single:a')
        return plan.tuning(cell)[0].digest, plan.tests(cell, (0.05, 0))[0].digest

    (tuned, tested), (tuned_too, other) = digests(['a', 'b']), digests(['a', 'b', 'c'])
    assert tuned == tuned_too
    assert tested != other


def test_options_replace_a_name_by_a_component(raw, plan_of):
    source = dict(type='RidgeSource', folds=3)
    raw['methods']['cal']['options'] = {'model.contribution.source': source}
    plan = plan_of(raw)
    cell = next(c for c in plan.cells if c.row == 'cal')
    spec = plan.study.datasets['synthetic']
    cfg = plan.builder.row(spec, plan.row(cell))
    assert cfg.model.contribution.source == source


def test_other_data_give_other_digests(raw, plan_of, tmp_path):
    from data_prep.synthetic import make_synthetic

    before = plan_of(raw).tuning(plan_of(raw).cells[0])[0].digest
    make_synthetic(tmp_path / 'other', num_train=64, num_val=40, num_test=60, seed=1)
    raw['datasets']['synthetic']['data_root'] = str(tmp_path / 'other')
    plan = plan_of(raw)
    assert plan.tuning(plan.cells[0])[0].digest != before


def test_equal_budget_is_printed(raw, plan_of):
    text = ' '.join(plan_of(raw).budget())
    assert '2 learning rates (0.05, 0.1) x 2 own settings = 4 candidates' in text
    plan = plan_of(raw)
    assert {len(plan.tuning(c)) for c in plan.selections()} == {4}
    # n60 takes the choice of clean
    assert {c.training for c in plan.selections()} == {'clean', 'labels20'}


@pytest.mark.parametrize(
    ('only', 'cells'),
    [
        (['synthetic'], 6),
        (['*/cal'], 3),
        (['synthetic/concat@clean', '*/cal@n60'], 2),
        (['*@labels20'], 2),
    ],
)
def test_only(raw, plan_of, only, cells):
    assert len(plan_of(raw, only).cells) == cells


def test_only_that_matches_nothing(raw, plan_of):
    with pytest.raises(StudyError, match=r'--only synthetic/call: nothing.*methods: concat, cal'):
        plan_of(raw, ['synthetic', 'synthetic/call'])


def test_folds(raw, plan_of, data, tmp_path):
    for fold in range(2):
        (tmp_path / str(fold)).symlink_to(data)
    raw['datasets']['synthetic'].update(data_root=str(tmp_path) + '/{fold}', folds=2)
    raw['seeds'] = [0, 1, 2]
    plan = plan_of(raw)
    assert len(plan.cells) == 2 * 6
    second = next(c for c in plan.cells if c.fold == 1)
    assert plan.seeds(second) == [1]
    assert [t.seed for t in plan.tuning(second)] == [0] * 4
    assert plan.config(plan.tuning(second)[0]).test_dataloader.dataset.data_root.endswith('/1')


def test_typed_path():
    cfg = {'model': {'losses': [{'type': 'A', 'w': 1}, {'type': 'B', 'w': 2}, {'type': 'B'}]}}
    assert typed_path(cfg, 'model.losses.A.w') == 'model.losses.0.w'
    assert typed_path(cfg, 'model.losses.1.w') == 'model.losses.1.w'
    with pytest.raises(ConfigError, match=r'2 entries of the type .B.'):
        typed_path(cfg, 'model.losses.B.w')
