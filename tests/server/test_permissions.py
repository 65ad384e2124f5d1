"""configure, write and read: which of them each method needs, and on what."""

from __future__ import annotations

import pytest

from amqp_client import Channel, Refused
from broker.amqp import methods
from broker.amqp.methods import Method
from broker_here import BrokerHere

ALL = {"configure", "write", "read"}


async def prepare(broker: BrokerHere) -> None:
    """What there is: a queue and two exchanges, made by somebody who may."""
    channel = await (await broker.connect()).channel(1)
    await channel.declare("q")
    await channel.exchange("x", "fanout")
    await channel.exchange("y", "fanout")
    await channel.bind("q", "x")


async def channel_of(broker: BrokerHere, **patterns: str) -> Channel:
    """Of a user who may do nothing but this."""
    given = {"configure": "^$", "write": "^$", "read": "^$", **patterns}
    broker.add_user("u", **given)
    return await (await broker.connect(user="u", password="secret")).channel(1)


def declare(queue: str, **arguments: object) -> Method:
    names = {name.replace("_", "-"): value for name, value in arguments.items()}
    return methods.QueueDeclare(queue=queue, arguments=names)


# What is asked for, and which rights it needs: (right, kind, name) in the order in which they are checked.
NEEDS = [
    (declare("new"), [("configure", "queue", "new")]),
    (declare("q"), [("configure", "queue", "q")]),
    (
        declare("new", x_dead_letter_exchange="x"),
        [("configure", "queue", "new"), ("read", "queue", "new"), ("write", "exchange", "x")],
    ),
    (methods.ExchangeDeclare(exchange="z", type="direct"), [("configure", "exchange", "z")]),
    (
        methods.ExchangeDeclare(exchange="z", type="direct", arguments={"alternate-exchange": "x"}),
        [("configure", "exchange", "z"), ("read", "exchange", "z"), ("write", "exchange", "x")],
    ),
    (methods.QueueDelete(queue="q"), [("configure", "queue", "q")]),
    (methods.QueueDelete(queue="nope"), [("configure", "queue", "nope")]),
    (methods.ExchangeDelete(exchange="x"), [("configure", "exchange", "x")]),
    (methods.QueueBind(queue="q", exchange="x"), [("write", "queue", "q"), ("read", "exchange", "x")]),
    (methods.QueueUnbind(queue="q", exchange="x"), [("write", "queue", "q"), ("read", "exchange", "x")]),
    (
        methods.ExchangeBind(destination="y", source="x"),
        [("write", "exchange", "y"), ("read", "exchange", "x")],
    ),
    (
        methods.ExchangeUnbind(destination="y", source="x"),
        [("write", "exchange", "y"), ("read", "exchange", "x")],
    ),
    (methods.QueuePurge(queue="q"), [("read", "queue", "q")]),
    (methods.BasicGet(queue="q"), [("read", "queue", "q")]),
    (methods.BasicConsume(queue="q"), [("read", "queue", "q")]),
]


def refusal(right: str, kind: str, name: str) -> str:
    return f"ACCESS_REFUSED - {right} access to {kind} '{name}' in vhost '/' refused for user 'u'"


@pytest.mark.parametrize(("method", "needs"), NEEDS, ids=lambda value: getattr(value, "name", ""))
async def test_what_a_method_needs(broker, method, needs):
    await prepare(broker)
    given: dict[str, str] = {}
    for right, kind, name in needs:
        channel = await channel_of(broker, **given)
        await channel.send(method)
        closed = await channel.refused()
        assert (closed.reply_code, closed.reply_text) == (403, refusal(right, kind, name))
        assert (closed.class_id, closed.method_id) == method.id
        await channel.client.close()
        given[right] = f"^{name}$"
    channel = await channel_of(broker, **given)
    await channel.send(method)
    assert not isinstance(await channel.next(), methods.ChannelClose)


@pytest.mark.parametrize(("exchange", "said"), [("x", "x"), ("", "amq.default"), ("nope", "nope")])
async def test_publishing_needs_to_write(broker, exchange, said):
    await prepare(broker)
    channel = await channel_of(broker, configure=".*", read=".*")
    await channel.publish(b"", exchange=exchange, to="q")
    assert (await channel.refused()).reply_text == refusal("write", "exchange", said)


async def test_who_may_write_to_the_default_exchange_reaches_every_queue(broker):
    await prepare(broker)
    channel = await channel_of(broker, write=r"^amq\.default$")
    await channel.publish(b"1", to="q")
    await channel.settle()
    assert broker.node.topology.vhost("/").queue("q").ready_count == 1


async def test_each_exchange_is_asked_for_though_they_come_in_one_write(broker):
    await prepare(broker)
    channel = await channel_of(broker, write="^x$")
    await channel.client.write(
        channel.publishing(b"1", exchange="x")
        + channel.publishing(b"2", exchange="x")
        + channel.publishing(b"3", exchange="y")
        + channel.publishing(b"4", exchange="x")
    )
    assert (await channel.refused()).reply_text == refusal("write", "exchange", "y")
    assert broker.node.topology.vhost("/").queue("q").ready_count == 2


@pytest.mark.parametrize("right", sorted(ALL))
@pytest.mark.parametrize(
    ("method", "kind"),
    [
        (methods.QueueDeclare(queue="q", passive=True), "queue"),
        (methods.ExchangeDeclare(exchange="x", passive=True), "exchange"),
    ],
    ids=["queue", "exchange"],
)
async def test_any_right_is_enough_to_look(broker, method, kind, right):
    await prepare(broker)
    channel = await channel_of(broker, **{right: "^[qx]$"})
    await channel.send(method)
    assert not isinstance(await channel.next(), methods.ChannelClose)
    await channel.client.close()
    channel = await channel_of(broker, **{right: "^other$"})
    await channel.send(method)
    name = "q" if kind == "queue" else "x"
    assert (await channel.refused()).reply_text == refusal("configure", kind, name)


async def test_what_exists_needs_no_right_on_its_dead_letter_exchange(broker):
    owner = await (await broker.connect()).channel(1)
    arguments = {"x-dead-letter-exchange": "amq.fanout"}
    await owner.declare("mine", arguments=arguments)
    channel = await channel_of(broker, configure="^mine$")
    await channel.declare("mine", arguments=arguments)


async def test_a_name_that_the_broker_gives_is_checked_as_well(broker):
    channel = await channel_of(broker, configure="^mine$")
    await channel.send(methods.QueueDeclare())
    text = (await channel.refused()).reply_text
    assert text.startswith("ACCESS_REFUSED - configure access to queue 'amq.gen-")
    channel = await channel_of(broker, configure=r"^amq\.gen-")
    await channel.declare()


async def test_patterns_are_searched_anywhere_and_empty_ones_match_nothing(broker):
    channel = await channel_of(broker, configure="part")
    await channel.declare("a part of it")
    channel = await channel_of(broker, configure="")
    with pytest.raises(Refused, match="403"):
        await channel.declare("whatever")


async def test_a_right_that_is_taken_away_is_gone_at_once(broker):
    await prepare(broker)
    channel = await channel_of(broker, write=".*")
    await channel.publish(b"1", exchange="x")
    await channel.settle()
    broker.node.accounts.put_permission("/", "u", "", "^y$", "")
    await channel.publish(b"2", exchange="x")
    assert (await channel.refused()).reply_text == refusal("write", "exchange", "x")


async def test_the_permission_itself_may_be_taken_away(broker):
    await prepare(broker)
    channel = await channel_of(broker, write=".*")
    await channel.publish(b"1", exchange="x")
    await channel.settle()
    broker.node.accounts.delete_permission("/", "u")
    await channel.publish(b"2", exchange="x")
    assert (await channel.refused()).reply_text == refusal("write", "exchange", "x")


async def test_an_exchange_that_was_deleted_is_noticed_by_a_publisher_in_a_loop(broker):
    await prepare(broker)
    channel = await channel_of(broker, write=".*", configure=".*")
    for _ in range(3):
        await channel.publish(b"1", exchange="x")
        await channel.settle()
    await channel.call(methods.ExchangeDelete(exchange="x"), methods.ExchangeDeleteOk)
    await channel.publish(b"2", exchange="x")
    assert (await channel.refused()).reply_code == 404


async def test_direct_replies_need_no_right_on_a_queue(broker):
    channel = await channel_of(broker)
    await channel.consume("amq.rabbitmq.reply-to", no_ack=True)
