"""The offsets that one consumer group has committed, and when they expire.

Flow:   the host checks the group (`Group.check_commit`), commits here, and writes what was committed,
        deleted and expired into its own log.
Limits: 4,096 octets of metadata an offset (Kafka: `offset.metadata.max.bytes`, which counts characters),
        a number of partitions, without precedent, and what the host has room for.
Spec:   Kafka's OffsetCommit, OffsetDelete, `offsets.retention.minutes`; KIP-211, KIP-496.
Why:    In Kafka an offset that a tool commits for a group that has long been empty expires with the old ones,
        perhaps minutes later; here its own time counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from broker.model.group_errors import GroupError, GroupRefused
from broker.model.group_limits import OFFSET_COST, TOPIC_COST, Room, text_size, unlimited

METADATA_SIZE_MAX: Final = 4_096
PARTITIONS_MAX: Final = 100_000

NO_EPOCH: Final = -1


@dataclass(slots=True, frozen=True)
class CommittedOffset:
    """`offset` is the next to be read; `metadata` whatever the client wanted to remember with it."""

    offset: int
    leader_epoch: int
    metadata: str
    commit_ms: int
    expire_ms: int | None = None
    """Asked for by an old client (OffsetCommit 2 to 4) instead of the common retention."""


@dataclass(slots=True, frozen=True)
class Retention:
    """Which offsets of a group may expire, and from when their time counts."""

    since_ms: int | None
    """When the group became empty; an offset committed later counts from its commit, with None each does."""
    subscribed: frozenset[str]
    """Offsets of these topics do not expire."""


class Committed:
    """By topic and partition."""

    __slots__ = ("_by_topic", "_count", "_metadata_size_max", "_partitions_max", "_room", "size")

    def __init__(
        self,
        *,
        metadata_size_max: int = METADATA_SIZE_MAX,
        partitions_max: int = PARTITIONS_MAX,
        room: Room = unlimited,
    ) -> None:
        self.size = 0
        """Octets that they take in memory, about."""
        self._by_topic: dict[str, dict[int, CommittedOffset]] = {}
        self._room = room
        self._count = 0
        self._metadata_size_max = metadata_size_max
        self._partitions_max = partitions_max

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[tuple[str, int, CommittedOffset]]:
        """All: topic, partition, offset."""
        for topic, partitions in self._by_topic.items():
            for partition, committed in partitions.items():
                yield topic, partition, committed

    def __contains__(self, topic: str) -> bool:
        """Something is committed of it."""
        return topic in self._by_topic

    @property
    def topics(self) -> list[str]:
        """Of which something is committed."""
        return list(self._by_topic)

    def get(self, topic: str, partition: int) -> CommittedOffset | None:
        return self._by_topic.get(topic, {}).get(partition)

    def check(self, topic: str, partition: int, metadata: str) -> None:
        """Could it be committed? Raises GroupRefused."""
        size = len(metadata.encode("utf-8", "surrogatepass"))
        if size > self._metadata_size_max:
            what = f"metadata of {size} octets for {topic}-{partition}; {self._metadata_size_max} are allowed"
            raise GroupRefused(GroupError.OFFSET_METADATA_TOO_LARGE, what)
        if self._count >= self._partitions_max and self.get(topic, partition) is None:
            what = f"offsets of {self._count} partitions are committed already"
            raise GroupRefused(GroupError.TOO_MANY_OFFSETS, what)
        more = self._growth(topic, partition, metadata)
        if 0 < more > self._room():
            what = f"{more} octets more for {topic}-{partition}, where all groups keep as much as they may"
            raise GroupRefused(GroupError.OFFSETS_TOO_LARGE, what)

    def _growth(self, topic: str, partition: int, metadata: str) -> int:
        """Octets that it would take beside what there is."""
        partitions = self._by_topic.get(topic)
        known = None if partitions is None else partitions.get(partition)
        more = text_size(metadata) + (OFFSET_COST if known is None else -text_size(known.metadata))
        return more if partitions is not None else more + TOPIC_COST + text_size(topic)

    def commit(self, topic: str, partition: int, committed: CommittedOffset) -> None:
        """Instead of what was committed before, also if that was further. Raises GroupRefused."""
        self.check(topic, partition, committed.metadata)
        self.restore(topic, partition, committed)

    def restore(self, topic: str, partition: int, committed: CommittedOffset) -> None:
        """What was committed once stays so, whatever the limits have become."""
        self.size += self._growth(topic, partition, committed.metadata)
        partitions = self._by_topic.setdefault(topic, {})
        self._count += partition not in partitions
        partitions[partition] = committed

    def delete(self, topic: str, partition: int) -> bool:
        """Was there anything? Whether it may be deleted the group has said."""
        partitions = self._by_topic.get(topic)
        gone = None if partitions is None else partitions.pop(partition, None)
        if partitions is None or gone is None:
            return False
        self._count -= 1
        self.size -= OFFSET_COST + text_size(gone.metadata)
        if not partitions:
            self._forget_topic(topic)
        return True

    def _forget_topic(self, topic: str) -> None:
        del self._by_topic[topic]
        self.size -= TOPIC_COST + text_size(topic)

    def delete_topic(self, topic: str) -> list[int]:
        """The partitions for which there was something."""
        gone = list(self._by_topic.get(topic, ()))
        for partition in gone:
            self.delete(topic, partition)
        return gone

    def clear(self) -> list[tuple[str, int]]:
        """What there was: topic, partition."""
        found = [(topic, partition) for topic, partition, _ in self]
        self._by_topic.clear()
        self._count = self.size = 0
        return found

    def expire(self, retention: Retention | None, retention_ms: int, now_ms: int) -> list[tuple[str, int]]:
        """Remove what is due: topic, partition. `retention` is what the group says of itself."""
        if retention is None:
            return []
        due = [
            (topic, partition)
            for topic, partition, committed in self
            if topic not in retention.subscribed and _is_due(committed, retention, retention_ms, now_ms)
        ]
        for topic, partition in due:
            self.delete(topic, partition)
        return due


def _is_due(committed: CommittedOffset, retention: Retention, retention_ms: int, now_ms: int) -> bool:
    if committed.expire_ms is not None:
        return now_ms >= committed.expire_ms
    return now_ms - max(committed.commit_ms, retention.since_ms or 0) >= retention_ms
