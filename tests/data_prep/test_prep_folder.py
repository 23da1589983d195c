import io
import json
import re
import wave
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
from datasets import load_from_disk
from PIL import Image

from cal_mm.datasets import MultiModalDataset
from data_prep import folder
from data_prep.common import read_manifest, verify

MODALITIES = [
    'image=image:photo',
    'audio=waveform:sound',
    'text=text:caption',
    'feat=features:f1,f2',
]
HEADER = 'name,photo,sound,caption,f1,f2,emotion,part,actor'

Jpeg = Callable[..., bytes]


def wav(path: Path, rate: int = 8000, channels: int = 1) -> bytes:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (400, channels))
    soundfile.write(path, noise, rate, subtype='PCM_16')
    return path.read_bytes()


def table(root: Path, jpeg: Jpeg, *changes: tuple[int, str, str]) -> Path:
    """Twelve rows (lines 2 to 13) in the three splits; ``changes``: (line, column, value)."""
    root.mkdir(exist_ok=True)
    (root / 'media').mkdir(exist_ok=True)
    columns = HEADER.split(',')
    lines = [HEADER]
    for i in range(12):
        (root / 'media' / f'{i}.jpg').write_bytes(jpeg(i))
        wav(root / 'media' / f'{i}.wav')
        part = ('train', 'dev', 'test')[min(i // 4, 2)]
        cells = [f'n{i}', f'media/{i}.jpg', f'media/{i}.wav', f'"words, {i}"', f'{i}', f'{i / 4}']
        cells += [('sad', 'glad')[i % 2], part, f'actor{i % 3}']
        for line, column, value in changes:
            if line == i + 2:
                cells[columns.index(column)] = value
        lines.append(','.join(cells))
    path = root / 'mine.csv'
    path.write_text('\n'.join(lines) + '\n', encoding='utf-8')
    return path


def make(path: Path, out: Path, **kwargs):
    options = dict(label='emotion', split='part', sample_id='name', group='actor')
    return folder.make_folder(path, out, MODALITIES, **(options | kwargs))


def test_csv_with_every_kind(tmp_path: Path, jpeg: Jpeg) -> None:
    path = table(tmp_path / 'raw', jpeg)
    report = make(path, tmp_path / 'out')
    assert report.counts == {'train': 4, 'val': 4, 'test': 4}
    assert report.bad == []
    manifest = read_manifest(tmp_path / 'out')
    assert manifest['classes'] == ['glad', 'sad']
    assert manifest['modalities']['audio']['sample_rate'] == 8000
    assert manifest['modalities']['feat']['shape'] == [2]
    row = load_from_disk(str(tmp_path / 'out' / 'val'))[1]
    assert row['sample_id'] == 'n5'
    assert row['group'] == 'actor2'
    assert row['label'] == 0
    assert row['text'] == 'words, 5'
    assert row['feat'] == [5.0, 1.25]
    assert row['image'] == jpeg(5)
    assert row['audio'] == (path.parent / 'media' / '5.wav').read_bytes()
    assert verify(tmp_path / 'out') == []


def test_missing_cells_are_missing_modalities(tmp_path: Path, jpeg: Jpeg) -> None:
    path = table(tmp_path / 'raw', jpeg, (3, 'photo', ''), (3, 'f1', ''), (3, 'f2', ' '))
    make(path, tmp_path / 'out')
    row = load_from_disk(str(tmp_path / 'out' / 'train'))[1]
    assert row['image'] is None
    assert row['feat'] is None
    assert row['text'] == 'words, 1'


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ((4, 'f2', 'abc'), r"mine.csv row 4, column 'f2': expected a number, got 'abc'"),
        ((4, 'f2', 'nan'), r"row 4, column 'f2': expected a finite number, got 'nan'"),
        ((4, 'f2', ''), r"row 4, column 'f2': empty, while other columns"),
        ((5, 'part', 'tset'), r"row 5, column 'part': unknown split 'tset'"),
        ((6, 'emotion', ''), r"row 6, column 'emotion': unknown label ''"),
        ((7, 'name', 'n0'), r"row 7, column 'name': the sample id 'n0' is that of row 2 already"),
        ((7, 'name', ''), r"row 7, column 'name': the sample id '' is empty"),
        ((8, 'caption', 'a,b'), r'row 8: 10 cells, the header has 9 columns'),
    ],
)
def test_errors_name_row_and_column(
    tmp_path: Path, jpeg: Jpeg, change: tuple, message: str
) -> None:
    path = table(tmp_path / 'raw', jpeg, change)
    with pytest.raises(ValueError, match=message):
        make(path, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_unreadable_media_are_bad(tmp_path: Path, jpeg: Jpeg) -> None:
    path = table(tmp_path / 'raw', jpeg, (9, 'photo', 'media/none.jpg'))
    media = path.parent / 'media'
    (media / '1.wav').write_bytes(b'RIFF')
    (media / '2.wav').write_bytes(b'')
    (media / '3.wav').write_bytes((media / '3.wav').read_bytes()[:500])  # decoders take it
    (media / '5.jpg').write_bytes(jpeg(5, side=64)[:700])
    with wave.open(str(media / '6.wav'), 'wb') as f:
        f.setparams((1, 2, 8000, 0, 'NONE', ''))
    report = make(path, tmp_path / 'out')
    bad = {b['sample_id']: b['reason'] for b in report.bad}
    assert set(bad) == {'n1', 'n2', 'n3', 'n5', 'n6', 'n7'}
    assert "row 9, column 'photo'" in bad['n7']
    assert 'No such file' in bad['n7']
    assert "row 3, column 'sound'" in bad['n1']
    assert 'empty' in bad['n2']
    assert 'its header declares 844 bytes, it has 500' in bad['n3']
    assert 'truncated' in bad['n5']
    assert 'no audio samples' in bad['n6']


def test_other_formats_are_converted(tmp_path: Path, jpeg: Jpeg) -> None:
    path = table(tmp_path / 'raw', jpeg, (2, 'photo', 'media/0.bmp'))
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path.parent / 'media' / '0.bmp')
    wav(path.parent / 'media' / '0.wav', channels=2)
    make(path, tmp_path / 'out')
    row = load_from_disk(str(tmp_path / 'out' / 'train'))[0]
    image = Image.open(io.BytesIO(row['image']))
    assert image.format == 'PNG'
    np.testing.assert_array_equal(np.asarray(image), pixels)
    stereo, _ = soundfile.read(path.parent / 'media' / '0.wav')
    mono, rate = soundfile.read(io.BytesIO(row['audio']))
    assert rate == 8000
    np.testing.assert_allclose(mono, stereo.mean(1), atol=1.6 / 32767)


def test_jsonl_lists_npy_and_text_files(tmp_path: Path) -> None:
    np.save(tmp_path / 'v.npy', np.array([7, 8, 9], np.float32))
    (tmp_path / 't.txt').write_bytes('été\n'.encode('latin-1'))
    values = [[1, 2, 3], '[4, 5, 6]', 'v.npy', None, [1, 2]]
    lines = [
        json.dumps(dict(v=v, t='t.txt', label=10 - i, split='train' if i < 4 else 'test'))
        for i, v in enumerate([*values, [0, 0, 1]])
    ]
    path = tmp_path / 'mine.jsonl'
    path.write_text('\n'.join(lines))
    report = folder.make_folder(path, tmp_path / 'out', ['v=features:v', 't=textfile:t'])
    assert report.counts == {'train': 3, 'val': 1, 'test': 1}, 'one of train is drawn for val'
    assert [b['sample_id'] for b in report.bad] == ['row-5']
    assert 'shape [2], expected [3]' in report.bad[0]['reason']
    assert read_manifest(tmp_path / 'out')['classes'] == ['5', '6', '7', '8', '9', '10']
    rows = {
        row['sample_id']: row
        for split in ('train', 'val')
        for row in load_from_disk(str(tmp_path / 'out' / split))
    }
    assert [rows[f'row-{i}']['v'] for i in (1, 2, 3, 4)] == [
        [1, 2, 3],
        [4, 5, 6],
        [7, 8, 9],
        None,
    ]
    assert rows['row-1']['t'] == 'été'


def test_sixteen_bits_stay(tmp_path: Path) -> None:
    ramp = (np.arange(64 * 64, dtype=np.uint16) * 16).reshape(64, 64)
    Image.fromarray(ramp).save(tmp_path / '0.tif')
    Image.fromarray(ramp.astype(np.int32)).save(tmp_path / '1.tif')
    Image.fromarray(ramp.astype(np.int32) * 100).save(tmp_path / '2.tif')
    Image.fromarray(ramp / np.float32(65535)).save(tmp_path / '3.tif')
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / '4.png')
    lines = ['x,label,split', *(f'{i}.tif,{i % 2},train' for i in range(4)), '4.png,0,train']
    path = tmp_path / 'mine.csv'
    path.write_text('\n'.join([*lines, '0.tif,0,val', '1.tif,1,val']))
    for kind, left_out in (('image', '23'), ('depth', '234')):
        report = folder.make_folder(path, tmp_path / kind, [f'x={kind}:x'])
        assert {b['sample_id'] for b in report.bad} == {f'row-{int(i) + 2}' for i in left_out}
        for row in load_from_disk(str(tmp_path / kind / 'val')):
            np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(row['x']))), ramp)
    reasons = ' '.join(b['reason'] for b in report.bad)
    assert 'float32 from 0 to' in reasons
    assert 'one channel of depth, got RGB' in reasons


def test_sample_rates_may_differ(tmp_path: Path, jpeg: Jpeg, capsys: pytest.CaptureFixture) -> None:
    path = table(tmp_path / 'raw', jpeg)
    wav(path.parent / 'media' / '0.wav', rate=16000)
    assert make(path, tmp_path / 'out').bad == []
    assert 'sample rates of 8000, 16000 Hz' in capsys.readouterr().err
    assert 'sample_rate' not in read_manifest(tmp_path / 'out')['modalities']['audio']
    pack = dict(type='PackInputs', modalities=('audio',))

    def data(**load):
        pipeline = [dict(type='LoadAudio', modality='audio', **load), pack]
        return MultiModalDataset(tmp_path / 'out', 'train', pipeline=pipeline)

    with pytest.raises(ValueError, match=r"'audio' have sample rates of 8000, 16000 Hz: give"):
        data()
    loaded = data(sample_rate=4000)
    assert loaded.metainfo['modalities']['audio']['sample_rate'] == 4000
    assert [len(loaded[i]['inputs']['audio']) for i in (0, 1)] == [100, 200]


def test_noise_has_the_unit_of_the_training_features(tmp_path: Path, jpeg: Jpeg) -> None:
    path = table(tmp_path / 'raw', jpeg)
    make(path, tmp_path / 'out')
    facts = read_manifest(tmp_path / 'out')['modalities']['feat']
    train = np.array([[i, i / 4] for i in range(4)])
    np.testing.assert_allclose(facts['mean'], train.mean(0))
    np.testing.assert_allclose(facts['std'], train.std(0), rtol=1e-8)

    big = 1e9 + np.arange(6.0)
    for i, value in enumerate(big):
        np.save(tmp_path / f'{i}.npy', np.array([[value, 3]]))  # one row of numbers
    (tmp_path / '6.npy').write_bytes(b'')
    lines = [f'{i}.npy,{i % 2},{"train" if i < 4 else "val"}' for i in range(6)]
    table_ = tmp_path / 'rows.csv'
    table_.write_text('\n'.join(['x,label,split', *lines, '6.npy,0,train']))
    report = folder.make_folder(table_, tmp_path / 'rows', ['x=features:x'])
    assert [b['sample_id'] for b in report.bad] == ['row-8']
    facts = read_manifest(tmp_path / 'rows')['modalities']['x']
    assert facts['shape'] == [2]
    np.testing.assert_allclose(facts['mean'], [1e9 + 1.5, 3], rtol=1e-8)
    np.testing.assert_allclose(facts['std'], [np.arange(4).std(), 0], rtol=1e-6)


def test_npy_files_that_are_no_row_of_numbers_are_bad(tmp_path: Path) -> None:
    arrays = [np.zeros((3, 2)), np.zeros(2), np.array(['x', 'y']), np.float64(1), np.ones(2)]
    for i, array in enumerate(arrays):
        np.save(tmp_path / f'{i}.npy', array)
    path = tmp_path / 'mine.csv'
    path.write_text(
        '\n'.join(['x,label,split', *(f'{i}.npy,0,train' for i in range(5)), '1.npy,0,val'])
    )
    report = folder.make_folder(path, tmp_path / 'out', ['x=features:x'])
    assert [b['sample_id'] for b in report.bad] == ['row-2', 'row-4', 'row-5']
    assert read_manifest(tmp_path / 'out')['modalities']['x']['mean'] == [0.5, 0.5]
    window = report.bad[0]['reason']
    assert window.startswith(f"row 2, column 'x': {tmp_path / '0.npy'}: ")
    assert 'shape [3, 2], expected one row of numbers [D]: save it flattened' in window
    assert 'values of the type <U1' in report.bad[1]['reason']


def npy_table(root: Path, arrays: Sequence[np.ndarray], splits: str) -> Path:
    """A table of .npy files; ``splits``: t (train) or v (val) of each row."""
    lines = ['x,label,split']
    for i, (array, split) in enumerate(zip(arrays, splits, strict=True)):
        np.save(root / f'{i}.npy', array)
        lines.append(f'{i}.npy,{i % 2},{dict(t="train", v="val")[split]}')
    (root / 'mine.csv').write_text('\n'.join(lines))
    return root / 'mine.csv'


def test_the_shape_of_features_is_the_most_frequent_one(tmp_path: Path) -> None:
    arrays = [np.zeros(5), *(np.full(3, i, np.float32) for i in range(1, 5)), np.zeros(5)]
    path = npy_table(tmp_path, arrays, 'ttttvv')
    report = folder.make_folder(path, tmp_path / 'out', ['x=features:x'])
    assert report.counts == {'train': 3, 'val': 1}
    assert [b['sample_id'] for b in report.bad] == ['row-2', 'row-7']
    assert report.bad[0]['reason'] == (
        f"row 2, column 'x': {tmp_path / '0.npy'}: shape [5], expected [3], which is the most "
        'frequent one of x'
    )
    facts = read_manifest(tmp_path / 'out')['modalities']['x']
    assert (facts['shape'], facts['mean']) == ([3], [2, 2, 2])


@pytest.mark.parametrize(
    ('value', 'shown'), [(np.nan, 'nan'), (np.inf, 'inf'), (1e300, r'1e\+300')]
)
def test_a_value_that_is_not_finite_is_named_with_its_file(
    tmp_path: Path, value: float, shown: str
) -> None:
    path = npy_table(tmp_path, [np.ones(3), np.array([0, value, 0]), np.ones(3)], 'ttv')
    (bad,) = folder.make_folder(path, tmp_path / 'out', ['x=features:x']).bad
    assert re.match(
        rf"row 3, column 'x': .*1\.npy: .*value 1 is {shown}, expected a finite", bad['reason']
    )


def test_a_split_without_usable_samples_is_refused(tmp_path: Path) -> None:
    arrays = [*(np.ones(3) for _ in range(4)), np.zeros(5), np.zeros(5), np.full(5, 2.0)]
    path = npy_table(tmp_path, arrays[:6], 'ttttvv')
    message = r"none of the 2 samples of val can be used.*row 6, column 'x': .*shape \[5\]"
    for _ in range(2):
        with pytest.raises(ValueError, match=message):
            folder.make_folder(path, tmp_path / 'out', ['x=features:x'])
    assert not (tmp_path / 'out').exists()
    # val was right: its shards were judged by the other shape and are not reused
    path = npy_table(tmp_path, [np.ones(5)] * 4 + arrays[4:6], 'ttttvv')
    report = folder.make_folder(path, tmp_path / 'out', ['x=features:x'])
    assert (report.counts, report.bad) == ({'train': 4, 'val': 2}, [])


def test_validation_takes_whole_groups(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    rng = np.random.default_rng(0)
    lines = [f'{v:.3f},{i % 3},g{i % 20 // 2}' for i, v in enumerate(rng.normal(size=200))]
    path = tmp_path / 'mine.csv'
    path.write_text('\n'.join(['x,label,who', *lines]))
    report = folder.make_folder(path, tmp_path / 'out', ['x=features:x'], group='who')
    assert report.counts == {'train': 180, 'val': 20}
    assert "no column 'split'" in capsys.readouterr().err
    groups = [{*load_from_disk(str(tmp_path / 'out' / s))['group']} for s in ('train', 'val')]
    assert not groups[0] & groups[1]

    split = [f'{line},{("train", "val")[i % 2]}' for i, line in enumerate(lines)]
    path.write_text('\n'.join(['x,label,who,split', *split]))
    folder.make_folder(path, tmp_path / 'shared', ['x=features:x'], group='who')
    assert '10 of the 10 groups' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('entry', 'message'),
    [
        ('image', 'expected NAME=KIND:COLUMN'),
        ('x=video:photo', "unknown kind 'video'"),
        ('x=text:a,b', 'only features take several'),
        ('x=text:nothing', "no column 'nothing'; it has: name, photo"),
        ('label=text:caption', 'plain name'),
    ],
)
def test_modality_entries(tmp_path: Path, jpeg: Jpeg, entry: str, message: str) -> None:
    path = table(tmp_path / 'raw', jpeg)
    with pytest.raises(ValueError, match=message):
        folder.make_folder(path, tmp_path / 'out', [entry], label='emotion', split='part')


def test_command_line(tmp_path: Path, jpeg: Jpeg, capsys: pytest.CaptureFixture) -> None:
    path = table(tmp_path / 'raw', jpeg)
    argv = ['--table', str(path), '--out', str(tmp_path / 'out'), '--label', 'emotion']
    argv += ['--modality', *MODALITIES]
    assert folder.main([*argv, '--split', 'fold']) == 1
    assert 'error: ' in capsys.readouterr().err
    assert folder.main([*argv, '--split', 'part', '--classes', 'sad,glad']) == 0
    assert read_manifest(tmp_path / 'out')['classes'] == ['sad', 'glad']
