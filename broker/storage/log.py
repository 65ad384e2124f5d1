"""A log: batches in offset order, in segment files, with what was settled of them.

Flow:   the owner hands over batches and settlements (`write`), and gets them back as plain `Write`s for
        another thread to carry out; when that is done it says `written`. Until then reads find the
        batches in memory. Of what an owner has not handed over yet, a log knows nothing.
Shape:  see `batch`, `segment`, `settlements`. Offsets rise and may have gaps.
Limits: a segment has at most `segment_size_max` octets, unless a single batch has more, and, if they are
        settled, spans at most a million offsets, as what is settled of it may take an octet for each.
Why:    Everything here runs in one thread and touches no file but to read: what must be written is data
        (see `node/flusher.py`), so that the loop never waits for the disk.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import Final

from broker.storage.batch import Batch, Span
from broker.storage.file import FileRange, Files, Handles
from broker.storage.rewrite import Rewritten
from broker.storage.segment import (
    COMPANION_SUFFIXES,
    INDEX_SUFFIX,
    JOINED_SUFFIX,
    LOG_SUFFIX,
    REWRITE_SUFFIX,
    SEGMENT_OFFSETS_MAX,
    SEGMENT_SIZE_MAX,
    SETTLED_SUFFIX,
    Segment,
)
from broker.storage.segment_reader import SegmentReader
from broker.storage.settlements import (
    Settlement,
    count_before,
    encode_block,
    settlement,
)
from broker.storage.write import Write, index_write

_READ_SIZE: Final = 256 * 1024
# A segment is worth writing anew when it has this part of its full size, and one in so many records lives.
_REWRITE_SIZE: Final = 64
_REWRITE_SHARE: Final = 4


class Log:
    """An open log. `open_log` in `recovery` makes one from a directory."""

    __slots__ = (
        "_reader",
        "segment_size_max",
        "_segments",
        "_writing",
        "begun",
        "directory",
        "id",
        "mark",
        "next_offset",
        "roll_due",
        "safe",
        "settles",
        "syncs",
        "writing",
    )

    def __init__(
        self,
        id: int,
        directory: str,
        reader: Handles,
        segments: list[Segment],
        next_offset: int = 0,
        segment_size_max: int = SEGMENT_SIZE_MAX,
        *,
        settles: bool = True,
    ) -> None:
        self.id = id
        self.settles = settles
        """What has been settled is known of each offset; otherwise offsets are missing as they like."""
        self.directory = directory
        self.next_offset = next_offset
        """Behind every offset that was handed over."""
        self.mark = 0
        """Every offset below it has been handed out to a consumer at least once, as settlements say."""
        self.begun = bool(segments)
        """There may be a directory."""
        self.writing = False
        """From `write` to `written`."""
        self.syncs = True
        """What is written is on the disk when it is done; otherwise only when its segment is full."""
        self.roll_due = False
        """The next batch begins another segment."""
        self.safe = 0
        """Every record before it was on the disk when the log was opened."""
        self._reader = SegmentReader(reader)
        self._segments = segments
        self.segment_size_max = segment_size_max
        self._writing: list[tuple[Segment, Batch]] = []

    # ---- appending and settling ----

    def write(
        self, appended: list[Batch], settled: list[Settlement], *, anew: bool = False
    ) -> tuple[list[Write], list[Write]]:
        """Place batches and note settlements, in this order; returns the writes of each.

        The batches' offsets lie at or behind `next_offset`; what was settled was handed over, now or
        before. Nothing more may be handed over until `written`. With `anew` another segment begins, even
        if nothing goes there yet: an empty file says where offsets go on when the others are gone.
        """
        assert not self.writing
        self.writing = self.begun = True
        writes: list[Write] = []
        if anew:
            self._begin_empty(writes)
        for batch in appended:
            segment = self._segment_for(batch, writes)
            if not writes or writes[-1].path is not segment.log_path:
                writes.append(
                    Write(segment.log_path, segment.size, [], False, segment.unnamed, segment.unsynced)
                )
                segment.unnamed = False
            if not self.settles:  # what is missing is not noted: that would take an octet for each
                segment.next_offset = batch.base_offset
            segment.add(batch)
            write = writes[-1]
            write.buffers += batch.buffers
            write.sync |= self.syncs and not batch.transient
            segment.unsynced = not write.sync
            self._writing.append((segment, batch))
            self.next_offset = batch.next_offset
        for entry in settled:
            if entry.number:
                self.mark_settled(entry.offsets)
        return writes, self._settlement_writes(settled)

    def _segment_for(self, batch: Batch, writes: list[Write]) -> Segment:
        """The last segment, or another one behind it if that is full."""
        assert batch.base_offset >= self.next_offset
        segment = self._segments[-1] if self._segments else None
        if segment is not None and not segment.sealed:
            fits = segment.size + batch.size <= self.segment_size_max
            fits = fits and not self.roll_due
            short = not self.settles or batch.next_offset - segment.base_offset <= SEGMENT_OFFSETS_MAX
            if not segment.size or (fits and short):
                self.roll_due = False
                return segment
            self._seal(segment, writes)
        return self._begin(batch.base_offset)

    def _begin(self, offset: int) -> Segment:
        self.roll_due = False
        segment = Segment(self.directory, offset, offset)
        self._segments.append(segment)
        return segment

    def _begin_empty(self, writes: list[Write]) -> None:
        self._seal(self._segments[-1], writes)
        segment = self._begin(self.next_offset)
        writes.append(Write(segment.log_path, 0, [], False, created=True))
        segment.unnamed = False

    def _seal(self, segment: Segment, writes: list[Write]) -> None:
        """It gets nothing more: it is synced, and its index written for the next start."""
        segment.sealed = True
        if not writes or writes[-1].path is not segment.log_path:
            writes.append(Write(segment.log_path, segment.size, [], False, segment.unnamed, segment.unsynced))
        writes[-1].sync = writes[-1].last = True
        segment.unsynced = False
        writes.append(index_write(segment))

    def written(self) -> None:
        """What `write` returned is where it belongs."""
        self.writing = False
        for segment, _ in self._writing:
            segment.readable_size = segment.size
        self._writing.clear()

    def mark_settled(self, offsets: range) -> None:
        """Count offsets as settled; those that no segment holds are passed over."""
        for segment, inside in self._by_segment(offsets):
            segment.settle(inside)

    def settle_from(self, offset: int) -> list[range]:
        """Count everything from `offset` on as settled; returns it as ranges. Nothing is read for that."""
        found = []
        for segment in self._segments:
            offsets = range(max(offset, segment.base_offset), segment.next_offset)
            if offsets:
                segment.settle(offsets)
                found.append(offsets)
        return found

    def _by_segment(self, offsets: range) -> Iterator[tuple[Segment, range]]:
        """The parts of a range that lie in segments, which have gaps between them."""
        segments = self._segments
        at = self._segment_at(offsets[0])
        while offsets and at < len(segments):
            segment = segments[at]
            if segment.base_offset <= offsets[0] and offsets[-1] < segment.next_offset:
                yield segment, offsets
                return
            start = count_before(offsets, segment.base_offset)
            stop = count_before(offsets, segment.next_offset)
            if start < stop:
                yield segment, offsets[start:stop]
            offsets = offsets[stop:]
            at += 1

    def _segment_at(self, offset: int) -> int:
        """The segment that holds `offset`, if any does; the first for what lies before it."""
        at = bisect_right(self._segments, offset, key=_base_offset) - 1
        return max(at, 0)

    def reread(self) -> None:
        """Segments were changed on disk."""
        self._reader.reread()

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
        return sum(segment.size for segment in self._segments)

    @property
    def being_written(self) -> list[tuple[Segment, Batch]]:
        """Batches that are placed and not in their files yet."""
        return self._writing

    @property
    def segments(self) -> tuple[Segment, ...]:
        return tuple(self._segments)

    @property
    def segment_count(self) -> int:
        return len(self._segments)

    @property
    def last_segment(self) -> Segment | None:
        return self._segments[-1] if self._segments else None

    def at_rest(self) -> list[Segment]:
        """The sealed segments of which everything is on the disk."""
        end = len(self._segments) - 1
        if self._writing:  # the one before what is being written may be being sealed
            end = self._segments.index(self._writing[0][0]) - 1
        elif self.writing:
            end -= 1
        return self._segments[: max(end, 0)]

    # ---- towards the disk ----

    def _settlement_writes(self, settlements: list[Settlement]) -> list[Write]:
        """One block for each segment; what belongs to a segment that is gone already is left out."""
        by_segment: dict[int, tuple[Segment, list[Settlement]]] = {}
        for entry in settlements:
            if entry.number:
                parts = [(segment, settlement(inside)) for segment, inside in self._by_segment(entry.offsets)]
            else:
                parts = [(segment, entry) for segment in self._segments[-1:]]
            for segment, part in parts:
                by_segment.setdefault(segment.base_offset, (segment, []))[1].append(part)
        writes = []
        for segment, entries in by_segment.values():
            block = encode_block(entries)
            path, size = segment.path(SETTLED_SUFFIX), segment.settled_size
            unnamed, unsynced = segment.settled_unnamed, segment.settled_unsynced
            writes.append(Write(path, size, [block], True, unnamed, unsynced))
            segment.settled_unnamed = segment.settled_unsynced = False
            segment.settled_size += len(block)
        return writes

    # ---- letting go ----

    def drop_settled(self) -> list[str]:
        """Forget sealed segments of which nothing is live; returns the files to remove.

        They may go once everything handed over so far is safe: a dead letter's copy before its original.
        No journal can bring them back, as recovery takes from it only what lies behind the last segment,
        which stays.
        """
        return self._drop(
            [
                segment
                for segment in self._segments[:-1]
                if segment.sealed and not segment.live and not segment.rewriting
            ]
        )

    def ends_before(self, offset: int) -> bool:
        """All of the last segment lies before `offset`, and it is not empty: it may go when another has begun."""
        last = self._segments[-1] if self._segments else None
        return last is not None and last.size > 0 and last.next_offset <= offset

    def before(self, offset: int) -> list[Segment]:
        """Sealed segments that lie before `offset` whole."""
        return [
            segment
            for segment in self._segments[:-1]
            if segment.sealed and not segment.rewriting and segment.next_offset <= offset
        ]

    def drop_before(self, offset: int) -> list[str]:
        """Forget sealed segments that lie before `offset` whole; returns the files to remove.

        As with `drop_settled`: that `offset` is where the log begins now must be safe before.
        """
        return self._drop(self.before(offset))

    def drop_all(self) -> list[str]:
        """Forget even the last segment if nothing in the log is live; returns the files to remove.

        Offsets go on from where they were. An empty file stays, as the next batch may have its name. What
        a journal holds of the log would come back: not before that is dropped.
        """
        if self.live or any(segment.rewriting for segment in self._segments):
            return []
        return self._drop([segment for segment in self._segments if segment.size])

    def _drop(self, dropped: list[Segment]) -> list[str]:
        if self.writing or not dropped:
            return []
        gone = {id(segment) for segment in dropped}
        self._segments = [segment for segment in self._segments if id(segment) not in gone]
        return [path for segment in dropped for path in _files_of(segment)]

    def sparse(self) -> Segment | None:
        """A sealed segment of some size of which most is settled: worth writing anew."""
        size_min = self.segment_size_max // _REWRITE_SIZE
        for segment in self._segments[:-1]:
            free = segment.sealed and not segment.rewriting and not segment.damage
            sparse = 0 < segment.live * _REWRITE_SHARE <= segment.records
            if free and sparse and segment.size >= size_min:
                return segment
        return None

    def rewritten(self, files: Files, segment: Segment, result: Rewritten) -> None:
        """Put the file that a thread wrote in the segment's place; meanwhile more may have been settled.

        Raises DiskFull, and then nothing has happened.
        """
        files.remove(segment.path(INDEX_SUFFIX))
        files.rename(segment.path(REWRITE_SUFFIX), segment.log_path)
        segment.rewriting = False
        segment.size = segment.readable_size = result.size
        segment.records = result.records
        segment.max_timestamp = result.max_timestamp
        segment.index = result.index
        self.reread()

    def joined(self, files: Files, segments: list[Segment], result: Rewritten) -> list[str]:
        """The same with the file in which neighbours are one; returns the files to remove. Raises DiskFull, too."""
        first, *others = segments
        self.rewritten(files, first, result)
        first.next_offset = others[-1].next_offset
        first.live = sum(segment.live for segment in segments)
        first.sealed_ms = others[-1].sealed_ms
        self._segments = [segment for segment in self._segments if segment not in others]
        return [
            *(path for segment in others for path in _files_of(segment)),
            first.path(JOINED_SUFFIX),
        ]

    def drop_emptied(self, segment: Segment) -> list[str]:
        """Forget a sealed segment with nothing in it; returns the files to remove."""
        self._segments.remove(segment)
        self.reread()
        return [*_files_of(segment), segment.path(REWRITE_SUFFIX)]

    # ---- reading ----

    def read(self, offset: int, size_max: int = _READ_SIZE) -> list[Batch]:
        """The batches from the one that holds `offset`, or the next behind it, on: about `size_max` octets.

        Empty at the end of the log. Raises CorruptLog when the first of them cannot be read; then
        `recovery.mend` finds out what can.
        """
        if self._writing and offset >= self._writing[0][1].base_offset:
            return self._read_memory(offset, size_max)
        at = self._segment_at(offset)
        while at < len(self._segments):
            segment = self._segments[at]
            found = self._reader.batches(segment, max(offset, segment.base_offset), size_max)
            if found:
                return found
            at += 1
        return self._read_memory(offset, size_max)

    def _read_memory(self, offset: int, size_max: int) -> list[Batch]:
        """Of what is being written."""
        found: list[Batch] = []
        start = bisect_right(self._writing, offset, key=_batch_offset) - 1
        for _, batch in self._writing[max(start, 0) :]:
            if batch.next_offset > offset:
                found.append(batch)
                size_max -= batch.size
                if size_max <= 0:
                    break
        return found

    def read_octets(self, offset: int, size_max: int) -> bytes:
        """The file's octets from the batch on that holds `offset`, or the next behind it, unchecked.

        About `size_max` of them, with whole batches and a part of another at the end: at least one whole, and of
        one segment only. Empty where no file has anything (yet). Raises CorruptLog where no batch begins.
        """
        found = self._find(offset, size_max)
        return self._reader.octets(*found) if found is not None else b""

    def share_octets(self, offset: int, size_max: int) -> FileRange | bytes:
        """The same as a part of a file, if they are many enough for that to be worth its while."""
        found = self._find(offset, size_max)
        return self._reader.share(*found) if found is not None else b""

    def _find(self, offset: int, size_max: int) -> tuple[Segment, int, int] | None:
        """Segment, position and size."""
        for segment in self._segments[self._segment_at(offset) :]:
            if segment.readable_size and offset < segment.next_offset:
                found = self._reader.find(segment, offset, size_max)
                if found is not None:
                    return segment, *found
        return None

    def spans_since(self, timestamp: int) -> Iterator[tuple[Segment, int, Span]]:
        """Headers of what the files have, from one on before which every timestamp is smaller: where and what.

        Here and below, raises CorruptLog where no batch begins.
        """
        for segment in self._segments:
            if segment.max_timestamp >= timestamp:
                yield from self._reader.spans(segment, segment.index.position_of_time(timestamp))

    def spans_from(self, offset: int) -> Iterator[tuple[Segment, int, Span]]:
        """Headers of what the files have, from the batch that holds `offset` or the next on."""
        for segment in self._segments[self._segment_at(offset) :]:
            for found in self._reader.spans(segment, segment.index.position(offset)):
                if found[2].next_offset > offset:
                    yield found

    def max_timestamp(self, segment: Segment) -> int:
        """The largest of what the segment's file has. Raises CorruptLog."""
        if not any(where is segment for where, _ in self._writing):
            return segment.max_timestamp
        latest = segment.index.latest_before(self._last_offset(segment))
        return max([latest, *(span.max_timestamp for _, _, span in self.last_spans(segment))])

    def last_spans(self, segment: Segment) -> Iterator[tuple[Segment, int, Span]]:
        """Headers of what a segment's file has at its end: with the last of all, if it has any."""
        return self._reader.spans(segment, segment.index.position(self._last_offset(segment)))

    def _last_offset(self, segment: Segment) -> int:
        """That the segment's file has."""
        being_written = (batch.base_offset for where, batch in self._writing if where is segment)
        return next(being_written, segment.next_offset) - 1

    def batch_at(self, segment: Segment, position: int, size: int) -> bytes:
        """The octets of a batch that `spans_since` or `spans_from` found."""
        return self._reader.octets(segment, position, size)

    def unsettled(self, batch: Batch) -> list[range]:
        """The offsets of a batch that are not settled."""
        segment = self._segments[self._segment_at(batch.base_offset)]
        return segment.settled.unsettled(batch.base_offset, batch.next_offset)


def _files_of(segment: Segment) -> list[str]:
    return [segment.path(suffix) for suffix in (LOG_SUFFIX, *COMPANION_SUFFIXES)]


_base_offset: Callable[[Segment], int] = lambda segment: segment.base_offset  # noqa: E731
_batch_offset: Callable[[tuple[Segment, Batch]], int] = lambda pair: pair[1].base_offset  # noqa: E731
