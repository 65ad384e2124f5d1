"""What the messages of queues take in memory, and what they are counted for."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Sequence

import pytest

from broker.amqp import content
from broker.amqp.envelope import Envelope, PublishRun, envelope_of
from broker.amqp.properties import Properties, encode, facts_of
from broker.model.queue import Memory, Queue
from dict_store import DictStore

KIB = 1 << 10
MIB = 1 << 20
COUNT = 2000
PLAIN = encode(Properties())


def make_queue(memory: Memory, *, memory_max: int = 1 << 40) -> Queue:
    return Queue(
        "q", "/", DictStore(), lambda queue, reason, piece: None, memory_max=memory_max, memory=memory
    )


def closed(properties: bytes = PLAIN, size: int = 10) -> bytes:
    return content.build(1, properties, bytes(size), 131_072)


def envelope(properties: bytes = PLAIN, key: str = "q") -> Envelope:
    return envelope_of(1, 131_072, "", key, facts_of(properties))


def push(queue: Queue, *messages: bytes, properties: bytes = PLAIN, keys: Sequence[str] = ()) -> None:
    size = content.body_size(messages[0])
    run = PublishRun(envelope(properties), list(messages), size)
    if keys:
        run.envelopes = [envelope(properties, key) for key in keys]
    queue.push(run, 1_700_000_000_000)


def one_by_one(queues: Sequence[Queue]) -> None:
    for number in range(COUNT):
        push(queues[number % len(queues)], closed())


def with_headers(queues: Sequence[Queue]) -> None:
    for number in range(COUNT):
        properties = encode(Properties(headers={"padding": "x" * 300, "number": number}))
        push(queues[number % len(queues)], closed(properties), properties=properties)


def with_time_limits(queues: Sequence[Queue]) -> None:
    for number in range(COUNT):
        properties = encode(Properties(expiration=f"{60_000 + number}"))
        push(queues[number % len(queues)], closed(properties), properties=properties)


def in_runs(queues: Sequence[Queue]) -> None:
    for number in range(0, COUNT, 100):
        push(queues[number % len(queues)], *[closed() for _ in range(100)])


def with_keys_of_their_own(queues: Sequence[Queue]) -> None:
    for number in range(0, 5 * COUNT, 100):
        keys = [f"key-{at:040d}-{id(queues)}" for at in range(number, number + 100)]
        push(queues[number % len(queues)], *[closed() for _ in range(100)], keys=keys)


@pytest.mark.parametrize(
    "fill", [one_by_one, with_headers, with_time_limits, in_runs, with_keys_of_their_own]
)
def test_messages_count_for_what_they_take(fill: Callable[[Sequence[Queue]], None]) -> None:
    memory = Memory(1 << 40)
    queues = [make_queue(memory) for _ in range(10)]
    fill(queues)  # what is made once is there
    counted = memory.used
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    fill(queues)
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert 0.8 * taken < memory.used - counted < 1.5 * taken


def test_many_queues_keep_to_the_limit_of_all() -> None:
    memory = Memory(MIB)
    queues = [make_queue(memory) for _ in range(200)]
    for _ in range(10):
        one_by_one(queues)
    assert MIB < memory.used < MIB + MIB // 4 + 100 * KIB
    assert sum(queue.resident_count for queue in queues) < 5000
    assert sum(queue.ready_count for queue in queues) == 10 * COUNT


def test_little_room_has_backlogs_read_in_small_pieces() -> None:
    memory = Memory(1)
    queue = make_queue(memory, memory_max=4 * MIB)
    for _ in range(100):
        push(queue, closed(size=10 * KIB))
    assert memory.used < 20 * KIB
    queue.take(2)
    assert 40 * KIB < memory.used < 80 * KIB
    memory.limit = 1 << 30
    queue.take(10)
    assert memory.used > 700 * KIB


def test_what_is_taken_in_parts_counts_no_more() -> None:
    memory = Memory(1 << 40)
    queue = make_queue(memory)
    in_runs([queue])
    whole = memory.used
    while queue.ready_count:
        before = memory.used
        queue.take(7)
        assert memory.used <= before - 7 * whole // COUNT // 2
    assert memory.used == 0
