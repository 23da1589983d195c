"""tools/benchmark_step.py: it runs, and what it compares is what it says."""

import argparse
import json

import pytest
import torch
from cli_runner import call, load_tool
from mmengine.dataset import pseudo_collate

from cal_mm.structures import TrainProgress

FAST = ['--setup', 'small', '--steps', '2', '--warmup', '1', '--batch-size', '4']


@pytest.fixture(scope='module')
def tool():
    return load_tool('benchmark_step')


@pytest.fixture(scope='module')
def results(tmp_path_factory):
    path = tmp_path_factory.mktemp('benchmark') / 'a folder to be made' / 'step.json'
    code, out, err = call('benchmark_step', *FAST, '--json', path)
    assert code == 0, err
    return json.loads(path.read_text()), out


def test_all_tables(results):
    facts, out = results
    assert (facts['format'], facts['format_version']) == ('cal_mm.benchmark_step', 1)
    assert [p['part'] for p in facts['parts']] == ['methods', 'runner', 'gate', 'layout']
    methods, runner, gate, layout = (p['candidates'] for p in facts['parts'])
    assert list(layout) == ['contiguous', 'channels last']
    assert list(gate) == ['gate none', 'gate pool']
    assert list(methods) == ['concat_uni', 'cal_paper', 'cal']
    assert list(runner) == ['bare loop', 'Runner']
    for candidates in (methods, runner, gate, layout):
        for name, c in candidates.items():
            assert len(c['seconds']) == 2
            assert c['median_seconds'] > 0
            assert c['operators'] > 50
            low, high = c['ratio_quartiles']
            assert low <= c['ratio'] <= high
            assert f'  {name} ' in out
    assert methods['concat_uni']['ratio'] == 1


def test_the_runner_and_the_bare_loop_do_the_same(results):
    assert results[0]['parts'][1]['largest_weight_difference'] < 1e-7


@pytest.mark.parametrize('extra', [['--amp'], ['--optimizer', 'AdamW', '--clock', 'cpu']])
def test_other_settings_are_the_same_in_all(extra, tmp_path):
    path = tmp_path / 'step.json'
    code, _, err = call('benchmark_step', *FAST, *extra, '--part', 'runner', '--json', path)
    assert code == 0, err
    part = json.loads(path.read_text())['parts'][0]
    assert part['largest_weight_difference'] < (1e-4 if '--amp' in extra else 1e-6)


@pytest.mark.parametrize('method', ['cal_paper', 'cal'])
def test_the_methods_are_in_force(tool, method):
    """Acceleration on and W from the batches; or a fixed W and the floor rule."""
    args = tool.parser().parse_args(FAST)
    setup = tool.SETUPS['small']
    model, cfg = tool.build_model(setup, method, args)
    wrapper = tool.make_wrapper(model, cfg, args)
    wrapper.initialize_count_status(model, 0, 10)
    model.progress = TrainProgress(1, 2, 5, 10)
    before = model.contribution.weights.clone()
    logged = model.train_step(pseudo_collate(tool.make_samples(setup, 4)), wrapper)
    assert float(logged['loss_aib/image'].detach()) > 0
    betas = model.current_betas()
    if method == 'cal_paper':
        assert float(wrapper.factors.min()) > 1
        assert not torch.equal(before, model.contribution.weights)
        assert float(betas.sum()) == pytest.approx(2e-2)
    else:
        assert wrapper.factors.tolist() == [1, 1]
        assert torch.equal(before, model.contribution.weights)
        assert float(betas[1]) > float(betas[0])  # the image is said to know little


@pytest.mark.parametrize(('method', 'prefix'), [('umt', 'loss_umt'), ('pmr', 'loss_pmr')])
def test_what_hooks_bring_is_there(tool, method, prefix):
    """Teachers and prototypes: without them the method would cost nothing."""
    args = tool.parser().parse_args(FAST)
    setup = tool.SETUPS['small']
    model, cfg = tool.build_model(setup, method, args)
    wrapper = tool.make_wrapper(model, cfg, args)
    for update in range(2):  # PMR decides by the update before
        model.progress = TrainProgress(0, 2, update, 10)
        logged = model.train_step(pseudo_collate(tool.make_samples(setup, 4)), wrapper)
    assert {f'{prefix}/audio', f'{prefix}/image'} & set(logged)


def test_a_step_is_taken_while_ogm_modulates(tool, monkeypatch):
    args = tool.parser().parse_args(FAST)
    setup = tool.SETUPS['small']
    seen = []
    make = tool.make_wrapper
    monkeypatch.setattr(tool, 'make_wrapper', lambda *a: seen.append(make(*a)) or seen[0])
    tool.method_step(setup, 'ogm_ge', args)(0, pseudo_collate(tool.make_samples(setup, 4)))
    assert float(seen[0].factors.min()) < 1


def test_the_summary_by_hand(tool):
    found = tool.summarise({'a': [1.0, 2.0, 4.0], 'b': [1.5, 2.0, 8.0]})
    assert found['b']['median_seconds'] == 2
    assert found['b']['ratio'] == 1.5
    assert found['b']['ratio_quartiles'] == [1.25, 1.75]
    assert found['b']['ratio_of_totals'] == pytest.approx(11.5 / 7)


def test_candidates_take_turns(tool):
    order = []
    steps = {n: lambda number, batch, n=n: order.append((n, batch)) for n in 'abc'}
    args = argparse.Namespace(warmup=1, steps=2, device='cpu', clock='wall')
    seconds = tool.time_side_by_side(steps, ['x', 'y'], args)
    assert ''.join(n for n, _ in order) == 'abc' + 'bca' + 'cab'
    assert [b for _, b in order] == ['x'] * 3 + ['y'] * 3 + ['x'] * 3
    assert {n: len(s) for n, s in seconds.items()} == dict(a=2, b=2, c=2)


def test_the_device_that_is_timed_is_waited_for(tool, monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, 'synchronize', lambda device=None: waited.append(device))
    args = argparse.Namespace(warmup=0, steps=1, device='cuda:1', clock='wall')
    tool.time_side_by_side({'a': lambda number, batch: None}, ['x'], args)
    assert waited == ['cuda:1'] * 2


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--steps', '0'], '--steps must be at least 1'),
        (['--batch-size', '1'], '--batch-size must be at least 2'),
        (['--device', 'cuda'], 'sees no CUDA device'),
        (['--setup', 'resnet', '--part', 'layout'], 'use --setup small'),
    ],
)
def test_wrong_arguments(arguments, message):
    if 'cuda' in arguments and torch.cuda.is_available():
        pytest.skip('there is a CUDA device')
    code, _, err = call('benchmark_step', *FAST, *arguments)
    assert code == 1
    assert message in err
