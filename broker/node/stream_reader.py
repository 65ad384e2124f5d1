"""A reader of a topic for one AMQP consumer: what a queue is to its consumers, over partitions.

Flow:   a bell of a partition marks the reader; at the end of the pass it hands out as much as its consumer has
        room for. Acknowledging moves the consumer's room and nothing else: nothing leaves a log.
Limits: one batch of records is decoded at a time, and a turn looks at `_LOOKED_AT_MAX` records; then others have theirs.
Spec:   RabbitMQ's streams over AMQP: `x-stream-offset` says where to begin; `x-stream-filter` and
        `x-stream-match-unfiltered` what to leave out, here to the record and not to the chunk.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from broker.amqp import properties
from broker.amqp.frames import envelope_of
from broker.kafka import records
from broker.kafka.records import Record, RecordProblem
from broker.model.arguments import Arguments, erlang_type
from broker.model.consumers import Consumer, Consumers
from broker.model.errors import OffsetOutOfRange, PreconditionFailed
from broker.model.exchange import QUEUE
from broker.model.message import Slice
from broker.model.resource import spoken
from broker.model.stream import interval_ms
from broker.node import bridge
from broker.node.partition import Partition

if TYPE_CHECKING:
    from broker.node.topics import Topic

logger = logging.getLogger("broker.node")

FRAME_MAX: Final = 4096 * 32
_CHANNEL: Final = 1
_READ_SIZE: Final = 64 * 1024
# A filter that nothing passes would hold up the others for the whole log.
_LOOKED_AT_MAX: Final = 1000


class _Position:
    """Where the reader is in one partition."""

    __slots__ = ("_batch", "_batches", "_behind", "number", "offset", "partition")

    def __init__(self, partition: Partition, number: int | None, offset: int) -> None:
        self.partition = partition
        self.number = number
        """None where there is only one."""
        self.offset = offset
        self._batches: deque[bytes] = deque()
        self._behind = 0
        self._batch: Iterator[Record] = iter(())

    @property
    def ready_count(self) -> int:
        """At most: offsets may have gaps."""
        return max(self.partition.high_watermark - self.offset, 0)

    def next(self) -> Record | None:
        """The next record; what retention has taken away, and what cannot be opened, is passed over."""
        while True:
            try:
                for record in self._batch:
                    if record.offset >= self.offset:
                        self.offset = record.offset + 1
                        return record
            except RecordProblem as problem:
                logger.error("partition %s: the batch at %d: %s", self.partition.name, self.offset, problem)
            if not self._open():
                return None

    def _open(self) -> bool:
        """Go on to the next batch, if there is one; compaction may have left nothing at the end of this one."""
        self._batch = iter(())
        self.offset = max(self.offset, self._behind)
        if not self._batches and not self._read():
            return False
        octets = self._batches.popleft()
        header = records.read_header(octets)
        self._behind = header.base_offset + header.last_offset_delta + 1
        if self._behind > self.offset:
            self._batch = records.iterate(octets)
        return True

    def _read(self) -> bool:
        partition = self.partition
        if self.offset < partition.start_offset:
            self.offset = partition.start_offset
        try:
            self._batches.extend(partition.batches(self.offset, _READ_SIZE))
        except OffsetOutOfRange:
            return False
        return bool(self._batches)


class StreamReader:
    """It fits the model's `Source`."""

    auto_delete = False

    def __init__(
        self,
        topic: Topic,
        arguments: Arguments,
        now_ms: int,
        mark: Callable[[StreamReader], None],
        mark_later: Callable[[StreamReader], None],
    ) -> None:
        """`mark` asks for a `dispatch` in this pass, `mark_later` in a turn of its own.

        Raises PreconditionFailed for arguments that cannot be.
        """
        self.name = topic.name
        self.vhost = topic.vhost
        self.deleted = False
        self.consumers = Consumers()
        self._topic = topic
        self._mark = mark
        self._mark_later = mark_later
        self._filter = _read_filter(topic, arguments)
        self._unfiltered = bool(arguments.get("x-stream-match-unfiltered", False))
        start = _read_start(topic, arguments, now_ms)
        several = len(topic.partitions) > 1
        self._positions = deque(
            _Position(partition, number if several else None, start(partition))
            for number, partition in enumerate(topic.partitions)
        )

    @property
    def ready_count(self) -> int:
        return sum(position.ready_count for position in self._positions)

    # ---- consumers ----

    def add_consumer(self, consumer: Consumer) -> None:
        self.consumers.add(consumer, self.name, self.vhost)
        self._topic.readers[self] = None
        self._listen()

    def remove_consumer(self, consumer: Consumer, now_ms: int) -> None:
        self.consumers.remove(consumer)
        self._leave()

    def _leave(self) -> None:
        self._topic.readers.pop(self, None)
        for position in self._positions:
            position.partition.bells.pop(self._rung, None)

    def partitions_added(self) -> None:
        """Those are read from their start; and there are several now."""
        known = {position.partition for position in self._positions}
        for number, partition in enumerate(self._topic.partitions):
            if partition not in known:
                self._positions.append(_Position(partition, number, partition.start_offset))
        for position in self._positions:
            position.number = position.partition.number
        self._listen()

    def topic_deleted(self) -> None:
        """There will be no more."""
        self.deleted = True
        self._leave()
        for consumer in self.consumers:
            consumer.queue_deleted(self)

    def _listen(self) -> None:
        for position in self._positions:
            position.partition.bells[self._rung] = None

    def _rung(self) -> None:
        if not self.deleted:
            self._mark(self)

    # ---- handing out ----

    def dispatch(self) -> None:
        """As much as there is room for, from each partition in turn."""
        looked_at = 0
        consumer = next(iter(self.consumers), None)
        while consumer is not None and looked_at < _LOOKED_AT_MAX and not self.deleted:
            if consumer.room() <= 0:
                return  # who gets room again marks us
            found = self._next()
            if found is None:
                self._listen()
                return
            looked_at += 1
            position, record = found
            if self._wants(record):
                position.partition.traffic.delivered += 1
                position.partition.traffic.octets_out += len(record.value or b"")
                consumer.deliver(self, self._slice(position, record))
        if consumer is not None and self.ready_count:
            self._mark_later(self)

    def _next(self) -> tuple[_Position, Record] | None:
        """From the partitions in turn."""
        for _ in range(len(self._positions)):
            position = self._positions[0]
            self._positions.rotate(-1)
            record = position.next()
            if record is not None:
                return position, record
        return None

    def _wants(self, record: Record) -> bool:
        if self._filter is None:
            return True
        value = bridge.filter_value_of(record)
        return self._unfiltered if value is None else value in self._filter

    def _slice(self, position: _Position, record: Record) -> Slice:
        exchange, routing_key = bridge.origin_of(record, self.name)
        closed = bridge.content_of(record, position.number, _CHANNEL, FRAME_MAX)
        envelope = envelope_of(_CHANNEL, FRAME_MAX, exchange, routing_key, properties.NO_FACTS)
        offsets = range(record.offset, record.offset + 1)
        return Slice(envelope, [closed], offsets, len(record.value or b""), 0, False)

    # ---- coming back ----

    def acknowledge(self, piece: Slice) -> None:
        """It stays where it is."""

    def reject(self, piece: Slice) -> None:
        """As an acknowledgement: a log does not change for one reader."""

    def requeue(self, pieces: list[Slice], now_ms: int) -> None:
        """As an acknowledgement, too: whoever wants it again begins anew there."""


def _read_filter(topic: Topic, arguments: Arguments) -> frozenset[str] | None:
    value = arguments.get("x-stream-filter")
    if value is None:
        return None
    if isinstance(value, str):
        return frozenset({value})
    if isinstance(value, list) and value and all(isinstance(one, str) for one in value):
        return frozenset(value)
    raise _invalid(topic, "x-stream-filter", "expected a string or a list of strings", value)


def _read_start(topic: Topic, arguments: Arguments, now_ms: int) -> Callable[[Partition], int]:
    """Where to begin in each partition; without being told, at what comes next."""
    value: Any = arguments.get("x-stream-offset", "next")
    if value == "next":
        return lambda partition: partition.high_watermark
    if value == "first":
        return lambda partition: partition.start_offset
    if value == "last":
        return lambda partition: partition.last_batch_offset()
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return lambda partition: max(partition.start_offset, min(value, partition.high_watermark))
    if isinstance(value, datetime):
        return lambda partition: _since(partition, int(value.timestamp() * 1000))
    if isinstance(value, str) and (interval := interval_ms(value)) is not None:
        return lambda partition: _since(partition, now_ms - interval)
    expected = "expected first, last, next, an offset, a timestamp or an interval as 5m"
    raise _invalid(topic, "x-stream-offset", expected, value)


def _since(partition: Partition, timestamp: int) -> int:
    found = partition.offset_of_time(max(timestamp, 0))
    return found.offset if found is not None else partition.high_watermark


def _invalid(topic: Topic, argument: str, expected: str, value: Any) -> PreconditionFailed:
    of = spoken(QUEUE, topic.name, topic.vhost)
    return PreconditionFailed(
        f"invalid arg '{argument}' for {of}: {expected}, got {erlang_type(value)} {value!r:.100}"
    )
