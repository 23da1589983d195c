"""Geometric corruptions of images: glass, zoom, elastic; uint8 [C, H, W] or frames [T, C, H, W].

Lengths are shares of the image's short side. What is drawn is one field for all channels and
frames.
"""

import numpy as np
import torch
from scipy import ndimage

from cal_mm.registry import CORRUPTIONS

from .base import Corruption
from .fields import bilinear, rescale, smooth_field
from .image import to_uint8

__all__ = ['ImageElastic', 'ImageGlassBlur', 'ImageZoomBlur', 'elastic_offsets', 'zoom_average']

_MAX_ZOOMS = 10


def elastic_offsets(
    shape: tuple[int, int], rms: float, scale: float, rng: np.random.Generator
) -> np.ndarray:
    """Displacements [2, H, W] in pixels (rows, columns), smooth over ``scale`` pixels.

    Their mean is 0 and the root of their mean squared length is ``rms``, both exact, unless the
    image is too small to vary.
    """
    fields = np.stack([smooth_field(shape, scale, rng) for _ in range(2)])
    fields -= fields.mean(axis=(1, 2), keepdims=True)
    length = np.sqrt(np.mean(np.square(fields).sum(axis=0)))
    return fields * (rms / length) if length > 0 else fields


def zoom_average(pixels: np.ndarray, amount: float) -> np.ndarray:
    """Mean of ``pixels`` [..., H, W] magnified about the centre by factors from 1 to 1 + amount."""
    height, width = pixels.shape[-2:]
    middle = (height - 1) / 2, (width - 1) / 2
    # one step for each pixel that a corner travels, up to a limit that bounds the time
    steps = int(np.clip(np.ceil(amount * max(height, width) / 2), 2, _MAX_ZOOMS))
    total = np.zeros(pixels.shape, dtype=np.float32)
    for factor in np.linspace(1.0, 1.0 + amount, steps):
        rows = middle[0] + (np.arange(height) - middle[0]) / factor
        cols = middle[1] + (np.arange(width) - middle[1]) / factor
        total += rescale(pixels, rows, cols)
    return total / steps


@CORRUPTIONS.register_module()
class ImageGlassBlur(Corruption):
    """Frosted glass: each pixel is read up to ``reach`` times the short side away, then blurred.

    The displacement is even over a square; the blur's standard deviation is a fifth of ``reach``.
    """

    kind = 'image'
    parameter = 'reach'
    unit = 'share of the short side'
    levels = (0.006, 0.01, 0.015, 0.022, 0.032)
    bounds = (0, 0.5)
    aliases = ('glass', 'glass_blur')

    def corrupt(self, value: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Scattered copy, same shape."""
        height, width = value.shape[-2:]
        reach = self.value * min(height, width)
        offsets = rng.uniform(-reach, reach, (2, height, width)).astype(np.float32)
        rows = np.arange(height, dtype=np.float32)[:, None] + offsets[0]
        cols = np.arange(width, dtype=np.float32)[None, :] + offsets[1]
        pixels = bilinear(value.numpy().astype(np.float32), rows, cols)
        sigma = (0.0,) * (value.ndim - 2) + (reach / 5, reach / 5)
        return to_uint8(ndimage.gaussian_filter(pixels, sigma, mode='nearest'))


@CORRUPTIONS.register_module()
class ImageZoomBlur(Corruption):
    """Zooming while the shutter is open: mean of magnifications from 1 to 1 + ``amount``."""

    kind = 'image'
    parameter = 'amount'
    unit = 'largest magnification - 1'
    levels = (0.08, 0.14, 0.2, 0.28, 0.4)
    bounds = (0, 4)
    aliases = ('zoom', 'zoom_blur')

    def corrupt(self, value: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Blurred copy, same shape."""
        return to_uint8(zoom_average(value.numpy().astype(np.float32), self.value))


@CORRUPTIONS.register_module()
class ImageElastic(Corruption):
    """Elastic distortion: pixels move by ``shift`` times the short side (root mean square).

    Displacements are smooth over 6 % of the short side.
    """

    kind = 'image'
    parameter = 'shift'
    unit = 'share of the short side'
    levels = (0.01, 0.018, 0.028, 0.04, 0.055)
    bounds = (0, 0.5)
    aliases = ('elastic', 'elastic_transform')

    def corrupt(self, value: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Warped copy, same shape."""
        height, width = value.shape[-2:]
        short = min(height, width)
        offsets = elastic_offsets((height, width), self.value * short, 0.06 * short, rng)
        rows = np.arange(height, dtype=np.float32)[:, None] + offsets[0]
        cols = np.arange(width, dtype=np.float32)[None, :] + offsets[1]
        return to_uint8(bilinear(value.numpy().astype(np.float32), rows, cols))
