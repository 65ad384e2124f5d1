"""Reading topics of a real broker, alone: where it begins, where it goes on, what is passed over."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import anyio
import pytest

import leveret.log
from backends import on_both_backends
from broker.kafka import api
from cutting_proxy import cutting_proxy
from leveret.log import InvalidValue, OffsetOutOfRange, TopicPartition, UnknownTopic
from log_reading import read
from process import BrokerProcess

# Retention takes what is too old.
BEGAN_MS = time.time_ns() // 1_000_000 - 60_000


def moment(number):
    """When that record was."""
    return datetime.fromtimestamp(BEGAN_MS / 1000, UTC) + timedelta(milliseconds=number)


async def fill(log, topic, count, *, first=0, partitions=1, size=1):
    """Records with their numbers, each a batch of its own if there is one partition."""
    async with log.producer(batch_size=1) as producer:
        for number in range(first, first + count):
            value = b"%d" % number
            await producer.send_soon(
                topic, value * size, partition=number % partitions, timestamp=BEGAN_MS + number
            )


async def values(consumer, count):
    found = []
    while len(found) < count:
        found.append(int((await anext(consumer)).value))
    return found


# ---- where it begins ----


@on_both_backends
async def test_from_the_beginning_and_from_the_end(log_url, topic):
    async with leveret.log.connect(log_url) as log:
        await fill(log, topic, 3)
        async with (
            log.consumer(topic, offset="earliest") as all_of_it,
            log.consumer(topic, offset="latest") as what_comes,
        ):
            assert await values(all_of_it, 3) == [0, 1, 2]
            await fill(log, topic, 2, first=3)
            assert await values(what_comes, 2) == [3, 4]
            assert await values(all_of_it, 2) == [3, 4]


@on_both_backends
async def test_from_an_offset(log_url, topic):
    """Also one inside of a batch, of which the broker gives all."""
    async with leveret.log.connect(log_url) as log:
        async with log.producer(linger_ms=1000) as producer:
            for number in range(10):
                await producer.send_soon(topic, b"%d" % number)
        async with log.consumer(topic, offset=7) as consumer:
            assert await values(consumer, 3) == [7, 8, 9]


@on_both_backends
async def test_from_a_moment(log_url, topic):
    async with leveret.log.connect(log_url) as log:
        await fill(log, topic, 10)
        for asked, expected in [(moment(4), 4), (moment(-5), 0)]:
            async with log.consumer(topic, offset=asked) as consumer:
                assert await values(consumer, 2) == [expected, expected + 1]
        # Nothing is as new as that: it is the end.
        async with log.consumer(topic, offset=moment(10)) as consumer:
            await fill(log, topic, 1, first=10)
            assert await values(consumer, 1) == [10]


@on_both_backends
async def test_all_partitions_of_several_topics(log_url, topic):
    async with leveret.log.connect(log_url) as log:
        other = f"{topic}.other"
        await log.create_topic(topic, partitions=3)
        await log.create_topic(other, partitions=2)
        await fill(log, topic, 30, partitions=3)
        await fill(log, other, 20, first=100, partitions=2)
        async with log.consumer(topic, other, topic, offset="earliest") as consumer:
            places = {(topic, 0), (topic, 1), (topic, 2), (other, 0), (other, 1)}
            assert consumer.assignment == places
            found = {}
            for _ in range(50):
                record = await anext(consumer)
                found.setdefault((record.topic, record.partition), []).append(int(record.value))
        assert found.keys() == places
        assert all(found[topic, number] == list(range(number, 30, 3)) for number in range(3))
        assert all(found[other, number] == list(range(100 + number, 120, 2)) for number in range(2))


@on_both_backends
async def test_a_topic_that_is_not_there(log_url, topic):
    async with leveret.log.connect(f"{log_url}?create_topics=false") as log:
        for options in ({}, {"group": topic}):
            with pytest.raises(UnknownTopic, match=topic):
                await log.consumer(topic, **options).__aenter__()
    async with leveret.log.connect(log_url) as log, log.consumer(topic) as consumer:
        assert consumer.assignment == {(topic, 0)}


@on_both_backends
async def test_what_no_consumer_can_be(log_url):
    async with leveret.log.connect(log_url) as log:
        for topics, options in [
            ((), {}),
            (("t",), {"offset": "middle"}),
            (("t",), {"offset": -1}),
            (("t",), {"offset": 1 << 63}),
            (("t",), {"offset": datetime(1960, 1, 1, tzinfo=UTC)}),
            (("t",), {"prefetch": 0}),
            (("t",), {"max_bytes": 0}),
            (("t",), {"max_wait": 0}),
            (("t",), {"min_bytes": 0}),
            (("t",), {"session_timeout": 0}),
            (("t",), {"commit_interval": 0}),
        ]:
            with pytest.raises(InvalidValue):
                log.consumer(*topics, **options)
        consumer = log.consumer("t")
        with pytest.raises(RuntimeError, match="not open"):
            await anext(consumer)
        for use in (consumer.commit(), consumer.committed("t", 0)):
            with pytest.raises(InvalidValue, match="without a group"):
                await use


# ---- where it goes on ----


@on_both_backends
async def test_seek_and_position(log_url, topic):
    async with leveret.log.connect(log_url) as log:
        await log.create_topic(topic, partitions=2)
        await fill(log, topic, 40, partitions=2)
        async with log.consumer(topic, offset="latest", max_wait=0.05) as consumer:
            assert [consumer.position(topic, number) for number in (0, 1)] == [20, 20]
            await consumer.seek(topic, 1, 17)
            assert consumer.position(topic, 1) == 17
            assert await values(consumer, 3) == [35, 37, 39]
            assert consumer.position(topic, 1) == 20

            await consumer.seek(topic, 0, "earliest")
            assert await values(consumer, 2) == [0, 2]
            assert consumer.position(topic, 0) == 2
            await consumer.seek(topic, 0, moment(31))
            assert await values(consumer, 1) == [32]
            await consumer.seek(topic, 0, "latest")
            await fill(log, topic, 1, first=40, partitions=2)
            assert await values(consumer, 1) == [40]
            for partition in (-1, 2):
                with pytest.raises(InvalidValue, match="not ours"):
                    consumer.position(topic, partition)
                with pytest.raises(InvalidValue, match="not ours"):
                    await consumer.seek(topic, partition, 0)
            with pytest.raises(InvalidValue, match="offset"):
                await consumer.seek(topic, 0, -5)


@on_both_backends
async def test_an_offset_that_is_not_there_any_more_and_one_not_yet(log_url, topic):
    async with leveret.log.connect(log_url) as log:
        await fill(log, topic, 10)
        await delete_records(log, topic, 6)
        for offset, expected in (("earliest", 6), ("latest", 10)):
            async with log.consumer(topic, offset=offset, max_wait=0.05) as consumer:
                for lost in (2, 11):
                    await consumer.seek(topic, 0, lost)
                    while consumer.position(topic, 0) == lost:  # noqa: ASYNC110 - until the broker says so
                        await anyio.sleep(0.01)
                    assert consumer.position(topic, 0) == expected
        async with log.consumer(topic, offset=2) as consumer:
            for _ in range(2):
                with pytest.raises(OffsetOutOfRange, match=r"has no offset 2"):
                    await anext(consumer)


async def delete_records(log, topic, below):
    partitions = [{"partition_index": 0, "offset": below}]
    body = {"topics": [{"name": topic, "partitions": partitions}], "timeout_ms": 1000}
    answer = await log._cluster.ask(api.DELETE_RECORDS, body)
    assert answer["topics"][0]["partitions"][0]["error_code"] == 0


@on_both_backends
async def test_a_wire_that_is_cut_while_it_reads(broker, log_url, topic):
    async with cutting_proxy(broker.addresses["kafka"]) as proxy:
        async with leveret.log.connect(log_url, dial=proxy.dial) as log:
            await fill(log, topic, 200)
            async with log.consumer(topic, offset="earliest", max_bytes=200, prefetch=500) as consumer:
                found = []
                for number in range(200):
                    found += await values(consumer, 1)
                    if number % 20 == 0:
                        proxy.cut()
        assert found == list(range(200))


@on_both_backends
async def test_a_broker_that_is_killed_and_comes_back(tmp_path, topic):
    with BrokerProcess(tmp_path, kafka=True) as broker:
        async with (
            cutting_proxy(broker.addresses["kafka"]) as proxy,
            leveret.log.connect(f"kafka://{broker.bootstrap}", dial=proxy.dial) as log,
        ):
            await fill(log, topic, 10)
            async with log.consumer(topic, offset="earliest") as consumer:
                assert await values(consumer, 10) == list(range(10))
                broker.kill()
                await anyio.to_thread.run_sync(broker.start)
                proxy.upstream = broker.addresses["kafka"]
                await fill(log, topic, 5, first=10)
                assert await values(consumer, 5) == list(range(10, 15))


# ---- how much ----


@on_both_backends
async def test_what_is_read_ahead_is_bounded(log_url, topic):
    async with leveret.log.connect(log_url) as log:
        await fill(log, topic, 300, size=500)
        async with log.consumer(topic, offset="earliest", prefetch=20_000, max_bytes=5_000) as consumer:
            most = 0
            for number in range(300):
                assert int((await anext(consumer)).value[:3][: len(str(number))]) == number
                await anyio.lowlevel.checkpoint()
                most = max(most, consumer._fetcher._size)
        assert most <= 20_000


@on_both_backends
async def test_a_record_that_is_larger_than_what_is_asked_for(log_url, topic):
    async with leveret.log.connect(log_url) as log:
        async with log.producer() as producer:
            await producer.send(topic, b"x" * 500_000)
            await producer.send(topic, b"y" * 500_000)
        found = await read(log, topic, 2, prefetch=1000, max_bytes=1000)
        assert [record.value[:1] for record in found] == [b"x", b"y"]


@on_both_backends
async def test_one_partition_does_not_hold_up_another(log_url, topic):
    """There is more in the first one than is read at a time."""
    async with leveret.log.connect(log_url) as log:
        await log.create_topic(topic, partitions=2)
        async with log.producer(batch_size=1000) as producer:
            for _ in range(200):
                await producer.send_soon(topic, b"x" * 1000, partition=0)
            await producer.send_soon(topic, b"y", partition=1)
        async with log.consumer(topic, offset="earliest", max_bytes=10_000, prefetch=20_000) as consumer:
            found = [(await anext(consumer)).partition for _ in range(201)]
        assert found.index(1) < 50


@on_both_backends
async def test_iterating_lets_others_run(log_url, topic):
    turns = 0

    async def count():
        nonlocal turns
        while True:
            await anyio.lowlevel.checkpoint()
            turns += 1

    async with leveret.log.connect(log_url) as log:
        await fill(log, topic, 50)
        async with log.consumer(topic, offset="earliest") as consumer:
            await values(consumer, 1)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(count)
                before = turns
                await values(consumer, 20)
                assert turns - before >= 10
                tasks.cancel_scope.cancel()


def test_a_partition_reads_well():
    assert str(TopicPartition("orders", 3)) == "orders[3]"
