"""What a study leaves on the disk: JSON lines that a kill cannot damage, and a lock."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cal_mm
from cal_mm.evaluation.results import software_versions
from cal_mm.files import locked, write_atomically

from .spec import StudyError

__all__ = ['Ledger', 'code_digest', 'provenance']

_PACKAGE = Path(cal_mm.__file__).parent

#: what reads results and does not make them
_REPORTS = {
    f'study/{name}.py'
    for name in ('outcomes', 'paired', 'plots', 'progress', 'ranks', 'report', 'tables', 'zoo')
}


def code_digest() -> str:
    """sha256 over the package's source files and their names, whatever folder they lie in."""
    found = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob('*.py')):
        name = path.relative_to(_PACKAGE).as_posix()
        if name not in _REPORTS:
            found.update(name.encode() + b'\0' + path.read_bytes() + b'\0')
    return found.hexdigest()


def provenance() -> dict[str, Any]:
    """Versions of the packages and digest of the code that a trial ran with."""
    # of the code that runs, installed or not
    software = {**software_versions(), 'cal_mm': cal_mm.__version__}
    return {'software': software, 'code_sha256': code_digest()}


class Ledger:
    """``results.jsonl``, ``selection.jsonl`` and the predictions of one study.

    A row is one ``write`` to a file opened for appending, forced to the disk. A line that a kill
    cut off is dropped when the file is read, and cut away before the next row is appended.

    Args:
        folder: of the study.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.results = self.folder / 'results.jsonl'
        self.selection = self.folder / 'selection.jsonl'

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Be the only process that writes here.

        Raises:
            StudyError: another one is at it.
        """
        with locked(self.folder / '.lock', wait=False) as held:
            if not held:
                raise StudyError(
                    f'{self.folder}: another process is running this study; wait for it, or give '
                    f'another --work-dir'
                )
            for path in (self.results, self.selection):
                _cut_tail(path)
            yield

    def rows(self) -> dict[str, dict[str, Any]]:
        """Trials by digest: the last row of each; one that finished wins over a failure."""
        found: dict[str, dict[str, Any]] = {}
        for row in read_lines(self.results):
            old = found.get(row['digest'])
            if old is None or row['status'] == 'done' or old['status'] != 'done':
                found[row['digest']] = row
        return {d: r for d, r in found.items() if self._whole(r)}

    def _whole(self, row: Mapping[str, Any]) -> bool:
        path = row.get('predictions')
        return path is None or (self.folder / path).is_file()

    def choices(self) -> list[dict[str, Any]]:
        """Choices, in the order they were made."""
        return read_lines(self.selection)

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a finished or failed trial."""
        append_line(self.results, row)

    def choose(self, row: Mapping[str, Any]) -> None:
        """Add a choice."""
        append_line(self.selection, row)

    def keep(self, name: str, data: bytes) -> str:
        """Write predictions; returns their path relative to the folder."""
        path = f'predictions/{name}.npz'
        write_atomically(self.folder / path, data)
        return path


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The complete JSON lines of a file; [] where there is none.

    Raises:
        StudyError: a line that is complete and no JSON object.
    """
    if not path.is_file():
        return []
    lines = path.read_bytes().split(b'\n')
    found = []
    for number, line in enumerate(lines[:-1], start=1):  # what follows the last newline is cut off
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError('no object')
        except ValueError as e:
            raise StudyError(
                f'{path}: line {number} is damaged ({e}); remove that line, its trial will be '
                f'run again'
            ) from e
        found.append(row)
    return found


def append_line(path: Path, row: Mapping[str, Any]) -> None:
    """One row, in one write."""
    text = json.dumps(row, allow_nan=False, sort_keys=True) + '\n'
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        data = text.encode()
        while data:
            data = data[os.write(file, data) :]
        os.fsync(file)
    finally:
        os.close(file)


def _cut_tail(path: Path) -> None:
    """Remove a last line without its end, which a kill left."""
    if not path.is_file():
        return
    content = path.read_bytes()
    whole = content.rfind(b'\n') + 1
    if whole < len(content):
        with open(path, 'r+b') as f:
            f.truncate(whole)
