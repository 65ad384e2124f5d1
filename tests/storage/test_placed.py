"""A log of producers' batches as they came: found by offset and by time, in files that are whole or damaged."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.kafka import records
from broker.storage import batch as batches
from broker.storage import journal, recovery
from broker.storage.batch import Batch
from broker.storage.errors import CorruptLog
from broker.storage.journal import Entry
from broker.storage.log import Log
from broker.storage.settlements import Settlement
from fakes import FakeFiles
from topic_records import record

DIRECTORY = "/data/partitions/1"


def placed(base_offset: int, times: list[int], size: int = 10) -> Batch:
    """A batch with a record for each time."""
    octets = records.build([record(bytes(size), time) for time in times])
    return batches.place(octets, base_offset, len(times), 0, max(times))


def written(found: list[Batch], segment_size_max: int = 400) -> tuple[FakeFiles, Log]:
    files = FakeFiles()
    log, _ = recovery.open_log(files, files.handles(8), 1, DIRECTORY, segment_size_max=segment_size_max)
    handles = files.handles(8)
    for batch in found:
        for write in itertools.chain(*log.write([batch], [])):
            write.carry_out(files, handles)
        log.written()
    return files, log


def octets_of(batch: Batch) -> bytes:
    return b"".join(batch.buffers)


THREE_EACH = [placed(offset, [offset, offset, offset]) for offset in range(0, 30, 3)]
SIZE = THREE_EACH[0].size
FILES, LOG = written(THREE_EACH)
PATHS = [path for path in FILES.paths() if path.endswith(".log")]


def test_there_are_several_segments():
    assert len(PATHS) > 2


@given(offset=st.integers(0, 29), size_max=st.integers(0, 500))
def test_octets_are_whole_batches_and_a_part_of_one_of_one_segment(offset, size_max):
    found = LOG.read_octets(offset, size_max)
    whole = b"".join(octets_of(batch) for batch in THREE_EACH if batch.next_offset > offset)
    assert whole.startswith(found)
    header = records.read_header(found)
    assert header.base_offset <= offset <= header.base_offset + 2
    assert header.size <= len(found) <= max(header.size, size_max)


def test_behind_the_last_there_is_nothing():
    assert LOG.read_octets(30, 1000) == b""


def test_what_is_being_written_is_not_in_the_file_yet():
    _, log = written(THREE_EACH)
    log.write([placed(30, [99])], [])
    assert log.read_octets(30, 1000) == b""
    assert [span.base_offset for _, _, span in log.spans_from(27)] == [27]
    assert [span.base_offset for _, _, span in log.last_spans(log.segments[-1])][-1:] == [27]


@pytest.mark.parametrize("bits", [0x01, 0x80, 0xFF])
def test_a_header_that_cannot_be_one_is_passed_over(bits):
    """What nobody can see without the records is served as it is: whoever opens them looks at the crc."""
    path = PATHS[1]
    octets = FILES.octets(path)
    seen = 0
    for at in range(len(octets)):
        files = FILES.copy()
        files.put(path, octets[:at] + bytes([octets[at] ^ bits]) + octets[at + 1 :])
        log, _ = recovery.open_log(files, files.handles(8), 1, DIRECTORY, segment_size_max=400)
        found = stumbled_through(files, log)
        missing = [batch.base_offset for batch in THREE_EACH if batch.base_offset not in found]
        if missing:
            seen += 1
            # Nothing protects the offset itself: another one may be taken for right, at the cost of what is behind.
            is_offset = at % SIZE < 8
            assert is_offset or {*found} < {*range(0, 30, 3)}
            assert len(missing) <= 1 + is_offset
            assert log.segments[1].base_offset <= missing[0] < log.segments[1].next_offset
        assert missing or at % SIZE not in (*range(8, 12), batches.MAGIC_AT)
    assert seen > len(octets) // 20


def stumbled_through(files: FakeFiles, log: Log) -> list[int]:
    """The base offsets that every reader finds, when what is damaged was mended once."""
    error = first_error(log)
    if error is not None:
        assert recovery.mend(files, files.handles(8), log, error)[0].damaged
        assert first_error(log) is None
    return [span.base_offset for _, _, span in log.spans_from(0)]


def first_error(log: Log) -> CorruptLog | None:
    try:
        for offset in range(30):
            assert len(log.read_octets(offset, 0)) >= batches.HEADER_SIZE or offset >= 27
        list(log.spans_since(0))
    except CorruptLog as error:
        return error
    return None


# ---- batches ----


def test_a_producers_batch_is_placed_without_a_look_at_its_records():
    octets = records.build([record(b"a"), record(b"b")], producer_id=7, producer_epoch=1, base_sequence=5)
    for given_octets in (octets, memoryview(octets)):
        batch = batches.place(given_octets, 1 << 40, 2, 0, 1000)
        found = octets_of(batch)
        assert batches.problem(found, 0) == ""
        assert found[8:12] + found[16:] == octets[8:12] + octets[16:]
        assert records.read_header(found).leader_epoch == 0
        assert batches.span(found, 0) == (1 << 40, (1 << 40) + 2, 2, 0, len(octets), 1000, 7, 1, 5)
        assert (batch.base_offset, batch.next_offset, batch.size) == (1 << 40, (1 << 40) + 2, len(octets))
        assert not batch.transient


@given(st.lists(st.lists(st.integers(-1, 9), min_size=1, max_size=3), min_size=1, max_size=4))
def test_whole_batches_come_back_from_the_journal(found):
    salt = b"saltsalt"
    parts: list[bytes] = []
    offset = 5
    made = []
    for times in found:
        batch = placed(offset, times)
        made.append(octets_of(batch))
        parts += [journal.whole_batch_entry(3, batch.size), *batch.buffers]
        offset = batch.next_offset
    settled = Settlement(6, 0, 0)
    parts.append(journal.settlements_entry(3, [settled]))
    files = FakeFiles()
    files.make_directory("/journal")
    files.put(journal.path("/journal", 1, salt), b"".join(journal.encode_record(salt, parts)))
    report = journal.recover(files, "/journal")
    *entries, last = report.entries
    assert [octets_of(batch) for entry in entries for batch in entry.batches] == made
    assert {entry.log_id for entry in report.entries} == {3}
    assert last.settlements == [settled]


def test_the_journal_is_laid_over_as_often_as_need_be():
    files, log = written(THREE_EACH[:4])
    entries = [Entry(1, [batch], []) for batch in THREE_EACH[2:]]
    for _ in range(2):
        log, report = recovery.open_log(
            files, files.handles(8), 1, DIRECTORY, segment_size_max=400, journal=entries
        )
        assert (report.cut, report.damaged) == ([], [])
        assert [span.base_offset for _, _, span in log.spans_from(0)] == [*range(0, 30, 3)]


# ---- segments ----


def test_a_segment_ends_when_that_is_due_and_only_then():
    files, log = written(THREE_EACH[:2], segment_size_max=10_000)
    handles = files.handles(8)
    log.roll_due = True
    for batch in THREE_EACH[2:4]:
        for write in itertools.chain(*log.write([batch], [])):
            write.carry_out(files, handles)
        log.written()
    assert [(one.base_offset, one.next_offset, one.sealed) for one in log.segments] == [
        (0, 6, True),
        (6, 12, False),
    ]


def test_segments_before_an_offset_go_but_never_the_last_one():
    _, log = written(THREE_EACH)
    bases = [segment.base_offset for segment in log.segments]
    assert log.drop_before(bases[1] - 1) == []
    assert [path for path in log.drop_before(bases[2] + 1) if path.endswith(".log")] == PATHS[:2]
    assert [path for path in log.drop_before(1000) if path.endswith(".log")] == PATHS[2:-1]
    assert [segment.base_offset for segment in log.segments] == bases[-1:]
    assert log.next_offset == 30


def test_a_log_that_syncs_nothing_syncs_a_segment_when_it_is_full():
    _, log = written([])
    log.syncs = False
    writes = [write for batch in THREE_EACH for write in log.write([batch], [])[0] if log.written() is None]
    full = [segment.path(".log") for segment in log.segments[:-1]]
    assert [write.path for write in writes if write.sync] == full
    assert all(write.behind_unsynced for write in writes if write.sync)
    log.syncs = True
    (write,) = log.write([placed(30, [1])], [])[0]
    assert (write.path, write.sync, write.behind_unsynced) == (PATHS[-1], True, True)
