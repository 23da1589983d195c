"""tools/test.py --reference: mCE, and every reference that cannot serve, before the model loads."""

import json

import pytest
import torch
from cli_runner import load_tool, own_name
from results_builders import make_results, make_row
from test_robustness_loop import checkpoint  # noqa: F401

from cal_mm import cli
from cal_mm.corruptions.plan import plan_conditions
from cal_mm.evaluation import ResultsError, load_results
from cal_mm.evaluation.reference import check_reference

NOISE = ['--attack', 'gaussian:1-2@image', 'word_mask:3', '--drop', 'sound', '--seeds', '2']


@pytest.fixture
def run_test(fake_config, checkpoint, tmp_path, monkeypatch):  # noqa: F811
    """Run tools/test.py in the test's folder."""
    monkeypatch.chdir(tmp_path)
    tool = load_tool('test')

    def run(*argv, options=()):
        common = [str(fake_config), str(checkpoint), *argv, '--cfg-options', own_name(), *options]
        cli.run(tool.main, tool.parser(), common)

    run.tool = tool
    return run


@pytest.fixture
def reference(run_test, tmp_path):
    """Results of a model that takes one class for another."""
    state = torch.load('epoch_3.pth')
    good = {k: v.clone() for k, v in state['state_dict'].items()}
    state['state_dict']['centres'][:2] = good['centres'][[1, 0]]
    torch.save(state, 'epoch_3.pth')
    run_test(*NOISE, '--out', 'ref.json')
    state['state_dict'] = good
    torch.save(state, 'epoch_3.pth')
    return tmp_path / 'ref.json'


def accuracy(rows, condition, seeds=(0, 1)):
    found = [
        r['metrics']['accuracy/top1']
        for r in rows
        if r['condition'] == condition and (r['seed'] is None or r['seed'] in seeds)
    ]
    return sum(found) / len(found)


def test_errors_against_the_reference(run_test, reference, capsys):
    capsys.readouterr()
    run_test(*NOISE[:-2], '--reference', str(reference), '--out', 'r.json', '--bootstrap', '50')
    printed = capsys.readouterr().out
    found = load_results('r.json')
    rows, theirs = found['rows'], load_results(reference)['rows']
    against = found['summary']['reference']
    assert against['path'] == str(reference)
    by_label = {c['label']: c for c in against['corruptions']}
    assert list(by_label) == ['gaussian@image', 'word_mask@words', 'drop sound']
    names = ['gaussian:1@image', 'gaussian:2@image']
    # one noise seed here, so only that one of the reference
    mine = sum(100 - accuracy(rows, n) for n in names)
    base = sum(100 - accuracy(theirs, n, seeds=(0,)) for n in names)
    assert base > 0
    assert by_label['gaussian@image']['ce'] == pytest.approx(100 * mine / base)
    scaled = [by_label[n]['ce'] for n in ('gaussian@image', 'word_mask@words')]
    assert against['mce'] == pytest.approx(sum(scaled) / 2)
    assert found['summary']['bootstrap']['resamples'] == 50
    assert f'mCE {against["mce"]:.1f} over 2 corruptions' in printed
    assert 'rel. CE' in printed
    assert 'W falls %' in printed


def test_a_line_per_seed_on_demand(run_test, capsys):
    run_test('--attack', 'noise:5@image', '--seeds', '2')
    assert 'seed 1' not in capsys.readouterr().out.partition('test split')[2]
    run_test('--attack', 'noise:5@image', '--seeds', '2', '--per-seed', '--bootstrap', '0')
    table = capsys.readouterr().out.partition('test split')[2]
    assert 'seed 1' in table
    assert '95 %' not in table


def edit(path, change):
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))


def drop_condition(r):
    r['rows'] = [row for row in r['rows'] if row['condition'] != 'gaussian:2@image']


def drop_seed(r):
    r['rows'] = [row for row in r['rows'] if row['seed'] != 1]


def drop_clean(r):
    r['rows'] = [row for row in r['rows'] if row['attack'] is not None]


def other_noise(r):
    r['rows'][1]['corruptions'][0]['value'] = 3.5


CASES = [
    (lambda r: r['dataset'].update(digest='9'), "its dataset digest is '9', here it is '0'"),
    (lambda r: r['dataset'].update(name='x'), "its dataset name is 'x', here it is 'fake'"),
    (lambda r: r['dataset'].update(version='2'), "its dataset version is '2'"),
    (lambda r: r.update(split='val'), "its split is 'val', here it is 'test'"),
    (lambda r: r.update(num_samples=5), 'its number of samples is 5, here it is 23'),
    (lambda r: r['rows'][1].update(protocol_version=7), 'is of version'),
    (drop_condition, 'lacks 2 of 7 conditions: gaussian:2@image (clipped, seed 0)'),
    (drop_seed, 'seed 1)'),
    (drop_clean, 'has no clean row'),
    (other_noise, "has other noise under the name 'gaussian:1@image'"),
    (lambda r: r['rows'][1]['metrics'].clear(), "no accuracy/top1 for 'gaussian:1@image'"),
    (lambda r: r.update(schema_version=9), 'has schema_version 9'),
]


def test_references_that_cannot_serve(run_test, reference, capsys, monkeypatch):
    content = reference.read_text()
    for change, message in CASES:
        reference.write_text(content)
        edit(reference, change)
        argv = [*NOISE, '--reference', str(reference)]
        refused(run_test, argv, message, capsys, monkeypatch)


def refused(run_test, argv, message, capsys, monkeypatch):
    """In one line, with status 2, before the model is built."""

    def never(*args, **kwargs):
        raise AssertionError('the model was built')

    monkeypatch.setattr(run_test.tool.Runner, 'from_cfg', never)
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run_test(*argv)
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert message in error
    assert error.count('\n') == 1


def test_a_reference_of_more_modalities_serves():
    everything = {'depth': 'depth', 'rgb': 'image'}
    plans = [
        plan_conditions(kinds, protocol='qmf-legacy', seeds=1, everything=everything)
        for kinds in (everything, {'rgb': 'image'})
    ]
    both, one = ([c.describe() for c in plan] for plan in plans)
    theirs = make_results([make_row(), *({**make_row(), **told} for told in both)])
    facts = {**theirs['dataset'], 'dataset': theirs['dataset']['name']}
    check_reference(theirs, 'r.json', facts, 'test', 5, one)
    theirs['rows'][1]['corruptions'][0]['value'] = 50.0
    with pytest.raises(ResultsError, match="other noise under the name 'gaussian eps 5'"):
        check_reference(theirs, 'r.json', facts, 'test', 5, one)


def test_no_reference_and_no_noise(run_test, reference, capsys, monkeypatch):
    for argv, message in (
        ([*NOISE, '--reference', 'none.json'], 'there is no reference none.json'),
        (['--reference', str(reference)], 'only clean was asked for'),
        (['--bootstrap', '-1'], '--bootstrap must be at least 0'),
        ([*NOISE, '--attack', 'swap:3@image', '--reference', str(reference)], 'swap:3@image'),
        (['--protocol', 'missing', '--reference', str(reference)], 'lacks 5 of 6 conditions'),
    ):
        refused(run_test, argv, message, capsys, monkeypatch)
    reference.write_text('{"format"')
    refused(
        run_test, [*NOISE, '--reference', str(reference)], 'not valid JSON', capsys, monkeypatch
    )
