"""What the broker says of itself over Kafka's protocol: versions, metadata, the cluster."""

from __future__ import annotations

import logging
import struct

import pytest

from broker.kafka import api
from broker.kafka.errors import ErrorCode
from broker.server.kafka.server import HANDLER_MODULES
from kafka_here import kafka_here
from kafka_wire import Ended

SOFTWARE = {"client_software_name": "wire", "client_software_version": "1.0"}


def header(key, version, correlation_id=7):
    """A request without a body, whatever its version."""
    request = struct.pack(">hhih", key, version, correlation_id, -1)
    return struct.pack(">i", len(request)) + request


# ---- versions ----


def test_everything_that_the_codec_knows_is_served():
    served = [key for module in HANDLER_MODULES for key in module.HANDLERS]
    assert sorted(served) == sorted(api.APIS)
    assert len(served) == len(set(served))


@pytest.mark.parametrize("version", range(5))
async def test_versions_are_told(wire, version):
    answer = await wire.call(api.API_VERSIONS, SOFTWARE, version)
    assert answer["error_code"] == ErrorCode.NONE
    ranges = {one["api_key"]: (one["min_version"], one["max_version"]) for one in answer["api_keys"]}
    assert ranges == {
        each.key: (each.min_version if each is not api.PRODUCE else 0, each.max_version)
        for each in api.APIS.values()
    }


@pytest.mark.parametrize("version", [5, 77, 32767, -1])
async def test_a_version_that_is_not_known_is_told_which_are(wire, version):
    await wire.write(header(18, version))
    correlation_id, answer = api.read_response(api.API_VERSIONS, 0, await wire.frame())
    assert (correlation_id, answer["error_code"]) == (7, ErrorCode.UNSUPPORTED_VERSION)
    ranges = {one["api_key"]: (one["min_version"], one["max_version"]) for one in answer["api_keys"]}
    assert ranges[18] == (0, 4)
    assert (await wire.call(api.API_VERSIONS, SOFTWARE, ranges[18][1]))["error_code"] == ErrorCode.NONE


@pytest.mark.parametrize(
    ("name", "version"), [("", "1"), ("wire", ""), ("-wire", "1"), ("wi re", "1"), ("w" * 300, "1")]
)
async def test_a_software_has_a_name(wire, name, version):
    body = {"client_software_name": name, "client_software_version": version}
    assert (await wire.call(api.API_VERSIONS, body))["error_code"] == ErrorCode.INVALID_REQUEST
    assert (await wire.call(api.API_VERSIONS, SOFTWARE))["error_code"] == ErrorCode.NONE


@pytest.mark.parametrize(("key", "version"), [(3, 99), (3, -1), (0, 2), (1, 3), (999, 0), (-1, 0), (24, 0)])
async def test_other_requests_that_are_not_served_are_the_end(wire, key, version):
    await wire.write(header(key, version))
    await wire.ends()


# ---- metadata ----


async def described(wire, *names, version=None, creates=False, **options):
    """The topics, and the whole answer."""
    topics = [{"name": name} for name in names]
    body = {"topics": topics, "allow_auto_topic_creation": creates, **options}
    answer = await wire.call(api.METADATA, body, version)
    return answer["topics"], answer


@pytest.mark.parametrize("version", range(13))
async def test_every_version_describes(kafka, wire, version):
    made = await wire.create("t", 2)
    (topic,), answer = await described(wire, "t", version=version)
    (broker,) = answer["brokers"]
    assert (broker["node_id"], broker["host"], broker["port"]) == (1, *kafka.address)
    assert (topic["error_code"], topic["name"], topic["is_internal"]) == (ErrorCode.NONE, "t", False)
    assert [
        (one["partition_index"], one["leader_id"], one["replica_nodes"], one["isr_nodes"])
        for one in topic["partitions"]
    ] == [(0, 1, [1], [1]), (1, 1, [1], [1])]
    if version >= 1:
        assert answer["controller_id"] == 1
    if version >= 2:
        assert len(answer["cluster_id"]) > 10
    if version >= 10:
        assert topic["topic_id"] == made["topic_id"]


@pytest.mark.parametrize("version", [0, 1, 12])
async def test_all_topics(wire, version):
    for name in ("a", "b"):
        await wire.create(name)
    answer = await wire.call(api.METADATA, {"topics": [] if version == 0 else None}, version)
    assert [topic["name"] for topic in answer["topics"]] == ["a", "b"]
    if version > 0:
        assert (await wire.call(api.METADATA, {"topics": []}, version))["topics"] == []


@pytest.mark.parametrize("version", [0, 3, 4, 12])
async def test_a_topic_is_made_by_asking_for_it(tmp_path, version):
    async with kafka_here(tmp_path, partitions=3) as kafka:
        wire = await kafka.dial()
        (topic,), _ = await described(wire, "new", version=version, creates=True)
        assert (topic["error_code"], len(topic["partitions"])) == (ErrorCode.NONE, 3)
        assert (await wire.produce("new", [b"v"], 2))["error_code"] == ErrorCode.NONE
    async with kafka_here(tmp_path) as kafka:
        assert [topic.name for topic in kafka.node.topics.topics()] == ["new"]


async def test_nothing_is_made_by_who_does_not_want_to(wire, kafka):
    (topic,), _ = await described(wire, "new", creates=False)
    assert (topic["error_code"], topic["name"]) == (ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, "new")
    assert kafka.node.topics.topics() == []


async def test_nothing_is_made_where_it_is_off(tmp_path):
    async with kafka_here(tmp_path, auto_create_topics=False) as kafka:
        wire = await kafka.dial()
        for version in (0, 12):
            (topic,), _ = await described(wire, "new", version=version, creates=True)
            assert topic["error_code"] == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        assert kafka.node.topics.topics() == []


async def test_not_every_name_is_made(wire, kafka):
    for name in ("a/b", "", ".", "x" * 250, "__consumer_offsets"):
        (topic,), _ = await described(wire, name, creates=True)
        assert (topic["error_code"], topic["name"]) == (ErrorCode.INVALID_TOPIC_EXCEPTION, name)
    assert kafka.node.topics.topics() == []


async def test_a_topic_is_found_by_its_id(wire):
    made = await wire.create("t", 2)
    unknown = bytes(range(16))
    asked = [{"name": None, "topic_id": made["topic_id"]}, {"name": None, "topic_id": unknown}]
    found, missing = (await wire.call(api.METADATA, {"topics": asked}))["topics"]
    assert (found["error_code"], found["name"], len(found["partitions"])) == (ErrorCode.NONE, "t", 2)
    assert (missing["error_code"], missing["name"]) == (ErrorCode.UNKNOWN_TOPIC_ID, None)
    assert missing["topic_id"] == unknown


async def test_the_brokers_own_topic_is_internal(wire, kafka):
    kafka.node.groups.committed("g", {})
    (topic,) = (await wire.call(api.METADATA, {"topics": None}))["topics"]
    assert (topic["name"], topic["is_internal"]) == ("__consumer_offsets", True)


async def test_clients_are_told_the_address_that_is_configured(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    options = {"advertised_host": "broker.example", "advertised_port": 19092, "node_id": 5}
    async with kafka_here(tmp_path, **options) as kafka:
        for _ in range(2):
            wire = await kafka.dial()
            _, answer = await described(wire)
            (broker,) = answer["brokers"]
            assert (broker["node_id"], broker["host"], broker["port"]) == (5, "broker.example", 19092)
        found = await wire.call(api.FIND_COORDINATOR, {"key": "g"}, 0)
        assert (found["node_id"], found["host"], found["port"]) == (5, "broker.example", 19092)
    assert caplog.text.count("is told to connect to broker.example:19092") == 1


async def test_the_cluster_keeps_its_id(tmp_path):
    seen = set()
    for _ in range(2):
        async with kafka_here(tmp_path) as kafka:
            _, answer = await described(await kafka.dial())
            seen.add(answer["cluster_id"])
    assert len(seen) == 1


@pytest.mark.parametrize("version", range(3))
async def test_the_cluster_is_one_broker(kafka, wire, version):
    answer = await wire.call(api.DESCRIBE_CLUSTER, {"endpoint_type": 1}, version)
    assert (answer["error_code"], answer["controller_id"]) == (ErrorCode.NONE, 1)
    (broker,) = answer["brokers"]
    assert (broker["broker_id"], broker["host"], broker["port"]) == (1, *kafka.address)
    _, metadata = await described(wire)
    assert answer["cluster_id"] == metadata["cluster_id"]
    assert answer["cluster_authorized_operations"] == -(2**31)


# ---- page by page ----


async def test_partitions_page_by_page(wire):
    for name, count in (("b", 3), ("a", 2), ("c", 4)):
        await wire.create(name, count)
    seen = []
    cursor = None
    for _ in range(10):
        body = {"topics": [], "response_partition_limit": 2, "cursor": cursor}
        answer = await wire.call(api.DESCRIBE_TOPIC_PARTITIONS, body)
        page = [
            (topic["name"], one["partition_index"])
            for topic in answer["topics"]
            for one in topic["partitions"]
        ]
        assert len(page) <= 2
        seen += page
        cursor = answer["next_cursor"]
        if cursor is None:
            break
    assert seen == [
        (name, number) for name, count in (("a", 2), ("b", 3), ("c", 4)) for number in range(count)
    ]


async def test_partitions_of_some_topics(wire):
    await wire.create("a", 2)
    body = {"topics": [{"name": "missing"}, {"name": "a"}], "response_partition_limit": 100, "cursor": None}
    answer = await wire.call(api.DESCRIBE_TOPIC_PARTITIONS, body)
    found, missing = answer["topics"]
    assert (found["name"], len(found["partitions"])) == ("a", 2)
    assert (missing["name"], missing["error_code"]) == ("missing", ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
    assert answer["next_cursor"] is None


async def test_nothing_is_served_after_the_end(wire):
    await wire.write(header(999, 0) + header(18, 0))
    with pytest.raises(Ended):
        await wire.frame()
