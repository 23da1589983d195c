"""Hooks: they log, measure and schedule; they never touch a gradient."""

from .alignment import AlignmentWeightHook
from .calibration import CalibrationHook
from .contribution import ContributionHook
from .feature_cache import FeatureCacheHook
from .g_blending import GBlendingHook
from .growth import GrowthHook
from .guard import CheckpointGuardHook, NonFiniteWeightsError
from .progress import EpochSeedHook, TrainProgressHook
from .prototypes import PrototypeHook
from .relearning import ReLearningHook
from .statistics import DataStatisticsHook
from .teachers import TeacherHook
from .validation import ResumedValidationHook
from .valuation import SampleValuationHook

__all__ = [
    'AlignmentWeightHook',
    'CalibrationHook',
    'CheckpointGuardHook',
    'ContributionHook',
    'DataStatisticsHook',
    'EpochSeedHook',
    'FeatureCacheHook',
    'GBlendingHook',
    'GrowthHook',
    'NonFiniteWeightsError',
    'PrototypeHook',
    'ReLearningHook',
    'ResumedValidationHook',
    'SampleValuationHook',
    'TeacherHook',
    'TrainProgressHook',
]
