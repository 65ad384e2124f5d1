"""Publish and get over HTTP."""

from __future__ import annotations

import base64

import pytest
import trio

from api_here import api_here
from broker.management import messages
from http_client import HttpClient


def message(key="q", payload="hello", encoding="string", **properties):
    return {
        "properties": properties,
        "routing_key": key,
        "payload": payload,
        "payload_encoding": encoding,
    }


def wanted(count=1, mode="ack_requeue_false", encoding="auto", **more):
    return {"count": count, "ackmode": mode, "encoding": encoding, **more}


@pytest.fixture
async def with_queue(api):
    await api.put("/queues/%2F/q", {"durable": True})
    return api


async def publish(api, *args, exchange="amq.default", **options):
    return await api.post(f"/exchanges/%2F/{exchange}/publish", message(*args, **options))


async def get(api, *args, **options):
    answer = await api.post("/queues/%2F/q/get", wanted(*args, **options))
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_message_goes_in_and_comes_out(with_queue):
    properties = {
        "content_type": "text/plain",
        "headers": {"a": 1, "b": "x", "c": [1, {"d": None}], "e": 1.5, "f": True},
        "delivery_mode": 2,
        "priority": 3,
        "correlation_id": "c",
        "reply_to": "r",
        "expiration": "60000",
        "message_id": "m",
        "timestamp": 1_000_000_000,
        "type": "t",
        "user_id": "guest",
        "app_id": "i",
    }
    assert (await publish(with_queue, **properties)).json() == {"routed": True}
    (got,) = await get(with_queue)
    assert got == {
        "payload_bytes": 5,
        "redelivered": False,
        "exchange": "",
        "routing_key": "q",
        "message_count": 0,
        "properties": properties,
        "payload": "hello",
        "payload_encoding": "string",
    }
    assert await get(with_queue) == []


async def test_clients_of_amqp_get_what_was_published(with_queue):
    await publish(with_queue, "q", base64.b64encode(bytes(range(256)) * 1000).decode(), "base64", priority=1)
    client = await with_queue.broker.connect(frame_max=4096)
    channel = await client.channel(3)
    await channel.consume("q")
    delivered = await channel.message()
    assert delivered.body == bytes(range(256)) * 1000
    assert delivered.properties.priority == 1
    await channel.publish(b"\xff\0", to="q", app_id="a", headers={"n": 1 << 40})
    await channel.message()


async def test_octets_that_are_no_text_come_in_base64(with_queue):
    client = await with_queue.broker.connect()
    channel = await client.channel()
    await channel.publish(b"\xff\0", to="q", headers={"octets": b"\xff", "n": 1 << 40})
    await channel.publish("ü".encode(), to="q")
    await channel.depth("q")
    first, second = await get(with_queue, 5, "ack_requeue_true")
    assert (first["payload"], first["payload_encoding"]) == ("/wA=", "base64")
    assert first["properties"] == {"headers": {"octets": "\ufffd", "n": 1 << 40}}
    assert (second["payload"], second["payload_encoding"]) == ("ü", "string")
    first, second = await get(with_queue, 5, "ack_requeue_true", "base64", truncate=1)
    assert (first["payload"], first["payload_bytes"]) == ("/w==", 2)
    assert (second["payload"], second["payload_encoding"]) == ("ww==", "base64")


@pytest.mark.parametrize(
    ("mode", "left", "counted"),
    [
        ("ack_requeue_true", ["a", "b", "c"], ("get", 2)),
        ("reject_requeue_true", ["a", "b", "c"], ("get", 2)),
        ("ack_requeue_false", ["c"], ("get_no_ack", 2)),
        ("reject_requeue_false", ["c"], ("get", 2)),
    ],
)
async def test_what_becomes_of_messages_that_were_got(with_queue, mode, left, counted):
    for payload in "abc":
        await publish(with_queue, payload=payload)
    got = await get(with_queue, 2, mode)
    assert [(one["payload"], one["message_count"], one["redelivered"]) for one in got] == [
        ("a", 2, False),
        ("b", 1, False),
    ]
    row = await with_queue.get("/queues/%2F/q")
    assert (row["messages_ready"], row["messages_unacknowledged"]) == (len(left), 0)
    assert row["message_stats"][counted[0]] == counted[1]
    again = await get(with_queue, 5)
    assert [one["payload"] for one in again] == left
    assert [one["redelivered"] for one in again] == [payload != "c" for payload in left]


async def test_a_rejected_message_is_a_dead_letter(api):
    await api.put("/queues/%2F/dead")
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"}
    await api.put("/queues/%2F/q", {"arguments": arguments})
    await publish(api)
    await get(api, 1, "reject_requeue_false")
    (letter,) = (await api.post("/queues/%2F/dead/get", wanted())).json()
    assert letter["properties"]["headers"]["x-death"][0]["reason"] == "rejected"


async def test_a_message_that_goes_back_reaches_a_consumer(with_queue):
    client = await with_queue.broker.connect()
    channel = await client.channel()
    await publish(with_queue)
    await get(with_queue, 1, "ack_requeue_true")
    await channel.consume("q")
    assert (await channel.message()).redelivered
    await publish(with_queue, payload="second")
    assert (await channel.message()).body == b"second"


async def test_nobody_gets_more_than_the_limit(with_queue, monkeypatch):
    monkeypatch.setattr(messages, "_COUNT_MAX", 3)
    monkeypatch.setattr(messages, "_SIZE_MAX", 10)
    for _ in range(5):
        await publish(with_queue, payload="x")
    assert len(await get(with_queue, 100, "ack_requeue_true")) == 3
    for _ in range(2):
        await publish(with_queue, payload="x" * 10)
    assert len(await get(with_queue, 3)) == 3
    assert [one["payload_bytes"] for one in await get(with_queue, 3)] == [1, 1, 10]


@pytest.mark.parametrize("count", [0, -1])
async def test_nothing_is_got_where_nothing_is_wanted(with_queue, count):
    await publish(with_queue)
    assert await get(with_queue, count) == []
    assert (await with_queue.get("/queues/%2F/q"))["messages_ready"] == 1


async def test_a_message_that_nobody_wants_is_not_routed(with_queue):
    answer = await publish(with_queue, "nowhere", exchange="amq.topic")
    assert (answer.status_code, answer.json()) == (200, {"routed": False})
    metrics = with_queue.node.metrics
    assert (metrics.messages_received, metrics.messages_confirmed) == (1, 1)
    assert (metrics.messages_routed, metrics.messages_unroutable_returned) == (0, 1)


async def test_properties_are_no_larger_than_a_frame(with_queue):
    # 20 bytes of frame and header, 2 of flags, and the table: 4 + name, type and length of the text, 2 + 1 + 4.
    fits = "x" * (131_072 - 20 - 2 - 11)
    answer = await publish(with_queue, headers={"a": f"{fits}x"})
    assert answer.status_code == 400
    assert (
        answer.json()["reason"] == "the properties take a frame of 131073 bytes, at most 131072 are allowed"
    )
    assert (await publish(with_queue, headers={"a": fits})).json() == {"routed": True}


async def test_copies_go_where_the_headers_say(with_queue):
    answer = await publish(with_queue, "nowhere", headers={"CC": ["q"]})
    assert answer.json() == {"routed": True}
    answer = await publish(with_queue, "q", headers={"CC": "q"})
    assert answer.status_code == 400
    assert "the header CC is not an array of strings" in answer.json()["reason"]


async def test_a_full_queue_says_no(api):
    await api.put("/queues/%2F/q", {"arguments": {"x-max-length": 1, "x-overflow": "reject-publish"}})
    assert (await publish(api)).json() == {"routed": True}
    answer = await publish(api)
    assert answer.status_code == 400
    assert "Check queue limits" in answer.json()["reason"]


async def test_a_persistent_message_is_safe_when_it_is_answered(tmp_path):
    async with api_here(tmp_path) as api:
        await api.put("/queues/%2F/q", {"durable": True})
        commits = api.node.flusher.commits
        await publish(api, delivery_mode=2)
        assert api.node.flusher.commits > commits
        assert api.node.flusher.idle
    async with api_here(tmp_path) as api:
        (got,) = await get(api)
        assert (got["payload"], got["properties"]) == ("hello", {"delivery_mode": 2})


@pytest.mark.parametrize(
    ("exchange", "body", "status", "reason"),
    [
        ("none", message(), 404, "Not Found"),
        ("amq.default", message(encoding="hex"), 400, "payload_encoding: expected 'string' or 'base64', got \"hex\""),
        ("amq.default", message(payload="x", encoding="base64"), 400, "payload: expected base64"),
        ("amq.default", message(payload=1), 400, "payload: expected a string, got 1"),
        ("amq.default", message(expiration="soon"), 400, "invalid expiration 'soon': no_integer"),
        ("amq.default", message(expiration=5), 400, "properties.expiration: expected a string, got 5"),
        (
            "amq.default",
            message(user_id="somebody"),
            400,
            "user_id property set to 'somebody' but authenticated user was 'guest'",
        ),
        ("amq.default", message(reply_to="amq.rabbitmq.reply-to"), 400, "fast reply consumer does not exist"),
        ("amq.rabbitmq.trace", message(), 401, "Access refused."),
    ],
)  # fmt: skip
async def test_a_message_that_cannot_be_is_refused(with_queue, exchange, body, status, reason):
    answer = await with_queue.post(f"/exchanges/%2F/{exchange}/publish", body)
    assert (answer.status_code, answer.json()["reason"]) == (status, reason)
    assert with_queue.node.metrics.messages_received == 0


async def test_a_body_is_needed(with_queue):
    stream = await trio.open_tcp_stream("127.0.0.1", with_queue.port("http"))
    async with stream:
        client = HttpClient(stream)
        login = b"authorization: Basic Z3Vlc3Q6Z3Vlc3Q=\r\n"
        await client.send(b"POST /api/queues/%2F/q/get HTTP/1.1\r\nhost: x\r\n" + login + b"\r\n")
        answer = await client.answer("POST")
        assert answer.status == 411
        assert answer.json()["reason"] == "a body with count, ackmode, encoding is needed"
    answer = await with_queue.post("/queues/%2F/q/get", {})
    assert answer.json()["reason"] == (
        "count: this key is missing; ackmode: this key is missing; encoding: this key is missing"
    )


async def test_publishers_wait_while_an_alarm_is_on(with_queue):
    with_queue.node.alarms.active = {"memory"}
    answer = await publish(with_queue)
    assert answer.status_code == 503
    assert answer.json() == {"error": "service_unavailable", "reason": "publishers wait: low on memory"}
    with_queue.node.alarms.active = set()
    assert (await publish(with_queue)).status_code == 200


async def test_rights_are_those_of_amqp(with_queue):
    user = with_queue.add_user("half", "management", write="^amq.default$", read="^other$")
    path = "/exchanges/%2F/{}/publish"
    assert (await with_queue.post(path.format("amq.default"), message(), user=user)).status_code == 200
    answer = await with_queue.post(path.format("amq.topic"), message(), user=user)
    assert "write access to exchange 'amq.topic'" in answer.json()["explanation"]
    answer = await with_queue.post("/queues/%2F/q/get", wanted(), user=user)
    assert "read access to queue 'q'" in answer.json()["explanation"]
    assert (await with_queue.get("/queues/%2F/q"))["messages_ready"] == 1


async def test_impersonators_may_name_somebody_else(with_queue):
    user = with_queue.add_user("actor", "management", "impersonator")
    answer = await with_queue.post(
        "/exchanges/%2F/amq.default/publish", message(user_id="somebody"), user=user
    )
    assert answer.json() == {"routed": True}


async def test_a_get_counts_for_the_node(with_queue):
    await publish(with_queue)
    await get(with_queue, 2, "ack_requeue_true")
    await get(with_queue, 1)
    metrics = with_queue.node.metrics
    assert metrics.messages_delivered_get_manual_ack == 1
    assert metrics.messages_delivered_get_auto_ack == 1
    assert metrics.messages_redelivered == 1
    assert metrics.messages_get_empty == 1
