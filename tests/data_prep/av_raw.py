"""Raw audio-video datasets in their exact layouts, made of tiny real files."""

import csv
import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

STEP = 0.5  # s; every second half of a second has another grey


def grey(number: int, time: float) -> int:
    """What the picture of clip ``number`` is filled with at ``time``."""
    return (37 * number + 60 * int(time / STEP)) % 200 + 20


def tone(number: int) -> float:
    """Hz of the sound of clip ``number``."""
    return 300.0 + 40 * (number % 20)


def sine(number: int, seconds: float, rate: int) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    return np.rint(16000 * np.sin(2 * np.pi * tone(number) * time)).astype(np.int16)


def write_wav(path: Path, number: int, seconds: float = 1.5, rate: int = 16000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), 'wb') as f:
        f.setnchannels(1)
        f.setsampwidth(2)
        f.setframerate(rate)
        f.writeframes(sine(number, seconds, rate).astype('<i2').tobytes())


CODECS = {
    '.flv': ('flv1', 'libmp3lame', 22050),
    '.mp4': ('libx264', 'aac', 16000),
    '.avi': ('mpeg4', 'libmp3lame', 22050),
    '.mkv': ('libx264', 'aac', 16000),
}


def write_video(
    path: Path,
    number: int,
    seconds: float = 1.5,
    *,
    fps: int = 10,
    size: tuple[int, int] = (48, 32),
    pictures: bool = True,
    sound: bool = True,
) -> None:
    """A clip whose grey and tone follow from ``number``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    video_codec, audio_codec, rate = CODECS[path.suffix]
    with av.open(str(path), 'w') as container:
        streams = []
        if pictures:
            video = container.add_stream(video_codec, rate=fps)
            video.width, video.height, video.pix_fmt = *size, 'yuv420p'
            streams.append((video, _frames(number, seconds, fps, size)))
        if sound:
            audio = container.add_stream(audio_codec, rate=rate, layout='mono')
            streams.append((audio, _sounds(number, seconds, rate, audio)))
        for stream, frames in streams:
            for frame in [*frames, None]:
                for packet in stream.encode(frame):
                    container.mux(packet)


def _frames(number, seconds, fps, size):
    for i in range(round(seconds * fps)):
        pixels = np.full((size[1], size[0], 3), grey(number, i / fps), np.uint8)
        frame = av.VideoFrame.from_ndarray(pixels, format='rgb24')
        frame.pts, frame.time_base = i, Fraction(1, fps)
        yield frame


def _sounds(number, seconds, rate, stream):
    samples = sine(number, seconds, rate)
    frame = av.AudioFrame.from_ndarray(samples[None], format='s16', layout='mono')
    frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
    codec = stream.codec_context
    codec.open(strict=False)
    resampler = av.AudioResampler(
        format=codec.format.name, layout='mono', rate=rate, frame_size=codec.frame_size or None
    )
    yield from resampler.resample(frame)
    yield from resampler.resample(None)


def cremad(root: Path, actors: int = 4, repeats: int = 2, seconds: float = 1.2) -> list[str]:
    """AudioWAV, VideoFlash and the table; the ids."""
    ids = [
        f'{1001 + actor}_{("DFA", "IEO", "TIE")[r]}_{emotion}_XX'
        for actor in range(actors)
        for emotion in ('NEU', 'HAP', 'SAD', 'FEA', 'DIS', 'ANG')
        for r in range(repeats)
    ]
    for number, name in enumerate(ids):
        write_wav(root / 'AudioWAV' / f'{name}.wav', number, seconds)
        write_video(root / 'VideoFlash' / f'{name}.flv', number, seconds, sound=False)
    table = root / 'processedResults' / 'summaryTable.csv'
    table.parent.mkdir()
    with table.open('w', newline='') as f:
        writer = csv.writer(f, quoting=csv.QUOTE_ALL)
        writer.writerow(['', 'FileName', 'VoiceVote', 'VoiceLevel'])
        writer.writerows([i + 1, name, 'N', '50'] for i, name in enumerate(ids))
    return ids


def youtube(number: int) -> str:
    """An id of 11 characters; some start with ``-`` or hold ``_``."""
    return f'{"-_aB"[number % 4]}x_Y{number:07d}'


def kinetics(
    root: Path, counts: dict[str, int], classes: tuple[str, ...], seconds: float = 1.2
) -> dict[str, list[str]]:
    """``<split>/<class>/<id>_<start>_<end>.mp4``; the names per split."""
    names: dict[str, list[str]] = {}
    number = 0
    for split, count in counts.items():
        for name in classes:
            for _ in range(count):
                stem = f'{youtube(number)}_{number:06d}_{number + 10:06d}'
                write_video(root / split / name / f'{stem}.mp4', number, seconds)
                names.setdefault(split, []).append(stem)
                number += 1
    return names


def ave(root: Path, categories: tuple[str, ...], per_class: int = 5) -> list[str]:
    """AVE/*.mp4 of 3 s and Annotations.txt; its lines. Events last 1 or 2 s."""
    lines = []
    for number in range(len(categories) * per_class):
        start = number % 2
        end = start + 1 + number % 3 % 2
        category = categories[number // per_class]
        lines.append(f'{category}&{youtube(number)}&good&{start}&{end}')
        write_video(root / 'AVE' / f'{youtube(number)}.mp4', number, 3.0)
    header = 'Category&VideoID&Quality&StartTime&EndTime'
    (root / 'Annotations.txt').write_text('\n'.join([header, *lines]) + '\n')
    return lines
