import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_results_files import make_results, make_row

from cal_mm.evaluation import comparison_table, save_results, standard_error
from cal_mm.evaluation.comparison import same_noise, seeds_note
from cal_mm.visualization.robustness import draw_robustness

ROOT = Path(__file__).resolve().parents[2]


def file(*rows, **dataset):
    results = make_results(list(rows))
    results['dataset'] = {'name': 'd', 'digest': '0', 'split': 'test', **dataset}
    return results


def cells(table):
    return [line.split() for line in table.splitlines()]


def test_means_over_seeds_and_gap_to_the_first():
    first = file(
        make_row(accuracy=80.0),
        make_row('noise', 'noise', 0, 50.0),
        make_row('noise', 'noise', 1, 54.0),
    )
    second = file(make_row(accuracy=81.5), make_row('noise', 'noise', 0, 60.0))
    table = cells(comparison_table([first, second], ['one', 'two']))
    assert table[0] == ['condition', 'one', 'two', 'two', '-', 'one']
    assert table[2] == ['clean', '80.00', '81.50', '+1.50']
    assert table[3] == ['noise', '52.00', '60.00', '+8.00']
    assert ' '.join(table[5]) == 'averaged over different noise seeds: one: 0, 1; two: 0'


def test_seeds_note():
    def seeded(*seeds, metric=1.0):
        return file(make_row(), *(make_row('noise', 'noise', s, metric) for s in seeds))

    five, same, none = seeded(*range(5)), seeded(*range(5)), file(make_row())
    assert seeds_note([five, same, none], 'abc') is None
    assert seeds_note([five, none, seeded(5, 7)], 'abc').endswith('seeds: a: 0 to 4; c: 5, 7')
    assert seeds_note([five, seeded(0)], 'aa').endswith('seeds: a: 0 to 4; a: 0')
    lacking = seeded(*range(5))
    lacking['rows'][1]['metrics'] = {'accuracy/top1': None}
    assert seeds_note([five, lacking], 'ab') is None
    note = seeds_note([five, lacking], 'ab', 'accuracy/top1')
    assert note.endswith('a: 0 to 4; b: 1 to 4')


def test_condition_that_one_file_lacks():
    first = file(make_row(accuracy=80.0))
    second = file(make_row(accuracy=70.0), make_row('drop a', accuracy=30.0))
    table = cells(comparison_table([first, second], ['one', 'two'], digits=1))
    assert table[2] == ['clean', '80.0', '70.0', '-10.0']
    assert table[3] == ['drop', 'a', '-', '30.0']


def test_refuses_what_cannot_be_compared():
    one, other = file(make_row()), file(make_row(), digest='1')
    with pytest.raises(ValueError, match='not of the same data'):
        comparison_table([one, other], ['one', 'two'])
    with pytest.raises(ValueError, match='not of the same data'):
        comparison_table([one, file(make_row(), split='val')], ['one', 'two'])
    part = {**file(make_row()), 'num_samples': 2}
    with pytest.raises(ValueError, match='number of samples one: 5, part: 2'):
        comparison_table([one, part], ['one', 'part'])
    with pytest.raises(ValueError, match='3 labels for 2'):
        comparison_table([one, one], ['one', 'two', 'three'])
    with pytest.raises(ValueError, match='at least two'):
        comparison_table([one], ['one'])
    with pytest.raises(ValueError, match="metric 'auc'"):
        comparison_table([one, one], ['one', 'two'], metric='auc')


def test_refuses_other_noise_under_one_name():
    def noised(*noise, **more):
        hit = dict(corruptions=list(noise), modalities=[c['modality'] for c in noise], **more)
        return file(make_row(), make_row('g eps 5', 'g', 0, 50.0, protocol='qmf', **hit))

    rgb, depth = ({'modality': m, 'value': 5.0} for m in ('rgb', 'depth'))
    both, one = noised(rgb, depth), noised(rgb)
    assert '+0.00' in comparison_table([both, one], ['both', 'one'])
    strong = noised({**rgb, 'value': 50.0})
    for check in (comparison_table, draw_robustness):
        with pytest.raises(ValueError, match=r'g eps 5 \(qmf\) is not the same noise.*: 50\.0'):
            check([both, one, strong], ['both', 'one', 'strong'])
    with pytest.raises(ValueError, match='qmf has version None in one and 3 in new'):
        comparison_table([one, noised(rgb, protocol_version=3)], ['one', 'new'])


def test_standard_error_is_that_of_a_share():
    # 75 % of 519 samples: 1.9 points
    assert standard_error(75.0, 519) == pytest.approx(1.9, abs=0.01)
    assert standard_error(100.0, 10) == 0


def test_command_line(tmp_path):
    paths = [
        save_results(tmp_path / f'{name}.json', file(make_row(accuracy=accuracy)))
        for name, accuracy in (('a', 40.0), ('b', 60.0))
    ]
    command = [sys.executable, 'tools/compare_table.py', *map(str, paths), '--labels', 'A', 'B']
    env = {**os.environ, 'PYTHONPATH': str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert '40.00  60.00  +20.00' in done.stdout
    assert 'standard error' in done.stdout
    done = subprocess.run(
        [*command[:2], 'none.json'], cwd=ROOT, env=env, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert 'none.json' in done.stderr
    assert 'Traceback' not in done.stderr


def test_the_rate_of_the_sound_is_no_other_noise():
    noise = {'type': 'BabbleNoise', 'modality': 'audio', 'value': 5.0}
    at = [[{**noise, 'options': {'sample_rate': rate}}] for rate in (16000, 22050)]
    assert same_noise(at[0], at[1], set())
    assert same_noise(at[0], [noise], set())
    assert not same_noise(at[0], [{**noise, 'value': 4.0}], set())
