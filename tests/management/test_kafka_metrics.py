"""Metrics of topics and consumer groups: the names of the dashboards, and the right numbers."""

from __future__ import annotations

import shutil

import pytest
import trio

from api_here import api_here
from broker.kafka import api as apis
from broker.management import turns
from broker.node.groups import GroupOptions
from broker.server.kafka.options import KafkaOptions
from kafka_wire import KafkaClient
from metrics_scrape import scrape, value
from topic_records import commit, fill

# kafka_exporter's, and kafka-lag-exporter's where they say more.
SUMS = {
    "kafka_brokers", "kafka_topic_partitions", "kafka_consumergroup_members",
    "kafka_consumergroup_current_offset_sum", "kafka_consumergroup_lag_sum",
    "kafka_consumergroup_group_sum_lag", "kafka_consumergroup_group_max_lag",
    "kafka_consumergroup_group_max_lag_seconds",
    "kafka_server_brokertopicmetrics_messagesin_total", "kafka_server_brokertopicmetrics_bytesin_total",
    "kafka_server_brokertopicmetrics_bytesout_total",
    "kafka_server_brokertopicmetrics_totalproducerequests_total",
    "kafka_server_brokertopicmetrics_totalfetchrequests_total",
    "kafka_coordinator_group_rebalances_total", "kafka_consumergroup_rebalances_total",
}  # fmt: skip
PARTITIONS = {
    "kafka_topic_partition_current_offset", "kafka_topic_partition_oldest_offset",
    "kafka_topic_partition_in_sync_replica", "kafka_topic_partition_leader",
    "kafka_topic_partition_leader_is_preferred", "kafka_topic_partition_replicas",
    "kafka_topic_partition_under_replicated_partition", "kafka_log_log_size",
    "kafka_consumergroup_current_offset", "kafka_consumergroup_lag",
    "kafka_consumergroup_group_lag_seconds",
}  # fmt: skip


@pytest.fixture
async def api(tmp_path):
    async with api_here(tmp_path, kafka=KafkaOptions(auto_create_topics=False)) as here:
        here.node.cluster.rename("burrow")
        yield here


@pytest.fixture
async def behind(api):
    """A group that is 2 and 7 records behind, of which the oldest is a minute old."""
    minute_ago = api.node.clock.now_ms() - 60_000
    await api.put("/topics/%2F/t", {"partitions": 3})
    topic = api.node.topics.topic("/", "t")
    for one in topic.partitions:
        await fill(api.node, one, [b"x"] * 10, timestamp=minute_ago)
    await commit(api.node, "g", "t", 0, 8)
    await commit(api.node, "g", "t", 1, 3)
    await commit(api.node, "done", "t", 2, 10)
    return topic


async def test_every_name_is_there_and_those_of_partitions_where_they_belong(api, behind):
    assert (await scrape(api)).keys() & (SUMS | PARTITIONS) == SUMS
    assert (await scrape(api, "/metrics/per-object")).keys() >= SUMS | PARTITIONS


async def test_groups_are_added_up(api, behind):
    samples = await scrape(api)
    assert value(samples, "kafka_brokers") == 1
    assert value(samples, "kafka_topic_partitions", vhost="/", topic="t") == 3
    assert value(samples, "kafka_topic_partitions", topic="__consumer_offsets") == 1
    of_topic = {"consumergroup": "g", "topic": "t"}
    assert value(samples, "kafka_consumergroup_current_offset_sum", **of_topic) == 11
    assert value(samples, "kafka_consumergroup_lag_sum", **of_topic) == 9
    assert value(samples, "kafka_consumergroup_members", consumergroup="g") == 0
    assert value(samples, "kafka_consumergroup_rebalances_total", consumergroup="g") == 0
    of_group = {"cluster_name": "burrow", "group": "g"}
    assert value(samples, "kafka_consumergroup_group_sum_lag", **of_group) == 9
    assert value(samples, "kafka_consumergroup_group_max_lag", **of_group) == 7
    assert 59 <= value(samples, "kafka_consumergroup_group_max_lag_seconds", **of_group) <= 70
    assert value(samples, "kafka_consumergroup_group_max_lag_seconds", group="done") == 0


async def test_every_partition_has_its_own(api, behind):
    await api.delete("/topics/%2F/t/partitions/1/records?before=4")
    samples = await scrape(api, "/metrics/per-object")
    place = {"vhost": "/", "topic": "t", "partition": "1"}
    for name, expected in (
        ("current_offset", 10),
        ("oldest_offset", 4),
        ("in_sync_replica", 1),
        ("leader", KafkaOptions().node_id),
        ("leader_is_preferred", 1),
        ("replicas", 1),
        ("under_replicated_partition", 0),
    ):
        assert value(samples, f"kafka_topic_partition_{name}", **place) == expected
    assert value(samples, "kafka_log_log_size", **place) == behind.partitions[1].size
    of_group = {"consumergroup": "g", "topic": "t", "partition": "1"}
    assert value(samples, "kafka_consumergroup_current_offset", **of_group) == 3
    assert value(samples, "kafka_consumergroup_lag", **of_group) == 6
    seconds = {"cluster_name": "burrow", "group": "g", "topic": "t", "partition": "1"}
    assert 59 <= value(samples, "kafka_consumergroup_group_lag_seconds", **seconds) <= 70
    assert len(samples["kafka_consumergroup_lag"]) == 3


async def test_topics_of_one_name_are_told_apart(api):
    await api.put("/vhosts/second")
    for path, count in (("%2F", 1), ("second", 2)):
        await api.put(f"/topics/{path}/t", {"partitions": count})
    samples = await scrape(api)
    assert value(samples, "kafka_topic_partitions", vhost="second", topic="t") == 2
    assert value(samples, "kafka_topic_partitions", vhost="/", topic="t") == 1


async def test_groups_are_compared_with_the_topics_that_kafka_sees(tmp_path):
    async with api_here(tmp_path, groups=GroupOptions(vhost="log")) as api:
        await api.put("/vhosts/log")
        for path in ("%2F", "log"):
            await api.put(f"/topics/{path}/t")
        await fill(api.node, api.node.topics.topic("log", "t").partitions[0], [b"x"] * 4)
        await commit(api.node, "g", "t", 0, 1)
        assert value(await scrape(api), "kafka_consumergroup_lag_sum", consumergroup="g") == 3


async def test_what_clients_do_is_counted(api):
    await api.put("/topics/%2F/t")
    client = await KafkaClient.dial(("127.0.0.1", api.port("kafka")))
    produced = await client.produce("t", [b"abc", b"def"])
    assert produced["error_code"] == 0
    octets = len((await client.fetch("t"))["records"])
    traffic = api.node.topics.topic("/", "t").partitions[0].traffic
    assert (traffic.records_in, traffic.octets_in, traffic.octets_out) == (2, octets, octets)
    await client.call(apis.SASL_HANDSHAKE, {"mechanism": "PLAIN"})
    await client.call(apis.SASL_AUTHENTICATE, {"auth_bytes": b"\0guest\0guest"})
    samples = await scrape(api)
    client.drop()
    assert value(samples, "kafka_server_brokertopicmetrics_messagesin_total") == 2
    assert value(samples, "kafka_server_brokertopicmetrics_bytesin_total") == octets
    assert value(samples, "kafka_server_brokertopicmetrics_bytesout_total") == octets
    assert value(samples, "kafka_server_brokertopicmetrics_totalproducerequests_total") == 1
    assert value(samples, "kafka_server_brokertopicmetrics_totalfetchrequests_total") == 1
    assert value(samples, "rabbitmq_connections") == 1
    assert value(samples, "rabbitmq_channels") == 0


async def test_logins_are_told_by_protocol(api):
    api.node.metrics.kafka_logins = 3
    api.node.metrics.kafka_logins_failed = 2
    samples = await scrape(api)
    assert value(samples, "rabbitmq_auth_attempts_succeeded_total", protocol="kafka") == 3
    assert value(samples, "rabbitmq_auth_attempts_failed_total", protocol="kafka") == 2
    assert value(samples, "rabbitmq_auth_attempts_total", protocol="kafka") == 5
    assert value(samples, "rabbitmq_auth_attempts_total", protocol="amqp091") == 0


async def test_many_partitions_come_in_pieces_and_are_gathered_in_turns(api, monkeypatch):
    await api.put("/topics/%2F/t", {"partitions": 1200})
    for number in range(0, 1200, 100):
        await commit(api.node, "g", "t", number, 0)
    samples = await scrape(api, "/metrics/per-object")
    assert len(samples["kafka_topic_partition_current_offset"]) == 1201
    assert len(samples["kafka_consumergroup_lag"]) == 12
    breaks = 0

    async def take_break(self):
        nonlocal breaks
        breaks += 1

    monkeypatch.setattr(turns.Turns, "take_break", take_break)
    assert (await scrape(api, "/metrics/per-object")).keys() >= PARTITIONS
    assert breaks >= 1200 + 2 * 12


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
@pytest.mark.parametrize("path", ["/metrics", "/metrics/per-object"])
async def test_promtool_takes_the_format(api, behind, path):
    answer = await api.client.get(f"http://127.0.0.1:{api.port('http/prometheus')}{path}")
    checked = await trio.run_process(
        ["promtool", "check", "metrics"],
        stdin=answer.content,
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )
    assert checked.stdout == b""
    # It would rather call two of them otherwise, but the dashboards have kafka_exporter's names.
    lines = checked.stderr.decode().splitlines()
    names = {line.split()[0] for line in lines if '"_sum" suffix' in line}
    assert names == {"kafka_consumergroup_current_offset_sum", "kafka_consumergroup_lag_sum"}
    assert len(lines) == 2
