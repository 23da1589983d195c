"""Items that are decoded once."""

import pickle
from types import MappingProxyType

import pytest
import torch
from torch.utils.data import DataLoader

from cal_mm.datasets.kept import KeptItems
from cal_mm.structures import MultiModalDataSample


class Slow:
    """Notes what is read; every item has 40 bytes of values."""

    metainfo = MappingProxyType(dict(classes=('a', 'b')))

    def __init__(self):
        self.read = []

    def __len__(self):
        return 6

    def __getitem__(self, i):
        self.read.append(i)
        inputs = {'x': torch.full((10,), float(i)), 'y': None}
        return {'inputs': inputs, 'data_samples': MultiModalDataSample.of(f's{i}', i % 2)}


def test_read_once_and_handed_out_afresh():
    kept = KeptItems(Slow())
    for _ in range(2):
        for i in range(6):
            item = kept[i]
            assert item['inputs']['x'].tolist() == [i] * 10
            sample = item['data_samples']
            assert sample.sample_id == f's{i}'
            assert sample.keys() == ['gt_label']
            sample.pred_label = torch.tensor(1)  # what a model does with it
            sample.set_metainfo({'noise_seconds': 1.0})
            item['inputs']['x'] = None
            item['extra'] = 1
    assert kept.dataset.read == [0, 1, 2, 3, 4, 5]
    assert len(kept) == 6
    assert kept.metainfo == Slow.metainfo
    with pytest.raises(AttributeError, match='nothing'):
        _ = kept.nothing


def test_memory_is_bounded():
    one = KeptItems(Slow())
    _ = one[0]
    kept = KeptItems(Slow(), max_bytes=2 * one._bytes)
    for _ in range(2):
        for i in range(4):
            assert kept[i]['data_samples'].sample_id == f's{i}'
    assert kept.dataset.read == [0, 1, 2, 3, 2, 3]
    assert kept._bytes <= kept.max_bytes


def test_copies_for_other_processes_are_empty():
    kept = KeptItems(Slow())
    _ = kept[1]
    copy = pickle.loads(pickle.dumps(kept))
    assert copy._bytes == 0
    assert copy[1]['data_samples'].sample_id == 's1'
    loader = DataLoader(kept, num_workers=2, collate_fn=list, batch_size=2)
    ids = [item['data_samples'].sample_id for batch in loader for item in batch]
    assert ids == [f's{i}' for i in range(6)]
