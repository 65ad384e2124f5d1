"""The records of a partition: look at some, or let go of the oldest.

Flow:   batches are read as a consumer would get them, and opened; nothing is committed or counted.
Limits: one request is shown at most 1,000 records and, with the last of them, 1 MiB; a record of more than 1 MiB is not.
        Of a batch 16 MiB inflated are looked at, or as many as it comes with, and a piece of 1 MiB is kept. What is
        opened is walked over in turns, for one request at a time.
Spec:   ours. Without an offset or a time, the newest records are shown. A batch that cannot be opened, and a record that
        is too large, is a row with an `error`, and with the offset behind it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Final, NamedTuple

from broker.kafka import records
from broker.kafka.open_batch import OpenBatch, OversizedRecord
from broker.kafka.records import CONTROL, HEADER_SIZE, BatchHeader, Record, RecordProblem
from broker.management.call import Call
from broker.management.errors import bad_request
from broker.management.http import Response
from broker.management.listing import Row, rows_answer
from broker.management.payload import shown_octets
from broker.management.routes import route
from broker.management.topics import TOPIC, check_not_internal, partition_of, topic_of
from broker.management.turns import Turns
from broker.model.errors import OffsetOutOfRange
from broker.model.user import Right
from broker.node.partition import Partition
from broker.storage import batch as batches

_COUNT: Final = 100
_COUNT_MAX: Final = 1000
_SIZE_MAX: Final = 1024 * 1024
_RECORD_MAX: Final = 1024 * 1024
_INFLATED_MAX: Final = 16 * 1024 * 1024
_PIECE_SIZE: Final = 1024 * 1024
_READ_SIZE: Final = 256 * 1024
_LONG_MAX: Final = 2**63 - 1


class Unreadable(NamedTuple):
    """A batch that cannot be opened, or a record that is too large."""

    offset: int
    next_offset: int
    reason: str


# ---- looking ----


@route("GET", "/api/topics/{vhost}/{topic}/partitions/{partition}/records")
async def list_records(call: Call) -> Response:
    vhost = call.vhost()
    topic = topic_of(call, vhost)
    one = partition_of(call, topic)
    call.check(Right.READ, TOPIC, topic.name, vhost)
    count = call.number("count", 1, _COUNT_MAX) or _COUNT
    async with call.api.browsing:
        found = await _found(one, _first(call, one, count), count)
    return rows_answer(map(_show, found))


def _first(call: Call, one: Partition, count: int) -> int:
    """The offset from which on records are wanted. Raises Refused."""
    offset, time = call.number("offset", 0, _LONG_MAX), call.number("time", 0, _LONG_MAX)
    if offset is not None and time is not None:
        raise bad_request("an offset or a time is expected, not both")
    if offset is not None:
        return offset
    if time is not None:
        timed = one.offset_of_time(time)
        return timed.offset if timed is not None else one.high_watermark
    return max(one.start_offset, one.high_watermark - count)


async def _found(one: Partition, first: int, count: int) -> list[Record | Unreadable]:
    """From `first` on. Raises OffsetOutOfRange if there is nothing at that offset and never will be."""
    found: list[Record | Unreadable] = []
    turns = Turns()
    size = 0
    offset = first
    while octets := _octets(one, offset, is_first=offset == first):
        before = offset
        for header, at in _batches(octets, offset):
            offset = _behind(header)
            for record in _opened(header, octets, at):
                await turns.take_break()
                if (record.offset if isinstance(record, Record) else record.next_offset - 1) < first:
                    continue
                found.append(record)
                size += _size(record)
                if len(found) >= count or size >= _SIZE_MAX:
                    return found
        if offset == before:
            found.append(Unreadable(offset, one.high_watermark, "no whole batch begins here"))
            return found
    return found


def _octets(one: Partition, offset: int, *, is_first: bool) -> bytes:
    """While others had their turn, the topic may have gone, or let go of what comes next."""
    if one.closed:
        return b""
    try:
        return one.read(offset, _READ_SIZE)
    except OffsetOutOfRange:
        if is_first:
            raise
        return b""


def _batches(octets: bytes, offset: int) -> Iterator[tuple[BatchHeader, int]]:
    """Headers, and where each begins, of the whole batches that reach behind `offset`; the last may be cut."""
    at = 0
    while len(octets) - at >= HEADER_SIZE:
        header = records.read_header(octets, at)
        if not HEADER_SIZE <= header.size <= len(octets) - at or _behind(header) <= offset:
            return
        offset = _behind(header)
        yield header, at
        at += header.size


def _behind(header: BatchHeader) -> int:
    return header.base_offset + header.last_offset_delta + 1


def _opened(header: BatchHeader, octets: bytes, at: int) -> Iterator[Record | Unreadable]:
    reason = batches.problem(octets, at)
    if reason:
        yield Unreadable(header.base_offset, _behind(header), reason)
    elif not header.attributes & CONTROL:
        deflated = octets[at + HEADER_SIZE : at + header.size]
        batch = OpenBatch(header, partial(_inflated, header, deflated), _RECORD_MAX)
        try:
            while (record := batch.next()) is not None:
                yield record if isinstance(record, Record) else _too_large(record)
        except RecordProblem as problem:
            yield Unreadable(header.base_offset, _behind(header), problem.text)


def _inflated(header: BatchHeader, deflated: bytes, start: int, size: int) -> bytes:
    """A piece of the records. Raises RecordProblem."""
    size_max = max(_INFLATED_MAX, header.size)
    if start + size > size_max:
        raise records.invalid(f"inflated, it has more than {size_max} bytes")
    return records.inflated_part(header, deflated, start, max(size, min(_PIECE_SIZE, size_max - start)))


def _too_large(record: OversizedRecord) -> Unreadable:
    text = f"a record of {record.size} bytes, where at most {_RECORD_MAX} are shown"
    return Unreadable(record.offset, record.offset + 1, text)


def _size(record: Record | Unreadable) -> int:
    if isinstance(record, Unreadable):
        return 0
    headers = sum(len(name) + len(value or b"") for name, value in record.headers)
    return len(record.key or b"") + len(record.value or b"") + headers


def _show(record: Record | Unreadable) -> Row:
    if isinstance(record, Unreadable):
        return {"offset": record.offset, "next_offset": record.next_offset, "error": record.reason}
    return {
        "offset": record.offset,
        "timestamp": record.timestamp,
        **_shown("key", record.key),
        **_shown("value", record.value),
        "headers": [{"key": name, **_shown("value", value)} for name, value in record.headers],
    }


def _shown(name: str, octets: bytes | None) -> Row:
    text, encoding = shown_octets(octets) if octets is not None else (None, "string")
    return {name: text, f"{name}_encoding": encoding}


# ---- letting go ----


@route("DELETE", "/api/topics/{vhost}/{topic}/partitions/{partition}/records")
async def delete_records(call: Call) -> Response:
    """Those before an offset; -1 is all that there are."""
    vhost = call.vhost()
    topic = topic_of(call, vhost)
    one = partition_of(call, topic)
    call.check(Right.CONFIGURE, TOPIC, topic.name, vhost)
    check_not_internal(topic)
    before = call.number("before", -1, _LONG_MAX)
    if before is None:
        raise bad_request("before: an offset is needed, or -1 for all records")
    await call.node.settled(one.move_start(one.high_watermark if before < 0 else before))
    return Response(204)
