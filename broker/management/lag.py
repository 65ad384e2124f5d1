"""How far consumer groups are behind.

Flow:   views ask for the lags of groups; what each has committed is held against its partitions, in turns.
Limits: the times of 65,536 records are remembered, so that a group that stands still costs no reading.
Spec:   kafka_exporter and kafka-lag-exporter: the lag is what lies between the committed offset, or the start of
        the partition if that is behind it, and the high watermark. In time it is the age of the first record that
        was not consumed, or of the newest one in its batch; 0 where nothing is left.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from broker.management.turns import Turns
from broker.model.committed import CommittedOffset
from broker.node.groups import Hosted
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


class Summary(NamedTuple):
    """Of one group on all its partitions."""

    sum: int
    max: int
    max_ms: int


def summary(lags: Iterable[PartitionLag]) -> Summary:
    total = most = most_ms = 0
    for one in lags:
        total += one.lag
        most = max(most, one.lag)
        most_ms = max(most_ms, one.lag_ms or 0)
    return Summary(total, most, most_ms)


class Lags:
    """Finds them out."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._times: dict[tuple[int, int], int] = {}
        """By a log's number and an offset."""

    async def of(self, groups: Sequence[Hosted]) -> dict[str, list[PartitionLag]]:
        """Of each group, by its name: one for each partition of which something was committed."""
        found: dict[str, list[PartitionLag]] = {}
        turns = Turns()
        for hosted in groups:
            lags = found[hosted.group.group_id] = []
            for topic, number, committed in list(hosted.committed):
                await turns.take_break()
                lag = self._lag(topic, number, committed)
                if lag is not None:
                    lags.append(lag)
        return found

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
