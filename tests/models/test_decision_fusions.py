"""MMCosine, QMF, PDF, TMC and ETMC against computations written out sample by sample."""

import math

import pytest
import torch

from cal_mm.models.fusions.evidential import (
    combined_evidence,
    dempster_fold,
    dirichlet_log_mean,
    evidence_from_opinion,
    expected_log_probs,
    opinion,
)
from cal_mm.models.fusions.pdf import relative_calibration
from cal_mm.models.modes import differentiable
from cal_mm.registry import FUSIONS

B, C = 5, 4
WIDTHS = {'a': 3, 'b': 6}
THREE = {**WIDTHS, 'c': 2}


def build(name, widths=WIDTHS, **options):
    torch.manual_seed(4)
    default = dict(in_channels=widths, num_classes=C)
    return FUSIONS.build(dict(type=name, **options), default_args=default).double()


def features(widths=WIDTHS, scale=1.0):
    g = torch.Generator().manual_seed(9)
    return {m: scale * torch.randn(B, d, generator=g).double() for m, d in widths.items()}


def softmax(row):
    top = [math.exp(v - max(row)) for v in row]
    return [v / sum(top) for v in top]


# ---- MMCosine ----


def test_mm_cosine_is_scaled_cosines():
    fusion, z = build('MMCosineFusion', THREE, scale=7.0), features(THREE)
    out, shares = fusion(z), fusion.unimodal_logits(z)
    for i in range(B):
        for c in range(C):
            total = 0.0
            for m in THREE:
                w, x = fusion.heads[m].weight[c].tolist(), z[m][i].tolist()
                dot = sum(p * q for p, q in zip(w, x, strict=True))
                cos = dot / math.sqrt(sum(p * p for p in w)) / math.sqrt(sum(q * q for q in x))
                assert shares[m][i, c].item() == pytest.approx(7 * cos, abs=1e-12)
                total += 7 * cos
            assert out[i, c].item() == pytest.approx(total, abs=1e-12)


def test_mm_cosine_does_not_see_lengths():
    fusion, z = build('MMCosineFusion'), features()
    before = fusion(z)
    with torch.no_grad():
        fusion.heads['a'].weight *= 5
    torch.testing.assert_close(fusion({'a': 100 * z['a'], 'b': z['b']}), before)
    nothing = fusion({m: torch.zeros_like(v) for m, v in z.items()})
    assert (nothing == 0).all()


# ---- QMF ----


@pytest.mark.parametrize('detach', [False, True])
def test_qmf_by_hand(detach):
    """Values, and the gradient in a head's bias through the weights."""
    fusion, z = build('QMFFusion', THREE, detach=detach), features(THREE)
    logits, details = fusion.forward_with_details(z)
    expected = torch.zeros(B, C, dtype=torch.float64)
    for i, m in enumerate(THREE):
        own = z[m] @ fusion.heads[m].weight.T + fusion.heads[m].bias
        confidence = 0.1 * own.exp().sum(dim=1).log()
        torch.testing.assert_close(details['confidence'][:, i], confidence)
        torch.testing.assert_close(fusion.unimodal_logits(z)[m], own)
        confidence = confidence.detach() if detach else confidence
        expected = expected + confidence[:, None] * own
    torch.testing.assert_close(logits, expected)
    bias = fusion.heads['a'].bias
    got = torch.autograd.grad(logits[:, 0].sum(), bias, retain_graph=True)[0]
    torch.testing.assert_close(got, torch.autograd.grad(expected[:, 0].sum(), bias)[0])
    assert details['confidence'].requires_grad


def test_qmf_leaves_absent_modalities_out():
    fusion, z = build('QMFFusion'), features()
    present = torch.tensor([[True, False]] * 3 + [[False, False]] * 2)
    logits, details = fusion.forward_with_details(z, present)
    own = fusion.heads['a'](z['a'][:3])
    torch.testing.assert_close(logits[:3], 0.1 * own.logsumexp(1, keepdim=True) * own)
    assert (logits[3:] == 0).all()
    assert (details['confidence'][:, 1] == 0).all()


# ---- PDF ----


def pdf_by_hand(fusion, z, i, calibrate):
    """(w, p) of sample i from the formula."""
    names = list(fusion.modalities)
    p = [torch.sigmoid(fusion.confid_nets[m](z[m][i])).item() for m in names]
    du = []
    for m in names:
        probs = softmax(fusion.heads[m](z[m][i]).tolist())
        du.append(sum(abs(q - 1 / C) for q in probs) / C)
    total = sum(math.log(q) for q in p)
    beliefs = []
    for j in range(len(names)):
        others = [k for k in range(len(names)) if k != j]
        belief = p[j] + sum(math.log(p[k]) for k in others) / total
        if calibrate and others:
            belief *= min(1.0, du[j] / (sum(du[k] for k in others) / len(others)))
        beliefs.append(belief)
    return softmax(beliefs), p


@pytest.mark.parametrize('widths', [WIDTHS, THREE, {'a': 3}])
@pytest.mark.parametrize('mode', ['train', 'eval', 'off'])
@pytest.mark.parametrize('activation', ['none', 'relu'])
def test_pdf_by_hand(widths, mode, activation):
    """Calibration in evaluation only, and only if asked for."""
    fusion = build('PDFFusion', widths, calibrate=mode != 'off', activation=activation)
    fusion.train(mode == 'train')
    z = features(widths, scale=3.0)
    logits, details = fusion.forward_with_details(z)
    for i in range(B):
        w, p = pdf_by_hand(fusion, z, i, mode == 'eval')
        assert details['weights'][i].tolist() == pytest.approx(w, abs=1e-12)
        assert details['confidence'][i].tolist() == pytest.approx(p, abs=1e-12)
        rows = [fusion.heads[m](z[m][i]) for m in widths]
        expected = sum(a * row for a, row in zip(w, rows, strict=True))
        torch.testing.assert_close(logits[i], expected)


def test_pdf_confidence_learns_on_detached_features_and_fused_logits_leave_it_alone():
    fusion, z = build('PDFFusion').train(), features()
    for value in z.values():
        value.requires_grad_()
    logits, details = fusion.forward_with_details(z)
    nets = list(fusion.confid_nets.parameters())
    grads = torch.autograd.grad(logits.square().sum(), nets, allow_unused=True, retain_graph=True)
    assert all(g is None for g in grads)
    grads = torch.autograd.grad(
        details['confidence'].sum(), [*nets, *z.values()], allow_unused=True
    )
    assert all(float(g.abs().sum()) > 0 for g in grads[: len(nets)])
    assert all(g is None for g in grads[len(nets) :])


@pytest.mark.parametrize(
    ('name', 'options'),
    [('PDFFusion', {}), ('PDFFusion', dict(activation='relu')), ('QMFFusion', dict(detach=True))],
)
def test_attacks_have_the_gradient_that_training_leaves_out(name, options):
    """Against differences, with modalities that are absent; what training sees stays cut."""
    fusion, z = build(name, THREE, **options).eval(), features(THREE, scale=3.0)
    present = torch.ones(B, 3, dtype=torch.bool)
    present[1, 0] = present[2, 1:] = present[3] = False
    points = [v.requires_grad_() for v in z.values()]

    def logits(*values):
        return fusion(dict(zip(THREE, values, strict=True)), present)

    def gradients():
        return torch.autograd.grad(logits(*points).square().sum(), points)

    cut = gradients()
    with differentiable(fusion):
        assert torch.autograd.gradcheck(logits, points)
        assert not all(map(torch.equal, gradients(), cut))
    assert all(map(torch.equal, gradients(), cut))


def test_pdf_extremes_are_finite():
    """Certain of everything, certain of nothing, flat predictions."""
    fusion, z = build('PDFFusion').eval(), features()
    for bias in (900.0, -900.0):
        with torch.no_grad():
            for m in WIDTHS:
                fusion.confid_nets[m][-1].bias.fill_(bias)
                fusion.heads[m].weight.zero_()
                fusion.heads[m].bias.zero_()
        logits, details = fusion.forward_with_details(z)
        assert logits.isfinite().all()
        half = torch.full_like(details['weights'], 0.5)
        torch.testing.assert_close(details['weights'], half, rtol=0, atol=1e-3)
        points = [v.requires_grad_() for v in z.values()]
        with differentiable(fusion):
            out = fusion(dict(zip(WIDTHS, points, strict=True))).sum()
            assert all(g.isfinite().all() for g in torch.autograd.grad(out, points))


def test_relative_calibration_with_absent_modalities():
    du = torch.tensor([[0.1, 0.2, 0.4], [0.1, 0.2, 0.4], [0.1, 0.2, 0.4]])
    present = torch.tensor([[True] * 3, [True, True, False], [True, False, False]])
    k = relative_calibration(du, present)
    torch.testing.assert_close(k[0], torch.tensor([0.1 / 0.3, 0.2 / 0.25, 1.0]))
    torch.testing.assert_close(k[1, :2], torch.tensor([0.5, 1.0]))
    assert k[2, 0] == 1


# ---- TMC and ETMC ----


def dempster_by_loops(evidences):
    """Combined evidence [C] with the conflict K summed over all pairs, as the paper has it."""
    s = sum(evidences[0]) + C
    b, u = [e / s for e in evidences[0]], C / s
    for evidence in evidences[1:]:
        s = sum(evidence) + C
        b2, u2 = [e / s for e in evidence], C / s
        conflict = sum(b[i] * b2[j] for i in range(C) for j in range(C) if i != j)
        b = [(x * y + x * u2 + y * u) / (1 - conflict) for x, y in zip(b, b2, strict=True)]
        u = u * u2 / (1 - conflict)
    return [x * C / u for x in b]


@pytest.mark.parametrize('joint', [False, True])
@pytest.mark.parametrize('widths', [WIDTHS, THREE, {'a': 3}])
def test_evidential_fusion_by_hand(joint, widths):
    fusion, z = build('EvidentialFusion', widths, joint_view=joint), features(widths, scale=4.0)
    logits, details = fusion.forward_with_details(z)
    for i in range(B):
        rows = [fusion.heads[m](z[m][i]) for m in widths]
        if joint:
            rows.append(fusion.joint_head(torch.cat([z[m][i] for m in widths])))
        evidences = [[math.log1p(math.exp(v)) for v in row.tolist()] for row in rows]
        flat = torch.tensor(evidences, dtype=torch.float64)
        torch.testing.assert_close(details['evidence'][i], flat)
        fused = dempster_by_loops(evidences)
        assert details['fused_evidence'][i].tolist() == pytest.approx(fused, rel=1e-9)
        alpha = [e + 1 for e in fused]
        probs = [a / sum(alpha) for a in alpha]
        assert logits[i].exp().tolist() == pytest.approx(probs, rel=1e-9)
        own = [e + 1 for e in evidences[0]]
        alone = fusion.unimodal_logits(z)['a'][i].exp().tolist()
        assert alone == pytest.approx([a / sum(own) for a in own], rel=1e-9)


def test_combined_evidence_is_dempsters_rule():
    g = torch.Generator().manual_seed(1)
    evidence = torch.rand(8, 5, C, generator=g, dtype=torch.float64) * 20
    b, u = dempster_fold(*opinion(evidence))
    torch.testing.assert_close(combined_evidence(evidence), evidence_from_opinion(b, u))
    torch.testing.assert_close(dirichlet_log_mean(evidence), expected_log_probs(b, u))


def test_evidence_where_the_product_overflows():
    """Finite predictions and gradients in float32 where the combined evidence is not."""
    evidence = torch.full((1, 12, C), 1e4, requires_grad=True)
    with torch.no_grad():
        evidence[0, :, 1] = 2e4
    out = dirichlet_log_mean(evidence)
    out[0, 0].backward()
    assert out.isfinite().all()
    assert evidence.grad.isfinite().all()
    assert out.argmax() == 1
    none = dirichlet_log_mean(torch.zeros(1, 3, C))
    torch.testing.assert_close(none.exp(), torch.full((1, C), 1 / C))


def test_etmc_joint_view_is_absent_with_everything():
    fusion, z = build('EvidentialFusion', joint_view=True), features()
    present = torch.tensor([[True, False], [False, True], [False, False]] + [[True, True]] * 2)
    logits, details = fusion.forward_with_details(z, present)
    seen = [[True, False, True], [False, True, True], [False] * 3, [True] * 3, [True] * 3]
    assert details['view_present'].tolist() == seen
    torch.testing.assert_close(logits[2].exp(), torch.full((C,), 1 / C).double())
    assert (details['fused_evidence'][2] == 0).all()
    filled = torch.cat([z['a'][0], torch.zeros(6).double()])
    own = torch.nn.functional.softplus(
        torch.stack([fusion.heads['a'](z['a'][0]), fusion.joint_head(filled)])
    )
    torch.testing.assert_close(details['fused_evidence'][0], combined_evidence(own[None])[0])


# ---- bad arguments ----


@pytest.mark.parametrize(
    ('name', 'options', 'words'),
    [
        ('MMCosineFusion', dict(scale=0.0), 'scale must be positive'),
        ('QMFFusion', dict(scale=-1.0), 'scale must be positive'),
        ('PDFFusion', dict(activation='tanh'), "must be 'none' or 'relu', got 'tanh'"),
        ('EvidentialFusion', dict(dropout=1.0), r'dropout must be in \[0, 1\)'),
        ('TransformerFusion', dict(tokens_per_modality=0), 'tokens_per_modality must be >= 1'),
        ('TransformerFusion', dict(embed_dims=10, num_heads=4), 'a multiple of num_heads'),
    ],
)
def test_bad_arguments(name, options, words):
    with pytest.raises(ValueError, match=words):
        build(name, **options)
