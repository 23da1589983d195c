"""Sums and counts over the micro-batches and ranks of one update."""

import torch
from mmengine.dist import all_reduce
from torch import Tensor

__all__ = ['Ledger']


class Ledger:
    """Mean statistics of an update that do not depend on how its batch was split.

    ``add`` keeps float64 sums and counts; ``close`` reduces them over the ranks once and starts
    anew. Every rank must call ``close`` the same number of times with the same names.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, Tensor] = {}

    def add(self, name: str, values: Tensor) -> None:
        """Book per-sample statistics ``values`` [B, K]."""
        total = values.double().sum(dim=0)
        count = torch.tensor(float(values.shape[0]), dtype=torch.float64, device=values.device)
        if name in self._sums:
            total = total + self._sums[name]
            count = count + self._counts[name]
        self._sums[name], self._counts[name] = total, count

    def close(self) -> dict[str, Tensor]:
        """Means over everything booked since the last call, float64 [K] by name; empty if nothing
        was.
        """
        names = sorted(self._sums)
        if not names:
            return {}
        packed = torch.cat([torch.cat([self._sums[n], self._counts[n][None]]) for n in names])
        all_reduce(packed)
        means, start = {}, 0
        for name in names:
            size = self._sums[name].numel()
            means[name] = packed[start : start + size] / packed[start + size]
            start += size + 1
        self._sums, self._counts = {}, {}
        return means
