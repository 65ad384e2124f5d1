"""A log on files in memory: what goes where, and when it may go. (Any order of it all: `test_log_machine`.)"""

import pytest

from broker.storage import batch as batches
from broker.storage import recovery
from broker.storage.errors import CorruptLog
from broker.storage.file import Files
from broker.storage.journal import Entry
from broker.storage.write import Write, remove_files
from fakes import FakeFiles
from log_owner import DIRECTORY, LogOwner, contents, record


def filled(count: int = 6) -> LogOwner:
    """Batches of one record each, five to a segment."""
    owner = LogOwner(segment_size_max=5 * 85)
    for _ in range(count):
        owner.append(1)
        owner.commit()
    return owner


def suffixes(files: FakeFiles, base: int) -> list[str]:
    return sorted(path.rpartition(".")[2] for path in files.paths() if f"/{base:020d}." in path)


def test_a_full_segment_is_sealed_with_its_index_before_the_next_begins():
    owner = filled(5)
    assert [segment.sealed for segment in owner.log.segments] == [False]
    owner.append(1)
    owner.commit()
    assert [(one.base_offset, one.sealed) for one in owner.log.segments] == [(0, True), (5, False)]
    assert suffixes(owner.files, 0) == ["index", "log"]
    assert suffixes(owner.files, 5) == ["log"]


def test_a_batch_larger_than_a_segment_has_one_of_its_own():
    owner = filled(1)
    owner.append(100)
    owner.commit()
    assert [segment.base_offset for segment in owner.log.segments] == [0, 1]
    assert len(contents(owner.log)) == 101


def test_until_it_is_written_it_is_read_from_memory():
    owner = filled(2)
    owner.log.write([batches.encode(2, 1, [b"new"])], [])
    assert owner.log.read(2)[0].payload == b"new"
    assert [batch.base_offset for batch in owner.log.read(0)] == [0, 1]
    assert owner.log.writing
    assert len(owner.log.being_written) == 1


def test_reading_goes_on_where_it_ended_and_stops_at_the_size_asked_for():
    owner = filled(12)
    found = []
    at = 0
    while some := owner.log.read(at, 100):
        assert len(some) <= 2
        found += [batch.base_offset for batch in some]
        at = some[-1].next_offset
    assert found == list(range(12))
    assert [batch.base_offset for batch in owner.log.read(7, 1)] == [7]
    assert owner.log.read(12) == []


def test_a_settled_segment_goes_but_never_the_last_one():
    owner = filled(6)
    owner.settle(range(6))
    owner.commit()
    dropped = owner.log.drop_settled()
    assert {path.rpartition("/")[2][:20] for path in dropped} == {f"{0:020d}"}
    assert [segment.base_offset for segment in owner.log.segments] == [5]
    assert owner.log.start_offset == 5


def test_all_go_when_nothing_lives_and_offsets_go_on():
    owner = filled(6)
    assert owner.log.drop_all() == []
    owner.settle(range(6))
    owner.commit()
    remove_files(owner.files, owner.log.drop_all())
    assert owner.log.segments == ()
    assert owner.log.next_offset == 6
    assert [path for path in owner.files.paths() if path.startswith(DIRECTORY)] == []


def test_settlements_of_one_commit_are_a_block_for_each_segment():
    owner = filled(12)
    owner.settle(range(3, 11))
    owner.commit()
    assert [segment.live for segment in owner.log.segments] == [3, 0, 1]
    assert [suffixes(owner.files, base) for base in (0, 5, 10)] == [
        ["index", "log", "settled"],
        ["index", "log", "settled"],
        ["log", "settled"],
    ]
    assert sorted(contents(owner.log)) == [0, 1, 2, 11]


def test_everything_from_an_offset_on_is_settled_without_reading():
    owner = filled(12)
    assert owner.log.settle_from(4) == [range(4, 5), range(5, 10), range(10, 12)]
    assert owner.log.live == 4


def test_what_cannot_be_read_is_said_with_its_place():
    owner = filled(3)
    path = f"{DIRECTORY}/{0:020d}.log"
    owner.files.put(path, owner.files.octets(path).replace(b"1:1;", b"1:9;"))
    owner.reader.forget(path)
    assert [batch.base_offset for batch in owner.log.read(0)] == [0]
    with pytest.raises(CorruptLog, match=rf"{path} at octet 85: crc ") as raised:
        owner.log.read(1)
    assert (raised.value.path, raised.value.position) == (path, 85)


def test_a_write_makes_the_folder_the_file_and_its_name_safe():
    files = FakeFiles()
    made: Files = files
    Write("/data/queues/1/x.log", 0, [b"a", b"b"], sync=True, created=True).carry_out(made, made.handles(1))
    for seed in range(10):
        assert files.crash(seed).octets("/data/queues/1/x.log") == b"ab"


def test_settlements_go_when_the_messages_are_gone_for_good():
    owner = filled(6)
    owner.settle(range(5))
    owner.commit()
    paths = owner.log.drop_settled()
    before = len(owner.files.log)
    remove_files(owner.files, paths)
    steps = [(step, path.rpartition(".")[2]) for step, path in owner.files.log[before:]]
    assert steps[-2:] == [("sync_directory", DIRECTORY), ("remove", "settled")]


def test_settlements_of_a_log_that_began_anew_are_gone_for_good():
    """A process has let go of everything and stopped; the next one gives out the same offsets, and the power fails."""
    journaled = batches.encode(0, 1, [record(9, 0)])
    for seed in range(20):
        owner = filled(3)
        owner.settle(range(3))
        owner.commit()
        owner.drop(all=True)
        owner.commit()
        files = owner.files.kill()
        log, _ = recovery.open_log(files, files.handles(8), 1, DIRECTORY)
        assert log.next_offset == 0
        files = files.crash(seed)
        log, _ = recovery.open_log(files, files.handles(8), 1, DIRECTORY, journal=[Entry(1, [journaled], [])])
        assert contents(log) == {0: record(9, 0)}
