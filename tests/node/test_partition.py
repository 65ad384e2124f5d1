"""A partition of a node: what is appended, read, let go, and there again after a restart."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from broker.kafka import records
from broker.kafka.records import Record
from broker.model.errors import OffsetOutOfRange
from broker.model.producer import OutOfOrderSequence
from broker.node.partition import Appended, Partition
from fakes import FakeFiles, PowerFailed
from stepped_node import SteppedNode
from topic_records import record

NOW_MS = 1_700_000_000_000
DAY_MS = 24 * 3600 * 1000
SEEDS = range(10)


@pytest.fixture
def under() -> Iterator[SteppedNode]:
    """With segments of about five batches of one record."""
    node = SteppedNode(segment_size_max=400)
    yield node
    node.abandon()


def append(partition: Partition, *values: bytes, timestamp: int = NOW_MS, **options: int) -> Appended:
    """As one batch; `options` are those of `records.build`."""
    batch = records.build([record(value, timestamp) for value in values], **options)
    return partition.append(records.read_header(batch), batch)


def fill(node: SteppedNode, partition: Partition, count: int, **options: int) -> None:
    """A batch of one record in each of so many commits."""
    for number in range(count):
        append(partition, b"%d" % number, **options)
        node.commit()


def journaled(node: SteppedNode, *partitions: Partition) -> None:
    """A commit of so many logs that it goes through the journal."""
    assert len(partitions) > 2
    before = node.node.flusher.journaled_commits
    for partition in partitions:
        append(partition, b"journaled", timestamp=node.clock.now)
    node.commit()
    assert node.node.flusher.journaled_commits == before + 1


def read_all(partition: Partition) -> list[Record]:
    """Everything that may be read, batch by batch, as octets and as whole batches."""
    found: list[Record] = []
    offset = partition.start_offset
    while octets := partition.read(offset, 1):
        assert partition.batches(offset, 1) == [octets]
        header = records.read_header(octets)
        assert header.size == len(octets)
        found += [one for one in records.iterate(octets) if one.offset >= offset]
        offset = header.base_offset + header.last_offset_delta + 1
    assert partition.batches(offset, 1) == []
    return found


def values_of(partition: Partition) -> list[bytes | None]:
    return [one.value for one in read_all(partition)]


def offsets_of(partition: Partition) -> list[int]:
    return [one.offset for one in read_all(partition)]


def base_offset_at(partition: Partition, offset: int) -> int:
    """Of what is read at an offset."""
    return records.read_header(partition.read(offset, 1)).base_offset


def files_of(files: FakeFiles, partition: Partition, suffix: str = "") -> list[str]:
    directory = f"{partition.log.directory}/"
    return [path for path in files.paths() if path.startswith(directory) and path.endswith(suffix)]


# ---- reading ----


def test_what_is_not_safe_is_not_read(under):
    partition = under.create("orders").partition(0)
    append(partition, b"a", b"b")
    under.end_pass()
    append(partition, b"c")
    assert (partition.next_offset, partition.high_watermark) == (3, 0)
    assert partition.read(0, 1000) == b""
    with pytest.raises(OffsetOutOfRange):
        partition.read(1, 1000)
    under.work()
    assert (partition.next_offset, partition.high_watermark) == (3, 2)
    assert values_of(partition) == [b"a", b"b"]
    under.commit()
    assert values_of(partition) == [b"a", b"b", b"c"]


def test_an_offset_within_a_batch_gets_the_batch(under):
    partition = under.create("orders").partition(0)
    append(partition, b"a", b"b", b"c")
    under.commit()
    for _ in range(2):
        assert [base_offset_at(partition, offset) for offset in range(3)] == [0, 0, 0]
        partition.retain(under.clock.now)  # from memory, then from the file


def test_bells_ring_when_there_is_more_to_read_and_when_the_topic_goes(under):
    topic = under.create("orders")
    partition = topic.partition(0)
    rung: list[int] = []

    def bell() -> None:
        rung.append(partition.high_watermark)

    partition.bells[bell] = None
    append(partition, b"a")
    under.end_pass()
    assert rung == []
    under.commit()
    under.commit()
    assert rung == [1]
    partition.bells[bell] = None
    under.node.topics.delete(topic)
    assert rung == [1, 1]


def test_memory_keeps_the_end_of_a_partition_in_use_and_nothing_of_one_at_rest(under, monkeypatch):
    monkeypatch.setattr("broker.node.tail._TAIL_SIZE", 200)
    partition = under.create("orders").partition(0)
    fill(under, partition, 10)
    assert 100 < partition._tail.size <= 200
    partition.retain(under.clock.now)
    assert 100 < partition._tail.size <= 200
    partition.retain(under.clock.now)
    assert partition._tail.size == 0
    assert len(read_all(partition)) == 10


def test_a_small_part_of_a_request_does_not_keep_the_request_in_memory(under):
    partition = under.create("orders").partition(0)
    batch = records.build([record(b"small")])
    frame = batch + bytes(10 * len(batch))
    partition.append(records.read_header(batch), memoryview(frame)[: len(batch)])
    whole = memoryview(batch)
    partition.append(records.read_header(batch), whole)
    small, large = (one.buffers[1].obj for one in partition._waiting)
    assert small == batch
    assert large is batch


# ---- files that are damaged ----


@pytest.mark.parametrize("at", [0, 8, 16, 17, 40, 65])
def test_a_batch_that_is_damaged_is_passed_over_by_whoever_opens_it(under, at, caplog):
    partition = under.create("orders").partition(0)
    fill(under, partition, 12)
    (first, *_) = files_of(under.files, partition, ".log")
    octets = bytearray(under.files.octets(first))
    size = len(octets) // 5
    octets[2 * size + at] ^= 0xFF
    under = under.close()
    partition = under.partition("orders")
    under.files.put(first, bytes(octets))
    found: list[int] = []
    offset = 0
    while some := partition.batches(offset, 1):
        offset = records.read_header(some[-1]).base_offset + 1
        found += [records.read_header(batch).base_offset for batch in some]
    assert found == [0, 1, *range(3, 12)]
    assert partition.high_watermark == 12
    assert "partition '/'/orders-0: 1 records are lost to a damaged disk" in caplog.text


@pytest.mark.parametrize("size", [0, 30, 200, 344])
def test_a_file_that_was_cut_while_it_was_open_does_not_hang(under, size):
    partition = under.create("orders").partition(0)
    fill(under, partition, 12)
    partition.retain(under.clock.now)
    partition.retain(under.clock.now)
    (first, *_) = files_of(under.files, partition, ".log")
    under.files.truncate(first, size)
    left = [*range(size // 69), *range(5, 12)]
    assert [base_offset_at(partition, offset) for offset in left] == left
    assert [base_offset_at(partition, offset) for offset in range(size // 69, 5)] == [5] * (5 - size // 69)
    assert partition.offset_of_time(0) is not None
    assert partition.last_batch_offset() == 11


# ---- letting go ----


def test_records_before_the_start_are_gone_at_once_and_their_segments_when_that_is_safe(under):
    partition = under.create("orders").partition(0)
    fill(under, partition, 12)
    before = files_of(under.files, partition, ".log")
    commit = partition.move_start(7)
    assert offsets_of(partition) == [7, 8, 9, 10, 11]
    with pytest.raises(OffsetOutOfRange):
        partition.read(6, 1)
    assert files_of(under.files, partition, ".log") == before
    under.commit()
    assert commit.done
    assert files_of(under.files, partition, ".log") == before[1:]
    assert partition.move_start(3).done is False
    assert partition.start_offset == 7
    with pytest.raises(OffsetOutOfRange):
        partition.move_start(13)


def everything(partition: Partition) -> int:
    return partition.high_watermark


def within_a_segment(partition: Partition) -> int:
    return 7


def at_a_segment(partition: Partition) -> int:
    return partition.log.segments[-1].base_offset


@pytest.mark.parametrize("where", [everything, within_a_segment, at_a_segment])
@pytest.mark.parametrize("crash", [True, False])
def test_the_start_stays_where_it_is_whatever_goes_afterwards(
    under, where: Callable[[Partition], int], crash
):
    """What says so lies beside a segment, which may be one of those that go."""
    partition = under.create("orders").partition(0)
    fill(under, partition, 10)
    start = where(partition)
    partition.move_start(start)
    under.commit()
    fill(under, partition, 12)
    for _ in range(3):
        partition.retain(under.clock.now)
        under.commit()
    assert len(files_of(under.files, partition, ".log")) == len(partition.log.segments)
    for seed in SEEDS if crash else SEEDS[:1]:
        files = under.files.copy().crash(seed) if crash else under.files.copy()
        again = SteppedNode(files, under.definitions, segment_size_max=400)
        assert again.partition("orders").start_offset == start
        assert offsets_of(again.partition("orders")) == [*range(start, 22)]
        again.abandon()


def test_a_start_that_only_the_journal_knows_is_there_after_a_crash():
    for seed in SEEDS:
        under = SteppedNode(segment_size_max=400)
        partitions = [under.create(name).partition(0) for name in ("a", "b", "c")]
        for _ in range(3):
            journaled(under, *partitions)
        for partition in partitions:
            partition.move_start(2)
        under.commit()
        assert not files_of(under.files, partitions[0])
        again = under.crash(seed)
        assert [offsets_of(again.partition(name)) for name in ("a", "b", "c")] == [[2], [2], [2]]
        under.abandon()


def test_old_segments_go_also_while_the_journal_is_always_in_use(under):
    """Then there is always something that waits for the files."""
    partitions = [under.create(name, retention_ms=str(DAY_MS)).partition(0) for name in ("a", "b", "c")]
    for _ in range(12):
        journaled(under, *partitions)
    under.finish()
    for _ in range(3):
        under.clock.now += DAY_MS // 2
        journaled(under, *partitions)
        for partition in partitions:
            partition.retain(under.clock.now)
        under.commit()
    assert [offsets_of(partition) for partition in partitions] == [[12, 13, 14]] * 3


def test_the_last_segment_goes_when_all_of_it_is_old_and_offsets_go_on(under):
    partition = under.create("orders", retention_ms=str(DAY_MS)).partition(0)
    fill(under, partition, 3, timestamp=under.clock.now)
    under.clock.now += DAY_MS + 1
    partition.retain(under.clock.now)
    under.commit()
    assert (partition.start_offset, offsets_of(partition)) == (3, [])
    append(partition, b"new", timestamp=under.clock.now)
    under.commit()
    partition.retain(under.clock.now)
    under.commit()
    partition.retain(under.clock.now)
    under.commit()
    assert [path[-9:-4] for path in files_of(under.files, partition, ".log")] == ["00003"]
    under = under.close()
    assert offsets_of(under.partition("orders")) == [3]


@pytest.mark.parametrize("timestamp", [-1, 0])
def test_records_without_a_time_are_as_old_as_they_have_been_here(under, timestamp):
    partition = under.create("orders", retention_ms=str(DAY_MS)).partition(0)
    fill(under, partition, 7, timestamp=timestamp)
    under.clock.now += DAY_MS
    fill(under, partition, 1, timestamp=timestamp)
    partition.retain(under.clock.now)
    under.commit()
    assert offsets_of(partition) == [*range(8)]
    under.clock.now += 1
    partition.retain(under.clock.now)
    under.commit()
    assert offsets_of(partition) == [5, 6, 7]
    under = under.close()
    partition = under.partition("orders")
    under.clock.now += DAY_MS
    partition.retain(under.clock.now)
    assert offsets_of(partition) == [5, 6, 7]
    under.clock.now += 1
    partition.retain(under.clock.now)
    assert offsets_of(partition) == []


def test_what_is_too_much_goes_by_segments(under):
    partition = under.create("orders", retention_bytes="1000").partition(0)
    fill(under, partition, 30)
    partition.retain(under.clock.now)
    under.commit()
    assert partition.start_offset == partition.log.start_offset > 0
    assert 1000 <= partition.size < 1400


@pytest.mark.parametrize("why", ["deleted", "old", "much"])
def test_a_partition_of_which_nothing_may_be_read_keeps_an_empty_file(under, why):
    configs = {"old": {"retention_ms": str(DAY_MS)}, "much": {"retention_bytes": "0"}}
    partition = under.create("orders", **configs.get(why, {})).partition(0)
    for sequence in range(7):
        send(partition, sequence)
        under.commit()
    if why == "deleted":
        partition.move_start(7)
    under.clock.now += 2 * DAY_MS
    for _ in range(2):
        partition.retain(under.clock.now)
        under.commit()
    assert {
        path.rpartition("/")[2]: len(under.files.octets(path)) for path in files_of(under.files, partition)
    }.items() >= {(f"{7:020d}.log", 0)}
    assert len(files_of(under.files, partition, ".log")) == 1
    assert (partition.start_offset, partition.high_watermark, partition.size) == (7, 7, 0)
    under = under.close()
    partition = under.partition("orders")
    assert (partition.start_offset, partition.high_watermark) == (7, 7)
    steps = under.files.steps
    for _ in range(2):
        partition.retain(under.clock.now)
        under.commit()
    assert under.files.steps == steps  # it is let be
    assert send(partition, 6).base_offset == 6  # its producer is known though nothing of it is there
    assert send(partition, 7).base_offset == 7
    under.commit()
    assert offsets_of(partition) == [7]
    assert len(files_of(under.files, partition, ".log")) == 1


def test_the_last_segment_goes_by_way_of_the_journal_too(under):
    partitions = [under.create(name).partition(0) for name in ("a", "b", "c")]
    journaled(under, *partitions)
    for partition in partitions:
        partition.move_start(1)
    append(partitions[0], b"more")
    under.commit()
    under.finish()
    for _ in range(2):
        for partition in partitions:
            partition.retain(under.clock.now)
        under.finish()
    assert [offsets_of(partition) for partition in partitions] == [[1], [], []]
    names = [files_of(under.files, partition, ".log") for partition in partitions]
    assert [[path[-5:-4] for path in each] for each in names] == [["0"], ["1"], ["1"]]


def test_a_crash_at_any_step_on_the_way_to_an_empty_file():
    """Wherever it is, offsets go on where they were; what was deleted for good does not come back."""
    for steps in range(40):
        for seed in SEEDS:
            under = SteppedNode()
            partition = under.create("orders").partition(0)
            fill(under, partition, 3)
            asked = partition.move_start(3)
            ended = _until_power_fails(under, partition, steps)
            again = under.crash(seed)
            partition = again.partition("orders")
            assert partition.high_watermark == partition.next_offset == 3
            assert partition.start_offset == 3 if asked.done else partition.start_offset in (0, 3)
            assert offsets_of(partition) == [*range(partition.start_offset, 3)]
            append(partition, b"new")
            again.commit()
            assert offsets_of(again.kill().partition("orders"))[-1] == 3
            under.abandon()
        if ended:
            break
    assert ended
    assert steps >= 8


def _until_power_fails(under: SteppedNode, partition: Partition, steps: int) -> bool:
    """Tidy until nothing is left to do, or the power fails; whether that was before."""
    under.files.power_fails_after = under.files.steps + steps
    with suppress(PowerFailed):
        while under.files.octets(partition.log.segments[-1].path(".log")) or len(partition.log.segments) > 1:
            under.commit()
            partition.retain(under.clock.now)
        under.commit()
        return True
    return False


# ---- commits ----


@pytest.mark.parametrize("steps", range(6))
def test_a_transaction_is_whole_after_a_kill_even_if_the_topic_syncs_nothing(steps):
    under = SteppedNode()
    under.declare("q")
    partition = under.create("orders", flush="os").partition(0)
    under.commit()
    under.node.flusher.open.atomic = True
    under.publish("q", b"to a queue")
    append(partition, b"to a topic")
    under.end_pass()
    under.fail_power(under.writer, steps)
    again = under.kill()
    assert (again.stored("q"), values_of(again.partition("orders"))) in (
        ([], []),
        ([b"to a queue"], [b"to a topic"]),
    )
    under.abandon()


@pytest.mark.parametrize("steps", range(8))
def test_what_is_read_after_a_kill_is_there_after_a_crash(steps):
    """A killed process may have written what it has not synced."""
    for seed in SEEDS:
        under = SteppedNode()
        append(under.create("orders").partition(0), b"a")
        under.commit()
        under.partition("orders").append(*many_buffers())
        under.end_pass()
        under.fail_power(under.writer, steps)
        seen = values_of(under.kill().partition("orders"))
        files = under._following.files.crash(seed)
        again = SteppedNode(files, under.definitions)
        assert values_of(again.partition("orders"))[: len(seen)] == seen
        again.abandon()
        under.abandon()


@pytest.mark.parametrize("flush", ["sync", "os"])
@pytest.mark.parametrize("steps", range(4))
def test_where_a_partition_begins_after_a_kill_it_begins_after_a_crash(steps, flush):
    for seed in SEEDS:
        under = SteppedNode()
        partition = under.create("orders", flush=flush).partition(0)
        fill(under, partition, 3)
        partition.move_start(2)
        under.end_pass()
        under.fail_power(under.writer, steps)
        killed = under.kill()
        start = killed.partition("orders").start_offset
        again = killed.crash(seed)
        assert again.partition("orders").start_offset == start
        under.abandon()


def many_buffers():
    batch = records.build([record(b"b" * 200)])
    return records.read_header(batch), batch


def test_what_a_topic_was_synced_with_stays_safe_when_it_syncs_no_more():
    """The journal has it, and goes when the files have got it."""
    for seed in SEEDS:
        under = SteppedNode()
        topics = [under.create(name) for name in ("a", "b", "c")]
        journaled(under, *[topic.partition(0) for topic in topics])
        for topic in topics:
            under.node.topics.configure(topic, {"flush": "os"})
        append(topics[0].partition(0), b"not synced")
        under.finish()
        again = under.crash(seed)
        for name in ("a", "b", "c"):
            assert values_of(again.partition(name))[:1] == [b"journaled"]
        under.abandon()


def test_what_a_topic_without_syncs_was_given_survives_a_kill(under):
    partition = under.create("orders", flush="os").partition(0)
    fill(under, partition, 12)
    assert ("sync", files_of(under.files, partition, ".log")[-1]) not in under.files.log
    under = under.kill()
    assert len(values_of(under.partition("orders"))) == 12


def test_a_partition_at_rest_keeps_nobody_in_memory_who_waited_for_it(under):
    class Waiting:
        def __call__(self) -> None:
            called.append(True)

    called: list[bool] = []
    waiting = Waiting()
    known = weakref.ref(waiting)
    append(under.create("orders").partition(0), b"a").commit.waiters.append(waiting)
    under.node.producer_ids.take()
    del waiting
    under.commit()
    gc.collect()
    assert called == [True]
    assert known() is None


# ---- producers ----


def send(partition: Partition, sequence: int, *, producer: int = 7, epoch: int = 0) -> Appended:
    return append(partition, b"x", producer_id=producer, producer_epoch=epoch, base_sequence=sequence)


def test_a_batch_that_is_sent_again_is_the_same_one_and_waits_to_be_safe(under):
    partition = under.create("orders").partition(0)
    first = send(partition, 0)
    under.end_pass()
    again = send(partition, 0)
    assert again.base_offset == first.base_offset == 0
    assert again.commit is not first.commit
    under.work()
    assert (first.commit.done, again.commit.done) == (True, False)
    under.commit()
    with pytest.raises(OutOfOrderSequence):
        send(partition, 2)
    assert offsets_of(partition) == [0]


@pytest.mark.parametrize("snapshot", ["whole", "gone", "damaged"])
def test_producers_are_known_after_a_restart_whatever_became_of_the_snapshots(under, snapshot, caplog):
    partition = under.create("orders").partition(0)
    for sequence in range(12):
        send(partition, sequence)
        send(partition, sequence, producer=8)
        under.commit()
    paths = files_of(under.files, partition, ".producers")
    assert len(paths) > 2
    under = under.close()
    for path in paths:
        octets = under.files.octets(path)
        if snapshot == "gone":
            under.files.remove(path)
        elif snapshot == "damaged":
            under.files.put(path, octets[:20] + bytes([octets[20] ^ 1]) + octets[21:])
    under = under.kill()
    assert caplog.text.count("wrong crc; read anew") == (len(paths) if snapshot == "damaged" else 0)
    partition = under.partition("orders")
    for sequence in range(7, 12):
        assert send(partition, sequence).base_offset == 2 * sequence
        assert send(partition, sequence, producer=8).base_offset == 2 * sequence + 1
    assert send(partition, 12).base_offset == 24
    with pytest.raises(OutOfOrderSequence):
        send(partition, 6)


# ---- deleted ----


@pytest.mark.parametrize("left", [["00000000000000000000.log"], []])
def test_a_topic_of_which_nothing_was_ever_finished_leaves_no_folder_behind(under, left):
    """A crash in its first write leaves an empty file, or its folder alone."""
    partition = under.create("orders").partition(0)
    under.commit()
    directory = partition.log.directory
    under.files.make_directory(directory)
    for name in left:
        under.files.put(f"{directory}/{name}", b"")
    again = under.kill()
    again.node.topics.delete(again.node.topics.topic("/", "orders"))
    again.commit()
    assert again.files.names("/data/partitions") == []


# ---- holes ----


def sectors_are_zero(octets: bytes, at: int) -> bytes:
    return octets[:at] + bytes(16) + octets[at + 16 :]


@pytest.mark.parametrize("end", ["stop", "kill", "kill after much"])
def test_what_was_safe_and_is_empty_is_damage(under, end, monkeypatch):
    """After a stop, or when enough has come behind it, or at the next start: that is written down."""
    if end == "kill after much":
        monkeypatch.setattr("broker.node.partition._NOTED_EACH", 100)
    partition = under.create("orders").partition(0)
    partition.log.segment_size_max = 10_000
    fill(under, partition, 6)
    (path,) = files_of(under.files, partition, ".log")
    under = under.close() if end == "stop" else under.kill()
    if end == "kill":
        under = under.kill()
    size = len(under.files.octets(path)) // 6
    under.files.put(path, sectors_are_zero(under.files.octets(path), size + 20))
    under = under.kill()
    assert offsets_of(under.partition("orders")) == [0, 2, 3, 4, 5]


def test_a_hole_in_what_nobody_noted_is_the_end(under):
    partition = under.create("orders").partition(0)
    partition.log.segment_size_max = 10_000
    fill(under, partition, 6)
    (path,) = files_of(under.files, partition, ".log")
    size = len(under.files.octets(path)) // 6
    under.files.put(path, sectors_are_zero(under.files.octets(path), size + 20))
    under = under.kill()
    assert offsets_of(under.partition("orders")) == [0]


def test_no_room_for_a_note_is_no_matter(under):
    partition = under.create("orders").partition(0)
    fill(under, partition, 3)
    under.stop()
    under.files.room = under.files.taken
    again = under._next(under.files)
    assert offsets_of(again.partition("orders")) == [0, 1, 2]
    again.abandon()
