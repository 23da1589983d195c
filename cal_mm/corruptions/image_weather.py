"""Weather and dirt on images: snow, frost, spatter; uint8 [C, H, W] or frames [T, C, H, W].

Procedural, so no texture files are needed and any size works. Frost and spatter sit on the lens:
one field for all frames. Snow is one field that falls on from frame to frame.
"""

from types import MappingProxyType

import numpy as np
import torch

from cal_mm.registry import CORRUPTIONS

from .base import Corruption
from .fields import circular_convolve, covered, line_kernel, smooth_field, with_mean
from .image import to_uint8

__all__ = ['ImageFrost', 'ImageSnow', 'ImageSpatter', 'frost_field', 'snow_field']

_WHITE = (255.0, 255.0, 255.0)
_ICE = (225.0, 236.0, 246.0)
_LIQUIDS = MappingProxyType({'mud': (63.0, 42.0, 20.0), 'water': (175.0, 215.0, 225.0)})
_FALL = 0.13  # of the height, from one frame to the next


def _coloured(colour: tuple[float, float, float], channels: int) -> np.ndarray:
    """``colour`` [C, 1, 1]; its mean for images that are not RGB."""
    levels = np.array(colour if channels == 3 else [sum(colour) / 3], dtype=np.float32)
    return levels[:, None, None]


def _blend(
    value: torch.Tensor, share: np.ndarray, colour: tuple[float, float, float]
) -> torch.Tensor:
    """``share`` [H, W] (or [T, 1, H, W]) of ``colour``, the rest ``value``."""
    over = _coloured(colour, value.shape[-3])
    return to_uint8(value.numpy() * (1.0 - share) + over * share)


def snow_field(shape: tuple[int, int], cover: float, rng: np.random.Generator) -> np.ndarray:
    """Opacity [H, W] in [0, 1] of falling flakes, mean ``cover``; wraps round at the edges."""
    short = min(shape)
    angle = np.pi / 2 + rng.uniform(-0.6, 0.6)
    total = np.full(shape, 1e-3, dtype=np.float32)
    # (size, streak, strength) as shares of the short side: far flakes and near ones
    for size, streak, strength in ((0.005, 0.025, 0.7), (0.011, 0.05, 1.0)):
        kernel = _thick(line_kernel(max(1.0, streak * short), angle), size * short)
        # so many that the layer alone, laid out without overlap, would cover the image so far
        born = 1.2 * cover * float(kernel.max() / kernel.sum())
        seeds = (rng.random(shape, dtype=np.float32) < born).astype(np.float32)
        total += strength * circular_convolve(seeds, kernel / kernel.max())
    return with_mean(total, cover)


def _thick(kernel: np.ndarray, size: float) -> np.ndarray:
    """``kernel`` drawn with a round pen of ``size`` pixels (standard deviation)."""
    reach = int(np.ceil(2 * size))
    if size < 0.3 or reach < 1:
        return kernel
    pen = np.exp(-0.5 * (np.arange(-reach, reach + 1) / size) ** 2)
    padded = np.pad(kernel, reach)
    for axis in (0, 1):
        padded = np.apply_along_axis(np.convolve, axis, padded, pen, mode='same')
    return padded


def frost_field(shape: tuple[int, int], cover: float, rng: np.random.Generator) -> np.ndarray:
    """Opacity [H, W] in [0, 1] of ice, mean ``cover``: needles in six directions, thick at rims."""
    height, width = shape
    short = min(shape)
    turn = rng.uniform(0, np.pi)
    needles = np.zeros(shape, dtype=np.float32)
    for k in range(3):  # ice grows in steps of 60 degrees
        angle = turn + k * np.pi / 3 + rng.uniform(-0.12, 0.12)
        for length, share in ((0.30, 0.004), (0.10, 0.02)):
            seeds = rng.random(shape, dtype=np.float32)
            seeds = np.where(seeds < share, seeds / share, 0)
            grown = circular_convolve(seeds, line_kernel(max(1.0, length * short), angle))
            needles = np.maximum(needles, grown / max(float(grown.max()), 1e-6))
    clumps = smooth_field(shape, 0.12 * short, rng)
    haze = 0.35 * clumps
    rows = np.abs(np.linspace(-1, 1, height, dtype=np.float32))[:, None]
    cols = np.abs(np.linspace(-1, 1, width, dtype=np.float32))[None, :]
    rim = np.maximum(rows, cols) ** 2
    growth = (0.15 + rim) * (0.3 + clumps) + 1e-3
    return with_mean((needles + haze) * growth, cover)


@CORRUPTIONS.register_module()
class ImageSnow(Corruption):
    """Falling snow: white streaks whose mean opacity over the image is ``cover``.

    In a clip the flakes of the first frame go on falling.
    """

    kind = 'image'
    parameter = 'cover'
    unit = 'mean share of snow'
    levels = (0.06, 0.11, 0.17, 0.25, 0.35)
    bounds = (0, 1)
    aliases = ('snow',)

    def corrupt(self, value: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Snowy copy, same shape."""
        height, width = value.shape[-2:]
        share = snow_field((height, width), self.value, rng)
        if value.ndim == 4:
            step = round(_FALL * height)
            share = np.stack([np.roll(share, t * step, axis=0) for t in range(len(value))])[:, None]
        return _blend(value, share, _WHITE)


@CORRUPTIONS.register_module()
class ImageFrost(Corruption):
    """Ice on the lens, thicker towards the rim, whose mean opacity over the image is ``cover``."""

    kind = 'image'
    parameter = 'cover'
    unit = 'mean share of ice'
    levels = (0.15, 0.25, 0.35, 0.45, 0.55)
    bounds = (0, 1)
    aliases = ('frost',)

    def corrupt(self, value: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Frosted copy, same shape; frames share the ice."""
        height, width = value.shape[-2:]
        return _blend(value, frost_field((height, width), self.value, rng), _ICE)


@CORRUPTIONS.register_module()
class ImageSpatter(Corruption):
    """Drops on the lens that cover a share ``amount`` of the pixels (85 % opaque).

    Option ``liquid``: 'mud' (dark brown) or 'water' (pale). Drops measure about 2 % of the short
    side.
    """

    kind = 'image'
    parameter = 'amount'
    unit = 'share of the pixels'
    levels = (0.03, 0.07, 0.13, 0.2, 0.3)
    bounds = (0, 1)
    options = MappingProxyType({'liquid': 'mud'})
    choices = MappingProxyType({'liquid': tuple(_LIQUIDS)})
    aliases = ('spatter',)
    liquid: str

    def corrupt(self, value: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Spattered copy, same shape; frames share the drops."""
        height, width = value.shape[-2:]
        field = smooth_field((height, width), 0.02 * min(height, width), rng)
        drops = covered(field, self.value)
        return _blend(value, drops * np.float32(0.85), _LIQUIDS[self.liquid])
