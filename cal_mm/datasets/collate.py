"""Batches that travel from the loader's workers as a few large tensors."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.dataset import pseudo_collate
from mmengine.registry import FUNCTIONS

from cal_mm.structures import MultiModalDataSample

__all__ = ['collate_batch']


class _Values(list):
    """A list of values that is pickled as one tensor where all are tensors of one shape."""

    def __reduce__(self) -> Any:
        first = self[0] if self else None
        if isinstance(first, torch.Tensor) and all(
            isinstance(v, torch.Tensor) and v.shape == first.shape and v.dtype == first.dtype
            for v in self
        ):
            return _unstacked, (torch.stack(list(self)),)
        return list, (list(self),)


def _unstacked(stacked: torch.Tensor) -> list[torch.Tensor]:
    return list(stacked.unbind(0))


class _Samples(list):
    """A list of data samples that is pickled as numbers, without a tensor for every label."""

    def __reduce__(self) -> Any:
        plain = all(type(s) is MultiModalDataSample and s.keys() == ['gt_label'] for s in self)
        if not plain:
            return list, (list(self),)
        return _restored, ([int(s.gt_label) for s in self], [s.metainfo for s in self])


def _restored(labels: list[int], metainfo: list[dict[str, Any]]) -> list[MultiModalDataSample]:
    return [
        MultiModalDataSample(metainfo=facts, gt_label=torch.tensor(label, dtype=torch.int64))
        for label, facts in zip(labels, metainfo, strict=True)
    ]


@FUNCTIONS.register_module()
def collate_batch(items: Sequence[dict[str, Any]]) -> Any:
    """``{'inputs': {m: [values]}, 'data_samples': [samples]}``, as mmengine's ``pseudo_collate``.

    The same lists with the same values arrive; between processes, a modality whose values have one
    shape travels as one tensor instead of one per sample, and the labels as numbers. For small
    samples that is what takes most of the time. Use it with ``num_workers`` > 0:
    ``collate_fn=dict(type='collate_batch')`` in a dataloader's config.
    """
    batch = pseudo_collate(items)
    if isinstance(batch, dict):
        inputs, samples = batch.get('inputs'), batch.get('data_samples')
        if isinstance(inputs, dict):
            batch['inputs'] = {m: _kept(v, _Values) for m, v in inputs.items()}
        if 'data_samples' in batch:
            batch['data_samples'] = _kept(samples, _Samples)
    return batch


def _kept(values: Any, kind: type) -> Any:
    return kind(values) if type(values) is list else values
