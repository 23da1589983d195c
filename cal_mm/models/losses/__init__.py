"""Loss components."""

from .agm import AdaptiveGradientModulation
from .agreement import ConfidenceOrder, GapAlignment, SymmetricDistillation
from .aib import AIBLoss
from .aleatoric import AleatoricLoss
from .alone import AloneCrossEntropy
from .blended import BlendedCrossEntropy
from .boosting import BoostingLoss
from .components import FusedCrossEntropy, LossComponent, UnimodalCrossEntropy
from .direction import DirectionAlignment
from .distillation import TeacherDistillation
from .evidential import EvidentialLoss
from .joint_bottleneck import JointBottleneckLoss
from .optimal_bottleneck import OptimalBottleneckLoss
from .pdf import TrueClassConfidence
from .prototypes import PrototypeRebalance
from .qmf import ConfidenceRanking
from .reconboost import ReconBoostLoss

__all__ = [
    'AIBLoss',
    'AdaptiveGradientModulation',
    'AleatoricLoss',
    'AloneCrossEntropy',
    'BlendedCrossEntropy',
    'BoostingLoss',
    'ConfidenceOrder',
    'ConfidenceRanking',
    'DirectionAlignment',
    'EvidentialLoss',
    'FusedCrossEntropy',
    'GapAlignment',
    'JointBottleneckLoss',
    'LossComponent',
    'OptimalBottleneckLoss',
    'PrototypeRebalance',
    'ReconBoostLoss',
    'SymmetricDistillation',
    'TeacherDistillation',
    'TrueClassConfidence',
    'UnimodalCrossEntropy',
]
