import hashlib
import json
import os
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from datasets import load_from_disk

from data_prep import verify as verify_cli
from data_prep.common import (
    BadSampleError,
    DatasetExistsError,
    DatasetSpec,
    checksum,
    make_parser,
    read_manifest,
    run_cli,
    verify,
    write_dataset,
)

CALLS: list[int] = []


def sample(i: int) -> dict:
    return dict(
        sample_id=f's{i}',
        label=i % 2,
        group=f'g{i // 3}',
        picture=bytes([i, 255 - i]) * 40,
        words=None if i == 1 else f'wörd {i}',
        numbers=np.array([i, i / 3, -i], dtype=np.float32),
    )


def convert(i: int) -> dict:
    CALLS.append(i)
    if i in (3, 7):
        raise BadSampleError(f's{i}', f'clip{i}.mp4: truncated')
    return sample(i)


def refuse_late(i: int) -> dict:
    if i == 8:
        raise KeyboardInterrupt
    return convert(i)


def broken(i: int) -> dict:
    return {}['missing key']


def numbers(n: int = 12) -> dict[str, range]:
    return {'train': range(n), 'val': range(n, n + 4), 'test': range(n + 4, n + 8)}


def ready(n: int = 12) -> dict[str, list[dict]]:
    return {s: [sample(i) for i in part] for s, part in numbers(n).items()}


def test_columns_and_manifest(tmp_path: Path, spec: DatasetSpec) -> None:
    report = write_dataset(tmp_path / 'd', spec, ready(), shard_size=5)
    rows = load_from_disk(str(tmp_path / 'd' / 'train'))
    assert len(list((tmp_path / 'd' / 'train').glob('*.arrow'))) == 3
    assert rows.column_names == ['sample_id', 'label', 'group', 'picture', 'words', 'numbers']
    for i, row in enumerate(rows):
        want = sample(i)
        np.testing.assert_array_equal(
            np.asarray(row.pop('numbers'), np.float32), want.pop('numbers')
        )
        assert row == want
    manifest = read_manifest(tmp_path / 'd')
    assert manifest['splits']['train']['num_samples'] == 12
    assert manifest['splits']['test']['per_class'] == {'no': 2, 'yes': 2}
    assert manifest['digest'] == report.digest
    assert manifest['modalities']['numbers'] == {'kind': 'features', 'shape': [3]}
    assert {p.name for p in tmp_path.iterdir()} == {'d'}, 'nothing is left beside the dataset'
    assert verify(tmp_path / 'd') == []


def test_checksum_is_what_the_docs_say() -> None:
    row = dict(b=b'xy', a=3, t='é', n=None, f=np.array([1.5, -2.0], np.float32))
    plain = b'a\0int\x001\x003' + b'b\0bytes\x002\0xy'
    plain += b'f\0float32\x008\0' + struct.pack('<ff', 1.5, -2.0)
    plain += b'n\0null\x000\0' + b't\0text\x002\0' + 'é'.encode()
    assert checksum(row) == hashlib.sha256(plain).hexdigest()


def test_digest_is_independent_of_shards_and_workers(tmp_path: Path, spec: DatasetSpec) -> None:
    one = write_dataset(tmp_path / 'a', spec, numbers(), convert, shard_size=4)
    two = write_dataset(tmp_path / 'b', spec, numbers(), convert, shard_size=100, workers=2)
    assert one.digest == two.digest
    assert one.bad == two.bad
    other = dict(ready(), test=[sample(99)])
    assert write_dataset(tmp_path / 'c', spec, other).digest != one.digest


def test_bad_samples_are_listed(tmp_path: Path, spec: DatasetSpec) -> None:
    report = write_dataset(tmp_path / 'd', spec, numbers(), convert)
    assert report.counts == {'train': 10, 'val': 4, 'test': 4}
    assert read_manifest(tmp_path / 'd')['bad'] == [
        {'split': 'train', 'sample_id': 's3', 'reason': 'clip3.mp4: truncated'},
        {'split': 'train', 'sample_id': 's7', 'reason': 'clip7.mp4: truncated'},
    ]


@pytest.mark.parametrize(
    ('change', 'reason'),
    [
        (dict(numbers=[1, np.nan, 2]), 'value 1 is nan'),
        (dict(numbers=[1, 2]), r'shape \[2\]'),
        (dict(picture=b''), 'empty'),
        (dict(picture=None, words=None, numbers=None), 'every modality is missing'),
    ],
)
def test_unusable_data_is_bad(tmp_path: Path, spec: DatasetSpec, change: dict, reason: str) -> None:
    report = write_dataset(tmp_path / 'd', spec, {'train': [sample(0), sample(2) | change]})
    assert report.counts == {'train': 1}
    (bad,) = report.bad
    assert bad['sample_id'] == 's2'
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(bad['reason'])


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(label=2), r'label 2 must lie in \[0, 2\)'),
        (dict(label='yes'), 'must be an integer'),
        (dict(extra=1), 'has the keys'),
        (dict(words=3), 'expected str'),
        (dict(sample_id='s0'), 'occurs twice'),
    ],
)
def test_mistakes_end_the_run(
    tmp_path: Path, spec: DatasetSpec, change: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        write_dataset(tmp_path / 'd', spec, {'train': [sample(0), sample(2) | change]})
    assert list(tmp_path.iterdir()) == []


def test_a_split_that_loses_every_sample_is_refused(tmp_path: Path, spec: DatasetSpec) -> None:
    bad = [BadSampleError('a', 'empty'), BadSampleError('b', 'torn'), BadSampleError('c', 'torn')]
    with pytest.raises(ValueError, match=r'none of the 3 samples of val .*\(2 of them\): torn'):
        write_dataset(tmp_path / 'd', spec, {'train': [sample(0)], 'val': bad})
    assert list(tmp_path.iterdir()) == []
    report = write_dataset(tmp_path / 'd', spec, {'train': [sample(0)], 'val': []})
    assert report.counts == {'train': 1, 'val': 0}, 'a split that never had samples'


def test_an_emptied_split_of_an_older_dataset_is_not_up_to_date(
    tmp_path: Path, spec: DatasetSpec
) -> None:
    write_dataset(tmp_path / 'd', spec, {'train': [sample(0)], 'val': []}, source='x')
    manifest = read_manifest(tmp_path / 'd')
    manifest['bad'] = [dict(split='val', sample_id='a', reason='torn')]
    (tmp_path / 'd' / 'manifest.json').write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match='the 1 samples of val'):
        write_dataset(tmp_path / 'd', spec, {'train': [sample(0)], 'val': []}, source='x')


def test_error_in_convert_names_the_item(tmp_path: Path, spec: DatasetSpec) -> None:
    with pytest.raises(RuntimeError, match=r"item 0: KeyError: 'missing key'"):
        write_dataset(tmp_path / 'd', spec, numbers(), broken)


def test_killed_run_is_never_finished_and_is_resumed(tmp_path: Path, spec: DatasetSpec) -> None:
    out = tmp_path / 'd'
    with pytest.raises(KeyboardInterrupt):
        write_dataset(out, spec, numbers(), refuse_late, shard_size=4)
    assert not out.exists()
    assert (tmp_path / '.d.partial').is_dir()
    with pytest.raises(FileNotFoundError, match='not a prepared dataset'):
        verify(tmp_path / '.d.partial')
    CALLS.clear()
    resumed = write_dataset(out, spec, numbers(), convert, shard_size=4)
    assert list(range(8, 20)) == CALLS, 'the two finished shards were not read again'
    assert resumed.digest == write_dataset(tmp_path / 'e', spec, numbers(), convert).digest
    assert resumed.bad[0]['sample_id'] == 's3', 'also the bad ones of a kept shard'
    assert verify(out) == []
    assert {p.name for p in tmp_path.iterdir()} == {'d', 'e'}


def test_resume_sees_changed_items_and_torn_shards(tmp_path: Path, spec: DatasetSpec) -> None:
    out = tmp_path / 'd'
    with pytest.raises(KeyboardInterrupt):
        write_dataset(out, spec, numbers(), refuse_late, shard_size=4)
    torn = tmp_path / '.d.partial' / 'train' / 'data-00001.arrow'
    torn.write_bytes(torn.read_bytes()[:-8])
    CALLS.clear()
    changed = numbers() | {'train': [20, *range(1, 12)]}
    write_dataset(out, spec, changed, convert, shard_size=4)
    assert set(CALLS) >= {20, 1, 2, 3, 4, 5, 6, 7}
    assert verify(out) == []


def test_second_run_is_up_to_date(tmp_path: Path, spec: DatasetSpec) -> None:
    first = write_dataset(tmp_path / 'd', spec, numbers(), convert)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / 'd').rglob('*')}
    CALLS.clear()
    again = write_dataset(tmp_path / 'd', spec, numbers(), convert)
    assert again.up_to_date
    assert not first.up_to_date
    assert again.digest == first.digest
    assert CALLS == []
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / 'd').rglob('*')}


def test_without_a_source_it_is_built_and_compared(tmp_path: Path, spec: DatasetSpec) -> None:
    write_dataset(tmp_path / 'd', spec, ready())
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / 'd').rglob('*')}
    assert write_dataset(tmp_path / 'd', spec, ready()).up_to_date
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / 'd').rglob('*')}
    assert {p.name for p in tmp_path.iterdir()} == {'d'}


def test_another_dataset_needs_overwrite(tmp_path: Path, spec: DatasetSpec) -> None:
    out = tmp_path / 'd'
    old = write_dataset(out, spec, ready())
    other = DatasetSpec('tiny', '1', 'none', spec.classes, spec.modalities, dict(seed=1))
    with pytest.raises(DatasetExistsError, match=r'tiny; seed: 0 there, 1 wanted\)'):
        write_dataset(out, other, ready(10))
    with pytest.raises(DatasetExistsError, match='other samples'):
        write_dataset(out, spec, ready(10))
    assert read_manifest(out)['digest'] == old.digest
    new = write_dataset(out, other, ready(10), overwrite=True)
    assert read_manifest(out)['digest'] == new.digest != old.digest
    assert {p.name for p in tmp_path.iterdir()} == {'d'}


def test_overwrite_renews_the_manifest_of_the_same_samples(
    tmp_path: Path, spec: DatasetSpec
) -> None:
    out = tmp_path / 'd'
    old = write_dataset(out, spec, ready())
    other = DatasetSpec('tiny', '2', 'none', spec.classes, spec.modalities)
    assert write_dataset(out, other, ready(), overwrite=True).digest == old.digest
    assert read_manifest(out)['version'] == '2'


def test_overwrite_repairs_what_verify_finds(tmp_path: Path, spec: DatasetSpec) -> None:
    out = tmp_path / 'd'
    write_dataset(out, spec, ready())
    path = next((out / 'train').glob('*.arrow'))
    data = bytearray(path.read_bytes())
    at = data.find(b's0')  # of the same size, so that nothing but its content tells
    data[at : at + 2] = b'x0'
    path.write_bytes(bytes(data))
    assert verify(out)
    assert write_dataset(out, spec, ready()).up_to_date
    assert not write_dataset(out, spec, ready(), overwrite=True).up_to_date
    assert verify(out) == []


def test_overwrite_never_deletes_what_is_no_dataset(tmp_path: Path, spec: DatasetSpec) -> None:
    (tmp_path / 'd').mkdir()
    (tmp_path / 'd' / 'thesis.txt').write_text('years of work')
    with pytest.raises(DatasetExistsError, match='not a prepared dataset'):
        write_dataset(tmp_path / 'd', spec, ready(), overwrite=True)
    assert (tmp_path / 'd' / 'thesis.txt').read_text() == 'years of work'


def test_damaged_dataset_is_written_again(tmp_path: Path, spec: DatasetSpec) -> None:
    write_dataset(tmp_path / 'd', spec, numbers(), convert)
    (tmp_path / 'd' / 'val' / 'data-00000.arrow').unlink()
    assert not write_dataset(tmp_path / 'd', spec, numbers(), convert).up_to_date
    assert verify(tmp_path / 'd') == []


@pytest.mark.skipif(os.name == 'nt', reason='no lock on Windows')
def test_two_writers_at_once_are_refused(tmp_path: Path, spec: DatasetSpec) -> None:
    def samples():
        with pytest.raises(RuntimeError, match='another process is preparing'):
            write_dataset(tmp_path / 'd', spec, ready())
        yield sample(0)

    assert write_dataset(tmp_path / 'd', spec, {'train': samples()}).counts == {'train': 1}


def test_verify_names_the_sample_of_a_flipped_byte(
    tmp_path: Path, spec: DatasetSpec, capsys: pytest.CaptureFixture
) -> None:
    write_dataset(tmp_path / 'd', spec, ready(), shard_size=5)
    path = tmp_path / 'd' / 'train' / 'data-00001.arrow'
    content = bytearray(path.read_bytes())
    content[content.index(bytes([6, 249]) * 40) + 5] ^= 1
    path.write_bytes(content)
    assert verify(tmp_path / 'd') == ['train row 6 (sample s6): the content differs']
    assert verify_cli.main([str(tmp_path / 'd')]) == 1
    assert 'sample s6' in capsys.readouterr().err


def test_verify_sees_broken_text_lost_files_and_edits(tmp_path: Path, spec: DatasetSpec) -> None:
    write_dataset(tmp_path / 'd', spec, ready())
    path = tmp_path / 'd' / 'train' / 'data-00000.arrow'
    path.write_bytes(path.read_bytes().replace('wörd 4'.encode(), b'w\xff\xffrd 4'))
    assert any('sample s4' in p and 'UTF-8' in p for p in verify(tmp_path / 'd'))

    shutil.rmtree(tmp_path / 'd' / 'val')
    assert any(p.startswith('val') and 'missing' in p for p in verify(tmp_path / 'd'))

    write_dataset(tmp_path / 'e', spec, ready())
    manifest = read_manifest(tmp_path / 'e')
    manifest['splits']['test']['num_samples'] = 3
    (tmp_path / 'e' / 'manifest.json').write_text(json.dumps(manifest))
    assert any(p.startswith('test') for p in verify(tmp_path / 'e'))


@pytest.mark.parametrize(('allowed', 'code'), [(0, 3), (1, 3), (2, 0)])
def test_exit_code_of_bad_samples(
    tmp_path: Path, spec: DatasetSpec, allowed: int, code: int
) -> None:
    parser = make_parser('x', 'x', raw=False)
    argv = ['--out', str(tmp_path / 'd'), '--allow-bad', str(allowed)]

    def prepare(args):
        return write_dataset(args.out, spec, numbers(), convert)

    assert run_cli(prepare, parser, argv) == code
    assert run_cli(prepare, parser, argv) == code, 'also when it is up to date'
    assert verify(tmp_path / 'd') == []


@pytest.mark.parametrize('name', ['sample_id', 'two words', ''])
def test_modality_names(name: str) -> None:
    with pytest.raises(ValueError, match='must be a plain name'):
        DatasetSpec('x', '1', 'p', ('a',), {name: dict(kind='text')})
