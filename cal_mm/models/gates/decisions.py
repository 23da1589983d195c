"""Gates that combine the unimodal predictions instead of the features."""

import torch
from torch import Tensor

from cal_mm.models.contribution import ContributionTracker
from cal_mm.models.contribution.functional import check_enough, counted_share
from cal_mm.models.contribution.typicality import LEAST
from cal_mm.models.fusions.evidential import (
    dempster_fold,
    evidence_from_logits,
    expected_log_probs,
    opinion,
)
from cal_mm.models.state import ForwardState
from cal_mm.registry import GATES

from .base import Gate, GateParts
from .functional import expert_logits, pool_logits

__all__ = ['EvidenceGate', 'ExpertsGate', 'PoolGate']


def _unimodal(state: ForwardState) -> Tensor:
    """u [B, M, C], float32."""
    return torch.stack([state.unimodal_logits(m).float() for m in state.modalities], dim=1)


def _without_typicality(tracker: ContributionTracker) -> list[str]:
    """Modalities whose typicality is not fitted."""
    return [m for m, t in (tracker.typicality or {}).items() if not bool(t.fitted)]


@GATES.register_module(name=['ExpertsGate', 'experts'])
class ExpertsGate(Gate):
    """Product of the unimodal posteriors at their calibrated temperatures, weighed by typicality.

    log p = sum_m a_m log softmax(u_m / T_m), normalised. Where no typicality is fitted all count
    alike. Source: ours.
    """

    needs_heads = True
    needs_contribution = True

    def forward(self, state: ForwardState, parts: GateParts) -> Tensor:
        """Log-probabilities [B, C]."""
        tracker = self.tracker(parts)
        return expert_logits(
            _unimodal(state), self.typicalities(state, tracker), tracker.temperature
        )

    def tracker(self, parts: GateParts) -> ContributionTracker:
        """The model's, with temperatures and typicality."""
        if parts.contribution is None:
            raise ValueError(
                f'{type(self).__name__} needs model.contribution (temperatures, typicality)'
            )
        return parts.contribution

    @staticmethod
    def typicalities(state: ForwardState, tracker: ContributionTracker) -> Tensor:
        """a [B, M], 0 for a missing modality."""
        a = tracker.typicalities(state)
        return a if state.present is None else a * state.present

    def unfitted(self, parts: GateParts) -> str | None:
        """Also where the model was never calibrated: the typicality, if it has one, or else the
        temperatures.
        """
        tracker = parts.contribution
        if tracker is not None and not bool(tracker.told.any()):
            if tracker.typicality is None:
                return 'the temperatures of the predictions were never fitted'
            if len(_without_typicality(tracker)) == len(tracker.modalities):
                return 'the typicality of the features was never fitted'
        return super().unfitted(parts)

    def partly_fitted(self, parts: GateParts) -> str | None:
        """Modalities that too few validation samples had."""
        if parts.contribution is None or not (few := _without_typicality(parts.contribution)):
            return None
        return (
            f'the typicality of {", ".join(few)} was not fitted, as fewer than {LEAST} validation '
            f'samples had it: its features count as typical'
        )


@GATES.register_module(name=['PoolGate', 'pool'])
class PoolGate(ExpertsGate):
    """Pool of the fused and the unimodal predictions, by what they tell and by typicality.

    log p = (f log softmax(y / T) + sum_m q_m log softmax(u_m / T_m) + r log prior) / (f + sum_m q_m
    + r), where q_m = a_m c_m: a modality's own prediction counts if it was found to tell enough on
    the validation samples (c_m = clamp(J_m / min(pivot, share max_k J_k), 0, 1) of the calibrated
    prediction's information J, see ``told_information``), as long as its features look like clean
    ones (a_m). The fused prediction has seen all of them, so f = (sum_m q_m / sum_m c_m)^power:
    once one is corrupted, the others are trusted more than what is fused with it. Where what is
    there counts less than one modality that tells enough, because others are missing, the class
    prior takes the rest: r = max(0, 1 - sum of the c_m that are there). Where no prediction tells
    anything, and before anything is calibrated, all count alike.

    J and not the contribution I: once the modality that tells most is corrupted, what counts is
    what the others tell by themselves, not what they add to it.

    Args:
        power: >= 0; 0 keeps the fused prediction at full weight.
        pivot: J that is enough to count in full, > 0.
        share: of the strongest modality's J that is enough, in (0, 1].

    Source: ours; a reading of the paper's dynamic weights.
    """

    def __init__(self, power: float = 1.0, pivot: float = 0.1, share: float = 0.5) -> None:
        super().__init__()
        if not power >= 0:
            raise ValueError(f'PoolGate: power must not be negative, got {power}')
        check_enough(pivot, share, 'PoolGate: ')
        self.power, self.pivot, self.share = power, pivot, share

    def forward(self, state: ForwardState, parts: GateParts) -> Tensor:
        """Log-probabilities [B, C]."""
        tracker = self.tracker(parts)
        a = self.typicalities(state, tracker)
        counts = counted_share(tracker.told, self.pivot, self.share)
        counts = torch.where(tracker.told.max() > 0, counts, 1.0)
        trust = a * counts
        left = trust.sum(dim=1)
        unimodal = _unimodal(state) / tracker.temperature[None, :, None]
        if state.present is not None:
            there = (counts * state.present).sum(dim=1, keepdim=True)
            prior = parts.log_prior.float().expand(len(unimodal), 1, -1)
            unimodal = torch.cat([unimodal, prior], dim=1)
            trust = torch.cat([trust, (1 - there).clamp_min(0)], dim=1)
        return pool_logits(
            state.logits.float() / tracker.fused_temperature,
            unimodal,
            trust,
            (left / counts.sum()).pow(self.power) * (left > 0),
        )

    def partly_fitted(self, parts: GateParts) -> str | None:
        """Also modalities that no validation sample had."""
        found = super().partly_fitted(parts)
        tracker = parts.contribution
        if tracker is None or not bool(tracker.told.any()):
            return found
        told = zip(tracker.modalities, tracker.told.tolist(), strict=True)
        unknown = ', '.join(m for m, j in told if j == 0)
        if not unknown:
            return found
        text = (
            f'no validation sample told what the prediction of {unknown} alone is worth: it does '
            f'not count'
        )
        return text if found is None else f'{found}; {text}'


@GATES.register_module(name=['EvidenceGate', 'evidence'])
class EvidenceGate(Gate):
    """Dempster's combination of the unimodal heads' evidence softplus(u_m); missing ones are left
    out.

    The maths of trusted multi-view classification (Han et al. 2021); its loss is not used here: the
    heads are trained with cross-entropy, which does not care about a constant added to all logits,
    while evidence does. A sample without any modality gets the uniform prediction.
    """

    needs_heads = True

    def forward(self, state: ForwardState, parts: GateParts) -> Tensor:
        """Logarithm of the expected probabilities [B, C]."""
        beliefs, uncertainty = opinion(evidence_from_logits(_unimodal(state)))
        return expected_log_probs(*dempster_fold(beliefs, uncertainty, state.present))
