"""The command line from an empty folder to a report: phases, resuming, failures, a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from cli_runner import ROOT, call

from cal_mm.study.records import Ledger

SMOKE = ROOT / 'configs/studies/smoke.py'


def run(data, work, *extra, options=(), expect=0):
    code, out, err = call(
        'study',
        SMOKE,
        '--workers',
        '0',
        '--work-dir',
        work,
        *extra,
        '--cfg-options',
        f'datasets.synthetic.data_root={data}',
        'datasets.synthetic.epochs=2',
        *options,
    )
    assert code == expect, out + err
    return out + err


@pytest.fixture(scope='module')
def finished(data, tmp_path_factory):
    work = tmp_path_factory.mktemp('run') / 'smoke'
    run(data, work)
    return work


def test_everything_is_there(finished):
    ledger = Ledger(finished)
    rows = list(ledger.rows().values())
    assert [r['phase'] for r in rows].count('select') == 16
    tests = [r for r in rows if r['phase'] == 'test']
    assert len(tests) == 12
    assert len(ledger.choices()) == 4
    for row in rows:
        assert row['status'] == 'done'
        assert row['software']['torch']
        assert len(row['code_sha256']) == len(row['config_sha256']) == len(row['data_digest']) == 64
        assert row['wall_seconds'] > 0 < row['step_seconds']
    # trained anew for the test, and the same
    tuned = {
        (r['training'], r['row'], r['lr'], r['setting'], r['seed']): r
        for r in rows
        if r['phase'] == 'select'
    }
    twice = 0
    for row in tests:
        same = tuned.get((row['training'], row['row'], row['lr'], row['setting'], row['seed']))
        if same is not None:
            twice += 1
            assert (same['val'], same['config_sha256']) == (row['val'], row['config_sha256'])
    assert twice == 4
    assert not list((finished / 'tmp').iterdir())
    assert not (finished / 'checkpoints').exists()


def test_predictions_are_the_metrics(finished):
    for row in Ledger(finished).rows().values():
        if row['phase'] != 'test':
            continue
        assert [t['condition'] for t in row['test']] == ['clean', 'noise:3@a', 'drop a']
        with np.load(finished / row['predictions']) as found:
            for i, one in enumerate(row['test']):
                right = found[f'{i}/predicted'] == found['labels']
                assert 100 * right.mean() == pytest.approx(one['metrics']['accuracy/top1'])
                assert found[f'{i}/scores'].shape == (60, 4)


def test_the_choice_is_written_before_the_test(data, tmp_path):
    work = tmp_path / 'smoke'
    only = ['--only', 'synthetic/concat@n60']
    assert 'run --phase select first' in run(data, work, '--phase', 'test', *only, expect=1)
    run(data, work, '--phase', 'select', *only)
    rows = Ledger(work).rows().values()
    assert {r['phase'] for r in rows} == {'select'}
    assert not any('test' in r or 'predictions' in r for r in rows)
    chosen = (work / 'selection.jsonl').read_text()
    assert [json.loads(line)['training'] for line in chosen.splitlines()] == ['clean']
    assert 'nothing was tested yet' in run(data, work, '--phase', 'report', *only, expect=1)
    run(data, work, '--phase', 'test', *only)
    assert (work / 'selection.jsonl').read_text() == chosen


def test_finished_trials_are_skipped(data, finished):
    before = (finished / 'results.jsonl').read_bytes()
    out = run(data, finished)
    assert 'select: nothing to do' in out
    assert (finished / 'results.jsonl').read_bytes() == before
    plan = run(data, finished, '--dry-run')
    assert 'select: 16 trials, 16 done' in plan
    assert 'test:   12 trials, 12 done' in plan


def test_a_changed_study_runs_what_is_new(data, finished, tmp_path):
    work = tmp_path / 'copy'
    subprocess.run(['cp', '-r', str(finished), str(work)], check=True)
    plan = run(data, work, '--dry-run', '--no-probe', options=['seeds=[0,1,2]'])
    assert 'test:   18 trials, 12 done' in plan
    plan = run(data, work, '--dry-run', '--no-probe', options=['lrs=[0.05,0.2]'])
    assert 'select: 16 trials, 8 done' in plan


def test_a_second_round(data, finished, tmp_path):
    work = tmp_path / 'copy'
    subprocess.run(['cp', '-r', str(finished), str(work)], check=True)
    options = ['finalists=2', 'seeds=[0,1,2]']
    plan = run(data, work, '--dry-run', '--no-probe', options=options)
    # two candidates of four cells on two more seeds; those that were tested are done
    assert 'select: 32 trials, 20 done' in plan
    assert 'then the 2 best of them on the seeds of the test as well' in plan
    run(data, work, options=options)
    rows = Ledger(work).rows().values()
    assert [r['phase'] for r in rows].count('select') == 16 + 12
    made = [c for c in Ledger(work).choices() if c['finalists'] == 2]
    assert len(made) == 4
    for choice in made:
        assert sorted(len(c['seeds']) for c in choice['candidates']) == [1, 1, 3, 3]
    assert 'select: nothing to do' in run(data, work, options=options)
    fresh = run(data, tmp_path / 'new', '--dry-run', '--no-probe', options=options)
    assert 'select: 32 trials, 0 done, 16 wait for the first round' in fresh


def test_dry_run_runs_nothing_and_probes(data, tmp_path):
    work = tmp_path / 'smoke'
    out = run(data, work, '--dry-run')
    assert 'from a probe' in out
    assert '4 candidates' in out
    assert not (work / 'results.jsonl').exists()
    assert not list((work / 'tmp').iterdir())


def test_the_report_is_complete_and_the_same_twice(data, finished, tmp_path):
    out = tmp_path / 'page.md'
    run(data, finished, '--phase', 'report', '--out', out)
    text, table = out.read_text(), out.with_suffix('.csv').read_text()
    assert 'python tools/study.py' in text
    assert '| CAL |' in text
    assert '**Incomplete' not in text
    assert '4 of 4 trainings that were run twice' in text
    for image in ('samples', 'label_noise', 'ranks_clean'):
        assert f'page/{image}.png' in text
        assert (tmp_path / 'page' / f'{image}.png').stat().st_size > 1000
    # clean, noise, drop and their mean, in three conditions, of two methods
    assert len(table.splitlines()) == 1 + 4 * 3 * 2
    latex = out.with_suffix('.tex').read_text()
    assert latex.count(r'\begin{tabular}') == latex.count(r'\bottomrule') == 6
    run(data, finished, '--phase', 'report', '--out', out)
    assert (out.read_text(), out.with_suffix('.csv').read_text()) == (text, table)
    assert 'ends in .md' in run(data, finished, '--phase', 'report', '--out', 'x.txt', expect=1)


def test_a_failure_is_recorded_and_stops_nothing(data, tmp_path):
    work = tmp_path / 'smoke'
    # a learning rate that no number survives
    bad = ['lrs=[0.05,1e30]', 'training.labels20.methods=["concat"]']
    out = run(data, work, '--phase', 'select', options=bad, expect=1)
    rows = Ledger(work).rows().values()
    failed = [r for r in rows if r['status'] == 'failed']
    assert failed
    assert {r['lr'] for r in failed} == {1e30}
    assert all(r['error'] for r in failed)
    assert 'failed: synthetic/' in out
    assert len(rows) == 12
    assert {c['lr'] for c in Ledger(work).choices()} == {0.05}
    run(data, work, '--phase', 'test', options=bad)
    run(data, work, '--phase', 'report', options=bad)
    report = (work / 'report.md').read_text()
    assert 'took no part: synthetic/concat (clean): lr 1e+30' in report
    # tried again, and again in vain
    assert f'{len(failed)} trials failed' in run(
        data, work, '--phase', 'select', options=bad, expect=1
    )


def test_kept_checkpoints_are_what_was_tested(data, tmp_path):
    work = tmp_path / 'smoke'
    only = ['--only', 'synthetic/cal@clean']
    run(data, work, *only, options=['seeds=[0]'])
    tested = [r for r in Ledger(work).rows().values() if r['phase'] == 'test']
    assert 'checkpoint' not in tested[0]
    # a finished test is made again for the checkpoint that it did not leave, and no other trial
    again = run(data, work, '--keep-checkpoints', *only, options=['seeds=[0]'])
    assert 'select: nothing to do' in again
    row = next(r for r in Ledger(work).rows().values() if r['phase'] == 'test')
    assert row['test'] == tested[0]['test']
    checkpoint = work / row['checkpoint']
    out = tmp_path / 'results.json'
    code, text, err = call(
        'test', checkpoint.parent / 'config.py', checkpoint, '--out', out,
        '--attack', 'noise:3@a', '--drop', 'a', '--work-dir', tmp_path / 'test',
    )  # fmt: skip
    assert code == 0, text + err
    theirs = [r['metrics'] for r in json.loads(out.read_text())['rows']]
    for mine, other in zip(row['test'], theirs, strict=True):
        for key in ('accuracy/top1', 'nll', 'ece'):
            assert mine['metrics'][key] == pytest.approx(other[key], rel=1e-5), key


def test_zoo_names_the_file_behind_a_method_of_another_name(data, tmp_path):
    work = tmp_path / 'smoke'
    run(data, work, '--only', 'synthetic/concat@clean', options=['methods.concat.method=sum'])
    (entry,) = map(json.loads, (work / 'report' / 'models.jsonl').read_text().splitlines())
    assert entry['name'] == 'synthetic/concat@clean'
    assert entry['config'][-1] == 'methods/sum.py'


def test_gates_are_tested_on_one_training(data, tmp_path):
    work = tmp_path / 'smoke'
    gates = ['methods.cal.gates=["config","none","experts"]', 'seeds=[0,1]']
    run(data, work, '--only', 'synthetic/cal@clean', options=gates)
    tests = [r for r in Ledger(work).rows().values() if r['phase'] == 'test']
    assert [len(r['test']) for r in tests] == [9, 9]
    report = (work / 'report.md').read_text()
    assert '| CAL, experts gate |' in report
    assert '| CAL, no gate |' in report
    (entry,) = map(json.loads, (work / 'report' / 'models.jsonl').read_text().splitlines())
    assert entry['name'] == 'synthetic/cal@clean'
    assert set(entry['metrics']) == {'config', 'none', 'experts'}
    assert entry['config'][-1] == 'methods/cal.py'
    assert entry['options'] == {'model.contribution.source': 'ridge'}
    clean = [r['metrics']['accuracy/top1'] for t in tests for r in t['test'][:1]]
    assert entry['metrics']['config']['clean'] == pytest.approx(sum(clean) / 2, abs=0.01)
    zoo = (work / 'report' / 'models.md').read_text()
    assert entry['results_digest'][:12] in zoo
    assert '--only synthetic/cal@clean' in entry['command']
    assert entry['command'] in zoo
    for trial in tests:  # the config's own, 'pool', is neither of the others
        nll = {r['gate']: r['metrics']['nll'] for r in trial['test'] if r['condition'] == 'clean'}
        assert len(set(nll.values())) == 3
    bad = ['methods.concat.gates=["experts"]', 'seeds=[0,1]']
    out = run(data, work, '--only', 'synthetic/concat@clean', options=bad, expect=1)
    assert 'needs model.unimodal_head' in out


def test_datasets_left_out_need_not_be_prepared(data, finished, tmp_path):
    study = tmp_path / 'two.py'
    study.write_text(
        f"_base_ = ['{SMOKE}']\ndatasets = dict(absent=dict(data_root='no/where', prepare='none', "
        'base=_base_.datasets.synthetic.base))\n'
    )
    report = tmp_path / 'report.md'
    code, out, err = call(
        'study', study, '--work-dir', finished, '--out', report, '--only', 'synthetic', '--workers',
        '0', '--cfg-options', f'datasets.synthetic.data_root={data}', 'datasets.synthetic.epochs=2',
    )  # fmt: skip
    assert code == 0, out + err
    assert 'test: nothing to do' in out
    assert report.is_file()


def start(data, work, workers):
    command = [
        sys.executable, 'tools/study.py', str(SMOKE), '--workers', workers, '--work-dir', str(work),
        '--only', 'synthetic@clean',
        '--cfg-options', f'datasets.synthetic.data_root={data}', 'datasets.synthetic.epochs=2',
    ]  # fmt: skip
    env = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}
    with open(work.parent / 'log', 'a') as log:
        return subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=log)


def wait_for_lines(process, work, count):
    """Until the ledger has ``count`` rows."""
    deadline = time.monotonic() + 200
    results = work / 'results.jsonl'
    while not (results.is_file() and results.read_bytes().count(b'\n') >= count):
        assert process.poll() is None, (work.parent / 'log').read_text()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def check_resumed(data, work, first):
    run(data, work, '--only', 'synthetic@clean')
    rows = [json.loads(line) for line in (work / 'results.jsonl').read_text().splitlines()]
    digests = [r['digest'] for r in rows]
    assert len(digests) == len(set(digests)) == 12  # nothing twice, nothing lost
    assert digests[: len(first)] == first


def test_kill_and_resume(data, tmp_path):
    """kill -9 in the middle: nothing half-done counts, the rest is run."""
    work = tmp_path / 'smoke'
    process = start(data, work, '0')
    wait_for_lines(process, work, 3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    first = list(Ledger(work).rows())
    assert len(first) >= 3
    # and a line cut off on top of it
    with open(work / 'results.jsonl', 'ab') as f:
        f.write(b'{"digest": "abc", "sta')
    check_resumed(data, work, first)


def children(pid):
    path = Path(f'/proc/{pid}/task/{pid}/children')
    return [int(c) for c in path.read_text().split()]


def alive(pid):
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir('/proc/self/task'), reason='needs /proc')
def test_kill_leaves_no_worker(data, tmp_path):
    work = tmp_path / 'smoke'
    process = start(data, work, '1')
    wait_for_lines(process, work, 2)
    workers = children(process.pid)
    assert workers
    process.send_signal(signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 60
    while any(alive(w) for w in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    check_resumed(data, work, list(Ledger(work).rows()))


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir('/proc/self/task'), reason='needs /proc')
def test_a_worker_that_dies_fails_one_trial(data, tmp_path):
    work = tmp_path / 'smoke'
    process = start(data, work, '1')
    wait_for_lines(process, work, 2)
    names = {c: Path(f'/proc/{c}/cmdline').read_text() for c in children(process.pid)}
    os.kill(next(c for c, name in names.items() if 'spawn_main' in name), signal.SIGKILL)
    assert process.wait(timeout=300) == 1
    rows = [json.loads(line) for line in (work / 'results.jsonl').read_text().splitlines()]
    failed = [r for r in rows if r['status'] == 'failed']
    assert len(failed) == 1
    assert 'exit code -9' in failed[0]['error']
