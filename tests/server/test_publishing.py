"""Messages on their way in: where they go, what comes back, and what is confirmed."""

from __future__ import annotations

import pytest

from amqp_client import Confirm, Message, Refused
from broker.amqp import methods
from broker.amqp.properties import Properties

REPLY_TO = "amq.rabbitmq.reply-to"
INVALID = "406 PRECONDITION_FAILED - invalid message: "


async def test_everything_of_a_message_arrives(channel):
    await channel.declare("q")
    given = {
        "content_type": "text/plain",
        "content_encoding": "utf-8",
        "headers": {"a": 1, "b": [True, None, "x", 2.5], "c": {"d": -(2**40)}},
        "delivery_mode": 2,
        "priority": 9,
        "correlation_id": "c",
        "reply_to": "r",
        "expiration": "60000",
        "message_id": "m",
        "timestamp": 1_700_000_000,
        "type": "t",
        "user_id": "guest",
        "app_id": "a",
        "cluster_id": "k",
    }
    await channel.publish(b"body", to="q", **given)
    message = await channel.get("q")
    assert message.method == methods.BasicGetOk(1, False, "", "q", 0)
    assert message.body == b"body"
    assert int(message.properties.timestamp.timestamp()) == given.pop("timestamp")
    for name, value in given.items():
        assert getattr(message.properties, name) == value


async def test_bodies_of_all_sizes_stay_in_order(channel):
    await channel.declare("q")
    sizes = [0, 1, 0, 10_000, 0, 200_000, 131_064, 131_065, 0, 5]
    bodies = [bytes([number]) * size for number, size in enumerate(sizes)]
    for body in bodies:
        await channel.publish(body, to="q")
    await channel.consume("q", no_ack=True)
    assert await channel.bodies(len(bodies)) == bodies


# ---- routes ----


async def route(channel, *published: tuple[str, str]) -> list[bytes]:
    for exchange, key in published:
        await channel.publish(f"{exchange}:{key}".encode(), exchange=exchange, to=key)
    found = []
    while message := await channel.get("q", no_ack=True):
        found.append(message.body)
    return found


async def test_direct_fanout_and_topic(channel):
    await channel.declare("q")
    await channel.bind("q", "amq.direct", "k")
    await channel.bind("q", "amq.fanout", "whatever")
    await channel.bind("q", "amq.topic", "a.*.#.z")
    found = await route(
        channel,
        ("amq.direct", "k"),
        ("amq.direct", "j"),
        ("amq.fanout", "j"),
        ("amq.topic", "a.b.z"),
        ("amq.topic", "a.z"),
        ("amq.topic", "a.b.c.d.z"),
        ("amq.topic", "b.b.z"),
    )
    assert found == [b"amq.direct:k", b"amq.fanout:j", b"amq.topic:a.b.z", b"amq.topic:a.b.c.d.z"]


@pytest.mark.parametrize(
    ("wanted", "headers", "hit"),
    [
        ({"a": 1, "b": "x"}, {"a": 1, "b": "x", "c": 3}, True),
        ({"a": 1, "b": "x"}, {"a": 1}, False),
        ({"x-match": "any", "a": 1, "b": "x"}, {"b": "x"}, True),
        ({"x-match": "any", "a": 1, "b": "x"}, {"a": 2}, False),
        ({"a": None}, {"a": "whatever"}, True),
        ({"a": None}, {"b": 1}, False),
        ({"a": 1}, {"a": 1.0}, False),
        ({"a": 1}, {"a": "1"}, False),
        ({"a": 1}, {"a": True}, False),
        ({"a": 1}, {"a": 2**40}, False),
        ({"x-a": 1, "b": 2}, {"b": 2}, True),
        ({"x-match": "all-with-x", "x-a": 1, "b": 2}, {"b": 2}, False),
        ({"x-match": "any-with-x", "x-a": 1}, {"x-a": 1}, True),
        ({}, {"a": 1}, True),
        ({}, None, True),
        ({"x-match": "any"}, {"a": 1}, False),
    ],
)
async def test_headers(channel, wanted, headers, hit):
    await channel.declare("q")
    await channel.bind("q", "amq.headers", "", wanted)
    await channel.publish(b"", exchange="amq.headers", headers=headers)
    assert await channel.depth("q") == int(hit)


async def test_each_queue_gets_a_message_once(channel):
    await channel.declare("q")
    await channel.exchange("x", "fanout")
    for source in ("amq.topic", "amq.fanout"):
        await channel.call(
            methods.ExchangeBind(destination="x", source=source, routing_key="#"), methods.ExchangeBindOk
        )
    await channel.call(
        methods.ExchangeBind(destination="amq.topic", source="x", routing_key="#"), methods.ExchangeBindOk
    )
    await channel.bind("q", "x")
    for key in ("a.#", "#.b", "a.b", "#"):
        await channel.bind("q", "amq.topic", key)
    assert await route(channel, ("amq.topic", "a.b"), ("amq.fanout", "a.b"), ("x", "a.b")) == [
        b"amq.topic:a.b",
        b"amq.fanout:a.b",
        b"x:a.b",
    ]


async def test_the_alternate_exchange_takes_what_nobody_wants(channel):
    await channel.declare("q")
    await channel.declare("rest")
    await channel.exchange("x", arguments={"alternate-exchange": "amq.fanout"})
    await channel.bind("q", "x", "k")
    await channel.bind("rest", "amq.fanout")
    await channel.publish(b"1", exchange="x", to="k", mandatory=True)
    await channel.publish(b"2", exchange="x", to="j", mandatory=True)
    assert (await channel.get("q")).body == b"1"
    message = await channel.get("rest")
    assert (message.body, message.method.exchange, message.method.routing_key) == (b"2", "x", "j")
    assert await channel.came() == []


async def test_an_alternate_exchange_that_is_not_there_takes_nothing(channel):
    await channel.exchange("x", arguments={"alternate-exchange": "nope"})
    await channel.publish(b"2", exchange="x", mandatory=True)
    assert (await channel.message()).method.reply_code == 312


async def test_copies_and_blind_copies(channel):
    for name in ("to", "cc", "bcc", "other"):
        await channel.declare(name)
    headers = {"CC": ["cc", "to"], "BCC": ["bcc"], "n": 2**40}
    await channel.publish(b"1", to="to", headers=headers)
    for name in ("to", "cc", "bcc"):
        message = await channel.get(name)
        assert message.headers == {"CC": ["cc", "to"], "n": 2**40}
        assert message.method.routing_key == "to"
        assert await channel.get(name) is None
    assert await channel.get("other") is None


async def test_copies_go_through_exchanges_of_other_types(channel):
    await channel.declare("q")
    await channel.bind("q", "amq.topic", "a.*")
    await channel.publish(b"1", exchange="amq.topic", to="nobody", headers={"CC": ["a.b"]}, mandatory=True)
    assert (await channel.get("q")).body == b"1"


async def test_copies_count_before_the_alternate_exchange_does(channel):
    """It gets a message only if none of its keys matches."""
    await channel.exchange("unrouted", "fanout")
    await channel.exchange("x", "direct", arguments={"alternate-exchange": "unrouted"})
    for queue, exchange in (("q", "x"), ("lost", "unrouted")):
        await channel.declare(queue)
        await channel.bind(queue, exchange, "yes")
    for headers in ({"CC": ["yes"]}, {"BCC": ["no", "yes"]}, {"CC": ["no"]}):
        await channel.publish(b"", exchange="x", to="no", headers=headers)
    assert [await channel.depth(name) for name in ("q", "lost")] == [2, 1]


async def test_copies_count_at_each_exchange_on_the_way(channel):
    """The key that leads to the second exchange need not be the one that leads on from there."""
    await channel.exchange("first")
    await channel.exchange("second")
    await channel.declare("q")
    onward = methods.ExchangeBind(destination="second", source="first", routing_key="a")
    await channel.call(onward, methods.ExchangeBindOk)
    await channel.bind("q", "second", "b")
    await channel.publish(b"", exchange="first", to="a", headers={"CC": ["b"]})
    await channel.publish(b"", exchange="first", to="c", headers={"BCC": ["a", "b"]})
    await channel.publish(b"", exchange="first", to="a")
    assert await channel.depth("q") == 2


@pytest.mark.parametrize("headers", [{"CC": "q"}, {"BCC": 1}, {"CC": ["q", 1]}, {"CC": {"q": 1}}])
async def test_copies_that_are_no_list_of_texts(client, channel, headers):
    await channel.publish(b"", to="q", headers=headers)
    closed = await channel.refused()
    assert closed.reply_code == 406
    assert closed.reply_text.startswith("PRECONDITION_FAILED - invalid message: ")
    assert (closed.class_id, closed.method_id) == methods.BasicPublish.id


async def test_the_users_own_name_is_no_claim(channel):
    await channel.declare("q")
    await channel.publish(b"", to="q", user_id="guest")
    assert (await channel.get("q")).properties.user_id == "guest"


async def test_an_impersonator_may_be_anybody(broker):
    broker.add_user("gateway", tags=("impersonator",))
    channel = await (await broker.connect(user="gateway", password="secret")).channel(1)
    await channel.declare("q")
    await channel.publish(b"", to="q", user_id="guest")
    assert (await channel.get("q")).properties.user_id == "guest"


@pytest.mark.parametrize(
    "bad",
    [
        {"expiration": "soon"},
        {"user_id": "eve"},
        {"headers": {"CC": 1}},
        {"exchange": "nope"},
        {"reply_to": "amq.rabbitmq.reply-to"},
    ],
    ids=lambda bad: next(iter(bad)),
)
async def test_what_came_before_a_bad_message_is_published(client, channel, bad):
    await channel.declare("q")
    await client.write(
        channel.publishing(b"1", to="q")
        + channel.publishing(b"2", to="nope", mandatory=True)
        + channel.publishing(b"3", to="q")
        + channel.publishing(b"4", to="q", **bad)
        + channel.publishing(b"5", to="q")
    )
    assert (await channel.message()).body == b"2"
    await channel.refused()
    channel = await client.channel(1)
    assert await channel.depth("q") == 2


# ---- returns ----


async def test_what_cannot_be_routed_comes_back_if_it_is_mandatory(channel):
    await channel.publish(b"1", to="nope")
    await channel.publish(b"2", to="nope", mandatory=True, headers={"n": 1}, correlation_id="c")
    await channel.publish(b"", exchange="amq.topic", to="nope", mandatory=True)
    first, second = await channel.messages(2)
    assert first.method == methods.BasicReturn(312, "NO_ROUTE", "", "nope")
    assert first.body == b"2"
    assert first.properties == Properties(headers={"n": 1}, correlation_id="c")
    assert second.method == methods.BasicReturn(312, "NO_ROUTE", "amq.topic", "nope")
    assert second.body == b""
    assert await channel.came() == []


async def test_returns_come_before_their_confirms(channel):
    await channel.declare("q", durable=True)
    await channel.confirm_mode()
    await channel.client.write(
        b"".join(
            channel.publishing(
                b"%d" % number, to="q" if number % 2 else "nope", mandatory=True, delivery_mode=2
            )
            for number in range(1, 11)
        )
    )
    returned, confirmed = [], set()
    while len(confirmed) < 10:
        came = await channel.next()
        if isinstance(came, Message):
            number = int(came.body)
            assert number not in confirmed
            returned.append(number)
        else:
            assert isinstance(came, Confirm)
            assert came.ack
            confirmed |= set(range(1, came.tag + 1)) if came.multiple else {came.tag}
            assert set(range(2, came.tag + 1, 2)) <= set(returned)
    assert returned == [2, 4, 6, 8, 10]


# ---- confirms ----


async def test_confirms_count_from_the_select(channel):
    await channel.declare("q", durable=True)
    await channel.publish(b"", to="q")
    await channel.confirm_mode()
    await channel.publish(b"", to="q", delivery_mode=2)
    assert await channel.next() == Confirm(1, False, True)
    await channel.confirm_mode()  # again: nothing changes
    await channel.publish(b"", to="q")
    assert await channel.next() == Confirm(2, False, True)


async def test_what_nobody_wants_is_confirmed_too(channel):
    await channel.confirm_mode()
    await channel.publish(b"", to="nope")
    await channel.publish(b"", to="nope", delivery_mode=2)
    assert await channel.confirms(2) == {1: True, 2: True}


async def test_a_thousand_confirms_need_few_frames(channel):
    await channel.declare("q", durable=True)
    await channel.confirm_mode()
    await channel.client.write(channel.publishing(b"x", to="q", delivery_mode=2) * 1000)
    frames = []
    while not frames or frames[-1].tag < 1000:
        frames.append(await channel.next())
    assert all(frame.ack for frame in frames)
    assert [frame.tag for frame in frames] == sorted(frame.tag for frame in frames)
    assert len(frames) < 100


async def test_a_full_queue_refuses(channel):
    await channel.declare("q", arguments={"x-max-length": 3, "x-overflow": "reject-publish"})
    await channel.confirm_mode()
    await channel.client.write(channel.publishing(b"x", to="q") * 5)
    assert await channel.confirms(5) == {1: True, 2: True, 3: True, 4: False, 5: False}
    message = await channel.get("q")
    await channel.publish(b"y", to="q")
    assert await channel.confirms(6, since=6) == {6: True}
    await channel.ack(message.tag)
    assert await channel.depth("q") == 3


async def test_one_queue_that_refuses_is_enough(channel):
    await channel.declare("full", arguments={"x-max-length": 0, "x-overflow": "reject-publish"})
    await channel.declare("free", durable=True)
    for name in ("full", "free"):
        await channel.bind(name, "amq.fanout")
    await channel.confirm_mode()
    await channel.publish(b"x", exchange="amq.fanout", delivery_mode=2)
    assert await channel.confirms(1) == {1: False}
    assert await channel.depth("free") == 1


async def test_what_goes_straight_to_a_consumer_takes_no_room(channel):
    await channel.declare("q", arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    await channel.qos(2)
    await channel.consume("q")
    await channel.confirm_mode()
    await channel.client.write(b"".join(channel.publishing(b"%d" % number, to="q") for number in range(1, 5)))
    messages, answers = [], {}
    while len(answers) < 4:
        came = await channel.next()
        if isinstance(came, Message):
            messages.append(came.body)
        else:
            first = len(answers) + 1 if came.multiple else came.tag
            answers.update(dict.fromkeys(range(first, came.tag + 1), came.ack))
    assert messages == [b"1", b"2"]
    assert answers == {1: True, 2: True, 3: True, 4: False}


async def test_confirms_of_several_channels_do_not_mix(client, channel):
    await channel.declare("q", durable=True)
    channels = [channel, await client.channel(2), await client.channel(3)]
    for one in channels:
        await one.confirm_mode()
    for number in range(30):
        await channels[number % 3].publish(b"", to="q", delivery_mode=2)
    for one in channels:
        assert await one.confirms(10) == dict.fromkeys(range(1, 11), True)


# ---- direct reply-to ----


async def test_a_reply_comes_straight_back(broker):
    requester = await (await broker.connect()).channel(1)
    server = await (await broker.connect()).channel(7)
    await server.declare("requests")
    await server.consume("requests", no_ack=True)
    tag = await requester.consume(REPLY_TO, consumer_tag="replies", no_ack=True)
    assert tag == "replies"
    for number in range(3):
        await requester.publish(b"%d" % number, to="requests", reply_to=REPLY_TO, correlation_id=str(number))
    for number in range(3):
        request = await server.message()
        address = request.properties.reply_to
        assert address.startswith(REPLY_TO + ".")
        assert request.properties.correlation_id == str(number)
        await server.publish(request.body * 2, to=address, correlation_id=str(number))
    for number in range(3):
        reply = await requester.message()
        assert reply.method == methods.BasicDeliver("replies", number + 1, False, "", address)
        assert reply.body == b"%d" % number * 2
        assert reply.properties.correlation_id == str(number)


async def test_the_address_of_a_requester_is_like_a_queue(client, channel):
    await channel.declare("q")
    await channel.consume(REPLY_TO, no_ack=True)
    await channel.publish(b"", to="q", reply_to=REPLY_TO)
    address = (await channel.get("q")).properties.reply_to
    other = await client.channel(2)
    assert await other.declare(address, passive=True) == methods.QueueDeclareOk(address, 0, 1)
    assert await other.declare(REPLY_TO) == methods.QueueDeclareOk(REPLY_TO, 0, 1)
    await channel.close()
    with pytest.raises(Refused, match="404 NOT_FOUND - no queue"):
        await other.declare(address, passive=True)


async def test_a_reply_to_nobody_comes_back_if_it_is_mandatory(channel):
    await channel.confirm_mode()
    await channel.publish(b"1", to=f"{REPLY_TO}.gone")
    await channel.publish(b"2", to=f"{REPLY_TO}.gone", mandatory=True)
    came = [await channel.next() for _ in range(2)]
    came += await channel.came()
    assert [message.body for message in came if isinstance(message, Message)] == [b"2"]
    assert max(confirm.tag for confirm in came if isinstance(confirm, Confirm)) == 2


async def test_a_reply_consumer_can_be_cancelled_and_made_again(channel):
    await channel.consume(REPLY_TO, consumer_tag="c", no_ack=True)
    await channel.call(methods.BasicCancel("c"), methods.BasicCancelOk)
    await channel.consume(REPLY_TO, consumer_tag="c", no_ack=True)
    await channel.declare("q")
    await channel.publish(b"", to="q", reply_to=REPLY_TO)
    address = (await channel.get("q", no_ack=True)).properties.reply_to
    await channel.publish(b"reply", to=address)
    assert (await channel.message()).body == b"reply"


async def test_replies_and_other_messages_in_one_write(channel):
    await channel.declare("q")
    await channel.confirm_mode()
    await channel.consume(REPLY_TO, no_ack=True)
    await channel.publish(b"", to="q", reply_to=REPLY_TO)
    assert await channel.next() == Confirm(1, False, True)
    address = (await channel.get("q", no_ack=True)).properties.reply_to
    await channel.client.write(
        channel.publishing(b"1", to="q")
        + channel.publishing(b"2", to=address)
        + channel.publishing(b"3", to="nope", mandatory=True)
        + channel.publishing(b"4", to=address)
        + channel.publishing(b"5", to="q")
    )
    came = [await channel.next() for _ in range(4)]
    messages = [message for message in came if isinstance(message, Message)]
    replies = [message.body for message in messages if isinstance(message.method, methods.BasicDeliver)]
    assert replies == [b"2", b"4"]
    assert [message.body for message in messages if message.body not in replies] == [b"3"]
    assert [confirm for confirm in came if isinstance(confirm, Confirm)] == [Confirm(6, True, True)]
    assert await channel.depth("q") == 2


# ---- single messages of many publishers, which the broker pushes together ----


async def test_single_messages_of_many_publishers_are_confirmed_and_in_order(channel, broker):
    await channel.declare("q", durable=True)
    clients = [await broker.connect() for _ in range(5)]
    publishers = [await client.channel(1) for client in clients]
    for publisher in publishers:
        await publisher.confirm_mode()
    for number in range(1, 21):
        for name, publisher in enumerate(publishers):
            await publisher.publish(b"%d %03d" % (name, number), to="q", delivery_mode=2)
        for publisher in publishers:
            assert await publisher.confirms(number, since=number) == {number: True}
    bodies = [message.body for _ in range(100) if (message := await channel.get("q", no_ack=True))]
    for name in range(5):
        own = [body for body in bodies if body.startswith(b"%d " % name)]
        assert own == [b"%d %03d" % (name, number) for number in range(1, 21)]


async def test_what_follows_a_single_message_finds_it_there(channel):
    await channel.declare("q")
    await channel.publish(b"makes the route known", to="q")
    await channel.send(methods.QueuePurge(queue="q"))
    await channel.expect(methods.QueuePurgeOk)
    for number in range(3):
        octets = channel.publishing(b"%d" % number, to="q")
        await channel.client.write(octets + methods.encode(channel.number, methods.QueuePurge(queue="q")))
        assert (await channel.expect(methods.QueuePurgeOk)).message_count == 1


async def test_a_queue_that_goes_with_its_channel_takes_single_messages_along(client, channel, broker):
    other = await client.channel(2)
    await other.declare("q", auto_delete=True)
    await other.consume("q")
    await channel.publish(b"makes the route known", to="q")
    await other.message()
    await client.write(
        channel.publishing(b"pushed late" * 100, to="q")
        + methods.encode(2, methods.BasicAck(99, False))  # an unknown tag ends channel 2
    )
    assert (await other.refused()).reply_code == 406
    assert "q" not in broker.node.topology.vhost("/").queues
    assert broker.node.topology._memory.used == 0
