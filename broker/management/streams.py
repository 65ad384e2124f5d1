"""Topics as AMQP sees them: queues of the type stream.

Why:    Every topic may be declared, bound, published to and consumed as a stream, so that whoever knows RabbitMQ looks
        for it among the queues. How it is configured and what is in its partitions is shown among the topics.
Spec:   RabbitMQ's fields of streams. `message_bytes` are those that lie on the disk, as they may be compressed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from broker.management.held import Held, Lengths, held_by
from broker.management.listing import Row
from broker.management.rates import Counts, Rates, topic_counts
from broker.model.arguments import STREAM
from broker.node.node import Node
from broker.node.topics import Topic


class Seen(NamedTuple):
    """What was found out of topics, to be shown."""

    held: Mapping[Topic, Held]
    counts: Mapping[Topic, Counts]


async def seen_of(topics: Sequence[Topic]) -> Seen:
    return Seen(await held_by(topics), await topic_counts(topics))


def basics(node: Node, topic: Topic) -> Row:
    """What a stream is, whatever happens in it."""
    return {
        "name": topic.name,
        "vhost": topic.vhost,
        "type": STREAM,
        "durable": True,
        "auto_delete": False,
        "exclusive": False,
        "arguments": {"x-queue-type": STREAM},
        "node": node.options.name,
        "leader": node.options.name,
        "members": [node.options.name],
        "online": [node.options.name],
        "state": "running",
        "policy": None,
        "operator_policy": None,
        "effective_policy_definition": {},
    }


def show(node: Node, rates: Rates, seen: Seen, topic: Topic) -> Row:
    """A row of a list."""
    held, counts = seen.held[topic], seen.counts[topic]
    row = basics(node, topic)
    row.update(rates.lengths.details(topic, held.lengths))
    row.update(
        message_bytes=held.size,
        message_bytes_ready=held.size,
        message_bytes_unacknowledged=0,
        memory=held.memory,
        consumers=len(topic.readers),
        single_active_consumer_tag=None,
    )
    if any(counts):
        row["message_stats"] = _message_stats(rates.topics.details(topic, counts))
    return row


def _message_stats(counted: Row) -> Row:
    """Of what is counted of a topic, what RabbitMQ has a name for."""
    names = {"publish": "records_in", "deliver_get": "records_delivered"}
    return {
        f"{name}{more}": counted[f"{ours}{more}"] for name, ours in names.items() for more in ("", "_details")
    }


def show_plain(node: Node, found: Mapping[Topic, Lengths], topic: Topic) -> Row:
    """Without statistics, or with nothing but the lengths."""
    row = basics(node, topic)
    if topic in found:
        row["messages"], row["messages_ready"], row["messages_unacknowledged"] = found[topic]
    return row
