"""Cut an AMQP byte stream into methods, contents and runs.

Flow:   the connection gives what it received; it takes events, in the order of the stream.
Shape:  type u8 | channel u16 | size u32 | payload[size] | CE, big endian
        a message is a method frame, a content header frame and body frames, on one channel
Limits: frame_max as agreed (4,096 before that), and 8 octets more, as RabbitMQ lets them pass; a message
        may have `message_size_max` octets, and the unfinished messages of one connection together that or
        64 MiB, and a sixteenth more for their frames, of which each counts for 64 octets beside its own.
Spec:   AMQP 0-9-1 section 4.2.3 and 2.3.5; RabbitMQ's texts.
Why:    This is the hottest file of the broker. A publisher in a loop sends the same basic.publish frame,
        and mostly the same content header, again and again: `startswith` finds that out at the speed of
        memcmp. All consecutive messages of a channel become one event, and in it all with the same
        envelope one run. What does not lie whole in the buffer, or is cut in another way than usual,
        goes frame by frame through `_read_frame`, which is the plain form of the rest: the tests hold
        that both see the same.
"""

from __future__ import annotations

import struct
import sys
from dataclasses import dataclass
from typing import ClassVar, Final, TypeAlias

from broker.amqp import content, methods
from broker.amqp.envelope import Envelope, PublishRun, envelope_of
from broker.amqp.errors import ProtocolError, RemoteProtocolError
from broker.amqp.properties import NO_FACTS, Facts, facts_at, facts_of
from broker.amqp.spec import (
    BASIC_CLASS,
    FRAME_BODY,
    FRAME_END,
    FRAME_HEADER,
    FRAME_HEARTBEAT,
    FRAME_METHOD,
    FRAME_OVERHEAD,
    FRAME_SIZE_MIN,
    ReplyCode,
)

_FRAME_START = struct.Struct(">BHI")
_CONTENT_HEADER = struct.Struct(">HHQ")
_unpack_size = struct.Struct(">I").unpack_from
_unpack_frame_start = _FRAME_START.unpack_from
# kind | channel | size | class | weight | body size
_unpack_header_frame = struct.Struct(">BHIHHQ").unpack_from
# kind | channel | size, class, method | tag | bits | frame end
_unpack_ack = struct.Struct(">BH8xQBB").unpack_from
_unpack_ack_rest = struct.Struct(">QBB").unpack_from

_PUBLISH_ID = b"\x00\x3c\x00\x28"
# Between type and channel number, and the tag, of a basic.ack frame: size 13, class 60, method 80.
_ACK_MIDDLE = b"\x00\x00\x00\x0d\x00\x3c\x00\x50"
_ACK_TAG_AT = 11
_ACK_FRAME_SIZE = 21
_HEADER_FRAME_MIN = FRAME_OVERHEAD + 14

_KNOWN_PUBLISHES_MAX: Final = 4096
# Each basic.publish frame has an envelope for each kind of properties that came behind it.
_ENVELOPES_MAX: Final = 4
# After so many messages with different headers, look whether they have become alike.
_LOOK_FOR_ALIKE: Final = 16
# What the unfinished messages of a connection may have together, even if one may not have as much.
_UNFINISHED_MIN: Final = 64 * 1024 * 1024
# What keeping a frame costs beside its octets.
_FRAME_COST: Final = 64

HEARTBEAT_FRAME: Final = b"\x08\x00\x00\x00\x00\x00\x00\xce"


@dataclass(slots=True, eq=False)
class MethodReceived:
    """A method without content."""

    channel: int
    method: methods.Method


@dataclass(slots=True, eq=False)
class ContentReceived:
    """A method with its content (see `broker.amqp.content`); only what servers send comes this way.

    Nobody has looked at its properties yet: decoding them may say that they are malformed.
    """

    channel: int
    method: methods.Method
    content: bytes


class DeliveryEnvelope:
    """What deliveries to a consumer have in common."""

    __slots__ = ("consumer_tag", "exchange", "redelivered", "routing_key")

    def __init__(self, consumer_tag: str, redelivered: bool, exchange: str, routing_key: str) -> None:
        self.consumer_tag = consumer_tag
        self.redelivered = redelivered
        self.exchange = exchange
        self.routing_key = routing_key


@dataclass(slots=True, eq=False)
class Deliveries:
    """Consecutive basic.delivers with the same envelope and, from `first` on, consecutive tags.

    Of their properties the same is true as of those in ContentReceived.
    """

    channel: int
    envelope: DeliveryEnvelope
    first: int
    contents: list[bytes]


@dataclass(slots=True, eq=False)
class Publishes:
    """Consecutive messages on one channel, whatever their envelopes: one event for all of them."""

    channel: int
    runs: list[PublishRun]


@dataclass(slots=True, eq=False)
class AckRun:
    """`first` to `last` were acknowledged, each by a basic.ack of its own or, if `multiple`, all up to `last`."""

    channel: int
    first: int
    last: int
    multiple: bool


@dataclass(slots=True, eq=False)
class OversizedContent:
    """A message whose header announces more than the limit; its body is passed over."""

    channel: int
    size: int


@dataclass(slots=True, eq=False)
class ProtocolFailed:
    """The stream broke a rule and can be read no further."""

    channel: ClassVar = 0
    error: ProtocolError


Event: TypeAlias = (
    MethodReceived | ContentReceived | Publishes | Deliveries | AckRun | OversizedContent | ProtocolFailed
)


class _Publish:
    """A basic.publish frame that was parsed once, with the envelopes that it made."""

    __slots__ = ("_envelopes", "channel", "envelope")
    id = methods.BasicPublish.id

    def __init__(self, envelope: Envelope) -> None:
        self.channel = envelope.channel
        self.envelope = envelope
        """The one that came last."""
        self._envelopes: dict[Facts, Envelope] = {}

    def with_facts(self, facts: Facts) -> Envelope:
        """The envelope of messages with these facts behind the same basic.publish frame."""
        envelope = self._envelopes.get(facts)
        if envelope is None:
            if len(self._envelopes) >= _ENVELOPES_MAX:
                self._envelopes.clear()
            envelope = self._envelopes[facts] = self.envelope.with_facts(facts)
        self.envelope = envelope
        return envelope


@dataclass(slots=True, eq=False)
class _Unfinished:
    """A message of which some frames have come; `frames` is None while its body is passed over."""

    method: methods.Method | _Publish
    frames: list[bytes] | None
    remaining: int
    """Octets of the body that are still to come; -1 before the content header."""
    facts: Facts | None = None


class FrameReader:
    """The reading half of one connection."""

    __slots__ = (
        "_alike",
        "_alike_body_size",
        "_alike_envelope",
        "_alike_size",
        "_alike_skipped",
        "_message_size_max",
        "_missing",
        "_publishes",
        "_rest",
        "_unfinished",
        "_unfinished_max",
        "_unfinished_size",
        "failed",
        "frame_max",
        "more",
    )

    _known_id: ClassVar = _PUBLISH_ID
    """Class and method of what `_read_known` reads."""

    def __init__(self, message_size_max: int) -> None:
        self.frame_max = FRAME_SIZE_MIN
        self._message_size_max = message_size_max
        self._rest = b""
        # Of the message that it begins with, the bytes that are still to come, if that is known.
        self._missing = 0
        self.failed = False
        """The stream broke a rule: nothing is read any more."""
        self.more = False
        """The last `read` reached its limit: another one with no data goes on."""
        self._publishes: dict[bytes, _Publish] = {}
        self._unfinished: dict[int, _Unfinished] = {}
        self._unfinished_max = max(message_size_max, _UNFINISHED_MIN) * 17 // 16
        self._unfinished_size = 0
        # What the next messages may begin with: basic.publish, content header, the start of the body
        # frame. Nothing was learned yet; a peer may still begin a frame with that byte.
        self._alike = b"\xff"
        self._alike_skipped = self._alike_size = self._alike_body_size = 0
        self._alike_envelope: Envelope | None = None

    @property
    def unfinished(self) -> bool:
        """Some frames of a message have come, and not all."""
        return bool(self._unfinished)

    @property
    def cut_short(self) -> bool:
        """Some bytes of a frame, or some frames of a message, have come, and not all."""
        return bool(self._rest or self._unfinished)

    @property
    def kept(self) -> int:
        """Octets that wait for the rest of their frame or message."""
        return len(self._rest) + self._unfinished_size

    def give_up(self) -> None:
        """Read nothing any more, and drop what is unfinished."""
        self.failed = True
        self.more = False
        self._missing = 0
        self._rest = b""
        self._unfinished.clear()
        self._unfinished_size = 0

    def read(self, data: bytes, runs_max: int = sys.maxsize) -> list[Event]:
        """The events that `data` completes, of so many frames or runs of frames at most.

        The last one is ProtocolFailed when the stream broke a rule; nothing is read after that.
        """
        events: list[Event] = []
        missing, self._missing = self._missing, 0
        if self.failed:
            return events
        if 0 < missing < len(data):  # the message that was cut, without copying all that comes behind it
            self._scan(self._rest + data[:missing], 0, runs_max, events)
            if not self._rest and not self.failed:
                self._scan(data, missing, runs_max, events)
                return events
            data = data[missing:]
        if not self.failed:
            self._scan(self._rest + data if self._rest else data, 0, runs_max, events)
        return events

    def _scan(self, buffer: bytes, at: int, runs_max: int, events: list[Event]) -> None:
        """Read from `at` on, and keep what is not whole."""
        end = len(buffer)
        self.more = False
        try:
            for _ in range(runs_max):
                if end - at < FRAME_OVERHEAD:
                    break
                if buffer.startswith(self._alike, at):
                    after = self._read_alike(buffer, at, end, events)
                elif buffer.startswith(_ACK_MIDDLE, at + 3) and end - at >= _ACK_FRAME_SIZE:
                    after = self._read_acks(buffer, at, end, events)
                elif buffer.startswith(self._known_id, at + 7):
                    after = self._read_known(buffer, at, end, events)
                else:
                    after = at
                if after == at:
                    after = self._read_frame(buffer, at, end, events)
                    if after == at:
                        break
                at = after
            else:
                self.more = True
        except ProtocolError as error:
            events.append(ProtocolFailed(error))
            self.give_up()
            return
        self._rest = buffer[at:]

    # ---- messages that lie whole in the buffer ----

    def _read_alike(self, buffer: bytes, at: int, end: int, events: list[Event]) -> int:
        """A run of messages that differ in nothing but the bytes of their bodies."""
        envelope = self._alike_envelope
        if envelope is None or envelope.channel in self._unfinished:
            return at
        alike = self._alike
        skipped = self._alike_skipped
        size = self._alike_size
        contents: list[bytes] = []
        append = contents.append
        after = at + size
        while after <= end and buffer.startswith(alike, at):
            if buffer[after - 1] != FRAME_END:
                break  # what came before it counts; reading it by itself says what is wrong
            append(buffer[at + skipped : after])
            at = after
            after += size
        if contents:
            _add(events, envelope, contents, self._alike_body_size)
        return at

    def _learn_alike(self, alike: bytes, skipped: int, size: int, envelope: Envelope, body_size: int) -> None:
        """More messages may begin like this one."""
        self._alike = alike
        self._alike_skipped = skipped
        self._alike_size = size
        self._alike_envelope = envelope
        self._alike_body_size = body_size

    def _read_known(self, buffer: bytes, at: int, end: int, events: list[Event]) -> int:
        """Messages with basic.publish frames that were parsed before, each with a header of its own.

        It stops at what is not whole or not as usual: reading that by itself says what it is.
        """
        publishes = self._publishes
        frame_max = self.frame_max
        body_size_max = min(self._message_size_max, frame_max - FRAME_OVERHEAD)
        frame = b"\xff"
        publish = None
        runs: list[PublishRun] = []
        run = None
        channel = -1
        count = 0
        while True:
            if not buffer.startswith(frame, at):
                if not buffer.startswith(_PUBLISH_ID, at + 7):
                    break
                frame = buffer[at : at + FRAME_OVERHEAD + _unpack_size(buffer, at + 3)[0]]
                publish = publishes.get(frame)
                if publish is None:
                    break
                if publish.channel != channel:
                    channel = publish.channel
                    if channel in self._unfinished:
                        break
                    runs = _runs_of(channel, events)
                    run = runs[-1] if runs else None
            assert publish is not None
            header_at = at + len(frame)
            if end - header_at < _HEADER_FRAME_MIN:
                break
            kind, number, size, class_id, _, body_size = _unpack_header_frame(buffer, header_at)
            body_at: int = header_at + size + FRAME_OVERHEAD
            stop = body_at
            if body_size:
                stop += body_size + FRAME_OVERHEAD
            if (
                stop > end
                or kind != FRAME_HEADER
                or number != channel
                or class_id != BASIC_CLASS
                or body_size > body_size_max
                or not 14 <= size <= frame_max
                or buffer[body_at - 1] != FRAME_END
                or buffer[stop - 1] != FRAME_END
            ):
                break
            if body_size and _unpack_frame_start(buffer, body_at) != (FRAME_BODY, channel, body_size):
                break
            facts = facts_at(buffer, header_at + content.PROPERTIES_AT, body_at - 1)
            envelope = publish.envelope
            if envelope.facts is not facts:
                envelope = publish.with_facts(facts)
            if run is not None and run.envelope is envelope:
                run.contents.append(buffer[header_at:stop])
                run.size += body_size
                if run.body_size != body_size:
                    run.body_size = None
            else:
                run = PublishRun(envelope, [buffer[header_at:stop]], body_size, body_size)
                if not runs:
                    events.append(Publishes(channel, runs))
                runs.append(run)
            if not count % _LOOK_FOR_ALIKE:
                alike = buffer[at : min(body_at + 7, stop)]
                if buffer.startswith(alike, stop):
                    self._learn_alike(alike, len(frame), stop - at, envelope, body_size)
                    return stop
            count += 1
            at = stop
        return at

    def _read_acks(self, buffer: bytes, at: int, end: int, events: list[Event]) -> int:
        """A run of basic.acks on one channel with rising delivery tags."""
        kind, channel, first, bits, mark = _unpack_ack(buffer, at)
        if kind != FRAME_METHOD or channel in self._unfinished:
            return at
        if mark != FRAME_END:
            raise _bad_end(buffer, at)
        prefix = buffer[at : at + _ACK_TAG_AT]
        at += _ACK_FRAME_SIZE
        last = first
        if not bits & 1:
            while end - at >= _ACK_FRAME_SIZE and buffer.startswith(prefix, at):
                tag, more_bits, mark = _unpack_ack_rest(buffer, at + _ACK_TAG_AT)
                if tag != last + 1 or more_bits & 1 or mark != FRAME_END:
                    break
                last = tag
                at += _ACK_FRAME_SIZE
        events.append(AckRun(channel, first, last, bool(bits & 1)))
        return at

    def _read_publish(self, buffer: bytes, at: int, after: int, end: int, events: list[Event]) -> int:
        """A basic.publish, and its content if that lies whole behind it."""
        frame = buffer[at:after]
        publish = self._publishes.get(frame)
        if publish is None:
            publish = self._parse_publish(frame)
        channel = publish.channel
        if channel in self._unfinished:
            raise _content_expected(self._unfinished[channel])
        stop = self._read_known(buffer, at, end, events)
        if stop == at:
            self._missing = self._missing_of(buffer, after, end, channel)
            if not self._missing:
                self._begin(channel, publish)
                return after
        return stop

    def _missing_of(self, buffer: bytes, at: int, end: int, channel: int) -> int:
        """How many bytes the one body frame of the content at `at` lacks; 0 if it is not that which lacks some."""
        if end - at < _HEADER_FRAME_MIN:
            return 0
        kind, number, size, class_id, _, body_size = _unpack_header_frame(buffer, at)
        body_at = at + size + FRAME_OVERHEAD
        begun = (
            (kind, number, class_id) == (FRAME_HEADER, channel, BASIC_CLASS)
            and 14 <= size <= self.frame_max
            and 0 < body_size <= min(self._message_size_max, self.frame_max - FRAME_OVERHEAD)
            and body_at + FRAME_OVERHEAD <= end < body_at + FRAME_OVERHEAD + body_size
            and buffer[body_at - 1] == FRAME_END
            and _unpack_frame_start(buffer, body_at) == (FRAME_BODY, channel, body_size)
        )
        return body_at + FRAME_OVERHEAD + body_size - end if begun else 0

    def _parse_publish(self, frame: bytes) -> _Publish:
        method = methods.decode(frame[7:-1])
        assert isinstance(method, methods.BasicPublish)
        envelope = envelope_of(
            int.from_bytes(frame[1:3]),
            self.frame_max,
            method.exchange,
            method.routing_key,
            NO_FACTS,
            method.mandatory,
            method.immediate,
        )
        publish = _Publish(envelope)
        if len(self._publishes) >= _KNOWN_PUBLISHES_MAX:
            self._publishes.clear()
        self._publishes[frame] = publish
        return publish

    # ---- frame by frame ----

    def _read_frame(self, buffer: bytes, at: int, end: int, events: list[Event]) -> int:
        """One frame; returns `at` itself when the frame is not whole yet."""
        kind: int
        channel: int
        size: int
        kind, channel, size = _FRAME_START.unpack_from(buffer, at)
        if kind not in (FRAME_METHOD, FRAME_HEADER, FRAME_BODY, FRAME_HEARTBEAT):
            raise _frame_error(kind, buffer[at + 7 : min(at + 7 + size, end)], "unknown_frame")
        if size > self.frame_max:
            limit = self.frame_max - FRAME_OVERHEAD
            raise _frame_error(kind, b"", f"{{frame_too_large,{size},{limit}}}")
        after = at + FRAME_OVERHEAD + size
        if after > end:
            return at
        if buffer[after - 1] != FRAME_END:
            raise _bad_end(buffer, at)
        if kind == FRAME_METHOD:
            if buffer.startswith(_PUBLISH_ID, at + 7):
                return self._read_publish(buffer, at, after, end, events)
            self._read_method(buffer, at, after, channel, events)
        elif kind == FRAME_HEADER:
            self._read_header(buffer[at:after], channel, events)
        elif kind == FRAME_BODY:
            self._read_body(buffer[at:after], channel, events)
        elif channel or size:
            raise RemoteProtocolError(
                ReplyCode.UNEXPECTED_FRAME, f"type {kind}, {_snippet(buffer[at + 7 : after - 1])}"
            )
        return after

    def _read_method(self, buffer: bytes, at: int, after: int, channel: int, events: list[Event]) -> None:
        method = methods.decode(buffer[at + 7 : after - 1])
        if channel in self._unfinished:
            if not isinstance(method, methods.ChannelClose | methods.ChannelCloseOk):
                raise _content_expected(self._unfinished[channel])
            self._drop(channel)  # whoever closes a channel need not finish the message
        if method.id in methods.WITH_CONTENT:
            self._begin(channel, method)
        elif isinstance(method, methods.BasicAck):
            tag = method.delivery_tag
            events.append(AckRun(channel, tag, tag, method.multiple))
        else:
            events.append(MethodReceived(channel, method))

    def _begin(self, channel: int, method: methods.Method | _Publish) -> None:
        self._unfinished[channel] = _Unfinished(method, [], -1)

    def _drop(self, channel: int) -> None:
        message = self._unfinished.pop(channel)
        self._unfinished_size -= _cost(message.frames or [])

    def _read_header(self, frame: bytes, channel: int, events: list[Event]) -> None:
        message = self._unfinished.get(channel)
        if message is None:
            raise _method_expected()
        if message.remaining >= 0:
            raise _content_expected(message)
        if len(frame) < _HEADER_FRAME_MIN:
            raise RemoteProtocolError(ReplyCode.SYNTAX_ERROR, "a content header of less than 14 octets")
        class_id, _, body_size = _CONTENT_HEADER.unpack_from(frame, 7)
        if class_id != BASIC_CLASS:
            raise RemoteProtocolError(
                ReplyCode.UNEXPECTED_FRAME,
                f"expected content header for class {BASIC_CLASS}, got one for class {class_id} instead",
                *message.method.id,
            )
        if isinstance(message.method, _Publish):
            message.facts = facts_of(frame[content.PROPERTIES_AT : -1])
        message.remaining = body_size
        if body_size > self._message_size_max:
            message.frames = None
            events.append(OversizedContent(channel, body_size))
        self._keep(message, frame)
        if not body_size:
            self._finish(channel, message, events)

    def _read_body(self, frame: bytes, channel: int, events: list[Event]) -> None:
        message = self._unfinished.get(channel)
        if message is None:
            raise _method_expected()
        if message.remaining < 0:
            raise _content_expected(message)
        size = len(frame) - FRAME_OVERHEAD
        if size > message.remaining:
            raise RemoteProtocolError(
                ReplyCode.FRAME_ERROR,
                f"a body frame of {size} octets where {message.remaining} were still to come",
            )
        message.remaining -= size
        if size:  # empty ones are let pass, and say nothing
            self._keep(message, frame)
        if not message.remaining:
            self._finish(channel, message, events)

    def _keep(self, message: _Unfinished, frame: bytes) -> None:
        if message.frames is None:
            return
        message.frames.append(frame)
        self._unfinished_size += len(frame) + _FRAME_COST
        if self._unfinished_size > self._unfinished_max:
            raise RemoteProtocolError(
                ReplyCode.RESOURCE_ERROR,
                f"the unfinished messages of this connection hold more than {self._unfinished_max} octets",
            )

    def _finish(self, channel: int, message: _Unfinished, events: list[Event]) -> None:
        del self._unfinished[channel]
        if message.frames is None:
            return
        self._unfinished_size -= _cost(message.frames)
        whole = message.frames[0] if len(message.frames) == 1 else b"".join(message.frames)
        if any(len(frame) > self.frame_max for frame in message.frames[1:]):
            # Let pass here, but not what a consumer may be sent.
            whole = content.build(
                channel, content.properties_of(whole), content.body_of(whole), self.frame_max
            )
        if isinstance(message.method, _Publish):
            assert message.facts is not None
            envelope = message.method.with_facts(message.facts)
            _add(events, envelope, [whole], content.body_size(whole))
        else:
            events.append(ContentReceived(channel, message.method, whole))


def _runs_of(channel: int, events: list[Event]) -> list[PublishRun]:
    """Where the next message of the channel belongs: the event that comes last, or no runs yet."""
    last = events[-1] if events else None
    return last.runs if type(last) is Publishes and last.channel == channel else []


def _add(events: list[Event], envelope: Envelope, contents: list[bytes], body_size: int) -> None:
    """Lengthen the run that `events` ends with, or begin another; the bodies are equally long."""
    runs = _runs_of(envelope.channel, events)
    if runs and runs[-1].envelope is envelope:
        runs[-1].add(contents, body_size, body_size * len(contents))
        return
    if not runs:
        events.append(Publishes(envelope.channel, runs))
    runs.append(PublishRun(envelope, contents, body_size))


def _cost(frames: list[bytes]) -> int:
    """What frames that are kept count for."""
    return sum(map(len, frames)) + _FRAME_COST * len(frames)


def _method_expected() -> RemoteProtocolError:
    return RemoteProtocolError(
        ReplyCode.UNEXPECTED_FRAME, "expected method frame, got non method frame instead"
    )


def _content_expected(message: _Unfinished) -> RemoteProtocolError:
    """The header or the body of a message must come next on its channel."""
    text = (
        f"expected content header for class {BASIC_CLASS}, got non content header frame instead"
        if message.remaining < 0
        else "expected content body, got non content body frame instead"
    )
    return RemoteProtocolError(ReplyCode.UNEXPECTED_FRAME, text, *message.method.id)


def _bad_end(buffer: bytes, at: int) -> RemoteProtocolError:
    kind, _, size = _FRAME_START.unpack_from(buffer, at)
    marker = buffer[at + 7 + size]
    return _frame_error(kind, buffer[at + 7 : at + 7 + size], f"{{invalid_frame_end_marker,{marker}}}")


def _frame_error(kind: int, payload: bytes, reason: str) -> RemoteProtocolError:
    return RemoteProtocolError(ReplyCode.FRAME_ERROR, f"type {kind}, {_snippet(payload)}: {reason}")


def _snippet(payload: bytes) -> str:
    """The beginning of a frame's payload, as RabbitMQ's texts show it."""
    which = "all" if len(payload) <= 16 else "first 16"
    return f"{which} octets = <<{','.join(map(str, payload[:16]))}>>"
