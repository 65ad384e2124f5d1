"""The client's reading half: deliveries in runs are the same as deliveries frame by frame."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.amqp import content, methods
from broker.amqp.deliveries import DeliveryReader
from broker.amqp.errors import RemoteProtocolError
from broker.amqp.frames import (
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
from broker.amqp.properties import Properties, encode
from broker.amqp.spec import ReplyCode

FRAME_MAX = 4096


def deliver(channel: int, tag: int, body: bytes, properties: bytes = encode(Properties()), **fields) -> bytes:
    method = methods.BasicDeliver(**{"consumer_tag": "c", "routing_key": "q", **fields}, delivery_tag=tag)
    return methods.encode(channel, method) + content.build(channel, properties, body, FRAME_MAX)


def reader_of(kind: type[FrameReader]) -> FrameReader:
    reader = kind(1024 * 1024)
    reader.frame_max = FRAME_MAX
    return reader


def read(reader: FrameReader, octets: bytes, chunk: int) -> list[Event]:
    return [event for at in range(0, len(octets), chunk) for event in reader.read(octets[at : at + chunk])]


def plain(events: list[Event]) -> list[tuple[object, ...]]:
    """The events one by one, whatever runs they came in."""
    seen: list[tuple[object, ...]] = []
    for event in events:
        match event:
            case Deliveries(channel, envelope, first, contents):
                seen += [
                    (
                        channel,
                        methods.BasicDeliver(
                            envelope.consumer_tag,
                            tag,
                            envelope.redelivered,
                            envelope.exchange,
                            envelope.routing_key,
                        ),
                        closed,
                    )
                    for tag, closed in enumerate(contents, first)
                ]
            case ContentReceived(channel, method, closed):
                seen.append((channel, method, closed))
            case MethodReceived(channel, method):
                seen.append((channel, method))
            case AckRun(channel, first, last, multiple):
                seen += [(channel, "ack", tag, multiple) for tag in range(first, last + 1)]
            case OversizedContent(channel, size):
                seen.append((channel, size))
            case ProtocolFailed(error):
                seen.append((str(error),))
    return seen


def test_alike_deliveries_are_one_run():
    stream = b"".join(deliver(1, tag, b"body %d" % (tag % 10)) for tag in range(7, 507))

    events = reader_of(DeliveryReader).read(stream)

    assert [(event.first, len(event.contents)) for event in events] == [(7, 500)]
    assert content.body_of(events[0].contents[3]) == b"body 0"
    assert events[0].envelope.routing_key == "q"


def test_bodies_of_all_sizes_are_one_run():
    stream = b"".join(deliver(1, tag, b"x" * (tag % 5)) for tag in range(1, 21))

    events = reader_of(DeliveryReader).read(stream)

    assert [len(event.contents) for event in events] == [20]
    assert [len(content.body_of(closed)) for closed in events[0].contents] == [
        tag % 5 for tag in range(1, 21)
    ]


@pytest.mark.parametrize(
    "second",
    [
        deliver(1, 3, b"b"),
        deliver(2, 2, b"b"),
        deliver(1, 2, b"b", consumer_tag="other"),
        deliver(1, 2, b"b", redelivered=True),
        deliver(1, 2, b"b", exchange="x"),
        deliver(1, 2, b"b", routing_key="other"),
    ],
    ids=["tag", "channel", "consumer", "redelivered", "exchange", "routing key"],
)
def test_what_differs_is_another_run(second):
    events = reader_of(DeliveryReader).read(deliver(1, 1, b"a") + second)

    assert [len(event.contents) for event in events] == [1, 1]


bodies = st.one_of(st.binary(max_size=20), st.integers(0, 3 * FRAME_MAX).map(lambda size: b"x" * size))
envelopes = st.sampled_from(
    [
        {},
        {"consumer_tag": "other"},
        {"redelivered": True},
        {"exchange": "x", "routing_key": ""},
        {"routing_key": "k" * 255},
    ]
)
raw_properties = st.sampled_from(
    [
        encode(Properties()),
        encode(Properties(delivery_mode=2)),
        encode(Properties(headers={"a": "b" * 2000})),
        b"\xff\xff",
        b"\0\0garbage",
    ]
)
deliveries = st.builds(
    lambda channel, tag, body, properties, fields: deliver(channel, tag, body, properties, **fields),
    st.integers(1, 2),
    st.integers(0, 3),
    bodies,
    raw_properties,
    envelopes,
)
others = st.sampled_from(
    [
        methods.encode(1, methods.BasicAck(5, True)),
        methods.encode(2, methods.BasicAck(6, False)),
        methods.encode(1, methods.QueueDeclareOk("q", 1, 2)),
        methods.encode(1, methods.BasicReturn(312, "NO_ROUTE", "", "q"))
        + content.build(1, encode(Properties()), b"back", FRAME_MAX),
    ]
)
runs = st.builds(
    lambda first, count, body: b"".join(deliver(1, first + at, body) for at in range(count)),
    st.integers(1, 3),
    st.integers(1, 6),
    st.binary(max_size=3),
)


@given(st.lists(st.one_of(deliveries, runs, others), max_size=12).map(b"".join), st.integers(1, 9000))
def test_runs_are_the_same_as_frame_by_frame(stream, chunk):
    expected = plain(read(reader_of(FrameReader), stream, len(stream) or 1))

    assert plain(read(reader_of(DeliveryReader), stream, len(stream) or 1)) == expected
    assert plain(read(reader_of(DeliveryReader), stream, chunk)) == expected


@given(runs, deliveries, st.data())
def test_a_damaged_stream_fails_as_frame_by_frame(run, one, data):
    stream = bytearray(run + one + run)
    at = data.draw(st.integers(0, len(stream) - 1))
    stream[at] = data.draw(st.integers(0, 255))

    expected = plain(read(reader_of(FrameReader), bytes(stream), len(stream)))

    assert plain(read(reader_of(DeliveryReader), bytes(stream), len(stream))) == expected


def test_a_wrong_frame_end_is_an_error():
    stream = bytearray(deliver(1, 1, b"a") + deliver(1, 2, b"b"))
    stream[-1] = 0

    first, failed = reader_of(DeliveryReader).read(bytes(stream))

    assert len(first.contents) == 1
    assert failed.error.code is ReplyCode.FRAME_ERROR
    assert isinstance(failed.error, RemoteProtocolError)


def test_a_delivery_in_the_middle_of_another_is_an_error():
    whole = deliver(1, 1, b"a" * 5000)
    half = whole[: whole.index(b"\x03\0\x01")]

    *_, failed = reader_of(DeliveryReader).read(half + deliver(1, 2, b"b"))

    assert failed.error.code is ReplyCode.UNEXPECTED_FRAME


def test_envelopes_are_forgotten_before_they_are_too_many():
    reader = reader_of(DeliveryReader)

    for tag in range(5000):
        (event,) = reader.read(deliver(1, tag, b"", routing_key=str(tag)))
        assert event.envelope.routing_key == str(tag)

    assert len(reader._envelopes) <= 4096


@pytest.mark.parametrize("kind", [FrameReader, DeliveryReader])
@pytest.mark.parametrize(
    "before",
    [
        b"",
        methods.encode(1, methods.BasicPublish(routing_key="q")),
        methods.encode(0, methods.BasicPublish(routing_key="q")),
        methods.encode(1, methods.BasicAck(1, False)),
        deliver(1, 1, b"a"),
    ],
    ids=["nothing", "publish", "publish on 0", "ack", "deliver"],
)
def test_a_frame_may_not_begin_with_the_octet_that_stands_for_nothing_known(kind, before):
    reader = reader_of(kind)

    *_, failed = reader.read(before * 2 + b"\xff" * 30)

    assert isinstance(failed, ProtocolFailed)
    assert failed.error.code in (ReplyCode.FRAME_ERROR, ReplyCode.UNEXPECTED_FRAME)
    assert not any(isinstance(event, Publishes) for event in reader.read(b""))


@pytest.mark.parametrize("channel", [0, 1])
def test_a_publish_without_content_is_no_message(channel):
    publish = methods.encode(channel, methods.BasicPublish(routing_key="q"))
    large = content.build(channel, encode(Properties()), b"x" * 5000, FRAME_MAX)
    reader = reader_of(FrameReader)
    (whole,) = reader.read(publish + large)

    events = reader.read(publish + b"\xff" * 30)

    assert isinstance(whole, Publishes)
    assert [type(event) for event in events] == [ProtocolFailed]
