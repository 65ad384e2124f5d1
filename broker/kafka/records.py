"""Record batches, format 2: checked by the header alone, opened only when somebody asks.

Flow:   a Produce request's records go through `check` and into the log as they came; `iterate` opens a
        batch for who wants records, `build` makes one. What compaction does to one: `rebuild.py`.
Shape:  big endian; the crc (CRC-32C) covers everything from octet 21 on
         0 base offset i64 | 8 length i32 of what follows | 12 leader epoch i32 | 16 magic i8 = 2
        17 crc u32 | 21 attributes i16 | 23 last offset delta i32 | 27 base timestamp i64
        35 max timestamp i64 | 43 producer id i64 | 51 producer epoch i16 | 53 base sequence i32
        57 record count i32 | 61 records, deflated as one if the attributes say so
        attributes: 0-2 codec | 3 timestamps are the log's | 4 transactional | 5 control
        | 6 the base timestamp is the delete horizon | others 0 on the wire; in a log they are the log's
        A record, all numbers but the attributes zigzag varints
        size | attributes i8 = 0 | timestamp delta | offset delta | key size, -1 for null | key
        | value size, -1 for null | value | header count | (key size | key | value size or -1 | value)*
Limits: a batch is opened up to `inflated_size_max` octets, 100 MiB unless told otherwise: what Kafka lets
        one request have. Where the broker itself has to open one it is `inflated_size_max_of` its size. Timestamps wrap at 64 bits, as Java's do.
Spec:   Kafka's "Record Batch"; KIP-98, KIP-534 (delete horizon); checks as in Kafka's LogValidator, but
        for what would need opening the batch.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Final

import google_crc32c

from broker.kafka import compression
from broker.kafka.errors import ErrorCode

HEADER_SIZE: Final = 61
MAGIC: Final = 2
INFLATED_SIZE_MAX: Final = 100 * 1024 * 1024
_INFLATED_SIZE_MIN: Final = 1024 * 1024
_INFLATED_GROWTH_MAX: Final = 32

CODEC_MASK: Final = 0b111
LOG_APPEND_TIME: Final = 1 << 3
TRANSACTIONAL: Final = 1 << 4
CONTROL: Final = 1 << 5
DELETE_HORIZON: Final = 1 << 6

_HEADER: Final = struct.Struct(">qiibIhiqqqhii")
_HEAD: Final = struct.Struct(">qiibI")
_COVERED: Final = struct.Struct(">hiqqqhii")
_LENGTH_END: Final = 12
_MAGIC_AT: Final = 16
_CRC_AT: Final = 17
_CRC_FROM: Final = 21
# The crc function takes bytes alone. So much at a time is copied for it, and stays in the cache.
_CRC_CHUNK: Final = 64 * 1024

# One octet for each of its seven parts.
_RECORD_SIZE_MIN: Final = 7
_HEADER_SIZE_MIN: Final = 2
_SHIFTS: Final = tuple(range(7, 70, 7))
# Of numbers of one octet.
ZIGZAG: Final = [octet >> 1 ^ -(octet & 1) for octet in range(0x80)]
LONG_MIN: Final = -(1 << 63)
_LONG_MASK: Final = (1 << 64) - 1


class RecordProblem(Exception):
    """A producer's records are not as they have to be; `code` is what a response says of it."""

    def __init__(self, code: ErrorCode, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


@dataclass(slots=True)
class BatchHeader:
    """What stands in front of a batch's records; who needs another one makes it with `dataclasses.replace`."""

    base_offset: int
    size: int
    """Octets of the whole batch."""
    leader_epoch: int
    attributes: int
    last_offset_delta: int
    base_timestamp: int
    max_timestamp: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    count: int

    @property
    def codec(self) -> int:
        return self.attributes & CODEC_MASK

    @property
    def delete_horizon_ms(self) -> int | None:
        """When the tombstones in it may go; None while nobody has said so."""
        return self.base_timestamp if self.attributes & DELETE_HORIZON else None


@dataclass(slots=True)
class Record:
    """One record. The key of a header that is not UTF-8 has replacement characters, as in Java."""

    offset: int
    timestamp: int
    """Milliseconds."""
    key: bytes | None = None
    value: bytes | None = None
    headers: list[tuple[str, bytes | None]] = field(default_factory=list)


# ---- the header ----


def read_header(octets: bytes | memoryview, at: int = 0) -> BatchHeader:
    """The header at `at`, where there are at least 61 octets; nothing is checked."""
    base, length, leader, _, _, attributes, delta, first, latest, producer, epoch, sequence, count = (
        _HEADER.unpack_from(octets, at)
    )
    size = length + _LENGTH_END
    return BatchHeader(base, size, leader, attributes, delta, first, latest, producer, epoch, sequence, count)


def check(records: bytes | memoryview, size_max: int) -> BatchHeader:
    """The header of what a producer sent for one partition: one sound batch of at most `size_max` octets.

    The records themselves are not looked at. Raises RecordProblem.
    """
    size = len(records)
    if size < HEADER_SIZE:
        raise _too_short(records)
    base, length, leader, magic, crc, attributes, delta, first, latest, producer, epoch, sequence, count = (
        _HEADER.unpack_from(records)
    )
    if magic != MAGIC:
        raise _wrong_magic(magic & 0xFF)
    if length + _LENGTH_END != size:
        raise _wrong_length(length, size)
    if size > size_max:
        raise RecordProblem(
            ErrorCode.MESSAGE_TOO_LARGE, f"a batch of {size} octets where at most {size_max} are taken"
        )
    found = _crc(records, _CRC_FROM, size)
    if found != crc:
        raise RecordProblem(ErrorCode.CORRUPT_MESSAGE, f"crc {found:08x} where {crc:08x} is written")
    if attributes & ~CODEC_MASK or attributes > compression.Codec.ZSTD:
        raise _wrong_attributes(attributes)
    if base:
        raise invalid(f"base offset {base} where a producer says 0")
    if count <= 0 or delta != count - 1:
        raise invalid(f"{count} records with a last offset delta of {delta}")
    if not attributes and count * _RECORD_SIZE_MIN > size - HEADER_SIZE:
        raise invalid(f"{count} records in {size - HEADER_SIZE} octets")
    if producer >= 0 and (epoch < 0 or sequence < 0):
        raise invalid(f"producer {producer} with epoch {epoch} and sequence {sequence}")
    return BatchHeader(base, size, leader, attributes, delta, first, latest, producer, epoch, sequence, count)


def invalid(text: str) -> RecordProblem:
    return RecordProblem(ErrorCode.INVALID_RECORD, text)


def _too_short(records: bytes | memoryview) -> RecordProblem:
    size = len(records)
    if size > _MAGIC_AT and records[_MAGIC_AT] != MAGIC:
        return _wrong_magic(records[_MAGIC_AT])
    if not size:
        return invalid("no record batch")
    return RecordProblem(ErrorCode.CORRUPT_MESSAGE, f"a batch of {size} octets is cut short")


def _wrong_magic(magic: int) -> RecordProblem:
    return invalid(f"magic {magic} where only {MAGIC} is served")


def _wrong_length(length: int, size: int) -> RecordProblem:
    said = length + _LENGTH_END
    if HEADER_SIZE <= said < size:
        return invalid(f"a batch of {said} octets and {size - said} behind it: only one batch is taken")
    return RecordProblem(ErrorCode.CORRUPT_MESSAGE, f"a batch of {said} octets where {size} are")


def _wrong_attributes(attributes: int) -> RecordProblem:
    if attributes & CONTROL:
        return invalid("a producer does not write control batches")
    if attributes & TRANSACTIONAL:
        return RecordProblem(ErrorCode.UNSUPPORTED_FOR_MESSAGE_FORMAT, "transactions are not served")
    if attributes & LOG_APPEND_TIME:
        return RecordProblem(ErrorCode.INVALID_TIMESTAMP, "a producer does not say when the log appends")
    if attributes & ~CODEC_MASK:
        return invalid(f"attributes {attributes & 0xFFFF:#06x} with bits that mean nothing")
    return RecordProblem(ErrorCode.UNSUPPORTED_COMPRESSION_TYPE, f"there is no codec {attributes}")


def _crc(octets: bytes | memoryview, at: int, end: int, crc: int = 0) -> int:
    """CRC-32C from `at` to `end`, behind what `crc` was computed of."""
    if end - at <= _CRC_CHUNK:
        found: int = google_crc32c.extend(crc, bytes(octets[at:end]))
        return found
    for start in range(at, end, _CRC_CHUNK):
        crc = google_crc32c.extend(crc, bytes(octets[start : min(start + _CRC_CHUNK, end)]))
    return crc


def sealed(header: BatchHeader, payload: bytes | memoryview) -> bytes:
    """A batch of this header, with the right size and crc, and this payload."""
    covered = _COVERED.pack(
        header.attributes,
        header.last_offset_delta,
        header.base_timestamp,
        header.max_timestamp,
        header.producer_id,
        header.producer_epoch,
        header.base_sequence,
        header.count,
    )
    crc = _crc(payload, 0, len(payload), google_crc32c.value(covered))
    length = HEADER_SIZE - _LENGTH_END + len(payload)
    head = _HEAD.pack(header.base_offset, length, header.leader_epoch, MAGIC, crc)
    return b"".join((head, covered, payload))


def with_log_append_time(octets: bytes | memoryview, now_ms: int) -> bytes:
    """The batch with the time at which the log appends it instead of its records' own."""
    header = read_header(octets)
    stamped = replace(header, attributes=header.attributes | LOG_APPEND_TIME, max_timestamp=now_ms)
    return sealed(stamped, memoryview(octets)[HEADER_SIZE : header.size])


# ---- records out of a batch ----


def iterate(octets: bytes | memoryview, *, inflated_size_max: int = INFLATED_SIZE_MAX) -> Iterator[Record]:
    """The records of the batch that `octets` begin with; its crc is not looked at.

    Raises RecordProblem, at once or in the middle, for what is no batch or not as its header says. A
    control batch has records too, which are nothing for consumers.
    """
    header = header_of(octets)
    return _walk(header, payload_of(octets, header, inflated_size_max))


def inflated_size_max_of(size: int) -> int:
    """Up to how many bytes a batch of `size` bytes is opened: 32 times as many, or 1 MiB, and never more than 100 MiB."""
    return min(INFLATED_SIZE_MAX, max(_INFLATED_SIZE_MIN, _INFLATED_GROWTH_MAX * size))


def header_of(octets: bytes | memoryview) -> BatchHeader:
    if len(octets) < HEADER_SIZE or octets[_MAGIC_AT] != MAGIC:
        raise invalid("not a record batch")
    header = read_header(octets)
    if not HEADER_SIZE <= header.size <= len(octets):
        raise invalid(f"a batch of {header.size} octets where {len(octets)} are")
    return header


def inflated_part(header: BatchHeader, deflated: bytes, start: int, size: int) -> bytes:
    """A part of the records of a batch, of which `deflated` is what comes behind the header. Raises RecordProblem."""
    try:
        return compression.inflate_part(header.codec, deflated, start, size)
    except compression.CompressionProblem as error:
        raise invalid(f"the records cannot be inflated: {error}") from error


def payload_of(octets: bytes | memoryview, header: BatchHeader, size_max: int) -> bytes:
    try:
        return compression.inflate(header.codec, bytes(octets[HEADER_SIZE : header.size]), size_max)
    except compression.CompressionProblem as error:
        raise invalid(f"the records cannot be inflated: {error}") from error


def _walk(header: BatchHeader, payload: bytes) -> Iterator[Record]:
    at = 0
    offset_min = header.base_offset
    offset_max = header.base_offset + header.last_offset_delta
    try:
        for _ in range(header.count):
            record, at = read_record(header, payload, at)
            if not offset_min <= record.offset <= offset_max:
                raise invalid(f"offset {record.offset} where one from {offset_min} to {offset_max} comes")
            offset_min = record.offset + 1
            yield record
    except IndexError:
        raise invalid(f"{header.count} records in {len(payload)} octets") from None
    if at != len(payload):
        raise invalid(f"{len(payload) - at} octets behind the last record")


def read_record(header: BatchHeader, octets: bytes, at: int) -> tuple[Record, int]:
    """The record at `at`, and where it ends. Raises IndexError where the octets end too early."""
    # Here and below: a number of one octet is read on the spot, as a call costs more than reading it.
    octet = octets[at]
    size, at = (ZIGZAG[octet], at + 1) if octet < 0x80 else read_varint(octets, at)
    end = at + size
    if size < 0 or end > len(octets):
        raise invalid(f"a record of {size} octets where {len(octets) - at} are left")
    octet = octets[at + 1]
    delta, at = (ZIGZAG[octet], at + 2) if octet < 0x80 else read_varint(octets, at + 1)
    octet = octets[at]
    offset_delta, at = (ZIGZAG[octet], at + 1) if octet < 0x80 else read_varint(octets, at)
    key, at = read_octets(octets, at, end)
    value, at = read_octets(octets, at, end)
    octet = octets[at]
    count, at = (ZIGZAG[octet], at + 1) if octet < 0x80 else read_varint(octets, at)
    headers: list[tuple[str, bytes | None]] = []
    if count:
        if not 0 < count <= (end - at) // _HEADER_SIZE_MIN:
            raise invalid(f"{count} headers in {end - at} octets")
        for _ in range(count):
            name, at = read_octets(octets, at, end)
            if name is None:
                raise invalid("a header without a key")
            content, at = read_octets(octets, at, end)
            headers.append((name.decode("utf-8", "replace"), content))
    if at != end:
        raise invalid(f"a record ends {at - end} octets behind what its size says")
    if header.attributes & LOG_APPEND_TIME:
        timestamp = header.max_timestamp
    else:
        timestamp = wrapped(header.base_timestamp + delta)
    return Record(header.base_offset + offset_delta, timestamp, key, value, headers), at


def read_octets(octets: bytes, at: int, end: int) -> tuple[bytes | None, int]:
    octet = octets[at]
    size, at = (ZIGZAG[octet], at + 1) if octet < 0x80 else read_varint(octets, at)
    if size < 0:
        if size != -1:
            raise invalid(f"a size of {size}")
        return None, at
    stop = at + size
    if stop > end:
        raise invalid(f"{size} octets where {end - at} are left")
    return octets[at:stop], stop


def read_varint(octets: bytes, at: int) -> tuple[int, int]:
    """A zigzag number, and where it ends. Raises IndexError where the octets end too early."""
    octet = octets[at]
    if octet < 0x80:
        return ZIGZAG[octet], at + 1
    value = octet & 0x7F
    for shift in _SHIFTS:
        at += 1
        octet = octets[at]
        if octet < 0x80:
            value |= octet << shift
            if value > _LONG_MASK:
                break
            return value >> 1 ^ -(value & 1), at + 1
        value |= (octet & 0x7F) << shift
    raise invalid("a number of more than 64 bits")


def wrapped(number: int) -> int:
    return number if LONG_MIN <= number < -LONG_MIN else ((number - LONG_MIN) & _LONG_MASK) + LONG_MIN


# ---- a batch out of records ----


def build(
    records: Sequence[Record],
    *,
    base_offset: int = 0,
    compression_type: int = compression.Codec.NONE,
    producer_id: int = -1,
    producer_epoch: int = -1,
    base_sequence: int = -1,
) -> bytes:
    """A batch of these records, of which there is one at least.

    They get the offsets from `base_offset` on, whatever their own say.
    """
    base_timestamp = records[0].timestamp
    payload = b"".join(
        [
            _record_octets(record, wrapped(record.timestamp - base_timestamp), index)
            for index, record in enumerate(records)
        ]
    )
    header = BatchHeader(
        base_offset,
        0,
        -1,
        compression_type,
        len(records) - 1,
        base_timestamp,
        max([record.timestamp for record in records]),
        producer_id,
        producer_epoch,
        base_sequence,
        len(records),
    )
    return sealed(header, compression.deflate(compression_type, payload))


def _record_octets(record: Record, timestamp_delta: int, offset_delta: int) -> bytes:
    parts = [b"\0", varint(timestamp_delta), varint(offset_delta)]
    for octets in (record.key, record.value):
        parts += (NULL,) if octets is None else (varint(len(octets)), octets)
    parts.append(varint(len(record.headers)))
    for name, content in record.headers:
        named = name.encode()
        parts += (varint(len(named)), named)
        parts += (NULL,) if content is None else (varint(len(content)), content)
    body = b"".join(parts)
    return varint(len(body)) + body


@lru_cache(maxsize=4096)
def varint(number: int) -> bytes:
    """Zigzag, of a number of 64 bits. Sizes and small differences are asked for again and again."""
    value = (number << 1) ^ (number >> 63)
    octets = bytearray()
    while value >= 0x80:
        octets.append(value & 0x7F | 0x80)
        value >>= 7
    octets.append(value)
    return bytes(octets)


NULL: Final = varint(-1)
"""The size of what is not there."""
