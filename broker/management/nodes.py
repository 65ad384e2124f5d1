"""The node, of which there is one.

Spec:   RabbitMQ's fields. `proc_used` are trio's tasks, `run_queue` those that could run, and `proc_total` what the
        system allows; `gc_num` are Python's collections.
"""

from __future__ import annotations

import os
from typing import Final

import trio

from broker.management import runtime
from broker.management.call import Call
from broker.management.errors import not_there
from broker.management.http import Response
from broker.management.listing import Row, listed, shown_once
from broker.management.overview import EXCHANGE_TYPES, contexts
from broker.management.rates import churn_counts, system_counts
from broker.management.routes import Needs, route
from broker.node.alarms import DISK, MEMORY

_MECHANISMS: Final = [
    {"name": name, "description": f"SASL {name} authentication mechanism", "enabled": True}
    for name in ("PLAIN", "AMQPLAIN")
]
# What clients look for when they ask whether there are these interfaces.
_PLUGINS: Final = ["rabbitmq_management", "rabbitmq_prometheus"]


def show(call: Call) -> Row:
    node, options, rates = call.node, call.api.options, call.api.rates
    alarms = node.alarms
    row: Row = {
        "name": node.options.name,
        "type": "disc",
        "running": True,
        "being_drained": False,
        "uptime": max(0, node.clock.now_ms() - int(call.api.started_at_s * 1000)),
        "os_pid": str(os.getpid()),
        "processors": runtime.processors(),
        "run_queue": trio.lowlevel.current_statistics().tasks_runnable,
        "fd_total": runtime.descriptors_max(),
        "sockets_total": runtime.descriptors_max(),
        "sockets_used": len(node.peers) + call.api.connection_count(),
        "proc_total": runtime.processes_max(),
        "mem_limit": alarms.memory_limit,
        "mem_alarm": MEMORY in alarms.active,
        "mem_calculation_strategy": "rss",
        "disk_free_limit": alarms.disk_free_limit,
        "disk_free_alarm": DISK in alarms.active,
        "rates_mode": "basic",
        "enabled_plugins": _PLUGINS,
        "exchange_types": EXCHANGE_TYPES,
        "auth_mechanisms": _MECHANISMS,
        "applications": [],
        "contexts": contexts(node),
        "partitions": [],
        "cluster_links": [],
        "log_files": [],
        "config_files": [],
        "db_dir": os.path.abspath(node.options.data),
        "rabbitmq_version": options.version,
        "erlang_version": runtime.PYTHON_VERSION,
        "erlang_full_version": runtime.RUNTIME,
    }
    row.update(rates.system.details("", system_counts(node)))
    row.update(rates.churn.details("", churn_counts(node.metrics)))
    return row


@route("GET", "/api/nodes", Needs.MONITORING)
async def list_nodes(call: Call) -> Response:
    name = (call.node.options.name,)
    return await listed(call.request.query, [call], show, lambda _: name)


@route("GET", "/api/nodes/{node}", Needs.MONITORING)
async def get_node(call: Call) -> Response:
    if call.name("node") != call.node.options.name:
        raise not_there()
    return shown_once(call.request.query, show(call))
