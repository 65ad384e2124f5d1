"""Read one segment's file: batches whole and checked, headers alone, or octets as they are.

Flow:   a log says in which segment what is looked for lies; a `CorruptLog` goes to `recovery.mend`, which has reading
        pass over what is damaged from then on.
Limits: about as much in memory as is asked for, or one batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from broker.storage import batch as batches
from broker.storage.batch import Batch, Span
from broker.storage.errors import CorruptLog
from broker.storage.file import FileRange, Handles
from broker.storage.segment import Segment

_READ_SIZE: Final = 256 * 1024
# Index entries are 64 KiB apart: so much holds the batch that is looked for, mostly.
_WALK_SIZE: Final = 64 * 1024
# Less is read as quickly as it is sent from the file.
_SHARED_SIZE_MIN: Final = 64 * 1024


class SegmentReader:
    """Over the open files of one thread."""

    __slots__ = ("_cursor", "_handles")

    def __init__(self, handles: Handles) -> None:
        self._handles = handles
        # Where the last read of batches ended: readers mostly go on from there.
        self._cursor: tuple[Segment | None, int, int] = (None, 0, 0)

    def reread(self) -> None:
        """Segments were changed on disk: forget where in them the last read ended."""
        self._cursor = (None, 0, 0)

    def batches(self, segment: Segment, offset: int, size_max: int) -> list[Batch]:
        """Those from the one that holds `offset` on, about `size_max` octets; only what was written already.

        Raises CorruptLog if the first of them cannot be read.
        """
        path = segment.log_path
        last_segment, last_offset, position = self._cursor
        if last_segment is not segment or last_offset != offset:
            position = segment.index.position(offset)
        found: list[Batch] = []
        size = 0
        want = size_max
        while size < size_max and (sound := segment.sound_part(position)):
            octets = self._handles.read(path, sound.start, min(want, len(sound)))
            at = 0
            while (whole := batches.whole_size(octets, at)) and at + whole <= len(octets):
                reason = batches.problem(octets, at) or _misplaced(segment, octets, at)
                if reason and found:
                    return found
                if reason:
                    raise CorruptLog(path, sound.start + at, reason)
                batch = batches.decode(octets, at)
                if batch.next_offset > offset:
                    found.append(batch)
                    size += batch.size
                at += whole
            if not at and want >= len(sound):
                if found:
                    return found
                raise CorruptLog(path, sound.start, "cut short")
            # A batch larger than what was read is read again, whole.
            want = size_max if at else max(batches.whole_size(octets, 0), 2 * want)
            position = sound.start + at
        if found:
            self._cursor = (segment, found[-1].next_offset, position)
        return found

    def find(self, segment: Segment, offset: int, size_max: int) -> tuple[int, int] | None:
        """Position and size of about so many octets from the batch on that holds `offset`; one at least.

        None if the segment has nothing there. Raises CorruptLog where no batch begins.
        """
        position = segment.index.position(offset)
        while sound := segment.sound_part(position):
            found, position = self._walk(segment, sound, offset)
            if found:
                return position, min(max(size_max, found), sound.stop - position)
        return None

    def octets(self, segment: Segment, position: int, size: int) -> bytes:
        """So many of the file's octets, unchecked. Raises CorruptLog if there are fewer."""
        path = segment.log_path
        octets = self._handles.read(path, position, size)
        if len(octets) < size:
            raise CorruptLog(path, position, "cut short")
        return octets

    def share(self, segment: Segment, position: int, size: int) -> FileRange | bytes:
        """The same as a part of the file, if they are many enough for that to be worth its while."""
        path = segment.log_path
        shared = self._handles.share(path, position, size) if size >= _SHARED_SIZE_MIN else None
        return shared if shared is not None else self.octets(segment, position, size)

    def spans(self, segment: Segment, position: int) -> Iterator[tuple[Segment, int, Span]]:
        """Headers from a position on, and where they are. Raises CorruptLog where no batch begins."""
        while sound := segment.sound_part(position):
            for found, span in self._headers(segment, sound, _READ_SIZE):
                yield segment, found, span
                position = found + span.size

    def _walk(self, segment: Segment, sound: range, offset: int) -> tuple[int, int]:
        """From batch to batch: the size and position of the first behind `offset`, or 0 and how far this came."""
        position = sound.start
        for position, span in self._headers(segment, sound, _WALK_SIZE):
            if span.next_offset > offset:
                return span.size, position
            position += span.size
        return 0, position

    def _headers(self, segment: Segment, sound: range, size_max: int) -> Iterator[tuple[int, Span]]:
        """What begins within so many octets, at least one; the headers alone are checked, and they alone are read.

        Raises CorruptLog for what cannot be one, and for nothing that `recovery.mend` would take for one.
        """
        path = segment.log_path
        octets = self._handles.read(path, sound.start, min(len(sound), size_max))
        at = 0
        due, end = segment.base_offset, segment.next_offset
        while len(octets) - at >= batches.HEADER_SIZE:
            span = batches.span(octets, at)
            position = sound.start + at
            if octets[at + batches.MAGIC_AT] != batches.MAGIC or span.size < batches.HEADER_SIZE:
                raise CorruptLog(path, position, "no header of a batch")
            if position + span.size > sound.stop:
                raise CorruptLog(path, position, "cut short")
            if span.base_offset < due or span.next_offset > end:
                raise CorruptLog(path, position, f"base offset {span.base_offset} between {due} and {end}")
            yield position, span
            due = span.next_offset
            at += span.size
        if not at:
            raise CorruptLog(path, sound.start, "cut short")


def _misplaced(segment: Segment, octets: bytes, at: int) -> str:
    """What the crc of a producer's batch does not say: that it belongs there."""
    span = batches.span(octets, at)
    if segment.base_offset <= span.base_offset and span.next_offset <= segment.next_offset:
        return ""
    return f"base offset {span.base_offset} in a segment up to {segment.next_offset}"
