"""Loading images, video frames and depth maps with PIL."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from cal_mm.encoded import require_complete
from cal_mm.registry import TRANSFORMS

from .base import ModalityTransform, generator_of

__all__ = ['LoadDepth', 'LoadImage', 'decode_image', 'read_bytes', 'segment_indices']

_MODES = {'rgb': 'RGB', 'grayscale': 'L', 'unchanged': None}


def read_bytes(source: Any) -> bytes:
    """The bytes of an encoded file, given as bytes, a path or a dict with ``bytes`` or ``path``.

    Raises:
        ValueError: there are none, or the file cannot be read.
        TypeError: ``source`` is something else.
    """
    if isinstance(source, dict):
        source = source.get('bytes') or source.get('path')
    if isinstance(source, str | Path):
        try:
            source = Path(source).read_bytes()
        except OSError as e:
            raise ValueError(f'the file cannot be read ({e})') from e
    if not isinstance(source, bytes | bytearray | memoryview):
        raise TypeError(f'expected encoded bytes or a path, got {type(source).__name__}')
    if not len(source):
        raise ValueError('it is empty (0 bytes); prepare the dataset again or list it as bad')
    return bytes(source)


def decode_image(source: Any) -> Image.Image:
    """A decoded PIL image.

    Raises:
        ValueError: empty, truncated or no image.
    """
    encoded = read_bytes(source)
    try:
        image = Image.open(io.BytesIO(encoded))
        image.load()
        require_complete(encoded)
    except Exception as e:  # PIL raises OSError, SyntaxError, struct.error, zlib.error, ...
        raise ValueError(
            f'cannot decode {len(encoded)} bytes as an image ({type(e).__name__}: {e}); the file '
            f'is truncated or no image: replace the raw file and prepare the dataset again'
        ) from e
    return image


def _converted(image: Image.Image, mode: str | None) -> Image.Image:
    if image.mode.startswith(('I', 'F')):
        if image.mode.startswith('F') or not image.mode.startswith('I;16'):
            raise ValueError(f'an image of mode {image.mode} has no 8-bit meaning; use LoadDepth')
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if 'transparency' in image.info and image.mode == 'P':
        image = image.convert('RGBA')
    if mode is None:
        mode = image.mode if image.mode in ('L', 'RGB', 'RGBA') else 'RGB'
    return image if image.mode == mode else image.convert(mode)


def _tensor(image: Image.Image) -> torch.Tensor:
    array = np.array(image, dtype=np.uint8)
    if array.ndim == 2:
        array = array[:, :, None]
    # [C, H, W] over pixels that stay together in memory: resizing is twice as fast that way, and
    # PackInputs copies what is left after cropping
    return torch.from_numpy(array).permute(2, 0, 1)


def segment_indices(total: int, count: int, rng: np.random.Generator | None = None) -> list[int]:
    """One frame of each of ``count`` equal segments of ``total`` frames.

    Args:
        total: frames there are, at least 1.
        count: frames wanted; more than ``total`` repeats some.
        rng: draws a frame inside each segment; None takes the middle one.
    """
    if total < 1 or count < 1:
        raise ValueError(f'expected at least one frame, got total={total}, num_frames={count}')
    chosen = []
    for segment in range(count):
        low = segment * total // count
        high = max(low + 1, (segment + 1) * total // count)
        chosen.append(int(rng.integers(low, high)) if rng is not None else (low + high - 1) // 2)
    return chosen


@TRANSFORMS.register_module()
class LoadImage(ModalityTransform):
    """Decode an image or a list of frames to uint8 [C, H, W] or [T, C, H, W].

    A 16-bit image keeps its upper 8 bits. Orientation tags are ignored.

    Args:
        modality: name of the modality.
        color: ``'rgb'`` (C = 3), ``'grayscale'`` (C = 1) or ``'unchanged'`` (1, 3 or 4 as stored;
            palettes become RGB).
        num_frames: for a list of frames, how many to take, one of each equal segment; None for all.
        frame_sampling: ``'middle'`` of each segment, or ``'random'`` inside it (training).

    Raises:
        SampleError: empty, truncated or undecodable data, or frames of different sizes.
    """

    def __init__(
        self,
        modality: str,
        color: str = 'rgb',
        num_frames: int | None = None,
        frame_sampling: str = 'middle',
    ) -> None:
        super().__init__(modality)
        if color not in _MODES:
            raise ValueError(f'color must be one of {", ".join(_MODES)}, got {color!r}')
        if frame_sampling not in ('middle', 'random'):
            raise ValueError(f"frame_sampling must be 'middle' or 'random', got {frame_sampling!r}")
        if num_frames is not None and num_frames < 1:
            raise ValueError(f'num_frames must be at least 1, got {num_frames}')
        self.color = color
        self.num_frames = num_frames
        self.frame_sampling = frame_sampling

    @property
    def repeatable(self) -> bool:
        """See ``ModalityTransform``."""
        return self.frame_sampling != 'random' or self.num_frames is None

    def update_facts(self, facts: dict[str, dict[str, Any]]) -> None:
        """How many frames are taken of a list of them, and one channel where colours go."""
        for modality in self.modalities:
            known = facts[modality]
            if self.num_frames is not None and known.get('frames'):
                known['frames'] = self.num_frames
            if self.color == 'grayscale':
                known['channels'] = 1

    def apply(self, value: Any, modality: str, results: dict, *args: Any) -> torch.Tensor:
        """Decode ``value`` (bytes, path, or a list of these)."""
        if isinstance(value, list | tuple):
            return self._frames(value, results)
        return _tensor(_converted(decode_image(value), _MODES[self.color]))

    def _frames(self, value: Sequence, results: dict) -> torch.Tensor:
        if not value:
            raise ValueError('it has no frames')
        picked = range(len(value))
        if self.num_frames is not None:
            rng = generator_of(results) if self.frame_sampling == 'random' else None
            picked = segment_indices(len(value), self.num_frames, rng)  # type: ignore[assignment]
        frames = []
        for index in picked:
            try:
                frames.append(_tensor(_converted(decode_image(value[index]), _MODES[self.color])))
            except (ValueError, TypeError) as e:
                raise ValueError(f'frame {index}: {e}') from e
        shapes = {tuple(frame.shape) for frame in frames}
        if len(shapes) > 1:
            raise ValueError(f'its frames have different sizes: {sorted(shapes)}')
        return torch.stack(frames)


@TRANSFORMS.register_module()
class LoadDepth(ModalityTransform):
    """Decode a depth map to float32 [1, H, W] in metres; 0 stands for no measurement.

    Args:
        modality: name of the modality.
        scale: metres per stored unit. None: 0.001 (millimetres) for 16-bit data; 8-bit data needs
            it (NYUD2's 8-bit maps: 1 / 25.5).

    Raises:
        SampleError: empty, truncated or undecodable data, colour data, or 8-bit data without
            ``scale``.
    """

    repeatable = True

    def __init__(self, modality: str, scale: float | None = None) -> None:
        super().__init__(modality)
        if scale is not None and not scale > 0:
            raise ValueError(f'scale must be > 0 metres per unit, got {scale}')
        self.scale = scale

    def apply(self, value: Any, modality: str, results: dict, *args: Any) -> torch.Tensor:
        """Decode ``value`` (bytes or a path)."""
        array = np.asarray(decode_image(value))
        if array.ndim != 2:
            raise ValueError(
                f'expected one channel of depth, got shape {array.shape}; depth rendered as '
                f'colours (HHA, jet) is of the kind image: use LoadImage'
            )
        scale = self.scale
        if scale is None:
            if array.dtype == np.uint8:
                raise ValueError('8-bit depth needs scale=... (metres per unit) in LoadDepth')
            scale = 0.001
        return torch.from_numpy(array.astype(np.float32) * np.float32(scale))[None]
