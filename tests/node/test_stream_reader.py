"""A reader of a topic for an AMQP consumer: over batches that compaction or a disk has taken something of."""

from __future__ import annotations

import pytest

from broker.kafka import records
from broker.model.message import Slice
from broker.node.stream_reader import StreamReader
from compacted_topic import CompactedTopic
from stepped_node import SteppedNode
from topic_records import record

LARGE = b"x" * 70_000


class Consumer:
    """It takes everything."""

    priority = 0
    acks = True
    exclusive = False
    window = None

    def __init__(self) -> None:
        self.offsets: list[int] = []

    def room(self) -> int:
        return 1000

    def deliver(self, source: StreamReader, piece: Slice) -> None:
        self.offsets += piece.offsets

    def queue_deleted(self, source: StreamReader) -> None:
        raise AssertionError("nothing is deleted")


def read_all(node: SteppedNode, name: str) -> list[int]:
    """The offsets that a new consumer gets, as long as its reader has itself marked."""
    marked: list[StreamReader] = []
    topic = node.node.topics.topic("/", name)
    arguments = {"x-stream-offset": "first"}
    reader = StreamReader(topic, arguments, node.clock.now, marked.append, marked.append)
    consumer = Consumer()
    reader.add_consumer(consumer)
    reader.dispatch()
    while marked:
        marked.clear()
        reader.dispatch()
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
    reader = StreamReader(topic, arguments, node.clock.now, now.append, later.append)
    reader.add_consumer(Consumer())
    left = [reader.ready_count]
    while left[-1]:
        reader.dispatch()
        left.append(reader.ready_count)
    assert left == [5000, 4000, 3000, 2000, 1000, 0]
    assert (now, later) == ([], 4 * [reader])
    node.abandon()
