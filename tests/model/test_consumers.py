"""Whose turn it is: what a dispatch costs does not grow with the number of consumers."""

from __future__ import annotations

import pytest

from broker.model.queue import Queue
from dict_store import DictStore
from model_consumer import Channel, Consumer
from model_messages import run


class CountingConsumer(Consumer):
    asked = 0

    def room(self) -> int:
        self.asked += 1
        return super().room()


def queue_with(count: int, limit: int) -> tuple[Queue, list[CountingConsumer]]:
    queue = Queue("q", "/", DictStore(), lambda queue, reason, piece: queue.forget(piece))
    consumers = [CountingConsumer(limit=limit) for _ in range(count)]
    for consumer in consumers:
        queue.add_consumer(consumer)
    return queue, consumers


@pytest.mark.parametrize("limit", [0, 10])
def test_one_message_asks_one_consumer_for_its_room(limit: int) -> None:
    queue, consumers = queue_with(1000, limit)
    for number in range(10):
        queue.push(run([number]), 0)
        queue.dispatch()
    assert sum(consumer.asked for consumer in consumers) == 10
    assert [consumer.numbers for consumer in consumers[:10]] == [[number] for number in range(10)]


def test_consumers_without_room_are_not_asked_again_until_they_may_have_some() -> None:
    queue, consumers = queue_with(1000, limit=1)
    queue.push(run(range(2000)), 0)
    queue.dispatch()
    before = sum(consumer.asked for consumer in consumers)
    for consumer in consumers[500:510]:
        channel = consumer.channel
        entries, _ = channel.ledger.settle_each(1, 1)
        queue.acknowledge(entries[0].piece)
        channel.make_room(entries)
        queue.dispatch()
    assert sum(consumer.asked for consumer in consumers) - before <= 20
    assert [consumer.numbers[-1] for consumer in consumers[500:510]] == list(range(1000, 1010))


def test_a_consumer_that_gets_room_again_keeps_its_turn() -> None:
    queue, (first, second, third) = queue_with(3, limit=0)
    first.congested = True
    queue.push(run([0]), 0)
    queue.dispatch()
    first.congested = False
    queue.consumers.wake(first)
    for number in (1, 2, 3):
        queue.push(run([number]), 0)
        queue.dispatch()
    assert (first.numbers, second.numbers, third.numbers) == ([1], [0, 3], [2])


def test_removing_a_consumer_without_room_leaves_the_others_in_turn() -> None:
    channel = Channel()
    queue, consumers = queue_with(3, limit=1)
    queue.push(run(range(3)), 0)
    queue.dispatch()
    queue.remove_consumer(consumers[1], 0)
    assert list(queue.consumers) == [consumers[0], consumers[2]]
    fresh = Consumer(channel)
    queue.add_consumer(fresh)
    queue.push(run([3]), 0)
    queue.dispatch()
    assert fresh.numbers == [3]
