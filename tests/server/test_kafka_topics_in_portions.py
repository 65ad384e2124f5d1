"""Requests of Kafka's protocol that make or delete many topics and partitions: others are served meanwhile."""

from __future__ import annotations

import pytest

from broker.kafka import api
from broker.kafka.errors import ErrorCode
from broker_here import until
from kafka_here import kafka_here
from kafka_wire import KafkaClient

MANY = 3000


@pytest.fixture
def small_portions(monkeypatch):
    for module in ("topic_admin", "metadata"):
        monkeypatch.setattr(f"broker.server.kafka.{module}.MADE_AT_ONCE", 10)


def new(name, partitions=1):
    return {
        "name": name,
        "num_partitions": partitions,
        "replication_factor": 1,
        "assignments": [],
        "configs": [],
    }


async def code_of(wire, name, creates=False):
    body = {"topics": [{"name": name}], "allow_auto_topic_creation": creates}
    (topic,) = (await wire.call(api.METADATA, body))["topics"]
    return topic["error_code"], len(topic["partitions"])


@pytest.mark.usefixtures("small_portions")
async def test_others_are_served_while_partitions_are_made(kafka, wire):
    other = await kafka.dial()
    topics = kafka.node.topics
    await wire.send(api.CREATE_TOPICS, {"topics": [new("t", MANY)]})
    await wire.send(api.METADATA, {"topics": [{"name": "t"}]})
    await until(lambda: topics.is_coming("/", "t"))
    # Clients take this for something that passes, and do not make it themselves.
    assert await code_of(other, "t", creates=True) == (ErrorCode.LEADER_NOT_AVAILABLE, 0)
    assert topics.is_coming("/", "t")
    (made,) = (await wire.answer())["topics"]
    assert (made["error_code"], made["num_partitions"]) == (ErrorCode.NONE, MANY)
    (topic,) = (await wire.answer())["topics"]  # asked for by the same client: not handled before
    assert len(topic["partitions"]) == MANY
    assert await code_of(other, "t") == (ErrorCode.NONE, MANY)


@pytest.mark.usefixtures("small_portions")
async def test_who_wants_to_make_the_same_topic_hears_of_it_when_it_is_there(kafka, wire):
    other = await kafka.dial()
    await wire.send(api.CREATE_TOPICS, {"topics": [new("t", MANY)]})
    await until(lambda: kafka.node.topics.is_coming("/", "t"))
    (refused,) = (await other.call(api.CREATE_TOPICS, {"topics": [new("t", 2)]}))["topics"]
    assert refused["error_code"] == ErrorCode.TOPIC_ALREADY_EXISTS
    assert await code_of(other, "t") == (ErrorCode.NONE, MANY)
    assert kafka.node.flusher.unsafe_definitions is None
    assert (await wire.answer())["topics"][0]["error_code"] == ErrorCode.NONE


@pytest.mark.usefixtures("small_portions")
async def test_what_a_client_began_is_done_also_if_it_goes(kafka, wire):
    await wire.send(api.CREATE_TOPICS, {"topics": [new("t", MANY), new("u")]})
    await until(lambda: kafka.node.topics.is_coming("/", "t"))
    wire.drop()
    await until(lambda: kafka.node.topics.find("/", "u"))
    assert len(kafka.node.topics.topic("/", "t").partitions) == MANY


@pytest.mark.usefixtures("small_portions")
async def test_a_broker_that_stops_meanwhile_has_made_what_it_has_answered(tmp_path):
    async with kafka_here(tmp_path) as kafka:
        wire = await KafkaClient.dial(kafka.address)
        await wire.send(api.CREATE_TOPICS, {"topics": [new("t", MANY)]})
        await until(lambda: kafka.node.topics.is_coming("/", "t"))
    (made,) = (await wire.answer())["topics"]
    assert made["error_code"] == ErrorCode.NONE
    wire.drop()
    async with kafka_here(tmp_path) as kafka:
        assert len(kafka.node.topics.topic("/", "t").partitions) == MANY


@pytest.mark.usefixtures("small_portions")
async def test_others_are_served_while_a_topic_gets_more_partitions(kafka, wire):
    await wire.create("t", 2)
    other = await kafka.dial()
    body = {"topics": [{"name": "t", "count": MANY, "assignments": None}]}
    await wire.send(api.CREATE_PARTITIONS, body)
    await until(lambda: kafka.node.topics.is_coming("/", "t"))
    assert await code_of(other, "t") == (ErrorCode.NONE, 2)
    assert (await other.produce("t", [b"v"], partition=1))["error_code"] == ErrorCode.NONE
    assert (await wire.answer())["results"][0]["error_code"] == ErrorCode.NONE
    assert await code_of(other, "t") == (ErrorCode.NONE, MANY)


@pytest.mark.usefixtures("small_portions")
async def test_others_are_served_while_topics_are_made_and_deleted(kafka, wire):
    other = await kafka.dial()
    names = [f"t{number}" for number in range(300)]
    await wire.send(api.CREATE_TOPICS, {"topics": [new(name) for name in names]})
    await until(lambda: kafka.node.topics.find("/", "t0"))
    assert await code_of(other, "t299") == (ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, 0)
    made = (await wire.answer())["topics"]
    assert {one["error_code"] for one in made} == {ErrorCode.NONE}
    assert [bool(one["configs"]) for one in made] == [True] * 100 + [False] * 200
    await wire.send(api.DELETE_TOPICS, {"topics": [{"name": name} for name in names]})
    await until(lambda: not kafka.node.topics.find("/", "t0"))
    assert await code_of(other, "t299") == (ErrorCode.NONE, 1)
    assert {one["error_code"] for one in (await wire.answer())["responses"]} == {ErrorCode.NONE}
    assert kafka.node.topics.partition_count == 0


async def test_a_topic_that_makes_itself_with_many_partitions_is_told_of_when_it_is_there(tmp_path):
    async with kafka_here(tmp_path, partitions=MANY) as kafka:
        wire = await kafka.dial()
        assert await code_of(wire, "t", creates=True) == (ErrorCode.LEADER_NOT_AVAILABLE, 0)
        await until(lambda: kafka.node.topics.find("/", "t"))
        assert await code_of(wire, "t", creates=True) == (ErrorCode.NONE, MANY)


@pytest.mark.usefixtures("small_portions")
async def test_who_names_many_topics_that_are_to_be_made_asks_again(kafka, wire):
    body = {"topics": [{"name": f"t{number}"} for number in range(7)], "allow_auto_topic_creation": True}
    counts = []
    while not counts or counts[-1] < 7:
        found = (await wire.call(api.METADATA, body))["topics"]
        codes = [topic["error_code"] for topic in found]
        counts.append(codes.count(ErrorCode.NONE))
        assert set(codes) <= {ErrorCode.NONE, ErrorCode.LEADER_NOT_AVAILABLE}
        assert len(kafka.node.topics.topics()) == counts[-1]
    assert counts == [2, 4, 6, 7]
