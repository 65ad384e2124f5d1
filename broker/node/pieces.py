"""What all readers of topics keep inflated together.

Flow:   a reader asks how large the next piece of a batch may be, and says what it keeps.
Limits: `_SIZE_MAX` bytes for all; a piece is at most 1 MiB and half of what is left, so that there is always some for
        the next reader, and 64 KiB when there is little.
"""

from __future__ import annotations

from typing import Final

_SIZE_MAX: Final = 64 * 1024 * 1024
_PIECE_MAX: Final = 1024 * 1024
_PIECE_MIN: Final = 64 * 1024


class Pieces:
    """Keeps count."""

    def __init__(self) -> None:
        self.taken = 0
        """Bytes."""

    @property
    def size(self) -> int:
        """How large the next piece may be."""
        return max(_PIECE_MIN, min(_PIECE_MAX, (_SIZE_MAX - self.taken) // 2))
