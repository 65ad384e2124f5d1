"""Work that is long, in portions: between two of them others have their turn.

Flow:   whoever works says `await portions.take(n)` when so much is done.
Why:    Counted and not timed: how long a portion takes, its unit says, and tests can count turns.
"""

from __future__ import annotations

import trio


class Portions:
    """Of one work."""

    def __init__(self, size: int) -> None:
        """`size` units of work are one portion."""
        self._size = size
        self._left = size

    async def take(self, units: int) -> None:
        """So many are done."""
        self._left -= units
        if self._left <= 0:
            self._left = self._size
            await trio.lowlevel.checkpoint()
