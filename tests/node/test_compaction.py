"""Compaction: what a pass leaves, whatever happens to the process, and what everybody sees of it meanwhile."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.kafka import records
from broker.kafka.compression import Codec
from broker.model.topic import OFFSETS_TOPIC
from compacted_topic import CompactedTopic

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


def test_what_is_very_large_inflated_stays(caplog):
    """As such a batch is refused by a topic that is compacted, it is from before that."""
    topic = CompactedTopic()
    topic.append((b"a", bytes(20_000_000)), codec=4)
    topic.fill((b"a", b"1"), (b"b", b"1"))
    topic.roll()
    topic.tidy()
    topic.node.commit()
    assert next(header.base_offset for header in topic.headers()) == 0
    assert "batches cannot be opened and stay as they are, the first at offset 0" in caplog.text
    topic.node.abandon()


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


def test_nobody_can_say_for_how_long_records_without_a_time_are_dirty():
    topic = CompactedTopic(min_cleanable_dirty_ratio=1, max_compaction_lag_ms=10_000)
    octets = records.build([records.Record(0, -1, b"a", b"1")])
    topic.partition.append(records.read_header(octets), octets)
    topic.node.commit()
    topic.roll()
    topic.pass_time(DAY_MS)
    topic.tidy()
    assert topic.compactor._pass is None


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
    assert [segment.records for segment in other.log.segments] == [1, 1]


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


@given(st.lists(st.binary(min_size=36, max_size=44), max_size=60), st.integers(1, 40))
@settings(max_examples=30, deadline=None)
def test_long_keys_are_told_apart(found, keys_max):
    topic = CompactedTopic()
    topic.compactor.keys_max = keys_max
    for key in found:
        topic.append((key, b"v"), (b"\0" * 39, b"short"), (b"\0" * 40, b"long"))
    topic.roll()
    for _ in range(len(found)):
        topic.compact()
    topic.check()


# ---- joining ----


def test_small_neighbours_become_one_of_a_segments_size():
    topic = CompactedTopic(joins=True)
    for number in range(20):
        topic.fill((b"key %d" % number, b"x" * 30), (b"again", b"%d" % number))
    topic.roll()
    assert len(topic.partition.log.segments) == 21
    topic.compact()
    topic.check()
    assert len(topic.partition.log.segments) == 6  # four have room in one
    for _ in range(3):
        topic.roll()
        topic.compact()
        topic.check()
    sizes = [segment.size for segment in topic.partition.log.segments[:-1]]
    assert max(sizes) <= 500
    assert not [1 for one, other in itertools.pairwise(sizes) if one + other < 250]
    assert [name.partition(".")[2] for name in topic.files("")].count("joined") == 0
    segments = [(each.base_offset, each.next_offset, each.size) for each in topic.partition.log.segments]
    for again in (topic.kill(), topic.restart()):
        again.check()
        assert [
            (each.base_offset, each.next_offset, each.size) for each in topic.partition.log.segments
        ] == segments


def test_a_join_spans_more_offsets_than_a_segment_that_is_written():
    topic = CompactedTopic(joins=True)
    topic.append((b"a", b"1"))
    topic.partition.next_offset += 3 << 20  # what was there is gone
    topic.fill((b"b", b"1"))
    topic.partition.next_offset += 3 << 20
    topic.fill((b"c", b"1"))
    topic.append((b"d", b"1"))
    topic.compact()
    assert len(topic.partition.log.segments) == 2
    for name in topic.files(".index"):
        topic.node.files.remove(f"{topic.partition.log.directory}/{name}")
    topic.kill()
    topic.check()
    path = topic.partition.log.segments[0].path(".log")
    octets = topic.node.files.octets(path)
    topic.node.files.put(path, octets.replace(b"b", b"B"))
    topic.node.node._reader.close()
    assert len(topic.partition.batches(0, 1)) == 1
    assert len(topic.partition.batches(1, 1)) == 1
    assert [each.key for each in topic.stored()] == [b"a", b"c", b"d"]
    assert not topic.partition.log.segments[0].settled._beyond  # what is lost costs nothing


def test_where_the_partition_begins_is_not_joined_away():
    topic = CompactedTopic(joins=True)
    topic.fill((b"x", b"1"), (b"y", b"1"))
    topic.fill((b"x", b"2"))
    topic.partition.move_start(1)  # it is noted beside the second segment
    del topic.twin.records[0]
    topic.node.finish()
    topic.fill((b"a", b"2"))
    topic.append((b"b", b"2"))
    topic.compact()
    assert len(topic.partition.log.segments) == 3
    for again in (topic, topic.kill(), topic.restart()):
        assert again.partition.start_offset == 1
        again.check()


# ---- anything in any order ----

keys = (
    st.sampled_from([b"a", b"b", b"c", b"a key that is longer than the hash that is kept of it", b""])
    | st.none()
)
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


@given(
    st.lists(happenings, max_size=40),
    st.sampled_from([2, 4, 1000]),
    st.sampled_from([0, 1000, DAY_MS]),
    st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_a_partition_and_its_naive_twin(happened, keys_max, retention_ms, joins):
    topic = CompactedTopic(joins=joins, delete_retention_ms=retention_ms)
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
