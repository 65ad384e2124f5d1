"""How the log's connections are made, lost and made again, and what ends them."""

from __future__ import annotations

import socket
import struct

import anyio
import pytest

import leveret.log
from backends import on_both_backends, on_mock_clock
from broker.kafka import api
from broker.kafka.errors import ErrorCode
from fake_kafka import CUT, fake_kafka
from leveret.log import BrokerError, ConnectionFailed
from leveret.log.connection import UNANSWERED_MAX
from leveret.log.pool import dial_tcp


async def fails(log, kind, match):
    """Opening it does, with this error; it gives how long that took."""
    started = anyio.current_time()
    with pytest.raises(kind, match=match):
        await log.__aenter__()
    return anyio.current_time() - started


# ---- reaching a broker ----


@on_both_backends
async def test_nobody_listens():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        log = leveret.log.connect(f"kafka://127.0.0.1:{port}?connection_timeout=3600000")
        await fails(log, ConnectionFailed, f"no broker of 127.0.0.1:{port} could be .*refused")


@on_mock_clock
async def test_a_host_that_never_answers():
    async def dial(_):
        await anyio.sleep_forever()

    log = leveret.log.connect("kafka://far?connection_timeout=1500", dial=dial)
    assert await fails(log, ConnectionFailed, r"far:9092: no connection within 1\.5 s") == pytest.approx(1.5)


@on_mock_clock
async def test_a_broker_that_accepts_and_says_nothing():
    async with fake_kafka() as fake:
        fake.answers[api.API_VERSIONS] = lambda _: None
        took = await fails(
            fake.connect("kafka://fake?connection_timeout=2000"), ConnectionFailed, "handshake"
        )
        assert took == pytest.approx(2)


@on_both_backends
async def test_several_ways_in():
    async with fake_kafka() as fake:

        async def dial(address):
            if address.host != "good":
                raise OSError(f"no route to {address.host}")
            return await fake.dial(address)

        async with leveret.log.connect("kafka://bad,worse:1,good:2", dial=dial) as log:
            assert await log.topics() == []


@on_both_backends
async def test_something_else_listens():
    async with fake_kafka() as fake:
        fake.answers[api.API_VERSIONS] = lambda _: b"HTTP/1.1 400 Bad Request\r\n\r\n"
        await fails(fake.connect(), ConnectionFailed, "the broker broke a rule: a frame of 1213486160 bytes")


@on_both_backends
async def test_what_is_not_an_answer():
    async with fake_kafka() as fake:
        for octets, text in [
            (struct.pack(">ii", 4, 77), "answer 77 came where 1 is next|ends early"),
            (struct.pack(">iihi", 10, 1, 0, 1 << 30), "too many"),
        ]:
            fake.answers[api.API_VERSIONS] = lambda _, octets=octets: octets
            await fails(fake.connect(), ConnectionFailed, text)


@on_both_backends
async def test_a_broker_that_says_that_it_has_a_port_that_cannot_be():
    async with fake_kafka() as fake:

        async def dial(address):
            return await (fake.dial if address.host == "fake" else dial_tcp)(address)

        there = {"node_id": 1, "host": "127.0.0.1", "port": 70_000}
        fake.answers[api.METADATA] = lambda request: {**fake.metadata(request), "brokers": [there]}
        async with (
            leveret.log.connect("kafka://fake", dial=dial) as log,
            log.producer(timeout=0.5) as producer,
        ):
            with pytest.raises(leveret.log.SendFailed, match=":70000: there is no such port"):
                await producer.send("t", b"x")


# ---- versions ----


def unsupported(request, keys):
    """As a broker answers to a version that it does not know: in version 0."""
    body = {"error_code": ErrorCode.UNSUPPORTED_VERSION, "api_keys": keys}
    return b"".join(api.write_response(api.API_VERSIONS, 0, request.correlation_id, body))


@on_both_backends
async def test_an_old_broker_is_asked_again_in_its_own_version():
    async with fake_kafka() as fake:
        versions = []

        def api_versions(request):
            versions.append(request.version)
            if request.version > 2:
                return unsupported(request, [{"api_key": 18, "min_version": 0, "max_version": 2}])
            return fake.api_versions(request)

        fake.answers[api.API_VERSIONS] = api_versions
        async with fake.connect() as log:
            assert await log.topics() == []
        assert versions[:2] == [4, 2]


@on_both_backends
async def test_a_broker_that_does_not_tell_its_versions():
    async with fake_kafka() as fake:
        versions = []

        def api_versions(request):
            versions.append(request.version)
            if request.version:
                return unsupported(request, [])
            return {"error_code": ErrorCode.INVALID_REQUEST}

        fake.answers[api.API_VERSIONS] = api_versions
        await fails(fake.connect(), ConnectionFailed, "ApiVersions: INVALID_REQUEST")
        assert versions == [4, 0]


@on_both_backends
async def test_metadata_that_makes_no_sense():
    async with fake_kafka() as fake, fake.connect() as log, log.producer() as producer:
        for topics, text in [
            ([], "other topics"),
            ([{"name": "u"}], "other topics"),
            ([{"name": "t", "partitions": []}], "with partitions"),
            ([{"name": "t", "partitions": [{"partition_index": 1, "leader_id": 1}]}], "with partitions"),
        ]:
            fake.answers[api.METADATA] = lambda request, topics=topics: {
                **fake.metadata(request),
                "topics": topics,
            }
            with pytest.raises(BrokerError, match=text):
                await producer.send("t", b"x")


@on_both_backends
async def test_the_newest_version_of_both_is_spoken():
    async with fake_kafka() as fake:

        def api_versions(request):
            body = fake.api_versions(request)
            for one in body["api_keys"]:
                if one["api_key"] == api.METADATA.key:
                    one["max_version"] = 5
            return body

        fake.answers[api.API_VERSIONS] = api_versions
        async with fake.connect() as log, log.producer() as producer:
            await producer.send("t", b"x")
        versions = {request.api: request.version for request in fake.requests}
        assert versions[api.METADATA] == 5
        assert versions[api.PRODUCE] == api.PRODUCE.max_version


@on_both_backends
async def test_what_a_broker_does_not_know():
    async with fake_kafka() as fake:
        async with fake.connect() as log:
            with pytest.raises(BrokerError, match="fake:9092 speaks no version of CreateTopics") as caught:
                await log.create_topic("t")
        assert caught.value.code == ErrorCode.UNSUPPORTED_VERSION


# ---- time ----


@on_mock_clock
async def test_an_answer_that_does_not_come_ends_the_connection():
    async with fake_kafka() as fake, fake.connect("kafka://fake?request_timeout=5000") as log:
        fake.answers[api.METADATA] = lambda _: None
        started = anyio.current_time()
        with pytest.raises(ConnectionFailed, match="no broker of fake:9092 answered Metadata within 5 s"):
            await log.topics()
        assert 5 <= anyio.current_time() - started <= 5.1


@on_mock_clock
async def test_those_who_do_not_wait_for_their_answers_have_a_limit_too():
    """A connection has room for some questions, whether anybody still wants to know or not."""
    async with fake_kafka() as fake, fake.connect("kafka://fake?request_timeout=60000") as log:
        before = fake.count(api.METADATA)
        fake.answers[api.METADATA] = lambda _: None
        for _ in range(100):
            with anyio.move_on_after(0.1):
                await log.topics()
        assert fake.count(api.METADATA) - before == UNANSWERED_MAX
        # When it turns out that nobody answers, there is room again, on another connection.
        fake.answers[api.METADATA] = fake.metadata
        assert await log.topics() == []


@on_mock_clock
async def test_a_broker_that_comes_back_is_found_again():
    async with fake_kafka() as fake, fake.connect() as log:
        await fake.cut()
        fake.answers[api.API_VERSIONS] = lambda _: CUT

        async def recover():
            await anyio.sleep(10)
            fake.answers[api.API_VERSIONS] = fake.api_versions

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(recover)
            assert await log.topics() == []
        assert 10 <= anyio.current_time() < 13
        # It was tried again and again, with longer and longer pauses, and two ways in are one.
        assert 5 < len(fake.dialled) < 25


@on_mock_clock
async def test_a_broker_that_hangs_up_at_each_request_is_not_asked_in_a_hurry():
    async with fake_kafka() as fake, fake.connect("kafka://fake?request_timeout=10000") as log:
        fake.answers[api.METADATA] = lambda _: CUT
        with pytest.raises(ConnectionFailed, match="closed the connection"):
            await log.topics()
        assert len(fake.dialled) < 30


@on_both_backends
async def test_use_outside_of_the_block(log_url):
    log = leveret.log.connect(log_url)
    with pytest.raises(RuntimeError, match="not open"):
        await log.topics()
    async with log:
        pass
    with pytest.raises(RuntimeError, match="once"):
        await log.__aenter__()
    with pytest.raises(RuntimeError, match="not open any more"):
        await log.topics()
