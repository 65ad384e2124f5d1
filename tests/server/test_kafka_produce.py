"""Producing over Kafka's protocol: what comes in stays as it is, and what is refused is told."""

from __future__ import annotations

import random
import struct

import google_crc32c
import pytest

from broker.kafka import api, records
from broker.kafka.compression import Codec
from broker.kafka.errors import ErrorCode
from broker.kafka.records import Record
from broker.server.kafka import produce
from broker_here import until
from kafka_batches import NOW, batch_of, changed
from kafka_here import kafka_here
from kafka_wire import Ended, batch, produce_body, records_of, values_of


def idempotent(values, sequence, *, producer=7, epoch=0):
    return batch(values, producer_id=producer, producer_epoch=epoch, base_sequence=sequence)


# ---- what is taken ----


@pytest.mark.parametrize("version", range(3, 13))
@pytest.mark.parametrize("acks", [1, -1])
async def test_every_version_produces(wire, version, acks):
    await wire.create("t", 2)
    first = await wire.produce("t", [b"a", b"b"], 1, version=version, acks=acks)
    second = await wire.produce("t", [b"c"], 1, version=version, acks=acks)
    assert (first["index"], first["error_code"], first["base_offset"]) == (1, ErrorCode.NONE, 0)
    assert (second["base_offset"], second["log_append_time_ms"]) == (2, -1)
    assert second["log_start_offset"] == (0 if version >= 5 else -1)
    assert values_of((await wire.fetch("t", 0, 1))["records"]) == [b"a", b"b", b"c"]
    assert values_of((await wire.fetch("t", 0, 0))["records"]) == []


@pytest.mark.parametrize("codec", list(Codec))
async def test_a_batch_is_kept_as_it_came(wire, codec):
    """But for its offset and the leader's epoch, which its crc does not cover."""
    await wire.create("t")
    await wire.produce("t", [b"before"])
    sent = batch([b"compressible" * 50, None, b""], compression_type=codec)
    result = await wire.produce("t", sent)
    assert result["base_offset"] == 1
    found = bytes((await wire.fetch("t", 1))["records"])
    assert found[:8] == struct.pack(">q", 1)
    assert found[16:] == sent[16:]
    assert [record.offset for record in records_of(found)] == [1, 2, 3]


async def test_many_partitions_in_one_request(wire):
    await wire.create("a", 2)
    await wire.create("b", 1)
    data = [
        {"name": "a", "partition_data": [{"index": n, "records": batch([b"a%d" % n])} for n in (1, 0, 2)]},
        {"name": "missing", "partition_data": [{"index": 0, "records": batch([b"x"])}]},
        {"name": "b", "partition_data": [{"index": 0, "records": batch([b"b0"])}]},
    ]
    answer = await wire.call(api.PRODUCE, {"acks": -1, "timeout_ms": 1, "topic_data": data})
    assert [
        (topic["name"], one["index"], one["error_code"])
        for topic in answer["responses"]
        for one in topic["partition_responses"]
    ] == [
        ("a", 1, ErrorCode.NONE),
        ("a", 0, ErrorCode.NONE),
        ("a", 2, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        ("missing", 0, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        ("b", 0, ErrorCode.NONE),
    ]
    assert values_of((await wire.fetch("a", 0, 1))["records"]) == [b"a1"]
    assert values_of((await wire.fetch("b"))["records"]) == [b"b0"]


async def test_without_acks_there_is_no_answer(wire):
    await wire.create("t")
    await wire.write(wire.written(api.PRODUCE, produce_body("t", batch([b"a"]), acks=0)))
    wire.forget_last()
    assert (await wire.produce("t", [b"b"]))["base_offset"] == 1
    assert values_of((await wire.fetch("t"))["records"]) == [b"a", b"b"]


async def test_records_get_the_brokers_time(wire, kafka):
    await wire.create("t", configs={"message.timestamp.type": "LogAppendTime"})
    before = kafka.node.clock.now_ms()
    result = await wire.produce("t", batch([b"a", b"b"], timestamp=5, compression_type=Codec.GZIP))
    assert before <= result["log_append_time_ms"] <= kafka.node.clock.now_ms()
    found = bytes((await wire.fetch("t"))["records"])
    assert {record.timestamp for record in records_of(found)} == {result["log_append_time_ms"]}
    assert struct.unpack_from(">I", found, 17)[0] == google_crc32c.value(found[21:])


async def test_what_was_answered_is_there_after_a_restart(tmp_path):
    async with kafka_here(tmp_path) as kafka:
        wire = await kafka.dial()
        await wire.create("t", 2)
        await wire.produce("t", [b"a", b"b"])
        await wire.produce("t", [b"c"], 1)
    async with kafka_here(tmp_path) as kafka:
        wire = await kafka.dial()
        assert values_of((await wire.fetch("t"))["records"]) == [b"a", b"b"]
        assert values_of((await wire.fetch("t", partition=1))["records"]) == [b"c"]
        assert (await wire.produce("t", [b"d"]))["base_offset"] == 2


# ---- what is refused ----


def broken_crc():
    octets = bytearray(batch([b"value"]))
    octets[-1] ^= 1
    return bytes(octets)


def longer(octets, by):
    """With a length in it that is not its own."""
    return octets[:8] + struct.pack(">i", len(octets) - 12 + by) + octets[12:]


REFUSED = [
    ("broken crc", broken_crc(), ErrorCode.CORRUPT_MESSAGE),
    ("no batch", b"", ErrorCode.INVALID_RECORD),
    ("short", batch([b"v"])[:40], ErrorCode.CORRUPT_MESSAGE),
    ("too long", longer(batch([b"v"]), 1), ErrorCode.CORRUPT_MESSAGE),
    ("two batches", batch([b"v"]) + batch([b"w"]), ErrorCode.INVALID_RECORD),
    ("old format", changed(batch([b"v"]), 16, ">b", 1), ErrorCode.INVALID_RECORD),
    ("not from 0 on", changed(batch([b"v"]), 0, ">q", 5), ErrorCode.INVALID_RECORD),
    ("count", changed(batch([b"v"]), 57, ">i", 2), ErrorCode.INVALID_RECORD),
    ("no records", changed(changed(batch([b"v"]), 57, ">i", 0), 23, ">i", -1), ErrorCode.INVALID_RECORD),
    ("control", changed(batch([b"v"]), 21, ">h", records.CONTROL), ErrorCode.INVALID_RECORD),
    (
        "append time",
        changed(batch([b"v"]), 21, ">h", records.LOG_APPEND_TIME),
        ErrorCode.INVALID_TIMESTAMP,
    ),
    ("codec", changed(batch([b"v"]), 21, ">h", 5), ErrorCode.UNSUPPORTED_COMPRESSION_TYPE),
    ("no sequence", batch([b"v"], producer_id=1, producer_epoch=0), ErrorCode.INVALID_RECORD),
    ("ahead", batch([b"v"], timestamp=2**50), ErrorCode.INVALID_TIMESTAMP),
]


@pytest.mark.parametrize("name", [name for name, *_ in REFUSED])
async def test_a_batch_that_cannot_be_is_refused(wire, name):
    ((octets, code),) = [rest for other, *rest in REFUSED if other == name]
    await wire.create("t")
    result = await wire.produce("t", octets)
    assert (result["error_code"], result["base_offset"]) == (code, -1)
    assert result["error_message"]
    assert (await wire.produce("t", [b"good"]))["base_offset"] == 0


async def test_null_records_are_refused(wire):
    await wire.create("t")
    answer = await wire.call(api.PRODUCE, produce_body("t", None))
    (result,) = answer["responses"][0]["partition_responses"]
    assert result["error_code"] == ErrorCode.INVALID_RECORD


@pytest.mark.parametrize("acks", [-2, 2, 32767])
async def test_acks_that_do_not_exist(wire, acks):
    await wire.create("t")
    result = await wire.produce("t", [b"v"], acks=acks)
    assert result["error_code"] == ErrorCode.INVALID_REQUIRED_ACKS
    assert await wire.offsets_at("t", -1) == (0, -1)


async def test_nobody_produces_to_what_is_not_there(wire, kafka):
    await wire.create("t")
    for topic, partition in (("missing", 0), ("t", 1), ("t", -1), ("", 0), ("a/b", 0)):
        result = await wire.produce(topic, [b"v"], partition)
        assert result["error_code"] == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    assert [topic.name for topic in kafka.node.topics.topics()] == ["t"]


async def test_nobody_produces_to_the_brokers_own_topic(wire, kafka):
    kafka.node.groups.committed("g", {})
    result = await wire.produce("__consumer_offsets", [b"v"])
    assert result["error_code"] == ErrorCode.INVALID_TOPIC_EXCEPTION


async def test_transactions_are_refused(wire):
    await wire.create("t")
    body = produce_body("t", batch([b"v"])) | {"transactional_id": "mine"}
    (result,) = (await wire.call(api.PRODUCE, body))["responses"][0]["partition_responses"]
    assert result["error_code"] == ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED
    assert "no transactions" in result["error_message"]


async def test_a_batch_may_have_as_many_octets_as_its_topic_says(wire):
    await wire.create("t", configs={"max.message.bytes": "1000"})
    overhead = len(batch([bytes(900)])) - 900
    assert (await wire.produce("t", [bytes(1000 - overhead)]))["error_code"] == ErrorCode.NONE
    result = await wire.produce("t", [bytes(1001 - overhead)])
    assert result["error_code"] == ErrorCode.MESSAGE_TOO_LARGE


async def test_zstd_needs_version_7(wire):
    await wire.create("t")
    octets = batch([b"v"], compression_type=Codec.ZSTD)
    refused = await wire.produce("t", octets, version=6)
    assert refused["error_code"] == ErrorCode.UNSUPPORTED_COMPRESSION_TYPE
    assert (await wire.produce("t", octets, version=7))["error_code"] == ErrorCode.NONE


async def test_times_have_the_limits_of_the_topic(wire, kafka):
    configs = {"message.timestamp.after.max.ms": "10000", "message.timestamp.before.max.ms": "60000"}
    await wire.create("t", configs=configs)
    now_ms = kafka.node.clock.now_ms()
    for offset, code in (
        (0, ErrorCode.NONE),
        (5_000, ErrorCode.NONE),
        (100_000, ErrorCode.INVALID_TIMESTAMP),
        (-30_000, ErrorCode.NONE),
        (-61_000, ErrorCode.INVALID_TIMESTAMP),
    ):
        result = await wire.produce("t", [b"v"], timestamp=now_ms + offset)
        assert result["error_code"] == code, offset


async def test_records_of_a_compacted_topic_have_keys(wire):
    await wire.create("t", configs={"cleanup.policy": "compact"})
    for codec in (Codec.NONE, Codec.LZ4):
        refused = await wire.produce("t", batch([b"v"], key=None, compression_type=codec))
        assert refused["error_code"] == ErrorCode.INVALID_RECORD
        taken = await wire.produce("t", batch([b"v"], key=b"", compression_type=codec))
        assert taken["error_code"] == ErrorCode.NONE
    garbage = await wire.produce("t", batch_of(b"\0" * 20, 1))
    assert garbage["error_code"] == ErrorCode.INVALID_RECORD


async def test_it_is_told_which_records_have_no_keys(wire):
    await wire.create("t", configs={"cleanup.policy": "compact"})
    some = [Record(0, NOW, key, b"v") for key in (b"k", None, b"k", None)]
    refused = await wire.produce("t", records.build(some))
    assert [one["batch_index"] for one in refused["record_errors"]] == [1, 3]
    assert {one["batch_index_error_message"] for one in refused["record_errors"]} == {
        "a record of a compacted topic has no key"
    }
    assert (await wire.produce("t", records.build(some[:1])))["base_offset"] == 0


async def test_of_a_request_so_many_records_are_looked_at(wire, monkeypatch):
    monkeypatch.setattr(produce, "_RECORDS_MAX", 5)
    await wire.create("compacted", 3, configs={"cleanup.policy": "compact"})
    await wire.create("others", 3)
    three = batch([b"a", b"b", b"c"], key=b"k")
    for topic, codes in (
        ("others", [ErrorCode.NONE] * 3),
        ("compacted", [ErrorCode.NONE, ErrorCode.MESSAGE_TOO_LARGE, ErrorCode.NONE]),
    ):
        body = produce_body(topic, three)
        last = batch([b"a"], key=b"k")
        body["topic_data"][0]["partition_data"] = [
            {"index": number, "records": octets} for number, octets in enumerate((three, three, last))
        ]
        (answer,) = (await wire.call(api.PRODUCE, body))["responses"]
        assert [one["error_code"] for one in answer["partition_responses"]] == codes


async def test_of_a_request_so_much_is_inflated(wire, monkeypatch):
    """Of a megabyte of batches like these it would be 10 GiB."""
    monkeypatch.setattr(produce, "_INFLATED_MAX", 2_000_000)
    await wire.create("compacted", 4, configs={"cleanup.policy": "compact"})
    large = batch([bytes(1_000_000)], key=b"k", compression_type=Codec.ZSTD)
    body = produce_body("compacted", large)
    body["topic_data"][0]["partition_data"] = [{"index": number, "records": large} for number in range(4)]
    (answer,) = (await wire.call(api.PRODUCE, body))["responses"]
    found = answer["partition_responses"]
    assert [one["error_code"] for one in found] == [ErrorCode.NONE] * 2 + [ErrorCode.MESSAGE_TOO_LARGE] * 2
    assert "more than 2000000 bytes inflated" in found[-1]["error_message"]


async def test_a_batch_of_a_compacted_topic_may_not_be_100_mib_inflated(wire):
    """However large the topic's batches may be."""
    await wire.create("t", configs={"cleanup.policy": "compact", "max.message.bytes": "10000000"})
    noise = Record(0, NOW, b"k", random.Random(0).randbytes(4_000_000))
    some = [noise, *[Record(0, NOW, b"k", bytes(1_000_000))] * 101]
    refused = await wire.produce("t", records.build(some, compression_type=Codec.ZSTD))
    assert refused["error_code"] == ErrorCode.INVALID_RECORD
    assert "more than 104857600 octets" in refused["error_message"]


async def test_an_error_without_acks_is_the_end(wire, kafka):
    await wire.create("t")
    await wire.write(wire.written(api.PRODUCE, produce_body("t", broken_crc(), acks=0)))
    wire.forget_last()
    with pytest.raises(Ended):
        await wire.call(api.METADATA, {"topics": []})
    other = await kafka.dial()
    assert await other.offsets_at("t", -1) == (0, -1)


# ---- idempotence ----


async def test_a_batch_that_comes_again_is_told_where_it_is(wire):
    await wire.create("t")
    sent = [idempotent([b"a", b"b"], 0), idempotent([b"c"], 2), idempotent([b"d"], 3)]
    first = [(await wire.produce("t", octets))["base_offset"] for octets in sent]
    again = [(await wire.produce("t", octets)) for octets in sent]
    assert first == [0, 2, 3]
    assert [(one["error_code"], one["base_offset"]) for one in again] == [
        (ErrorCode.NONE, 0),
        (ErrorCode.NONE, 2),
        (ErrorCode.NONE, 3),
    ]
    assert values_of((await wire.fetch("t"))["records"]) == [b"a", b"b", b"c", b"d"]


async def test_the_same_batch_twice_in_flight_is_appended_once(wire):
    """The second is answered when the first is safe."""
    await wire.create("t")
    octets = idempotent([b"a"], 0)
    for _ in range(3):
        await wire.send(api.PRODUCE, produce_body("t", octets))
    answers = [await wire.answer() for _ in range(3)]
    offsets = [one["responses"][0]["partition_responses"][0]["base_offset"] for one in answers]
    assert offsets == [0, 0, 0]
    assert values_of((await wire.fetch("t"))["records"]) == [b"a"]


async def test_sequence_numbers_have_no_holes(wire):
    await wire.create("t", 2)
    await wire.produce("t", idempotent([b"a"], 0))
    for sequence in (2, 5):
        refused = await wire.produce("t", idempotent([b"x"], sequence))
        assert refused["error_code"] == ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    assert (await wire.produce("t", idempotent([b"b"], 1)))["base_offset"] == 1
    assert (await wire.produce("t", idempotent([b"c"], 0), 1))["base_offset"] == 0


async def test_an_older_epoch_is_fenced(wire):
    await wire.create("t")
    await wire.produce("t", idempotent([b"a"], 0, epoch=2))
    refused = await wire.produce("t", idempotent([b"b"], 1, epoch=1))
    assert refused["error_code"] == ErrorCode.INVALID_PRODUCER_EPOCH
    refused = await wire.produce("t", idempotent([b"b"], 1, epoch=3))
    assert refused["error_code"] == ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    assert (await wire.produce("t", idempotent([b"b"], 0, epoch=3)))["base_offset"] == 1


async def test_producers_are_known_after_a_restart(tmp_path):
    async with kafka_here(tmp_path) as kafka:
        wire = await kafka.dial()
        await wire.create("t")
        for sequence in range(3):
            await wire.produce("t", idempotent([b"%d" % sequence], sequence))
    async with kafka_here(tmp_path) as kafka:
        wire = await kafka.dial()
        again = await wire.produce("t", idempotent([b"1"], 1))
        assert (again["error_code"], again["base_offset"]) == (ErrorCode.NONE, 1)
        refused = await wire.produce("t", idempotent([b"5"], 5))
        assert refused["error_code"] == ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
        assert (await wire.produce("t", idempotent([b"3"], 3)))["base_offset"] == 3
        assert values_of((await wire.fetch("t"))["records"]) == [b"0", b"1", b"2", b"3"]


@pytest.mark.parametrize("version", range(6))
async def test_producer_ids_are_given_once(tmp_path, version):
    seen = []
    for _ in range(3):
        async with kafka_here(tmp_path) as kafka:
            wire, other = await kafka.dial(), await kafka.dial()
            for client in (wire, other, wire):
                body = {"transactional_id": None, "transaction_timeout_ms": 1000}
                answer = await client.call(api.INIT_PRODUCER_ID, body, version)
                assert (answer["error_code"], answer["producer_epoch"]) == (ErrorCode.NONE, 0)
                seen.append(answer["producer_id"])
    assert len(set(seen)) == 9
    assert min(seen) >= 0


async def test_ids_for_transactions_are_refused(wire):
    body = {"transactional_id": "mine", "transaction_timeout_ms": 1000}
    answer = await wire.call(api.INIT_PRODUCER_ID, body)
    assert answer["error_code"] == ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED
    assert (answer["producer_id"], answer["producer_epoch"]) == (-1, -1)


# ---- when the broker must not take more ----


async def test_who_goes_while_an_alarm_is_on_leaves_nothing_behind(wire, kafka):
    await wire.create("t")
    alarms = kafka.node.alarms
    alarms.disk_free = lambda: -1
    alarms.check(disk_full=False)
    producer = await kafka.dial()
    await producer.send(api.PRODUCE, produce_body("t", batch([b"never"])))
    await until(lambda: kafka.server._blocked)
    producer.drop()
    await until(lambda: not kafka.server._blocked)


async def test_while_an_alarm_is_on_nothing_is_taken_and_the_rest_is_served(wire, kafka):
    await wire.create("t")
    reader = await kafka.dial()
    alarms = kafka.node.alarms
    free, alarms.disk_free = alarms.disk_free, lambda: -1
    alarms.check(disk_full=False)
    assert alarms.active
    await wire.send(api.PRODUCE, produce_body("t", batch([b"late"])))
    assert values_of((await reader.fetch("t"))["records"]) == []
    assert (await reader.call(api.METADATA, {"topics": None}))["topics"][0]["name"] == "t"
    assert kafka.node.topics.find("/", "t").partitions[0].next_offset == 0
    alarms.disk_free = free
    alarms.check(disk_full=False)
    answer = await wire.answer()
    assert answer["responses"][0]["partition_responses"][0]["error_code"] == ErrorCode.NONE
    assert values_of((await reader.fetch("t"))["records"]) == [b"late"]
