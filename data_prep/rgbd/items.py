"""One pair of colour and depth, wherever it lies, into one row."""

import functools
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cal_mm.encoded import require_complete
from data_prep.common import BadSampleError, Sample
from data_prep.common.media import check_image, decoding, read_file
from data_prep.common.png import encode_png

__all__ = ['DEPTH_MM', 'RgbdItem', 'Scenes', 'convert', 'depth_png', 'stamp']

#: facts of a depth modality that is stored in millimetres
DEPTH_MM = dict(kind='depth', encoding='16-bit PNG', unit='millimetre', missing=0)
#: metres per unit where nothing else is said
DEFAULT_SCALE = {8: 1 / 25.5, 16: 0.001}


@dataclass(frozen=True)
class Scenes:
    """Classes of a dataset and what its files call them.

    Attributes:
        classes: in the order of the labels.
        of_type: raw scene type -> class; a class stands for itself.
        rest: class of every other scene type, or None: pairs of other types are left out.
        types: every raw scene type there is, so that a typing error is not taken for the rest;
            empty: any.
    """

    classes: tuple[str, ...]
    of_type: Mapping[str, str] = field(default_factory=dict)
    rest: str | None = None
    types: frozenset[str] = frozenset()

    def find(self, name: str, where: str) -> str | None:
        """The class of a label or scene type; None: not one of the dataset's classes.

        Raises:
            ValueError: ``types`` are known and this is none of them, nor a class.
        """
        key = _key(name)
        found = self.of_type.get(key, key if key in self.classes else None)
        if found is not None:
            return found
        if self.types and key not in self.types:
            raise ValueError(
                f'{where}: unknown scene type or label {name!r}; classes: '
                f'{", ".join(self.classes)}; scene types: {", ".join(sorted(self.types))}'
            )
        return self.rest

    def knows(self, name: str) -> bool:
        """Whether ``name`` is a class or a known scene type."""
        key = _key(name)
        return key in self.classes or key in self.of_type or key in self.types


def _key(name: str) -> str:
    return name.strip().lower().replace(' ', '_').replace('-', '_')


@dataclass(frozen=True)
class RgbdItem:
    """Where one pair lies; its ``repr`` says all that the row depends on.

    Attributes:
        sample_id: unique in the dataset.
        label: index of the class.
        scene: group of near-duplicates, '' where it is not known.
        kind: ``'pair'`` (two files), ``'side'`` (one file, colour left, depth right), ``'mat'``.
        paths: one or two files.
        index: row of a mat file.
        depth_scale: metres per unit as text, ``'sunrgbd'``, or '' for the default of the kind.
        stamps: size and time of change of the files.
        problem: why the pair cannot be used, if that is known already.
    """

    sample_id: str
    label: int
    scene: str
    kind: str
    paths: tuple[str, ...]
    index: int = -1
    depth_scale: str = ''
    stamps: tuple[tuple[int, int], ...] = ()
    problem: str = ''


def stamp(path: str | Path) -> tuple[int, int]:
    """Size in bytes and time of change in ns; (-1, -1) for a file that is not there."""
    try:
        found = Path(path).stat()
    except OSError:
        return (-1, -1)
    return (found.st_size, found.st_mtime_ns)


def convert(item: RgbdItem) -> Sample:
    """Read, check and encode a pair.

    Raises:
        BadSampleError: a file is missing, empty, truncated, or not what it should be.
    """
    if item.problem:
        raise BadSampleError(item.sample_id, item.problem)
    rgb, depth = {'pair': _pair, 'side': _side, 'mat': _mat}[item.kind](item)
    return dict(sample_id=item.sample_id, label=item.label, group=item.scene, rgb=rgb, depth=depth)


def _pair(item: RgbdItem) -> tuple[bytes, bytes]:
    rgb_path, depth_path = item.paths
    rgb = read_file(item.sample_id, Path(rgb_path))
    size = check_image(item.sample_id, rgb, rgb_path)
    raw = _pixels(item.sample_id, read_file(item.sample_id, Path(depth_path)), depth_path)
    if raw.shape[:2] != size:
        raise BadSampleError(
            item.sample_id,
            f'{depth_path} has {raw.shape[0]} x {raw.shape[1]} pixels, {rgb_path} {size[0]} x '
            f'{size[1]}: colour and depth are not aligned',
        )
    grey = _one_channel(item.sample_id, raw, depth_path)
    with decoding(item.sample_id, depth_path):
        metres = _metres(grey, item.depth_scale)
    return rgb, depth_png(item.sample_id, metres, depth_path)


def _side(item: RgbdItem) -> tuple[bytes, bytes]:
    """Halves as lossless PNG; the right one in millimetres only if its scale is known."""
    (path,) = item.paths
    pixels = _pixels(item.sample_id, read_file(item.sample_id, Path(path)), path)
    width = pixels.shape[1]
    if width % 2:
        raise BadSampleError(
            item.sample_id, f'{path} is {width} pixels wide: two halves need an even number'
        )
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[:, :, None], 3, axis=2)
    left, right = (np.ascontiguousarray(p[..., :3]) for p in np.split(pixels, 2, axis=1))
    if pixels.dtype != np.uint8:
        raise BadSampleError(item.sample_id, f'{path}: expected 8 bits per channel')
    if not item.depth_scale:
        return encode_png(left), encode_png(right)
    grey = _one_channel(item.sample_id, right, path)
    return encode_png(left), depth_png(item.sample_id, _metres(grey, item.depth_scale), path)


def _mat(item: RgbdItem) -> tuple[bytes, bytes]:
    (path,) = item.paths
    where = f'{path} image {item.index + 1}'
    with decoding(item.sample_id, where):
        file = _open_mat(path)
        # MATLAB writes columns first: [3, W, H] and [W, H] here
        rgb = np.ascontiguousarray(np.asarray(file['images'][item.index]).transpose(2, 1, 0))
        metres = np.asarray(file['depths'][item.index], dtype=np.float64).T
    return encode_png(rgb), depth_png(item.sample_id, metres, where)


@functools.lru_cache(maxsize=1)
def _open_mat(path: str) -> Any:
    """The file, opened once per process."""
    import h5py

    return h5py.File(path, 'r')


def _pixels(sample_id: str, data: bytes, what: str) -> NDArray[Any]:
    from PIL import Image

    with decoding(sample_id, what), Image.open(io.BytesIO(data)) as image:
        require_complete(data)
        image.load()
        if image.mode in ('P', '1', 'CMYK', 'YCbCr', 'LA', 'PA'):
            return np.asarray(image.convert('L' if image.mode in ('1', 'LA') else 'RGB'))
        return np.asarray(image)


def _one_channel(sample_id: str, pixels: NDArray[Any], what: str) -> NDArray[Any]:
    if pixels.ndim == 2:
        return pixels
    grey = pixels[..., 0]
    if (pixels[..., :3] == grey[..., None]).all():
        return grey
    raise BadSampleError(
        sample_id,
        f'{what}: depth is rendered in colours (HHA, jet), which cannot be turned back into metres',
    )


def _metres(raw: NDArray[Any], scale: str) -> NDArray[np.float64]:
    """Metres of stored units; SUN RGB-D's files are turned by three bits, in millimetres.

    Raises:
        ValueError: the unit of such pixels is not known.
    """
    if raw.dtype.kind == 'f' and scale in ('', 'sunrgbd'):
        raise ValueError(f'depth of {raw.dtype}: say how many metres 1 is, with --depth-scale')
    if scale == 'sunrgbd' and raw.dtype == np.uint8:
        raise ValueError('8-bit depth is not in the format of SUN RGB-D: give --depth-scale METRES')
    if scale == 'sunrgbd':
        units = raw.astype(np.uint16)
        return ((units >> 3) | (units << 13)).astype(np.float64) / 1000
    bits = 8 if raw.dtype == np.uint8 else 16
    return raw.astype(np.float64) * (float(scale) if scale else DEFAULT_SCALE[bits])


def depth_png(sample_id: str, metres: NDArray[np.float64], what: str) -> bytes:
    """Metres [H, W] as a 16-bit PNG in millimetres; more than 65.535 m becomes 0, "not measured".

    Raises:
        BadSampleError: negative or not finite depth, or no measurement at all.
    """
    if not np.isfinite(metres).all() or metres.min() < 0:
        raise BadSampleError(sample_id, f'{what}: depth must be finite and not negative')
    millimetres = np.rint(metres * 1000)
    millimetres[millimetres > 65535] = 0
    if not millimetres.any():
        raise BadSampleError(sample_id, f'{what}: no pixel has a measured depth')
    return encode_png(millimetres.astype(np.uint16))


def stamps_of(paths: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Stamps of several files."""
    return tuple(stamp(p) for p in paths)
