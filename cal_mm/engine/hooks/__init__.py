"""Hooks: they log, measure and schedule; they never touch a gradient."""

from .calibration import CalibrationHook
from .contribution import ContributionHook
from .feature_cache import FeatureCacheHook
from .g_blending import GBlendingHook
from .guard import CheckpointGuardHook, NonFiniteWeightsError
from .progress import EpochSeedHook, TrainProgressHook
from .prototypes import PrototypeHook
from .relearning import ReLearningHook
from .statistics import DataStatisticsHook

__all__ = [
    'CalibrationHook',
    'CheckpointGuardHook',
    'ContributionHook',
    'DataStatisticsHook',
    'EpochSeedHook',
    'FeatureCacheHook',
    'GBlendingHook',
    'NonFiniteWeightsError',
    'PrototypeHook',
    'ReLearningHook',
    'TrainProgressHook',
]
