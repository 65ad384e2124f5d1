"""A reader of a topic for one AMQP consumer: what a queue is to its consumers, over partitions.

Flow:   a bell of a partition marks the reader; at the end of the pass it hands out as much as its consumer has
        room for. Acknowledging moves the consumer's room and nothing else: nothing leaves a log, and nothing that was
        handed out is kept.
Limits: a turn looks at `_RECORDS_MAX` records, or inflates `_INFLATED_MAX` bytes; then others have theirs. Of each
        partition a reader keeps one piece of a batch, for which all readers have one limit (`pieces.py`), and batches of
        64 KiB together; for large records see `large_records.py`. A record that is larger than a message may be is
        passed over and logged.
Spec:   RabbitMQ's streams over AMQP: `x-stream-offset` says where to begin; `x-stream-filter` and
        `x-stream-match-unfiltered` what to leave out, here to the record and not to the chunk.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from broker.amqp import content, properties
from broker.amqp.envelope import envelope_of
from broker.kafka import records
from broker.kafka.open_batch import OpenBatch, OversizedRecord
from broker.kafka.records import HEADER_SIZE, INFLATED_SIZE_MAX, Record, RecordProblem
from broker.model.arguments import Arguments, erlang_type
from broker.model.consumers import Consumer, Consumers
from broker.model.errors import OffsetOutOfRange, PreconditionFailed
from broker.model.exchange import QUEUE
from broker.model.message import Slice
from broker.model.resource import spoken
from broker.model.stream import interval_ms
from broker.node import bridge
from broker.node.large_records import LARGE_SIZE, LargeRecords, Receiver
from broker.node.partition import Partition
from broker.node.pieces import Pieces

if TYPE_CHECKING:
    from broker.node.topics import Topic

logger = logging.getLogger("broker.node")

FRAME_MAX: Final = 4096 * 32
_CHANNEL: Final = 1
_READ_SIZE: Final = 64 * 1024
# A filter that nothing passes would hold up the others for the whole log.
_RECORDS_MAX: Final = 1000
_INFLATED_MAX: Final = 4 * 1024 * 1024


@dataclass(slots=True, frozen=True)
class MessageLimits:
    """What a consumer can be given."""

    size_max: int
    """Bytes of a body."""
    frame_max: int
    """Bytes of a frame, and so of a message's properties."""


@dataclass(slots=True, frozen=True)
class _Since:
    """To begin with the first record of this time or a later one."""

    timestamp: int
    otherwise: int
    """The offset if there is none."""

    def offset_in(self, partition: Partition) -> int:
        found = partition.offset_of_time(max(self.timestamp, 0))
        return found.offset if found is not None else self.otherwise


class _Changed(Exception):
    """The batch that was open is not there any more: compaction has rewritten it, or retention let it go."""


class _NoRoom(Exception):
    """A large record has to wait until others are sent."""


class _Turn:
    """How much may still be done before others have their turn."""

    __slots__ = ("inflated", "records", "waits")

    def __init__(self) -> None:
        self.waits = False
        """There is a large record, and no room for it."""
        self.records = _RECORDS_MAX
        self.inflated = _INFLATED_MAX

    @property
    def over(self) -> bool:
        return self.waits or self.records <= 0 or self.inflated <= 0


class _Position:
    """Where the reader is in one partition."""

    __slots__ = (
        "_admit",
        "_batch",
        "_batches",
        "_kept",
        "_octets",
        "_pieces",
        "_record_size_max",
        "_since",
        "_start",
        "_turn",
        "number",
        "offset",
        "partition",
        "said_oversized",
    )

    def __init__(
        self,
        partition: Partition,
        number: int | None,
        start: int | _Since,
        pieces: Pieces,
        record_size_max: int,
        admit: Callable[[int], bool],
    ) -> None:
        self.partition = partition
        self.number = number
        """None where there is only one."""
        self.offset = start if isinstance(start, int) else partition.start_offset
        self._since = None if isinstance(start, int) else start
        self.said_oversized = False
        self._pieces = pieces
        self._record_size_max = record_size_max
        self._admit = admit
        # Batches that were read and not opened; the one that is open, the bytes that it begins with, and all of
        # them if they are few.
        self._batches: deque[bytes] = deque()
        self._batch: OpenBatch | None = None
        self._start = self._octets = b""
        self._kept = 0
        self._turn = _Turn()

    @property
    def ready_count(self) -> int:
        """At most: offsets may have gaps."""
        return max(self.partition.high_watermark - self.offset, 0)

    def next(self, turn: _Turn) -> Record | OversizedRecord | None:
        """The next record; None at the end, or when the turn is over.

        What retention has taken away, and what cannot be opened, is passed over.
        """
        self._turn = turn
        if self._since is not None:
            self.offset, self._since = self._since.offset_in(self.partition), None
            turn.records = 0  # for which a batch was opened
        while turn.records > 0 and turn.inflated > 0:
            batch = self._batch or self._open()
            if batch is None:
                return None
            turn.records -= 1
            try:
                record = batch.next()
            except RecordProblem as problem:
                logger.error("partition %s: the batch at %d: %s", self.partition.name, self.offset, problem)
                record = None
            except _Changed:
                self._shut()
                continue
            except _NoRoom:
                turn.waits = True
                break
            if record is None:
                self._shut()
                self.offset = max(self.offset, _behind(batch.header))
            elif record.offset >= self.offset:
                self.offset = record.offset + 1
                if len(batch.piece) != self._kept:
                    self._count(len(batch.piece))
                return record
        if self._batch is not None:
            self._count(len(self._batch.piece))
        return None

    def _open(self) -> OpenBatch | None:
        """The next batch, if there is one."""
        while self._batches or self._read():
            octets = self._batches.popleft()
            header = records.read_header(octets)
            if _behind(header) > self.offset:
                self._start = octets[:HEADER_SIZE]
                self._octets = octets
                self._batch = OpenBatch(header, self._inflated, self._record_size_max)
                return self._batch
            # Of a batch that is read from its middle, compaction may have left nothing at the end.
            self.offset = max(self.offset, _behind(header))
        return None

    def _read(self) -> bool:
        partition = self.partition
        if self.offset < partition.start_offset:
            self.offset = partition.start_offset
        try:
            self._batches.extend(partition.batches(self.offset, _READ_SIZE))
        except OffsetOutOfRange:
            return False
        return bool(self._batches)

    def _inflated(self, start: int, size: int) -> bytes:
        """A piece of the records of the batch that is open. Raises RecordProblem, _Changed, _NoRoom."""
        assert self._batch is not None
        header = self._batch.header
        if start + size > INFLATED_SIZE_MAX:
            raise records.invalid(f"inflated, it has more than {INFLATED_SIZE_MAX} bytes")
        if size > LARGE_SIZE and not self._admit(size):
            raise _NoRoom
        size = max(size, min(self._pieces.size, INFLATED_SIZE_MAX - start))
        octets = self._octets or self._read_again()
        piece = records.inflated_part(header, octets[HEADER_SIZE : header.size], start, size)
        self._turn.inflated -= start + len(piece)
        return piece

    def _read_again(self) -> bytes:
        try:
            found = self.partition.batches(self.offset, 1)
        except OffsetOutOfRange:
            raise _Changed from None
        if not found or not found[0].startswith(self._start):
            raise _Changed
        return found[0]

    def _count(self, kept: int) -> None:
        self._pieces.taken += kept - self._kept
        self._kept = kept
        if len(self._octets) > _READ_SIZE:
            self._octets = b""

    def _shut(self) -> None:
        self._batch = None
        self._octets = b""
        self._count(0)

    def close(self) -> None:
        self._batches.clear()
        self._shut()


def _behind(header: records.BatchHeader) -> int:
    return header.base_offset + header.last_offset_delta + 1


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
        pieces: Pieces,
        large: LargeRecords,
        receiver: Receiver,
        limits: MessageLimits,
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
        self._pieces = pieces
        self._large = large
        self._receiver = receiver
        self._limits = limits
        self._unfiltered = bool(arguments.get("x-stream-match-unfiltered", False))
        start = _read_start(topic, arguments, now_ms)
        several = len(topic.partitions) > 1
        self._positions = deque(
            self._position(partition, number if several else None, start(partition))
            for number, partition in enumerate(topic.partitions)
        )

    def _position(self, partition: Partition, number: int | None, start: int | _Since) -> _Position:
        # A record has its key and its headers besides the body; they become properties, which are one frame.
        size_max = self._limits.size_max + self._limits.frame_max
        return _Position(partition, number, start, self._pieces, size_max, self._admit)

    def _admit(self, size: int) -> bool:
        return self._large.admit(size, self._rung)

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
            position.close()
        self._large.forget(self, self._rung)

    def partitions_added(self) -> None:
        """Those are read from their start; and there are several now."""
        known = {position.partition for position in self._positions}
        for number, partition in enumerate(self._topic.partitions):
            if partition not in known:
                self._positions.append(self._position(partition, number, partition.start_offset))
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
        turn = _Turn()
        consumer = next(iter(self.consumers), None)
        while consumer is not None and not self.deleted:
            if consumer.room() <= 0:
                return  # who gets room again marks us
            found = self._next(turn)
            if found is None:
                break
            position, record = found
            piece = self._piece(position, record)
            if piece is not None:
                position.partition.traffic.delivered += 1
                position.partition.traffic.octets_out += piece.size
                consumer.deliver(self, piece)
                piece.contents = []  # nothing of it is wanted any more when it comes back
                if piece.size > LARGE_SIZE:
                    self._large.handed_out(self, self._receiver, piece.size)
        if consumer is None or self.deleted:
            return
        self._listen()
        if turn.over and not turn.waits and self.ready_count:
            self._mark_later(self)

    def _next(self, turn: _Turn) -> tuple[_Position, Record | OversizedRecord] | None:
        """From the partitions in turn."""
        for _ in range(len(self._positions)):
            position = self._positions[0]
            self._positions.rotate(-1)
            record = position.next(turn)
            if record is not None:
                return position, record
            if turn.over:
                break
        return None

    def _piece(self, position: _Position, record: Record | OversizedRecord) -> Slice | None:
        """What the consumer is given of a record, if it wants it and can be given it."""
        limits = self._limits
        if isinstance(record, OversizedRecord):
            self._pass_over(
                position, record.offset, f"{record.size} bytes, where {limits.size_max} are the limit"
            )
            return None
        if not self._wants(record):
            return None
        size = len(record.value or b"")
        if size > limits.size_max:
            self._pass_over(position, record.offset, f"{size} bytes, where {limits.size_max} are the limit")
            return None
        piece = self._slice(position, record)
        properties_size = content.header_frame_size(piece.contents[0])
        if properties_size > limits.frame_max:
            text = f"{properties_size} bytes of properties, where a frame of {limits.frame_max} is the limit"
            self._pass_over(position, record.offset, text)
            return None
        return piece

    def _pass_over(self, position: _Position, offset: int, why: str) -> None:
        if not position.said_oversized:
            position.said_oversized = True
            logger.warning(
                "partition %s: the record at %d cannot be given to an AMQP consumer and is passed over: %s"
                " (others like it are not logged again for this consumer)",
                position.partition.name,
                offset,
                why,
            )

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


def _read_start(topic: Topic, arguments: Arguments, now_ms: int) -> Callable[[Partition], int | _Since]:
    """Where to begin in each partition; without being told, at what comes next.

    A time is looked for when the partition's turn comes, as a batch is opened for that.
    """
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
        return lambda partition: _Since(int(value.timestamp() * 1000), partition.high_watermark)
    if isinstance(value, str) and (interval := interval_ms(value)) is not None:
        return lambda partition: _Since(now_ms - interval, partition.high_watermark)
    expected = "expected first, last, next, an offset, a timestamp or an interval as 5m"
    raise _invalid(topic, "x-stream-offset", expected, value)


def _invalid(topic: Topic, argument: str, expected: str, value: Any) -> PreconditionFailed:
    of = spoken(QUEUE, topic.name, topic.vhost)
    return PreconditionFailed(
        f"invalid arg '{argument}' for {of}: {expected}, got {erlang_type(value)} {value!r:.100}"
    )
