"""Connections to Kafka's listener: order, limits, silence, garbage, and the end."""

from __future__ import annotations

import logging
import socket
import struct

import pytest
import trio
import trio.testing

from broker.kafka import api
from broker.kafka.errors import ErrorCode
from broker_here import until
from kafka_here import kafka_here
from kafka_wire import Ended, batch, fetch_body, produce_body, values_of
from patience import WAIT_S

METADATA_OF_NOTHING = {"topics": []}


def framed(octets: bytes) -> bytes:
    return struct.pack(">i", len(octets)) + octets


# ---- order ----


async def test_answers_come_in_the_order_of_the_requests(wire):
    """Whatever each has to wait for."""
    await wire.create("t")
    octets = b""
    for number in range(20):
        octets += wire.written(api.PRODUCE, produce_body("t", batch([b"%d" % number])))
        octets += wire.written(api.METADATA, METADATA_OF_NOTHING)
        octets += wire.written(api.FETCH, fetch_body({("t", 0): 0}), 12)
        octets += wire.written(api.API_VERSIONS, version=0)
    await wire.write(octets)
    offsets = []
    for _ in range(20):
        (result,) = (await wire.answer())["responses"][0]["partition_responses"]
        offsets.append(result["base_offset"])
        assert "brokers" in await wire.answer()
        assert "responses" in await wire.answer()
        assert "api_keys" in await wire.answer()
    assert offsets == list(range(20))


async def test_more_requests_than_may_wait_are_answered_all(kafka, wire):
    """Those beyond the limit are handled when others have been answered."""
    await wire.create("t")
    reader = await kafka.dial()
    octets = reader.written(api.FETCH, fetch_body({("t", 0): 0}, max_wait_ms=60_000), 12)
    octets += b"".join(reader.written(api.METADATA, METADATA_OF_NOTHING) for _ in range(200))
    await reader.write(octets)
    partition = kafka.node.topics.find("/", "t").partitions[0]
    await until(lambda: partition.bells)
    await wire.produce("t", [b"v"])
    assert values_of((await reader.answer())["responses"][0]["partitions"][0]["records"]) == [b"v"]
    for _ in range(200):
        assert (await reader.answer())["controller_id"] == 1


async def test_a_request_may_come_octet_by_octet(wire):
    for octet in wire.written(api.METADATA, METADATA_OF_NOTHING):
        await wire.write(bytes([octet]))
    assert (await wire.answer())["controller_id"] == 1


async def test_a_client_that_does_not_read_is_not_read_from(kafka, wire):
    """What waits for it is bounded, and it gets everything when it reads again."""
    await wire.create("t", configs={"max.message.bytes": "2000000"})
    await wire.produce("t", [bytes(1_000_000)])
    slow = await kafka.dial()
    for _ in range(30):
        await slow.send(api.FETCH, fetch_body({("t", 0): 0}), 12)
    await trio.testing.wait_all_tasks_blocked(0.05)
    (peer,) = [
        peer for peer in kafka.node.peers if peer.snapshot().peer_port == slow.stream.socket.getsockname()[1]
    ]
    assert peer.snapshot().send_pending < 4_000_000
    assert (await wire.call(api.METADATA, METADATA_OF_NOTHING))["controller_id"] == 1
    for _ in range(30):
        (found,) = (await slow.answer())["responses"][0]["partitions"]
        assert len(found["records"]) > 1_000_000


# ---- limits ----


@pytest.mark.parametrize("size", [-1, -(2**31), 2**31 - 1, 100 * 1024 * 1024 + 1])
async def test_a_frame_of_an_impossible_size_is_the_end(wire, size):
    await wire.write(struct.pack(">i", size))
    await wire.ends()


async def test_frames_have_a_limit(tmp_path):
    async with kafka_here(tmp_path, request_size_max=10_000) as kafka:
        wire = await kafka.dial()
        await wire.create("t")
        assert (await wire.produce("t", [bytes(9000)]))["error_code"] == ErrorCode.NONE
        await wire.send(api.PRODUCE, produce_body("t", batch([bytes(10_000)])))
        with pytest.raises(Ended):
            await wire.answer()
        assert await (await kafka.dial()).offsets_at("t", -1) == (1, -1)


async def test_there_are_not_more_connections_than_may_be(tmp_path, caplog):
    async with kafka_here(tmp_path, connections_max=2) as kafka:
        first, second = await kafka.dial(), await kafka.dial()
        for client in (first, second):
            assert (await client.call(api.METADATA, METADATA_OF_NOTHING))["controller_id"] == 1
        third = await kafka.dial()
        await third.ends()
        assert "2 clients are connected" in caplog.text
        first.drop()
        await until(lambda: kafka.server.connection_count == 1)
        fourth = await kafka.dial()
        assert (await fourth.call(api.METADATA, METADATA_OF_NOTHING))["controller_id"] == 1


# ---- silence ----


async def test_whoever_says_nothing_for_long_is_let_go(tmp_path, mock_clock):
    async with kafka_here(tmp_path, idle_timeout_s=60.0) as kafka:
        quiet, busy, waiting = [await kafka.dial() for _ in range(3)]
        await busy.create("t")
        await waiting.send(api.FETCH, fetch_body({("t", 0): 0}, max_wait_ms=200_000), 12)
        await until(lambda: kafka.node.topics.find("/", "t").partitions[0].bells)
        for _ in range(4):
            mock_clock.jump(31)
            await trio.testing.wait_all_tasks_blocked(0.01)
            await busy.call(api.METADATA, METADATA_OF_NOTHING)
        await quiet.ends()
        await busy.produce("t", [b"v"])
        assert values_of((await waiting.answer())["responses"][0]["partitions"][0]["records"]) == [b"v"]


async def test_whoever_does_not_log_in_is_let_go(tmp_path, mock_clock, caplog):
    async with kafka_here(tmp_path, anonymous_user="", login_timeout_s=10.0) as kafka:
        kafka.add_user("alice")
        alice, quiet, slow = await kafka.log_in("alice"), await kafka.dial(), await kafka.dial()
        for _ in range(3):
            await slow.call(api.SASL_HANDSHAKE, {"mechanism": "PLAIN"})
            mock_clock.jump(4)
            await trio.testing.wait_all_tasks_blocked(0.01)
        await slow.ends()
        await quiet.ends()
        assert caplog.text.count("no login came in time") == 2
        assert (await alice.call(api.METADATA, METADATA_OF_NOTHING))["controller_id"] == 1


# ---- garbage ----

GARBAGE = [
    b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"AMQP\x00\x00\x09\x01",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    framed(b""),
    framed(b"\0"),
    framed(b"\xff" * 100),
    framed(bytes(8)),
    framed(struct.pack(">hhih", 3, 12, 1, 2000) + b"short"),
    framed(struct.pack(">hhih", 3, 12, 1, 2) + b"\xff\xfe\0\0"),
    framed(struct.pack(">hhih", 3, 1, 1, -1) + struct.pack(">i", 2**31 - 1)),
    framed(struct.pack(">hhih", 3, 12, 1, -1) + b"\0" + b"\xff\xff\xff\xff\x0f"),
    framed(struct.pack(">hhih", 0, 9, 1, -1) + b"\xff" * 50),
    framed(struct.pack(">hhih", 18, 3, 1, -1) + b"\0" + b"\x05ab"),
]


@pytest.mark.parametrize("octets", GARBAGE)
async def test_garbage_is_the_end_and_nothing_to_others(kafka, wire, octets, caplog):
    await wire.create("t")
    other = await kafka.dial()
    await other.write(octets)
    await other.stream.send_eof()
    with pytest.raises(Ended):
        await other.frame()
    assert (await wire.produce("t", [b"v"]))["error_code"] == ErrorCode.NONE
    assert not any(record.exc_info for record in caplog.records)
    assert not any(record.levelno >= logging.ERROR for record in caplog.records)


async def test_whoever_is_refused_gets_what_was_answered_before(wire):
    """Even what is not safe yet, and nothing after."""
    await wire.create("t")
    good = wire.written(api.API_VERSIONS, version=0)
    produced = wire.written(api.PRODUCE, produce_body("t", batch([b"v"])))
    await wire.write(good + produced + framed(b"\xff" * 20) + good)
    assert (await wire.answer())["error_code"] == ErrorCode.NONE
    answer = await wire.answer()
    assert answer["responses"][0]["partition_responses"][0]["base_offset"] == 0
    await wire.ends()


async def test_half_a_request_and_gone(kafka):
    for size in (1, 3, 4, 10, 25):
        client = await kafka.dial()
        await client.write(client.written(api.METADATA, {"topics": [{"name": "orders"}]})[:size])
        client.drop()
    await until(lambda: not kafka.node.peers)
    assert kafka.node.topics.topics() == []


async def test_a_reset_is_the_end(kafka, wire):
    await wire.create("t")
    client = await kafka.dial()
    await client.send(api.FETCH, fetch_body({("t", 0): 0}, max_wait_ms=60_000), 12)
    await until(lambda: kafka.node.topics.find("/", "t").partitions[0].bells)
    client.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.drop()
    await until(lambda: len(kafka.node.peers) == 1)
    assert (await wire.produce("t", [b"v"]))["error_code"] == ErrorCode.NONE


# ---- the end ----


async def test_a_stop_answers_those_who_wait_or_lets_them_go(tmp_path):
    async with kafka_here(tmp_path) as kafka:
        wire = await kafka.dial()
        await wire.create("t")
        waiting = await kafka.dial()
        await waiting.send(api.FETCH, fetch_body({("t", 0): 0}, max_wait_ms=60_000), 12)
        await until(lambda: kafka.node.topics.find("/", "t").partitions[0].bells)
        producing = wire.written(api.PRODUCE, produce_body("t", batch([b"v"])))
        await wire.write(producing)
        await until(lambda: kafka.node.topics.find("/", "t").partitions[0].next_offset == 1)
        with trio.fail_after(WAIT_S):
            await kafka.server.stop()
        answer = await wire.answer()
        assert answer["responses"][0]["partition_responses"][0]["base_offset"] == 0
        await wire.ends()
    async with kafka_here(tmp_path) as kafka:
        assert values_of((await (await kafka.dial()).fetch("t"))["records"]) == [b"v"]


async def test_a_stop_does_not_wait_for_an_alarm_to_end(kafka, wire):
    await wire.create("t")
    kafka.node.alarms.disk_free = lambda: -1
    kafka.node.alarms.check(disk_full=False)
    await wire.send(api.PRODUCE, produce_body("t", batch([b"v"])))
    await wire.send(api.METADATA, METADATA_OF_NOTHING)
    await trio.testing.wait_all_tasks_blocked(0.01)
    with trio.fail_after(WAIT_S):
        await kafka.server.stop()
    await wire.ends()
    assert kafka.node.topics.find("/", "t").partitions[0].next_offset == 0


async def test_a_connection_is_shown(kafka, wire):
    await wire.call(api.API_VERSIONS, {"client_software_name": "wire", "client_software_version": "1.0"})
    (peer,) = kafka.node.peers
    shown = peer.snapshot()
    assert (shown.protocol, shown.state, shown.user) == ("Kafka", "running", "guest")
    assert (shown.host, shown.port) == kafka.address
    assert shown.received_octets > 0
    assert shown.sent_octets > shown.received_octets
