"""Loss components."""

from .aib import AIBLoss
from .aleatoric import AleatoricLoss
from .blended import BlendedCrossEntropy
from .components import FusedCrossEntropy, LossComponent, UnimodalCrossEntropy
from .evidential import EvidentialLoss
from .pdf import TrueClassConfidence
from .prototypes import PrototypeRebalance
from .qmf import ConfidenceRanking

__all__ = [
    'AIBLoss',
    'AleatoricLoss',
    'BlendedCrossEntropy',
    'ConfidenceRanking',
    'EvidentialLoss',
    'FusedCrossEntropy',
    'LossComponent',
    'PrototypeRebalance',
    'TrueClassConfidence',
    'UnimodalCrossEntropy',
]
