"""A progress line with the time left."""

import sys
import time
from typing import TextIO

__all__ = ['Progress', 'duration']

_WIDTH = 24
_EVERY = 30.0  # seconds between two lines where the output is no terminal


def duration(seconds: float) -> str:
    """``3 h 05 min``, ``4 min 10 s`` or ``9 s``."""
    whole = max(0, round(seconds))
    if whole >= 3600:
        return f'{whole // 3600} h {whole % 3600 // 60:02d} min'
    if whole >= 60:
        return f'{whole // 60} min {whole % 60:02d} s'
    return f'{whole} s'


class Progress:
    """Counts trials; redraws one line on a terminal, prints a line now and then elsewhere.

    Args:
        label: what is counted.
        work: expected seconds of each trial.
        workers: that share the work.
        out: where to.
    """

    def __init__(
        self, label: str, work: list[float], workers: int = 1, out: TextIO | None = None
    ) -> None:
        self.label, self.total = label, len(work)
        self.expected, self.done_expected = sum(work), 0.0
        self.workers = max(1, workers)
        self.done = self.failed = 0
        self.out = out or sys.stderr
        self.start = self._shown = time.monotonic()

    def step(self, expected: float, text: str, failed: bool = False) -> None:
        """One trial more is done."""
        self.done += 1
        self.failed += failed
        self.done_expected += expected
        last = self.done == self.total
        now = time.monotonic()
        if self.out.isatty():
            self.out.write(f'\r\x1b[2K{self.line(now)}  {text}' + ('\n' if last else ''))
            self.out.flush()
        elif last or failed or self.done == 1 or now - self._shown >= _EVERY:
            self._shown = now
            print(f'{self.line(now)}  {text}', file=self.out, flush=True)

    def left(self, now: float) -> float:
        """Expected seconds to the end, from the pace so far."""
        rest = max(0.0, self.expected - self.done_expected)
        if self.done_expected <= 0:
            return rest / self.workers
        return (now - self.start) * rest / self.done_expected

    def line(self, now: float) -> str:
        """The bar, without what is being done."""
        filled = _WIDTH * self.done // max(1, self.total)
        bar = '#' * filled + '.' * (_WIDTH - filled)
        bad = f', {self.failed} failed' if self.failed else ''
        return (
            f'{self.label} [{bar}] {self.done}/{self.total}{bad}, {duration(self.left(now))} left'
        )
