"""librdkafka, by confluent-kafka, against a real broker: producing, and reading without a group's help."""

from __future__ import annotations

import itertools
import json
import threading

import pytest
from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    TIMESTAMP_CREATE_TIME,
    KafkaError,
    KafkaException,
    TopicPartition,
)

from confluent import WAIT_S, consumer, poll, produce, producer, take
from recent import RECENT_MS


@pytest.fixture
def sender(log_broker):
    return producer(log_broker.bootstrap)


@pytest.fixture
def reader(log_broker, topic):
    """A consumer that is alone in its group."""
    client = consumer(log_broker.bootstrap, topic)
    yield client
    client.close()


def numbers(count):
    return [b"%d" % number for number in range(count)]


@pytest.mark.parametrize("idempotent", [False, True])
@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_what_was_produced_is_read(log_broker, topic, reader, codec, idempotent):
    client = producer(
        log_broker.bootstrap, compression_codec=codec, enable_idempotence=idempotent, linger_ms=5
    )
    values = [b"%d:" % number + b"compressible" * 20 for number in range(500)]
    places = produce(client, topic, values, partition=1)
    assert places == [(1, number) for number in range(500)]
    reader.assign([TopicPartition(topic, 1, 0)])
    found = take(reader, 500)
    assert [message.value() for message in found] == values
    assert [message.offset() for message in found] == list(range(500))


def test_compressed_batches_arrive_as_such(log_broker, topic):
    """A codec that the broker had not told of would be left out without a word."""
    seen = threading.Event()
    sizes = []

    def note(text):
        topics = json.loads(text)["topics"]
        if topic in topics and topics[topic]["batchsize"]["cnt"]:
            sizes.append(topics[topic]["batchsize"]["max"])
            seen.set()

    client = producer(
        log_broker.bootstrap,
        compression_codec="zstd",
        statistics_interval_ms=50,
        stats_cb=note,
        linger_ms=50,
    )
    produce(client, topic, [bytes(1000)] * 100, partition=0)
    for _ in range(int(WAIT_S / 0.05)):
        if not seen.is_set():
            client.poll(0.05)
    assert max(sizes) < 10_000


def test_keys_headers_and_times(sender, reader, topic):
    headers = [("a", b"1"), ("a", b"2"), ("empty", b""), ("none", None), ("ü", "ü".encode())]
    arguments = {"key": b"key", "headers": headers, "timestamp": RECENT_MS}
    [(partition, _)] = produce(sender, topic, [b"value"], **arguments)
    [(_, _)] = produce(sender, topic, [None], key=b"", partition=partition)
    reader.assign([TopicPartition(topic, partition, 0)])
    first, second = take(reader, 2)
    assert (first.key(), first.value(), first.headers()) == (b"key", b"value", headers)
    assert first.timestamp() == (TIMESTAMP_CREATE_TIME, RECENT_MS)
    assert (second.key(), second.value(), second.headers()) == (b"", None, None)


def test_equal_keys_are_in_one_partition_and_in_order(sender, reader, topic):
    for round in range(20):
        for key in (b"a", b"b", b"c", b"d"):
            sender.produce(topic, b"%d" % round, key=key)
    assert sender.flush(WAIT_S) == 0
    reader.subscribe([topic])
    seen = {}
    for message in take(reader, 80):
        seen.setdefault((message.key(), message.partition()), []).append(message.value())
    assert sorted(key for key, _ in seen) == [b"a", b"b", b"c", b"d"]
    assert all(values == numbers(20) for values in seen.values())


@pytest.mark.parametrize("acks", ["0", "1", "all"])
def test_acks(log_broker, reader, topic, acks):
    client = producer(log_broker.bootstrap, acks=acks)
    places = produce(client, topic, numbers(50), partition=2)
    if acks != "0":  # or nobody has said where they are
        assert places == [(2, number) for number in range(50)]
    reader.assign([TopicPartition(topic, 2, 0)])
    assert [message.value() for message in take(reader, 50)] == numbers(50)


def test_many_threads_produce(sender, reader, topic):
    def run(thread):
        for number in range(500):
            sender.produce(topic, b"%d" % number, key=b"%d" % thread)

    threads = [threading.Thread(target=run, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sender.flush(WAIT_S) == 0
    reader.subscribe([topic])
    seen = {}
    for message in take(reader, 2000):
        seen.setdefault(message.key(), []).append(message.value())
    assert seen == {b"%d" % thread: numbers(500) for thread in range(4)}


def test_a_value_that_is_nearly_too_large_and_one_that_is(log_broker, reader, topic):
    client = producer(log_broker.bootstrap, message_max_bytes=4_000_000)
    value = bytes(1024 * 1024 - 200)
    assert produce(client, topic, [value], partition=0) == [(0, 0)]
    with pytest.raises(KafkaException) as caught:
        produce(client, topic, [bytes(1024 * 1024 + 200)], partition=0)
    assert caught.value.args[0].code() == KafkaError.MSG_SIZE_TOO_LARGE
    reader.assign([TopicPartition(topic, 0, 0)])
    assert take(reader, 1)[0].value() == value


def test_a_batch_that_is_larger_than_a_fetch_comes_anyway(log_broker, sender, topic):
    produce(sender, topic, [bytes(500_000), b"small"], partition=0)
    settings = {"fetch_message_max_bytes": 1000, "fetch_max_bytes": 1000, "message_max_bytes": 1000}
    client = consumer(log_broker.bootstrap, topic, **settings)
    client.assign([TopicPartition(topic, 0, 0)])
    assert [len(message.value()) for message in take(client, 2)] == [500_000, 5]
    client.close()


def test_a_fetch_waits_for_what_comes_later(sender, reader, topic):
    produce(sender, topic, [b"before"], partition=0)
    reader.assign([TopicPartition(topic, 0, 0)])
    assert take(reader, 1)[0].value() == b"before"
    assert reader.poll(0.3) is None
    produce(sender, topic, [b"later"], partition=0)
    assert take(reader, 1)[0].value() == b"later"


def test_from_the_end_on(sender, reader, topic):
    produce(sender, topic, [b"before"] * 10, partition=0)
    reader.assign([TopicPartition(topic, 0, OFFSET_END)])
    found = []
    produced = itertools.count(10)
    # When the client asks for the end is its own affair.
    poll(
        reader,
        lambda: found or not produce(sender, topic, [b"%d" % next(produced)], partition=0),
        found.append,
    )
    assert found[0].value() == b"%d" % found[0].offset()


def test_seek(sender, reader, topic):
    produce(sender, topic, numbers(100), partition=0)
    reader.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
    assert take(reader, 100)[-1].offset() == 99
    reader.seek(TopicPartition(topic, 0, 40))
    assert [message.value() for message in take(reader, 3)] == [b"40", b"41", b"42"]
    reader.seek(TopicPartition(topic, 0, OFFSET_BEGINNING))
    assert take(reader, 1)[0].value() == b"0"


def test_an_offset_inside_a_batch(log_broker, reader, topic):
    """The whole batch comes, and the client passes over what it did not ask for."""
    client = producer(log_broker.bootstrap, linger_ms=50, compression_codec="lz4")
    produce(client, topic, numbers(100), partition=0)
    for offset in (99, 57):
        reader.assign([TopicPartition(topic, 0, offset)])
        assert take(reader, 1)[0].value() == b"%d" % offset


def test_an_offset_that_is_not_there(log_broker, sender, topic):
    produce(sender, topic, numbers(10), partition=0)
    client = consumer(log_broker.bootstrap, topic, auto_offset_reset="error")
    client.assign([TopicPartition(topic, 0, 1000)])
    with pytest.raises(KafkaException) as caught:
        take(client, 1)
    assert caught.value.args[0].code() == KafkaError._AUTO_OFFSET_RESET
    client.close()
    client = consumer(log_broker.bootstrap, topic)
    client.assign([TopicPartition(topic, 0, 1000)])
    assert [message.offset() for message in take(client, 10)] == list(range(10))
    client.close()


def test_watermarks_and_lag(sender, reader, topic):
    produce(sender, topic, numbers(10), partition=0)
    assert reader.get_watermark_offsets(TopicPartition(topic, 0), timeout=WAIT_S) == (0, 10)
    assert reader.get_watermark_offsets(TopicPartition(topic, 1), timeout=WAIT_S) == (0, 0)
    reader.assign([TopicPartition(topic, 0, 0)])
    take(reader, 10)
    assert reader.get_watermark_offsets(TopicPartition(topic, 0), cached=True) == (0, 10)
    assert reader.position([TopicPartition(topic, 0)])[0].offset == 10


def test_offsets_for_times(log_broker, reader, topic):
    """Exactly the first record that is not older, though several are in one batch."""
    client = producer(log_broker.bootstrap, linger_ms=50)
    for number in range(10):
        client.produce(topic, b"%d" % number, partition=0, timestamp=RECENT_MS + 1000 * number)
    assert client.flush(WAIT_S) == 0
    asked = {
        1_600_000_000_000: 0,
        RECENT_MS: 0,
        RECENT_MS + 4_000: 4,
        RECENT_MS + 4_001: 5,
        RECENT_MS + 9_000: 9,
    }
    for time, offset in asked.items():
        [found] = reader.offsets_for_times([TopicPartition(topic, 0, time)], timeout=WAIT_S)
        assert (found.offset, found.error) == (offset, None)
    [found] = reader.offsets_for_times([TopicPartition(topic, 0, RECENT_MS + 9_001)], timeout=WAIT_S)
    assert found.offset == OFFSET_END


def test_metadata(log_broker, sender, topic):
    produce(sender, topic, [b""], partition=0)
    found = sender.list_topics(timeout=WAIT_S)
    host, port = log_broker.bootstrap.split(":")
    assert [(one.host, str(one.port)) for one in found.brokers.values()] == [(host, port)]
    assert found.controller_id in found.brokers
    assert found.cluster_id
    described = found.topics[topic]
    assert described.error is None
    assert sorted(described.partitions) == [0, 1, 2]
    assert {one.leader for one in described.partitions.values()} == set(found.brokers)


def test_names_that_no_topic_may_have(sender):
    with pytest.raises(KafkaException) as caught:
        produce(sender, "not allowed", [b""])
    # The second if the answer comes while the record is being handed over.
    assert caught.value.args[0].code() in (KafkaError.TOPIC_EXCEPTION, KafkaError._UNKNOWN_TOPIC)


def test_idempotent_producers_do_not_mind_each_other(log_broker, reader, topic):
    clients = [producer(log_broker.bootstrap, enable_idempotence=True) for _ in range(3)]
    for number in range(200):
        for index, client in enumerate(clients):
            client.produce(topic, b"%d" % number, key=b"%d" % index, partition=0)
    assert [client.flush(WAIT_S) for client in clients] == [0, 0, 0]
    reader.assign([TopicPartition(topic, 0, 0)])
    seen = {}
    found = take(reader, 600)
    assert [message.offset() for message in found] == list(range(600))
    for message in found:
        seen.setdefault(message.key(), []).append(message.value())
    assert seen == {b"%d" % index: numbers(200) for index in range(3)}


def test_producing_and_reading_go_on_after_a_restart(returning_log_broker, topic):
    bootstrap = returning_log_broker.bootstrap
    client = producer(bootstrap, enable_idempotence=True, reconnect_backoff_max_ms=100)
    reader = consumer(bootstrap, topic, reconnect_backoff_max_ms=100)
    assert produce(client, topic, numbers(10), partition=0) == [(0, number) for number in range(10)]
    reader.assign([TopicPartition(topic, 0, 0)])
    assert [message.value() for message in take(reader, 10)] == numbers(10)
    assert returning_log_broker.stop() == 0
    for number in range(10, 20):
        client.produce(topic, b"%d" % number, partition=0)
    returning_log_broker.start()
    assert client.flush(WAIT_S) == 0
    found = take(reader, 10)
    assert [(message.offset(), message.value()) for message in found] == [
        (number, b"%d" % number) for number in range(10, 20)
    ]
    reader.close()


def test_transactions_are_refused_at_once(log_broker):
    """Other errors would only be heard of when there is no more time."""
    client = producer(log_broker.bootstrap, transactional_id="mine")
    with pytest.raises(KafkaException) as caught:
        client.init_transactions(WAIT_S)
    (error,) = caught.value.args
    assert error.code() == KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED
    assert error.fatal()
    assert "this broker has no transactions yet" in error.str()
