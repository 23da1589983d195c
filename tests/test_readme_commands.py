"""The commands that a newcomer types: those of the README, and the two scripts."""

import ast
import importlib.util
import os
import re
import shlex
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').rglob('*.md'))]
README = (ROOT / 'README.md').read_text(encoding='utf-8')


def blocks(text, language):
    return re.findall(rf'^```{language}\n(.*?)^```$', text, re.MULTILINE | re.DOTALL)


def commands(text):
    """Every line of the bash blocks, continued lines joined."""
    for block in blocks(text, 'bash'):
        yield from block.replace('\\\n', ' ').splitlines()


def environment(**more):
    path = f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'
    return {**os.environ, 'PATH': path, 'OMP_NUM_THREADS': '1', **more}


def run(command, cwd, env, timeout=300):
    return subprocess.run(
        command, cwd=cwd, env=env, capture_output=True, text=True, timeout=timeout, check=False
    )


@pytest.mark.parametrize('page', PAGES, ids=[str(p.relative_to(ROOT)) for p in PAGES])
def test_every_command_of_a_page_is_understood_by_its_tool(page):
    for line in commands(page.read_text(encoding='utf-8')):
        words = shlex.split(line, comments=True)
        if len(words) < 2 or words[0] != 'python' or not words[1].startswith('tools/'):
            continue
        name = Path(words[1]).stem
        spec = importlib.util.spec_from_file_location(f'tool_{name}', ROOT / words[1])
        tool = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(tool)
        if hasattr(tool, 'parser') and '--help' not in words:
            tool.parser().parse_args(words[2:])


@pytest.mark.slow
def test_use_section_runs_as_it_stands(tmp_path):
    for name in ('configs', 'tools'):
        (tmp_path / name).symlink_to(ROOT / name)
    env = environment(PYTHONPATH=str(ROOT))
    use = README[README.index('\n## Use') : README.index('\n## Where things are')]
    (block,) = blocks(use, 'bash')
    done = run(['bash', '-euo', 'pipefail', '-c', block], tmp_path, env)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    for made in ('results.json', 'robustness.png', 'contribution.png', 'epoch_3.pth'):
        assert (tmp_path / 'work_dirs/first' / made).stat().st_size > 0
    (code,) = blocks(use, 'python')
    done = run([sys.executable, '-c', code], tmp_path, env)
    assert done.returncode == 0, done.stderr[-3000:]
    prediction, contribution = done.stdout.splitlines()
    assert prediction.startswith("('a', 'b', 'c') ")
    told = ast.literal_eval(contribution.removeprefix('who contributes: '))
    assert list(told) == ['a', 'b', 'c']
    assert told['b'] == 0
    assert sum(told.values()) == pytest.approx(1, abs=1e-5)


# ---- the two scripts ----------------------------------------------------------------------------


@pytest.mark.parametrize('name', ['quickstart.sh', 'run_tests.sh', 'environment.sh'])
def test_scripts_parse(name):
    assert f'tools/{name}' in README or name == 'environment.sh'
    assert run(['bash', '-n', f'tools/{name}'], ROOT, environment()).returncode == 0


@pytest.mark.parametrize('name', ['quickstart.sh', 'run_tests.sh'])
def test_scripts_explain_themselves(name, tmp_path):
    done = run(['bash', str(ROOT / 'tools' / name), '--help'], tmp_path, environment())
    assert done.returncode == 0
    assert f'bash tools/{name}' in done.stdout
    assert 'set -e' not in done.stdout
    assert list(tmp_path.iterdir()) == []


def script(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/usr/bin/env bash\n{text}')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def checkout(tmp_path):
    """The scripts in a repository of their own, and a python that records what it is asked."""
    repo = tmp_path / 'my repo'
    (repo / 'tools').mkdir(parents=True)
    for name in ('tools/environment.sh', 'tools/run_tests.sh', 'setup.py', 'constraints.txt'):
        (repo / name).write_text((ROOT / name).read_text())
    log = tmp_path / 'asked'
    log.write_text('')
    script(
        tmp_path / 'bin' / 'python3',
        f"""
printf '%s\\n' "$*" >>'{log}'
case "$1 $2" in
    "-m venv") mkdir -p "$3/bin"; cp "$0" "$3/bin/python" ;;
    "-m pip") echo Collecting torch; exit "${{FAKE_PIP:-0}}" ;;
    "-m ruff") exit "${{FAKE_RUFF:-0}}" ;;
    "-m pytest") echo '=== 7 passed in 1.00s ==='; exit "${{FAKE_PYTEST:-0}}" ;;
    "-c import cv2") exit "${{FAKE_CV2:-0}}" ;;
    -c*) exec '{sys.executable}' "$@" ;;
    "--version "*) echo Python 3.12.0 ;;
esac
""",
    )
    return repo, log


def prepare(checkout, extras='digits', **more):
    repo, log = checkout
    log.write_text('')
    env = {**os.environ, 'PYTHON': str(repo.parent / 'bin' / 'python3'), **more}
    env.pop('CAL_MM_SKIP_INSTALL', None)
    if 'CAL_MM_VENV' not in more:
        env.pop('CAL_MM_VENV', None)
    code = f"set -euo pipefail; source '{repo}/tools/environment.sh'; prepare_environment {extras}"
    done = run(['bash', '-c', code], repo.parent, env)
    asked = log.read_text().splitlines()
    return done, [line for line in asked if line.startswith('-m pip')]


def test_installs_once_and_again_when_something_changed(checkout):
    repo, _ = checkout
    done, pip = prepare(checkout, 'dev,digits')
    assert done.returncode == 0, done.stderr
    assert len(pip) == 1
    assert '-c constraints.txt -e .[dev,digits]' in pip[0]
    assert prepare(checkout, 'digits')[1] == []
    assert len(prepare(checkout, 'digits,pretrained')[1]) == 1
    with open(repo / 'constraints.txt', 'a') as f:
        f.write('six==1.17.0\n')
    assert len(prepare(checkout, 'digits')[1]) == 1
    assert prepare(checkout, 'digits')[1] == []


def test_failed_installation_is_reported_and_tried_again(checkout):
    done, _ = prepare(checkout, FAKE_PIP='1')
    assert done.returncode != 0
    assert 'Collecting torch' in done.stderr
    assert 'install.log' in done.stderr
    done, pip = prepare(checkout)
    assert done.returncode == 0
    assert len(pip) == 1


def test_environment_elsewhere(checkout, tmp_path):
    done, pip = prepare(checkout, CAL_MM_VENV='else where')
    assert done.returncode == 0, done.stderr
    assert len(pip) == 1
    assert (tmp_path / 'else where' / '.cal_mm_installed').is_file()
    assert not (checkout[0] / '.venv').exists()


def test_opencv_without_libgl_is_replaced(checkout):
    done, pip = prepare(checkout, FAKE_CV2='1')
    assert any('uninstall -y opencv-python' in line for line in pip)
    assert any(line.endswith('opencv-python-headless') for line in pip)
    assert done.returncode != 0  # here the headless build does not load either
    assert 'cv2' in done.stderr


def progress(command, tmp_path):
    code = (
        f"set -euo pipefail; source '{ROOT}/tools/environment.sh'; "
        f"with_progress '{tmp_path}/log' {command}; echo finished"
    )
    env = {**os.environ, 'PROGRESS_SECONDS': '1', 'LABEL': 'part'}
    return subprocess.Popen(
        ['bash', '-c', code], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_progress_of_a_silent_command(tmp_path):
    out, err = progress('sleep 2.5', tmp_path).communicate(timeout=60)
    assert re.search(r'^ +part +\d+ s', out, re.MULTILINE), err
    assert out.endswith('finished\n'), err


def test_terminated_script_takes_its_command_along(tmp_path):
    process = progress(f"bash -c 'echo $$ >{tmp_path}/pid; exec sleep 60'", tmp_path)
    deadline = time.monotonic() + 30
    while not (tmp_path / 'pid').exists() or not (tmp_path / 'pid').read_text().strip():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.terminate()
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert 'finished' not in out
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / 'pid').read_text()), 0)


def test_old_python_is_refused(checkout, tmp_path):
    old = script(tmp_path / 'bin' / 'old', 'exit 1\n')
    done, pip = prepare(checkout, PYTHON=str(old))
    assert done.returncode != 0
    assert 'is not a Python 3.11 or later' in done.stderr
    assert pip == []


@pytest.mark.parametrize(
    ('faults', 'code', 'failed'),
    [
        ({}, 0, None),
        ({'FAKE_RUFF': '1'}, 1, 'failed: ruff format,ruff check'),
        ({'FAKE_PYTEST': '1'}, 1, 'failed: pytest'),
    ],
)
def test_run_tests_reports_every_failure_and_ends_with_pytest(checkout, faults, code, failed):
    repo, log = checkout
    env = {**os.environ, **faults, 'PYTHON': str(repo.parent / 'bin' / 'python3')}
    env.update(CAL_MM_VENV=str(repo / '.venv'), CAL_MM_TEST_WORKERS='3')
    env.pop('CAL_MM_SKIP_INSTALL', None)
    done = run(['bash', str(repo / 'tools/run_tests.sh'), '--', '-k', 'x y'], repo.parent, env)
    assert done.returncode == code, done.stderr
    assert done.stdout.splitlines()[-1] == '=== 7 passed in 1.00s ==='
    if failed:
        assert failed in done.stdout
    else:
        assert 'failed:' not in done.stdout
    asked = log.read_text()
    assert '-m pytest -n 3 --dist worksteal -m not slow -k x y' in asked
    assert '-m mypy' in asked


def test_run_tests_selects_and_refuses(checkout):
    repo, log = checkout
    env = {**os.environ, 'PYTHON': str(repo.parent / 'bin' / 'python3')}
    env['CAL_MM_VENV'] = str(repo / '.venv')
    env.pop('CAL_MM_SKIP_INSTALL', None)
    start = ['bash', str(repo / 'tools/run_tests.sh')]
    assert run([*start, '--all'], repo, env).returncode == 0
    assert 'not slow' not in log.read_text()
    done = run([*start, '--quick'], repo, env)
    assert done.returncode == 2
    assert '--quick' in done.stderr


def test_quickstart_removes_only_folders_of_its_own(tmp_path):
    text = (ROOT / 'tools/quickstart.sh').read_text()
    function = text[text.index('train() {') : text.index('attack() {')]
    stubs = (
        'set -euo pipefail; options=(); PY=true; run_digest() { echo new; }; '
        'with_progress() { : >"$1"; }; die() { echo "error: $*" >&2; exit 1; }\n'
    )

    def train():
        command = ['bash', '-c', f"OUT='{tmp_path}'\n{stubs}{function}\ntrain concat"]
        return run(command, tmp_path, environment())

    folder = tmp_path / 'concat'
    folder.mkdir()
    assert train().returncode == 0  # an empty one is no loss
    assert (folder / 'trained').is_file()
    (folder / 'started').write_text('old\n')
    (folder / 'epoch_1.pth').write_text('of an earlier quickstart')
    assert train().returncode == 0
    assert not (folder / 'epoch_1.pth').exists()
    (folder / 'started').unlink()
    done = train()
    assert done.returncode == 1
    assert f'{folder} is there and is not of an earlier quickstart' in done.stderr
    assert (folder / 'trained').is_file()


def test_quickstart_ends_with_the_first_failure(tmp_path):
    text = (ROOT / 'tools/quickstart.sh').read_text()
    functions = text[text.index('train() {') : text.index("say 'Python")]
    stubs = (
        'set -euo pipefail; options=(); PY=python; run_digest() { echo new; }; '
        'with_progress() { echo "ran $LABEL"; }; die() { echo "error: $*" >&2; exit 1; }\n'
    )

    def both(function, stub=''):
        code = f"OUT='{tmp_path}'\n{stubs}{functions}\n{stub}\nboth {function} || die failed"
        done = run(['bash', '-c', code], tmp_path, environment())
        assert ('error: failed' in done.stderr) == (done.returncode == 1)
        return done

    def marks(name):
        return sorted(p.parent.name for p in tmp_path.glob(f'*/{name}'))

    assert both('train', 'run_digest() { return 1; }').returncode == 1
    assert marks('started') == []
    assert both('train', 'with_progress() { [ $LABEL = concat ]; }').returncode == 1
    assert marks('trained') == ['concat']
    done = both('train')
    assert done.returncode == 0
    assert done.stdout.count('is trained already') == 1
    assert marks('trained') == ['cal', 'concat']
    (tmp_path / 'concat/last_checkpoint').write_text('epoch_1.pth')
    done = both('attack')
    assert done.returncode == 1
    assert done.stdout.split() == ['ran', 'concat']
    (tmp_path / 'cal/last_checkpoint').write_text('epoch_1.pth')
    assert both('attack').returncode == 0


@pytest.mark.slow
def test_quickstart_from_anywhere_and_again(tmp_path):
    env = environment(
        CAL_MM_SKIP_INSTALL='1',
        CAL_MM_DATA='data/digits_av',
        CAL_MM_QUICKSTART_EPOCHS='1',
    )
    command = ['bash', str(ROOT / 'tools/quickstart.sh'), 'out']
    done = run(command, tmp_path, env, timeout=1200)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert '[6/6]' in done.stdout
    table = (tmp_path / 'out/table.txt').read_text()
    assert table.split()[:3] == ['condition', 'concat', 'CAL']
    for row in ('clean', 'gaussian:5@image', 'noise:5@audio', 'drop audio'):
        assert re.search(rf'^{re.escape(row)} +\d+\.\d\d +\d+\.\d\d', table, re.MULTILINE), table
    made = ['plots/contribution.png', 'plots/robustness.png', 'cal/results.json', 'cal/epoch_1.pth']
    times = {name: (tmp_path / 'out' / name).stat().st_mtime for name in made}
    assert (tmp_path / 'data/digits_av/manifest.json').is_file()

    # what is finished is left alone, what is missing is made again
    (tmp_path / 'out/concat/results.json').unlink()
    done = run(command, tmp_path, env, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.count('is trained already') == 2
    assert 'up to date' in done.stdout
    assert (tmp_path / 'out/cal/epoch_1.pth').stat().st_mtime == times['cal/epoch_1.pth']
    assert (tmp_path / 'out/table.txt').read_text() == table
