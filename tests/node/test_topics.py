"""Topics of a node: made, changed, deleted and made again, over restarts and crashes at every step."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import trio

from broker.kafka import records
from broker.model.errors import (
    AlreadyExists,
    InvalidConfig,
    InvalidPartitions,
    InvalidReplicas,
    InvalidTopicName,
    NotAllowed,
    NotFound,
    UnknownTopic,
)
from broker.model.topic import OFFSETS_TOPIC
from broker.node.partition import Partition
from broker.node.portions import Portions
from broker.node.topics import Topic, Topics
from stepped_node import SteppedNode
from topic_records import append_octets, record

SEEDS = range(6)


@pytest.fixture
def under() -> Iterator[SteppedNode]:
    node = SteppedNode(segment_size_max=400)
    yield node
    node.abandon()


def topics_of(node: SteppedNode) -> Topics:
    return node.node.topics


def topic(node: SteppedNode, name: str = "orders") -> Topic:
    return topics_of(node).topic("/", name)


def add_partitions(node: SteppedNode, topic: Topic, count: int) -> None:
    trio.run(topics_of(node).add_partitions, Portions(2), topic, count)


def fill(node: SteppedNode, *partitions: Partition, count: int = 1) -> None:
    for number in range(count):
        for partition in partitions:
            append_octets(partition, records.build([record(b"%d" % number, node.clock.now)]))
        node.commit()


def values_of(partition: Partition) -> list[bytes | None]:
    found = []
    offset = partition.start_offset
    while some := partition.batches(offset, 1000):
        for octets in some:
            found += [one.value for one in records.iterate(octets)]
            offset += records.read_header(octets).count
    return found


def folders(node: SteppedNode) -> set[str]:
    return set(node.files.names("/data/partitions"))


# ---- made and changed ----


def test_a_topic_is_found_by_its_name_and_its_id(under):
    made = under.create("orders", 3)
    assert topic(under) is topics_of(under).by_id(made.id) is made
    assert topics_of(under).find("/", "orders") is made
    assert topics_of(under).topics() == topics_of(under).topics("/") == [made]
    assert topics_of(under).topics("elsewhere") == []
    assert len(made.id) == 16
    assert [one.name for one in made.partitions] == [f"'/'/orders-{number}" for number in range(3)]
    with pytest.raises(UnknownTopic):
        topics_of(under).topic("/", "order")
    for number in (-1, 3):
        with pytest.raises(UnknownTopic):
            made.partition(number)


@pytest.mark.parametrize(
    ("error", "given"),
    [
        (InvalidTopicName, {"name": "a/b"}),
        (InvalidTopicName, {"name": OFFSETS_TOPIC}),
        (AlreadyExists, {"name": "orders"}),
        (AlreadyExists, {"name": "queue"}),
        (InvalidPartitions, {"partitions": 0}),
        (InvalidPartitions, {"partitions": 30_000}),
        (InvalidReplicas, {"replicas": 2}),
        (InvalidConfig, {"configs": {"no.such": "1"}}),
        (NotFound, {"vhost": "elsewhere"}),
    ],
)
def test_what_cannot_be_made_leaves_nothing(under, error, given):
    under.create("orders")
    under.declare("queue")
    under.commit()
    before = dict(under.definitions.values)
    given = {"vhost": "/", "name": "other", "partitions": 1, **given}
    with pytest.raises(error):
        topics_of(under).create(**given)
    under.commit()
    assert under.definitions.values == before
    assert topics_of(under).partition_count == 1


def test_a_topic_comes_back_as_it_was(under):
    made = under.create("orders", 2, retention_ms="1000", flush="os")
    add_partitions(under, made, 3)
    topics_of(under).configure(made, {"retention.ms": "2000"})
    fill(under, made.partition(0), count=2)
    fill(under, made.partition(2))
    for again in (under.kill(), under._following.close()):
        found = topic(again)
        assert (found.id, found.configs) == (made.id, {"retention.ms": "2000"})
        assert found.settings.syncs
        assert [one.high_watermark for one in found.partitions] == [2, 0, 1]
        assert topics_of(again).partition_count == 3
    with pytest.raises(InvalidPartitions):
        add_partitions(again, found, 3)


def test_what_is_configured_holds_for_every_partition_at_once(under):
    made = under.create("orders", 2, flush="os")
    assert [one.log.syncs for one in made.partitions] == [False, False]
    with pytest.raises(InvalidConfig):
        topics_of(under).configure(made, {"flush": "os", "retention.ms": "soon"})
    assert made.configs == {"flush": "os"}
    topics_of(under).configure(made, {"message.timestamp.type": "LogAppendTime"})
    assert [one.log.syncs for one in made.partitions] == [True, True]
    assert all(one.settings is made.settings for one in made.partitions)


def test_records_get_the_brokers_time_if_the_topic_says_so(under):
    partition = under.create("orders", message_timestamp_type="LogAppendTime").partition(0)
    octets = records.build([record(b"a", 5)], producer_id=1, producer_epoch=0, base_sequence=0)
    header = records.read_header(octets)
    appended = partition.append(header, octets)
    assert appended.log_append_time == under.clock.now
    under.commit()
    (found,) = records.iterate(partition.read(0, 1))
    assert found.timestamp == under.clock.now
    records.check(octets, 1000)
    under.clock.now += 5
    assert partition.append(header, octets) == (0, under.clock.now - 5, under.node.flusher.open)
    again = under.close()
    again.clock.now += 5
    assert again.partition("orders").append(header, octets).log_append_time == under.clock.now - 5


def test_many_partitions_are_one_limit(under):
    under.node.topics._partitions_max = 5
    made = under.create("orders", 3)
    with pytest.raises(InvalidPartitions):
        under.create("others", 3)
    with pytest.raises(InvalidPartitions):
        add_partitions(under, made, 6)
    add_partitions(under, made, 5)
    topics_of(under).delete(made)
    under.create("others", 5)


def test_the_more_partitions_there_are_the_less_of_each_is_in_memory(under, monkeypatch):
    monkeypatch.setattr("broker.node.tail._TAILS_SIZE", 1000)
    made = under.create("orders")
    others = under.create("others", 3)
    fill(under, made.partition(0), count=20)
    assert 200 < made.partition(0)._tail.size <= 250
    topics_of(under).delete(others)
    fill(under, made.partition(0), count=20)
    assert 900 < made.partition(0)._tail.size <= 1000


def test_many_partitions_are_tidied_one_part_after_another(under, monkeypatch):
    monkeypatch.setattr("broker.node.topics._TIDIED_AT_ONCE", 2)
    partitions = under.create("orders", 3, retention_bytes="0").partitions
    fill(under, *partitions, count=12)
    under.finish()
    gone = under.create("gone").partition(0)
    assert topics_of(under).tidy(under.clock.now)
    assert [one.start_offset > 0 for one in partitions] == [True, True, False]
    topics_of(under).delete(topic(under, "gone"))
    assert not topics_of(under).tidy(under.clock.now)
    assert [one.start_offset > 0 for one in partitions] == [True, True, True]
    assert gone.closed


def test_compaction_chooses_when_it_has_looked_at_all(under, monkeypatch):
    monkeypatch.setattr("broker.node.topics._TIDIED_AT_ONCE", 2)
    partitions = under.create("orders", 5, cleanup_policy="compact").partitions
    fill(under, *partitions, count=12)
    under.finish()
    compactor = topics_of(under).compactor
    due = []
    while topics_of(under).tidy(under.clock.now):
        due.append(compactor._pass is not None)
    assert due == [False, False]
    assert compactor._pass is not None


def test_with_many_partitions_others_have_their_turn_while_they_are_tidied(under, monkeypatch):
    monkeypatch.setattr("broker.node.topics._TIDIED_AT_ONCE", 2)
    partitions = under.create("orders", 5, retention_bytes="0").partitions
    fill(under, *partitions, count=12)
    under.finish()
    turns = []
    under.node._tidy()
    for _ in range(3):
        turns.append(sum(one.start_offset > 0 for one in partitions))
        under.clock.now += 1
        under.node.scheduler._fire_due()
    assert turns == [2, 4, 5]
    under.clock.now += 1
    fill(under, *partitions, count=12)
    under.finish()
    starts = [one.start_offset for one in partitions]
    under.node.scheduler._fire_due()
    assert [one.start_offset for one in partitions] == starts  # until the next time


# ---- deleted ----


def test_a_deleted_topic_leaves_nothing_behind(under):
    made = under.create("orders", 3)
    kept = under.create("kept")
    fill(under, *made.partitions, kept.partition(0), count=12)
    under.finish()
    before = len(under.files.paths())
    fill(under, *made.partitions, kept.partition(0))  # the journal has it now
    gone: list[Topic] = []
    topics_of(under).deleted.append(gone.append)
    topics_of(under).delete(made)
    assert gone == [made]
    assert made.deleted
    assert topics_of(under).find("/", "orders") is topics_of(under).by_id(made.id) is None
    under.finish()
    assert folders(under) == {str(kept.partition(0).log.id)}
    assert len(under.files.paths()) < before
    assert [key for key in under.definitions.values if key.startswith("topic/")] == ["topic/%2F/kept"]
    assert under.node.flusher.idle
    assert not under.node.flusher._journaled
    assert values_of(under.kill().partition("kept")) == [*(b"%d" % number for number in range(12)), b"0"]


def test_one_of_the_brokers_own_is_not_deleted(under):
    made = topics_of(under).create("/", "__own", 1, internal=True)
    with pytest.raises(NotAllowed):
        topics_of(under).delete(made)
    under.commit()
    assert topic(under.kill(), "__own").internal


@pytest.mark.parametrize("others", [0, 3], ids=["direct", "journaled"])
def test_a_new_topic_of_the_same_name_begins_at_0_wherever_the_process_died(others):
    """It is made when nothing is left of the old one; its first batch is in the same commit."""
    for steps in range(12):
        for seed in SEEDS:
            under = SteppedNode(segment_size_max=400)
            old = under.create("orders")
            more = [under.create(f"other-{number}").partition(0) for number in range(others)]
            fill(under, old.partition(0), *more, count=7)
            topics_of(under).delete(old)
            with pytest.raises(AlreadyExists, match="being deleted"):
                under.create("orders")
            under.commit()
            new = under.create("orders")
            append_octets(new.partition(0), records.build([record(b"new", under.clock.now)]))
            for partition in more:
                append_octets(partition, records.build([record(b"7", under.clock.now)]))
            under.end_pass()
            under.fail_power(under.writer, steps)
            again = under.crash(seed)
            found = topic(again)
            assert found.id == new.id != old.id  # definitions come first
            assert values_of(found.partition(0)) in ([], [b"new"])
            fill(again, found.partition(0))
            assert values_of(found.partition(0)) in ([b"0"], [b"new", b"0"])
            again.finish()
            logs = {str(one.log.id) for each in topics_of(again).topics() for one in each.partitions}
            assert folders(again) <= logs
            for number in range(others):
                values = values_of(again.partition(f"other-{number}"))
                assert values[:7] == [b"%d" % value for value in range(7)]
            under.abandon()


def test_a_topic_that_is_deleted_while_its_batches_are_written(under):
    """By either thread."""
    made = under.create("orders")
    kept = [under.create(name).partition(0) for name in ("a", "b")]
    fill(under, made.partition(0), *kept)
    append_octets(made.partition(0), records.build([record(b"x", under.clock.now)]))
    under.node.flusher.checkpoint_soon()
    under.end_pass()
    assert made.partition(0).log.writing
    topics_of(under).delete(made)
    under.end_pass()
    under.writer.step()
    under.node.flusher.collect()
    under.finish()
    assert folders(under) == {str(one.log.id) for one in kept}
    again = under.kill()
    assert topics_of(again).find("/", "orders") is None


def test_what_a_topic_left_of_which_nobody_was_told_goes_at_the_next_start(under):
    under.create("orders")
    under.commit()
    under.files.make_directory("/data/partitions/77")
    under.files.put("/data/partitions/77/00000000000000000000.log", b"x")
    again = under.kill()
    assert "77" not in folders(again)


@pytest.mark.parametrize("flush", ["sync", "os"])
def test_what_recovery_has_cut_was_confirmed_only_by_a_topic_without_syncs(under, flush, caplog):
    partition = under.create("orders", flush=flush).partition(0)
    fill(under, partition)
    path = partition.log.segments[0].path(".log")
    under.files.truncate(path, len(under.files.octets(path)) - 1)
    assert values_of(under.kill().partition("orders")) == []
    said = "nothing that was confirmed is missing" if flush == "sync" else "it was confirmed without a sync"
    assert f"cut short; 68 octets are cut; {said}" in caplog.text


# ---- bindings ----


def test_a_topic_is_where_messages_are_routed_to_until_it_is_deleted(under):
    made = under.create("orders")
    under.publish("orders", b"by its name")
    under.commit()
    assert values_of(made.partition(0)) == [b"by its name"]
    topics_of(under).delete(made)
    assert under.publish("orders", b"nobody").unroutable
    under.commit()
    again = under.kill()
    assert again.publish("orders", b"nobody").unroutable
