"""Messages that come in part: what they may take in memory, and what that is to the connections that send them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio
import trio.testing

import amqp_client
from amqp_client import Channel, Client
from broker.amqp import content, methods
from broker.amqp.frames import FrameReader
from broker_here import BrokerHere, broker_here, until
from patience import WAIT_S
from process import BrokerProcess

KIB = 1 << 10
MIB = 1 << 20


async def open_channel(broker: BrokerHere) -> Channel:
    return await (await broker.connect()).channel(1)


async def begin(broker: BrokerHere, channel: Channel, size: int, sent: int) -> bytes:
    """Send so much of a message to `q`, and wait until it is read; returns the rest."""
    octets = channel.publishing(bytes(size), to="q")
    before = broker.server.unfinished.taken
    await channel.client.write(octets[:sent])
    await until(lambda: broker.server.unfinished.taken > before + sent - 8 * KIB)
    return octets[sent:]


def all_but_the_last_frame(channel: Channel, size: int) -> bytes:
    octets = channel.publishing(bytes(size), to="q")
    return octets[: -(size % (131_072 - 8) + 8)]


async def pass_time(clock: trio.testing.MockClock, seconds: int) -> None:
    for _ in range(seconds):
        clock.jump(1)
        await trio.testing.wait_all_tasks_blocked(0.005)


def depth(broker: BrokerHere) -> int:
    return broker.node.topology.vhost("/").queue("q").ready_count


async def test_an_announcement_takes_no_room(broker):
    channels = [await open_channel(broker) for _ in range(20)]
    for channel in channels:
        announced = content.build(1, b"\0\0", bytes(100), 131_072)
        header = bytearray(announced[: len(announced) - 108])
        header[11:19] = (100 * MIB).to_bytes(8)
        body = content.build(1, b"\0\0", bytes(20 * KIB), 131_072)[len(header) :]
        await channel.client.write(methods.encode(1, methods.BasicPublish(routing_key="q")) + header + body)
    await until(lambda: broker.server.unfinished.taken >= 20 * 20 * KIB)
    assert broker.server.unfinished.taken < 20 * 21 * KIB


async def test_what_is_finished_or_gone_takes_no_room(broker):
    first, second, third = [await open_channel(broker) for _ in range(3)]
    await first.declare("q")
    rest, _, _ = [await begin(broker, channel, MIB, 500 * KIB) for channel in (first, second, third)]
    assert broker.server.unfinished.taken > 1400 * KIB
    await first.client.write(rest)
    second.client.drop()
    await third.client.write(b"\xff" * 200 * KIB)  # the stream is broken
    await third.client.refused()
    await until(lambda: depth(broker) == 1 and not broker.server.unfinished.taken)


async def test_beyond_the_limit_messages_are_finished_one_after_another(tmp_path):
    async with broker_here(tmp_path, unfinished_size_max=MIB) as broker:
        channels = [await open_channel(broker) for _ in range(8)]
        await channels[0].declare("q")
        most = 0
        async with trio.open_nursery() as nursery:
            for channel in channels:
                octets = channel.publishing(bytes(8 * MIB), to="q") + channel.publishing(b"", to="q")
                nursery.start_soon(channel.client.stream.send_all, octets)
            with trio.fail_after(WAIT_S):
                while depth(broker) < 16:
                    most = max(most, broker.server.unfinished.taken)
                    await trio.lowlevel.checkpoint()
        # One whole message, and what one read of each brings.
        assert MIB < most < MIB + 8 * MIB + 7 * 256 * KIB
        assert broker.server.unfinished.taken == 0
        assert not any(peer._paused for peer in broker.node.peers)


async def test_small_messages_go_on_beyond_the_limit(tmp_path):
    async with broker_here(tmp_path, unfinished_size_max=MIB) as broker:
        channel, small = await open_channel(broker), await open_channel(broker)
        await small.declare("q")
        await begin(broker, channel, 8 * MIB, 2 * MIB)
        for _ in range(10):
            await small.publish(bytes(10 * KIB), to="q")
        assert await small.depth("q") == 10


async def test_whoever_sends_nothing_beyond_the_limit_is_closed(tmp_path, mock_clock):
    async with broker_here(tmp_path, unfinished_size_max=MIB) as broker:
        silent = [await open_channel(broker) for _ in range(3)]
        busy = await open_channel(broker)
        await busy.declare("q")
        for channel in silent:
            await begin(broker, channel, 8 * MIB, 300 * KIB)
        await pass_time(mock_clock, 60)  # there is room
        async with trio.open_nursery() as nursery:
            nursery.start_soon(busy.client.stream.send_all, busy.publishing(bytes(800 * KIB), to="q"))
            await until(lambda: broker.server.unfinished.taken > MIB)
            await pass_time(mock_clock, 20)
        closed = await silent[0].client.refused()
        assert closed.reply_code == 506
        assert closed.reply_text == (
            "RESOURCE_ERROR - a message was not finished in time while those of all connections "
            "hold more than 1048576 octets"
        )
        await until(lambda: depth(broker) == 1)


async def test_whoever_finishes_nothing_in_a_turn_is_closed(tmp_path, mock_clock):
    async with broker_here(tmp_path, unfinished_size_max=MIB) as broker:
        slow, quick = await open_channel(broker), await open_channel(broker)
        await quick.declare("q")
        slow_rest = await begin(broker, slow, 8 * MIB, 800 * KIB)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(quick.client.stream.send_all, quick.publishing(bytes(800 * KIB), to="q"))
            await until(lambda: broker.server.unfinished.taken > MIB)
            for at in range(32):
                await slow.client.write(slow_rest[at : at + 1])
                await pass_time(mock_clock, 1)
        assert (await slow.client.refused()).reply_code == 506
        await until(lambda: depth(broker) == 1)


async def test_a_client_that_is_closed_so_may_be_sending_still(tmp_path, mock_clock):
    """What it sends is discarded, until its close-ok."""
    async with broker_here(tmp_path, unfinished_size_max=MIB) as broker:
        channel = await open_channel(broker)
        await channel.declare("q")
        rest = await begin(broker, channel, 8 * MIB, 2 * MIB)
        await pass_time(mock_clock, 12)
        await channel.client.write(rest)
        assert broker.server.unfinished.taken == 0
        assert (await channel.client.refused()).reply_code == 506
        await until(lambda: broker.server.connection_count == 0)


async def test_publishers_that_an_alarm_blocks_are_not_in_the_way(tmp_path, mock_clock):
    async with broker_here(tmp_path, unfinished_size_max=MIB) as broker:
        blocked, other = await open_channel(broker), await open_channel(broker)
        also_blocked = await blocked.client.channel(2)
        await blocked.declare("q")
        await blocked.client.write(all_but_the_last_frame(blocked, 600 * KIB))
        await until(lambda: broker.server.unfinished.taken > 500 * KIB)
        alarms = broker.node.alarms
        alarms.memory_limit = 0
        alarms.check(disk_full=False)
        await also_blocked.publish(b"", to="q")
        await until(lambda: depth(broker) == 1)
        rest = await begin(broker, other, 2 * MIB, 600 * KIB)
        await pass_time(mock_clock, 5)
        await other.client.write(rest)
        await until(lambda: depth(broker) == 2)
        await pass_time(mock_clock, 60)
        assert broker.server.connection_count == 2


async def test_the_unfinished_messages_of_one_connection_have_a_limit(tmp_path):
    async with broker_here(tmp_path, message_size_max=1 * MIB) as broker:
        client: Client = await broker.connect()
        channels = [await client.channel(number) for number in range(1, 80)]
        async with trio.open_nursery() as nursery:
            octets = b"".join(all_but_the_last_frame(channel, MIB) for channel in channels)
            nursery.start_soon(client.stream.send_all, octets)
            closed = await client.expect(methods.ConnectionClose)
            nursery.cancel_scope.cancel()
        assert closed.reply_code == 506
        assert closed.reply_text.endswith("hold more than 71303168 octets")


def test_of_octets_that_are_no_frame_nothing_is_kept() -> None:
    reader = FrameReader(MIB)
    method = methods.encode(1, methods.BasicPublish())
    whole = content.build(1, b"\0\0", bytes(100 * KIB), 4096)
    reader.read(method + whole[: 50 * KIB])
    assert 49 * KIB < reader.kept < 60 * KIB
    reader.read(b"\xff" * 8192)
    assert reader.kept == 0


# ---- in a process of its own ----


def resident(broker: BrokerProcess) -> int:
    pages = int(Path(f"/proc/{broker.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
async def test_many_unfinished_messages_do_not_fill_the_memory(tmp_path):
    config = '[amqp]\nunfinished_memory = "32 MiB"\n'
    with BrokerProcess(tmp_path, config=config) as broker:
        before = resident(broker)
        channels = [await (await Client.connect(broker.amqp)).channel(1) for _ in range(30)]
        octets = channels[0].publishing(bytes(100 * MIB), to="q")[: 8 * MIB]
        async with trio.open_nursery() as nursery:
            for channel in channels:
                nursery.start_soon(channel.client.stream.send_all, octets)
            with trio.move_on_after(3):
                while True:
                    await trio.sleep(0.1)
                    assert resident(broker) < before + 64 * MIB
            nursery.cancel_scope.cancel()
        assert resident(broker) > before + 24 * MIB
        for channel in channels:
            channel.client.drop()


@pytest.mark.slow
async def test_a_message_of_the_default_limit_survives_a_kill(tmp_path, monkeypatch):
    monkeypatch.setattr(amqp_client, "WAIT_S", 60.0)
    size = 128 * MIB
    with BrokerProcess(tmp_path) as broker:
        channel = await (await Client.connect(broker.amqp)).channel(1)
        await channel.declare("q", durable=True)
        await channel.confirm_mode()
        await channel.publish(bytes(size), to="q", delivery_mode=2)
        assert await channel.confirms(1) == {1: True}
        channel.client.drop()
        broker.kill()
        broker.start()
        channel = await (await Client.connect(broker.amqp)).channel(1)
        message = await channel.get("q")
        assert message is not None
        assert message.body == bytes(size)
        channel.client.drop()
