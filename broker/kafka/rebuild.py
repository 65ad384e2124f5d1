"""A batch with less in it: what compaction asks of one, and what it leaves.

Flow:   a thread looks at the keys in the dirty part of a log, and then has each batch that it may change go through
        `rebuild`.
Shape:  offsets, and with them the header's base offset and last offset delta, stay what they were; so do
        producer id, epoch and base sequence. See `records.py`.
Limits: a batch is opened up to `inflated_size_max` octets.
Spec:   Kafka's MemoryRecords.filterTo; KIP-534 (delete horizon).
Why:    Records are not decoded (`outlines.py`): what that costs is what compaction costs. Garbage is copied as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from broker.kafka import compression
from broker.kafka.outlines import walk
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
    payload_of,
    read_varint,
    sealed,
    varint,
    wrapped,
)

_NULL: Final = NULL[0]


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
    begins = 0
    for offset, key, value_at, start, end in walk(header, payload):
        has_value = payload[value_at] != _NULL
        if keep(offset, key, has_value):
            kept += payload[begins:end]
            count += 1
            octet = payload[start + 1]
            delta = ZIGZAG[octet] if octet < 0x80 else read_varint(payload, start + 1)[0]
            latest = max(latest, wrapped(header.base_timestamp + delta))
            tombstones |= not has_value
        begins = end
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
