"""Gates: how a prediction is made of one forward pass, at inference."""

from cal_mm.registry import GATES

from .base import FeatureGate, Gate, GateParts
from .decisions import EvidenceGate, ExpertsGate, PoolGate
from .features import ConfidenceGate, ContributionGate, NoGate, UncertaintyGate
from .functional import expert_logits, gate_features, log_two_sided_share, pool_logits

__all__ = [
    'GATE_NAMES',
    'ConfidenceGate',
    'ContributionGate',
    'EvidenceGate',
    'ExpertsGate',
    'FeatureGate',
    'Gate',
    'GateParts',
    'NoGate',
    'PoolGate',
    'UncertaintyGate',
    'expert_logits',
    'gate_features',
    'log_two_sided_share',
    'pool_logits',
]

#: the short names, as ``model.gate`` and ``--gate`` take them
GATE_NAMES = tuple(name for name in GATES.module_dict if name.islower())
