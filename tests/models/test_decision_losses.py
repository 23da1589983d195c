"""Losses of QMF, PDF, TMC and ETMC, and the history of samples, against slow references."""

import math
import sys

import numpy as np
import pytest
import torch
from commands import run
from scipy import special

from cal_mm.models.fusions.evidential import evidential_loss
from cal_mm.models.losses.qmf import normalised_history, pairwise_ranking
from cal_mm.models.losses.sample_history import SampleHistory, history_key
from cal_mm.models.state import ForwardState
from cal_mm.registry import LOSSES
from cal_mm.structures import TrainProgress

NAMES = ('a', 'b')
C = 3


def state(labels, unimodal, details, present=None, ids=None, epoch=1):
    """A forward pass whose z are the unimodal logits themselves."""
    z = dict(zip(NAMES, unimodal, strict=True))
    return ForwardState(
        modalities=NAMES,
        num_classes=C,
        features=z,
        z=z,
        mu=z,
        kl={},
        logits=unimodal[0],
        log_prior=torch.zeros(C),
        fuse=lambda *_: None,
        head=lambda _, value: value,
        labels=torch.tensor(labels),
        present=present,
        sample_ids=ids or [f's{i}' for i in range(len(labels))],
        progress=TrainProgress(epoch=epoch, max_epochs=5),
        details=details,
    )


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---- QMF ----


def ranking_by_loops(confidence, kappa, margin):
    """The public code's steps, one pair after another."""
    out = []
    for i in range(len(confidence)):
        j = (i + 1) % len(confidence)
        t = float(kappa[i] > kappa[j]) - float(kappa[i] < kappa[j])
        d = abs(kappa[i] - kappa[j])
        if margin == 'released':  # MarginRankingLoss(c_i, c_j + d / t, -t)
            second = confidence[j] + d / (t or 1)
            out.append(max(0.0, t * (confidence[i] - second)))
        else:
            out.append(max(0.0, t * (confidence[i] - confidence[j]) + d))
    return out


@pytest.mark.parametrize('margin', ['released', 'paper'])
def test_pairwise_ranking_by_loops(margin):
    confidence = random(9)
    kappa = random(9, seed=1).sigmoid()
    kappa[3] = kappa[4]  # nothing to rank
    got = pairwise_ranking(confidence, kappa, margin)
    expected = ranking_by_loops(confidence.tolist(), kappa.tolist(), margin)
    assert got.tolist() == pytest.approx(expected, abs=1e-12)
    assert got[3] == 0
    assert (got > 0).any()


def test_released_ranking_is_torchs_margin_ranking():
    confidence, kappa = random(7), random(7, seed=1).sigmoid()
    target = (kappa - kappa.roll(-1)).sign()
    second = confidence.roll(-1) + (kappa - kappa.roll(-1)).abs() / target
    expected = torch.nn.functional.margin_ranking_loss(confidence, second, -target)
    torch.testing.assert_close(pairwise_ranking(confidence, kappa).mean(), expected)


def test_ranking_over_two_epochs_by_hand():
    """Sums per sample over changing batches, scaled over all samples, in numpy."""
    loss = LOSSES.build(dict(type='ConfidenceRanking', weight=0.5))
    loss.setup({'a': 4, 'b': 4}, C)
    labels = {f's{i}': i % C for i in range(6)}
    sums = {m: dict.fromkeys(labels, 0.0) for m in NAMES}
    batches = [['s0', 's1', 's2'], ['s3', 's4', 's5'], ['s4', 's0', 's3'], ['s5', 's2', 's1']]
    for step, ids in enumerate(batches):
        unimodal = [random(3, C, seed=10 * step + k) for k in range(2)]
        confidence = random(3, 2, seed=100 + step)
        got = loss(
            state(
                [labels[i] for i in ids],
                unimodal,
                dict(confidence=confidence),
                ids=ids,
                epoch=step // 2,
            )
        )
        for k, m in enumerate(NAMES):
            for row, i in enumerate(ids):
                logits = unimodal[k][row].numpy()
                sums[m][i] += special.logsumexp(logits) - logits[labels[i]]
            table = np.array(list(sums[m].values()))  # not yet seen: 0, as in the public code
            kappa = [(sums[m][i] - table.min()) / (table.max() - table.min()) for i in ids]
            if step == 1:  # here the first epoch is still going on: the least stays 0
                kappa = [sums[m][i] / table.max() for i in ids]
            expected = np.mean(ranking_by_loops(confidence[:, k].tolist(), kappa, 'released'))
            assert got[f'loss_rank/{m}'].item() == pytest.approx(0.5 * expected, abs=1e-6)


def test_ranking_has_a_gradient_in_confidence_only():
    loss = LOSSES.build(dict(type='ConfidenceRanking', margin='paper'))
    loss.setup({'a': 4, 'b': 4}, C)
    confidence = random(4, 2).requires_grad_()
    unimodal = [random(4, C, seed=k).requires_grad_() for k in range(2)]
    sum(loss(state([0, 1, 2, 0], unimodal, dict(confidence=confidence))).values()).backward()
    assert confidence.grad.abs().sum() > 0
    assert all(u.grad is None for u in unimodal)


def test_ranking_needs_both_of_a_pair():
    loss = LOSSES.build(dict(type='ConfidenceRanking', margin='paper'))
    loss.setup({'a': 4, 'b': 4}, C)
    present = torch.tensor([[True, True], [True, False], [True, True], [True, True]])
    confidence = random(4, 2).requires_grad_()
    unimodal = [random(4, C, seed=k) for k in range(2)]
    got = loss(state([0, 1, 2, 0], unimodal, dict(confidence=confidence), present))
    got['loss_rank/b'].backward()
    assert confidence.grad[1].tolist() == [0, 0]
    assert confidence.grad[3, 1] != 0
    held = loss.history.read(['s1', 's2'])
    assert held[0, 1] == 0
    assert held[0, 0] > 0


def test_one_sample_or_equal_histories_are_no_pair():
    same = normalised_history(torch.ones(2, 1), torch.ones(1), torch.ones(1))
    assert same.tolist() == [[0], [0]]
    loss = LOSSES.build(dict(type='ConfidenceRanking', margin='paper'))
    loss.setup({'a': 4, 'b': 4}, C)
    one = state([1], [random(1, C), random(1, C)], dict(confidence=random(1, 2)), epoch=0)
    assert [float(v) for v in loss(one).values()] == [0, 0]


def test_history_grows_and_survives_a_checkpoint():
    history = SampleHistory(2, capacity=2)
    ids = [f'clip/{i}' for i in range(7)]
    for start in (0, 3, 5):
        values = torch.arange(start, 7.0)[:, None].expand(-1, 2)
        history.book(ids[start:], values)
    assert len(history) == 7
    expected = [0, 1, 2, 6, 8, 15, 18]
    assert history.read(ids)[:, 0].tolist() == expected
    assert history.read(['never'])[0].tolist() == [0, 0]
    assert [float(v[1]) for v in history.extent()] == [0, 18]
    other = SampleHistory(2, capacity=2)
    other.load_state_dict(history.state_dict())
    assert other.read(ids[::-1])[:, 1].tolist() == expected[::-1]
    other.book(['new', ids[1]], torch.ones(2, 2))
    assert other.read([ids[1], 'new'])[:, 0].tolist() == [2, 1]
    assert history.read([ids[1], 'new'])[:, 0].tolist() == [1, 0]
    assert all(0 <= history_key(i) < 2**63 for i in ids)


RANKS = """
import sys, torch, torch.distributed as dist
from cal_mm.compat import end_distributed
from cal_mm.models.losses.sample_history import SampleHistory
dist.init_process_group('gloo')
rank, history = dist.get_rank(), SampleHistory(1, capacity=2)
batches = [[['a', 'b', 'c'], ['d']], [['d', 'e'], ['a', 'f']]]
for batch in batches:
    ids = batch[rank]
    history.book(ids, torch.tensor([[float(ord(i))] for i in ids]))
torch.save((history.state_dict(), history.read(list('abcdef'))), f'{sys.argv[1]}/{rank}.pt')
end_distributed()
"""


@pytest.mark.slow
def test_history_is_the_same_on_every_rank(tmp_path):
    """Batches of different sizes; samples that change the rank."""
    script = tmp_path / 'ranks.py'
    script.write_text(RANKS)
    launch = ['-m', 'torch.distributed.run', '--nproc_per_node=2', '--standalone']
    run([sys.executable, *launch, str(script), str(tmp_path)])
    (one, sums), (two, _) = (torch.load(tmp_path / f'{r}.pt') for r in range(2))
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert sums[:, 0].tolist() == [97 * 2, 98, 99, 100 * 2, 101, 102]


# ---- PDF ----


def test_true_class_confidence_by_hand():
    loss = LOSSES.build(dict(type='TrueClassConfidence', weight=2.0))
    labels, unimodal = [2, 0, 1], [random(3, C, seed=k).requires_grad_() for k in range(2)]
    confidence = random(3, 2, seed=5).sigmoid().requires_grad_()
    present = torch.tensor([[True, True], [True, False], [True, True]])
    got = loss(state(labels, unimodal, dict(confidence=confidence), present))
    for k, m in enumerate(NAMES):
        expected = 0.0
        for i, label in enumerate(labels):
            if present[i, k]:
                probs = special.softmax(unimodal[k][i].detach().numpy())
                expected += abs(confidence[i, k].item() - probs[label])
        assert got[f'loss_confidence/{m}'].item() == pytest.approx(2 * expected / 3, rel=1e-6)
    sum(got.values()).backward()
    assert all(u.grad is None for u in unimodal)
    assert confidence.grad[1, 1] == 0


# ---- TMC ----


def kl_by_scipy(alpha):
    """KL(Dir(alpha) || Dir(1)) as the difference of the Dirichlets' expected log densities."""
    total = alpha.sum()
    expected_log = special.digamma(alpha) - special.digamma(total)
    log_norm = special.gammaln(alpha).sum() - special.gammaln(total)
    uniform = -special.gammaln(len(alpha))
    return ((alpha - 1) * expected_log).sum() - log_norm + uniform


@pytest.mark.parametrize('joint', [False, True])
@pytest.mark.parametrize(('epoch', 'factor'), [(0, 0.0), (3, 0.75), (9, 1.0)])
def test_evidential_loss_by_scipy(joint, epoch, factor):
    loss = LOSSES.build(dict(type='EvidentialLoss', annealing_epochs=4))
    labels, views = [1, 2, 0], 3 if joint else 2
    evidence = random(3, views, C).exp().requires_grad_()
    fused = random(3, C, seed=2).exp()
    seen = torch.ones(3, views, dtype=torch.bool)
    seen[1, 0] = False
    details = dict(evidence=evidence, view_present=seen, fused_evidence=fused)
    got = loss(state(labels, [random(3, C)] * 2, details, epoch=epoch))

    def by_hand(e, y):
        e = e.detach().numpy()
        expected = special.digamma(e.sum() + C) - special.digamma(e[y] + 1)
        wrong = e.copy()
        wrong[y] = 0
        return expected + factor * kl_by_scipy(wrong + 1)

    names = ['loss_evidence/a', 'loss_evidence/b'] + ['loss_evidence_joint'] * joint
    assert list(got) == [*names, 'loss_evidence_fused']
    for v, name in enumerate(names):
        total = sum(by_hand(evidence[i, v], y) for i, y in enumerate(labels) if seen[i, v])
        assert got[name].item() == pytest.approx(total / 3, rel=1e-9)
    total = sum(by_hand(fused[i], y) for i, y in enumerate(labels))
    assert got['loss_evidence_fused'].item() == pytest.approx(total / 3, rel=1e-9)


def test_expected_cross_entropy_by_sampling():
    """psi(S) - psi(alpha_y) is the mean of -log p_y under the Dirichlet."""
    evidence = torch.tensor([[1.5, 0.2, 4.0]], dtype=torch.float64)
    p = np.random.default_rng(0).dirichlet(evidence[0].numpy() + 1, size=200_000)
    got = evidential_loss(evidence, torch.tensor([0]), 0.0)
    assert got.item() == pytest.approx(-np.log(p[:, 0]).mean(), abs=0.01)
    assert math.isfinite(got.item())


# ---- bad use ----


@pytest.mark.parametrize(
    ('kind', 'fusion'),
    [
        ('ConfidenceRanking', 'QMFFusion'),
        ('TrueClassConfidence', 'PDFFusion'),
        ('EvidentialLoss', 'EvidentialFusion'),
    ],
)
def test_a_fusion_without_the_details_is_refused(kind, fusion):
    loss = LOSSES.build(dict(type=kind))
    loss.setup({'a': 4, 'b': 4}, C)
    with pytest.raises(ValueError, match=fusion):
        loss(state([0, 1], [random(2, C)] * 2, {}))


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (dict(type='ConfidenceRanking', margin='none'), "must be one of .* got 'none'"),
        (dict(type='ConfidenceRanking', weight=-1), 'must not be negative'),
        (dict(type='TrueClassConfidence', weight=-1), 'must not be negative'),
        (dict(type='EvidentialLoss', annealing_epochs=0), 'must be positive'),
        (dict(type='EvidentialLoss', weight=-0.5), 'must not be negative'),
    ],
)
def test_bad_arguments(options, words):
    with pytest.raises(ValueError, match=words):
        LOSSES.build(options)
