"""The summary block: seeds, intervals, area, mCE, relative robustness, W under noise."""

import statistics

import numpy as np
import pytest
from results_builders import make_predictions, make_results, make_row
from scipy.stats import spearmanr

from cal_mm.corruptions import parse_attack
from cal_mm.evaluation import ResultsError, save_results
from cal_mm.evaluation.contribution_noise import falls, rank_correlation
from cal_mm.evaluation.results import validate_results
from cal_mm.evaluation.severity import area_under_severity, curves_of
from cal_mm.evaluation.statistics import resample_counts
from cal_mm.evaluation.summary import higher_is_better, summarise, worst
from cal_mm.evaluation.table import curves_table, results_table, summary_lines
from cal_mm.visualization.robustness import draw_robustness


def noisy(attack, severity, accuracy, seed=0, modalities=('a',), **more):
    name = f'{attack}:{severity}@{"+".join(modalities)}'
    place = dict(attack=attack, severity=severity, modalities=list(modalities), seed=seed)
    return make_row(name, accuracy, **place, **more)


def test_conditions_over_seeds():
    rows = [make_row(metrics={'accuracy/top1': 80.0, 'nll': 0.5, 'own': 1.0})]
    for seed, (accuracy, nll) in enumerate([(60.0, 0.9), (50.0, 1.5), (64.0, 1.0)]):
        metrics = {'accuracy/top1': accuracy, 'nll': nll, 'own': 2.0, 'aurc': None}
        rows.append(noisy('g', 1, 0, seed, metrics=metrics, contribution={'a': 0.1 * seed}))
    clean, g = summarise(rows)['conditions']
    assert clean['seeds'] == []
    assert clean['metrics']['accuracy/top1'] == {'mean': 80, 'std': None, 'worst': 80}
    assert clean['relative_robustness'] is None
    assert g['seeds'] == [0, 1, 2]
    assert g['metrics']['accuracy/top1'] == {
        'mean': pytest.approx(58),
        'std': pytest.approx(statistics.stdev([60, 50, 64])),
        'worst': 50,
    }
    assert g['metrics']['nll']['worst'] == 1.5
    assert g['metrics']['own'] == {'mean': 2, 'std': 0, 'worst': None}
    assert 'aurc' not in g['metrics']
    assert g['relative_robustness'] == pytest.approx(58 / 80)
    assert g['contribution']['a']['mean'] == pytest.approx(0.1)


@pytest.mark.parametrize('name', ['nll', 'ece', 'brier', 'aurc', 'e_aurc', 'val/ece'])
def test_less_is_better(name):
    assert higher_is_better(name) is False
    assert worst(name, [1.0, 3.0]) == 3


def test_interval_of_accuracy_is_the_bootstrap_over_samples():
    predictions = [make_predictions(s, 50, 0.7) for s in (0, 1, 2)]
    rows = [make_row(), *(noisy('g', 2, 70.0, s) for s in (0, 1))]
    found = summarise(rows, predictions, resamples=300, seed=4)
    assert found['bootstrap']['resamples'] == 300
    right = np.stack([p['predicted'] == p['labels'] for p in predictions]).astype(float)
    counts = np.concatenate(list(resample_counts(50, 300, 4)))
    for condition, values in zip(
        found['conditions'], (right[0], right[1:].mean(axis=0)), strict=True
    ):
        means = [100 * np.average(values, weights=c) for c in counts]
        assert condition['metrics']['accuracy/top1']['interval'] == pytest.approx(
            np.quantile(means, [0.025, 0.975]).tolist()
        )
    for without in (summarise(rows, predictions, resamples=0), summarise(rows)):
        assert without['bootstrap'] is None
        assert 'interval' not in without['conditions'][0]['metrics']['accuracy/top1']


def test_area_is_the_mean_over_the_range():
    assert area_under_severity([1, 2, 3, 4, 5], [80] * 5, 80) == pytest.approx(80)
    assert area_under_severity([1, 2, 3, 4, 5], [80, 60, 40, 20, 0], 100) == pytest.approx(50)
    assert area_under_severity([5, 10], [70, 50], 90) == pytest.approx((80 + 60) / 2)
    assert area_under_severity([1, 4], [60, 30], 100) == pytest.approx(80 / 4 + 45 * 3 / 4)
    rows = [make_row(accuracy=100.0), *(noisy('g', s, 100.0 - 10 * s, 0) for s in (5, 1, 3))]
    rows += [noisy('g', 3, 60.0, 1), make_row('missing@a', 20.0, attack='missing', seed=0)]
    g, missing = summarise(rows)['curves']
    assert g['strengths'] == [1, 3, 5]
    # severity 3: mean of 70 and 60
    assert g['area']['accuracy/top1'] == pytest.approx((95 * 1 + 77.5 * 2 + 57.5 * 2) / 5)
    assert (missing['axis'], missing['area']) == (None, {})
    assert missing['relative_robustness'] == pytest.approx(0.2)


def test_curves_are_apart_by_protocol_modality_and_axis():
    rows = [
        make_row(),
        noisy('g', 1, 80.0),
        noisy('g', 2, 70.0),
        noisy('g', 1, 60.0, modalities=('a', 'b')),
        noisy('g', 1, 50.0) | {'protocol': 'other'},
        noisy('g', None, 40.0) | {'epsilon': 5.0, 'condition': 'g eps 5'},
        make_row('drop a', 30.0, attack='missing', modalities=['a'], seed=0),
        make_row('drop b', 30.0, attack='missing', modalities=['b'], seed=0),
    ]
    curves = curves_of(rows)
    assert [c.members for c in curves] == [
        ((1,), (2,)), ((3,),), ((4,),), ((5,),), ((6,),), ((7,),)
    ]  # fmt: skip
    assert [c.label for c in curves] == ['g@a', 'g@a+b', 'g@a', 'g@a', 'drop a', 'drop b']
    assert len({c.key for c in curves}) == 6


ATTACKS = [
    'spatter:1-3@m',
    'spatter:1-3,liquid=mud@m',
    'spatter:1-3,liquid=water@m',
    'correlated:1-3@m',
    'correlated:1-3,probability=0.2@m',
    'salt_pepper:1-3@m',
    'salt_pepper:1-3,field=channel@m',
    'pgd:1-3@m',
    'pgd:1-3,steps=40,step_size=0.1@m',
]


def test_curves_are_apart_by_options():
    rows = [make_row()]
    for seed in (0, 1):
        for attack in ATTACKS:
            conditions = [c.describe() for c in parse_attack(attack, {'m': 'image'}, seed)]
            rows += [make_row(accuracy=50.0) | told for told in conditions]
    curves = curves_of(rows)
    assert [c.label for c in curves] == [
        a.replace(':1-3@', '@').replace(':1-3,', ':') for a in ATTACKS
    ]
    assert all(c.strengths == (1, 2, 3) for c in curves)
    assert all(len(numbers) == 2 for c in curves for numbers in c.members)
    assert len({c.key for c in curves}) == len(ATTACKS)
    lines = curves_table(summarise(rows)).splitlines()[2:]
    assert len({line.split()[0] for line in lines}) == len(ATTACKS)
    titles = [ax.get_title() for ax in draw_robustness([make_results(rows)]).axes]
    assert 'spatter on m (liquid=water)' in titles
    assert len(set(titles)) == len(ATTACKS)


def test_a_curve_is_the_same_for_a_model_of_fewer_modalities():
    def rows(*hit):
        rows = [make_row()]
        for e in (5.0, 10.0):
            place = dict(attack='g', epsilon=e, modalities=list(hit), seed=0)
            rows.append(make_row(f'g eps {e:g}', 80.0, **place))
        return rows

    one, both = make_results(rows('a')), make_results(rows('a', 'b'), 'both')
    against = summarise(one['rows'], reference=both)['reference']
    assert [c['label'] for c in against['corruptions']] == ['g@a']
    assert against['mce'] == pytest.approx(100)
    (ax,) = draw_robustness([one, both]).axes
    assert ax.get_title() == 'g on a + b'
    assert len(ax.lines) == 2


def test_mce_is_that_of_imagenet_c():
    mine = [make_row(accuracy=90.0)]
    mine += [noisy('g', s, v) for s, v in zip((1, 2, 3), (80, 70, 60), strict=True)]
    mine += [noisy('h', s, v) for s, v in zip((1, 2), (50, 40), strict=True)]
    mine += [make_row('missing@a', 55.0, attack='missing', modalities=['a'], seed=0)]
    other = [make_row(accuracy=80.0)]
    other += [noisy('g', s, v) for s, v in zip((1, 2, 3), (75, 60, 50), strict=True)]
    other += [noisy('g', 1, 0.0, seed=7)]  # a noise seed that mine was not tested with
    other += [noisy('h', s, v) for s, v in zip((1, 2), (80, 80), strict=True)]
    other += [make_row('missing@a', 10.0, attack='missing', modalities=['a'], seed=0)]
    found = summarise(mine, reference=make_results(other), reference_source={'path': 'r.json'})
    against = found['reference']
    g, h, missing = against['corruptions']
    assert g['ce'] == pytest.approx(100 * (20 + 30 + 40) / (25 + 40 + 50))
    assert g['relative_ce'] == pytest.approx(100 * (10 + 20 + 30) / (5 + 20 + 30))
    assert h['ce'] == pytest.approx(100 * (50 + 60) / (20 + 20))
    assert h['relative_ce'] is None  # the noise does not harm the reference
    assert missing['ce'] == pytest.approx(50)
    assert against['mce'] == pytest.approx((g['ce'] + h['ce']) / 2)
    assert against['relative_mce'] == pytest.approx(g['relative_ce'])
    assert g['reference_relative_robustness'] == pytest.approx((75 + 60 + 50) / 3 / 80)
    curve = found['curves'][0]
    assert curve['relative_robustness'] == pytest.approx(70 / 90)
    assert against['path'] == 'r.json'
    same = summarise(mine, reference=make_results(mine))['reference']
    assert same['mce'] == same['relative_mce'] == pytest.approx(100)


def test_rank_correlation_is_scipys():
    rng = np.random.default_rng(0)
    w = rng.random((30, 4)).round(1)  # ties
    w -= 0.1 * np.arange(4)
    x = np.tile([0, 1, 3, 5], (30, 1))
    expected = spearmanr(x.ravel(), w.ravel()).statistic
    assert rank_correlation([0, 1, 3, 5], w) == pytest.approx(expected)
    assert rank_correlation([0, 1], [[0.9, 0.1], [0.8, 0.2]]) == pytest.approx(-2 / 5**0.5)
    assert rank_correlation([0, 1], np.full((3, 2), 0.5)) is None


def test_ties_are_no_falls():
    assert falls([0.5, 0.5, 0.5, 0.5], [0.5, 0.4, 0.6, 0.5 - 1e-8]) == 0.25


def test_contribution_under_noise():
    n = 25
    rng = np.random.default_rng(1)
    clean = 0.4 + 0.2 * rng.random(n)
    rows, predictions = [make_row(contribution={'a': 0.5, 'b': 0.5})], []
    levels = {}
    for severity in (0, 1, 2):
        for seed in (0, 1) if severity else (0,):
            w = clean.copy()
            w[: 8 * severity] -= 0.1 * severity + 0.01 * seed
            levels.setdefault(severity, []).append(w)
            p = make_predictions(seed, n, weights=np.stack([w, 1 - w], axis=1))
            predictions.append(p)
            if severity:
                rows.append(noisy('g', severity, 50.0, seed, contribution=rows[0]['contribution']))
    (found,) = summarise(rows, predictions, resamples=200)['contribution']
    means = [np.mean(levels[s], axis=0) for s in (0, 1, 2)]
    assert found['strengths'] == [0, 1, 2]
    assert found['mean']['a'] == pytest.approx([m.mean() for m in means], abs=2e-6)
    assert found['mean']['b'] == pytest.approx([1 - m.mean() for m in means], abs=2e-6)
    assert list(found['hit']) == ['a']
    assert found['hit']['a']['falls'] == pytest.approx([8 / 25, 16 / 25], abs=1e-6)
    expected = spearmanr(np.repeat([0, 1, 2], n), np.concatenate(means)).statistic
    assert found['hit']['a']['spearman'] == pytest.approx(expected, abs=1e-3)
    for (low, high), mean in zip(found['interval']['a'], found['mean']['a'], strict=True):
        assert low < mean < high
    without = [{k: v for k, v in p.items() if k != 'contribution'} for p in predictions]
    assert summarise(rows, without)['contribution'] == []


def weighed(*weights):
    """Predictions with the W [N, M] given."""
    return [make_predictions(0, len(w), weights=w) for w in weights]


def test_samples_without_the_modality_do_not_count():
    clean = np.array([[0.6, 0.4], [0.5, 0.5], [0.3, 0.7], [0.7, 0.3]])
    low = clean + np.array([[-0.2, 0.2], [-0.1, 0.1], [0.1, -0.1], [-0.3, 0.3]])
    lacking = np.concatenate([clean, [[0.0, 1.0]] * 3])  # three more samples have no a
    lower = np.concatenate([low, [[0.0, 1.0], [0.0, 1.0], [0.4, 0.6]]])  # one gets it by a swap
    weights = {'a': 0.5, 'b': 0.5}
    rows = [make_row(contribution=weights), noisy('g', 1, 50.0), noisy('g', 3, 50.0)]
    (whole,) = summarise(rows, weighed(clean, low, low), resamples=0)['contribution']
    (found,) = summarise(rows, weighed(lacking, lower, lower), resamples=0)['contribution']
    assert whole['hit']['a']['falls'] == [0.75, 0.75]
    assert found['hit'] == whole['hit']
    assert found['mean']['a'][0] == pytest.approx(clean[:, 0].sum() / 7, abs=1e-6)
    table = curves_table(summarise(rows, weighed(lacking, lower, lower), resamples=0))
    assert table.splitlines()[2].split()[-2] == '75'


def test_w_of_a_modality_that_no_sample_has():
    nobody = np.array([[0.0, 1.0]] * 4)
    rows = [make_row(contribution={'a': 0.0, 'b': 1.0}), noisy('g', 1, 50.0), noisy('g', 2, 50.0)]
    summary = summarise(rows, weighed(nobody, nobody, nobody), resamples=50)
    assert summary['contribution'][0]['hit']['a'] == {'spearman': None, 'falls': [None, None]}
    assert curves_table(summary).splitlines()[2].split()[-2:] == ['-', '-']


def test_samples_that_lose_their_last_modality_are_told():
    weights = {'a': 0.5, 'b': 0.5}
    rows = [make_row(contribution=weights)]
    rows += [noisy('missing', s, 50.0, seed) for s in (1, 2) for seed in (0, 1)]
    clean = np.array([[0.6, 0.4], [1.0, 0.0], [1.0, 0.0]])
    one = np.array([[0.6, 0.4], [0.0, 0.0], [1.0, 0.0]])
    two = np.array([[0.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
    found = summarise(rows, weighed(clean, clean, one, two, one), resamples=0)
    assert [c['no_modality'] for c in found['conditions']] == [0, 1, 2]
    assert summary_lines(found)[-1].startswith(
        'samples without any modality left: 1 under missing:1@a, 2 under missing:2@a; '
    )
    for c in found['conditions'][:2]:
        c['no_modality'] = 3
    found['conditions'] += [{**found['conditions'][2], 'condition': 'drop b'}]
    assert 'left: 2 to 3 under 4 conditions; ' in summary_lines(found)[-1]
    # W does not tell
    assert [c['no_modality'] for c in summarise(rows)['conditions']] == [None] * 3
    # only clean, with a sample of nothing
    (line,) = summary_lines(summarise(rows[:1], weighed(one), resamples=0))
    assert '1 under clean' in line
    # a file of an older version
    for c in found['conditions']:
        del c['no_modality']
    assert 'without any modality' not in ' '.join(summary_lines(found))


def test_only_clean_and_nothing():
    found = summarise([make_row()])
    assert (found['curves'], found['relative_robustness']) == ([], None)
    assert curves_table(found) == ''
    assert summary_lines(found) == []
    assert summarise([])['conditions'] == []


def test_printed_tables():
    predictions = [make_predictions(s, 40, 0.8) for s in range(3)]
    rows = [make_row(accuracy=80.0), noisy('g', 1, 60.0), noisy('g', 2, 40.0)]
    results = make_results(rows, predictions=predictions)
    table = results_table(results).splitlines()
    low, high = results['summary']['conditions'][1]['metrics']['accuracy/top1']['interval']
    assert table[0].split()[3:6] == ['95', '%', 'interval']
    assert f'{low:.1f} to {high:.1f}' in table[3]
    results['summary'] = summarise(
        rows, reference=make_results(rows), reference_source={'path': 'r.json'}
    )
    (line,) = curves_table(results['summary']).splitlines()[2:]
    assert line.split() == ['g@a', '1,2', '60.00', '0.625', '100.0', '100.0']
    assert any('mCE 100.0 over 1 corruptions' in t for t in summary_lines(results['summary']))


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda s: s.pop('curves'), 'summary: the key "curves"'),
        (
            lambda s: s['conditions'][0].pop('metrics'),
            r'summary.conditions\[0\]: the key "metrics"',
        ),
        (lambda s: s.update(contribution=[3]), r'summary.contribution\[0\] is int'),
        (lambda s: s['curves'][0].update(strengths=1), r'"strengths" is 1, expected list'),
        (lambda s: s.update(reference=[]), r'"reference" is \[\]'),
    ],
)
def test_the_schema_is_checked(tmp_path, change, message):
    results = make_results([make_row(), noisy('g', 1, 60.0)])
    save_results(tmp_path / 'r.json', results)
    change(results['summary'])
    with pytest.raises(ResultsError, match=message):
        save_results(tmp_path / 'r.json', results)


def test_old_files_are_read():
    results = make_results([make_row()])
    results.pop('summary')
    old = {'format': 'cal_mm.results', 'schema_version': 1, **results}
    assert validate_results(old) is old
    with pytest.raises(ResultsError, match='the key "summary"'):
        validate_results({**old, 'schema_version': 2})
    with pytest.raises(ResultsError, match='reads 1 and 2'):
        validate_results({**old, 'schema_version': True})
