"""Messages of one queue reach one channel in the queue's order, whichever consumers they go to.

Spec:   AMQP 0-9-1 section 4.7.
"""

from __future__ import annotations

import pytest

from broker.model.queue import Queue
from dict_store import DictStore
from model_consumer import Channel, Consumer
from model_messages import numbers_of, run


def queue_with(*consumers: Consumer) -> Queue:
    queue = Queue("q", "/", DictStore(), lambda queue, reason, piece: queue.forget(piece))
    for consumer in consumers:
        queue.add_consumer(consumer)
    return queue


@pytest.mark.parametrize("acks", [True, False])
@pytest.mark.parametrize("limit", [0, 5])
def test_two_consumers_on_one_channel_get_messages_in_queue_order(limit: int, acks: bool) -> None:
    channel = Channel()
    consumers = [Consumer(channel, limit=limit, acks=acks) for _ in range(2)]
    queue = queue_with(*consumers)
    queue.push(run(range(3)), 0)
    queue.dispatch()
    assert [delivery.number for delivery in channel.got] == [0, 1, 2]
    assert [consumer.numbers for consumer in consumers] == [[0, 2], [1]]


def test_delivery_tags_of_two_consumers_on_one_channel_follow_queue_order() -> None:
    channel = Channel()
    queue = queue_with(Consumer(channel), Consumer(channel))
    queue.push(run(range(7)), 0)
    queue.dispatch()
    entries = channel.ledger.settle_up_to(7)
    assert [number for entry in entries for number in numbers_of(entry.piece.contents)] == [*range(7)]


def test_each_of_two_channels_gets_messages_in_queue_order() -> None:
    channels = [Channel(), Channel()]
    consumers = [Consumer(channel) for channel in (channels[0], channels[1], channels[0])]
    queue = queue_with(*consumers)
    queue.push(run(range(6)), 0)
    queue.dispatch()
    numbers = [[delivery.number for delivery in channel.got] for channel in channels]
    assert numbers == [[0, 2, 3, 5], [1, 4]]
