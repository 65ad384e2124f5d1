"""A topic where bindings lead to: messages that are routed to it become records.

Flow:   a run becomes a batch for each partition that its keys select.
Limits: a message larger than the topic's `max.message.bytes` is refused, as by a queue that is full.
Spec:   partitions are chosen as by Kafka's producers: murmur2 of the key, or one after another without a key.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from broker.kafka import records
from broker.kafka.partitioner import partition_for
from broker.kafka.records import Record
from broker.model.message import Run, envelopes_of
from broker.node.bridge import record_of

if TYPE_CHECKING:
    from broker.node.topics import Topic

_BATCH_RECORDS_MAX: Final = 1000
# What a record and a batch cost beside their parts, generously.
_OVERHEAD: Final = 512


class TopicSink:
    """It fits the model's `Sink`."""

    limited = True
    lasting = True
    durable = True
    eager = False
    keeps_transient = True

    def __init__(self, topic: Topic) -> None:
        self.topic = topic
        self.name = topic.name
        self._turns = itertools.count()

    def push(self, run: Run, now_ms: int) -> Sequence[int]:
        """Append the messages; returns the indices of those that are too large."""
        refused: list[int] = []
        by_partition: dict[int, list[Record]] = {}
        count = len(self.topic.partitions)
        turn = next(self._turns) % count
        size_max = self.topic.settings.message_size_max
        for index, (envelope, closed) in enumerate(zip(envelopes_of([run]), run.contents, strict=True)):
            # What the body has beside it is there twice, and once more as text.
            if len(closed) + _OVERHEAD > size_max:
                refused.append(index)
                continue
            record = record_of(envelope, closed, now_ms)
            number = turn if record.key is None else partition_for(record.key, count)
            by_partition.setdefault(number, []).append(record)
        for number, found in by_partition.items():
            self._append(number, found, size_max)
        return refused

    def _append(self, number: int, found: list[Record], size_max: int) -> None:
        """As few batches as their size allows."""
        batch: list[Record] = []
        size = 0
        for record in found:
            more = len(record.value or b"") + sum(
                len(value or b"") + len(name) for name, value in record.headers
            )
            more += len(record.key or b"") + _OVERHEAD
            if batch and (size + more > size_max or len(batch) >= _BATCH_RECORDS_MAX):
                self._append_batch(number, batch)
                batch, size = [], 0
            record.offset = len(batch)
            batch.append(record)
            size += more
        self._append_batch(number, batch)

    def _append_batch(self, number: int, batch: list[Record]) -> None:
        octets = records.build(batch)
        self.topic.partitions[number].append(records.read_header(octets), octets)
