"""Open a log from what a crash left of it.

Flow:   the node opens each log at start, lays the journal over it, and logs the reports.
Shape:  four passes over a directory
        1. remove what a rewrite had not finished
        2. take each segment: by its index if that fits, else by a scan that checks every batch
        3. cut the end of the last segment back to its last whole batch
        4. read the settlements, count what is live, and raise `next_offset` over every settled offset
Limits: a scan holds one segment in memory.
Why:    What can be wrong at the end of a log was never confirmed: a commit is answered after its sync.
        What is wrong further in, with sound batches behind it, is damage: those are kept, the damaged
        ones are passed over, said, and their octets saved beside the segment in a `.cut` file.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable
from dataclasses import dataclass, field

from broker.storage import batch as batches
from broker.storage import index as index_file
from broker.storage.batch import Batch
from broker.storage.errors import CorruptLog
from broker.storage.file import Files, Handles
from broker.storage.index import Index
from broker.storage.journal import Entry
from broker.storage.log import SEGMENT_SIZE_MAX, Log
from broker.storage.segment import (
    CUT_SUFFIX,
    INDEX_SUFFIX,
    LOG_SUFFIX,
    REWRITE_SUFFIX,
    SETTLED_SUFFIX,
    Segment,
)
from broker.storage.settlements import Settlement, decode_blocks

_WRITE_HANDLES = 4


@dataclass(slots=True, eq=False)
class Report:
    """What recovery did to one log; nothing in it after a clean stop."""

    cut: list[str] = field(default_factory=list)
    """A line for what an unfinished write left, and was never confirmed."""
    damaged: list[str] = field(default_factory=list)
    """A line for what had been confirmed and cannot be read any more."""


def open_log(
    files: Files,
    reader: Handles,
    id: int,
    directory: str,
    *,
    segment_size_max: int = SEGMENT_SIZE_MAX,
    journal: Iterable[Entry] = (),
) -> tuple[Log, Report]:
    """The log in `directory`, with what the journal holds of it laid over; a missing one is empty.

    What the journal holds is in the files when this returns.
    """
    report = Report()
    names = files.names(directory)
    for name in names:
        if name.endswith(REWRITE_SUFFIX):
            files.remove(f"{directory}/{name}")
    bases = [int(name.removesuffix(LOG_SUFFIX)) for name in names if name.endswith(LOG_SUFFIX)]
    segments = []
    for base in bases:
        segment = Segment(directory, base, base, sealed=base != bases[-1])
        if not (segment.sealed and _take_index(files, reader, segment)):
            _scan(files, reader, segment, report)
        segments.append(segment)
    next_offset = segments[-1].next_offset if segments else 0
    log = Log(id, directory, reader, segments, next_offset, segment_size_max)
    known, orphaned = _read_settlements(files, reader, log, names)
    _settle(log, known)
    _remove_orphans(files, log, names)
    _lay_over(files, log, journal, orphaned)
    log.next_offset = max([log.next_offset, *(entry.offsets.stop for entry in orphaned if entry.number)])
    for segment in log.segments:
        if segment.settled:
            _count_live(reader, segment)
    return log, report


def mend(files: Files, reader: Handles, log: Log, error: CorruptLog) -> tuple[Report, int]:
    """Take what `read` stumbled over out of the segment; returns how many live records are lost, too."""
    report = Report()
    lost = 0
    for segment in log.segments:
        if segment.path(LOG_SUFFIX) == error.path:
            before = segment.live
            _scan(files, reader, segment, report)
            _count_live(reader, segment)
            lost = before - segment.live
    log.reread()
    return report, lost


# ---- segments ----


def _take_index(files: Files, reader: Handles, segment: Segment) -> bool:
    """Believe the index of a sealed segment, if it fits."""
    size = files.size(segment.path(LOG_SUFFIX))
    path = segment.path(INDEX_SUFFIX)
    index_size = files.size(path)
    if index_size <= 0:
        return False
    known = index_file.decode(reader.read(path, 0, index_size), segment.base_offset, size)
    reader.forget(path)
    if known is None:
        return False
    segment.size = segment.readable_size = size
    segment.next_offset = known.next_offset
    segment.records = segment.live = known.records
    segment.max_timestamp = known.max_timestamp
    segment.index = known.index
    return True


def _scan(files: Files, reader: Handles, segment: Segment, report: Report) -> None:
    """Take the batches that are sound, and leave nothing else in the file."""
    path = segment.path(LOG_SUFFIX)
    octets = reader.read(path, 0, files.size(path))
    segment.records = segment.live = 0
    segment.next_offset = segment.base_offset
    segment.index = Index()
    sound: list[bytes] = []
    segment.size = at = 0
    while at < len(octets):
        reason = _problem(octets, at, segment.next_offset)
        if not reason:
            batch = batches.decode(octets, at)
            segment.add(batch)
            sound.append(octets[at : at + batch.size])
            at += batch.size
            continue
        following = batches.next_whole(octets, at)
        end = len(octets) if following is None else following
        said = f"{path} at octet {at}: {reason}; {end - at} octets are "
        if following is None:
            report.cut.append(said + "cut")
        else:
            report.damaged.append(said + "passed over")
        if reason not in ("zeros", "cut short"):
            _save(files, path, octets[at:end], at)
        at = end
    segment.live = segment.records
    segment.readable_size = segment.size
    if report.damaged:
        _replace(files, path, sound)
    elif segment.size < len(octets):
        files.truncate(path, segment.size)
    reader.forget(path)


def _problem(octets: bytes, at: int, due: int) -> str:
    reason = batches.problem(octets, at)
    if not reason and (offset := batches.span(octets, at).base_offset) < due:
        return f"base offset {offset} where at least {due} is due"
    return reason


def _save(files: Files, path: str, octets: bytes, position: int) -> None:
    """Keep what is cut, for whoever wants to look: a damaged batch was confirmed once."""
    writer = files.handles(1)
    writer.write(f"{path.removesuffix(LOG_SUFFIX)}.{position}{CUT_SUFFIX}", 0, [octets])
    writer.close()


def _replace(files: Files, path: str, buffers: list[bytes]) -> None:
    """Write the file anew beside the old one, then put it in its place."""
    written = path.removesuffix(LOG_SUFFIX) + REWRITE_SUFFIX
    writer = files.handles(1)
    writer.write(written, 0, buffers, sync=True)
    writer.close()
    files.rename(written, path)
    files.sync_directory(os.path.dirname(path))


def _count_live(reader: Handles, segment: Segment) -> None:
    """Count, batch by batch, the records that are not settled."""
    octets = reader.read(segment.path(LOG_SUFFIX), 0, segment.size)
    live = at = 0
    while at < len(octets):
        span = batches.span(octets, at)
        if not span.attributes & batches.TRANSIENT:
            live += sum(map(len, segment.settled.unsettled(span.base_offset, span.next_offset)))
        at += span.size
    segment.live = live


# ---- settlements and journal ----


def _read_settlements(
    files: Files, reader: Handles, log: Log, names: list[str]
) -> tuple[list[Settlement], list[Settlement]]:
    """What the files beside segments say, and what stands in files whose segment is gone or to come."""
    by_base = {segment.base_offset: segment for segment in log.segments}
    known: list[Settlement] = []
    orphaned: list[Settlement] = []
    for name in names:
        if not name.endswith(SETTLED_SUFFIX):
            continue
        path = f"{log.directory}/{name}"
        size = files.size(path)
        entries, whole = decode_blocks(reader.read(path, 0, size))
        reader.forget(path)
        segment = by_base.get(int(name.removesuffix(SETTLED_SUFFIX)))
        if segment is None:
            orphaned += entries
            continue
        known += entries
        segment.settled_size = whole
        if whole < size:
            files.truncate(path, whole)
    return known, orphaned


def _settle(log: Log, entries: Iterable[Settlement]) -> None:
    """Settle in the log what lies in it; no offset that was ever settled is given out again."""
    for entry in entries:
        if entry.number:
            log.next_offset = max(log.next_offset, entry.offsets[-1] + 1)
            log.mark_settled(entry.offsets)
        else:
            log.mark = max(log.mark, entry.first)


def _lay_over(files: Files, log: Log, journal: Iterable[Entry], settled: list[Settlement]) -> None:
    """Write into the files what only the journal has; twice is harmless."""
    appended: list[Batch] = []
    end = log.segments[-1].next_offset if log.segments else 0
    for entry in journal:
        for batch in entry.batches:
            if batch.base_offset >= end and not batch.transient:
                appended.append(batch)
                end = batch.next_offset
        settled += entry.settlements
    if not appended and not settled:
        return
    known_end, log.next_offset = log.next_offset, min(log.next_offset, end)
    writer = files.handles(_WRITE_HANDLES)
    for write in itertools.chain(*log.write(appended, settled)):
        directory = os.path.dirname(write.path)
        files.make_directory(directory)
        writer.write(write.path, write.position, write.buffers, sync=True)
        files.sync_directory(directory)
    writer.close()
    log.written()
    log.next_offset = max(known_end, log.next_offset)
    log.mark = max([log.mark, *(entry.first for entry in settled if not entry.number)])


def _remove_orphans(files: Files, log: Log, names: list[str]) -> None:
    """A crash between removing a segment and its companions leaves these."""
    known = {segment.base_offset for segment in log.segments}
    for name in names:
        base = name.partition(".")[0]
        if name.endswith((SETTLED_SUFFIX, INDEX_SUFFIX)) and base.isdigit() and int(base) not in known:
            files.remove(f"{log.directory}/{name}")
