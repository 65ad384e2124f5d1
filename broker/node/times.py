"""Records by their time, in a log and in what waits to be written to it.

Flow:   a partition asks; the headers of batches say which of them must be opened.
Shape:  `bounds` are the offsets that may be read, `memory` the batches that no file has yet, ascending.
Limits: one batch is opened at a time, up to `inflated_size_max_of` its size, and `_VAIN_MAX` whose records are not as
        new as their producers' headers say. Headers are read from where the index says, so that it is a matter of 64 KiB;
        all of them only where the record with the largest time has been let go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final, NamedTuple

from broker.kafka.outlines import timestamps
from broker.kafka.records import RecordProblem, inflated_size_max_of
from broker.storage.batch import Batch
from broker.storage.log import Log

_VAIN_MAX: Final = 8


class Timed(NamedTuple):
    """A record that was looked for by its time."""

    offset: int
    timestamp: int


class _Header(NamedTuple):
    base_offset: int
    max_timestamp: int
    octets: Callable[[], bytes]


def first_since(log: Log, memory: Sequence[Batch], bounds: range, timestamp: int) -> Timed | None:
    """The first record with this time or a later one. Raises CorruptLog."""
    in_vain = 0
    for header in _headers(log, memory, bounds, timestamp):
        if header.max_timestamp >= timestamp:
            try:
                for record in _records(header, bounds):
                    if record.timestamp >= timestamp:
                        return record
                in_vain += header.base_offset >= bounds.start
            except RecordProblem:
                in_vain = _VAIN_MAX
            if in_vain >= _VAIN_MAX:  # its producer's doing; nearly right is better than nothing
                return Timed(max(header.base_offset, bounds.start), header.max_timestamp)
    return None


def largest(log: Log, memory: Sequence[Batch], bounds: range) -> int:
    """Of all records, or of some that were let go with the beginning of a segment; -1 if there are none."""
    found = [batch.max_timestamp for batch in memory if batch.base_offset < bounds.stop]
    found += [
        log.max_timestamp(segment)
        for segment in log.segments
        if segment.readable_size and segment.next_offset > bounds.start
    ]
    return max(found, default=-1)


def newest(log: Log, memory: Sequence[Batch], bounds: range) -> Timed | None:
    """The first of the records with the largest time. Raises CorruptLog."""
    time = largest(log, memory, bounds)
    found = first_since(log, memory, bounds, time) if time >= 0 else None
    if found is None and time >= 0:
        time = max(
            [_max_timestamp(header, bounds) for header in _headers(log, memory, bounds, 0)], default=-1
        )
        found = first_since(log, memory, bounds, time) if time >= 0 else None
    return found


def _headers(log: Log, memory: Sequence[Batch], bounds: range, timestamp: int) -> Iterator[_Header]:
    """Of what may be read, from a batch on before which every time is smaller."""
    for segment, position, span in log.spans_since(timestamp):
        if span.next_offset > bounds.start:
            octets = partial(log.batch_at, segment, position, span.size)
            yield _Header(span.base_offset, span.max_timestamp, octets)
    for batch in memory:
        if batch.base_offset < bounds.stop:
            yield _Header(batch.base_offset, batch.max_timestamp, partial(b"".join, batch.buffers))


def _records(header: _Header, bounds: range) -> Iterator[Timed]:
    """Raises RecordProblem."""
    octets = header.octets()
    for offset, timestamp in timestamps(octets, inflated_size_max=inflated_size_max_of(len(octets))):
        if offset >= bounds.start:
            yield Timed(offset, timestamp)


def _max_timestamp(header: _Header, bounds: range) -> int:
    if header.base_offset >= bounds.start:
        return header.max_timestamp
    try:
        return max([record.timestamp for record in _records(header, bounds)], default=-1)
    except RecordProblem:
        return header.max_timestamp
