"""What a peer may send: whatever it is, it is taken, or refused as the peer's fault, and costs little."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.kafka import api
from broker.kafka.errors import RemoteProtocolError, UnsupportedVersion
from broker.kafka.schema import Schema
from kafka_bodies import draw, messages, name_of

Message = tuple[api.Api, int, Schema]

REFUSED = (RemoteProtocolError, UnsupportedVersion)
MUTATIONS = 60
# A length that is as large as its field allows, in each form: 32 bits, 16 bits, an unsigned varint.
HUGE = [b"\x7f\xff\xff\xff", b"\x7f\xff", b"\xff\xff\xff\xff\x07", b"\xff\xff\xff\xff\x0f", b"\xff" * 6]

each_message = pytest.mark.parametrize("message", list(messages()), ids=name_of)


def frame_of(message: Message, rng: random.Random) -> bytes:
    """A valid frame that is not too long to be tried at every byte."""
    each, version, schema = message
    frames = []
    for _ in range(6):
        body = draw(rng, schema.fields, version)
        if schema is each.request:
            pieces = api.write_request(each, version, 1, "me", body)
        else:
            pieces = api.write_response(each, version, 1, body)
        frames.append(b"".join(map(bytes, pieces))[4:])
    short = [frame for frame in frames if len(frame) <= 600]
    return max(short, key=len) if short else min(frames, key=len)


def read(message: Message, frame: bytes) -> None:
    each, version, schema = message
    if schema is each.request:
        api.read_request(frame)
    else:
        api.read_response(each, version, frame)


def read_anyhow(message: Message, frame: bytes) -> None:
    try:
        read(message, frame)
    except REFUSED:
        pass


def mutations(frame: bytes, rng: random.Random) -> Iterator[bytes]:
    for _ in range(MUTATIONS):
        changed = bytearray(frame)
        at = rng.randrange(len(frame))
        if rng.random() < 0.5:
            changed[at] = rng.choice([0, 1, 2, 0x7F, 0x80, 0xFF, rng.randrange(256)])
        elif rng.random() < 0.5:
            huge = rng.choice(HUGE)
            changed[at : at + len(huge)] = huge
        else:
            del changed[at : at + rng.randrange(1, 9)]
        yield bytes(changed)


@each_message
def test_a_message_that_ends_early_is_refused(message: Message) -> None:
    frame = frame_of(message, random.Random(name_of(message)))
    read(message, frame)

    ends = range(len(frame)) if len(frame) <= 600 else range(0, len(frame), len(frame) // 600)
    for end in ends:
        with pytest.raises(RemoteProtocolError):
            read(message, frame[:end])


@each_message
def test_a_changed_message_is_taken_or_refused(message: Message) -> None:
    rng = random.Random(name_of(message))
    frame = frame_of(message, rng)
    for changed in mutations(frame, rng):
        read_anyhow(message, changed)


@pytest.mark.parametrize("each", api.APIS.values(), ids=lambda each: each.name)
def test_sizes_that_lie_are_not_believed(each: api.Api) -> None:
    message = (each, each.max_version, each.request)
    rng = random.Random(each.name)
    frame = frame_of(message, rng)
    tracemalloc.start()
    try:
        for at in range(8, len(frame)):
            for huge in HUGE:
                read_anyhow(message, frame[:at] + huge + frame[at + len(huge) :])
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak_bytes < 500_000 + 50 * len(frame)


@given(st.data())
def test_any_bytes_behind_a_header_are_taken_or_refused(data: st.DataObject) -> None:
    message = data.draw(st.sampled_from(list(messages())), label="message")
    each, version, schema = message
    octets = data.draw(st.binary(max_size=200), label="octets")
    head = b"\0\0\0\1"
    if schema is each.request:
        head = each.key.to_bytes(2) + version.to_bytes(2) + head + b"\0\0"
    if version >= each.flexible_from and schema is each.request:
        head += b"\0"
    read_anyhow(message, head + octets)


@given(st.binary(max_size=100))
def test_any_bytes_are_taken_or_refused(frame: bytes) -> None:
    try:
        api.read_request(frame)
    except REFUSED:
        pass


def test_more_elements_than_a_request_may_have_are_refused() -> None:
    # Of a topic there is an empty name and no tagged fields: two bytes, and a dict here.
    count = api.REQUEST_ELEMENTS_MAX + 1
    head = api.DESCRIBE_TOPIC_PARTITIONS.key.to_bytes(2) + b"\0\0" + b"\0\0\0\1" + b"\xff\xff" + b"\0"
    topics = b"".join([bytes([(count + 1) >> shift & 0x7F | 0x80]) for shift in (0, 7)])
    topics += bytes([(count + 1) >> 14]) + b"\1\0" * count

    with pytest.raises(RemoteProtocolError, match=f"topics has {count} elements"):
        api.read_request(head + topics + b"\0\0\0\0\xff\0")


def test_more_tagged_fields_than_a_request_may_have_are_refused() -> None:
    count = api.REQUEST_ELEMENTS_MAX + 1
    head = api.API_VERSIONS.key.to_bytes(2) + b"\0\3" + b"\0\0\0\1" + b"\xff\xff" + b"\0"
    tags = b"".join([bytes([count >> shift & 0x7F | 0x80]) for shift in (0, 7)]) + bytes([count >> 14])

    with pytest.raises(RemoteProtocolError, match="tags has"):
        api.read_request(head + b"\1\1" + tags + b"\5\0" * count)


def test_more_tagged_fields_than_a_header_may_have_are_refused() -> None:
    head = api.API_VERSIONS.key.to_bytes(2) + b"\0\3" + b"\0\0\0\1" + b"\xff\xff"

    with pytest.raises(RemoteProtocolError, match="header"):
        api.read_request(head + b"\x65" + b"\5\0" * 101 + b"\1\1\0")
