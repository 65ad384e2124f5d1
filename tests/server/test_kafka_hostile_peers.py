"""Clients of Kafka's protocol that send anything: the others are served, and nothing stays behind."""

from __future__ import annotations

import logging
import random
import struct
from pathlib import Path
from typing import Any

import pytest
import trio

from amqp_client import Channel, Client
from broker.amqp import methods
from broker.kafka import api, records
from broker.kafka.compression import Codec
from broker.kafka.errors import ErrorCode
from broker.kafka.records import Record
from broker_here import until
from kafka_bodies import draw
from kafka_here import kafka_here
from kafka_wire import Ended, KafkaClient, batch, fetch_body, produce_body, values_of
from patience import PROGRAM_S, WAIT_S
from process import BrokerProcess
from scram_client import ScramClient
from turns import longest_wait

CLIENTS = 120
_PARTITION = {"partition_index": 0, "partition": 0}
_MEMBER = {"group_id": "fuzz", "member_id": "", "generation_id": -1, "generation_id_or_member_epoch": -1}
_CONFIGS = [{"name": "retention.ms", "value": "1000", "config_operation": 0}]
_RESOURCE = {"resource_type": 2, "resource_name": "fuzz", "configs": _CONFIGS, "configuration_keys": None}


def conversation() -> list[tuple[api.Api, dict[str, Any]]]:
    """A client that uses about everything."""
    new = {
        "name": "fuzz",
        "num_partitions": 2,
        "replication_factor": -1,
        "assignments": [],
        "configs": _CONFIGS,
    }
    first = ScramClient("SCRAM-SHA-256", "alice", "secret").first()
    asked = {"name": "fuzz", "topic": "fuzz", "partition_indexes": [0, 1]}
    partitions = [{**_PARTITION, "timestamp": -1, "offset": 1, "committed_offset": 1, "replicas": [1]}]
    topics = [{**asked, "partitions": partitions, "count": 3, "assignments": None}]
    produced = batch([b"a", None, b"c" * 300], compression_type=Codec.GZIP)
    idempotent = batch([b"a"], producer_id=1, producer_epoch=0, base_sequence=0)
    return [
        (api.API_VERSIONS, {"client_software_name": "fuzz", "client_software_version": "1"}),
        (api.CREATE_TOPICS, {"topics": [new]}),
        (api.METADATA, {"topics": [{"name": "fuzz"}], "allow_auto_topic_creation": True}),
        (api.INIT_PRODUCER_ID, {"transactional_id": None}),
        (api.PRODUCE, produce_body("fuzz", produced)),
        (api.PRODUCE, produce_body("fuzz", idempotent, 1, acks=1)),
        (api.PRODUCE, produce_body("fuzz", produced, acks=0)),
        (api.FETCH, fetch_body({("fuzz", 0): 0, ("fuzz", 1): 0}, session_epoch=0)),
        (api.FETCH, fetch_body({("fuzz", 0): 3}, max_wait_ms=20, min_bytes=10_000)),
        (api.LIST_OFFSETS, {"replica_id": -1, "topics": topics}),
        (api.FIND_COORDINATOR, {"key": "fuzz", "coordinator_keys": ["fuzz"]}),
        (
            api.JOIN_GROUP,
            {
                **_MEMBER,
                "session_timeout_ms": 6000,
                "protocol_type": "consumer",
                "protocols": [{"name": "range", "metadata": b"m"}],
            },
        ),
        (api.SYNC_GROUP, {**_MEMBER, "assignments": [{"member_id": "m", "assignment": b"a"}]}),
        (api.HEARTBEAT, _MEMBER),
        (api.OFFSET_COMMIT, {**_MEMBER, "topics": topics}),
        (
            api.OFFSET_FETCH,
            {"group_id": "fuzz", "topics": topics, "groups": [{"group_id": "fuzz", "topics": None}]},
        ),
        (api.DESCRIBE_GROUPS, {"groups": ["fuzz"]}),
        (api.LIST_GROUPS, {}),
        (api.LEAVE_GROUP, {**_MEMBER, "members": [{"member_id": "m"}]}),
        (api.OFFSET_DELETE, {"group_id": "fuzz", "topics": topics}),
        (api.DELETE_GROUPS, {"groups_names": ["fuzz"]}),
        (api.DESCRIBE_CONFIGS, {"resources": [_RESOURCE]}),
        (api.INCREMENTAL_ALTER_CONFIGS, {"resources": [_RESOURCE]}),
        (api.CREATE_PARTITIONS, {"topics": topics}),
        (api.DELETE_RECORDS, {"topics": topics}),
        (api.DESCRIBE_LOG_DIRS, {"topics": None}),
        (api.DESCRIBE_PRODUCERS, {"topics": topics}),
        (api.ALTER_PARTITION_REASSIGNMENTS, {"topics": topics}),
        (api.DESCRIBE_TOPIC_PARTITIONS, {"topics": [{"name": "fuzz"}], "response_partition_limit": 1}),
        (api.DELETE_TOPICS, {"topics": [{"name": "fuzz"}], "topic_names": ["fuzz"]}),
        (api.SASL_HANDSHAKE, {"mechanism": "SCRAM-SHA-256"}),
        (api.SASL_AUTHENTICATE, {"auth_bytes": first}),
    ]


def written(rng: random.Random, each: api.Api, body: dict[str, Any], number: int) -> bytes:
    version = rng.randint(each.min_version, each.max_version)
    return b"".join(map(bytes, api.write_request(each, version, number, "fuzz", body)))


def mutated(rng: random.Random) -> bytes:
    """Requests with a few accidents, or requests of which nobody would think."""
    if rng.random() < 0.3:
        some = rng.choices(list(api.APIS.values()), k=10)
        bodies = [(each, draw(rng, each.request.fields, each.max_version)) for each in some]
    else:
        bodies = conversation()
    pieces = [written(rng, each, body, number) for number, (each, body) in enumerate(bodies)]
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(pieces))
        piece = bytearray(pieces[at])
        if len(piece) < 5:  # of an accident
            continue
        match rng.randrange(8):
            case 0:
                for _ in range(rng.randint(1, 4)):
                    piece[rng.randrange(len(piece))] ^= 1 << rng.randrange(8)
            case 1:
                piece[rng.randrange(len(piece))] = rng.choice((0, 1, 0x7F, 0x80, 0xFE, 0xFF))
            case 2:
                del piece[rng.randrange(len(piece)) :]
            case 3:
                piece *= 2
            case 4:
                other = rng.randrange(len(pieces))
                pieces[at], pieces[other] = pieces[other], pieces[at]
                continue
            case 5:
                start = rng.randrange(len(piece) + 1)
                piece[start:start] = rng.randbytes(rng.randint(1, 40))
            case 6:  # accidents in a frame that is whole
                for _ in range(rng.randint(1, 8)):
                    piece[rng.randrange(4, len(piece))] = rng.randrange(256)
            case 7:  # a frame that is whole, and something else
                payload = rng.randbytes(rng.randint(0, 60))
                key, version = rng.choice(list(api.APIS)), rng.randrange(13)
                payload = struct.pack(">hhih", key, version, 1, -1) + payload
                piece = bytearray(struct.pack(">i", len(payload)) + payload)
        pieces[at] = bytes(piece)
    return b"".join(pieces)


async def send_and_leave(address: tuple[str, int], octets: bytes, rng: random.Random) -> None:
    """In one piece or in several; then close our half, and wait until the broker has closed its own."""
    client = await KafkaClient.dial(address)
    async with client.stream as stream:
        try:
            while octets:
                size = rng.choice((len(octets), rng.randint(1, 2000)))
                await stream.send_all(octets[:size])
                octets = octets[size:]
            await stream.send_eof()
            with trio.fail_after(WAIT_S):
                while await stream.receive_some(65_536):
                    pass
        except trio.BrokenResourceError:
            pass


@pytest.mark.parametrize("seed", range(3))
async def test_anything_at_all(tmp_path, seed, caplog):
    rng = random.Random(seed)
    caplog.set_level(logging.WARNING)
    # With less room than any of them would like, so that no accident makes a million partitions.
    async with kafka_here(tmp_path, node_options={"partitions_max": 200}) as kafka:
        bystander = await kafka.dial()
        await bystander.create("bystander")
        for number in range(CLIENTS):
            await send_and_leave(kafka.address, mutated(rng), rng)
            if number % 10 == 0:
                result = await bystander.produce("bystander", [b"%d" % number])
                assert result["error_code"] == ErrorCode.NONE
        found = await bystander.fetch("bystander")
        assert values_of(found["records"]) == [b"%d" % number for number in range(0, CLIENTS, 10)]
        await until(lambda: len(kafka.node.peers) == 1)
        assert not [record for record in caplog.records if record.exc_info or record.levelno >= logging.ERROR]
    async with kafka_here(tmp_path) as kafka:
        found = await (await kafka.dial()).fetch("bystander")
        assert len(values_of(found["records"])) == CLIENTS // 10


async def test_the_conversation_without_accidents_is_answered(kafka):
    """Otherwise the accidents would happen to something that is not a request."""
    client = await kafka.dial()
    for each, body in conversation():
        if each is api.PRODUCE and body["acks"] == 0:
            await client.send(each, body)
            client.forget_last()
        else:
            await client.call(each, body, 12 if each is api.FETCH else None)


# ---- too much at once ----

PIPELINED = 20_000


async def test_thousands_of_pipelined_requests_leave_others_their_turns(kafka):
    """One read of them is up to a mebibyte, which took seconds to handle in one piece."""
    flood, bystander = await kafka.dial(), await kafka.dial()
    request = b"".join(map(bytes, api.write_request(api.API_VERSIONS, 0, 1, "flood", {})))

    async def pour() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood.write, request * PIPELINED)
            await read_frames(flood, PIPELINED)

    assert await longest_wait(lambda: bystander.call(api.API_VERSIONS), pour) < 0.15


async def read_frames(client: KafkaClient, count: int) -> None:
    for _ in range(count):
        await client.frame()


async def test_requests_that_wait_for_a_later_pass_are_handled_though_the_client_has_closed(kafka):
    client = await kafka.dial()
    await client.create("topic")
    count = 500
    body = produce_body("topic", batch([b"x"]), acks=0)
    octets = b"".join(client.written(api.PRODUCE, body) for _ in range(count))
    await client.write(octets)
    await client.stream.aclose()
    partition = kafka.node.topics.topic("/", "topic").partitions[0]
    with trio.fail_after(WAIT_S):
        await until(lambda: partition.high_watermark == count)


async def test_a_frame_that_cannot_be_behind_thousands_that_can(kafka, caplog):
    client = await kafka.dial()
    request = b"".join(map(bytes, api.write_request(api.API_VERSIONS, 0, 1, "odd", {})))
    await client.write(request * 3000 + struct.pack(">i", -5))
    await read_frames(client, 2500)
    with pytest.raises(Ended):
        await read_frames(client, 501)
    assert "a frame of -5 bytes" in caplog.text


# ---- small batches with much in them ----


def resident_peak(broker: BrokerProcess) -> int:
    status = Path(f"/proc/{broker.pid}/status").read_text().splitlines()
    (line,) = (each for each in status if each.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


@pytest.mark.slow
async def test_consumers_of_a_bomb_share_a_limit_and_get_what_a_message_can_be(tmp_path):
    """Five batches of 2 KiB each; ten consumers over AMQP took 1.7 GiB for them."""
    some = [
        Record(0, 1, None, b"before"),
        Record(0, 1, None, bytes(60_000_000)),
        Record(0, 1, None, b"behind"),
    ]
    bomb = records.build(some, compression_type=Codec.ZSTD)
    with BrokerProcess(tmp_path, kafka=True, config='[amqp]\nmessage_size_max = "16 MiB"\n') as broker:
        producer = await KafkaClient.dial(broker.addresses["kafka"])
        await producer.create("bombs")
        for _ in range(5):
            answer = await producer.call(api.PRODUCE, produce_body("bombs", bomb))
            assert answer["responses"][0]["partition_responses"][0]["error_code"] == ErrorCode.NONE
        del bomb, some
        before = resident_peak(broker)
        consumers = [await Client.connect(broker.amqp) for _ in range(10)]
        for client in consumers:
            channel = await client.channel(1)
            await channel.qos(3)
            await channel.consume("bombs", arguments={"x-stream-offset": "first"})
        with trio.fail_after(PROGRAM_S):
            for client in consumers:
                channel = Channel(client, 1)
                bodies = []
                for _ in range(10):
                    message = await channel.message()
                    bodies.append(message.body)
                    await channel.ack(message.tag)
                assert bodies == [b"before", b"behind"] * 5
        assert resident_peak(broker) - before < 200 << 20
        for client in (*consumers, producer):
            client.drop()
        log = broker.log.read_text()
        assert log.count("the record at 1 cannot be given to an AMQP consumer") == 10
        assert log.count("WARNING") == log.count("cannot be given") + log.count("without a connection.close")


@pytest.mark.slow
async def test_consumers_that_do_not_read_large_records_do_not_have_one_each_in_memory(tmp_path):
    """Where a message may be so large."""
    bomb = records.build([Record(0, 1, None, bytes(90_000_000))], compression_type=Codec.ZSTD)
    with BrokerProcess(tmp_path, kafka=True) as broker:
        producer = await KafkaClient.dial(broker.addresses["kafka"])
        await producer.create("bombs")
        answer = await producer.call(api.PRODUCE, produce_body("bombs", bomb))
        assert answer["responses"][0]["partition_responses"][0]["error_code"] == ErrorCode.NONE
        del bomb
        before = resident_peak(broker)
        consumers = [await Client.connect(broker.amqp) for _ in range(10)]
        for client in consumers:
            channel = await client.channel(1)
            await channel.qos(1)
            await channel.send(methods.BasicConsume(queue="bombs", arguments={"x-stream-offset": "first"}))
        await trio.sleep(2)
        await producer.create("others")
        assert resident_peak(broker) - before < 450 << 20
        for client in (*consumers, producer):
            client.drop()
