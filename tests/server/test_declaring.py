"""Exchanges, queues and bindings as clients make and delete them."""

from __future__ import annotations

import re

import pytest
import trio.testing

from amqp_client import Refused
from broker.amqp import methods
from broker_here import broker_here, until

REPLY_TO = "amq.rabbitmq.reply-to"


def queues(broker):
    return broker.node.topology.vhost("/").queues


# ---- names ----


async def test_a_queue_without_a_name_gets_one(channel):
    names = [(await channel.declare()).queue for _ in range(3)]
    assert len(set(names)) == 3
    for name in names:
        assert re.fullmatch(r"amq\.gen-[A-Za-z0-9_-]{22}", name)


async def test_the_name_that_the_broker_gave_can_be_declared_again(channel):
    name = (await channel.declare()).queue
    assert (await channel.declare(name)).queue == name


async def test_a_consumer_without_a_tag_gets_one(channel):
    await channel.declare("q")
    tags = {await channel.consume("q") for _ in range(3)}
    assert len(tags) == 3
    for tag in tags:
        assert re.fullmatch(r"amq\.ctag-[A-Za-z0-9_-]{22}", tag)


async def test_the_empty_name_is_the_queue_declared_last(channel):
    await channel.declare("first")
    await channel.declare("second")
    await channel.publish(b"1", to="second")
    assert (await channel.get("")).body == b"1"
    await channel.call(methods.QueueBind(queue="", exchange="amq.direct"), methods.QueueBindOk)
    await channel.publish(b"2", exchange="amq.direct", to="second")  # the key is the name as well
    assert (await channel.call(methods.QueuePurge(queue=""), methods.QueuePurgeOk)).message_count == 1
    await channel.call(methods.QueueUnbind(queue="", exchange="amq.direct"), methods.QueueUnbindOk)
    await channel.publish(b"3", exchange="amq.direct", to="second")
    await channel.publish(b"4", to="second")
    tag = await channel.consume("", no_ack=True)
    assert (await channel.message()).body == b"4"
    await channel.call(methods.BasicCancel(tag), methods.BasicCancelOk)
    await channel.call(methods.QueueDelete(queue=""), methods.QueueDeleteOk)
    with pytest.raises(Refused, match="404"):
        await channel.declare("second", passive=True)


async def test_a_binding_of_the_queue_declared_last_keeps_its_key(channel):
    await channel.declare("q")
    await channel.bind("", "amq.direct", "key")
    await channel.publish(b"1", exchange="amq.direct", to="q")
    await channel.publish(b"2", exchange="amq.direct", to="key")
    assert (await channel.get("q")).body == b"2"


async def test_a_passive_declare_counts_as_the_last(channel):
    await channel.declare("one")
    await channel.declare("two")
    await channel.declare("one", passive=True)
    await channel.publish(b"1", to="one")
    assert (await channel.get("")).body == b"1"


async def test_each_channel_has_a_last_queue_of_its_own(client, channel):
    await channel.declare("q")
    other = await client.channel(2)
    with pytest.raises(Refused, match="no previously declared queue"):
        await other.call(methods.QueuePurge(queue=""), methods.QueuePurgeOk)


async def test_line_ends_are_stripped_from_names(channel):
    assert (await channel.declare("a\r\nb")).queue == "ab"
    await channel.exchange("c\nd", "fanout")
    await channel.bind("a\nb", "c\rd")
    await channel.publish(b"1", exchange="cd")
    assert (await channel.get("ab")).body == b"1"
    await channel.call(methods.ExchangeDelete(exchange="c\nd"), methods.ExchangeDeleteOk)
    await channel.call(methods.QueueDelete(queue="a\nb"), methods.QueueDeleteOk)
    with pytest.raises(Refused, match="no queue 'ab'"):
        await channel.declare("ab", passive=True)


async def test_a_name_may_have_255_octets(channel):
    name = "\u00e4" * 127 + "x"
    assert (await channel.declare(name, durable=True)).queue == name
    await channel.bind(name, "amq.topic", "k" * 255)
    await channel.publish(b"1", exchange="amq.topic", to="k" * 255)
    assert (await channel.get(name)).body == b"1"


# ---- what is there ----


async def test_declare_tells_messages_and_consumers(client, channel):
    for _ in range(3):
        await channel.publish(b"", to="q")
    assert await channel.declare("q") == methods.QueueDeclareOk("q", 0, 0)
    for _ in range(3):
        await channel.publish(b"", to="q")
    assert await channel.declare("q") == methods.QueueDeclareOk("q", 3, 0)
    other = await client.channel(2)
    await other.qos(1)
    await other.consume("q")
    await other.message()
    assert await channel.declare("q", passive=True) == methods.QueueDeclareOk("q", 2, 1)


async def test_declaring_again_changes_nothing(channel):
    options = {"durable": True, "arguments": {"x-message-ttl": 60_000, "x-queue-type": "classic"}}
    await channel.declare("q", **options)
    await channel.publish(b"1", to="q")
    assert (await channel.declare("q", **options)).message_count == 1
    await channel.exchange("x", "topic", arguments={"alternate-exchange": "amq.fanout"})
    await channel.exchange("x", "topic", arguments={"alternate-exchange": "amq.fanout"})


async def test_the_type_classic_is_like_none(channel):
    await channel.declare("q")
    await channel.declare("q", arguments={"x-queue-type": "classic"})


async def test_arguments_that_nobody_knows_are_not_compared(channel):
    await channel.declare("q", arguments={"x-mine": 1})
    await channel.declare("q", arguments={"x-mine": 2})
    await channel.exchange("x", arguments={"x-mine": 1})
    await channel.exchange("x")


async def test_the_exchanges_that_are_there_from_the_beginning(channel):
    for name, type in {
        "amq.direct": "direct",
        "amq.fanout": "fanout",
        "amq.topic": "topic",
        "amq.headers": "headers",
        "amq.match": "headers",
    }.items():
        await channel.exchange(name, type, durable=True)
        await channel.exchange(name, passive=True)
    await channel.exchange("amq.rabbitmq.trace", "topic", durable=True, internal=True)


async def test_nowait_is_answered_by_nothing(channel):
    await channel.send(
        methods.QueueDeclare(queue="q", nowait=True),
        methods.QueueDeclare(queue="lasting", durable=True, nowait=True),
        methods.ExchangeDeclare(exchange="x", type="fanout", nowait=True),
        methods.ExchangeDeclare(exchange="y", type="fanout", durable=True, nowait=True),
        methods.QueueBind(queue="q", exchange="x", nowait=True),
        methods.ExchangeBind(destination="x", source="y", nowait=True),
        methods.BasicConsume(queue="q", consumer_tag="c", no_ack=True, nowait=True),
        methods.ConfirmSelect(nowait=True),
    )
    assert await channel.came() == []
    await channel.publish(b"1", exchange="y")
    assert {type(came).__name__ for came in await channel.came()} == {"Message", "Confirm"}
    await channel.send(
        methods.BasicCancel("c", True),
        methods.QueuePurge(queue="q", nowait=True),
        methods.ExchangeUnbind(destination="x", source="y", nowait=True),
        methods.ExchangeDelete(exchange="x", nowait=True),
        methods.ExchangeDelete(exchange="y", nowait=True),
        methods.QueueDelete(queue="q", nowait=True),
        methods.QueueDelete(queue="lasting", nowait=True),
    )
    # exchange.unbind-ok is the only one that RabbitMQ sends whatever nowait says; we do not.
    assert await channel.came() == []


async def test_an_error_is_told_in_spite_of_nowait(channel):
    await channel.send(methods.QueueDeclare(queue="nope", passive=True, nowait=True))
    assert (await channel.refused()).reply_code == 404


# ---- deleting ----


async def test_deleting_what_is_not_there_is_no_error(channel):
    deleted = await channel.call(methods.QueueDelete(queue="nope"), methods.QueueDeleteOk)
    assert deleted.message_count == 0
    await channel.call(methods.ExchangeDelete(exchange="nope"), methods.ExchangeDeleteOk)
    await channel.call(methods.QueueUnbind(queue="nope", exchange="nope"), methods.QueueUnbindOk)
    await channel.call(methods.QueueUnbind(queue="nope", exchange="amq.topic"), methods.QueueUnbindOk)
    await channel.call(methods.ExchangeUnbind(destination="nope", source="nope"), methods.ExchangeUnbindOk)
    cancelled = await channel.call(methods.BasicCancel("nobody"), methods.BasicCancelOk)
    assert cancelled.consumer_tag == "nobody"


async def test_delete_tells_how_many_messages_went(channel):
    await channel.declare("q")
    for _ in range(5):
        await channel.publish(b"", to="q")
    await channel.get("q")
    deleted = await channel.call(methods.QueueDelete(queue="q"), methods.QueueDeleteOk)
    assert deleted.message_count == 4


async def test_delete_of_what_is_unused_and_empty(channel):
    await channel.declare("q")
    method = methods.QueueDelete(queue="q", if_unused=True, if_empty=True)
    assert (await channel.call(method, methods.QueueDeleteOk)).message_count == 0
    await channel.exchange("x")
    await channel.call(methods.ExchangeDelete(exchange="x", if_unused=True), methods.ExchangeDeleteOk)


async def test_purge_leaves_what_is_unacknowledged(channel):
    await channel.declare("q")
    for number in range(5):
        await channel.publish(b"%d" % number, to="q")
    first = await channel.get("q")
    assert (await channel.call(methods.QueuePurge(queue="q"), methods.QueuePurgeOk)).message_count == 4
    assert await channel.get("q") is None
    await channel.nack(first.tag)
    assert (await channel.get("q")).body == b"0"


async def test_the_bindings_of_a_deleted_queue_are_gone(channel):
    await channel.declare("q")
    await channel.bind("q", "amq.fanout")
    await channel.call(methods.QueueDelete(queue="q"), methods.QueueDeleteOk)
    await channel.publish(b"lost", exchange="amq.fanout", mandatory=True)
    assert (await channel.message()).method.reply_text == "NO_ROUTE"
    await channel.declare("q")
    await channel.publish(b"lost too", exchange="amq.fanout")
    assert await channel.depth("q") == 0


async def test_acknowledging_what_a_deleted_queue_had_handed_out(channel):
    await channel.declare("q", durable=True)
    await channel.confirm_mode()
    for _ in range(4):
        await channel.publish(b"", to="q", delivery_mode=2)
    await channel.confirms(4)
    messages = [await channel.get("q") for _ in range(4)]
    await channel.call(methods.QueueDelete(queue="q"), methods.QueueDeleteOk)
    await channel.ack(messages[0].tag)
    await channel.reject(messages[1].tag, requeue=False)
    await channel.nack(messages[2].tag)
    assert await channel.came() == []
    await channel.declare("q", durable=True)
    assert await channel.depth("q") == 0


# ---- exclusive ----

LOCKED = (
    "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'mine' in vhost '/'. It could be originally "
    "declared on another connection or the exclusive property value does not match that of the original "
    "declaration."
)


@pytest.mark.parametrize(
    "method",
    [
        methods.QueueDeclare(queue="mine", exclusive=True),
        methods.QueueDeclare(queue="mine"),
        methods.QueueDeclare(queue="mine", passive=True),
        methods.QueueBind(queue="mine", exchange="amq.fanout"),
        methods.QueueUnbind(queue="mine", exchange="amq.fanout"),
        methods.QueuePurge(queue="mine"),
        methods.QueueDelete(queue="mine"),
        methods.BasicConsume(queue="mine"),
        methods.BasicGet(queue="mine"),
    ],
    ids=lambda method: method.name,
)
async def test_another_connections_exclusive_queue_is_locked(broker, channel, method):
    await channel.declare("mine", exclusive=True)
    other = await (await broker.connect()).channel(1)
    await other.send(method)
    closed = await other.refused()
    assert (closed.reply_code, closed.reply_text) == (405, LOCKED)
    assert (closed.class_id, closed.method_id) == method.id


async def test_anybody_may_publish_to_an_exclusive_queue(broker, channel):
    name = (await channel.declare(exclusive=True)).queue
    other = await (await broker.connect()).channel(1)
    await other.publish(b"1", to=name)
    await other.settle()
    assert (await channel.get(name)).body == b"1"


async def test_an_exclusive_queue_is_seen_by_all_channels_of_its_connection(client, channel):
    await channel.declare("mine", exclusive=True)
    other = await client.channel(2)
    await other.declare("mine", exclusive=True)
    await other.call(methods.QueueDelete(queue="mine"), methods.QueueDeleteOk)
    with pytest.raises(Refused, match="404"):
        await channel.declare("mine", passive=True)


async def test_an_exclusive_queue_stays_when_its_channel_goes(client, channel):
    await channel.declare("mine", exclusive=True)
    await channel.close()
    await (await client.channel(1)).declare("mine", passive=True)


async def test_an_exclusive_queue_is_not_durable_whatever_was_asked(channel):
    await channel.declare("mine", exclusive=True, durable=True)
    await channel.declare("mine", exclusive=True, durable=False)


async def test_queues_that_went_before_their_connection_are_forgotten(broker, channel):
    for _ in range(300):
        await channel.declare("mine", exclusive=True, auto_delete=True)
        tag = await channel.consume("mine")
        await channel.call(methods.BasicCancel(tag), methods.BasicCancelOk)
    (connection,) = broker.node.peers
    assert len(connection.exclusive_queues) < 100
    assert queues(broker) == {}


# ---- auto-delete ----


async def test_an_auto_delete_queue_goes_with_its_last_consumer(client, channel):
    await channel.declare("q", auto_delete=True)
    first, second = await channel.consume("q"), await channel.consume("q")
    await channel.call(methods.BasicCancel(first), methods.BasicCancelOk)
    await channel.declare("q", passive=True)
    await channel.call(methods.BasicCancel(second), methods.BasicCancelOk)
    with pytest.raises(Refused, match="404"):
        await channel.declare("q", passive=True)


async def test_an_auto_delete_queue_waits_for_its_first_consumer(client, channel):
    await channel.declare("q", auto_delete=True)
    await channel.close()
    await (await client.channel(1)).declare("q", passive=True)


async def test_an_auto_delete_queue_goes_with_the_channel_of_its_consumer(client, channel):
    await channel.declare("q", auto_delete=True)
    await channel.publish(b"1", to="q")
    other = await client.channel(2)
    await other.consume("q")
    await other.message()
    await other.close()
    with pytest.raises(Refused, match="404"):
        await channel.declare("q", passive=True)


async def test_an_auto_delete_exchange_goes_with_the_last_binding_from_it(channel):
    await channel.exchange("x", auto_delete=True)
    await channel.exchange("y", "fanout")
    await channel.declare("q")
    await channel.bind("q", "x", "k")
    await channel.call(
        methods.ExchangeBind(destination="y", source="x", routing_key="k"), methods.ExchangeBindOk
    )
    await channel.call(methods.QueueDelete(queue="q"), methods.QueueDeleteOk)
    await channel.exchange("x", passive=True)
    unbind = methods.ExchangeUnbind(destination="y", source="x", routing_key="k")
    await channel.call(unbind, methods.ExchangeUnbindOk)
    with pytest.raises(Refused, match="no exchange 'x'"):
        await channel.exchange("x", passive=True)


# ---- x-expires ----


async def test_an_unused_queue_expires(tmp_path, mock_clock):
    async with broker_here(tmp_path) as broker:
        channel = await (await broker.connect()).channel(1)
        await channel.declare("q", arguments={"x-expires": 1000})
        mock_clock.jump(0.9)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert "q" in queues(broker)
        mock_clock.jump(0.2)
        await until(lambda: "q" not in queues(broker))


@pytest.mark.parametrize("use", ["declare", "passive", "get"])
async def test_whatever_uses_a_queue_puts_its_end_off(tmp_path, mock_clock, use):
    async with broker_here(tmp_path) as broker:
        channel = await (await broker.connect()).channel(1)
        arguments = {"x-expires": 1000}
        await channel.declare("q", arguments=arguments)
        for _ in range(3):
            mock_clock.jump(0.6)
            await trio.testing.wait_all_tasks_blocked(0.01)
            if use == "get":
                assert await channel.get("q") is None
            else:
                await channel.declare("q", arguments=arguments, passive=use == "passive")
        mock_clock.jump(1.1)
        await until(lambda: "q" not in queues(broker))


async def test_a_queue_with_a_consumer_does_not_expire(tmp_path, mock_clock):
    async with broker_here(tmp_path) as broker:
        channel = await (await broker.connect()).channel(1)
        await channel.declare("q", arguments={"x-expires": 1000})
        tag = await channel.consume("q")
        mock_clock.jump(100)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert "q" in queues(broker)
        await channel.call(methods.BasicCancel(tag), methods.BasicCancelOk)
        mock_clock.jump(1.1)
        await until(lambda: "q" not in queues(broker))


# ---- what lasts ----


async def test_what_is_durable_is_there_again(tmp_path):
    async with broker_here(tmp_path) as broker:
        client = await broker.connect()
        channel = await client.channel(1)
        await channel.declare(
            "lasting", durable=True, arguments={"x-max-length": 10, "@odd": {"@time": "soon"}}
        )
        await channel.declare("transient")
        await channel.declare("mine", durable=True, exclusive=True)
        await channel.exchange("x", "topic", durable=True, arguments={"alternate-exchange": "amq.fanout"})
        await channel.exchange("y", "topic")
        await channel.bind("lasting", "x", "a.#", {"n": 1})
        await channel.bind("transient", "x", "a.#")
        await channel.bind("lasting", "amq.fanout")
        await channel.confirm_mode()
        await channel.publish(b"persistent", exchange="x", to="a.b", delivery_mode=2)
        await channel.publish(b"transient", exchange="x", to="a.b", delivery_mode=1)
        assert await channel.confirms(2) == {1: True, 2: True}
        await client.close()
    async with broker_here(tmp_path) as broker:
        channel = await (await broker.connect()).channel(1)
        assert list(queues(broker)) == ["lasting"]
        assert queues(broker)["lasting"].arguments == {"x-max-length": 10, "@odd": {"@time": "soon"}}
        message = await channel.get("lasting")
        assert message.body == b"persistent"
        assert await channel.get("lasting") is None
        await channel.publish(b"1", exchange="x", to="a")
        await channel.publish(b"2", exchange="x", to="b")
        assert (await channel.get("lasting")).body == b"1"
        assert (await channel.get("lasting")).body == b"2"  # by the alternate exchange
        with pytest.raises(Refused, match="no exchange 'y'"):
            await channel.exchange("y", passive=True)
