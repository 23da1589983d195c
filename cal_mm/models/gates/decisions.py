"""Gates that combine the unimodal predictions instead of the features."""

import torch
from torch import Tensor

from cal_mm.models.fusions.evidential import (
    dempster_fold,
    evidence_from_logits,
    expected_log_probs,
    opinion,
)
from cal_mm.models.state import ForwardState
from cal_mm.registry import GATES

from .base import Gate, GateParts
from .functional import expert_logits

__all__ = ['EvidenceGate', 'ExpertsGate']


def _unimodal(state: ForwardState) -> Tensor:
    """u [B, M, C], float32."""
    return torch.stack([state.unimodal_logits(m).float() for m in state.modalities], dim=1)


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
        tracker = parts.contribution
        if tracker is None:
            raise ValueError('ExpertsGate needs model.contribution (temperatures, typicality)')
        a = tracker.typicalities({m: state.features[m].float() for m in state.modalities})
        a = a if state.present is None else a * state.present
        return expert_logits(_unimodal(state), a, tracker.temperature)

    def unfitted(self, parts: GateParts) -> str | None:
        """Also the typicality, where the model has one."""
        tracker = parts.contribution
        known = getattr(tracker, 'typicality', None)
        if known is not None and not all(bool(t.fitted) for t in known.values()):
            return 'the typicality of the features was never fitted'
        return super().unfitted(parts)


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
