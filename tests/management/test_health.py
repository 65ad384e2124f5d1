"""Health checks."""

from __future__ import annotations

import pytest

from api_here import api_here
from broker.management.options import ManagementOptions

OK = {"status": "ok"}


async def check(api, path, **options):
    answer = await api.ask("GET", f"/health/checks/{path}", **options)
    return answer.status_code, answer.json()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("alarms", OK),
        ("local-alarms", OK),
        ("virtual-hosts", OK),
        ("node-is-quorum-critical", {"status": "ok", "reason": "single node cluster"}),
        ("node-is-mirror-sync-critical", {"status": "ok", "reason": "single node cluster"}),
        ("certificate-expiration/1/months", OK),
        ("protocol-listener/amqp", {"status": "ok", "protocol": "amqp"}),
        ("protocol-listener/AMQP0-9-1", {"status": "ok", "protocol": "amqp"}),
        ("protocol-listener/http%2Fprometheus", {"status": "ok", "protocol": "http/prometheus"}),
        (
            "protocol-listener/amqp,http",
            {"status": "ok", "protocols": ["amqp", "http", "http/prometheus"]},
        ),
    ],
)
async def test_all_is_well(api, path, body):
    assert await check(api, path) == (200, body)
    assert (await api.ask("GET", f"/health/checks/{path}", user=None)).status_code == 401


@pytest.mark.parametrize("path", ["is-in-service", "below-node-connection-limit", "ready-to-serve-clients"])
async def test_load_balancers_need_no_login(api, path):
    assert await check(api, path, user=None) == (200, OK)


async def test_alarms_are_told(api):
    api.node.alarms.active = {"memory", "disk"}
    alarms = [
        {"node": api.node.options.name, "resource": "disk space"},
        {"node": api.node.options.name, "resource": "memory"},
    ]
    for path, reason in [
        ("alarms", "There are alarms in effect in the cluster"),
        ("local-alarms", "There are alarms in effect on the node"),
    ]:
        assert await check(api, path) == (503, {"status": "failed", "reason": reason, "alarms": alarms})


async def test_listeners_are_looked_for(api):
    ports = sorted(api.port(protocol) for protocol in ("amqp", "http", "http/prometheus"))
    assert await check(api, f"port-listener/{ports[0]}") == (200, {"status": "ok", "port": ports[0]})
    assert await check(api, "port-listener/1") == (
        503,
        {"status": "failed", "reason": "No active listener", "missing": 1, "ports": ports},
    )
    failed = {
        "status": "failed",
        "reason": "No active listener",
        "protocols": ["amqp", "http", "http/prometheus"],
    }
    assert await check(api, "protocol-listener/mqtt") == (503, {**failed, "missing": "mqtt"})
    assert await check(api, "protocol-listener/mqtt,amqp,stomp") == (
        503,
        {**failed, "missing": ["mqtt", "stomp"]},
    )


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("port-listener/x", "Invalid port"),
        ("port-listener/%C2%B2", "Invalid port"),
        (
            "certificate-expiration/1/moons",
            "Time unit not recognised. Supported units: days, weeks, months, years.",
        ),
        ("certificate-expiration/x/days", "Invalid expiration period: x"),
    ],
)
async def test_what_cannot_be_checked_is_refused(api, path, reason):
    assert await check(api, path) == (400, {"error": "bad_request", "reason": reason})


async def test_a_node_may_be_full(tmp_path):
    async with api_here(tmp_path, ManagementOptions(connection_max=1)) as api:
        assert await check(api, "ready-to-serve-clients") == (200, OK)
        await api.broker.connect()
        full = (503, {"status": "failed", "reason": "node connection limit is reached", "connections": 1})
        assert await check(api, "below-node-connection-limit") == full
        assert await check(api, "ready-to-serve-clients") == full


async def test_a_node_without_amqp_is_not_ready(api):
    amqp = [found for found in api.node.listeners if found.protocol == "amqp"]
    api.node.listeners.remove(amqp[0])
    reason = "no active listeners for AMQP/AMQPS"
    assert await check(api, "ready-to-serve-clients") == (503, {"status": "failed", "reason": reason})


async def test_checks_of_old(api):
    assert await api.get("/healthchecks/node") == OK
    assert await api.get(f"/healthchecks/node/{api.node.options.name}") == OK
    assert (await api.ask("GET", "/healthchecks/node/none")).status_code == 404
    assert await api.get("/aliveness-test/%2F") == OK
    assert (await api.ask("GET", "/aliveness-test/none")).status_code == 404
