"""Write a segment anew with only what still lives in it.

Flow:   a log says which segment is sparse, or a compactor which is dirty; the owner says what of a batch to
        keep; a thread does the work while the log goes on, and the log takes the result over (`Log.rewritten`).
Shape:  `<base offset>.rewrite` beside the segment, until it takes its place. Offsets stay what they were.
Limits: a piece of a segment in memory, and a batch.

Steps, and what is there if the process dies behind them:
1. a thread writes `.rewrite` and syncs it   recovery removes it: nothing has happened
2. the loop removes the segment's index      the next start makes it anew
3. the loop renames it to `.log`, but not    the old segment or the new one, and both are right; old
   before what was open at 1 is safe: a      settlements in `.settled` name offsets that the new one does
   dead letter's copy before its original    not hold, and are passed over
The loop does the renaming, so that no read of its own comes between the file and what it knows of it.

Neighbours become one in the same way, and one step is more:
1. a thread writes `.rewrite` of the first, and syncs it and its name     nothing has happened
2. it writes `.joined`, with where the last one ends, and syncs that      recovery does what is missing of 3 to 5:
3. the loop renames `.rewrite` to the first one's `.log`                  the new file is whole, and has all that the
4. a thread removes the files of the others, and syncs the directory      others had
5. it removes `.joined`, and syncs the directory                          another `.rewrite` must not be taken for this
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from broker.storage import batch as batches
from broker.storage.batch import Batch
from broker.storage.errors import CorruptLog
from broker.storage.file import Files, Handles
from broker.storage.index import Index
from broker.storage.noted import joined
from broker.storage.segment import (
    COMPANION_SUFFIXES,
    JOINED_SUFFIX,
    LOG_SUFFIX,
    REWRITE_SUFFIX,
    Segment,
    base_of,
)
from broker.storage.write import remove_files

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


def rewrite(handles: Handles, segments: Sequence[Segment], live: list[range], keep: Keep) -> Rewritten:
    """Do step 1, with one segment or with neighbours that become one. `live` are the ascending ranges of offsets that
    lived when it began.

    Raises CorruptLog if a segment cannot be read whole, and what `keep` raises: what was written until then
    is for the caller to remove; DiskFull, SyncFailed.
    """
    first = segments[0]
    out = _Output(handles, first.path(REWRITE_SUFFIX))
    result = Rewritten(changed=len(segments) > 1)
    at = 0
    for batch in itertools.chain.from_iterable(read_batches(handles, segment) for segment in segments):
        inside = _inside(live, batch)
        kept = keep(batch, inside) if inside else []
        if not result.changed and kept != [batch]:  # they are what they were, or others: none compares equal
            result.changed = True
            for start in range(0, at, _PIECE_SIZE):
                out.add([handles.read(first.log_path, start, min(_PIECE_SIZE, at - start))])
        for one in kept:
            result.add(one)
            if result.changed:
                out.add(one.buffers)
        at += batch.size
    if result.changed:
        out.finish()
    return result


def read_batches(handles: Handles, segment: Segment) -> Iterator[Batch]:
    """Of a whole segment, in pieces. Raises CorruptLog."""
    path, end = segment.log_path, segment.readable_size
    position = 0
    while position < end:
        octets = handles.read(path, position, min(_PIECE_SIZE, end - position))
        whole = batches.whole_size(octets, 0)
        if len(octets) < whole <= end - position:
            octets = handles.read(path, position, whole)
        at = 0
        while (whole := batches.whole_size(octets, at)) and at + whole <= len(octets):
            if reason := batches.problem(octets, at):
                raise CorruptLog(path, position + at, reason)
            batch = batches.decode(octets, at)
            at += whole
            yield batch
        if not at:
            raise CorruptLog(path, position, "cut short")
        position += at


def finish_rewrites(files: Files, reader: Handles, directory: str) -> list[str]:
    """In recovery: remove what has not happened yet, and go on with what has; returns the names that are there then."""
    names = files.names(directory)
    for name in names:
        base = base_of(name, JOINED_SUFFIX)
        if base is not None:
            _finish_joining(files, reader, directory, base, names)
    for name in files.names(directory):
        if name.endswith(REWRITE_SUFFIX):
            files.remove(f"{directory}/{name}")
    return files.names(directory)


def _finish_joining(files: Files, reader: Handles, directory: str, first: int, names: list[str]) -> None:
    """The steps behind that in which `.joined` was written; if that was not finished, it goes."""
    note = joined(first)
    inside = range(first + 1, note.read(files, reader, directory))
    removed = [f"{directory}/{note.name}"]
    if inside:
        segment = Segment(directory, first, first)
        if f"{first:020d}{REWRITE_SUFFIX}" in names:
            files.rename(segment.path(REWRITE_SUFFIX), segment.log_path)
        files.sync_directory(directory)
        suffixes = (LOG_SUFFIX, *COMPANION_SUFFIXES)
        removed += [
            f"{directory}/{name}"
            for name in names
            if any(base_of(name, suffix) in inside for suffix in suffixes)
        ]
    remove_files(files, removed)


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
