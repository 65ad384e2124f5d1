"""The consumers of one queue, and whose turn it is.

Spec:   RabbitMQ: consumers of the highest priority first while they have room; among equals in turn.
Limits: a dispatch looks at as many consumers as there are messages, and at those that turn out to have no
        room: these are looked at again when `wake` says that they may have some.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush
from itertools import count
from typing import Protocol

from broker.model.channel import Prefetch
from broker.model.errors import AccessRefused
from broker.model.message import Slice
from broker.model.resource import spoken


class Consumer(Protocol):
    """Somebody to whom a queue pushes messages."""

    @property
    def priority(self) -> int: ...

    @property
    def acks(self) -> bool:
        """It acknowledges what it gets; otherwise handing over settles."""
        ...

    @property
    def exclusive(self) -> bool: ...

    @property
    def prefetch(self) -> Prefetch:
        """Its own window."""
        ...

    @property
    def channel(self) -> object:
        """Messages of one queue reach one channel in their order, through whichever of its consumers."""
        ...

    @property
    def window(self) -> object:
        """What it shares with others and what limits them together; None if there is no such thing."""
        ...

    def room(self) -> int:
        """How many messages it can take now."""
        ...

    def deliver(self, queue: Source, piece: Slice) -> None:
        """Take the messages; the contents may be gone when this returns."""
        ...

    def queue_deleted(self, queue: Source) -> None:
        """There will be no more."""
        ...


class Source(Protocol):
    """What a consumer gets messages from, and gives its acknowledgements to: a queue, or a reader of a log."""

    name: str
    vhost: str
    deleted: bool
    auto_delete: bool

    @property
    def ready_count(self) -> int: ...

    @property
    def consumers(self) -> Consumers: ...

    def dispatch(self) -> None:
        """Hand out what is ready to those who have room."""
        ...

    def acknowledge(self, piece: Slice) -> None: ...

    def reject(self, piece: Slice) -> None:
        """It is not wanted back."""
        ...

    def requeue(self, pieces: list[Slice], now_ms: int) -> None:
        """It is to be handed out again."""
        ...

    def remove_consumer(self, consumer: Consumer, now_ms: int) -> None: ...


class _Equals:
    """Consumers of one priority: a heap of those that may have room, by the turn that each had last."""

    __slots__ = ("numbers", "turns", "waiting")

    def __init__(self) -> None:
        self.turns: dict[Consumer, int] = {}
        """All consumers, with the number of the last turn of each."""
        self.waiting: list[tuple[int, Consumer]] = []
        self.numbers = count()

    def line_up(self, consumer: Consumer) -> None:
        """Behind all others."""
        self.turns[consumer] = number = next(self.numbers)
        heappush(self.waiting, (number, consumer))


class Consumers:
    """All consumers of a queue, highest priority first, and in each priority the next in turn first."""

    __slots__ = ("_by_priority", "_count", "_only", "_parked")

    def __init__(self) -> None:
        self._by_priority: dict[int, _Equals] = {}
        self._count = 0
        self._only: Consumer | None = None
        # They had no room when they were looked at last, and are in no heap.
        self._parked: set[Consumer] = set()

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Consumer]:
        for equals in list(self._by_priority.values()):
            yield from sorted(equals.turns, key=equals.turns.__getitem__)

    def add(self, consumer: Consumer, queue: str, vhost: str) -> None:
        """Raises AccessRefused if it or one that is there wants the queue alone."""
        if self._count and (consumer.exclusive or next(iter(self)).exclusive):  # an exclusive one is alone
            raise AccessRefused(f"{spoken('queue', queue, vhost)} in exclusive use")
        equals = self._by_priority.get(consumer.priority)
        if equals is None:
            equals = self._by_priority[consumer.priority] = _Equals()
            self._by_priority = dict(sorted(self._by_priority.items(), reverse=True))
        equals.line_up(consumer)
        self._count += 1
        self._only = consumer if self._count == 1 else None

    def remove(self, consumer: Consumer) -> None:
        equals = self._by_priority[consumer.priority]
        del equals.turns[consumer]
        self._parked.discard(consumer)
        equals.waiting = [entry for entry in equals.waiting if entry[1] is not consumer]
        equals.waiting.sort()
        if not equals.turns:
            del self._by_priority[consumer.priority]
        self._count -= 1
        self._only = next(iter(self)) if self._count == 1 else None

    def in_turn(self, count_max: int) -> list[tuple[Consumer, int]]:
        """Up to `count_max` of the highest priority that has consumers with room, in turn, with their room.

        They have to be given back: `served` takes them.
        """
        only = self._only
        if only is not None:
            room = only.room()
            return [(only, room)] if room > 0 else []
        for equals in self._by_priority.values():
            waiting = equals.waiting
            found: list[tuple[Consumer, int]] = []
            while waiting and len(found) < count_max:
                consumer = heappop(waiting)[1]
                room = consumer.room()
                if room > 0:
                    found.append((consumer, room))
                else:
                    self._parked.add(consumer)
            if found:
                return found
        return []

    def served(self, able: list[tuple[Consumer, int]], count: int) -> None:
        """Of those in turn the first `count` were served once or more, one after another.

        A `count` above their number says that it went round: then the turn is with the next one.
        """
        if self._only is not None:
            return
        turns = len(able)
        equals = self._by_priority[able[0][0].priority]
        for consumer, _ in able[count:]:
            heappush(equals.waiting, (equals.turns[consumer], consumer))
        for at in range(max(0, count - turns), count):
            equals.line_up(able[at % turns][0])

    def wake(self, consumer: Consumer) -> None:
        """It may have room again."""
        if consumer in self._parked:
            self._parked.discard(consumer)
            equals = self._by_priority[consumer.priority]
            heappush(equals.waiting, (equals.turns[consumer], consumer))
