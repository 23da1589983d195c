"""tools/list_components.py, tools/print_config.py, tools/method_table.py; whose Runner is built."""

import json

import pytest
from cli_runner import ROOT, call, load_tool
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from cal_mm.config import load_config
from cal_mm.registry import all_registries

#: one of each model and dataset; tests/config loads every config
CONFIGS = sorted(str(p.relative_to(ROOT)) for p in (ROOT / 'configs/cal').glob('*.py'))


def test_every_registry_and_component_is_listed():
    code, out, err = call('list_components')
    assert (code, err) == (0, '')
    for key, registry in all_registries().items():
        assert f'{key} ({registry.name})' in out.splitlines()
        for name in registry.module_dict:
            assert f'  {name}' in out
    assert len(out.splitlines()) < 400


def test_json_holds_arguments_and_defaults():
    code, out, _ = call('list_components', '--json', '--registry', 'encoder')
    facts = json.loads(out)
    assert code == 0
    assert list(facts) == ['ENCODERS']
    mlp = facts['ENCODERS']['components']['MLPEncoder']
    assert mlp['module'].startswith('cal_mm.models.encoders')
    assert len(mlp['summary']) > 10
    by_name = {a['name']: a for a in mlp['arguments']}
    assert by_name['in_channels']['required'] is True
    assert by_name['frozen']['default'] is False
    assert 'self' not in by_name


@pytest.mark.parametrize('name', ['encoder', 'ENCODERS', 'encoders', 'Encoder'])
def test_spellings_of_a_registry(name):
    code, out, _ = call('list_components', '--registry', name)
    assert code == 0
    assert out.startswith('ENCODERS (encoder)\n')
    assert 'FUSIONS' not in out


@pytest.mark.parametrize(
    'name', ['front end', 'frontends', 'contribution_source', 'loss component']
)
def test_spellings_of_two_words(name):
    assert call('list_components', '--registry', name)[0] == 0


def test_verbose_and_inherited():
    _, out, _ = call('list_components', '--registry', 'modulator', '--verbose')
    assert '      gamma: float = 1.0' in out.splitlines()
    _, own, _ = call('list_components', '--registry', 'hook')
    _, all_of_them, _ = call('list_components', '--registry', 'hook', '--inherited')
    assert 'CheckpointHook' not in own.split()
    assert {'CheckpointHook', 'ContributionHook'} <= set(all_of_them.split())


def test_an_unknown_registry():
    code, _, err = call('list_components', '--registry', 'encodr')
    assert code == 1
    assert "no registry 'encodr'. Did you mean 'ENCODERS'?" in err


def test_a_module_of_ones_own(tmp_path, monkeypatch):
    text = """
    from torch import nn
    from cal_mm.registry import ENCODERS

    @ENCODERS.register_module(force=True)
    class ListedEncoder(nn.Module):
        '''An encoder from outside.'''
        out_channels = 3
    """
    (tmp_path / 'listed_parts.py').write_text('\n'.join(t[4:] for t in text.splitlines()))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    code, out, _ = call('list_components', '--registry', 'encoder', '--import', 'listed_parts')
    assert code == 0
    assert 'An encoder from outside.' in out
    all_registries()['ENCODERS'].module_dict.pop('ListedEncoder')
    code, _, err = call('list_components', '--import', 'no_such_parts')
    assert code == 1
    assert '--import no_such_parts' in err


def test_every_component_has_a_summary():
    tool = load_tool('list_components')
    for key, registry in all_registries().items():
        for name, target in tool.components(registry).items():
            if target.__module__.startswith('cal_mm.'):
                assert len(tool.summary(target)) > 3, (key, name)


@pytest.mark.parametrize('path', CONFIGS)
def test_a_printed_config_is_a_config(path, tmp_path):
    option = ['--cfg-options', 'randomness.seed=41', 'train_dataloader.dataset.indices=[1,2]']
    code, out, err = call('print_config', ROOT / path, *option)
    assert (code, err) == (0, '')
    again = tmp_path / 'printed.py'
    again.write_text(out)
    printed = load_config(str(again))
    expected = load_config(str(ROOT / path))
    expected.randomness.seed = 41
    expected.train_dataloader.dataset.indices = [1, 2]
    assert printed.to_dict() == expected.to_dict()
    assert '_base_' not in out


def test_printing_a_wrong_config():
    code, out, err = call('print_config', ROOT / CONFIGS[0], '--cfg-options', 'model.gat=none')
    assert (code, out) == (1, '')
    assert "there is no 'gat' at model. Did you mean 'gate'?" in err
    code, _, err = call('print_config', 'nothing.py')
    assert code == 1
    assert "no config file at 'nothing.py'" in err


def test_the_page_of_the_methods_keeps_its_costs(tmp_path):
    page = (ROOT / 'docs/methods.md').read_text(encoding='utf-8')
    code, out, err = call('method_table')
    assert (code, out, err) == (0, f'{page}\n', '')
    code, _, err = call('method_table', '--out', tmp_path / 'new.md')
    assert (code, err) == (0, '')
    assert (tmp_path / 'new.md').read_text(encoding='utf-8') == page


def test_a_runner_of_ones_own(tmp_path, monkeypatch):
    class OwnRunner(Runner):
        @classmethod
        def from_cfg(cls, cfg):
            raise ValueError(f'built by {cls.__name__} in {cfg.work_dir}')

    monkeypatch.setitem(RUNNERS.module_dict, 'OwnRunner', OwnRunner)
    (tmp_path / 'e.pth').touch()
    config = ROOT / 'configs/concat/synthetic_mlp_concat_concat.py'
    for tool, files in (('train', [config]), ('test', [config, tmp_path / 'e.pth'])):
        common = [*files, '--work-dir', tmp_path, '--cfg-options']
        code, _, err = call(tool, *common, 'runner_type=OwnRunner')
        assert (code, f'built by OwnRunner in {tmp_path}' in err) == (1, True), err
        code, _, err = call(tool, *common, 'runner_type=OwnRuner')
        assert (code, 'OwnRuner is not in the' in err) == (1, True), err
