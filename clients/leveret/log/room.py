"""How much may be in memory at the same time.

Limits: `size_max`, of which each takes its part before it comes in, and gives it back when it goes. One that
        is larger than all of it cannot come in.
Why:    Those who wait are let in in the order in which they came: otherwise a large record waits for ever.
"""

from __future__ import annotations

from collections import deque

from anyio import Event


class Room:
    """Octets; `used` of them are taken."""

    __slots__ = ("_waiting", "size_max", "used")

    def __init__(self, size_max: int) -> None:
        self.size_max = size_max
        self.used = 0
        self._waiting: deque[tuple[int, Event]] = deque()

    def try_take(self, size: int) -> bool:
        """At once, if there is room and nobody waits."""
        if self._waiting or self.used + size > self.size_max:
            return False
        self.used += size
        return True

    async def take(self, size: int) -> None:
        """As soon as there is room."""
        assert size <= self.size_max
        if self.try_take(size):
            return
        entry = (size, Event())
        self._waiting.append(entry)
        try:
            await entry[1].wait()
        except BaseException:
            if entry[1].is_set():  # it was let in already
                self.give_back(size)
            else:
                self._waiting.remove(entry)
                self._let_in()
            raise

    def give_back(self, size: int) -> None:
        self.used -= size
        self._let_in()

    def _let_in(self) -> None:
        while self._waiting and self.used + self._waiting[0][0] <= self.size_max:
            size, event = self._waiting.popleft()
            self.used += size
            event.set()
