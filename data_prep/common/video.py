"""Pictures at a fixed rate and mono audio out of video files, with PyAV, one frame at a time."""

import contextlib
import io
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .containers import truncation
from .errors import BadSampleError
from .media import decoding

__all__ = ['FrameOptions', 'read_audio', 'read_frames', 'target_times']

_SLACK = 1e-3  # s; times in containers are rounded to milliseconds
_SILENCE = 0.25  # s; a longer gap in the times of the sound is no rounding
_GAP = 60.0  # s; no picture stays that long: the times are damaged


@dataclass(frozen=True)
class FrameOptions:
    """How pictures are taken and stored.

    Attributes:
        fps: pictures per second: the ones on screen at start + k / fps, k = 0, 1, ..., as long as
            half of the step to the next is still inside the clip; at least one.
        short_side: pixels of the shorter side at most; larger ones are reduced, smaller ones kept.
        quality: of the JPEG, 1 to 95.
    """

    fps: float = 1.0
    short_side: int = 256
    quality: int = 95

    def __post_init__(self) -> None:
        if not 0 < self.fps <= 240:
            raise ValueError(f'fps must lie in (0, 240], got {self.fps}')
        if self.short_side < 1 or not 1 <= self.quality <= 95:
            raise ValueError(
                f'short_side must be at least 1 and quality in [1, 95], got {self.short_side} and '
                f'{self.quality}'
            )


def target_times(start: float, end: float, fps: float) -> Iterator[float]:
    """start, start + 1 / fps, ... (seconds), while half of the step to the next is before ``end``.

    The first is there in any case if ``end`` is after ``start``.
    """
    k = 0
    while (time := start + k / fps) < end - _SLACK:
        if k and time + 0.5 / fps > end + _SLACK:
            return
        yield time
        k += 1


def read_frames(
    sample_id: str,
    path: Path,
    options: FrameOptions,
    start: float = 0.0,
    end: float | None = None,
    strict: bool = True,
) -> list[bytes]:
    """JPEG pictures of ``path`` between ``start`` and ``end`` (seconds), at least one.

    Args:
        sample_id: for errors.
        path: a video file.
        options: rate, size, quality.
        start: seconds after the beginning of the file.
        end: exclusive; None: the end of the file.
        strict: a truncated file, or one with data that cannot be decoded, is a bad sample; else
            whatever can be decoded is taken.

    Raises:
        BadSampleError: no such file, no picture, or damaged (when strict).
    """
    _check_file(sample_id, path, strict)
    with decoding(sample_id, str(path)), _opened(path) as container:
        stream = _stream(container, 'video')
        found, shown_until = _pictures(container, stream, options, start, end, strict)
        if strict and shown_until is not None:
            _check_length(container, stream, shown_until, end, 'pictures')
    if not found:
        raise BadSampleError(sample_id, f'{path}: no video frame at or after {start:g} s')
    return found


def _pictures(
    container: Any,
    stream: Any,
    options: FrameOptions,
    start: float,
    end: float | None,
    strict: bool,
) -> tuple[list[bytes], float | None]:
    """The pictures, and when the last of the file ends; None when it was not read that far."""
    found: list[tuple[float, bytes]] = []
    targets = target_times(start, math.inf if end is None else end, options.fps)
    target = next(targets, None)
    held: Any = None
    shown_until = 0.0
    for frame, time in _timed(container, stream, strict):
        # a picture is on screen until the next one, so the one before is what `target` shows
        while held is not None and target is not None and time > target + _SLACK:
            found.append((target, _jpeg(held, options, strict)))
            target = next(targets, None)
        held, shown_until = frame, time + _duration(frame, stream)
        if target is None:  # a later picture is there, so the last target is shown to its end
            return [picture for _, picture in found], None
    while held is not None and target is not None and target < shown_until - _SLACK:
        found.append((target, _jpeg(held, options, strict)))
        target = next(targets, None)
    if len(found) > 1 and found[-1][0] + 0.5 / options.fps > shown_until + _SLACK:
        found.pop()
    return [picture for _, picture in found], shown_until


def read_audio(
    sample_id: str,
    path: Path,
    rate: int,
    start: float = 0.0,
    end: float | None = None,
    strict: bool = True,
) -> NDArray[np.int16]:
    """Mono audio of a sound or video file, resampled (swresample), int16 [T] with T >= 1.

    Args:
        sample_id: for errors.
        path: wav, mp3, ... or a video with an audio stream.
        rate: Hz of the result.
        start: seconds after the beginning of the file.
        end: exclusive; None: the end of the file.
        strict: as in :func:`read_frames`.

    Raises:
        BadSampleError: no such file, no audio stream, no samples, or damaged (when strict).
    """
    _check_file(sample_id, path, strict)
    with decoding(sample_id, str(path)), _opened(path) as container:
        stream = _stream(container, 'audio')
        wave, begin = _mono(container, stream, rate, end, strict)
        if strict:
            _check_length(container, stream, begin + len(wave) / rate, end, 'sound')
    if begin - start > _SILENCE:  # it starts later than what is asked for
        wave, begin = (
            np.concatenate([np.zeros(round((begin - start) * rate), np.int16), wave]),
            start,
        )
    first = max(0, round((start - begin) * rate))
    last = len(wave) if end is None else max(0, round((end - begin) * rate))
    wave = wave[first:last]
    if not len(wave):
        raise BadSampleError(sample_id, f'{path}: no audio samples at or after {start:g} s')
    return wave


def _check_file(sample_id: str, path: Path, strict: bool) -> None:
    with decoding(sample_id, str(path)):
        if not path.is_file():
            raise BadSampleError(sample_id, f'{path}: the file is missing')
        if path.stat().st_size == 0:
            raise BadSampleError(sample_id, f'{path}: the file is empty')
        lost = truncation(path) if strict else None
    if lost:
        raise BadSampleError(sample_id, f'{path}: {lost}')


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    import av

    av.logging.set_level(av.logging.PANIC)  # damage is reported by exceptions and checks
    try:
        with av.open(str(path), metadata_errors='ignore') as container:
            yield container
    except av.error.FFmpegError as e:
        log: Any = e.log  # (level, part, text) or None
        detail = log[2].strip() if log else ''
        raise ValueError(': '.join(filter(None, [e.strerror or type(e).__name__, detail]))) from e


def _stream(container: Any, kind: str) -> Any:
    streams = getattr(container.streams, kind)
    if not streams:
        others = ', '.join(s.type for s in container.streams) or 'nothing'
        raise ValueError(f'no {kind} stream (it has {others})')
    stream = streams[0]
    if stream.codec_context is None:
        raise ValueError(f'the codec of its {kind} stream is not known')
    stream.codec_context.thread_count = 1  # processes run in parallel, not threads in each
    return stream


def _origin(container: Any) -> float:
    """Seconds at which the file begins: of whichever stream starts first."""
    return 0.0 if container.start_time is None else container.start_time / 1_000_000


def _decoded(container: Any, stream: Any, strict: bool) -> Iterator[Any]:
    """Decoded frames; what cannot be decoded is skipped unless ``strict``."""
    import av

    for packet in container.demux(stream):
        if strict and packet.is_corrupt:
            raise ValueError('a packet is corrupt')
        try:
            yield from packet.decode()
        except av.error.EOFError:
            return
        except av.error.FFmpegError as e:
            if strict:
                raise ValueError(f'cannot be decoded to its end ({e.strerror})') from e


def _timed(container: Any, stream: Any, strict: bool) -> Iterator[tuple[Any, float]]:
    """Pictures and the seconds at which they appear, from the beginning of the file."""
    origin = _origin(container)
    last, step = None, 1 / float(stream.average_rate or 25)
    for frame in _decoded(container, stream, strict):
        following = 0.0 if last is None else last + step
        time = following if frame.time is None else frame.time - origin
        if abs(time - following) > _GAP:
            if strict:
                raise ValueError(f'the picture after {following:.2f} s is marked {time:.2f} s')
            time = following
        last = time
        yield frame, time


def _duration(frame: Any, stream: Any) -> float:
    """Seconds that a picture stays."""
    if frame.duration and frame.time_base and frame.duration * frame.time_base < _GAP:
        return float(frame.duration * frame.time_base)
    return 1 / float(stream.average_rate or 25)


def _jpeg(frame: Any, options: FrameOptions, strict: bool) -> bytes:
    """``frame`` as an RGB JPEG, upright, reduced; a damaged one is refused if ``strict``."""
    if strict and frame.is_corrupt:
        at = '' if frame.time is None else f' at {frame.time:.2f} s'
        raise ValueError(f'the picture{at} is damaged')
    image = frame.to_image()
    turn = int(getattr(frame, 'rotation', 0) or 0)
    if turn % 360:
        image = image.rotate(turn, expand=True)
    scale = options.short_side / min(image.size)
    if scale < 1:
        size = [max(1, round(scale * side)) for side in image.size]
        image = image.resize(size, resample=2)  # bilinear, antialiased when it reduces
    sink = io.BytesIO()
    image.save(sink, format='JPEG', quality=options.quality)
    return sink.getvalue()


def _mono(
    container: Any, stream: Any, rate: int, end: float | None, strict: bool
) -> tuple[NDArray[np.int16], float]:
    """All samples up to ``end``, and the second at which the first one sounds."""
    import av

    resampler = av.AudioResampler(format='s16', layout='mono', rate=rate)
    chunks: list[NDArray[np.int16]] = []
    begin: float | None = None
    total = 0

    def take(frame: Any) -> None:
        nonlocal total
        for part in resampler.resample(frame):
            samples = part.to_ndarray().reshape(-1)
            chunks.append(samples.astype(np.int16, copy=False))
            total += len(samples)

    origin = _origin(container)
    for frame in _decoded(container, stream, strict):
        if begin is None:
            begin = 0.0 if frame.time is None else frame.time - origin
        reached = begin + total / rate
        if strict and frame.time is not None and frame.time - origin > reached + _SILENCE:
            raise ValueError(
                f'the sound after {reached:.2f} s is marked {frame.time - origin:.2f} s: a part is '
                f'missing'
            )
        take(frame)
        if end is not None and begin + total / rate > end + 0.1:
            break
    else:
        if begin is not None:
            take(None)  # what the resampler still holds
    wave = np.concatenate(chunks) if chunks else np.zeros(0, np.int16)
    return wave, begin or 0.0


def _stated_length(stream: Any) -> float | None:
    """Seconds from the tag of Matroska and WebM, whose streams have no length otherwise."""
    tag = '' if stream.duration else stream.metadata.get('DURATION', '')
    found = re.fullmatch(r'(\d+):(\d+):(\d+(?:\.\d+)?)', tag.strip('\0 '))
    if found is None:
        return None
    return 3600 * int(found[1]) + 60 * int(found[2]) + float(found[3])


def _check_length(
    container: Any, stream: Any, reached: float, end: float | None, what: str
) -> None:
    """A stream that is clearly shorter than the file says was cut, or lost its data."""
    stated = _stated_length(stream)
    if stated is not None:
        declared = stated
    elif not stream.duration or not stream.time_base:
        if container.duration is None or len(container.streams) > 1:
            return  # the file's length may be that of another stream
        declared = container.duration / 1_000_000
    else:
        declared = float(stream.duration * stream.time_base)
        if stream.start_time is not None:
            declared += float(stream.start_time * stream.time_base) - _origin(container)
    expected = declared if end is None else min(declared, end)
    if reached < expected - max(0.5, 0.1 * expected):
        raise ValueError(f'the {what} end at {reached:.2f} s of {expected:.2f} s')
