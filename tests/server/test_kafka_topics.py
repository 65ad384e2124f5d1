"""Topics made, deleted and extended by Kafka's requests."""

from __future__ import annotations

from typing import Any

import pytest

from broker.kafka import api
from broker.kafka.errors import ErrorCode
from broker.model.topic import CONFIGS
from kafka_here import kafka_here

NOBODY = bytes(16)


def new(
    name: str,
    partitions: int = 1,
    replicas: int = 1,
    *,
    assignments: dict[int, list[int]] | None = None,
    configs: dict[str, str | None] | None = None,
) -> dict[str, Any]:
    return {
        "name": name,
        "num_partitions": partitions,
        "replication_factor": replicas,
        "assignments": [
            {"partition_index": number, "broker_ids": ids} for number, ids in (assignments or {}).items()
        ],
        "configs": [{"name": key, "value": value} for key, value in (configs or {}).items()],
    }


async def created(wire, *topics, version=None, validate_only=False):
    """The results by name."""
    body = {"topics": list(topics), "validate_only": validate_only}
    found = (await wire.call(api.CREATE_TOPICS, body, version))["topics"]
    return {one["name"]: one for one in found}


async def deleted(wire, *names, ids=(), version=6):
    topics = [{"name": name} for name in names] + [{"name": None, "topic_id": id} for id in ids]
    body = {"topics": topics, "topic_names": list(names)}
    return (await wire.call(api.DELETE_TOPICS, body, version))["responses"]


async def extended(wire, *topics, validate_only=False, version=None):
    """`topics` are name, count and assignments."""
    asked = [
        {
            "name": name,
            "count": count,
            "assignments": None if rest == [] else [{"broker_ids": ids} for ids in rest[0]],
        }
        for name, count, *rest in topics
    ]
    body = {"topics": asked, "validate_only": validate_only}
    return (await wire.call(api.CREATE_PARTITIONS, body, version))["results"]


async def names(wire):
    return [topic["name"] for topic in (await wire.call(api.METADATA, {"topics": None}))["topics"]]


def codes(results):
    return [ErrorCode(one["error_code"]) for one in results]


# ---- creating ----


async def test_a_topic_is_made_as_it_is_asked_for(wire, kafka):
    result = (await created(wire, new("orders", 3, configs={"retention.ms": "1000"})))["orders"]
    topic = kafka.node.topics.find("/", "orders")
    assert (result["error_code"], result["topic_id"]) == (ErrorCode.NONE, topic.id)
    assert (result["num_partitions"], result["replication_factor"]) == (3, 1)
    assert len(topic.partitions) == 3
    configs = {config["name"]: config for config in result["configs"]}
    assert configs.keys() == CONFIGS.keys()
    assert (configs["retention.ms"]["value"], configs["retention.ms"]["config_source"]) == ("1000", 1)
    assert (configs["cleanup.policy"]["value"], configs["cleanup.policy"]["config_source"]) == ("delete", 5)


async def test_minus_one_is_the_brokers_default(tmp_path):
    async with kafka_here(tmp_path, partitions=4) as kafka:
        wire = await kafka.dial()
        result = (await created(wire, new("orders", -1, -1)))["orders"]
        assert (result["num_partitions"], result["replication_factor"]) == (4, 1)


@pytest.mark.parametrize("version", range(2, 8))
async def test_every_version_makes_topics(wire, version):
    result = (await created(wire, new("orders", 2), version=version))["orders"]
    assert (result["error_code"], result["error_message"]) == (ErrorCode.NONE, None)
    assert result["num_partitions"] == (2 if version >= 5 else -1)
    assert (result["topic_id"] != NOBODY) == (version >= 7)
    assert await names(wire) == ["orders"]


@pytest.mark.parametrize(
    ("asked", "code", "text"),
    [
        (new(""), ErrorCode.INVALID_TOPIC_EXCEPTION, "a topic cannot be called ''"),
        (new("a/b"), ErrorCode.INVALID_TOPIC_EXCEPTION, "characters other than"),
        (new("a" * 250), ErrorCode.INVALID_TOPIC_EXCEPTION, "at most 249"),
        (new("__consumer_offsets"), ErrorCode.INVALID_TOPIC_EXCEPTION, "the broker's own"),
        (new("t", 0), ErrorCode.INVALID_PARTITIONS, "1 partition at least"),
        (new("t", -2), ErrorCode.INVALID_PARTITIONS, "1 partition at least"),
        (new("t", 1, 3), ErrorCode.INVALID_REPLICATION_FACTOR, "one broker"),
        (new("t", 1, 0), ErrorCode.INVALID_REPLICATION_FACTOR, "one broker"),
        (new("t", configs={"no.such": "1"}), ErrorCode.INVALID_CONFIG, "no topic configuration 'no.such'"),
        (new("t", configs={"retention.ms": "soon"}), ErrorCode.INVALID_CONFIG, "expected a whole number"),
        (new("t", configs={"retention.ms": None}), ErrorCode.INVALID_CONFIG, "null is no value"),
        (new("t", -1, -1, assignments={0: [2]}), ErrorCode.INVALID_REPLICA_ASSIGNMENT, "the only one"),
        (new("t", -1, -1, assignments={0: []}), ErrorCode.INVALID_REPLICA_ASSIGNMENT, "the only one"),
        (new("t", -1, -1, assignments={1: [1]}), ErrorCode.INVALID_REPLICA_ASSIGNMENT, "0, 1, 2"),
        (new("t", 1, -1, assignments={0: [1]}), ErrorCode.INVALID_REQUEST, "must be -1"),
        (new("t", -1, 1, assignments={0: [1]}), ErrorCode.INVALID_REQUEST, "must be -1"),
    ],
)
@pytest.mark.parametrize("validate_only", [False, True])
async def test_what_cannot_be_is_refused_and_the_rest_is_made(wire, asked, code, text, validate_only):
    results = await created(wire, new("before"), asked, new("after"), validate_only=validate_only)
    refused = results.pop(asked["name"])
    assert (refused["error_code"], refused["topic_id"]) == (code, NOBODY)
    assert text in refused["error_message"]
    assert codes(results.values()) == [ErrorCode.NONE] * 2
    assert await names(wire) == ([] if validate_only else ["before", "after"])


async def test_assignments_to_the_only_broker_are_partitions(wire, kafka):
    asked = new("orders", -1, -1, assignments={1: [1], 0: [1], 2: [1]})
    assert (await created(wire, asked))["orders"]["num_partitions"] == 3
    assert len(kafka.node.topics.find("/", "orders").partitions) == 3


async def test_what_exists_already_is_not_made_again(wire):
    await wire.create("orders", 2)
    result = (await created(wire, new("orders", 5)))["orders"]
    assert result["error_code"] == ErrorCode.TOPIC_ALREADY_EXISTS
    assert result["error_message"] == "topic 'orders' exists already in vhost '/'"


async def test_a_name_twice_in_a_request_is_refused_once(wire):
    body = {"topics": [new("twice"), new("once"), new("twice", 2)]}
    results = (await wire.call(api.CREATE_TOPICS, body))["topics"]
    assert [one["name"] for one in results] == ["twice", "once"]
    assert codes(results) == [ErrorCode.INVALID_REQUEST, ErrorCode.NONE]
    assert await names(wire) == ["once"]


async def test_only_validated_nothing_is_made(wire):
    result = (await created(wire, new("orders", 2), validate_only=True))["orders"]
    assert (result["error_code"], result["num_partitions"]) == (ErrorCode.NONE, 2)
    assert result["topic_id"] == NOBODY
    assert await names(wire) == []


async def test_a_queues_name_is_taken(wire, kafka):
    vhost = kafka.node.topology.vhost("/")
    kafka.node.topology.declare_queue(vhost, "orders", durable=True, auto_delete=False, arguments={})
    result = (await created(wire, new("orders")))["orders"]
    assert result["error_code"] == ErrorCode.TOPIC_ALREADY_EXISTS


async def test_more_partitions_than_the_limit_are_refused(tmp_path):
    async with kafka_here(tmp_path, node_options={"partitions_max": 5}) as kafka:
        wire = await kafka.dial()
        await wire.create("orders", 3)
        results = await created(wire, new("four", 4), new("two", 2), new("one", 1))
        assert codes(results.values()) == [
            ErrorCode.INVALID_PARTITIONS,
            ErrorCode.NONE,
            ErrorCode.INVALID_PARTITIONS,
        ]
        assert codes(await extended(wire, ("two", 3))) == [ErrorCode.INVALID_PARTITIONS]


async def test_a_request_makes_so_many_partitions_at_most(wire, kafka):
    """All of its topics together; the partitions that a topic has count as well."""
    results = await created(wire, new("few"), new("many", 2**31 - 1))
    assert codes(results.values()) == [ErrorCode.POLICY_VIOLATION] * 2
    results = await created(wire, *(new(f"t{number}") for number in range(10_001)), validate_only=True)
    assert set(codes(results.values())) == {ErrorCode.POLICY_VIOLATION}
    await wire.create("few")
    assert codes(await extended(wire, ("few", 10_001))) == [ErrorCode.POLICY_VIOLATION]
    assert codes(await extended(wire, ("few", 10_000))) == [ErrorCode.NONE]
    assert len(kafka.node.topics.find("/", "few").partitions) == 10_000


async def test_topics_outlive_the_process(tmp_path):
    async with kafka_here(tmp_path) as kafka:
        wire = await kafka.dial()
        made = await wire.create("orders", 3, {"retention.ms": "1000"})
        await wire.create("gone")
        await deleted(wire, "gone")
        await extended(wire, ("orders", 5))
    async with kafka_here(tmp_path) as kafka:
        wire = await kafka.dial()
        (topic,) = (await wire.call(api.METADATA, {"topics": None}))["topics"]
        assert (topic["name"], topic["topic_id"]) == ("orders", made["topic_id"])
        assert len(topic["partitions"]) == 5
        assert kafka.node.topics.find("/", "orders").configs == {"retention.ms": "1000"}


# ---- deleting ----


@pytest.mark.parametrize("version", range(1, 7))
async def test_every_version_deletes_by_name(wire, version):
    for name in ("a", "b", "c"):
        await wire.create(name)
    results = await deleted(wire, "a", "c", "d", version=version)
    assert [one["name"] for one in results] == ["a", "c", "d"]
    assert codes(results) == [ErrorCode.NONE, ErrorCode.NONE, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION]
    assert await names(wire) == ["b"]


async def test_a_topic_is_deleted_by_its_id(wire):
    made = await wire.create("a")
    unknown = bytes(range(16))
    results = await deleted(wire, ids=[made["topic_id"], unknown])
    assert codes(results) == [ErrorCode.NONE, ErrorCode.UNKNOWN_TOPIC_ID]
    assert (results[0]["name"], results[0]["topic_id"]) == ("a", made["topic_id"])
    assert (results[1]["name"], results[1]["topic_id"]) == (None, unknown)
    assert await names(wire) == []


async def test_neither_name_nor_id_or_both_are_no_topic(wire):
    made = await wire.create("a")
    topics = [{"name": None, "topic_id": NOBODY}, {"name": "a", "topic_id": made["topic_id"]}]
    results = (await wire.call(api.DELETE_TOPICS, {"topics": topics}))["responses"]
    assert codes(results) == [ErrorCode.INVALID_REQUEST] * 2
    assert await names(wire) == ["a"]


async def test_a_topic_that_is_meant_twice_is_not_deleted(wire):
    first = await wire.create("a")
    await wire.create("b")
    assert codes(await deleted(wire, "a", "b", ids=[first["topic_id"]])) == [
        ErrorCode.INVALID_REQUEST,
        ErrorCode.NONE,
        ErrorCode.INVALID_REQUEST,
    ]
    assert codes(await deleted(wire, "a", "a")) == [ErrorCode.INVALID_REQUEST]
    assert await names(wire) == ["a"]


async def test_a_new_topic_of_the_same_name_is_another_one(wire):
    first = await wire.create("a")
    await wire.produce("a", [b"old"])
    await deleted(wire, "a")
    second = await wire.create("a")
    assert first["topic_id"] != second["topic_id"]
    assert await wire.offsets_at("a", -1) == (0, -1)


async def test_the_brokers_own_topic_stays(wire):
    group = {"group_id": "g", "member_id": "", "generation_id_or_member_epoch": -1}
    await wire.create("a")
    partitions = [{"partition_index": 0, "committed_offset": 1}]
    await wire.call(api.OFFSET_COMMIT, {**group, "topics": [{"name": "a", "partitions": partitions}]})
    assert codes(await deleted(wire, "__consumer_offsets")) == [ErrorCode.INVALID_REQUEST]
    assert codes(await extended(wire, ("__consumer_offsets", 2))) == [ErrorCode.INVALID_REQUEST]
    assert sorted(await names(wire)) == ["__consumer_offsets", "a"]


# ---- more partitions ----


@pytest.mark.parametrize("version", range(4))
async def test_partitions_are_added(wire, version):
    await wire.create("a", 2)
    await wire.produce("a", [b"kept"], 1)
    assert codes(await extended(wire, ("a", 4, [[1], [1]]), version=version)) == [ErrorCode.NONE]
    (topic,) = (await wire.call(api.METADATA, {"topics": None}))["topics"]
    assert [one["partition_index"] for one in topic["partitions"]] == [0, 1, 2, 3]
    assert await wire.offsets_at("a", -1, 1) == (1, -1)
    assert (await wire.produce("a", [b"new"], 3))["error_code"] == ErrorCode.NONE


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        (("a", 2), ErrorCode.INVALID_PARTITIONS),
        (("a", 1), ErrorCode.INVALID_PARTITIONS),
        (("a", -1), ErrorCode.INVALID_PARTITIONS),
        (("b", 2), ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        (("a", 4, [[1]]), ErrorCode.INVALID_REPLICA_ASSIGNMENT),
        (("a", 3, [[2]]), ErrorCode.INVALID_REPLICA_ASSIGNMENT),
        (("a", 3, [[1, 2]]), ErrorCode.INVALID_REPLICA_ASSIGNMENT),
    ],
)
async def test_partitions_that_cannot_be_are_refused(wire, kafka, asked, code):
    await wire.create("a", 2)
    await wire.create("other")
    results = await extended(wire, asked, ("other", 2))
    assert codes(results) == [code, ErrorCode.NONE]
    assert results[0]["error_message"]
    assert len(kafka.node.topics.find("/", "a").partitions) == 2


async def test_partitions_may_only_be_validated(wire, kafka):
    await wire.create("a", 2)
    assert codes(await extended(wire, ("a", 3), validate_only=True)) == [ErrorCode.NONE]
    assert len(kafka.node.topics.find("/", "a").partitions) == 2


async def test_partitions_of_a_topic_twice_in_a_request_are_refused(wire, kafka):
    await wire.create("a")
    results = await extended(wire, ("a", 3), ("a", 4))
    assert codes(results) == [ErrorCode.INVALID_REQUEST]
    assert len(kafka.node.topics.find("/", "a").partitions) == 1
