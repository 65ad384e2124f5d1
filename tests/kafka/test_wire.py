"""Lengths and tagged fields."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.kafka import wire
from broker.kafka.errors import RemoteProtocolError

# KIP-482 and protocol buffers: 300 is ac 02.
KNOWN = {0: "00", 1: "01", 127: "7f", 128: "8001", 300: "ac02", 16_384: "808001", 2**32 - 1: "ffffffff0f"}


@pytest.mark.parametrize(("value", "octets"), KNOWN.items())
def test_uvarint(value: int, octets: str) -> None:
    encoded = bytes.fromhex(octets)

    assert wire.uvarint(value) == encoded
    assert wire.read_uvarint(b"\xaa" + encoded + b"\xbb", 1) == (value, 1 + len(encoded))


@given(st.integers(0, 2**35 - 1))
def test_uvarint_round_trip(value: int) -> None:
    encoded = wire.uvarint(value)

    assert wire.read_uvarint(encoded, 0) == (value, len(encoded))


def test_a_uvarint_of_six_bytes_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="more than 5 bytes"):
        wire.read_uvarint(b"\x80\x80\x80\x80\x80\x01", 0)


def test_a_uvarint_that_ends_early_is_an_index_error() -> None:
    with pytest.raises(IndexError):
        wire.read_uvarint(b"\x80\x80", 0)


def test_unknown_tagged_fields_are_skipped() -> None:
    tags = wire.put_tags(((0, bytearray(b"abc")), (7, bytearray()), (300, bytearray(b"x" * 200))))

    assert tags[:1] == b"\3"
    assert wire.skip_tags(tags + b"rest", 1, 3) == len(tags)


def test_a_tagged_field_that_is_longer_than_the_message_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="tagged field 5 has a size of 9, and 3 bytes are left"):
        wire.skip_tags(b"\5\x09abc", 0, 1)


class Range:
    """Stands for a range of a file."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size


def test_small_records_are_copied_and_large_ones_are_pieces() -> None:
    small, large, stored = b"s" * wire.RECORDS_BYTES_COPIED, b"l" * (wire.RECORDS_BYTES_COPIED + 1), Range(3)
    parts: list[wire.Part] = []
    out = bytearray(b"head")
    for records in (small, large, memoryview(small), stored):
        out = wire.put_records(out, parts, records)
        out += b"-"

    assert [bytes(parts[0]), parts[1], bytes(parts[2]), parts[3], bytes(out)] == [
        b"head" + small + b"-",
        large,
        b"-" + small + b"-",
        stored,
        b"-",
    ]
    assert parts[1] is large
