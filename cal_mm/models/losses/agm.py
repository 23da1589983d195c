"""AGM: the fused logits are a sum of the modalities' shares, whose gradients are scaled.

Source: Li et al., "Boosting Multi-modal Model Performance with Adaptive Gradient Modulation",
ICCV 2023 (arXiv 2308.07686).
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from cal_mm.models.contribution.functional import coalition_masks, shapley_values
from cal_mm.models.scale import scale_gradient
from cal_mm.models.state import ForwardState
from cal_mm.models.update_mean import RunningUpdateMean
from cal_mm.registry import LOSSES

from .components import LossComponent

__all__ = ['AdaptiveGradientModulation', 'agm_coefficients', 'agm_ratios']


def agm_ratios(scores: Tensor) -> Tensor:
    """exp(M / (M - 1) (mean s - s_m)): above 1 for a modality that is better than the others.

    For two modalities that is exp(s_other - s_m).

    Args:
        scores: s [M], mean cross-entropies in nats.
    """
    m = len(scores)
    return ((scores.mean() - scores) * (m / max(1, m - 1))).exp()


def agm_coefficients(scores: Tensor, running: Tensor, alpha: float, cap: float = 10.0) -> Tensor:
    """kappa_m = exp(alpha min(tau_m - r_m, cap)).

    Args:
        scores: s [M] of the present update; r is its :func:`agm_ratios`.
        running: mean of s over all updates before [M]; tau is its :func:`agm_ratios`.
        alpha: strength, >= 0.
        cap: bound of the difference.
    """
    return (alpha * (agm_ratios(running) - agm_ratios(scores)).clamp_max(cap)).exp()


@LOSSES.register_module()
class AdaptiveGradientModulation(LossComponent):
    """``loss_fused``: the cross-entropy of y = sum_m phi_m, nats; takes the place of
    ``FusedCrossEntropy``.

    phi_m is the Shapley value of modality m in the logits, with the fusion's absent values in place
    of what is left out and 0 as the value of no modality at all, so that the shares sum to y. The
    gradient that flows back through phi_m is multiplied by kappa_m of :func:`agm_coefficients`,
    where s_m is the mean cross-entropy of phi_m. All coalitions but the full one are evaluated on
    the same features, without dropout: no encoder runs twice. kappa = 1 for a modality that no
    sample of the update has.

    Args:
        alpha: strength, >= 0.
        cap: bound of tau - r.
        begin: epochs before which kappa = 1.
        end: epochs from which on kappa = 1; None: never.
    """

    def __init__(
        self, alpha: float = 1.0, cap: float = 10.0, begin: int = 0, end: int | None = None
    ) -> None:
        super().__init__()
        if alpha < 0:
            raise ValueError(f'AdaptiveGradientModulation: alpha must be >= 0, got {alpha}')
        self.alpha, self.cap, self.begin, self.end = alpha, cap, begin, end

    def setup(self, channels: Mapping[str, int], num_classes: int) -> None:
        """The running scores, a number per modality."""
        self.scores = RunningUpdateMean(len(channels))

    def forward(self, state: ForwardState) -> dict[str, Tensor]:
        """``{'loss_fused': scalar}`` and the monitors ``agm/<m>``, kappa_m."""
        shares = self.shares(state)
        factors = self._factors(state, shares.detach()).to(shares)
        scaled = [scale_gradient(phi, k) for phi, k in zip(shares, factors, strict=True)]
        loss = F.cross_entropy(torch.stack(scaled).sum(dim=0), state.known_labels)
        monitors = {f'agm/{m}': k for m, k in zip(state.modalities, factors, strict=True)}
        return {'loss_fused': loss, **monitors}

    @staticmethod
    def shares(state: ForwardState) -> Tensor:
        """phi [M, B, C], in float32 at least."""
        full = state.logits if state.logits.dtype == torch.float64 else state.logits.float()
        masks = coalition_masks(len(state.modalities), full.device)
        empty = torch.zeros_like(full)[None]
        if len(masks) == 2:
            return full[None]
        parts = state.fuse(state.z, masks[1:-1], state.present).to(full)
        return shapley_values(torch.cat([empty, parts, full[None]]))

    def _factors(self, state: ForwardState, shares: Tensor) -> Tensor:
        labels = state.known_labels
        nats = [F.cross_entropy(phi, labels, reduction='none') for phi in shares]
        # a probability of 1e-8 at least, as the public code has it
        ce = torch.stack(nats, dim=1).clamp_max(-math.log(1e-8))
        self.scores(ce, state.update, state.present)
        factors = torch.ones_like(self.scores.mean)
        epoch = state.progress.epoch
        if epoch < self.begin or (self.end is not None and epoch >= self.end):
            return factors
        seen = self.scores.seen  # a modality that the update lacks is in no comparison
        factors[seen] = agm_coefficients(
            self.scores.present()[seen], self.scores.mean[seen], self.alpha, self.cap
        )
        return factors
