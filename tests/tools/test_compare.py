"""tools/compare.py on files of made-up models."""

import csv
import json

import pytest
from cli_runner import call
from results_builders import make_run, write_run


@pytest.fixture
def files(tmp_path):
    a = write_run(tmp_path / 'a.json', *make_run('one', shares=(0.9, 0.5)))
    b = write_run(tmp_path / 'b.json', *make_run('two', seed=50, shares=(0.9, 0.95)))
    return a, b


def test_text(files):
    code, out, err = call('compare', *files, '--resamples', 500)
    assert (code, err) == (0, '')
    lines = out.splitlines()
    assert lines[0] == 'accuracy/top1, two minus one'
    assert lines[2].split()[:4] == ['condition', 'seeds', 'one', 'two']
    row = next(line for line in lines if line.startswith('g:3@a')).split()
    assert row[1] == '2'
    assert float(row[4]) == pytest.approx(float(row[3]) - float(row[2]), abs=0.011)
    assert row[-1] == 'two'
    assert 'two is significantly better than one in 1 condition (g:3@a)' in out
    assert call('compare', *files, '--resamples', 500)[1] == out
    assert out.isascii()


def test_every_format_says_the_same(files, tmp_path):
    common = ['--metric', 'accuracy/top1', 'nll', '--resamples', 300, '--labels', 'A', 'B|b']
    for suffix in ('json', 'csv', 'md', 'txt'):
        code, out, _ = call('compare', *files, *common, '--out', tmp_path / f'c.{suffix}')
        assert code == 0
        assert out.splitlines()[-1] == f'comparison: {tmp_path}/c.{suffix}'
    found = json.loads((tmp_path / 'c.json').read_text())
    assert (found['resamples'], found['labels']) == (300, ['A', 'B|b'])
    records = found['comparisons']
    assert [(r['metric'], r['condition']) for r in records] == [
        ('accuracy/top1', 'clean'), ('accuracy/top1', 'g:3@a'), ('nll', 'clean'), ('nll', 'g:3@a'),
    ]  # fmt: skip
    with open(tmp_path / 'c.csv', newline='') as f:
        rows = list(csv.DictReader(f))
    for row, record in zip(rows, records, strict=True):
        assert {k: '' if v is None else str(v) for k, v in record.items()} == row
    tables = (tmp_path / 'c.md').read_text().split('\n\n')
    header, rule, *body = tables[1].splitlines()
    assert header.count('|') - 1 == rule.count('---') + header.count(r'\|')
    assert f'{records[0]["first"]:.2f}' in body[0]
    assert f'{records[0]["difference"]:+.2f}' in (tmp_path / 'c.txt').read_text()
    assert call('compare', *files, '--format', 'json', '--resamples', 5)[1].startswith('{')


def test_more_conditions_than_resamples_can_tell(files):
    _, out, _ = call('compare', *files, '--metric', 'ece', '--resamples', 10)
    assert 'raise --resamples' in out


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--metric', 'auc'], "the metric 'auc' cannot be resampled"),
        (['--metric', 'accuracy/top9'], 'needs k from 1 to the 3 classes'),
        (['--resamples', '0'], '--resamples must be at least 1'),
        (['--seed', '-1'], '--seed must be at least 0'),
        (['--out', '.'], 'is a folder'),
    ],
)
def test_wrong_arguments(files, arguments, message):
    code, _, err = call('compare', *files, *arguments)
    assert code == 1
    assert message in err
    assert err.count('\n') == 1


def test_wrong_files(files, tmp_path):
    code, _, err = call('compare', files[0], tmp_path / 'none.json')
    assert (code, 'no results file' in err) == (1, True)
    files[1].with_suffix('.predictions.npz').unlink()
    code, _, err = call('compare', *files)
    assert code == 1
    assert '--save-predictions' in err
    assert 'b.predictions.npz' in err
