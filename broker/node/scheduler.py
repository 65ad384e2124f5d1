"""What must happen at a moment: one heap, one task.

Flow:   anybody asks for a call at a moment; `run` sleeps until the earliest and calls.
        A failure of the disk ends `run`; a bug is logged, and the other timers go on.
Limits: a timer that is cancelled stays in the heap until its moment, or until half of the heap is like that.
"""

from __future__ import annotations

import heapq
import itertools
import logging
from collections.abc import Callable

import trio

from broker.node.clock import Clock
from broker.storage.errors import StorageError

logger = logging.getLogger("broker.node")

_SLEEP_S_MAX = 3600.0
_SLACK = 1024


class Timer:
    """A call that is to come, unless it is cancelled."""

    __slots__ = ("_call", "_cancelled", "moment_ms")

    def __init__(self, moment_ms: int, call: Callable[[], None], cancelled: Callable[[], None]) -> None:
        self.moment_ms = moment_ms
        self._call: Callable[[], None] | None = call
        self._cancelled = cancelled

    @property
    def waiting(self) -> bool:
        return self._call is not None

    def cancel(self) -> None:
        if self._call is not None:
            self._call = None
            self._cancelled()

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
        self._waiting = 0
        self._earlier = trio.Event()

    def at(self, moment_ms: int, call: Callable[[], None]) -> Timer:
        timer = Timer(moment_ms, call, self._forget)
        self._waiting += 1
        if not self._timers or moment_ms < self._timers[0][0]:
            self._earlier.set()
        heapq.heappush(self._timers, (moment_ms, next(self._numbers), timer))
        return timer

    def _forget(self) -> None:
        """One of the timers does not wait any more."""
        self._waiting -= 1
        if len(self._timers) > 2 * self._waiting + _SLACK:
            self._timers = [entry for entry in self._timers if entry[2].waiting]
            heapq.heapify(self._timers)

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
            timer = heapq.heappop(self._timers)[2]
            if timer.waiting:
                self._waiting -= 1
                fired = True
                try:
                    timer.fire()
                except (StorageError, OSError):
                    raise
                except Exception:
                    logger.exception("a timer failed after an error of ours")
        return fired
