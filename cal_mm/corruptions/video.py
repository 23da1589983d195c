"""Noise on the frames of a clip: uint8 [T, C, H, W]."""

import numpy as np
import torch

from cal_mm.registry import CORRUPTIONS

from .base import Corruption

__all__ = ['FrameDrop', 'FrameFreeze']


class _Frames(Corruption):
    kind = 'image'
    parameter = 'ratio'
    unit = 'share of the frames'
    levels = (0.2, 0.4, 0.6, 0.8, 1.0)
    bounds = (0, 1)
    needs_frames = True

    def corrupt(self, value: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Copy [T, C, H, W] with some frames replaced.

        Raises:
            ValueError: a single image, [C, H, W] or [1, C, H, W].
        """
        if value.ndim != 4 or len(value) < 2:
            raise ValueError(
                f'{self.name} needs several frames [T, C, H, W], modality {self.modality!r} holds '
                f'a single image {list(value.shape)}'
            )
        return self.replace(value.clone(), rng)

    def replace(self, frames: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """``frames`` [T, C, H, W], changed in place."""
        raise NotImplementedError


@CORRUPTIONS.register_module()
class FrameDrop(_Frames):
    """A share ``ratio`` of the frames (rounded to the nearest count) goes black."""

    aliases = ('frame_drop',)

    def replace(self, frames: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Black frames at random places."""
        lost = rng.permutation(len(frames))[: round(self.value * len(frames))]
        frames[torch.from_numpy(lost)] = 0
        return frames


@CORRUPTIONS.register_module()
class FrameFreeze(_Frames):
    """The last share ``ratio`` of the frames repeats the frame before; the first always stays."""

    aliases = ('frame_freeze', 'freeze')

    def replace(self, frames: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """A clip that stops."""
        last = max(0, len(frames) - round(self.value * len(frames)) - 1)
        frames[last:] = frames[last].clone()
        return frames
