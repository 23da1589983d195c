"""Finding the part of a model that a hook serves, and parts of the data that never change."""

from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from cal_mm.datasets import column_of
from cal_mm.structures import sample_key

__all__ = ['held_out', 'loss_component', 'some_of']

Part = TypeVar('Part', bound=nn.Module)


def loss_component(model: Any, kind: type[Part], who: str) -> Part:
    """The one loss of class ``kind`` of ``model``.

    Raises:
        ValueError: the model has none; ``who`` needs it.
    """
    for loss in model.losses:
        if isinstance(loss, kind):
            return loss
    raise ValueError(
        f'{who} serves the loss {kind.__name__}, which model.losses does not have: '
        f"{[type(loss).__name__ for loss in model.losses]}. Add dict(type='{kind.__name__}')"
    )


def held_out(dataset: Any, share: float, key: str) -> tuple[list[int], list[int]]:
    """Split a dataset by group, the same way always: ``(rest, held out)``, indices in order.

    Args:
        dataset: samples with one ``group`` stay together; without groups each stands alone.
        share: of the groups that is held out, in (0, 1); at least one sample is on either side.
        key: another key gives another split.
    """
    if not 0 < share < 1:
        raise ValueError(f'the held-out share must be in (0, 1), got {share}')
    groups = column_of(dataset, 'groups')
    names = np.arange(len(dataset)).astype(str) if groups is None else groups.astype(str)
    if len(np.unique(names)) < 4:  # too few groups to hold one out
        names = np.arange(len(dataset)).astype(str)
    ranks = {g: sample_key(key, g) for g in np.unique(names)}
    ordered = sorted(ranks, key=lambda g: (ranks[g], g))
    out = set(ordered[: max(1, round(share * len(ordered)))])
    inside = [i for i, g in enumerate(names) if g not in out]
    return inside, [i for i, g in enumerate(names) if g in out]


def some_of(indices: list[int], count: int, key: str) -> list[int]:
    """At most ``count`` of ``indices``, drawn the same way always and kept in order.

    The first ones would do only if the dataset were shuffled; some are sorted by class.
    """
    if len(indices) <= count:
        return indices
    generator = torch.Generator().manual_seed(sample_key(key, len(indices)))
    chosen = torch.randperm(len(indices), generator=generator)[:count].sort().values
    return [indices[i] for i in chosen.tolist()]
