"""Many moments that are put off much more often than they come.

Shape:  a dictionary says when each key is due; a heap has an entry for each key, which may be too early
        and is then put back. So putting off, which each heartbeat does, costs one dictionary write.
Limits: entries in the heap of keys that are gone or were moved are at most as many as the keys, and 64.
"""

from __future__ import annotations

import heapq

_SLACK = 64


class Deadlines:
    """A moment (ms) for each key."""

    __slots__ = ("_entry_of", "_heap", "_moment_of")

    def __init__(self) -> None:
        self._moment_of: dict[str, int] = {}
        self._entry_of: dict[str, int] = {}
        """The earliest entry in the heap for each key that has one."""
        self._heap: list[tuple[int, str]] = []

    def set(self, key: str, moment_ms: int) -> None:
        """Instead of the moment that it had."""
        self._moment_of[key] = moment_ms
        entry = self._entry_of.get(key)
        if entry is None or moment_ms < entry:
            self._push(key, moment_ms)

    def remove(self, key: str) -> None:
        """It is not due any more; it need not have been."""
        self._moment_of.pop(key, None)

    def next_moment(self) -> int:
        """The earliest of all; 0 if there is none."""
        while self._heap:
            entry, key = self._heap[0]
            if self._entry_of.get(key) == entry and self._moment_of.get(key) == entry:
                return entry
            self._settle_first()
        return 0

    def due(self, now_ms: int) -> list[str]:
        """The keys whose moment has come, the earliest first; they are forgotten."""
        found = []
        while 0 < self.next_moment() <= now_ms:
            _, key = heapq.heappop(self._heap)
            del self._entry_of[key], self._moment_of[key]
            found.append(key)
        return found

    def _settle_first(self) -> None:
        """The first entry is not its key's moment: put it where it belongs, or drop it."""
        entry, key = heapq.heappop(self._heap)
        if self._entry_of.get(key) != entry:
            return
        del self._entry_of[key]
        moment = self._moment_of.get(key)
        if moment is not None:
            self._push(key, moment)

    def _push(self, key: str, moment_ms: int) -> None:
        self._entry_of[key] = moment_ms
        heapq.heappush(self._heap, (moment_ms, key))
        if len(self._heap) > 2 * len(self._moment_of) + _SLACK:
            self._entry_of = dict(self._moment_of)
            self._heap = [(moment, key) for key, moment in self._moment_of.items()]
            heapq.heapify(self._heap)
