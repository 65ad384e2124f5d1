"""How far consumer groups are behind.

Flow:   views ask for the lags of groups; what each has committed is held against its partitions, in turns.
Limits: the times of 65,536 records are remembered, so that a group that stands still costs no reading.
Spec:   kafka_exporter and kafka-lag-exporter: the lag is what lies between the committed offset, or the start of
        the partition if that is behind it, and the high watermark. In time it is the age of the first record that
        was not consumed, or of the newest one in its batch; 0 where nothing is left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from broker.management.turns import Turns
from broker.model.committed import CommittedOffset
from broker.node.hosted import Hosted
from broker.node.node import Node
from broker.node.partition import Partition

_TIMES_MAX: Final = 65_536


class PartitionLag(NamedTuple):
    """Of one group on one partition; times in milliseconds."""

    topic: str
    number: int
    committed: CommittedOffset
    start: int
    end: int
    lag: int
    lag_ms: int | None
    """None if the record has no time."""


class OnTopic(NamedTuple):
    """Of one group on one topic: committed offsets and lags, added up."""

    committed: int = 0
    lag: int = 0


@dataclass(slots=True)
class Behind:
    """Of one group on all its partitions."""

    lag: int = 0
    max_lag: int = 0
    max_lag_ms: int = 0
    topics: dict[str, OnTopic] = field(default_factory=dict)

    def add(self, one: PartitionLag) -> None:
        self.lag += one.lag
        self.max_lag = max(self.max_lag, one.lag)
        self.max_lag_ms = max(self.max_lag_ms, one.lag_ms or 0)
        before = self.topics.get(one.topic, _NOTHING)
        self.topics[one.topic] = OnTopic(before.committed + one.committed.offset, before.lag + one.lag)


_NOTHING: Final = OnTopic()


class Lags:
    """Finds them out."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._times: dict[tuple[int, int], int] = {}
        """By a log's number and an offset."""

    async def of(self, groups: Iterable[Hosted]) -> dict[str, list[PartitionLag]]:
        """Of each group, by its name: one for each partition of which something was committed."""
        found: dict[str, list[PartitionLag]] = {}
        turns = Turns()
        for hosted in groups:
            lags: list[PartitionLag] = []
            found[hosted.group.group_id] = lags
            await self._walk(hosted, lags.append, turns)
        return found

    async def behind(self, groups: Iterable[Hosted]) -> dict[str, Behind]:
        """The same, added up for each group."""
        found: dict[str, Behind] = {}
        turns = Turns()
        for hosted in groups:
            sums = found[hosted.group.group_id] = Behind()
            await self._walk(hosted, sums.add, turns)
        return found

    async def _walk(self, hosted: Hosted, take: Callable[[PartitionLag], None], turns: Turns) -> None:
        for topic, number, committed in list(hosted.committed):
            await turns.take_break()
            lag = self._lag(topic, number, committed)
            if lag is not None:
                take(lag)

    def _lag(self, topic: str, number: int, committed: CommittedOffset) -> PartitionLag | None:
        found = self._node.topics.find(self._node.options.groups.vhost, topic)
        if found is None or not 0 <= number < len(found.partitions) or committed.offset < 0:
            return None
        one = found.partitions[number]
        start, end = one.start_offset, one.high_watermark
        first = max(committed.offset, start)
        lag = max(end - first, 0)
        return PartitionLag(topic, number, committed, start, end, lag, self._age_ms(one, first) if lag else 0)

    def _age_ms(self, one: Partition, offset: int) -> int | None:
        key = one.log.id, offset
        time = self._times.get(key)
        if time is None:
            time = one.time_of(offset)
            if time is None or time < 0:
                return None
            if len(self._times) >= _TIMES_MAX:
                self._times.clear()
            self._times[key] = time
        return max(self._node.clock.now_ms() - time, 0)
