"""Every registered fusion is tested by being registered; the maths against slow references.

To add a fusion: register it and add its options to ``OPTIONS``.
"""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from cal_mm.models.fusions import BaseFusion, coalition_logits
from cal_mm.models.fusions.functional import (
    additive_coalitions,
    masked_mean_logits,
    masked_softmax_mix,
)
from cal_mm.registry import FUSIONS

WIDTHS = {'text': 5, 'audio': 3, 'depth': 4}
NAMES = tuple(sorted(WIDTHS))
CLASSES = 4

#: options of every registered fusion, one dict per variant worth testing; {} for the defaults
OPTIONS: dict[str, list[dict[str, Any]]] = {
    'BoostedFusion': [dict(hidden_channels=6, blocks=3), dict(blocks=1, absent='mean')],
    'AttentionFusion': [dict(embed_dims=8, num_heads=2, num_layers=2)],
    'ConcatFusion': [
        {},
        dict(absent='mean'),
        dict(absent='token'),
        dict(hidden_channels=6, dropout=0.3),
        dict(hidden_channels=6, absent='token'),
    ],
    'EvidentialFusion': [{}, dict(joint_view=True), dict(hidden_channels=6, dropout=0.3)],
    'FiLMFusion': [{}, dict(hidden_channels=4, dropout=0.2, absent='mean')],
    'GatedFusion': [{}, dict(hidden_channels=6, dropout=0.2, absent='token')],
    'JointBottleneckFusion': [dict(out_channels=6), dict(out_channels=3, absent='token')],
    'LateFusion': [{}, dict(average='probs'), dict(hidden_channels=6, dropout=0.3)],
    'LowRankTensorFusion': [{}, dict(rank=2, absent='mean')],
    'MMCosineFusion': [{}, dict(scale=4.0, absent='token')],
    'PDFFusion': [{}, dict(calibrate=False, activation='relu', hidden_channels=6, dropout=0.3)],
    'QMFFusion': [{}, dict(scale=0.5, detach=True), dict(hidden_channels=6, dropout=0.3)],
    'SharedHeadFusion': [{}, dict(weights='equal')],
    'SumFusion': [{}, dict(absent='token'), dict(hidden_channels=6, dropout=0.3, absent='mean')],
    'TransformerFusion': [
        dict(embed_dims=8, num_heads=2, num_layers=2, tokens_per_modality=2),
        dict(embed_dims=4, num_heads=1, num_layers=1, tokens_per_modality=1),
    ],
}
#: fusions that need one width for all modalities
ONE_WIDTH = ('SharedHeadFusion',)
#: fusions whose unimodal logits are shares that add up to the fused ones
ADDITIVE = ('MMCosineFusion', 'SumFusion')
#: whose unimodal logits are a head's, which fusing a single modality changes (a weight, a view)
HEADS = ('EvidentialFusion-joint', 'QMFFusion')


def names() -> list[str]:
    """Fusions of cal_mm itself; those that other tests register are not of concern here."""
    return sorted(
        n for n, c in FUSIONS.module_dict.items() if c.__module__.startswith('cal_mm.models.')
    )


def variants() -> list[Any]:
    pairs = [(n, o) for n in names() for o in OPTIONS.get(n, [])]
    return [
        pytest.param((n, o), id=f'{n}-{"-".join(f"{k}={v}" for k, v in o.items())}')
        for n, o in pairs
    ]


def build(variant: tuple[str, dict], widths: dict[str, int] | None = None) -> Any:
    name, options = variant
    torch.manual_seed(3)
    fusion = FUSIONS.build(
        dict(type=name, **options),
        default_args=dict(in_channels=widths or WIDTHS, num_classes=CLASSES),
    )
    for value in fusion.parameters():  # zero initialisations would hide mistakes
        torch.nn.init.normal_(value, std=0.5)
    for m in getattr(fusion, 'modalities', ()):
        if getattr(fusion, 'absent', '') == 'mean':
            fusion.get_buffer(f'mean_of_{m}').normal_()
    return fusion.double().eval()


def features(batch: int = 6, widths: dict[str, int] | None = None) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(11)
    return {
        m: torch.randn(batch, d, generator=g, dtype=torch.float64)
        for m, d in (widths or WIDTHS).items()
    }


def subsets(empty: bool = False) -> list[tuple[str, ...]]:
    sizes = range(0 if empty else 1, len(NAMES) + 1)
    return [s for n in sizes for s in itertools.combinations(NAMES, n)]


@pytest.fixture(params=variants())
def variant(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[str, dict]:
    if request.param[0] in ONE_WIDTH:
        for m in NAMES:
            monkeypatch.setitem(WIDTHS, m, 4)
    return request.param


def test_every_registered_fusion_has_options_here() -> None:
    lost = [n for n in names() if n not in OPTIONS]
    assert not lost, f'add the options of {lost} to OPTIONS in {__file__}'
    assert set(OPTIONS) <= set(names()), 'OPTIONS names a fusion that is not registered'


def test_shape_and_gradient_reaches_each_modality_and_parameter(variant: Any) -> None:
    fusion, z = build(variant).train(), features()
    for value in z.values():
        value.requires_grad_()
    logits, details = fusion.forward_with_details(z)
    assert logits.shape == (6, CLASSES)
    total = (logits * torch.arange(1.0, CLASSES + 1)).square().sum()
    total.backward(retain_graph=True)
    for m in NAMES:  # from the logits alone
        assert float(z[m].grad.abs().sum()) > 0, m
    for value in details.values():  # what a loss reads beside them
        if value.requires_grad:
            value.square().sum().backward(retain_graph=True)
    for name, parameter in fusion.named_parameters():
        assert parameter.grad is not None, f'{name} has no gradient: DDP would refuse it'


def test_subsets_give_finite_logits_that_differ(variant: Any) -> None:
    fusion, z = build(variant), features()
    seen = [fusion({m: z[m] for m in s}) for s in subsets()]
    assert all(x.shape == (6, CLASSES) and x.isfinite().all() for x in seen)
    for a, b in itertools.combinations(seen, 2):
        assert (a - b).abs().max() > 1e-4


def test_present_false_equals_leaving_out(variant: Any) -> None:
    fusion, z = build(variant), features(len(subsets()))
    present = torch.tensor([[m in s for m in NAMES] for s in subsets()])
    mixed = fusion(z, present)
    for i, s in enumerate(subsets()):
        alone = fusion({m: z[m][i : i + 1] for m in s})
        torch.testing.assert_close(mixed[i : i + 1], alone, rtol=0, atol=1e-10)


def test_absent_values_neither_count_nor_get_a_gradient(variant: Any) -> None:
    fusion, z = build(variant), features()
    present = torch.ones(6, 3, dtype=torch.bool)
    present[2, 0] = False
    clean = fusion(z, present)
    z['audio'] = z['audio'].clone()
    z['audio'][2] = float('nan')
    z['audio'].requires_grad_()
    out = fusion(z, present)
    torch.testing.assert_close(out, clean, rtol=0, atol=0)
    out.sum().backward()
    assert z['audio'].grad[2].abs().sum() == 0
    assert z['audio'].grad.isfinite().all()
    for parameter in fusion.parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all()


@pytest.mark.parametrize('with_present', [False, True])
@pytest.mark.parametrize('mode', ['train', 'eval'])
def test_coalitions_equal_a_loop(variant: Any, with_present: bool, mode: str) -> None:
    fusion, z = build(variant), features()
    present = None
    if with_present:
        present = torch.rand(6, 3, generator=torch.Generator().manual_seed(5)) > 0.4
        present[0] = False
        present[1] = True
    masks = torch.tensor([[m in s for m in NAMES] for s in subsets(empty=True)])
    before = {k: v.clone() for k, v in fusion.state_dict().items()}
    generator = torch.get_rng_state()
    stacked = fusion.train(mode == 'train').coalition_logits(z, masks, present)
    assert all(m.training == (mode == 'train') for m in fusion.modules())
    assert torch.equal(generator, torch.get_rng_state()), 'monitoring consumed random numbers'
    for k, v in fusion.state_dict().items():
        assert torch.equal(v, before[k]), f'monitoring changed {k}'
    fusion.eval()
    assert stacked.shape == (len(masks), 6, CLASSES)
    for row, s in zip(stacked, subsets(empty=True), strict=True):
        keep = torch.tensor([m in s for m in NAMES]).expand(6, 3)
        keep = keep if present is None else keep & present
        torch.testing.assert_close(row, fusion(z, keep), rtol=0, atol=1e-10)


def test_coalitions_of_a_subset_of_modalities(variant: Any) -> None:
    fusion, z = build(variant), features()
    some = {m: z[m] for m in NAMES[:2]}
    masks = torch.tensor([[m in s for m in NAMES] for s in subsets()])
    for row, s in zip(fusion.coalition_logits(some, masks), subsets(), strict=True):
        keep = torch.tensor([m in s and m in some for m in NAMES]).expand(6, 3)
        torch.testing.assert_close(row, fusion(z, keep), rtol=0, atol=1e-10)


def test_coalitions_in_float32_and_their_gradient(variant: Any) -> None:
    fusion, z = build(variant).float(), {m: v.float() for m, v in features().items()}
    masks = torch.tensor([[m in s for m in NAMES] for s in subsets()])
    for value in z.values():
        value.requires_grad_()
    stacked = fusion.coalition_logits(z, masks)
    loop = torch.stack([fusion({m: z[m] for m in s}) for s in subsets()])
    torch.testing.assert_close(stacked, loop, rtol=1e-6, atol=2e-6)
    one = torch.autograd.grad(stacked.square().sum(), list(z.values()))
    two = torch.autograd.grad(loop.square().sum(), list(z.values()))
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_split_batch_gives_the_same(variant: Any) -> None:
    fusion, z = build(variant), features()
    whole = fusion(z)
    parts = [fusion({m: v[i : i + 2] for m, v in z.items()}) for i in (0, 2, 4)]
    torch.testing.assert_close(whole, torch.cat(parts), rtol=0, atol=1e-10)


def test_deterministic_in_evaluation_and_state_round_trip(variant: Any) -> None:
    fusion, z = build(variant), features()
    other = FUSIONS.build(
        dict(type=variant[0], **variant[1]),
        default_args=dict(in_channels=WIDTHS, num_classes=CLASSES),
    ).double()
    other.load_state_dict(fusion.state_dict())
    some = {NAMES[0]: z[NAMES[0]]}
    assert torch.equal(fusion(z), fusion(z))
    assert torch.equal(other.eval()(z), fusion(z))
    assert torch.equal(other(some), fusion(some))


@pytest.mark.parametrize('count', [1, 6])
def test_other_numbers_of_modalities(variant: Any, count: int) -> None:
    step = 0 if variant[0] in ONE_WIDTH else 1
    widths = {f'view_{i}': 2 + step * i for i in range(count)}
    fusion, z = build(variant, widths), features(3, widths)
    assert fusion(z).isfinite().all()
    masks = torch.tensor(list(itertools.product([False, True], repeat=count)))
    assert fusion.coalition_logits(z, masks).shape == (2**count, 3, CLASSES)


def test_unimodal_logits(variant: Any) -> None:
    fusion, z = build(variant), features()
    logits = fusion.unimodal_logits(z)
    assert set(logits) == set(NAMES)
    linear = variant[0] == 'ConcatFusion' and 'hidden_channels' not in variant[1]
    if linear or variant[0] in ADDITIVE:
        summed = torch.stack(list(logits.values())).sum(dim=0)
        torch.testing.assert_close(summed, fusion(z), rtol=0, atol=1e-10)
        return
    if variant[0] + '-joint' * bool(variant[1].get('joint_view')) in HEADS:
        return  # test_decision_fusions.py
    for m in NAMES:  # elsewhere it is the prediction of the modality alone
        alone = fusion({m: z[m]}).log_softmax(dim=1)
        torch.testing.assert_close(logits[m].log_softmax(dim=1), alone, rtol=0, atol=1e-10)


def test_concat_shares_by_hand() -> None:
    fusion, z = build(('ConcatFusion', {})), features()
    shares, start = fusion.unimodal_logits(z), 0
    for m in NAMES:  # audio, depth, text
        weight = fusion.head.weight[:, start : start + WIDTHS[m]]
        expected = z[m] @ weight.T + fusion.head.bias / 3
        torch.testing.assert_close(shares[m], expected, rtol=0, atol=1e-12)
        start += WIDTHS[m]


def test_gated_with_two_modalities_is_the_gated_multimodal_unit() -> None:
    widths = {'a': 3, 'b': 4}
    fusion, z = build(('GatedFusion', dict(hidden_channels=5)), widths), features(6, widths)
    scores = fusion.gate(torch.cat([z['a'], z['b']], dim=1))
    gate = torch.sigmoid(scores[:, :5] - scores[:, 5:])
    hidden = gate * fusion.transforms['a'](z['a']).tanh()
    hidden = hidden + (1 - gate) * fusion.transforms['b'](z['b']).tanh()
    torch.testing.assert_close(fusion(z), fusion.head(hidden), rtol=0, atol=1e-10)


def test_film_by_hand() -> None:
    widths = {'a': 3, 'b': 3}
    fusion, z = build(('FiLMFusion', {}), widths), features(6, widths)
    gamma_a, delta_a = fusion.generators['a'](z['b']).split(3, dim=1)
    gamma_b, delta_b = fusion.generators['b'](z['a']).split(3, dim=1)
    mean = ((1 + gamma_a) * z['a'] + delta_a + (1 + gamma_b) * z['b'] + delta_b) / 2
    torch.testing.assert_close(fusion(z), fusion.head(mean), rtol=0, atol=1e-10)


def test_low_rank_equals_the_full_tensor() -> None:
    widths = {'a': 2, 'b': 3}
    fusion, z = build(('LowRankTensorFusion', dict(rank=2)), widths), features(4, widths)
    one = torch.ones(4, 1, dtype=torch.float64)
    outer = torch.einsum('bi,bj->bij', torch.cat([z['a'], one], 1), torch.cat([z['b'], one], 1))
    full = 0
    for r in range(2):
        rows = slice(r * CLASSES, (r + 1) * CLASSES)
        factors = [
            torch.cat([fusion.factors[m].weight[rows], fusion.factors[m].bias[rows, None]], dim=1)
            for m in 'ab'
        ]
        full = full + torch.einsum('ci,cj->cij', *factors) / 2
    expected = torch.einsum('bij,cij->bc', outer, full) + fusion.bias
    torch.testing.assert_close(fusion(z), expected, rtol=0, atol=1e-10)


def test_late_fusion_averages_probabilities_of_the_present() -> None:
    fusion, z = build(('LateFusion', dict(average='probs'))), features()
    both = {m: z[m] for m in ('audio', 'text')}
    expected = sum(fusion.heads[m](v).softmax(dim=1) for m, v in both.items()) / 2
    torch.testing.assert_close(fusion(both).exp(), expected, rtol=1e-6, atol=1e-7)
    nothing = fusion(z, torch.zeros(6, 3, dtype=torch.bool))
    assert (nothing == 0).all()


def test_masked_means_have_finite_gradients_where_nothing_is_present() -> None:
    for average in ('logits', 'probs'):
        logits = torch.randn(2, 3, 4, requires_grad=True)
        keep = torch.tensor([[False] * 3, [True, False, True]])
        masked_mean_logits(logits, keep, average).square().sum().backward()
        assert logits.grad.isfinite().all()
        assert logits.grad[0].abs().sum() == 0
        assert logits.grad[1, 1].abs().sum() == 0
        assert logits.grad[1, 0].abs().sum() > 0
    values = torch.randn(1, 3, 4, requires_grad=True)
    mixed = masked_softmax_mix(values, values, torch.zeros(1, 3, dtype=torch.bool))
    mixed.sum().backward()
    assert (mixed == 0).all()
    assert values.grad.isfinite().all()


def test_additive_coalitions_by_loop() -> None:
    parts, absent, bias = torch.randn(3, 5, 4), torch.randn(3, 4), torch.randn(4)
    keep = torch.rand(7, 5, 3) > 0.5
    out = additive_coalitions(parts, absent, bias, keep)
    for s, b in itertools.product(range(7), range(5)):
        row = bias + sum(parts[m, b] if keep[s, b, m] else absent[m] for m in range(3))
        torch.testing.assert_close(out[s, b], row)


def test_running_mean_follows_present_samples_in_training_only() -> None:
    fusion = build(('ConcatFusion', dict(absent='mean', momentum=0.25)))
    fusion.means_seen.zero_()
    z = features()
    present = torch.ones(6, 3, dtype=torch.bool)
    present[3:, 0] = False
    fusion.train()(z, present)
    torch.testing.assert_close(
        fusion.absent_value('audio'), z['audio'][:3].mean(dim=0).float().double()
    )
    torch.testing.assert_close(fusion.absent_value('text'), z['text'].mean(dim=0).float().double())
    second = {m: v + 4 for m, v in z.items()}
    fusion(second)
    expected = 0.75 * z['text'].mean(dim=0) + 0.25 * second['text'].mean(dim=0)
    torch.testing.assert_close(fusion.absent_value('text'), expected, rtol=0, atol=1e-6)
    held = fusion.absent_value('text')
    fusion.eval()(z)
    assert torch.equal(held, fusion.absent_value('text'))


def test_running_mean_may_change_between_forward_and_backward() -> None:
    fusion = build(('ConcatFusion', dict(absent='mean'))).train()
    z = features()
    first = fusion({'audio': z['audio']}).sum()
    fusion(z)
    first.backward()
    assert fusion.head.weight.grad.isfinite().all()


def test_token_learns_only_where_something_is_absent() -> None:
    fusion, z = build(('ConcatFusion', dict(absent='token'))), features()
    present = torch.ones(6, 3, dtype=torch.bool)
    present[0, 2] = False
    fusion(z, present).sum().backward()
    assert fusion.token_of_text.grad.abs().sum() > 0
    assert fusion.token_of_audio.grad.abs().sum() == 0


@pytest.mark.parametrize('name', ['AttentionFusion', 'LateFusion'])
def test_fusions_that_ignore_absent_modalities_take_no_absent_value(name: str) -> None:
    with pytest.raises(TypeError, match="takes no argument 'absent'"):
        FUSIONS.build(dict(type=name, absent='mean', in_channels=WIDTHS, num_classes=CLASSES))


def test_errors_name_what_is_wrong() -> None:
    fusion, z = build(('ConcatFusion', {})), features()
    with pytest.raises(LookupError, match="'video'"):
        fusion({'video': z['text']})
    with pytest.raises(ValueError, match='at least one of the modalities'):
        fusion({})
    with pytest.raises(ValueError, match=r"'text' must be \[B, D\] = \(6, 5\), got \(6, 3\)"):
        fusion({'audio': z['audio'], 'text': z['audio']})
    with pytest.raises(ValueError, match=r'present must be \[B, M\]'):
        fusion(z, torch.ones(6, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match=r'masks must be \[S, M\]'):
        fusion.coalition_logits(z, torch.ones(2, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match='absent must be one of'):
        build(('ConcatFusion', dict(absent='noise')))
    with pytest.raises(ValueError, match='in_channels is empty'):
        FUSIONS.build(dict(type='SumFusion', in_channels={}, num_classes=2))
    with pytest.raises(ValueError, match='multiple of num_heads'):
        build(('AttentionFusion', dict(embed_dims=9, num_heads=2)))
    with pytest.raises(ValueError, match='average must be one of'):
        build(('LateFusion', dict(average='median')))
    with pytest.raises(ValueError, match='rank'):
        build(('LowRankTensorFusion', dict(rank=0)))


def test_order_of_modalities_is_that_of_their_names() -> None:
    fusion = build(('ConcatFusion', {}))
    assert isinstance(fusion, BaseFusion)
    assert fusion.modalities == NAMES
    z = features()
    assert torch.equal(fusion(z), fusion(dict(reversed(z.items()))))
    assert torch.equal(fusion(z), fusion(z, torch.ones(6, 3)))


class ForwardOnly(torch.nn.Module):
    """A user's fusion with nothing but forward."""

    def __init__(self, inner: BaseFusion) -> None:
        super().__init__()
        self.inner = inner
        self.dropout = torch.nn.Dropout(0.5)

    def forward(self, z: dict[str, Tensor], present: Tensor | None = None) -> Tensor:
        return self.dropout(self.inner(z, present))


@pytest.mark.parametrize('with_present', [False, True])
def test_coalitions_of_a_fusion_that_only_has_forward(with_present: bool) -> None:
    inner, z = build(('GatedFusion', {})), features()
    masks = torch.tensor([[m in s for m in NAMES] for s in subsets(empty=True)])
    present = torch.tensor([[True, False, True]] * 6) if with_present else None
    own = ForwardOnly(inner).train()
    expected = inner.coalition_logits(z, masks, present)
    torch.testing.assert_close(coalition_logits(own, z, masks, present), expected)
    assert own.dropout.training
    assert torch.equal(coalition_logits(inner, z, masks, present), expected)


@pytest.mark.parametrize(
    ('name', 'part'),
    [
        ('AttentionFusion', 'embeddings'),
        ('LateFusion', 'heads'),
        ('GatedFusion', 'transforms'),
        ('FiLMFusion', 'projections'),
    ],
)
def test_own_weights_of_an_absent_modality_have_no_influence(name: str, part: str) -> None:
    options = OPTIONS[name][0] | (dict(hidden_channels=6) if name == 'FiLMFusion' else {})
    fusion, z = build((name, options)), features()
    present = torch.ones(6, 3, dtype=torch.bool)
    present[1, 2] = False
    before = fusion(z, present)
    with torch.no_grad():
        bias = getattr(fusion, part)['text'].bias
        bias += torch.linspace(-1, 2, len(bias), dtype=bias.dtype) ** 2
    after = fusion(z, present)
    torch.testing.assert_close(after[1], before[1], rtol=0, atol=1e-12)
    assert (after[0] - before[0]).abs().max() > 1e-3
