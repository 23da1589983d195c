"""The ledger survives a kill anywhere; a choice is made on validation and stands."""

import json
import shutil
from pathlib import Path

import pytest

from cal_mm.study import StudyError, records
from cal_mm.study.records import Ledger, append_line, code_digest, read_lines
from cal_mm.study.selection import (
    choices_table,
    choose,
    current_choice,
    finalists,
    make_choices,
)


def test_a_cut_line_is_no_row_and_is_cut_away(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.append({'digest': 'a', 'status': 'done'})
    whole = ledger.results.read_bytes()
    ledger.append({'digest': 'b', 'status': 'done', 'text': 'x' * 50})
    everything = ledger.results.read_bytes()
    for end in range(len(whole), len(everything)):
        ledger.results.write_bytes(everything[:end])
        assert list(ledger.rows()) == ['a']
        with ledger.writing():
            ledger.append({'digest': 'c', 'status': 'done'})
        assert list(ledger.rows()) == ['a', 'c']


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / 'results.jsonl'
    path.write_text('{"digest": "a"}\n{"dig\n')
    with pytest.raises(StudyError, match='line 2 is damaged'):
        read_lines(path)


def test_nan_is_refused(tmp_path):
    with pytest.raises(ValueError, match='not JSON compliant'):
        append_line(tmp_path / 'x', {'a': float('nan')})
    assert not (tmp_path / 'x').exists()


def test_rows_that_count(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.append({'digest': 'a', 'status': 'failed', 'error': 'x'})
    ledger.append({'digest': 'a', 'status': 'done'})
    ledger.append({'digest': 'a', 'status': 'failed', 'error': 'y'})
    ledger.append({'digest': 'b', 'status': 'done', 'predictions': ledger.keep('b', b'12')})
    ledger.append({'digest': 'c', 'status': 'done', 'predictions': 'predictions/c.npz'})
    rows = ledger.rows()
    assert {d: r['status'] for d, r in rows.items()} == {'a': 'done', 'b': 'done'}
    (tmp_path / 'predictions/b.npz').unlink()
    assert 'b' not in ledger.rows()


def test_one_writer(tmp_path):
    with (
        Ledger(tmp_path).writing(),
        pytest.raises(StudyError, match='another process'),
        Ledger(tmp_path).writing(),
    ):
        pass
    with Ledger(tmp_path).writing():
        pass


def test_code_digest_is_stable():
    assert code_digest() == code_digest()
    assert len(code_digest()) == 64


@pytest.mark.parametrize(('name', 'counts'), [('hooks', True), ('build', True), ('tables', False)])
def test_code_digest_is_of_what_makes_results(name, counts, tmp_path, monkeypatch):
    copy = shutil.copytree(Path(records.__file__).parents[1], tmp_path / 'cal_mm')
    monkeypatch.setattr(records, '_PACKAGE', copy)
    before = code_digest()
    with open(copy / 'study' / f'{name}.py', 'a') as f:
        f.write('# changed')
    assert (code_digest() != before) == counts


# ---- choices -------------------------------------------------------------------------------------


def fake_rows(trials, values):
    """values: {(lr, setting): [(accuracy, nll) or None for a failure, per tuning seed]}."""
    rows = {}
    for trial in trials:
        value = values[trial.lr, trial.setting][trial.seed]
        row = {**trial.record(), 'status': 'done' if value else 'failed'}
        if value:
            row['val'] = {'epoch': 2, 'accuracy': value[0], 'nll': value[1]}
        rows[trial.digest] = row
    return rows


@pytest.mark.parametrize(
    ('values', 'chosen'),
    [
        # the mean over the tuning seeds counts, not the best seed
        ({(0.05, 0): [(99, 1), (60, 1)], (0.05, 1): [(81, 1), (80, 1)]}, (0.05, 1)),
        # of equals the lower nll, then the first
        ({(0.1, 0): [(90, 0.5), (90, 0.5)], (0.1, 1): [(90, 0.4), (90, 0.5)]}, (0.1, 1)),
        ({(0.05, 0): [(90, 1), (90, 1)], (0.1, 0): [(90, 1), (90, 1)]}, (0.05, 0)),
        # a failure takes its candidate out
        ({(0.05, 0): [(99, 1), None], (0.1, 1): [(50, 1), (50, 1)]}, (0.1, 1)),
    ],
)
def test_choose(raw, plan_of, values, chosen):
    raw['tuning_seeds'] = [0, 1]
    plan = plan_of(raw)
    cell = plan.selections()[0]
    rest = {c: [(10, 1), (10, 1)] for c in plan.candidates(cell)}
    rows = fake_rows(plan.tuning(cell), {**rest, **values})
    choice = choose(plan, cell, rows)
    assert (choice['lr'], choice['setting']) == chosen
    assert len(choice['candidates']) == 4
    assert json.dumps(choice, allow_nan=False)


def test_nothing_is_chosen_too_early_or_of_failures_alone(raw, plan_of):
    plan = plan_of(raw)
    cell = plan.selections()[0]
    rows = fake_rows(plan.tuning(cell), {c: [(10, 1)] for c in plan.candidates(cell)})
    for digest in rows:
        assert choose(plan, cell, {d: r for d, r in rows.items() if d != digest}) is None
    failed = fake_rows(plan.tuning(cell), {c: [None] for c in plan.candidates(cell)})
    assert choose(plan, cell, failed) is None


def test_a_choice_stands(raw, plan_of, tmp_path):
    plan = plan_of(raw)
    ledger = Ledger(tmp_path / 'work')
    for cell in plan.selections():
        for row in fake_rows(
            plan.tuning(cell), {c: [(10 + c[1], 1)] for c in plan.candidates(cell)}
        ).values():
            ledger.append(row)
    made, undecided = make_choices(plan, ledger, ledger.rows())
    assert not undecided
    assert {c['setting'] for c in made.values()} == {1}
    content = ledger.selection.read_text()
    # the same trials with other numbers: what was written is what was chosen before the test
    for row in list(ledger.rows().values()):
        ledger.append({**row, 'val': {**row['val'], 'accuracy': 50 - row['setting']}})
    assert make_choices(plan, ledger, ledger.rows())[0] == made
    assert ledger.selection.read_text() == content
    # another grid is another selection
    raw['lrs'] = [0.05]
    assert current_choice(plan_of(raw), plan.selections()[0], ledger.choices(), {}) is None


def test_a_choice_falls_when_a_failure_was_mended(raw, plan_of, tmp_path):
    raw['tuning_seeds'] = [0, 1]
    plan = plan_of(raw)
    cell = plan.selections()[0]
    values = {c: [(10, 1), (10, 1)] for c in plan.candidates(cell)}
    values[0.1, 1] = [(90, 1), None]  # its worker was killed
    values[0.1, 0] = [(60, 1), (60, 1)]
    rows = fake_rows(plan.tuning(cell), values)
    choice = choose(plan, cell, rows)
    assert (choice['lr'], choice['setting']) == (0.1, 0)
    assert current_choice(plan, cell, [choice], rows) == choice
    values[0.1, 1][1] = (90, 1)
    rows = fake_rows(plan.tuning(cell), values)
    assert current_choice(plan, cell, [choice], rows) is None
    assert choose(plan, cell, rows)['setting'] == 1


def test_a_choice_of_other_code(raw, plan_of):
    plan = plan_of(raw)
    cell = plan.selections()[0]
    rows = fake_rows(plan.tuning(cell), {c: [(10, 1)] for c in plan.candidates(cell)})
    rows = {d: {**r, 'code_sha256': 'old'} for d, r in rows.items()}
    choice = choose(plan, cell, rows)
    assert current_choice(plan, cell, [choice], rows) == choice
    assert current_choice(plan, cell, [choice], rows, code='old') == choice
    assert current_choice(plan, cell, [choice], rows, code='new') is None


def two_rounds(raw, plan_of):
    """A cell of three seeds and one tuning seed with two finalists: the better ones swap places."""
    raw['seeds'], raw['tuning_seeds'], raw['finalists'] = [0, 1, 2], [0], 2
    plan = plan_of(raw)
    cell = plan.selections()[0]
    values = {
        (0.05, 0): [(80, 1), (99, 1), (99, 1)],  # third in the first round: no second one
        (0.05, 1): [(90, 1), (60, 1), (60, 1)],
        (0.1, 0): [(85, 1), (80, 1), (80, 1)],
        (0.1, 1): [None, (99, 1), (99, 1)],
    }
    return plan, cell, values


def test_the_second_round_decides_between_the_best(raw, plan_of):
    plan, cell, values = two_rounds(raw, plan_of)
    rows = fake_rows(plan.tuning(cell), values)
    assert finalists(plan, cell, dict(list(rows.items())[1:])) is None
    best = finalists(plan, cell, rows)
    assert best == [(0.05, 1), (0.1, 0)]
    assert choose(plan, cell, rows) is None
    second = plan.second_round(cell, best)
    assert [t.seed for t in second] == [1, 2, 1, 2]
    rows.update(fake_rows(second, values))
    choice = choose(plan, cell, rows)
    assert (choice['lr'], choice['setting'], choice['val']) == (0.1, 0, pytest.approx(245 / 3))
    assert [len(c['seeds']) for c in choice['candidates']] == [1, 3, 3, 1]
    # it stands, and another number of finalists is another selection
    choice = json.loads(json.dumps(choice))
    assert current_choice(plan, cell, [choice], rows) == choice
    raw['finalists'] = 3
    assert current_choice(plan_of(raw), cell, [choice], rows) is None
    raw['finalists'] = None  # as a study that inherits them takes them back
    assert current_choice(plan_of(raw), cell, [choice], rows) is None


def test_a_failure_in_the_second_round_takes_the_candidate_out(raw, plan_of):
    plan, cell, values = two_rounds(raw, plan_of)
    values[0.1, 0][2] = None
    second = plan.second_round(cell, [(0.05, 1), (0.1, 0)])
    rows = fake_rows([*plan.tuning(cell), *second], values)
    assert (choose(plan, cell, rows)['lr'], choose(plan, cell, rows)['setting']) == (0.05, 1)


def test_a_test_of_the_same_training_spares_the_tuning_trial(raw, plan_of):
    """Where a grid was widened after a test."""
    plan, cell, values = two_rounds(raw, plan_of)
    best = [(0.05, 1), (0.1, 0)]
    tested = plan.tests(cell, (0.1, 0))
    rows = fake_rows([*plan.tuning(cell), *plan.second_round(cell, best[:1]), *tested], values)
    assert choose(plan, cell, rows)['lr'] == 0.1
    # a test that failed does not
    for digest, row in list(rows.items()):
        if row['phase'] == 'test':
            rows[digest] = {**row, 'status': 'failed'}
    assert choose(plan, cell, rows) is None


def test_the_table_of_candidates(raw, plan_of):
    raw['tuning_seeds'] = [0, 1]
    plan = plan_of(raw)
    cell = plan.selections()[0]
    values = {c: [(10, 1), (12, 1)] for c in plan.candidates(cell)}
    values[0.1, 1] = [(50, 1), None]
    values[0.1, 0] = [(40, 1), (40, 1)]
    choice = choose(plan, cell, fake_rows(plan.tuning(cell), values))
    table = choices_table(plan, {cell: choice})
    assert table.header[1:] == ('lr 0.05 / 0', 'lr 0.05 / 1', 'lr 0.1 / 0', 'lr 0.1 / 1')
    (row,) = table.rows
    assert [c.text for c in row[1:]] == ['11.0 ± 1.4', '11.0 ± 1.4', '40.0 ± 0.0', 'failed']
    assert [c.bold for c in row[1:]] == [False, False, True, False]
