"""Whatever of a log is cancelled at whatever point: what is around it stays usable, and nothing is left behind."""

from __future__ import annotations

import anyio
import pytest

import leveret.log
from backends import on_both_backends
from broker.kafka import api
from fake_kafka import fake_kafka
from leveret.log import Producer

POINTS = 40


async def cancel_after(steps, use, *arguments):
    """Cancelled when the scheduler has gone round so many times."""
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:

            async def run():
                await use(*arguments)
                tasks.cancel_scope.cancel()

            tasks.start_soon(run)
            for _ in range(steps):
                await anyio.lowlevel.checkpoint()
            scope.cancel()


async def open_a_producer(log):
    async with log.producer():
        pass


async def produce(log):
    async with log.producer(compression="gzip") as producer:
        await producer.send("t", b"x")


async def produce_soon(log):
    async with log.producer(batch_size=1) as producer:
        for _ in range(5):
            await producer.send_soon("t", b"x")


async def produce_with_little_room(log):
    async with log.producer(memory_max=30) as producer, anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(producer.send, "t", b"x")


async def consume(log):
    async with log.consumer("t", offset="earliest") as consumer:
        for _ in range(3):
            await anext(consumer)


async def seek(log):
    async with log.consumer("t", offset="latest") as consumer:
        await consumer.seek("t", 0, "earliest")
        await anext(consumer)


async def list_topics(log):
    await log.topics()


async def everything_at_once(log):
    async with anyio.create_task_group() as tasks:
        for use in (open_a_producer, produce, produce_soon, consume, seek, list_topics):
            tasks.start_soon(use, log)


@pytest.mark.parametrize(
    "use",
    [
        open_a_producer,
        produce,
        produce_soon,
        produce_with_little_room,
        consume,
        seek,
        list_topics,
        everything_at_once,
    ],
)
@on_both_backends
async def test_cancelled_at_any_point(use):
    async with fake_kafka() as fake, fake.connect() as log:
        for _ in range(3):
            fake.add("t", b"x")
        for steps in range(POINTS):
            await cancel_after(steps, use, log)
            assert await log.topics() == []
            # What was opened for it is closed: one connection is left, that for what is answered at once.
            await anyio.wait_all_tasks_blocked()
            assert fake.open_connections <= 1
        async with log.producer() as producer:
            await producer.send("t", b"after")
        assert fake.values("t")[-1] == b"after"


@on_both_backends
async def test_a_log_that_is_cancelled_at_any_point():
    async def use(fake):
        async with fake.connect() as log, log.producer() as producer:
            await producer.send("t", b"x")
            async with log.consumer("t", offset="earliest") as consumer:
                await anext(consumer)

    async with fake_kafka() as fake:
        for steps in range(2 * POINTS):
            await cancel_after(steps, use, fake)
            await anyio.wait_all_tasks_blocked()
            assert not fake.open_connections


@on_both_backends
async def test_room_that_was_taken_is_given_back():
    async with fake_kafka() as fake, fake.connect() as log, log.producer(memory_max=100) as producer:
        assert isinstance(producer, Producer)
        fake.answers[api.PRODUCE] = lambda _: None
        await producer.send_soon("t", b"x" * 60)
        for steps in range(10):
            await cancel_after(steps, producer.send, "t", b"x" * 60)
        fake.answers[api.PRODUCE] = fake.produce
        await fake.cut()
        await producer.flush()
        assert producer._accumulator.room.used == 0
        await producer.send("t", b"y" * 60)


@on_both_backends
async def test_members_that_are_cancelled_at_any_point_leave_their_group(log_url, topic):
    async def use(log):
        async with log.consumer(topic, group=topic, offset="earliest", heartbeat_interval=0.01) as consumer:
            for _ in range(3):
                await anext(consumer)

    async with leveret.log.connect(log_url) as log:
        async with log.producer() as producer:
            for _ in range(5):
                await producer.send(topic, b"x")
        for steps in range(0, 120, 3):
            await cancel_after(steps, use, log)
            with anyio.move_on_after(0.001):
                await use(log)
        answer = await log._cluster.ask(api.DESCRIBE_GROUPS, {"groups": [topic]})
        assert answer["groups"][0]["members"] == []
        async with log.consumer(topic, group=topic) as consumer:
            assert consumer.assignment == {(topic, 0)}
