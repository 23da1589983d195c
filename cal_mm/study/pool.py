"""Worker processes, each running one trial after the other; the parent alone writes the ledger."""

import contextlib
import ctypes
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_context, set_start_method
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from .parsing import parse_study
from .plan import Plan, Trial, trial_of
from .records import Ledger, provenance

__all__ = ['Setup', 'in_this_process', 'run_trials']

_CONTEXT = get_context('spawn')
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Setup:
    """What a worker needs to know.

    Attributes:
        raw: the study file's contents.
        path: of the study file.
        folder: of the study.
        features: folder of the feature cache.
        only: as on the command line.
        threads: that torch computes with.
        keep_checkpoints: leave the weights of the tested trials.
        debug: failures with their traceback.
    """

    raw: dict[str, Any]
    path: str
    folder: str
    features: str
    only: tuple[str, ...] = ()
    threads: int = 1
    keep_checkpoints: bool = False
    debug: bool = False


class _Executor:
    """Runs trials in this process."""

    def __init__(self, setup: Setup) -> None:
        from cal_mm import compat

        from .build import ConfigBuilder

        compat.setup()
        self.setup = setup
        study = parse_study(setup.raw, setup.path)
        builder = ConfigBuilder(study, Path(setup.folder) / 'tmp')
        self.plan = Plan(study, builder, setup.only)
        self.ledger = Ledger(setup.folder)
        self.provenance = provenance()

    def run(self, trial: Trial) -> dict[str, Any]:
        from cal_mm.cli import message_of

        from .trial import run_trial

        try:
            return run_trial(
                self.plan,
                trial,
                self.ledger,
                features=Path(self.setup.features),
                provenance=self.provenance,
                keep_checkpoint=self.setup.keep_checkpoints,
            )
        except Exception as e:  # whatever it is, the other trials go on
            text = f'{type(e).__name__}: {message_of(e)}'
            traceback.print_exc()
            return failure(trial, text, traceback.format_exc() if self.setup.debug else None)


def failure(trial: Trial, error: str, trace: str | None = None) -> dict[str, Any]:
    """The row of a trial that failed."""
    extra = {} if trace is None else {'traceback': trace}
    return {**trial.record(), 'status': 'failed', 'error': error, **extra}


def _work(setup: Setup, connection: Connection, log: str) -> None:
    """A worker's life: read trials, send rows back, until the parent closes the connection."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    _die_with_parent()
    sys.stdout = sys.stderr = open(log, 'a', buffering=1, encoding='utf-8')  # noqa: SIM115
    # as mmengine sets it for data loaders; a spawned process has another default
    set_start_method('fork', force=True)
    import torch

    torch.set_num_threads(setup.threads)
    executor = _Executor(setup)
    with contextlib.suppress(EOFError, OSError):
        while (record := connection.recv()) is not None:
            connection.send(executor.run(trial_of(record)))


def _die_with_parent() -> None:
    """Ask Linux to kill this process when the parent dies, even by kill -9."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class _Worker:
    """One worker process and what it is busy with."""

    def __init__(self, number: int, setup: Setup, device: str) -> None:
        self.number, self.setup, self.device = number, setup, device
        self.trial: Trial | None = None
        self._start()

    def _start(self) -> None:
        self.connection, theirs = _CONTEXT.Pipe()
        log = Path(self.setup.folder) / 'logs' / f'worker-{self.number}.log'
        log.parent.mkdir(parents=True, exist_ok=True)
        self.log = str(log)
        self.process = _CONTEXT.Process(
            target=_work, args=(self.setup, theirs, self.log), daemon=True
        )
        # read before the child imports torch
        with _environment(self.device, self.setup.threads):
            self.process.start()
        theirs.close()

    def give(self, trial: Trial) -> None:
        self.trial = trial
        with contextlib.suppress(OSError):  # a worker that is gone shows when it is asked
            self.connection.send(trial.record())

    def take(self) -> dict[str, Any]:
        """The row of the trial; a worker that died is replaced by a new one."""
        given, self.trial = self.trial, None
        if given is None:
            raise RuntimeError(f'worker {self.number} has no trial')
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode
            self._start()
            return failure(
                given,
                f'its worker process ended with exit code {code} (-9: killed, often for want of '
                f'memory); see {self.log}',
            )

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            if self.trial is None:
                self.connection.send(None)
            else:
                self.process.terminate()
        self.process.join(timeout=5)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.connection.close()


@contextlib.contextmanager
def in_this_process(device: str, threads: int) -> Iterator[None]:
    """Compute here as a worker would. A GPU that this process has used before stays visible."""
    import torch

    before = torch.get_num_threads()
    with _environment(device, threads):
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


@contextlib.contextmanager
def _environment(device: str, threads: int) -> Iterator[None]:
    new = {'OMP_NUM_THREADS': str(threads), 'MKL_NUM_THREADS': str(threads)}
    new['TOKENIZERS_PARALLELISM'] = 'false'
    new['CUDA_VISIBLE_DEVICES'] = device.partition(':')[2] if device != 'cpu' else ''
    before = {k: os.environ.get(k) for k in new}
    os.environ.update(new)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


def run_trials(
    setup: Setup,
    trials: Sequence[Trial],
    report: Callable[[Trial, dict[str, Any]], None],
    workers: int = 1,
    devices: Sequence[str] = ('cpu',),
) -> None:
    """Run ``trials`` and hand each row to ``report`` as it comes, in any order.

    Args:
        setup: of the workers.
        trials: what to run.
        report: writes the row.
        workers: processes; 0: in this one.
        devices: ``cpu`` or ``cuda:N``, handed out in turn.
    """
    if not trials:
        return
    if workers == 0:
        with in_this_process(devices[0], setup.threads):
            executor = _Executor(setup)
            for trial in trials:
                report(trial, executor.run(trial))
        return
    pool = [_Worker(i, setup, devices[i % len(devices)]) for i in range(min(workers, len(trials)))]
    try:
        _drive(pool, iter(trials), report)
    finally:
        for worker in pool:
            worker.stop()


def _drive(
    pool: Iterable[_Worker],
    trials: Iterator[Trial],
    report: Callable[[Trial, dict[str, Any]], None],
) -> None:
    busy: list[_Worker] = []
    for worker in pool:
        if (trial := next(trials, None)) is not None:
            worker.give(trial)
            busy.append(worker)
    while busy:
        by_end: dict[Any, _Worker] = {w.connection: w for w in busy}
        for end in wait(list(by_end)):
            worker = by_end[end]
            trial = worker.trial
            row = worker.take()
            if trial is not None:
                report(trial, row)
            if (following := next(trials, None)) is not None:
                worker.give(following)
            else:
                busy.remove(worker)
