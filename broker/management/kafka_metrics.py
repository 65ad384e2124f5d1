"""Metrics of topics and consumer groups, under the names that Kafka's dashboards know.

Flow:   `families` are what a topic or a group adds up to; `each_partition` are the lines for each of their
        partitions, which are made while they are sent.
Limits: whatever walks over many partitions does so in turns.
Spec:   kafka_exporter's names; kafka-lag-exporter's where they say more; those that Strimzi's rules make of Kafka's
        own beans. Topics have the label `vhost` besides, as two may have the same name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import repeat
from typing import Final, NamedTuple

from broker.management.call import Call
from broker.management.exposition import Family, Sample, counter, each, gauge, head, labelled
from broker.management.lag import PartitionLag, summary
from broker.management.turns import Turns
from broker.node.metrics import Metrics
from broker.node.partition import Partition

Lags = Mapping[str, Sequence[PartitionLag]]

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


async def families(call: Call, lags: Lags) -> list[Family]:
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
        *await _groups(call, lags),
    ]


async def _groups(call: Call, lags: Lags) -> list[Family]:
    members: list[Sample] = []
    rebalances: list[Sample] = []
    offset_sums: list[Sample] = []
    lag_sums: list[Sample] = []
    wholes: tuple[list[Sample], list[Sample], list[Sample]] = [], [], []
    turns = Turns()
    for hosted in call.node.groups.all():
        await turns.take_break()
        name = hosted.group.group_id
        labels = {"consumergroup": name}
        members.append(Sample(len(hosted.group), labels))
        rebalances.append(Sample(hosted.rebalances, labels))
        found = lags.get(name, ())
        for topic, (offsets, lag) in _by_topic(found).items():
            offset_sums.append(Sample(offsets, {**labels, "topic": topic}))
            lag_sums.append(Sample(lag, {**labels, "topic": topic}))
        whole = summary(found)
        labels = {"cluster_name": call.api.options.cluster_name, "group": name}
        for samples, value in zip(wholes, (whole.sum, whole.max, whole.max_ms / 1000), strict=True):
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


def _by_topic(lags: Sequence[PartitionLag]) -> dict[str, tuple[int, int]]:
    """Committed offsets and lags, added up."""
    found: dict[str, tuple[int, int]] = {}
    for one in lags:
        offsets, lag = found.get(one.topic, (0, 0))
        found[one.topic] = offsets + one.committed.offset, lag + one.lag
    return found


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


async def each_partition(call: Call, lags: Lags) -> Iterator[str]:
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
    ours: list[str] = []
    theirs: list[str] = []
    found: list[PartitionLag] = []
    cluster = call.api.options.cluster_name
    for group, of_group in lags.items():
        for lag in of_group:
            await turns.take_break()
            place = {"topic": lag.topic, "partition": str(lag.number)}
            ours.append(labelled({"consumergroup": group, **place}))
            theirs.append(labelled({"cluster_name": cluster, "group": group, **place}))
            found.append(lag)
    return _lines(call.api.options.kafka_node_id, labels, partitions, ours, theirs, found)


def _lines(
    node_id: int,
    labels: Sequence[str],
    partitions: Sequence[Partition],
    ours: Sequence[str],
    theirs: Sequence[str],
    lags: Sequence[PartitionLag],
) -> Iterator[str]:
    for entry in _OF_PARTITIONS:
        yield head(entry.name, "gauge", entry.help)
        yield from each(entry.name, labels, map(entry.value, partitions))
    name = "kafka_topic_partition_leader"
    yield head(name, "gauge", "The leader's number")
    yield from each(name, labels, repeat(node_id, len(labels)))
    name = "kafka_consumergroup_current_offset"
    yield head(name, "gauge", "What the group has committed")
    yield from each(name, ours, (lag.committed.offset for lag in lags))
    name = "kafka_consumergroup_lag"
    yield head(name, "gauge", "Records that the group has not consumed yet")
    yield from each(name, ours, (lag.lag for lag in lags))
    name = "kafka_consumergroup_group_lag_seconds"
    yield head(name, "gauge", "The age of the first record that the group has not consumed yet")
    yield from each(name, theirs, (None if lag.lag_ms is None else lag.lag_ms / 1000 for lag in lags))
