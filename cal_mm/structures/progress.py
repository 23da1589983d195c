"""How far training has come, as the model and the schedules see it."""

from dataclasses import dataclass

__all__ = ['TrainProgress', 'epochs_of']


@dataclass(frozen=True)
class TrainProgress:
    """Counts at the start of a training iteration.

    Attributes:
        epoch: finished epochs.
        max_epochs: epochs of the whole run.
        update: finished parameter updates (not micro-batches).
        max_updates: updates of the whole run.
    """

    epoch: int = 0
    max_epochs: int = 1
    update: int = 0
    max_updates: int = 1

    @property
    def fraction(self) -> float:
        """Share of the run's updates that are done, in [0, 1]."""
        return min(1.0, self.update / max(1, self.max_updates))


def epochs_of(interval: int | float, max_epochs: int) -> int:
    """An interval in epochs: as it is, or a share in (0, 1) of the run, at least 1."""
    if isinstance(interval, float) and 0 < interval < 1:
        return max(1, round(interval * max_epochs))
    return int(interval)
