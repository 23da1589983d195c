"""Front ends of images, video frames and depth maps."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F

from cal_mm.registry import FRONTENDS

from .base import FrontEnd, FrontEndError, FrontEndOutput, fault_in
from .functional import jet

__all__ = ['IMAGENET_MEAN', 'IMAGENET_STD', 'DepthFrontEnd', 'ImageFrontEnd']

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def _column(values: Sequence[float] | float, name: str) -> torch.Tensor:
    """[C, 1, 1] from one number or one per channel."""
    numbers = [values] if isinstance(values, int | float) else list(values)
    column = torch.tensor(numbers, dtype=torch.float32).view(-1, 1, 1)
    if name == 'std' and not bool((column > 0).all()):
        raise ValueError(f'std must be > 0, got {values}')
    return column


def _resize(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """[N, C, h, w] to [N, C, *size], bilinear with antialiasing."""
    if tuple(x.shape[-2:]) == size:
        return x
    return F.interpolate(x, size, mode='bilinear', antialias=True)


@FRONTENDS.register_module()
class ImageFrontEnd(FrontEnd):
    """uint8 images [C, H, W] (or frames [T, C, H, W]) to normalised float32 [B, (T,) C, H, W].

    Float values count as pixels on the 0..255 scale too, so that attacks can differentiate through
    it.

    Args:
        mean: per channel (or one number), on the 0..1 scale; ImageNet's by default.
        std: the same, > 0.
        size: (height, width) to resize to on the device; then images of different sizes are
            accepted.
        channels: repeat one-channel images to this many channels.
    """

    kind = 'image'
    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        mean: Sequence[float] | float = IMAGENET_MEAN,
        std: Sequence[float] | float = IMAGENET_STD,
        size: int | Sequence[int] | None = None,
        channels: int | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer('mean', _column(mean, 'mean'), persistent=False)
        self.register_buffer('std', _column(std, 'std'), persistent=False)
        if isinstance(size, int):
            size = (size, size)
        self.size = None if size is None else (int(size[0]), int(size[1]))
        self.channels = channels

    def forward(self, values: Sequence[torch.Tensor]) -> FrontEndOutput:
        """Stack and normalise."""
        if self.size is None:
            x = self.stack(values).float()
        else:
            x = self._sized(values)
        if self.channels is not None and x.shape[-3] == 1:
            x = x.expand(*x.shape[:-3], self.channels, *x.shape[-2:])
        self._check(x)
        # in place on what the division made: a third of the memory traffic, same numbers
        return (x / 255).sub_(self.mean).div_(self.std), None

    def _sized(self, values: Sequence[torch.Tensor]) -> torch.Tensor:
        size = self.size or (0, 0)
        if not all(isinstance(v, torch.Tensor) for v in values):
            raise fault_in(values) or FrontEndError('expected tensors')
        if self.channels is not None:
            values = [
                v.expand(*v.shape[:-3], self.channels, *v.shape[-2:]) if v.shape[-3] == 1 else v
                for v in values
            ]
        if len({tuple(v.shape) for v in values}) == 1:
            x = self.stack(values).float()
            return _resize(x.flatten(0, -4), size).unflatten(0, x.shape[:-3])
        scaled = [_resize(self.stack([v]).float().flatten(0, -4), size) for v in values]
        shaped = [s if v.ndim == 4 else s[0] for s, v in zip(scaled, values, strict=True)]
        fault = fault_in(shaped)
        if fault is not None:
            raise fault
        return torch.stack(shaped)

    def _check(self, x: torch.Tensor) -> None:
        expected = max(self.mean.shape[0], self.std.shape[0])
        if x.ndim not in (4, 5) or expected not in (1, x.shape[-3]):
            raise FrontEndError(
                f'expected images [C, H, W] or frames [T, C, H, W] with the {expected} channels of '
                f'mean and std, got {list(x.shape[1:])}; set color in LoadImage, channels=3 for '
                f'one-channel images, or mean and std'
            )

    def empty(self, count: int) -> FrontEndOutput | None:
        """Zeros, if ``size`` tells the shape of (single) images."""
        if self.size is None:
            return None
        channels = self.channels or max(self.mean.shape[0], self.std.shape[0])
        return torch.zeros(count, channels, *self.size, device=self.device), None


@FRONTENDS.register_module()
class DepthFrontEnd(FrontEnd):
    """Depth maps [1, H, W] in metres to float32 [B, channels, H, W].

    Args:
        max_depth: metres that map to 1; more is clipped.
        mode: ``'native'`` (the scaled depth, repeated) or ``'jet'`` (a colour map, 3 channels).
        channels: channels of ``'native'``.
        mean: subtracted after scaling to 0..1, per channel or one number.
        std: divided by, > 0.
    """

    kind = 'depth'
    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        max_depth: float = 10.0,
        mode: str = 'native',
        channels: int = 1,
        mean: Sequence[float] | float = 0.0,
        std: Sequence[float] | float = 1.0,
    ) -> None:
        super().__init__()
        if not max_depth > 0:
            raise ValueError(f'max_depth must be > 0 metres, got {max_depth}')
        if mode not in ('native', 'jet'):
            raise ValueError(f"mode must be 'native' or 'jet', got {mode!r}")
        self.max_depth, self.mode = max_depth, mode
        self.channels = 3 if mode == 'jet' else channels
        self.register_buffer('mean', _column(mean, 'mean'), persistent=False)
        self.register_buffer('std', _column(std, 'std'), persistent=False)
        for name in ('mean', 'std'):
            given: Any = getattr(self, name).shape[0]
            if given not in (1, self.channels):
                raise ValueError(f'{name} has {given} values for {self.channels} channels')

    def forward(self, values: Sequence[torch.Tensor]) -> FrontEndOutput:
        """Stack, scale, colour or repeat, normalise."""
        x = self.stack(values).float()
        if x.ndim != 4 or x.shape[1] != 1:
            raise FrontEndError(f'expected depth maps [1, H, W], got {list(x.shape[1:])}')
        x = (x / self.max_depth).clamp(0, 1)
        if self.mode == 'jet':
            return jet(x).sub_(self.mean).div_(self.std), None
        return (x.expand(-1, self.channels, -1, -1) - self.mean).div_(self.std), None
