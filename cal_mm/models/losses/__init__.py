"""Loss components."""

from .aib import AIBLoss
from .components import FusedCrossEntropy, LossComponent, UnimodalCrossEntropy
from .evidential import EvidentialLoss
from .pdf import TrueClassConfidence
from .prototypes import PrototypeRebalance
from .qmf import ConfidenceRanking

__all__ = [
    'AIBLoss',
    'ConfidenceRanking',
    'EvidentialLoss',
    'FusedCrossEntropy',
    'LossComponent',
    'PrototypeRebalance',
    'TrueClassConfidence',
    'UnimodalCrossEntropy',
]
