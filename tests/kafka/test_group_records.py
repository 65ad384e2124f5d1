"""Records of `__consumer_offsets`: in Kafka's form to the octet, and anything at all instead of them."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.kafka import group_records
from broker.kafka.errors import RemoteProtocolError

TEXTS = st.text(max_size=20)
INT32 = st.integers(-(2**31), 2**31 - 1)
INT64 = st.integers(-(2**63), 2**63 - 1)


def string(text: str | None) -> bytes:
    if text is None:
        return struct.pack(">h", -1)
    return struct.pack(">h", len(text.encode())) + text.encode()


def octets(found: bytes) -> bytes:
    return struct.pack(">i", len(found)) + found


def test_keys_are_kafkas():
    assert group_records.offset_key("g", "orders", 3) == (
        b"\0\1" + string("g") + string("orders") + struct.pack(">i", 3)
    )
    assert group_records.group_key("größe") == b"\0\2" + string("größe")
    assert group_records.read_key(b"\0\0" + string("g") + string("t") + b"\0\0\0\7") == ("g", ("t", 7))


def test_an_offset_is_kafkas():
    value = group_records.offset_value(5, 2, "note", 1000, None)
    assert value == b"\0\3" + struct.pack(">qi", 5, 2) + string("note") + struct.pack(">q", 1000)
    expiring = group_records.offset_value(5, 2, "note", 1000, 2000)
    assert expiring == b"\0\1" + struct.pack(">q", 5) + string("note") + struct.pack(">qq", 1000, 2000)
    assert group_records.read_offset(expiring)["expire_timestamp"] == 2000
    older = b"\0\0" + struct.pack(">q", 5) + string("note") + struct.pack(">q", 1000)
    assert group_records.read_offset(older) == {
        "offset": 5,
        "leader_epoch": -1,
        "metadata": "note",
        "commit_timestamp": 1000,
        "expire_timestamp": -1,
    }


def test_a_group_is_kafkas():
    member = {
        "member_id": "m",
        "group_instance_id": None,
        "client_id": "c",
        "client_host": "/127.0.0.1",
        "rebalance_timeout": 60_000,
        "session_timeout": 10_000,
        "subscription": b"sub",
        "assignment": b"",
    }
    body = {
        "protocol_type": "consumer",
        "generation": 4,
        "protocol": "range",
        "leader": None,
        "current_state_timestamp": 9,
        "members": [member],
    }
    written = group_records.group_value(body)
    assert written == b"".join(
        (
            b"\0\3",
            string("consumer"),
            struct.pack(">i", 4),
            string("range"),
            string(None),
            struct.pack(">qi", 9, 1),
            string("m"),
            string(None),
            string("c"),
            string("/127.0.0.1"),
            struct.pack(">ii", 60_000, 10_000),
            octets(b"sub"),
            octets(b""),
        )
    )
    assert group_records.read_group(written) == body


@given(TEXTS, TEXTS, INT32)
def test_a_key_comes_back(group, topic, partition):
    key = group_records.offset_key(group, topic, partition)
    assert group_records.read_key(key) == (group, (topic, partition))
    assert group_records.read_key(group_records.group_key(group)) == (group, None)


@given(INT64, INT32, TEXTS, INT64, st.one_of(st.none(), st.integers(0, 2**63 - 1)))
def test_an_offset_comes_back(offset, epoch, metadata, commit_ms, expire_ms):
    found = group_records.read_offset(
        group_records.offset_value(offset, epoch, metadata, commit_ms, expire_ms)
    )
    assert found["offset"] == offset
    assert found["metadata"] == metadata
    assert found["commit_timestamp"] == commit_ms
    assert found["expire_timestamp"] == (-1 if expire_ms is None else expire_ms)
    assert found["leader_epoch"] == (epoch if expire_ms is None else -1)


READERS = [group_records.read_key, group_records.read_offset, group_records.read_group]
WHOLE = [
    group_records.offset_key("group", "topic", 1),
    group_records.group_key("group"),
    group_records.offset_value(1, 2, "meta", 3, None),
    group_records.group_value({"protocol_type": "consumer", "generation": 1, "members": []}),
]


@pytest.mark.parametrize("read", READERS)
@given(
    st.one_of(
        st.binary(max_size=60),
        st.tuples(st.sampled_from(WHOLE), st.integers(0, 60)).map(lambda cut: cut[0][: cut[1]]),
        st.tuples(st.integers(0, 4), st.binary(max_size=60)).map(
            lambda one: struct.pack(">H", one[0]) + one[1]
        ),
    )
)
def test_anything_is_read_or_refused(read, garbage):
    try:
        read(garbage)
    except RemoteProtocolError:
        return
