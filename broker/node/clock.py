"""The only clock: milliseconds since 1970 that never jump.

Why:    Message times must mean something after a restart, so they are wall-clock times; but a clock that
        is set while the broker runs must not expire everything at once. So the wall clock is read at
        start, and the monotonic one of trio from then on, which is also what a test's mock clock moves.
"""

from __future__ import annotations

import time

import trio


class Clock:
    """Made inside `trio.run`."""

    def __init__(self) -> None:
        # Bound once: looking the clock up costs ten times as much as reading it.
        self._monotonic = trio.lowlevel.current_clock().current_time
        self._start = time.time() - self._monotonic()

    def now_ms(self) -> int:
        return int((self._start + self._monotonic()) * 1000)

    def seconds_until(self, moment_ms: int) -> float:
        return moment_ms / 1000 - self._start - self._monotonic()
