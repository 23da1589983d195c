"""Files that several processes share: written whole or not at all, and locks."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ['locked', 'write_atomically']


def write_atomically(path: str | Path, data: bytes | str) -> None:
    """Write ``data`` beside ``path``, force it to the disk and rename it into place.

    Args:
        path: the file; folders that are missing are made.
        data: bytes, or text to be written as UTF-8.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f'.{target.name}.{os.getpid()}.tmp')
    try:
        with open(temporary, 'wb') as f:
            f.write(data.encode() if isinstance(data, str) else data)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(path: str | Path, wait: bool = True) -> Iterator[bool]:
    """Hold a lock among processes; it goes with the process that holds it, also when it is killed.

    Args:
        path: of the lock file, which stays.
        wait: until another process lets go; else give False at once.

    Yields:
        Whether the lock is held.
    """
    import fcntl  # not on Windows

    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with open(path, 'a', encoding='utf-8') as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True
