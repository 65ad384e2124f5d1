"""Virtual hosts: list, show, make, delete. Whoever makes one may do everything in it, as with RabbitMQ."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from broker.management.call import Call
from broker.management.errors import bad_request, not_there
from broker.management.held import Lengths, totals
from broker.management.http import Response
from broker.management.listing import Row, listed, shown_once
from broker.management.rates import Rates
from broker.management.routes import Needs, route
from broker.model.vhost import Vhost
from broker.node.node import Node


def key_of(vhost: Vhost) -> tuple[str]:
    return (vhost.name,)


def show(node: Node, rates: Rates, found: Mapping[str, Lengths], vhost: Vhost) -> Row:
    """A row of a list; how much is in a virtual host is in it if that was found out."""
    row: Row = {
        "name": vhost.name,
        "description": vhost.description,
        "tags": list(vhost.tags),
        "default_queue_type": "classic",
        "metadata": {"description": vhost.description, "tags": list(vhost.tags)},
        "tracing": False,
        "cluster_state": {node.options.name: "running"},
    }
    if vhost.name in found:
        row.update(rates.totals.details(vhost.name, found[vhost.name]))
    return row


async def _view(call: Call, vhosts: Sequence[Vhost]) -> Callable[[Vhost], Row]:
    found = {} if call.flag("disable_stats") else await totals(call.node, vhosts)
    return partial(show, call.node, call.api.rates, found)


@route("GET", "/api/vhosts")
async def list_vhosts(call: Call) -> Response:
    vhosts = call.vhosts()
    return await listed(call.request.query, vhosts, await _view(call, vhosts), key_of)


@route("GET", "/api/vhosts/{vhost}", Needs.ADMINISTRATOR)
async def get_vhost(call: Call) -> Response:
    vhost = call.vhost()
    view = await _view(call, [vhost])
    return shown_once(call.request.query, view(vhost))


@route("PUT", "/api/vhosts/{vhost}", Needs.ADMINISTRATOR)
async def put_vhost(call: Call) -> Response:
    from broker.management.schema import VhostBody

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
