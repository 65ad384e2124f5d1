"""Kafka's clients among all others: in the overview, in lists, and closed by hand."""

from __future__ import annotations

from urllib.parse import quote

import pytest
import trio

from api_here import WAIT_S, api_here
from broker.kafka import api as apis
from broker.server.kafka.options import KafkaOptions
from broker_here import until
from kafka_wire import CLIENT_ID, KafkaClient, fetch_body
from topic_records import fill


@pytest.fixture
async def api(tmp_path):
    async with api_here(tmp_path, kafka=KafkaOptions()) as here:
        yield here


@pytest.fixture
async def client(api):
    found = await KafkaClient.dial(("127.0.0.1", api.port("kafka")))
    await found.call(
        apis.API_VERSIONS, {"client_software_name": "leveret-test", "client_software_version": "1.2"}
    )
    yield found
    found.drop()


def quoted(name):
    return quote(name, safe="")


async def test_a_connection_is_shown(api, client):
    (row,) = await api.get("/connections")
    host, port = client.stream.socket.getsockname()
    expected = {
        "name": f"{host}:{port} -> 127.0.0.1:{api.port('kafka')}",
        "protocol": "Kafka",
        "type": "network",
        "user": "guest",
        "vhost": "/",
        "state": "running",
        "port": api.port("kafka"),
        "peer_host": host,
        "peer_port": port,
        "auth_mechanism": "",
        "client_properties": {"client_id": CLIENT_ID, "product": "leveret-test", "version": "1.2"},
        "frame_max": 0,
        "channel_max": 0,
        "timeout": 0,
        "channels": 0,
        "ssl": False,
        "recv_cnt": 1,
        "send_pend": 0,
    }
    assert {name: row[name] for name in expected} == expected
    assert row["recv_oct"] > 0
    assert row["send_oct"] > 0
    assert (await api.get(f"/connections/{quoted(row['name'])}"))["name"] == row["name"]
    assert await api.get(f"/connections/{quoted(row['name'])}/channels") == []
    assert [found["name"] for found in await api.get("/vhosts/%2F/connections")] == [row["name"]]
    assert [found["name"] for found in await api.get("/connections/username/guest")] == [row["name"]]
    for path in ("/channels", "/consumers", "/vhosts/%2F/channels"):
        assert await api.get(path) == []


async def test_the_overview_counts_them(api, client):
    await api.broker.connect()
    row = await api.get("/overview")
    assert row["object_totals"]["connections"] == 2
    assert row["churn_rates"]["connection_created"] == 2
    assert {"kafka", "amqp"} <= {found["protocol"] for found in row["listeners"]}
    assert (await api.get("/health/checks/protocol-listener/kafka"))["protocol"] == "kafka"
    assert (await api.get("/nodes"))[0]["sockets_used"] >= 2


async def test_a_connection_is_closed(api, client):
    (row,) = await api.get("/connections")
    answer = await api.delete(f"/connections/{quoted(row['name'])}")
    assert (answer.status_code, answer.content) == (204, b"")
    await client.ends()
    assert await api.get("/connections") == []
    assert (await api.delete(f"/connections/{quoted(row['name'])}")).status_code == 404


async def test_one_that_waits_for_records_is_closed(api, client):
    await api.put("/topics/%2F/t")
    one = api.node.topics.topic("/", "t").partitions[0]
    body = fetch_body({("t", 0): 0}, max_wait_ms=600_000)
    await client.send(apis.FETCH, body, 12)
    other = await KafkaClient.dial(("127.0.0.1", api.port("kafka")))
    while not one.bells:  # the fetch has come
        await other.call(apis.API_VERSIONS, {"client_software_name": "a", "client_software_version": "1"})
    assert (await api.delete("/connections/username/guest")).status_code == 204
    await client.ends()
    await other.ends()
    other.drop()
    assert (await api.get("/connections"), one.bells) == ([], {})


async def test_one_that_does_not_read_is_closed_all_the_same(tmp_path):
    async with api_here(tmp_path, kafka=KafkaOptions(close_timeout_s=0.05)) as api:
        await api.put("/topics/%2F/t")
        one = api.node.topics.topic("/", "t").partitions[0]
        await fill(api.node, one, [b"x" * 500_000] * 20)
        client = await KafkaClient.dial(("127.0.0.1", api.port("kafka")))
        for _ in range(10):
            body = fetch_body({("t", 0): 0}, max_bytes=1 << 30, partition_max_bytes=1 << 30)
            await client.send(apis.FETCH, body, 12)
        while (rows := await api.get("/connections"))[0]["send_pend"] == 0:
            pass
        assert (await api.delete(f"/connections/{quoted(rows[0]['name'])}")).status_code == 204
        with trio.fail_after(WAIT_S):
            await until(lambda: not api.node.peers)
        client.drop()
