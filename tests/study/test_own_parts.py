"""A study of one's own components: modules beside the study, a method file beside it."""

import sys

import pytest
from cli_runner import ROOT

from cal_mm.compat import setup
from cal_mm.registry import FUSIONS, LOSSES
from cal_mm.study import ConfigBuilder, Options, Session, StudyError, load_study

PARTS = """
from torch import nn

from cal_mm.models.fusions import ConcatFusion
from cal_mm.models.losses import LossComponent
from cal_mm.registry import FUSIONS, LOSSES


@FUSIONS.register_module()
class StudyFusion(ConcatFusion):
    pass


@LOSSES.register_module()
class StudyLoss(LossComponent):
    def forward(self, state):
        return {'loss_study': 0.0 * state.logits.sum()}
"""

STUDY = """
datasets = dict(
    synthetic=dict(
        base=['models/own.py', 'datasets/synthetic.py', 'schedules/sgd_3e.py'],
        data_root='{data}',
        epochs=1,
    )
)
methods = dict(
    concat=dict(options={{'model.fusion': {{'_delete_': True, 'type': 'StudyFusion'}}}}),
    own_method=dict(method='{method}'),
)
lrs = [0.05]
seeds = [0]
work_dir = '{folder}/work'
"""


@pytest.fixture
def write(data, tmp_path, monkeypatch):
    """Writes a project with its own components outside of the repository; returns its study."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, 'path', list(sys.path))
    setup()
    (tmp_path / 'models').mkdir()
    (tmp_path / 'study_parts.py').write_text(PARTS)
    (tmp_path / 'models/own_more.py').write_text('FOUND = True\n')
    (tmp_path / 'models/own.py').write_text(
        f"_base_ = ['{ROOT}/configs/_base_/models/synthetic_mlp.py']\n"
        "custom_imports = dict(imports=['study_parts', 'own_more'])\n"
    )
    (tmp_path / 'own_method.py').write_text(
        'method_model = dict(\n'
        "    losses=[dict(type='FusedCrossEntropy'), dict(type='StudyLoss')]\n"
        ')\n'
    )

    def make(method='own_method'):
        path = tmp_path / 'study.py'
        path.write_text(STUDY.format(data=data, folder=tmp_path, method=method))
        return load_study(str(path))

    yield make
    for module in ('study_parts', 'own_more'):
        sys.modules.pop(module, None)
    FUSIONS.module_dict.pop('StudyFusion', None)
    LOSSES.module_dict.pop('StudyLoss', None)


def test_own_parts_and_an_own_method_run_beside_the_shipped_ones(write):
    session = Session(write(), Options(workers=0, say=lambda text: None))
    spec = session.study.datasets['synthetic']
    plan = session.plan
    concat, own = (plan.builder.row(spec, plan.row(c)) for c in plan.cells)
    assert concat.model.fusion == dict(type='StudyFusion')
    assert [x.type for x in own.model.losses] == ['FusedCrossEntropy', 'StudyLoss']
    assert own.model.fusion.type == 'ConcatFusion'
    assert session.run(('select',)) == 0
    files = [plan.builder.method_file(m) for m in session.study.methods.values()]
    assert files == ['methods/concat.py', 'own_method.py']


@pytest.mark.parametrize(
    ('method', 'message'),
    [
        ('own_metod', r"no method 'own_metod', and no such file beside the study"),
        ('study', r'study\.py is no method: it sets none of method_model'),
    ],
)
def test_what_is_no_method(write, tmp_path, method, message):
    study = write(method)
    builder = ConfigBuilder(study, tmp_path / 'scratch')
    with pytest.raises(StudyError, match=rf'methods\.own_method: .*{message}'):
        builder.method(study.methods['own_method'])
