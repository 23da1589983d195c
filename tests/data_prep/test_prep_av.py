"""CREMA-D, Kinetics-Sounds and AVE from real media files in their raw layouts."""

import csv
import errno
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from av_raw import ave as make_raw_ave
from av_raw import cremad, grey, kinetics, tone, write_video, write_wav, youtube
from datasets import load_from_disk
from PIL import Image

from cal_mm.datasets import MultiModalDataset
from data_prep import ave, crema_d, kinetics_sounds
from data_prep.av_parts import Clip, audit, carve_groups, carve_rows, repair, unique_ids
from data_prep.av_parts.ave_lists import CLASSES as AVE_CLASSES
from data_prep.av_parts.ave_lists import read_annotations, read_split_lists
from data_prep.av_parts.kinetics import CLASSES as KS_CLASSES
from data_prep.av_parts.kinetics import Segment, parse_name, read_csvs, read_lists
from data_prep.av_parts.lists import list_files
from data_prep.common import BadSampleError, DatasetSpec, read_manifest, verify, write_dataset
from data_prep.common import shards as shards_module
from data_prep.common.containers import truncation
from data_prep.common.video import FrameOptions, read_audio, read_frames, target_times

ROOT = Path(__file__).resolve().parents[2]


def greys(frames: list[bytes]) -> list[int]:
    return [round(float(np.asarray(Image.open(io.BytesIO(f)).convert('L')).mean())) for f in frames]


def near(found: list[int], wanted: list[int], tolerance: int = 6) -> bool:
    return len(found) == len(wanted) and all(
        abs(a - b) <= tolerance for a, b in zip(found, wanted, strict=True)
    )


def loudest(wave: np.ndarray, rate: int) -> float:
    """Hz of the strongest frequency."""
    spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave))))
    return float(np.argmax(spectrum) * rate / len(wave))


def bad_of(out: Path) -> dict[str, str]:
    return {b['sample_id']: b['reason'] for b in read_manifest(out)['bad']}


# --- decoding


@pytest.mark.parametrize('suffix', ['.flv', '.mp4', '.avi'])
def test_pictures_and_sound(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f'a{suffix}'
    write_video(path, 3, 3.0, size=(64, 48))
    frames = read_frames('a', path, FrameOptions(fps=2))
    assert len(frames) == 6
    # containers may shift the pictures by the codec's delay, so look where nothing changes
    within = read_frames('a', path, FrameOptions(fps=2), 0.25, 2.75)
    assert near(greys(within), [grey(3, 0.25 + k / 2) for k in range(5)])
    assert Image.open(io.BytesIO(frames[0])).size == (64, 48)
    assert Image.open(io.BytesIO(frames[0])).format == 'JPEG'
    for rate in (16000, 22050):
        wave = read_audio('a', path, rate)
        assert wave.dtype == np.int16
        assert len(wave) / rate == pytest.approx(3.0, abs=0.15)
        assert loudest(wave, rate) == pytest.approx(tone(3), abs=2)
        assert np.sqrt(np.mean(wave.astype(float) ** 2)) == pytest.approx(16000 / 2**0.5, rel=0.06)


def test_a_part_of_a_clip(tmp_path: Path) -> None:
    path = tmp_path / 'a.mp4'
    write_video(path, 1, 4.0)
    frames = read_frames('a', path, FrameOptions(fps=4), 1.1, 2.6)
    assert near(greys(frames), [grey(1, 1.1 + k / 4) for k in range(6)])
    assert len(read_audio('a', path, 16000, 1.1, 2.6)) == 24000
    # an end beyond the clip takes what there is
    assert len(read_frames('a', path, FrameOptions(fps=1), 2.0, 10.0)) == 2
    with pytest.raises(BadSampleError, match='no video frame at or after 7 s'):
        read_frames('a', path, FrameOptions(), 7.0, 9.0)
    with pytest.raises(BadSampleError, match='no audio samples at or after 7 s'):
        read_audio('a', path, 16000, 7.0, 9.0)


@pytest.mark.parametrize(
    ('seconds', 'fps', 'count'), [(0.3, 1, 1), (1.4, 1, 1), (1.6, 1, 2), (2.0, 1, 2), (2.0, 5, 10)]
)
def test_number_of_pictures(tmp_path: Path, seconds: float, fps: float, count: int) -> None:
    write_video(tmp_path / 'a.mp4', 0, seconds, sound=False)
    assert len(read_frames('a', tmp_path / 'a.mp4', FrameOptions(fps=fps))) == count


def test_large_pictures_are_reduced(tmp_path: Path) -> None:
    write_video(tmp_path / 'a.mp4', 0, 0.5, size=(96, 64))
    (frame,) = read_frames('a', tmp_path / 'a.mp4', FrameOptions(short_side=32))
    assert Image.open(io.BytesIO(frame)).size == (48, 32)


def test_stereo_is_averaged(tmp_path: Path) -> None:
    left = np.repeat(0.5, 16000)
    soundfile.write(tmp_path / 'a.wav', np.stack([left, -0.25 + 0 * left], 1), 16000, 'PCM_16')
    wave = read_audio('a', tmp_path / 'a.wav', 16000)
    assert np.abs(wave - 0.125 * 32768).max() <= 2
    assert len(wave) == 16000


@pytest.mark.parametrize('suffix', ['.flv', '.mp4', '.avi'])
@pytest.mark.parametrize('share', [0.3, 0.6, 0.95])
def test_truncated_files(tmp_path: Path, suffix: str, share: float) -> None:
    whole, cut = tmp_path / f'a{suffix}', tmp_path / f'b{suffix}'
    write_video(whole, 0, 1.0)
    data = whole.read_bytes()
    assert truncation(whole) is None
    cut.write_bytes(data[: int(share * len(data))])
    for read in (lambda: read_frames('b', cut, FrameOptions()), lambda: read_audio('b', cut, 8000)):
        with pytest.raises(BadSampleError, match=r'b\.\w+: the file is truncated: its .* ends at'):
            read()
    if suffix == '.flv':
        assert read_frames('b', cut, FrameOptions(), strict=False)


def test_truncated_matroska(tmp_path: Path) -> None:
    whole, cut = tmp_path / 'a.mkv', tmp_path / 'b.mkv'
    write_video(whole, 0, 10.0)
    assert len(read_frames('a', whole, FrameOptions())) == 10
    assert len(read_audio('a', whole, 8000)) == pytest.approx(80000, abs=1000)
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(BadSampleError, match=r'the pictures end at \d+\.\d+ s of 10'):
        read_frames('b', cut, FrameOptions())
    with pytest.raises(BadSampleError, match=r'the sound end at \d+\.\d+ s of 10'):
        read_audio('b', cut, 8000)
    assert read_frames('b', cut, FrameOptions(), strict=False)


def test_sound_with_a_hole_or_a_late_beginning(tmp_path: Path) -> None:
    write_video(tmp_path / 'a.mkv', 0, 4.0)

    def without(low: float, high: float) -> Path:
        path = tmp_path / f'without-{low:g}-{high:g}.mkv'
        with av.open(str(tmp_path / 'a.mkv')) as source, av.open(str(path), 'w') as target:
            streams = {s.index: target.add_stream_from_template(s) for s in source.streams}
            for packet in source.demux():
                if packet.dts is None:
                    continue
                time = float(packet.pts * packet.time_base)
                if packet.stream.type == 'audio' and low <= time < high:
                    continue
                packet.stream = streams[packet.stream.index]
                target.mux(packet)
        return path

    whole = read_audio('a', tmp_path / 'a.mkv', 8000)
    with pytest.raises(BadSampleError, match=r'the sound after 1\.\d+ s is marked 2\.\d+ s'):
        read_audio('b', without(1.5, 2.3), 8000)
    late = read_audio('b', without(0.0, 1.0), 8000)
    assert abs(len(late) - len(whole)) < 1000
    assert not late[:7000].any()
    assert np.abs(late[12000:16000]).max() > 8000


def test_truncated_wav(tmp_path: Path) -> None:
    write_wav(tmp_path / 'a.wav', 0)
    data = (tmp_path / 'a.wav').read_bytes()
    (tmp_path / 'a.wav').write_bytes(data[:-100])
    with pytest.raises(BadSampleError, match='RIFF chunk'):
        read_audio('a', tmp_path / 'a.wav', 16000)
    assert len(read_audio('a', tmp_path / 'a.wav', 16000, strict=False)) == 1.5 * 16000 - 50


def test_a_flv_cut_between_tags_is_noticed_by_its_length(tmp_path: Path) -> None:
    path = tmp_path / 'a.flv'
    write_video(path, 0, 4.0, sound=False)
    data, place = path.read_bytes(), 13
    while place < len(data) // 2:
        place += 15 + int.from_bytes(data[place + 1 : place + 4], 'big')
    path.write_bytes(data[:place])
    assert truncation(path) is None
    with pytest.raises(BadSampleError, match=r'the pictures end at \d\.\d+ s of 4\.0'):
        read_frames('a', path, FrameOptions())


def test_other_damage(tmp_path: Path) -> None:
    write_video(tmp_path / 'mute.mp4', 0, 0.5, sound=False)
    write_video(tmp_path / 'blind.mp4', 0, 0.5, pictures=False)
    (tmp_path / 'page.mp4').write_text('<html>video unavailable</html>')
    (tmp_path / 'empty.mp4').touch()
    with pytest.raises(BadSampleError, match=r'mute.mp4: .*no audio stream \(it has video\)'):
        read_audio('x', tmp_path / 'mute.mp4', 16000)
    with pytest.raises(BadSampleError, match=r'blind.mp4: .*no video stream \(it has audio\)'):
        read_frames('x', tmp_path / 'blind.mp4', FrameOptions())
    with pytest.raises(BadSampleError, match='Invalid data'):
        read_frames('x', tmp_path / 'page.mp4', FrameOptions())
    with pytest.raises(BadSampleError, match='the file is empty'):
        read_frames('x', tmp_path / 'empty.mp4', FrameOptions())
    with pytest.raises(BadSampleError, match='the file is missing'):
        read_audio('x', tmp_path / 'gone.mp4', 16000)


@pytest.mark.parametrize('suffix', ['.flv', '.mp4'])
def test_random_damage_never_ends_the_run(tmp_path: Path, suffix: str) -> None:
    write_video(tmp_path / f'a{suffix}', 0, 1.0)
    data = (tmp_path / f'a{suffix}').read_bytes()
    rng = np.random.default_rng(0)
    seen = Counter()
    for i in range(40):
        broken = bytearray(data)
        for place in rng.integers(0, len(data), 1 + 30 * (i % 2)):
            broken[place] = rng.integers(256)
        (tmp_path / f'b{suffix}').write_bytes(bytes(broken))
        try:
            read_frames('b', tmp_path / f'b{suffix}', FrameOptions(), strict=i % 4 < 2)
            read_audio('b', tmp_path / f'b{suffix}', 8000, strict=i % 4 < 2)
            seen['used'] += 1
        except BadSampleError:
            seen['bad'] += 1
    assert set(seen) == {'used', 'bad'}


def test_times() -> None:
    assert list(target_times(1.0, 2.0, 4)) == [1.0, 1.25, 1.5, 1.75]
    assert list(target_times(1.0, 2.4, 1)) == [1.0]
    assert list(target_times(1.0, 2.5, 1)) == [1.0, 2.0]
    assert list(target_times(1.0, 1.2, 1)) == [1.0]
    with pytest.raises(ValueError, match=r'fps must lie in \(0, 240\]'):
        FrameOptions(fps=0)


# --- frames as a column


def frame_spec() -> DatasetSpec:
    return DatasetSpec('f', '1', 'p', ('a', 'b'), {'video': dict(kind='image', frames=True)})


def test_a_column_of_frames(tmp_path: Path, jpeg) -> None:
    rows = [
        dict(sample_id=f's{i}', label=i % 2, group='', video=[jpeg(i), jpeg(i + 9)][: 1 + i % 2])
        for i in range(4)
    ]
    write_dataset(tmp_path / 'd', frame_spec(), {'train': rows})
    assert verify(tmp_path / 'd') == []
    assert load_from_disk(str(tmp_path / 'd' / 'train'))['video'] == [r['video'] for r in rows]
    path = tmp_path / 'd' / 'train' / 'data-00000.arrow'
    data = bytearray(path.read_bytes())
    data[data.index(jpeg(9 + 1)) + 150] ^= 1
    path.write_bytes(bytes(data))
    assert verify(tmp_path / 'd') == ['train row 1 (sample s1): the content differs']


def test_frames_that_are_none(tmp_path: Path) -> None:
    row = dict(sample_id='s', label=0, group='', video=[])
    good = dict(sample_id='t', label=0, group='', video=[b'x'])
    report = write_dataset(tmp_path / 'd', frame_spec(), {'train': [row, good]})
    assert [b['sample_id'] for b in report.bad] == ['s']
    with pytest.raises(ValueError, match='expected a list of bytes'):
        write_dataset(tmp_path / 'e', frame_spec(), {'train': [good | dict(video=b'x')]})


# --- checks and splits


def clip(key: str, label: int = 0, group: str = 'g', **more) -> Clip:
    return Clip(key, key, label, group, 'v', 'a', **more)


def test_audit_and_repair() -> None:
    splits = dict(
        train=[clip('a'), clip('b'), clip('b', 1), clip('c'), clip('d', 2, other_label=3)],
        val=[clip('c', 1)],
        test=[clip('a', group='h'), clip('e', stamps=((-1, -1), (1, 1)))],
    )
    found = {f.name: f.ids for f in audit(splits, 'actors')}
    assert found == {
        'duplicates in train': ('b',),
        'ids in train and val': ('c',),
        'ids in train and test': ('a',),
        'actors in train and val': ('g',),
        'actors in train and test': ('g',),
        'actors in val and test': ('g',),
        'ids with two labels': ('b', 'c'),
        'list labels that contradict the file': ('d',),
        'clips of test without a media file': ('e',),
    }
    repaired = repair(splits)
    assert [(c.key, c.label) for c in repaired['train']] == [('b', 0), ('d', 3)]
    assert [c.key for c in repaired['test']] == ['a', 'e']
    ids = unique_ids(splits)
    assert [c.sample_id for c in ids['train']] == ['a', 'b', 'b~2', 'c', 'd']
    assert [c.sample_id for c in ids['test']] == ['a~2', 'e']


def test_carving_keeps_recordings_and_shares() -> None:
    clips = [clip(f'k{i // 2}', i // 2 % 3, f'g{i % 10}') for i in range(120)]
    rest, part = carve_rows(clips, 24, np.random.default_rng(0))
    assert (len(rest), len(part)) == (96, 24)
    assert Counter(c.label for c in part) == {0: 8, 1: 8, 2: 8}
    assert not {c.key for c in rest} & {c.key for c in part}
    again = carve_rows(clips, 24, np.random.default_rng(0))[1]
    assert again == part
    assert carve_rows(clips, 24, np.random.default_rng(1))[1] != part
    rest, part = carve_groups(clips, 0.2, np.random.default_rng(0))
    assert {c.group for c in rest} | {c.group for c in part} == {f'g{i}' for i in range(10)}
    assert len({c.group for c in part}) == 2
    assert not {c.group for c in rest} & {c.group for c in part}


# --- CREMA-D


@pytest.fixture(scope='module')
def crema_raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('crema')
    cremad(root)
    return root


@pytest.fixture
def crema_copy(crema_raw: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(crema_raw, tmp_path / 'raw'))


def test_crema_d(crema_raw: Path, tmp_path: Path) -> None:
    out = tmp_path / 'out'
    argv = ['--raw', str(crema_raw), '--out', str(out), '--fps', '5']
    assert crema_d.main(argv) == 0
    assert verify(out) == []
    manifest = read_manifest(out)
    assert {s: f['num_samples'] for s, f in manifest['splits'].items()} == {
        'train': 38,
        'val': 5,
        'test': 5,
    }
    assert manifest['classes'] == ['NEU', 'HAP', 'SAD', 'FEA', 'DIS', 'ANG']
    assert manifest['protocol'] == 'random'
    assert manifest['modalities']['audio'] == {'kind': 'waveform', 'sample_rate': 22050}
    ids = sorted(p.stem for p in (crema_raw / 'AudioWAV').iterdir())
    order = {name: i for i, name in enumerate(cremad_order(ids))}
    for row in load_from_disk(str(out / 'val')):
        actor, _, emotion, _ = row['sample_id'].split('_')
        assert row['group'] == actor
        assert manifest['classes'][row['label']] == emotion
        number = order[row['sample_id']]
        assert near(greys(row['image']), [grey(number, k / 5) for k in range(6)])
        wave, rate = soundfile.read(io.BytesIO(row['audio']))
        assert rate == 22050
        assert loudest(wave, rate) == pytest.approx(tone(number), abs=3)
    assert crema_d.main(argv) == 0
    assert crema_d.main([*argv, '--fps', '2']) == 1, 'another dataset is not overwritten'


def cremad_order(ids: list[str]) -> list[str]:
    emotions = ('NEU', 'HAP', 'SAD', 'FEA', 'DIS', 'ANG')
    return sorted(ids, key=lambda i: (i[:4], emotions.index(i[9:12]), i[5:8]))


def test_crema_d_second_run_touches_nothing(crema_raw: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / 'out'
    argv = ['--raw', str(crema_raw), '--out', str(out)]
    assert crema_d.main(argv) == 0
    before = {p: p.stat().st_mtime_ns for p in out.rglob('*')}
    assert crema_d.main(argv) == 0
    assert 'is up to date' in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in out.rglob('*')} == before
    assert {p.name for p in tmp_path.iterdir()} == {'out'}


def test_workers_do_not_change_the_result(crema_raw: Path, tmp_path: Path) -> None:
    one = crema_d.make_crema_d(crema_raw, tmp_path / 'a', shard_size=10)
    two = crema_d.make_crema_d(crema_raw, tmp_path / 'b', workers=2)
    assert one.digest == two.digest


def test_crema_d_without_a_shared_actor(crema_raw: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / 'out'
    protocol = ['--protocol', 'speaker-independent', '--val-share', '0.3']
    assert crema_d.main(['--raw', str(crema_raw), '--out', str(out), *protocol]) == 0
    actors = {s: set(load_from_disk(str(out / s))['group']) for s in ('train', 'val', 'test')}
    assert sorted(a for part in actors.values() for a in part) == ['1001', '1002', '1003', '1004']
    assert read_manifest(out)['facts']['checks'] == {}
    assert 'check:' not in capsys.readouterr().err


def crema_lists(tmp_path: Path, ids: list[str], test: int = 6) -> list[str]:
    """Lists in the format of the published ones: ``id,emotion``, Windows line ends."""
    entries = []
    for split, names in (('train', ids[test:]), ('test', ids[:test])):
        path = tmp_path / f'{split}.csv'
        path.write_bytes(''.join(f'{n},{n[9:12]}\r\n' for n in names).encode())
        entries.append(f'{split}={path}')
    return entries


def test_crema_d_published_lists(crema_raw: Path, tmp_path: Path, capsys) -> None:
    ids = sorted(p.stem for p in (crema_raw / 'AudioWAV').iterdir())
    entries = crema_lists(tmp_path, ids)
    argv = ['--raw', str(crema_raw), '--out', str(tmp_path / 'out'), '--split-list', *entries]
    assert crema_d.main(argv) == 0
    manifest = read_manifest(tmp_path / 'out')
    assert manifest['protocol'] == 'published'
    assert load_from_disk(str(tmp_path / 'out' / 'test'))['sample_id'] == ids[:6]
    assert manifest['facts']['listed'] == {'train': 38, 'val': 4, 'test': 6}
    assert manifest['facts']['checks']['actors in train and test']['ids'] == ['1001']
    assert 'check: 1 actors in train and test (1001)' in capsys.readouterr().err

    (tmp_path / 'train.csv').write_text('1001_DFA_JOY_XX,JOY\n')
    assert crema_d.main([*argv[:3], str(tmp_path / 'o2'), *argv[4:]]) == 1
    assert "train.csv line 1: '1001_DFA_JOY_XX' is no CREMA-D id" in capsys.readouterr().err


def test_crema_d_lists_with_faults(crema_raw: Path, tmp_path: Path, capsys) -> None:
    ids = sorted(p.stem for p in (crema_raw / 'AudioWAV').iterdir())
    entries = crema_lists(tmp_path, ids)
    train = tmp_path / 'train.csv'
    wrong = ids[8][:9] + ('SAD' if ids[8][9:12] != 'SAD' else 'ANG')
    lines = [f'{ids[7]},{ids[7][9:12]}', f'{ids[0]},{ids[0][9:12]}', f'{ids[8]},{wrong[9:12]}']
    train.write_text(train.read_text().replace(f'{ids[8]},{ids[8][9:12]}\n', '') + '\n'.join(lines))
    # unrepaired: as listed, with a second name for what is listed twice
    report = crema_d.make_crema_d(crema_raw, tmp_path / 'a', split_list=entries)
    assert sum(report.counts.values()) == 50
    rows = {
        i: label
        for s in report.counts
        for i, label in zip(*_columns(tmp_path / 'a' / s), strict=True)
    }
    assert {f'{ids[7]}~2', f'{ids[0]}~2'} & set(rows) == {f'{ids[7]}~2', f'{ids[0]}~2'}
    assert crema_d.CLASSES[rows[ids[8]]] == wrong[9:12]
    err = capsys.readouterr().err
    assert '1 ids in train and test' in err or '1 ids in val and test' in err
    assert 'contradict the file' in err

    fixed = crema_d.make_crema_d(crema_raw, tmp_path / 'b', split_list=entries, repair=True)
    names = [i for s in fixed.counts for i in load_from_disk(str(tmp_path / 'b' / s))['sample_id']]
    labels = dict(
        pair for s in fixed.counts for pair in zip(*_columns(tmp_path / 'b' / s), strict=True)
    )
    assert crema_d.CLASSES[labels[ids[8]]] == ids[8][9:12]
    assert len(names) >= 48
    assert f'{ids[0]}~2' not in load_from_disk(str(tmp_path / 'b' / 'train'))['sample_id']


def _columns(folder: Path) -> tuple[list[str], list[int]]:
    data = load_from_disk(str(folder))
    return list(data['sample_id']), list(data['label'])


def test_corrupt_clips_are_listed(crema_copy: Path, tmp_path: Path, capsys) -> None:
    videos = sorted((crema_copy / 'VideoFlash').iterdir())
    cut, blind, gone, page, mute = videos[:5]
    cut.write_bytes(cut.read_bytes()[:-200])
    shutil.copy(videos[5], blind)
    blind.unlink()
    write_video(blind, 0, 1.0, pictures=False)
    gone.unlink()
    page.write_text('<html>')
    sounds = crema_copy / 'AudioWAV'
    (sounds / f'{mute.stem}.wav').write_bytes((sounds / f'{mute.stem}.wav').read_bytes()[:44])
    out = tmp_path / 'out'
    argv = ['--raw', str(crema_copy), '--out', str(out)]
    assert crema_d.main(argv) == 3
    assert verify(out) == []
    bad = bad_of(out)
    assert set(bad) == {p.stem for p in (cut, blind, gone, page, mute)}
    assert 'truncated' in bad[cut.stem]
    assert 'no video stream' in bad[blind.stem]
    assert 'missing' in bad[gone.stem]
    assert 'Invalid data' in bad[page.stem]
    assert f'{mute.stem}.wav' in bad[mute.stem]
    assert '--allow-bad 5' in capsys.readouterr().err
    assert crema_d.main([*argv, '--allow-bad', '4']) == 3
    assert crema_d.main([*argv, '--allow-bad', '5']) == 0

    part = tmp_path / 'part'
    keep = ['--keep-partial', '--accept-truncated', '--allow-bad', '0']
    assert crema_d.main(['--raw', str(crema_copy), '--out', str(part), *keep]) == 0
    missing = Counter()
    manifest = read_manifest(part)
    for split, facts in manifest['splits'].items():
        rows = load_from_disk(str(part / split))
        for m in ('audio', 'image'):
            lacking = [r['sample_id'] for r in rows if r[m] is None]
            assert facts.get('missing', {}).get(m, []) == lacking
            missing[m] += len(lacking)
    assert missing == {'audio': 1, 'image': 3}


def test_crema_d_folders_and_names(crema_copy: Path, tmp_path: Path, capsys) -> None:
    one = sorted((crema_copy / 'VideoFlash').iterdir())[0]
    one.rename(one.with_name(one.name.replace('_XX', '_X')))  # as in some copies
    (crema_copy / 'VideoFlash' / '._1001.flv').write_bytes(b'other system')
    (crema_copy / 'AudioWAV' / 'notes.wav').write_bytes(b'x')
    report = crema_d.make_crema_d(crema_copy, tmp_path / 'out')
    assert sum(report.counts.values()) == 48
    assert report.bad == []
    assert read_manifest(tmp_path / 'out')['facts']['names_not_understood'] == ['notes']
    assert (
        '1 files whose name is no id of this dataset, left out (notes)' in capsys.readouterr().err
    )
    # the table names a clip that no folder holds
    with (crema_copy / 'processedResults' / 'summaryTable.csv').open('a', newline='') as f:
        csv.writer(f).writerow([99, '1005_DFA_ANG_XX', 'A', '1'])
    report = crema_d.make_crema_d(crema_copy, tmp_path / 'table')
    assert [b['sample_id'] for b in report.bad] == ['1005_DFA_ANG_XX']
    shutil.rmtree(crema_copy / 'VideoFlash')
    assert crema_d.main(['--raw', str(crema_copy), '--out', str(tmp_path / 'o')]) == 1
    assert 'has no folder VideoFlash (it has AudioWAV, processedResults)' in capsys.readouterr().err


# --- a kill, a full disk


SLOW_RUN = """
import sys, time
from data_prep import crema_d
from data_prep.av_parts import command, convert

def slowly(clip):
    time.sleep(0.05)
    return convert(clip)

command.convert = slowly
crema_d.make_crema_d(sys.argv[1], sys.argv[2], shard_size=4)
"""


def test_kill_in_the_middle(crema_raw: Path, tmp_path: Path, monkeypatch) -> None:
    out, partial = tmp_path / 'out', tmp_path / '.out.partial'
    process = subprocess.Popen([sys.executable, '-c', SLOW_RUN, str(crema_raw), str(out)], cwd=ROOT)
    limit = time.monotonic() + 60
    while len(list((partial / '.records').glob('*.json'))) < 3:
        assert process.poll() is None
        assert time.monotonic() < limit
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not out.exists()
    with pytest.raises(FileNotFoundError, match='is not a prepared dataset'):
        MultiModalDataset(partial, 'train')
    kept = len(list((partial / '.records').glob('*.json')))
    # the second run writes only what was not finished
    written = []
    real = shards_module._write_shard
    monkeypatch.setattr(
        shards_module, '_write_shard', lambda path, *a: written.append(path.name) or real(path, *a)
    )
    report = crema_d.make_crema_d(crema_raw, out, shard_size=4)
    assert report.counts == {'train': 38, 'val': 5, 'test': 5}
    assert 0 < len(written) <= 14 - kept
    assert verify(out) == []
    assert not partial.exists()
    assert crema_d.make_crema_d(crema_raw, tmp_path / 'whole').digest == report.digest


POOL = """
import time
from data_prep.common.parallel import worker_pool
import os

if __name__ == '__main__':
    with worker_pool(2) as pool:
        pids = {pool.submit(os.getpid).result() for _ in range(8)}
        print(*pids, flush=True)
        time.sleep(60)
"""


def test_workers_end_with_a_killed_parent(tmp_path: Path) -> None:
    (tmp_path / 'pool.py').write_text(POOL)
    env = {**os.environ, 'PYTHONPATH': str(ROOT)}
    parent = subprocess.Popen(
        [sys.executable, str(tmp_path / 'pool.py')],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=env,
    )
    with parent:
        pids = [int(p) for p in parent.stdout.readline().split()]
        assert pids
        parent.kill()
    limit = time.monotonic() + 30
    while any(running(p) for p in pids):
        assert time.monotonic() < limit
        time.sleep(0.05)


def running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        state = Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False
    return state != 'Z'  # nobody may be there to collect it


@pytest.mark.parametrize('place', ['shard', 'manifest'])
def test_full_disk(crema_raw: Path, tmp_path: Path, monkeypatch, capsys, place: str) -> None:
    def full(*_args: object, **_more: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    target = (
        'data_prep.common.shards.os.fsync'
        if place == 'shard'
        else ('data_prep.common.writer.write_json')
    )
    argv = ['--raw', str(crema_raw), '--out', str(tmp_path / 'out')]
    with monkeypatch.context() as patch:
        patch.setattr(target, full)
        assert crema_d.main(argv) == 1
    assert 'No space left on device' in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()
    assert not list(tmp_path.rglob('manifest.json'))
    assert crema_d.main(argv) == 0
    assert verify(tmp_path / 'out') == []


# --- Kinetics-Sounds


THREE = ('bowling', 'playing drums', 'tickling')  # one with a blank, as CVDF writes folders


@pytest.fixture(scope='module')
def kinetics_raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('kinetics')
    kinetics(root, dict(train=5, val=1, test=2), THREE)
    write_video(root / 'train' / 'abseiling' / f'{youtube(900)}_000001_000011.mp4', 0, 0.3)
    return root


def test_kinetics_own_splits(kinetics_raw: Path, tmp_path: Path) -> None:
    out = tmp_path / 'out'
    assert kinetics_sounds.main(['--raw', str(kinetics_raw), '--out', str(out), '--fps', '2']) == 0
    manifest = read_manifest(out)
    assert manifest['protocol'] == 'kinetics'
    assert {s: f['num_samples'] for s, f in manifest['splits'].items()} == dict(
        train=15, val=3, test=6
    )
    assert len(manifest['classes']) == 31
    for row in load_from_disk(str(out / 'test')):
        (path,) = kinetics_raw.glob(f'test/*/{row["sample_id"]}.mp4')
        assert manifest['classes'][row['label']] == path.parent.name.replace(' ', '_')
        assert row['group'] == row['sample_id'][:11]
        number = int(row['sample_id'][12:18])
        assert near(greys(row['image']), [grey(number, 0), grey(number, 0.5)])
        wave, rate = soundfile.read(io.BytesIO(row['audio']))
        assert (rate, loudest(wave, rate)) == (16000, pytest.approx(tone(number), abs=3))
    assert verify(out) == []


def kinetics_lists(raw: Path, folder: Path) -> list[str]:
    """In the format of the published ones: train with start and end, test with a bare start."""
    entries = []
    for split in ('train', 'test'):
        lines = []
        for path in sorted(raw.glob(f'{split}/*/*.mp4')):
            name = path.parent.name.replace(' ', '_')
            if name not in KS_CLASSES:
                continue
            start = int(path.stem[12:18])
            stem = path.stem if split == 'train' else f'{path.stem[:11]}_{start}'
            lines.append(f'{stem},10,{KS_CLASSES.index(name)}\n')
        (folder / f'my_{split}.txt').write_text(''.join(lines))
        entries.append(f'{split}={folder / f"my_{split}.txt"}')
    return entries


def test_kinetics_published_lists(kinetics_raw: Path, tmp_path: Path, capsys) -> None:
    entries = kinetics_lists(kinetics_raw, tmp_path)
    with (tmp_path / 'my_test.txt').open('a') as f:
        f.write(f'{youtube(777)}_3,10,2\n')  # not to be had any more
    out = tmp_path / 'out'
    argv = ['--raw', str(kinetics_raw), '--out', str(out), '--split-list', *entries]
    assert kinetics_sounds.main([*argv, '--val-share', '0.2']) == 3
    manifest = read_manifest(out)
    assert manifest['facts']['listed'] == dict(train=12, val=3, test=7)
    assert bad_of(out).keys() == {f'{youtube(777)}_000003_000013'}
    assert 'check: 1 clips of test without a media file' in capsys.readouterr().err
    test = load_from_disk(str(out / 'test'))
    assert {manifest['classes'][x] for x in test['label']} == {
        'bowling',
        'playing_drums',
        'tickling',
    }
    # a label that is not the folder's
    text = (tmp_path / 'my_train.txt').read_text().splitlines()
    (tmp_path / 'my_train.txt').write_text(
        '\n'.join([text[0].rsplit(',', 1)[0] + ',30', *text[1:]])
    )
    kinetics_sounds.main([*argv[:3], str(tmp_path / 'b'), *argv[4:], '--repair'])
    checks = read_manifest(tmp_path / 'b')['facts']['checks']
    assert checks['list labels that contradict the file']['ids'] == [text[0].split(',')[0]]
    (tmp_path / 'my_train.txt').write_text('abc,10,31\n')
    assert kinetics_sounds.main(argv) == 1
    assert 'my_train.txt line 1: expected "<YouTube id>_<start>' in capsys.readouterr().err


def test_kinetics_folders_outside_the_splits(kinetics_raw: Path, tmp_path: Path, capsys) -> None:
    raw = Path(shutil.copytree(kinetics_raw, tmp_path / 'raw'))
    folder = next((raw / 'test').iterdir())
    folder.rename(raw / folder.name)
    assert kinetics_sounds.main(['--raw', str(raw), '--out', str(tmp_path / 'out')]) == 1
    name = folder.name.replace(' ', '_')
    assert f'the folders of {name} stand outside train, val' in capsys.readouterr().err


def test_kinetics_csv_and_flat_files(kinetics_raw: Path, tmp_path: Path) -> None:
    """The test files of CVDF stand in one folder, their classes in a csv."""
    raw = Path(shutil.copytree(kinetics_raw, tmp_path / 'raw'))
    shutil.rmtree(raw / 'val')
    (raw / 'annotations').mkdir()
    moved = []
    for path in sorted((raw / 'test').glob('*/*.mp4')):
        moved.append((path.parent.name, path.stem))
        path.rename(raw / 'test' / path.name)
    for split in ('train', 'test'):
        rows = (
            moved
            if split == 'test'
            else [(p.parent.name, p.stem) for p in sorted(raw.glob('train/*/*.mp4'))]
        )
        with (raw / 'annotations' / f'{split}.csv').open('w', newline='') as f:
            writer = csv.writer(f)
            writer.writerow(['label', 'youtube_id', 'time_start', 'time_end', 'split', 'is_cc'])
            for name, stem in rows:
                start = int(stem[12:18])
                writer.writerow([name, stem[:11], start, start + 10, split, 0])
    broken = sorted(raw.glob('train/bowling/*.mp4'))[0]
    replacement = raw / 'replacement' / 'replacement_for_corrupted_k400' / broken.name
    replacement.parent.mkdir(parents=True)
    shutil.move(broken, replacement)
    broken.write_text('broken')
    report = kinetics_sounds.make_kinetics_sounds(raw, tmp_path / 'out')
    assert report.bad == []
    assert report.counts == dict(train=13, val=2, test=6)
    labels = dict(zip(*_columns(tmp_path / 'out' / 'test'), strict=True))
    assert labels == {s: KS_CLASSES.index(n.replace(' ', '_')) for n, s in moved}
    assert read_manifest(tmp_path / 'out')['facts']['replaced'] == [broken.stem]


def test_kinetics_without_test_or_splits(kinetics_raw: Path, tmp_path: Path, capsys) -> None:
    raw = Path(shutil.copytree(kinetics_raw, tmp_path / 'raw'))
    shutil.rmtree(raw / 'test')
    kinetics_sounds.make_kinetics_sounds(raw, tmp_path / 'a', val_share=0.2)
    manifest = read_manifest(tmp_path / 'a')
    assert manifest['protocol'] == 'kinetics, val as test'
    assert {s: f['num_samples'] for s, f in manifest['splits'].items()} == dict(
        train=12, val=3, test=3
    )
    flat = kinetics_sounds.make_kinetics_sounds(raw / 'train', tmp_path / 'b')
    assert sum(flat.counts.values()) == 15
    assert read_manifest(tmp_path / 'b')['protocol'] == 'random'
    argv = ['--raw', str(raw / 'train' / 'bowling'), '--out', str(tmp_path / 'c')]
    assert kinetics_sounds.main(argv) == 1
    assert 'found no video in a folder of one of the 31 classes' in capsys.readouterr().err


def test_kinetics_names() -> None:
    assert parse_name('-3Mwkq-7TV4_2') == Segment('-3Mwkq-7TV4', 2)
    assert parse_name('-3Mwkq-7TV4_2').name == '-3Mwkq-7TV4_000002_000012'
    assert parse_name('a_b_c_d_e_f_000010_000020') == Segment('a_b_c_d_e_f', 10)
    assert parse_name('a_b_c_d_e_f').name == 'a_b_c_d_e_f'
    assert parse_name('short_000010_000020') is None


def test_kinetics_csv_errors(tmp_path: Path) -> None:
    path = tmp_path / 'train.csv'
    path.write_text('label,youtube_id,time_start\nbowling,abc,10\n')
    with pytest.raises(ValueError, match=r'train.csv line 2: expected a split'):
        read_csvs(tmp_path, [])
    path.write_text('a,b\n')
    assert read_csvs(tmp_path, []) == []
    with pytest.raises(ValueError, match='expected the columns label, youtube_id'):
        read_csvs(tmp_path, [str(path)])


# --- AVE


@pytest.fixture(scope='module')
def ave_raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With one video of two events, and lists in which it stands in train and test."""
    root = tmp_path_factory.mktemp('ave')
    lines = make_raw_ave(root, ('Bark', 'Violin, fiddle', 'Clock'), 5)
    double = lines[3].replace('Bark', 'Goat')
    with (root / 'Annotations.txt').open('a') as f:
        f.write(f'{double}\nClock&{youtube(14)}&good&0&0\n')
    (root / 'trainSet.txt').write_text('\n'.join([*lines[:9], lines[9]]))
    (root / 'valSet.txt').write_text('\n'.join(lines[10:12]))
    (root / 'testSet.txt').write_text(
        '\n'.join([*lines[12:14], double, f'Clock&{youtube(14)}&good&0&0'])
    )
    return root


def test_ave_events(ave_raw: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / 'out'
    argv = ['--raw', str(ave_raw), '--out', str(out), '--fps', '4']
    assert ave.main(argv) == 0
    manifest = read_manifest(out)
    assert manifest['protocol'] == 'published'
    assert {s: f['num_samples'] for s, f in manifest['splits'].items()} == dict(
        train=10, val=2, test=4
    )
    for split in ('train', 'val', 'test'):
        for row in load_from_disk(str(out / split)):
            start, end, label = (int(v) for v in row['sample_id'][12:].split('_'))
            assert row['label'] == label
            assert row['group'] == row['sample_id'][:11]
            number = int(row['group'][4:])
            end = max(end, start + 1)
            wanted = [grey(number, start + k / 4) for k in range(4 * (end - start))]
            assert near(greys(row['image']), wanted)
            wave, rate = soundfile.read(io.BytesIO(row['audio']))
            assert len(wave) == (end - start) * rate
    assert '1 ids in train and test' in capsys.readouterr().err
    assert manifest['facts']['events_without_length'] == [f'{youtube(14)}_0_0_16']
    assert ave.main([*argv[:3], str(tmp_path / 'b'), '--repair']) == 0
    repaired = read_manifest(tmp_path / 'b')
    assert repaired['splits']['train']['num_samples'] == 9
    assert youtube(3) not in load_from_disk(str(tmp_path / 'b' / 'train'))['group']
    assert repaired['protocol'] == 'published, repaired'


def test_ave_whole_clips_and_random(ave_raw: Path, tmp_path: Path) -> None:
    report = ave.make_ave(ave_raw, tmp_path / 'out', protocol='random', whole_clips=True)
    assert sum(report.counts.values()) == 17
    groups = [set(load_from_disk(str(tmp_path / 'out' / s))['group']) for s in report.counts]
    assert not groups[0] & groups[1]
    assert not groups[0] & groups[2]
    assert {len(r['image']) for r in load_from_disk(str(tmp_path / 'out' / 'train'))} == {3}


def test_ave_order_files(ave_raw: Path, tmp_path: Path, monkeypatch) -> None:
    h5py = pytest.importorskip('h5py')
    entries = []
    for split, rows in (('train', [4, 0, 2]), ('test', [16, 1])):
        with h5py.File(tmp_path / f'{split}_order.h5', 'w') as f:
            f['order'] = np.array(rows)
        entries.append(f'{split}={tmp_path / f"{split}_order.h5"}')
    events = read_annotations(ave_raw / 'Annotations.txt')
    lists = read_split_lists(entries, ave_raw / 'Annotations.txt')
    assert lists == dict(train=[events[4], events[0], events[2]], test=[events[16], events[1]])
    monkeypatch.setitem(sys.modules, 'h5py', None)
    with pytest.raises(ImportError, match='pip install h5py'):
        read_split_lists(entries, ave_raw / 'Annotations.txt')


def test_ave_other_lists(ave_raw: Path, tmp_path: Path) -> None:
    table = ave_raw / 'Annotations.txt'
    events = read_annotations(table)
    (tmp_path / 'a.txt').write_text('2\n0\n')
    (tmp_path / 'b.txt').write_text(f'{events[5].video}\n')
    entries = [f'train={tmp_path / "a.txt"}', f'test={tmp_path / "b.txt"}']
    assert read_split_lists(entries, table) == dict(train=[events[2], events[0]], test=[events[5]])
    (tmp_path / 'b.txt').write_text(f'{events[3].video}\n')
    with pytest.raises(ValueError, match=r'b.txt line 1: video .* has 2 events'):
        read_split_lists(entries, table)
    (tmp_path / 'b.txt').write_text('Barking&a&good&0&1\n')
    with pytest.raises(ValueError, match=r"b\.txt line 1: 'Barking' is no category"):
        read_split_lists(entries, table)
    with pytest.raises(ValueError, match='train=FILE and test=FILE are needed'):
        read_split_lists(entries[:1], table)


def test_the_name_of_a_list_tells_its_split(tmp_path: Path) -> None:
    names = ('CREMAD_train.csv', 'valSet.txt', 'AVE_test_order.h5', 'a=b_dev.txt', 'list.txt')
    for name in names:
        (tmp_path / name).touch()
    train, val, test, dev, odd = (str(tmp_path / name) for name in names)
    assert list_files([test, train, val]) == dict(train=Path(train), val=Path(val), test=Path(test))
    assert list_files([train, f'test={odd}', dev]) == dict(
        train=Path(train), val=Path(dev), test=Path(odd)
    )
    for wrong in ([train, odd], [train, test, f'test={odd}']):
        with pytest.raises(ValueError, match='each once'):
            list_files(wrong)
    with pytest.raises(FileNotFoundError, match='there is no file'):
        list_files(['train=gone.txt', f'test={test}'])


def test_a_wrong_folder_is_an_error(ave_raw: Path, tmp_path: Path, capsys) -> None:
    raw = Path(shutil.copytree(ave_raw, tmp_path / 'raw'))
    for path in (raw / 'AVE').iterdir():
        path.unlink()
    assert ave.main(['--raw', str(raw), '--out', str(tmp_path / 'out')]) == 1
    assert 'none of the 10 clips of train has its files' in capsys.readouterr().err


# --- what the rest of the toolkit sees


def test_multimodal_dataset_loads_frames(ave_raw: Path, tmp_path: Path) -> None:
    ave.make_ave(ave_raw, tmp_path / 'out')
    data = MultiModalDataset(
        tmp_path / 'out',
        'train',
        pipeline=[
            dict(type='LoadAudio', modality='audio', preset='pmr-10s'),
            dict(type='LoadImage', modality='image', num_frames=3),
            dict(type='Resize', modality='image', size=(24, 24)),
            dict(type='PackInputs'),
        ],
    )
    for i in range(len(data)):
        packed = data[i]['inputs']
        assert packed['image'].shape == (3, 3, 24, 24)
        assert packed['audio'].shape == (160000,), 'tiled to ten seconds'


def test_memory_of_a_worker() -> None:
    """A spawned worker imports its script: torch and datasets would cost each of them 380 MB."""
    scripts = [p.stem for p in sorted((ROOT / 'data_prep').glob('*.py')) if p.stem != '__init__']
    assert 'crema_d' in scripts
    code = (
        f'import sys, {", ".join(f"data_prep.{s}" for s in scripts)}, av, PIL.Image;'
        'sys.exit(" ".join({"torch", "datasets"} & set(sys.modules)) or 0)'
    )
    assert subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=False).returncode == 0


# --- the published lists


def test_real_lists_of_crema_d(shared: Path) -> None:
    folder = shared / 'av_benchmark_splits'
    lists = crema_d.read_split_lists(
        [f'train={folder / "CREMAD_train.csv"}', f'test={folder / "CREMAD_test.csv"}']
    )
    assert {s: len(rows) for s, rows in lists.items()} == {'train': 6698, 'test': 744}
    names = [n for rows in lists.values() for n, _ in rows]
    assert len(set(names)) == 7442
    assert all(crema_d.parse_id(n)[1] == label for rows in lists.values() for n, label in rows)
    clips = [crema_d._clip(n, Path('raw'), {}, {}) for n in sorted(names)]
    random = crema_d._random(clips, 0)
    assert {s: len(part) for s, part in random.items()} == dict(train=5954, val=744, test=744)
    actors = {s: {c.group for c in p} for s, p in crema_d._by_actor(clips, 0.1, 0).items()}
    assert {s: len(a) for s, a in actors.items()} == dict(train=66, val=7, test=18)


def test_real_lists_of_kinetics_sounds(shared: Path) -> None:
    folder = shared / 'av_benchmark_splits'
    lists = read_lists([f'{s}={folder / f"KineticSound_my_{s}.txt"}' for s in ('train', 'test')])
    assert {s: len(rows) for s, rows in lists.items()} == {'train': 14799, 'test': 2597}
    for rows in lists.values():
        assert {label for _, label in rows} == set(range(31))
    videos = {s: {segment.video for segment, _ in rows} for s, rows in lists.items()}
    assert not videos['train'] & videos['test']


def test_real_lists_of_ave(shared: Path) -> None:
    folder = shared / 'av_benchmark_splits'
    table = folder / 'AVE_Annotations.txt'
    events = read_annotations(table)
    assert len(events) == 4143
    assert tuple(AVE_CLASSES[i] for i in dict.fromkeys(e.label for e in events)) == AVE_CLASSES
    pytest.importorskip('h5py')
    splits = ('train', 'val', 'test')
    lists = read_split_lists([f'{s}={folder / f"AVE_{s}_order.h5"}' for s in splits], table)
    assert {s: len(rows) for s, rows in lists.items()} == dict(train=3339, val=402, test=402)
    assert sorted(e.name for rows in lists.values() for e in rows) == sorted(e.name for e in events)
    clips = {s: [ave._clip(e, Path('raw'), {}, False) for e in lists[s]] for s in splits}
    found = {f.name: len(f.ids) for f in audit(clips)}
    assert found == {
        'duplicates in train': 27,
        'duplicates in val': 1,
        'ids in train and val': 10,
        'ids in train and test': 8,
        'ids with two labels': 45,
    }
    assert {s: len(part) for s, part in repair(clips).items()} == dict(
        train=3294, val=402, test=402
    )
