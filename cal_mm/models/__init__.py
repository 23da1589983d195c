"""The model and its parts."""

from . import bottlenecks, contribution, encoders, frontends, fusions, gates, losses
from .assembly import NonFiniteLossError
from .classifier import MultiModalClassifier
from .heads import LinearHead
from .preprocessor import MultiModalPreprocessor

__all__ = [
    'LinearHead',
    'MultiModalClassifier',
    'MultiModalPreprocessor',
    'NonFiniteLossError',
    'bottlenecks',
    'contribution',
    'encoders',
    'frontends',
    'fusions',
    'gates',
    'losses',
]
