"""Compaction: what a pass leaves, whatever happens to the process, and what everybody sees of it meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.kafka import records
from broker.kafka.compression import Codec
from broker.model.topic import OFFSETS_TOPIC
from broker.storage.errors import DiskFull
from compacted_topic import CompactedTopic, latest
from fakes import PowerFailed

DAY_MS = 86_400_000


def keys_of(topic: CompactedTopic) -> list[tuple[int, bytes | None]]:
    return [(each.offset, each.key) for each in topic.stored()]


# ---- a pass ----


def test_of_each_key_the_last_record_stays_where_it_was():
    topic = CompactedTopic()
    topic.fill((b"a", b"1"), (b"b", b"1"), (b"a", b"2"))
    topic.fill((b"c", b"1"), (b"b", b"2"))
    topic.append((b"a", b"3"))
    assert topic.compact() == 5
    topic.check()

    # The last segment is as it was, though it has a newer value of a key of the others.
    assert keys_of(topic) == [(2, b"a"), (3, b"c"), (4, b"b"), (5, b"a")]


def test_nothing_is_done_where_there_is_nothing_to_do():
    topic = CompactedTopic()
    topic.append((b"a", b"1"))
    topic.append((b"a", b"2"))
    assert topic.compact() == 0  # there is the last segment alone
    topic.roll()
    assert topic.compact() == 2
    steps = topic.node.files.steps
    topic.compact()
    assert topic.node.files.steps == steps
    topic.check()


def test_a_segment_in_which_nothing_is_out_of_date_is_not_written():
    topic = CompactedTopic()
    topic.fill((b"a", b"1"))
    topic.fill((b"b", b"1"), (b"c", b"1"))
    topic.fill((b"b", b"2"))
    topic.roll()
    topic.node.files.log.clear()
    topic.compact()
    topic.check()
    renamed = [path for step, path in topic.node.files.log if step == "rename"]
    assert [path.rpartition("/")[2] for path in renamed] == [f"{1:020d}.log"]


def test_a_segment_of_which_nothing_is_left_goes_and_the_start_stays():
    topic = CompactedTopic()
    topic.fill((b"a", b"1"), (b"b", b"1"))
    topic.fill((b"a", b"2"), (b"b", b"2"))
    topic.append((b"a", b"3"))
    bases = [segment.base_offset for segment in topic.partition.log.segments]
    topic.compact()
    topic.check()
    assert [segment.base_offset for segment in topic.partition.log.segments] == bases[1:]
    assert topic.files(".log") == [f"{base:020d}.log" for base in bases[1:]]
    for again in (topic, topic.kill(), topic.restart()):
        assert again.partition.start_offset == 0
        again.check()


def test_where_the_partition_begins_is_not_forgotten_with_an_empty_segment():
    topic = CompactedTopic()
    topic.fill((b"x", b"1"), (b"x", b"2"))
    topic.fill((b"a", b"1"))
    topic.partition.move_start(2)  # it is noted beside the last segment
    del topic.twin.records[:2]
    topic.node.finish()
    topic.fill((b"a", b"2"))
    topic.append((b"b", b"2"))
    topic.compact()
    topic.check()
    assert any(segment.size == 0 for segment in topic.partition.log.segments)
    for again in (topic.kill(), topic.restart()):
        assert again.partition.start_offset == 2
        again.check()


@pytest.mark.parametrize("codec", list(Codec))
def test_batches_stay_deflated_as_they_were(codec):
    topic = CompactedTopic()
    values = [bytes([number]) * 100 for number in range(3)]
    topic.append((b"a", values[0]), (b"b", values[1]), codec=codec)
    topic.append((b"c", values[2]), codec=codec)
    topic.fill((b"b", values[0]), (b"d", None), codec=codec)
    topic.roll()
    topic.compact()
    topic.check()
    assert [header.codec for header in topic.headers()][:3] == [codec] * 3
    assert [header.count for header in topic.headers()][:3] == [1, 1, 2]
    topic.restart().check()


def test_records_without_a_key_go():
    """The topic was not always compacted."""
    topic = CompactedTopic()
    topic.fill((None, b"1"), (b"a", b"1"), (None, b"2"))
    topic.append((None, b"3"))
    topic.compact()
    topic.check()
    assert keys_of(topic) == [(1, b"a"), (3, None)]


def test_what_cannot_be_opened_stays(caplog):
    """Nobody had looked into it before the topic was compacted."""
    topic = CompactedTopic()
    topic.append((b"a", b"1"))
    octets = bytearray(records.build([records.Record(0, 0, b"a", b"garbage")]))
    octets[-1] = 5
    octets = records.sealed(records.read_header(octets), bytes(octets[61:]))[:61] + octets[61:]
    garbage = records.sealed(records.read_header(octets), b"\x7f" + bytes(octets[62:]))
    topic.partition.append(records.read_header(garbage), garbage)
    topic.append((b"a", b"2"))
    topic.roll()
    topic.tidy()
    topic.node.commit()
    headers = topic.headers()
    assert [(header.base_offset, header.count) for header in headers] == [(1, 1), (2, 1), (3, 1)]
    assert (
        "1 batches cannot be opened and stay as they are, the first at offset 1: a record of" in caplog.text
    )


def test_times_are_found_where_they_still_are():
    topic = CompactedTopic()
    start = topic.node.clock.now
    for number in range(4):
        topic.append((b"a", b"%d" % number), (b"%d" % number, b""))
        topic.pass_time(1000)
    topic.roll()
    topic.compact()
    topic.check()
    assert keys_of(topic) == [(1, b"0"), (3, b"1"), (5, b"2"), (6, b"a"), (7, b"3"), (8, b"last")]
    found = [
        topic.partition.offset_of_time(start + ms).offset for ms in (0, 1, 2, 1000, 1001, 3000, 3001, 3002)
    ]
    assert found == [1, 1, 3, 3, 3, 6, 7, 8]
    assert topic.partition.offset_of_time(start + DAY_MS) is None


def test_a_read_at_an_offset_that_is_gone_goes_on_behind_it():
    topic = CompactedTopic()
    topic.append((b"a", b"1"), (b"b", b"1"))
    topic.append((b"c", b"1"))
    topic.fill((b"a", b"2"))
    topic.fill((b"b", b"1"))
    topic.fill((b"a", b"3"), (b"b", b"2"))
    topic.append((b"d", b"1"))
    topic.compact()
    assert keys_of(topic) == [(2, b"c"), (5, b"a"), (6, b"b"), (7, b"d")]
    for again in (topic, topic.kill()):
        partition = again.partition
        first = [
            next(iter(records.iterate(partition.read(offset, 1)))).offset
            for offset in range(partition.high_watermark)
        ]
        assert first == [2, 2, 2, 5, 5, 5, 5, 7]
        assert partition.read(partition.high_watermark, 1) == b""


def test_what_memory_still_has_is_not_handed_out():
    """The newest batches are kept there; these are the newest, and in a sealed segment."""
    topic = CompactedTopic()
    topic.append((b"a", b"1"))
    topic.append((b"a", b"2"))
    topic.roll()
    assert [each.key for each in topic.stored()] == [b"a", b"a", b"last"]
    topic.compact()
    topic.check()


# ---- tombstones ----


def test_a_tombstone_stays_until_its_horizon_and_goes_with_the_next_pass():
    topic = CompactedTopic(delete_retention_ms=DAY_MS)
    topic.fill((b"a", b"1"), (b"b", b"1"))
    topic.fill((b"a", None))
    topic.roll()
    topic.compact()
    topic.check()
    stamped = [header.delete_horizon_ms for header in topic.headers()]
    assert topic.node.clock.now + DAY_MS in stamped

    topic.pass_time(DAY_MS - 1)
    topic.roll()
    topic.compact()
    topic.check()
    assert (b"a", None) in [(each.key, each.value) for each in topic.stored()]

    topic.pass_time(1)
    topic.roll()
    topic.compact()
    topic.check()
    assert b"a" not in [each.key for each in topic.stored()]
    topic.restart().check()


def test_a_horizon_is_that_of_the_first_pass_over_restarts():
    topic = CompactedTopic(delete_retention_ms=DAY_MS)
    topic.fill((b"a", None))
    topic.roll()
    topic.compact()
    topic.restart()
    topic.pass_time(DAY_MS)
    topic.append((b"b", None))
    topic.roll()
    topic.compact()
    topic.check()
    assert keys_of(topic) == [(1, b"last"), (2, b"b"), (3, b"last")]


def test_a_horizon_that_never_comes():
    topic = CompactedTopic(delete_retention_ms=(1 << 63) - 1)
    topic.fill((b"a", None))
    topic.roll()
    topic.compact()
    assert (1 << 63) - 1 in [header.delete_horizon_ms for header in topic.headers()]
    topic.check()


def test_a_tombstone_that_the_map_has_no_room_for_gets_no_horizon():
    """What it deletes may still be there when the horizon has come."""
    topic = CompactedTopic(delete_retention_ms=0)
    topic.compactor.keys_max = 2
    topic.append((b"a", b"1"))
    topic.append((b"b", b"1"))
    topic.fill((b"a", None))
    topic.roll()
    assert topic.compact() == 2
    topic.check()
    assert [header.delete_horizon_ms for header in topic.headers()] == [None] * 4
    assert topic.compact() == 3
    topic.check()
    assert keys_of(topic) == [(1, b"b"), (2, b"a"), (3, b"last")]


# ---- what is due ----


def test_a_pass_waits_for_enough_that_is_dirty():
    topic = CompactedTopic(min_cleanable_dirty_ratio=0.5)
    topic.fill(*((b"%d" % number, b"x" * 20) for number in range(10)))
    topic.fill((b"1", b"x" * 20), (b"2", b"x" * 20))
    assert topic.compact() == 10  # all of it was dirty
    topic.fill(*((b"%d" % number, b"y" * 20) for number in range(8)))
    assert topic.compact() == 10
    topic.roll()
    assert topic.compact() == 20
    topic.check()


def test_what_is_young_is_not_compacted():
    topic = CompactedTopic(min_compaction_lag_ms=1000)
    topic.fill((b"a", b"1"))
    topic.pass_time(500)
    topic.fill((b"a", b"2"))
    topic.roll()
    assert topic.compact() == 0
    topic.pass_time(500)
    assert topic.compact() == 1
    topic.pass_time(500)
    assert topic.compact() == 2
    topic.check()


def test_what_is_dirty_for_too_long_is_compacted_whatever_the_ratio():
    topic = CompactedTopic(min_cleanable_dirty_ratio=1, max_compaction_lag_ms=10_000)
    topic.fill((b"a", b"1"), (b"a", b"2"))
    topic.append((b"a", b"3"))
    topic.pass_time(10_001)
    assert topic.compact() == 0  # the largest time of the first batch is a millisecond later
    topic.pass_time(1)
    assert topic.compact() == 2
    topic.check()
    topic.append((b"a", b"4"))  # the last segment was begun too long ago for this
    assert topic.compact() == 3
    topic.check()


def test_the_dirtiest_comes_first_and_each_in_its_turn():
    topic = CompactedTopic(min_cleanable_dirty_ratio=0.1)
    topics = topic.node.node.topics
    other = topics.create("/", "other", 1, configs=topic.configs).partitions[0]
    topic.fill((b"a", b"x" * 100))
    topic.fill((b"a", b"x"))
    topic.compact()
    topic.roll()
    for value in (b"1", b"2", b"3"):
        octets = records.build([records.Record(0, topic.node.clock.now, b"a", value)])
        other.log.roll_due = True
        other.append(records.read_header(octets), octets)
        topic.node.commit()
    topic.tidy()
    assert topic.compactor._pass.partition is other
    topic.node.commit()
    topic.twin.compact(topic.compacted_to, topic.node.clock.now)
    topic.check()
    assert other.log.segments[0].base_offset == 1


@pytest.mark.parametrize("policy", ["compact,delete", "delete,compact"])
def test_what_is_compacted_can_get_too_old_as_well(policy):
    topic = CompactedTopic(cleanup_policy=policy, retention_ms=DAY_MS)
    topic.fill((b"a", b"1"), (b"b", b"1"))
    topic.fill((b"a", b"2"), (b"c", b"1"))
    topic.roll()
    topic.compact()
    topic.check()
    topic.pass_time(DAY_MS + 1000)
    topic.append((b"d", b"1"))
    topic.roll()
    topic.tidy()
    topic.node.finish()
    for again in (topic, topic.restart()):
        assert again.partition.start_offset == 4
        assert keys_of(again) == [(4, b"last"), (5, b"d"), (6, b"last")]


def test_other_topics_are_left_alone():
    """The groups' log is said to be compacted, and the groups do it themselves."""
    topic = CompactedTopic(cleanup_policy="delete")
    topic.fill((b"a", b"1"), (b"a", b"2"))
    topic.roll()
    topics = topic.node.node.topics
    groups = topics.create(
        "/", OFFSETS_TOPIC, 1, configs=topic.configs | {"cleanup.policy": "compact"}, internal=True
    )
    for _ in range(3):
        octets = records.build([records.Record(0, topic.node.clock.now, b"a", b"1")])
        groups.partitions[0].log.roll_due = True
        groups.partitions[0].append(records.read_header(octets), octets)
        topic.node.commit()
    topic.tidy()
    assert topic.compactor._pass is None
    topic.node.commit()
    assert topic.compacted_to == 0
    assert len(groups.partitions[0].log.segments) == 3
    topic.check()

    topics.configure(
        topics.topic("/", "latest"), {"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0"}
    )
    assert topic.compact() == 2
    topic.check()


# ---- the map has limits ----


@pytest.mark.parametrize("keys_max", [1, 2, 3, 5])
def test_what_the_map_has_no_room_for_is_for_the_next_pass(keys_max):
    topic = CompactedTopic()
    topic.compactor.keys_max = keys_max
    for number in range(12):
        topic.append((b"%d" % (number % 4), b"1"), (b"%d" % (number * 7 % 5), b"2"))
    topic.roll()
    ends = [topic.compact()]
    topic.check()
    while topic.compact() != ends[-1]:
        ends.append(topic.compacted_to)
        topic.check()
    assert ends[-1] == 24
    assert len(ends) > 24 // 2 // (keys_max + 1)


def test_a_batch_with_more_keys_than_the_map_has_room_for():
    topic = CompactedTopic()
    topic.compactor.keys_max = 3
    many = [(b"%d" % number, b"1") for number in range(10)]
    topic.append(*many)
    topic.fill(*many)
    topic.roll()
    ends = [topic.compact(), topic.compact()]
    topic.check()
    assert ends == [10, 20]


@given(st.lists(st.binary(min_size=12, max_size=20), max_size=60), st.integers(1, 40))
@settings(max_examples=30, deadline=None)
def test_long_keys_are_told_apart(found, keys_max):
    topic = CompactedTopic()
    topic.compactor.keys_max = keys_max
    for key in found:
        topic.append((key, b"v"), (b"\0" * 15, b"short"), (b"\0" * 16, b"long"))
    topic.roll()
    for _ in range(len(found)):
        topic.compact()
    topic.check()


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
    topic.pass_time(DAY_MS)
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


def test_a_pass_in_progress_does_not_hold_up_the_end():
    topic = CompactedTopic()
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


def test_readers_see_the_same_at_every_step():
    topic = CompactedTopic()
    for number in range(5):
        topic.fill((b"a", b"%d" % number), (b"b", b"1"), (b"%d" % number, None))
    topic.tidy()
    while topic.compactor._pass is not None:
        for size_max in (1, 1 << 20):
            assert latest(topic.stored(size_max)) == latest(topic.appended)
        topic.node.work()
    topic.twin.compact(topic.compacted_to, topic.node.clock.now)
    topic.check()


def test_a_topic_that_is_deleted_during_a_pass():
    for steps in count():
        topic = CompactedTopic()
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


def test_retention_takes_segments_away_during_a_pass():
    for steps in count():
        topic = CompactedTopic()
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


def scene(**configs: object) -> CompactedTopic:
    """Three sealed segments: one of which nothing, one of which something, and one of which all stays."""
    topic = CompactedTopic(**configs)
    topic.fill((b"a", b"1"), (b"b", b"1"), (b"c", b"1"))
    topic.fill((b"a", b"2"), (b"b", None), (b"c", b"2"))
    topic.fill((b"a", b"3"), (b"d", b"1"), (b"last", b""))
    topic.append((b"e", b"1"))
    return topic


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


def test_what_was_deleted_does_not_come_back_when_the_tombstone_has_gone():
    """The first pass is cut short, and so is the next, which lets tombstones go that the first has marked."""

    def first() -> CompactedTopic:
        topic = CompactedTopic(delete_retention_ms=0)
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


def test_killed_at_any_step_of_a_pass_and_then_the_power_fails():
    steps = 0
    while True:
        topic = scene(delete_retention_ms=0)
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
    assert steps > 5


# ---- anything in any order ----

keys = st.sampled_from([b"a", b"b", b"c", b"a key that is longer than a hash", b""]) | st.none()
values = st.none() | st.binary(max_size=60)
appends = st.tuples(
    st.just("append"),
    st.lists(st.tuples(keys, values), min_size=1, max_size=5),
    st.sampled_from(list(Codec)),
    st.sampled_from([None, None, 1, 2]),
)
happenings = (
    appends
    | appends
    | st.tuples(st.sampled_from(["compact", "compact", "roll", "restart", "kill"]))
    | st.tuples(st.just("pass time"), st.sampled_from([1, 500, 1000, 5000]))
)


@given(st.lists(happenings, max_size=40), st.sampled_from([2, 4, 1000]), st.sampled_from([0, 1000, DAY_MS]))
@settings(max_examples=150, deadline=None)
def test_a_partition_and_its_naive_twin(happened, keys_max, retention_ms):
    topic = CompactedTopic(delete_retention_ms=retention_ms)
    sequences = {1: 0, 2: 0}
    for what, *how in happened:
        topic.compactor.keys_max = keys_max
        if what == "append":
            pairs, codec, producer = how
            ids = None if producer is None else (producer, sequences[producer])
            topic.append(*pairs, codec=codec, producer=ids)
            if producer is not None:
                sequences[producer] += len(pairs)
        elif what == "pass time":
            topic.pass_time(*how)
        else:
            getattr(topic, what)()
            if what in ("restart", "kill"):
                known = {
                    each.producer_id: each.last_sequence + 1 for each in topic.partition.producers.describe()
                }
                assert known == {id: sequence for id, sequence in sequences.items() if sequence}
        topic.check()
    for again in (topic, topic.kill()):
        again.check()
        again.roll()
        assert again.compact() <= again.partition.log.segments[-1].base_offset
        again.check()
    topic.node.abandon()
