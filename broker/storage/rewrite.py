"""Write a segment anew with only what still lives in it.

Flow:   a log says which segment is sparse, or a compactor which is dirty; the owner says what of a batch to
        keep; a thread does the work while the log goes on, and the log takes the result over (`Log.rewritten`).
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
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from broker.storage import batch as batches
from broker.storage.batch import Batch
from broker.storage.errors import CorruptLog
from broker.storage.file import Handles
from broker.storage.index import Index
from broker.storage.segment import LOG_SUFFIX, REWRITE_SUFFIX, Segment

# Of a batch and the ranges of its offsets that live, the batches to keep: with these offsets and no others. The
# batch itself if it stays what it is.
Keep: TypeAlias = Callable[[Batch, list[range]], list[Batch]]

_PIECE_SIZE: Final = 1024 * 1024


@dataclass(slots=True, eq=False)
class Rewritten:
    """What a segment's file is like now, or would be."""

    changed: bool = False
    """There is a new file; otherwise it would have been the same again."""
    size: int = 0
    records: int = 0
    max_timestamp: int = 0
    index: Index = field(default_factory=Index)

    def add(self, batch: Batch) -> None:
        self.index.add(batch.base_offset, self.size, self.max_timestamp)
        self.size += batch.size
        self.records += 0 if batch.transient else batch.count
        self.max_timestamp = max(self.max_timestamp, batch.max_timestamp)


def rewrite(handles: Handles, segment: Segment, live: list[range], keep: Keep) -> Rewritten:
    """Do step 1. `live` are the ascending ranges of offsets that lived when it began.

    Raises CorruptLog if the segment cannot be read whole, and what `keep` raises: what was written until then
    is for the caller to remove; DiskFull, SyncFailed.
    """
    path = segment.path(LOG_SUFFIX)
    octets = handles.read(path, 0, segment.readable_size)
    out = _Output(handles, segment.path(REWRITE_SUFFIX))
    result = Rewritten()
    at = 0
    for batch in read_batches(path, octets):
        inside = _inside(live, batch)
        kept = keep(batch, inside) if inside else []
        if not result.changed and kept != [batch]:  # they are what they were, or others: none compares equal
            result.changed = True
            for start in range(0, at, _PIECE_SIZE):
                out.add([octets[start : min(start + _PIECE_SIZE, at)]])
        for one in kept:
            result.add(one)
            if result.changed:
                out.add(one.buffers)
        at += batch.size
    if result.changed:
        out.finish()
    return result


def read_batches(path: str, octets: bytes) -> Iterator[Batch]:
    """Of a whole segment. Raises CorruptLog."""
    at = 0
    while at < len(octets):
        if reason := batches.problem(octets, at):
            raise CorruptLog(path, at, reason)
        batch = batches.decode(octets, at)
        at += batch.size
        yield batch


class _Output:
    """A new file, written and synced in pieces.

    Whoever waits for a commit waits for a piece at most, and many small batches are not all in memory.
    """

    def __init__(self, handles: Handles, path: str) -> None:
        self._handles = handles
        self._path = path
        self._position = 0
        self._buffers: list[bytes] = []
        self._size = 0

    def add(self, buffers: list[bytes]) -> None:
        self._buffers += buffers
        self._size += sum(map(len, buffers))
        if self._size >= _PIECE_SIZE:
            self._write()

    def finish(self) -> None:
        self._write()
        self._handles.forget(self._path)

    def _write(self) -> None:
        self._handles.write(self._path, self._position, self._buffers, sync=True)
        self._position += self._size
        self._buffers, self._size = [], 0


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
