"""Running statistics that every rank keeps of its own batches: the same on all, when it matters."""

from collections.abc import Iterator

import torch
from mmengine.dist import all_reduce, get_world_size
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from cal_mm.models.fusions.base import BaseFusion

__all__ = ['share_statistics']


@torch.no_grad()
def share_statistics(model: nn.Module) -> None:
    """Average the ranks' running statistics of normalisations and of a fusion's absent values.

    Every rank has to call it. What is the same on all ranks stays bit for bit; a run of one process
    is left alone. Nothing else in the buffers may be averaged: they hold keys and counters.
    """
    if get_world_size() == 1:
        return
    found = list(_statistics(model))
    if not found:
        return
    # double: a sum of equal float32 values over their number is exact
    rows = [torch.cat([b.double().flatten(), b.new_ones(1).double()]) * w for b, w in found]
    packed = torch.cat(rows)
    all_reduce(packed)
    for (buffer, _), row in zip(found, packed.split([len(r) for r in rows]), strict=True):
        if row[-1] > 0:
            buffer.copy_((row[:-1] / row[-1]).view_as(buffer))
    for part in _fusions(model):
        seen = part.get_buffer('means_seen')
        anywhere = seen.int()
        all_reduce(anywhere)
        seen.copy_(anywhere > 0)


def _statistics(model: nn.Module) -> Iterator[tuple[Tensor, Tensor | float]]:
    """(buffer, its weight in the average)."""
    for part in model.modules():
        if isinstance(part, _NormBase):
            yield from ((b, 1.0) for b in (part.running_mean, part.running_var) if b is not None)
    for part in _fusions(model):
        for m, seen in zip(part.modalities, part.get_buffer('means_seen'), strict=True):
            yield part.get_buffer(f'mean_of_{m}'), seen.double()


def _fusions(model: nn.Module) -> Iterator[BaseFusion]:
    """Those that keep running means of the modalities."""
    parts = (p for p in model.modules() if isinstance(p, BaseFusion))
    return (p for p in parts if p.absent == 'mean')
