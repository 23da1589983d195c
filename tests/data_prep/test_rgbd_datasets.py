"""NYUD2, SUN RGB-D and CMU-MOSI from their raw layouts."""

import builtins
import csv
import io
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rgbd_raw import (
    depth8,
    jpeg,
    picture,
    rows_of,
    write_index,
    write_mat,
    write_mosi,
    write_side_by_side,
)

from cal_mm.datasets import MultiModalDataset
from data_prep import cmu_mosi, nyud2, sun_rgbd
from data_prep.common import read_manifest, verify
from data_prep.common.grouped import grouped_choice
from data_prep.common.png import encode_png
from data_prep.rgbd.items import _metres

RGBD = [
    dict(type='LoadImage', modality='rgb'),
    dict(type='LoadDepth', modality='depth'),
    dict(type='PackInputs'),
]


def splits_of(out: Path) -> dict[str, MultiModalDataset]:
    return {s: MultiModalDataset(out, s) for s in read_manifest(out)['splits']}


def png(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


# --- the pieces


@pytest.mark.parametrize('shape', [(5, 7), (1, 1), (6, 3, 3)])
def test_png_is_lossless(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    for dtype in (np.uint8, np.uint16) if len(shape) == 2 else (np.uint8,):
        image = rng.integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)
        found = png(encode_png(image))
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, image)
    with pytest.raises(ValueError, match='float64'):
        encode_png(np.zeros((2, 2)))


def test_grouped_choice_keeps_groups_whole_and_classes_on_both_sides() -> None:
    rng = np.random.default_rng(3)
    groups = [f'g{i}' for i in rng.integers(0, 40, 400)]
    labels = [int(g[1:]) % 4 for g in groups]
    labels += [4] * 30 + [5] * 9  # class 4: two large groups, class 5: a single one
    groups += ['big0'] * 20 + ['big1'] * 10 + ['alone'] * 9
    rows = grouped_choice(labels, groups, 0.2, np.random.default_rng(0))
    inside = {groups[i] for i in rows}
    assert sorted(rows) == [i for i, g in enumerate(groups) if g in inside]
    count, total = Counter(labels[i] for i in rows), Counter(labels)
    for c in range(4):
        assert abs(count[c] / total[c] - 0.2) < 0.08
    assert count[4] == 10
    assert count[5] == 0
    # neither the order of the rows nor of the groups matters, the seed does
    order = rng.permutation(len(labels))
    moved = grouped_choice(
        [labels[i] for i in order], [groups[i] for i in order], 0.2, np.random.default_rng(0)
    )
    assert sorted(int(order[i]) for i in moved) == rows
    assert grouped_choice(labels, groups, 0.2, np.random.default_rng(1)) != rows
    with pytest.raises(ValueError, match='second group'):
        grouped_choice([0, 0], ['a', 'a'], 0.2, rng)


# --- NYUD2


def test_nyud2_index_layout(tmp_path: Path) -> None:
    raw = write_index(tmp_path / 'raw', rows_of(40) + rows_of(6, 'test', 101))
    assert nyud2.main(['--raw', str(raw), '--out', str(tmp_path / 'out'), '--workers', '1']) == 0
    manifest = read_manifest(tmp_path / 'out')
    assert verify(tmp_path / 'out') == []
    assert manifest['protocol'] == 'scene-disjoint'
    assert manifest['facts']['raw_pairs'] == {'train': 40, 'test': 6}
    assert manifest['modalities']['depth']['kind'] == 'depth'
    found = splits_of(tmp_path / 'out')
    assert len(found['train']) + len(found['val']) == 40
    assert 4 <= len(found['val']) <= 12
    assert not set(found['train'].groups) & set(found['val'].groups)
    assert set(found['test'].sample_ids) == {f'{i:04d}' for i in range(101, 107)}
    data = MultiModalDataset(tmp_path / 'out', 'test', RGBD)
    for i in range(len(data)):
        item, raw_row = data[i], data.raw(i)
        number = int(item['data_samples'].sample_id)
        assert raw_row['rgb'] == jpeg(number), 'the file as it was found'
        expected = depth8(number) / 25.5
        np.testing.assert_allclose(item['inputs']['depth'][0].numpy(), expected, atol=6e-4)
        label = data.metainfo['classes'][int(item['data_samples'].gt_label)]
        assert label == rows_of(1, first=number)[0]['label']


def test_nyud2_test_rows_alone_and_in_a_second_folder(tmp_path: Path) -> None:
    train = write_index(tmp_path / 'train', rows_of(20))
    test = write_index(tmp_path / 'test', rows_of(4, 'test', 101))
    both = nyud2.make_nyud2(train, tmp_path / 'both', also=(test,))
    assert both.counts['test'] == 4
    assert both.counts['train'] + both.counts['val'] == 20
    alone = nyud2.make_nyud2(test, tmp_path / 'alone')
    assert alone.counts == {'test': 4}
    one = write_index(tmp_path / 'one', rows_of(20) + rows_of(4, 'test', 101))
    assert nyud2.make_nyud2(one, tmp_path / 'same').digest == both.digest
    with pytest.raises(ValueError, match=r'0101.*occurs twice'):
        nyud2.make_nyud2(test, tmp_path / 'twice', also=(test,))


def test_nyud2_mat_layout_gives_what_the_index_gives(tmp_path: Path) -> None:
    raw = write_mat(tmp_path / 'raw')
    report = nyud2.make_nyud2(raw, tmp_path / 'out')
    assert report.bad == []
    index = write_index(tmp_path / 'index', rows_of(20) + rows_of(4, 'test', 21))
    nyud2.make_nyud2(index, tmp_path / 'other')
    found, other = splits_of(tmp_path / 'out'), splits_of(tmp_path / 'other')
    for split in ('train', 'val', 'test'):
        assert found[split].sample_ids == other[split].sample_ids
        assert list(found[split].labels) == list(other[split].labels)
        assert list(found[split].groups) == list(other[split].groups)
        for i in range(len(found[split])):
            ours, theirs = found[split].raw(i), other[split].raw(i)
            np.testing.assert_array_equal(png(ours['rgb']), picture(int(ours['sample_id'])))
            np.testing.assert_array_equal(png(ours['depth']), png(theirs['depth']))


def test_nyud2_mat_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = write_mat(tmp_path / 'raw')
    (raw / 'splits.mat').rename(raw / 'gone')
    with pytest.raises(FileNotFoundError, match=r'splits\.mat is missing'):
        nyud2.make_nyud2(raw, tmp_path / 'out')
    (raw / 'gone').rename(raw / 'splits.mat')
    path = raw / 'nyu_depth_v2_labeled.mat'
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match='is the download complete'):
        nyud2.make_nyud2(raw, tmp_path / 'out')
    path.write_bytes(whole)
    real = builtins.__import__

    def without(name: str, *args: object, **kwargs: object) -> object:
        if name == 'h5py':
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, '__import__', without)
    with pytest.raises(ImportError, match='pip install h5py'):
        nyud2.make_nyud2(raw, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_nyud2_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    classes = ('bedroom', 'kitchen', 'others')
    raw = write_side_by_side(tmp_path / 'raw', {'train': 6, 'val': 2, 'test': 2}, classes)
    report = nyud2.make_nyud2(raw, tmp_path / 'out')
    assert report.counts == {'train': 18, 'val': 6, 'test': 6}
    assert read_manifest(tmp_path / 'out')['protocol'] == 'published'
    assert read_manifest(tmp_path / 'out')['modalities']['depth']['kind'] == 'image'
    data = splits_of(tmp_path / 'out')['train']
    row = data.raw(0)
    assert row['sample_id'] == 'train/bedroom/1'
    np.testing.assert_array_equal(png(row['rgb']), picture(1))
    np.testing.assert_array_equal(png(row['depth']), picture(5001))

    only = write_side_by_side(tmp_path / 'only', {'train': 6, 'test': 2}, classes)
    report = nyud2.make_nyud2(only, tmp_path / 'drawn')
    assert read_manifest(tmp_path / 'drawn')['protocol'] == 'stratified'
    assert report.counts == {'train': 14, 'val': 4, 'test': 6}
    assert 'scenes are not known' in capsys.readouterr().err
    table = tmp_path / 'scenes.csv'
    table.write_text('id,scene\n' + ''.join(f'{i:04d},s{i // 2}\n' for i in range(1, 25)))
    nyud2.make_nyud2(only, tmp_path / 'scenes', scenes=table)
    found = splits_of(tmp_path / 'scenes')
    assert read_manifest(tmp_path / 'scenes')['protocol'] == 'scene-disjoint'
    assert not set(found['train'].groups) & set(found['val'].groups)
    with pytest.raises(ValueError, match='needs the scene of every training pair'):
        nyud2.make_nyud2(only, tmp_path / 'no', protocol='scene-disjoint')


def test_scenes_of_names_that_repeat_between_folders(tmp_path: Path) -> None:
    raw = write_side_by_side(tmp_path / 'raw', {'train': 6, 'test': 2}, ('bedroom', 'kitchen'))
    for folder in (raw / 'train').iterdir():
        for number, path in enumerate(sorted(folder.iterdir(), key=lambda p: int(p.stem))):
            path.rename(folder / f'img_{number}.png')
    ids = [
        (f'{split}/{kind}/{p.stem}', f'{kind}{i // 2}')
        for split in ('train', 'test')
        for kind in ('bedroom', 'kitchen')
        for i, p in enumerate(sorted((raw / split / kind).iterdir()))
    ]
    table = tmp_path / 'scenes.csv'

    def write(rows: list[tuple[str, str]]) -> None:
        table.write_text('id,scene\n' + ''.join(f'{i},{s}\n' for i, s in rows))

    write(ids)
    nyud2.make_nyud2(raw, tmp_path / 'out', scenes=table)
    groups = {
        data.raw(i)['sample_id']: data.raw(i)['group']
        for split, data in splits_of(tmp_path / 'out').items()
        for i in range(len(data))
    }
    assert groups == dict(ids)
    write([(str(i), f's{i}') for i in range(40)])
    with pytest.raises(ValueError, match=r"has '\d+' for train/bedroom/\w+ and train/kitchen/\w+"):
        nyud2.make_nyud2(raw, tmp_path / 'no', scenes=table)
    write([('7', 'a'), ('07', 'b')])
    with pytest.raises(
        ValueError, match=r"scenes\.csv row 3: the id '07' has the scene 'b', and 'a'"
    ):
        nyud2.make_nyud2(raw, tmp_path / 'no', scenes=table)


@pytest.mark.parametrize(
    ('pixels', 'scale', 'reason'),
    [
        (np.float32, '', 'say how many metres 1 is'),
        (np.float32, '1', None),
        (np.uint8, 'sunrgbd', 'not in the format of SUN RGB-D'),
        (np.uint16, 'sunrgbd', None),
    ],
)
def test_depth_of_an_unknown_unit(pixels: type, scale: str, reason: str | None) -> None:
    raw = np.full((2, 2), 3, pixels)
    if reason is None:
        assert _metres(raw, scale).max() > 0
    else:
        with pytest.raises(ValueError, match=reason):
            _metres(raw, scale)


def test_bad_pairs_are_listed_with_their_reason(tmp_path: Path) -> None:
    rows = rows_of(40)
    rows[5]['label'] = 'bathroom'  # contradicts its scene type
    raw = write_index(tmp_path / 'raw', rows)
    (raw / 'rgb/0001.jpg').unlink()
    (raw / 'rgb/0002.jpg').write_bytes(jpeg(2)[:300])
    whole = (raw / 'depth/0003.png').read_bytes()
    (raw / 'depth/0003.png').write_bytes(whole[: len(whole) // 2])
    Image.fromarray(np.zeros((24, 32), np.uint8)).save(raw / 'depth/0004.png')
    Image.fromarray(picture(9)).save(raw / 'depth/0005.png')
    Image.fromarray(depth8(7, (12, 16))).save(raw / 'depth/0007.png')
    argv = ['--raw', str(raw), '--out', str(tmp_path / 'out')]
    assert nyud2.main(argv) == 3
    bad = {b['sample_id']: b['reason'] for b in read_manifest(tmp_path / 'out')['bad']}
    assert set(bad) == {f'{i:04d}' for i in range(1, 8)}
    for sample_id, reason in {
        '0001': 'No such file',
        '0002': '0002.jpg: OSError',
        '0003': 'depth/0003.png',
        '0004': 'no pixel has a measured depth',
        '0005': 'rendered in colours',
        '0006': 'contradict each other',
        '0007': 'not aligned',
    }.items():
        assert reason in bad[sample_id]
    assert nyud2.main([*argv, '--allow-bad', '7']) == 0


def test_index_errors_name_the_line(tmp_path: Path) -> None:
    for column, value, text in [
        ('label', 'spaceship', 'line 4: unknown scene type or label'),
        ('split', 'exam', 'line 4: unknown split'),
        ('depth', '', 'line 4: depth is empty'),
    ]:
        rows = rows_of(20)
        rows[2][column] = value
        raw = tmp_path / column
        raw.mkdir()
        with (raw / 'index.csv').open('w', newline='') as f:
            writer = csv.DictWriter(f, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        with pytest.raises(ValueError, match=text):
            nyud2.make_nyud2(raw, tmp_path / 'out')
    with pytest.raises(FileNotFoundError, match='none of the known layouts'):
        nyud2.make_nyud2(tmp_path, tmp_path / 'out')


def test_overlap_with_the_test_split_is_reported_and_dropped(tmp_path: Path) -> None:
    rows = rows_of(40) + rows_of(4, 'test', 101)
    rows[-1]['scene'] = rows[0]['scene']
    raw = write_index(tmp_path / 'raw', rows)
    (raw / 'rgb/0010.jpg').write_bytes(jpeg(101))  # the file of a test pair
    nyud2.make_nyud2(raw, tmp_path / 'out')
    checks = read_manifest(tmp_path / 'out')['facts']['checks']
    assert checks['scenes_in_several_splits'] == {rows[0]['scene']: ['test', 'train']}
    assert checks['identical_files'] == [['train/0010', 'test/0101']]
    report = nyud2.make_nyud2(raw, tmp_path / 'repaired', drop_overlap=True)
    dropped = read_manifest(tmp_path / 'repaired')['facts']['checks']['dropped_from_train']
    assert dropped == ['0001', '0010']
    assert report.counts['train'] + report.counts['val'] == 38


def test_nyud2_real(shared: Path, tmp_path: Path) -> None:
    report = nyud2.make_nyud2(shared / 'nyud2_scene', tmp_path / 'out')
    assert report.bad == []
    assert report.counts['train'] + report.counts['val'] == 795
    facts = read_manifest(tmp_path / 'out')['facts']
    assert facts['raw_pairs_per_class']['train'] == dict(
        bathroom=63,
        bedroom=192,
        bookstore=25,
        classroom=26,
        dining_room=62,
        home_office=26,
        kitchen=119,
        living_room=114,
        office=40,
        others=128,
    )
    found = splits_of(tmp_path / 'out')
    assert not set(found['train'].groups) & set(found['val'].groups)
    assert set(found['val'].labels) == set(range(10))


# --- SUN RGB-D


def test_sun_rgbd(tmp_path: Path) -> None:
    classes = ('bedroom', 'rest_space', 'idk')
    raw = write_side_by_side(tmp_path / 'raw', {'train': 6, 'test': 2}, classes)
    report = sun_rgbd.make_sun_rgbd(raw, tmp_path / 'out')
    assert sum(report.counts.values()) == 16
    manifest = read_manifest(tmp_path / 'out')
    assert manifest['facts']['left_out_scene_types'] == {'idk': 8}
    assert len(manifest['classes']) == 19

    rows = rows_of(12) + rows_of(2, 'test', 101)
    for row in rows:
        row['label'] = {'others': 'lab'}.get(row['label'], row['label'])
        row['scene_type'] = ''
    raw = write_index(tmp_path / 'index', rows)
    for row in rows:  # the release's own encoding
        millimetres = np.full((24, 32), 2345 + int(row['id']), np.uint16)
        turned = (millimetres << 3) | (millimetres >> 13)
        Image.fromarray(turned).save(raw / row['depth'])
    sun_rgbd.make_sun_rgbd(raw, tmp_path / 'native', depth_scale='sunrgbd')
    data = MultiModalDataset(tmp_path / 'native', 'test', RGBD)
    for item in data:
        metres = (2345 + int(item['data_samples'].sample_id)) / 1000
        np.testing.assert_allclose(item['inputs']['depth'].numpy(), metres, rtol=1e-6)


# --- CMU-MOSI

MOSI = [
    *[dict(type='LoadFeatures', modality=m) for m in ('audio', 'text', 'video')],
    dict(type='PackInputs'),
]


def test_cmu_mosi(tmp_path: Path) -> None:
    raw = write_mosi(tmp_path / 'raw')
    argv = ['--raw', str(raw), '--out', str(tmp_path / 'out'), '--transcript']
    assert cmu_mosi.main(argv) == 0
    assert verify(tmp_path / 'out') == []
    manifest = read_manifest(tmp_path / 'out')
    assert 'fitted to the labels' in manifest['facts']['note']
    found = splits_of(tmp_path / 'out')
    assert {s: len(d) for s, d in found.items()} == {'train': 24, 'val': 8, 'test': 20}
    assert not set(found['train'].groups) & set(found['val'].groups)
    text = np.load(raw / 'text_cnn.npy')
    with (raw / 'index.csv').open() as f:
        known = {
            f'{r["video_id"]}_{r["utterance"]}': (i, r) for i, r in enumerate(csv.DictReader(f))
        }
    rows = []
    for i in range(len(found['train'])):
        row = found['train'].raw(i)
        number, entry = known[row['sample_id']]
        rows.append(number)
        np.testing.assert_array_equal(row['text'], text[number])
        assert row['transcript'] == entry['text']
        assert row['label'] == int(entry['label'])
    np.testing.assert_allclose(
        manifest['modalities']['text']['mean'], text[rows].mean(0), rtol=1e-5
    )
    np.testing.assert_allclose(manifest['modalities']['text']['std'], text[rows].std(0), rtol=1e-5)

    report = cmu_mosi.make_cmu_mosi(raw, tmp_path / 'unseen', protocol='unseen')
    assert sum(report.counts.values()) == 20
    groups = [set(d.groups) for d in splits_of(tmp_path / 'unseen').values()]
    assert len(set.union(*groups)) == sum(map(len, groups)) == 5


def test_cmu_mosi_bad_input(tmp_path: Path) -> None:
    raw = write_mosi(tmp_path / 'raw')
    audio = np.load(raw / 'audio_opensmile.npy')
    audio[3, 5] = np.nan
    np.save(raw / 'audio_opensmile.npy', audio)
    report = cmu_mosi.make_cmu_mosi(raw, tmp_path / 'out')
    (bad,) = report.bad
    assert bad['sample_id'] == 'v0_3'
    assert 'audio_opensmile.npy row 3' in bad['reason']
    np.save(raw / 'audio_opensmile.npy', audio[:-1])
    with pytest.raises(ValueError, match='one row per line'):
        cmu_mosi.make_cmu_mosi(raw, tmp_path / 'no')
    (raw / 'text_cnn.npy').write_bytes((raw / 'text_cnn.npy').read_bytes()[:500])
    with pytest.raises(ValueError, match=r'text_cnn\.npy'):
        cmu_mosi.make_cmu_mosi(raw, tmp_path / 'no')
    (raw / 'text_cnn.npy').unlink()
    with pytest.raises(FileNotFoundError, match=r'text_cnn\.npy is missing'):
        cmu_mosi.make_cmu_mosi(raw, tmp_path / 'no')


def test_cmu_mosi_real(shared: Path, tmp_path: Path) -> None:
    report = cmu_mosi.make_cmu_mosi(shared / 'cmu_mosi_features', tmp_path / 'out')
    assert report.bad == []
    assert report.counts['train'] + report.counts['val'] == 1447
    manifest = read_manifest(tmp_path / 'out')
    assert manifest['splits']['test']['per_class'] == {'negative': 285, 'positive': 467}
    assert manifest['facts']['videos_in_train_and_test'] == []
    item = MultiModalDataset(tmp_path / 'out', 'train', MOSI)[0]
    assert {m: tuple(v.shape) for m, v in item['inputs'].items()} == dict(
        audio=(73,), text=(100,), video=(100,)
    )
