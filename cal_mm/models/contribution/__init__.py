"""The contribution metric W^m."""

from .estimators import (
    Confidence,
    ContributionEstimator,
    LearningPotential,
    LeaveOneOutInformation,
    ShapleyAccuracy,
    ShapleyInformation,
    UnimodalInformation,
)
from .functional import (
    confidence,
    contribution_weights,
    dynamic_weights,
    information_quantity,
    sampled_shapley_values,
    shapley_values,
    shares,
)
from .ledger import Ledger
from .targets import HeldOutPosteriors, mixed_targets
from .tracker import ContributionEstimate, ContributionTracker
from .typicality import Typicality

__all__ = [
    'Confidence',
    'ContributionEstimate',
    'ContributionEstimator',
    'ContributionTracker',
    'HeldOutPosteriors',
    'LearningPotential',
    'LeaveOneOutInformation',
    'Ledger',
    'ShapleyAccuracy',
    'ShapleyInformation',
    'Typicality',
    'UnimodalInformation',
    'confidence',
    'contribution_weights',
    'dynamic_weights',
    'information_quantity',
    'mixed_targets',
    'sampled_shapley_values',
    'shapley_values',
    'shares',
]
