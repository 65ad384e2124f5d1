"""Peers that send anything, too much, or nothing: the others are served, and nothing grows or stays behind."""

from __future__ import annotations

import logging
import os
import random
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from amqp_client import Client, Ended
from broker.amqp import content, frames, methods, properties, wire
from broker.amqp.methods import Method
from broker.amqp.properties import Properties
from broker.amqp.spec import PROTOCOL_HEADER
from broker_here import BrokerHere, until
from patience import WAIT_S
from process import BrokerProcess
from turns import longest_wait

MIB = 1 << 20


# ---- anything ----


def frame(method: Method, channel: int = 1) -> bytes:
    return methods.encode(channel, method)


def publish(
    body: bytes, *, exchange: str = "", to: str = "fuzz", mandatory: bool = False, **props: object
) -> bytes:
    raw = properties.encode(Properties(**props))  # type: ignore[arg-type]
    method = methods.BasicPublish(0, exchange, to, mandatory, False)
    return frame(method) + content.build(1, raw, body, 4096)


def conversation() -> list[bytes]:
    """A client that uses about everything, as the pieces that it writes."""
    ttl = {
        "x-message-ttl": 5,
        "x-dead-letter-exchange": "amq.topic",
        "x-max-length": 5,
        "list": [1, {"a": None}],
    }
    return [
        PROTOCOL_HEADER,
        frame(
            methods.ConnectionStartOk({"capabilities": {"basic.nack": True}}, "PLAIN", b"\0guest\0guest"), 0
        ),
        frame(methods.ConnectionTuneOk(2047, 4096, 0), 0),
        frame(methods.ConnectionOpen("/"), 0),
        frame(methods.ChannelOpen()),
        frame(methods.ChannelOpen(), 2),
        frame(methods.TxSelect(), 2),
        frame(methods.QueueDeclare(queue="fuzz", arguments=ttl)),
        frame(methods.QueueDeclare(queue="fuzz-durable", durable=True)),
        frame(methods.QueueDeclare(exclusive=True)),
        frame(methods.ExchangeDeclare(exchange="fuzz", type="headers", auto_delete=True)),
        frame(methods.QueueBind(queue="fuzz", exchange="fuzz", arguments={"x-match": "any", "k": 1})),
        frame(methods.QueueBind(queue="fuzz-durable", exchange="amq.topic", routing_key="#.x.*")),
        frame(methods.ConfirmSelect()),
        frame(methods.BasicQos(0, 3, True)),
        frame(methods.BasicConsume(queue="fuzz", consumer_tag="c")),
        frame(methods.BasicConsume(queue="amq.rabbitmq.reply-to", no_ack=True)),
        publish(b"one"),
        publish(b"two", exchange="fuzz", headers={"k": 1, "x-death": [{"count": 3, "queue": "fuzz"}]}),
        publish(bytes(9000), delivery_mode=2, to="fuzz-durable", message_id="m", timestamp=1),
        publish(b"", headers={"CC": ["fuzz-durable"], "BCC": ["nobody"]}, expiration="10"),
        publish(b"back", to="nobody", mandatory=True, reply_to="amq.rabbitmq.reply-to"),
        frame(methods.BasicAck(1, False)),
        frame(methods.BasicNack(2, True, True)),
        frame(methods.BasicReject(3, False)),
        frame(methods.BasicRecover(True)),
        frame(methods.BasicGet(queue="fuzz-durable")),
        frame(methods.BasicCancel("c")),
        frames.HEARTBEAT_FRAME,
        frame(methods.TxCommit(), 2),
        frame(methods.QueuePurge(queue="fuzz")),
        frame(methods.QueueUnbind(queue="fuzz", exchange="fuzz", arguments={"x-match": "any", "k": 1})),
        frame(methods.QueueDelete(queue="fuzz-durable", if_unused=True)),
        frame(methods.ChannelClose(200, "", 0, 0), 2),
    ]


def mutated(rng: random.Random) -> bytes:
    """The conversation with a few accidents behind the login, or with one anywhere."""
    pieces = conversation()
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(4 if rng.random() < 0.9 else 0, len(pieces))
        piece = bytearray(pieces[at])
        match rng.randrange(8):
            case 0:
                for _ in range(rng.randint(1, 4)):
                    piece[rng.randrange(len(piece))] ^= 1 << rng.randrange(8)
            case 1:
                piece[rng.randrange(len(piece))] = rng.choice((0, 1, 0x7F, 0x80, 0xCE, 0xFF))
            case 2:
                del piece[rng.randrange(len(piece)) :]
            case 3:
                del pieces[at]
                continue
            case 4:
                piece *= 2
            case 5:
                other = rng.randrange(4, len(pieces))
                pieces[at], pieces[other] = pieces[other], pieces[at]
                continue
            case 6:
                start = rng.randrange(len(piece) + 1)
                piece[start:start] = rng.randbytes(rng.randint(1, 40))
            case 7:  # another payload in a frame that is whole
                payload = rng.randbytes(rng.randint(0, 60))
                kind = rng.choice((1, 1, 2, 3, 8, 0))
                piece = bytearray([kind, 0, rng.randrange(4)]) + len(payload).to_bytes(4) + payload + b"\xce"
        pieces[at] = bytes(piece)
    return b"".join(pieces)


async def send_and_leave(address: tuple[str, int], octets: bytes, rng: random.Random) -> None:
    """Send it in one piece or in several, close our half, and wait until the broker has closed its own."""
    client = await Client.dial(address)
    async with client.stream as stream:
        try:
            if rng.random() < 0.5:
                await stream.send_all(octets)
            else:
                while octets:
                    size = rng.randint(1, 2000)
                    await stream.send_all(octets[:size])
                    octets = octets[size:]
            await stream.send_eof()
            with trio.fail_after(WAIT_S):
                while await stream.receive_some(65_536):
                    pass
        except trio.BrokenResourceError:
            pass


async def check_service(broker: BrokerHere, bystander: Client) -> None:
    """Another client publishes and gets as ever."""
    channel = await bystander.channel(1)
    await channel.declare("bystander", durable=True)
    await channel.confirm_mode()
    await channel.publish(b"here", to="bystander", delivery_mode=2)
    assert await channel.confirms(1) == {1: True}
    message = await channel.get("bystander")
    assert message.body == b"here"
    await channel.ack(message.tag)
    await channel.call(methods.QueueDelete(queue="bystander"), methods.QueueDeleteOk)
    await channel.close()


def no_bugs(caplog: pytest.LogCaptureFixture) -> None:
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []
    assert not any(record.exc_info for record in caplog.records)


async def test_the_conversation_is_a_good_one(broker, caplog):
    """So that what is mutated goes deep."""
    client = await broker.dial()
    await client.write(b"".join(conversation()))
    await client.stream.send_eof()
    received = b""
    with trio.fail_after(WAIT_S):
        while data := await client.stream.receive_some(65_536):
            received += data
    events = frames.FrameReader(MIB).read(received)
    names = {event.method.name for event in events if hasattr(event, "method")}
    assert "channel.close" not in names
    assert "connection.close" not in names
    assert {
        "queue.purge-ok",
        "queue.delete-ok",
        "tx.commit-ok",
        "basic.recover-ok",
        "channel.close-ok",
    } <= names
    no_bugs(caplog)


@pytest.mark.parametrize("seed", range(12))
async def test_mutated_streams_leave_the_others_served(broker, caplog, seed):
    rng = random.Random(seed)
    bystander = await broker.connect()
    for _ in range(5):
        for _ in range(15):
            await send_and_leave(broker.address, mutated(rng), rng)
        await check_service(broker, bystander)
    await until(lambda: broker.server.connection_count == 1)
    no_bugs(caplog)


@pytest.mark.parametrize("seed", range(4))
async def test_noise_behind_the_handshake(broker, caplog, seed):
    rng = random.Random(seed)
    bystander = await broker.connect()
    for _ in range(50):
        octets = b"".join(conversation()[: rng.randint(1, 8)]) + rng.randbytes(rng.randint(1, 3000))
        await send_and_leave(broker.address, octets, rng)
    await check_service(broker, bystander)
    await until(lambda: broker.server.connection_count == 1)
    no_bugs(caplog)


@pytest.mark.parametrize("depth", [10, 40, 3000])
async def test_tables_in_tables(broker, caplog, depth):
    value = b"V"
    for _ in range(depth):
        value = b"F" + (len(value) + 2).to_bytes(4) + b"\x01a" + value
    table = (len(value) + 2).to_bytes(4) + b"\x01a" + value
    payload = b"\0\x32\0\x0a\0\0\x01q\0" + table
    client = await broker.connect()
    channel = await client.channel(1)
    await client.write(b"\x01\0\x01" + len(payload).to_bytes(4) + payload + b"\xce")
    if depth < wire.TABLE_DEPTH_MAX:
        await channel.expect(methods.QueueDeclareOk)
    else:
        assert (await client.refused()).reply_code == 502
    no_bugs(caplog)


# ---- too much at once ----


async def wait_beside(broker: BrokerHere, flood: Client, octets: bytes) -> float:
    """How long another client waits while what `flood` pipelines is carried out (see `longest_wait`)."""
    bystander = await broker.connect()
    channel = await bystander.channel(1)
    await channel.declare("bystander")

    async def pour() -> None:
        await flood.write(octets + frame(methods.BasicQos()))
        data, end = b"", frame(methods.BasicQosOk())
        while not data.endswith(end):  # not read otherwise, as that is the same thread's time
            data = data[-len(end) :] + await flood.stream.receive_some(65_536)

    return await longest_wait(lambda: channel.depth("bystander"), pour)


@pytest.mark.parametrize(
    "piece",
    [
        frame(methods.QueueDeclare(queue="flood", passive=True)),
        frame(methods.BasicGet(queue="flood")),
        frame(methods.ChannelOpen(), 2) + frame(methods.ChannelClose(200, "", 0, 0), 2),
    ],
    ids=["declare", "get", "open"],
)
async def test_thousands_of_pipelined_methods_leave_others_their_turns(broker, piece):
    """One read of them is up to 256 KiB, which took half a second to carry out in one piece."""
    flood = await broker.connect()
    channel = await flood.channel(1)
    await channel.declare("flood", arguments={"x-max-length": 1})
    octets = piece * (400_000 // len(piece))
    assert await wait_beside(broker, flood, octets) < 0.4


async def test_messages_for_many_queues_leave_others_their_turns(broker):
    """A few hundred of them with different keys are one read, and 100,000 copies."""
    flood = await broker.connect()
    channel = await flood.channel(1)
    for number in range(100):
        await channel.declare(f"copy-{number}", arguments={"x-max-length": 1})
        await channel.bind(f"copy-{number}", "amq.fanout")
    octets = b"".join(publish(b"", exchange="amq.fanout", to=f"key-{number}") for number in range(1000))
    await flood.write(octets)  # all keys are known then
    await channel.depth("copy-0")
    assert await wait_beside(broker, flood, octets) < 0.4


async def test_pipelined_methods_are_answered_in_their_order(broker):
    client = await broker.connect()
    channel = await client.channel(1)
    await channel.declare("q")
    count = 3000
    pairs = [
        publish(b"%d" % number, to="q") + frame(methods.BasicGet(queue="q", no_ack=True))
        for number in range(count)
    ]
    await client.write(b"".join(pairs) + frame(methods.ChannelClose(200, "bye", 0, 0)))
    answers = [await channel.next() for _ in range(count + 1)]
    assert [message.body for message in answers[:-1]] == [b"%d" % number for number in range(count)]
    assert isinstance(answers[-1], methods.ChannelCloseOk)
    await client.close()


async def test_what_waits_for_a_later_pass_is_carried_out_though_the_client_has_hung_up(broker):
    client = await broker.connect()
    channel = await client.channel(1)
    await channel.declare("q")
    count = 3000
    client.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    octets = b"".join(
        publish(b"", to="q", message_id=f"{number}") + frame(methods.BasicAck(0, True))
        for number in range(count)
    )
    await client.write(octets)
    queue = broker.node.topology.vhosts["/"].queues["q"]
    await until(lambda: queue.ready_count)
    client.drop()
    await until(lambda: not broker.server.connection_count)
    assert queue.ready_count == count


# ---- too much, or nothing ----


@contextmanager
def process(folder: Path) -> Iterator[BrokerProcess]:
    """A broker whose memory and descriptors are its own."""
    with BrokerProcess(folder) as broker:
        yield broker
        assert broker.stop() == 0
        assert " ERROR " not in broker.log.read_text()


def resident(broker: BrokerProcess) -> int:
    pages = int(Path(f"/proc/{broker.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def descriptors(broker: BrokerProcess) -> int:
    return len(os.listdir(f"/proc/{broker.pid}/fd"))


@pytest.mark.slow
@pytest.mark.parametrize("no_ack", [True, False])
async def test_a_flood_with_a_stuck_consumer_does_not_fill_the_memory(tmp_path, no_ack):
    with process(tmp_path) as broker:
        consumer = await Client.connect(broker.amqp)
        stuck = await consumer.channel(1)
        await stuck.declare("q")
        await stuck.consume("q", no_ack=no_ack)  # and reads nothing
        publisher = await Client.connect(broker.amqp)
        channel = await publisher.channel(1)
        await channel.confirm_mode()
        message = channel.publishing(bytes(10_000), to="q")
        answered = 0
        for _ in range(40):
            await publisher.write(message * 1000)
            answered += 1000
            while (await channel.next()).tag < answered:
                pass
        assert resident(broker) < 160 * MIB
        assert await channel.depth("q") > 35_000
        publisher.drop()
        consumer.drop()


@pytest.mark.slow
async def test_slow_consumers_of_a_large_message_share_its_memory(tmp_path):
    with process(tmp_path) as broker:
        consumers = [await Client.connect(broker.amqp) for _ in range(10)]
        for consumer in consumers:
            channel = await consumer.channel(1)
            queue = (await channel.declare(exclusive=True)).queue
            await channel.bind(queue, "amq.fanout")
            await channel.consume(queue, no_ack=True)
        publisher = await (await Client.connect(broker.amqp)).channel(1)
        await publisher.confirm_mode()
        before = resident(broker)
        await publisher.publish(bytes(16 * MIB), exchange="amq.fanout")
        await publisher.confirms(1)
        assert resident(broker) < before + 64 * MIB
        for consumer in consumers:
            assert len((await consumer.next(1)).body) == 16 * MIB
            consumer.drop()
        publisher.client.drop()


@pytest.mark.slow
async def test_thousands_of_connections_leave_nothing_behind(tmp_path):
    with process(tmp_path) as broker:
        await (await Client.connect(broker.amqp)).close()
        before, memory = descriptors(broker), resident(broker)
        for number in range(3000):
            with socket.create_connection(broker.amqp) as sock:
                if number % 3:
                    sock.sendall(PROTOCOL_HEADER[: number % 9])
        octets = b"".join(conversation()[:13])
        for _ in range(300):
            with socket.create_connection(broker.amqp) as sock:
                sock.sendall(octets)
        client = await Client.connect(broker.amqp)
        with trio.fail_after(WAIT_S):
            while descriptors(broker) > before + 1:
                await (await client.channel(1)).close()
        await client.close()
        assert resident(broker) < memory + 32 * MIB


async def test_a_crowd_that_says_nothing_is_no_burden(broker):
    bystander = await broker.connect()
    crowd = [await broker.dial() for _ in range(300)]
    await until(lambda: broker.server.connection_count == 301)
    await check_service(broker, bystander)
    for client in crowd:
        client.drop()
    await until(lambda: broker.server.connection_count == 1)


async def test_half_closed_sockets_are_closed(broker):
    client = await broker.connect()
    channel = await client.channel(1)
    await channel.declare("mine", exclusive=True)
    await client.stream.send_eof()
    with pytest.raises(Ended):
        await client.next()
    assert broker.node.topology.vhost("/").queues == {}


async def test_a_peer_that_resets_its_socket(broker, caplog):
    for _ in range(20):
        client = await broker.connect()
        channel = await client.channel(1)
        await channel.declare("q")
        await channel.consume("q")
        for _ in range(3):
            await channel.publish(bytes(100_000), to="q")
        linger = (1).to_bytes(4, "little") + (0).to_bytes(4, "little")
        client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        client.drop()
    await until(lambda: broker.server.connection_count == 0)
    await check_service(broker, await broker.connect())
    assert broker.node.topology.vhost("/").queue("q").unacked_count == 0
    no_bugs(caplog)
