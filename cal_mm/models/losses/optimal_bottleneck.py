"""OMIB: the bottlenecks' strengths follow what the fused prediction still lacks of each modality.

Source: Wu et al., "Learning Optimal Multimodal Information Bottleneck Representations", ICML 2025
(arXiv 2505.19996); formulas from summaries, the code is not public.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from cal_mm.models.state import ForwardState
from cal_mm.models.update_mean import UpdateMean
from cal_mm.registry import LOSSES

from .components import LossComponent, masked_mean

__all__ = ['OptimalBottleneckLoss', 'bottleneck_ratio', 'strength_bound']

#: nats; the ratio of two divergences below it would be rounding
LEAST = 1e-3


def bottleneck_ratio(mean_ratio: Tensor) -> Tensor:
    """r = 1 - tanh(log x), in (0, 2), of the mean ratio x > 0 of the modalities' divergences."""
    return 1 - torch.tanh(mean_ratio.clamp_min(1e-12).log())


def strength_bound(ratio: float, entropies: float) -> float:
    """M_u = 1 / ((1 + r) (H(v_1) + H(v_2) - I(v_1; v_2))), the bound of beta.

    Args:
        ratio: r >= 0.
        entropies: H(v_1) + H(v_2) - I(v_1; v_2) > 0, nats; estimating it is up to the user.
    """
    if ratio < 0 or entropies <= 0:
        raise ValueError(f'need r >= 0 and entropies > 0, got {ratio} and {entropies}')
    return 1 / ((1 + ratio) * entropies)


@LOSSES.register_module()
class OptimalBottleneckLoss(LossComponent):
    """``loss_omib/<m>`` = beta r_m KL(q_m || N(0, I)) with r_1 = 1, r_2 = r, nats.

    r = 1 - tanh(log mean_i KL(p_2 || p) / KL(p_1 || p)): a modality whose own prediction differs
    from the fused one has something left to say and is compressed less. p_m are the unimodal
    predictions, p the fused one, the mean is that of the update before. 1 is the first modality by
    name.

    Args:
        beta: strength, >= 0.
        entropies: if given, beta is at most :func:`strength_bound` of it.

    Exactly two modalities.
    """

    needs_noise = True

    def __init__(self, beta: float = 1e-3, entropies: float | None = None) -> None:
        super().__init__()
        if beta < 0:
            raise ValueError(f'OptimalBottleneckLoss: beta must not be negative, got {beta}')
        if entropies is not None:
            strength_bound(0.0, entropies)  # checks it
        self.beta, self.entropies = beta, entropies

    def setup(self, channels: Mapping[str, int], num_classes: int) -> None:
        """The mean ratio.

        Raises:
            ValueError: not two modalities.
        """
        if len(channels) != 2:
            raise ValueError(
                f'OptimalBottleneckLoss is defined for two modalities, got {sorted(channels)}'
            )
        self.mean_ratio = UpdateMean(1)

    def forward(self, state: ForwardState) -> dict[str, Tensor]:
        """See the class."""
        mean = self.mean_ratio(self._ratios(state), state.update, self._complete(state))
        r = 1.0 if mean is None else float(bottleneck_ratio(mean))
        beta = self.beta
        if self.entropies is not None:
            beta = min(beta, strength_bound(r, self.entropies))
        return {
            f'loss_omib/{m}': beta * factor * masked_mean(state.kl[m], state.present_mask(m))
            for m, factor in zip(state.modalities, (1.0, r), strict=True)
        }

    @staticmethod
    def _complete(state: ForwardState) -> Tensor | None:
        return None if state.present is None else state.present.all(dim=1, keepdim=True)

    @staticmethod
    @torch.no_grad()
    def _ratios(state: ForwardState) -> Tensor:
        fused = state.logits.double().log_softmax(dim=-1)
        divergences = []
        for m in state.modalities:
            own = state.unimodal_logits(m, detach=True).double().log_softmax(dim=-1)
            divergences.append((own.exp() * (own - fused)).sum(dim=-1).clamp_min(LEAST))
        return (divergences[1] / divergences[0])[:, None]
