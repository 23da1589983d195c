"""What happens to the features between bottleneck and fusion."""

from .amco import AMCo
from .base import FeatureContext, FeatureTransform
from .mmtm import MMTM
from .opm import OPM
from .variance_weights import VarianceWeights

__all__ = ['MMTM', 'OPM', 'AMCo', 'FeatureContext', 'FeatureTransform', 'VarianceWeights']
