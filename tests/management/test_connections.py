"""Connections, channels and consumers over HTTP."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from broker.amqp import methods

NOT_THERE = {"error": "Object Not Found", "reason": "Not Found"}
NOT_YOURS = "User not authorised to access object"


def quoted(name):
    return quote(name, safe="")


@pytest.fixture
async def client(api):
    return await api.broker.connect(heartbeat=60)


async def test_a_connection_is_shown(api, client):
    await client.channel(1)
    (row,) = await api.get("/connections")
    host, port = client.stream.socket.getsockname()
    expected = {
        "name": f"{host}:{port} -> 127.0.0.1:{api.port('amqp')}",
        "node": api.node.options.name,
        "type": "network",
        "protocol": "AMQP 0-9-1",
        "user": "guest",
        "vhost": "/",
        "state": "running",
        "host": "127.0.0.1",
        "port": api.port("amqp"),
        "peer_host": host,
        "peer_port": port,
        "auth_mechanism": "PLAIN",
        "frame_max": 131_072,
        "channel_max": 2047,
        "timeout": 60,
        "channels": 1,
        "ssl": False,
        "recv_oct_details": {"rate": 0.0},
    }
    assert {name: row[name] for name in expected} == expected
    assert row["client_properties"]["capabilities"]["basic.nack"] is True
    assert row["recv_oct"] > 0
    assert row["recv_cnt"] > 0
    assert row["send_oct"] > 0
    assert abs(row["connected_at"] - api.node.clock.now_ms()) < 60_000
    assert (await api.get(f"/connections/{quoted(row['name'])}"))["name"] == row["name"]
    assert "recv_oct" not in await api.get(f"/connections/{quoted(row['name'])}?disable_stats=true")
    assert (await api.get("/vhosts/%2F/connections"))[0]["name"] == row["name"]
    assert (await api.get("/connections/username/guest"))[0]["name"] == row["name"]
    assert await api.get("/connections/username/nobody") == []
    assert (await api.ask("GET", "/connections/none")).json() == NOT_THERE


@pytest.mark.parametrize(
    ("headers", "text"),
    [
        ({}, "CONNECTION_FORCED - Closed via management plugin"),
        ({"X-Reason": "too many orders"}, "CONNECTION_FORCED - too many orders"),
    ],
)
async def test_a_connection_is_closed_and_told_why(api, client, headers, text):
    name = (await api.get("/connections"))[0]["name"]
    answer = await api.delete(f"/connections/{quoted(name)}", headers=headers)
    assert (answer.status_code, answer.content) == (204, b"")
    close = await client.refused()
    assert (close.reply_code, close.reply_text) == (320, text)
    assert (await api.delete(f"/connections/{quoted(name)}")).json() == NOT_THERE


async def test_all_connections_of_a_user_are_closed(api, client):
    user = api.add_user("one")
    others = [await api.broker.connect(user=user[0], password=user[1]) for _ in range(2)]
    assert (await api.delete("/connections/username/one")).status_code == 204
    for other in others:
        assert (await other.refused()).reply_code == 320
    assert [row["user"] for row in await api.get("/connections")] == ["guest"]


async def test_whoever_does_not_monitor_sees_their_own(api, client):
    user, watcher = api.add_user("one", "management"), api.add_user("all", "monitoring")
    mine = await api.broker.connect(user=user[0], password=user[1])
    channel = await mine.channel(1)
    await channel.declare("q")
    await channel.consume("q")
    others = await client.channel(1)
    await others.consume("q")
    for path in ("/connections", "/channels", "/consumers"):
        assert len(await api.get(path, user=user)) == 1
        assert len(await api.get(path, user=watcher)) == 2
    names = {row["user"]: row["name"] for row in await api.get("/connections")}
    for path in (f"/connections/{quoted(names['guest'])}", f"/channels/{quoted(names['guest'] + ' (1)')}"):
        answer = await api.ask("GET", path, user=user)
        assert (answer.status_code, answer.json()["reason"]) == (401, NOT_YOURS)
        assert await api.get(path, user=watcher)
    for path in (f"/connections/{quoted(names['guest'])}", "/connections/username/guest"):
        for who in (user, watcher):
            answer = await api.delete(path, user=who)
            assert (answer.status_code, answer.json()["reason"]) == (401, NOT_YOURS)
    assert (await api.delete(f"/connections/{quoted(names['one'])}", user=user)).status_code == 204
    assert (await mine.refused()).reply_code == 320


async def test_connections_of_another_virtual_host_are_elsewhere(api, client):
    await api.put("/vhosts/second")
    await api.broker.connect(vhost="second")
    assert len(await api.get("/connections")) == 2
    assert [row["vhost"] for row in await api.get("/vhosts/second/connections")] == ["second"]
    assert await api.get("/vhosts/second/channels") == []
    assert await api.get("/consumers/second") == []
    assert (await api.ask("GET", "/consumers/none")).json() == NOT_THERE


async def test_a_channel_is_shown(api, client):
    channel = await client.channel(3)
    await channel.call(methods.ConfirmSelect(), methods.ConfirmSelectOk)
    await channel.call(methods.BasicQos(prefetch_count=5), methods.BasicQosOk)
    await channel.declare("q")
    await channel.publish(b"x", to="q")
    await channel.next()
    await channel.consume("q")
    await channel.message()
    (row,) = await api.get("/channels")
    connection = (await api.get("/connections"))[0]["name"]
    expected = {
        "name": f"{connection} (3)",
        "number": 3,
        "node": api.node.options.name,
        "vhost": "/",
        "user": "guest",
        "state": "running",
        "confirm": True,
        "transactional": False,
        "consumer_count": 1,
        "prefetch_count": 5,
        "global_prefetch_count": 0,
        "messages_unacknowledged": 1,
        "messages_unconfirmed": 0,
        "messages_uncommitted": 0,
        "acks_uncommitted": 0,
    }
    assert {name: row[name] for name in expected} == expected
    assert row["connection_details"]["name"] == connection
    stats = row["message_stats"]
    assert (stats["publish"], stats["confirm"], stats["deliver"], stats["deliver_get"]) == (1, 1, 1, 1)
    single = await api.get(f"/channels/{quoted(row['name'])}")
    assert [consumer["queue"]["name"] for consumer in single["consumer_details"]] == ["q"]
    assert [found["name"] for found in await api.get(f"/connections/{quoted(connection)}/channels")] == [
        row["name"]
    ]
    for name in ("none", "none (1)", f"{connection} (4)", f"{connection} (x)", f"{connection} (3"):
        assert (await api.ask("GET", f"/channels/{quoted(name)}")).json() == NOT_THERE


async def test_a_consumer_is_shown(api, client):
    channel = await client.channel(2)
    await channel.declare("q")
    await channel.call(methods.BasicQos(prefetch_count=7), methods.BasicQosOk)
    await channel.consume("q", consumer_tag="it", arguments={"x-priority": 5}, no_ack=True)
    (row,) = await api.get("/consumers/%2F")
    details = row.pop("channel_details")
    assert row == {
        "consumer_tag": "it",
        "active": True,
        "activity_status": "up",
        "ack_required": False,
        "prefetch_count": 7,
        "exclusive": False,
        "arguments": {"x-priority": 5},
        "consumer_timeout": 0,
        "queue": {"name": "q", "vhost": "/"},
    }
    assert (details["number"], details["user"], details["node"]) == (2, "guest", api.node.options.name)
    assert details["name"] == f"{details['connection_name']} (2)"


async def test_lists_are_cut(api):
    clients = [await api.broker.connect() for _ in range(3)]
    port = clients[1].stream.socket.getsockname()[1]
    page = await api.get(f"/connections?page=1&page_size=2&name=:{port} &columns=peer_port")
    assert page["items"] == [{"peer_port": port}]
    assert page["total_count"] == 3


async def test_a_client_names_its_connection(api):
    client = await api.broker.connect()
    peer = next(iter(api.node.peers))
    peer.client_properties["connection_name"] = "orders"
    peer.client_properties["odd"] = {"octets": b"\xff", "nan": float("nan")}
    (row,) = await api.get("/connections")
    assert row["user_provided_name"] == "orders"
    assert row["client_properties"]["odd"] == {"octets": "\ufffd", "nan": None}
    await client.close()
    assert await api.get("/connections") == []
