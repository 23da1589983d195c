"""Fusions: the modalities' features to fused logits, for any subset of the modalities."""

from .attention import AttentionFusion
from .base import BaseFusion, coalition_logits
from .boosted import BoostedFusion
from .concat import ConcatFusion
from .decision import DecisionFusion
from .film import FiLMFusion
from .gated import GatedFusion
from .joint_bottleneck import JointBottleneckFusion
from .late import LateFusion
from .lowrank import LowRankTensorFusion
from .mm_cosine import MMCosineFusion
from .pdf import PDFFusion
from .qmf import QMFFusion
from .shared_head import SharedHeadFusion
from .sum import SumFusion
from .tmc import EvidentialFusion
from .transformer import TransformerFusion

__all__ = [
    'AttentionFusion',
    'BaseFusion',
    'BoostedFusion',
    'ConcatFusion',
    'DecisionFusion',
    'EvidentialFusion',
    'FiLMFusion',
    'GatedFusion',
    'JointBottleneckFusion',
    'LateFusion',
    'LowRankTensorFusion',
    'MMCosineFusion',
    'PDFFusion',
    'QMFFusion',
    'SharedHeadFusion',
    'SumFusion',
    'TransformerFusion',
    'coalition_logits',
]
