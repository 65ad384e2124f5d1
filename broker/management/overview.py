"""The broker at a glance, and who one is.

Spec:   RabbitMQ's fields; whoever may not monitor sees what their own virtual hosts and connections add up to.
"""

from __future__ import annotations

from typing import Final

from broker.management import runtime
from broker.management.auth import may
from broker.management.call import Call
from broker.management.connections import Connected, visible
from broker.management.held import added, streams_in, totals
from broker.management.http import Response, as_json
from broker.management.listing import Row, shown_once
from broker.management.rates import churn_counts, node_counts
from broker.management.routes import Needs, route
from broker.model.exchange import MATCHERS
from broker.node.node import Node

EXCHANGE_TYPES: Final = [
    {"name": name, "description": f"AMQP {name} exchange", "enabled": True} for name in MATCHERS
]


def contexts(node: Node) -> list[Row]:
    """The listeners of HTTP, under the names that RabbitMQ gives its own."""
    return [
        {
            "node": node.options.name,
            "description": "RabbitMQ Prometheus" if "prometheus" in found.protocol else "RabbitMQ Management",
            "path": "/",
            "ip": found.host,
            "port": str(found.port),
            "ssl_opts": [],
        }
        for found in node.listeners
        if found.protocol.startswith("http")
    ]


def _listeners(node: Node) -> list[Row]:
    return [
        {
            "node": node.options.name,
            "protocol": found.protocol,
            "ip_address": found.host,
            "port": found.port,
            "socket_opts": {},
            "tls": False,
        }
        for found in node.listeners
    ]


def _names(call: Call) -> Row:
    """What does not change."""
    node, options = call.node, call.api.options
    return {
        "management_version": options.version,
        "rabbitmq_version": options.version,
        "product_name": options.product,
        "product_version": options.version,
        "leveret_version": options.own_version,
        "cluster_name": node.cluster.name,
        "node": node.options.name,
        "erlang_version": runtime.PYTHON_VERSION,
        "erlang_full_version": runtime.RUNTIME,
        "rates_mode": "basic",
        "sample_retention_policies": {"global": [], "basic": [], "detailed": []},
        "exchange_types": EXCHANGE_TYPES,
        "default_queue_type": "classic",
        "cluster_tags": {},
        "node_tags": {},
        "is_op_policy_updating_enabled": False,
        "enable_queue_totals": call.flag("enable_queue_totals"),
    }


def _object_totals(call: Call, clients: list[Connected]) -> Row:
    vhosts = call.vhosts()
    queues = [queue for vhost in vhosts for queue in vhost.queues.values()]
    streams = [topic for vhost in vhosts for topic in streams_in(call.node, vhost)]
    return {
        "connections": len(clients),
        "channels": sum(len(client.connection.channels) for client in clients),
        "queues": len(queues) + len(streams),
        "exchanges": sum(len(vhost.exchanges) for vhost in vhosts),
        "consumers": sum(len(queue.consumers) for queue in queues)
        + sum(len(stream.readers) for stream in streams),
    }


async def _statistics(call: Call) -> Row:
    node, rates = call.node, call.api.rates
    found = await totals(node, call.vhosts())
    row: Row = {
        "churn_rates": rates.churn.details("", churn_counts(node.metrics)),
        "statistics_db_event_queue": 0,
    }
    if may(call.user, Needs.MONITORING):
        row["queue_totals"] = rates.totals.details("", added(found.values()))
        row["message_stats"] = rates.node.details("", node_counts(node.metrics))
        row["listeners"] = _listeners(node)
        row["contexts"] = contexts(node)
    else:
        row["queue_totals"] = _added(
            [rates.totals.details(name, counts) for name, counts in found.items()]
            or [rates.totals.details("", (0, 0, 0))]
        )
        row["message_stats"] = {}
        row["listeners"] = row["contexts"] = []
    return row


def _added(rows: list[Row]) -> Row:
    """Counters and rates of several rows that are alike."""
    first, *others = rows
    return {
        name: _added([row[name] for row in rows])
        if isinstance(value, dict)
        else value + sum(row[name] for row in others)
        for name, value in first.items()
    }


@route("GET", "/api/overview")
async def get_overview(call: Call) -> Response:
    row = _names(call)
    row["disable_stats"] = call.flag("disable_stats")
    row["object_totals"] = _object_totals(call, await visible(call))
    if not call.flag("disable_stats"):
        row.update(await _statistics(call))
    return shown_once(call.request.query, row)


@route("GET", "/api/whoami")
async def get_whoami(call: Call) -> Response:
    return as_json({"name": call.user.name, "tags": list(call.user.tags), "is_internal_user": True})


@route("GET", "/api/cluster-name")
async def get_cluster_name(call: Call) -> Response:
    return as_json({"name": call.node.cluster.name})


@route("PUT", "/api/cluster-name", Needs.ADMINISTRATOR)
async def put_cluster_name(call: Call) -> Response:
    from broker.management.schema import ClusterNameBody

    call.node.cluster.rename(call.body(ClusterNameBody).name)
    await call.declared()
    return Response(204)


@route("GET", "/api/version", Needs.NOTHING)
async def get_version(call: Call) -> Response:
    return as_json(call.api.options.version)


@route("GET", "/api/extensions")
async def list_extensions(call: Call) -> Response:
    """There are none."""
    return as_json([])
