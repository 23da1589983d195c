"""Features by value on the disk: several writers, damage, other keys, size."""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from cal_mm.models.encoders import value_store
from cal_mm.models.encoders.value_store import ValueStore

KEY = 'c' * 64


def opened(folder, key=KEY, **options):
    store = ValueStore(folder, 'image', key, **options)
    store.refresh()
    return store


def feature(i, width=8):
    return torch.arange(width, dtype=torch.float32) / 7 + i


def fill(folder, ids, **options):
    store = opened(folder, **options)
    for i in ids:
        store.add(f'v{i}', feature(i))
    store.flush()
    return store


def files(folder, ending='safetensors'):
    return sorted((folder / 'values').rglob(f'*.{ending}'))


def test_what_one_adds_another_finds_with_the_same_bits(tmp_path):
    keys = ['text', '', "('torch.uint8', (1,), b'x')", ('torch.uint8', (1,), b'x'), 'a\udc00']
    first = opened(tmp_path)
    early = opened(tmp_path)
    for i, key in enumerate(keys):
        first.add(key, feature(i))
    assert torch.equal(first.get('text'), feature(0))
    assert early.get('text') is None
    assert not files(tmp_path)
    first.flush()
    early.refresh()
    for store in (early, opened(tmp_path)):
        assert len(store) == len(keys)
        assert all(torch.equal(store.get(k), feature(i)) for i, k in enumerate(keys))
    early.get('text').zero_()  # a copy
    assert torch.equal(early.get('text'), feature(0))
    early.add('text', feature(9))
    early.flush()
    assert len(files(tmp_path)) == 1
    early.add('odd', torch.tensor([float('nan')] * 8))
    early.add('wide', feature(0).double())
    assert early.get('odd') is None
    assert early.get('wide') is None


def test_other_keys_and_modalities_see_nothing(tmp_path):
    fill(tmp_path, [0])
    assert opened(tmp_path, key='d' * 64).get('v0') is None
    other = ValueStore(tmp_path, 'text', KEY)
    other.refresh()
    assert other.get('v0') is None


@pytest.mark.parametrize('damage', ['cut', 'bit', 'empty', 'text', 'foreign', 'same start'])
def test_damage_is_noticed_once_and_made_good(tmp_path, caplog, damage):
    fill(tmp_path, [0, 1])
    (path,) = files(tmp_path)
    data = path.read_bytes()
    if damage in ('foreign', 'same start'):
        key = 'd' * 64 if damage == 'foreign' else KEY[:16] + 'd' * 48
        path.unlink()
        other = fill(tmp_path / 'other', [0], key=key)
        data = files(tmp_path / 'other')[0].read_bytes()
        assert len(other) == 1
    else:
        bit = data[:-3] + bytes([data[-3] ^ 1]) + data[-2:]
        data = {'cut': data[:-5], 'bit': bit, 'empty': b'', 'text': b'hello' * 9}[damage]
    path.write_bytes(data)
    store = opened(tmp_path)
    assert len(store) == 0
    assert opened(tmp_path).get('v0') is None
    assert len(caplog.records) == 1
    assert 'is unusable' in caplog.text
    assert len(files(tmp_path, 'bad')) == 1
    fill(tmp_path, [0, 1])
    assert torch.equal(opened(tmp_path).get('v1'), feature(1))
    assert len(caplog.records) == 1


def test_many_writers_lose_nothing_while_files_are_put_together(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(value_store, '_MANY', 4)

    def write(worker):
        store = opened(tmp_path)
        for step in range(10):
            store.add(f'v{worker * 10 + step}', feature(worker * 10 + step))
            store.flush()
            store.refresh()
        return store

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    store = opened(tmp_path)
    assert len(store) == 40
    assert all(torch.equal(store.get(f'v{i}'), feature(i)) for i in range(40))
    assert len(files(tmp_path)) < 8
    assert not caplog.records


def test_the_longest_unused_goes_when_there_is_no_room(tmp_path):
    for number, key in enumerate('abc'):
        fill(tmp_path, range(10), key=key * 64)
        (path,) = (tmp_path / 'values').glob(f'image-{key}*/*.safetensors')
        os.utime(path, (number, number))
    size = path.stat().st_size
    opened(tmp_path, key='a' * 64)  # use keeps it
    fill(tmp_path, range(10), key='d' * 64, max_bytes=3 * size)
    left = {k: len(opened(tmp_path, key=k * 64)) for k in 'abcd'}
    assert left == {'a': 10, 'b': 0, 'c': 10, 'd': 10}
    fill(tmp_path, [1], key='e' * 64, max_bytes=0)
    assert not files(tmp_path)


def test_a_disk_that_takes_nothing_costs_a_warning(tmp_path, caplog):
    (tmp_path / 'values').write_text('in the way')
    store = ValueStore(tmp_path, 'image', KEY)
    store.refresh()
    store.add('v', feature(1))
    store.flush()
    assert 'cannot be written' in caplog.text
    assert torch.equal(store.get('v'), feature(1))
