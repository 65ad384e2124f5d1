"""librdkafka's admin client, by confluent-kafka, against a real broker; and logging in."""

from __future__ import annotations

import time

import pytest
from confluent_kafka import (
    ConsumerGroupState,
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ConfigSource,
    NewPartitions,
    NewTopic,
    OffsetSpec,
    ResourceType,
)

from confluent import WAIT_S, consumer, poll, produce, producer, spread, take
from process import BrokerProcess
from recent import RECENT_MS


@pytest.fixture
def admin(log_broker):
    return AdminClient({"bootstrap.servers": log_broker.bootstrap, "log_level": 0})


@pytest.fixture
def group(log_broker, admin, topic):
    """A group that has committed 5 of 10 records, and has nobody in it any more."""
    produce(producer(log_broker.bootstrap), topic, [b"%d" % number for number in range(10)], partition=0)
    member = consumer(log_broker.bootstrap, topic)
    member.subscribe([topic])
    take(member, 10)
    member.commit(offsets=[TopicPartition(topic, 0, 5, metadata="five")], asynchronous=False)
    member.close()
    return topic


def result(futures):
    """What the only one of them comes to."""
    [future] = futures.values()
    return future.result(WAIT_S)


def code_of(caught):
    return caught.value.args[0].code()


def refusal(futures):
    """The error that the only one of them comes to."""
    with pytest.raises(KafkaException) as caught:
        result(futures)
    return caught.value.args[0]


# ---- topics ----


def test_topics_come_and_go(admin, topic):
    result(admin.create_topics([NewTopic(topic, 5, 1, config={"retention.ms": "100000"})]))
    described = result(admin.describe_topics(TopicCollection([topic])))
    assert [one.id for one in described.partitions] == [0, 1, 2, 3, 4]
    assert described.topic_id is not None
    assert not described.is_internal
    assert refusal(admin.create_topics([NewTopic(topic, 5, 1)])).code() == KafkaError.TOPIC_ALREADY_EXISTS
    result(admin.delete_topics([topic]))
    assert topic not in admin.list_topics(timeout=WAIT_S).topics
    assert refusal(admin.delete_topics([topic])).code() == KafkaError.UNKNOWN_TOPIC_OR_PART


def test_a_topic_that_is_made_anew_is_another_one(admin, log_broker, topic):
    ids = []
    for number in range(2):
        result(admin.create_topics([NewTopic(topic, 1)]))
        ids.append(str(result(admin.describe_topics(TopicCollection([topic]))).topic_id))
        assert produce(producer(log_broker.bootstrap), topic, [b"%d" % number]) == [(0, 0)]
        result(admin.delete_topics([topic]))
    assert len(set(ids)) == 2


def test_several_topics_of_which_one_cannot_be(admin, topic):
    names = [f"{topic}.good", f"{topic} bad", f"{topic}.many"]
    wanted = [NewTopic(names[0], 1, 1), NewTopic(names[1], 1, 1), NewTopic(names[2], 1, 3)]
    made = admin.create_topics(wanted)
    assert made[names[0]].result(WAIT_S) is None
    for name, code in (
        (names[1], KafkaError.TOPIC_EXCEPTION),
        (names[2], KafkaError.INVALID_REPLICATION_FACTOR),
    ):
        with pytest.raises(KafkaException) as caught:
            made[name].result(WAIT_S)
        assert code_of(caught) == code
    assert set(names) & set(admin.list_topics(timeout=WAIT_S).topics) == {names[0]}


def test_what_is_only_checked_is_not_made(admin, topic):
    result(admin.create_topics([NewTopic(topic, 1)], validate_only=True))
    assert topic not in admin.list_topics(timeout=WAIT_S).topics
    wrong = NewTopic(topic, 1, config={"retention.ms": "soon"})
    assert refusal(admin.create_topics([wrong], validate_only=True)).code() == KafkaError.INVALID_CONFIG


def test_more_partitions(admin, log_broker, topic):
    result(admin.create_topics([NewTopic(topic, 2)]))
    member = consumer(log_broker.bootstrap, topic, topic_metadata_refresh_interval_ms=100)
    member.subscribe([topic])
    poll(member, spread([member], [2]))
    result(admin.create_partitions([NewPartitions(topic, 4)]))
    poll(member, spread([member], [4]))
    assert produce(producer(log_broker.bootstrap), topic, [b"new"], partition=3) == [(3, 0)]
    assert take(member, 1)[0].value() == b"new"
    member.close()
    assert refusal(admin.create_partitions([NewPartitions(topic, 4)])).code() == KafkaError.INVALID_PARTITIONS


def test_the_topic_of_a_consumer_is_deleted(admin, log_broker, topic):
    produce(producer(log_broker.bootstrap), topic, [b"one"], partition=0)
    member = consumer(
        log_broker.bootstrap, topic, topic_metadata_refresh_interval_ms=100, allow_auto_create_topics=False
    )
    member.subscribe([topic])
    take(member, 1)
    result(admin.delete_topics([topic]))
    with pytest.raises(KafkaException) as caught:
        poll(member, lambda: False)
    assert code_of(caught) == KafkaError.UNKNOWN_TOPIC_OR_PART
    member.close()


# ---- configurations ----


def configs(admin, topic):
    return result(admin.describe_configs([ConfigResource(ResourceType.TOPIC, topic)]))


def test_configurations(admin, topic):
    result(admin.create_topics([NewTopic(topic, 1, config={"retention.ms": "100000"})]))
    found = configs(admin, topic)
    assert (found["retention.ms"].value, found["retention.ms"].is_default) == ("100000", False)
    assert found["retention.ms"].source == ConfigSource.DYNAMIC_TOPIC_CONFIG.value
    assert (found["cleanup.policy"].value, found["cleanup.policy"].is_default) == ("delete", True)
    assert (found["segment.bytes"].value, found["segment.bytes"].is_read_only) == (str(2**26), False)
    changes = [
        ConfigEntry("retention.ms", None, incremental_operation=AlterConfigOpType.DELETE),
        ConfigEntry("cleanup.policy", "compact", incremental_operation=AlterConfigOpType.APPEND),
        ConfigEntry("max.message.bytes", "1000", incremental_operation=AlterConfigOpType.SET),
    ]
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=changes)
    result(admin.incremental_alter_configs([resource]))
    found = configs(admin, topic)
    assert (found["retention.ms"].value, found["retention.ms"].is_default) == (str(7 * 86_400_000), True)
    assert found["cleanup.policy"].value == "delete,compact"
    assert found["max.message.bytes"].value == "1000"


def test_configurations_that_cannot_be(admin, topic):
    result(admin.create_topics([NewTopic(topic, 1)]))
    for name, value in (("retention.ms", "soon"), ("no.such.thing", "1"), ("cleanup.policy", "burn")):
        change = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[change])
        assert refusal(admin.incremental_alter_configs([resource])).code() == KafkaError.INVALID_CONFIG
    missing = ConfigResource(ResourceType.TOPIC, f"{topic}.missing")
    assert refusal(admin.describe_configs([missing])).code() == KafkaError.UNKNOWN_TOPIC_OR_PART


def test_a_configuration_has_its_effect(admin, log_broker, topic):
    result(admin.create_topics([NewTopic(topic, 1, config={"max.message.bytes": "1000"})]))
    client = producer(log_broker.bootstrap)
    with pytest.raises(KafkaException) as caught:
        produce(client, topic, [bytes(2000)])
    assert code_of(caught) == KafkaError.MSG_SIZE_TOO_LARGE
    change = ConfigEntry("max.message.bytes", "3000", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[change])
    result(admin.incremental_alter_configs([resource]))
    assert produce(client, topic, [bytes(2000)]) == [(0, 0)]


def test_the_broker_is_described(admin):
    cluster = admin.describe_cluster().result(WAIT_S)
    [node] = cluster.nodes
    assert cluster.controller.id == node.id
    assert cluster.cluster_id == admin.list_topics(timeout=WAIT_S).cluster_id
    found = result(admin.describe_configs([ConfigResource(ResourceType.BROKER, str(node.id))]))
    assert found["num.partitions"].value == "3"
    assert found["auto.create.topics.enable"].value == "true"


# ---- records and offsets ----


def test_records_are_deleted(admin, log_broker, topic):
    produce(producer(log_broker.bootstrap), topic, [b"%d" % number for number in range(10)], partition=0)
    assert result(admin.delete_records([TopicPartition(topic, 0, 4)])).low_watermark == 4
    reader = consumer(log_broker.bootstrap, topic)
    assert reader.get_watermark_offsets(TopicPartition(topic, 0), timeout=WAIT_S) == (4, 10)
    reader.assign([TopicPartition(topic, 0, 0)])  # which is not there any more
    assert [message.offset() for message in take(reader, 6)] == [4, 5, 6, 7, 8, 9]
    reader.close()
    beyond = admin.delete_records([TopicPartition(topic, 0, 11)])
    assert refusal(beyond).code() == KafkaError.OFFSET_OUT_OF_RANGE
    assert result(admin.delete_records([TopicPartition(topic, 0, -1)])).low_watermark == 10


def test_offsets_are_listed(admin, log_broker, topic):
    client = producer(log_broker.bootstrap)
    for number in (3, 9, 5):
        produce(client, topic, [b""], partition=0, timestamp=RECENT_MS + number)
    asked = {
        OffsetSpec.earliest(): 0,
        OffsetSpec.latest(): 3,
        OffsetSpec.max_timestamp(): 1,
        OffsetSpec.for_timestamp(RECENT_MS + 4): 1,
    }
    for spec, offset in asked.items():
        found = result(
            admin.list_offsets(
                {TopicPartition(topic, 0): spec}, isolation_level=IsolationLevel.READ_COMMITTED
            )
        )
        assert found.offset == offset


# ---- groups ----


def test_groups_are_listed_and_described(admin, log_broker, topic):
    produce(producer(log_broker.bootstrap), topic, [b""], partition=0)
    member = consumer(log_broker.bootstrap, topic, client_id="me")
    member.subscribe([topic])
    take(member, 1)
    listed = {one.group_id: one for one in admin.list_consumer_groups().result(WAIT_S).valid}
    assert (listed[topic].state, listed[topic].is_simple_consumer_group) == (ConsumerGroupState.STABLE, False)
    described = result(admin.describe_consumer_groups([topic]))
    assert (described.state, described.partition_assignor) == (ConsumerGroupState.STABLE, "range")
    [found] = described.members
    assert (found.client_id, found.host) == ("me", "/127.0.0.1")
    assigned = {(one.topic, one.partition) for one in found.assignment.topic_partitions}
    assert assigned == {(topic, 0), (topic, 1), (topic, 2)}
    member.close()
    empty = admin.list_consumer_groups(states={ConsumerGroupState.EMPTY}).result(WAIT_S).valid
    assert topic in {one.group_id for one in empty}
    assert result(admin.describe_consumer_groups([topic])).members == []
    assert result(admin.describe_consumer_groups(["nobody"])).state == ConsumerGroupState.DEAD


def listed_offsets(admin, group, partitions=None):
    asked = [ConsumerGroupTopicPartitions(group, partitions)]
    found = result(admin.list_consumer_group_offsets(asked)).topic_partitions
    return {one.partition: (one.offset, one.metadata) for one in found}


def test_offsets_of_a_group_are_listed_and_altered(admin, group):
    assert listed_offsets(admin, group) == {0: (5, "five")}
    asked = [TopicPartition(group, number) for number in (0, 1)]
    assert listed_offsets(admin, group, asked)[0] == (5, "five")
    assert listed_offsets(admin, group, asked)[1][0] < 0
    changes = [TopicPartition(group, 0, 2), TopicPartition(group, 1, 0)]
    altered = result(admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(group, changes)]))
    assert [one.error for one in altered.topic_partitions] == [None, None]
    assert {number: offset for number, (offset, _) in listed_offsets(admin, group).items()} == {0: 2, 1: 0}


def test_a_group_goes_on_where_it_was_put(admin, log_broker, group):
    changes = [TopicPartition(group, 0, 7)]
    result(admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(group, changes)]))
    member = consumer(log_broker.bootstrap, group)
    member.subscribe([group])
    assert [message.offset() for message in take(member, 3)] == [7, 8, 9]
    refused = result(admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(group, changes)]))
    assert refused.topic_partitions[0].error.code() == KafkaError.UNKNOWN_MEMBER_ID
    member.close()


def test_groups_are_deleted(admin, log_broker, group):
    member = consumer(log_broker.bootstrap, group)
    member.subscribe([group])
    poll(member, spread([member], [3]))
    assert refusal(admin.delete_consumer_groups([group])).code() == KafkaError.NON_EMPTY_GROUP
    member.close()
    result(admin.delete_consumer_groups([group]))
    assert group not in {one.group_id for one in admin.list_consumer_groups().result(WAIT_S).valid}
    assert refusal(admin.delete_consumer_groups([group])).code() == KafkaError.GROUP_ID_NOT_FOUND


# ---- logging in ----

USER = """
[kafka]
anonymous_user = ""
[[user]]
name = "alice"
password = "secret"
[[user.permission]]
read = "^alice[.].*"
write = "^alice[.].*"
configure = "^alice[.].*"
"""


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """A broker of which nothing is to be had without a login."""
    with BrokerProcess(tmp_path_factory.mktemp("guarded"), config=USER, kafka=True) as running:
        yield running


def login(mechanism, password="secret", user="alice"):
    return {
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": mechanism,
        "sasl_username": user,
        "sasl_password": password,
    }


MECHANISMS = pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])


@MECHANISMS
def test_who_is_logged_in_does_what_is_his(guarded, mechanism):
    client = producer(guarded.bootstrap, **login(mechanism))
    produce(client, "alice.topic", [b"one"])
    reader = consumer(guarded.bootstrap, f"alice.{mechanism}", **login(mechanism))
    reader.subscribe(["alice.topic"])
    assert take(reader, 1)[0].value() == b"one"
    reader.close()
    with pytest.raises(KafkaException) as caught:
        produce(client, "bob.topic", [b"one"])
    assert code_of(caught) == KafkaError.TOPIC_AUTHORIZATION_FAILED
    stranger = consumer(guarded.bootstrap, "bob", **login(mechanism))
    stranger.subscribe(["alice.topic"])
    with pytest.raises(KafkaException) as caught:
        poll(stranger, lambda: False)
    assert code_of(caught) == KafkaError.GROUP_AUTHORIZATION_FAILED
    stranger.close()


@MECHANISMS
def test_a_wrong_password(guarded, mechanism):
    told = []
    settings = login(mechanism, password="wrong")
    client = producer(guarded.bootstrap, error_cb=lambda error: told.append(error.code()), **settings)
    client.produce("alice.topic", b"never")
    deadline = time.monotonic() + WAIT_S
    while KafkaError._AUTHENTICATION not in told:
        assert time.monotonic() < deadline
        client.poll(0.1)
    client.purge()
    assert client.flush(WAIT_S) == 0
