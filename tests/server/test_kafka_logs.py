"""What lies in the logs of partitions: records deleted, producers, sizes, retention; and what a cluster of one says."""

from __future__ import annotations

import os

import pytest

from broker.kafka import api
from broker.kafka.errors import ErrorCode
from kafka_here import kafka_here
from kafka_wire import batch, values_of


async def delete_before(wire, *asked, version=None):
    """DeleteRecords: topic, partition and offset; low watermark and error of each."""
    topics = [
        {"name": name, "partitions": [{"partition_index": number, "offset": offset}]}
        for name, number, offset in asked
    ]
    answer = await wire.call(api.DELETE_RECORDS, {"topics": topics, "timeout_ms": 1000}, version)
    return [
        (one["low_watermark"], ErrorCode(one["error_code"]))
        for topic in answer["topics"]
        for one in topic["partitions"]
    ]


# ---- deleting records ----


@pytest.mark.parametrize("version", range(3))
async def test_records_before_an_offset_go(wire, version):
    await wire.create("t")
    for value in (b"a", b"b", b"c"):
        await wire.produce("t", [value])
    assert await delete_before(wire, ("t", 0, 2), version=version) == [(2, ErrorCode.NONE)]
    assert await wire.offsets_at("t", -2) == (2, -1)
    assert (await wire.fetch("t", 1))["error_code"] == ErrorCode.OFFSET_OUT_OF_RANGE
    found = await wire.fetch("t", 2)
    assert (values_of(found["records"]), found["log_start_offset"]) == ([b"c"], 2)


async def test_minus_one_is_all_of_them(wire):
    await wire.create("t")
    await wire.produce("t", [b"a", b"b"])
    assert await delete_before(wire, ("t", 0, -1)) == [(2, ErrorCode.NONE)]
    assert await wire.offsets_at("t", -2) == (2, -1)
    assert values_of((await wire.fetch("t", 2))["records"]) == []
    assert (await wire.produce("t", [b"c"]))["base_offset"] == 2


async def test_a_partition_begins_in_the_middle_of_a_batch(wire):
    """Who fetches from there gets the whole batch, as everybody does, and leaves out what is before."""
    await wire.create("t", configs={"retention.ms": "-1"})
    await wire.produce("t", [b"a", b"b", b"c"], timestamp=1000)
    assert await delete_before(wire, ("t", 0, 1)) == [(1, ErrorCode.NONE)]
    assert (await wire.fetch("t", 0))["error_code"] == ErrorCode.OFFSET_OUT_OF_RANGE
    assert values_of((await wire.fetch("t", 1))["records"]) == [b"a", b"b", b"c"]
    assert await wire.offsets_at("t", 1000) == (1, 1001)


async def test_nothing_comes_back(wire):
    await wire.create("t")
    await wire.produce("t", [b"a", b"b", b"c"])
    await delete_before(wire, ("t", 0, 2))
    assert await delete_before(wire, ("t", 0, 1)) == [(2, ErrorCode.NONE)]
    assert await delete_before(wire, ("t", 0, 2)) == [(2, ErrorCode.NONE)]


async def test_records_that_cannot_be_deleted(wire, kafka):
    await wire.create("t")
    await wire.create("compacted", configs={"cleanup.policy": "compact"})
    await wire.produce("t", [b"a"])
    await wire.produce("compacted", [b"a"])
    kafka.node.groups.committed("g", {})
    assert await delete_before(
        wire,
        ("t", 0, 2),
        ("t", 0, -2),
        ("t", 1, 0),
        ("missing", 0, 0),
        ("compacted", 0, 1),
        ("__consumer_offsets", 0, 0),
        ("t", 0, 1),
    ) == [
        (-1, ErrorCode.OFFSET_OUT_OF_RANGE),
        (-1, ErrorCode.OFFSET_OUT_OF_RANGE),
        (-1, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        (-1, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        (-1, ErrorCode.POLICY_VIOLATION),
        (-1, ErrorCode.INVALID_TOPIC_EXCEPTION),
        (1, ErrorCode.NONE),
    ]


async def test_deleted_records_stay_away_over_a_restart(tmp_path):
    async with kafka_here(tmp_path) as kafka:
        wire = await kafka.dial()
        await wire.create("t")
        await wire.produce("t", [b"a", b"b", b"c"])
        await wire.produce("t", [b"d"])
        await delete_before(wire, ("t", 0, 2))
    async with kafka_here(tmp_path) as kafka:
        wire = await kafka.dial()
        assert await wire.offsets_at("t", -2) == (2, -1)
        assert values_of((await wire.fetch("t", 2))["records"])[-2:] == [b"c", b"d"]
        await delete_before(wire, ("t", 0, -1))
    async with kafka_here(tmp_path) as kafka:
        wire = await kafka.dial()
        assert await wire.offsets_at("t", -2) == (4, -1)
        assert await wire.offsets_at("t", -1) == (4, -1)
        assert (await wire.produce("t", [b"e"]))["base_offset"] == 4


# ---- retention ----

SEGMENT = 1024 * 1024
RECORD = 64 * 1024
SMALL_SEGMENTS = {"segment.bytes": str(SEGMENT)}


async def fill(wire, topic, count, *, timestamp):
    for _ in range(count):
        result = await wire.produce(topic, [os.urandom(RECORD)], timestamp=timestamp)
        assert result["error_code"] == ErrorCode.NONE


def files_of(kafka, topic):
    """The segments of partition 0 on the disk, by the offset in their names."""
    directory = kafka.node.topics.find("/", topic).partitions[0].log.directory
    return sorted(name for name in os.listdir(directory) if name.endswith(".log"))


async def tidied(kafka):
    """What the node does now and then, and what comes of it."""
    kafka.node.topics.tidy(kafka.node.clock.now_ms())
    await kafka.node.settled()
    await kafka.node.settled()


async def test_the_oldest_segments_go_by_size(wire, kafka):
    now_ms = kafka.node.clock.now_ms()
    await wire.create("t", configs={**SMALL_SEGMENTS, "retention.bytes": str(2 * SEGMENT)})
    await fill(wire, "t", 80, timestamp=now_ms)
    before = files_of(kafka, "t")
    assert len(before) >= 5
    await tidied(kafka)
    start, _ = await wire.offsets_at("t", -2)
    assert 0 < start < 80
    size = kafka.node.topics.find("/", "t").partitions[0].size
    assert 2 * SEGMENT <= size < 3 * SEGMENT + RECORD + 100
    assert files_of(kafka, "t") == before[len(before) - len(files_of(kafka, "t")) :] != before
    assert (await wire.fetch("t", start - 1))["error_code"] == ErrorCode.OFFSET_OUT_OF_RANGE
    assert len(values_of((await wire.fetch("t", start))["records"])) > 0


async def test_the_oldest_segments_go_by_time(wire, kafka):
    now_ms = kafka.node.clock.now_ms()
    await wire.create("t", configs={**SMALL_SEGMENTS, "retention.ms": "60000"})
    await fill(wire, "t", 40, timestamp=now_ms - 120_000)
    await fill(wire, "t", 40, timestamp=now_ms)
    before = files_of(kafka, "t")
    await tidied(kafka)
    start, _ = await wire.offsets_at("t", -2)
    assert 20 <= start <= 40  # the segment with the first young record stays as a whole
    assert len(files_of(kafka, "t")) < len(before)
    assert await wire.offsets_at("t", now_ms - 1000) == (40, now_ms)


async def test_everything_goes_when_everything_is_old(wire, kafka):
    now_ms = kafka.node.clock.now_ms()
    await wire.create("t", configs={"retention.ms": "60000"})
    await wire.produce("t", [b"old"], timestamp=now_ms - 120_000)
    await tidied(kafka)
    assert await wire.offsets_at("t", -2) == (1, -1)
    assert (await wire.produce("t", [b"new"], timestamp=now_ms))["base_offset"] == 1
    await tidied(kafka)
    assert values_of((await wire.fetch("t", 1))["records"]) == [b"new"]


async def test_without_limits_everything_stays(wire, kafka):
    await wire.create("t", configs={"retention.ms": "-1", **SMALL_SEGMENTS})
    await fill(wire, "t", 40, timestamp=1)
    await tidied(kafka)
    assert await wire.offsets_at("t", -2) == (0, -1)


async def test_what_is_only_compacted_is_not_deleted_by_time(wire, kafka):
    await wire.create("t", configs={"cleanup.policy": "compact", "retention.ms": "1"})
    await wire.produce("t", [b"old"], timestamp=1)
    await tidied(kafka)
    assert await wire.offsets_at("t", -2) == (0, -1)


async def test_without_a_cleanup_policy_records_go_only_when_they_are_deleted(wire, kafka):
    """As in Kafka since 4.2: retention without an end."""
    await wire.create("t", configs={"cleanup.policy": "", "retention.ms": "1", "retention.bytes": "1"})
    for number in range(5):
        await wire.produce("t", [b"%d" % number], timestamp=1)
    await tidied(kafka)
    assert await wire.offsets_at("t", -2) == (0, -1)
    assert await delete_before(wire, ("t", 0, 3)) == [(3, ErrorCode.NONE)]


# ---- sizes ----


@pytest.mark.parametrize("version", range(1, 5))
async def test_sizes_of_partitions(wire, kafka, tmp_path, version):
    await wire.create("a", 2)
    await wire.create("b")
    octets = batch([b"value" * 100])
    await wire.produce("a", octets, 1)
    answer = await wire.call(api.DESCRIBE_LOG_DIRS, {"topics": None}, version)
    (folder,) = answer["results"]
    assert (folder["error_code"], folder["log_dir"]) == (ErrorCode.NONE, str(tmp_path / "data"))
    sizes = {
        (topic["name"], one["partition_index"]): one["partition_size"]
        for topic in folder["topics"]
        for one in topic["partitions"]
    }
    assert sizes == {("a", 0): 0, ("a", 1): len(octets), ("b", 0): 0}
    if version >= 4:
        assert 0 < folder["usable_bytes"] <= folder["total_bytes"]


async def test_sizes_of_some_partitions(wire):
    await wire.create("a", 3)
    await wire.create("b")
    topics = [
        {"topic": "a", "partitions": [2, 5]},
        {"topic": "a", "partitions": [0]},
        {"topic": "missing", "partitions": [0]},
        {"topic": "b", "partitions": []},
    ]
    (folder,) = (await wire.call(api.DESCRIBE_LOG_DIRS, {"topics": topics}))["results"]
    (found,) = folder["topics"]
    assert (found["name"], [one["partition_index"] for one in found["partitions"]]) == ("a", [0, 2])


# ---- producers ----


async def test_producers_of_partitions(wire):
    await wire.create("t", 2, {"retention.ms": "-1"})
    for sequence in range(2):
        one = {"producer_id": 7, "producer_epoch": 3, "base_sequence": 2 * sequence}
        await wire.produce("t", [b"a", b"b"], timestamp=100 * sequence, **one)
    topics = [
        {"name": "t", "partition_indexes": [0, 1, 2]},
        {"name": "missing", "partition_indexes": [0]},
    ]
    answer = await wire.call(api.DESCRIBE_PRODUCERS, {"topics": topics})
    first, second, third = answer["topics"][0]["partitions"]
    assert (first["error_code"], second["error_code"]) == (ErrorCode.NONE, ErrorCode.NONE)
    assert first["active_producers"] == [
        {
            "producer_id": 7,
            "producer_epoch": 3,
            "last_sequence": 3,
            "last_timestamp": 101,
            "coordinator_epoch": -1,
            "current_txn_start_offset": -1,
        }
    ]
    assert second["active_producers"] == []
    assert third["error_code"] == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    (missing,) = answer["topics"][1]["partitions"]
    assert missing["error_code"] == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION


# ---- a cluster of one ----


@pytest.mark.parametrize("version", range(3))
async def test_no_election_is_needed(wire, version):
    await wire.create("t", 2)
    asked = [{"topic": "t", "partitions": [0, 1, 2]}, {"topic": "missing", "partitions": [0]}]
    answer = await wire.call(api.ELECT_LEADERS, {"topic_partitions": asked, "timeout_ms": 1000}, version)
    assert answer["error_code"] == ErrorCode.NONE
    assert [
        (topic["topic"], one["partition_id"], one["error_code"])
        for topic in answer["replica_election_results"]
        for one in topic["partition_result"]
    ] == [
        ("t", 0, ErrorCode.ELECTION_NOT_NEEDED),
        ("t", 1, ErrorCode.ELECTION_NOT_NEEDED),
        ("t", 2, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        ("missing", 0, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
    ]
    everything = await wire.call(api.ELECT_LEADERS, {"topic_partitions": None}, version)
    assert everything["error_code"] == ErrorCode.NONE
    assert everything["replica_election_results"] == []


async def test_nothing_is_reassigned(wire):
    await wire.create("t", 4)

    def one(number, replicas):
        return {"partition_index": number, "replicas": replicas}

    asked = [
        {"name": "t", "partitions": [one(0, [1]), one(1, None), one(2, [2]), one(3, []), one(4, [1])]},
        {"name": "missing", "partitions": [one(0, [1])]},
    ]
    answer = await wire.call(api.ALTER_PARTITION_REASSIGNMENTS, {"topics": asked})
    assert answer["error_code"] == ErrorCode.NONE
    assert [
        (topic["name"], found["partition_index"], found["error_code"])
        for topic in answer["responses"]
        for found in topic["partitions"]
    ] == [
        ("t", 0, ErrorCode.NONE),
        ("t", 1, ErrorCode.NO_REASSIGNMENT_IN_PROGRESS),
        ("t", 2, ErrorCode.INVALID_REPLICA_ASSIGNMENT),
        ("t", 3, ErrorCode.INVALID_REPLICA_ASSIGNMENT),
        ("t", 4, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        ("missing", 0, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
    ]
    listed = await wire.call(api.LIST_PARTITION_REASSIGNMENTS, {"topics": None})
    assert (listed["error_code"], listed["topics"]) == (ErrorCode.NONE, [])
