"""Yes or no in a buffer, read without making a GPU wait."""

from torch import Tensor

__all__ = ['SeenFlag']


class SeenFlag:
    """The value of a bool buffer, fetched from its device once per change.

    ``bool(buffer)`` in every step lets a GPU's queue run dry. A buffer that is replaced (``.to``,
    ``load_state_dict(assign=True)``) or written to is fetched again.
    """

    def __init__(self) -> None:
        self._seen: tuple[Tensor, int, bool] | None = None

    def read(self, buffer: Tensor) -> bool:
        """bool(buffer)."""
        seen = self._seen
        if seen is None or seen[0] is not buffer or seen[1] != buffer._version:
            self._seen = seen = (buffer, buffer._version, bool(buffer))
        return seen[2]
