"""Depth encoded as disparity, height and angle ("HHA"-style), before any cropping."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cal_mm.registry import TRANSFORMS

from .base import ModalityTransform

__all__ = ['KINECT_NYU', 'DepthToHHA', 'gravity_of', 'hha', 'plane_normals']

#: focal lengths and principal point of NYU Depth V2's colour camera as shares of the image's width
#: and height (518.858, 519.470, 325.582, 253.736 pixels of 640 x 480)
KINECT_NYU = (518.858 / 640, 519.470 / 480, 325.582 / 640, 253.736 / 480)

Array = NDArray[np.float64]


def _rays(height: int, width: int, intrinsics: Sequence[float]) -> tuple[Array, Array]:
    """x / z and y / z (y points down) of every pixel, [1, W] and [H, 1]."""
    fx, fy, cx, cy = intrinsics
    x = ((np.arange(width) + 0.5) / width - cx) / fx
    y = ((np.arange(height) + 0.5) / height - cy) / fy
    return x[None, :], y[:, None]


def _box(values: Array, radius: int) -> Array:
    """Sum over the (2 radius + 1)^2 window around every pixel; outside counts as 0."""
    for axis in (0, 1):
        size = values.shape[axis]
        total = np.cumsum(values, axis=axis)
        total = np.concatenate([np.zeros_like(np.take(total, [0], axis)), total], axis=axis)
        high = np.minimum(np.arange(size) + radius + 1, size)
        low = np.maximum(np.arange(size) - radius, 0)
        values = np.take(total, high, axis) - np.take(total, low, axis)
    return values


def plane_normals(depth: Array, intrinsics: Sequence[float], radius: int = 5) -> Array:
    """Unit normals of the surface, towards the camera, [3, H, W]; NaN where they are not known.

    On a plane 1 / depth is affine in (x / z, y / z), with the normal as its coefficients; they are
    fitted by least squares over the measured pixels of a window.

    Args:
        depth: [H, W] metres, 0 for no measurement.
        intrinsics: (fx, fy, cx, cy) as shares of width and height.
        radius: of the window, pixels.
    """
    height, width = depth.shape
    x, y = _rays(height, width, intrinsics)
    x, y = np.broadcast_to(x, depth.shape), np.broadcast_to(y, depth.shape)
    weight = (depth > 0).astype(np.float64)
    inverse = np.where(depth > 0, 1 / np.where(depth > 0, depth, 1.0), 0.0)
    count = _box(weight, radius)
    safe = np.maximum(count, 1)
    mean_x, mean_y, mean_q = (_box(weight * v, radius) / safe for v in (x, y, inverse))
    xx = _box(weight * x * x, radius) / safe - mean_x**2
    yy = _box(weight * y * y, radius) / safe - mean_y**2
    xy = _box(weight * x * y, radius) / safe - mean_x * mean_y
    xq = _box(weight * x * inverse, radius) / safe - mean_x * mean_q
    yq = _box(weight * y * inverse, radius) / safe - mean_y * mean_q
    determinant = xx * yy - xy**2
    enough = (count >= 6) & (depth > 0) & (determinant > 1e-6 * np.maximum(xx * yy, 1e-30))
    scale = 1 / np.where(enough, determinant, 1.0)
    a, b = (xq * yy - yq * xy) * scale, (yq * xx - xq * xy) * scale
    normal = np.stack([a, b, mean_q - a * mean_x - b * mean_y])
    normal /= np.maximum(np.linalg.norm(normal, axis=0), 1e-12)
    # n . (x, y, 1) = |.| / depth > 0 points away from the camera
    facing = normal[0] * x + normal[1] * y + normal[2]
    normal = np.where(facing > 0, -normal, normal)
    return np.where(enough, normal, np.nan)


def gravity_of(normals: Array) -> Array:
    """Unit vector that points down, [3], from the normals [3, N] of an indoor scene.

    Starts with the image's vertical and turns it so that surfaces are parallel or orthogonal to it
    (Gupta et al., CVPR 2013): five rounds with the surfaces within 45 degrees, five with 15.
    """
    down = np.array([0.0, 1.0, 0.0])
    for degrees in [45.0] * 5 + [15.0] * 5:
        cosine = np.abs(down @ normals)
        flat = normals[:, cosine > np.cos(np.radians(degrees))]
        upright = normals[:, cosine < np.sin(np.radians(degrees))]
        if not flat.size and not upright.size:
            break
        spread = upright @ upright.T - flat @ flat.T
        # where only a wall is seen, every direction along it fits: stay with the one at hand
        spread -= 0.01 * normals.shape[1] * np.outer(down, down)
        _, vectors = np.linalg.eigh(spread)
        found = vectors[:, 0]
        down = found if found @ down > 0 else -found
    return down


def hha(
    depth: Array, intrinsics: Sequence[float] = KINECT_NYU, radius: int = 5
) -> NDArray[np.uint8]:
    """Disparity, height above the lowest point, angle to the vertical; uint8 [3, H, W].

    Channels: 310 / metres; height in cm over the lowest measured point (1st percentile); angle of
    the normal to "up" in degrees + 38 (a floor: 38, a wall: 128, a ceiling: 218). All cut to
    0..255; 0 in all three where nothing was measured.

    Args:
        depth: [H, W] metres of the whole, uncropped frame, 0 for no measurement.
        intrinsics: (fx, fy, cx, cy) as shares of width and height.
        radius: window of the normals, pixels.
    """
    measured = depth > 0
    if not measured.any():
        return np.zeros((3, *depth.shape), dtype=np.uint8)
    normals = plane_normals(depth, intrinsics, radius)
    known = np.isfinite(normals[0])
    down = gravity_of(normals[:, known])
    x, y = _rays(depth.shape[0], depth.shape[1], intrinsics)
    below = (down[0] * x + down[1] * y + down[2]) * depth
    height = np.quantile(below[measured], 0.99) - below
    angle = np.degrees(np.arccos(np.clip(-np.einsum('c,chw->hw', down, normals), -1, 1)))
    channels = [
        310 / np.where(measured, depth, 1.0),
        100 * height,
        np.where(known, angle, 90.0) + 38,
    ]
    stacked = np.clip(np.rint(np.stack(channels)), 0, 255)
    return np.where(measured, stacked, 0).astype(np.uint8)


@TRANSFORMS.register_module()
class DepthToHHA(ModalityTransform):
    """A depth map in metres to three channels: disparity, height, angle (:func:`hha`).

    Stands right after ``LoadDepth``, before any crop, flip or resize: the geometry needs the whole
    frame. The modality's kind becomes ``image``: give the model an ``ImageFrontEnd`` for it.
    Corruptions of depth then no longer apply, those of images do.

    "HHA-style": written from the published description, not compared with files made by its
    authors' code. It fits normals without regard to edges and finds gravity in each frame alone.

    Args:
        modality: name of the modality.
        intrinsics: (fx, fy, cx, cy) as shares of the image's width and height; those of NYU
            Depth V2's colour camera by default.
        radius: window of the normals, pixels.
    """

    repeatable = True

    def __init__(
        self, modality: str, intrinsics: Sequence[float] = KINECT_NYU, radius: int = 5
    ) -> None:
        super().__init__(modality)
        if len(intrinsics) != 4 or min(intrinsics[:2]) <= 0:
            raise ValueError(f'intrinsics must be (fx, fy, cx, cy), fx and fy > 0: {intrinsics}')
        if radius < 1:
            raise ValueError(f'radius must be at least 1 pixel, got {radius}')
        self.intrinsics, self.radius = tuple(intrinsics), radius

    def update_facts(self, facts: dict[str, dict[str, Any]]) -> None:
        """What is packed is an image, so attacks on images apply."""
        for modality in self.modalities:
            facts[modality]['kind'] = 'image'

    def apply(self, value: Any, modality: str, results: dict, *args: Any) -> torch.Tensor:
        """uint8 [3, H, W]."""
        if not isinstance(value, torch.Tensor) or value.ndim != 3 or value.shape[0] != 1:
            raise ValueError('expected a depth map [1, H, W]; put LoadDepth before DepthToHHA')
        encoded = hha(value[0].double().numpy(), self.intrinsics, self.radius)
        results.setdefault('kinds', {})[modality] = 'image'
        return torch.from_numpy(encoded)
