"""Encoders: one modality's packed and preprocessed values to a feature vector."""

from .base import BaseEncoder
from .cache import CachedFeatureDataset, FeatureStore, cache_key, compute_features
from .cnn import AudioCNN, SmallImageCNN
from .embedding import embedding_module, observed_embeddings, shifted_embeddings
from .features import IdentityEncoder, MLPEncoder
from .hf_text import HFTextEncoder
from .resources import resolve_resource
from .spectrogram_resnet import SpectrogramResNet
from .timm_encoder import TimmEncoder

__all__ = [
    'AudioCNN',
    'BaseEncoder',
    'CachedFeatureDataset',
    'FeatureStore',
    'HFTextEncoder',
    'IdentityEncoder',
    'MLPEncoder',
    'SmallImageCNN',
    'SpectrogramResNet',
    'TimmEncoder',
    'cache_key',
    'compute_features',
    'embedding_module',
    'observed_embeddings',
    'resolve_resource',
    'shifted_embeddings',
]
