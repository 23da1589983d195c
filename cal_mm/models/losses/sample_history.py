"""Running sums that belong to the samples of the training data, not to a batch."""

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.dist import all_gather, get_world_size
from torch import Tensor, nn

__all__ = ['SampleHistory', 'gather_rows', 'history_key']

FREE = -1


def history_key(sample_id: str) -> int:
    """63-bit key of a sample's id; the 32 bits that seed its noise would meet too often."""
    digest = hashlib.blake2b(sample_id.encode(), digest_size=8).digest()
    return int.from_bytes(digest, 'big') >> 1


def gather_rows(rows: Tensor) -> Tensor:
    """``rows`` [N, K] of every rank one after another, also where N differs; alone: ``rows``."""
    if get_world_size() == 1:
        return rows
    sizes = [int(c) for c in all_gather(torch.tensor([len(rows)], device=rows.device))]
    padded = rows.new_zeros(max(sizes), *rows.shape[1:])
    padded[: len(rows)] = rows
    parts = zip(all_gather(padded), sizes, strict=True)
    return torch.cat([part[:size] for part, size in parts])


class SampleHistory(nn.Module):
    """A table of sums, one row per sample that was ever booked; columns are the modalities.

    The table is in buffers, so that it moves with the model and is in its checkpoints. Every rank
    books what all ranks saw and holds the same table. Rows are found by the samples' ids, so
    neither order nor place in the data matters.

    Args:
        columns: K, numbers per sample.
        capacity: rows at the start; doubled whenever they are full.
    """

    keys: Tensor
    sums: Tensor

    def __init__(self, columns: int, capacity: int = 256) -> None:
        super().__init__()
        self._rows: dict[int, int] = {}
        self.register_buffer('keys', torch.full((capacity,), FREE))
        self.register_buffer('sums', torch.zeros(capacity, columns, dtype=torch.float64))

    def __len__(self) -> int:
        return len(self._rows)

    def book(self, sample_ids: Sequence[str], values: Tensor) -> None:
        """Add ``values`` [B, K] to the samples' sums, on all ranks; each rank calls it once."""
        keys = torch.tensor([history_key(i) for i in sample_ids], dtype=torch.int64)
        where, values = keys, values.detach().to(self.sums)
        if get_world_size() > 1:
            where, values = gather_rows(keys.to(values.device)), gather_rows(values)
        rows = self._find(where.tolist(), new=True)  # may replace the table by a larger one
        self.sums.index_add_(0, rows, values)

    def read(self, sample_ids: Sequence[str]) -> Tensor:
        """The samples' sums, float64 [B, K]; zeros for those never booked."""
        rows = self._find([history_key(i) for i in sample_ids], new=False)
        found = self.sums[rows.clamp_min(0)]
        return torch.where((rows >= 0).unsqueeze(-1), found, torch.zeros_like(found))

    def extent(self) -> tuple[Tensor, Tensor]:
        """Least and largest sum over the booked samples, each [K]; zeros where there is none."""
        if not self._rows:
            nothing = torch.zeros_like(self.sums[0])
            return nothing, nothing
        held = self.sums[: len(self._rows)]
        return held.amin(dim=0), held.amax(dim=0)

    def _find(self, keys: list[int], new: bool) -> Tensor:
        if new:
            fresh = [k for k in dict.fromkeys(keys) if k not in self._rows]
            if fresh:
                self._append(fresh)
        rows = [self._rows.get(k, -1) for k in keys]
        return torch.tensor(rows, dtype=torch.int64).to(self.sums.device, non_blocking=True)

    def _append(self, fresh: list[int]) -> None:
        start = len(self._rows)
        while start + len(fresh) > len(self.keys):
            self.keys = torch.cat([self.keys, torch.full_like(self.keys, FREE)])
            self.sums = torch.cat([self.sums, torch.zeros_like(self.sums)])
        self.keys[start : start + len(fresh)] = torch.tensor(fresh).to(self.keys)
        self._rows.update({k: start + i for i, k in enumerate(fresh)})

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Take the saved table's size, then its content."""
        saved = state_dict.get(f'{prefix}keys')
        if saved is not None:
            self.keys = torch.full((len(saved),), FREE, device=self.keys.device)
            self.sums = self.sums.new_zeros(len(saved), self.sums.shape[1])
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        booked = [k for k in self.keys.tolist() if k != FREE]
        self._rows = {k: i for i, k in enumerate(booked)}
