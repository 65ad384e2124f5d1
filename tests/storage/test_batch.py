"""Batches: what is written comes back, and what was not written is told from it."""

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.storage import batch as batches

PAYLOAD = [b"one", b"", b"two"]


def octets_of(batch: batches.Batch) -> bytes:
    return b"".join(batch.buffers)


@given(
    st.integers(0, 1 << 62),
    st.integers(1, 1 << 31),
    st.lists(st.binary(max_size=50)),
    st.sampled_from((0, batches.TRANSIENT)),
    st.integers(0, 1 << 62),
)
def test_a_batch_comes_back(base_offset, count, payload, attributes, max_timestamp):
    made = batches.encode(base_offset, count, payload, attributes=attributes, max_timestamp=max_timestamp)
    octets = b"before" + octets_of(made) + b"behind"
    assert batches.problem(octets, 6) == ""
    found = batches.decode(octets, 6)
    assert (found.base_offset, found.next_offset, found.count) == (base_offset, base_offset + count, count)
    assert found.payload == made.payload == b"".join(payload)
    assert found.transient == bool(attributes)
    assert found.max_timestamp == max_timestamp
    assert found.size == made.size == len(octets) - 12
    span = batches.span(octets, 6)
    assert span[:3] == (base_offset, base_offset + count, count)
    assert span[3:6] == (found.attributes, made.size, max_timestamp)


@given(st.integers(0, 1 << 62), st.integers(1, 1000), st.binary(max_size=100))
def test_a_batch_of_a_producer_gets_its_place_without_a_new_crc(base_offset, count, payload):
    sent = octets_of(batches.encode(0, count, [payload], max_timestamp=9))
    rest = (batches._REST.pack(0, count - 1, 1, 9, 77, 3, 4, count)) + sent[61:]
    sent = sent[:8] + sent[8:12] + b"\xff" * 4 + b"\2" + google_crc32c.value(rest).to_bytes(4) + rest
    placed = batches.place(sent, base_offset, count, 0, 9)
    octets = octets_of(placed)
    assert batches.problem(octets, 0) == ""
    assert octets[16:] == sent[16:]
    found = batches.decode(octets, 0)
    assert (found.base_offset, found.next_offset, found.count) == (base_offset, base_offset + count, count)
    assert batches.span(octets, 0)[5:] == (9, 77, 3, 4)


def test_the_layout_is_that_of_kafka():
    octets = octets_of(batches.encode(7, 3, [b"payload"], base_timestamp=1, max_timestamp=2))
    assert octets[:8] == (7).to_bytes(8)
    assert int.from_bytes(octets[8:12]) == len(octets) - 12
    assert octets[16] == 2
    assert octets[23:27] == (2).to_bytes(4)  # last offset delta
    assert octets[27:43] == (1).to_bytes(8) + (2).to_bytes(8)
    assert octets[57:61] == (3).to_bytes(4)
    assert octets[61:] == b"payload"


@pytest.mark.parametrize(
    ("octets", "said"),
    [
        (bytes(100), "zeros"),
        (octets_of(batches.encode(1, 1, PAYLOAD))[:-1], "cut short"),
        (octets_of(batches.encode(1, 1, PAYLOAD))[:30], "cut short"),
        (octets_of(batches.encode(1, 1, PAYLOAD)).replace(b"\2", b"\3", 1), "magic 3 where 2 is written"),
        (octets_of(batches.encode(1, 1, PAYLOAD)).replace(b"two", b"ten"), "crc "),
        (b"\1" + octets_of(batches.encode(1, 1, PAYLOAD))[1:], "base offset 72057594037927937 where 1 was"),
    ],
)
def test_what_is_wrong_is_said(octets, said):
    assert batches.problem(octets, 0).startswith(said)


def test_the_next_whole_one_is_found_behind_anything():
    sound = octets_of(batches.encode(9, 2, PAYLOAD))
    broken = octets_of(batches.encode(1, 1, PAYLOAD)).replace(b"two", b"ten")
    for between in (b"", bytes(70), b"\0\0\0\0\2" * 5, sound[:-1], broken):
        octets = broken + between + sound
        assert batches.next_whole(octets, 0) == len(octets) - len(sound)
    assert batches.next_whole(broken * 2, 0) is None
