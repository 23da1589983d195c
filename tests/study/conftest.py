"""A tiny study on synthetic features."""

import copy

import pytest
from cli_runner import ROOT
from mmengine.config import Config

from cal_mm.compat import setup
from cal_mm.study import ConfigBuilder, make_plan, parse_study
from data_prep.synthetic import make_synthetic

SMOKE = 'configs/studies/smoke.py'


@pytest.fixture(scope='session')
def data(tmp_path_factory):
    out = tmp_path_factory.mktemp('study') / 'synthetic'
    make_synthetic(out, num_train=64, num_val=40, num_test=60, signal=3.0)
    return out


@pytest.fixture
def raw(data):
    """The smoke study's contents on the tiny data, free to be changed."""
    found = copy.deepcopy(Config.fromfile(str(ROOT / SMOKE)).to_dict())
    found['datasets']['synthetic'].update(data_root=str(data), epochs=2)
    return found


@pytest.fixture
def plan_of(tmp_path):
    """From a study's contents to its plan."""
    setup()

    def make(raw, only=()):
        study = parse_study({**raw, 'work_dir': str(tmp_path / 'work')}, str(ROOT / SMOKE))
        return make_plan(study, ConfigBuilder(study, tmp_path / 'scratch'), only)

    return make
