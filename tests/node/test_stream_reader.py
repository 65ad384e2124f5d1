"""A reader of a topic for an AMQP consumer: over batches that compaction or a disk has taken something of."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from broker.kafka import records
from broker.kafka.records import Record
from broker.model.message import Slice
from broker.node.partition import Partition
from broker.node.stream_reader import MessageLimits, StreamReader
from broker.node.topics import Topic
from compacted_topic import CompactedTopic
from stepped_node import SteppedNode
from topic_records import record

LARGE = b"x" * 70_000
LIMITS = MessageLimits(1 << 20, 131_072)


class Receiver:
    """A connection that has sent everything, unless the test says otherwise."""

    def __init__(self) -> None:
        self.unsent_size = self.sent_octets = 0
        self.why_lost = ""

    def lost(self, why: str) -> None:
        self.why_lost = why


class Consumer:
    """It takes everything."""

    priority = 0
    acks = True
    exclusive = False
    window = None

    def __init__(self, room: int = 1000) -> None:
        self.offsets: list[int] = []
        self.pieces: list[Slice] = []
        self.left = room

    def room(self) -> int:
        return self.left

    def deliver(self, source: StreamReader, piece: Slice) -> None:
        assert len(piece.contents) == 1
        self.offsets += piece.offsets
        self.pieces.append(piece)
        self.left -= 1

    def queue_deleted(self, source: StreamReader) -> None:
        raise AssertionError("nothing is deleted")


def reader_of(
    node: SteppedNode,
    topic: Topic,
    arguments: dict[str, Any],
    mark: Callable[[StreamReader], None],
    mark_later: Callable[[StreamReader], None],
    limits: MessageLimits = LIMITS,
    receiver: Receiver | None = None,
) -> StreamReader:
    large = node.node.large_records
    return StreamReader(
        topic,
        arguments,
        node.clock.now,
        mark,
        mark_later,
        node.node.pieces,
        large,
        receiver or Receiver(),
        limits,
    )


FIRST = {"x-stream-offset": "first"}


def read_all(node: SteppedNode, name: str, limits: MessageLimits = LIMITS) -> list[int]:
    """The offsets that a new consumer gets, as long as its reader has itself marked."""
    marked: list[StreamReader] = []
    topic = node.node.topics.topic("/", name)
    reader = reader_of(node, topic, FIRST, marked.append, marked.append, limits)
    consumer = Consumer(1_000_000)
    reader.add_consumer(consumer)
    reader.dispatch()
    while marked:
        marked.clear()
        reader.dispatch()
    assert node.node.pieces.taken == 0
    return consumer.offsets


def test_a_large_batch_without_its_last_records_is_left_behind():
    """A read from the middle of it brings it again, and nothing else."""
    topic = CompactedTopic()
    topic.fill((b"large", LARGE), (b"a", b"1"), (b"b", b"1"))
    topic.fill((b"a", b"2"), (b"b", b"2"))
    topic.append((b"c", b"1"))
    topic.compact()
    topic.restart()
    assert [one.offset for one in topic.stored()] == [0, 3, 4, 5]
    assert read_all(topic.node, "latest") == [0, 3, 4, 5]
    topic.node.abandon()


@pytest.mark.parametrize("at", [8, 16, 23, 61, 68])
def test_a_batch_that_is_damaged_is_passed_over(at):
    node = SteppedNode()
    partition = node.create("orders").partition(0)
    for number in range(5):
        batch = records.build([record(b"%d" % number, node.clock.now)])
        partition.append(records.read_header(batch), batch)
        node.commit()
    path = partition.log.segments[0].path(".log")
    again = node.close()
    octets = again.files.octets(path)
    at += 2 * len(octets) // 5
    again.files.handles(1).write(path, at, [bytes([octets[at] ^ 0xFF])])
    assert read_all(again, "orders") == [0, 1, 3, 4]
    node.abandon()


def test_a_batch_that_nobody_can_open_is_passed_over(caplog):
    node = SteppedNode()
    partition = node.create("orders").partition(0)
    for number in range(3):
        batch = bytearray(records.build([record(b"%d" % number, node.clock.now)]))
        if number == 1:
            batch[61] ^= 0xFF
        partition.append(records.read_header(batch), bytes(batch))
        node.commit()
    assert read_all(node, "orders") == [0, 2]
    assert "the batch at 1: " in caplog.text
    node.abandon()


def test_a_turn_ends_though_a_filter_lets_nothing_through():
    node = SteppedNode()
    topic = node.create("orders")
    batch = records.build([record(b"%d" % number, node.clock.now) for number in range(5000)])
    topic.partition(0).append(records.read_header(batch), batch)
    node.commit()
    now: list[StreamReader] = []
    later: list[StreamReader] = []
    arguments = {"x-stream-offset": "first", "x-stream-filter": "nobody"}
    reader = reader_of(node, topic, arguments, now.append, later.append)
    reader.add_consumer(Consumer())
    left = [reader.ready_count]
    while left[-1]:
        reader.dispatch()
        left.append(reader.ready_count)
    assert left == [5000, 4000, 3000, 2000, 1000, 0]
    assert (now, later) == ([], 4 * [reader])
    node.abandon()


# ---- what is too large ----


def append(node: SteppedNode, topic: Topic, *found: Record, codec: int = 0) -> None:
    batch = records.build(found, compression_type=codec)
    topic.partition(0).append(records.read_header(batch), batch)
    node.commit()


def zeros(size: int, *, key: bytes | None = None) -> Record:
    return Record(0, 1, key, bytes(size))


@pytest.mark.parametrize("codec", [0, 1, 2, 3, 4])
def test_a_record_that_no_message_can_be_is_passed_over_and_logged_once(caplog, codec):
    node = SteppedNode()
    topic = node.create("orders", **{"max.message.bytes": "10000000"})
    limits = MessageLimits(10_000, 4096)
    sizes = [5, 10_000, 10_001, 50_000, 3_000_000, 10_000, 50_000]
    append(node, topic, *map(zeros, sizes), codec=codec)
    append(node, topic, zeros(5, key=bytes(4000)), zeros(5, key=bytes(4097)), zeros(5), codec=codec)
    append(node, topic, zeros(1_000_000), codec=codec)
    append(node, topic, zeros(5), codec=codec)
    assert read_all(node, "orders", limits) == [0, 1, 5, 7, 9, 11]
    (said,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "the record at 2 cannot be given to an AMQP consumer" in said
    assert "10001 bytes, where 10000 are the limit" in said
    node.abandon()


def test_properties_that_fit_no_frame_are_passed_over(caplog):
    node = SteppedNode()
    append(node, node.create("orders"), zeros(5, key=bytes(4000)), zeros(5, key=bytes(4097)), zeros(5))
    assert read_all(node, "orders", MessageLimits(10_000, 4150)) == [0, 2]
    assert "bytes of properties, where a frame of 4150 is the limit" in caplog.text
    node.abandon()


def test_nothing_that_was_handed_out_is_kept():
    node = SteppedNode()
    topic = node.create("orders")
    append(node, topic, zeros(5), zeros(6))
    reader = reader_of(node, topic, FIRST, list[StreamReader]().append, list[StreamReader]().append)
    consumer = Consumer()
    reader.add_consumer(consumer)
    reader.dispatch()
    assert [(piece.contents, piece.size) for piece in consumer.pieces] == [([], 5), ([], 6)]
    node.abandon()


def test_all_readers_have_one_limit_for_what_they_keep_inflated():
    node = SteppedNode()
    topic = node.create("orders")
    append(node, topic, *[zeros(1000) for _ in range(50_000)], codec=4)
    readers = [reader_of(node, topic, FIRST, lambda _: None, lambda _: None) for _ in range(100)]
    consumers = [Consumer(1) for _ in readers]
    for reader, consumer in zip(readers, consumers, strict=True):
        reader.add_consumer(consumer)
        reader.dispatch()
    assert {tuple(consumer.offsets) for consumer in consumers} == {(0,)}
    assert 40 << 20 < node.node.pieces.taken < 70 << 20
    for _ in range(70):  # each reads beyond its piece
        for reader, consumer in zip(readers[-2:], consumers[-2:], strict=True):
            consumer.left = 100
            reader.dispatch()
    assert consumers[-1].offsets == list(range(len(consumers[-1].offsets)))
    assert len(consumers[-1].offsets) > 3000
    for reader, consumer in zip(readers, consumers, strict=True):
        reader.remove_consumer(consumer, 0)
    assert node.node.pieces.taken == 0
    node.abandon()


@pytest.mark.parametrize("codec", [1, 4])
def test_a_turn_ends_when_much_was_inflated(codec):
    node = SteppedNode()
    topic = node.create("orders")
    for _ in range(6):
        append(node, topic, zeros(3_000_000), zeros(1), codec=codec)
    later: list[StreamReader] = []
    reader = reader_of(node, topic, FIRST, lambda _: None, later.append)
    reader.add_consumer(consumer := Consumer())
    turns = 0
    while reader.ready_count:
        reader.dispatch()
        turns += 1
    assert turns >= 3
    assert len(later) >= turns - 1
    assert consumer.offsets == list(range(1, 12, 2))
    node.abandon()


def test_batches_that_nobody_can_open_do_not_take_one_turn_for_all():
    node = SteppedNode()
    topic = node.create("orders")
    header = records.read_header(records.build([zeros(1)]))
    garbage = records.sealed(header, b"garbage")
    for _ in range(2500):
        topic.partition(0).append(records.read_header(garbage), garbage)
    node.commit()
    later: list[StreamReader] = []
    reader = reader_of(node, topic, FIRST, lambda _: None, later.append)
    reader.add_consumer(Consumer())
    left = []
    while reader.ready_count:
        reader.dispatch()
        left.append(reader.ready_count)
    assert left == [1500, 500, 0]
    node.abandon()


def test_a_batch_that_compaction_has_rewritten_is_opened_again():
    """It is large, and so read again for each piece."""
    topic = CompactedTopic()
    for number in range(3):
        topic.fill(*[(b"key %d" % key, b"%d" % number * 30_000) for key in range(5)])
    topic.append((b"end", b"1"))
    reader = reader_of(
        topic.node, topic.node.node.topics.topic("/", "latest"), FIRST, lambda _: None, lambda _: None
    )
    reader.add_consumer(consumer := Consumer(1))
    topic.node.node.pieces.taken = 1 << 40  # pieces are as small as they get
    reader.dispatch()
    assert consumer.offsets == [0]
    topic.compact()
    consumer.left = 100
    reader.dispatch()
    assert consumer.offsets == [
        0,
        1,
        *[each.offset for each in topic.stored()],
    ]  # 1 was in the same piece as 0
    topic.node.abandon()


def test_a_time_is_looked_for_in_one_partition_a_turn(monkeypatch):
    """A batch is opened for it."""
    node = SteppedNode()
    topic = node.create("orders", 4)
    for partition in topic.partitions:
        batch = records.build([record(b"old", 1000), record(b"new", 5000)])
        partition.append(records.read_header(batch), batch)
    node.commit()
    asked: list[int] = []
    look = Partition.offset_of_time
    monkeypatch.setattr(Partition, "offset_of_time", lambda *given: asked.append(1) or look(*given))
    later: list[StreamReader] = []
    arguments = {"x-stream-offset": datetime.fromtimestamp(3, UTC)}
    reader = reader_of(node, topic, arguments, lambda _: None, later.append)
    reader.add_consumer(consumer := Consumer())
    for turn in range(1, 5):
        reader.dispatch()
        assert (len(asked), len(later)) == (turn, turn)
    reader.dispatch()
    assert consumer.offsets == [1] * 4
    assert reader.ready_count == 0
    node.abandon()


# ---- large records that are on their way ----


class Large:
    """A topic with two records of 90 MiB in a few kilobytes, and readers that are dispatched when they are marked."""

    def __init__(self) -> None:
        self.node = SteppedNode()
        topic = self.topic = self.node.create("large")
        for _ in range(2):
            append(self.node, topic, zeros(90 << 20), codec=4)
        self.marked: list[StreamReader] = []

    def reader(self) -> tuple[StreamReader, Consumer, Receiver]:
        receiver = Receiver()
        limits = MessageLimits(128 << 20, 131_072)
        mark = self.marked.append
        reader = reader_of(self.node, self.topic, FIRST, mark, mark, limits, receiver)
        consumer = Consumer(1)
        reader.add_consumer(consumer)
        reader.dispatch()
        if consumer.offsets:
            receiver.unsent_size = 90 << 20
        return reader, consumer, receiver

    def pass_time(self, ms: int) -> None:
        for _ in range(ms // 100):
            self.node.clock.now += 100
            self.node.node.scheduler._fire_due()
            marked, self.marked[:] = list(self.marked), []
            for reader in marked:
                reader.dispatch()


@pytest.fixture
def large():
    large = Large()
    yield large
    large.node.abandon()


def test_a_large_record_waits_until_another_one_is_sent(large):
    _, first, receiver = large.reader()
    _, second, _ = large.reader()
    assert (first.offsets, second.offsets) == ([0], [])
    for sent in range(8):
        receiver.sent_octets = sent << 20
        large.pass_time(5000)
    assert (second.offsets, receiver.why_lost) == ([], "")
    receiver.unsent_size = 1 << 20
    large.pass_time(100)
    assert second.offsets == [0]


def test_a_client_that_takes_nothing_while_others_wait_is_disconnected(large):
    reader, consumer, receiver = large.reader()
    large.pass_time(60_000)
    assert receiver.why_lost == ""
    receiver.sent_octets = 1
    _, second, _ = large.reader()
    large.pass_time(9900)
    assert receiver.why_lost == ""
    large.pass_time(200)
    assert receiver.why_lost == "it took nothing of a record of 94371840 bytes for 10 s, while others waited"
    reader.remove_consumer(consumer, 0)
    large.pass_time(100)
    assert second.offsets == [0]


def test_a_reader_that_waits_and_goes_is_forgotten(large):
    first, consumer, _ = large.reader()
    second, waiting, _ = large.reader()
    second.remove_consumer(waiting, 0)
    large.pass_time(200)
    assert large.marked == []
    first.remove_consumer(consumer, 0)
    assert large.node.node.large_records.sending_size == 0
    assert large.node.node.pieces.taken == 0


def test_small_records_do_not_wait_for_large_ones(large):
    large.reader()
    node, topic = large.node, large.node.create("small")
    append(node, topic, zeros(1_000_000), zeros(5))
    reader = reader_of(node, topic, FIRST, lambda _: None, lambda _: None)
    reader.add_consumer(consumer := Consumer())
    reader.dispatch()
    assert consumer.offsets == [0, 1]
