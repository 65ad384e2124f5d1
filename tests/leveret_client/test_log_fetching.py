"""What a consumer makes of what brokers answer: errors that pass, errors that do not, octets that make no sense."""

from __future__ import annotations

import struct

import anyio
import pytest

from backends import on_both_backends, on_mock_clock
from broker.kafka import api, records
from broker.kafka.errors import ErrorCode
from broker.kafka.records import Record
from fake_kafka import CUT, fake_kafka
from leveret.log import (
    BrokerError,
    ConnectionFailed,
    LeveretError,
    MalformedRecords,
    NotAuthorized,
    UnknownTopic,
)


async def values(consumer, count):
    return [(await anext(consumer)).value for _ in range(count)]


def refusing(fake, *codes):
    """An answer to Fetch with each of these codes, and then well."""
    left = list(codes)

    async def fetch(request):
        if not left:
            return await fake.fetch(request)
        responses = fake.fetched(request)
        code = left.pop(0)
        for topic in responses:
            for one in topic["partitions"]:
                one |= {"error_code": code, "records": b""}
        return {"responses": responses}

    return fetch


@pytest.mark.parametrize(
    "code",
    [
        ErrorCode.NOT_LEADER_OR_FOLLOWER,
        ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
        ErrorCode.FENCED_LEADER_EPOCH,
        ErrorCode.OFFSET_NOT_AVAILABLE,
        ErrorCode.KAFKA_STORAGE_ERROR,
        ErrorCode.UNKNOWN_SERVER_ERROR,
    ],
)
@on_mock_clock
async def test_what_may_pass_is_tried_again_but_not_in_a_hurry(code):
    async with fake_kafka() as fake, fake.connect() as log:
        fake.add("t", b"x")
        fake.answers[api.FETCH] = refusing(fake, *[code] * 20)
        async with log.consumer("t", offset="earliest") as consumer:
            assert await values(consumer, 1) == [b"x"]
        assert 1.9 < anyio.current_time() < 5
        assert fake.count(api.METADATA) < 50


@pytest.mark.parametrize(
    ("code", "kind"),
    [(ErrorCode.TOPIC_AUTHORIZATION_FAILED, NotAuthorized), (ErrorCode.INVALID_FETCH_SIZE, BrokerError)],
)
@on_mock_clock
async def test_what_does_not_pass(code, kind):
    """What was read before is given out before."""
    async with fake_kafka() as fake, fake.connect() as log:
        fake.add("t", b"x")
        async with log.consumer("t", offset="earliest") as consumer:
            await anyio.wait_all_tasks_blocked()
            fake.answers[api.FETCH] = refusing(fake, *[code] * 20)
            await anyio.sleep(10)
            assert await values(consumer, 1) == [b"x"]
            for _ in range(2):
                with pytest.raises(kind, match=rf"t\[0\]: {code.name}"):
                    await anext(consumer)
        assert fake.count(api.FETCH) < 5


@on_mock_clock
async def test_a_broker_that_does_not_wait_for_records_is_not_asked_in_a_hurry():
    async with fake_kafka() as fake, fake.connect() as log:
        fake.answers[api.FETCH] = lambda request: {"responses": fake.fetched(request)}
        async with log.consumer("t", offset="earliest") as consumer:
            await anyio.sleep(10)
            assert 10 < fake.count(api.FETCH) <= 101
            fake.add("t", b"x")
            assert await values(consumer, 1) == [b"x"]


@on_mock_clock
async def test_an_offset_that_is_looked_up_for_long():
    """The broker that would be read from is left alone meanwhile."""
    async with fake_kafka() as fake, fake.connect() as log:
        fake.add("t", b"x")
        fake.answers[api.FETCH] = refusing(fake, ErrorCode.OFFSET_OUT_OF_RANGE)
        async with log.consumer("t", offset="earliest") as consumer:

            async def list_offsets(request):
                await anyio.sleep(20)
                return fake.list_offsets(request)

            fake.answers[api.LIST_OFFSETS] = list_offsets
            assert await values(consumer, 1) == [b"x"]
            assert anyio.current_time() >= 20
        assert fake.count(api.FETCH) <= 3


@pytest.mark.parametrize("code", [ErrorCode.NOT_LEADER_OR_FOLLOWER, ErrorCode.OFFSET_NOT_AVAILABLE])
@on_mock_clock
async def test_offsets_that_cannot_be_looked_up_yet(code):
    async with fake_kafka() as fake, fake.connect() as log:
        fake.add("t", b"x")
        codes = [code] * 8

        def list_offsets(request):
            answer = fake.list_offsets(request)
            answer["topics"][0]["partitions"][0]["error_code"] = codes.pop() if codes else 0
            return answer

        fake.answers[api.LIST_OFFSETS] = list_offsets
        async with log.consumer("t", offset="earliest") as consumer:
            assert await values(consumer, 1) == [b"x"]
        assert 1 < anyio.current_time() < 8


@on_mock_clock
async def test_offsets_that_cannot_be_looked_up():
    url = "kafka://fake?request_timeout=5000"
    async with fake_kafka() as fake, fake.connect(url) as log:
        for code in (ErrorCode.TOPIC_AUTHORIZATION_FAILED, ErrorCode.NOT_LEADER_OR_FOLLOWER):
            partition = {"partition_index": 0, "error_code": code}
            fake.answers[api.LIST_OFFSETS] = lambda _, one=partition: {
                "topics": [{"name": "t", "partitions": [one]}]
            }
            with pytest.raises(LeveretError, match=code.name):
                await log.consumer("t", offset="earliest").__aenter__()
        fake.answers[api.LIST_OFFSETS] = lambda _: CUT
        with pytest.raises(ConnectionFailed, match=r"offsets of 1 partitions.*within 5 s.*closed the conn"):
            await log.consumer("t", offset="earliest").__aenter__()
        fake.answers[api.LIST_OFFSETS] = lambda _: None
        with pytest.raises(ConnectionFailed, match="offsets of 1 partitions were not found within 5 s"):
            await log.consumer("t", offset="earliest").__aenter__()
        assert anyio.current_time() < 16


@on_mock_clock
async def test_another_broker_leads_by_now():
    async with fake_kafka() as fake, fake.connect() as log:

        def metadata(request):
            body = fake.metadata(request)
            body["brokers"].append({"node_id": 2, "host": "other", "port": 9093})
            return body

        fake.answers[api.METADATA] = metadata
        fake.add("t", b"x")
        async with log.consumer("t", offset="earliest") as consumer:
            assert await values(consumer, 1) == [b"x"]
            fake.leader = 2
            fake.answers[api.FETCH] = refusing(fake, ErrorCode.NOT_LEADER_OR_FOLLOWER)
            fake.add("t", b"y")
            assert await values(consumer, 1) == [b"y"]
        assert ("other", 9093) in fake.dialled


@on_mock_clock
async def test_a_broker_that_is_away_for_long():
    async with fake_kafka() as fake, fake.connect() as log:
        fake.add("t", b"x")
        async with log.consumer("t", offset="earliest") as consumer:
            assert await values(consumer, 1) == [b"x"]
            fake.answers[api.API_VERSIONS] = lambda _: CUT
            await fake.cut()
            with anyio.move_on_after(600):
                await anext(consumer)
            assert len(fake.dialled) < 1500
            fake.answers[api.API_VERSIONS] = fake.api_versions
            fake.add("t", b"y")
            assert await values(consumer, 1) == [b"y"]


@on_mock_clock
async def test_a_topic_that_was_deleted_is_not_made_again():
    async with fake_kafka() as fake, fake.connect() as log:
        fake.add("t", b"x")
        async with log.consumer("t", offset="earliest") as consumer:
            assert await values(consumer, 1) == [b"x"]

            def metadata(request):
                assert not request.body["allow_auto_topic_creation"]
                body = fake.metadata(request)
                for topic in body["topics"]:
                    topic |= {"error_code": ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, "partitions": []}
                return body

            fake.answers[api.METADATA] = metadata
            fake.answers[api.FETCH] = refusing(fake, *[ErrorCode.UNKNOWN_TOPIC_OR_PARTITION] * 100)
            started = anyio.current_time()
            with pytest.raises(UnknownTopic, match="topic 't'"):
                await anext(consumer)
            assert 5 <= anyio.current_time() - started < 7


@on_mock_clock
async def test_a_topic_that_was_made_anew_with_fewer_partitions():
    async with fake_kafka() as fake, fake.connect() as log:
        fake.partitions = 2
        fake.add("t", b"x")
        async with log.consumer("t", offset="earliest") as consumer:
            assert await values(consumer, 1) == [b"x"]
            fake.partitions = 1
            fake.answers[api.FETCH] = refusing(fake, *[ErrorCode.UNKNOWN_TOPIC_OR_PARTITION] * 100)
            with pytest.raises(UnknownTopic, match=r"t\[1\]"):
                await anext(consumer)


@on_mock_clock
async def test_partitions_that_are_added_are_read_from_their_beginning():
    async with fake_kafka() as fake, fake.connect() as log:
        async with log.consumer("t", offset="latest") as consumer:
            fake.partitions = 2
            fake.add("t", b"x", partition=1)
            assert await values(consumer, 1) == [b"x"]
            assert consumer.assignment == {("t", 0), ("t", 1)}
        assert anyio.current_time() >= 300


@on_mock_clock
async def test_nothing_more_is_asked_for_while_enough_waits():
    async with fake_kafka() as fake, fake.connect() as log:
        for number in range(40):
            fake.add("t", b"%d" % number * 50)
        size = len(fake.log["t", 0][0])

        def fetch(request):
            responses = fake.fetched(request)
            for topic in responses:
                for one in topic["partitions"]:
                    one["records"] = one["records"][:size]
            return {"responses": responses}

        fake.answers[api.FETCH] = fetch
        fake.log["t", 0] = [batch for batch in fake.log["t", 0] if len(batch) == size]
        async with log.consumer("t", offset="earliest", prefetch=3 * size) as consumer:
            await anyio.sleep(100)
            assert fake.count(api.FETCH) == 3
            await values(consumer, 1)
            await anyio.sleep(100)
            assert fake.count(api.FETCH) == 3
            await values(consumer, 1)
            await anyio.sleep(100)
            assert fake.count(api.FETCH) == 5


@on_mock_clock
async def test_what_was_asked_for_before_a_seek_is_not_given_out():
    async with fake_kafka() as fake, fake.connect() as log:
        for number in range(10):
            fake.add("t", b"%d" % number)
        gate = anyio.Event()

        async def fetch(request):
            responses = fake.fetched(request)
            await gate.wait()
            return {"responses": responses}

        fake.answers[api.FETCH] = fetch
        async with log.consumer("t", offset="earliest") as consumer:
            await anyio.wait_all_tasks_blocked()
            await consumer.seek("t", 0, 7)
            gate.set()
            assert await values(consumer, 3) == [b"7", b"8", b"9"]


@on_both_backends
async def test_what_consumers_are_not_to_see():
    """Control batches, records before the offset, and records that compaction has taken out."""
    async with fake_kafka() as fake, fake.connect() as log:
        fake.add("t", b"0", b"1", b"2", b"3")
        fake.append("t", 0, attributes(records.build([Record(0, 0, b"\0\0\0\0", b"")]), records.CONTROL))
        fake.add("t", b"5", b"6")
        emptied = records.build([Record(0, 0, None, b"7"), Record(0, 0, None, b"8")])
        fake.append("t", 0, sealed(emptied[:57] + struct.pack(">i", 0)))
        fake.add("t", b"9")
        async with log.consumer("t", offset=2) as consumer:
            assert await values(consumer, 5) == [b"2", b"3", b"5", b"6", b"9"]
            assert consumer.position("t", 0) == 10
        async with log.consumer("t", offset=4) as consumer:
            assert (await anext(consumer)).offset == 5


def attributes(batch, bits):
    return sealed(batch[:21] + struct.pack(">h", bits) + batch[23:])


def sealed(batch):
    """With the right length and crc."""
    import google_crc32c

    length = struct.pack(">i", len(batch) - 12)
    return batch[:8] + length + batch[12:17] + google_crc32c.value(batch[21:]).to_bytes(4) + batch[21:]


def changed(batch, at, octet):
    return batch[:at] + bytes((octet,)) + batch[at + 1 :]


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda batch: changed(batch, len(batch) - 1, 7), "wrong crc"),
        (lambda batch: changed(batch, 16, 1), "format 1"),
        (lambda batch: changed(batch, 11, 3), "a batch of 15 octets"),
        (lambda batch: changed(batch, 8, 0xFF), "a batch of -"),
        (lambda batch: changed(batch, 8, 1), "a batch of 16777"),
        (lambda batch: sealed(changed(batch, 60, 0)), "octets behind the last record"),
        (lambda batch: attributes(batch, 7), "no codec 7"),
        (lambda batch: attributes(batch, 4), "cannot be inflated"),
    ],
)
@on_mock_clock
async def test_records_that_cannot_be_read(damage, text):
    async with fake_kafka() as fake, fake.connect() as log:
        fake.add("t", b"x")
        batch = fake.log["t", 0][0]
        whole = fake.batches

        def batches(topic, partition, offset):
            if offset == 0:
                return whole(topic, partition, offset)
            return damage(batch[:7] + b"\1" + batch[8:])

        fake.batches = batches
        async with log.consumer("t", offset="earliest") as consumer:
            assert await values(consumer, 1) == [b"x"]
            for _ in range(2):
                with pytest.raises(MalformedRecords, match=rf"t\[0\] at offset 1: .*{text}"):
                    await anext(consumer)
            await anyio.sleep(60)
        assert fake.count(api.FETCH) <= 3


@on_mock_clock
async def test_an_answer_that_leaves_a_partition_out():
    async with fake_kafka() as fake, fake.connect() as log:
        fake.add("t", b"x")
        left = [True] * 3

        async def fetch(request):
            if left:
                left.pop()
                await anyio.sleep(0.5)
                return {"responses": []}
            return await fake.fetch(request)

        fake.answers[api.FETCH] = fetch
        async with log.consumer("t", offset="earliest") as consumer:
            assert await values(consumer, 1) == [b"x"]
