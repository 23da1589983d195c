"""tools/benchmark_corruptions.py on tiny samples."""

import json

import pytest
from cli_runner import call

SMALL = ('--side', 8, '--seconds', 0.05, '--words', 3, '--features', 4, '--repeats', 1)


def test_every_corruption_that_needs_no_model_is_measured(tmp_path):
    code, out, err = call('benchmark_corruptions', *SMALL, '--json', tmp_path / 'times.json')
    assert code == 0, err
    found = json.loads((tmp_path / 'times.json').read_text())
    names = [row['name'] for row in found['rows']]
    assert {'ImageSnow', 'WaveformEnvironment', 'TextTypos', 'FrameDrop'} <= set(names)
    assert 'SwapModality' not in names
    assert all(len(row['microseconds']) == 3 for row in found['rows'])
    assert found['sizes'] == {'side': 8, 'seconds': 0.05, 'words': 3, 'features': 4}
    assert all(name in out for name in names)


def test_names_choose():
    code, out, _ = call('benchmark_corruptions', *SMALL, 'gaussian', 'ImageFrost')
    assert code == 0
    lines = [line.split()[0] for line in out.splitlines()[1:]]
    assert lines == [
        'DepthGaussianNoise', 'FeatureGaussianNoise', 'ImageFrost', 'ImageGaussianNoise',
        'WaveformNoise',
    ]  # fmt: skip


@pytest.mark.parametrize(
    ('argv', 'message'),
    [(['snwo'], "Did you mean 'snow'"), (['--side', 0], '--side must be positive')],
)
def test_errors(argv, message):
    code, _, err = call('benchmark_corruptions', *argv)
    assert code == 1
    assert message in err
