"""What happens to a connection as a whole: heartbeats, alarms, room to send, channels, and its ends."""

from __future__ import annotations

import logging
import os
import socket

import pytest
import trio
import trio.testing

from amqp_client import Channel, Client, Confirm, Refused
from broker.amqp import frames, methods
from broker.amqp.connection import Connection, Role
from broker.amqp.frames import HEARTBEAT_FRAME
from broker.amqp.spec import PROTOCOL_HEADER
from broker.server.amqp.connection import AmqpConnection
from broker_here import BrokerHere, broker_here, until
from patience import WAIT_S

MIB = 1 << 20


def only_connection(broker: BrokerHere) -> AmqpConnection:
    (connection,) = broker.node.peers
    assert isinstance(connection, AmqpConnection)
    return connection


# ---- heartbeats ----


def received(client: Client) -> bytes:
    """What the broker has sent until now. Raises BlockingIOError if that is nothing."""
    return os.read(client.stream.socket.fileno(), 100)


async def pass_time(clock: trio.testing.MockClock, seconds: float, step: float = 5.0) -> None:
    """Let everybody who waits for a moment in between have it."""
    for _ in range(round(seconds / step)):
        clock.jump(step)
        await trio.testing.wait_all_tasks_blocked(0.005)


async def test_an_idle_connection_gets_a_heartbeat_each_half_interval(tmp_path, mock_clock):
    async with broker_here(tmp_path) as broker:
        client = await broker.connect(heartbeat=10)
        for _ in range(6):
            await client.write(HEARTBEAT_FRAME)
            await pass_time(mock_clock, 5)
            assert received(client) == HEARTBEAT_FRAME


async def test_whatever_the_broker_says_is_as_good_as_a_heartbeat(tmp_path, mock_clock):
    async with broker_here(tmp_path) as broker:
        client = await broker.connect(heartbeat=10)
        channel = await client.channel(1)
        await pass_time(mock_clock, 5)
        assert received(client) == HEARTBEAT_FRAME  # the first one always comes
        for _ in range(5):
            await channel.settle()
            await pass_time(mock_clock, 5)
        await client.write(methods.encode(1, methods.ChannelFlow(True)))
        await trio.testing.wait_all_tasks_blocked(0.005)
        assert received(client) == methods.encode(1, methods.ChannelFlowOk(True))


async def test_a_silent_peer_is_closed_after_two_to_three_intervals(tmp_path, mock_clock):
    async with broker_here(tmp_path) as broker:
        client = await broker.connect(heartbeat=10)
        channel = await client.channel(1)
        await channel.declare("mine", exclusive=True)
        await pass_time(mock_clock, 20)
        assert broker.server.connection_count == 1
        await pass_time(mock_clock, 10)
        assert broker.server.connection_count == 0
        assert "mine" not in broker.node.topology.vhost("/").queues


async def test_a_peer_that_sends_heartbeats_lives(tmp_path, mock_clock):
    async with broker_here(tmp_path) as broker:
        client = await broker.connect(heartbeat=10)
        for _ in range(10):
            await client.write(HEARTBEAT_FRAME)
            await pass_time(mock_clock, 10)
        assert broker.server.connection_count == 1


async def test_without_heartbeats_nobody_is_missed(tmp_path, mock_clock):
    async with broker_here(tmp_path) as broker:
        client = await broker.connect(heartbeat=0)
        await pass_time(mock_clock, 10_000, 1000)
        channel = await client.channel(1)
        assert await channel.came() == []


async def stuffed(broker: BrokerHere) -> tuple[Client, Channel]:
    """A consumer that has been sent more than fits into its socket and does not read."""
    client = await broker.connect(heartbeat=10)
    channel = await client.channel(1)
    await channel.declare("q")
    await channel.consume("q", no_ack=False)
    publisher = await (await broker.connect()).channel(1)
    for _ in range(24):
        await publisher.publish(bytes(MIB), to="q")
    await publisher.settle()
    assert only_congested(broker)
    assert not next(iter(broker.node.peers))._reading
    return client, channel


def only_congested(broker: BrokerHere) -> bool:
    return any(peer.snapshot().send_pending > MIB for peer in broker.node.peers)


async def test_a_dead_peer_is_missed_though_nothing_is_read_from_it(tmp_path, mock_clock):
    async with broker_here(tmp_path) as broker:
        await stuffed(broker)
        queue = broker.node.topology.vhost("/").queue("q")
        assert queue.unacked_count
        await pass_time(mock_clock, 40)
        assert broker.server.connection_count == 1
        assert (queue.unacked_count, queue.ready_count) == (0, 24)


async def test_a_slow_peer_that_sends_heartbeats_lives(tmp_path, mock_clock):
    async with broker_here(tmp_path) as broker:
        client, _ = await stuffed(broker)
        for _ in range(10):
            await client.write(HEARTBEAT_FRAME)
            await pass_time(mock_clock, 10)
        assert broker.server.connection_count == 2


# ---- room to send ----


class GreedySocket:
    """A socket whose peer takes everything at once; what was sent is in `sent`."""

    def __init__(self) -> None:
        self.sent = bytearray()
        self._here, self._there = socket.socketpair()

    def fileno(self) -> int:
        return self._here.fileno()

    def send(self, octets: bytes) -> int:
        self.sent += octets
        return len(octets)

    def sendmsg(self, buffers: list[bytes]) -> int:
        return self.send(b"".join(buffers))

    def recv(self, size: int) -> bytes:
        raise BlockingIOError

    def close(self) -> None:
        self._here.close()
        self._there.close()


async def greedy_connection(broker: BrokerHere) -> tuple[AmqpConnection, GreedySocket, Connection]:
    """A connection that runs, its socket, and the codec of its peer."""
    sock = GreedySocket()
    connection = AmqpConnection(broker.server, sock, ("127.0.0.1", 1), ("127.0.0.1", 2))  # type: ignore[arg-type]
    broker.server._connections[connection] = None
    broker.server.pump.add(connection)
    connection.receive(PROTOCOL_HEADER)
    said = methods.ConnectionStartOk({}, "PLAIN", b"\0guest\0guest")
    connection.receive(methods.encode(0, said))
    await until(lambda: connection.user)
    connection.receive(methods.encode(0, methods.ConnectionTuneOk(2047, 131_072, 0)))
    connection.receive(methods.encode(0, methods.ConnectionOpen("/")))
    connection.receive(methods.encode(1, methods.ChannelOpen()))
    broker.node.end_pass()
    sock.sent.clear()
    codec = Connection(Role.CLIENT, 1 << 31)
    codec.state = codec.state.RUNNING
    codec.frame_max = 131_072
    return connection, sock, codec


async def fill(broker: BrokerHere, queue: str, count: int, size: int) -> None:
    channel = await (await broker.connect()).channel(1)
    await channel.declare(queue)
    for _ in range(count):
        await channel.publish(bytes(size), to=queue)
    await channel.settle()


async def test_a_consumer_goes_on_when_all_it_was_sent_went_out_at_once(broker):
    await fill(broker, "q", 100, 64 * 1024)
    connection, sock, _ = await greedy_connection(broker)
    connection.receive(methods.encode(1, methods.BasicConsume(queue="q", no_ack=True)))
    broker.node.end_pass()
    with trio.fail_after(WAIT_S):
        await until(lambda: len(sock.sent) > 100 * 64 * 1024)
    connection.lost("")


async def test_a_connection_is_read_again_when_all_went_out_at_once(broker):
    await fill(broker, "q", 40, 64 * 1024)
    connection, sock, codec = await greedy_connection(broker)
    declare = methods.encode(1, methods.QueueDeclare(queue="durable", durable=True))
    gets = methods.encode(1, methods.BasicGet(queue="q", no_ack=True)) * 40
    connection.receive(declare + gets)
    broker.node.end_pass()
    with trio.fail_after(WAIT_S):
        await until(lambda: len(sock.sent) > 40 * 64 * 1024)
    assert len(codec.receive(bytes(sock.sent))) == 41
    await until(lambda: connection._reading)
    connection.lost("")


async def test_a_burst_of_gets_waits_for_room(broker):
    await fill(broker, "q", 100, MIB)
    client = await broker.connect()
    channel = await client.channel(1)
    await client.write(methods.encode(1, methods.BasicGet(queue="q", no_ack=True)) * 101)
    await until(lambda: only_congested(broker))
    assert max(peer.snapshot().send_pending for peer in broker.node.peers) <= 65 * MIB
    for _ in range(100):
        assert len((await channel.message()).body) == MIB
    await channel.expect(methods.BasicGetEmpty)
    assert await channel.came() == []


async def test_a_client_that_asks_and_does_not_read_is_not_read_either(broker):
    await fill(broker, "q", 640, 64 * 1024)
    client = await broker.connect()
    channel = await client.channel(1)
    (connection,) = [peer for peer in broker.node.peers if not peer.snapshot().channels[0].published]
    gets = [methods.BasicGet(queue="q", no_ack=True)] * 10
    for _ in range(64):
        before = connection.received_octets
        await channel.send(*gets)
        await until(lambda before=before: connection.received_octets > before or not connection._reading)
        assert connection.snapshot().send_pending <= 2 * MIB
    assert not connection._reading
    for _ in range(640):
        assert len((await channel.message()).body) == 64 * 1024


async def test_a_consumer_that_does_not_read_costs_the_others_nothing(broker):
    slow = await (await broker.connect()).channel(1)
    await slow.declare("slow")
    await slow.consume("slow", no_ack=True)
    quick = await (await broker.connect()).channel(1)
    await quick.declare("quick")
    await quick.consume("quick", no_ack=True)
    publisher = await (await broker.connect()).channel(1)
    for number in range(48):
        await publisher.publish(bytes(MIB), to="slow")
        await publisher.publish(b"%d" % number, to="quick")
    assert await quick.bodies(48) == [b"%d" % number for number in range(48)]
    await publisher.settle()
    assert max(peer.snapshot().send_pending for peer in broker.node.peers) <= 3 * MIB
    assert [len(body) for body in await slow.bodies(48)] == [MIB] * 48


# ---- alarms ----


def set_alarm(broker: BrokerHere, on: bool) -> None:
    alarms = broker.node.alarms
    alarms.memory_limit = 0 if on else 1 << 62
    alarms.check(disk_full=False)


async def test_a_publisher_is_blocked_by_an_alarm_and_told(client, channel, broker):
    await channel.declare("q")
    set_alarm(broker, True)
    assert await channel.came() == []
    assert client.came() == []
    await channel.publish(b"first", to="q")
    assert await client.expect(methods.ConnectionBlocked) == methods.ConnectionBlocked("low on memory")
    assert only_connection(broker).state == "blocked"
    await channel.publish(b"second", to="q")
    await channel.send(methods.BasicGet(queue="q", no_ack=True))
    await trio.testing.wait_all_tasks_blocked(0.05)
    assert broker.node.topology.vhost("/").queue("q").ready_count == 1
    set_alarm(broker, False)
    await client.expect(methods.ConnectionUnblocked)
    assert (await channel.message()).body == b"first"
    assert only_connection(broker).state == "running"
    assert await channel.depth("q") == 1


async def test_the_reasons_of_two_alarms_are_told_together(client, channel, broker):
    broker.node.alarms.disk_free_limit = 1 << 62
    set_alarm(broker, True)
    await channel.publish(b"", to="q")
    assert (await client.expect(methods.ConnectionBlocked)).reason == "low on memory & disk"
    broker.node.alarms.disk_free_limit = 0
    broker.node.alarms.check(disk_full=False)
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert only_connection(broker).state == "blocked"
    set_alarm(broker, False)
    await client.expect(methods.ConnectionUnblocked)


async def test_whoever_cannot_hear_it_is_blocked_without_a_word(broker):
    client = await broker.connect(capabilities={})
    channel = await client.channel(1)
    set_alarm(broker, True)
    await channel.publish(b"", to="q")
    await channel.send(methods.ChannelFlow(True))
    await until(lambda: only_connection(broker).state == "blocked")
    set_alarm(broker, False)
    await channel.expect(methods.ChannelFlowOk)
    assert client.came() == []


async def test_consumers_go_on_while_publishers_are_blocked(broker):
    publisher = await (await broker.connect()).channel(1)
    await publisher.declare("q")
    for number in range(10):
        await publisher.publish(b"%d" % number, to="q")
    await publisher.settle()
    set_alarm(broker, True)
    consumer = await (await broker.connect()).channel(1)
    await consumer.consume("q")
    messages = await consumer.messages(10)
    await consumer.ack(messages[-1].tag, multiple=True)
    await consumer.settle()
    assert broker.node.topology.vhost("/").queue("q").unacked_count == 0


async def test_a_blocked_connection_can_be_closed_by_the_broker(client, channel, broker):
    set_alarm(broker, True)
    await channel.publish(b"", to="q")
    await client.expect(methods.ConnectionBlocked)
    only_connection(broker).close_by_operator("enough")
    broker.node.end_pass()
    assert (await client.refused()).reply_text == "CONNECTION_FORCED - enough"


async def test_a_blocked_peer_that_goes_is_missed_at_once(client, channel, broker):
    """An alarm may be on for hours."""
    await channel.declare("mine", exclusive=True)
    set_alarm(broker, True)
    await channel.publish(b"", to="mine")
    await client.expect(methods.ConnectionBlocked)
    await channel.publish(b"", to="mine")  # which is not read
    client.drop()
    await until(lambda: broker.server.connection_count == 0)
    assert broker.node.topology.vhost("/").queues == {}


async def test_a_blocked_peer_that_only_shuts_its_half_is_missed_too(client, channel, broker):
    set_alarm(broker, True)
    await channel.publish(b"", to="q")
    await client.expect(methods.ConnectionBlocked)
    await client.stream.send_eof()
    await client.ended()


async def test_what_comes_from_a_blocked_peer_is_no_hangup(client, channel, broker):
    await channel.declare("q")
    set_alarm(broker, True)
    await channel.publish(b"", to="q")
    await client.expect(methods.ConnectionBlocked)
    for _ in range(10):
        await channel.publish(b"", to="q")
    # As if the system had said so before it was blocked, in the same pass.
    only_connection(broker).readable()
    await trio.testing.wait_all_tasks_blocked(0.01)
    set_alarm(broker, False)
    await client.expect(methods.ConnectionUnblocked)
    await channel.settle()
    assert await channel.depth("q") == 11


async def test_what_came_before_a_hangup_is_carried_out(client, channel, broker):
    """While a definition becomes durable nothing is read; what follows it is not lost with the peer."""
    await client.write(
        methods.encode(1, methods.QueueDeclare(queue="q", durable=True))
        + channel.publishing(b"in the same piece", to="q")
    )
    await channel.publish(b"in another one", to="q")
    client.drop()
    await until(lambda: broker.server.connection_count == 0)
    assert broker.node.topology.vhost("/").queue("q").ready_count == 2


# ---- update-secret ----


@pytest.mark.parametrize("secret", [b"guest", b"a new one", b"", b"\xff"])
async def test_update_secret_is_accepted_and_changes_nothing(broker, client, channel, secret):
    await client.say(methods.ConnectionUpdateSecret(secret, "it is time"))
    await client.expect(methods.ConnectionUpdateSecretOk)
    assert await channel.came() == []
    await broker.connect(password="guest")


# ---- channels ----


async def test_as_many_channels_as_were_agreed(broker):
    client = await broker.connect(channel_max=3)
    for number in (1, 2, 3):
        await client.channel(number)
    await client.write(methods.encode(4, methods.ChannelOpen()))
    closed = await client.refused()
    text = "NOT_ALLOWED - number of channels opened (3) has reached the negotiated channel_max (3)"
    assert (closed.reply_code, closed.reply_text) == (530, text)


async def test_all_the_channels_there_can_be_are_too_many(broker):
    client = await broker.connect()
    opened = b"".join(methods.encode(number, methods.ChannelOpen()) for number in range(1, 65_536))
    await client.write(opened)
    closed = await client.refused()
    text = "NOT_ALLOWED - number of channels opened (2047) has reached the negotiated channel_max (2047)"
    assert (closed.reply_code, closed.reply_text) == (530, text)


async def test_a_channel_number_can_be_used_again(client):
    for _ in range(3):
        channel = await client.channel(1)
        await channel.declare("q")
        await channel.close()


async def test_a_channel_number_can_be_used_again_after_an_error(client):
    for _ in range(3):
        channel = await client.channel(7)
        with pytest.raises(Refused):
            await channel.declare("nope", passive=True)
        await channel.send(methods.ChannelCloseOk())


async def test_an_error_on_one_channel_leaves_the_others(client):
    good, bad = await client.channel(1), await client.channel(2)
    await good.declare("q")
    with pytest.raises(Refused):
        await bad.declare("nope", passive=True)
    await good.publish(b"still here", to="q")
    assert (await good.get("q")).body == b"still here"


async def test_what_is_still_coming_for_a_closed_channel_is_passed_over(client, channel):
    await channel.declare("q")
    bad = methods.encode(1, methods.QueueDeclare(queue="nope", passive=True))
    await client.write(bad + channel.publishing(b"lost", to="q") + methods.encode(1, methods.BasicAck(9)))
    await channel.refused()
    channel = await client.channel(1)
    assert await channel.depth("q") == 0


@pytest.mark.parametrize("frames_sent", [1, 2])
async def test_a_channel_may_be_closed_in_the_middle_of_a_message(client, channel, frames_sent):
    await channel.declare("q")
    method = methods.encode(1, methods.BasicPublish(routing_key="q"))
    header = channel.publishing(bytes(1000), to="q")[len(method) : -1000 - 8]
    await client.write((method + header)[: len(method) if frames_sent == 1 else None])
    await channel.close()
    channel = await client.channel(1)
    assert await channel.depth("q") == 0
    await channel.publish(b"whole", to="q")
    assert await channel.depth("q") == 1


async def test_both_sides_may_close_a_channel_at_once(client, channel):
    bad = methods.encode(1, methods.QueueDeclare(queue="nope", passive=True))
    await client.write(bad + methods.encode(1, methods.ChannelClose(200, "bye", 0, 0)))
    await channel.expect(methods.ChannelClose)
    await channel.expect(methods.ChannelCloseOk)
    await channel.send(methods.ChannelCloseOk())
    await client.channel(1)


async def test_access_request_is_granted(channel):
    granted = await channel.call(methods.AccessRequest(realm="/data"), methods.AccessRequestOk)
    assert granted.ticket == 1


async def test_flow_on_is_answered(channel):
    assert await channel.call(methods.ChannelFlow(True), methods.ChannelFlowOk) == methods.ChannelFlowOk(True)
    await channel.send(methods.ChannelFlowOk(True))
    assert await channel.came() == []


async def test_what_is_unacknowledged_is_ready_again_when_its_channel_is_closed(client, channel):
    await channel.declare("q")
    for body in (b"1", b"2", b"3"):
        await channel.publish(body, to="q")
    await channel.consume("q")
    await channel.messages(3)
    await channel.close()
    channel = await client.channel(1)
    messages = [await channel.get("q") for _ in range(3)]
    assert [(message.body, message.redelivered) for message in messages] == [
        (b"1", True),
        (b"2", True),
        (b"3", True),
    ]


# ---- ends ----


async def test_declare_and_close_in_one_write_are_both_answered(client, channel):
    await client.write(
        methods.encode(1, methods.QueueDeclare(queue="q", durable=True))
        + methods.encode(0, methods.ConnectionClose(200, "bye", 0, 0))
    )
    assert await names_of_the_rest(client) == ["queue.declare-ok", "connection.close-ok"]


async def names_of_the_rest(client: Client) -> list[str]:
    """The methods that come until the end of the socket."""
    received = b""
    while data := await client.stream.receive_some(4096):
        received += data
    return [event.method.name for event in frames.FrameReader(1024).read(received)]  # type: ignore[union-attr]


async def test_nothing_behind_a_hard_error_is_carried_out(client, channel, broker):
    await channel.declare("q")
    await client.write(
        methods.encode(7, methods.QueuePurge(queue="q"))  # a channel that is not open
        + methods.encode(2, methods.ChannelOpen())
        + methods.encode(2, methods.QueueDeclare(queue="never", durable=True))
        + channel.publishing(b"never", to="q")
        + methods.encode(2, methods.QueueDelete(queue="q"))
    )
    assert (await client.refused()).reply_code == 504
    queues = broker.node.topology.vhost("/").queues
    assert list(queues) == ["q"]
    assert queues["q"].ready_count == 0


async def test_nor_between_a_hard_error_and_a_close(client, channel, broker):
    await client.write(
        methods.encode(7, methods.QueuePurge(queue="q"))
        + methods.encode(2, methods.ChannelOpen())
        + methods.encode(2, methods.QueueDeclare(queue="never", durable=True))
        + methods.encode(0, methods.ConnectionClose(200, "bye", 0, 0))
    )
    assert await names_of_the_rest(client) == ["connection.close-ok"]
    assert broker.node.topology.vhost("/").queues == {}


async def test_secret_and_close_in_one_write(client, channel, broker):
    await client.write(
        methods.encode(0, methods.ConnectionUpdateSecret(b"guest", ""))
        + methods.encode(0, methods.ConnectionClose(200, "bye", 0, 0))
    )
    client.codec.state = client.codec.state.CLOSING
    await client.ended()
    assert broker.server.connection_count == 0


async def test_data_behind_a_close_is_read_and_discarded(client, channel, broker):
    """A reset could take close-ok from a client that has data in flight."""
    await channel.declare("q")
    await client.say(methods.ConnectionClose(200, "bye", 0, 0))
    await until(lambda: broker.server.connection_count == 0)
    for _ in range(64):
        await client.write(channel.publishing(bytes(64 * 1024), to="q"))
    await client.write(b"and what is no frame")
    await client.expect(methods.ConnectionCloseOk)
    await client.ended()
    assert broker.node.topology.vhost("/").queue("q").ready_count == 0


async def test_a_client_that_never_closes_its_socket_is_dropped(tmp_path, mock_clock):
    async with broker_here(tmp_path, close_timeout_s=30.0) as broker:
        client = await broker.connect(heartbeat=10)
        await client.say(methods.ConnectionClose(200, "bye", 0, 0))
        await until(lambda: broker.server.connection_count == 0)
        for _ in range(6):
            await pass_time(mock_clock, 4.9, 4.9)
            await client.write(b"more")
        await pass_time(mock_clock, 1, 1)
        await client.write(b"and more")  # which is answered with a reset
        await trio.testing.wait_all_tasks_blocked(0.005)
        with pytest.raises(trio.BrokenResourceError):
            await client.write(b"and more")


async def test_a_stop_does_not_wait_for_clients_that_have_closed(tmp_path):
    async with broker_here(tmp_path) as broker:
        client = await broker.connect()
        await client.say(methods.ConnectionClose(200, "bye", 0, 0))
        await until(lambda: broker.server.connection_count == 0)
        with trio.fail_after(WAIT_S):
            await broker.server.stop()


async def test_exclusive_queues_are_gone_before_close_ok(broker):
    for _ in range(5):
        client = await broker.connect()
        channel = await client.channel(1)
        await channel.declare("mine", exclusive=True)
        await client.say(methods.ConnectionClose(200, "bye", 0, 0))
        await client.expect(methods.ConnectionCloseOk)


async def test_a_lost_connection_gives_everything_back(broker):
    client = await broker.connect()
    channel = await client.channel(1)
    await channel.declare("mine", exclusive=True)
    await channel.declare("q")
    await channel.publish(b"one", to="q")
    await channel.consume("q")
    await channel.message()
    client.drop()
    other = await (await broker.connect()).channel(1)
    await until(lambda: len(broker.node.peers) == 1)
    message = await other.get("q")
    assert (message.body, message.redelivered) == (b"one", True)
    with pytest.raises(Refused, match="404"):
        await other.declare("mine", passive=True)


async def test_what_a_lost_connection_had_goes_to_others_at_once(broker):
    lost = await broker.connect()
    first = await lost.channel(1)
    await first.declare("q")
    await first.publish(b"one", to="q")
    await first.consume("q")
    await first.message()
    second = await (await broker.connect()).channel(1)
    await second.consume("q")
    lost.drop()
    message = await second.message()
    assert (message.body, message.redelivered) == (b"one", True)


async def test_closed_by_an_operator(client, channel, broker):
    only_connection(broker).close_by_operator("Closed via management plugin")
    broker.node.end_pass()
    closed = await client.refused()
    text = "CONNECTION_FORCED - Closed via management plugin"
    assert (closed.reply_code, closed.reply_text) == (320, text)
    assert broker.server.connection_count == 0


async def test_a_client_that_does_not_answer_our_close_is_dropped(tmp_path, mock_clock):
    async with broker_here(tmp_path, close_timeout_s=30.0) as broker:
        client = await broker.connect()
        await client.write(methods.encode(5, methods.QueueDeclare(queue="q")))
        await client.expect(methods.ConnectionClose)
        mock_clock.jump(29)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert broker.server.connection_count == 1
        mock_clock.jump(2)
        await client.ended()
        assert broker.server.connection_count == 0


async def test_after_a_frame_error_nothing_more_is_read_but_close_ok_is_heard(client, channel):
    await client.write(b"\x01\0\x01\0\0\0\x00\x00" + bytes(100_000))
    closed = await client.expect(methods.ConnectionClose)
    assert closed.reply_code == 501
    await client.write(channel.publishing(b"ignored", to="q"))
    ok = methods.encode(0, methods.ConnectionCloseOk())
    for at in range(len(ok)):
        await client.write(ok[at : at + 1])
    await client.ended()


async def test_both_sides_may_close_at_once(client, channel, broker):
    await client.write(methods.encode(9, methods.QueueDeclare(queue="q")))
    await until(lambda: only_connection(broker).state == "closing")
    await client.write(methods.encode(0, methods.ConnectionClose(200, "bye", 0, 0)))
    assert await names_of_the_rest(client) == ["connection.close", "connection.close-ok"]
    assert broker.server.connection_count == 0


# ---- what the log says of ends ----


def log_lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """Level and text of what was logged of connections since the last call, without their names."""
    found = [(record.levelname, record.getMessage()) for record in caplog.records]
    caplog.clear()
    return [(level, text.partition("]: ")[2] or text.partition(": ")[2]) for level, text in found]


@pytest.fixture
def log(caplog, client, channel):
    """A log at INFO, from here on."""
    caplog.set_level(logging.INFO, "broker.server")
    caplog.clear()
    return caplog


async def test_a_clean_close_is_logged_once_at_info(client, channel, log):
    await client.close()
    assert log_lines(log) == [("INFO", "closed by the client")]


async def test_the_reason_of_a_clients_close_is_logged(client, channel, log):
    await client.say(methods.ConnectionClose(541, "out of\nluck", 0, 0))
    await client.ended()
    assert log_lines(log) == [("INFO", "closed by the client: 541 'out of\\nluck'")]


async def test_a_close_by_an_operator_is_logged_once_at_info(broker, client, channel, log):
    only_connection(broker).close_by_operator("enough")
    broker.node.end_pass()
    await client.refused()
    assert log_lines(log) == [("INFO", "closed: 320 CONNECTION_FORCED - enough")]


async def test_a_dropped_socket_without_losses_is_logged_at_info(broker, client, channel, log):
    await channel.declare("q")
    await channel.publish(b"", to="q")
    await channel.consume("q")
    await channel.message()
    client.drop()
    await until(lambda: broker.server.connection_count == 0)
    assert log_lines(log) == [("INFO", "closed without connection.close: the peer closed the socket")]


async def test_a_dropped_socket_with_losses_is_a_warning_that_names_them(broker, client, channel, log):
    await channel.declare("q")
    await channel.call(methods.TxSelect(), methods.TxSelectOk)
    await channel.publish(b"", to="q")
    await channel.publish(b"", to="q")
    await channel.settle()
    await client.write(channel.publishing(b"cut short", to="q")[:-1])
    client.drop()
    await until(lambda: broker.server.connection_count == 0)
    text = (
        "closed without connection.close: the peer closed the socket; lost: a request that was not complete, "
        "transactions with 2 messages and 0 acknowledgements"
    )
    assert log_lines(log) == [("WARNING", text)]


async def test_unsent_deliveries_without_acknowledgement_are_a_loss(broker, caplog):
    slow = await broker.connect()
    channel = await slow.channel(1)
    await channel.declare("q")
    await channel.consume("q", no_ack=True)
    publisher = await (await broker.connect()).channel(1)
    for _ in range(24):
        await publisher.publish(bytes(MIB), to="q")
    await publisher.settle()
    assert only_congested(broker)
    slow.drop()
    await until(lambda: broker.server.connection_count == 1)
    (text,) = [text for level, text in log_lines(caplog) if level == "WARNING"]
    assert text.endswith("unsent bytes, which may hold deliveries without acknowledgement")


# ---- sizes ----


async def test_a_client_that_sends_octet_by_octet(broker):
    client = await broker.dial()

    async def trickle(octets: bytes) -> None:
        for at in range(len(octets)):
            await client.write(octets[at : at + 1])

    await trickle(PROTOCOL_HEADER)
    await client.expect(methods.ConnectionStart)
    start_ok = methods.ConnectionStartOk({}, "PLAIN", b"\0guest\0guest")
    await trickle(client.codec.send(start_ok))
    client.tune = await client.expect(methods.ConnectionTune)
    client.codec.frame_max = client.tune.frame_max
    tune_ok = methods.ConnectionTuneOk(2047, 131_072, 0)
    await trickle(client.codec.send(tune_ok) + client.codec.send(methods.ConnectionOpen("/")))
    await client.expect(methods.ConnectionOpenOk)
    channel = await client.channel(1)
    await channel.confirm_mode()
    await trickle(methods.encode(1, methods.QueueDeclare(queue="q")))
    await channel.expect(methods.QueueDeclareOk)
    for body in (b"first", b"", b"third" * 100):
        await trickle(channel.publishing(body, to="q", delivery_mode=2))
    assert await channel.confirms(3) == {1: True, 2: True, 3: True}
    await trickle(methods.encode(1, methods.BasicConsume(queue="q")))
    await channel.expect(methods.BasicConsumeOk)
    assert await channel.bodies(3) == [b"first", b"", b"third" * 100]
    await trickle(methods.encode(1, methods.BasicAck(1)) + methods.encode(1, methods.BasicAck(2)))
    assert await channel.came() == []
    assert broker.node.topology.vhost("/").queue("q").unacked_count == 1


@pytest.mark.parametrize("size", [0, 1, 4087, 4088, 4089, 8176, 100_000, 131_064, 131_065, 300_000])
async def test_a_reader_with_small_frames_gets_what_came_in_large_ones(broker, size):
    large = await (await broker.connect()).channel(1)
    small = await (await broker.connect(frame_max=4096)).channel(3)
    body = bytes(range(256)) * (size // 256 + 1)
    body = body[:size]
    await large.declare("q")
    await small.consume("q", no_ack=True)
    await large.publish(body, to="q", headers={"n": size})
    message = await small.message()  # the client's codec refuses a frame over 4,096 octets
    assert message.body == body
    assert message.headers == {"n": size}
    await small.publish(body, to="q")
    assert (await small.message()).body == body


async def test_frames_of_eight_octets_more_than_agreed_pass(broker):
    writer = await (await broker.connect(frame_max=4096)).channel(1)
    reader = await (await broker.connect(frame_max=4096)).channel(1)
    await writer.declare("q")
    await reader.consume("q", no_ack=True)
    body = bytes(10_000)
    await writer.publish(body, to="q", frame_max=4096 + 8)
    assert (await reader.message()).body == body


async def test_one_octet_more_does_not_pass(broker):
    client = await broker.connect(frame_max=4096)
    channel = await client.channel(1)
    await client.write(channel.publishing(bytes(10_000), to="q", frame_max=4096 + 9))
    closed = await client.refused()
    text = "FRAME_ERROR - type 3, all octets = <<>>: {frame_too_large,4097,4088}"
    assert (closed.reply_code, closed.reply_text) == (501, text)


async def test_empty_body_frames_say_nothing(client, channel):
    await channel.declare("q")
    octets = channel.publishing(b"abcdef", to="q")
    head, body = octets[: -6 - 8], octets[-6 - 8 :]
    empty = b"\x03\0\x01\0\0\0\0\xce"
    await client.write(head + empty * 1000 + body)
    await channel.consume("q", no_ack=True)
    assert (await channel.message()).body == b"abcdef"


async def test_a_message_of_the_largest_size_passes_and_one_octet_more_does_not(tmp_path):
    async with broker_here(tmp_path, message_size_max=16 * MIB) as broker:
        client = await broker.connect()
        channel = await client.channel(1)
        await channel.declare("q", durable=True)
        await channel.confirm_mode()
        body = bytes(16 * MIB)
        await channel.publish(body, to="q", delivery_mode=2)
        assert await channel.confirms(1) == {1: True}
        await channel.consume("q")
        message = await channel.message()
        assert message.body == body
        await channel.ack(message.tag)
        await channel.publish(body + b"!", to="q")
        while isinstance(closed := await channel.next(), Confirm):
            pass
        text = (
            f"PRECONDITION_FAILED - message size {16 * MIB + 1} is larger than configured max size {16 * MIB}"
        )
        assert closed == methods.ChannelClose(406, text, *methods.BasicPublish.id)
        await channel.send(methods.ChannelCloseOk())
        channel = await client.channel(1)
        assert await channel.depth("q") == 0


async def test_a_message_in_too_many_small_frames_is_refused(tmp_path):
    """Eight octets of cover and 64 of memory for one of body; the limit is 68 MiB for a connection."""
    async with broker_here(tmp_path, message_size_max=16 * MIB) as broker:
        client = await broker.connect()
        channel = await client.channel(1)
        head = channel.publishing(bytes(16 * MIB), to="q")[: -16 * MIB - 8 * 129]
        octet = b"\x03\0\x01\0\0\0\x01x\xce"
        assert isinstance(frames.FrameReader(16 * MIB).read(head), list)
        await client.write(head)
        closed = None
        for _ in range(1000):
            await client.write(octet * 1000)
            if only_connection(broker).state == "closing":
                closed = await client.refused()
                break
        assert closed is not None
        assert closed.reply_code == 506
        assert "unfinished messages" in closed.reply_text
