"""Topics: list, show, make, change, delete; and their partitions.

Flow:   as Kafka's admin requests, all of it goes to the node's topics.
Limits: what a topic holds is added up in turns (`held.py`), as there may be thousands of partitions.
Spec:   ours, in the manner of RabbitMQ's queues. `records` are the offsets from the start to the end: after
        compaction there may be fewer. Sizes are octets, times milliseconds since 1970. `record_stats` counts since
        the broker started, with rates beside it; what Kafka's consumers fetch it counts in octets only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from broker.management.call import Call, whole
from broker.management.errors import not_there
from broker.management.http import Response
from broker.management.listing import Row, listed, shown_once
from broker.management.rates import Rates, partition_counts
from broker.management.routes import route
from broker.management.streams import Seen, seen_of
from broker.model.errors import NotAllowed
from broker.model.producer import ProducerSnapshot
from broker.model.topic import CONFIGS, check_configs, value_of
from broker.model.user import Right
from broker.model.vhost import Vhost
from broker.node.node import Node
from broker.node.partition import Partition
from broker.node.portions import Portions
from broker.node.topics import MADE_AT_ONCE, Topic

if TYPE_CHECKING:
    from broker.management.schema import TopicBody

TOPIC: Final = "topic"


def key_of(topic: Topic) -> tuple[str, str]:
    return topic.vhost, topic.name


def topic_of(call: Call, vhost: Vhost) -> Topic:
    """The topic in the path. Raises Refused if there is none."""
    topic = call.node.topics.find(vhost.name, call.name("topic"))
    if topic is None:
        raise not_there()
    return topic


def partition_of(call: Call, topic: Topic) -> Partition:
    """The partition in the path. Raises Refused or UnknownTopic if there is none."""
    number = whole(call.name("partition"))
    if number is None:
        raise not_there()
    return topic.partition(number)


def check_not_internal(topic: Topic) -> None:
    """Raises NotAllowed for a topic in which the broker keeps something."""
    if topic.internal:
        raise NotAllowed(f"topic '{topic.name}' is the broker's own")


def show(node: Node, rates: Rates, seen: Seen | None, topic: Topic) -> Row:
    """A row of a list; what a topic holds and counts is in it if that is known."""
    row: Row = {
        "name": topic.name,
        "vhost": topic.vhost,
        "node": node.options.name,
        "id": topic.spoken_id,
        "internal": topic.internal,
        "partitions": len(topic.partitions),
        "replication_factor": 1,
        "configs": topic.configs,
    }
    if seen is not None:
        held = seen.held[topic]
        row["records"], row["size"] = held.records, held.size
        row["record_stats"] = rates.topics.details(topic, seen.counts[topic])
    return row


async def _seen(call: Call, topics: Sequence[Topic]) -> Seen | None:
    if call.flag("disable_stats"):
        return None
    return await seen_of(topics)


@route("GET", "/api/topics")
@route("GET", "/api/topics/{vhost}")
async def list_topics(call: Call) -> Response:
    topics = [topic for vhost in call.vhosts() for topic in call.node.topics.topics(vhost.name)]
    view = partial(show, call.node, call.api.rates, await _seen(call, topics))
    return await listed(call.request.query, topics, view, key_of)


@route("GET", "/api/topics/{vhost}/{topic}")
async def get_topic(call: Call) -> Response:
    """With every configuration's value, given or not."""
    topic = topic_of(call, call.vhost())
    row = show(call.node, call.api.rates, await _seen(call, [topic]), topic)
    row["effective_configs"] = {name: value_of(topic.configs, name) for name in CONFIGS}
    return shown_once(call.request.query, row)


@route("PUT", "/api/topics/{vhost}/{topic}")
async def put_topic(call: Call) -> Response:
    """Make it, or make it so: configurations that the body does not name go back to their defaults."""
    from broker.management.schema import TopicBody

    vhost = call.vhost()
    name = call.name("topic")
    body = call.body(TopicBody)
    call.check(Right.CONFIGURE, TOPIC, name, vhost)
    topics = call.node.topics
    await topics.settled(vhost.name, name)
    topic = topics.find(vhost.name, name)
    if topic is None:
        portions = Portions(MADE_AT_ONCE)
        await topics.create_in_portions(
            portions, vhost.name, name, body.partitions or 1, configs=body.configs
        )
    else:
        await _change(call.node, topic, body)
    await call.declared()
    return Response(201 if topic is None else 204)


async def _change(node: Node, topic: Topic, body: TopicBody) -> None:
    """All of it or, raising what the model refuses, nothing."""
    check_not_internal(topic)
    more = body.partitions if body.partitions != len(topic.partitions) else None
    if more is not None:
        node.topics.check_more(topic, more)
    if body.configs is not None:
        check_configs(body.configs)
        node.topics.configure(topic, body.configs)
    if more is not None:
        await node.topics.add_partitions(Portions(MADE_AT_ONCE), topic, more)


@route("DELETE", "/api/topics/{vhost}/{topic}")
async def delete_topic(call: Call) -> Response:
    vhost = call.vhost()
    topic = topic_of(call, vhost)
    call.check(Right.CONFIGURE, TOPIC, topic.name, vhost)
    call.node.topics.delete(topic)
    await call.declared()
    return Response(204)


# ---- partitions ----


def _show_partition(rates: Rates | None, one: Partition) -> Row:
    """Without rates, without what is counted either."""
    row: Row = {
        "partition": one.number,
        "start_offset": one.start_offset,
        "high_watermark": one.high_watermark,
        "size": one.size,
        "segments": len(one.log.segments),
        "last_timestamp": one.largest_time,
        "producers": len(one.producers),
    }
    if rates is not None:
        row["record_stats"] = rates.partitions.details(one, partition_counts(one))
    return row


def _view_of_partitions(call: Call) -> Callable[[Partition], Row]:
    return partial(_show_partition, None if call.flag("disable_stats") else call.api.rates)


def _order(one: Partition) -> tuple[str]:
    return (f"{one.number:010}",)


@route("GET", "/api/topics/{vhost}/{topic}/partitions")
async def list_partitions(call: Call) -> Response:
    topic = topic_of(call, call.vhost())
    return await listed(call.request.query, tuple(topic.partitions), _view_of_partitions(call), _order)


@route("GET", "/api/topics/{vhost}/{topic}/partitions/{partition}")
async def get_partition(call: Call) -> Response:
    one = partition_of(call, topic_of(call, call.vhost()))
    return shown_once(call.request.query, _view_of_partitions(call)(one))


def _show_producer(one: ProducerSnapshot) -> Row:
    return {
        "producer_id": one.producer_id,
        "producer_epoch": one.epoch,
        "last_sequence": one.last_sequence,
        "last_timestamp": one.last_timestamp,
    }


@route("GET", "/api/topics/{vhost}/{topic}/partitions/{partition}/producers")
async def list_producers(call: Call) -> Response:
    """The idempotent ones that are remembered."""
    found = partition_of(call, topic_of(call, call.vhost())).producers.describe()
    return await listed(call.request.query, found, _show_producer, lambda one: (f"{one.producer_id:020}",))
