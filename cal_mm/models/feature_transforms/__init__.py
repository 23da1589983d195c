"""What happens to the features between bottleneck and fusion."""

from .base import FeatureContext, FeatureTransform

__all__ = ['FeatureContext', 'FeatureTransform']
