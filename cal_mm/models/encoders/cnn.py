"""Small convolutional encoders, trained from scratch: grey images and spectrograms."""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from cal_mm.registry import ENCODERS

from .base import BaseEncoder
from .pooling import FRAME_POOLS, masked_mean, pool_sequence

__all__ = ['AudioCNN', 'SmallImageCNN', 'norm2d']

NORMS = ('batch', 'group', 'none')


def norm2d(kind: str, channels: int) -> nn.Module:
    """A normalisation of [B, channels, H, W]: 'batch', 'group' (at most 8 groups) or 'none'.

    With 'group' and 'none' a sample's output does not depend on the other samples of its batch.
    """
    if kind == 'batch':
        return nn.BatchNorm2d(channels)
    if kind == 'group':
        return nn.GroupNorm(math.gcd(8, channels), channels)
    if kind == 'none':
        return nn.Identity()
    raise ValueError(f'norm must be one of {NORMS}, got {kind!r}')


class ConvStack(nn.Module):
    """Blocks of 3x3 convolution, normalisation, ReLU and 2x2 max pooling, then means over a grid.

    With a mask over the last axis, positions that are padding stay zero in every block, so that
    (but for 'group' statistics and 'batch' ones in training) padding does not change the result.
    """

    # of the feature maps: on CPUs max pooling is several times as fast with the channels last
    memory_format = torch.channels_last

    def __init__(
        self,
        in_channels: int,
        channels: Sequence[int],
        norm: str,
        grid: Sequence[int] = (1, 1),
    ) -> None:
        super().__init__()
        if not channels:
            raise ValueError('channels needs at least one width, such as (32, 64)')
        if len(grid) != 2 or min(grid) < 1:
            raise ValueError(f'grid must be two numbers >= 1, got {tuple(grid)}')
        self.grid = (int(grid[0]), int(grid[1]))
        self.out_channels = channels[-1] * self.grid[0] * self.grid[1]
        widths = [in_channels, *channels]
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, 3, padding=1, bias=norm == 'none')
            for a, b in itertools.pairwise(widths)
        )
        self.norms = nn.ModuleList(norm2d(norm, c) for c in channels)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """``x`` [B, C, F, T], ``mask`` [B, T] over the last axis, to [B, out_channels]."""
        if mask is not None and self.grid[1] > 1:
            raise ValueError(
                f'grid={self.grid} keeps {self.grid[1]} parts of the time axis, which has no '
                f'meaning under a mask of '
                f'padding: use (n, 1), or inputs of one length'
            )
        keep = None if mask is None else mask.to(torch.bool)[:, None, None, :].to(x.dtype)
        if keep is not None:
            x = torch.where(keep > 0, x, torch.zeros_like(x))
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = conv(x).contiguous(memory_format=self.memory_format)
            x = functional.relu(norm(x))
            if keep is not None:
                x = x * keep
                keep = functional.max_pool2d(keep, (1, 2), ceil_mode=True)
            x = functional.max_pool2d(x, 2, ceil_mode=True)
        if keep is None:
            return functional.adaptive_avg_pool2d(x, self.grid).flatten(1)
        bands = functional.adaptive_avg_pool2d(x, (self.grid[0], x.shape[-1]))
        return masked_mean(bands.flatten(1, 2).transpose(1, 2), keep[:, 0, 0, :])


def _projection(width: int, out_channels: int | None) -> nn.Module:
    return nn.Identity() if out_channels is None else nn.Linear(width, out_channels)


@ENCODERS.register_module()
class SmallImageCNN(BaseEncoder):
    """A CNN for small images such as 28 x 28 grey ones; 93 thousand parameters by default.

    Input: [B, C, H, W], or frames [B, T, C, H, W] with an optional mask [B, T].

    Args:
        in_channels: channels C.
        channels: width of each block; every block halves the resolution.
        out_channels: width of a linear projection on top; None: none.
        norm: 'batch', 'group' or 'none'; the last two do not mix the samples of a batch.
        grid: parts of both axes over which the last block's output is averaged, side by side in the
            result; (1, 1) is a global mean. The width is channels[-1] * grid[0] * grid[1] without a
            projection.
        frame_pool: 'mean' or 'max' over frames.
        frozen: see :class:`BaseEncoder`.
    """

    def __init__(
        self,
        in_channels: int = 1,
        channels: Sequence[int] = (32, 64, 128),
        out_channels: int | None = None,
        norm: str = 'batch',
        grid: Sequence[int] = (1, 1),
        frame_pool: str = 'mean',
        frozen: bool = False,
    ) -> None:
        if frame_pool not in FRAME_POOLS:
            raise ValueError(f'frame_pool must be one of {sorted(FRAME_POOLS)}, got {frame_pool!r}')
        stack = ConvStack(in_channels, channels, norm, grid)
        super().__init__(
            out_channels or stack.out_channels,
            norm=norm,
            grid=list(stack.grid),
            frame_pool=frame_pool,
        )
        self.in_channels = in_channels
        self.frame_pool = frame_pool
        self.stack = stack
        self.project = _projection(stack.out_channels, out_channels)
        if frozen:
            self.freeze()

    def encode(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """[B, C, H, W] or [B, T, C, H, W] to [B, out_channels]."""
        if x.dim() not in (4, 5) or x.shape[-3] != self.in_channels:
            raise self._refuse(
                x, f'[B, {self.in_channels}, H, W] or [B, T, {self.in_channels}, H, W]'
            )
        if x.dim() == 4:
            return self.project(self.stack(x))
        frames = self.project(self.stack(x.flatten(0, 1)))
        return pool_sequence(frames.view(*x.shape[:2], -1), mask, self.frame_pool)


@ENCODERS.register_module()
class AudioCNN(BaseEncoder):
    """A small CNN on (log-mel) spectrograms.

    Input: [B, F, T] (one channel) or [B, C, F, T], mask [B, T] over time frames or None. With
    ``norm='none'``, and with 'batch' in evaluation, padding under the mask does not change the
    output.

    Args:
        in_channels: channels C.
        channels: width of each block; every block halves both axes.
        out_channels: width of a linear projection on top; None: none.
        norm: 'batch', 'group' or 'none'; the last two do not mix the samples of a batch.
        grid: parts of both axes over which the last block's output is averaged, side by side in the
            result; (1, 1) is a global mean. The width is channels[-1] * grid[0] * grid[1] without a
            projection.
        frozen: see :class:`BaseEncoder`.
    """

    def __init__(
        self,
        in_channels: int = 1,
        channels: Sequence[int] = (32, 64, 128),
        out_channels: int | None = None,
        norm: str = 'batch',
        grid: Sequence[int] = (1, 1),
        frozen: bool = False,
    ) -> None:
        stack = ConvStack(in_channels, channels, norm, grid)
        super().__init__(out_channels or stack.out_channels, norm=norm, grid=list(stack.grid))
        self.in_channels = in_channels
        self.stack = stack
        self.project = _projection(stack.out_channels, out_channels)
        if frozen:
            self.freeze()

    def encode(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """[B, F, T] or [B, C, F, T] to [B, out_channels]."""
        if x.dim() == 3:
            x = x.unsqueeze(1)
        if x.dim() != 4 or x.shape[1] != self.in_channels:
            raise self._refuse(x, f'[B, {self.in_channels}, F, T] (or [B, F, T] for one channel)')
        if mask is not None and mask.shape != (x.shape[0], x.shape[-1]):
            raise self._refuse(x, f'a mask [B, T], not {tuple(mask.shape)}')
        return self.project(self.stack(x, mask))
