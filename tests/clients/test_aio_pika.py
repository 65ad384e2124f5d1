"""aio-pika against a real broker: confirms, iterators, exchanges, RPC, and reconnecting after a crash."""

from __future__ import annotations

import asyncio

import aio_pika
import aiormq
import pytest
from aio_pika import DeliveryMode, ExchangeType, Message
from aio_pika.patterns import RPC

from patience import PROGRAM_S


def run(scenario, *arguments):
    """Run it on asyncio, for so long at most."""

    async def bounded():
        async with asyncio.timeout(PROGRAM_S):
            return await scenario(*arguments)

    return asyncio.run(bounded())


async def bodies(queue, count):
    """Consume so many, and acknowledge each."""
    found = []
    async with queue.iterator() as messages:
        async for message in messages:
            async with message.process():
                found.append(message.body)
            if len(found) == count:
                break
    return found


def test_publish_and_iterate(broker, queue):
    async def scenario():
        async with await aio_pika.connect(broker.url) as connection:
            channel = await connection.channel()
            await channel.set_qos(prefetch_count=10)
            declared = await channel.declare_queue(queue, durable=True)
            for number in range(50):
                message = Message(
                    b"%d" % number,
                    delivery_mode=DeliveryMode.PERSISTENT,
                    headers={"number": number, "half": number / 2},
                )
                confirmed = await channel.default_exchange.publish(message, routing_key=queue)
                assert isinstance(confirmed, aiormq.spec.Basic.Ack)
            first = await declared.get(no_ack=True)
            assert first.headers == {"number": 0, "half": 0.0}
            assert await bodies(declared, 49) == [b"%d" % number for number in range(1, 50)]
            assert await declared.get(fail=False) is None
            await declared.delete()

    run(scenario)


def test_many_publishers_wait_for_their_own_confirms(broker, queue):
    async def scenario():
        async with await aio_pika.connect(broker.url) as connection:
            channel = await connection.channel()
            declared = await channel.declare_queue(queue, durable=True)
            publish = channel.default_exchange.publish
            sent = [Message(b"%d" % number, delivery_mode=2) for number in range(500)]
            confirms = await asyncio.gather(*(publish(message, routing_key=queue) for message in sent))
            assert all(isinstance(confirmed, aiormq.spec.Basic.Ack) for confirmed in confirms)
            assert await bodies(declared, 500) == [message.body for message in sent]
            await declared.delete()

    run(scenario)


def test_a_returned_message_raises(broker):
    async def scenario():
        async with await aio_pika.connect(broker.url) as connection:
            channel = await connection.channel(on_return_raises=True)
            with pytest.raises(aio_pika.exceptions.DeliveryError) as caught:
                await channel.default_exchange.publish(
                    Message(b"lost"), routing_key="nowhere", mandatory=True
                )
            assert caught.value.message.delivery.reply_text == "NO_ROUTE"

    run(scenario)


@pytest.mark.parametrize(
    ("kind", "binding", "matching", "other"),
    [
        (ExchangeType.FANOUT, {}, {"routing_key": "any"}, None),
        (ExchangeType.DIRECT, {"routing_key": "a"}, {"routing_key": "a"}, {"routing_key": "b"}),
        (ExchangeType.TOPIC, {"routing_key": "a.#.z"}, {"routing_key": "a.z"}, {"routing_key": "a.b"}),
        (
            ExchangeType.HEADERS,
            {"arguments": {"x-match": "all", "a": 1, "b": "c"}},
            {"routing_key": "", "headers": {"a": 1, "b": "c", "d": 2}},
            {"routing_key": "", "headers": {"a": 1}},
        ),
    ],
    ids=lambda value: value.value if isinstance(value, ExchangeType) else "",
)
def test_exchanges(broker, queue, kind, binding, matching, other):
    async def publish(exchange, body, routing_key, headers=None):
        return await exchange.publish(Message(body, headers=headers), routing_key=routing_key)

    async def scenario():
        async with await aio_pika.connect(broker.url) as connection:
            channel = await connection.channel()
            exchange = await channel.declare_exchange(queue, kind, auto_delete=True)
            declared = await channel.declare_queue(queue, exclusive=True)
            await declared.bind(exchange, **binding)
            if other:
                returned = await publish(exchange, b"other", **other)
                assert isinstance(returned, aiormq.abc.DeliveredMessage)
            await publish(exchange, b"matching", **matching)
            assert (await declared.get(no_ack=True)).body == b"matching"
            await declared.unbind(exchange, **binding)
            # That was its last binding, so the exchange has gone.
            with pytest.raises(aio_pika.exceptions.ChannelNotFoundEntity, match="no exchange"):
                await channel.declare_exchange(queue, kind, passive=True)

    run(scenario)


def test_exchanges_that_are_bound_to_each_other(broker, queue):
    async def scenario():
        async with await aio_pika.connect(broker.url) as connection:
            channel = await connection.channel()
            source = await channel.declare_exchange(f"{queue}.source", ExchangeType.TOPIC, auto_delete=True)
            target = await channel.declare_exchange(f"{queue}.target", ExchangeType.FANOUT, auto_delete=True)
            declared = await channel.declare_queue(queue, exclusive=True)
            await target.bind(source, routing_key="*.error")
            await declared.bind(target)
            await source.publish(Message(b"info"), routing_key="a.info", mandatory=False)
            await source.publish(Message(b"error"), routing_key="a.error")
            assert await bodies(declared, 1) == [b"error"]

    run(scenario)


def test_dead_letters_say_what_happened(broker, queue):
    async def scenario():
        async with await aio_pika.connect(broker.url) as connection:
            channel = await connection.channel()
            dead = await channel.declare_queue(f"{queue}.dead", exclusive=True)
            arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead.name}
            declared = await channel.declare_queue(queue, exclusive=True, arguments=arguments)
            await channel.default_exchange.publish(Message(b"bad", headers={"own": 1}), routing_key=queue)
            await (await declared.get()).reject(requeue=False)
            async with dead.iterator() as messages:
                letter = await anext(messages)
                await letter.ack()
            assert letter.body == b"bad"
            assert letter.headers["own"] == 1
            assert letter.headers["x-first-death-reason"] == "rejected"
            (death,) = letter.headers["x-death"]
            assert (death["queue"], death["reason"], death["count"]) == (queue, "rejected", 1)
            assert (death["exchange"], death["routing-keys"]) == ("", [queue])

    run(scenario)


def test_an_error_closes_the_channel_and_not_the_connection(broker, queue):
    async def scenario():
        async with await aio_pika.connect(broker.url) as connection:
            channel = await connection.channel()
            with pytest.raises(aio_pika.exceptions.ChannelNotFoundEntity, match=f"no queue '{queue}'"):
                await channel.declare_queue(queue, passive=True)
            other = await connection.channel()
            await other.declare_queue(queue, exclusive=True)
            third = await connection.channel()
            with pytest.raises(aio_pika.exceptions.ChannelPreconditionFailed, match="inequivalent arg"):
                await third.declare_queue(queue, exclusive=True, arguments={"x-max-length": 1})

    run(scenario)


def test_a_wrong_password(broker):
    host, port = broker.amqp

    async def scenario():
        with pytest.raises(aio_pika.exceptions.ProbableAuthenticationError, match="ACCESS_REFUSED"):
            await aio_pika.connect(host=host, port=port, login="guest", password="wrong")

    run(scenario)


def test_rpc(broker):
    async def multiply(*, x, y):
        return x * y

    async def divide(*, x, y):
        return x / y

    async def scenario():
        async with (
            await aio_pika.connect(broker.url) as connection,
            connection.channel() as serving,
            connection.channel() as asking,
        ):
            server, client = await RPC.create(serving), await RPC.create(asking)
            await server.register("multiply", multiply, auto_delete=True)
            await server.register("divide", divide, auto_delete=True)
            answers = await asyncio.gather(*(client.proxy.multiply(x=x, y=3) for x in range(50)))
            assert answers == [x * 3 for x in range(50)]
            with pytest.raises(ZeroDivisionError):
                await client.call("divide", {"x": 1, "y": 0})
            await client.close()
            await server.close()

    run(scenario)


# ---- reconnecting ----


def test_a_robust_connection_comes_back_after_a_crash(returning_broker):
    async def scenario():
        connection = await aio_pika.connect_robust(returning_broker.url, reconnect_interval=0.1)
        back = asyncio.Event()
        connection.reconnect_callbacks.add(lambda *_: back.set())
        async with connection:
            channel = await connection.channel()
            await channel.set_qos(prefetch_count=10)
            events = await channel.declare_exchange("events", ExchangeType.TOPIC, durable=True)
            durable = await channel.declare_queue("durable", durable=True)
            await durable.bind(events, "#")
            # Those are gone with the broker; the client declares and binds them again.
            passing = await channel.declare_queue("passing", auto_delete=True)
            await passing.bind(events, "#")
            came = asyncio.Queue()
            await passing.consume(came.put, no_ack=True)
            for number in range(20):
                await events.publish(Message(b"%d" % number, delivery_mode=2), routing_key="a")
            assert [(await came.get()).body for _ in range(20)] == [b"%d" % number for number in range(20)]

            returning_broker.kill()
            await asyncio.to_thread(returning_broker.start)
            await back.wait()

            for number in range(20, 40):
                await events.publish(Message(b"%d" % number, delivery_mode=2), routing_key="a")
            assert [(await came.get()).body for _ in range(20)] == [
                b"%d" % number for number in range(20, 40)
            ]
            assert await bodies(durable, 40) == [b"%d" % number for number in range(40)]

    run(scenario)


def test_an_orderly_stop_is_a_reason_to_come_back_too(returning_broker):
    async def scenario():
        connection = await aio_pika.connect_robust(returning_broker.url, reconnect_interval=0.1)
        gone, back = asyncio.Queue(), asyncio.Event()
        connection.close_callbacks.add(lambda _, reason: gone.put_nowait(reason))
        connection.reconnect_callbacks.add(lambda *_: back.set())
        async with connection:
            channel = await connection.channel()
            queue = await channel.declare_queue("kept", durable=True)
            await channel.default_exchange.publish(Message(b"kept", delivery_mode=2), routing_key="kept")
            assert await asyncio.to_thread(returning_broker.stop) == 0
            reason = await gone.get()
            assert "CONNECTION_FORCED - broker forced connection closure" in str(reason)
            await asyncio.to_thread(returning_broker.start)
            await back.wait()
            assert await bodies(queue, 1) == [b"kept"]

    run(scenario)
