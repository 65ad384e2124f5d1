"""How long to wait before something is tried again.

Limits: from `FIRST_S`, twice as long each time, up to `MOST_S`, and up to a fifth less or more, so that many
        clients do not come back at once.
"""

from __future__ import annotations

import random
from typing import Final

import anyio

FIRST_S: Final = 0.05
MOST_S: Final = 1.0
_SPREAD: Final = 0.2


class Backoff:
    """Begins anew after a success."""

    __slots__ = ("_next_s",)

    def __init__(self) -> None:
        self._next_s = FIRST_S

    def reset(self) -> None:
        self._next_s = FIRST_S

    def take(self) -> float:
        """Seconds to wait this time."""
        taken = self._next_s * random.uniform(1 - _SPREAD, 1 + _SPREAD)
        self._next_s = min(2 * self._next_s, MOST_S)
        return taken

    async def pause(self) -> None:
        await anyio.sleep(self.take())
