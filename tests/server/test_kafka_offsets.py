"""Which offsets there are: ListOffsets, OffsetForLeaderEpoch, and what groups commit."""

from __future__ import annotations

import os
from collections import Counter

import pytest
import trio
import trio.testing

from broker.kafka import api
from broker.kafka.compression import Codec
from broker.kafka.errors import ErrorCode
from broker.node.groups import GroupOptions
from broker.node.partition import Partition
from kafka_here import kafka_here
from kafka_wire import batch

LATEST, EARLIEST, LARGEST_TIME, EARLIEST_LOCAL, TIERED = -1, -2, -3, -4, -5
FOR_EVER = {"retention.ms": "-1"}


# ---- ListOffsets ----


async def test_for_each_time_that_is_looked_up_others_have_their_turn(wire, kafka, monkeypatch):
    turn = 0
    turns = []

    async def count():
        nonlocal turn
        while True:
            turn += 1
            await trio.lowlevel.checkpoint()

    def looked_up(partition, timestamp, look=Partition.offset_of_time):
        turns.append(turn)
        return look(partition, timestamp)

    monkeypatch.setattr(Partition, "offset_of_time", looked_up)
    await wire.create("t", 50)
    partitions = [{"partition_index": number, "timestamp": 5} for number in range(50)]
    body = {"replica_id": -1, "topics": [{"name": "t", "partitions": partitions}]}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        answer = await wire.call(api.LIST_OFFSETS, body)
        nursery.cancel_scope.cancel()
    assert {one["error_code"] for one in answer["topics"][0]["partitions"]} == {ErrorCode.NONE}
    assert len(turns) == 50
    assert max(Counter(turns).values()) <= 2  # trio runs tasks in any order


@pytest.mark.parametrize("version", range(1, 9))
async def test_every_version_lists_offsets(wire, version):
    await wire.create("t", configs=FOR_EVER)
    await wire.produce("t", [b"a", b"b", b"c"], timestamp=1000)
    for timestamp, found in ((LATEST, (3, -1)), (EARLIEST, (0, -1)), (1001, (1, 1001))):
        one = {"partition_index": 0, "current_leader_epoch": -1, "timestamp": timestamp}
        body = {"replica_id": -1, "topics": [{"name": "t", "partitions": [one]}]}
        (answer,) = (await wire.call(api.LIST_OFFSETS, body, version))["topics"][0]["partitions"]
        assert answer["error_code"] == ErrorCode.NONE
        assert (answer["offset"], answer["timestamp"]) == found
        assert answer["leader_epoch"] == (0 if version >= 4 else -1)


async def test_special_times(wire):
    await wire.create("t", configs=FOR_EVER)
    for timestamp in (LATEST, EARLIEST, EARLIEST_LOCAL):
        assert await wire.offsets_at("t", timestamp) == (0, -1)
    for timestamp in (LARGEST_TIME, TIERED, -99, 0, 5000):
        assert await wire.offsets_at("t", timestamp) == (-1, -1)
    await wire.produce("t", batch([b"a", b"b"], timestamp=5000))
    await wire.produce("t", batch([b"c", b"d"], timestamp=2000))
    assert await wire.offsets_at("t", LATEST) == (4, -1)
    assert await wire.offsets_at("t", LARGEST_TIME) == (1, 5001)
    assert await wire.offsets_at("t", TIERED) == (-1, -1)
    body = [{"name": "t", "partitions": [{"partition_index": 0, "offset": 3}]}]
    await wire.call(api.DELETE_RECORDS, {"topics": body})
    for timestamp in (EARLIEST, EARLIEST_LOCAL):
        assert await wire.offsets_at("t", timestamp) == (3, -1)


@pytest.mark.parametrize("codec", list(Codec))
async def test_a_time_is_found_within_a_batch(wire, codec):
    """The first record with this time or a later one, whatever it is compressed with."""
    await wire.create("t", configs=FOR_EVER)
    await wire.produce("t", batch([b"a"] * 10, timestamp=1000, compression_type=codec))
    await wire.produce("t", batch([b"b"] * 10, timestamp=2000, compression_type=codec))
    for timestamp, found in (
        (0, (0, 1000)),
        (1000, (0, 1000)),
        (1004, (4, 1004)),
        (1009, (9, 1009)),
        (1010, (10, 2000)),
        (2005, (15, 2005)),
        (2009, (19, 2009)),
        (2010, (-1, -1)),
    ):
        assert await wire.offsets_at("t", timestamp) == found


async def test_a_time_is_found_among_times_that_go_back(wire):
    await wire.create("t", configs=FOR_EVER)
    for timestamp in (3000, 1000, 5000, 2000):
        await wire.produce("t", [b"v"], timestamp=timestamp)
    for timestamp, offset in ((500, 0), (2500, 0), (3000, 0), (3001, 2), (5000, 2), (5001, -1)):
        assert (await wire.offsets_at("t", timestamp))[0] == offset


async def test_a_time_is_found_in_many_segments_and_after_a_restart(tmp_path):
    async with kafka_here(tmp_path) as kafka:
        wire = await kafka.dial()
        await wire.create("t", configs={**FOR_EVER, "segment.bytes": str(1024 * 1024)})
        for number in range(60):
            await wire.produce("t", [bytes(60_000)], timestamp=1000 * number)
        assert len(kafka.node.topics.find("/", "t").partitions[0].log.segments) > 2
        for number in (1, 17, 33, 59):
            assert await wire.offsets_at("t", 1000 * number - 500) == (number, 1000 * number)
    async with kafka_here(tmp_path) as kafka:
        wire = await kafka.dial()
        for number in (1, 17, 33, 59):
            assert await wire.offsets_at("t", 1000 * number - 500) == (number, 1000 * number)
        assert await wire.offsets_at("t", LARGEST_TIME) == (59, 59_000)


async def test_times_of_the_broker_are_found(wire, kafka):
    await wire.create("t", configs={"message.timestamp.type": "LogAppendTime"})
    stamped = (await wire.produce("t", [b"a", b"b"], timestamp=1))["log_append_time_ms"]
    assert await wire.offsets_at("t", stamped) == (0, stamped)
    assert await wire.offsets_at("t", stamped + 1) == (-1, -1)


async def test_offsets_that_cannot_be_listed(wire):
    await wire.create("t")

    def one(number, epoch=-1):
        return {"partition_index": number, "current_leader_epoch": epoch, "timestamp": LATEST}

    topics = [
        {"name": "t", "partitions": [one(0), one(1), one(0), one(-1)]},
        {"name": "missing", "partitions": [one(0)]},
    ]
    answer = await wire.call(api.LIST_OFFSETS, {"replica_id": -1, "topics": topics})
    found = [(one["error_code"], one["offset"]) for topic in answer["topics"] for one in topic["partitions"]]
    missing = (ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, -1)
    assert found == [(ErrorCode.NONE, 0), missing, (ErrorCode.INVALID_REQUEST, -1), missing, missing]
    topics = [{"name": "t", "partitions": [one(0, epoch=1)]}]
    answer = await wire.call(api.LIST_OFFSETS, {"replica_id": -1, "topics": topics})
    assert answer["topics"][0]["partitions"][0]["error_code"] == ErrorCode.UNKNOWN_LEADER_EPOCH


@pytest.mark.parametrize("version", range(2, 5))
async def test_the_only_leader_ends_where_the_log_does(wire, version):
    await wire.create("t")
    await wire.produce("t", [b"a", b"b"])

    async def end(epoch, current=-1, name="t"):
        one = {"partition": 0, "current_leader_epoch": current, "leader_epoch": epoch}
        body = {"replica_id": -1, "topics": [{"topic": name, "partitions": [one]}]}
        answer = await wire.call(api.OFFSET_FOR_LEADER_EPOCH, body, version)
        (found,) = answer["topics"][0]["partitions"]
        return found["error_code"], found["leader_epoch"], found["end_offset"]

    assert await end(0) == (ErrorCode.NONE, 0, 2)
    assert await end(1) == (ErrorCode.NONE, -1, -1)
    assert await end(0, current=1) == (ErrorCode.UNKNOWN_LEADER_EPOCH, -1, -1)
    assert await end(0, name="missing") == (ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, -1, -1)


# ---- what groups commit ----


async def commit(wire, offsets, *, version=None, group="g", **member):
    """By topic and partition: an offset, or an offset and a text. The error codes likewise."""
    topics = {}
    for (topic, partition), offset in offsets.items():
        offset, text = offset if isinstance(offset, tuple) else (offset, None)
        one = {"partition_index": partition, "committed_offset": offset, "committed_metadata": text}
        topics.setdefault(topic, []).append(one)
    body = {
        "group_id": group,
        "generation_id_or_member_epoch": -1,
        "member_id": "",
        "topics": [{"name": name, "partitions": found} for name, found in topics.items()],
        **member,
    }
    answer = await wire.call(api.OFFSET_COMMIT, body, version)
    return {
        (topic["name"], one["partition_index"]): one["error_code"]
        for topic in answer["topics"]
        for one in topic["partitions"]
    }


async def committed(wire, topics=None, *, version=None, group="g"):
    """By topic and partition: offset and text; `topics` are numbers of partitions by name, None is all."""
    version = api.OFFSET_FETCH.max_version if version is None else version
    asked = topics and [{"name": name, "partition_indexes": numbers} for name, numbers in topics.items()]
    if version >= 8:
        body = {"groups": [{"group_id": group, "topics": asked}]}
        (answer,) = (await wire.call(api.OFFSET_FETCH, body, version))["groups"]
    else:
        answer = await wire.call(api.OFFSET_FETCH, {"group_id": group, "topics": asked}, version)
    assert answer["error_code"] == ErrorCode.NONE
    assert not any(one["error_code"] for topic in answer["topics"] for one in topic["partitions"])
    return {
        (topic["name"], one["partition_index"]): (one["committed_offset"], one["metadata"])
        for topic in answer["topics"]
        for one in topic["partitions"]
    }


@pytest.mark.parametrize("version", range(2, 10))
async def test_every_version_commits(wire, version):
    await wire.create("t", 2)
    assert await commit(wire, {("t", 0): (5, "note"), ("t", 1): 7}, version=version) == {
        ("t", 0): ErrorCode.NONE,
        ("t", 1): ErrorCode.NONE,
    }
    assert await committed(wire) == {("t", 0): (5, "note"), ("t", 1): (7, "")}


@pytest.mark.parametrize("version", range(1, 10))
async def test_every_version_fetches_what_was_committed(wire, version):
    await wire.create("t", 3)
    await commit(wire, {("t", 0): (5, "note"), ("t", 1): 7})
    some = {("t", 1): (7, ""), ("t", 2): (-1, ""), ("missing", 0): (-1, "")}
    assert await committed(wire, {"t": [1, 2], "missing": [0]}, version=version) == some
    if version >= 2:
        assert await committed(wire, version=version) == {("t", 0): (5, "note"), ("t", 1): (7, "")}
    assert await committed(wire, {"t": [0]}, version=version, group="unknown") == {("t", 0): (-1, "")}


async def test_many_groups_in_one_request(wire):
    await wire.create("t")
    await commit(wire, {("t", 0): 1}, group="a")
    await commit(wire, {("t", 0): 2}, group="b")
    groups = [{"group_id": name, "topics": None} for name in ("b", "", "c", "a")]
    found = (await wire.call(api.OFFSET_FETCH, {"groups": groups}))["groups"]
    assert [(one["group_id"], one["error_code"]) for one in found] == [
        ("b", ErrorCode.NONE),
        ("", ErrorCode.INVALID_GROUP_ID),
        ("c", ErrorCode.NONE),
        ("a", ErrorCode.NONE),
    ]
    offsets = [[one["committed_offset"] for t in g["topics"] for one in t["partitions"]] for g in found]
    assert offsets == [[2], [], [], [1]]


async def test_a_later_commit_takes_the_place_of_an_earlier(wire):
    await wire.create("t")
    await commit(wire, {("t", 0): 5})
    await commit(wire, {("t", 0): (3, "back")})
    assert await committed(wire) == {("t", 0): (3, "back")}


@pytest.mark.parametrize("version", [7, 8])
async def test_nobody_is_told_of_a_commit_before_it_is_safe(wire, kafka, version):
    await wire.create("t")
    await commit(wire, {("t", 0): 1})
    other = await kafka.dial()
    await committed(other)
    partition = {"partition_index": 0, "committed_offset": 2, "committed_metadata": ""}
    said = wire.written(
        api.OFFSET_COMMIT, {"group_id": "g", "topics": [{"name": "t", "partitions": [partition]}]}
    )
    asks = {"group_id": "g", "topics": None}
    asked = other.written(api.OFFSET_FETCH, {"groups": [asks]} if version == 8 else asks, version)
    # Both are there before the broker looks at either.
    os.write(wire.stream.socket.fileno(), said)
    os.write(other.stream.socket.fileno(), asked)
    answer = await other.answer()
    unsafe = kafka.node.groups.unsafe
    found = answer["groups"][0] if version == 8 else answer
    assert found["topics"][0]["partitions"][0]["committed_offset"] == 2
    assert unsafe is None
    await wire.answer()


async def test_what_cannot_be_committed(wire):
    await wire.create("t")
    asked = {("t", 0): 1, ("t", 1): 1, ("missing", 0): 1}
    assert await commit(wire, asked) == {
        ("t", 0): ErrorCode.NONE,
        ("t", 1): ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
        ("missing", 0): ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
    }
    assert await commit(wire, {("t", 0): (2, "x" * 5000)}) == {("t", 0): ErrorCode.OFFSET_METADATA_TOO_LARGE}
    one = {("t", 0): 3}
    assert set((await commit(wire, one, group="")).values()) == {ErrorCode.INVALID_GROUP_ID}
    strangers = await commit(wire, one, member_id="stranger", generation_id_or_member_epoch=4)
    assert set(strangers.values()) == {ErrorCode.UNKNOWN_MEMBER_ID}
    unknown = await commit(wire, one, group="h", member_id="m", generation_id_or_member_epoch=4)
    assert set(unknown.values()) == {ErrorCode.ILLEGAL_GENERATION}
    assert await committed(wire) == {("t", 0): (1, "")}


async def test_the_brokers_own_topic_needs_no_room_and_no_free_name(tmp_path):
    async with kafka_here(tmp_path, node_options={"partitions_max": 1}) as kafka:
        vhost = kafka.node.topology.vhost("/")
        kafka.node.topology.declare_queue(
            vhost, "__consumer_offsets", durable=True, auto_delete=False, arguments={}
        )
        wire = await kafka.dial()
        await wire.create("t")
        assert await commit(wire, {("t", 0): 1}) == {("t", 0): ErrorCode.NONE}
        await kafka.node.settled()
    async with kafka_here(tmp_path) as kafka:
        assert await committed(await kafka.dial()) == {("t", 0): (1, "")}
        assert "__consumer_offsets" in kafka.node.topology.vhost("/").queues


async def delete_offsets(wire, topics, group="g"):
    body = {
        "group_id": group,
        "topics": [
            {"name": name, "partitions": [{"partition_index": number} for number in numbers]}
            for name, numbers in topics.items()
        ],
    }
    answer = await wire.call(api.OFFSET_DELETE, body)
    codes = {
        (topic["name"], one["partition_index"]): one["error_code"]
        for topic in answer["topics"]
        for one in topic["partitions"]
    }
    return answer["error_code"], codes


async def test_committed_offsets_are_deleted(wire):
    await wire.create("t", 3)
    await commit(wire, {("t", 0): 1, ("t", 1): 2, ("t", 2): 3})
    code, codes = await delete_offsets(wire, {"t": [0, 2]})
    assert (code, set(codes.values())) == (ErrorCode.NONE, {ErrorCode.NONE})
    assert await committed(wire) == {("t", 1): (2, "")}
    assert await delete_offsets(wire, {"t": [0]}, group="unknown") == (ErrorCode.GROUP_ID_NOT_FOUND, {})
    unknown = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    code, codes = await delete_offsets(wire, {"t": [1, 3, -1], "u": [0]})
    assert code == ErrorCode.NONE
    assert codes == {("t", 1): ErrorCode.NONE, ("t", 3): unknown, ("t", -1): unknown, ("u", 0): unknown}


async def test_all_groups_together_have_a_limit(wire, kafka):
    await wire.create("t", 2)
    await commit(wire, {("t", 0): 1})
    room = kafka.node.groups.room
    room.size_max = room.size + 5000
    big = [{"partition_index": 0, "committed_offset": 2, "committed_metadata": "x" * 4000}]
    big.append({**big[0], "partition_index": 1})
    body = {"group_id": "g", "generation_id_or_member_epoch": -1, "member_id": ""}
    answer = await wire.call(api.OFFSET_COMMIT, body | {"topics": [{"name": "t", "partitions": big}]})
    codes = [one["error_code"] for one in answer["topics"][0]["partitions"]]
    assert codes == [ErrorCode.NONE, ErrorCode.INVALID_COMMIT_OFFSET_SIZE]
    small = [{"partition_index": 0, "committed_offset": 3}]
    body["group_id"] = "another" * 200
    answer = await wire.call(api.OFFSET_COMMIT, body | {"topics": [{"name": "t", "partitions": small}]})
    codes = [one["error_code"] for one in answer["topics"][0]["partitions"]]
    assert codes == [ErrorCode.GROUP_MAX_SIZE_REACHED]


async def test_offsets_go_with_their_topic(wire):
    await wire.create("t")
    await wire.create("u")
    await commit(wire, {("t", 0): 1, ("u", 0): 2})
    await wire.call(api.DELETE_TOPICS, {"topics": [{"name": "t"}]})
    assert await committed(wire) == {("u", 0): (2, "")}
    await wire.create("t")
    assert await committed(wire, {"t": [0]}) == {("t", 0): (-1, "")}


async def test_offsets_are_there_after_a_restart(tmp_path):
    async with kafka_here(tmp_path) as kafka:
        wire = await kafka.dial()
        await wire.create("t", 3)
        await commit(wire, {("t", 0): (1, "note"), ("t", 1): 2, ("t", 2): 3})
        await commit(wire, {("t", 0): (4, "later")})
        await commit(wire, {("t", 0): 9}, group="gone")
        await delete_offsets(wire, {"t": [1]})
        await wire.call(api.DELETE_GROUPS, {"groups_names": ["gone"]})
    for _ in range(2):
        async with kafka_here(tmp_path) as kafka:
            wire = await kafka.dial()
            assert await committed(wire) == {("t", 0): (4, "later"), ("t", 2): (3, "")}
            assert await committed(wire, group="gone") == {}


async def test_offsets_expire(tmp_path, mock_clock):
    groups = GroupOptions(retention_ms=3_600_000)
    async with kafka_here(tmp_path, node_options={"groups": groups}, idle_timeout_s=10**6) as kafka:
        wire = await kafka.dial()
        await wire.create("t", 2)
        await commit(wire, {("t", 0): 1})
        mock_clock.jump(1800)
        await trio.testing.wait_all_tasks_blocked(0.01)
        await commit(wire, {("t", 1): 2})
        mock_clock.jump(1830)
        await trio.testing.wait_all_tasks_blocked(0.01)
        kafka.node.groups.tidy(kafka.node.clock.now_ms())
        assert await committed(wire) == {("t", 1): (2, "")}
        mock_clock.jump(1900)
        await trio.testing.wait_all_tasks_blocked(0.01)
        kafka.node.groups.tidy(kafka.node.clock.now_ms())
        assert await committed(wire) == {}
        assert (await wire.call(api.LIST_GROUPS, {}))["groups"] == []
        await kafka.node.settled()
    async with kafka_here(tmp_path, node_options={"groups": groups}) as kafka:
        assert await committed(await kafka.dial()) == {}


async def test_an_old_client_says_how_long_an_offset_stays(tmp_path, mock_clock):
    async with kafka_here(tmp_path, idle_timeout_s=10**6) as kafka:
        wire = await kafka.dial()
        await wire.create("t", 2)
        await commit(wire, {("t", 0): 1}, version=4, retention_time_ms=60_000)
        await commit(wire, {("t", 1): 1}, version=4, retention_time_ms=-1)
        mock_clock.jump(125)
        await trio.testing.wait_all_tasks_blocked(0.01)
        kafka.node.groups.tidy(kafka.node.clock.now_ms())
        assert await committed(wire) == {("t", 1): (1, "")}
