"""A consumer that notes what it gets, and the channel that it is on."""

from __future__ import annotations

from typing import NamedTuple

from broker.model.channel import Ledger, Prefetch, Unacked
from broker.model.message import Slice, envelopes_of
from broker.model.queue import Queue
from model_messages import key_of, number_of

_UNLIMITED = 1 << 30


class Delivery(NamedTuple):
    number: int
    redelivered: bool


class Channel:
    """The ledger, and the window that its consumers share."""

    def __init__(self, limit: int = 0) -> None:
        self.ledger = Ledger()
        self.prefetch = Prefetch(limit)
        self.next_tag = 1
        self.got: list[Delivery] = []
        """What all its consumers got, in the order in which the client reads it."""

    def note(self, piece: Slice, queue: Queue, consumer: Consumer | None) -> None:
        self.ledger.add(Unacked(self.next_tag, piece, queue, consumer))
        self.next_tag += len(piece)

    def make_room(self, entries: list[Unacked]) -> None:
        for entry in entries:
            entry.make_room(self.prefetch)


class Consumer:
    """Fits the model's `Consumer`; `limit` is its own window, 0 is none."""

    def __init__(
        self,
        channel: Channel | None = None,
        *,
        limit: int = 0,
        priority: int = 0,
        acks: bool = True,
        exclusive: bool = False,
    ) -> None:
        self.channel = channel or Channel()
        self.prefetch = Prefetch(limit)
        self.priority = priority
        self.acks = acks
        self.exclusive = exclusive
        self.congested = False
        self.got: list[Delivery] = []
        self.pieces: list[Slice] = []
        self.deleted_with: list[Queue] = []

    @property
    def window(self) -> object:
        shared = self.channel.prefetch
        return shared if shared.limit else None

    def room(self) -> int:
        if self.congested:
            return 0
        own, shared = self.prefetch, self.channel.prefetch
        if not self.acks:
            return 0 if 0 < shared.limit <= shared.used else _UNLIMITED
        room = own.limit - own.used if own.limit else _UNLIMITED
        return min(room, shared.limit - shared.used) if shared.limit else room

    def deliver(self, queue: Queue, piece: Slice) -> None:
        assert len(piece.contents) == len(piece.offsets) > 0
        for envelope, content in zip(envelopes_of([piece]), piece.contents, strict=True):
            assert envelope.routing_key in ("q", key_of(number_of(content)))
        deliveries = [Delivery(number_of(content), piece.redelivered) for content in piece.contents]
        self.got += deliveries
        self.channel.got += deliveries
        self.pieces.append(piece)
        if self.acks:
            self.channel.note(piece, queue, self)
            self.prefetch.used += len(piece)
            self.channel.prefetch.used += len(piece)

    def queue_deleted(self, queue: Queue) -> None:
        self.deleted_with.append(queue)

    @property
    def numbers(self) -> list[int]:
        return [delivery.number for delivery in self.got]
