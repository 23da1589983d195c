"""A dataset that is read many times and decoded once."""

import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch.utils.data import Dataset, get_worker_info

__all__ = ['KeptItems']


class KeptItems(Dataset):
    """``dataset`` whose packed items are kept in memory after the first reading.

    For repeated passes over data that do not change, as in a robustness test: test pipelines draw
    nothing at random, and corruptions leave the item that they are given as it is. When memory is
    used up, further items are decoded every time. Each worker keeps its own share, which persistent
    workers can use again.

    Args:
        dataset: gives packed items ``{'inputs': {m: value}, 'data_samples': sample}``.
        max_bytes: of packed values, over all workers of a loader.
    """

    def __init__(self, dataset: Any, max_bytes: int = 2**29) -> None:
        self.dataset = dataset
        self.max_bytes = max_bytes
        self._kept: dict[int, dict] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict:
        item = self._kept.get(index)
        if item is None:
            item = self.dataset[index]
            worker = get_worker_info()
            size = _size(item)
            if self._bytes + size <= self.max_bytes // (worker.num_workers if worker else 1):
                self._kept[index] = item
                self._bytes += size
        return _fresh(item)

    def __getstate__(self) -> dict:
        # what a new process can decode for itself does not travel to it
        return {**self.__dict__, '_kept': {}, '_bytes': 0}

    def __getattr__(self, name: str) -> Any:
        # reached only for what this class lacks; 'dataset' itself is absent while unpickling
        if name.startswith('__') or name == 'dataset':
            raise AttributeError(name)
        return getattr(self.dataset, name)


def _fresh(item: dict) -> dict:
    """A copy that shares the values; predictions are written to its data sample."""
    copied = {k: dict(v) if isinstance(v, Mapping) else v for k, v in item.items()}
    return {**copied, 'data_samples': item['data_samples'].clone()}


def _size(item: dict) -> int:
    values = [v for part in item.values() if isinstance(part, Mapping) for v in part.values()]
    return sum(
        v.numel() * v.element_size() if isinstance(v, torch.Tensor) else sys.getsizeof(v)
        for v in values
    )
