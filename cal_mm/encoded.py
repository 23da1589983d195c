"""Encoded media that libraries decode without a word although their end is missing.

Free of torch, for the preparation scripts; the loader asks the same.
"""

__all__ = ['require_complete']

#: writers that do not know a wav's length put 0 or a value near 2**31 or 2**32
_UNKNOWN_SIZE = 0x7FFF0000
_PNG = b'\x89PNG\r\n\x1a\n'


def require_complete(encoded: bytes) -> None:
    """Refuse a PNG or wav file that was cut off; anything else passes.

    Raises:
        ValueError: the end is missing.
    """
    if encoded[:8] == _PNG and b'IEND' not in encoded:
        raise ValueError('the PNG is truncated: the end of the file is missing')
    if encoded[:4] == b'RIFF' and len(encoded) >= 8:
        declared = int.from_bytes(encoded[4:8], 'little')
        if 0 < declared < _UNKNOWN_SIZE and len(encoded) + 1 < declared + 8:
            raise ValueError(
                f'the wav is truncated: its header declares {declared + 8} bytes, it has '
                f'{len(encoded)}'
            )
