"""Virtual hosts over HTTP."""

import pytest

from amqp_client import Refused
from api_here import api_here

NOT_THERE = {"error": "Object Not Found", "reason": "Not Found"}


async def test_a_virtual_host_is_made_changed_and_deleted(api):
    answer = await api.put("/vhosts/v%2F1")
    assert (answer.status_code, answer.content) == (201, b"")
    body = {"description": "of orders", "tags": "a,b", "default_queue_type": "classic", "tracing": False}
    assert (await api.put("/vhosts/v%2F1", body)).status_code == 204
    row = await api.get("/vhosts/v%2F1")
    expected = {
        "name": "v/1",
        "description": "of orders",
        "tags": ["a", "b"],
        "default_queue_type": "classic",
        "metadata": {"description": "of orders", "tags": ["a", "b"]},
        "tracing": False,
        "cluster_state": {api.node.options.name: "running"},
        "messages": 0,
        "messages_details": {"rate": 0.0},
    }
    assert {name: row[name] for name in expected} == expected
    assert (await api.put("/vhosts/v%2F1", {})).status_code == 204
    assert (await api.get("/vhosts/v%2F1"))["description"] == "of orders"
    answer = await api.delete("/vhosts/v%2F1")
    assert (answer.status_code, answer.content) == (204, b"")
    assert (await api.delete("/vhosts/v%2F1")).json() == NOT_THERE
    assert (await api.ask("GET", "/vhosts/v%2F1")).json() == NOT_THERE


async def test_a_virtual_host_is_there_after_the_next_start(tmp_path):
    async with api_here(tmp_path) as api:
        await api.put("/vhosts/kept", {"description": "d", "tags": ["t"]})
        await api.put("/vhosts/gone")
        await api.delete("/vhosts/gone")
    async with api_here(tmp_path) as api:
        assert [row["name"] for row in await api.get("/vhosts")] == ["/", "kept"]
        row = await api.get("/vhosts/kept?disable_stats=true")
        assert (row["description"], row["tags"]) == ("d", ["t"])
        assert "messages" not in row


async def test_whoever_makes_one_may_do_everything_in_it(api):
    boss = api.add_user("boss", "administrator")
    await api.put("/vhosts/v", user=boss)
    assert await api.get("/vhosts/v/permissions") == [
        {"user": "boss", "vhost": "v", "configure": ".*", "write": ".*", "read": ".*"}
    ]
    assert (await api.put("/queues/v/q", user=boss)).status_code == 201
    # An administrator may look everywhere, and do what the permissions say.
    assert await api.get("/queues/v/q")
    assert (await api.put("/queues/v/q2")).status_code == 401


async def test_lists_show_what_one_may_see(api):
    await api.put("/vhosts/v")
    await api.put("/queues/v/q")
    body = {"properties": {}, "routing_key": "q", "payload": "x", "payload_encoding": "string"}
    await api.post("/exchanges/v/amq.default/publish", body)
    rows = await api.get("/vhosts?columns=name,messages,messages_ready")
    assert rows == [
        {"name": "/", "messages": 0, "messages_ready": 0},
        {"name": "v", "messages": 1, "messages_ready": 1},
    ]
    user, watcher = api.add_user("one", "management"), api.add_user("all", "monitoring")
    assert [row["name"] for row in await api.get("/vhosts", user=user)] == ["/"]
    assert [row["name"] for row in await api.get("/vhosts", user=watcher)] == ["/", "v"]


async def test_what_the_broker_cannot_do_is_refused(api):
    answer = await api.put("/vhosts/v", {"tracing": True})
    assert (answer.status_code, answer.json()["error"]) == (400, "bad_request")
    answer = await api.put("/vhosts/v", {"default_queue_type": "quorum"})
    assert answer.status_code == 400
    assert (await api.put("/vhosts/" + "v" * 256)).status_code == 400
    assert list(api.node.topology.vhosts) == ["/"]


async def test_clients_of_a_deleted_virtual_host_hear_so(api):
    await api.put("/vhosts/v")
    await api.put("/queues/v/q", {"durable": True})
    client = await api.broker.connect(vhost="v")
    assert (await api.delete("/vhosts/v")).status_code == 204
    assert (await client.refused()).reply_text == "CONNECTION_FORCED - vhost 'v' is deleted"
    with pytest.raises(Refused, match="vhost v not found"):
        await api.broker.connect(vhost="v")
    assert await api.get("/permissions/%2F/guest")
    assert (await api.ask("GET", "/permissions/v/guest")).status_code == 404
