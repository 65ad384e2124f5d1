"""aiokafka against a real broker."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, MessageSizeTooLargeError
from aiokafka.structs import OffsetAndMetadata

from patience import PROGRAM_S
from recent import RECENT_MS


class Clients:
    """Clients of one broker, which are stopped together."""

    def __init__(self, bootstrap, group):
        self.bootstrap = bootstrap
        self.group = group
        self._running = AsyncExitStack()

    async def __aenter__(self):
        return self

    async def __aexit__(self, *error):
        await self._running.aclose()

    async def producer(self, **settings):
        return await self._start(AIOKafkaProducer(bootstrap_servers=self.bootstrap, **settings))

    async def consumer(self, *topics, **settings):
        """Of the group; from the first record on, and commits nothing of itself."""
        common = {
            "bootstrap_servers": self.bootstrap,
            "group_id": self.group,
            "auto_offset_reset": "earliest",
            "enable_auto_commit": False,
            "session_timeout_ms": 6000,
            "heartbeat_interval_ms": 200,
            "fetch_max_wait_ms": 100,
        }
        return await self._start(AIOKafkaConsumer(*topics, **{**common, **settings}))

    async def admin(self):
        client = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        self._running.push_async_callback(client.close)
        await client.start()
        return client

    async def _start(self, client):
        self._running.push_async_callback(client.stop)  # a second time is harmless
        await client.start()
        return client


@pytest.fixture
def run(log_broker, topic):
    """Runs a scenario, for so long at most; it gets clients."""

    def run(scenario):
        async def bounded():
            async with asyncio.timeout(PROGRAM_S), Clients(log_broker.bootstrap, topic) as clients:
                await scenario(clients)

        asyncio.run(bounded())

    return run


async def produce(client, topic, values, **arguments):
    """All of them, acknowledged; returns where they are."""
    return await asyncio.gather(*[await client.send(topic, value, **arguments) for value in values])


async def take(client, count):
    found = []
    while len(found) < count:
        for records in (await client.getmany(timeout_ms=100, max_records=count - len(found))).values():
            found += records
    return found


async def until(is_so):
    while not is_so():  # noqa: ASYNC110 - clients tell nobody
        await asyncio.sleep(0.01)


def numbers(count):
    return [b"%d" % number for number in range(count)]


@pytest.mark.parametrize("idempotent", [False, True])
@pytest.mark.parametrize("codec", [None, "gzip", "snappy", "lz4", "zstd"])
def test_what_was_produced_is_read(run, topic, codec, idempotent):
    async def scenario(clients):
        producer = await clients.producer(compression_type=codec, enable_idempotence=idempotent, linger_ms=5)
        values = [b"%d:" % number + b"compressible" * 20 for number in range(200)]
        found = await produce(producer, topic, values, partition=0)
        assert [one.offset for one in found] == list(range(200))
        consumer = await clients.consumer(topic)
        assert [(one.offset, one.value) for one in await take(consumer, 200)] == list(enumerate(values))

    run(scenario)


def test_keys_headers_and_times(run, topic):
    async def scenario(clients):
        producer = await clients.producer()
        headers = [("a", b"1"), ("a", b"2"), ("empty", b""), ("ü", "ü".encode())]
        arguments = {"key": b"key", "headers": headers, "timestamp_ms": RECENT_MS, "partition": 0}
        [found] = await produce(producer, topic, [b"value"], **arguments)
        assert (found.partition, found.offset, found.timestamp) == (0, 0, RECENT_MS)
        await produce(producer, topic, [None], key=b"gone", partition=0)
        first, second = await take(await clients.consumer(topic), 2)
        assert (first.key, first.value, list(first.headers)) == (b"key", b"value", headers)
        assert first.timestamp == RECENT_MS
        assert (second.key, second.value, list(second.headers)) == (b"gone", None, [])

    run(scenario)


@pytest.mark.parametrize("acks", [0, 1, "all"])
def test_acks(run, topic, acks):
    async def scenario(clients):
        await produce(await clients.producer(acks=acks), topic, numbers(50), partition=0)
        found = await take(await clients.consumer(topic), 50)
        assert [one.value for one in found] == numbers(50)

    run(scenario)


def test_a_value_that_is_too_large(run, topic):
    async def scenario(clients):
        producer = await clients.producer(max_request_size=4_000_000)
        with pytest.raises(MessageSizeTooLargeError):
            await produce(producer, topic, [bytes(1024 * 1024 + 200)])

    run(scenario)


def test_iterating_seeking_and_positions(run, topic):
    async def scenario(clients):
        await produce(await clients.producer(), topic, numbers(50), partition=0)
        consumer = await clients.consumer(group_id=None)
        partition = TopicPartition(topic, 0)
        consumer.assign([partition])
        seen = []
        async for record in consumer:
            seen.append(record.offset)
            if len(seen) == 50:
                break
        assert seen == list(range(50))
        assert await consumer.position(partition) == 50
        assert consumer.highwater(partition) == 50
        consumer.seek(partition, 40)
        assert (await consumer.getone()).value == b"40"
        await consumer.seek_to_beginning(partition)
        assert (await consumer.getone()).value == b"0"
        await consumer.seek_to_end(partition)
        assert await consumer.position(partition) == 50

    run(scenario)


def test_offsets(run, topic):
    async def scenario(clients):
        producer = await clients.producer(linger_ms=50)
        for number, value in enumerate(numbers(10)):
            await producer.send(topic, value, partition=0, timestamp_ms=RECENT_MS + 1000 * number)
        await producer.flush()
        consumer = await clients.consumer()
        partitions = [TopicPartition(topic, number) for number in range(3)]
        assert await consumer.beginning_offsets(partitions) == dict.fromkeys(partitions, 0)
        assert await consumer.end_offsets(partitions) == dict(zip(partitions, [10, 0, 0], strict=True))
        found = await consumer.offsets_for_times({partitions[0]: RECENT_MS + 3_500, partitions[1]: 0})
        assert (found[partitions[0]].offset, found[partitions[0]].timestamp) == (4, RECENT_MS + 4_000)
        assert found[partitions[1]] is None

    run(scenario)


def test_commits(run, topic):
    async def scenario(clients):
        producer = await clients.producer()
        await produce(producer, topic, numbers(10), partition=0)
        partition = TopicPartition(topic, 0)
        first = await clients.consumer(topic)
        await take(first, 10)
        await first.commit({partition: OffsetAndMetadata(4, "four: ü")})
        assert await first.committed(partition) == 4
        await first.stop()
        second = await clients.consumer(topic)
        assert [one.value for one in await take(second, 6)] == numbers(10)[4:]
        await second.commit()
        await second.stop()
        automatic = await clients.consumer(topic, enable_auto_commit=True)
        await produce(producer, topic, [b"10", b"11"], partition=0)
        assert [one.value for one in await take(automatic, 2)] == [b"10", b"11"]
        await automatic.stop()
        assert await (await clients.consumer()).committed(partition) == 12

    run(scenario)


def test_partitions_are_shared_out(run, topic):
    async def scenario(clients):
        producer = await clients.producer()
        everything = [(number, value) for number in range(3) for value in numbers(10)]
        for number, value in everything:
            await produce(producer, topic, [value], partition=number)
        members = [await clients.consumer(topic) for _ in range(3)]

        def sizes():
            return sorted(len(member.assignment()) for member in members)

        await until(lambda: sizes() == [1, 1, 1])
        taken = await asyncio.gather(*(take(member, 10) for member in members))
        found = sorted((one.partition, int(one.value)) for records in taken for one in records)
        assert found == [(number, int(value)) for number, value in everything]
        for member in members:
            await member.commit()
        await members.pop().stop()
        await until(lambda: sizes() == [1, 2])
        await members.pop().stop()
        await until(lambda: sizes() == [3])
        await produce(producer, topic, [b"last"], partition=1)
        assert [one.value for one in await take(members[0], 1)] == [b"last"]

    run(scenario)


def test_a_listener_and_a_pattern(run, topic):
    heard = []

    class Listener(ConsumerRebalanceListener):
        def on_partitions_revoked(self, revoked):
            heard.append(("revoked", len(revoked)))

        def on_partitions_assigned(self, assigned):
            heard.append(("assigned", len(assigned)))

    async def scenario(clients):
        await produce(await clients.producer(), f"{topic}.one", [b"one"])
        consumer = await clients.consumer()
        consumer.subscribe(pattern=f"^{topic}[.].*", listener=Listener())
        assert [one.value for one in await take(consumer, 1)] == [b"one"]
        await consumer.stop()
        assert [one for one in heard if one[1]] == [("assigned", 3)]

    run(scenario)


def test_a_static_member(run, topic):
    async def scenario(clients):
        producer = await clients.producer()
        await produce(producer, topic, [b"one"], partition=0)
        first = await clients.consumer(topic, group_instance_id="static")
        assert [one.value for one in await take(first, 1)] == [b"one"]
        await first.commit()
        await first.stop()
        again = await clients.consumer(topic, group_instance_id="static")
        await produce(producer, topic, [b"two"], partition=0)
        assert [one.value for one in await take(again, 1)] == [b"two"]

    run(scenario)


def test_the_admin_client(run, topic):
    async def scenario(clients):
        admin = await clients.admin()
        await admin.create_topics([NewTopic(topic, 2, 1, topic_configs={"retention.ms": "100000"})])
        await admin.create_partitions({topic: NewPartitions(4)})
        [described] = await admin.describe_topics([topic])
        assert len(described["partitions"]) == 4
        resource = ConfigResource(ConfigResourceType.TOPIC, topic)
        [answer] = await admin.describe_configs([resource])
        found = {entry[0]: entry[1] for entry in answer.resources[0][4]}
        assert found["retention.ms"] == "100000"
        changed = ConfigResource(ConfigResourceType.TOPIC, topic, {"max.message.bytes": "1000"})
        await admin.alter_configs([changed])
        await produce(await clients.producer(), topic, numbers(10), partition=0)
        consumer = await clients.consumer(topic)
        await take(consumer, 10)
        await consumer.commit()
        assert (topic, "consumer") in await admin.list_consumer_groups()
        await consumer.stop()
        offsets = await admin.list_consumer_group_offsets(topic)
        assert offsets[TopicPartition(topic, 0)].offset == 10
        await admin.delete_records({TopicPartition(topic, 0): RecordsToDelete(4)})
        assert await (await clients.consumer()).beginning_offsets([TopicPartition(topic, 0)]) == {
            TopicPartition(topic, 0): 4
        }
        await admin.delete_topics([topic])
        assert topic not in await admin.list_topics()

    run(scenario)


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_logging_in(run, topic, mechanism):
    login = {
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": mechanism,
        "sasl_plain_username": "guest",
        "sasl_plain_password": "guest",
    }

    async def scenario(clients):
        await produce(await clients.producer(**login), topic, [b"one"])
        assert [one.value for one in await take(await clients.consumer(topic, **login), 1)] == [b"one"]
        with pytest.raises(KafkaError):
            await clients.producer(**{**login, "sasl_plain_password": "wrong"})

    run(scenario)


def test_an_idempotent_producer_goes_on_after_a_restart(returning_log_broker, topic):
    async def scenario():
        async with asyncio.timeout(PROGRAM_S), Clients(returning_log_broker.bootstrap, topic) as clients:
            producer = await clients.producer(enable_idempotence=True)
            await produce(producer, topic, numbers(10))
            await asyncio.to_thread(returning_log_broker.kill)
            sent = [await producer.send(topic, b"%d" % number) for number in range(10, 20)]
            await asyncio.to_thread(returning_log_broker.start)
            assert [one.offset for one in await asyncio.gather(*sent)] == list(range(10, 20))
            found = await take(await clients.consumer(topic), 20)
            assert [(one.offset, one.value) for one in found] == list(enumerate(numbers(20)))

    asyncio.run(scenario())
