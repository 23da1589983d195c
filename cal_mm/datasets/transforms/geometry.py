"""Resizing, cropping and flipping; one draw for all of a transform's modalities."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from cal_mm.registry import TRANSFORMS

from .base import ModalityTransform, generator_of

__all__ = ['CenterCrop', 'RandomCrop', 'RandomFlip', 'RandomResizedCrop', 'Resize']

Names = str | Sequence[str] | None
Size = int | Sequence[int]


def _pair(size: Size) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else tuple(size)
    if height < 1 or width < 1:
        raise ValueError(f'size must be (height, width) of at least 1, got {size}')
    return int(height), int(width)


def _checked(value: Any) -> torch.Tensor:
    if not isinstance(value, torch.Tensor) or value.ndim < 3:
        raise ValueError(
            'expected a loaded image or depth map [..., C, H, W]; put LoadImage or LoadDepth '
            'before it'
        )
    return value


def resized(value: torch.Tensor, size: Sequence[int], kind: str | None) -> torch.Tensor:
    """``value`` [..., C, H, W] resized to (height, width).

    Images: bilinear with antialiasing. Depth: nearest, so that no depth is invented at edges or
    from pixels without a measurement.
    """
    if tuple(value.shape[-2:]) == tuple(size):
        return value
    if kind == 'depth':
        return F.resize(value, list(size), InterpolationMode.NEAREST_EXACT)
    return F.resize(value, list(size), InterpolationMode.BILINEAR, antialias=True)


def _target(size: Size, height: int, width: int) -> tuple[int, int]:
    """(height, width) after resizing; an int is the shorter side's."""
    if not isinstance(size, int):
        return _pair(size)
    scale = size / min(height, width)
    if height <= width:
        return size, max(size, round(width * scale))
    return max(size, round(height * scale)), size


class SharedDraw(ModalityTransform):
    """A transform that draws once and applies that draw to each of its modalities.

    Draws are relative to the size, so modalities of different resolutions stay aligned.
    """

    separable = True

    def transform(self, results: dict) -> dict:
        """Draw once, apply to each modality that is present."""
        present = self.present(results)
        if not present:
            return results
        first = results[present[0]]
        size = tuple(first.shape[-2:]) if isinstance(first, torch.Tensor) else (1, 1)
        draw = self.draw(generator_of(results), size)
        for modality in present:
            results[modality] = self.guarded(results, modality, draw)
        return results

    def apply(self, value: Any, modality: str, results: dict, *args: Any) -> torch.Tensor:
        """``value`` transformed by the draw."""
        kind = results.get('kinds', {}).get(modality)
        return self.apply_draw(_checked(value), kind, args[0])

    @abstractmethod
    def draw(self, rng: np.random.Generator, size: tuple[int, ...]) -> Any:
        """Draw the parameters, given the first modality's (height, width)."""

    @abstractmethod
    def apply_draw(self, value: torch.Tensor, kind: str | None, draw: Any) -> torch.Tensor:
        """Apply a draw to [..., C, H, W]."""


@TRANSFORMS.register_module()
class Resize(ModalityTransform):
    """Resize images (bilinear, antialiased) or depth maps (nearest).

    Args:
        size: (height, width), or an int for the shorter side with the aspect ratio kept.
        modality: name or names.
        modalities: the same.
    """

    repeatable = True

    def __init__(self, size: Size, modality: Names = None, modalities: Names = None) -> None:
        super().__init__(modality, modalities)
        _pair(size)
        self.size = size

    def apply(self, value: Any, modality: str, results: dict, *args: Any) -> torch.Tensor:
        """[..., C, height, width]."""
        value = _checked(value)
        size = _target(self.size, *value.shape[-2:])
        return resized(value, size, results.get('kinds', {}).get(modality))


@TRANSFORMS.register_module()
class CenterCrop(ModalityTransform):
    """Cut the centre (height, width); a smaller input is padded with zeros.

    Args:
        size: (height, width) or an int for a square.
        modality: name or names.
        modalities: the same.
    """

    repeatable = True

    def __init__(self, size: Size, modality: Names = None, modalities: Names = None) -> None:
        super().__init__(modality, modalities)
        self.size = _pair(size)

    def apply(self, value: Any, modality: str, results: dict, *args: Any) -> torch.Tensor:
        """[..., C, height, width]."""
        return F.center_crop(_checked(value), list(self.size))


@TRANSFORMS.register_module()
class RandomCrop(SharedDraw):
    """Pad with zeros, then cut (height, width) at a random place.

    Args:
        size: (height, width) or an int for a square.
        modality: name or names; several share one draw.
        modalities: the same.
        padding: zeros added on each side, in pixels.
    """

    def __init__(
        self, size: Size, modality: Names = None, modalities: Names = None, padding: int = 0
    ) -> None:
        super().__init__(modality, modalities)
        self.size = _pair(size)
        if padding < 0:
            raise ValueError(f'padding must be >= 0 pixels, got {padding}')
        self.padding = padding

    def draw(self, rng: np.random.Generator, size: tuple[int, ...]) -> tuple[float, float]:
        """Place as shares in [0, 1)."""
        return rng.random(), rng.random()

    def apply_draw(self, value: torch.Tensor, kind: str | None, draw: Any) -> torch.Tensor:
        """[..., C, height, width]."""
        if self.padding:
            value = F.pad(value, [self.padding])
        height, width = value.shape[-2:]
        room = height - self.size[0], width - self.size[1]
        if min(room) < 0:
            raise ValueError(
                f'{height} x {width} pixels (padding included) are too few for a crop of '
                f'{self.size[0]} x {self.size[1]}; put Resize before RandomCrop'
            )
        top, left = int(draw[0] * (room[0] + 1)), int(draw[1] * (room[1] + 1))
        return F.crop(value, top, left, *self.size)


@TRANSFORMS.register_module()
class RandomResizedCrop(SharedDraw):
    """Cut a random part of random area and aspect ratio, and resize it.

    Args:
        size: (height, width) of the result, or an int for a square.
        modality: name or names; several share one draw.
        modalities: the same.
        scale: range of the part's area, as a share of the image's.
        ratio: range of the part's width / height, drawn on a log scale.
    """

    def __init__(
        self,
        size: Size,
        modality: Names = None,
        modalities: Names = None,
        scale: Sequence[float] = (0.08, 1.0),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
    ) -> None:
        super().__init__(modality, modalities)
        self.size = _pair(size)
        if not (0 < scale[0] <= scale[1] <= 1) or not (0 < ratio[0] <= ratio[1]):
            raise ValueError(
                f'expected 0 < scale <= 1 and 0 < ratio, both ascending, got {scale} and {ratio}'
            )
        self.scale, self.ratio = tuple(scale), tuple(ratio)

    def draw(self, rng: np.random.Generator, size: tuple[int, ...]) -> tuple[float, ...]:
        """(top, left, height, width) as shares of the image."""
        height, width = size
        for _ in range(10):  # parts that do not fit are drawn again
            area = rng.uniform(self.scale[0], self.scale[1]) * height * width
            aspect = math.exp(rng.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
            part_h, part_w = math.sqrt(area / aspect) / height, math.sqrt(area * aspect) / width
            if part_h <= 1 and part_w <= 1:
                top, left = rng.random() * (1 - part_h), rng.random() * (1 - part_w)
                return top, left, part_h, part_w
        return self._centre(height, width)

    def _centre(self, height: int, width: int) -> tuple[float, ...]:
        """The largest centred part whose aspect ratio is in range."""
        aspect = min(max(width / height, self.ratio[0]), self.ratio[1])
        part_h = min(1.0, width / aspect / height)
        part_w = min(1.0, height * aspect / width)
        return (1 - part_h) / 2, (1 - part_w) / 2, part_h, part_w

    def apply_draw(self, value: torch.Tensor, kind: str | None, draw: Any) -> torch.Tensor:
        """[..., C, height, width]."""
        height, width = value.shape[-2:]
        part_h, part_w = max(1, round(draw[2] * height)), max(1, round(draw[3] * width))
        top = min(round(draw[0] * height), height - part_h)
        left = min(round(draw[1] * width), width - part_w)
        return resized(F.crop(value, top, left, part_h, part_w), self.size, kind)


@TRANSFORMS.register_module()
class RandomFlip(SharedDraw):
    """Flip with a probability.

    Args:
        modality: name or names; several share one draw.
        modalities: the same.
        prob: probability in [0, 1].
        direction: ``'horizontal'`` or ``'vertical'``.
    """

    def __init__(
        self,
        modality: Names = None,
        modalities: Names = None,
        prob: float = 0.5,
        direction: str = 'horizontal',
    ) -> None:
        super().__init__(modality, modalities)
        if not 0 <= prob <= 1:
            raise ValueError(f'prob must be in [0, 1], got {prob}')
        if direction not in ('horizontal', 'vertical'):
            raise ValueError(f"direction must be 'horizontal' or 'vertical', got {direction!r}")
        self.prob, self.direction = prob, direction

    def draw(self, rng: np.random.Generator, size: tuple[int, ...]) -> bool:
        """Whether to flip."""
        return bool(rng.random() < self.prob)

    def apply_draw(self, value: torch.Tensor, kind: str | None, draw: Any) -> torch.Tensor:
        """[..., C, H, W], flipped or not."""
        if not draw:
            return value
        return value.flip(-1 if self.direction == 'horizontal' else -2)
