"""Cut what a server sends to its consumers into runs of deliveries: the client's reading half.

Flow:   as `broker.amqp.frames`, of which this is the reader for the other end.
Shape:  basic.deliver, a method frame: before (up to the consumer tag) | delivery tag u64 | after
        (redelivered, exchange, routing key, frame end); behind it the content
Limits: those of `broker.amqp.frames`; 4,096 envelopes are remembered, and forgotten together.
Why:    A server that drains a queue sends deliveries that differ in nothing but tag and body; such a
        run costs two comparisons and a slice for each. Others cost a look into a dictionary and at the
        content's frame headers. What does not lie whole in the buffer, has more than one body frame, or
        is unusual in any way goes frame by frame, and comes as ContentReceived.
"""

from __future__ import annotations

import struct
from typing import Final

from broker.amqp import methods
from broker.amqp.frames import Deliveries, DeliveryEnvelope, Event, FrameReader
from broker.amqp.spec import BASIC_CLASS, FRAME_BODY, FRAME_END, FRAME_HEADER, FRAME_METHOD, FRAME_OVERHEAD

_FRAME_START = struct.Struct(">BHI")
_CONTENT_HEADER = struct.Struct(">HHQ")
_TAG = struct.Struct(">Q")

_DELIVER_ID = struct.pack(">HH", *methods.BasicDeliver.id)
# In a basic.deliver frame: the octet that says how long the consumer tag behind it is.
_CONSUMER_TAG_AT: Final = 11
# Behind the consumer tag: delivery tag, redelivered, two empty strings and the frame end.
_REST_MIN: Final = 12
_HEADER_FRAME_MIN: Final = FRAME_OVERHEAD + 14
_KNOWN_ENVELOPES_MAX: Final = 4096


class DeliveryReader(FrameReader):
    """The reading half of a client's connection."""

    __slots__ = ("_before", "_behind", "_channel", "_content_at", "_envelope", "_envelopes", "_size")

    _known_id = _DELIVER_ID

    def __init__(self, message_size_max: int) -> None:
        super().__init__(message_size_max)
        self._envelopes: dict[tuple[bytes, bytes], DeliveryEnvelope] = {}
        # What stood around the delivery tag of the last delivery, up to its body: what the next one
        # most likely looks like, too.
        self._before = b"\xff"
        self._behind = b""
        self._content_at = 0
        self._size = 0
        self._channel = 0
        self._envelope: DeliveryEnvelope | None = None

    def _read_known(self, buffer: bytes, at: int, end: int, events: list[Event]) -> int:
        """Deliveries that lie whole in the buffer."""
        while buffer.startswith(_DELIVER_ID, at + 7):
            after = self._read_alike_deliveries(buffer, at, end, events)
            if after == at:
                after = self._read_delivery(buffer, at, end, events)
                if after == at:
                    break
            at = after
        return at

    def _read_alike_deliveries(self, buffer: bytes, at: int, end: int, events: list[Event]) -> int:
        """A run of deliveries with rising tags that are like the last one."""
        before, behind, size = self._before, self._behind, self._size
        envelope = self._envelope
        if envelope is None or self._channel in self._unfinished:
            return at
        skipped = len(before)
        behind_at = skipped + 8
        content_at = self._content_at
        unpack = _TAG.unpack_from
        contents: list[bytes] = []
        append = contents.append
        stop = at + size
        if stop > end or not buffer.startswith(before, at):
            return at
        first = tag = unpack(buffer, at + skipped)[0]
        while (
            stop <= end
            and buffer.startswith(behind, at + behind_at)
            and buffer[stop - 1] == FRAME_END
            and buffer.startswith(before, at)
            and unpack(buffer, at + skipped)[0] == tag
        ):
            append(buffer[at + content_at : stop])
            tag += 1
            at = stop
            stop += size
        if contents:
            _add(events, self._channel, envelope, first, contents)
        return at

    def _read_delivery(self, buffer: bytes, at: int, end: int, events: list[Event]) -> int:
        """One delivery, which becomes the one to compare the next with.

        Returns `at` itself when it is not all there, or unusual: then it is read frame by frame.
        """
        kind, channel, size = _FRAME_START.unpack_from(buffer, at)
        content_at = at + FRAME_OVERHEAD + size
        if (
            kind != FRAME_METHOD
            or size > self.frame_max - FRAME_OVERHEAD
            or channel in self._unfinished
            or content_at + _HEADER_FRAME_MIN > end
            or buffer[content_at - 1] != FRAME_END
        ):
            return at
        tag_at = at + _CONSUMER_TAG_AT + 1 + buffer[at + _CONSUMER_TAG_AT]
        if tag_at + _REST_MIN > content_at:
            return at
        shape = self._measure(buffer, content_at, end, channel)
        if shape is None:
            return at
        body_at, stop = shape
        before, after = buffer[at:tag_at], buffer[tag_at + 8 : content_at]
        envelope = self._envelopes.get((before, after))
        if envelope is None:
            envelope = self._parse_deliver(buffer[at:content_at], before, after)
        self._before = before
        self._behind = after + buffer[content_at:body_at]
        self._content_at = content_at - at
        self._size = stop - at
        self._channel = channel
        self._envelope = envelope
        _add(events, channel, envelope, _TAG.unpack_from(buffer, tag_at)[0], [buffer[content_at:stop]])
        return stop

    def _measure(self, buffer: bytes, at: int, end: int, channel: int) -> tuple[int, int] | None:
        """Where the octets of the body start, and where the content at `at` ends; None if it is not usual."""
        kind, number, size = _FRAME_START.unpack_from(buffer, at)
        body_at: int = at + FRAME_OVERHEAD + size
        if (
            kind != FRAME_HEADER
            or number != channel
            or size > self.frame_max - FRAME_OVERHEAD
            or body_at > end
            or body_at - at < _HEADER_FRAME_MIN
            or buffer[body_at - 1] != FRAME_END
        ):
            return None
        class_id, _, body_size = _CONTENT_HEADER.unpack_from(buffer, at + 7)
        if class_id != BASIC_CLASS or body_size > min(
            self._message_size_max, self.frame_max - FRAME_OVERHEAD
        ):
            return None
        if not body_size:
            return body_at, body_at
        stop: int = body_at + FRAME_OVERHEAD + body_size
        start = _FRAME_START.pack(FRAME_BODY, channel, body_size)
        if stop > end or not buffer.startswith(start, body_at) or buffer[stop - 1] != FRAME_END:
            return None
        return body_at + len(start), stop

    def _parse_deliver(self, frame: bytes, before: bytes, after: bytes) -> DeliveryEnvelope:
        method = methods.decode(frame[7:-1])
        assert isinstance(method, methods.BasicDeliver)
        if len(self._envelopes) >= _KNOWN_ENVELOPES_MAX:
            self._envelopes.clear()
        envelope = self._envelopes[before, after] = DeliveryEnvelope(
            method.consumer_tag, method.redelivered, method.exchange, method.routing_key
        )
        return envelope


def _add(
    events: list[Event], channel: int, envelope: DeliveryEnvelope, first: int, contents: list[bytes]
) -> None:
    """Lengthen the run that `events` ends with, or begin another."""
    last = events[-1] if events else None
    if (
        type(last) is Deliveries
        and last.envelope is envelope
        and last.channel == channel
        and last.first + len(last.contents) == first
    ):
        last.contents += contents
    else:
        events.append(Deliveries(channel, envelope, first, contents))
