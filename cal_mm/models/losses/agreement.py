"""Losses on how the modalities' predictions relate: MBSD, CML and LFM.

Sources: MBSD: symmetric distillation between the modalities' predictions, as BalanceBenchmark
describes and re-implements it. CML: Ma et al., "Calibrating Multimodal Learning", ICML 2023
(arXiv 2306.01265). LFM: Yang et al., "Facilitating Multimodal Classification via Dynamically
Learning Modality Gap", NeurIPS 2024.
"""

from collections.abc import Mapping
from itertools import combinations, pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from cal_mm.models.state import ForwardState
from cal_mm.registry import LOSSES

from .components import LossComponent, masked_mean

__all__ = [
    'ConfidenceOrder',
    'GapAlignment',
    'SymmetricDistillation',
    'jensen_shannon',
    'symmetric_kl',
]


def symmetric_kl(first: Tensor, second: Tensor) -> Tensor:
    """1/2 KL(p || q) + 1/2 KL(q || p) of two sets of logits: [B, C], [B, C] -> [B], nats."""
    a, b = first.log_softmax(dim=-1), second.log_softmax(dim=-1)
    return 0.5 * ((a.exp() - b.exp()) * (a - b)).sum(dim=-1)


def jensen_shannon(first: Tensor, second: Tensor) -> Tensor:
    """Jensen-Shannon divergence of two sets of logits: [B, C], [B, C] -> [B], in [0, log 2]."""
    a, b = first.log_softmax(dim=-1), second.log_softmax(dim=-1)
    middle = torch.logaddexp(a, b) - torch.log(torch.tensor(2.0, dtype=a.dtype))
    return 0.5 * ((a.exp() * (a - middle)).sum(dim=-1) + (b.exp() * (b - middle)).sum(dim=-1))


def _both(state: ForwardState, first: str, second: str) -> Tensor | None:
    here, there = state.present_mask(first), state.present_mask(second)
    return None if here is None or there is None else here & there


@LOSSES.register_module()
class SymmetricDistillation(LossComponent):
    """``loss_mbsd`` = weight * mean over pairs of modalities of the mean over samples of
    w_i symmetric KL of their predictions, nats.

    Args:
        weight: >= 0.
        sample_weights: ``none``: w_i = 1; ``margin``: w_i = |p_a(label) - p_b(label)| where at
            least one of the two is right, else 0 (BalanceBenchmark), without gradient.

    A sample counts for the pairs of modalities that it has.
    """

    def __init__(self, weight: float = 1.0, sample_weights: str = 'none') -> None:
        super().__init__()
        if weight < 0:
            raise ValueError(f'SymmetricDistillation: weight must not be negative, got {weight}')
        if sample_weights not in ('none', 'margin'):
            raise ValueError(
                f"SymmetricDistillation: sample_weights must be 'none' or 'margin', got "
                f'{sample_weights!r}'
            )
        self.weight, self.sample_weights = weight, sample_weights

    def forward(self, state: ForwardState) -> dict[str, Tensor]:
        """``{'loss_mbsd': scalar}``; empty for one modality."""
        terms = []
        for a, b in combinations(state.modalities, 2):
            u, v = (state.unimodal_logits(m).float() for m in (a, b))
            values = symmetric_kl(u, v)
            if self.sample_weights == 'margin':
                values = values * margin_weights(u.detach(), v.detach(), state.known_labels)
            terms.append(masked_mean(values, _both(state, a, b)))
        return {'loss_mbsd': self.weight * torch.stack(terms).mean()} if terms else {}


def margin_weights(first: Tensor, second: Tensor, labels: Tensor) -> Tensor:
    """|p(label) - q(label)| where either predicts the label, else 0: [B]."""
    p, q = (v.softmax(dim=-1).gather(1, labels[:, None])[:, 0] for v in (first, second))
    right = (first.argmax(dim=-1) == labels) | (second.argmax(dim=-1) == labels)
    return (p - q).abs() * right


@LOSSES.register_module()
class ConfidenceOrder(LossComponent):
    """The confidence must not grow when a modality is taken away.

    Along a chain of coalitions S_0 = all, S_1, ..., S_{M-1} (one modality less each time):
    ``loss_cml`` = 1/M sum_k CE(S_k) and
    ``loss_cml_order`` = weight * sum_k mean relu(conf(S_k+1) - conf(S_k)), conf = max softmax.
    The order in which modalities go is drawn for each update. It takes the place of
    ``FusedCrossEntropy``.

    Args:
        weight: lambda >= 0.
    """

    def __init__(self, weight: float = 0.1) -> None:
        super().__init__()
        if weight < 0:
            raise ValueError(f'ConfidenceOrder: weight must not be negative, got {weight}')
        self.weight = weight

    def forward(self, state: ForwardState) -> dict[str, Tensor]:
        """See the class."""
        count = len(state.modalities)
        order = torch.arange(count)
        if state.draws is not None:
            order = state.draws.shared('cml', count)[0].argsort().cpu()
        masks = torch.ones(count, count, dtype=torch.bool)
        for k in range(1, count):
            masks[k:, order[k - 1]] = False
        fewer = state.coalition_logits(masks[1:].to(state.logits.device)) if count > 1 else None
        chain = [state.logits.float(), *([] if fewer is None else fewer.float())]
        losses = [F.cross_entropy(v, state.known_labels) for v in chain]
        confidence = [v.softmax(dim=-1).max(dim=-1).values for v in chain]
        steps = pairwise(confidence)
        order_loss = [(less - more).clamp_min(0).mean() for more, less in steps]
        out = {'loss_cml': torch.stack(losses).mean()}
        if order_loss:
            out['loss_cml_order'] = self.weight * torch.stack(order_loss).sum()
        return out


@LOSSES.register_module()
class GapAlignment(LossComponent):
    """2 (1 - a) CE(y) + 2 a JS: classification against the gap between the modalities.

    ``loss_lfm_class`` and ``loss_lfm_align``; JS is the Jensen-Shannon divergence of the
    modalities' predictions, mean over pairs. ``AlignmentWeightHook`` moves a; it is in the
    checkpoint.

    Args:
        alignment: a at the start, in [0, 1].
    """

    alignment: Tensor

    def __init__(self, alignment: float = 0.05) -> None:
        super().__init__()
        if not 0 <= alignment <= 1:
            raise ValueError(f'GapAlignment: alignment must be in [0, 1], got {alignment}')
        self.start = alignment

    def setup(self, channels: Mapping[str, int], num_classes: int) -> None:
        """The weight a."""
        self.register_buffer('alignment', torch.tensor(float(self.start)))

    @staticmethod
    def terms(state: ForwardState) -> tuple[Tensor, Tensor]:
        """CE of the fused logits and the alignment, each a scalar."""
        ce = F.cross_entropy(state.logits.float(), state.known_labels)
        gaps = [
            masked_mean(
                jensen_shannon(state.unimodal_logits(a).float(), state.unimodal_logits(b).float()),
                _both(state, a, b),
            )
            for a, b in combinations(state.modalities, 2)
        ]
        return ce, torch.stack(gaps).mean() if gaps else 0 * ce

    def forward(self, state: ForwardState) -> dict[str, Tensor]:
        """See the class."""
        ce, gap = self.terms(state)
        return {
            'loss_lfm_class': 2 * (1 - self.alignment) * ce,
            'loss_lfm_align': 2 * self.alignment * gap,
        }
