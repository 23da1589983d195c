"""Noise on feature vectors: float32 [D]."""

from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from cal_mm.registry import CORRUPTIONS

from .base import Corruption

__all__ = ['FeatureDropout', 'FeatureGaussianNoise']


@CORRUPTIONS.register_module()
class FeatureGaussianNoise(Corruption):
    """Additive normal noise of standard deviation ``std``.

    ``std`` is in the features' own unit, which for features of unit variance is standard
    deviations. For raw features there are two options: ``scale`` (D numbers), the unit of each
    feature (tools/test.py fills in the standard deviations of the training split where the manifest
    has them), or ``relative=True``, standard deviations of the sample's own D values.
    """

    kind = 'features'
    parameter = 'std'
    unit = 'unit of the features'
    levels = (0.25, 0.5, 1.0, 1.5, 2.0)
    bounds = (0, 1e9)
    options = MappingProxyType({'relative': False, 'scale': None})
    fact_keys = MappingProxyType({'scale': 'std'})
    aliases = ('gaussian', 'noise', 'correlated', 'all')
    relative: bool
    scale: Sequence[float] | None

    def corrupt(self, value: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Noised copy [D]."""
        features = value.numpy()
        std = self.value * self._unit(features)
        noise = rng.standard_normal(features.shape, dtype=np.float32) * std
        return torch.from_numpy((features + noise).astype(features.dtype))

    def _unit(self, features: np.ndarray) -> np.ndarray:
        if self.relative:
            return np.asarray(features.std() if features.size else 0.0)
        if self.scale is None:
            return np.ones(1, dtype=np.float32)
        unit = np.asarray(self.scale, dtype=np.float32)
        if unit.shape != features.shape[-1:]:
            raise ValueError(
                f'{self.name}: scale has {unit.size} numbers, but modality {self.modality!r} has '
                f'{features.shape[-1]} features'
            )
        return unit

    def describe(self) -> dict[str, Any]:
        """As the base does, with the unit that is in force."""
        unit = self.unit if self.scale is None else 'standard deviations of the training data'
        if self.relative:
            unit = "standard deviations of the sample's own values"
        return {**super().describe(), 'unit': unit}


@CORRUPTIONS.register_module()
class FeatureDropout(Corruption):
    """Each feature is set to zero with probability ``ratio``; the others keep their scale."""

    kind = 'features'
    parameter = 'ratio'
    unit = 'share of the features'
    levels = (0.1, 0.25, 0.4, 0.6, 0.8)
    bounds = (0, 1)
    aliases = ('feature_dropout',)

    def corrupt(self, value: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Copy [D] with zeros."""
        keep = torch.from_numpy(rng.random(tuple(value.shape)) >= self.value)
        return torch.where(keep, value, torch.zeros_like(value))
