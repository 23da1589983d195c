"""A dataset that is read many times and decoded once."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset, get_worker_info

from cal_mm.structures import MultiModalDataSample

from .transforms.base import is_repeatable

__all__ = ['KeptInputs', 'KeptItems']

#: about what a small object costs beside its values
_OBJECT_BYTES = 400


class KeptInputs:
    """Packed inputs of a dataset's samples, kept after the first reading.

    For training over many epochs: what the loading of small samples costs is paid once. A sample's
    label is that of the dataset's metadata every time, and its data sample a new one.

    Args:
        max_bytes: of packed values and what holds them, over all workers of a loader.
    """

    def __init__(self, max_bytes: int) -> None:
        if max_bytes < 0:
            raise ValueError(f'keep_bytes must be >= 0, got {max_bytes}')
        self.max_bytes = max_bytes
        self._clear(())

    def _clear(self, steps: tuple[Any, ...]) -> None:
        self._steps = steps
        self._repeatable = all(is_repeatable(step) for step in steps)
        self._inputs: dict[int, dict[str, Any]] = {}
        self._missing: dict[int, tuple[str, ...]] = {}
        self._bytes = 0

    def serves(self, steps: Sequence[Any]) -> bool:
        """Whether the outcome of the pipeline ``steps`` can be kept; another one starts anew."""
        if len(steps) != len(self._steps) or any(
            a is not b for a, b in zip(steps, self._steps, strict=True)
        ):
            self._clear(tuple(steps))
        return self._repeatable and self.max_bytes > 0

    def get(self, info: Mapping[str, Any]) -> dict[str, Any] | None:
        """The packed item of a sample, ``info`` being its metadata; None if it is not kept."""
        inputs = self._inputs.get(info['row'])
        if inputs is None:
            return None
        sample = MultiModalDataSample.of(
            info['sample_id'], info['label'], info['group'], self._missing[info['row']]
        )
        return {'inputs': dict(inputs), 'data_samples': sample}

    def put(self, info: Mapping[str, Any], packed: Any) -> None:
        """Keep a packed item that is nothing but its inputs, as long as there is room."""
        if not isinstance(packed, Mapping) or set(packed) != {'inputs', 'data_samples'}:
            return
        sample, worker = packed['data_samples'], get_worker_info()
        inputs = {m: _compact(value) for m, value in packed['inputs'].items()}
        size = _size({'inputs': inputs}) + _OBJECT_BYTES * (len(inputs) + 2)
        room = self.max_bytes // (worker.num_workers if worker else 1)
        if type(sample) is not MultiModalDataSample or int(sample.gt_label) != info['label']:
            return
        if self._bytes + size <= room:
            self._inputs[info['row']] = inputs
            self._missing[info['row']] = sample.missing
            self._bytes += size

    def __getstate__(self) -> dict[str, Any]:
        # what a new process or a copy can read for itself does not travel to it
        return {'max_bytes': self.max_bytes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]


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


def _compact(value: Any) -> Any:
    """A tensor that is a part of a larger one by itself, so that the rest can go."""
    if isinstance(value, torch.Tensor):
        own = value.numel() * value.element_size()
        return value if value.untyped_storage().nbytes() <= own else value.clone()
    return value


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
