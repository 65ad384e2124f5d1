"""A bug of ours ends the connection that met it, with a trace in the log; a failure of the disk ends the broker."""

from __future__ import annotations

import struct
from typing import Any

import pytest
import trio

from amqp_client import Client
from broker.amqp import methods
from broker.model.queue import Queue
from broker.server.amqp.channel import HANDLERS, Channel
from broker.server.amqp.confirms import Confirms
from broker.server.amqp.connection import AmqpConnection
from broker.server.amqp.delivery import AmqpConsumer
from broker.storage.errors import SyncFailed
from broker_here import BrokerHere, broker_here, until
from patience import WAIT_S


class Bug(Exception):
    pass


def bug(*arguments: Any, **options: Any) -> Any:
    raise Bug


def logged(caplog: pytest.LogCaptureFixture) -> list[type[BaseException] | None]:
    return [record.exc_info[0] for record in caplog.records if record.exc_info]


async def check_refused(client: Client) -> None:
    """It hears that it was our fault."""
    close = await client.refused()
    assert (close.reply_code, close.reply_text) == (541, "INTERNAL_ERROR - internal error")


async def check_service(broker: BrokerHere, client: Client) -> None:
    channel = await client.channel(9)
    await channel.declare("served", durable=True)
    await channel.confirm_mode()
    await channel.publish(b"here", to="served", delivery_mode=2)
    assert await channel.confirms(1) == {1: True}
    assert (await channel.get("served", no_ack=True)).body == b"here"


async def test_in_a_handler(broker, client, channel, caplog, monkeypatch):
    monkeypatch.setitem(HANDLERS, methods.QueuePurge, bug)
    await channel.declare("mine", exclusive=True)
    await channel.send(methods.QueuePurge(queue="mine"))
    await check_refused(client)
    assert broker.node.topology.vhost("/").queues == {}
    assert logged(caplog) == [Bug]
    await check_service(broker, await broker.connect())


async def test_in_a_confirm_that_waited_for_the_disk(broker, client, channel, caplog, monkeypatch):
    acknowledge = Confirms._acknowledge

    def only_on_channel_1(self: Confirms, last: int) -> None:
        if self._ack.startswith(struct.pack(">BH", 1, 1)):
            raise Bug
        acknowledge(self, last)

    monkeypatch.setattr(Confirms, "_acknowledge", only_on_channel_1)
    other = await (await broker.connect()).channel(2)
    await other.declare("q", durable=True)
    for one in (channel, other):
        await one.confirm_mode()
    # Both wait for the same commit.
    await channel.publish(b"", to="q", delivery_mode=2)
    await other.publish(b"", to="q", delivery_mode=2)
    assert await other.confirms(1) == {1: True}
    await check_refused(client)
    assert logged(caplog) == [Bug]
    await check_service(broker, other.client)


async def test_in_a_confirm_that_waited_for_nothing(broker, client, channel, caplog, monkeypatch):
    await channel.declare("q")
    await channel.confirm_mode()
    with monkeypatch.context() as patched:
        patched.setattr(Confirms, "_acknowledge", bug)
        await channel.publish(b"", to="q")
        await check_refused(client)
    assert logged(caplog) == [Bug]
    await check_service(broker, await broker.connect())


async def test_in_an_answer_that_waited_for_the_disk(broker, client, channel, caplog, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(Channel, "_answer", bug)
        await channel.send(methods.QueueDeclare(queue="q", durable=True))
        await check_refused(client)
    assert logged(caplog) == [Bug]
    await check_service(broker, await broker.connect())


async def test_in_sending(broker, client, channel, caplog, monkeypatch):
    other = await broker.connect()
    (ours,) = [peer for peer in broker.node.peers if peer.channels]  # type: ignore[attr-defined]
    send = AmqpConnection._send_outbox

    def not_ours(self: AmqpConnection) -> None:
        if self is ours:
            raise Bug
        send(self)

    monkeypatch.setattr(AmqpConnection, "_send_outbox", not_ours)
    await channel.send(methods.ChannelFlow(True))
    await until(lambda: Bug in logged(caplog))
    await check_service(broker, other)


@pytest.mark.parametrize("acks", [True, False])
async def test_in_a_delivery(broker, client, caplog, monkeypatch, acks):
    around = AmqpConsumer._fitted

    def not_to_all(self: AmqpConsumer, *envelope: Any) -> Any:
        if self.tag == "bad":
            raise Bug
        return around(self, *envelope)

    monkeypatch.setattr(AmqpConsumer, "_fitted", not_to_all)
    bad = await client.channel(1)
    await bad.declare("q")
    await bad.consume("q", consumer_tag="bad", no_ack=not acks)
    good = await (await broker.connect()).channel(1)
    await good.consume("q", consumer_tag="good")
    publisher = await (await broker.connect()).channel(1)
    await publisher.client.write(publisher.publishing(b"m", to="q") * 100)
    await check_refused(client)
    assert logged(caplog) == [Bug]
    # What was to be acknowledged comes to whoever is left; the rest counts as delivered.
    messages = await good.messages(100 if acks else 50)
    assert {message.method.consumer_tag for message in messages} == {"good"}
    await good.ack(0, multiple=True)
    await good.settle()
    queue = broker.node.topology.vhost("/").queue("q")
    assert (queue.ready_count, queue.unacked_count) == (0, 0)


async def test_in_a_queue(broker, client, channel, caplog, monkeypatch):
    dispatch = Queue.dispatch

    def not_that_one(self: Queue) -> None:
        if self.name == "bad":
            raise Bug
        dispatch(self)

    monkeypatch.setattr(Queue, "dispatch", not_that_one)
    for name in ("bad", "good"):
        await channel.declare(name)
        await channel.consume(name, no_ack=True)
    await channel.publish(b"", to="bad")
    await channel.publish(b"good", to="good")
    assert (await channel.message()).body == b"good"
    assert set(logged(caplog)) == {Bug}


async def test_in_a_timer_of_a_connection(tmp_path, mock_clock, caplog, monkeypatch):
    async with broker_here(tmp_path) as broker:
        client, other = await broker.connect(heartbeat=2), await broker.connect()
        with monkeypatch.context() as patched:
            patched.setattr(AmqpConnection, "_is_alive", bug)
            mock_clock.jump(1.5)
            await check_refused(client)
        assert logged(caplog) == [Bug]
        await check_service(broker, other)


async def test_in_a_timer_of_nobody(broker, client, caplog):
    fired = trio.Event()
    broker.node.scheduler.after(0, bug)
    broker.node.scheduler.after(0, fired.set)
    with trio.fail_after(WAIT_S):
        await fired.wait()
    assert logged(caplog) == [Bug]
    await check_service(broker, client)


def no_disk(*arguments: Any, **options: Any) -> Any:
    raise SyncFailed("the disk is gone")


def causes(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [cause for inner in error.exceptions for cause in causes(inner)]
    return [error]


async def check_ends(folder: Any, trigger: Any) -> None:
    """The broker goes down with the disk's failure and nothing else."""

    async def run() -> None:
        async with broker_here(folder) as broker:
            channel = await (await broker.connect()).channel(1)
            await trigger(broker, channel)
            with trio.fail_after(WAIT_S):
                await trio.sleep_forever()

    with pytest.raises(BaseExceptionGroup) as caught:
        await run()
    assert {type(cause) for cause in causes(caught.value)} == {SyncFailed}


async def test_the_disk_fails_in_a_handler(tmp_path, monkeypatch):
    async def purge(broker: BrokerHere, channel: Any) -> None:
        monkeypatch.setitem(HANDLERS, methods.QueuePurge, no_disk)
        await channel.send(methods.QueuePurge(queue="q"))

    await check_ends(tmp_path, purge)


async def test_the_disk_fails_in_a_queue(tmp_path, monkeypatch):
    async def publish(broker: BrokerHere, channel: Any) -> None:
        monkeypatch.setattr(Queue, "dispatch", no_disk)
        await channel.declare("q")
        await channel.consume("q")
        await channel.publish(b"", to="q")

    await check_ends(tmp_path, publish)


async def test_the_disk_fails_in_a_timer(tmp_path):
    async def wait(broker: BrokerHere, channel: Any) -> None:
        broker.node.scheduler.after(0, no_disk)

    await check_ends(tmp_path, wait)


async def test_the_disk_fails_while_a_definition_waits(tmp_path, monkeypatch):
    async def declare(broker: BrokerHere, channel: Any) -> None:
        monkeypatch.setattr(Channel, "_answer", no_disk)
        await channel.send(methods.QueueDeclare(queue="q", durable=True))

    await check_ends(tmp_path, declare)
