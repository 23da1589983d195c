"""Noise on depth maps: float32 [1, H, W] in metres; 0 is a hole (nothing was measured)."""

from types import MappingProxyType

import numpy as np
import torch

from cal_mm.registry import CORRUPTIONS

from .base import Corruption
from .fields import covered, smooth_field
from .image import wrap_uint8

__all__ = [
    'FAR',
    'DepthEdgeNoise',
    'DepthGaussianNoise',
    'DepthHoles',
    'DepthQuantisation',
    'DepthSaltPepper',
    'as_levels',
]


#: metres that full scale (level 255) stands for where depth is looked at as an 8-bit picture
FAR = 10.0


def as_levels(depth: np.ndarray, far: float = FAR) -> np.ndarray:
    """Metres to the levels 0..255 of an 8-bit picture whose white is ``far`` metres."""
    return np.clip(np.rint(depth * (255.0 / far)), 0, 255)


@CORRUPTIONS.register_module()
class DepthGaussianNoise(Corruption):
    """Additive normal noise of ``std`` metres; holes stay holes.

    Option ``overflow``: 'clip' (what falls to 0 or below is lost, a hole), or 'wrap' for the legacy
    protocol: the noise acts on the map as an 8-bit picture whose white is 10 m, where negative
    levels wrap modulo 256 and levels above 255 are cut off.
    """

    kind = 'depth'
    parameter = 'std'
    unit = 'metres'
    levels = (0.05, 0.1, 0.25, 0.5, 1.0)
    bounds = (0, 100)
    options = MappingProxyType({'overflow': 'clip'})
    choices = MappingProxyType({'overflow': ('clip', 'wrap')})
    aliases = ('gaussian', 'noise')
    overflow: str

    def corrupt(self, value: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Noised copy [1, H, W]."""
        depth = value.numpy()
        noise = rng.standard_normal(depth.shape, dtype=np.float32) * np.float32(self.value)
        if self.overflow == 'wrap':
            pixels = wrap_uint8(as_levels(depth) + noise * np.float32(255.0 / FAR)).numpy()
            noised = pixels.astype(np.float32) * np.float32(FAR / 255.0)
        else:
            noised = np.maximum(depth + noise, 0)
        return torch.from_numpy(np.where(depth > 0, noised, depth).astype(np.float32))


@CORRUPTIONS.register_module()
class DepthSaltPepper(Corruption):
    """A share ``amount`` of the pixels becomes a hole or 10 m (half each); holes stay holes."""

    kind = 'depth'
    parameter = 'amount'
    unit = 'share of the pixels'
    levels = (0.01, 0.03, 0.06, 0.1, 0.2)
    bounds = (0, 1)
    aliases = ('salt_pepper', 'saltpepper', 'impulse')

    def corrupt(self, value: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Noised copy [1, H, W]."""
        depth = value.numpy()
        draw = rng.random(depth.shape)
        far = np.where((draw < self.value) & (depth > 0), np.float32(FAR), depth)
        return torch.from_numpy(np.where(draw < self.value / 2, np.float32(0), far))


@CORRUPTIONS.register_module()
class DepthHoles(Corruption):
    """Blobs that cover a share ``ratio`` of the map lose their depth (set to 0)."""

    kind = 'depth'
    parameter = 'ratio'
    unit = 'share of the pixels'
    levels = (0.05, 0.1, 0.2, 0.35, 0.5)
    bounds = (0, 1)
    aliases = ('holes', 'correlated', 'all')

    def corrupt(self, value: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Copy [1, H, W] with holes."""
        height, width = value.shape[-2:]
        field = smooth_field((height, width), 0.05 * min(height, width), rng)
        holes = torch.from_numpy(covered(field, self.value))
        return torch.where(holes, torch.zeros_like(value), value)


@CORRUPTIONS.register_module()
class DepthQuantisation(Corruption):
    """Depth rounded to multiples of ``step`` metres."""

    kind = 'depth'
    parameter = 'step'
    unit = 'metres'
    levels = (0.05, 0.1, 0.25, 0.5, 1.0)
    bounds = (1e-6, 100)
    aliases = ('quantisation', 'quantise')

    def corrupt(self, value: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Rounded copy [1, H, W]; measured pixels do not become holes."""
        rounded = torch.round(value / self.value) * self.value
        return torch.where(value > 0, rounded.clamp_min(self.value), value)


@CORRUPTIONS.register_module()
class DepthEdgeNoise(Corruption):
    """Ragged edges: each pixel takes the depth ``reach`` times the short side beside it.

    ``reach`` is a standard deviation in each direction; distances between whole pixels are rounded
    up or down at random, so that they hold on average at any size. Holes stay where they are.
    """

    kind = 'depth'
    parameter = 'reach'
    unit = 'share of the short side'
    levels = (0.003, 0.006, 0.01, 0.016, 0.025)
    bounds = (0, 0.5)
    aliases = ('edge_noise',)

    def corrupt(self, value: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Copy [1, H, W] with displaced pixels."""
        height, width = value.shape[-2:]
        depth = value.numpy()[0]
        reach = self.value * min(height, width)
        offset = rng.standard_normal((2, height, width), dtype=np.float32) * np.float32(reach)
        offset = np.floor(offset + rng.random(offset.shape, dtype=np.float32)).astype(np.int64)
        rows = np.clip(np.arange(height)[:, None] + offset[0], 0, height - 1)
        cols = np.clip(np.arange(width)[None, :] + offset[1], 0, width - 1)
        moved = depth[rows, cols]
        return torch.from_numpy(np.where((depth > 0) & (moved > 0), moved, depth)[None])
