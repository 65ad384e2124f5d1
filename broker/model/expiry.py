"""When the messages of a queue expire that have a time of their own.

Messages under a queue's time limit alone expire in the order in which they came, so that the queue
need only look at its head. Those with an expiration property may expire anywhere: this finds them.

Limits: an entry for each waiting slice, and one for each 100 ms of expiry times on the disk as long as
        messages with the same expiration follow each other there.
"""

from __future__ import annotations

import heapq

from broker.model.message import Slice

# Messages on the disk leave up to this much later than their time.
_STORED_STEP_MS = 100
_SLACK = 1024


class Expiry:
    """Moments, and what is due then."""

    def __init__(self) -> None:
        self._slices: list[tuple[int, int, Slice]] = []
        self._waiting = 0
        self._stored: dict[int, list[list[int]]] = {}
        self._stored_moments: list[int] = []

    def add(self, piece: Slice) -> None:
        """Watch a slice that has just begun to wait."""
        heapq.heappush(self._slices, (piece.expires_at, piece.offsets.start, piece))
        self._waiting += 1

    def forget(self) -> None:
        """One of the watched slices does not wait any more.

        It stays in the heap until its time, unless most of the heap is like that.
        """
        self._waiting -= 1
        if len(self._slices) > 2 * self._waiting + _SLACK:
            self._slices = [entry for entry in self._slices if entry[2].waiting]
            heapq.heapify(self._slices)

    def add_stored(self, expires_at: int, offsets: range) -> None:
        """Watch messages that are not in memory."""
        moment = -(-expires_at // _STORED_STEP_MS) * _STORED_STEP_MS
        spans = self._stored.get(moment)
        if spans is None:
            self._stored[moment] = [[offsets.start, offsets.stop]]
            heapq.heappush(self._stored_moments, moment)
        elif spans[-1][1] == offsets.start:
            spans[-1][1] = offsets.stop
        else:
            spans.append([offsets.start, offsets.stop])

    def next_moment(self) -> int:
        """The earliest moment at which something may be due; 0 if there is none."""
        while self._slices and not self._slices[0][2].waiting:
            heapq.heappop(self._slices)
        moments = [self._slices[0][0]] if self._slices else []
        return min(moments + self._stored_moments[:1], default=0)

    def due(self, now_ms: int) -> list[Slice]:
        """The waiting slices whose time has come, each once."""
        found = []
        while self._slices and self._slices[0][0] <= now_ms:
            piece = heapq.heappop(self._slices)[2]
            if piece.waiting:
                found.append(piece)
        return found

    def due_stored(self, now_ms: int) -> list[range]:
        """Offsets of which some may have expired, and may wait on the disk still."""
        found = []
        while self._stored_moments and self._stored_moments[0] <= now_ms:
            spans = self._stored.pop(heapq.heappop(self._stored_moments))
            found += [range(start, stop) for start, stop in spans]
        return found
