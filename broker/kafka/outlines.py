"""The records of a batch without their values: all that compaction, and a check for keys, want to know.

Flow:   `outlines` and `timestamps` open a batch; `walk` goes over records that are inflated already.
Shape:  of a record, as `records.py` draws it, its offset, its key, where the size of its value is, where it begins behind its
        own size, and where it ends. The next one begins there.
Limits: as those of `records.iterate`.
Why:    Of a record only its size, offset, key and the first octet of its value's size are looked at, at a quarter of the price
        of `records.iterate`, which is the plain form; garbage behind that is passed over. Numbers of one octet and of two are read
        on the spot, as a call costs more than reading them; a lone number that is negative, or longer, is left to
        `read_varint`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, TypeAlias

from broker.kafka.records import (
    INFLATED_SIZE_MAX,
    LOG_APPEND_TIME,
    ZIGZAG,
    BatchHeader,
    header_of,
    invalid,
    payload_of,
    read_octets,
    read_varint,
    wrapped,
)

Outline: TypeAlias = "tuple[int, bytes | None, int, int, int]"
"""Offset, key, and the three places."""

# By the first octet of a number that is not negative: its lowest bits if there is another octet, and the number itself
# if there is none, or -1.
_LOW: Final = [(octet & 0x7F) >> 1 for octet in range(0x100)]
_ALONE: Final = [octet >> 1 if octet < 0x80 and not octet & 1 else -1 for octet in range(0x100)]


def outlines(octets: bytes | memoryview, *, inflated_size_max: int = INFLATED_SIZE_MAX) -> Iterator[Outline]:
    """Of the records of the batch that `octets` begin with. Raises RecordProblem, at once or in the middle."""
    header = header_of(octets)
    return walk(header, payload_of(octets, header, inflated_size_max))


def timestamps(
    octets: bytes | memoryview, *, inflated_size_max: int = INFLATED_SIZE_MAX
) -> Iterator[tuple[int, int]]:
    """Offset and timestamp of each record, as `outlines`."""
    header = header_of(octets)
    payload = payload_of(octets, header, inflated_size_max)
    base = header.base_timestamp
    same = header.attributes & LOG_APPEND_TIME
    for offset, _, _, start, _ in walk(header, payload):
        octet = payload[start + 1]
        delta = ZIGZAG[octet] if octet < 0x80 else read_varint(payload, start + 1)[0]
        yield offset, header.max_timestamp if same else wrapped(base + delta)


def walk(header: BatchHeader, octets: bytes) -> Iterator[Outline]:
    """Raises RecordProblem."""
    at = 0
    base = offset_min = header.base_offset
    offset_max = base + header.last_offset_delta
    total = len(octets)
    key: bytes | None
    try:
        for _ in range(header.count):
            # size
            octet = octets[at]
            if octet < 0x80:
                at += 1
                end = at + ZIGZAG[octet]
            elif (second := octets[at + 1]) < 0x80 and not octet & 1:
                at += 2
                end = at + _LOW[octet] + (second << 6)
            else:
                size, at = read_varint(octets, at)
                end = at + size
            if not at <= end <= total:
                raise invalid(f"a record of {end - at} octets where {total - at} are left")
            # attributes, timestamp delta
            start = at
            if octets[at + 1] < 0x80:
                at += 2
            elif octets[at + 2] < 0x80:
                at += 3
            elif octets[at + 3] < 0x80:
                at += 4
            else:
                _, at = read_varint(octets, at + 1)
            # offset delta
            octet = octets[at]
            if octet < 0x80:
                offset = base + ZIGZAG[octet]
                at += 1
            elif (second := octets[at + 1]) < 0x80 and not octet & 1:
                offset = base + _LOW[octet] + (second << 6)
                at += 2
            else:
                offset, at = read_varint(octets, at)
                offset += base
            if not offset_min <= offset <= offset_max:
                raise invalid(f"offset {offset} where one from {offset_min} to {offset_max} comes")
            offset_min = offset + 1
            # key
            size = _ALONE[octets[at]]
            if size >= 0:
                at += 1
                key, at = octets[at : at + size], at + size
            else:
                key, at = read_octets(octets, at, end)
            if at >= end:
                raise invalid("a record ends before its value")
            yield offset, key, at, start, end
            at = end
    except IndexError:
        raise invalid(f"{header.count} records in {total} octets") from None
    if at != total:
        raise invalid(f"{total - at} octets behind the last record")
