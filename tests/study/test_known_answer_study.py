"""The study whose answer is known: the direction of CAL's W matters."""

import json
import shlex
import sys

import pytest
from commands import run
from scipy import stats

from cal_mm.study import load_study
from data_prep import synthetic

STUDY = 'configs/studies/known_answer.py'
ROWS = ('single:a', 'cal', 'uniform', 'inverse')
# far behind a: a few seeds tell it
OTHERS = ('single:b', 'single:c')


@pytest.mark.slow
def test_guided_beats_uniform_inverse_and_the_best_alone(tmp_path):
    """Ten paired seeds, one learning rate for all; one-sided paired t-tests over the seeds."""
    data, work = tmp_path / 'data', tmp_path / 'work'
    words = shlex.split(load_study(STUDY).datasets['synthetic'].prepare)
    assert synthetic.main([*words[3 : words.index('--out')], '--out', str(data), *words[5:]]) == 0
    options = [f'datasets.synthetic.data_root={data}', f'work_dir={work}', 'lrs=[0.003]']
    command = [sys.executable, 'tools/study.py', STUDY, '--workers', '2', '--only']
    for rows, seeds in ((OTHERS, range(3)), (ROWS, range(10))):
        only = [f'synthetic/{row}' for row in rows]
        run(
            [*command, *only, '--cfg-options', *options, f'seeds={list(seeds)}'.replace(' ', '')],
            timeout=1500,
        )
    accuracy: dict = {}
    for line in (work / 'results.jsonl').read_text(encoding='utf-8').splitlines():
        trial = json.loads(line)
        for row in trial.get('test') or []:
            if row['condition'] == 'clean' and row['gate'] == 'config':
                found = row['metrics']['accuracy/top1']
                accuracy.setdefault(trial['row'], {})[trial['seed']] = found
    mean = {row: sum(values.values()) / len(values) for row, values in accuracy.items()}
    assert {row: len(values) for row, values in accuracy.items()} == {
        **dict.fromkeys(ROWS, 10),
        **dict.fromkeys(OTHERS, 3),
    }
    assert all(mean['single:a'] > mean[row] + 5 for row in OTHERS), mean
    table = {row: [accuracy[row][seed] for seed in range(10)] for row in ROWS}
    for rival in ('single:a', 'uniform', 'inverse'):
        p = stats.ttest_rel(table['cal'], table[rival], alternative='greater').pvalue
        assert p < 0.05, (rival, p, mean)
    p = stats.ttest_rel(table['uniform'], table['inverse'], alternative='greater').pvalue
    assert p < 0.05, (p, mean)
