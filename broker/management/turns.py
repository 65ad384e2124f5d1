"""Work that takes long, done in turns: messages are handed out in between.

Limits: one turn in each pass of trio's scheduler, however many requests need one: after its first turn a request
        waits in line for the next.
Why:    By time and not by number: a row of a list takes 5 us or 100, and each time that others get their turn
        may take as long as a turn itself.
"""

from __future__ import annotations

import time
from typing import Final

import trio

TURN_S: Final = 0.003

_line: Final = trio.Lock()


class Turns:
    """The walk over many things asks for a break after each of them, and gets one when it is time."""

    __slots__ = ("_ends",)

    def __init__(self) -> None:
        self._ends = time.perf_counter() + TURN_S

    async def take_break(self) -> None:
        """Let others run, if this turn has been long enough."""
        if time.perf_counter() >= self._ends:
            async with _line:  # given to the next one in line, which runs in the next pass
                pass
            self._ends = time.perf_counter() + TURN_S
