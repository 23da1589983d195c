"""Read raw media as they are, and say why one cannot be used; encode without a library's whims."""

import io
import struct
import wave
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cal_mm.encoded import require_complete

from .errors import BadSampleError

__all__ = [
    'check_image',
    'check_waveform',
    'decoding',
    'encode_pcm',
    'encode_png_grey',
    'encode_wav',
    'read_file',
]


@contextmanager
def decoding(sample_id: str, what: str) -> Iterator[None]:
    """Turn whatever a decoder raises into a :class:`BadSampleError` that names ``what``."""
    try:
        yield
    except BadSampleError:
        raise
    # SyntaxError is what Pillow raises for a broken PNG, RuntimeError what soundfile raises
    except (
        OSError,
        ValueError,
        RuntimeError,
        EOFError,
        SyntaxError,
        struct.error,
        zlib.error,
    ) as e:
        raise BadSampleError(sample_id, f'{what}: {type(e).__name__}: {e}') from e


def read_file(sample_id: str, path: Path) -> bytes:
    """The bytes of ``path``; a missing or empty file is a bad sample."""
    try:
        data = path.read_bytes()
    except OSError as e:
        raise BadSampleError(sample_id, f'{path}: {e.strerror or e}') from e
    if not data:
        raise BadSampleError(sample_id, f'{path}: the file is empty')
    return data


def check_image(sample_id: str, data: bytes, what: str) -> tuple[int, int]:
    """Decode an image fully, so that a truncated one is found now.

    Returns:
        Height and width in pixels.
    """
    from PIL import Image

    with decoding(sample_id, what), Image.open(io.BytesIO(data)) as image:
        image.load()
        require_complete(data)
        return image.height, image.width


def check_waveform(sample_id: str, data: bytes, what: str) -> tuple[int, int]:
    """Decode an audio file fully.

    Returns:
        Samples and sample rate in Hz.
    """
    import soundfile

    with decoding(sample_id, what):
        require_complete(data)
        wave_data, rate = soundfile.read(io.BytesIO(data), dtype='float32')
    if wave_data.size == 0:
        raise BadSampleError(sample_id, f'{what}: no audio samples')
    if not np.isfinite(wave_data).all():
        raise BadSampleError(sample_id, f'{what}: values that are not finite')
    return len(wave_data), int(rate)


def encode_png_grey(image: NDArray[np.uint8]) -> bytes:
    """An 8-bit grey PNG whose bytes depend on the pixels alone.

    Pillow's bytes change with its zlib, which would change the digest of a dataset. The data is
    stored uncompressed, which suits small images.

    Args:
        image: uint8 [H, W].
    """
    if image.ndim != 2 or image.dtype != np.uint8:
        raise ValueError(f'expected uint8 [H, W], got {image.dtype} {list(image.shape)}')
    height, width = image.shape

    def chunk(kind: bytes, data: bytes) -> bytes:
        checked = kind + data
        return struct.pack('>I', len(data)) + checked + struct.pack('>I', zlib.crc32(checked))

    # each line starts with its filter, 0 = none
    lines = np.concatenate([np.zeros((height, 1), np.uint8), image], axis=1).tobytes()
    header = struct.pack('>IIBBBBB', width, height, 8, 0, 0, 0, 0)
    return (
        b'\x89PNG\r\n\x1a\n'
        + chunk(b'IHDR', header)
        + chunk(b'IDAT', zlib.compress(lines, 0))
        + chunk(b'IEND', b'')
    )


def encode_wav(samples: NDArray[np.floating], sample_rate: int) -> bytes:
    """A mono 16-bit wav file.

    Args:
        samples: float [T], clipped to [-1, 1]; full scale is 32767.
        sample_rate: Hz.
    """
    return encode_pcm(np.rint(np.clip(samples, -1, 1) * 32767).astype(np.int16), sample_rate)


def encode_pcm(samples: NDArray[np.int16], sample_rate: int) -> bytes:
    """A mono 16-bit wav file of samples as they are.

    Args:
        samples: int16 [T].
        sample_rate: Hz.
    """
    if samples.dtype != np.int16 or samples.ndim != 1:
        raise ValueError(f'expected int16 [T], got {samples.dtype} {list(samples.shape)}')
    pcm = samples.astype('<i2')
    sink = io.BytesIO()
    with wave.open(sink, 'wb') as f:
        f.setnchannels(1)
        f.setsampwidth(2)
        f.setframerate(sample_rate)
        f.writeframes(pcm.tobytes())
    return sink.getvalue()
