"""What tools show beside a topic's configurations: a sentence for each, and the broker's name for its default.

Spec:   The names are Kafka's; those without one have no default that a broker of Kafka could be told.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

NO_EFFECT: Final = " Accepted, as tools set it; it has no effect in this broker."

DOCUMENTATION: Final[Mapping[str, str]] = {
    "cleanup.policy": "What becomes of old records: delete lets segments go by age and size, compact keeps the newest "
    "record of each key. Both may be given; without either, all records stay.",
    "compression.type": "How batches are compressed. They are kept as their producer sent them.",
    "delete.retention.ms": "How long a record without a value stays after compaction, so that consumers see it.",
    "file.delete.delay.ms": "How long a file stays after it was given up.",
    "flush": "sync: a batch is acknowledged when it is on the disk. os: when the operating system has it.",
    "flush.messages": "After how many records the log is synced.",
    "flush.ms": "After how much time the log is synced.",
    "follower.replication.throttled.replicas": "Replicas whose followers are slowed down.",
    "index.interval.bytes": "How many octets of log there are to an entry of its index.",
    "leader.replication.throttled.replicas": "Replicas whose leaders are slowed down.",
    "local.retention.bytes": "How much of a partition is kept here when the rest is in remote storage.",
    "local.retention.ms": "How long records are kept here when they are in remote storage.",
    "max.compaction.lag.ms": "After how much time at most a record is compacted.",
    "max.message.bytes": "How many octets a batch of records may have, as it comes.",
    "message.timestamp.after.max.ms": "How far ahead of the broker's time a record's time may be.",
    "message.timestamp.before.max.ms": "How far behind the broker's time a record's time may be.",
    "message.timestamp.type": "CreateTime: records keep their producer's time. LogAppendTime: they get the broker's.",
    "min.cleanable.dirty.ratio": "Which share of a log is new when it is compacted.",
    "min.compaction.lag.ms": "How long a record is not compacted at least.",
    "min.insync.replicas": "How many replicas must have a batch before it is acknowledged.",
    "preallocate": "Whether files get their full size when they are made.",
    "remote.storage.enable": "Whether old segments go to remote storage.",
    "retention.bytes": "How many octets a partition keeps; the oldest segments go first. -1 is no limit.",
    "retention.ms": "How long records are kept. -1 is for ever.",
    "segment.bytes": "How large a segment grows before a new one begins; more than 1 GiB is taken as 1 GiB.",
    "segment.index.bytes": "How large an index may be.",
    "segment.jitter.ms": "By how much time at random segments end earlier.",
    "segment.ms": "After how much time a new segment begins, even if the last one is not full.",
    "unclean.leader.election.enable": "Whether a replica that is behind may become the leader.",
}

BROKER_NAMES: Final[Mapping[str, str]] = {
    "cleanup.policy": "log.cleanup.policy",
    "compression.type": "compression.type",
    "delete.retention.ms": "log.cleaner.delete.retention.ms",
    "file.delete.delay.ms": "log.segment.delete.delay.ms",
    "flush.messages": "log.flush.interval.messages",
    "flush.ms": "log.flush.interval.ms",
    "index.interval.bytes": "log.index.interval.bytes",
    "local.retention.bytes": "log.local.retention.bytes",
    "local.retention.ms": "log.local.retention.ms",
    "max.compaction.lag.ms": "log.cleaner.max.compaction.lag.ms",
    "max.message.bytes": "message.max.bytes",
    "message.timestamp.after.max.ms": "log.message.timestamp.after.max.ms",
    "message.timestamp.before.max.ms": "log.message.timestamp.before.max.ms",
    "message.timestamp.type": "log.message.timestamp.type",
    "min.cleanable.dirty.ratio": "log.cleaner.min.cleanable.ratio",
    "min.compaction.lag.ms": "log.cleaner.min.compaction.lag.ms",
    "min.insync.replicas": "min.insync.replicas",
    "preallocate": "log.preallocate",
    "retention.bytes": "log.retention.bytes",
    "retention.ms": "log.retention.ms",
    "segment.bytes": "log.segment.bytes",
    "segment.index.bytes": "log.index.size.max.bytes",
    "segment.jitter.ms": "log.roll.jitter.ms",
    "segment.ms": "log.roll.ms",
    "unclean.leader.election.enable": "unclean.leader.election.enable",
}
