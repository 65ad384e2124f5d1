"""What comes and goes leaves nothing behind: objects of the broker are counted before and after."""

from __future__ import annotations

import gc
from collections import Counter

from amqp_client import Client
from broker.amqp import methods
from broker.node.scheduler import Timer
from broker_here import BrokerHere, until


def objects() -> Counter[str]:
    """How many of each class of the broker's there are."""
    gc.collect()
    kinds = (type(one) for one in gc.get_objects())
    return Counter(kind.__qualname__ for kind in kinds if str(kind.__module__).startswith("broker."))


async def check_growth(broker: BrokerHere, before: Counter[str]) -> None:
    """Apart from timers that were cancelled, of which the scheduler keeps a thousand at most, and from caches."""
    for client in broker.clients[1:]:
        client.drop()
    del broker.clients[1:]
    await until(lambda: broker.server.connection_count <= 1)
    await broker.node.settled()
    grown = objects() - before
    grown.pop(Timer.__qualname__, None)
    assert {name: count for name, count in grown.items() if count > 20} == {}
    assert len(broker.node.scheduler._timers) < 1200


async def test_channels(broker, client):
    await (await client.channel(1)).close()
    before = objects()
    opened = methods.encode(1, methods.ChannelOpen()) + methods.encode(1, methods.ConfirmSelect())
    closed = methods.encode(1, methods.ChannelClose(200, "", 0, 0))
    for _ in range(20):
        await client.write((opened + closed) * 500)
        for _ in range(500):
            for answer in (methods.ChannelOpenOk, methods.ConfirmSelectOk, methods.ChannelCloseOk):
                await client.expect(answer, 1)
    await check_growth(broker, before)


async def test_consumers_and_queues(broker, client, channel):
    before = objects()
    for number in range(300):
        await channel.declare(
            "gone", auto_delete=True, arguments={"x-expires": 60_000, "x-message-ttl": 50_000}
        )
        await channel.bind("gone", "amq.topic", f"*.{number}.#")
        await channel.bind("gone", "amq.topic", "key.#")
        tag = await channel.consume("gone", consumer_tag="c")  # the client remembers tags
        await channel.publish(b"m", exchange="amq.topic", to="key", expiration="40000")
        await channel.ack((await channel.message()).tag)
        await channel.call(methods.BasicCancel(tag), methods.BasicCancelOk)
    assert broker.node.topology.vhost("/").queues == {}
    await check_growth(broker, before)


async def test_durable_queues_with_messages(broker, client, channel):
    before = objects()
    await channel.confirm_mode()
    for number in range(100):
        await channel.declare("gone", durable=True)
        await channel.publish(b"m", to="gone", delivery_mode=2)
        assert await channel.confirms(number + 1, since=number + 1) == {number + 1: True}
        await channel.get("gone")
        await channel.call(methods.QueueDelete(queue="gone"), methods.QueueDeleteOk)
    await channel.close()
    await check_growth(broker, before)


async def test_connections_with_exclusive_queues(broker, client):
    before = objects()
    for number in range(200):
        other = await Client.connect(broker.address, heartbeat=60)
        channel = await other.channel(1)
        queue = (await channel.declare(exclusive=True)).queue
        await channel.bind(queue, "amq.fanout")
        await channel.consume(queue)
        await channel.publish(b"m", exchange="amq.fanout")
        await channel.message()
        if number % 2:
            await other.close()
        else:
            other.drop()
    await check_growth(broker, before)
