"""kafka-python, version 3, against a real broker."""

from __future__ import annotations

import json
import threading
import time
from contextlib import ExitStack, closing

import pytest

from kafka_python import (
    ConsumerRebalanceListener,
    KafkaAdminClient,
    KafkaConsumer,
    KafkaProducer,
    OffsetAndMetadata,
    OffsetSpec,
    TopicPartition,
    errors,
)
from kafka_python import admin as admins
from patience import WAIT_S
from process import ROOT
from program import Program
from recent import RECENT_MS


@pytest.fixture
def producer(log_broker):
    """Makes producers; idempotent ones, if nothing else is said."""
    with ExitStack() as made:

        def producer(**settings):
            return made.enter_context(
                closing(KafkaProducer(bootstrap_servers=log_broker.bootstrap, **settings))
            )

        yield producer


@pytest.fixture
def consumer(log_broker, topic):
    """Makes consumers of the test's own group, which begin with the first record and commit nothing."""
    common = {
        "bootstrap_servers": log_broker.bootstrap,
        "group_id": topic,
        "auto_offset_reset": "earliest",
        "enable_auto_commit": False,
        "session_timeout_ms": 6000,
        "heartbeat_interval_ms": 200,
        "fetch_max_wait_ms": 100,
        "metrics_enabled": False,
    }
    with ExitStack() as made:

        def consumer(*topics, **settings):
            client = made.enter_context(closing(KafkaConsumer(*topics, **{**common, **settings})))
            # A leader that shares out partitions before it has heard of them has been seen to hang afterwards, with
            # every answer there.
            for name in topics:
                client.partitions_for_topic(name)
            return client

        yield consumer


@pytest.fixture
def reader(consumer, topic):
    """One that reads the first partition from its beginning."""
    client = consumer(group_id=None)
    client.assign([TopicPartition(topic, 0)])
    return client


def produce(client, topic, values, **arguments):
    """All of them, acknowledged; returns where they are."""
    asked = [client.send(topic, value, **arguments) for value in values]
    return [one.get(WAIT_S) for one in asked]


def take(client, count):
    found = []
    deadline = time.monotonic() + WAIT_S
    while len(found) < count:
        assert time.monotonic() < deadline, f"only {len(found)} came"
        for records in client.poll(100, max_records=count - len(found)).values():
            found += records
    return found


def numbers(count):
    return [b"%d" % number for number in range(count)]


@pytest.mark.parametrize("idempotent", [False, True])
@pytest.mark.parametrize("codec", [None, "gzip", "snappy", "lz4", "zstd"])
def test_what_was_produced_is_read(producer, reader, topic, codec, idempotent):
    client = producer(compression_type=codec, enable_idempotence=idempotent, linger_ms=5)
    values = [b"%d:" % number + b"compressible" * 20 for number in range(200)]
    found = produce(client, topic, values, partition=0)
    assert [one.offset for one in found] == list(range(200))
    assert [(one.offset, one.value) for one in take(reader, 200)] == list(enumerate(values))


def test_keys_headers_and_times(producer, reader, topic):
    headers = [("a", b"1"), ("a", b"2"), ("empty", b""), ("ü", "ü".encode())]
    client = producer()
    arguments = {"key": b"key", "headers": headers, "timestamp_ms": RECENT_MS, "partition": 0}
    [found] = produce(client, topic, [b"value"], **arguments)
    assert (found.topic, found.partition, found.offset, found.timestamp) == (topic, 0, 0, RECENT_MS)
    produce(client, topic, [None], key=b"gone", partition=0)
    first, second = take(reader, 2)
    assert (first.key, first.value, list(first.headers)) == (b"key", b"value", headers)
    assert (first.timestamp, first.timestamp_type) == (RECENT_MS, 0)
    assert (second.key, second.value, list(second.headers)) == (b"gone", None, [])


@pytest.mark.parametrize("acks", [0, 1, "all"])
def test_acks(producer, reader, topic, acks):
    client = producer(acks=acks, enable_idempotence=False)
    produce(client, topic, numbers(50), partition=0)
    assert [one.value for one in take(reader, 50)] == numbers(50)


def test_seek_and_positions(producer, reader, topic):
    produce(producer(), topic, numbers(50), partition=0)
    partition = TopicPartition(topic, 0)
    assert take(reader, 50)[-1].offset == 49
    assert reader.position(partition) == 50
    reader.seek(partition, 40)
    assert [one.value for one in take(reader, 2)] == [b"40", b"41"]
    reader.seek_to_beginning(partition)
    assert take(reader, 1)[0].offset == 0
    reader.seek_to_end(partition)
    assert reader.position(partition) == 50


def test_offsets(producer, consumer, topic):
    client = producer(linger_ms=50)
    asked = [
        client.send(topic, value, partition=0, timestamp_ms=RECENT_MS + 1000 * number)
        for number, value in enumerate(numbers(10))
    ]
    assert [one.get(WAIT_S).offset for one in asked] == list(range(10))
    reader = consumer()
    partitions = [TopicPartition(topic, number) for number in range(3)]
    assert reader.partitions_for_topic(topic) == {0, 1, 2}
    assert reader.beginning_offsets(partitions) == dict.fromkeys(partitions, 0)
    assert reader.end_offsets(partitions) == dict(zip(partitions, [10, 0, 0], strict=True))
    found = reader.offsets_for_times({partitions[0]: RECENT_MS + 3_500, partitions[1]: 0})
    assert (found[partitions[0]].offset, found[partitions[0]].timestamp) == (4, RECENT_MS + 4_000)
    assert found[partitions[1]] is None


def test_a_fetch_session_of_several_partitions(producer, consumer, topic):
    """Which tells only what is new."""
    client = producer()
    reader = consumer(group_id=None)
    reader.assign([TopicPartition(topic, number) for number in range(3)])
    for round in range(5):
        for number in (0, 2, 1)[: 1 + round % 3]:
            produce(client, topic, [b"%d" % round], partition=number)
        found = take(reader, 1 + round % 3)
        assert {one.value for one in found} == {b"%d" % round}


def test_a_value_that_is_too_large(producer, topic):
    client = producer(max_request_size=4_000_000)
    with pytest.raises(errors.MessageSizeTooLargeError):
        produce(client, topic, [bytes(1024 * 1024 + 200)])


def test_partitions_are_shared_out(producer, consumer, topic):
    """Each member in a thread of its own, as its poll waits for the others."""
    client = producer()
    for number in range(3):
        produce(client, topic, numbers(10), partition=number)
    members = [consumer(topic) for _ in range(3)]
    owned = [set() for _ in members]
    shared, looked = threading.Barrier(4), threading.Barrier(4)

    def poll_until(index, is_so):
        while not is_so():
            members[index].poll(50)
            owned[index] = members[index].assignment()

    def run(index):
        poll_until(index, lambda: [len(one) for one in owned] == [1, 1, 1] and len(set().union(*owned)) == 3)
        shared.wait(WAIT_S)
        looked.wait(WAIT_S)
        if index == 2:
            members[index].close()
        else:
            poll_until(index, lambda: len(owned[0] | owned[1]) == 3)

    threads = [threading.Thread(target=run, args=(index,), daemon=True) for index in range(3)]
    for thread in threads:
        thread.start()
    shared.wait(WAIT_S)
    assert set().union(*owned) == {TopicPartition(topic, number) for number in range(3)}
    looked.wait(WAIT_S)
    for thread in threads:
        thread.join(WAIT_S)
        assert not thread.is_alive()
    assert sorted(map(len, owned[:2])) == [1, 2]


def test_commits(producer, consumer, topic):
    client = producer()
    produce(client, topic, numbers(10), partition=0)
    partition = TopicPartition(topic, 0)
    first = consumer(topic)
    take(first, 10)
    first.commit({partition: OffsetAndMetadata(4, "four: ü", -1)})
    assert first.committed(partition) == 4
    assert first.committed(partition, metadata=True).metadata == "four: ü"
    first.close()
    second = consumer(topic)
    assert [one.value for one in take(second, 6)] == numbers(10)[4:]
    second.commit()
    assert second.committed(partition) == 10
    second.close()
    automatic = consumer(topic, enable_auto_commit=True)
    produce(client, topic, [b"10", b"11"], partition=0)
    assert [one.value for one in take(automatic, 2)] == [b"10", b"11"]
    automatic.close()
    assert consumer().committed(partition) == 12


def test_a_listener_hears_of_partitions(consumer, producer, topic):
    heard = []

    class Listener(ConsumerRebalanceListener):
        def on_partitions_revoked(self, revoked):
            heard.append(("revoked", len(revoked)))

        def on_partitions_assigned(self, assigned):
            heard.append(("assigned", len(assigned)))

    produce(producer(), topic, [b""], partition=0)
    client = consumer()
    client.subscribe([topic], listener=Listener())
    take(client, 1)
    client.close()
    assert [one for one in heard if one[1]] == [("assigned", 3), ("revoked", 3)]


def test_a_static_member(consumer, producer, topic):
    produce(producer(), topic, [b"one"], partition=0)
    first = consumer(topic, group_instance_id="static")
    assert take(first, 1)[0].value == b"one"
    first.commit()
    first.close()
    again = consumer(topic, group_instance_id="static")
    produce(producer(), topic, [b"two"], partition=0)
    assert take(again, 1)[0].value == b"two"


# ---- the admin client ----


@pytest.fixture
def admin(log_broker):
    with closing(KafkaAdminClient(bootstrap_servers=log_broker.bootstrap)) as client:
        yield client


def test_topics_come_and_go(admin, topic):
    admin.create_topics({topic: {"num_partitions": 2, "configs": {"retention.ms": "100000"}}})
    [described] = admin.describe_topics([topic])
    assert [one["partition_index"] for one in described["partitions"]] == [0, 1]
    with pytest.raises(errors.TopicAlreadyExistsError):
        admin.create_topics([topic])
    admin.create_partitions({topic: 4})
    [described] = admin.describe_topics([topic])
    assert len(described["partitions"]) == 4
    assert topic in admin.list_topics()
    admin.delete_topics([topic])
    assert topic not in admin.list_topics()
    with pytest.raises(errors.UnknownTopicOrPartitionError):
        admin.delete_topics([topic])


def test_configurations(admin, topic):
    admin.create_topics({topic: {"num_partitions": 1, "configs": {"retention.ms": "100000"}}})

    def modified():
        resource = admins.ConfigResource(admins.ConfigResourceType.TOPIC, topic)
        [found] = admin.describe_configs([resource]).values()
        return {name: one["value"] for name, one in found[topic].items()}

    assert modified() == {"retention.ms": "100000"}
    changes = {"cleanup.policy": ("APPEND", "compact"), "max.message.bytes": "1000"}
    admin.alter_configs([admins.ConfigResource(admins.ConfigResourceType.TOPIC, topic, changes)])
    assert modified() == {
        "retention.ms": "100000",
        "cleanup.policy": "delete,compact",
        "max.message.bytes": "1000",
    }
    admin.reset_configs([admins.ConfigResource(admins.ConfigResourceType.TOPIC, topic, ["retention.ms"])])
    assert "retention.ms" not in modified()
    wrong = admins.ConfigResource(admins.ConfigResourceType.TOPIC, topic, {"retention.ms": "soon"})
    assert "InvalidConfigurationError: retention.ms" in admin.alter_configs([wrong])["topic"][topic]


def test_groups(admin, producer, consumer, topic):
    produce(producer(), topic, numbers(10), partition=0)
    member = consumer(topic, client_id="me")
    take(member, 10)
    partition = TopicPartition(topic, 0)
    member.commit({partition: OffsetAndMetadata(5, "five", -1)})
    assert topic in {one["group_id"] for one in admin.list_groups()}
    described = admin.describe_groups([topic])[topic]
    assert described["group_state"] == "Stable"
    assert [one["client_id"] for one in described["members"]] == ["me"]
    member.close()
    assert admin.describe_groups([topic])[topic]["group_state"] == "Empty"
    assert admin.list_group_offsets({topic: None})[topic][partition].offset == 5
    assert admin.alter_group_offsets(topic, {partition: OffsetAndMetadata(7, "", -1)}) == {
        partition: errors.NoError
    }
    assert admin.list_group_offsets({topic: None})[topic][partition].offset == 7
    admin.reset_group_offsets(topic, {partition: OffsetSpec.LATEST})
    assert admin.list_group_offsets({topic: None})[topic][partition].offset == 10
    assert admin.delete_group_offsets(topic, [partition]) == {partition: errors.NoError}
    assert partition not in admin.list_group_offsets({topic: None})[topic]
    assert admin.delete_groups([topic]) == {topic: "OK"}
    assert topic not in {one["group_id"] for one in admin.list_groups()}


def test_a_member_is_removed(admin, producer, consumer, topic):
    produce(producer(), topic, [b""], partition=0)
    member = consumer(topic, group_instance_id="static")
    take(member, 1)
    member.close()
    [left] = admin.describe_groups([topic])[topic]["members"]
    assert left["group_instance_id"] == "static"
    admin.remove_group_members(topic, [admins.MemberToRemove(group_instance_id="static")])
    assert admin.describe_groups([topic])[topic]["members"] == []


def test_records_and_offsets(admin, producer, topic):
    produce(producer(), topic, numbers(10), partition=0)
    partition = TopicPartition(topic, 0)
    assert admin.delete_records({partition: 4})[partition]["low_watermark"] == 4
    for spec, offset in ((OffsetSpec.EARLIEST, 4), (OffsetSpec.LATEST, 10)):
        assert admin.list_partition_offsets({partition: spec})[partition].offset == offset


def test_the_cluster(admin, log_broker, topic):
    found = admin.describe_cluster()
    [node] = found["brokers"]
    assert f"{node['host']}:{node['port']}" == log_broker.bootstrap
    assert found["controller_id"] == node["broker_id"]
    admin.create_topics([topic])
    [described] = admin.describe_log_dirs([topic])
    assert topic in str(described)
    assert topic in admin.list_config_resources(["TOPIC"])["topic"]


def login(mechanism, password):
    return {
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": mechanism,
        "sasl_plain_username": "guest",
        "sasl_plain_password": password,
    }


MECHANISMS = pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])


@MECHANISMS
def test_logging_in(producer, reader, topic, mechanism):
    produce(producer(**login(mechanism, "guest")), topic, [b"one"], partition=0)
    assert take(reader, 1)[0].value == b"one"


REFUSED = """
import json, logging, sys
from kafka_python import KafkaProducer
logging.basicConfig()
KafkaProducer(bootstrap_servers=sys.argv[1], bootstrap_timeout_ms=3_600_000, **json.loads(sys.argv[2]))
"""


@MECHANISMS
def test_a_wrong_password(log_broker, mechanism):
    """The client tries it again and again, says why in its log only, and leaves sockets behind."""
    environment = {"PYTHONPATH": str(ROOT / "tests")}
    arguments = (log_broker.bootstrap, json.dumps(login(mechanism, "wrong")))
    with Program("-c", REFUSED, *arguments, environment=environment) as program:
        program.line("SaslAuthenticationFailedError: authentication failed: no such user")
