"""What a channel owes: deliveries that are not acknowledged, and the room for more.

Flow:   delivery notes what went out under which tags; acknowledgements name tags and get slices back.
Limits: unacknowledged deliveries are limited by prefetch, as far as the client sets one.
Spec:   AMQP 0-9-1 basic.qos, basic.ack; RabbitMQ: a limit for each consumer (`global` false) and one
        that all consumers of the channel share (`global` true).
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

from broker.model.errors import PreconditionFailed
from broker.model.message import Slice

if TYPE_CHECKING:
    from broker.model.consumers import Consumer, Source


class Prefetch:
    """At most so many unacknowledged deliveries; limit 0 is none."""

    __slots__ = ("limit", "used")

    def __init__(self, limit: int = 0) -> None:
        self.limit = limit
        self.used = 0


class Unacked:
    """Deliveries with consecutive tags, of one queue, through one consumer or by basic.get."""

    __slots__ = ("consumer", "first_tag", "piece", "queue")

    def __init__(self, first_tag: int, piece: Slice, queue: Source, consumer: Consumer | None) -> None:
        self.first_tag = first_tag
        self.piece = piece
        self.queue = queue
        self.consumer = consumer
        """None for basic.get, which counts against no window."""

    @property
    def last_tag(self) -> int:
        return self.first_tag + len(self.piece.offsets) - 1

    def make_room(self, window: Prefetch) -> None:
        """It is settled and counts no more, neither for its consumer nor in the channel's window."""
        consumer = self.consumer
        if consumer is not None:
            count = len(self.piece.offsets)
            consumer.prefetch.used -= count
            window.used -= count
            self.queue.consumers.wake(consumer)


class Ledger:
    """The unacknowledged deliveries of a channel, by tag.

    Clients mostly acknowledge in order, so that entries leave at the front: `_start` walks on and the
    list is cut now and then. An entry from the middle leaves None behind, until it is at the front.
    """

    def __init__(self) -> None:
        self._entries: list[Unacked | None] = []
        self._tags: list[int] = []
        self._start = 0
        self.count = 0
        """Deliveries, not entries."""

    def add(self, entry: Unacked) -> None:
        """Tags rise from call to call."""
        self._entries.append(entry)
        self._tags.append(entry.first_tag)
        self.count += len(entry.piece.offsets)

    def settle_all(self) -> list[Unacked]:
        """Everything there is, in the order of the tags; the ledger is empty then."""
        found = [entry for entry in self._entries[self._start :] if entry is not None]
        self._entries.clear()
        self._tags.clear()
        self._start = self.count = 0
        return found

    def put_back(self, settled: list[Unacked]) -> None:
        """What was settled is outstanding again, as if nothing had happened."""
        found = [entry for entry in self._entries[self._start :] if entry is not None]
        entries = sorted([*found, *settled], key=lambda entry: entry.first_tag)
        self._entries = list(entries)
        self._tags = [entry.first_tag for entry in entries]
        self._start = 0
        self.count += sum([len(entry.piece.offsets) for entry in settled])

    def settle_up_to(self, tag: int) -> list[Unacked]:
        """Everything up to `tag`, which must be there itself; 0 is all. Raises PreconditionFailed."""
        if tag == 0:
            return self.settle_all()
        at = self._find(tag)
        if at < 0:
            raise unknown_delivery_tag(tag)
        found = [entry for entry in self._entries[self._start : at] if entry is not None]
        last = self._entries[at]
        assert last is not None
        self._entries[self._start : at] = [None] * (at - self._start)
        if tag == last.last_tag:
            found.append(last)
            self._entries[at] = None
            self._start = at + 1
        else:
            found.append(self._cut(at, last, tag))
            self._start = at
        self.count -= sum([len(entry.piece.offsets) for entry in found])
        self._tidy()
        return found

    def settle_each(self, first: int, last: int) -> tuple[list[Unacked], int | None]:
        """The deliveries `first` to `last`, and the first tag of them that is unknown, if one is.

        Those before an unknown tag are settled.
        """
        start = self._start
        if start < len(self._tags) and self._tags[start] == first:  # in order and whole, as mostly
            entry = self._entries[start]
            if entry is not None and entry.last_tag == last:
                self._entries[start] = None
                self.count -= last - first + 1
                self._tidy()
                return [entry], None
        found: list[Unacked] = []
        unknown = None
        tag = first
        while tag <= last:
            at = self._find(tag)
            if at < 0:
                unknown = tag
                break
            entry = self._entries[at]
            assert entry is not None
            end = min(last, entry.last_tag)
            found.append(self._take(at, entry, tag, end))
            tag = end + 1
        self.count -= sum([len(entry.piece.offsets) for entry in found])
        self._tidy()
        return found, unknown

    def holds(self, tag: int) -> bool:
        """This delivery is outstanding."""
        return self._find(tag) >= 0

    def _find(self, tag: int) -> int:
        """The position of the entry that holds `tag`, or -1."""
        at = bisect_right(self._tags, tag, self._start) - 1
        if at < self._start:
            return -1
        entry = self._entries[at]
        return at if entry is not None and tag <= entry.last_tag else -1

    def _take(self, at: int, entry: Unacked, first: int, last: int) -> Unacked:
        """Take tags out of an entry: all, from its front, or from its middle."""
        if first > entry.first_tag:
            before = self._cut(at, entry, first - 1)
            self._entries.insert(at, before)
            self._tags.insert(at, before.first_tag)
            at += 1
        if last < entry.last_tag:
            return self._cut(at, entry, last)
        self._entries[at] = None
        return entry

    def _cut(self, at: int, entry: Unacked, last: int) -> Unacked:
        """Make an entry of its own of what goes up to `last`."""
        count = last - entry.first_tag + 1
        taken = Unacked(entry.first_tag, entry.piece.cut(count), entry.queue, entry.consumer)
        entry.first_tag += count
        self._tags[at] = entry.first_tag
        return taken

    def _tidy(self) -> None:
        entries = self._entries
        while self._start < len(entries) and entries[self._start] is None:
            self._start += 1
        if self._start > 64 and self._start * 2 > len(entries):
            del entries[: self._start]
            del self._tags[: self._start]
            self._start = 0


def unknown_delivery_tag(tag: int) -> PreconditionFailed:
    """RabbitMQ's error for an acknowledgement of what is not outstanding."""
    return PreconditionFailed(f"unknown delivery tag {tag}")
