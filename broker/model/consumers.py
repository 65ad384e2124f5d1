"""The consumers of one queue, and whose turn it is.

Spec:   RabbitMQ: consumers of the highest priority first while they have room; among equals in turn.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Protocol

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


class Consumers:
    """All consumers of a queue, highest priority first, and in each priority the next in turn first."""

    def __init__(self) -> None:
        self._by_priority: dict[int, deque[Consumer]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Consumer]:
        for group in list(self._by_priority.values()):
            yield from list(group)

    def add(self, consumer: Consumer, queue: str, vhost: str) -> None:
        """Raises AccessRefused if it or somebody there wants the queue alone."""
        if self._count and (consumer.exclusive or next(iter(self)).exclusive):  # who is exclusive is alone
            raise AccessRefused(f"{spoken('queue', queue, vhost)} in exclusive use")
        self._by_priority.setdefault(consumer.priority, deque()).append(consumer)
        self._by_priority = dict(sorted(self._by_priority.items(), reverse=True))
        self._count += 1

    def remove(self, consumer: Consumer) -> None:
        group = self._by_priority[consumer.priority]
        group.remove(consumer)
        if not group:
            del self._by_priority[consumer.priority]
        self._count -= 1

    def with_room(self) -> list[tuple[Consumer, int]]:
        """Those of the highest priority among which anybody has room, in turn, with their room."""
        for group in self._by_priority.values():
            found = []
            for consumer in group:
                room = consumer.room()
                if room > 0:
                    found.append((consumer, room))
            if found:
                return found
        return []

    def served(self, consumer: Consumer) -> None:
        """It is behind its equals now."""
        if self._count == 1:
            return
        group = self._by_priority[consumer.priority]
        while group[-1] is not consumer:
            group.rotate(-1)
