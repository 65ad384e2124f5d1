"""Logs with dense offsets after a loss of power inside a commit: page by page, whatever of it the disk had written.

What was confirmed is there. What is there has no hole, if that cannot be damage.
"""

from __future__ import annotations

import itertools

import pytest

from broker.kafka import records
from broker.storage import batch as batches
from broker.storage import recovery
from broker.storage.batch import Batch
from broker.storage.journal import Entry
from broker.storage.log import Log
from broker.storage.noted import SAFE
from broker.storage.recovery import Report
from fakes import PAGE, FakeFiles
from topic_records import record

DIRECTORY = "/data/partitions/1"
PATH = f"{DIRECTORY}/{0:020d}.log"
PAGES_LOST_MAX = 2


def placed(base_offset: int) -> Batch:
    """A batch with two records, in which no sector is empty."""
    octets = records.build([record(b"x" * 40, 1_700_000_000_000), record(b"y" * 40, 1_700_000_000_000)])
    return batches.place(octets, base_offset, 2, 0, 1_700_000_000_000)


def commit(files: FakeFiles, log: Log, *appended: Batch) -> None:
    handles = files.handles(8)
    for write in itertools.chain(*log.write(list(appended), [])):
        write.carry_out(files, handles)
    log.written()


def opened(
    files: FakeFiles, *journal: Batch, syncs: bool = True, settles: bool = False
) -> tuple[Log, Report]:
    entries = [Entry(1, list(journal), [])]
    return recovery.open_log(
        files, files.handles(8), 1, DIRECTORY, journal=entries, settles=settles, syncs=syncs
    )


def offsets(log: Log) -> list[int]:
    found: list[int] = []
    at = 0
    while read := log.read(at):
        found += [offset for batch in read for offset in range(batch.base_offset, batch.next_offset)]
        at = found[-1] + 1
    return found


def written() -> tuple[bytes, bytes]:
    """Two commits, each of four batches: what the file has after the first, and after the second."""
    files = FakeFiles()
    log, _ = opened(files)
    commit(files, log, *map(placed, (0, 2, 4, 6)))
    before = files.octets(PATH)
    commit(files, log, *map(placed, (8, 10, 12, 14)))
    return before, files.octets(PATH)


BEFORE, WHOLE = written()
CONFIRMED = [*range(8)]


def without_pages(lost: tuple[int, ...], first: int = len(BEFORE)) -> bytes:
    """The file, but what was to be written from `first` on is not in these pages."""
    octets = bytearray(WHOLE)
    for page in lost:
        at = max(page * PAGE, first)
        octets[at : (page + 1) * PAGE] = bytes(max(0, min((page + 1) * PAGE, len(octets)) - at))
    return bytes(octets)


def with_file(octets: bytes) -> FakeFiles:
    files = FakeFiles()
    files.make_directory(DIRECTORY)
    files.put(PATH, octets)
    return files


def pages(first: int) -> list[tuple[int, ...]]:
    """Every one or two of those from an octet on."""
    every = range(first // PAGE, (len(WHOLE) - 1) // PAGE + 1)
    return [lost for count in range(1, PAGES_LOST_MAX + 1) for lost in itertools.combinations(every, count)]


def goes_on(files: FakeFiles, log: Log) -> None:
    """The next start has nothing to say, and what comes next has the next offset."""
    end = log.next_offset
    again, report = opened(files.copy())
    assert (report.cut, report.damaged, offsets(again)) == ([], [], offsets(log))
    commit(files, log, placed(end))
    assert offsets(opened(files)[0])[-2:] == [end, end + 1]


@pytest.mark.parametrize("syncs", [True, False])
def test_a_commit_of_which_pages_are_missing_ends_at_the_first(syncs):
    ends = set()
    for lost in pages(len(BEFORE)):
        octets = without_pages(lost)
        files = with_file(octets)
        log, report = opened(files, syncs=syncs)
        found = offsets(log)
        assert found == [*range(len(found))]
        assert found[:8] == CONFIRMED
        assert log.next_offset == len(found)
        hit = max(min(lost) * PAGE, len(BEFORE)) if octets != WHOLE else len(WHOLE)
        assert len(found) == 8 + (hit - len(BEFORE)) // placed(0).size * 2
        assert not report.damaged
        assert bool(report.cut) == (octets != WHOLE)
        goes_on(files, log)
        ends.add(len(found))
    assert ends >= {8, 10, 12, 14}


def test_what_the_journal_has_of_it_is_put_back():
    """A checkpoint was on its way: all of it was confirmed."""
    for lost in pages(len(BEFORE)):
        log, report = opened(with_file(without_pages(lost)), *map(placed, (8, 10, 12, 14)))
        assert offsets(log) == [*range(16)]
        assert not report.damaged


def test_a_later_batch_in_the_journal_says_that_a_hole_is_damage():
    """Its commit began when what is missing here was safe."""
    for lost in pages(len(BEFORE)):
        octets = without_pages(lost)
        log, report = opened(with_file(octets), placed(16))
        found = offsets(log)
        assert found[-2:] == [16, 17]
        assert bool(report.damaged or report.cut) == (octets != WHOLE)
        assert set(found) >= {16, 17, *CONFIRMED}
        if max(lost) * PAGE + PAGE <= len(WHOLE) - placed(0).size:
            assert set(found) >= {14, 15}


def test_what_was_noted_as_safe_is_no_hole():
    """An empty page before it is damage: nothing behind it goes."""
    for lost in pages(0):
        if max(lost) * PAGE + PAGE > len(WHOLE) - placed(0).size:
            continue
        files = with_file(without_pages(lost, first=0))
        SAFE.write_of(DIRECTORY, 16).carry_out(files, files.handles(1))
        log, report = opened(files)
        assert offsets(log)[-2:] == [14, 15]
        assert len(report.damaged) >= 1
        assert not report.cut
        assert log.next_offset == 16


@pytest.mark.parametrize("at", range(len(BEFORE) - 2 * placed(0).size + 1, len(BEFORE) - placed(0).size, 5))
def test_what_has_no_empty_sector_is_no_hole(at):
    """A flipped octet with nothing noted: what is behind it stays."""
    octets = bytearray(WHOLE)
    octets[at] ^= 0x55
    files = with_file(bytes(octets))
    files.sector_size = PAGE  # the small ones of the others are empty in every header
    log, report = opened(files)
    assert offsets(log) == [*range(4), *range(6, 16)]
    assert len(report.damaged) == 1


def test_what_is_cut_is_kept_for_whoever_wants_to_look():
    octets = without_pages((len(BEFORE) // PAGE + 1,))
    files = with_file(octets)
    opened(files)
    (kept,) = [path for path in files.paths() if path.endswith(".cut")]
    assert octets.endswith(files.octets(kept))


def test_a_queue_keeps_what_it_can():
    """Its messages have no order of numbers that somebody counts on."""
    log, report = opened(with_file(without_pages((len(BEFORE) // PAGE + 1,))), settles=True)
    assert set(offsets(log)) == {*range(16)} - {8, 9}
    assert len(report.damaged) == 1


@pytest.mark.parametrize("end", [len(BEFORE), len(WHOLE) - 1, len(WHOLE) - placed(0).size])
def test_a_log_that_ends_before_what_was_safe_is_damaged_and_gives_no_offset_twice(end):
    files = with_file(WHOLE[:end])
    SAFE.write_of(DIRECTORY, 16).carry_out(files, files.handles(1))
    log, report = opened(files)
    assert log.next_offset == 16
    assert len(report.damaged) >= 1
    assert not report.cut
    commit(files, log, placed(16))
    assert offsets(opened(files)[0])[-3:] == [offsets(log)[-3], 16, 17]
