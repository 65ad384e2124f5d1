"""Exchanges over HTTP."""

import pytest

from api_here import api_here
from broker.amqp import methods

NOT_THERE = {"error": "Object Not Found", "reason": "Not Found"}
_DELIVERED = ("deliver", "deliver_no_ack", "get", "get_no_ack", "redeliver", "deliver_get")


async def test_an_exchange_is_declared_shown_and_deleted(api):
    body = {
        "type": "topic",
        "durable": True,
        "internal": True,
        "arguments": {"alternate-exchange": "amq.fanout"},
    }
    answer = await api.put("/exchanges/%2F/x", body)
    assert (answer.status_code, answer.content) == (201, b"")
    assert (await api.put("/exchanges/%2F/x", body)).status_code == 204
    row = await api.get("/exchanges/%2F/x")
    assert row == {
        "name": "x",
        "vhost": "/",
        "type": "topic",
        "durable": True,
        "auto_delete": False,
        "internal": True,
        "arguments": {"alternate-exchange": "amq.fanout"},
        "policy": None,
        "incoming": [],
        "outgoing": [],
    }
    answer = await api.delete("/exchanges/%2F/x")
    assert (answer.status_code, answer.content) == (204, b"")
    assert (await api.delete("/exchanges/%2F/x")).json() == NOT_THERE
    assert (await api.ask("GET", "/exchanges/%2F/x")).json() == NOT_THERE


async def test_what_is_not_said_is_direct_and_not_durable(api):
    await api.put("/exchanges/%2F/x")
    row = await api.get("/exchanges/%2F/x?disable_stats=true")
    assert (row["type"], row["durable"], row["internal"]) == ("direct", False, False)
    assert "incoming" not in row


async def test_the_default_exchange_has_a_name_in_paths(api):
    row = await api.get("/exchanges/%2F/amq.default")
    assert (row["name"], row["type"], row["durable"]) == ("", "direct", True)
    for answer in [
        await api.put("/exchanges/%2F/amq.default", {"type": "direct"}),
        await api.delete("/exchanges/%2F/amq.default"),
    ]:
        assert answer.status_code == 401
        assert answer.json()["explanation"] == "operation not permitted on the default exchange"


async def test_a_list_begins_with_those_that_are_always_there(api):
    await api.put("/vhosts/second")
    await api.put("/exchanges/second/x", {"type": "fanout"})
    names = [row["name"] for row in await api.get("/exchanges/%2F")]
    assert names == [
        "",
        "amq.direct",
        "amq.fanout",
        "amq.headers",
        "amq.match",
        "amq.rabbitmq.trace",
        "amq.topic",
    ]
    whole = await api.get("/exchanges?columns=name,vhost")
    assert len(whole) == 15
    assert whole[-1] == {"name": "x", "vhost": "second"}
    user = api.add_user("one", "management")
    assert {row["vhost"] for row in await api.get("/exchanges", user=user)} == {"/"}


async def test_a_durable_exchange_is_there_after_the_next_start(tmp_path):
    async with api_here(tmp_path) as api:
        await api.put("/exchanges/%2F/kept", {"type": "headers", "durable": True, "arguments": {"a": [1]}})
        await api.put("/exchanges/%2F/lost", {"type": "headers"})
    async with api_here(tmp_path) as api:
        assert (await api.get("/exchanges/%2F/kept"))["arguments"] == {"a": [1]}
        assert (await api.ask("GET", "/exchanges/%2F/lost")).status_code == 404


@pytest.mark.parametrize(
    ("path", "body", "status", "reason"),
    [
        (
            "/exchanges/%2F/amq.topic",
            {"type": "direct", "durable": True},
            400,
            "inequivalent arg 'type' for exchange 'amq.topic' in vhost '/': "
            "received 'direct' but current is 'topic'",
        ),
        ("/exchanges/%2F/x", {"type": "odd"}, 400, "unknown exchange type 'odd'"),
        ("/exchanges/%2F/x", {"type": 1}, 400, "type: expected a string, got 1"),
        (
            "/exchanges/%2F/x",
            {"arguments": {"alternate-exchange": 1}},
            400,
            "invalid type 'signedint' for arg 'alternate-exchange' in exchange 'x' in vhost '/'",
        ),
        ("/exchanges/%2F/amq.mine", {}, 401, "Access refused."),
        (
            "/exchanges/%2F/" + "x" * 256,
            {},
            400,
            "the name of the exchange has 256 octets, at most 255 are allowed",
        ),
        ("/exchanges/none/x", {}, 404, "vhost_not_found"),
    ],
)
async def test_a_declaration_that_cannot_be_is_refused(api, path, body, status, reason):
    answer = await api.put(path, body)
    assert (answer.status_code, answer.json()["reason"]) == (status, reason)


async def test_those_that_are_always_there_stay(api):
    answer = await api.delete("/exchanges/%2F/amq.topic")
    assert answer.status_code == 401
    assert answer.json()["explanation"] == "deletion of system exchange 'amq.topic' in vhost '/' not allowed"


async def test_an_exchange_in_use_may_stay(api):
    await api.put("/exchanges/%2F/x")
    await api.put("/queues/%2F/q")
    await api.post("/bindings/%2F/e/x/q/q", {})
    answer = await api.delete("/exchanges/%2F/x?if-unused=true")
    assert (answer.status_code, answer.json()["reason"]) == (400, "exchange 'x' in vhost '/' in use")
    assert (await api.delete("/exchanges/%2F/x?if-unused=false")).status_code == 204


async def test_rights_are_those_of_amqp(api):
    user = api.add_user("half", "management", configure="^mine", write="^mine", read="^mine")
    assert (await api.put("/exchanges/%2F/other", user=user)).status_code == 401
    alternate = {"arguments": {"alternate-exchange": "amq.fanout"}}
    answer = await api.put("/exchanges/%2F/mine", alternate, user=user)
    assert "write access to exchange 'amq.fanout'" in answer.json()["explanation"]
    assert (await api.put("/exchanges/%2F/mine", user=user)).status_code == 201
    await api.put("/exchanges/%2F/other")
    assert (await api.delete("/exchanges/%2F/other", user=user)).status_code == 401


async def test_messages_are_counted(api):
    body = {"properties": {}, "routing_key": "nowhere", "payload": "", "payload_encoding": "string"}
    await api.post("/exchanges/%2F/amq.topic/publish", body)
    stats = (await api.get("/exchanges/%2F/amq.topic"))["message_stats"]
    assert stats == {
        "publish_in": 1,
        "publish_in_details": {"rate": 0.0},
        "publish_out": 0,
        "publish_out_details": {"rate": 0.0},
    }
    assert "message_stats" not in await api.get("/exchanges/%2F/amq.direct")


async def test_what_goes_out_counts_once_for_each_queue(api):
    client = await api.broker.connect()
    channel = await client.channel()
    for name in ("a", "b"):
        await channel.declare(name)
        await channel.bind(name, "amq.topic", "k")
        await channel.bind(name, "amq.headers", arguments={"k": 1})
    for _ in range(3):
        await channel.publish(exchange="amq.topic", to="k")
    await channel.publish(exchange="amq.topic", to="nowhere")
    await channel.publish(exchange="amq.headers", headers={"k": 1})
    await channel.publish(exchange="amq.headers", headers={"k": 2})
    await channel.publish(exchange="amq.direct", to="nowhere", headers={"CC": ["x"]})
    await channel.publish(to="a", headers={"CC": ["b"]})
    await channel.settle()

    async def counts(name: str) -> tuple[int, int]:
        stats = (await api.get(f"/exchanges/%2F/{name}"))["message_stats"]
        return stats["publish_in"], stats["publish_out"]

    assert await counts("amq.topic") == (4, 6)
    assert await counts("amq.headers") == (2, 2)
    assert await counts("amq.direct") == (1, 0)
    assert await counts("amq.default") == (1, 2)


async def test_every_kind_of_delivery_counts(api):
    client = await api.broker.connect()
    channel = await client.channel()
    await channel.declare("q")
    for _ in range(4):
        await channel.publish(to="q")
    await channel.get("q")
    await channel.get("q", no_ack=True)
    tag = await channel.consume("q")
    await channel.messages(2)
    await channel.call(methods.BasicCancel(tag), methods.BasicCancelOk)
    await channel.nack(0, multiple=True)
    await channel.consume("q", no_ack=True)
    await channel.messages(3)
    row = await api.get("/queues/%2F/q")
    said = {name: row["message_stats"][name] for name in _DELIVERED}
    assert said == {
        "deliver": 2,
        "deliver_no_ack": 3,
        "get": 1,
        "get_no_ack": 1,
        "redeliver": 3,
        "deliver_get": 7,
    }
    assert api.broker.node.metrics.messages_delivered == 7
    (channels,) = await api.get("/channels")
    assert {name: channels["message_stats"][name] for name in _DELIVERED} == said
    stats = (await api.get("/overview"))["message_stats"]
    assert {name: stats[name] for name in _DELIVERED} == said
