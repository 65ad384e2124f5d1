"""Publish to an exchange, and get from a queue: by hand, a few messages at a time.

Limits: a message comes in a body of at most 20 MB, with properties that fit a frame of 128 KiB; its parts are decoded in
        turns. What one request gets are at most 1,000 messages and, with the last of them, 16 MiB; nothing waits
        while it has them, so that none can be forgotten.
Spec:   RabbitMQ: a publish is mandatory and waits for its confirm; the rights and checks of AMQP.
"""

from __future__ import annotations

import base64
from dataclasses import fields
from typing import TYPE_CHECKING, Final, NamedTuple

from broker.amqp import content, properties
from broker.amqp.envelope import PublishRun, envelope_of
from broker.amqp.errors import ProtocolError
from broker.amqp.properties import Properties
from broker.amqp.spec import FRAME_OVERHEAD
from broker.management.call import Call
from broker.management.errors import bad_request
from broker.management.exchanges import exchange_of
from broker.management.http import Refused, Response, as_json, refusal
from broker.management.listing import Row, rows_answer
from broker.management.payload import shown_octets
from broker.management.queues import queue_of
from broker.management.routes import route
from broker.management.tables import shown
from broker.management.turns import Turns
from broker.model.errors import AccessRefused, PreconditionFailed
from broker.model.exchange import EXCHANGE, QUEUE, Exchange
from broker.model.message import Slice
from broker.model.queue import Queue
from broker.model.resource import spoken
from broker.model.user import Right
from broker.model.vhost import Vhost
from broker.node.metrics import Metrics
from broker.node.node import Node

if TYPE_CHECKING:
    from broker.management.schema import GetBody, PropertiesBody, PublishBody

# Contents are cut into frames as clients do it that take what the broker proposes.
_CHANNEL: Final = 1
_FRAME_MAX: Final = 131_072
_BODY_SIZE_MAX: Final = 20_000_000  # RabbitMQ's max_http_body_size
_COUNT_MAX: Final = 1000
_SIZE_MAX: Final = 16 * 1024 * 1024

# ---- publishing ----


@route("POST", "/api/exchanges/{vhost}/{exchange}/publish", body_size_max=_BODY_SIZE_MAX)
async def publish(call: Call) -> Response:
    from broker.management.schema import PublishBody

    vhost = call.vhost()
    exchange = exchange_of(call, vhost)
    turns = Turns()
    body = call.body(PublishBody)
    await turns.take_break()
    octets = _payload(body)
    await turns.take_break()
    call.check(Right.WRITE, EXCHANGE, exchange.name, vhost)
    run = _run(call, vhost, exchange, body, octets)
    if call.node.alarms.active:
        raise Refused(refusal(503, f"publishers wait: {call.node.alarms.reason}"))
    return await _carry_out(call.node, vhost, run)


def _payload(body: PublishBody) -> bytes:
    if body.payload_encoding == "string":
        return body.payload.encode()
    try:
        return base64.b64decode(body.payload, validate=True)
    except ValueError:
        raise bad_request("payload: expected base64") from None


def _run(call: Call, vhost: Vhost, exchange: Exchange, body: PublishBody, octets: bytes) -> PublishRun:
    """The message as one that a client sent. Raises what closes a channel of AMQP."""
    limit = call.api.options.message_size_max
    if len(octets) > limit:
        raise PreconditionFailed(f"message size {len(octets)} is larger than configured max size {limit}")
    if exchange.internal:
        raise AccessRefused(f"cannot publish to internal {spoken('exchange', exchange.name, vhost.name)}")
    raw = _encoded(body.properties)
    header_size = len(content.header_payload(raw, len(octets))) + FRAME_OVERHEAD
    if header_size > _FRAME_MAX:
        raise PreconditionFailed(
            f"the properties take a frame of {header_size} bytes, at most {_FRAME_MAX} are allowed"
        )
    facts = properties.facts_of(raw)
    if facts.expiration_problem:
        raise PreconditionFailed(facts.expiration_problem)
    user = call.user
    if facts.user_id not in (None, user.name) and "impersonator" not in user.tags:
        raise PreconditionFailed(
            f"user_id property set to '{facts.user_id}' but authenticated user was '{user.name}'"
        )
    if facts.asks_direct_reply:
        raise PreconditionFailed("fast reply consumer does not exist")
    envelope = envelope_of(_CHANNEL, _FRAME_MAX, exchange.name, body.routing_key, facts, mandatory=True)
    return PublishRun(envelope, [content.build(_CHANNEL, raw, octets, _FRAME_MAX)], len(octets))


def _encoded(body: PropertiesBody) -> bytes:
    given = {name: getattr(body, name) for name in type(body).model_fields}
    return properties.encode(Properties(**given))


async def _carry_out(node: Node, vhost: Vhost, run: PublishRun) -> Response:
    """Counted as what a client of AMQP publishes with confirms."""
    metrics = node.metrics
    published = node.publish(vhost, [run])
    metrics.messages_received += 1
    metrics.messages_received_confirm += 1
    if published.unroutable:
        metrics.messages_unroutable_returned += 1
    else:
        metrics.messages_routed += 1
    node.end_pass()
    if published.commit is not None:
        await node.flusher.durable(published.commit)
    if published.refused:
        raise bad_request("rejected: Unable to publish message. Check queue limits.")
    metrics.messages_confirmed += 1
    return as_json({"routed": not published.unroutable})


# ---- getting ----


class Got(NamedTuple):
    """A message that was taken, and how many were left behind it."""

    content: bytes
    exchange: str
    routing_key: str
    redelivered: bool
    left: int


@route("POST", "/api/queues/{vhost}/{queue}/get")
async def get(call: Call) -> Response:
    from broker.management.schema import GetBody

    vhost = call.vhost()
    queue = queue_of(call, vhost)
    body = call.body(GetBody)
    call.check(Right.READ, QUEUE, queue.name, vhost)
    found = _take(call.node, queue, body)
    call.node.mark(queue)
    call.node.end_pass()
    return rows_answer(_show(got, body) for got in found)


def _take(node: Node, queue: Queue, body: GetBody) -> list[Got]:
    """Take messages from the head, and then settle them as it was asked for."""
    acks = body.ackmode != "ack_requeue_false"
    now_ms = node.clock.now_ms()
    found: list[Got] = []
    pieces: list[Slice] = []
    size = 0
    while len(found) < min(body.count, _COUNT_MAX) and size < _SIZE_MAX:
        piece = queue.get(now_ms, acks=acks)
        _count(node.metrics, piece, acks)
        if piece is None:
            break
        envelope = piece.envelope
        got = Got(
            piece.contents[0],
            envelope.exchange,
            envelope.routing_key,
            piece.redelivered,
            queue.ready_count,
        )
        found.append(got)
        pieces.append(piece)
        size += piece.size
    if body.ackmode.endswith("requeue_true"):
        queue.requeue(pieces, now_ms)
    elif acks:
        for piece in pieces:
            queue.reject(piece)
    return found


def _count(metrics: Metrics, piece: Slice | None, acks: bool) -> None:
    if piece is None:
        metrics.messages_get_empty += 1
    elif acks:
        metrics.messages_delivered_get_manual_ack += 1
    else:
        metrics.messages_delivered_get_auto_ack += 1
    if piece is not None and piece.redelivered:
        metrics.messages_redelivered += 1


def _show(got: Got, body: GetBody) -> Row:
    octets = content.body_of(got.content)
    part = octets if body.truncate is None else octets[: body.truncate]
    payload, encoding = shown_octets(part, body.encoding)
    return {
        "payload_bytes": len(octets),
        "redelivered": got.redelivered,
        "exchange": got.exchange,
        "routing_key": got.routing_key,
        "message_count": got.left,
        "properties": _shown_properties(content.properties_of(got.content)),
        "payload": payload,
        "payload_encoding": encoding,
    }


def _shown_properties(raw: bytes) -> Row:
    """Those that are set. Nobody has looked into them before, and what cannot be read is not shown."""
    try:
        decoded = properties.decode(raw)
    except ProtocolError:
        return {}
    found = {field.name: shown(getattr(decoded, field.name)) for field in fields(decoded)}
    return {name: value for name, value in found.items() if value is not None}
