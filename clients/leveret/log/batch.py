"""Records on their way to one partition, which are written and acknowledged together.

Flow:   records are added while it is being filled; it is encoded each time that it is sent; when it is
        acknowledged or given up, everybody who waits for one of its records hears it.
Shape:  filling -> sent, perhaps several times -> acknowledged | given up | cut into halves, which go on
Why:    It is encoded late, as its sequence number may change until then. Sizes are those of the records
        before they are deflated, with an estimate of what stands around them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from anyio import Event

from broker.kafka import records
from broker.kafka.records import Record
from leveret.errors import LeveretError
from leveret.log.errors import Reason
from leveret.log.record import Appended, TopicPartition

# Numbers and lengths of a record; most have fewer octets.
_RECORD_OVERHEAD: Final = 24
_HEADER_OVERHEAD: Final = 4
# Sequence numbers go from 0 to this, and then from 0 again.
SEQUENCE_MASK: Final = 0x7FFFFFFF


@dataclass(slots=True, frozen=True, eq=False)
class Identity:
    """What an idempotent producer is known by."""

    producer_id: int
    epoch: int


def size_of(record: Record) -> int:
    """About how many octets it takes in a batch, at most."""
    size = _RECORD_OVERHEAD
    if record.key is not None:
        size += len(record.key)
    if record.value is not None:
        size += len(record.value)
    for name, value in record.headers:
        size += len(name) * 4 + _HEADER_OVERHEAD + (0 if value is None else len(value))
    return size


class Losses:
    """Records that were given up and that nobody has waited for: `flush` tells of them."""

    __slots__ = ("count", "first")

    def __init__(self) -> None:
        self.count = 0
        self.first: Reason | None = None


class Batch:
    """Made for its first record."""

    __slots__ = (
        "_base_offset",
        "_event",
        "_log_time",
        "_losses",
        "_reason",
        "_claimed",
        "begun_at",
        "deadline",
        "done",
        "first",
        "halves",
        "identity",
        "maybe_sent",
        "place",
        "records",
        "sequence",
        "size",
    )

    def __init__(self, place: TopicPartition, first: int, begun_at: float, deadline: float) -> None:
        self.place = place
        self.first = first
        """How many records went to this partition before: the order of batches."""
        self.begun_at = begun_at
        self.deadline = deadline
        self.records: list[Record] = []
        self.size = 0
        self.identity: Identity | None = None
        self.sequence = -1
        """Of its first record; -1 as long as it has none."""
        self.maybe_sent = False
        """An attempt was made, and nobody knows what has become of it."""
        self.done = False
        """It is acknowledged, given up, or cut."""
        self.halves: tuple[Batch, Batch] | None = None
        # Which of the records somebody waits for.
        self._claimed: set[int] = set()
        self._losses: Losses | None = None
        self._base_offset = -1
        self._log_time = -1
        self._reason: Reason | None = None
        self._event: Event | None = None

    def add(self, record: Record, size: int) -> Sending:
        self.records.append(record)
        self.size += size
        return Sending(self, len(self.records) - 1)

    def encode(self, codec: int) -> bytes:
        identity = self.identity
        if identity is None:
            return records.build(self.records, compression_type=codec)
        return records.build(
            self.records,
            compression_type=codec,
            producer_id=identity.producer_id,
            producer_epoch=identity.epoch,
            base_sequence=self.sequence,
        )

    def assign(self, identity: Identity, sequence: int) -> int:
        """Its sequence number; gives that of the next batch."""
        self.identity = identity
        self.sequence = sequence
        return (sequence + len(self.records)) & SEQUENCE_MASK

    def unassign(self) -> None:
        """The broker has said that this number was not used: the batch is not in the log."""
        self.identity = None
        self.sequence = -1
        self.maybe_sent = False

    def cut(self) -> tuple[Batch, Batch]:
        """Into two batches with half of the records each, which go in its place."""
        middle = len(self.records) // 2
        one, other = (
            Batch(self.place, first, self.begun_at, self.deadline)
            for first in (self.first, self.first + middle)
        )
        for index, record in enumerate(self.records):
            half = one if index < middle else other
            if index in self._claimed:
                half._claimed.add(len(half.records))
            half.add(record, size_of(record))
        self.halves = (one, other)
        self._tell()
        return self.halves

    # ---- the end ----

    def acknowledge(self, base_offset: int, log_time: int) -> None:
        """`base_offset` is -1 if the broker does not know it any more, `log_time` if the log gave none."""
        self._base_offset = base_offset
        self._log_time = log_time
        self._tell()

    def fail(self, reason: Reason, losses: Losses) -> None:
        self._reason = reason
        self._losses = losses
        losses.count += len(self.records) - len(self._claimed)
        losses.first = losses.first or reason
        self._tell()

    def claim(self, index: int) -> None:
        """Somebody waits for this record."""
        if index not in self._claimed:
            self._claimed.add(index)
            if self._losses is not None:
                self._losses.count -= 1

    def _tell(self) -> None:
        self.done = True
        if self._event is not None:
            self._event.set()

    async def settled(self) -> None:
        """Until all its records are acknowledged or given up."""
        if not self.done:
            if self._event is None:
                self._event = Event()
            await self._event.wait()
        if self.halves is not None:
            for half in self.halves:
                await half.settled()

    @property
    def error(self) -> LeveretError | None:
        """Why it was given up: a new exception each time."""
        return None if self._reason is None else self._reason()

    def appended(self, index: int) -> Appended:
        """Where a record of an acknowledged batch is."""
        offset = self._base_offset + index if self._base_offset >= 0 else -1
        timestamp = self._log_time if self._log_time >= 0 else self.records[index].timestamp
        return Appended(*self.place, offset, timestamp)


class Sending:
    """A record that was handed over to be sent."""

    __slots__ = ("_batch", "_index")

    def __init__(self, batch: Batch, index: int) -> None:
        self._batch = batch
        self._index = index

    @property
    def done(self) -> bool:
        """It is acknowledged or given up."""
        self._follow()
        return self._batch.done

    async def appended(self) -> Appended:
        """Wait until it is acknowledged. Raises SendFailed; `flush` says nothing of this record then."""
        while not self.done:
            self._batch.claim(self._index)
            await self._batch.settled()
        self._batch.claim(self._index)
        error = self._batch.error
        if error is not None:
            raise error
        return self._batch.appended(self._index)

    def _follow(self) -> None:
        """Into the half that it is in, if its batch was cut."""
        while (halves := self._batch.halves) is not None:
            middle = len(halves[0].records)
            if self._index < middle:
                self._batch = halves[0]
            else:
                self._batch = halves[1]
                self._index -= middle
