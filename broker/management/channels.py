"""Channels: list and show."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from broker.management import consumers
from broker.management.call import Call
from broker.management.connections import Connected, named, visible
from broker.management.errors import not_there
from broker.management.http import Response
from broker.management.listing import Row, listed, shown_once
from broker.management.rates import Rates, channel_counts
from broker.management.routes import route
from broker.node.node import Node
from broker.node.peers import ChannelSnapshot


class Opened(NamedTuple):
    """A channel of a client."""

    by: Connected
    channel: ChannelSnapshot

    @property
    def name(self) -> str:
        return f"{self.by.connection.name} ({self.channel.number})"


def opened(found: list[Connected]) -> list[Opened]:
    return [Opened(one, channel) for one in found for channel in one.connection.channels]


def key_of(one: Opened) -> tuple[str, str]:
    return one.by.connection.vhost, one.name


def show(node: Node, rates: Rates | None, one: Opened) -> Row:
    """A row of a list; without rates, what does not change."""
    connection, channel = one.by.connection, one.channel
    row: Row = {
        "name": one.name,
        "number": channel.number,
        "node": node.options.name,
        "vhost": connection.vhost,
        "user": connection.user,
        "user_who_performed_action": connection.user,
        "connection_details": {
            "name": connection.name,
            "peer_host": connection.peer_host,
            "peer_port": connection.peer_port,
        },
        "state": channel.state,
        "confirm": channel.confirms,
        "transactional": channel.transactional,
        "consumer_count": len(channel.consumers),
        "prefetch_count": channel.prefetch,
        "global_prefetch_count": channel.global_prefetch,
        "messages_unacknowledged": channel.unacked,
        "messages_unconfirmed": channel.unconfirmed,
        "messages_uncommitted": channel.uncommitted,
        "acks_uncommitted": channel.acks_uncommitted,
    }
    counts = channel_counts(channel)
    if rates is not None and any(counts):
        row["message_stats"] = rates.channels.details((one.by.peer, channel.number), counts)
    return row


def _rates(call: Call) -> Rates | None:
    return None if call.flag("disable_stats") else call.api.rates


@route("GET", "/api/channels")
@route("GET", "/api/vhosts/{vhost}/channels")
async def list_channels(call: Call) -> Response:
    view = partial(show, call.node, _rates(call))
    return await listed(call.request.query, opened(await visible(call)), view, key_of)


@route("GET", "/api/connections/{connection}/channels")
async def list_of_connection(call: Call) -> Response:
    found = opened([await named(call, call.name("connection"))])
    return await listed(call.request.query, found, partial(show, call.node, _rates(call)), key_of)


@route("GET", "/api/channels/{channel}")
async def get_channel(call: Call) -> Response:
    connection, bracket, number = call.name("channel").rpartition(" (")
    if not bracket:
        raise not_there()
    for one in opened([await named(call, connection)]):
        if number == f"{one.channel.number})":
            row = show(call.node, _rates(call), one)
            found = consumers.consuming([one.by], channel=one.channel.number)
            row["consumer_details"] = [consumers.show(call.node, consumer) for consumer in found]
            row["publishes"] = row["deliveries"] = []
            return shown_once(call.request.query, row)
    raise not_there()
