"""The studies in configs/studies can be planned as they stand, where their data are prepared."""

import shlex

import pytest
from cli_runner import ROOT

from cal_mm.compat import setup
from cal_mm.study import ConfigBuilder, StudyError, load_study, make_plan
from data_prep import folds, synthetic

FILES = sorted((ROOT / 'configs/studies').glob('*.py'))


@pytest.mark.parametrize('path', FILES, ids=[p.stem for p in FILES])
def test_every_method_goes_with_every_dataset(path, tmp_path, monkeypatch):
    """All configs are merged and checked; only the data may be missing."""
    monkeypatch.chdir(ROOT)
    setup()
    study = load_study(str(path))
    builder = ConfigBuilder(study, tmp_path)
    for spec in study.datasets.values():
        rows, _ = builder.rows(spec)
        for row in rows:
            for setting in range(len(row.method.settings)):
                builder.setting(spec, row, setting)
            for training in study.training.values():
                if training.transforms is None or training.transforms in spec.transforms:
                    builder.trial(
                        spec, row, setting=0, lr=1.0, seed=1, training=training, fold=spec.folds - 1
                    )


def test_main_has_every_method_that_is_there():
    study = load_study(str(ROOT / 'configs/studies/main.py'))
    there = {p.stem for p in (ROOT / 'configs/_base_/methods').glob('*.py')}
    assert there == {m.method for m in study.methods.values()}


@pytest.mark.parametrize('path', FILES, ids=[p.stem for p in FILES])
def test_the_commands_that_prepare_are_commands(path):
    parsers = {'synthetic': synthetic, 'folds': folds}
    for spec in load_study(str(path)).datasets.values():
        for command in spec.prepare.split(' && '):
            words = shlex.split(command)
            assert words[:2] == ['python', '-m']
            assert (ROOT / f'{words[2].replace(".", "/")}.py').is_file()
            assert words[2].split('.')[1] not in parsers or '--out' in words


def test_the_known_answer_can_be_prepared_and_planned(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    setup()
    study = load_study(str(ROOT / 'configs/studies/known_answer.py'))
    builder = ConfigBuilder(study, tmp_path / 'scratch')
    with pytest.raises(StudyError, match=r'Prepare it with: python -m data_prep\.synthetic'):
        make_plan(study, builder)
    words = shlex.split(study.datasets['synthetic'].prepare)
    assert synthetic.main(words[3:]) == 0
    plan = make_plan(study, builder)
    assert {c.row for c in plan.cells} >= {'cal', 'uniform', 'inverse', 'single:a', 'single:c'}
    assert len(plan.seeds(plan.cells[0])) == 10
    facts = builder.manifest(study.datasets['synthetic'])
    assert facts['splits']['train']['num_samples'] == 300
    assert facts['modalities']['c']['shape'] == [300]
