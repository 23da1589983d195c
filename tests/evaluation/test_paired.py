"""Paired comparison of two results files."""

from pathlib import Path

import numpy as np
import pytest
from results_builders import make_run, write_run

from cal_mm.evaluation import ResultsError, save_predictions
from cal_mm.evaluation import statistics as S
from cal_mm.evaluation.paired import compare_pairs, plain_summary
from cal_mm.evaluation.pairs import load_run, pair_conditions
from cal_mm.evaluation.report import predictions_path


@pytest.fixture
def runs(tmp_path):
    """Write two runs, the second changed by the test, and load them."""

    def make(change=None, **second):
        write_run(tmp_path / 'a.json', *make_run('one', shares=(0.9, 0.5)))
        results, predictions = make_run('two', **{'seed': 50, 'shares': (0.9, 0.95), **second})
        if change is not None:
            change(results, predictions)
        write_run(tmp_path / 'b.json', results, predictions)
        return load_run(tmp_path / 'a.json'), load_run(tmp_path / 'b.json')

    return make


def test_samples_are_aligned_by_id(runs):
    order = np.random.default_rng(0).permutation(60)
    plain = compare_pairs(pair_conditions(*runs())[0], ['accuracy/top1', 'aurc'], 200)
    shuffled = compare_pairs(pair_conditions(*runs(order=order))[0], ['accuracy/top1'], 200)
    assert shuffled == plain[:2]


def test_comparison_is_that_of_its_parts(runs):
    a, b = runs()
    pairs, notes = pair_conditions(a, b)
    assert notes == []
    found = compare_pairs(pairs, ['nll', 'accuracy/top1'], 300, seed=2)
    assert [(c.metric, c.condition) for c in found] == [
        ('nll', 'clean'), ('nll', 'g:3@a'), ('accuracy/top1', 'clean'), ('accuracy/top1', 'g:3@a'),
    ]  # fmt: skip
    assert found[1].seeds == (0, 1)
    tests, p_values = [], []
    for rows in ([0], [1, 2]):
        right = [
            np.stack([r.predictions[i]['predicted'] == r.predictions[i]['labels'] for i in rows], 1)
            for r in (a, b)
        ]
        tests.append(S.mcnemar(*right))
        gap = (right[1].astype(float) - right[0]).mean(1)
        counts = np.concatenate(list(S.resample_counts(60, 300, 2)))
        p_values.append(S.bootstrap_p_value(counts @ gap))
        c = found[2 + (len(rows) > 1)]
        assert c.difference.value == pytest.approx(100 * gap.mean())
        assert c.difference.p == pytest.approx(p_values[-1])
    assert [c.mcnemar for c in found] == [None, None, *tests]
    assert [c.mcnemar_holm for c in found[2:]] == S.holm([t.p for t in tests])
    assert [c.p_holm for c in found[2:]] == pytest.approx(S.holm(p_values))
    losses = [-np.log(p['scores'][np.arange(60), p['labels']]).mean() for p in a.predictions]
    assert found[0].difference.first == pytest.approx(losses[0], rel=1e-5)
    assert found[1].difference.first == pytest.approx(np.mean(losses[1:]), rel=1e-5)


def test_whole_groups_are_compared(runs):
    """As from one sample a group, with each 5 times; McNemar's test would count 60."""
    names = np.repeat([f's{i}' for i in range(12)], 5)
    pairs, _ = pair_conditions(*runs())
    for pair in pairs:
        for side in (*pair.first, *pair.second):
            for key in ('labels', 'scores', 'predicted'):
                side[key] = np.repeat(side[key][::5], 5, axis=0)
    apart = compare_pairs(pairs, ['accuracy/top1', 'aurc'], 300)
    for pair in pairs:
        for side in (*pair.first, *pair.second):
            side['groups'] = names
    found = compare_pairs(pairs, ['accuracy/top1', 'aurc'], 300)
    assert [(c.num_groups, c.mcnemar) for c in found] == [(12, None)] * 4
    right = [
        np.mean([s['predicted'][::5] == s['labels'][::5] for s in side], axis=0)
        for side in (pairs[1].first, pairs[1].second)
    ]
    counts = next(S.resample_counts(12, 300))
    gap = counts @ (right[1] - right[0]) / 12
    assert found[1].difference.p == pytest.approx(max(S.bootstrap_p_value(gap), 2**-11))
    assert [found[1].difference.low, found[1].difference.high] == pytest.approx(
        [100 * e for e in S.percentile_interval(gap)]
    )
    assert apart[1].better == 'second'
    lines = plain_summary(found, ['one', 'two'], 300)
    assert 'paired bootstrap' in lines[0]
    assert 'in 12 groups. No p-value can be below 0.00049' in lines[1]
    for pair in pairs:  # a file from before there were groups
        for side in pair.first:
            del side['groups']
    assert compare_pairs(pairs, ['accuracy/top1', 'aurc'], 300) == found


def test_verdict_and_its_words(runs):
    pairs, _ = pair_conditions(*runs())
    found = compare_pairs(pairs, ['accuracy/top1', 'nll'], 2000)
    assert [c.better for c in found] == [None, 'second', None, 'second']
    assert found[3].difference.value < 0  # less loss is better
    lines = plain_summary(found, ['one', 'two'], 2000)
    assert lines[0] == (
        'accuracy/top1 (exact McNemar, Holm-corrected over 2 conditions, 5 % level): two is '
        'significantly better than one in 1 condition (g:3@a); no significant difference in the '
        'other 1.'
    )
    back = [pair_conditions(*reversed(runs()))[0]]
    assert compare_pairs(back[0], resamples=500)[1].better == 'first'
    nothing = plain_summary(found[:1], ['one', 'two'], 2000)
    assert 'no significant difference between one and two in clean' in nothing[0]
    # 19 resamples: p is at least 0.1
    few = plain_summary(compare_pairs(pairs, ['nll'], 19), ['one', 'two'], 19)
    assert 'no significant difference' in few[0]
    assert 'raise --resamples' in few[1]


def test_a_model_does_not_differ_from_itself(runs):
    a, _ = runs()
    found = compare_pairs(pair_conditions(a, a)[0], ['accuracy/top1', 'aurc', 'f1/macro'], 100)
    assert all(c.better is None and c.difference.p == 1 and c.p_holm == 1 for c in found)
    assert found[0].mcnemar == S.McNemar(0, 0, 1.0)


def test_only_common_conditions_and_seeds(runs):
    a, b = runs(seeds=(1, 2))
    pairs, notes = pair_conditions(a, b)
    assert [p.seeds for p in pairs] == [(), (1,)]
    np.testing.assert_array_equal(pairs[1].first[0]['scores'], a.predictions[2]['scores'])
    np.testing.assert_array_equal(pairs[1].second[0]['scores'], b.predictions[1]['scores'])
    assert 'only the noise seeds that both files have (1)' in notes[0]

    def rename(results, predictions):
        for row in results['rows'][1:]:
            row['condition'] = 'h:3@a'

    pairs, notes = pair_conditions(*runs(rename))
    assert [p.condition for p in pairs] == ['clean']
    assert any('a.json, left out: g:3@a' in n for n in notes)
    assert any('b.json, left out: h:3@a' in n for n in notes)


def set_row(**facts):
    def change(results, predictions):
        results['rows'][1].update(facts)

    return change


def other_label(results, predictions):
    for p in predictions:
        wrong = p['predicted'][4] != p['labels'][4]
        p['labels'][4] = (p['labels'][4] + 1) % 3
        p['predicted'][4] = (p['labels'][4] + wrong) % 3


def other_id(results, predictions):
    for p in predictions:
        p['sample_ids'][4] = 'zz'


def repeated_id(results, predictions):
    for p in predictions:
        p['sample_ids'][4] = p['sample_ids'][5]


def no_id(results, predictions):
    for p in predictions:
        p['sample_ids'][4] = ''


@pytest.mark.parametrize(
    ('change', 'second', 'message'),
    [
        (None, {'digest': '9'}, "dataset digest is '0' in .*a.json and '9' in .*b.json"),
        (None, {'split': 'val'}, "dataset split is 'test'"),
        (None, {'version': '2'}, "dataset version is '1'"),
        (lambda r, p: r.update(split='val'), {}, 'different splits: test in'),
        (set_row(protocol_version=2), {}, 'clipped has version 1 in .* and 2 in'),
        (set_row(corruptions=[{'type': 'G'}]), {}, 'g:3@a is not the same noise in both'),
        (other_id, {}, r'1 only in the first \(s4\), 1 only in the second \(zz\)'),
        (repeated_id, {}, 'occur more than once: s5'),
        (no_id, {}, 'without an id'),
        (other_label, {}, '1 samples have another label in the second file, such as s4'),
        (None, {'n': 50}, r'10 only in the first \(s50, s51, s52 and 7 more\), 0 only'),
    ],
)
def test_what_cannot_be_paired(runs, change, second, message):
    with pytest.raises(ValueError, match=message):
        pair_conditions(*runs(change, **second))


def test_predictions_lie_beside_their_results_whatever_the_name():
    names = {'r.json': 'r', 'lr0.01': 'lr0.01', 'lr0.02': 'lr0.02', 'v1.2.json': 'v1.2'}
    for name, stem in names.items():
        assert predictions_path(f'out/{name}') == Path(f'out/{stem}.predictions.npz')


def test_models_of_other_modalities_under_the_same_noise(tmp_path):
    def run(name, *noise, extra=()):
        results, predictions = make_run(name)
        for row in results['rows'][1:]:
            row['modalities'] = [c['modality'] for c in noise]
            row['corruptions'] = list(noise)
        for row in extra:
            results['rows'].append({**results['rows'][1], 'condition': 'other', **row})
            predictions.append(predictions[1])
        return load_run(write_run(tmp_path / f'{name}.json', results, predictions))

    a, b = ({'modality': m, 'value': 5.0} for m in 'ab')
    both = run('both', a, b)
    (_, pair), _ = pair_conditions(run('one', a), both)
    assert pair.condition == 'g:3@a'
    with pytest.raises(ValueError, match='not the same noise in both'):
        pair_conditions(run('strong', {**a, 'value': 50.0}), both)
    # it takes b, and another condition shows it
    lacking = run('lacking', a, extra=[{'modalities': ['b'], 'corruptions': [b]}])
    with pytest.raises(ValueError, match='not the same noise in both'):
        pair_conditions(lacking, both)


def test_predictions_that_are_missing_damaged_or_stale(tmp_path):
    results, predictions = make_run('one')
    path = write_run(tmp_path / 'a.json', results, predictions)
    beside = predictions_path(path)
    good = beside.read_bytes()
    beside.unlink()
    with pytest.raises(FileNotFoundError, match=r'a.predictions.npz .* --save-predictions'):
        load_run(path)
    for content in (b'', good[: len(good) // 2], b'{}'):
        beside.write_bytes(content)
        with pytest.raises(ResultsError, match=r'a.predictions.npz is damaged .*--save-pred'):
            load_run(path)
    save_predictions(beside, predictions[:2])
    with pytest.raises(ResultsError, match=r'of 2 rows, .* has 3'):
        load_run(path)
    save_predictions(beside, make_run('one', seed=9)[1])
    with pytest.raises(ResultsError, match='of another run than the results'):
        load_run(path)
    save_predictions(beside, [{k: v for k, v in p.items() if k != 'scores'} for p in predictions])
    with pytest.raises(ResultsError, match='lacks scores'):
        load_run(path)
    short = [{**p, 'labels': p['labels'][:5]} for p in predictions]
    save_predictions(beside, short)
    with pytest.raises(ResultsError, match='lengths that do not fit'):
        load_run(path)
