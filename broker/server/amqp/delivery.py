"""Push messages to a consumer: basic.deliver and the content behind it.

Flow:   a queue calls `deliver` with a slice; the octets go into the connection's outbox, the tags into
        the channel's ledger if they are to be acknowledged.
Shape:  basic.deliver: before (up to the consumer tag) | delivery tag u64 | after (redelivered, exchange,
        routing key, frame end); only the tag differs within a slice.
Limits: a consumer whose connection's outbox is over its mark has no room; the other consumers go on.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from broker.amqp import content, methods, wire
from broker.amqp.envelope import Envelope
from broker.amqp.spec import FRAME_METHOD
from broker.model.channel import Prefetch, Unacked
from broker.model.consumers import Source
from broker.model.message import Slice
from broker.node.peers import ConsumerSnapshot

if TYPE_CHECKING:
    from broker.server.amqp.channel import Channel

_FRAME_START = struct.Struct(">BHI")
_DELIVER_ID = struct.pack(">HH", *methods.BasicDeliver.id)
_pack_tag = struct.Struct(">Q").pack
_UNLIMITED: Final = 1 << 30
# Contents with larger bodies are handed to the socket as they are and not joined with others.
_LARGE: Final = 32 * 1024


class AmqpConsumer:
    """A consumer on a channel; it fits the model's `Consumer`."""

    __slots__ = (
        "_connection",
        "_starts",
        "acks",
        "arguments",
        "channel",
        "exclusive",
        "prefetch",
        "priority",
        "queue",
        "tag",
    )

    def __init__(
        self,
        channel: Channel,
        tag: str,
        queue: Source,
        *,
        acks: bool,
        exclusive: bool,
        priority: int,
        prefetch: int,
        arguments: Mapping[str, Any],
    ) -> None:
        self.channel = channel
        self.tag = tag
        self.queue = queue
        self.acks = acks
        self.exclusive = exclusive
        self.priority = priority
        self.prefetch = Prefetch(prefetch)
        self.arguments = arguments
        self._connection = channel.connection
        # By the size of what comes behind the tag.
        self._starts: dict[int, bytes] = {}

    @property
    def window(self) -> Prefetch | None:
        """All consumers of the channel share what `basic.qos` with `global` set."""
        shared = self.channel.prefetch
        return shared if shared.limit else None

    def room(self) -> int:
        if self._connection.congested:
            return 0
        own, shared = self.prefetch, self.channel.prefetch
        if not self.acks:  # as RabbitMQ up to 4.2: it takes no room of a window, and waits while that is full
            return 0 if 0 < shared.limit <= shared.used else _UNLIMITED
        room = own.limit - own.used if own.limit else _UNLIMITED
        return min(room, shared.limit - shared.used) if shared.limit else room

    def deliver(self, queue: Source, piece: Slice) -> None:
        channel = self.channel
        contents = piece.contents
        count = len(contents)
        tag = channel.next_tag
        channel.next_tag = tag + count
        if self.acks:  # before anything can go wrong, so that it comes back then
            channel.ledger.add(Unacked(tag, piece, queue, self))
            self.prefetch.used += count
            channel.prefetch.used += count
            if channel.prefetch.limit:  # the consumers that share it have it in turn
                channel.consumers[self.tag] = channel.consumers.pop(self.tag)
        try:
            envelope = piece.envelope
            assert type(envelope) is Envelope
            if piece.envelopes is not None:
                self._deliver_various(piece.envelopes, contents, tag, piece.redelivered)
            else:
                contents = self._fitted(envelope, contents)
                after = envelope.delivery_end(piece.redelivered)
                before = self._starts.get(len(after)) or self._start(len(after))
                if piece.size >= count * _LARGE:
                    for number, closed in enumerate(contents, tag):
                        self._connection.send(b"%b%b%b" % (before, _pack_tag(number), after))
                        self._connection.send(closed)
                elif count > 1:
                    parts = [before, b"", after, b""] * count
                    parts[1::4] = map(_pack_tag, range(tag, tag + count))
                    parts[3::4] = contents
                    self._connection.send(b"".join(parts))
                else:
                    self._connection.send(b"%b%b%b%b" % (before, _pack_tag(tag), after, contents[0]))
        except Exception as error:
            self._connection.fail_soon(error)
        channel.count_delivered(count, self.acks, piece.redelivered)

    def _deliver_various(
        self, envelopes: Sequence[Any], contents: list[bytes], tag: int, redelivered: bool
    ) -> None:
        """Messages with an envelope each."""
        starts = self._starts
        number = self.channel.number
        frame_max = self._connection.frame_max
        parts: list[bytes] = []
        for envelope, closed in zip(envelopes, contents, strict=True):
            after = envelope.delivery_end(redelivered)
            before = starts.get(len(after)) or self._start(len(after))
            if envelope.channel != number or envelope.frame_max > frame_max:
                (closed,) = self._fitted(envelope, [closed])
            parts += (before, _pack_tag(tag), after, closed)
            tag += 1
        self._connection.send(b"".join(parts))

    def _fitted(self, envelope: Envelope, contents: list[bytes]) -> list[bytes]:
        """The contents as this channel may send them."""
        number = self.channel.number
        if envelope.frame_max > self._connection.frame_max:
            return content.fitted(contents, number, self._connection.frame_max)
        return contents if envelope.channel == number else content.on_channel(contents, number)

    def _start(self, end_size: int) -> bytes:
        """The basic.deliver frame before its delivery tag, when so many bytes come behind that."""
        before = _DELIVER_ID + wire.shortstr(self.tag)
        size = len(before) + 8 + end_size - 1
        start = self._starts[end_size] = _FRAME_START.pack(FRAME_METHOD, self.channel.number, size) + before
        return start

    def queue_deleted(self, queue: Source) -> None:
        """The consumer ends with its queue; a client that can hear it is told."""
        self.channel.forget_consumer(self)
        if self._connection.capability("consumer_cancel_notify"):
            told = methods.BasicCancel(consumer_tag=self.tag, nowait=True)
            self._connection.send_behind(methods.encode(self.channel.number, told))

    def snapshot(self) -> ConsumerSnapshot:
        return ConsumerSnapshot(
            self.tag,
            self.queue.name,
            self.acks,
            self.exclusive,
            self.prefetch.limit,
            self.priority,
            True,
            self.arguments,
        )
