"""Health checks: 200 when all is well, 503 with the reason when not.

Spec:   RabbitMQ 3.13; those that load balancers ask need no login there either.
"""

from __future__ import annotations

from typing import Any, Final

from broker.management.call import Call
from broker.management.errors import bad_request, not_there
from broker.management.http import Response, as_json
from broker.management.routes import Needs, route
from broker.node.alarms import DISK, MEMORY
from broker.node.node import Node

_RESOURCES: Final = {MEMORY: "memory", DISK: "disk space"}
_UNITS: Final = ("days", "weeks", "months", "years")
_PROTOCOLS: Final = {
    "amqp091": "amqp",
    "amqp0.9.1": "amqp",
    "amqp0-9-1": "amqp",
    "amqp0_9_1": "amqp",
    "http1": "http",
    "http1.1": "http",
    "http_api": "http",
    "management": "http",
    "prometheus": "http/prometheus",
}


def _ok(**more: Any) -> Response:
    return as_json({"status": "ok", **more})


def _failed(reason: str, **more: Any) -> Response:
    return as_json({"status": "failed", "reason": reason, **more}, 503)


# ---- alarms ----


@route("GET", "/api/health/checks/alarms")
async def check_alarms(call: Call) -> Response:
    return _alarms(call.node, "There are alarms in effect in the cluster")


@route("GET", "/api/health/checks/local-alarms")
async def check_local_alarms(call: Call) -> Response:
    return _alarms(call.node, "There are alarms in effect on the node")


def _alarms(node: Node, reason: str) -> Response:
    active = sorted(node.alarms.active)
    if not active:
        return _ok()
    alarms = [{"node": node.options.name, "resource": _RESOURCES[kind]} for kind in active]
    return _failed(reason, alarms=alarms)


# ---- listeners ----


@route("GET", "/api/health/checks/port-listener/{port}")
async def check_port(call: Call) -> Response:
    text = call.name("port")
    if not text.isascii() or not text.isdecimal():
        raise bad_request("Invalid port")
    port = int(text)
    ports = sorted({found.port for found in call.node.listeners})
    return _ok(port=port) if port in ports else _failed("No active listener", missing=port, ports=ports)


@route("GET", "/api/health/checks/protocol-listener/{protocols}")
async def check_protocols(call: Call) -> Response:
    """Of one protocol the answer names one, of several a list."""
    asked = [name.strip().lower() for name in call.name("protocols").split(",")]
    wanted = [_PROTOCOLS.get(name, name) for name in asked]
    active = sorted({found.protocol for found in call.node.listeners})
    missing = [name for name in wanted if name not in active]
    single = len(wanted) == 1
    if missing:
        return _failed("No active listener", missing=missing[0] if single else missing, protocols=active)
    return _ok(protocol=wanted[0]) if single else _ok(protocols=active)


@route("GET", "/api/health/checks/certificate-expiration/{within}/{unit}")
async def check_certificates(call: Call) -> Response:
    """No listener has one."""
    if call.name("unit") not in _UNITS:
        raise bad_request(f"Time unit not recognised. Supported units: {', '.join(_UNITS)}.")
    if not call.name("within").isdecimal():
        raise bad_request(f"Invalid expiration period: {call.name('within')}")
    return _ok()


# ---- the node ----


@route("GET", "/api/health/checks/virtual-hosts")
async def check_vhosts(call: Call) -> Response:
    """They run as long as the broker does."""
    return _ok()


@route("GET", "/api/health/checks/node-is-quorum-critical")
@route("GET", "/api/health/checks/node-is-mirror-sync-critical")
async def check_quorum(call: Call) -> Response:
    return _ok(reason="single node cluster")


@route("GET", "/api/health/checks/is-in-service", Needs.NOTHING)
async def check_in_service(call: Call) -> Response:
    if not call.api.serving:
        return _failed("this rabbit node is not currently available to serve")
    return _ok()


@route("GET", "/api/health/checks/below-node-connection-limit", Needs.NOTHING)
async def check_connection_limit(call: Call) -> Response:
    if len(call.node.peers) >= call.api.options.connection_max:
        return _failed("node connection limit is reached", connections=len(call.node.peers))
    return _ok()


@route("GET", "/api/health/checks/ready-to-serve-clients", Needs.NOTHING)
async def check_ready(call: Call) -> Response:
    if not call.api.serving:
        return _failed("the rabbit node is not currently available to serve")
    if not any(found.protocol.startswith("amqp") for found in call.node.listeners):
        return _failed("no active listeners for AMQP/AMQPS")
    return await check_connection_limit(call)


# ---- before 3.8 ----


@route("GET", "/api/healthchecks/node")
@route("GET", "/api/healthchecks/node/{node}")
async def check_node(call: Call) -> Response:
    if call.has("node") and call.name("node") != call.node.options.name:
        raise not_there()
    return _ok()


@route("GET", "/api/aliveness-test/{vhost}")
async def check_aliveness(call: Call) -> Response:
    """That it answers is the test, as with RabbitMQ since 4.1."""
    call.vhost()
    return _ok()
