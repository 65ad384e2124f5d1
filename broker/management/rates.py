"""How fast things change: counters are looked at every five seconds, and the difference is a rate.

Flow:   `run` takes samples; views ask for the rates of a node, queue, topic, exchange, connection or channel.
Shape:  of each object the counters of the last sample and the rates between the last two.
Limits: no more than one sample of each object that is there and has ever counted anything; an object that
        has gone is forgotten with the next sample. No history is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from typing import Any, Final, Generic, TypeVar

import trio

from broker.management import runtime
from broker.management.held import Held, added, held_by, lengths, streams_in, totals_of
from broker.management.turns import Turns
from broker.model.exchange import Exchange
from broker.model.queue import Queue
from broker.node.metrics import Metrics
from broker.node.node import Node
from broker.node.partition import Partition
from broker.node.peers import ChannelSnapshot, ConnectionSnapshot, Peer
from broker.node.topics import Topic

INTERVAL_S: Final = 5.0

K = TypeVar("K")
Counts = tuple[int, ...]


class Samples(Generic[K]):
    """The last sample of objects of one kind, whose counters have these names."""

    def __init__(self, names: Sequence[str], *, rising: bool = False) -> None:
        """Counters that are `rising` never fall: one that has is another object under the same key."""
        self.names = tuple(names)
        self._rising = rising
        self._nothing: tuple[float, ...] = (0.0,) * len(self.names)
        self._last: dict[K, tuple[Counts, tuple[float, ...]]] = {}

    async def take(self, counted: Iterable[tuple[K, Counts]], seconds: float) -> None:
        """Sample everything there is; `seconds` is how long ago that was done last, 0 for never."""
        fresh: dict[K, tuple[Counts, tuple[float, ...]]] = {}
        turns = Turns()
        for key, counts in counted:
            await turns.take_break()
            before = self._last.get(key)
            if before is None and not any(counts):
                continue
            fresh[key] = counts, self._rates(before and before[0], counts, seconds)
        self._last = fresh

    def _rates(self, before: Counts | None, now: Counts, seconds: float) -> tuple[float, ...]:
        if before == now or not seconds:
            return self._nothing
        past = before or (0,) * len(now)
        if self._rising and any(count < old for count, old in zip(now, past, strict=True)):
            past = (0,) * len(now)
        return tuple([round((count - old) / seconds, 3) for count, old in zip(now, past, strict=True)])

    def details(self, key: K, counts: Counts) -> dict[str, Any]:
        """Each counter and, beside it, its rate, as RabbitMQ shows them."""
        last = self._last.get(key)
        rates = self._nothing if last is None else last[1]
        shown: dict[str, Any] = {}
        for name, count, rate in zip(self.names, counts, rates, strict=True):
            shown[name] = count
            shown[f"{name}_details"] = {"rate": rate}
        return shown

    def __len__(self) -> int:
        return len(self._last)


# ---- what is counted of what, under RabbitMQ's names ----

MESSAGES: Final = ("messages", "messages_ready", "messages_unacknowledged")
OCTETS: Final = ("recv_oct", "send_oct")

_NODE: Final = {
    "publish": "messages_received",
    "confirm": "messages_confirmed",
    "return_unroutable": "messages_unroutable_returned",
    "drop_unroutable": "messages_unroutable_dropped",
    "deliver": "messages_delivered_consume_manual_ack",
    "deliver_no_ack": "messages_delivered_consume_auto_ack",
    "get": "messages_delivered_get_manual_ack",
    "get_no_ack": "messages_delivered_get_auto_ack",
    "get_empty": "messages_get_empty",
    "redeliver": "messages_redelivered",
    "ack": "messages_acknowledged",
}
_CHURN: Final = {
    "connection_created": "connections_opened",
    "connection_closed": "connections_closed",
    "channel_created": "channels_opened",
    "channel_closed": "channels_closed",
    "queue_declared": "queues_declared",
    "queue_created": "queues_created",
    "queue_deleted": "queues_deleted",
}
_DELIVERED: Final = ("deliver", "deliver_no_ack", "get", "get_no_ack")


def node_counts(metrics: Metrics) -> Counts:
    found = asdict(metrics)
    counts = [found[name] for name in _NODE.values()]
    return (*counts, sum(found[_NODE[name]] for name in _DELIVERED))


def churn_counts(metrics: Metrics) -> Counts:
    found = asdict(metrics)
    return tuple([found[name] for name in _CHURN.values()])


def system_counts(node: Node) -> Counts:
    return (
        node.alarms.memory_used(),
        node.alarms.disk_free(),
        runtime.descriptors_used(),
        trio.lowlevel.current_statistics().tasks_living,
        runtime.collections(),
        runtime.context_switches(),
    )


SYSTEM: Final = ("mem_used", "disk_free", "fd_used", "proc_used", "gc_num", "context_switches")

QUEUE: Final = (
    "publish",
    "deliver",
    "deliver_no_ack",
    "get",
    "get_no_ack",
    "get_empty",
    "redeliver",
    "ack",
    "deliver_get",
)


def queue_counts(queue: Queue) -> Counts:
    found = queue.counters
    return (
        found.published,
        found.delivered,
        found.delivered_no_ack,
        found.got,
        found.got_no_ack,
        found.got_empty,
        found.redelivered,
        found.acknowledged,
        found.delivered + found.delivered_no_ack + found.got + found.got_no_ack,
    )


EXCHANGE: Final = ("publish_in", "publish_out")


def exchange_counts(exchange: Exchange) -> Counts:
    return exchange.messages_in, exchange.messages_out


RECORDS: Final = ("records_in", "octets_in", "octets_out", "records_delivered")


def partition_counts(one: Partition) -> Counts:
    found = one.traffic
    return found.records_in, found.octets_in, found.octets_out, found.delivered


async def topic_counts(topics: Iterable[Topic]) -> dict[Topic, Counts]:
    """Of all partitions of each, in turns."""
    found: dict[Topic, Counts] = {}
    turns = Turns()
    for topic in topics:
        records_in = octets_in = octets_out = delivered = 0
        for one in tuple(topic.partitions):
            await turns.take_break()
            traffic = one.traffic
            records_in += traffic.records_in
            octets_in += traffic.octets_in
            octets_out += traffic.octets_out
            delivered += traffic.delivered
        found[topic] = records_in, octets_in, octets_out, delivered
    return found


CHANNEL: Final = (
    "publish",
    "confirm",
    "return_unroutable",
    "deliver",
    "deliver_no_ack",
    "get",
    "get_no_ack",
    "redeliver",
    "ack",
    "deliver_get",
)


def channel_counts(channel: ChannelSnapshot) -> Counts:
    return (
        channel.published,
        channel.confirmed,
        channel.returned,
        channel.delivered,
        channel.delivered_no_ack,
        channel.got,
        channel.got_no_ack,
        channel.redelivered,
        channel.acknowledged,
        channel.delivered + channel.delivered_no_ack + channel.got + channel.got_no_ack,
    )


def octet_counts(connection: ConnectionSnapshot) -> Counts:
    return connection.received_octets, connection.sent_octets


class Rates:
    """The samples of everything."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._sampled_at: float | None = None
        self.node: Samples[str] = Samples((*_NODE, "deliver_get"))
        self.churn: Samples[str] = Samples(tuple(_CHURN))
        self.system: Samples[str] = Samples(SYSTEM)
        self.totals: Samples[str] = Samples(MESSAGES)
        """Of a virtual host, by its name; of all together, by nothing."""
        self.queues: Samples[Queue] = Samples(QUEUE)
        self.lengths: Samples[Queue | Topic] = Samples(MESSAGES)
        self.topics: Samples[Topic] = Samples(RECORDS)
        self.partitions: Samples[Partition] = Samples(RECORDS)
        self.exchanges: Samples[Exchange] = Samples(EXCHANGE)
        self.octets: Samples[Peer] = Samples(OCTETS)
        self.channels: Samples[tuple[Peer, int]] = Samples(CHANNEL, rising=True)

    async def run(self) -> None:
        """Forever."""
        while True:
            await self.sample()
            await trio.sleep(INTERVAL_S)

    async def sample(self) -> None:
        node = self._node
        now = trio.current_time()
        seconds = 0.0 if self._sampled_at is None else now - self._sampled_at
        self._sampled_at = now
        await self.node.take([("", node_counts(node.metrics))], seconds)
        await self.churn.take([("", churn_counts(node.metrics))], seconds)
        await self.system.take([("", system_counts(node))], seconds)
        vhosts = list(node.topology.vhosts.values())
        held = await held_by([topic for vhost in vhosts for topic in streams_in(node, vhost)])
        found = totals_of(vhosts, held)
        await self.totals.take([*found.items(), ("", added(found.values()))], seconds)
        queues = node.topology.queues()
        await self.queues.take(((queue, queue_counts(queue)) for queue in queues), seconds)
        await self._sample_topics(queues, held, seconds)
        exchanges = [exchange for vhost in vhosts for exchange in vhost.exchanges.values()]
        await self.exchanges.take(((exchange, exchange_counts(exchange)) for exchange in exchanges), seconds)
        await self._sample_peers(seconds)

    async def _sample_topics(
        self, queues: Iterable[Queue], held: Mapping[Topic, Held], seconds: float
    ) -> None:
        """And the lengths of all that AMQP calls queues, which topics are, too."""
        topics = self._node.topics.topics()
        counted: Iterator[tuple[Queue | Topic, Counts]] = chain(
            ((queue, lengths((queue,))) for queue in queues),
            ((topic, one.lengths) for topic, one in held.items()),
        )
        await self.lengths.take(counted, seconds)
        await self.topics.take((await topic_counts(topics)).items(), seconds)
        partitions = (one for topic in topics for one in tuple(topic.partitions))
        await self.partitions.take(((one, partition_counts(one)) for one in partitions), seconds)

    async def _sample_peers(self, seconds: float) -> None:
        connections: list[tuple[Peer, Counts]] = []
        channels: list[tuple[tuple[Peer, int], Counts]] = []
        turns = Turns()
        for peer in list(self._node.peers):
            await turns.take_break()
            snapshot = peer.snapshot()
            connections.append((peer, octet_counts(snapshot)))
            channels += [((peer, channel.number), channel_counts(channel)) for channel in snapshot.channels]
        await self.octets.take(connections, seconds)
        await self.channels.take(channels, seconds)
