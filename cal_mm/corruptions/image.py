"""Noise on images: uint8 [C, H, W], or frames [T, C, H, W]."""

from types import MappingProxyType

import numpy as np
import torch

from cal_mm.registry import CORRUPTIONS

from .base import Corruption

__all__ = [
    'ImageGaussianNoise',
    'ImageSaltPepper',
    'ImageShotNoise',
    'ImageSpeckleNoise',
    'gaussian_field',
    'to_uint8',
    'wrap_uint8',
]


def to_uint8(pixels: np.ndarray) -> torch.Tensor:
    """Round to the nearest level and clip to 0..255."""
    return torch.from_numpy(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


def wrap_uint8(pixels: np.ndarray) -> torch.Tensor:
    """Clip above 255, drop the fraction, and let negative values wrap modulo 256 (-3.7 -> 253).

    What a cast of a float array to uint8 does on common machines, written out because the C
    standard leaves it undefined.
    """
    whole = np.trunc(np.minimum(pixels, 255.0)).astype(np.int64)
    return torch.from_numpy((whole % 256).astype(np.uint8))


def gaussian_field(
    shape: tuple[int, ...], std: float, rng: np.random.Generator, shared: bool
) -> np.ndarray:
    """Normal noise of ``shape`` [..., C, H, W]; ``shared``: one field for all channels."""
    drawn = (*shape[:-3], 1, *shape[-2:]) if shared else shape
    return rng.standard_normal(drawn, dtype=np.float32) * np.float32(std)


@CORRUPTIONS.register_module()
class ImageGaussianNoise(Corruption):
    """Additive normal noise of standard deviation ``std`` on the 0..255 scale, rounded and clipped.

    Options: ``field`` 'channel' (independent per channel) or 'shared' (one field over the
    channels); ``overflow`` 'clip', or 'wrap' for the legacy protocol (see :func:`wrap_uint8`).
    """

    kind = 'image'
    parameter = 'std'
    unit = 'levels of 0..255'
    levels = (10, 25, 50, 75, 100)
    bounds = (0, 1000)
    options = MappingProxyType({'field': 'channel', 'overflow': 'clip'})
    choices = MappingProxyType({'field': ('channel', 'shared'), 'overflow': ('clip', 'wrap')})
    aliases = ('gaussian', 'noise', 'gaussian_noise')
    field: str
    overflow: str

    def corrupt(self, value: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Noised copy, same shape."""
        noise = gaussian_field(tuple(value.shape), self.value, rng, self.field == 'shared')
        pixels = value.numpy() + noise
        return wrap_uint8(pixels) if self.overflow == 'wrap' else to_uint8(pixels)


@CORRUPTIONS.register_module()
class ImageSaltPepper(Corruption):
    """Impulse noise: a share ``amount`` of the pixels turned black or white (half each).

    Option ``field``: 'shared' (all channels of a pixel together) or 'channel' (each channel on its
    own, as ImageNet-C does it).
    """

    kind = 'image'
    parameter = 'amount'
    unit = 'share of the pixels'
    levels = (0.01, 0.03, 0.06, 0.1, 0.2)
    bounds = (0, 1)
    options = MappingProxyType({'field': 'shared'})
    choices = MappingProxyType({'field': ('channel', 'shared')})
    aliases = ('salt_pepper', 'saltpepper', 'impulse', 'impulse_noise')
    field: str

    def corrupt(self, value: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Noised copy, same shape."""
        channels = 1 if self.field == 'shared' else value.shape[-3]
        draw = rng.random((*value.shape[:-3], channels, *value.shape[-2:]))
        pixels = np.where(draw < self.value / 2, np.uint8(0), value.numpy())
        salt = (draw >= self.value / 2) & (draw < self.value)
        return torch.from_numpy(np.where(salt, np.uint8(255), pixels))


@CORRUPTIONS.register_module()
class ImageShotNoise(Corruption):
    """Poisson noise of a sensor that counts ``1 / rate`` photons at full scale."""

    kind = 'image'
    parameter = 'rate'
    unit = '1 / photons at full scale'
    levels = (1 / 60, 1 / 25, 1 / 12, 1 / 5, 1 / 3)
    bounds = (1e-6, 1)
    aliases = ('shot', 'shot_noise')

    def corrupt(self, value: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Noised copy, same shape."""
        photons = 1.0 / self.value
        counts = rng.poisson(value.numpy() / 255.0 * photons)
        return to_uint8(counts / photons * 255.0)


@CORRUPTIONS.register_module()
class ImageSpeckleNoise(Corruption):
    """Multiplicative normal noise: a pixel x becomes x (1 + n), n of standard deviation ``std``."""

    kind = 'image'
    parameter = 'std'
    unit = "share of the pixel's level"
    levels = (0.15, 0.2, 0.35, 0.45, 0.6)
    bounds = (0, 10)
    aliases = ('speckle', 'speckle_noise')

    def corrupt(self, value: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Noised copy, same shape; rounded and clipped."""
        noise = rng.standard_normal(tuple(value.shape), dtype=np.float32)
        return to_uint8(value.numpy() * (1 + np.float32(self.value) * noise))
