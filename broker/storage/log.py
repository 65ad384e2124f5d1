"""A log: batches in offset order, in segment files, with what was settled of them.

Flow:   the owner appends batches and settles offsets; both wait here until the node's flusher takes
        them, either for the journal (`for_journal`) or for the segment files (`for_files`), and says
        `written`. Reading finds what waits in memory, and the rest in the files.
Shape:  see `batch`, `segment`, `settlements`. Offsets rise and may have gaps.
Limits: a segment has at most `segment_size_max` octets, unless a single batch has more.
Why:    Everything here runs in one thread and writes nothing: what it hands out are plain `Write`s,
        which another thread carries out while this one goes on (see `node/flusher.py`).

What is appended is first `unwritten`. Put into the journal it stays there, and counts as `journaled`:
it is safe, and its segment file gets it later. Handed out for the files it is `writing`, until `written`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from broker.storage import batch as batches
from broker.storage.batch import Batch
from broker.storage.errors import CorruptLog
from broker.storage.file import Handles
from broker.storage.index import IndexFile
from broker.storage.index import encode as encode_index
from broker.storage.segment import INDEX_SUFFIX, LOG_SUFFIX, SETTLED_SUFFIX, Segment
from broker.storage.settlements import Settlement, encode_block, settlement

SEGMENT_SIZE_MAX: Final = 16 * 1024 * 1024
_READ_SIZE: Final = 256 * 1024


@dataclass(slots=True, eq=False)
class Write:
    """Octets for one file; whoever carries it out syncs the file where `sync` says so.

    A file that is `created` needs its directory synced too, and a log's writes go in the order in
    which they were handed out: that a segment exists says that the one before it is safe.
    """

    path: str
    position: int
    buffers: list[bytes]
    sync: bool
    created: bool


@dataclass(slots=True, eq=False)
class _Waiting:
    """What waits for a file: batches with their segments, and settlements."""

    batches: list[tuple[Segment, Batch]] = field(default_factory=list)
    settlements: list[Settlement] = field(default_factory=list)


class Log:
    """An open log. `open_log` in `recovery` makes one from a directory."""

    def __init__(
        self,
        id: int,
        directory: str,
        reader: Handles,
        segments: list[Segment],
        next_offset: int = 0,
        segment_size_max: int = SEGMENT_SIZE_MAX,
    ) -> None:
        self.id = id
        self.directory = directory
        self.next_offset = next_offset
        self.mark = 0
        """Every offset below it has been handed out at least once."""
        self.writing = False
        self.journal_number = 0
        """The newest journal that holds something of this log; 0 is none."""
        self._reader = reader
        self._segments = segments
        self._segment_size_max = segment_size_max
        self._unwritten = _Waiting()
        self._written_soon = _Waiting()
        self._journaled_batches = 0
        self._journaled_settlements = 0
        # Where the last read ended: readers mostly go on from there.
        self._cursor: tuple[Segment | None, int, int] = (None, 0, 0)
        self._noted_mark = 0

    # ---- appending and settling ----

    def append(self, batch: Batch) -> None:
        """Take a batch whose offsets lie at or behind `next_offset`."""
        assert batch.base_offset >= self.next_offset
        segment = self._segments[-1] if self._segments else None
        if segment is None or segment.sealed or (
            segment.planned_size and segment.planned_size + batch.size > self._segment_size_max
        ):
            segment = self._roll(batch.base_offset)
        segment.account(batch)
        self._unwritten.batches.append((segment, batch))
        self.next_offset = batch.next_offset

    def _roll(self, base_offset: int) -> Segment:
        if self._segments:
            self._segments[-1].sealed = True
        segment = Segment(self.directory, base_offset, base_offset)
        self._segments.append(segment)
        return segment

    def settle(self, offsets: range) -> None:
        """Note that the owner is done with these offsets, all of which it appended and none settled yet."""
        self.remember(offsets)
        self.mark_settled(offsets)

    def remember(self, offsets: range) -> None:
        """Have it written that these offsets are settled."""
        waiting = self._unwritten.settlements
        if len(waiting) > self._journaled_settlements and offsets.step == 1:
            last = waiting[-1]
            if last.step == 1 and last.number and last.first + last.number == offsets.start:
                waiting[-1] = Settlement(last.first, last.number + len(offsets), 1)
                return
        waiting.append(settlement(offsets))

    def mark_settled(self, offsets: range) -> None:
        """Count these offsets as settled without another word on disk about it."""
        segments = self._segments
        at = 0 if len(segments) < 2 or offsets[0] < segments[1].base_offset else self._segment_at(offsets[0])
        while offsets:
            end = segments[at + 1].base_offset if at + 1 < len(segments) else None
            if end is None or offsets[-1] < end:
                inside, offsets = offsets, range(0)
            else:
                cut = len(range(offsets.start, end, offsets.step))
                inside, offsets = offsets[:cut], offsets[cut:]
            if inside:
                segments[at].live -= segments[at].settled.add(inside)
            at += 1

    def _segment_at(self, offset: int) -> int:
        """The segment that holds `offset`, if any does; the first for what lies before it."""
        at = bisect_right(self._segments, offset, key=_base_offset) - 1
        return max(at, 0)

    def reread(self) -> None:
        """Segments were changed on disk: forget where in them the last read ended."""
        self._cursor = (None, 0, 0)

    # ---- what is known without reading ----

    @property
    def start_offset(self) -> int:
        """The first offset that may still be read."""
        return self._segments[0].base_offset if self._segments else self.next_offset

    @property
    def live(self) -> int:
        """Records that are not settled."""
        return sum(segment.live for segment in self._segments)

    @property
    def size(self) -> int:
        """Octets on disk, or soon."""
        return sum(segment.planned_size for segment in self._segments)

    @property
    def segments(self) -> tuple[Segment, ...]:
        return tuple(self._segments)

    def unwritten_of(self, segment: Segment) -> list[Batch]:
        """The batches of a segment that are in no file yet."""
        waiting = (*self._written_soon.batches, *self._unwritten.batches)
        return [batch for of, batch in waiting if of is segment]

    @property
    def waits(self) -> bool:
        """Something is neither in the journal nor handed out for the files."""
        return (
            len(self._unwritten.batches) > self._journaled_batches
            or len(self._unwritten.settlements) > self._journaled_settlements
        )

    @property
    def waits_for_sync(self) -> bool:
        """Among that are batches."""
        return len(self._unwritten.batches) > self._journaled_batches

    @property
    def journaled(self) -> bool:
        """The journal holds something that the files do not."""
        return bool(self._journaled_batches or self._journaled_settlements)

    # ---- towards the disk ----

    def for_journal(self, number: int) -> tuple[list[Batch], list[Settlement]]:
        """What no journal holds yet; the one with this number is going to."""
        self._note_mark()
        some = [batch for _, batch in self._unwritten.batches[self._journaled_batches :]]
        settlements = self._unwritten.settlements[self._journaled_settlements :]
        self._journaled_batches = len(self._unwritten.batches)
        self._journaled_settlements = len(self._unwritten.settlements)
        self.journal_number = number
        return some, settlements

    def for_files(self, *, journaled_only: bool, settlements: bool) -> tuple[list[Write], list[Write]]:
        """Batches that are unwritten, and settlements, as writes in the order in which they must happen.

        `journaled_only` takes what a journal holds and no more. `writing` holds until `written` is
        called, and meanwhile nothing more may be asked for. Of what the journal holds, batches that were
        settled in the meantime are left out: they never reach a file of their own.
        """
        assert not self.writing
        self._note_mark()
        journaled = self._journaled_batches
        batches_end = journaled if journaled_only else len(self._unwritten.batches)
        settlements_end = self._journaled_settlements if journaled_only else len(self._unwritten.settlements)
        if not settlements:
            settlements_end = 0
        taken = _Waiting(self._unwritten.batches[:batches_end], self._unwritten.settlements[:settlements_end])
        del self._unwritten.batches[:batches_end]
        del self._unwritten.settlements[:settlements_end]
        self._journaled_batches = 0
        self._journaled_settlements = max(0, self._journaled_settlements - settlements_end)
        self.writing = True
        self._written_soon = taken
        return self._batch_writes(taken.batches, journaled), self._settlement_writes(taken.settlements)

    def _batch_writes(self, waiting: list[tuple[Segment, Batch]], journaled: int) -> list[Write]:
        writes: list[Write] = []
        last: Segment | None = None
        for number, (segment, batch) in enumerate(waiting):
            if number < journaled and not segment.settled.unsettled(batch.base_offset, batch.next_offset):
                continue
            if segment is not last:
                if last is not None:
                    self._seal(last, writes)
                path = segment.path(LOG_SUFFIX)
                writes.append(Write(path, segment.size, [], False, segment.size == 0))
                last = segment
            segment.place(batch)
            writes[-1].buffers += batch.buffers
            writes[-1].sync |= not batch.transient
        if last is not None and last.sealed:
            self._seal(last, writes)
        return writes

    def _seal(self, segment: Segment, writes: list[Write]) -> None:
        """Its log file gets nothing more: it is synced, and its index written for the next start."""
        writes[-1].sync = True
        file = IndexFile(
            segment.base_offset,
            segment.next_offset,
            segment.size,
            segment.records,
            segment.max_timestamp,
            segment.index,
        )
        writes.append(Write(segment.path(INDEX_SUFFIX), 0, [encode_index(file)], False, False))

    def _settlement_writes(self, settlements: list[Settlement]) -> list[Write]:
        """One block for each segment; what belongs to a segment that is gone already is left out."""
        by_segment: dict[int, list[Settlement]] = {}
        for entry in settlements:
            if not entry.number:
                by_segment.setdefault(len(self._segments) - 1, []).append(entry)
                continue
            offsets = entry.offsets
            at = self._segment_at(offsets[0])
            while offsets and at < len(self._segments):
                end = self._segments[at + 1].base_offset if at + 1 < len(self._segments) else offsets[-1] + 1
                cut = len(range(offsets.start, max(end, offsets.start), offsets.step))
                inside, offsets = offsets[:cut], offsets[cut:]
                if inside and inside[0] >= self._segments[at].base_offset:
                    by_segment.setdefault(at, []).append(settlement(inside))
                at += 1
        writes = []
        for at, entries in by_segment.items():
            if at < 0:
                continue
            segment = self._segments[at]
            block = encode_block(entries)
            path = segment.path(SETTLED_SUFFIX)
            writes.append(Write(path, segment.settled_size, [block], True, segment.settled_size == 0))
            segment.settled_size += len(block)
        return writes

    def _note_mark(self) -> None:
        if self.mark > self._noted_mark and self._unwritten.settlements:
            self._noted_mark = self.mark
            self._unwritten.settlements.append(Settlement(self.mark, 0, 0))

    def written(self) -> None:
        """What `for_files` handed out is where it belongs."""
        self.writing = False
        for segment, _ in self._written_soon.batches:
            segment.readable_size = segment.size
        self._written_soon = _Waiting()

    # ---- letting go ----

    def drop_settled(self, oldest_journal: int) -> list[str]:
        """Forget sealed segments of which nothing is live; returns the files to remove.

        They may go once everything appended so far is safe: a dead letter's copy before its original.
        Nothing is dropped that a journal, the oldest there is or a newer one, could bring back.
        """
        if self.writing or self.journal_number >= oldest_journal:
            return []
        dropped = [segment for segment in self._segments[:-1] if segment.sealed and segment.live == 0]
        if not dropped:
            return []
        gone = {id(segment) for segment in dropped}
        self._segments = [segment for segment in self._segments if id(segment) not in gone]
        self._unwritten.batches = [pair for pair in self._unwritten.batches if id(pair[0]) not in gone]
        return [path for segment in dropped for path in self._files_of(segment)]

    def drop_all(self, oldest_journal: int) -> list[str]:
        """Forget even the last segment if nothing in the log is live; returns the files to remove.

        Offsets go on from where they were.
        """
        if self.writing or self.journal_number >= oldest_journal or self._unwritten.batches or self.live:
            return []
        dropped, self._segments = self._segments, []
        self._unwritten = _Waiting()
        return [path for segment in dropped for path in self._files_of(segment)]

    def close(self) -> None:
        """Nothing is read any more."""
        for segment in self._segments:
            self._files_of(segment)

    def _files_of(self, segment: Segment) -> list[str]:
        paths = [segment.path(suffix) for suffix in (LOG_SUFFIX, INDEX_SUFFIX, SETTLED_SUFFIX)]
        for path in paths:
            self._reader.forget(path)
        return paths

    # ---- reading ----

    def read(self, offset: int, size_max: int = _READ_SIZE) -> list[Batch]:
        """The batches from the one that holds `offset`, or the next behind it, on: about `size_max` octets.

        Empty at the end of the log. Raises CorruptLog when the first of them cannot be read; then
        `recovery.mend` takes the damaged ones out.
        """
        memory = self._written_soon.batches or self._unwritten.batches
        if memory and offset >= memory[0][1].base_offset:
            return self._read_memory(offset, size_max)
        at = self._segment_at(offset)
        while at < len(self._segments):
            segment = self._segments[at]
            found = self._read_segment(segment, max(offset, segment.base_offset), size_max)
            if found:
                return found
            at += 1
        return self._read_memory(offset, size_max)

    def _read_memory(self, offset: int, size_max: int) -> list[Batch]:
        found: list[Batch] = []
        size = 0
        for waiting in (self._written_soon.batches, self._unwritten.batches):
            start = bisect_right(waiting, offset, key=_batch_offset) - 1
            for _, batch in waiting[max(start, 0) :]:
                if batch.next_offset > offset:
                    found.append(batch)
                    size += batch.size
                    if size >= size_max:
                        return found
        return found

    def _read_segment(self, segment: Segment, offset: int, size_max: int) -> list[Batch]:
        """From the file alone, and only what was written already."""
        path = segment.path(LOG_SUFFIX)
        last_segment, last_offset, position = self._cursor
        if last_segment is not segment or last_offset != offset:
            position = segment.index.position(offset)
        found: list[Batch] = []
        size = 0
        want = size_max
        while position < segment.readable_size and size < size_max:
            rest = segment.readable_size - position
            octets = self._reader.read(path, position, min(want, rest))
            at = 0
            while (whole := batches.whole_size(octets, at)) and at + whole <= len(octets):
                reason = batches.problem(octets, at)
                if reason and found:
                    return found
                if reason:
                    raise CorruptLog(path, position + at, reason)
                batch = batches.decode(octets, at)
                if batch.next_offset > offset:
                    found.append(batch)
                    size += batch.size
                at += whole
            if not at and want >= rest:
                if found:
                    return found
                raise CorruptLog(path, position, "cut short")
            # A batch larger than what was read is read again, whole.
            want = size_max if at else max(batches.whole_size(octets, 0), 2 * want)
            position += at
        if found:
            self._cursor = (segment, found[-1].next_offset, position)
        return found

    def unsettled(self, batch: Batch) -> list[range]:
        """The offsets of a batch that are not settled."""
        segment = self._segments[self._segment_at(batch.base_offset)]
        return segment.settled.unsettled(batch.base_offset, batch.next_offset)


_base_offset: Callable[[Segment], int] = lambda segment: segment.base_offset  # noqa: E731
_batch_offset: Callable[[tuple[Segment, Batch]], int] = lambda pair: pair[1].base_offset  # noqa: E731
