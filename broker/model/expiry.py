"""When the messages of a queue expire that have a time of their own.

Messages under a queue's time limit alone expire in the order in which they came, so that the queue
need only look at its head. Those with an expiration property may expire anywhere: this finds them.

Limits: an entry for each waiting slice, at the moment when the first of its messages expires, and one
        for each 100 ms of expiry times on the disk as long as messages with the same expiration follow
        each other there; entries of what does not wait any more are at most as many again, and a thousand.
"""

from __future__ import annotations

import heapq

from broker.model.message import Slice

# Messages on the disk leave up to this much later than their time.
_STORED_STEP_MS = 100
_SLACK = 1024


class Expiry:
    """Moments, and what is due then."""

    __slots__ = (
        "_added",
        "_slices",
        "_span_count",
        "_span_count_max",
        "_stored",
        "_stored_moments",
        "_waiting",
    )

    def __init__(self) -> None:
        self._slices: list[tuple[int, int, Slice]] = []
        self._added = 0
        self._waiting = 0
        self._stored: dict[int, list[list[int]]] = {}
        self._stored_moments: list[int] = []
        self._span_count = 0
        self._span_count_max = _SLACK

    def add(self, piece: Slice) -> None:
        """Watch a slice that has just begun to wait, perhaps not for the first time."""
        self._added += 1
        heapq.heappush(self._slices, (piece.expires_at, self._added, piece))
        self._waiting += 1

    def forget(self) -> None:
        """One of the watched slices does not wait any more.

        It stays in the heap until its time, unless most of the heap is like that. If it waits again, it is
        there twice.
        """
        self._waiting -= 1
        if len(self._slices) > 2 * self._waiting + _SLACK:
            each_once = {id(entry[2]): entry for entry in self._slices if entry[2].waiting}
            self._slices = list(each_once.values())
            heapq.heapify(self._slices)

    def add_stored(self, expires_at: int, offsets: range) -> None:
        """Watch messages that are not in memory."""
        moment = -(-expires_at // _STORED_STEP_MS) * _STORED_STEP_MS
        spans = self._stored.get(moment)
        if spans is None:
            spans = self._stored[moment] = []
            heapq.heappush(self._stored_moments, moment)
        if spans and spans[-1][1] == offsets.start:
            spans[-1][1] = offsets.stop
        else:
            spans.append([offsets.start, offsets.stop])
            self._span_count += 1

    def forget_stored(self, before: int) -> None:
        """Whatever has an offset before this one is not on the disk alone any more."""
        if self._span_count <= self._span_count_max:
            return
        found = {
            moment: [span for span in spans if span[1] > before] for moment, spans in self._stored.items()
        }
        self._stored = {moment: spans for moment, spans in found.items() if spans}
        self._stored_moments = sorted(self._stored)
        self._span_count = sum(map(len, self._stored.values()))
        self._span_count_max = 2 * self._span_count + _SLACK

    def next_moment(self) -> int:
        """The earliest moment at which something may be due; 0 if there is none."""
        while self._slices and not self._slices[0][2].waiting:
            heapq.heappop(self._slices)
        moments = [self._slices[0][0]] if self._slices else []
        return min(moments + self._stored_moments[:1], default=0)

    def due(self, now_ms: int) -> list[Slice]:
        """The waiting slices whose time has come, in the order of their times; they wait no more."""
        found = []
        while self._slices and self._slices[0][0] <= now_ms:
            piece = heapq.heappop(self._slices)[2]
            if piece.waiting:
                piece.waiting = False
                found.append(piece)
        self._waiting -= len(found)
        # Of messages that expire at the same moment the older ones go first.
        found.sort(key=lambda piece: (piece.expires_at, piece.offsets.start))
        return found

    def due_stored(self, now_ms: int) -> list[range]:
        """Offsets of which some have expired, if they wait on the disk still: those of the earliest moment."""
        if not self._stored_moments or self._stored_moments[0] > now_ms:
            return []
        spans = self._stored.pop(heapq.heappop(self._stored_moments))
        self._span_count -= len(spans)
        return [range(start, stop) for start, stop in spans]
