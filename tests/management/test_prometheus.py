"""Metrics: the names of the dashboards, the right numbers, and a format that Prometheus takes."""

from __future__ import annotations

import shutil

import pytest
import trio

from api_here import api_here
from broker.management.options import ManagementOptions
from metrics_scrape import parsed, scrape, value

# Of the RabbitMQ-Overview dashboard, those left out that only a count on the hot path could give.
DASHBOARD = {
    "rabbitmq_identity_info", "rabbitmq_build_info", "rabbitmq_erlang_uptime_seconds",
    "rabbitmq_queue_messages_ready", "rabbitmq_queue_messages_unacked",
    "rabbitmq_connections", "rabbitmq_channels", "rabbitmq_queues",
    "rabbitmq_global_publishers", "rabbitmq_global_consumers",
    "rabbitmq_global_messages_received_total", "rabbitmq_global_messages_received_confirm_total",
    "rabbitmq_global_messages_confirmed_total", "rabbitmq_global_messages_routed_total",
    "rabbitmq_global_messages_unroutable_dropped_total", "rabbitmq_global_messages_unroutable_returned_total",
    "rabbitmq_global_messages_delivered_total", "rabbitmq_global_messages_delivered_consume_auto_ack_total",
    "rabbitmq_global_messages_delivered_consume_manual_ack_total",
    "rabbitmq_global_messages_delivered_get_auto_ack_total",
    "rabbitmq_global_messages_delivered_get_manual_ack_total", "rabbitmq_global_messages_get_empty_total",
    "rabbitmq_global_messages_redelivered_total", "rabbitmq_global_messages_acknowledged_total",
    "rabbitmq_resident_memory_limit_bytes", "rabbitmq_process_resident_memory_bytes",
    "rabbitmq_disk_space_available_bytes", "rabbitmq_disk_space_available_limit_bytes",
    "rabbitmq_process_max_fds", "rabbitmq_process_open_fds",
    "rabbitmq_queues_declared_total", "rabbitmq_queues_created_total", "rabbitmq_queues_deleted_total",
    "rabbitmq_channels_opened_total", "rabbitmq_channels_closed_total",
    "rabbitmq_connections_opened_total", "rabbitmq_connections_closed_total",
}  # fmt: skip
ALERTS = {
    "rabbitmq_alarms_memory_used_watermark", "rabbitmq_alarms_free_disk_space_watermark", "rabbitmq_consumers",
    "rabbitmq_queue_messages", "rabbitmq_queue_messages_bytes", "rabbitmq_queue_messages_ram",
    "rabbitmq_queue_consumers", "rabbitmq_auth_attempts_total", "rabbitmq_auth_attempts_succeeded_total",
    "rabbitmq_auth_attempts_failed_total", "rabbitmq_global_messages_dead_lettered_maxlen_total",
    "rabbitmq_global_messages_dead_lettered_expired_total",
    "rabbitmq_global_messages_dead_lettered_rejected_total",
}  # fmt: skip


async def test_every_name_of_the_dashboard_is_there(api):
    assert (await scrape(api)).keys() >= DASHBOARD | ALERTS


async def test_there_is_one_identity(tmp_path):
    options = ManagementOptions(product="Hare", version="9.8.7", own_version="1.2.3")
    async with api_here(tmp_path, options, name="leveret@here") as api:
        api.node.cluster.rename("burrow")
        for path, endpoint in (("/metrics", "aggregated"), ("/metrics/per-object", "per-object")):
            samples = await scrape(api, path)
            assert samples["rabbitmq_identity_info"] == [
                (
                    {
                        "rabbitmq_node": "leveret@here",
                        "rabbitmq_cluster": "burrow",
                        "rabbitmq_cluster_permanent_id": "leveret@here",
                        "rabbitmq_endpoint": endpoint,
                    },
                    1.0,
                )
            ]
            ((labels, _),) = samples["rabbitmq_build_info"]
            assert (labels["rabbitmq_version"], labels["product_name"]) == ("9.8.7", "Hare")


async def test_metrics_count(api):
    await api.put("/queues/%2F/q", {"arguments": {"x-max-length": 2}})
    client = await api.broker.connect()
    channel = await client.channel()
    for _ in range(3):
        await channel.publish(b"abc", to="q")
    await channel.publish(b"abc", to="nowhere")
    await channel.consume("q")
    await channel.messages(2)
    get = {"count": 1, "ackmode": "ack_requeue_true", "encoding": "auto"}
    await api.post("/queues/%2F/q/get", get)
    await api.ask("GET", "/overview", user=("guest", "wrong"))
    samples = await scrape(api)
    assert value(samples, "rabbitmq_connections") == 1
    assert value(samples, "rabbitmq_channels") == 1
    assert value(samples, "rabbitmq_queues") == 1
    assert value(samples, "rabbitmq_consumers") == 1
    assert value(samples, "rabbitmq_global_consumers", protocol="amqp091") == 1
    assert value(samples, "rabbitmq_global_publishers", protocol="amqp091") == 1
    assert value(samples, "rabbitmq_queue_messages_ready") == 0
    assert value(samples, "rabbitmq_queue_messages_unacked") == 2
    assert value(samples, "rabbitmq_queue_messages_bytes") == 6
    assert value(samples, "rabbitmq_global_messages_received_total", protocol="amqp091") == 4
    assert value(samples, "rabbitmq_global_messages_routed_total") == 3
    assert value(samples, "rabbitmq_global_messages_unroutable_dropped_total") == 1
    classic = {"protocol": "amqp091", "queue_type": "rabbit_classic_queue"}
    assert value(samples, "rabbitmq_global_messages_delivered_consume_manual_ack_total", **classic) == 2
    assert value(samples, "rabbitmq_global_messages_delivered_total", **classic) == 2
    assert value(samples, "rabbitmq_global_messages_get_empty_total", **classic) == 1
    name = "rabbitmq_global_messages_dead_lettered_maxlen_total"
    assert value(samples, name, dead_letter_strategy="disabled") == 1
    assert value(samples, name, dead_letter_strategy="at_most_once") == 0
    assert value(samples, "rabbitmq_auth_attempts_failed_total", protocol="http") == 1
    assert value(samples, "rabbitmq_auth_attempts_total", protocol="amqp091") == 1
    assert value(samples, "rabbitmq_alarms_memory_used_watermark") == 0
    api.node.alarms.active = {"memory"}
    assert value(await scrape(api), "rabbitmq_alarms_memory_used_watermark") == 1


async def test_dead_letters_are_counted_apart_from_what_is_dropped(api):
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"}
    await api.put("/queues/%2F/q", {"arguments": arguments})
    body = {"properties": {}, "routing_key": "q", "payload": "", "payload_encoding": "string"}
    await api.post("/exchanges/%2F/amq.default/publish", body)
    await api.post("/queues/%2F/q/get", {"count": 1, "ackmode": "reject_requeue_false", "encoding": "auto"})
    samples = await scrape(api)
    name = "rabbitmq_global_messages_dead_lettered_rejected_total"
    assert value(samples, name, dead_letter_strategy="at_most_once") == 1
    assert value(samples, name, dead_letter_strategy="disabled") == 0


async def test_every_queue_has_its_own(api):
    vhost = api.node.topology.vhost("/")
    api.node.topology.declare_queue(vhost, 'a"b\\c d', durable=False)
    await api.put("/vhosts/second", {})
    await api.put("/queues/second/q")
    body = {"properties": {}, "routing_key": "q", "payload": "abc", "payload_encoding": "string"}
    await api.post("/exchanges/second/amq.default/publish", body)
    samples = await scrape(api, "/metrics/per-object")
    labels = {"vhost": "second", "queue": "q"}
    assert value(samples, "rabbitmq_queue_messages_ready", **labels) == 1
    assert value(samples, "rabbitmq_queue_messages_ready_bytes", **labels) == 3
    assert value(samples, "rabbitmq_queue_messages_published_total", **labels) == 1
    assert value(samples, "rabbitmq_queue_consumers", **labels) == 0
    assert value(samples, "rabbitmq_queue_info", queue_type="rabbit_classic_queue", **labels) == 1
    assert value(samples, "rabbitmq_queue_messages_ready", queue='a\\"b\\\\c d') == 0
    assert samples.keys() >= DASHBOARD


async def test_metrics_need_a_login_where_the_api_is_and_none_where_they_are_alone(api):
    assert (await api.ask("GET", "//metrics", user=None)).status_code == 401
    assert (await api.ask("GET", "//metrics", user=api.add_user("one", "management"))).status_code == 401
    answer = await api.ask("GET", "//metrics", user=api.add_user("all", "monitoring"))
    assert parsed(answer.text).keys() >= DASHBOARD
    alone = f"http://127.0.0.1:{api.port('http/prometheus')}"
    for path in ("/api/overview", "/", "/metrics/none"):
        assert (await api.client.get(f"{alone}{path}")).status_code == 404
    assert (await api.client.post(f"{alone}/metrics")).status_code == 405
    assert (await api.client.head(f"{alone}/metrics")).status_code == 200


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
@pytest.mark.parametrize("path", ["/metrics", "/metrics/per-object"])
async def test_prometheus_takes_the_format(api, path):
    await api.put("/queues/%2F/q")
    answer = await api.client.get(f"http://127.0.0.1:{api.port('http/prometheus')}{path}")
    checked = await trio.run_process(
        ["promtool", "check", "metrics"],
        stdin=answer.content,
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


async def test_many_queues_come_in_pieces(api):
    vhost = api.node.topology.vhost("/")
    for number in range(1200):
        api.node.topology.declare_queue(vhost, f"q{number}", durable=False)
    samples = await scrape(api, "/metrics/per-object")
    assert len(samples["rabbitmq_queue_messages_ready"]) == 1200
    assert len(samples["rabbitmq_queue_info"]) == 1200
    assert value(await scrape(api), "rabbitmq_queues") == 1200
