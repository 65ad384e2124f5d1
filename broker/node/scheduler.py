"""What must happen at a moment: one heap, one task.

Flow:   anybody asks for a call at a moment; `run` sleeps until the earliest and calls.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

import trio

from broker.node.clock import Clock

_SLEEP_S_MAX = 3600.0


class Timer:
    """A call that is to come, unless it is cancelled."""

    __slots__ = ("_call", "moment_ms")

    def __init__(self, moment_ms: int, call: Callable[[], None]) -> None:
        self.moment_ms = moment_ms
        self._call: Callable[[], None] | None = call

    def cancel(self) -> None:
        self._call = None

    def fire(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            call()


class Scheduler:
    """Calls things when their time has come."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._timers: list[tuple[int, int, Timer]] = []
        self._numbers = itertools.count()
        self._earlier = trio.Event()

    def at(self, moment_ms: int, call: Callable[[], None]) -> Timer:
        timer = Timer(moment_ms, call)
        if not self._timers or moment_ms < self._timers[0][0]:
            self._earlier.set()
        heapq.heappush(self._timers, (moment_ms, next(self._numbers), timer))
        return timer

    def after(self, delay_ms: int, call: Callable[[], None]) -> Timer:
        return self.at(self._clock.now_ms() + delay_ms, call)

    async def run(self, after_calls: Callable[[], None]) -> None:
        """Forever; `after_calls` is called once each time that something was."""
        while True:
            self._earlier = trio.Event()
            wait = self._clock.seconds_until(self._timers[0][0]) if self._timers else _SLEEP_S_MAX
            if wait > 0:
                with trio.move_on_after(min(wait, _SLEEP_S_MAX)):
                    await self._earlier.wait()
            else:
                await trio.lowlevel.checkpoint()
            if self._fire_due():
                after_calls()

    def _fire_due(self) -> bool:
        now = self._clock.now_ms()
        fired = False
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2].fire()
            fired = True
        return fired
