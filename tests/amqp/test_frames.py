"""Frames and runs, beside a reader that knows no runs and looks at one frame after the other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from broker.amqp import content, methods, properties
from broker.amqp.deliveries import DeliveryReader
from broker.amqp.errors import ProtocolError
from broker.amqp.frames import (
    HEARTBEAT_FRAME,
    AckRun,
    ContentReceived,
    Deliveries,
    Event,
    FrameReader,
    MethodReceived,
    OversizedContent,
    ProtocolFailed,
    Publishes,
)
from broker.amqp.properties import Properties, facts_of

FRAME_MAX = 60
MESSAGE_SIZE_MAX = 1000

# One thing that happened: its kind, its channel, and what else tells it from others.
Happening = tuple[Any, ...]


def frame(kind: int, channel: int, payload: bytes) -> bytes:
    return bytes([kind]) + channel.to_bytes(2) + len(payload).to_bytes(4) + payload + b"\xce"


def header(channel: int, raw: bytes, body_size: int) -> bytes:
    return frame(2, channel, content.header_payload(raw, body_size))


# ---- the plain form ----


class _Broken(Exception):
    """The stream broke a rule: reply code, class and method id."""


def naive(stream: bytes, *, publishes: bool = True) -> list[Happening]:
    """What a stream says, frame by frame; `publishes` tells whether properties of publishes are looked at."""
    found: list[Happening] = []
    unfinished: dict[int, list[Any]] = {}
    at = 0
    try:
        while len(stream) - at >= 8:
            kind, size = stream[at], int.from_bytes(stream[at + 3 : at + 7])
            channel = int.from_bytes(stream[at + 1 : at + 3])
            if kind not in (1, 2, 3, 8) or size > FRAME_MAX:
                raise _Broken(501, 0, 0)
            end = at + 8 + size
            if end > len(stream):
                break
            if stream[end - 1] != 0xCE:
                raise _Broken(501, 0, 0)
            whole, payload = stream[at:end], stream[at + 7 : end - 1]
            if kind == 1:
                found += _naive_method(unfinished, channel, payload)
            elif kind == 2:
                found += _naive_header(unfinished, channel, whole, payload)
            elif kind == 3:
                found += _naive_body(unfinished, channel, whole, payload)
            elif channel or size:
                raise _Broken(505, 0, 0)
            at = end
    except _Broken as broken:
        found.append(("failed", *broken.args))
    except ProtocolError as error:
        found.append(("failed", int(error.code), error.class_id, error.method_id))
    return found


def _naive_method(unfinished: dict[int, list[Any]], channel: int, payload: bytes) -> list[Happening]:
    method = methods.decode(payload)
    closes = isinstance(method, methods.ChannelClose | methods.ChannelCloseOk)
    if channel in unfinished:
        if not closes:
            raise _Broken(505, *unfinished[channel][0].id)
        del unfinished[channel]
    if method.id in methods.WITH_CONTENT:
        unfinished[channel] = [method, None, b""]
        return []
    if isinstance(method, methods.BasicAck):
        return [("ack", channel, method.delivery_tag, method.multiple)]
    return [("method", channel, method)]


def _naive_header(
    unfinished: dict[int, list[Any]], channel: int, whole: bytes, payload: bytes
) -> list[Happening]:
    if channel not in unfinished:
        raise _Broken(505, 0, 0)
    method, missing, _ = message = unfinished[channel]
    if missing is not None:
        raise _Broken(505, *method.id)
    if len(payload) < 14:
        raise _Broken(502, 0, 0)
    if payload[:2] != b"\x00\x3c":
        raise _Broken(505, *method.id)
    if isinstance(method, methods.BasicPublish):
        facts_of(payload[12:])
    size = int.from_bytes(payload[4:12])
    message[1], message[2] = size, whole
    if size > MESSAGE_SIZE_MAX:
        message[2] = None
        return [("oversized", channel, size)]
    return [] if size else _naive_end(unfinished, channel)


def _naive_body(
    unfinished: dict[int, list[Any]], channel: int, whole: bytes, payload: bytes
) -> list[Happening]:
    if channel not in unfinished:
        raise _Broken(505, 0, 0)
    method, missing, octets = message = unfinished[channel]
    if missing is None:
        raise _Broken(505, *method.id)
    if len(payload) > missing:
        raise _Broken(501, 0, 0)
    message[1] -= len(payload)
    if octets is not None and payload:
        message[2] += whole
    return [] if message[1] else _naive_end(unfinished, channel)


def _naive_end(unfinished: dict[int, list[Any]], channel: int) -> list[Happening]:
    method, _, octets = unfinished.pop(channel)
    if octets is None:
        return []
    if _largest_body_frame(octets) > FRAME_MAX:
        octets = content.build(channel, content.properties_of(octets), content.body_of(octets), FRAME_MAX)
    return [("content", channel, method, octets)]


def _largest_body_frame(octets: bytes) -> int:
    found, at = 0, 0
    while at < len(octets):
        size = 8 + int.from_bytes(octets[at + 3 : at + 7])
        found = max(found, size if at else 0)
        at += size
    return found


# ---- what the reader's events say, one by one ----


def told(events: Iterable[Event]) -> list[Happening]:
    return [happening for event in events for happening in _told(event)]


def _told(event: Event) -> list[Happening]:
    match event:
        case MethodReceived():
            return [("method", event.channel, event.method)]
        case ContentReceived():
            return [("content", event.channel, event.method, event.content)]
        case Publishes():
            return [happening for run in event.runs for happening in _told_run(event.channel, run)]
        case Deliveries():
            return [
                (
                    "content",
                    event.channel,
                    methods.BasicDeliver(
                        event.envelope.consumer_tag,
                        event.first + at,
                        event.envelope.redelivered,
                        event.envelope.exchange,
                        event.envelope.routing_key,
                    ),
                    octets,
                )
                for at, octets in enumerate(event.contents)
            ]
        case AckRun():
            assert event.first == event.last or not event.multiple
            return [("ack", event.channel, tag, event.multiple) for tag in range(event.first, event.last + 1)]
        case OversizedContent():
            return [("oversized", event.channel, event.size)]
        case ProtocolFailed():
            error = event.error
            return [("failed", int(error.code), error.class_id, error.method_id)]
    raise AssertionError(event)


def _told_run(channel: int, run: Any) -> list[Happening]:
    envelope = run.envelope
    assert envelope.channel == channel
    assert envelope.frame_max == FRAME_MAX
    assert run.contents, "no run is empty"
    sizes = [content.body_size(octets) for octets in run.contents]
    assert envelope.measure(run.contents) == sum(sizes)
    if run.body_size is not None:
        assert set(sizes) == {run.body_size}
    for octets in run.contents:
        assert facts_of(content.properties_of(octets)) is envelope.facts
    method = methods.BasicPublish(
        0, envelope.exchange, envelope.routing_key, envelope.mandatory, envelope.immediate
    )
    return [("content", channel, method, octets) for octets in run.contents]


def _without_ticket(happenings: list[Happening]) -> list[Happening]:
    """A run does not say the ticket, which has no meaning."""
    return [
        (
            *happening[:2],
            methods.BasicPublish(0, *happening[2].values()[1:]),
            *happening[3:],
        )
        if happening[0] == "content" and isinstance(happening[2], methods.BasicPublish)
        else happening
        for happening in happenings
    ]


def read(reader: FrameReader, pieces: Iterable[bytes]) -> list[Event]:
    reader.frame_max = FRAME_MAX
    return [event for piece in pieces for event in reader.read(piece)]


# ---- streams ----

_RAW_PROPERTIES = [
    properties.encode(given)
    for given in (
        Properties(correlation_id="a"),
        Properties(correlation_id="b"),
        Properties(delivery_mode=2),
        Properties(user_id="guest", expiration="100"),
        Properties(message_id="x" * 44),
    )
]
_PUBLISHES = [
    methods.BasicPublish(0, "", "a"),
    methods.BasicPublish(0, "x", "a"),
    methods.BasicPublish(0, "x", "a", True),
    methods.BasicPublish(7, "", "amq.rabbitmq.reply-to.z"),
]
_FROM_SERVERS = [
    methods.BasicDeliver("c", 1, False, "", "a"),
    methods.BasicDeliver("c", 1, True, "", "a"),
    methods.BasicDeliver("", 1, False, "x", "b"),
    methods.BasicReturn(312, "NO_ROUTE", "", "a"),
    methods.BasicGetOk(1, False, "", "a", 3),
]
_SIZES = [5, 0, 1, FRAME_MAX - 8, FRAME_MAX - 7, FRAME_MAX + 3, 2 * FRAME_MAX, MESSAGE_SIZE_MAX + 1]
_OTHERS = [
    methods.BasicNack(3, True, False),
    methods.QueueDeclare(queue="q", arguments={"x-max-length": 5}),
    methods.ChannelOpen(),
    methods.ChannelClose(200, "bye", 0, 0),
    methods.ChannelCloseOk(),
]


def _often(values: Sequence[Any]) -> st.SearchStrategy[Any]:
    """The first ones come more often, as what is usual is what runs are made of."""
    weighted = [value for at, value in enumerate(values) for _ in range(len(values) - at)]
    return st.sampled_from(weighted)


@st.composite
def _messages(draw: st.DrawFn, kinds: Sequence[methods.Method]) -> list[bytes]:
    """The frames of a message or a few alike, numbered for channel 0."""
    method = draw(_often(kinds))
    tag = draw(st.integers(1, 3))
    body = b"b" * draw(_often(_SIZES))
    frame_max = draw(_often([FRAME_MAX, FRAME_MAX, FRAME_MAX + 8, 30, 11]))
    octets = content.build(0, draw(_often(_RAW_PROPERTIES)), body, frame_max)
    found: list[bytes] = []
    for number in range(draw(_often([1, 3]))):
        if isinstance(method, methods.BasicDeliver):
            method = methods.BasicDeliver(method.consumer_tag, tag + number, *method.values()[2:])
        found += [methods.encode(0, method), *_split(octets)]
    return found


@st.composite
def _acks(draw: st.DrawFn) -> list[bytes]:
    first, count = draw(st.integers(0, 3)), draw(st.integers(1, 4))
    return [
        methods.encode(0, methods.BasicAck(tag, draw(_often([False, False, True]))))
        for tag in range(first, first + count)
    ]


def _split(octets: bytes) -> list[bytes]:
    found, at = [], 0
    while at < len(octets):
        end = at + 8 + int.from_bytes(octets[at + 3 : at + 7])
        found.append(octets[at:end])
        at = end
    return found


def _on(channel: int, octets: bytes) -> bytes:
    return octets[:1] + channel.to_bytes(2) + octets[3:]


def _streams(kinds: Sequence[methods.Method]) -> st.SearchStrategy[list[bytes]]:
    """Frames of two channels, and heartbeats.

    What belongs together mostly stays together; else the rest of it comes when the channel goes on.
    """
    others = st.sampled_from(_OTHERS).map(lambda method: [methods.encode(0, method)])
    units = st.one_of([_messages(kinds)] * 5 + [_acks()] * 2 + [others])
    steps = st.tuples(_often([1, 2]), units, _often([99, 99, 1, 2]))
    return st.lists(steps, min_size=1, max_size=16).map(_woven)


def _woven(steps: list[tuple[int, list[bytes], int]]) -> list[bytes]:
    found: list[bytes] = []
    held: dict[int, list[bytes]] = {1: [], 2: []}
    for channel, frames, at_once in steps:
        frames = [_on(channel, octets) for octets in frames]
        found += held[channel] + frames[:at_once]
        held[channel] = frames[at_once:]
        if len(found) % 7 == 0:
            found.append(HEARTBEAT_FRAME)
    return found + held[1] + held[2]


@st.composite
def _damaged(draw: st.DrawFn, streams: st.SearchStrategy[list[bytes]]) -> bytes:
    """A stream in which one frame is not right, or not where it should be."""
    frames = draw(streams)
    at = draw(st.integers(0, len(frames) - 1))
    whole = frames[at]
    payload = whole[7:-1]
    damage = draw(
        st.sampled_from(
            ["none", "end", "channel", "drop", "twice", "swap", "longer", "octet", "insert", "cut"]
        )
    )
    match damage:
        case "end":
            frames[at] = whole[:-1] + b"\xcd"
        case "channel":
            frames[at] = _on(draw(st.integers(0, 2)), whole)
        case "drop":
            del frames[at]
        case "twice":
            frames.insert(at, whole)
        case "swap":
            frames[at], frames[at - 1] = frames[at - 1], whole
        case "longer":
            more = draw(st.sampled_from([1, FRAME_MAX - len(payload), FRAME_MAX + 1 - len(payload)]))
            frames[at] = frame(whole[0], int.from_bytes(whole[1:3]), payload + bytes(max(0, more)))
        case "octet":
            index = draw(st.integers(0, len(whole) - 1))
            frames[at] = whole[:index] + bytes([draw(st.integers(0, 255))]) + whole[index + 1 :]
        case "insert":
            frames.insert(at, draw(st.binary(min_size=1, max_size=9)))
        case "cut":
            frames[at:] = [whole[: draw(st.integers(0, len(whole)))]]
    return b"".join(frames)


@st.composite
def _cut(draw: st.DrawFn, stream: bytes) -> list[bytes]:
    """The same stream as it may arrive."""
    at = sorted(draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    return [stream[start:end] for start, end in zip([0, *at], [*at, len(stream)], strict=True)]


@settings(max_examples=500)
@given(_damaged(_streams(_PUBLISHES)), st.data())
def test_runs_say_what_the_frames_say(stream: bytes, data: st.DataObject) -> None:
    """Whole, cut anywhere, and byte by byte."""
    expected = _without_ticket(naive(stream))
    for pieces in ([stream], data.draw(_cut(stream)), [bytes([octet]) for octet in stream]):
        assert told(read(FrameReader(MESSAGE_SIZE_MAX), pieces)) == expected


@given(_damaged(_streams(_PUBLISHES)), st.integers(1, 3), st.data())
def test_a_reader_with_a_limit_goes_on_where_it_stopped(
    stream: bytes, runs_max: int, data: st.DataObject
) -> None:
    reader = FrameReader(MESSAGE_SIZE_MAX)
    reader.frame_max = FRAME_MAX
    events: list[Event] = []
    for piece in data.draw(_cut(stream)):
        events += reader.read(piece, runs_max)
        while reader.more:
            events += reader.read(b"", runs_max)
    assert told(events) == _without_ticket(naive(stream))


def test_a_reader_with_a_limit_reads_no_more_than_that() -> None:
    reader = FrameReader(MESSAGE_SIZE_MAX)
    declare = methods.encode(1, methods.QueueDeclare(queue="q", passive=True))
    assert len(reader.read((declare + HEARTBEAT_FRAME) * 5, 4)) == 2
    assert reader.more


def test_a_deliver_frame_that_is_too_large_is_refused_with_its_content_behind_it() -> None:
    deliver = methods.encode_payload(methods.BasicDeliver("c", 1, False, "e" * FRAME_MAX, ""))
    stream = frame(1, 1, deliver) + content.build(1, b"\0\0", b"body", FRAME_MAX)
    assert told(read(DeliveryReader(MESSAGE_SIZE_MAX), [stream])) == [("failed", 501, 0, 0)]


@settings(max_examples=500)
@given(_damaged(_streams(_FROM_SERVERS)), st.data())
def test_deliveries_say_what_the_frames_say(stream: bytes, data: st.DataObject) -> None:
    expected = naive(stream)
    for pieces in ([stream], data.draw(_cut(stream)), [bytes([octet]) for octet in stream]):
        assert told(read(DeliveryReader(MESSAGE_SIZE_MAX), pieces)) == expected
