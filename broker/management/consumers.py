"""Consumers: list, and those of one queue or channel."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from broker.management.call import Call
from broker.management.connections import Connected, connected, visible
from broker.management.http import Response
from broker.management.listing import Row, listed
from broker.management.routes import route
from broker.management.tables import shown
from broker.model.queue import Queue
from broker.node.node import Node
from broker.node.peers import ConsumerSnapshot
from broker.node.topics import Topic


class Consuming(NamedTuple):
    """A consumer, and on which channel of which client."""

    by: Connected
    number: int
    consumer: ConsumerSnapshot


def consuming(found: list[Connected], *, channel: int | None = None) -> list[Consuming]:
    return [
        Consuming(one, opened.number, consumer)
        for one in found
        for opened in one.connection.channels
        if channel is None or opened.number == channel
        for consumer in opened.consumers
    ]


def key_of(one: Consuming) -> tuple[str, str, str]:
    return one.by.connection.vhost, one.consumer.queue, one.consumer.tag


def show(node: Node, one: Consuming) -> Row:
    """There is no timeout here, which clients read as a number."""
    connection, consumer = one.by.connection, one.consumer
    return {
        "consumer_tag": consumer.tag,
        "active": consumer.active,
        "activity_status": "up",
        "ack_required": consumer.acks,
        "prefetch_count": consumer.prefetch,
        "exclusive": consumer.exclusive,
        "arguments": shown(consumer.arguments),
        "consumer_timeout": 0,
        "queue": {"name": consumer.queue, "vhost": connection.vhost},
        "channel_details": {
            "name": f"{connection.name} ({one.number})",
            "number": one.number,
            "node": node.options.name,
            "user": connection.user,
            "connection_name": connection.name,
            "peer_host": connection.peer_host,
            "peer_port": connection.peer_port,
        },
    }


async def consumers_of(node: Node, queue: Queue | Topic) -> list[Row]:
    """Those of one queue or stream."""
    if not len(queue.readers if isinstance(queue, Topic) else queue.consumers):
        return []
    found = consuming([one for one in await connected(node) if one.connection.vhost == queue.vhost])
    return [show(node, one) for one in found if one.consumer.queue == queue.name]


@route("GET", "/api/consumers")
@route("GET", "/api/consumers/{vhost}")
async def list_consumers(call: Call) -> Response:
    found = consuming(await visible(call))
    return await listed(call.request.query, found, partial(show, call.node), key_of)
