"""Signals: the first lets clients say goodbye, up to a deadline; a second one does not wait."""

from __future__ import annotations

import signal
import time

import pytest
import trio

from amqp_client import Client
from broker.amqp import methods
from process import BrokerProcess

SHUTDOWN = "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'"


async def forced(client: Client) -> methods.ConnectionClose:
    """What the broker says when it goes; it is not answered."""
    return await client.expect(methods.ConnectionClose)


def send(broker: BrokerProcess, number: signal.Signals) -> None:
    assert broker.process is not None
    broker.process.send_signal(number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_clients_hear_why_and_the_broker_ends_when_they_have_gone(tmp_path, number):
    with BrokerProcess(tmp_path, config="[limits]\nstop_timeout_s = 3600") as broker:
        clients = [await Client.connect(broker.amqp) for _ in range(3)]
        send(broker, number)
        for client in clients:
            close = await client.refused()
            assert (close.reply_code, close.reply_text) == (320, SHUTDOWN)
        assert await trio.to_thread.run_sync(broker.wait) == 0
        assert broker.output[-1] == "Leveret stopped"
        assert " ERROR " not in broker.log.read_text()


async def test_a_client_that_does_not_answer_is_waited_for_until_the_deadline(tmp_path):
    with BrokerProcess(tmp_path, config="[limits]\nstop_timeout_s = 0.5") as broker:
        stuck = await Client.connect(broker.amqp)
        silent = await Client.dial(broker.amqp)
        # One that does not even read what it asked for.
        full = await (await Client.connect(broker.amqp)).channel(1)
        await full.declare("q")
        await full.consume("q", no_ack=True)
        publisher = await (await Client.connect(broker.amqp)).channel(1)
        for _ in range(8):
            await publisher.publish(bytes(4 << 20), to="q")
        await publisher.settle()
        started = time.monotonic()
        send(broker, signal.SIGTERM)
        assert (await forced(stuck)).reply_code == 320
        assert await trio.to_thread.run_sync(broker.wait) == 0
        assert time.monotonic() - started >= 0.5
        for client in (stuck, silent, full.client, publisher.client):
            client.drop()


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_does_not_wait(tmp_path, second):
    with BrokerProcess(tmp_path, config="[limits]\nstop_timeout_s = 3600") as broker:
        client = await Client.connect(broker.amqp)
        channel = await client.channel(1)
        await channel.declare("q", durable=True)
        await channel.confirm_mode()
        await channel.publish(b"safe", to="q", delivery_mode=2)
        await channel.confirms(1)
        send(broker, signal.SIGINT)
        await forced(client)
        send(broker, second)
        code = await trio.to_thread.run_sync(broker.wait)
        assert code == -second
        assert "Traceback" not in broker.log.read_text()
        client.drop()
        broker.start()
        channel = await (await Client.connect(broker.amqp)).channel(1)
        assert (await channel.get("q", no_ack=True)).body == b"safe"
        channel.client.drop()
