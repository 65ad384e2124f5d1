"""Open a log from what a crash left of it.

Flow:   the node opens each log at start, lays the journal over it, and logs the reports.
Shape:  four passes over a directory
        1. remove what a rewrite had not finished, and finish what it had
        2. take each segment: by its index if that fits, else by a scan that checks every batch
        3. cut the end of the last segment back to its last whole batch
        4. lay the journal over, read the settlements, and raise `next_offset` over every offset that was
           settled or handed out; files beside a segment that is gone go when what they say is safe
Limits: of a segment see `scan`; a file of settlements is in memory whole.
Why:    What is wrong at the end of a log was never confirmed, or the journal has it: a commit is answered
        after its sync. With sound batches behind it, it is the same (a disk writes in the order it likes
        until it is told to sync) or damage: what the journal has of it is put back, the rest passed over
        and said, its octets saved beside the segment in a `.cut` file. The end of a segment that is not
        the last one was synced before the next was made: that is damage always.
        Where offsets are dense, what lies behind a hole goes with it if nobody can have heard of it: a producer
        that sends again what was not confirmed must not find the second half of it there. Whether it is damage, after
        which everything stays, is seen by three signs: its offset was safe (`noted`), the journal has a later one, or
        no sector of it is empty. A queue's messages need no order of numbers: it keeps what it can.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from broker.storage import index as index_file
from broker.storage.batch import Batch
from broker.storage.errors import CorruptLog, DiskFull
from broker.storage.file import Files, Handles
from broker.storage.index import Index
from broker.storage.journal import Entry
from broker.storage.log import Log
from broker.storage.noted import SAFE
from broker.storage.rewrite import finish_rewrites
from broker.storage.scan import PIECE_SIZE, Part, walk
from broker.storage.segment import (
    CUT_SUFFIX,
    INDEX_SUFFIX,
    LOG_SUFFIX,
    OFFSET_MAX,
    PRODUCERS_SUFFIX,
    REWRITE_SUFFIX,
    SEGMENT_SIZE_MAX,
    SETTLED_SUFFIX,
    Segment,
    base_of,
)
from broker.storage.settlements import Blocks, Settlement, decode_blocks, encode_block
from broker.storage.unsynced import Unsynced
from broker.storage.write import remove_files

_WRITE_HANDLES = 4
# What is wrong with what was not written.
_UNWRITTEN = ("zeros", "cut short")


@dataclass(slots=True, eq=False)
class Report:
    """What recovery did to one log; nothing in it after a clean stop."""

    cut: list[str] = field(default_factory=list)
    """A line for what an unfinished write left: nothing that was confirmed is missing."""
    damaged: list[str] = field(default_factory=list)
    """A line for what may have been confirmed and cannot be read any more."""


@dataclass(slots=True, eq=False)
class _Opening:
    """A log that is being opened."""

    files: Files
    reader: Handles
    directory: str
    journaled: list[Batch]
    settles: bool
    syncs: bool
    safe: int
    """Every record before it was on the disk."""
    report: Report = field(default_factory=Report)


def open_log(
    files: Files,
    reader: Handles,
    id: int,
    directory: str,
    *,
    segment_size_max: int = SEGMENT_SIZE_MAX,
    journal: Sequence[Entry] = (),
    settles: bool = True,
    syncs: bool = True,
    later: Unsynced | None = None,
) -> tuple[Log, Report]:
    """The log in `directory`, with what the journal holds of it laid over; a missing one is empty.

    What the journal holds is safe in the files when this returns, or when `later` is synced. `settles` says that its records are settled one
    by one, so that offsets that are missing must be known; a compacted log is full of them. If they are not, the
    offsets of what was not compacted yet are dense. `syncs` says that what was confirmed was synced before.
    """
    names = finish_rewrites(files, reader, directory)
    journaled = [batch for entry in journal for batch in entry.batches if not batch.transient]
    safe = 0 if settles else SAFE.read(files, reader, directory)
    opening = _Opening(files, reader, directory, journaled, settles, syncs, safe)
    report = opening.report
    bases = [base for name in names if (base := base_of(name, LOG_SUFFIX)) is not None]
    begun = files.size(directory) >= 0
    if begun and not bases:
        files.sync_directory(directory)  # offsets begin anew: settlements of old ones must not come back
    segments = []
    for base, following in itertools.pairwise((*bases, OFFSET_MAX)):
        segment = Segment(directory, base, base, sealed=base != bases[-1])
        if not (segment.sealed and _take_index(opening, segment)):
            _scan(opening, segment, following)
        segments.append(segment)
    next_offset = segments[-1].next_offset if segments else 0
    log = Log(id, directory, reader, segments, next_offset, segment_size_max, settles=settles)
    log.begun = begun
    log.safe = safe
    unsynced = Unsynced() if later is None else later
    remove_files(files, _orphans(log, names, (INDEX_SUFFIX, PRODUCERS_SUFFIX)))
    _lay_over(files, log, journaled, unsynced)
    if journaled:
        _sync_end(log, unsynced)
    settled = _take_settlements(log, _read_settlements(files, reader, log, names, report))
    settled += [one for entry in journal for one in entry.settlements]
    if settled:
        _carry_out(files, log, [], settled, unsynced)
        _settle(log, settled)
    orphans = _orphans(log, names, (SETTLED_SUFFIX,))
    if orphans or later is None:
        unsynced.sync(files)
    remove_files(files, orphans)  # what they say is safe elsewhere only now
    if log.next_offset < safe:
        report.damaged.append(f"{directory}: it ends at offset {log.next_offset}, where {safe} was next")
        log.next_offset = safe  # somebody has seen what is missing
    return log, report


def mend(files: Files, reader: Handles, log: Log, error: CorruptLog) -> tuple[Report, int]:
    """Have `read` pass over what it stumbled over; returns how many live records are lost, at most, too.

    The file stays as it is, as a thread may be writing to it: the next recovery will do more.
    """
    report = Report()
    lost = 0
    for segment in log.segments:
        path = segment.log_path
        if path != error.path:
            continue
        segment.damage = []
        segment.index = Index()
        due = segment.base_offset
        latest = end = 0
        for part in walk(reader, path, segment.readable_size, range(due, segment.next_offset)):
            end = part.end
            if part.batch is not None:
                segment.index.add(part.batch.base_offset, part.at, latest)
                latest = max(latest, part.batch.max_timestamp)
                due = part.batch.next_offset
                continue
            report.damaged.append(f"{path} at octet {part.at}: {part.reason}; {_passed_over(part)}")
            _save(files, reader, path, range(part.at, part.end), report)
            lost += _give_up(log, segment, range(part.at, part.end), due, part.following)
        if missing := range(end, segment.readable_size):
            report.damaged.append(f"{path} at octet {missing.start}: {len(missing)} octets are missing")
            lost += _give_up(log, segment, missing, due, None)
    log.reread()
    return report, lost


def _give_up(log: Log, segment: Segment, octets: range, due: int, following: int | None) -> int:
    """Have reading pass over octets, up to `following` if a sound batch is behind; returns how many records go."""
    segment.damage.append(octets)
    if following is None:
        being_written = (batch.base_offset for where, batch in log.being_written if where is segment)
        following = next(being_written, segment.next_offset)
    gone = range(due, following)
    if not log.settles:
        return len(gone)
    return segment.settle(gone) if gone else 0


# ---- segments ----


def _passed_over(part: Part) -> str:
    return f"{part.end - part.at} octets are passed over"


def _take_index(opening: _Opening, segment: Segment) -> bool:
    """Believe the index of a sealed segment, if it fits and, where that matters, every offset has its record."""
    files, reader = opening.files, opening.reader
    size = files.size(segment.log_path)
    path = segment.path(INDEX_SUFFIX)
    index_size = files.size(path)
    if index_size <= 0:
        return False
    try:
        octets = reader.read(path, 0, index_size)
    except OSError:  # it is made anew as well as one that does not fit
        return False
    reader.forget(path)
    known = index_file.decode(octets, segment.base_offset, size)
    if known is None or (opening.settles and known.records != known.next_offset - known.base_offset):
        return False
    segment.size = segment.readable_size = size
    segment.next_offset = known.next_offset
    segment.records = segment.live = known.records
    segment.max_timestamp = known.max_timestamp
    segment.index = known.index
    return True


def _scan(opening: _Opening, segment: Segment, stop: int) -> None:
    """Take the batches that are sound, and leave nothing else in the file."""
    files, reader, report = opening.files, opening.reader, opening.report
    path = segment.log_path
    size = end = max(files.size(path), 0)
    sound: list[range | Batch] = []
    rewrite = False
    for part in walk(reader, path, size, range(segment.base_offset, stop)):
        if part.batch is not None:
            _take(segment, part.batch, opening.settles)
            _add(sound, range(part.at, part.end))
            continue
        said = f"{path} at octet {part.at}: {part.reason}; "
        put_back = _between(opening.journaled, segment.next_offset, part.following)
        if part.following is None or (not put_back and _unfinished(opening, segment, part)):
            _cut(opening, segment, range(part.at, size), part, said)
            end = part.at
            break
        rewrite = True
        sound += put_back
        for batch in put_back:
            _take(segment, batch, opening.settles)
        said += _passed_over(part)
        if put_back:
            said += f"; the journal has {sum(batch.count for batch in put_back)} records of them"
        elif not segment.sealed:
            said += "; they were not finished, or are damaged"
        (report.cut if put_back else report.damaged).append(said)
        if not put_back or part.reason not in _UNWRITTEN:
            _save(files, reader, path, range(part.at, part.end), report)
    segment.readable_size = segment.size
    segment.unsynced = bool(sound)
    if rewrite:
        _replace(files, path, itertools.chain.from_iterable(_pieces_of(reader, path, one) for one in sound))
    elif end < size:
        files.truncate(path, end)
    reader.forget(path)


def _cut(opening: _Opening, segment: Segment, octets: range, part: Part, said: str) -> None:
    """Say that the end of a file goes, from a bad part on, and keep what may be of use to somebody."""
    report = opening.report
    lost = segment.sealed or segment.next_offset < opening.safe
    said += f"{len(octets)} octets are cut"
    if part.following is not None:
        said += ", as what is behind a hole was not finished either"
    (report.damaged if lost else report.cut).append(said)
    if lost or part.following is not None or part.reason not in _UNWRITTEN:
        _save(opening.files, opening.reader, segment.log_path, octets, report)


def _unfinished(opening: _Opening, segment: Segment, part: Part) -> bool:
    """Whether a hole at the end of a log is of a commit that nobody has heard of, with all that is behind it.

    There may be one such commit, as the next one begins when it is safe: it was safe if the journal has a later one.
    Without any sync there may be many.
    """
    if opening.settles or segment.sealed:
        return False
    if not opening.syncs:
        return True
    due = segment.next_offset
    if due < opening.safe or any(batch.base_offset >= due for batch in opening.journaled):
        return False
    pieces = _pieces(opening.reader, segment.log_path, range(part.at, part.end))
    return _has_unwritten_sector(pieces, part.at, opening.files.sector_size)


def _has_unwritten_sector(pieces: Iterable[bytes], position: int, sector_size: int) -> bool:
    """What a loss of power leaves where there was no file before is zeros; damage mostly is something else."""
    for octets in pieces:
        at = 0
        while at < len(octets):
            end = min(at + sector_size - (position + at) % sector_size, len(octets))
            if octets.count(0, at, end) == end - at:
                return True
            at = end
        position += len(octets)
    return False


def _pieces(reader: Handles, path: str, octets: range) -> Iterator[bytes]:
    """Of a file, each up to a place that is a multiple of their size, so that no sector lies in two."""
    at = octets.start
    while at < octets.stop:
        end = min(at - at % PIECE_SIZE + PIECE_SIZE, octets.stop)
        yield reader.read(path, at, end - at)
        at = end


def _add(sound: list[range | Batch], octets: range) -> None:
    """Behind what is there: as the same part, if it goes on where that ends."""
    last = sound[-1] if sound else None
    if isinstance(last, range) and last.stop == octets.start:
        sound[-1] = range(last.start, octets.stop)
    else:
        sound.append(octets)


def _pieces_of(reader: Handles, path: str, part: range | Batch) -> Iterator[bytes]:
    return _pieces(reader, path, part) if isinstance(part, range) else iter(part.buffers)


def _take(segment: Segment, batch: Batch, settles: bool) -> None:
    if not settles:  # what is missing is not noted: that would take an octet for each
        segment.next_offset = batch.base_offset
    segment.add(batch)
    if batch.transient:  # of a process that is gone
        segment.settle(range(batch.base_offset, batch.next_offset))


def _between(journaled: Sequence[Batch], first: int, stop: int | None) -> list[Batch]:
    """The journal's batches with offsets from `first` to before `stop`, ascending and without overlap.

    None if there is no `stop`: they will be laid over the end.
    """
    found: list[Batch] = []
    if stop is None:
        return found
    for batch in journaled:
        if first <= batch.base_offset and batch.next_offset <= stop:
            found.append(batch)
            first = batch.next_offset
    return found


def _save(files: Files, reader: Handles, path: str, octets: range, report: Report) -> None:
    """Keep what is cut, for whoever wants to look; on a full disk that is too much to ask."""
    saved = f"{path.removesuffix(LOG_SUFFIX)}.{octets.start}{CUT_SUFFIX}"
    writer = files.handles(1)
    try:
        _write_all(writer, saved, _pieces(reader, path, octets))
    except DiskFull:
        report.cut.append(f"{saved}: there is no room to keep what was cut")
        files.remove(saved)
    writer.close()


def _write_all(writer: Handles, path: str, pieces: Iterable[bytes]) -> None:
    position = 0
    for octets in pieces:
        writer.write(path, position, [octets])
        position += len(octets)


def _replace(files: Files, path: str, pieces: Iterable[bytes]) -> None:
    """Write the file anew beside the old one, then put it in its place."""
    written = os.path.splitext(path)[0] + REWRITE_SUFFIX
    files.remove(written)
    writer = files.handles(1)
    _write_all(writer, written, itertools.chain(pieces, [b""]))  # even if there is nothing left
    writer.sync(written)
    writer.close()
    files.rename(written, path)
    files.sync_directory(os.path.dirname(path))


# ---- settlements and journal ----


def _read_settlements(
    files: Files, reader: Handles, log: Log, names: list[str], report: Report
) -> dict[int, Blocks]:
    """What the files beside segments say, also those whose segment is gone, by base offset."""
    beside: dict[int, Blocks] = {}
    for name in names:
        base = base_of(name, SETTLED_SUFFIX)
        if base is None:
            continue
        path = f"{log.directory}/{name}"
        octets = reader.read(path, 0, max(files.size(path), 0))
        reader.forget(path)
        found = decode_blocks(octets)
        for damaged in found.damaged:
            said = f"{path} at octet {damaged.start}: {len(damaged)} octets are no settlements"
            report.damaged.append(said + " and passed over: messages may come again")
        if found.damaged:
            block = encode_block(found.entries)
            _replace(files, path, [block])
            found = Blocks(found.entries, [], len(block))
        elif found.size < len(octets):
            report.cut.append(f"{path} at octet {found.size}: {len(octets) - found.size} octets are cut")
            files.truncate(path, found.size)
        beside[base] = found
    return beside


def _take_settlements(log: Log, beside: dict[int, Blocks]) -> list[Settlement]:
    """Settle what the files beside the log's segments say; returns what those say whose segment is gone."""
    for segment in log.segments:
        found = beside.pop(segment.base_offset, None)
        if found is not None:
            segment.settled_size = found.size
            segment.settled_unsynced = found.size > 0
            _settle(log, found.entries)
    return [one for found in beside.values() for one in found.entries]


def _settle(log: Log, entries: Iterable[Settlement]) -> None:
    """Settle in the log what lies in it; what was settled or handed out is never given out again."""
    for entry in entries:
        if entry.number:
            log.next_offset = max(log.next_offset, entry.offsets[-1] + 1)
            log.mark_settled(entry.offsets)
        else:
            log.mark = max(log.mark, entry.first)
            log.next_offset = max(log.next_offset, entry.first)


def _lay_over(files: Files, log: Log, journaled: Sequence[Batch], unsynced: Unsynced) -> None:
    """Write into the files what only the journal has; twice is harmless."""
    appended: list[Batch] = []
    end = log.segments[-1].next_offset if log.segments else 0
    for batch in journaled:
        if batch.base_offset >= end:
            appended.append(batch)
            end = batch.next_offset
    if appended:
        log.next_offset = appended[0].base_offset
        _carry_out(files, log, appended, [], unsynced)


def _sync_end(log: Log, unsynced: Unsynced) -> None:
    """What a killed process has moved from the journal may not be on the disk: the journal goes when all logs are open."""
    for segment in log.segments[-1:]:
        if segment.unsynced:
            unsynced.add(segment.log_path)
            segment.unsynced = segment.unnamed = False


def _carry_out(
    files: Files, log: Log, appended: list[Batch], settled: list[Settlement], unsynced: Unsynced
) -> None:
    """The journal stays until all is synced. That a segment exists says that the one before it is: two are not left so."""
    writer = files.handles(_WRITE_HANDLES)
    written, settlements = log.write(appended, settled)
    for write in (*written, *settlements):
        if len(written) > 1:
            write.carry_out(files, writer)
        else:
            write.carry_out_unsynced(files, writer, unsynced)
    writer.close()
    log.written()


def _orphans(log: Log, names: list[str], suffixes: Sequence[str]) -> list[str]:
    """A crash between removing a segment and its companions leaves these."""
    known = {None, *(segment.base_offset for segment in log.segments)}
    return [
        f"{log.directory}/{name}"
        for name in names
        if any(base_of(name, suffix) not in known for suffix in suffixes)
    ]
