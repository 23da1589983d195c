"""Gates: how a prediction is made of one forward pass, at inference."""

from cal_mm.registry import GATES

from .base import FeatureGate, Gate, GateParts
from .decisions import EvidenceGate, ExpertsGate, PoolGate
from .features import ConfidenceGate, ContributionGate, NoGate, UncertaintyGate
from .functional import expert_logits, gate_features, pool_logits, two_sided_share

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
    'pool_logits',
    'two_sided_share',
]

#: the short names, as ``model.gate`` and ``--gate`` take them
GATE_NAMES = tuple(name for name in GATES.module_dict if name.islower())
