"""Compaction and the end of the process, at every step; what others do and see during a pass; and producers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from typing import Any

import pytest

from broker.kafka import records
from broker.storage.errors import DiskFull
from compacted_topic import CompactedTopic, latest
from fakes import PowerFailed
from stepped_node import SteppedNode

# ---- producers ----


def test_a_producer_goes_on_where_it_was_though_its_records_are_gone():
    """Its last batch is empty then, and tells the sequence number to whoever has no snapshot."""
    topic = CompactedTopic()
    topic.append((b"a", b"1"), (b"a", b"2"), producer=(7, 0))
    topic.append((b"a", b"3"), (b"b", b"1"), producer=(7, 2))
    topic.append((b"a", b"4"), (b"b", b"2"), producer=(8, 0))
    topic.roll()
    topic.compact()
    topic.check()
    empty = [header for header in topic.headers() if not header.count]
    assert [
        (each.base_offset, each.last_offset_delta, each.producer_id, each.base_sequence) for each in empty
    ] == [(2, 1, 7, 2)]
    for snapshots in (True, False):
        if not snapshots:
            for name in topic.files(".producers"):
                topic.node.files.remove(f"{topic.partition.log.directory}/{name}")
        topic.kill()
        topic.check()
        assert [(each.producer_id, each.last_sequence) for each in topic.partition.producers.describe()] == [
            (7, 3),
            (8, 1),
        ]
    again = topic.append((b"x", b"4"), (b"y", b"2"), producer=(7, 2))
    assert again.start == 2  # it was there already
    del topic.twin.records[-2:]
    topic.append((b"c", b"1"), producer=(7, 4))
    topic.check()


def test_an_empty_batch_goes_when_its_producer_has_gone_on():
    topic = CompactedTopic()
    topic.append((b"a", b"1"), producer=(7, 0))
    topic.fill((b"a", b"2"))
    topic.roll()
    topic.compact()
    assert [header.count for header in topic.headers()] == [0, 1, 1]
    topic.append((b"b", b"1"), producer=(7, 1))
    topic.roll()
    topic.compact()
    assert [header.count for header in topic.headers()] == [1, 1, 1, 1]
    topic.check()


def test_an_empty_batch_goes_when_its_producer_is_forgotten():
    topic = CompactedTopic()
    topic.append((b"a", b"1"), producer=(7, 0))
    topic.fill((b"a", b"2"))
    topic.roll()
    topic.compact()
    assert [header.count for header in topic.headers()] == [0, 1, 1]
    topic.pass_time(86_400_000)
    topic.roll()
    topic.compact()
    assert [header.count for header in topic.headers()] == [1, 1, 1]
    topic.check()


# ---- restarts ----


def test_a_quick_start_knows_what_is_in_a_compacted_segment():
    topic = CompactedTopic()
    topic.fill(*((b"%d" % (number % 3), b"x" * 30) for number in range(12)))
    topic.roll()
    topic.compact()
    segment = topic.partition.log.segments[0]
    before = (segment.base_offset, segment.next_offset, segment.size, segment.records, segment.max_timestamp)
    topic.restart()
    segment = topic.partition.log.segments[0]
    assert before == (
        segment.base_offset,
        segment.next_offset,
        segment.size,
        segment.records,
        segment.max_timestamp,
    )
    assert segment.records == 3
    topic.check()


def test_a_start_without_an_index_reads_what_is_there():
    topic = CompactedTopic()
    topic.append((b"a", b"1"), (b"b", b"1"), (b"a", b"2"))
    topic.fill((b"b", b"2"), (b"c", b"1"), (b"c", b"2"), (b"last", b""))
    topic.roll()
    topic.compact()
    for name in topic.files(".index"):
        topic.node.files.remove(f"{topic.partition.log.directory}/{name}")
    topic.restart()
    topic.check()
    assert not topic.partition.log.segments[0].settled._beyond  # gaps cost nothing


def test_how_far_it_is_compacted_is_not_forgotten():
    topic = CompactedTopic(min_cleanable_dirty_ratio=0.9)
    topic.fill((b"a", b"1"), (b"b", b"2"))
    topic.roll()
    end = topic.compact()
    assert end
    topic.restart()
    topic.tidy()
    assert topic.compactor._pass is None
    path = f"{topic.partition.log.directory}/compacted"
    topic.node.files.put(path, topic.node.files.octets(path)[:-1] + b"\xff")  # never trusted
    topic.restart()
    assert topic.compacted_to == 0
    topic.twin.compacted_to = 0
    assert topic.compact() == end
    topic.check()


@pytest.mark.parametrize("joins", [True, False])
def test_a_pass_in_progress_does_not_hold_up_the_end(joins):
    topic = CompactedTopic(joins=joins)
    topic.fill((b"a", b"1"), (b"a", b"2"))
    topic.fill((b"a", b"3"))
    topic.roll()
    for steps in range(6):
        topic.tidy()
        for _ in range(steps):
            topic.node.work()
        topic.restart()
        assert latest(topic.stored()) == latest(topic.appended)
    topic.twin.compact(topic.compact(), topic.node.clock.now)
    topic.check()


@pytest.mark.parametrize("seed", range(12))
def test_an_index_that_fits_by_its_size_alone_is_not_believed(seed):
    """The segment is as large as it was, but what lies in it has moved."""
    topic = CompactedTopic()
    topic.partition.log.segment_size_max = 1 << 20
    topic.append((b"a", b"1"), (b"b", bytes(70_000)))
    topic.append((b"c", bytes(70_000)))
    topic.append((b"d", None), (b"e", None), (b"f", None))
    topic.fill((b"a", b"2"))
    topic.roll()
    segment = topic.partition.log.segments[0]
    size = segment.size
    topic.tidy()
    while segment.records == 7:
        topic.node.work()
    assert segment.size == size
    topic.crash(seed)
    assert next(iter(records.iterate(topic.partition.read(2, 1)))).offset == 2
    assert latest(topic.stored()) == latest(topic.appended)


# ---- what happens meanwhile ----


def test_what_is_appended_during_a_pass_is_the_next_ones():
    topic = CompactedTopic()
    topic.fill((b"a", b"1"), (b"a", b"2"))
    topic.roll()
    topic.tidy()
    assert topic.node.work()
    topic.append((b"a", b"3"))
    topic.roll()
    assert topic.compacted_to == 2
    topic.twin.compact(2, topic.node.clock.now)
    topic.check()
    topic.compact()
    topic.check()


def test_what_is_being_sealed_is_left_alone():
    """The end of it may not be on the disk."""
    topic = CompactedTopic(flush="os")
    topic.fill((b"a", b"1"), (b"a", b"2"))
    octets = records.build([records.Record(0, 0, b"a", b"3")])
    topic.partition.append(records.read_header(octets), octets)
    topic.node.end_pass()
    assert topic.partition.log.writing
    topic.tidy()
    assert topic.compactor._pass is None
    topic.node.commit()
    topic.tidy()
    topic.node.commit()
    assert [each.offset for each in topic.stored()] == [1, 2]


@pytest.mark.parametrize("joins", [True, False])
def test_readers_see_the_same_at_every_step(joins):
    topic = CompactedTopic(joins=joins)
    for number in range(5):
        topic.fill((b"a", b"%d" % number), (b"b", b"1"), (b"%d" % number, None))
    topic.tidy()
    while topic.compactor._pass is not None:
        for size_max in (1, 1 << 20):
            assert latest(topic.stored(size_max)) == latest(topic.appended)
        topic.node.work()
    topic.twin.compact(topic.compacted_to, topic.node.clock.now)
    topic.check()


@pytest.mark.parametrize("joins", [True, False])
def test_a_topic_that_is_deleted_during_a_pass(joins):
    for steps in count():
        topic = CompactedTopic(joins=joins)
        topic.fill((b"a", b"1"), (b"b", b"1"))
        topic.fill((b"a", b"2"), (b"b", b"2"))
        topic.append((b"a", b"3"))
        directory = topic.partition.log.directory
        topic.tidy()
        for _ in range(steps):
            topic.node.work()
        ended = topic.compactor._pass is None
        topics = topic.node.node.topics
        topics.delete(topics.topic("/", "latest"))
        topic.node.finish()
        assert not [path for path in topic.node.files.paths() if path.startswith(f"{directory}/")]
        assert topic.compactor._pass is None
        topic.node.abandon()
        if ended:
            break
    assert steps > 3


@pytest.mark.parametrize("joins", [True, False])
def test_retention_takes_segments_away_during_a_pass(joins):
    for steps in count():
        topic = CompactedTopic(joins=joins)
        topic.fill((b"a", b"1"))
        topic.fill((b"b", b"1"))
        topic.fill((b"a", b"2"))
        topic.roll()
        topic.tidy()
        for _ in range(steps):
            topic.node.work()
        ended = topic.compactor._pass is None
        topic.partition.move_start(2)
        topic.node.finish()
        topic.tidy()
        topic.node.finish()
        assert latest(topic.stored()) == latest(topic.appended[2:])
        if not joins:
            assert topic.partition.log.segments[0].base_offset == 2
        topic.node.abandon()
        if ended:
            break


def test_a_full_disk_is_waited_for(caplog):
    topic = CompactedTopic()
    topic.fill((b"a", b"1"), (b"b", b"1"))
    topic.fill((b"a", b"2"))
    topic.roll()
    files = topic.node.files

    def full(step: str, path: str) -> DiskFull | None:
        return DiskFull(f"{path}: No space left on device") if path.endswith(".rewrite") else None

    files.fail = full
    assert topic.compact() == 0
    topic.check()
    assert topic.files(".rewrite") == []
    assert "is not compacted for now: " in caplog.text
    assert not topic.node.node.flusher.disk_full
    files.fail = lambda step, path: None
    assert topic.compact() == 0  # not at once
    topic.pass_time(60_000)
    assert topic.compact() == 3
    topic.check()


@pytest.mark.parametrize("joins", [True, False])
@pytest.mark.parametrize("then", ["go on", "crash"])
def test_a_full_disk_at_any_step_of_a_pass(joins, then):
    """Nothing is left half done, whether there is room some time later or the power fails before."""
    for at in count():
        topic = scene(joins=joins)
        topic.tidy()
        files = topic.node.files
        steps = count()

        def full(step: str, path: str, at: int = at, steps: Iterator[int] = steps) -> DiskFull | None:
            changes = step in ("write", "rename", "make_directory")
            return DiskFull(f"{path}: No space left on device") if changes and next(steps) == at else None

        files.fail = full
        topic.node.commit()
        assert topic.compactor._pass is None
        ended = next(steps) <= at
        files.fail = lambda step, path: None
        assert latest(topic.stored()) == latest(topic.appended)
        assert topic.compacted_to == (9 if ended else 0)
        if then == "crash":
            topic.crash(at)
        assert latest(topic.stored()) == latest(topic.appended)
        topic.pass_time(60_000)
        topic.tidy()
        topic.node.commit()
        assert topic.compacted_to == 9
        assert topic.files(".rewrite") == topic.files(".joined") == []
        topic.twin.compact(9, topic.node.clock.now)
        topic.restart().check()
        topic.node.abandon()
        if ended:
            break
    assert at >= 4


def test_a_damaged_segment_ends_it(caplog):
    """What cannot be read may have what a tombstone in a later segment deletes."""
    topic = CompactedTopic()
    topic.append((b"a", b"1" * 50))
    topic.fill((b"b", b"2" * 50))
    topic.fill((b"a", None), (b"b", b"3"))
    topic.roll()
    path = topic.partition.log.segments[0].path(".log")
    topic.node.files.put(path, topic.node.files.octets(path).replace(b"111", b"112"))
    topic.node.node._reader.close()
    assert topic.compact() == 0
    assert "is not compacted: " in caplog.text
    assert [segment.damage != [] for segment in topic.partition.log.segments] == [True, False, False]
    topic.tidy()
    assert topic.compactor._pass is None
    assert [each.offset for each in topic.stored()] == [1, 2, 3, 4]


def test_what_the_disk_does_not_give_is_left_alone(caplog):
    """A background work is no reason to stop; a consumer that reads there is."""
    topic = CompactedTopic()
    topic.fill((b"a", b"1"))
    topic.fill((b"a", b"2"))
    topic.roll()
    path = topic.partition.log.segments[0].path(".log")
    octets = topic.node.files.octets(path)
    topic.node.files.remove(path)
    topic.node.node._reader.close()
    assert topic.compact() == 0
    assert "is not compacted, as it cannot be read: " in caplog.text
    topic.tidy()
    assert topic.compactor._pass is None
    topic.node.files.put(path, octets)
    topic.kill()
    assert topic.compact() == 2
    topic.check()


# ---- crashes ----


def crashes(play: Callable[[], CompactedTopic], seeds: range) -> Iterator[tuple[CompactedTopic, bool]]:
    """The next process, for a loss of power at each step of what the scene has begun; and whether it had ended."""
    for after in count():
        for seed in seeds:
            topic = play()
            ended = lose_power(topic, after)
            yield topic.crash(seed), ended
            topic.node.abandon()
        if ended:
            return


def lose_power(topic: CompactedTopic, after: int) -> bool:
    """Go on with the pass that was begun, but only so many steps; whether it came to its end."""
    files = topic.node.files
    files.power_fails_after = files.steps + after
    try:
        while topic.compactor._pass is not None:
            topic.node.work()
    except PowerFailed:
        return False
    return True


def scene(**configs: Any) -> CompactedTopic:
    """Three sealed segments: one of which nothing, one of which something, and one of which all stays."""
    topic = CompactedTopic(**configs)
    topic.fill((b"a", b"1"), (b"b", b"1"), (b"c", b"1"))
    topic.fill((b"a", b"2"), (b"b", None), (b"c", b"2"))
    topic.fill((b"a", b"3"), (b"d", b"1"), (b"last", b""))
    topic.append((b"e", b"1"))
    return topic


def test_a_crash_at_any_step_of_a_pass_that_joins():
    """All three become one: what it had before, or what it has behind that, and never both."""

    def play() -> CompactedTopic:
        topic = scene(joins=True)
        topic.tidy()
        return topic

    assert {*crash_at_any_step(play)} == {10, 6}


def test_a_crash_in_recovery_from_a_crash_in_a_pass_that_joins():
    """And once more, and in another pass that joins what was joined."""

    def crashed(seed: int) -> Iterator[CompactedTopic]:
        for after in count():
            topic = scene(joins=True)
            topic.tidy()
            ended = lose_power(topic, after)
            topic.node.abandon()
            for again in range(12):
                files = topic.node.files.crash(seed)
                files.power_fails_after = files.steps + again
                with suppress(PowerFailed):
                    SteppedNode(files, topic.node.definitions, now_ms=topic.node.clock.now).abandon()
                topic._became(
                    SteppedNode(files.crash(seed + 1), topic.node.definitions, now_ms=topic.node.clock.now)
                )
                yield topic
                topic.node.abandon()
            if ended:
                return

    for seed in range(3):
        for topic in crashed(seed):
            found = topic.stored()
            assert len(found) in (10, 6)
            assert latest(found) == latest(topic.appended)


def test_a_crash_at_any_step_of_a_pass():
    """Of which the first two segments' steps change something, or the last one's."""

    def first() -> CompactedTopic:
        topic = scene()
        topic.tidy()
        return topic

    def last() -> CompactedTopic:
        topic = CompactedTopic()
        topic.fill((b"a", b"1"))
        topic.fill((b"b", b"1"), *((b"c", b"%d" % number) for number in range(7)))
        topic.append((b"e", b"1"))
        topic.tidy()
        return topic

    assert {*crash_at_any_step(first)} == {10, 7, 6}
    assert {*crash_at_any_step(last)} == {10, 4}


def crash_at_any_step(play: Callable[[], CompactedTopic]) -> Iterator[int]:
    """How many records there are after each."""
    for topic, ended in crashes(play, range(6)):
        found = topic.stored()
        yield len(found)
        assert latest(found) == latest(topic.appended)
        assert set(map(repr, found)) <= set(map(repr, topic.appended))
        assert topic.compacted_to in ((9,) if ended else (0, 9))
        assert topic.files(".rewrite") == []
        topic.tidy()
        topic.node.commit()
        assert topic.compacted_to == 9
        topic.twin.compact(9, topic.node.clock.now)
        topic.check()
        topic.restart().check()


@pytest.mark.parametrize("joins", [True, False])
def test_what_was_deleted_does_not_come_back_when_the_tombstone_has_gone(joins):
    """The first pass is cut short, and so is the next, which lets tombstones go that the first has marked."""

    def first() -> CompactedTopic:
        topic = CompactedTopic(joins=joins, delete_retention_ms=0)
        topic.fill((b"a", b"1"), (b"b", b"1"))
        topic.fill((b"a", None), (b"c", b"1"))
        topic.append((b"b", b"2"))
        topic.tidy()
        return topic

    ended = False
    for number in count():
        if ended:
            break
        after, seed = number, number % 4

        def second(after: int = after, seed: int = seed) -> CompactedTopic:
            nonlocal ended
            topic = first()
            ended = lose_power(topic, after)
            topic.crash(seed)
            topic.roll()
            topic.tidy()
            return topic

        for topic, _ in crashes(second, range(seed, seed + 1)):
            assert latest(topic.stored()) == latest(topic.appended)
            for _ in range(3):
                topic.roll()
                topic.tidy()
                topic.node.commit()
            assert latest(topic.stored()) == latest(topic.appended)
            assert b"a" not in [each.key for each in topic.stored()]


@pytest.mark.parametrize("joins", [True, False])
def test_killed_at_any_step_of_a_pass_and_then_the_power_fails(joins):
    steps = 0
    while True:
        topic = scene(joins=joins, delete_retention_ms=0)
        topic.tidy()
        for _ in range(steps):
            topic.node.work()
        ended = topic.compactor._pass is None
        topic.kill()
        topic.tidy()
        topic.node.work()
        topic.crash(steps)
        assert latest(topic.stored()) == latest(topic.appended)
        topic.node.abandon()
        if ended:
            break
        steps += 1
    assert steps > (3 if joins else 5)
