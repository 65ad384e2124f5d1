"""Metrics of topics and consumer groups, under the names that Kafka's dashboards know.

Flow:   `families` are what a topic or a group adds up to; `each_partition` are the lines for each of their
        partitions, which are made while they are sent.
Limits: whatever walks over many partitions does so in turns.
Spec:   kafka_exporter's names; kafka-lag-exporter's where they say more; those that Strimzi's rules make of Kafka's
        own beans. Topics have the label `vhost` besides, as two may have the same name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, repeat
from typing import Final, NamedTuple

from broker.management.call import Call
from broker.management.exposition import Family, Sample, counter, each, escaped, gauge, head, labelled
from broker.management.lag import PartitionLag
from broker.management.turns import Turns
from broker.node.metrics import Metrics
from broker.node.partition import Partition

_REPLICAS: Final = 1


def _counters(metrics: Metrics) -> list[Family]:
    counted = (
        ("messagesin", "Records that producers sent", metrics.records_received),
        ("bytesin", "Octets of batches that producers sent", metrics.record_octets_received),
        ("bytesout", "Octets of batches that consumers fetched", metrics.record_octets_sent),
        ("totalproducerequests", "Requests to produce", metrics.produce_requests),
        ("totalfetchrequests", "Requests to fetch", metrics.fetch_requests),
    )
    return [
        counter(f"kafka_server_brokertopicmetrics_{name}", help, Sample(value))
        for name, help, value in counted
    ]


async def families(call: Call) -> list[Family]:
    """Counters, topics and groups."""
    topics = [
        Sample(len(topic.partitions), {"vhost": topic.vhost, "topic": topic.name})
        for topic in call.node.topics.topics()
    ]
    return [
        *_counters(call.node.metrics),
        gauge("kafka_brokers", "Brokers in the cluster", Sample(1)),
        gauge("kafka_topic_partitions", "Partitions of the topic", *topics),
        counter(
            "kafka_coordinator_group_rebalances",
            "Generations of all consumer groups that have begun",
            Sample(call.node.groups.rebalances),
        ),
        *await _groups(call),
    ]


async def _groups(call: Call) -> list[Family]:
    members: list[Sample] = []
    rebalances: list[Sample] = []
    offset_sums: list[Sample] = []
    lag_sums: list[Sample] = []
    wholes: tuple[list[Sample], list[Sample], list[Sample]] = [], [], []
    groups = call.node.groups.all()
    behind = await call.api.lags.behind(groups)
    turns = Turns()
    for hosted in groups:
        await turns.take_break()
        name = hosted.group.group_id
        labels = {"consumergroup": name}
        members.append(Sample(len(hosted.group), labels))
        rebalances.append(Sample(hosted.rebalances, labels))
        for topic, of_topic in behind[name].topics.items():
            offset_sums.append(Sample(of_topic.committed, {**labels, "topic": topic}))
            lag_sums.append(Sample(of_topic.lag, {**labels, "topic": topic}))
        whole = behind[name]
        labels = {"cluster_name": call.node.cluster.name, "group": name}
        values = whole.lag, whole.max_lag, whole.max_lag_ms / 1000
        for samples, value in zip(wholes, values, strict=True):
            samples.append(Sample(value, labels))
    sums, most, most_s = wholes
    return [
        gauge("kafka_consumergroup_members", "Members of the group", *members),
        counter("kafka_consumergroup_rebalances", "Generations that have begun", *rebalances),
        gauge("kafka_consumergroup_current_offset_sum", "What was committed, added up", *offset_sums),
        gauge("kafka_consumergroup_lag_sum", "Records not consumed yet, of the topic", *lag_sums),
        gauge("kafka_consumergroup_group_sum_lag", "Records not consumed yet, of all topics", *sums),
        gauge("kafka_consumergroup_group_max_lag", "The most of a partition not consumed yet", *most),
        gauge("kafka_consumergroup_group_max_lag_seconds", "The age of the oldest not consumed", *most_s),
    ]


# ---- partitions ----


class _OfPartition(NamedTuple):
    name: str
    help: str
    value: Callable[[Partition], int]


_OF_PARTITIONS: Final = (
    _OfPartition(
        "kafka_topic_partition_current_offset", "The high watermark", lambda one: one.high_watermark
    ),
    _OfPartition(
        "kafka_topic_partition_oldest_offset", "The first offset that is there", lambda one: one.start_offset
    ),
    _OfPartition("kafka_topic_partition_replicas", "Replicas", lambda one: _REPLICAS),
    _OfPartition("kafka_topic_partition_in_sync_replica", "Replicas in sync", lambda one: _REPLICAS),
    _OfPartition("kafka_topic_partition_leader_is_preferred", "1 if the leader should be", lambda one: 1),
    _OfPartition("kafka_topic_partition_under_replicated_partition", "1 if replicas lag", lambda one: 0),
    _OfPartition("kafka_log_log_size", "Octets of the log", lambda one: one.size),
)


async def each_partition(call: Call) -> Iterator[str]:
    """The lines of every partition, and of every group on it."""
    labels: list[str] = []
    partitions: list[Partition] = []
    turns = Turns()
    for topic in call.node.topics.topics():
        for one in tuple(topic.partitions):
            await turns.take_break()
            names = {"vhost": topic.vhost, "topic": topic.name, "partition": str(one.number)}
            labels.append(labelled(names))
            partitions.append(one)
    lags = await call.api.lags.of(call.node.groups.all())
    return chain(
        _lines_of_partitions(call.api.options.kafka_node_id, labels, partitions),
        _lines_of_groups(call.node.cluster.name, lags),
    )


def _lines_of_partitions(
    node_id: int, labels: Sequence[str], partitions: Sequence[Partition]
) -> Iterator[str]:
    for entry in _OF_PARTITIONS:
        yield head(entry.name, "gauge", entry.help)
        yield from each(entry.name, labels, map(entry.value, partitions))
    name = "kafka_topic_partition_leader"
    yield head(name, "gauge", "The leader's number")
    yield from each(name, labels, repeat(node_id, len(labels)))


class _OfGroup(NamedTuple):
    name: str
    help: str
    labels: tuple[str, ...]
    value: Callable[[PartitionLag], float | None]


def _seconds(lag: PartitionLag) -> float | None:
    return None if lag.lag_ms is None else lag.lag_ms / 1000


_EXPORTER: Final = ("consumergroup",)
_LAG_EXPORTER: Final = ("cluster_name", "group")
_OF_GROUPS: Final = (
    _OfGroup(
        "kafka_consumergroup_current_offset",
        "What the group has committed",
        _EXPORTER,
        lambda lag: lag.committed.offset,
    ),
    _OfGroup(
        "kafka_consumergroup_lag",
        "Records that the group has not consumed yet",
        _EXPORTER,
        lambda lag: lag.lag,
    ),
    _OfGroup(
        "kafka_consumergroup_group_lag_seconds",
        "The age of the first record that the group has not consumed yet",
        _LAG_EXPORTER,
        _seconds,
    ),
)


def _lines_of_groups(cluster: str, lags: dict[str, list[PartitionLag]]) -> Iterator[str]:
    """Labels are made anew for each name, as all of them would be much memory; to let go of much takes time, too."""
    for entry in _OF_GROUPS:
        yield head(entry.name, "gauge", entry.help)
        is_last = entry is _OF_GROUPS[-1]
        for group in list(lags):
            found = lags.pop(group) if is_last else lags[group]
            known = labelled({name: cluster if name == "cluster_name" else group for name in entry.labels})
            labels = (f'{known},topic="{escaped(lag.topic)}",partition="{lag.number}"' for lag in found)
            yield from each(entry.name, labels, map(entry.value, found))
