"""Connections: list, show, close.

Flow:   `connected` asks every peer of the node for a snapshot; channels and consumers are found in those.
Spec:   RabbitMQ: whoever monitors sees all, others see their own; administrators close all, others their own.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Final, NamedTuple

from broker.management.auth import may
from broker.management.call import Call
from broker.management.errors import not_authorised, not_there
from broker.management.http import Response
from broker.management.listing import Row, listed, shown_once
from broker.management.rates import Rates, octet_counts
from broker.management.routes import Needs, route
from broker.management.tables import shown
from broker.management.turns import Turns
from broker.node.node import Node
from broker.node.peers import ConnectionSnapshot, Peer

logger = logging.getLogger("broker.management")

_REASON: Final = "Closed via management plugin"


class Connected(NamedTuple):
    """A client, and what it looked like a moment ago."""

    peer: Peer
    connection: ConnectionSnapshot


async def connected(node: Node) -> list[Connected]:
    """All clients."""
    found = []
    turns = Turns()
    for peer in list(node.peers):
        await turns.take_break()
        found.append(Connected(peer, peer.snapshot()))
    return found


async def visible(call: Call) -> list[Connected]:
    """Those that the user may see, in the virtual host of the path if there is one."""
    found = await connected(call.node)
    if call.has("vhost"):
        vhost = call.vhost(to_look=True).name
        found = [one for one in found if one.connection.vhost == vhost]
    if may(call.user, Needs.MONITORING):
        return found
    return [one for one in found if one.connection.user == call.user.name]


async def named(call: Call, name: str, needs: Needs = Needs.MONITORING) -> Connected:
    """The connection of this name. Raises Refused if there is none, or if it is not for this user."""
    for one in await connected(call.node):
        if one.connection.name == name:
            if one.connection.user != call.user.name and not may(call.user, needs):
                raise not_authorised("User not authorised to access object")
            return one
    raise not_there()


def key_of(one: Connected) -> tuple[str, str]:
    return one.connection.vhost, one.connection.name


def show(node: Node, rates: Rates | None, one: Connected) -> Row:
    """A row of a list; without rates, what does not change."""
    connection = one.connection
    row: Row = {
        "name": connection.name,
        "node": node.options.name,
        "type": "network",
        "protocol": connection.protocol,
        "user": connection.user,
        "user_who_performed_action": connection.user,
        "vhost": connection.vhost,
        "state": connection.state,
        "host": connection.host,
        "port": connection.port,
        "peer_host": connection.peer_host,
        "peer_port": connection.peer_port,
        "connected_at": connection.connected_at_ms,
        "auth_mechanism": connection.mechanism,
        "client_properties": shown(connection.client_properties),
        "frame_max": connection.frame_max,
        "channel_max": connection.channel_max,
        "timeout": connection.heartbeat_s,
        "channels": len(connection.channels),
        "ssl": False,
    }
    provided = connection.client_properties.get("connection_name")
    if isinstance(provided, str):
        row["user_provided_name"] = provided
    if rates is not None:
        row.update(rates.octets.details(one.peer, octet_counts(connection)))
        row.update(
            recv_cnt=connection.received_count,
            send_cnt=connection.sent_count,
            send_pend=connection.send_pending,
        )
    return row


def _rates(call: Call) -> Rates | None:
    return None if call.flag("disable_stats") else call.api.rates


@route("GET", "/api/connections")
@route("GET", "/api/vhosts/{vhost}/connections")
async def list_connections(call: Call) -> Response:
    view = partial(show, call.node, _rates(call))
    return await listed(call.request.query, await visible(call), view, key_of)


@route("GET", "/api/connections/username/{user}")
async def list_of_user(call: Call) -> Response:
    found = [one for one in await visible(call) if one.connection.user == call.name("user")]
    return await listed(call.request.query, found, partial(show, call.node, _rates(call)), key_of)


@route("GET", "/api/connections/{connection}")
async def get_connection(call: Call) -> Response:
    one = await named(call, call.name("connection"))
    return shown_once(call.request.query, show(call.node, _rates(call), one))


@route("DELETE", "/api/connections/{connection}")
async def delete_connection(call: Call) -> Response:
    one = await named(call, call.name("connection"), Needs.ADMINISTRATOR)
    _close(call, [one])
    return Response(204)


@route("DELETE", "/api/connections/username/{user}")
async def delete_of_user(call: Call) -> Response:
    name = call.name("user")
    if name != call.user.name and not may(call.user, Needs.ADMINISTRATOR):
        raise not_authorised("User not authorised to access object")
    _close(call, [one for one in await connected(call.node) if one.connection.user == name])
    return Response(204)


def _close(call: Call, found: list[Connected]) -> None:
    reason = call.request.headers.get("x-reason") or _REASON
    for one in found:
        logger.info("connection %s: closed by user '%s': %s", one.connection.name, call.user.name, reason)
        one.peer.close_by_operator(reason)
    call.node.end_pass()
