"""Idempotent producers beside a naive twin that remembers everything, over restarts and lost tails of the log."""

from __future__ import annotations

import struct
from typing import NamedTuple

import google_crc32c
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from broker.model.errors import ModelError
from broker.model.producer import (
    CorruptSnapshot,
    Duplicate,
    InvalidProducerEpoch,
    OutOfOrderSequence,
    Producers,
)

SEQUENCES = 1 << 31
DAY_MS = 24 * 3600 * 1000


class Entry(NamedTuple):
    """A batch in the log."""

    producer_id: int
    epoch: int
    first: int
    count: int
    base_offset: int
    timestamp: int

    @property
    def end(self) -> int:
        return self.base_offset + self.count

    @property
    def last(self) -> int:
        return (self.first + self.count - 1) % SEQUENCES


class NaiveProducers:
    """Every batch of every producer, and when each was heard of."""

    def __init__(self, expiry_ms: int, producers_max: int) -> None:
        self.expiry_ms = expiry_ms
        self.producers_max = producers_max
        self.entries: dict[int, list[Entry]] = {}
        self.used_ms: dict[int, int] = {}
        self.order: list[int] = []
        """Who was used longest ago comes first."""

    def remembered(self, producer_id: int) -> list[Entry]:
        """The last five batches, as far as they are of the last epoch."""
        entries = self.entries[producer_id]
        kept = []
        for entry in reversed(entries):
            if entry.epoch != entries[-1].epoch or len(kept) == 5:
                break
            kept.insert(0, entry)
        return kept

    def check(
        self, producer_id: int, epoch: int, first: int, count: int
    ) -> Duplicate | type[ModelError] | None:
        if producer_id not in self.entries:
            return None
        entries = self.remembered(producer_id)
        known = entries[-1].epoch
        if epoch < known:
            return InvalidProducerEpoch
        if epoch > known:
            return None if first == 0 else OutOfOrderSequence
        for entry in entries:
            if (entry.first, entry.last) == (first, (first + count - 1) % SEQUENCES):
                return Duplicate(entry.base_offset, entry.timestamp)
        return None if first == (entries[-1].last + 1) % SEQUENCES else OutOfOrderSequence

    def appended(self, entry: Entry, now_ms: int) -> None:
        producer_id = entry.producer_id
        if producer_id in self.entries:
            self.order.remove(producer_id)
        elif len(self.order) == self.producers_max:
            self.forget(self.order[0])
        self.entries.setdefault(producer_id, []).append(entry)
        self.order.append(producer_id)
        self.used_ms[producer_id] = now_ms

    def forget(self, producer_id: int) -> None:
        self.order.remove(producer_id)
        del self.entries[producer_id], self.used_ms[producer_id]

    def expire(self, now_ms: int) -> None:
        for producer_id in list(self.order):
            if self.used_ms[producer_id] + self.expiry_ms <= now_ms:
                self.forget(producer_id)

    def below(self, offset: int) -> NaiveProducers:
        """What a snapshot, or a log that was cut there, leaves of it."""
        left = NaiveProducers(self.expiry_ms, self.producers_max)
        for producer_id in self.order:
            entries = [entry for entry in self.remembered(producer_id) if entry.end <= offset]
            if entries:
                left.entries[producer_id] = entries
                left.order.append(producer_id)
                left.used_ms[producer_id] = self.used_ms[producer_id]
        return left


class Snapshot(NamedTuple):
    octets: bytes
    below: int
    naive: NaiveProducers


def outcome(producers: Producers, *batch: int) -> Duplicate | type[ModelError] | None:
    try:
        return producers.check(*batch)
    except ModelError as error:
        return type(error)


class ProducersMachine(RuleBasedStateMachine):
    """Five producers of which one partition may know four."""

    @initialize(started_ms=st.integers(0, 1 << 42))
    def start(self, started_ms: int) -> None:
        self.now_ms = started_ms
        self.real = self.new()
        self.naive = NaiveProducers(1000, 4)
        self.log: list[Entry] = []
        self.snapshots: list[Snapshot] = []

    def new(self) -> Producers:
        return Producers(expiry_ms=1000, producers_max=4)

    @property
    def end(self) -> int:
        return self.log[-1].end if self.log else 0

    @rule(
        producer_id=st.integers(0, 4),
        epoch_step=st.sampled_from((0, 0, 0, 0, 1, -1)),
        step=st.sampled_from(("next", "next", "next", "again", "zero", "gap", "last")),
        back=st.integers(0, 7),
        count=st.sampled_from((1, 1, 2, 7, 1 << 20, 1 << 30, SEQUENCES - 1)),
        timestamp=st.integers(-1, 1 << 40),
    )
    def produce(
        self, producer_id: int, epoch_step: int, step: str, back: int, count: int, timestamp: int
    ) -> None:
        own = [entry for entry in self.log if entry.producer_id == producer_id]
        latest = own[-1] if own else Entry(producer_id, 0, 0, 1, 0, 0)
        epoch = max(latest.epoch + epoch_step, 0)
        first = {
            "next": (latest.last + 1) % SEQUENCES,
            "again": latest.first,
            "zero": 0,
            "gap": (latest.last + 1 + count) % SEQUENCES,
            "last": SEQUENCES - 1,
        }[step]
        if step == "again" and own:
            epoch, first, count = own[-1 - back % len(own)][1:4]
        batch = (producer_id, epoch, first, count)
        expected = self.naive.check(*batch)
        assert outcome(self.real, *batch) == expected
        if expected is None:
            entry = Entry(*batch, self.end, timestamp)
            self.real.appended(*entry, self.now_ms)
            self.naive.appended(entry, self.now_ms)
            self.log.append(entry)

    @rule(passed_ms=st.sampled_from((0, 1, 300, 999, 1000)))
    def expire(self, passed_ms: int) -> None:
        self.now_ms += passed_ms
        self.real.expire(self.now_ms)
        self.naive.expire(self.now_ms)

    @rule(back=st.integers(0, 9))
    def snapshot(self, back: int) -> None:
        ends = [0, *(entry.end for entry in self.log)]
        below = ends[max(len(ends) - 1 - back, 0)]
        self.snapshots.append(Snapshot(self.real.snapshot(below), below, self.naive.below(below)))

    @precondition(lambda self: self.snapshots)
    @rule(which=st.integers(0, 3), lost=st.integers(0, 6))
    def restart_from_a_snapshot(self, which: int, lost: int) -> None:
        """The log may have lost its tail, and even more of it than the snapshot knows."""
        self.log = self.log[: len(self.log) - lost] if lost else self.log
        snapshot = self.snapshots[-1 - which % len(self.snapshots)]
        below = min(snapshot.below, self.end)
        self.real = self.new()
        self.real.restore(snapshot.octets, below)
        self.naive = snapshot.naive.below(below)
        self.replay_all()

    @rule()
    def restart_without_one(self) -> None:
        self.real = self.new()
        self.naive = NaiveProducers(1000, 4)
        self.replay_all()

    def replay_all(self) -> None:
        """From the very beginning: what the snapshot has already must not matter."""
        self.snapshots = [each for each in self.snapshots if each.below <= self.end]
        for entry in self.log:
            known = self.naive.entries.get(entry.producer_id, [])
            if known and known[-1].base_offset >= entry.base_offset:
                assert entry.end <= known[-1].end
            else:
                self.naive.appended(entry, self.now_ms)
            self.real.replay(*entry, self.now_ms)

    @invariant()
    def both_know_the_same(self) -> None:
        expected = []
        for producer_id in self.naive.order:
            latest = self.naive.entries[producer_id][-1]
            expected.append((producer_id, latest.epoch, latest.last, latest.timestamp))
        assert self.real.describe() == expected
        assert len(self.real) == len(expected)


TestProducersMachine = ProducersMachine.TestCase
TestProducersMachine.settings = settings(max_examples=150, stateful_step_count=40)


def with_batches(*sequences: tuple[int, int], producer_id: int = 1, epoch: int = 0) -> Producers:
    producers = Producers()
    offset = 100
    for first, count in sequences:
        producers.appended(producer_id, epoch, first, count, offset, offset + 7, 0)
        offset += count
    return producers


# ---- each rule on its own ----


def test_a_batch_that_comes_again_is_found_among_the_last_five():
    producers = with_batches(*((number, 1) for number in range(6)))
    for number in range(1, 6):
        assert producers.check(1, 0, number, 1) == Duplicate(100 + number, 107 + number)
    with pytest.raises(OutOfOrderSequence, match="producer 1: sequence number 0 comes after 5"):
        producers.check(1, 0, 0, 1)
    assert producers.check(1, 0, 6, 1) is None


def test_a_part_of_a_batch_is_no_duplicate():
    producers = with_batches((0, 4))
    for first, count in ((0, 3), (1, 3), (0, 5)):
        with pytest.raises(OutOfOrderSequence):
            producers.check(1, 0, first, count)


def test_a_producer_that_is_not_known_begins_anywhere():
    producers = with_batches((0, 1))
    assert producers.check(2, 7, 12345, 1) is None


def test_another_epoch_begins_with_zero_and_forgets_the_batches_before():
    producers = with_batches((0, 1), (1, 1))
    with pytest.raises(OutOfOrderSequence, match="producer 1: epoch 1 begins with sequence number 2"):
        producers.check(1, 1, 2, 1)
    assert producers.check(1, 1, 0, 1) is None
    producers.appended(1, 1, 0, 1, 102, 0, 0)
    with pytest.raises(InvalidProducerEpoch, match="producer 1: epoch 0 where it has 1 by now"):
        producers.check(1, 0, 1, 1)
    assert producers.check(1, 1, 0, 1) == Duplicate(102, 0)


@pytest.mark.parametrize(
    ("first", "count", "following"),
    [(SEQUENCES - 1, 1, 0), (SEQUENCES - 2, 2, 0), (SEQUENCES - 2, 5, 3), (SEQUENCES - 3, 2, SEQUENCES - 1)],
)
def test_sequence_numbers_begin_anew_behind_the_largest(first, count, following):
    producers = with_batches((first, count))
    assert producers.check(1, 0, first, count) == Duplicate(100, 107)
    assert producers.check(1, 0, following, 1) is None
    with pytest.raises(OutOfOrderSequence):
        producers.check(1, 0, following + 1, 1)


def test_a_day_without_a_batch_is_enough():
    producers = with_batches((0, 1))
    producers.expire(DAY_MS - 1)
    assert len(producers) == 1
    producers.expire(DAY_MS)
    assert len(producers) == 0
    assert producers.check(1, 0, 99, 1) is None


def test_the_producer_that_was_used_longest_ago_makes_room():
    producers = Producers(producers_max=2)
    for producer_id in (1, 2, 1, 3):
        producers.appended(producer_id, 0, 0, 1, 0, 0, 0)
    assert [each.producer_id for each in producers.describe()] == [1, 3]


# ---- over a restart ----


def test_a_snapshot_looks_the_same_for_ever():
    producers = with_batches((SEQUENCES - 1, 2), (1, 3))
    producers.appended(1 << 40, 2, 9, 1, 105, -1, 6)
    body = bytes.fromhex(
        "0001 00000002"
        "0000000000000001 0000 0000000000000000 02"
        "7fffffff 00000002 0000000000000064 000000000000006b"
        "00000001 00000003 0000000000000066 000000000000006d"
        "0000010000000000 0002 0000000000000006 01"
        "00000009 00000001 0000000000000069 ffffffffffffffff"
    )
    assert producers.snapshot(106) == google_crc32c.value(body).to_bytes(4) + body


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 9)), max_size=30),
    st.data(),
)
def test_a_snapshot_and_the_batches_behind_it_are_as_good_as_all_batches(produced, data):
    undisturbed, taken = Producers(), Producers()
    entries, sequences, offset = [], [0] * 4, 0
    for producer_id, count in produced:
        entries.append((producer_id, 0, sequences[producer_id], count, offset, offset))
        sequences[producer_id] += count
        offset += count
    cut = data.draw(st.integers(0, len(entries)))
    below = entries[cut][4] if cut < len(entries) else offset
    # More may have been appended by the time of the snapshot than it speaks of.
    until = data.draw(st.integers(cut, len(entries)))
    for entry in entries[:until]:
        taken.appended(*entry, 0)
    for entry in entries:
        undisturbed.appended(*entry, 0)
    restored = Producers()
    restored.restore(taken.snapshot(below), below)
    for entry in entries[cut:]:
        restored.replay(*entry, 0)
    assert sorted(restored.describe()) == sorted(undisturbed.describe())
    for entry in entries:
        assert outcome(restored, *entry[:4]) == outcome(undisturbed, *entry[:4])


def test_the_log_may_have_lost_what_the_snapshot_has():
    producers = with_batches((0, 2), (2, 2), (4, 2))
    restored = Producers()
    restored.restore(producers.snapshot(106), 104)
    assert restored.check(1, 0, 2, 2) == Duplicate(102, 109)
    assert restored.check(1, 0, 4, 2) is None


def test_a_snapshot_has_whole_batches():
    restored = Producers()
    restored.restore(with_batches((0, 2), (2, 2)).snapshot(103), 104)
    assert restored.describe() == [(1, 0, 1, 107)]


def test_what_the_snapshot_has_is_not_replayed():
    producers = with_batches(*((number, 1) for number in range(5)))
    producers.replay(1, 0, 4, 1, 104, 111, DAY_MS)
    assert producers.check(1, 0, 0, 1) == Duplicate(100, 107)
    producers.expire(DAY_MS)
    assert len(producers) == 0


def test_a_producer_that_is_replayed_counts_as_used():
    producers = with_batches((0, 1))
    producers.replay(1, 0, 1, 1, 101, 5, DAY_MS)
    producers.expire(DAY_MS)
    assert producers.describe() == [(1, 0, 1, 5)]


def test_a_batch_without_a_producer_or_a_sequence_is_not_replayed():
    producers = Producers()
    producers.replay(-1, -1, -1, 1, 0, 0, 0)
    producers.replay(5, 0, -1, 1, 0, 0, 0)
    assert producers.describe() == []


def test_a_snapshot_of_more_producers_than_there_may_be():
    many = Producers()
    for producer_id in range(5):
        many.appended(producer_id, 0, 0, 1, producer_id, 0, 0)
    few = Producers(producers_max=2)
    few.restore(many.snapshot(5), 5)
    assert [each.producer_id for each in few.describe()] == [3, 4]


@given(st.data())
def test_a_damaged_snapshot_is_refused_and_changes_nothing(data):
    octets = bytearray(with_batches((0, 2), (2, 2)).snapshot(200))
    if data.draw(st.booleans()):
        octets = octets[: data.draw(st.integers(0, len(octets) - 1))]
    else:
        octets[data.draw(st.integers(0, len(octets) - 1))] ^= data.draw(st.integers(1, 255))
    producers = with_batches((7, 1))
    with pytest.raises(CorruptSnapshot):
        producers.restore(bytes(octets), 200)
    assert producers.check(1, 0, 7, 1) == Duplicate(100, 107)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (struct.pack(">HI", 2, 0), "of version 2, where 1 is known"),
        (struct.pack(">HI", 1, 1), "of 1 producers is cut short"),
        (struct.pack(">HIqhqB", 1, 1, 1, 1, 1, 1), "of 1 producers is cut short"),
        (struct.pack(">HI", 1, (1 << 32) - 1), "is cut short"),
    ],
)
def test_a_snapshot_of_another_kind_is_refused(body, said):
    with pytest.raises(CorruptSnapshot, match=said):
        Producers().restore(google_crc32c.value(body).to_bytes(4) + body, 0)


def test_no_snapshot_is_none():
    with pytest.raises(CorruptSnapshot):
        Producers().restore(b"", 0)


def test_where_the_last_batches_end():
    producers = Producers()
    assert producers.ends() == frozenset()
    producers.appended(1, 0, 0, 3, 100, 0, 0)
    producers.appended(2, 0, 0, 2, 103, 0, 0)
    producers.appended(1, 0, 3, 5, 105, 0, 0)
    assert producers.ends() == {105, 110}
    producers.expire(DAY_MS)
    assert producers.ends() == frozenset()
