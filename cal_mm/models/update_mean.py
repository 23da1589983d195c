"""Mean of a statistic over the update before: for decisions that no way of splitting may change."""

from typing import Any

import torch
from mmengine.dist import all_reduce
from torch import Tensor, nn

__all__ = ['RunningUpdateMean', 'UpdateChange', 'UpdateMean']


class UpdateMean(nn.Module):
    """Mean over all samples of the last complete update, of every micro-batch and rank.

    A decision inside the forward pass cannot know the micro-batches to come, so it takes the
    update before. Sums are in buffers and the same on every rank: a resumed run goes on exactly.

    Attributes:
        local: only this rank calls it; nothing is summed over ranks.

    Args:
        size: K, numbers per sample.
    """

    local = False
    sums: Tensor
    mean: Tensor
    known: Tensor
    update: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        #: sums and numbers of samples of the running update
        self.register_buffer('sums', torch.zeros(2, size, dtype=torch.float64))
        self.register_buffer('mean', torch.zeros(size, dtype=torch.float64))
        self.register_buffer('known', torch.tensor(False))
        self.register_buffer('update', torch.tensor(-1))

    @torch.no_grad()
    def forward(self, values: Tensor, update: int, seen: Tensor | None = None) -> Tensor | None:
        """Book ``values``; the mean [K] of the update before, or None where there was none.

        Unless it is :attr:`local`, every rank has to call it equally often.

        Args:
            values: [B, K], those of the present micro-batch.
            update: its number, as ``draws.counter``.
            seen: bool [B, K], the values that count; default: all.
        """
        if int(self.update) != update:
            self._close()
            self.update.fill_(update)
        values = values.detach().double()
        counts = torch.ones_like(values) if seen is None else seen.to(values)
        booked = torch.stack([(values * counts).sum(dim=0), counts.sum(dim=0)])
        if not self.local:
            all_reduce(booked)
        self.sums += booked
        return self.mean.clone() if bool(self.known) else None

    def _close(self) -> None:
        total, count = self.sums
        self.known |= (count > 0).all()
        self.mean.copy_(torch.where(count > 0, total / count.clamp_min(1), self.mean))
        self.sums.zero_()

    def _apply(self, fn: Any, recurse: bool = True) -> 'UpdateMean':
        """Sums stay float64 where a model is cast to half precision."""
        kept = {n: b for n, b in self._buffers.items() if b is not None and b.is_floating_point()}
        super()._apply(fn, recurse)
        for name, value in kept.items():
            moved = getattr(self, name)
            if moved.dtype != torch.float64:
                setattr(self, name, value.to(moved.device))
        return self


class RunningUpdateMean(UpdateMean):
    """As :class:`UpdateMean`, but the mean runs over all complete updates, each counted alike."""

    updates: Tensor

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.register_buffer('updates', torch.zeros(size, dtype=torch.float64))

    @property
    def seen(self) -> Tensor:
        """bool [K], what the running update has a value of so far."""
        return self.sums[1] > 0

    def present(self) -> Tensor:
        """Mean [K] of the running update so far: this micro-batch and those before, all ranks."""
        total, count = self.sums
        return total / count.clamp_min(1)

    def _close(self) -> None:
        seen = self.sums[1] > 0
        self.updates += seen
        step = (self.present() - self.mean) / self.updates.clamp_min(1)
        self.mean += torch.where(seen, step, 0.0)
        self.known |= seen.all()
        self.sums.zero_()


class UpdateChange(UpdateMean):
    """As :class:`UpdateMean`, and what changed: the last complete update less the one before it."""

    previous: Tensor

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.register_buffer('previous', torch.zeros(size, dtype=torch.float64))

    @property
    def change(self) -> Tensor:
        """Mean of the last complete update less that of the one before it (0 at first), [K]."""
        return self.mean - self.previous

    def _close(self) -> None:
        self.previous.copy_(self.mean)
        super()._close()
