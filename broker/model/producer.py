"""Idempotent producers of one partition: what of theirs is in the log, and what may come next.

Flow:   the partition asks `check` before it appends a batch of a producer with an id, and says `appended`
        when the log has it. At start it gives a snapshot to `restore`, and the headers of the batches
        behind that to `replay`.
Shape:  of each producer its epoch and its last five batches in that epoch. Sequence numbers go from 0 to
        2^31 - 1 and then from 0 again.
        A snapshot, big endian
          crc u32 (CRC-32C) of all that follows | version u16 = 1 | producer count u32 | producers, the
          one that was used longest ago first:
            producer id i64 | epoch i16 | used at i64 | batch count u8 |
              (base sequence i32 | record count i32 | base offset i64 | timestamp i64)*, oldest first
Limits: five batches of a producer, as many as one sends without waiting. `producers_max` producers, the one
        that was used longest ago goes first; one that was not used for `expiry_ms` goes too. A producer
        that is not known may begin with any sequence number.
Spec:   KIP-98; Kafka's ProducerStateManager and ProducerAppendInfo.
Why:    Transactions have their place here: a producer will have the first offset of its open transaction as
        well, the smallest of these over all producers bounds the last stable offset, control batches close
        it, and it does not expire as long as it is open. A snapshot with that is version 2.
"""

from __future__ import annotations

import struct
from collections import OrderedDict, deque
from typing import Final, NamedTuple

import google_crc32c

from broker.model.errors import ModelError

# Kafka's producer.id.expiration.ms.
EXPIRY_MS: Final = 24 * 3600 * 1000
PRODUCERS_MAX: Final = 10_000
# What a producer may send before the first is answered: max.in.flight.requests.per.connection.
BATCHES_MAX: Final = 5

_SEQUENCE_MASK: Final = (1 << 31) - 1

_VERSION: Final = 1
_CRC: Final = struct.Struct(">I")
_SNAPSHOT: Final = struct.Struct(">HI")
_PRODUCER: Final = struct.Struct(">qhqB")
_BATCH: Final = struct.Struct(">iiqq")


class OutOfOrderSequence(ModelError):
    """A batch of this producer is missing before this one, or the sequence numbers begin anew."""


class InvalidProducerEpoch(ModelError):
    """Another one with this producer's id has taken over."""


class CorruptSnapshot(ValueError):
    """These octets are not what `snapshot` made."""


class Duplicate(NamedTuple):
    """The batch is in the log already, or on its way there."""

    base_offset: int
    timestamp: int
    """That was given when it was appended."""


class ProducerSnapshot(NamedTuple):
    """A producer as DescribeProducers shows it."""

    producer_id: int
    epoch: int
    last_sequence: int
    last_timestamp: int


class _Batch(NamedTuple):
    base_sequence: int
    records: int
    base_offset: int
    timestamp: int

    @property
    def last_sequence(self) -> int:
        return (self.base_sequence + self.records - 1) & _SEQUENCE_MASK

    @property
    def next_offset(self) -> int:
        return self.base_offset + self.records


class _Producer:
    """One of them; it has one batch at least."""

    __slots__ = ("batches", "epoch", "used_ms")

    def __init__(self, epoch: int, used_ms: int) -> None:
        self.epoch = epoch
        self.used_ms = used_ms
        self.batches: deque[_Batch] = deque(maxlen=BATCHES_MAX)


class Producers:
    """The idempotent producers of one partition."""

    __slots__ = ("_expiry_ms", "_producers", "_producers_max")

    def __init__(self, *, expiry_ms: int = EXPIRY_MS, producers_max: int = PRODUCERS_MAX) -> None:
        assert producers_max > 0
        self._expiry_ms = expiry_ms
        self._producers_max = producers_max
        # The one that was used longest ago comes first.
        self._producers: OrderedDict[int, _Producer] = OrderedDict()

    def __len__(self) -> int:
        return len(self._producers)

    def check(self, producer_id: int, epoch: int, base_sequence: int, count: int) -> Duplicate | None:
        """Where this batch is already; None if it is what comes next, and may be appended.

        What is a duplicate need not be safe yet: whoever says so to the producer waits for that first.
        Raises InvalidProducerEpoch or OutOfOrderSequence.
        """
        known = self._producers.get(producer_id)
        if known is None:
            return None
        if epoch != known.epoch:
            self._check_new_epoch(producer_id, known.epoch, epoch, base_sequence)
            return None
        for batch in known.batches:
            if batch.base_sequence == base_sequence and batch.records == count:
                return Duplicate(batch.base_offset, batch.timestamp)
        last_sequence = known.batches[-1].last_sequence
        if base_sequence != (last_sequence + 1) & _SEQUENCE_MASK:
            raise OutOfOrderSequence(
                f"producer {producer_id}: sequence number {base_sequence} comes after {last_sequence}"
            )
        return None

    @staticmethod
    def _check_new_epoch(producer_id: int, known: int, epoch: int, base_sequence: int) -> None:
        if epoch < known:
            raise InvalidProducerEpoch(f"producer {producer_id}: epoch {epoch} where it has {known} by now")
        if base_sequence != 0:
            raise OutOfOrderSequence(
                f"producer {producer_id}: epoch {epoch} begins with sequence number {base_sequence}"
            )

    def appended(
        self,
        producer_id: int,
        epoch: int,
        base_sequence: int,
        count: int,
        base_offset: int,
        timestamp: int,
        now_ms: int,
    ) -> None:
        """A batch that `check` let pass is in the log, from `base_offset` on."""
        known = self._producers.get(producer_id)
        if known is None:
            while len(self._producers) >= self._producers_max:
                self._producers.popitem(last=False)
            known = self._producers[producer_id] = _Producer(epoch, now_ms)
        else:
            self._producers.move_to_end(producer_id)
        if epoch != known.epoch:
            known.epoch = epoch
            known.batches.clear()
        known.used_ms = now_ms
        known.batches.append(_Batch(base_sequence, count, base_offset, timestamp))

    def expire(self, now_ms: int) -> None:
        """Forget who was not heard of for too long."""
        producers = self._producers
        while producers:
            known = next(iter(producers.values()))
            if now_ms - known.used_ms < self._expiry_ms:
                break
            producers.popitem(last=False)

    def describe(self) -> list[ProducerSnapshot]:
        """All of them, the one that was used longest ago first."""
        return [
            ProducerSnapshot(
                producer_id, known.epoch, known.batches[-1].last_sequence, known.batches[-1].timestamp
            )
            for producer_id, known in self._producers.items()
        ]

    def ends(self) -> frozenset[int]:
        """The offsets behind the last batch of each: these batches say what comes next of their producers."""
        return frozenset([known.batches[-1].next_offset for known in self._producers.values()])

    # ---- over a restart ----

    def snapshot(self, below: int) -> bytes:
        """What is known of batches before the offset `below`; `replay` of those behind it makes it whole."""
        parts = [b""]
        count = 0
        for producer_id, known in self._producers.items():
            batches = [batch for batch in known.batches if batch.next_offset <= below]
            if batches:
                count += 1
                parts.append(_PRODUCER.pack(producer_id, known.epoch, known.used_ms, len(batches)))
                parts += [_BATCH.pack(*batch) for batch in batches]
        parts[0] = _SNAPSHOT.pack(_VERSION, count)
        body = b"".join(parts)
        return _CRC.pack(google_crc32c.value(body)) + body

    def restore(self, octets: bytes, below: int) -> None:
        """Begin with what a snapshot has of batches before the offset `below`, where the log may have been cut.

        Raises CorruptSnapshot, and then nothing has changed.
        """
        body = octets[_CRC.size :]
        if len(body) < _SNAPSHOT.size or _CRC.pack(google_crc32c.value(body)) != octets[: _CRC.size]:
            raise CorruptSnapshot("a producer snapshot with a wrong crc")
        version, count = _SNAPSHOT.unpack_from(body)
        if version != _VERSION:
            raise CorruptSnapshot(f"a producer snapshot of version {version}, where {_VERSION} is known")
        try:
            restored = _read_producers(body, count, below)
        except struct.error as error:
            raise CorruptSnapshot(f"a producer snapshot of {count} producers is cut short") from error
        while len(restored) > self._producers_max:
            restored.popitem(last=False)
        self._producers = restored

    def replay(
        self,
        producer_id: int,
        epoch: int,
        base_sequence: int,
        count: int,
        base_offset: int,
        timestamp: int,
        now_ms: int,
    ) -> None:
        """A batch that stands in the log, at start, in the order of offsets; those already known change nothing.

        `count` is that of the offsets that it covers: compaction may have left fewer records. Batches
        without a producer or a sequence number are nothing to this. Its producer counts as used now, as
        the times in a batch are its producer's own.
        """
        if producer_id < 0 or base_sequence < 0:
            return
        known = self._producers.get(producer_id)
        if known is None or known.batches[-1].next_offset <= base_offset:
            self.appended(producer_id, epoch, base_sequence, count, base_offset, timestamp, now_ms)


def _read_producers(body: bytes, count: int, below: int) -> OrderedDict[int, _Producer]:
    """Raises struct.error if there are fewer."""
    found: OrderedDict[int, _Producer] = OrderedDict()
    at = _SNAPSHOT.size
    for _ in range(count):
        producer_id, epoch, used_ms, batch_count = _PRODUCER.unpack_from(body, at)
        at += _PRODUCER.size
        known = _Producer(epoch, used_ms)
        for _ in range(batch_count):
            batch = _Batch._make(_BATCH.unpack_from(body, at))
            at += _BATCH.size
            if batch.next_offset <= below:
                known.batches.append(batch)
        if known.batches:
            found[producer_id] = known
    return found
