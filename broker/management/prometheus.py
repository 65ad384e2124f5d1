"""Metrics for Prometheus, under RabbitMQ's names, so that its dashboards and alerts work.

Flow:   `/metrics` adds everything up; `/metrics/per-object` shows each queue too, and is made while it is sent.
        What there is of Kafka's is in `kafka_metrics`.
Shape:  see `exposition`.
Limits: whatever walks over many queues or clients does so in turns.
Spec:   rabbitmq_prometheus. There is exactly one rabbitmq_identity_info, as every query of the dashboards joins
        with it. Names of which nothing true can be said are left out: those of Erlang, Raft and streams, and
        rabbitmq_message_size_bytes, which the hot path would have to count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, repeat
from typing import Final, NamedTuple

from broker.management import kafka_metrics, runtime
from broker.management.call import Call
from broker.management.connections import connected
from broker.management.exposition import (
    CONTENT_TYPE,
    Family,
    Sample,
    counter,
    each,
    gauge,
    head,
    labelled,
    texts,
)
from broker.management.http import Response
from broker.management.routes import Needs, route
from broker.management.turns import Turns
from broker.model.queue import EXPIRED, MAXLEN, REJECTED, Queue
from broker.node.alarms import DISK, MEMORY
from broker.node.metrics import Metrics

_PROTOCOL: Final = {"protocol": "amqp091"}
_QUEUE_TYPE: Final = {"queue_type": "rabbit_classic_queue"}


# ---- the node ----

_MESSAGES: Final = (
    ("received", "Messages that publishers sent"),
    ("received_confirm", "Messages that publishers sent on channels with confirms"),
    ("confirmed", "Messages that were confirmed to their publishers"),
    ("routed", "Messages that reached a queue at once"),
    ("unroutable_dropped", "Messages that no queue wanted, dropped"),
    ("unroutable_returned", "Messages that no queue wanted, returned to their publishers"),
)
_DELIVERIES: Final = (
    ("delivered_consume_auto_ack", "Messages pushed to consumers that do not acknowledge"),
    ("delivered_consume_manual_ack", "Messages pushed to consumers that acknowledge"),
    ("delivered_get_auto_ack", "Messages got one by one, without acknowledging"),
    ("delivered_get_manual_ack", "Messages got one by one, to be acknowledged"),
    ("get_empty", "Gets that found an empty queue"),
    ("redelivered", "Messages delivered that had been delivered before"),
    ("acknowledged", "Messages that consumers acknowledged"),
)
_CHURN: Final = (
    ("connections_opened", "Connections that were opened"),
    ("connections_closed", "Connections that were closed or lost"),
    ("channels_opened", "Channels that were opened"),
    ("channels_closed", "Channels that were closed"),
    ("queues_declared", "Declarations of queues, new or not"),
    ("queues_created", "Queues that were made"),
    ("queues_deleted", "Queues that were deleted"),
)
_DEATHS: Final = (
    (EXPIRED, "because they had waited too long"),
    (MAXLEN, "because their queue was full"),
    (REJECTED, "because a consumer rejected them"),
)


def _identity(call: Call, endpoint: str) -> list[Family]:
    options = call.api.options
    return [
        gauge(
            "rabbitmq_identity_info",
            "Which node of which cluster this is; the permanent id is the node's name",
            Sample(
                1,
                {
                    "rabbitmq_node": call.node.options.name,
                    "rabbitmq_cluster": call.node.cluster.name,
                    "rabbitmq_cluster_permanent_id": call.node.options.name,
                    "rabbitmq_endpoint": endpoint,
                },
            ),
        ),
        gauge(
            "rabbitmq_build_info",
            "What runs here; the version of Erlang is Python's",
            Sample(
                1,
                {
                    "rabbitmq_version": options.version,
                    "prometheus_plugin_version": options.own_version,
                    "prometheus_client_version": options.own_version,
                    "erlang_version": runtime.PYTHON_VERSION,
                    "product_name": options.product,
                    "product_version": options.version,
                    "leveret_version": options.own_version,
                },
            ),
        ),
    ]


def _global_counters(metrics: Metrics) -> list[Family]:
    def of(name: str) -> int:
        value: int = getattr(metrics, f"messages_{name}")
        return value

    labels = {**_PROTOCOL, **_QUEUE_TYPE}
    families = [
        counter(f"rabbitmq_global_messages_{name}", help, Sample(of(name), _PROTOCOL))
        for name, help in _MESSAGES
    ]
    families.append(
        counter(
            "rabbitmq_global_messages_delivered",
            "Messages delivered, pushed or got",
            Sample(metrics.messages_delivered, labels),
        )
    )
    families += [
        counter(f"rabbitmq_global_messages_{name}", help, Sample(of(name), labels))
        for name, help in _DELIVERIES
    ]
    for reason, why in _DEATHS:
        once = {**_QUEUE_TYPE, "dead_letter_strategy": "at_most_once"}
        never = {**_QUEUE_TYPE, "dead_letter_strategy": "disabled"}
        families.append(
            counter(
                f"rabbitmq_global_messages_dead_lettered_{reason}",
                f"Messages that a queue gave up {why}; without an exchange for them if disabled",
                Sample(metrics.dead_lettered[reason], once),
                Sample(metrics.discarded[reason], never),
            )
        )
    families += [counter(f"rabbitmq_{name}", help, Sample(getattr(metrics, name))) for name, help in _CHURN]
    return families


def _logins(call: Call) -> list[Family]:
    metrics, http = call.node.metrics, call.api.logins
    succeeded = (metrics.logins, metrics.kafka_logins, http.succeeded)
    failed = (metrics.logins_failed, metrics.kafka_logins_failed, http.failed)
    labels = ({"protocol": "amqp091"}, {"protocol": "kafka"}, {"protocol": "http"})

    def samples(values: Sequence[int]) -> list[Sample]:
        return [Sample(value, label) for value, label in zip(values, labels, strict=True)]

    every = [sum(pair) for pair in zip(succeeded, failed, strict=True)]
    return [
        counter("rabbitmq_auth_attempts", "Attempts to log in", *samples(every)),
        counter("rabbitmq_auth_attempts_succeeded", "Attempts to log in that succeeded", *samples(succeeded)),
        counter("rabbitmq_auth_attempts_failed", "Attempts to log in that failed", *samples(failed)),
    ]


def _system(call: Call) -> list[Family]:
    node = call.node
    alarms = node.alarms
    uptime = node.clock.now_ms() / 1000 - call.api.started_at_s
    return [
        gauge("rabbitmq_erlang_uptime_seconds", "How long the process has run", Sample(round(uptime, 3))),
        gauge("rabbitmq_process_open_fds", "Open file descriptors", Sample(runtime.descriptors_used())),
        gauge("rabbitmq_process_max_fds", "File descriptors allowed", Sample(runtime.descriptors_max())),
        gauge(
            "rabbitmq_process_resident_memory_bytes",
            "Memory of the process that is resident",
            Sample(alarms.memory_used()),
        ),
        gauge(
            "rabbitmq_resident_memory_limit_bytes",
            "Resident memory above which publishers wait",
            Sample(alarms.memory_limit),
        ),
        gauge(
            "rabbitmq_disk_space_available_bytes",
            "Room on the disk of the data folder",
            Sample(alarms.disk_free()),
        ),
        gauge(
            "rabbitmq_disk_space_available_limit_bytes",
            "Room on the disk below which publishers wait",
            Sample(alarms.disk_free_limit),
        ),
        _alarm("rabbitmq_alarms_memory_used_watermark", "memory", MEMORY in alarms.active),
        _alarm("rabbitmq_alarms_free_disk_space_watermark", "disk", DISK in alarms.active),
    ]


def _alarm(name: str, what: str, on: bool) -> Family:
    """RabbitMQ gives these no type."""
    return Family(name, "untyped", f"1 while the alarm for {what} is on", [Sample(int(on))])


async def _node_families(call: Call, endpoint: str) -> list[Family]:
    """Everything but the queues."""
    clients = await connected(call.node)
    channels = [channel for client in clients for channel in client.connection.channels]
    publishers = sum(1 for channel in channels if channel.published)
    consumers = 0
    queues = call.node.topology.queues()
    turns = Turns()
    for queue in queues:
        await turns.take_break()
        consumers += len(queue.consumers)
    return [
        *_identity(call, endpoint),
        *_system(call),
        gauge("rabbitmq_connections", "Connections that are open", Sample(len(clients))),
        gauge("rabbitmq_channels", "Channels that are open", Sample(len(channels))),
        gauge("rabbitmq_consumers", "Consumers", Sample(consumers)),
        gauge("rabbitmq_queues", "Queues", Sample(len(queues))),
        gauge("rabbitmq_global_publishers", "Channels that have published", Sample(publishers, _PROTOCOL)),
        gauge("rabbitmq_global_consumers", "Consumers", Sample(consumers, _PROTOCOL)),
        *_global_counters(call.node.metrics),
        *_logins(call),
    ]


# ---- queues ----


class _OfQueue(NamedTuple):
    name: str
    kind: str
    help: str
    value: Callable[[Queue], int]


_OF_QUEUES: Final = (
    _OfQueue("messages_ready", "gauge", "Messages that wait for a consumer", lambda queue: queue.ready_count),
    _OfQueue(
        "messages_unacked", "gauge", "Messages that are out unacknowledged", lambda queue: queue.unacked_count
    ),
    _OfQueue(
        "messages",
        "gauge",
        "Messages, ready or out",
        lambda queue: queue.ready_count + queue.unacked_count,
    ),
    _OfQueue(
        "messages_ready_bytes", "gauge", "Size of the bodies that are ready", lambda queue: queue.ready_size
    ),
    _OfQueue(
        "messages_unacked_bytes",
        "gauge",
        "Size of the bodies that are out unacknowledged",
        lambda queue: queue.unacked_size,
    ),
    _OfQueue(
        "messages_bytes",
        "gauge",
        "Size of all bodies",
        lambda queue: queue.ready_size + queue.unacked_size,
    ),
    _OfQueue("messages_ram", "gauge", "Ready messages in memory", lambda queue: queue.resident_count),
    _OfQueue(
        "messages_ram_bytes",
        "gauge",
        "Size of the bodies of ready messages in memory",
        lambda queue: queue.resident_size,
    ),
    _OfQueue("consumers", "gauge", "Consumers of the queue", lambda queue: len(queue.consumers)),
    _OfQueue(
        "messages_published_total",
        "counter",
        "Messages that reached the queue",
        lambda queue: queue.counters.published,
    ),
)


async def _summed(queues: Sequence[Queue]) -> list[Family]:
    """What only one queue has is not worth much added up: the counter falls when a queue is deleted."""
    wanted = [entry for entry in _OF_QUEUES if entry.kind == "gauge"]
    sums = [0] * len(wanted)
    turns = Turns()
    for queue in queues:
        await turns.take_break()
        for at, entry in enumerate(wanted):
            sums[at] += entry.value(queue)
    return [
        gauge(f"rabbitmq_queue_{entry.name}", entry.help, Sample(total))
        for entry, total in zip(wanted, sums, strict=True)
    ]


def _each(queues: Sequence[Queue]) -> Iterator[str]:
    """The text for every queue, piece by piece."""
    labels = [labelled({"vhost": queue.vhost, "queue": queue.name}) for queue in queues]
    for entry in _OF_QUEUES:
        name = f"rabbitmq_queue_{entry.name}"
        yield head(name, entry.kind, entry.help)
        yield from each(name, labels, map(entry.value, queues))
    name = "rabbitmq_queue_info"
    more = labelled({"queue_type": "rabbit_classic_queue", "membership": "leader"})
    yield head(name, "gauge", "Which queues there are")
    yield from each(name, [f"{label},{more}" for label in labels], repeat(1, len(labels)))


# ---- answers ----


@route("GET", "/metrics", Needs.MONITORING)
async def get_metrics(call: Call) -> Response:
    families = await _node_families(call, "aggregated")
    families += await _summed(call.node.topology.queues())
    families += await kafka_metrics.families(call)
    return _answer(texts(families))


@route("GET", "/metrics/per-object", Needs.MONITORING)
async def get_per_object(call: Call) -> Response:
    families = await _node_families(call, "per-object")
    families += await kafka_metrics.families(call)
    partitions = await kafka_metrics.each_partition(call)
    return _answer(chain(texts(families), _each(call.node.topology.queues()), partitions))


def _answer(pieces: Iterable[str]) -> Response:
    return Response(200, [("content-type", CONTENT_TYPE)], (piece.encode() for piece in pieces if piece))
