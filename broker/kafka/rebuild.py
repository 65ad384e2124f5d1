"""A batch with less in it: what compaction asks of one, and what it leaves.

Flow:   a thread asks `keys` of the dirty part of a log, and then has each batch that it may change go through
        `rebuild`.
Shape:  offsets, and with them the header's base offset and last offset delta, stay what they were; so do
        producer id, epoch and base sequence. See `records.py`.
Limits: a batch is opened up to `inflated_size_max` octets.
Spec:   Kafka's MemoryRecords.filterTo; KIP-534 (delete horizon).
Why:    Of a record only its size, offset, key and the first octet of its value's size are looked at: half the
        price of decoding it, and what it costs is what compaction costs. Garbage behind that is copied as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from operator import itemgetter
from typing import Final

from broker.kafka import compression
from broker.kafka.records import (
    CODEC_MASK,
    DELETE_HORIZON,
    INFLATED_SIZE_MAX,
    LOG_APPEND_TIME,
    LONG_MIN,
    NULL,
    ZIGZAG,
    BatchHeader,
    header_of,
    invalid,
    payload_of,
    read_octets,
    read_varint,
    sealed,
    varint,
    wrapped,
)

_NULL: Final = NULL[0]


def keys(
    octets: bytes | memoryview, *, inflated_size_max: int = INFLATED_SIZE_MAX
) -> Iterator[tuple[int, bytes | None]]:
    """The offset and the key of each record of a batch, for half the price of `iterate`.

    Values and headers are not looked at. Raises RecordProblem, at once or in the middle.
    """
    header = header_of(octets)
    return map(itemgetter(0, 1), _outlines(header, payload_of(octets, header, inflated_size_max)))


def rebuild(
    octets: bytes | memoryview,
    keep: Callable[[int, bytes | None, bool], bool],
    *,
    delete_horizon_ms: int | None = None,
    keep_empty: bool = False,
    inflated_size_max: int = INFLATED_SIZE_MAX,
) -> bytes | None:
    """The batch with only the records to keep, everything else as it was; None when nothing is left of it.

    `keep` is asked with a record's offset, its key, and whether it has a value. `delete_horizon_ms` is when
    tombstones may go (`keep` is who lets them go); it is written where one is kept, unless the batch has
    such a moment already. With `keep_empty` a header without records stays, for the sake of its producer's
    last sequence number. Raises RecordProblem.
    """
    header = header_of(octets)
    payload = payload_of(octets, header, inflated_size_max)
    kept = bytearray()
    count, latest, tombstones = 0, LONG_MIN, False
    for offset, key, has_value, delta, start, end in _outlines(header, payload):
        if keep(offset, key, has_value):
            kept += payload[start:end]
            count += 1
            latest = max(latest, wrapped(header.base_timestamp + delta))
            tombstones |= not has_value
    if not count:
        return _emptied(header) if keep_empty else None
    if header.attributes & LOG_APPEND_TIME:
        latest = header.max_timestamp
    changed = replace(header, max_timestamp=latest, count=count)
    if tombstones and delete_horizon_ms is not None and header.delete_horizon_ms is None:
        attributes = header.attributes | DELETE_HORIZON
        changed = replace(changed, attributes=attributes, base_timestamp=delete_horizon_ms)
        kept = _shifted(bytes(kept), header.base_timestamp - delete_horizon_ms)
    elif count == header.count:
        return bytes(octets[: header.size])
    return sealed(changed, compression.deflate(header.codec, bytes(kept)))


def _outlines(header: BatchHeader, octets: bytes) -> Iterator[tuple[int, bytes | None, bool, int, int, int]]:
    """Of each record its offset, key, whether it has a value, timestamp delta, and where it begins and ends.

    As records are read in `records.py`, without what lies behind the first octet of the value's size.
    """
    at = 0
    base_offset = offset_min = header.base_offset
    offset_max = base_offset + header.last_offset_delta
    key: bytes | None
    try:
        for _ in range(header.count):
            start = at
            octet = octets[at]
            if octet < 0x80:
                size, at = ZIGZAG[octet], at + 1
            elif (second := octets[at + 1]) < 0x80:  # most records' sizes, and half of their offsets
                value = octet & 0x7F | second << 7
                size, at = value >> 1 ^ -(value & 1), at + 2
            else:
                size, at = read_varint(octets, at)
            end = at + size
            if size < 0 or end > len(octets):
                raise invalid(f"a record of {size} octets where {len(octets) - at} are left")
            octet = octets[at + 1]
            delta, at = (ZIGZAG[octet], at + 2) if octet < 0x80 else read_varint(octets, at + 1)
            octet = octets[at]
            if octet < 0x80:
                offset, at = ZIGZAG[octet], at + 1
            elif (second := octets[at + 1]) < 0x80:
                value = octet & 0x7F | second << 7
                offset, at = value >> 1 ^ -(value & 1), at + 2
            else:
                offset, at = read_varint(octets, at)
            offset += base_offset
            if not offset_min <= offset <= offset_max:
                raise invalid(f"offset {offset} where one from {offset_min} to {offset_max} comes")
            offset_min = offset + 1
            octet = octets[at]
            if 0 < octet < 0x80 and not octet & 1:
                key, at = octets[at + 1 : at + 1 + (octet >> 1)], at + 1 + (octet >> 1)
            else:
                key, at = read_octets(octets, at, end)
            if at >= end:
                raise invalid("a record ends before its value")
            yield offset, key, octets[at] != _NULL, delta, start, end
            at = end
    except IndexError:
        raise invalid(f"{header.count} records in {len(octets)} octets") from None
    if at != len(octets):
        raise invalid(f"{len(octets) - at} octets behind the last record")


def _emptied(header: BatchHeader) -> bytes:
    attributes = header.attributes & ~(CODEC_MASK | DELETE_HORIZON)
    return sealed(replace(header, attributes=attributes, base_timestamp=-1, count=0), b"")


def _shifted(octets: bytes, shift: int) -> bytearray:
    """Whole records with other timestamp deltas, as the base has changed by `-shift`."""
    shifted = bytearray()
    at = 0
    while at < len(octets):
        size, start = read_varint(octets, at)
        at = start + size
        delta, end = read_varint(octets, start + 1)
        body = octets[start : start + 1] + varint(wrapped(delta + shift)) + octets[end:at]
        shifted += varint(len(body)) + body
    return shifted
