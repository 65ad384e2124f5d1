"""The broker at a glance, and its node."""

from __future__ import annotations

import os

import pytest

from api_here import api_here
from broker.management.options import ManagementOptions

# What the client with the strictest types, rabbitmq-http-api-rs, does not do without.
OVERVIEW = {
    "cluster_name", "node", "erlang_version", "erlang_full_version", "rabbitmq_version", "product_name",
    "product_version", "statistics_db_event_queue", "churn_rates", "queue_totals", "object_totals",
    "message_stats", "listeners",
}  # fmt: skip
NODE = {
    "name", "uptime", "run_queue", "processors", "os_pid", "fd_total", "proc_total", "mem_limit", "mem_alarm",
    "disk_free_limit", "disk_free_alarm", "rates_mode", "enabled_plugins", "being_drained",
}  # fmt: skip
QUEUE_TOTALS = {"messages", "messages_ready", "messages_unacknowledged"}
CHURN = {
    "connection_created", "connection_closed", "channel_created", "channel_closed", "queue_declared",
    "queue_created", "queue_deleted",
}  # fmt: skip


async def test_the_overview_has_what_clients_read(api):
    row = await api.get("/overview")
    assert row.keys() >= OVERVIEW
    assert row["queue_totals"].keys() == QUEUE_TOTALS | {f"{name}_details" for name in QUEUE_TOTALS}
    assert row["churn_rates"].keys() == CHURN | {f"{name}_details" for name in CHURN}
    assert row["object_totals"] == {
        "connections": 0,
        "channels": 0,
        "queues": 0,
        "exchanges": 7,
        "consumers": 0,
    }
    assert {entry["name"] for entry in row["exchange_types"]} == {"direct", "fanout", "topic", "headers"}
    assert {(entry["protocol"], entry["port"]) for entry in row["listeners"]} == {
        (protocol, api.port(protocol)) for protocol in ("amqp", "http", "http/prometheus")
    }
    assert {entry["port"] for entry in row["contexts"]} == {
        str(api.port("http")),
        str(api.port("http/prometheus")),
    }
    assert "churn_rates" not in await api.get("/overview?disable_stats=true")
    assert await api.get("/overview?columns=node,object_totals.queues") == {
        "node": api.node.options.name,
        "object_totals": {"queues": 0},
    }


async def test_names_and_versions_are_those_that_amqp_tells(tmp_path):
    options = ManagementOptions(product="Hare", version="9.8.7", own_version="1.2.3")
    async with api_here(tmp_path, options, name="leveret@here") as api:
        row = await api.get("/overview")
        assert (row["product_name"], row["product_version"], row["rabbitmq_version"]) == (
            "Hare",
            "9.8.7",
            "9.8.7",
        )
        assert (row["leveret_version"], row["cluster_name"], row["node"]) == (
            "1.2.3",
            "leveret@here",
            "leveret@here",
        )
        assert await api.get("/version", user=None) == "9.8.7"
        assert await api.get("/cluster-name") == {"name": "leveret@here"}
        assert await api.get("/extensions") == []


async def test_the_cluster_gets_a_name_that_everybody_sees_and_that_lasts(tmp_path):
    async def seen(api):
        client = await api.broker.dial()
        await client.start()
        overview = await api.get("/overview?columns=cluster_name,node")
        return (await api.get("/cluster-name"))["name"], overview, client.server_properties["cluster_name"]

    async with api_here(tmp_path, name="leveret@here") as api:
        answer = await api.put("/cluster-name", {"name": "burröw"})
        assert (answer.status_code, answer.content) == (204, b"")
        shown = ("burröw", {"cluster_name": "burröw", "node": "leveret@here"}, "burröw")
        assert await seen(api) == shown
    async with api_here(tmp_path, name="leveret@here") as api:
        assert await seen(api) == shown
        assert (await api.put("/cluster-name", {"name": ""})).status_code == 204
        assert await seen(api) == ("", {"cluster_name": "", "node": "leveret@here"}, "")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({}, "name: this key is missing"),
        ({"name": 5}, "name: expected a string, got 5"),
        ({"name": "x" * 256}, "name: expected at most 255 bytes, this has 256, got "),
    ],
)
async def test_a_name_that_the_cluster_cannot_have_is_refused(api, body, reason):
    answer = await api.put("/cluster-name", body)
    assert answer.status_code == 400
    assert answer.json()["reason"].startswith(reason)
    monitor = api.add_user("monitor", "monitoring")
    answer = await api.put("/cluster-name", {"name": "x"}, user=monitor)
    assert (answer.status_code, answer.json()["reason"]) == (401, "Not administrator user")
    assert await api.get("/cluster-name", user=monitor) == {"name": api.node.options.name}


async def test_the_overview_counts(api):
    await api.put("/queues/%2F/q")
    client = await api.broker.connect()
    channel = await client.channel()
    await channel.consume("q", no_ack=True)
    await channel.publish(b"x", to="q")
    await channel.message()
    await channel.publish(b"x", exchange="amq.topic")
    await channel.depth("q")
    row = await api.get("/overview")
    assert row["object_totals"] == {
        "connections": 1,
        "channels": 1,
        "queues": 1,
        "exchanges": 7,
        "consumers": 1,
    }
    stats = row["message_stats"]
    assert (stats["publish"], stats["deliver_no_ack"], stats["deliver_get"], stats["drop_unroutable"]) == (
        2,
        1,
        1,
        1,
    )
    churn = row["churn_rates"]
    assert (churn["connection_created"], churn["channel_created"], churn["queue_created"]) == (1, 1, 1)


async def test_whoever_does_not_monitor_sees_their_own(api):
    await api.put("/vhosts/second")
    await api.put("/queues/second/q")
    await api.put("/queues/%2F/q")
    body = {"properties": {}, "routing_key": "q", "payload": "x", "payload_encoding": "string"}
    for vhost, count in (("second", 3), ("%2F", 2)):
        for _ in range(count):
            await api.post(f"/exchanges/{vhost}/amq.default/publish", body)
    await api.broker.connect()
    row = await api.get("/overview", user=api.add_user("one", "management"))
    assert row["object_totals"] == {
        "connections": 0,
        "channels": 0,
        "queues": 1,
        "exchanges": 7,
        "consumers": 0,
    }
    assert row["queue_totals"]["messages"] == 2
    assert row["queue_totals"]["messages_details"] == {"rate": 0.0}
    assert (row["message_stats"], row["listeners"]) == ({}, [])
    whole = await api.get("/overview", user=api.add_user("all", "monitoring"))
    assert (whole["object_totals"]["connections"], whole["queue_totals"]["messages"]) == (1, 5)
    nowhere = api.add_user("none", "management")
    api.node.accounts.delete_permission("/", "none")
    assert (await api.get("/overview", user=nowhere))["queue_totals"]["messages"] == 0


async def test_the_node_has_what_clients_read(api):
    (row,) = await api.get("/nodes")
    assert row.keys() >= NODE
    assert row["os_pid"] == str(os.getpid())
    assert (row["type"], row["running"], row["being_drained"]) == ("disc", True, False)
    assert 0 < row["uptime"] < 2**32
    assert 0 < row["fd_used"] <= row["fd_total"]
    assert 0 < row["proc_used"] <= row["proc_total"]
    assert row["mem_used"] > 1_000_000
    assert row["disk_free"] > 0
    assert row["sockets_used"] == 1
    assert (row["mem_alarm"], row["disk_free_alarm"]) == (False, False)
    one = await api.get(f"/nodes/{row['name']}?columns=name,mem_alarm")
    assert one == {"name": row["name"], "mem_alarm": False}
    assert (await api.ask("GET", "/nodes/none")).status_code == 404
    api.node.alarms.active = {"memory", "disk"}
    (row,) = await api.get("/nodes")
    assert (row["mem_alarm"], row["disk_free_alarm"]) == (True, True)
