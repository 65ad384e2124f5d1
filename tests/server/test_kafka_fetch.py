"""Fetching over Kafka's protocol: what is there, who waits for more, and sessions."""

from __future__ import annotations

import pytest
import trio.testing

from broker.kafka import api
from broker.kafka.compression import Codec
from broker.kafka.errors import ErrorCode
from broker_here import until
from kafka_here import kafka_here
from kafka_wire import batch, fetch_body, records_of, values_of


@pytest.fixture
async def mock_kafka(tmp_path, mock_clock):
    async with kafka_here(tmp_path) as here:
        yield here


async def parked(kafka, name="t", partition=0):
    """Wait until somebody waits for more in a partition."""
    found = kafka.node.topics.find("/", name).partitions[partition]
    await until(lambda: found.bells)


def parts_of(answer):
    """By topic, or its id, and partition: error and values."""
    assert answer["error_code"] == ErrorCode.NONE
    return {
        (topic["topic"] or topic["topic_id"], one["partition_index"]): (
            ErrorCode(one["error_code"]),
            values_of(one["records"] or b""),
        )
        for topic in answer["responses"]
        for one in topic["partitions"]
    }


def nothing_new(answer):
    return answer["error_code"] == ErrorCode.NONE and answer["responses"] == []


# ---- what is there ----


@pytest.mark.parametrize("version", range(4, 17))
async def test_every_version_fetches(wire, version):
    made = await wire.create("t", 2)
    await wire.produce("t", [b"a", b"b"])
    topic = made["topic_id"] if version >= 13 else "t"
    answer = await wire.call(api.FETCH, fetch_body({(topic, 0): 0, (topic, 1): 0}), version)
    assert parts_of(answer) == {
        (topic, 0): (ErrorCode.NONE, [b"a", b"b"]),
        (topic, 1): (ErrorCode.NONE, []),
    }
    first = answer["responses"][0]["partitions"][0]
    assert (first["high_watermark"], first["last_stable_offset"]) == (2, 2)
    if version >= 5:
        assert first["log_start_offset"] == 0
    assert answer["session_id"] == 0


async def test_an_offset_in_the_middle_of_a_batch_gives_the_batch(wire):
    await wire.create("t")
    await wire.produce("t", [b"a"])
    await wire.produce("t", [b"b", b"c", b"d"])
    await wire.produce("t", [b"e"])
    for offset in (1, 2, 3):
        found = records_of((await wire.fetch("t", offset))["records"])
        assert [(record.offset, record.value) for record in found] == [
            (1, b"b"),
            (2, b"c"),
            (3, b"d"),
            (4, b"e"),
        ]


async def test_an_offset_that_is_not_there(wire):
    await wire.create("t")
    await wire.produce("t", [b"a", b"b"])
    assert (await wire.fetch("t", 2))["error_code"] == ErrorCode.NONE
    for offset in (3, 2**62, -1, -2):
        found = await wire.fetch("t", offset)
        assert (found["error_code"], found["high_watermark"]) == (ErrorCode.OFFSET_OUT_OF_RANGE, -1)


async def test_the_first_batch_comes_whatever_its_size(wire):
    """So that nobody is stuck before it."""
    await wire.create("t", 2)
    for partition in (0, 1):
        await wire.produce("t", [bytes(5000)], partition)
        await wire.produce("t", [bytes(5000)], partition)
    for limits in ({"max_bytes": 100}, {"max_bytes": 0}, {"partition_max_bytes": 1}):
        body = fetch_body({("t", 0): 0}, **limits)
        ((key, (_, values)),) = parts_of(await wire.call(api.FETCH, body, 12)).items()
        assert (key, values) == (("t", 0), [bytes(5000)])
    both = parts_of(await wire.call(api.FETCH, fetch_body({("t", 1): 0, ("t", 0): 0}, max_bytes=100), 12))
    assert both == {("t", 1): (ErrorCode.NONE, [bytes(5000)]), ("t", 0): (ErrorCode.NONE, [])}


async def test_an_answer_has_as_many_octets_as_are_asked_for(wire):
    await wire.create("t")
    for number in range(20):
        await wire.produce("t", [b"%04d" % number + bytes(996)])
    size = len(batch([bytes(1000)]))
    for limits in ({"max_bytes": 5 * size}, {"partition_max_bytes": 5 * size}):
        found = (await wire.fetch("t", 3, **limits))["records"]
        assert len(found) <= 5 * size
        assert [int(value[:4]) for value in values_of(found)] == [3, 4, 5, 6, 7]


async def test_an_answer_has_no_more_than_the_broker_allows(tmp_path):
    async with kafka_here(tmp_path, fetch_size_max=3000) as kafka:
        wire = await kafka.dial()
        await wire.create("t")
        for _ in range(20):
            await wire.produce("t", [bytes(1000)])
        assert len(values_of((await wire.fetch("t", max_bytes=2**31 - 1))["records"])) == 2


async def test_everything_is_read_however_it_lies(wire, kafka):
    """From files and from memory, in steps that end anywhere."""
    await wire.create("t", configs={"segment.bytes": str(1024 * 1024)})
    sent = [b"%d:" % number + bytes(number * 97 % 9000) for number in range(400)]
    for start in range(0, 400, 4):
        await wire.produce("t", sent[start : start + 4], compression_type=Codec.LZ4 if start % 8 else 0)
    found: list[bytes] = []
    while len(found) < 400:
        some = records_of((await wire.fetch("t", len(found), max_bytes=77_777))["records"])
        found += [record.value for record in some if record.offset >= len(found)]
    assert found == sent


async def test_zstd_needs_version_10(wire):
    await wire.create("t")
    await wire.produce("t", batch([b"v"], compression_type=Codec.ZSTD))
    refused = await wire.fetch("t", version=9)
    assert refused["error_code"] == ErrorCode.UNSUPPORTED_COMPRESSION_TYPE
    assert values_of((await wire.fetch("t", version=10))["records"]) == [b"v"]


async def test_what_is_not_there(wire):
    made = await wire.create("t")
    body = fetch_body({("t", 1): 0, ("t", -1): 0, ("missing", 0): 0, ("t", 0): 0})
    missing = (ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, [])
    assert parts_of(await wire.call(api.FETCH, body, 12)) == {
        ("t", 1): missing,
        ("t", -1): missing,
        ("missing", 0): missing,
        ("t", 0): (ErrorCode.NONE, []),
    }
    other = bytes(range(16))
    body = fetch_body({(other, 0): 0, (bytes(16), 0): 0, (made["topic_id"], 1): 0})
    answer = await wire.call(api.FETCH, body)
    codes = [one["error_code"] for topic in answer["responses"] for one in topic["partitions"]]
    assert codes == [
        ErrorCode.UNKNOWN_TOPIC_ID,
        ErrorCode.UNKNOWN_TOPIC_ID,
        ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
    ]


async def test_an_old_id_is_not_the_new_topic(wire):
    old = (await wire.create("t"))["topic_id"]
    await wire.call(api.DELETE_TOPICS, {"topics": [{"name": "t"}]})
    await wire.create("t")
    answer = await wire.call(api.FETCH, fetch_body({(old, 0): 0}))
    assert answer["responses"][0]["partitions"][0]["error_code"] == ErrorCode.UNKNOWN_TOPIC_ID


async def test_there_is_one_leader_epoch(wire):
    await wire.create("t")
    await wire.produce("t", [b"v"])
    for epoch, code in ((-1, ErrorCode.NONE), (0, ErrorCode.NONE), (1, ErrorCode.UNKNOWN_LEADER_EPOCH)):
        body = fetch_body({("t", 0): 0})
        body["topics"][0]["partitions"][0]["current_leader_epoch"] = epoch
        ((found, _),) = parts_of(await wire.call(api.FETCH, body, 12)).values()
        assert found == code


# ---- waiting ----


async def test_a_fetch_waits_for_a_record(kafka, wire):
    await wire.create("t", 2)
    reader = await kafka.dial()
    await reader.send(api.FETCH, fetch_body({("t", 0): 0, ("t", 1): 0}, max_wait_ms=60_000), 12)
    await parked(kafka, partition=1)
    await wire.produce("t", [b"v"], 1)
    assert parts_of(await reader.answer())["t", 1] == (ErrorCode.NONE, [b"v"])
    assert not kafka.node.topics.find("/", "t").partitions[0].bells


async def test_a_fetch_waits_for_as_many_octets_as_it_wants(kafka, wire):
    await wire.create("t")
    reader = await kafka.dial()
    size = len(batch([bytes(100)]))
    body = fetch_body({("t", 0): 0}, max_wait_ms=60_000, min_bytes=2 * size + 1)
    await reader.send(api.FETCH, body, 12)
    for number in range(3):
        await parked(kafka)
        await wire.produce("t", [b"%d" % number + bytes(99)])
    ((_, values),) = parts_of(await reader.answer()).values()
    assert [value[:1] for value in values] == [b"0", b"1", b"2"]


async def test_what_is_enough_does_not_wait(kafka, wire):
    await wire.create("t")
    await wire.produce("t", [b"v"])
    body = fetch_body({("t", 0): 0}, max_wait_ms=60_000, min_bytes=1)
    assert parts_of(await wire.call(api.FETCH, body, 12))["t", 0] == (ErrorCode.NONE, [b"v"])
    nothing = fetch_body({("t", 0): 1}, max_wait_ms=60_000, min_bytes=0)
    assert parts_of(await wire.call(api.FETCH, nothing, 12))["t", 0] == (ErrorCode.NONE, [])
    nobody = fetch_body({}, max_wait_ms=60_000, min_bytes=1)
    assert nothing_new(await wire.call(api.FETCH, nobody, 12))


async def test_an_error_does_not_wait(kafka, wire):
    await wire.create("t")
    body = fetch_body({("t", 0): 0, ("t", 1): 0}, max_wait_ms=60_000)
    found = parts_of(await wire.call(api.FETCH, body, 12))
    assert found["t", 1] == (ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, [])


async def test_time_is_up(mock_kafka, mock_clock):
    wire = await mock_kafka.dial()
    await wire.create("t")
    size = len(batch([b"v"]))
    body = fetch_body({("t", 0): 0}, max_wait_ms=500, min_bytes=size + 1)
    await wire.send(api.FETCH, body, 12)
    await parked(mock_kafka)
    other = await mock_kafka.dial()
    await other.produce("t", [b"v"])
    partition = mock_kafka.node.topics.find("/", "t").partitions[0]
    await until(lambda: not partition.bells)  # it has looked in vain, and rests
    mock_clock.jump(0.006)
    await parked(mock_kafka)
    mock_clock.jump(0.493)
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert mock_kafka.node.topics.find("/", "t").partitions[0].bells
    mock_clock.jump(0.002)
    assert parts_of(await wire.answer())["t", 0] == (ErrorCode.NONE, [b"v"])
    assert not mock_kafka.node.topics.find("/", "t").partitions[0].bells


async def test_nobody_waits_longer_than_the_broker_allows(tmp_path, mock_clock):
    async with kafka_here(tmp_path, fetch_wait_max_ms=1000) as kafka:
        wire = await kafka.dial()
        await wire.create("t")
        await wire.send(api.FETCH, fetch_body({("t", 0): 0}, max_wait_ms=2**31 - 1), 12)
        await parked(kafka)
        mock_clock.jump(1.001)
        assert parts_of(await wire.answer())["t", 0] == (ErrorCode.NONE, [])


async def test_whoever_has_gone_waits_no_more(kafka, wire):
    await wire.create("t")
    reader = await kafka.dial()
    await reader.send(api.FETCH, fetch_body({("t", 0): 0}, max_wait_ms=60_000), 12)
    await parked(kafka)
    reader.drop()
    partition = kafka.node.topics.find("/", "t").partitions[0]
    await until(lambda: not partition.bells)
    assert (await wire.produce("t", [b"v"]))["error_code"] == ErrorCode.NONE


async def test_a_deleted_topic_is_told_to_those_who_wait(kafka, wire):
    await wire.create("t")
    reader = await kafka.dial()
    await reader.send(api.FETCH, fetch_body({("t", 0): 0}, max_wait_ms=60_000), 12)
    await parked(kafka)
    await wire.call(api.DELETE_TOPICS, {"topics": [{"name": "t"}]})
    assert parts_of(await reader.answer())["t", 0] == (ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, [])


async def test_two_may_wait_on_one_connection(kafka, wire):
    """They are answered in the order of their requests."""
    await wire.create("t", 2)
    reader = await kafka.dial()
    for partition in (0, 1):
        await reader.send(api.FETCH, fetch_body({("t", partition): 0}, max_wait_ms=60_000), 12)
    await parked(kafka, partition=1)
    await wire.produce("t", [b"second"], 1)
    await wire.produce("t", [b"first"], 0)
    assert list(parts_of(await reader.answer())) == [("t", 0)]
    assert list(parts_of(await reader.answer())) == [("t", 1)]


# ---- sessions ----


async def begun(wire, wanted, version=12):
    """A session: its id, and the first answer."""
    answer = await wire.call(api.FETCH, fetch_body(wanted, session_epoch=0), version)
    assert answer["session_id"] > 0
    return answer["session_id"], answer


async def further(wire, id, epoch, wanted=None, *, version=12, **options):
    body = fetch_body(wanted or {}, session_id=id, session_epoch=epoch, **options)
    return await wire.call(api.FETCH, body, version)


@pytest.mark.parametrize("version", [7, 12, 13, 16])
async def test_a_session_tells_only_what_is_new(kafka, wire, version):
    made = await wire.create("t", 3)
    topic = made["topic_id"] if version >= 13 else "t"
    await wire.produce("t", [b"a"])
    id, first = await begun(wire, {(topic, number): 0 for number in range(3)}, version)
    assert parts_of(first) == {
        (topic, 0): (ErrorCode.NONE, [b"a"]),
        (topic, 1): (ErrorCode.NONE, []),
        (topic, 2): (ErrorCode.NONE, []),
    }
    # What changed is told: an offset, and a partition with something new.
    await wire.produce("t", [b"b"], 2)
    second = await further(wire, id, 1, {(topic, 0): 1}, version=version)
    assert parts_of(second) == {(topic, 2): (ErrorCode.NONE, [b"b"])}
    assert second["session_id"] == id
    third = await further(wire, id, 2, {(topic, 2): 1}, version=version)
    assert nothing_new(third)
    await wire.produce("t", [b"c"])
    fourth = await further(wire, id, 3, version=version)
    assert parts_of(fourth) == {(topic, 0): (ErrorCode.NONE, [b"c"])}


async def test_a_session_waits(kafka, wire):
    await wire.create("t", 2)
    reader = await kafka.dial()
    id, _ = await begun(reader, {("t", 0): 0, ("t", 1): 0})
    await reader.send(api.FETCH, fetch_body({}, session_id=id, session_epoch=1, max_wait_ms=60_000), 12)
    await parked(kafka, partition=1)
    await wire.produce("t", [b"v"], 1)
    assert parts_of(await reader.answer()) == {("t", 1): (ErrorCode.NONE, [b"v"])}


async def test_a_session_tells_of_a_new_start(wire):
    await wire.create("t")
    await wire.produce("t", [b"a", b"b"])
    id, _ = await begun(wire, {("t", 0): 2})
    topics = [{"name": "t", "partitions": [{"partition_index": 0, "offset": 1}]}]
    await wire.call(api.DELETE_RECORDS, {"topics": topics})
    answer = await further(wire, id, 1)
    assert answer["responses"][0]["partitions"][0]["log_start_offset"] == 1
    assert nothing_new(await further(wire, id, 2))


async def test_partitions_come_and_go(wire):
    await wire.create("t", 3)
    for number in range(3):
        await wire.produce("t", [b"%d" % number], number)
    id, _ = await begun(wire, {("t", 0): 1})
    added = await further(wire, id, 1, {("t", 1): 0, ("t", 2): 0})
    assert set(parts_of(added)) == {("t", 1), ("t", 2)}
    left = await further(wire, id, 2, {("t", 0): 0}, forgotten=[("t", 1), ("t", 7), ("missing", 0)])
    assert set(parts_of(left)) == {("t", 0), ("t", 2)}


async def test_whoever_got_something_is_last_the_next_time(wire):
    """So that one partition with much does not keep the others waiting."""
    await wire.create("t", 3)
    for number in range(3):
        for _ in range(3):
            await wire.produce("t", [bytes(2000)], number)
    id, _ = await begun(wire, {})
    seen = []
    wanted = {("t", number): 0 for number in range(3)}
    for epoch in range(1, 7):
        answer = await further(wire, id, epoch, wanted if epoch == 1 else None, max_bytes=100)
        seen += [key[1] for key, (_, values) in parts_of(answer).items() if values]
    assert seen == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize("version", [12, 16])
async def test_a_session_that_is_not_there(wire, version):
    await wire.create("t")
    id, _ = await begun(wire, {("t", 0): 0} if version < 13 else {}, version)
    unknown = await further(wire, id + 1, 1, version=version)
    assert unknown["error_code"] == ErrorCode.FETCH_SESSION_ID_NOT_FOUND
    for epoch in (2, 5):
        wrong = await further(wire, id, epoch, version=version)
        assert wrong["error_code"] == ErrorCode.INVALID_FETCH_SESSION_EPOCH
    assert nothing_new(await further(wire, id, 1, version=version))
    again = await further(wire, id, 1, version=version)
    assert again["error_code"] == ErrorCode.INVALID_FETCH_SESSION_EPOCH


async def test_a_session_is_ended(wire):
    await wire.create("t")
    id, _ = await begun(wire, {("t", 0): 0})
    ended = await further(wire, id, -1)
    assert (ended["error_code"], ended["session_id"]) == (ErrorCode.NONE, 0)
    gone = await further(wire, id, 1)
    assert gone["error_code"] == ErrorCode.FETCH_SESSION_ID_NOT_FOUND


async def test_a_session_begins_anew(wire):
    await wire.create("t", 2)
    id, _ = await begun(wire, {("t", 0): 0})
    answer = await further(wire, id, 0, {("t", 1): 0})
    assert answer["session_id"] not in (0, id)
    assert set(parts_of(answer)) == {("t", 1)}
    assert (await further(wire, id, 1))["error_code"] == ErrorCode.FETCH_SESSION_ID_NOT_FOUND
    assert nothing_new(await further(wire, answer["session_id"], 1))


async def test_a_session_goes_by_names_or_by_ids(wire):
    made = await wire.create("t")
    id, _ = await begun(wire, {("t", 0): 0})
    answer = await further(wire, id, 1, {(made["topic_id"], 0): 0}, version=13)
    assert answer["error_code"] == ErrorCode.FETCH_SESSION_TOPIC_ID_ERROR


async def test_a_session_is_its_connections_own(kafka, wire):
    await wire.create("t")
    id, _ = await begun(wire, {("t", 0): 0})
    other = await kafka.dial()
    assert (await further(other, id, 1))["error_code"] == ErrorCode.FETCH_SESSION_ID_NOT_FOUND


async def test_a_deleted_topic_is_told_in_a_session(wire):
    await wire.create("t")
    id, _ = await begun(wire, {("t", 0): 0})
    await wire.call(api.DELETE_TOPICS, {"topics": [{"name": "t"}]})
    answer = await further(wire, id, 1)
    assert parts_of(answer) == {("t", 0): (ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, [])}
