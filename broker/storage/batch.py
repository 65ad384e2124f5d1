"""A batch: what a log stores and what a crash keeps or cuts as one.

Flow:   the owner of a log gives a payload; the log appends the batch; recovery and readers check it.
Shape:  Kafka's record batch v2 header, big endian, then a payload that storage never opens
         0 base offset u64 | 8 length u32 of what follows | 12 leader epoch i32 | 16 magic u8 = 2
        17 crc u32 of octets 21 to the end | 21 attributes u16 | 23 last offset delta i32
        27 base timestamp i64 | 35 max timestamp i64 | 43 producer id i64 | 51 producer epoch i16
        53 base sequence i32 | 57 record count i32 | 61 payload
Limits: 2 GiB a batch, from the length field. The search for a sound batch behind a damaged one gives up
        after checking 1 GiB of what looked like batches.
Spec:   Kafka's message format v2. Attribute bits 8 and above are unused there and ours here.
Why:    The crc does not cover the base offset, so that a broker may set it in a producer's batch without
        reading on. In the batches that we make ourselves the producer id repeats it, under the crc.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, cast

import google_crc32c

HEADER_SIZE: Final = 61
# Offset and length, which the length does not count.
LENGTH_END: Final = 12
MAGIC_AT: Final = 16
MAGIC: Final = 2

# Does not outlive the process that wrote it: a transient message that found no room in memory.
TRANSIENT: Final = 1 << 8
# Made here and not by a producer: the producer id is the base offset again.
OWN: Final = 1 << 9

_HEAD = struct.Struct(">QIiBI")
_REST = struct.Struct(">HiqqqhiI")
# Leader epoch 0 and the magic number, from octet 12 on.
_EPOCH_AND_MAGIC = b"\0\0\0\0\2"
_SEARCHED_OCTETS_MAX = 1 << 30

_OFFSET = struct.Struct(">Q")
_LENGTH = struct.Struct(">I")
_CRC = struct.Struct(">I")
_CRC_AT = 17
_CRC_FROM = 21


class Span(NamedTuple):
    """What a walk over headers needs of each."""

    base_offset: int
    next_offset: int
    records: int
    attributes: int
    size: int
    max_timestamp: int
    producer_id: int
    producer_epoch: int
    base_sequence: int


@dataclass(slots=True, eq=False)
class Batch:
    """A batch in memory; `buffers` are its octets, header first."""

    base_offset: int
    next_offset: int
    """One behind the last offset that the batch covers."""
    count: int
    attributes: int
    base_timestamp: int
    max_timestamp: int
    buffers: list[bytes]
    size: int

    @property
    def transient(self) -> bool:
        return bool(self.attributes & TRANSIENT)

    @property
    def payload(self) -> bytes:
        """What the owner gave, in one piece."""
        head, *parts = self.buffers
        if parts:
            return parts[0] if len(parts) == 1 else b"".join(parts)
        return head[HEADER_SIZE:]


def encode(
    base_offset: int,
    count: int,
    payload: Sequence[bytes],
    *,
    attributes: int = 0,
    base_timestamp: int = 0,
    max_timestamp: int = 0,
) -> Batch:
    """A batch of `count` records with the offsets from `base_offset` on; the payload is not copied."""
    assert count > 0
    attributes |= OWN
    rest = _REST.pack(attributes, count - 1, base_timestamp, max_timestamp, base_offset, -1, -1, count)
    crc = google_crc32c.value(rest)
    size = HEADER_SIZE
    for part in payload:
        crc = google_crc32c.extend(crc, part)
        size += len(part)
    head = _HEAD.pack(base_offset, size - LENGTH_END, 0, MAGIC, crc) + rest
    return Batch(
        base_offset,
        base_offset + count,
        count,
        attributes,
        base_timestamp,
        max_timestamp,
        [head, *payload],
        size,
    )


def place(
    octets: bytes | memoryview, base_offset: int, count: int, attributes: int, max_timestamp: int
) -> Batch:
    """A producer's batch, which was checked, at its place in a log: nothing that the crc covers is changed."""
    view = memoryview(octets)
    head = b"".join(
        (_OFFSET.pack(base_offset), view[8:LENGTH_END], _EPOCH_AND_MAGIC, view[_CRC_AT:HEADER_SIZE])
    )
    # A view serves as well as bytes, wherever they are written or joined.
    buffers = [head, cast("bytes", view[HEADER_SIZE:])]
    return Batch(base_offset, base_offset + count, count, attributes, 0, max_timestamp, buffers, len(octets))


def whole_size(octets: bytes, at: int) -> int:
    """The size of the batch that starts at `at`, as its length field says; 0 if that is not there."""
    if len(octets) - at < LENGTH_END:
        return 0
    length: int = _LENGTH.unpack_from(octets, at + 8)[0]
    return length + LENGTH_END


def problem(octets: bytes, at: int) -> str:
    """What is wrong with the batch at `at`; "" when nothing is.

    "cut short" and "zeros" are what a crash leaves at the end of a file.
    """
    rest = len(octets) - at
    if not any(octets[at : at + HEADER_SIZE]):
        return "zeros"
    if rest < HEADER_SIZE or rest < whole_size(octets, at):
        return "cut short"
    size = whole_size(octets, at)
    if octets[at + MAGIC_AT] != MAGIC:
        return f"magic {octets[at + MAGIC_AT]} where {MAGIC} is written"
    if size < HEADER_SIZE:
        return f"a length of {size} octets where a header alone has {HEADER_SIZE}"
    (crc,) = _CRC.unpack_from(octets, at + _CRC_AT)
    found = google_crc32c.value(octets[at + _CRC_FROM : at + size])
    if crc != found:
        return f"crc {found:08x} where {crc:08x} is written"
    (offset,) = _OFFSET.unpack_from(octets, at)
    attributes, _, _, _, repeated, _, _, _ = _REST.unpack_from(octets, at + _CRC_FROM)
    if attributes & OWN and offset != repeated:
        return f"base offset {offset} where {repeated} was meant"
    return ""


def decode(octets: bytes, at: int) -> Batch:
    """The batch at `at`, which `problem` found whole."""
    base_offset, length, _, _, _ = _HEAD.unpack_from(octets, at)
    attributes, delta, base_timestamp, max_timestamp, _, _, _, count = _REST.unpack_from(
        octets, at + _CRC_FROM
    )
    size = length + LENGTH_END
    return Batch(
        base_offset,
        base_offset + delta + 1,
        count,
        attributes,
        base_timestamp,
        max_timestamp,
        [octets[at : at + HEADER_SIZE], octets[at + HEADER_SIZE : at + size]],
        size,
    )


def span(octets: bytes, at: int) -> Span:
    """The header at `at` alone, unchecked: for files whose batches were checked when they were sealed."""
    base_offset, length, _, _, _ = _HEAD.unpack_from(octets, at)
    attributes, delta, _, latest, *producer, count = _REST.unpack_from(octets, at + _CRC_FROM)
    next_offset = base_offset + delta + 1
    return Span(base_offset, next_offset, count, attributes, length + LENGTH_END, latest, *producer)


def next_whole(octets: bytes, at: int) -> int | None:
    """Where the next sound batch starts behind the bad one at `at`; None if there is none.

    Its length may be what is bad, so that every place that looks like a header is tried, within reason.
    """
    budget = _SEARCHED_OCTETS_MAX
    while budget > 0:
        at = octets.find(_EPOCH_AND_MAGIC, at + LENGTH_END + 1) - LENGTH_END
        if at < 0:
            return None
        size = whole_size(octets, at)
        if size <= len(octets) - at:
            if not problem(octets, at):
                return at
            budget -= size
    return None
