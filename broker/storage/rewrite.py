"""Write a segment anew with only what still lives in it.

Flow:   a log says which segment is sparse; its owner says what of a batch to keep; a thread does the work
        while the log goes on, and the log takes the result over (`Log.rewritten`).
Shape:  `<base offset>.rewrite` beside the segment, until it takes its place. Offsets stay what they were.
Limits: one segment in memory.

Steps, and what is there if the process dies behind them:
1. a thread writes `.rewrite` and syncs it   recovery removes it: nothing has happened
2. the loop renames it to `.log`, but not    the old segment or the new one, and both are right; old
   before what was open at 1 is safe: a      settlements in `.settled` name offsets that the new one does
   dead letter's copy before its original    not hold, and are passed over
3. the loop removes the segment's index      an index that does not fit the size is made anew
The loop does the renaming, so that no read of its own comes between the file and what it knows of it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from broker.storage import batch as batches
from broker.storage.batch import Batch
from broker.storage.errors import CorruptLog
from broker.storage.file import Handles
from broker.storage.index import Index
from broker.storage.segment import LOG_SUFFIX, REWRITE_SUFFIX, Segment

# Of a batch and the ranges of its offsets that live, the batches to keep: with these offsets and no others.
Keep: TypeAlias = Callable[[Batch, list[range]], list[Batch]]


@dataclass(slots=True, eq=False)
class Rewritten:
    """What a segment's file is like now."""

    size: int = 0
    records: int = 0
    max_timestamp: int = 0
    index: Index = field(default_factory=Index)


def rewrite(handles: Handles, segment: Segment, live: list[range], keep: Keep) -> Rewritten:
    """Do step 1. `live` are the ascending ranges of offsets that lived when it began.

    Raises CorruptLog if the segment cannot be read whole; DiskFull, SyncFailed.
    """
    path = segment.path(LOG_SUFFIX)
    octets = handles.read(path, 0, segment.readable_size)
    made, result = _kept_of(octets, path, live, keep)
    written = segment.path(REWRITE_SUFFIX)
    handles.write(written, 0, [buffer for batch in made for buffer in batch.buffers], sync=True)
    handles.forget(written)
    return result


def _kept_of(octets: bytes, path: str, live: list[range], keep: Keep) -> tuple[list[Batch], Rewritten]:
    made: list[Batch] = []
    result = Rewritten()
    at = 0
    while at < len(octets):
        if reason := batches.problem(octets, at):
            raise CorruptLog(path, at, reason)
        batch = batches.decode(octets, at)
        at += batch.size
        inside = _inside(live, batch)
        for kept in keep(batch, inside) if inside else ():
            made.append(kept)
            result.index.add(kept.base_offset, result.size, result.max_timestamp)
            result.size += kept.size
            result.records += 0 if kept.transient else kept.count
            result.max_timestamp = max(result.max_timestamp, kept.max_timestamp)
    return made, result


def _inside(live: list[range], batch: Batch) -> list[range]:
    """The parts of the ranges that lie in a batch."""
    found = []
    at = max(bisect_left(live, batch.base_offset, key=lambda part: part.stop), 0)
    while at < len(live) and live[at].start < batch.next_offset:
        part = range(max(live[at].start, batch.base_offset), min(live[at].stop, batch.next_offset))
        if part:
            found.append(part)
        at += 1
    return found
