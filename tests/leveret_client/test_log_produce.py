"""Records that are sent to a real broker: where they land, what is refused, what is waited for."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise

import anyio
import pytest

import leveret.log
from backends import on_both_backends, on_mock_clock
from fake_kafka import fake_kafka
from kafka_python import murmur2
from leveret.log import LogRecord, NotAllSent, SendFailed, TopicPartition
from log_reading import read


@pytest.mark.parametrize("compression", [None, "gzip", "snappy", "lz4", "zstd"])
@on_both_backends
async def test_what_is_sent_comes_out_again(log_url, topic, compression):
    values = [b"%d " % number * number for number in range(200)]
    async with leveret.log.connect(log_url) as log:
        async with log.producer(compression=compression, batch_size=4096) as producer:
            sendings = [await producer.send_soon(topic, value) for value in values]
            appended = [await sending.appended() for sending in sendings]
        assert [one.offset for one in appended] == list(range(200))
        assert [record.value for record in await read(log, topic, 200)] == values


@on_both_backends
async def test_all_parts_of_a_record(log_url, topic):
    headers = [("a", b"1"), ("a", b"2"), ("gone", None), ("ü", b"")]
    moment = datetime.now(UTC).replace(microsecond=250_000)
    earlier = round(moment.timestamp() * 1000) - 5000
    async with leveret.log.connect(log_url) as log:
        async with log.producer() as producer:
            sent = await producer.send(topic, b"v", key=b"k", headers=headers, timestamp=moment)
            await producer.send(topic, None, key=b"k", timestamp=earlier)
            await producer.send(topic, b"", headers={"one": b"x"})
        first, second, third = await read(log, topic, 3)
    time = round(moment.timestamp() * 1000)
    assert sent == (topic, 0, 0, time)
    assert first == LogRecord(topic, 0, 0, time, b"k", b"v", headers)
    assert first.time == moment
    assert [first.header(name) for name in ("a", "gone", "ü", "none")] == [b"2", None, b"", None]
    assert (second.key, second.value, second.timestamp, second.headers) == (b"k", None, earlier, [])
    assert (third.key, third.value, third.headers) == (None, b"", [("one", b"x")])


@on_both_backends
async def test_a_key_goes_where_kafkas_clients_put_it(log_url, topic):
    keys = [b"key %d" % number for number in range(50)]
    async with leveret.log.connect(log_url) as log:
        await log.create_topic(topic, partitions=7)
        async with log.producer() as producer:
            found = {key: (await producer.send(topic, b"", key=key)).partition for key in keys}
            assert (await producer.send(topic, b"", key=keys[0], partition=6)).partition == 6
    assert found == {key: (murmur2(key) & 0x7FFFFFFF) % 7 for key in keys}


@on_both_backends
async def test_records_without_a_key_fill_batches_of_one_partition_after_the_other(log_url, topic):
    async with leveret.log.connect(log_url) as log:
        await log.create_topic(topic, partitions=4)
        async with log.producer(batch_size=1000) as producer:
            sendings = [await producer.send_soon(topic, b"x" * 76) for _ in range(200)]
            partitions = [(await sending.appended()).partition for sending in sendings]
    runs = [partitions[at : at + 10] for at in range(0, 200, 10)]
    assert all(len(set(run)) == 1 for run in runs)
    assert all(before[0] != behind[0] for before, behind in pairwise(runs))
    assert len(set(partitions)) == 4


@on_both_backends
async def test_many_tasks_share_batches_and_hear_of_their_own_records(log_url, topic):
    found = {}

    async def send(producer, number):
        found[number] = (await producer.send(topic, b"%d" % number)).offset

    async with leveret.log.connect(log_url) as log:
        async with log.producer() as producer, anyio.create_task_group() as tasks:
            for number in range(300):
                tasks.start_soon(send, producer, number)
        records = await read(log, topic, 300)
    assert sorted(found.values()) == list(range(300))
    assert {int(record.value): record.offset for record in records} == found


@on_both_backends
async def test_the_order_of_a_partition_is_that_of_sending(log_url, topic):
    """Also with as many requests on their way as there may be."""
    async with leveret.log.connect(log_url) as log:
        async with log.producer(batch_size=100) as producer:
            for number in range(1000):
                await producer.send_soon(topic, b"%d" % number)
        records = await read(log, topic, 1000)
    assert [int(record.value) for record in records] == list(range(1000))


@on_both_backends
async def test_a_producer_that_is_not_idempotent(log_url, topic):
    async with leveret.log.connect(log_url) as log:
        async with log.producer(idempotent=False) as producer:
            assert (await producer.send(topic, b"x")).offset == 0
            assert (await producer.send(topic, b"y")).offset == 1
        assert [record.value for record in await read(log, topic, 2)] == [b"x", b"y"]


@on_both_backends
async def test_linger_gathers(log_url, topic):
    """Nothing goes before the time is over, or the batch full, or somebody flushes."""
    options = {"linger_ms": 3_600_000, "batch_size": 1000}
    async with leveret.log.connect(log_url) as log, log.producer(**options) as producer:
        first = await producer.send_soon(topic, b"x")
        other = await producer.send_soon(f"{topic}.2", b"x")
        with anyio.move_on_after(0.05):
            await first.appended()
        assert not first.done
        for _ in range(20):
            await producer.send_soon(topic, b"x" * 76)
        assert (await first.appended()).offset == 0
        assert not other.done
        await producer.flush()
        assert other.done


@on_both_backends
async def test_memory_is_bounded_and_whoever_brings_more_waits(log_url, topic):
    most = 0
    async with leveret.log.connect(log_url) as log:
        # It would linger for ever, but somebody waits for room.
        async with log.producer(linger_ms=3_600_000, memory_max=10_000) as producer:
            room = producer._accumulator.room
            for number in range(500):
                await producer.send_soon(topic, b"%03d" % number * 30)
                most = max(most, room.used)
        assert 8_000 < most <= 10_000
        assert room.used == 0
        records = await read(log, topic, 500)
    assert [int(record.value[:3]) for record in records] == list(range(500))


@on_both_backends
async def test_what_the_broker_refuses_is_told_and_the_others_go_on(log_url, topic):
    """The refused batch leaves a gap in the sequence numbers of those behind it."""
    async with leveret.log.connect(log_url) as log:
        await log.create_topic(topic, configs={"max.message.bytes": "1000"})
        async with log.producer(batch_size=500) as producer:
            sendings = []
            for number in range(40):
                value = b"x" * 2000 if number % 7 == 3 else b"%d" % number
                sendings.append(await producer.send_soon(topic, value))
            found = []
            for number, sending in enumerate(sendings):
                if number % 7 == 3:
                    with pytest.raises(SendFailed, match="MESSAGE_TOO_LARGE") as caught:
                        await sending.appended()
                    assert (caught.value.code, caught.value.maybe_sent) == (10, False)
                else:
                    found.append((await sending.appended()).offset)
        expected = [b"%d" % number for number in range(40) if number % 7 != 3]
        assert [record.value for record in await read(log, topic, len(expected))] == expected
        assert found == list(range(len(expected)))


@on_both_backends
async def test_a_batch_that_is_too_large_goes_in_halves(log_url, topic):
    """The topic takes less than the producer gathers, but each record is small enough."""
    async with leveret.log.connect(log_url) as log:
        await log.create_topic(topic, configs={"max.message.bytes": "1000"})
        async with log.producer(linger_ms=3_600_000) as producer:
            sendings = [await producer.send_soon(topic, b"%03d" % number * 100) for number in range(50)]
            await producer.flush()
            assert [(await sending.appended()).offset for sending in sendings] == list(range(50))
        assert [int(record.value[:3]) for record in await read(log, topic, 50)] == list(range(50))


@on_both_backends
async def test_flush_tells_of_those_that_nobody_asked_for(log_url, topic):
    async with leveret.log.connect(log_url) as log:
        await log.create_topic(topic, configs={"max.message.bytes": "1000"})
        producer = log.producer()
        await producer.__aenter__()
        asked = await producer.send_soon(topic, b"x" * 2000)
        with pytest.raises(SendFailed):
            await asked.appended()
        await producer.flush()

        for size in (600, 2000, 600, 2000):
            await producer.send_soon(topic, b"x" * size)
        with pytest.raises(NotAllSent, match=r"2 records were not ack.*MESSAGE_TOO_LARGE"):
            await producer.flush()
        await producer.flush()

        await producer.send_soon(topic, b"x" * 2000)
        with pytest.raises(NotAllSent, match=r"1 records were not ack.*MESSAGE_TOO_LARGE"):
            await producer.__aexit__(None, None, None)


@on_both_backends
async def test_what_was_sent_soon_is_flushed_also_when_the_block_raises(log_url, topic):
    async with leveret.log.connect(log_url) as log:

        async def fail():
            async with log.producer(linger_ms=3_600_000) as producer:
                await producer.send_soon(topic, b"x")
                raise KeyError

        with pytest.raises(KeyError):
            await fail()
        assert [record.value for record in await read(log, topic, 1)] == [b"x"]


@on_both_backends
async def test_what_was_sent_soon_is_flushed_also_when_the_block_is_cancelled(log_url, topic):
    async with leveret.log.connect(log_url) as log:
        with anyio.CancelScope() as scope:
            async with log.producer(linger_ms=3_600_000) as producer:
                await producer.send_soon(topic, b"x")
                scope.cancel()
                await anyio.sleep_forever()
        assert scope.cancelled_caught
        assert [record.value for record in await read(log, topic, 1)] == [b"x"]


@on_mock_clock
async def test_a_topic_that_is_missing_and_that_the_broker_does_not_make():
    """One that makes it may need a moment to know of it."""
    async with fake_kafka() as fake, fake.connect() as log, log.producer() as producer:
        fake.missing.add("t")
        started = anyio.current_time()
        text = "topic 't': it is not there, and the broker does not make it: UNKNOWN_TOPIC_OR_PARTITION"
        with pytest.raises(leveret.log.UnknownTopic, match=text):
            await producer.send("t", b"x")
        assert 5 <= anyio.current_time() - started < 7

        async def make():
            await anyio.sleep(4)
            fake.missing.clear()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(make)
            await producer.send("t", b"x")


@on_both_backends
async def test_a_topic_that_is_missing_and_not_to_be_made(log_url, topic):
    async with leveret.log.connect(f"{log_url}?create_topics=false") as log, log.producer() as producer:
        with pytest.raises(leveret.log.UnknownTopic, match=f"topic '{topic}': UNKNOWN_TOPIC_OR_PARTITION"):
            await producer.send(topic, b"x")
        await log.create_topic(topic)
        assert (await producer.send(topic, b"x")).offset == 0


@on_both_backends
async def test_what_no_record_can_be(log_url, topic):
    async with leveret.log.connect(log_url) as log, log.producer(memory_max=1000) as producer:
        for arguments, text in [
            ({"value": "text"}, "bytes or None"),
            ({"value": b"", "key": "text"}, "bytes or None"),
            ({"value": b"", "headers": {"a": "text"}}, "headers"),
            ({"value": b"", "headers": [(b"a", b"b")]}, "headers"),
            ({"value": b"", "timestamp": -1}, "timestamp"),
            ({"value": b"", "timestamp": 1 << 63}, "timestamp"),
            ({"value": b"", "partition": 1}, "partitions 0 to 0, and not 1"),
            ({"value": b"", "partition": -1}, "partitions 0 to 0, and not -1"),
            ({"value": b"", "partition": 0.0}, r"partitions 0 to 0, and not 0\.0"),
            ({"value": b"", "headers": {"\ud800": b""}}, "headers of a record are texts"),
            ({"value": b"", "timestamp": 1.5}, r"a number of milliseconds since 1970, and not 1\.5"),
            ({"value": b"x" * 1000}, "all the memory"),
        ]:
            with pytest.raises(leveret.log.InvalidValue, match=text):
                await producer.send(topic, **arguments)
        for name in ("", "x" * 250):
            with pytest.raises(leveret.log.InvalidValue, match="1 to 249 octets"):
                await producer.send(name, b"")
        with pytest.raises(leveret.log.BrokerError, match="INVALID_TOPIC"):
            await producer.send("no/topic", b"")
        await producer.send(topic, b"")  # none of them has ended it


@on_both_backends
async def test_what_no_producer_can_be(log_url):
    async with leveret.log.connect(log_url) as log:
        for options in (
            {"compression": "rar"},
            {"linger_ms": -1},
            {"batch_size": 0},
            {"memory_max": 0},
            {"timeout": 0},
        ):
            with pytest.raises(leveret.log.InvalidValue):
                log.producer(**options)
        producer = log.producer()
        with pytest.raises(RuntimeError, match="not open"):
            await producer.send("a", b"")
        async with producer:
            pass
        with pytest.raises(SendFailed, match="closed"):
            await producer.send("a", b"")
        with pytest.raises(RuntimeError, match="once"):
            await producer.__aenter__()
    assert TopicPartition("a", 1) == ("a", 1)
