"""How long trials will take: from those that finished, else from a probe."""

import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from .plan import Trial

__all__ = ['Estimate']

_UNKNOWN = 10.0


class Estimate:
    """Seconds of a trial, from finished trials: of the same row, dataset or study.

    Args:
        rows: finished trials by digest.
        probed: seconds of a trial by dataset, for those without finished trials.
    """

    def __init__(
        self, rows: Mapping[str, Mapping[str, Any]], probed: Mapping[str, float] | None = None
    ) -> None:
        self._known: dict[tuple[str, ...], list[float]] = {}
        for row in rows.values():
            if row['status'] != 'done':
                continue
            phase, dataset, name = row['phase'], row['dataset'], row['row']
            for key in ((phase, dataset, name), (phase, dataset), (dataset,)):
                self._known.setdefault(key, []).append(row['wall_seconds'])
        for dataset, seconds in (probed or {}).items():
            self._known.setdefault((dataset,), [seconds])

    def known(self, dataset: str) -> bool:
        """Whether anything of the dataset was timed."""
        return (dataset,) in self._known

    def seconds(self, trial: Trial) -> float:
        """Expected seconds of a trial; 10 where nothing is known."""
        cell = trial.cell
        places: list[tuple[str, ...]] = [
            (trial.phase, cell.dataset, cell.row),
            (trial.phase, cell.dataset),
            (cell.dataset,),
        ]
        found = (self._known[key] for key in places if key in self._known)
        return next((statistics.median(values) for values in found), _UNKNOWN)

    def total(self, trials: Iterable[Trial], workers: int = 1) -> float:
        """Expected seconds of all of them."""
        return sum(self.seconds(t) for t in trials) / max(1, workers)
