"""The same data from both sides: pika and librdkafka on one topic of a real broker."""

from __future__ import annotations

import pika
import pytest
from confluent_kafka import TopicPartition

from confluent import consumer, produce, producer, take
from patience import WAIT_S
from process import BrokerProcess

STREAM = {"x-queue-type": "stream"}
CONFIG = """
[[exchange]]
name = "events"
type = "topic"

[[topic]]
name = "clicks"
partitions = 3

[[binding]]
source = "events"
destination = "clicks"
destination_type = "topic"
routing_key = "click.#"
"""


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    with BrokerProcess(tmp_path_factory.mktemp("both"), config=CONFIG, kafka=True) as running:
        yield running
        assert "ERROR" not in running.log.read_text()


@pytest.fixture
def channel(broker):
    host, port = broker.amqp
    with pika.BlockingConnection(pika.ConnectionParameters(host, port)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        yield channel
        if channel.is_open:
            channel.cancel()


@pytest.fixture
def reader(broker, topic):
    client = consumer(broker.bootstrap, topic)
    yield client
    client.close()


def read(channel, name, count, **arguments):
    channel.basic_qos(prefetch_count=10)
    found = []
    arguments = {"x-stream-offset": "first", **arguments}
    for method, properties, body in channel.consume(name, arguments=arguments, inactivity_timeout=WAIT_S):
        assert method is not None, f"{len(found)} of {count} came"
        found.append((properties, body))
        channel.basic_ack(method.delivery_tag)
        if len(found) == count:
            break
    channel.cancel()
    return found


def test_what_amqp_publishes_kafka_reads(broker, channel, topic, reader):
    channel.queue_declare(topic, durable=True, arguments=STREAM)
    for number in range(100):
        properties = pika.BasicProperties(headers={"number": number, "name": f"n{number}"}, delivery_mode=2)
        channel.basic_publish("", topic, b"%d" % number, properties)
    reader.assign([TopicPartition(topic, 0, 0)])
    found = take(reader, 100)
    assert [message.value() for message in found] == [b"%d" % number for number in range(100)]
    assert [message.offset() for message in found] == list(range(100))
    headers = dict(found[7].headers())
    assert (headers["number"], headers["name"]) == (b"7", b"n7")
    assert found[7].key() == topic.encode()


def test_what_kafka_produces_amqp_reads(broker, channel, topic):
    channel.queue_declare(topic, durable=True, arguments=STREAM)
    client = producer(broker.bootstrap, compression_codec="zstd", linger_ms=5)
    values = [b"%d" % number * 100 for number in range(1000)]
    produce(client, topic, values, key=b"k", headers={"h": b"v"})
    found = read(channel, topic, 1000)
    assert [body for _, body in found] == values
    assert [properties.headers["x-stream-offset"] for properties, _ in found] == list(range(1000))
    assert found[0][0].headers == {"h": "v", "x-partition-key": "k", "x-stream-offset": 0}


def test_both_see_the_same_offsets(broker, channel, topic, reader):
    channel.queue_declare(topic, durable=True, arguments=STREAM)
    client = producer(broker.bootstrap)
    expected = []
    for number in range(20):
        value = b"%d" % number
        if number % 2:
            produce(client, topic, [value], partition=0)
        else:
            channel.basic_publish("", topic, value)
        expected.append(value)
    reader.assign([TopicPartition(topic, 0, 0)])
    theirs = [(message.offset(), message.value()) for message in take(reader, 20)]
    ours = [(properties.headers["x-stream-offset"], body) for properties, body in read(channel, topic, 20)]
    assert theirs == ours == list(enumerate(expected))


def test_an_exchange_feeds_a_topic_that_the_file_declares(broker, channel, reader):
    users = ["alice", "bob", "carol", "dave", "erin"]
    for user in users:
        for number in range(3):
            properties = pika.BasicProperties(headers={"x-partition-key": user})
            channel.basic_publish("events", "click.left", f"{user} {number}".encode(), properties)
        channel.basic_publish("events", "scroll", b"not this")
    reader.subscribe(["clicks"])
    found = take(reader, 15)
    by_partition = {}
    for message in found:
        by_partition.setdefault(message.key().decode(), set()).add(message.partition())
    assert sorted(by_partition) == users
    assert all(len(partitions) == 1 for partitions in by_partition.values())
    # What librdkafka's own murmur2 says of the same keys.
    client = producer(broker.bootstrap, partitioner="murmur2_random")
    for user in users:
        ((partition, _),) = produce(client, "clicks", [b"by kafka"], key=user.encode())
        assert {partition} == by_partition[user]


def test_a_partitioned_topic_is_read_over_amqp(broker, channel, topic):
    client = producer(broker.bootstrap)
    produce(client, "clicks", [b"one more"], key=b"zoe")
    found = read(channel, "clicks", 1, **{"x-stream-offset": "last"})
    assert found[0][0].headers["x-stream-partition"] in (0, 1, 2)
