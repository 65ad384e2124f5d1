"""What topics hold, and what all of a virtual host adds up to.

Limits: it is added up in turns, as there may be thousands of partitions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from broker.management.turns import Turns
from broker.model.queue import Queue
from broker.model.vhost import Vhost
from broker.node.node import Node
from broker.node.topics import Topic

Lengths = tuple[int, int, int]
"""All messages, those that are ready, and those that are out."""


class Held(NamedTuple):
    """What is in a topic."""

    records: int
    size: int
    memory: int

    @property
    def lengths(self) -> Lengths:
        """As a queue's: what is in a log is always ready."""
        return self.records, self.records, 0


async def held_by(topics: Sequence[Topic]) -> dict[Topic, Held]:
    """What is in each of them."""
    found = {}
    turns = Turns()
    for topic in topics:
        records = size = memory = 0
        for one in tuple(topic.partitions):
            await turns.take_break()
            records += one.high_watermark - one.start_offset
            size += one.size
            memory += one.memory
        found[topic] = Held(records, size, memory)
    return found


def lengths(queues: Iterable[Queue]) -> Lengths:
    """Of these together."""
    ready = unacked = 0
    for queue in queues:
        ready += queue.ready_count
        unacked += queue.unacked_count
    return ready + unacked, ready, unacked


def streams_in(node: Node, vhost: Vhost) -> list[Topic]:
    """The topics that AMQP may call queues."""
    found = (node.topics.find(vhost.name, name) for name in vhost.topics)
    return [topic for topic in found if topic is not None]


async def totals(node: Node, vhosts: Iterable[Vhost]) -> dict[str, Lengths]:
    """Of the queues and the streams of each virtual host, by its name."""
    vhosts = list(vhosts)
    return totals_of(vhosts, await held_by([topic for vhost in vhosts for topic in streams_in(node, vhost)]))


def totals_of(vhosts: Sequence[Vhost], held: Mapping[Topic, Held]) -> dict[str, Lengths]:
    """The same where it is known what the streams hold."""
    records = {vhost.name: 0 for vhost in vhosts}
    for topic, one in held.items():
        records[topic.vhost] += one.records
    found = {}
    for vhost in vhosts:
        whole, ready, unacked = lengths(vhost.queues.values())
        more = records[vhost.name]
        found[vhost.name] = whole + more, ready + more, unacked
    return found


def added(several: Iterable[Lengths]) -> Lengths:
    """All of them together."""
    whole = ready = unacked = 0
    for one in several:
        whole, ready, unacked = whole + one[0], ready + one[1], unacked + one[2]
    return whole, ready, unacked
