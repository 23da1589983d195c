"""Training targets from the label and a held-out prediction."""

import json
from types import SimpleNamespace

import pytest
import torch
from builders import CAL, batch, build, samples
from torch.nn import functional as F

from cal_mm.engine.hooks import ContributionHook
from cal_mm.engine.sources.estimate import estimate_from_predictions
from cal_mm.models.contribution import (
    ContributionEstimate,
    ContributionTracker,
    HeldOutPosteriors,
    mixed_targets,
)
from cal_mm.models.contribution.functional import coalition_plan
from cal_mm.structures import TrainProgress

DOUBTED = {**CAL['contribution'], 'source': 'ridge', 'soft_targets': 0.5}


def test_targets_in_a_loop():
    g = torch.Generator().manual_seed(0)
    posterior = torch.randn(6, 4, generator=g).softmax(-1)
    labels = torch.randint(4, (6,), generator=g)
    for share in (0.0, 0.2, 0.9):
        found = mixed_targets(posterior, labels, share)
        for i, label in enumerate(labels.tolist()):
            for c in range(4):
                expected = share * float(posterior[i, c]) + (1 - share if c == label else 0.0)
                assert float(found[i, c]) == pytest.approx(expected, abs=1e-6)
        assert torch.allclose(found.sum(-1), torch.ones(6))
    for bad in (-0.1, 1.0):
        with pytest.raises(ValueError, match='soft_targets'):
            mixed_targets(posterior, labels, bad)


def test_posteriors_are_found_by_name():
    table = HeldOutPosteriors(['a', 'b', 'a'], torch.tensor([[1.0, 0], [0.2, 0.8], [0.5, 0.5]]))
    assert len(table) == 2
    found, known = table.read(['b', 'x', 'a'])
    assert known.tolist() == [True, False, True]
    assert torch.equal(found, torch.tensor([[0.2, 0.8], [0.0, 0.0], [0.5, 0.5]]))
    with pytest.raises(ValueError, match='2 sample ids for 3 rows'):
        HeldOutPosteriors(['a', 'b'], torch.zeros(3, 2))


def test_the_cross_entropies_learn_them():
    model = build(**{**CAL, 'contribution': DOUBTED})
    tracker = model.contribution
    tracker.measured.fill_(True)
    data = batch(6)
    with pytest.raises(ValueError, match='held-out predictions'):
        model(**model.data_preprocessor(data, training=True), mode='loss')
    names = [s.sample_id for s in data['data_samples']]
    posterior = torch.rand(5, 3, generator=torch.Generator().manual_seed(1)).softmax(-1)
    tracker.posteriors = HeldOutPosteriors(names[:5], posterior)  # one sample is not known
    ready = model.data_preprocessor(data, training=True)
    with torch.no_grad():
        state = model.state(**ready, training=True)  # the same noise as the next call's
        losses = model(**ready, mode='loss')
    labels = state.known_labels
    targets = F.one_hot(labels, 3).float()
    targets[:5] = mixed_targets(posterior, labels[:5], 0.5)
    correct = (state.logits.argmax(-1) == labels).float().mean() * 100
    assert float(losses['accuracy_fused']) == pytest.approx(float(correct))
    expected = -(targets * state.logits.log_softmax(-1)).sum(-1).mean()
    assert float(losses['loss_fused']) == pytest.approx(float(expected), rel=1e-5)
    for m in model.modalities:
        u = state.unimodal_logits(m).detach()
        expected = -(targets * u.log_softmax(-1)).sum(-1).mean()
        assert float(losses[f'loss_unimodal/{m}']) == pytest.approx(float(expected), rel=1e-5)


def test_measured_while_training_there_are_none():
    with pytest.raises(ValueError, match="source='train'"):
        ContributionTracker({'a': 3}, 2, source='train', soft_targets=0.5)
    with pytest.raises(ValueError, match='soft_targets'):
        ContributionTracker({'a': 3}, 2, source='ridge', soft_targets=1.5)


def test_posteriors_of_an_estimate_are_calibrated_on_the_other_folds():
    g = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (300,), generator=g)
    plan = coalition_plan(2)
    own = torch.stack(
        [8 * F.one_hot(labels, 3) + 8 * torch.randn(300, 3, generator=g) for _ in range(2)]
    )
    logits = torch.einsum('sm,mnc->snc', plan.masks.float(), own)
    tracker = ContributionTracker({'a': 3, 'b': 3}, 3, source='ridge')
    prior = torch.full((3,), 1 / 3, dtype=torch.float64).log()
    folds = torch.arange(300) % 2
    found = estimate_from_predictions(tracker, plan, logits, own, labels, folds, prior)
    probs = found.posteriors
    assert torch.allclose(probs.sum(-1), torch.ones(300))
    index = torch.arange(300)
    calibrated = -probs[index, labels].clamp_min(1e-12).log().mean()
    raw = F.cross_entropy(logits[-1], labels)
    assert float(calibrated) < 0.8 * float(raw)
    assert torch.equal(probs.argmax(-1), logits[-1].argmax(-1))
    # a sample's own label must not move its own probabilities
    other = labels.clone()
    other[0] = (labels[0] + 1) % 3
    again = estimate_from_predictions(tracker, plan, logits, own, other, folds, prior).posteriors
    assert torch.equal(again[folds == 0], probs[folds == 0])


class Rows(torch.utils.data.Dataset):
    """A dataset that tells its ids, or not."""

    def __init__(self, names):
        self.rows = samples(len(names or 'xxxx'))
        if names is not None:
            self.sample_ids = names

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return self.rows[i]


def runner_of(model, names, resume=False):
    return SimpleNamespace(
        model=model,
        work_dir='/nowhere',
        epoch=0,
        _resume=resume,
        train_dataloader=SimpleNamespace(dataset=Rows(names)),
        logger=SimpleNamespace(info=lambda text: None),
    )


def estimate(posteriors):
    third = torch.full((3,), 1 / 3)
    details = {'information': [0, 0, 0], 'confidence': [0, 0, 0], 'undecided': False}
    return ContributionEstimate(third, third, third, third, details, posteriors)


def test_the_hook_hands_them_over_and_keeps_them(monkeypatch):
    found = torch.rand(4, 3).softmax(-1)
    calls = []

    def source(cfg):
        def measure(runner, model):
            calls.append(cfg)
            return estimate(found)

        return SimpleNamespace(measure=measure)

    monkeypatch.setattr('cal_mm.engine.hooks.contribution.build_source', source)
    names = ['p', 'q', 'r', 's']
    model = build(**{**CAL, 'contribution': DOUBTED})
    hook, runner = ContributionHook(), runner_of(model, names)
    hook.before_train(runner)
    assert torch.equal(model.contribution.posteriors.read(names)[0], found)
    assert not any('posterior' in key for key in model.state_dict())
    stored = {}
    hook.before_save_checkpoint(runner, stored)

    other, again = build(**{**CAL, 'contribution': DOUBTED}), ContributionHook()
    other.load_state_dict(model.state_dict())
    resumed = runner_of(other, names, resume=True)
    again.after_load_checkpoint(resumed, stored)
    again.before_train(resumed)
    assert len(calls) == 1
    assert torch.equal(other.contribution.posteriors.read(['s', 'p'])[0], found[[3, 0]])

    # without a resume the data may be others: measured anew
    fresh = ContributionHook()
    started = runner_of(other, names)
    fresh.after_load_checkpoint(started, stored)
    fresh.before_train(started)
    assert len(calls) == 2


def test_a_run_that_is_not_resumed_measures_anew(monkeypatch):
    calls = []
    monkeypatch.setattr(
        'cal_mm.engine.hooks.contribution.build_source',
        lambda cfg: SimpleNamespace(
            measure=lambda runner, model: calls.append(1) or estimate(torch.zeros(4, 3))
        ),
    )
    model = build(**{**CAL, 'contribution': dict(source='ridge')})
    model.contribution.measured.fill_(True)  # from the checkpoint of another run
    ContributionHook().before_train(runner_of(model, list('abcd'), resume=True))
    assert not calls
    ContributionHook().before_train(runner_of(model, list('abcd')))
    assert len(calls) == 1


def test_the_history_states_the_error_of_sampled_values(monkeypatch, tmp_path):
    errors = [0.01, 0.02, 0.03]
    told = estimate(None)
    told.details['sampling_error'] = errors
    monkeypatch.setattr(
        'cal_mm.engine.hooks.contribution.build_source',
        lambda cfg: SimpleNamespace(measure=lambda runner, model: told),
    )
    model = build(**{**CAL, 'contribution': dict(source='ridge')})
    model.progress = TrainProgress(update=3)
    logged = []
    for epoch, resume in ((0, False), (1, True)):
        runner = runner_of(model, list('abcd'), resume)
        runner.work_dir, runner.epoch = str(tmp_path), epoch
        runner.optim_wrapper, runner.logger.info = None, logged.append
        hook = ContributionHook()
        hook.before_train(runner)
        hook.after_train_epoch(runner)
    assert 'a 0.010, b 0.020, c 0.030' in logged[0]
    rows = [json.loads(line) for line in (tmp_path / 'contribution.jsonl').read_text().splitlines()]
    assert [row['sampling_error'] for row in rows] == [dict(zip('abc', errors, strict=True))] * 2


def test_what_the_hook_refuses(monkeypatch):
    given = {'posteriors': None}
    monkeypatch.setattr(
        'cal_mm.engine.hooks.contribution.build_source',
        lambda cfg: SimpleNamespace(measure=lambda runner, model: estimate(given['posteriors'])),
    )
    model = build(**{**CAL, 'contribution': DOUBTED})
    with pytest.raises(ValueError, match='does not give'):
        ContributionHook().before_train(runner_of(model, list('abcd')))
    model = build(**{**CAL, 'contribution': DOUBTED})
    with pytest.raises(ValueError, match='sample_ids'):
        ContributionHook().before_train(runner_of(model, None))
