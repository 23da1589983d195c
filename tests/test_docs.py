"""What the pages say is what the code does: links, files, options, defaults, versions."""

import ast
import importlib
import inspect
import re
import runpy
from pathlib import Path

import pytest
from mmengine.config import Config
from packaging.requirements import Requirement

from cal_mm.engine.modulators import AsymmetricAcceleration
from cal_mm.engine.sources import PilotSource, RidgeSource
from cal_mm.models.bottlenecks import VariationalBottleneck
from cal_mm.models.contribution import ContributionTracker, Typicality
from cal_mm.models.losses import AIBLoss

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / 'README.md', ROOT / 'CHANGELOG.md', *sorted((ROOT / 'docs').rglob('*.md'))]
CAL = (ROOT / 'docs/methods/cal.md').read_text(encoding='utf-8')
ids = [str(p.relative_to(ROOT)) for p in PAGES]


def anchors(page):
    """GitHub's names of a page's headings."""
    headings = re.findall(r'^#+ (.*)$', page.read_text(encoding='utf-8'), re.MULTILINE)
    return {re.sub(r'[^\w\- ]', '', h.lower()).replace(' ', '-') for h in headings}


@pytest.mark.parametrize('page', PAGES, ids=ids)
def test_links_lead_somewhere(page):
    prose = re.sub(r'^```.*?^```', '', page.read_text(encoding='utf-8'), flags=re.M | re.S)
    for target in re.findall(r'\]\(([^)\s]+)\)', prose):
        if re.match(r'[a-z]+:', target):
            continue
        path, _, anchor = target.partition('#')
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f'{page.name} links to {target}'
        if anchor and linked.suffix == '.md':
            assert anchor in anchors(linked), f'{page.name} links to {target}'


@pytest.mark.parametrize('page', PAGES, ids=ids)
def test_files_that_are_named_exist(page):
    text = page.read_text(encoding='utf-8')
    for name in re.findall(r'(?<![\w/])((?:tools|configs|tests|cal_mm|docs)/[\w/.]+\.\w+)\b', text):
        if name != 'configs/mine.py':  # an example of a user's own
            assert (ROOT / name).is_file(), f'{page.name} names {name}'
    for module in re.findall(r'python -m (data_prep\.\w+)', text):
        if not module.endswith('NAME'):
            assert (ROOT / f'{module.replace(".", "/")}.py').is_file(), module


@pytest.mark.parametrize('page', PAGES, ids=ids)
def test_python_blocks_are_python(page):
    for code in re.findall(r'^```python[^\n]*\n(.*?)^```$', page.read_text(), re.M | re.S):
        ast.parse(code)


def option_table(name):
    """{option: (default, meaning)} of the table headed "option of `name`"."""
    head = CAL.index(f'| option of `{name}` |')
    rows = CAL[head:].partition('\n\n')[0].splitlines()[2:]
    cells = [[c.strip().strip('`') for c in row.strip('|').split(' | ')] for row in rows]
    return {row[0]: row[1] for row in cells}


def defaults(cls):
    parameters = inspect.signature(cls).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}


@pytest.mark.parametrize(
    ('name', 'cls'),
    [
        ('model.contribution', ContributionTracker),
        ('AsymmetricAcceleration', AsymmetricAcceleration),
        ('AIBLoss', AIBLoss),
        ('VariationalBottleneck', VariationalBottleneck),
    ],
)
def test_option_tables_are_complete_and_right(name, cls):
    told, real = option_table(name), defaults(cls)
    if cls is VariationalBottleneck:
        real.pop('num_classes')  # told with the prior that needs it
    assert set(told) == set(real)
    for option, default in real.items():
        if option in ('information', 'confidence'):  # None means the estimator that is told
            assert getattr(importlib.import_module('cal_mm.models.contribution'), told[option])
        else:
            assert ast.literal_eval(told[option]) == default, option


@pytest.mark.parametrize('cls', [PilotSource, RidgeSource, Typicality])
def test_options_of_sources_are_named(cls):
    for option in defaults(cls):
        assert f'`{option}`' in CAL, option


def preset_parts():
    """{preset: {part: its options}} of the two presets."""
    found = {}
    for name in ('cal', 'cal_paper'):
        preset = Config.fromfile(ROOT / f'configs/_base_/methods/{name}.py')
        found[name] = {
            'contribution': preset.method_model.contribution,
            'AsymmetricAcceleration': preset.method_optim_wrapper.modulator,
            **{loss.type: loss for loss in preset.method_model.losses},
        }
    return found


def preset_rows():
    """{'part.option': what the table says of each preset}."""
    rows = CAL[CAL.index('| | `cal` | `cal_paper` |') :].partition('\n\n')[0].splitlines()[2:]
    cells = [[c.strip() for c in row.strip('|').split(' | ')] for row in rows]
    return {key.strip('`'): values for key, *values in cells}


def test_preset_table_is_that_of_the_configs():
    rows = preset_rows()
    assert len(rows) >= 8
    for key, values in rows.items():
        owner, option = key.split('.')
        for value, parts in zip(values, preset_parts().values(), strict=True):
            told = ast.literal_eval(re.match(r'`([^`]*)`', value)[1])
            assert parts[owner].get(option) == told, key


def test_preset_table_has_all_that_is_no_default():
    classes = {
        'contribution': ContributionTracker,
        'AsymmetricAcceleration': AsymmetricAcceleration,
        'AIBLoss': AIBLoss,
    }
    for parts in preset_parts().values():
        for part, cls in classes.items():
            for option, default in defaults(cls).items():
                # the estimators are those that the table of options names
                if option not in ('information', 'confidence'):
                    value = parts[part].get(option, default)
                    assert value == default or f'{part}.{option}' in preset_rows(), option


def test_options_without_a_value_are_in_the_page_of_the_methods():
    """``typicality=dict()`` switches something on."""
    page = (ROOT / 'docs/methods.md').read_text(encoding='utf-8')
    assert page.count('typicality={}') == 2


def test_page_of_the_methods_is_what_their_files_say():
    tool = runpy.run_path(str(ROOT / 'tools/method_table.py'))
    page = ROOT / 'docs/methods.md'
    assert tool['page_text'](tool['costs_of']([], page)) == page.read_text(encoding='utf-8')


def test_reconstruction_is_said_where_a_newcomer_looks():
    readme = (ROOT / 'README.md').read_text(encoding='utf-8')
    assert 'CAL here is a reconstruction' in readme
    assert 'equations are not public' in CAL
    assert '[Unreleased]' in (ROOT / 'CHANGELOG.md').read_text(encoding='utf-8')


def requirements(monkeypatch):
    """Every requirement of setup.py."""
    import setuptools

    told = {}
    monkeypatch.setattr(setuptools, 'setup', lambda **kwargs: told.update(kwargs))
    monkeypatch.chdir(ROOT)
    runpy.run_path(str(ROOT / 'setup.py'))
    lists = [told['install_requires'], *told['extras_require'].values()]
    return [Requirement(text) for items in lists for text in items]


def test_constraints_pin_every_direct_dependency(monkeypatch):
    lines = (ROOT / 'constraints.txt').read_text().splitlines()
    pinned = [Requirement(line) for line in lines if line and not line.startswith('#')]
    pins = {r.name.lower(): r.specifier for r in pinned}
    for required in requirements(monkeypatch):
        assert required.name.lower() in pins, required.name
        for pin in pins[required.name.lower()]:
            if pin.operator == '==':
                assert pin.version in required.specifier, f'{required} and =={pin.version}'
