"""Virtual hosts: list, show, make, delete. Whoever makes one may do everything in it, as with RabbitMQ."""

from __future__ import annotations

from functools import partial

from broker.management.call import Call
from broker.management.errors import bad_request, not_there
from broker.management.http import Response
from broker.management.listing import Row, listed, shown_once
from broker.management.rates import Rates, lengths
from broker.management.routes import Needs, route
from broker.management.schema import VhostBody
from broker.model.vhost import Vhost
from broker.node.node import Node


def key_of(vhost: Vhost) -> tuple[str]:
    return (vhost.name,)


def show(node: Node, rates: Rates | None, vhost: Vhost) -> Row:
    """A row of a list; without rates, what does not change."""
    row: Row = {
        "name": vhost.name,
        "description": vhost.description,
        "tags": list(vhost.tags),
        "default_queue_type": "classic",
        "metadata": {"description": vhost.description, "tags": list(vhost.tags)},
        "tracing": False,
        "cluster_state": {node.options.name: "running"},
    }
    if rates is not None:
        row.update(rates.totals.details(vhost.name, lengths(vhost.queues.values())))
    return row


@route("GET", "/api/vhosts")
async def list_vhosts(call: Call) -> Response:
    rates = None if call.flag("disable_stats") else call.api.rates
    return await listed(call.request.query, call.vhosts(), partial(show, call.node, rates), key_of)


@route("GET", "/api/vhosts/{vhost}", Needs.ADMINISTRATOR)
async def get_vhost(call: Call) -> Response:
    rates = None if call.flag("disable_stats") else call.api.rates
    return shown_once(call.request.query, show(call.node, rates, call.vhost()))


@route("PUT", "/api/vhosts/{vhost}", Needs.ADMINISTRATOR)
async def put_vhost(call: Call) -> Response:
    name = call.new_name("vhost")
    body = call.body(VhostBody)
    if body.tracing:
        raise bad_request("tracing: this version of the broker does not trace")
    new = call.node.topology.put_vhost(name, description=body.description, tags=body.tags)
    if new:
        call.node.accounts.put_permission(name, call.user.name, ".*", ".*", ".*")
    await call.declared()
    return Response(201 if new else 204)


@route("DELETE", "/api/vhosts/{vhost}", Needs.ADMINISTRATOR)
async def delete_vhost(call: Call) -> Response:
    if call.name("vhost") not in call.node.topology.vhosts:
        raise not_there()
    call.node.topology.delete_vhost(call.name("vhost"))
    await call.declared()
    return Response(204)
