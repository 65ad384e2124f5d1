"""Queues over HTTP."""

from __future__ import annotations

import pytest

from amqp_client import Refused
from api_here import api_here
from broker.amqp import methods
from broker.management.options import ManagementOptions

NOT_THERE = {"error": "Object Not Found", "reason": "Not Found"}


async def test_a_queue_is_declared_shown_and_deleted(api):
    body = {"durable": True, "auto_delete": False, "arguments": {"x-max-length": 10, "x-other": "kept"}}
    answer = await api.put("/queues/%2F/orders", body)
    assert (answer.status_code, answer.content) == (201, b"")
    assert (await api.put("/queues/%2F/orders", body)).status_code == 204
    row = await api.get("/queues/%2f/orders")
    expected = {
        "name": "orders",
        "vhost": "/",
        "type": "classic",
        "durable": True,
        "auto_delete": False,
        "exclusive": False,
        "arguments": body["arguments"],
        "node": api.node.options.name,
        "state": "running",
        "messages": 0,
        "messages_ready": 0,
        "messages_unacknowledged": 0,
        "message_bytes": 0,
        "consumers": 0,
        "consumer_details": [],
        "policy": None,
        "effective_policy_definition": {},
    }
    assert {name: row[name] for name in expected} == expected
    assert row["messages_details"] == {"rate": 0.0}
    assert "message_stats" not in row
    answer = await api.delete("/queues/%2F/orders")
    assert (answer.status_code, answer.content) == (204, b"")
    answer = await api.ask("GET", "/queues/%2F/orders")
    assert (answer.status_code, answer.json()) == (404, NOT_THERE)
    assert (await api.delete("/queues/%2F/orders")).json() == NOT_THERE


async def test_what_is_not_said_is_not_durable_and_has_no_arguments(api):
    assert (await api.put("/queues/%2F/q")).status_code == 201
    row = await api.get("/queues/%2F/q")
    assert (row["durable"], row["auto_delete"], row["arguments"]) == (False, False, {})


async def test_names_may_hold_anything(api):
    for name, path in [("a/b", "a%2Fb"), ("ü %", "%C3%BC%20%25"), ("a+b", "a+b"), ("detailed", "detailed")]:
        assert (await api.put(f"/queues/%2F/{path}")).status_code == 201
        assert (await api.get(f"/queues/%2F/{path}"))["name"] == name
        assert name in api.node.topology.vhost("/").queues


async def test_a_durable_queue_is_there_after_the_next_start(tmp_path):
    async with api_here(tmp_path) as api:
        await api.put("/queues/%2F/kept", {"durable": True, "arguments": {"x-expires": 60000}})
        await api.put("/queues/%2F/lost", {"durable": False})
        await api.put("/queues/%2F/gone", {"durable": True})
        await api.delete("/queues/%2F/gone")
        assert api.node.flusher.unsafe_definitions is None
    async with api_here(tmp_path) as api:
        assert [row["name"] for row in await api.get("/queues")] == ["kept"]
        assert (await api.get("/queues/%2F/kept"))["arguments"] == {"x-expires": 60000}


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        (
            "/queues/%2F/there",
            {"durable": True},
            400,
            "inequivalent arg 'durable' for queue 'there' in vhost '/': received 'true' but current is 'false'",
        ),
        (
            "/queues/%2F/there",
            {"arguments": {"x-max-length": 1}},
            400,
            "inequivalent arg 'x-max-length' for queue 'there' in vhost '/': "
            "received the value '1' of type 'signedint' but current is none",
        ),
        ("/queues/%2F/new", {"durable": "perhaps"}, 400, 'durable: expected true or false, got "perhaps"'),
        (
            "/queues/%2F/" + "x" * 256,
            {},
            400,
            "the name of the queue has 256 octets, at most 255 are allowed",
        ),
        (
            "/queues/%2F/new",
            {"arguments": {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "k" * 256}},
            400,
            "invalid arg 'x-dead-letter-routing-key' for queue 'new' in vhost '/': "
            "a routing key has at most 255 octets, this one has 256",
        ),
        ("/queues/%2F/amq.mine", {}, 401, "Access refused."),
        ("/queues/none/q", {}, 404, "vhost_not_found"),
    ],
)
async def test_a_declaration_that_cannot_be_is_refused(api, path, body, status, said):
    await api.put("/queues/%2F/there")
    answer = await api.put(path, body)
    assert answer.status_code == status
    assert answer.json()["reason"] == said
    assert list(api.node.topology.vhost("/").queues) == ["there"]


@pytest.mark.parametrize(
    ("method", "path", "of"),
    [
        ("PUT", "/queues/%2F/q", "queue 'q' in vhost '/'"),
        ("PUT", "/exchanges/%2F/x", "exchange 'x' in vhost '/'"),
        (
            "POST",
            "/bindings/%2F/e/amq.fanout/e/amq.direct",
            "a binding of exchange 'amq.direct' in vhost '/'",
        ),
    ],
)
async def test_arguments_are_no_larger_than_a_frame_of_amqp(tmp_path, method, path, of):
    async with api_here(tmp_path, arguments_size_max=5000) as api:
        # Size, length of the name, name, type, length of the text: 4 + 1 + 1 + 1 + 4 bytes.
        answer = await api.ask(method, path, {"arguments": {"a": "x" * 4990}})
        assert answer.status_code == 400
        assert answer.json()["reason"] == (
            f"the arguments of {of} have 5001 bytes as a field table, at most 5000 are allowed (frame_max)"
        )
        many = {"arguments": {"a": [[]] * 1000}}
        assert (await api.ask(method, path, many)).status_code == 400
        assert (await api.ask(method, path, {"arguments": {"a": "x" * 4989}})).status_code == 201
        assert (await api.ask(method, path, many)).status_code == 400


async def test_rights_are_those_of_amqp(api):
    user = api.add_user("half", "management", configure="^mine", write="^letters$", read="^mine")
    answer = await api.put("/queues/%2F/other", user=user)
    assert answer.status_code == 401
    assert answer.json() == {
        "error": "not_authorised",
        "reason": "Access refused.",
        "explanation": "configure access to queue 'other' in vhost '/' refused for user 'half'",
    }
    letters = {"arguments": {"x-dead-letter-exchange": "other"}}
    answer = await api.put("/queues/%2F/mine", letters, user=user)
    assert "write access to exchange 'other'" in answer.json()["explanation"]
    letters = {"arguments": {"x-dead-letter-exchange": "letters"}}
    assert (await api.put("/queues/%2F/mine", letters, user=user)).status_code == 201
    await api.put("/queues/%2F/other")
    assert (await api.delete("/queues/%2F/other", user=user)).status_code == 401
    assert (await api.delete("/queues/%2F/other/contents", user=user)).status_code == 401
    assert (await api.delete("/queues/%2F/mine", user=user)).status_code == 204


async def test_lists_show_what_one_may_see(api):
    await api.put("/vhosts/second")
    await api.put("/queues/second/q2")
    await api.put("/queues/%2F/q1")
    user, watcher = api.add_user("one", "management"), api.add_user("all", "monitoring")

    async def names(path, who):
        return [row["name"] for row in await api.get(path, user=who)]

    assert await names("/queues", ("guest", "guest")) == ["q1", "q2"]
    assert await names("/queues", user) == ["q1"]
    assert await names("/queues", watcher) == ["q1", "q2"]
    assert await names("/queues/%2F", user) == ["q1"]
    assert await names("/queues/second", watcher) == ["q2"]
    assert await names("/queues/detailed", user) == ["q1"]
    answer = await api.ask("GET", "/queues/second", user=user)
    assert answer.status_code == 401
    assert answer.json()["reason"] == "User not authorised to access virtual host"
    assert (await api.ask("GET", "/queues/second/q2", user=watcher)).status_code == 401
    assert (await api.ask("GET", "/queues/none", user=user)).status_code == 404


async def test_a_list_is_cut_and_sorted(api):
    for number in range(7):
        await api.put(f"/queues/%2F/q{number}")
    page = await api.get("/queues/%2F?page=2&page_size=3&sort=name&sort_reverse=true&columns=name,vhost")
    assert page["items"] == [{"name": f"q{number}", "vhost": "/"} for number in (3, 2, 1)]
    assert (page["total_count"], page["page_count"]) == (7, 3)
    answer = await api.ask("GET", "/queues?page=9")
    assert (answer.status_code, answer.json()["error"]) == (400, "page_out_of_range")


async def test_statistics_can_be_left_out(api):
    await api.put("/queues/%2F/q")
    await _publish(api, "q", 3)
    (row,) = await api.get("/queues?disable_stats=true")
    assert "messages" not in row
    assert row["name"] == "q"
    (row,) = await api.get("/queues?disable_stats=true&enable_queue_totals=true")
    assert (row["messages"], row["messages_ready"], row["messages_unacknowledged"]) == (3, 3, 0)
    assert "message_stats" not in row
    assert "messages" not in await api.get("/queues/%2F/q?disable_stats=true")


async def _publish(api, queue, count):
    for _ in range(count):
        body = {"properties": {}, "routing_key": queue, "payload": "abc", "payload_encoding": "string"}
        assert (await api.post("/exchanges/%2F/amq.default/publish", body)).json() == {"routed": True}


async def test_messages_are_counted(api):
    await api.put("/queues/%2F/q")
    await _publish(api, "q", 3)
    client = await api.broker.connect()
    channel = await client.channel()
    await channel.send(methods.BasicGet(queue="q", no_ack=False))
    await channel.message()
    row = await api.get("/queues/%2F/q")
    assert (row["messages"], row["messages_ready"], row["messages_unacknowledged"]) == (3, 2, 1)
    assert (row["message_bytes"], row["message_bytes_ready"], row["message_bytes_ram"]) == (9, 6, 6)
    stats = row["message_stats"]
    assert (stats["publish"], stats["get"], stats["deliver_get"], stats["ack"]) == (3, 1, 1, 0)
    assert row["message_stats"]["publish_details"] == {"rate": 0.0}


async def test_a_queue_is_purged(api):
    await api.put("/queues/%2F/q")
    await _publish(api, "q", 3)
    answer = await api.delete("/queues/%2F/q/contents")
    assert (answer.status_code, answer.content) == (204, b"")
    assert (await api.get("/queues/%2F/q"))["messages"] == 0
    assert (await api.delete("/queues/%2F/none/contents")).json() == NOT_THERE
    assert (await api.ask("GET", "/queues/%2F/q/contents")).headers["allow"] == "DELETE, OPTIONS"


async def test_conditions_keep_a_queue(api):
    await api.put("/queues/%2F/q")
    await _publish(api, "q", 1)
    answer = await api.delete("/queues/%2F/q?if-empty=true")
    assert (answer.status_code, answer.json()["reason"]) == (400, "queue 'q' in vhost '/' not empty")
    client = await api.broker.connect()
    channel = await client.channel()
    await channel.consume("q")
    answer = await api.delete("/queues/%2F/q?if-unused=true")
    assert (answer.status_code, answer.json()["reason"]) == (400, "queue 'q' in vhost '/' in use")
    assert (await api.delete("/queues/%2F/q?if-unused=false&if-empty=false")).status_code == 204


async def test_an_exclusive_queue_is_shown_and_not_touched(api):
    client = await api.broker.connect()
    channel = await client.channel()
    await channel.declare("mine", exclusive=True)
    row = await api.get("/queues/%2F/mine")
    assert row["exclusive"] is True
    assert row["owner_pid_details"]["peer_host"] == "127.0.0.1"
    locked = "cannot obtain exclusive access to locked queue 'mine' in vhost '/'"
    get = {"count": 1, "ackmode": "ack_requeue_true", "encoding": "auto"}
    for answer in [
        await api.put("/queues/%2F/mine"),
        await api.delete("/queues/%2F/mine"),
        await api.delete("/queues/%2F/mine/contents"),
        await api.post("/queues/%2F/mine/get", get),
        await api.post("/bindings/%2F/e/amq.topic/q/mine", {}),
    ]:
        assert answer.status_code == 400
        assert answer.json()["reason"].startswith(locked)
    assert (await api.get("/queues/%2F/mine/bindings"))[0]["source"] == ""


async def test_consumers_of_a_queue_are_shown(api):
    client = await api.broker.connect()
    channel = await client.channel(7)
    await channel.declare("q")
    tag = await channel.consume("q", consumer_tag="it", exclusive=True)
    row = await api.get("/queues/%2F/q")
    assert row["consumers"] == 1
    assert row["exclusive_consumer_tag"] == tag
    (consumer,) = row["consumer_details"]
    assert (consumer["consumer_tag"], consumer["queue"]) == ("it", {"name": "q", "vhost": "/"})
    assert consumer["channel_details"]["number"] == 7


async def test_a_consumer_hears_of_a_queue_that_is_deleted(api):
    client = await api.broker.connect()
    channel = await client.channel()
    await channel.declare("q")
    tag = await channel.consume("q")
    await api.delete("/queues/%2F/q")
    assert await channel.next() == methods.BasicCancel(consumer_tag=tag, nowait=True)
    with pytest.raises(Refused, match="404"):
        await channel.declare("q", passive=True)


async def test_a_message_limit_is_that_of_amqp(tmp_path):
    async with api_here(tmp_path, ManagementOptions(message_size_max=10)) as api:
        await api.put("/queues/%2F/q")
        body = {"properties": {}, "routing_key": "q", "payload": "x" * 11, "payload_encoding": "string"}
        answer = await api.post("/exchanges/%2F/amq.default/publish", body)
        assert answer.status_code == 400
        assert answer.json()["reason"] == "message size 11 is larger than configured max size 10"


# ---- streams ----

STREAM = {"durable": True, "arguments": {"x-queue-type": "stream", "x-max-age": "2h"}}


async def test_a_stream_is_declared_shown_and_deleted(api):
    assert (await api.put("/queues/%2F/s", STREAM)).status_code == 201
    assert (await api.put("/queues/%2F/s", STREAM)).status_code == 204
    topic = api.node.topics.topic("/", "s")
    assert (len(topic.partitions), topic.settings.retention_ms) == (1, 7_200_000)
    client = await api.broker.connect()
    channel = await client.channel(1)
    await channel.confirm_mode()
    await channel.publish(b"hello", to="s")
    await channel.confirms(1)
    row = await api.get("/queues/%2F/s")
    assert (row["type"], row["durable"], row["messages"], row["consumers"]) == ("stream", True, 1, 0)
    assert (await channel.declare("s", passive=True)).message_count == 1
    assert (await api.get("/topics/%2F/s"))["records"] == 1
    assert (await api.delete("/queues/%2F/s?if-empty=true")).status_code == 400
    assert (await api.delete("/queues/%2F/s")).status_code == 204
    assert api.node.topics.find("/", "s") is None
    assert (await api.ask("GET", "/queues/%2F/s")).json() == NOT_THERE


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (STREAM | {"durable": False}, "invalid property 'non-durable' for queue 's' in vhost '/'"),
        (STREAM | {"auto_delete": True}, "invalid property 'auto-delete' for queue 's' in vhost '/'"),
        (
            {"durable": True, "arguments": {"x-queue-type": "stream", "x-max-age": "old"}},
            "invalid arg 'x-max-age' for queue 's' in vhost '/': 'old'",
        ),
    ],
)
async def test_streams_that_cannot_be(api, body, reason):
    answer = await api.put("/queues/%2F/s", body)
    assert (answer.status_code, answer.json()["reason"]) == (400, reason)
    assert api.node.topics.find("/", "s") is None


async def test_a_stream_stays_what_it_is(api):
    await api.put("/queues/%2F/s", STREAM)
    other = {"durable": True, "arguments": {"x-queue-type": "stream", "x-max-age": "3h"}}
    answer = await api.put("/queues/%2F/s", other)
    assert answer.status_code == 400
    assert answer.json()["reason"] == (
        "inequivalent arg 'x-max-age' for queue 's' in vhost '/': received '3h' but the topic has retention.ms=7200000"
    )
    answer = await api.put("/queues/%2F/s", {"durable": True})
    assert (answer.status_code, "inequivalent arg 'x-queue-type'" in answer.json()["reason"]) == (400, True)
    await api.put("/queues/%2F/q", {"durable": True})
    answer = await api.put("/queues/%2F/q", STREAM)
    assert (answer.status_code, "inequivalent arg 'x-queue-type'" in answer.json()["reason"]) == (400, True)


async def test_whoever_may_not_configure_declares_and_deletes_no_stream(api):
    await api.put("/queues/%2F/s", STREAM)
    reader = api.add_user("reader", "management", configure="")
    assert (await api.put("/queues/%2F/t", STREAM, user=reader)).status_code == 401
    assert (await api.delete("/queues/%2F/s", user=reader)).status_code == 401
    assert api.node.topics.find("/", "s") is not None


async def with_stream(api):
    """A queue `a` with one message, a stream `s` with three and a consumer, and a topic `t`."""
    await api.put("/queues/%2F/a", {"durable": True})
    await api.put("/queues/%2F/s", STREAM)
    await api.put("/topics/%2F/t", {"partitions": 2})
    client = await api.broker.connect()
    channel = await client.channel(1)
    await channel.confirm_mode()
    for number, name in enumerate(("a", "s", "s", "s"), 1):
        await channel.publish(b"hello", to=name)
        await channel.confirms(number, since=number)
    await channel.qos(10)
    await channel.consume("s", arguments={"x-stream-offset": "first"}, consumer_tag="reads")
    await channel.messages(3)


async def test_streams_and_topics_are_listed_among_the_queues(api):
    await with_stream(api)
    rows = await api.get("/queues")
    assert rows == await api.get("/queues/%2F")
    found = [
        (row["name"], row["type"], row["messages"], row["messages_ready"], row["consumers"]) for row in rows
    ]
    assert found == [("a", "classic", 1, 1, 0), ("s", "stream", 3, 3, 1), ("t", "stream", 0, 0, 0)]
    stream = rows[1]
    one = await api.get("/queues/%2F/s")
    assert stream.items() <= one.items()
    assert [consumer["consumer_tag"] for consumer in one["consumer_details"]] == ["reads"]
    assert (one["exclusive_consumer_tag"], one["leader"], one["durable"]) == (None, one["node"], True)
    assert {name: row for name, row in one["message_stats"].items() if not name.endswith("_details")} == {
        "publish": 3,
        "deliver_get": 3,
    }
    assert one["messages_details"] == one["message_stats"]["publish_details"] == {"rate": 0.0}
    assert one["message_bytes"] == (await api.get("/topics/%2F/s"))["size"]
    assert "message_stats" not in rows[2]


async def test_streams_are_sorted_and_cut_into_pages_as_queues_are(api):
    await with_stream(api)
    rows = await api.get("/queues?sort=messages&sort_reverse=true&columns=name,message_stats.publish")
    assert rows == [{"name": "s", "message_stats": {"publish": 3}}, {"name": "a", "message_stats": {"publish": 1}},
                    {"name": "t"}]  # fmt: skip
    page = await api.get("/queues?page=2&page_size=2&columns=name")
    assert (page["items"], page["total_count"], page["page_count"]) == ([{"name": "t"}], 3, 2)
    page = await api.get("/queues/%2F?page=1&name=^[st]$&use_regex=true&columns=name,type")
    assert page["items"] == [{"name": "s", "type": "stream"}, {"name": "t", "type": "stream"}]
    rows = await api.get("/queues?disable_stats=true")
    assert ["messages" in row for row in rows] == [False] * 3
    rows = await api.get("/queues?disable_stats=true&enable_queue_totals=true")
    assert [row["messages"] for row in rows] == [1, 3, 0]
    assert not any("consumers" in row for row in rows)


async def test_streams_are_in_what_the_broker_adds_up_to(api):
    await with_stream(api)
    found = await api.get("/overview")
    assert (found["object_totals"]["queues"], found["object_totals"]["consumers"]) == (3, 1)
    assert (found["queue_totals"]["messages"], found["queue_totals"]["messages_ready"]) == (4, 4)
    (row,) = await api.get("/vhosts")
    assert (row["messages"], row["messages_unacknowledged"]) == (4, 0)
    assert (await api.get("/vhosts/%2F"))["messages_ready"] == 4
    user = api.add_user("looks", "management")
    assert (await api.get("/overview", user=user))["queue_totals"]["messages"] == 4


async def test_the_brokers_own_topics_are_no_queues(api):
    api.node.topics.create("/", "own", 1, internal=True)
    assert await api.get("/queues") == []
    assert (await api.ask("GET", "/queues/%2F/own")).json() == NOT_THERE
    assert (await api.get("/overview"))["object_totals"]["queues"] == 0


async def test_streams_of_a_vhost_are_for_whoever_may_see_it(api):
    await api.put("/vhosts/second")
    await api.put("/queues/second/s", STREAM)
    user = api.add_user("one", "management")
    assert await api.get("/queues", user=user) == []
    assert [row["vhost"] for row in await api.get("/queues")] == ["second"]


async def test_nothing_is_taken_from_a_stream(api):
    await api.put("/queues/%2F/s", STREAM)
    got = {"count": 1, "ackmode": "ack_requeue_true", "encoding": "auto"}
    reason = "queue 's' in vhost '/' is a stream, which nothing is taken from; topics show their records"
    for answer in (
        await api.delete("/queues/%2F/s/contents"),
        await api.post("/queues/%2F/s/get", got),
    ):
        assert (answer.status_code, answer.json()["reason"]) == (400, reason)


@pytest.mark.parametrize("action", ["sync", "cancel_sync"])
async def test_mirrors_are_always_in_sync(api, action):
    await api.put("/queues/%2F/q")
    await api.put("/queues/%2F/s", {"durable": True, "arguments": {"x-queue-type": "stream"}})
    for name in "qs":
        answer = await api.post(f"/queues/%2F/{name}/actions", {"action": action})
        assert (answer.status_code, answer.content) == (204, b"")


@pytest.mark.parametrize(
    ("path", "body", "status", "reason"),
    [
        ("q", {"action": "dance"}, 400, "action: expected 'sync' or 'cancel_sync', got \"dance\""),
        ("q", {"action": 5}, 400, "action: expected 'sync' or 'cancel_sync', got 5"),
        ("q", {}, 400, "action: this key is missing"),
        ("none", {"action": "sync"}, 404, "Not Found"),
    ],
)
async def test_an_action_that_cannot_be_is_refused(api, path, body, status, reason):
    await api.put("/queues/%2F/q")
    answer = await api.post(f"/queues/%2F/{path}/actions", body)
    assert (answer.status_code, answer.json()["reason"]) == (status, reason)


async def test_actions_are_for_administrators(api):
    await api.put("/queues/%2F/q")
    monitor = api.add_user("monitor", "monitoring")
    answer = await api.post("/queues/%2F/q/actions", {"action": "sync"}, user=monitor)
    assert (answer.status_code, answer.json()["reason"]) == (401, "Not administrator user")
    answer = await api.ask("GET", "/queues/%2F/q/actions")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST, OPTIONS")


async def test_memory_is_of_the_queue_and_of_the_messages_that_it_has_in_memory(tmp_path):
    async with api_here(tmp_path, queue_memory_max=100_000) as api:

        async def memory(name):
            return (await api.get(f"/queues/%2F/{name}"))["memory"]

        await api.put("/queues/%2F/q", {"durable": True})
        await api.put("/queues/%2F/s", {"durable": True, "arguments": {"x-queue-type": "stream"}})
        empty, stream = await memory("q"), await memory("s")
        assert 1000 < empty < 20_000
        assert 1000 < stream < 20_000
        assert "memory" not in await api.get("/queues/%2F/q?disable_stats=true")
        client = await api.broker.connect()
        channel = await client.channel()
        await channel.confirm_mode()
        await channel.qos(5)
        for _ in range(5):
            await channel.publish(bytes(10_000), to="q", delivery_mode=2)
            await channel.publish(bytes(10_000), to="s", delivery_mode=2)
        await channel.confirms(10)
        held = await memory("q")
        assert empty + 50_000 <= held <= empty + 60_000
        assert stream + 50_000 <= await memory("s") <= stream + 60_000
        await channel.consume("q")
        await channel.messages(5)
        assert empty + 50_000 <= await memory("q") <= held  # those that are out
        for _ in range(100):  # a megabyte, of which most is on the disk only
            await channel.publish(bytes(10_000), to="q", delivery_mode=2)
        await channel.confirms(110, since=11)
        assert await memory("q") <= empty + 200_000
