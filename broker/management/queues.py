"""Queues: list, show, declare, delete, purge.

Spec:   RabbitMQ's fields, as far as they can be true here: what nobody measures is left out. `messages_ram` and
        `message_bytes_ram` are of the messages that are ready. A topic is a queue here, too, of the type stream
        (`streams.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from broker.management import streams
from broker.management.call import NOBODY, Call
from broker.management.consumers import consumers_of
from broker.management.errors import bad_request, not_there
from broker.management.held import held_by, lengths, streams_in
from broker.management.http import Response
from broker.management.listing import Row, listed, shown_once
from broker.management.rates import Rates, queue_counts
from broker.management.routes import Needs, route
from broker.management.tables import shown
from broker.model.errors import NotImplementedHere
from broker.model.exchange import EXCHANGE, QUEUE
from broker.model.queue import Queue
from broker.model.resource import spoken
from broker.model.user import Right
from broker.model.vhost import Vhost
from broker.node.node import Node
from broker.node.streams import declare_queue, topic_of
from broker.node.topics import Topic


def key_of(queue: Queue | Topic) -> tuple[str, str]:
    return queue.vhost, queue.name


def queue_of(call: Call, vhost: Vhost) -> Queue:
    """The queue in the path, which can be emptied.

    Raises Refused if there is none, ResourceLocked if a connection has it alone, NotImplementedHere for a stream.
    """
    if call.name("queue") in vhost.topics:
        of = spoken(QUEUE, call.name("queue"), vhost.name)
        raise NotImplementedHere(f"{of} is a stream, which nothing is taken from; topics show their records")
    if call.name("queue") not in vhost.queues:
        raise not_there()
    return vhost.queue(call.name("queue"), NOBODY)


def _basics(node: Node, queue: Queue) -> Row:
    """What a queue is, whatever happens in it."""
    row: Row = {
        "name": queue.name,
        "vhost": queue.vhost,
        "type": "classic",
        "durable": queue.durable,
        "auto_delete": queue.auto_delete,
        "exclusive": queue.owner is not None,
        "arguments": shown(queue.arguments),
        "node": node.options.name,
        "state": "running",
        "policy": None,
        "operator_policy": None,
        "effective_policy_definition": {},
    }
    if queue.owner in node.peers:
        owner = queue.owner.snapshot()
        row["owner_pid_details"] = {
            "name": owner.name,
            "peer_host": owner.peer_host,
            "peer_port": owner.peer_port,
        }
    return row


def show(node: Node, rates: Rates, queue: Queue) -> Row:
    """A row of a list."""
    row = _basics(node, queue)
    row.update(rates.lengths.details(queue, lengths((queue,))))
    row.update(
        messages_ram=queue.resident_count,
        messages_ready_ram=queue.resident_count,
        message_bytes=queue.ready_size + queue.unacked_size,
        message_bytes_ready=queue.ready_size,
        message_bytes_unacknowledged=queue.unacked_size,
        message_bytes_ram=queue.resident_size,
        memory=queue.memory,
        consumers=len(queue.consumers),
        single_active_consumer_tag=None,
    )
    counts = queue_counts(queue)
    if any(counts):
        row["message_stats"] = rates.queues.details(queue, counts)
    return row


def _show_plain(node: Node, totals: bool, queue: Queue) -> Row:
    """Without statistics, or with nothing but the lengths."""
    row = _basics(node, queue)
    if totals:
        row["messages"], row["messages_ready"], row["messages_unacknowledged"] = lengths((queue,))
    return row


async def _view(call: Call, topics: Sequence[Topic]) -> Callable[[Queue | Topic], Row]:
    """How queues, and these streams, are shown."""
    node, rates = call.node, call.api.rates
    if call.flag("disable_stats"):
        totals = call.flag("enable_queue_totals")
        held = await held_by(topics) if totals else {}
        found = {topic: one.lengths for topic, one in held.items()}
        return lambda one: (
            streams.show_plain(node, found, one) if isinstance(one, Topic) else _show_plain(node, totals, one)
        )
    seen = await streams.seen_of(topics)
    return lambda one: (
        streams.show(node, rates, seen, one) if isinstance(one, Topic) else show(node, rates, one)
    )


@route("GET", "/api/queues")
@route("GET", "/api/queues/detailed")
@route("GET", "/api/queues/{vhost}")
async def list_queues(call: Call) -> Response:
    vhosts = call.vhosts()
    topics = [topic for vhost in vhosts for topic in streams_in(call.node, vhost)]
    view = await _view(call, topics)
    found: list[Queue | Topic] = [queue for vhost in vhosts for queue in vhost.queues.values()]
    found += topics
    return await listed(call.request.query, found, view, key_of)


@route("GET", "/api/queues/{vhost}/{queue}")
async def get_queue(call: Call) -> Response:
    vhost = call.vhost()
    topic = topic_of(call.node, vhost, call.name("queue"))
    queue = topic or vhost.queues.get(call.name("queue"))
    if queue is None:
        raise not_there()
    row = (await _view(call, [topic] if topic is not None else []))(queue)
    if call.flag("disable_stats"):
        return shown_once(call.request.query, row)
    consumers = await consumers_of(call.node, queue)
    row["consumer_details"] = consumers
    row["exclusive_consumer_tag"] = next(
        (consumer["consumer_tag"] for consumer in consumers if consumer["exclusive"]), None
    )
    row["deliveries"] = row["incoming"] = []
    return shown_once(call.request.query, row)


@route("PUT", "/api/queues/{vhost}/{queue}")
async def put_queue(call: Call) -> Response:
    from broker.management.schema import QueueBody

    vhost = call.vhost()
    name = call.new_name("queue")
    body = call.body(QueueBody)
    call.check(Right.CONFIGURE, QUEUE, name, vhost)
    letters = body.arguments.get("x-dead-letter-exchange")
    if isinstance(letters, str):
        call.check(Right.READ, QUEUE, name, vhost)
        call.check(Right.WRITE, EXCHANGE, letters, vhost)
    _, new = declare_queue(
        call.node, vhost, name, durable=body.durable, auto_delete=body.auto_delete, arguments=body.arguments
    )
    await call.declared()
    return Response(201 if new else 204)


@route("DELETE", "/api/queues/{vhost}/{queue}")
async def delete_queue(call: Call) -> Response:
    vhost = call.vhost()
    topic = topic_of(call.node, vhost, call.name("queue"))
    if topic is not None:
        call.check(Right.CONFIGURE, QUEUE, topic.name, vhost)
        if call.flag("if-unused") or call.flag("if-empty"):
            raise bad_request("a stream is deleted without if-unused and if-empty")
        call.node.topics.delete(topic)
        await call.declared()
        return Response(204)
    queue = queue_of(call, vhost)
    call.check(Right.CONFIGURE, QUEUE, queue.name, vhost)
    call.node.topology.delete_queue(
        vhost, queue, if_unused=call.flag("if-unused"), if_empty=call.flag("if-empty")
    )
    await call.declared()
    return Response(204)


@route("DELETE", "/api/queues/{vhost}/{queue}/contents")
async def purge_queue(call: Call) -> Response:
    vhost = call.vhost()
    queue = queue_of(call, vhost)
    call.check(Right.READ, QUEUE, queue.name, vhost)
    queue.purge()
    call.node.mark(queue)
    call.node.end_pass()
    return Response(204)


@route("POST", "/api/queues/{vhost}/{queue}/actions", Needs.ADMINISTRATOR)
async def act(call: Call) -> Response:
    """Synchronise mirrors, or stop that: there are none, and so nothing is left to do."""
    from broker.management.schema import QueueActionBody

    vhost = call.vhost()
    if call.name("queue") not in vhost.queues and call.name("queue") not in vhost.topics:
        raise not_there()
    call.body(QueueActionBody)
    return Response(204)
