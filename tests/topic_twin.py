"""What a topic must have, whatever happens to the process: the naive twin of one partition, and its producers.

Flow:   `append` and `move_start` do the same to both; `check` holds one against the other at any time, `recovered`
        when there is another process.
Shape:  a record is a number that nobody else has. Of each offset the twin knows what was appended there last.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

from broker.kafka import records
from broker.kafka.records import Record
from broker.node.flusher import Commit
from broker.node.partition import Partition
from broker.node.topics import Topic

INFLIGHT_MAX = 5


@dataclass(eq=False)
class Sent:
    """A batch of an idempotent producer."""

    epoch: int
    sequence: int
    values: list[bytes]
    offset: int


@dataclass(eq=False)
class Producer:
    """Of one partition. It has at most five batches on the way, and sends them again in order."""

    id: int
    epoch: int = 0
    sequence: int = 0
    inflight: list[Sent] = field(default_factory=list)
    acked: list[Sent] = field(default_factory=list)
    """The newest."""

    def acknowledge(self, sent: Sent) -> None:
        if sent in self.inflight:
            self.inflight.remove(sent)
            self.acked = [*self.acked, sent][-INFLIGHT_MAX:]


@dataclass(eq=False)
class TopicTwin:
    """A topic with one partition."""

    name: str
    id: bytes
    syncs: bool
    created: Commit
    deleted: Commit | None = None
    records: dict[int, bytes] = field(default_factory=dict)
    end: int = 0
    safe: int = 0
    """Behind the last record that is safe: what lies before it may be read."""
    starts: list[int] = field(default_factory=lambda: [0])
    """Where the partition may begin after a crash: the first is safe, the last is what is asked for."""
    lost: bool = False
    """What was acknowledged may be, as it was never synced."""
    committed: list[int] = field(default_factory=lambda: [-1])
    """What a group has committed: the first is safe, the last is the newest; -1 is nothing."""
    producers: list[Producer] = field(default_factory=list)

    @property
    def gone(self) -> bool:
        """For good."""
        return self.deleted is not None and self.deleted.done

    # ---- what clients do ----

    def append(self, partition: Partition, values: list[bytes], now_ms: int) -> int:
        octets = records.build([Record(0, now_ms, None, value) for value in values])
        return self._append(partition, octets, values)

    def send(self, partition: Partition, producer: Producer, values: list[bytes], now_ms: int) -> Sent:
        """The next batch of a producer. Raises what the partition raises."""
        sent = Sent(producer.epoch, producer.sequence, values, -1)
        sent.offset = self._append(partition, _octets_of(sent, producer.id, now_ms), values)
        producer.sequence += len(values)
        producer.inflight.append(sent)
        partition._flusher.open.waiters.append(lambda: producer.acknowledge(sent))
        return sent

    def _append(self, partition: Partition, octets: bytes, values: list[bytes]) -> int:
        appended = partition.append(records.read_header(octets), octets)
        assert appended.base_offset == self.end == partition.next_offset - len(values)
        self.records.update(enumerate(values, self.end))
        self.end += len(values)
        end = self.end
        appended.commit.waiters.append(lambda: self._is_safe(end))
        return appended.base_offset

    def _is_safe(self, end: int) -> None:
        self.safe = max(self.safe, end)

    def send_again(self, partition: Partition, producer: Producer, sent: Sent, now_ms: int) -> None:
        """A batch that the partition has: it must know it."""
        octets = _octets_of(sent, producer.id, now_ms)
        before = partition.next_offset
        appended = partition.append(records.read_header(octets), octets)
        assert appended.base_offset == sent.offset, f"{sent} was taken for a new batch"
        assert partition.next_offset == before
        if sent in producer.inflight:
            appended.commit.waiters.append(lambda: producer.acknowledge(sent))

    def move_start(self, partition: Partition, offset: int) -> None:
        commit = partition.move_start(offset)
        if offset > self.starts[-1]:
            self.starts.append(offset)
        start = self.starts[-1]
        commit.waiters.append(lambda: self._starts_at(start))

    def start_has_moved(self, partition: Partition) -> None:
        """By retention, into the open commit."""
        if partition.start_offset > self.starts[-1]:
            start = partition.start_offset
            self.starts.append(start)
            partition._flusher.open.waiters.append(lambda: self._starts_at(start))

    def _starts_at(self, offset: int) -> None:
        self.starts = [start for start in self.starts if start >= offset]

    def offset_is_safe(self, at: int) -> None:
        """That with this index, and all before it count no more."""
        self.committed[:at] = [self.committed[at]] * at

    # ---- what must be ----

    def check(self, partition: Partition) -> None:
        """While the process lives."""
        assert partition.start_offset == self.starts[-1]
        assert partition.high_watermark == self.safe
        assert partition.next_offset == self.end
        expected = {at: value for at, value in self.records.items() if self.starts[-1] <= at < self.safe}
        assert contents(partition) == expected

    def recovered(self, topic: Topic, *, killed: bool) -> None:
        """Another process has it. It begins with what is there, which is safe if it is read from now on."""
        assert topic.id == self.id
        partition = topic.partition(0)
        found = contents(partition)
        start = partition.start_offset
        assert start in self.starts, f"{self.name} begins at {start}, not at one of {self.starts}"
        for offset, value in found.items():
            assert self.records.get(offset) == value, f"{self.name}: {value!r} at {offset}"
        if self.syncs or killed:
            lost = [
                offset for offset in range(start, self.safe) if offset not in found and offset in self.records
            ]
            assert not lost, f"{self.name}: {lost} are lost"
            assert partition.high_watermark >= self.safe
        if self.syncs:
            assert list(found) == [*range(start, partition.high_watermark)], f"{self.name} has a hole"
        self.lost = not (self.syncs or killed)
        self._begin_anew(partition, found)

    def _begin_anew(self, partition: Partition, found: dict[int, bytes]) -> None:
        self.starts = [partition.start_offset]
        self.end = self.safe = partition.high_watermark
        assert partition.next_offset == self.end
        assert self.end >= max(found, default=-1) + 1
        self.records = found
        self.deleted = None
        self.created = Commit(done=True)

    def is_there(self, sent: Sent) -> bool:
        return all(self.records.get(at) == value for at, value in enumerate(sent.values, sent.offset))

    def go_on(self, partition: Partition, producer: Producer, now_ms: int) -> None:
        """A producer that has lost its connection sends again what was not acknowledged, in order."""
        for sent in list(producer.acked):
            if self.is_there(sent) and sent.offset >= self.starts[-1]:
                self.send_again(partition, producer, sent, now_ms)
        left = list(producer.inflight)
        if self.lost:
            self._begin_epoch(producer, left)
        while left:
            sent = left[0]
            if self.is_there(sent):
                self.send_again(partition, producer, sent, now_ms)
                left.pop(0)
                continue
            assert not any(self.is_there(other) for other in left), f"{sent} is missing before another"
            sent.offset = self._append(partition, _octets_of(sent, producer.id, now_ms), sent.values)
            partition._flusher.open.waiters.append(lambda sent=sent: producer.acknowledge(sent))
            left.pop(0)

    @staticmethod
    def _begin_epoch(producer: Producer, left: list[Sent]) -> None:
        """As clients do who hear that a batch is missing."""
        producer.epoch += 1
        producer.sequence = 0
        producer.acked = []
        producer.inflight = list(left)
        for sent in left:
            sent.epoch, sent.sequence, sent.offset = producer.epoch, producer.sequence, -1
            producer.sequence += len(sent.values)


def _octets_of(sent: Sent, producer_id: int, now_ms: int) -> bytes:
    made = [Record(0, now_ms, None, value) for value in sent.values]
    return records.build(
        made, producer_id=producer_id, producer_epoch=sent.epoch, base_sequence=sent.sequence
    )


def contents(partition: Partition) -> dict[int, bytes]:
    """Every record that may be read, by offset."""
    found: dict[int, bytes] = {}
    offset = partition.start_offset
    while some := partition.batches(offset, 10_000):
        for octets in some:
            for one in records.iterate(octets):
                if one.offset >= partition.start_offset:
                    assert one.offset not in found
                    found[one.offset] = one.value or b""
            header = records.read_header(octets)
            assert header.base_offset + header.count > offset
            offset = header.base_offset + header.count
    assert list(found) == sorted(found)
    return found


def numbers() -> itertools.count[int]:
    return itertools.count(1)
