"""Random fields and resampling that images and depth maps share: plain numpy, any size.

Everything is one sample's work on one thread, so that the bits do not depend on how many threads or
workers there are.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

__all__ = [
    'bilinear',
    'circular_convolve',
    'covered',
    'disk_kernel',
    'line_kernel',
    'rescale',
    'smooth_field',
    'with_mean',
]

Array = NDArray[np.float32]
_BISECTIONS = 30


def disk_kernel(radius: float) -> np.ndarray:
    """A disk of ``radius`` pixels with a rim that fades over one more, odd side, sums to one."""
    reach = int(np.ceil(radius)) + 1
    grid = np.hypot(*np.mgrid[-reach : reach + 1, -reach : reach + 1])
    kernel = np.clip(radius + 1.0 - grid, 0.0, 1.0)
    return kernel / kernel.sum()


def line_kernel(length: float, angle: float) -> np.ndarray:
    """A line of ``length`` pixels at ``angle`` (radians), odd side, sums to one."""
    reach = int(np.ceil(length / 2)) + 1
    rows, cols = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    along = np.abs(cols * np.cos(angle) + rows * np.sin(angle))
    across = np.abs(rows * np.cos(angle) - cols * np.sin(angle))
    kernel = np.clip(length / 2 + 0.5 - along, 0, 1) * np.clip(1.0 - across, 0, 1)
    return kernel / kernel.sum()


def _axis_lerp(values: np.ndarray, axis: int, places: np.ndarray) -> np.ndarray:
    """``values`` read at fractional ``places`` along ``axis``, ends repeated."""
    last = values.shape[axis] - 1
    places = np.clip(places, 0, last)
    low = np.minimum(places.astype(np.int64), max(0, last - 1))
    high = np.minimum(low + 1, last)
    shape = [1] * values.ndim
    shape[axis] = -1
    share = (places - low).astype(np.float32).reshape(shape)
    first = np.take(values, low, axis=axis)
    return first + share * (np.take(values, high, axis=axis) - first)


def rescale(values: np.ndarray, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    """``values`` [..., H, W] read on the grid of fractional ``rows`` [h] and ``cols`` [w]."""
    return _axis_lerp(_axis_lerp(values, values.ndim - 2, rows), values.ndim - 1, cols)


def bilinear(values: np.ndarray, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    """``values`` [..., H, W] float32 read at ``rows``, ``cols`` [H, W]; ends repeated.

    Returns:
        float32, the shape of ``values``.
    """
    height, width = values.shape[-2:]
    rows = np.clip(rows, 0, height - 1).astype(np.float32)
    cols = np.clip(cols, 0, width - 1).astype(np.float32)
    top, left = rows.astype(np.int32), cols.astype(np.int32)
    down, right = rows - top, cols - left
    flat = values.reshape(-1, height * width)
    below = np.minimum(top + 1, height - 1) * width
    beside = np.minimum(left + 1, width - 1)
    top *= width
    out = np.take(flat, top + left, axis=1) * ((1 - down) * (1 - right))
    out += np.take(flat, top + beside, axis=1) * ((1 - down) * right)
    out += np.take(flat, below + left, axis=1) * (down * (1 - right))
    out += np.take(flat, below + beside, axis=1) * (down * right)
    return out.reshape(values.shape)


def smooth_field(shape: tuple[int, int], scale: float, rng: np.random.Generator) -> Array:
    """A random field [H, W] in [0, 1], smooth over ``scale`` pixels (standard deviation)."""
    # drawn on a grid a quarter of ``scale`` wide: nothing finer would survive the smoothing
    step = max(1.0, scale / 4)
    coarse = tuple(int(np.ceil(side / step)) + 1 for side in shape)
    noise = rng.standard_normal(coarse, dtype=np.float32)
    field = ndimage.gaussian_filter(noise, scale / step, mode='wrap')
    field = rescale(field, np.arange(shape[0]) / step, np.arange(shape[1]) / step)
    low, high = field.min(), field.max()
    if high > low:
        return ((field - low) / (high - low)).astype(np.float32)
    return np.full(shape, 0.5, dtype=np.float32)


def covered(field: np.ndarray, share: float) -> NDArray[np.bool_]:
    """The highest ``share`` of ``field``, rounded to whole pixels, exact even where it has ties."""
    count = round(share * field.size)
    mask = np.zeros(field.size, dtype=bool)
    if count >= field.size:
        mask[:] = True
    elif count > 0:
        mask[np.argpartition(field, -count, axis=None)[-count:]] = True
    return mask.reshape(field.shape)


def with_mean(field: np.ndarray, mean: float) -> Array:
    """``min(1, g * field)`` with g such that its mean is ``mean``.

    Args:
        field: [H, W], not negative; one without any positive value becomes ``mean`` everywhere.
        mean: in [0, 1].
    """
    total = float(field.mean(dtype=np.float64))
    if total <= 0 or mean >= 1:
        return np.full(field.shape, mean, dtype=np.float32)
    low, high = 0.0, mean / total
    while np.minimum(field * np.float32(high), 1).mean(dtype=np.float64) < mean and high < 1e9:
        low, high = high, 2 * high
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        short = np.minimum(field * np.float32(middle), 1).mean(dtype=np.float64) < mean
        low, high = (middle, high) if short else (low, middle)
    return np.minimum(field * np.float32(high), 1).astype(np.float32)


def circular_convolve(field: np.ndarray, kernel: np.ndarray) -> Array:
    """``field`` [H, W] convolved with ``kernel`` (odd sides), wrapped round at the edges."""
    height, width = field.shape
    rows = (np.arange(kernel.shape[0]) - kernel.shape[0] // 2) % height
    cols = (np.arange(kernel.shape[1]) - kernel.shape[1] // 2) % width
    spread = np.zeros(field.shape, dtype=np.float32)
    np.add.at(spread, (rows[:, None], cols[None, :]), kernel.astype(np.float32))
    product = fft.rfft2(field.astype(np.float32)) * fft.rfft2(spread)
    return np.maximum(fft.irfft2(product, s=field.shape), 0).astype(np.float32)
