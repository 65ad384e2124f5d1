"""Topics of a node inside the test's own process, filled without a client."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from broker.kafka import records
from broker.kafka.records import Record
from broker.model.committed import CommittedOffset
from broker.node.node import Node
from broker.node.partition import Partition


def record(value: bytes | None, timestamp: int = 1000, **more: Any) -> Record:
    return Record(0, timestamp, value=value, **more)


async def append(node: Node, partition: Partition, *found: Record, **options: Any) -> None:
    """As one batch, and until it can be read; `options` are those of `records.build`."""
    append_octets(partition, records.build(found, **options))
    await node.settled()


def append_octets(partition: Partition, batch: bytes) -> None:
    partition.append(records.read_header(batch), batch)


async def fill(node: Node, partition: Partition, values: Sequence[bytes], timestamp: int = 1000) -> None:
    """A batch for each value, a millisecond apart."""
    for number, value in enumerate(values):
        append_octets(partition, records.build([record(value, timestamp + number)]))
    await node.settled()


async def commit(node: Node, group: str, topic: str, number: int, offset: int) -> None:
    """As a consumer without a group's protocol does."""
    committed = CommittedOffset(offset, -1, "", node.clock.now_ms())
    node.groups.hosted(group).committed.commit(topic, number, committed)
    node.groups.committed(group, {(topic, number): committed})
    await node.settled()
