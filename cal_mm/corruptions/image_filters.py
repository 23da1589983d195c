"""Blur, light, weather and compression on images: uint8 [C, H, W], or frames [T, C, H, W].

Families after ImageNet-C; lengths are shares of the image's short side, so that a severity means
the same on 28 and on 224 pixels. Values are this project's, not ImageNet-C's.
"""

import io
from types import MappingProxyType

import numpy as np
import torch
from PIL import Image
from scipy import ndimage, signal

from cal_mm.registry import CORRUPTIONS

from .base import Corruption
from .fields import disk_kernel, line_kernel, smooth_field, with_mean
from .image import to_uint8

__all__ = [
    'ImageBrightness',
    'ImageContrast',
    'ImageDefocusBlur',
    'ImageFog',
    'ImageGaussianBlur',
    'ImageJPEG',
    'ImageLowLight',
    'ImageMotionBlur',
    'ImagePixelate',
    'ImageSaturate',
]


#: shares of red, green and blue in brightness (ITU-R BT.601)
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


def _short_side(value: torch.Tensor) -> int:
    return min(value.shape[-2:])


def _convolve(value: torch.Tensor, kernel: np.ndarray) -> torch.Tensor:
    """``value`` convolved over H and W with ``kernel`` (sums to one), edges repeated."""
    pixels = value.numpy().astype(np.float32)
    rows, cols = kernel.shape[0] // 2, kernel.shape[1] // 2
    widths = [(0, 0)] * (pixels.ndim - 2) + [(rows, rows), (cols, cols)]
    padded = np.pad(pixels, widths, mode='edge')
    shaped = kernel.reshape((1,) * (pixels.ndim - 2) + kernel.shape)
    return to_uint8(signal.fftconvolve(padded, shaped, mode='valid', axes=(-2, -1)))


@CORRUPTIONS.register_module()
class ImageGaussianBlur(Corruption):
    """Gaussian blur of ``sigma`` times the short side."""

    kind = 'image'
    parameter = 'sigma'
    unit = 'share of the short side'
    levels = (0.012, 0.02, 0.03, 0.045, 0.065)
    bounds = (0, 1)
    aliases = ('blur', 'gaussian_blur')

    def corrupt(self, value: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Blurred copy, same shape."""
        sigma = self.value * _short_side(value)
        sigmas = (0.0,) * (value.ndim - 2) + (sigma, sigma)
        pixels = value.numpy().astype(np.float32)
        return to_uint8(ndimage.gaussian_filter(pixels, sigmas, mode='nearest', truncate=3.0))


@CORRUPTIONS.register_module()
class ImageDefocusBlur(Corruption):
    """Blur with a disk of ``radius`` times the short side (a lens out of focus)."""

    kind = 'image'
    parameter = 'radius'
    unit = 'share of the short side'
    levels = (0.012, 0.02, 0.03, 0.045, 0.065)
    bounds = (0, 0.5)
    aliases = ('defocus', 'defocus_blur')

    def corrupt(self, value: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Blurred copy, same shape."""
        return _convolve(value, disk_kernel(self.value * _short_side(value)))


@CORRUPTIONS.register_module()
class ImageMotionBlur(Corruption):
    """Blur along a line of ``length`` times the short side, at a random angle."""

    kind = 'image'
    parameter = 'length'
    unit = 'share of the short side'
    levels = (0.04, 0.07, 0.11, 0.16, 0.22)
    bounds = (0, 1)
    aliases = ('motion', 'motion_blur')

    def corrupt(self, value: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Blurred copy, same shape; frames share the angle."""
        angle = rng.uniform(0.0, np.pi)
        return _convolve(value, line_kernel(self.value * _short_side(value), angle))


@CORRUPTIONS.register_module()
class ImageContrast(Corruption):
    """Contrast reduced by ``loss``: pixels move to the image's mean by that share."""

    kind = 'image'
    parameter = 'loss'
    unit = 'share of the contrast'
    levels = (0.4, 0.55, 0.7, 0.8, 0.9)
    bounds = (0, 1)
    aliases = ('contrast',)

    def corrupt(self, value: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Flattened copy, same shape."""
        pixels = value.numpy().astype(np.float32)
        mean = pixels.mean(axis=(-2, -1), keepdims=True)
        return to_uint8(mean + (pixels - mean) * (1.0 - self.value))


@CORRUPTIONS.register_module()
class ImageBrightness(Corruption):
    """``offset`` added to every pixel (negative: darker), clipped."""

    kind = 'image'
    parameter = 'offset'
    unit = 'levels of 0..255'
    levels = (25, 50, 75, 100, 125)
    bounds = (-255, 255)
    aliases = ('brightness',)

    def corrupt(self, value: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Brightened copy, same shape."""
        return to_uint8(value.numpy().astype(np.float32) + self.value)


@CORRUPTIONS.register_module()
class ImageSaturate(Corruption):
    """Colours moved away from grey by ``gain`` times their distance (-1: no colour left), clipped.

    Grey is the luma of three channels (else the mean of the channels) and is kept; an image of one
    channel has no colour and stays as it is.
    """

    kind = 'image'
    parameter = 'gain'
    unit = 'added distance from grey'
    levels = (0.5, 1, 2, 4, 8)
    bounds = (-1, 100)
    aliases = ('saturate',)
    needs_colour = True

    def corrupt(self, value: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Copy with stronger colours, same shape."""
        pixels = value.numpy().astype(np.float32)
        channels = value.shape[-3]
        weights = _LUMA if channels == 3 else np.full(channels, 1 / channels, dtype=np.float32)
        grey = (pixels * weights[:, None, None]).sum(axis=-3, keepdims=True)
        return to_uint8(pixels + np.float32(self.value) * (pixels - grey))


@CORRUPTIONS.register_module()
class ImageLowLight(Corruption):
    """Night: a share ``loss`` of the light is gone, and the sensor counts few photons.

    A pixel becomes x (1 - loss) plus noise of variance 255 x (1 - loss) / ``photons`` (option,
    photons that full scale stands for); clipped.
    """

    kind = 'image'
    parameter = 'loss'
    unit = 'share of the light'
    levels = (0.3, 0.5, 0.65, 0.78, 0.88)
    bounds = (0, 1)
    options = MappingProxyType({'photons': 400.0})
    aliases = ('low_light', 'night', 'correlated', 'all')
    photons: float

    def corrupt(self, value: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Dark, grainy copy, same shape."""
        dark = value.numpy() * np.float32(1.0 - self.value)
        noise = rng.standard_normal(dark.shape, dtype=np.float32)
        return to_uint8(dark + noise * np.sqrt(dark * np.float32(255.0 / self.photons)))


@CORRUPTIONS.register_module()
class ImageFog(Corruption):
    """Blend with a smooth bright field; ``density`` is the mean share of fog."""

    kind = 'image'
    parameter = 'density'
    unit = 'mean share of fog'
    levels = (0.15, 0.25, 0.35, 0.45, 0.55)
    bounds = (0, 1)
    aliases = ('fog',)

    def corrupt(self, value: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Fogged copy, same shape; frames and channels share the field."""
        height, width = value.shape[-2:]
        field = smooth_field((height, width), 0.1 * _short_side(value), rng)
        share = with_mean(0.5 + field, self.value)
        return to_uint8(value.numpy() * (1.0 - share) + 255.0 * share)


@CORRUPTIONS.register_module()
class ImagePixelate(Corruption):
    """Resolution reduced by ``factor`` (box average), then enlarged again."""

    kind = 'image'
    parameter = 'factor'
    unit = 'times smaller'
    levels = (1.7, 2.2, 3, 4, 6)
    bounds = (1, 64)
    aliases = ('pixelate',)

    def corrupt(self, value: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Blocky copy, same shape."""
        height, width = value.shape[-2:]
        small = (max(1, round(width / self.value)), max(1, round(height / self.value)))
        planes = [
            np.asarray(
                Image.fromarray(plane)
                .resize(small, Image.Resampling.BOX)
                .resize((width, height), Image.Resampling.NEAREST)
            )
            for plane in value.numpy().reshape(-1, height, width)
        ]
        return torch.from_numpy(np.stack(planes).reshape(value.shape))


@CORRUPTIONS.register_module()
class ImageJPEG(Corruption):
    """JPEG compression at quality ``100 - loss``."""

    kind = 'image'
    parameter = 'loss'
    unit = '100 - JPEG quality'
    levels = (75, 82, 87, 91, 95)
    bounds = (0, 99)
    aliases = ('jpeg', 'jpeg_compression')

    def corrupt(self, value: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Compressed copy, same shape; other than 3 channels are compressed one by one."""
        quality = round(100 - self.value)
        if value.shape[-3] == 3:
            frames = value.reshape(-1, *value.shape[-3:]).permute(0, 2, 3, 1)
            out = torch.stack([_jpeg(f, quality) for f in frames]).permute(0, 3, 1, 2)
        else:
            out = torch.stack([_jpeg(p, quality) for p in value.reshape(-1, *value.shape[-2:])])
        return out.reshape(value.shape).contiguous()


def _jpeg(pixels: torch.Tensor, quality: int) -> torch.Tensor:
    buffer = io.BytesIO()
    Image.fromarray(pixels.contiguous().numpy()).save(buffer, 'JPEG', quality=quality)
    return torch.from_numpy(np.array(Image.open(buffer)))
