"""Seeds from text: the one rule by which anything in this project draws for a sample.

Free of torch: importing that would cost every process of a preparation 300 MB.
"""

import zlib

__all__ = ['sample_key']


def sample_key(*parts: object) -> int:
    """A stable 32-bit key of ``parts``, for seeding (``hash()`` is salted and differs per process).

    Returns:
        int in [0, 2**32): crc32 of the parts' text, joined by a separator that keeps
        ``('ab', 'c')`` and ``('a', 'bc')`` apart.
    """
    return zlib.crc32('\x1f'.join(str(p) for p in parts).encode())
