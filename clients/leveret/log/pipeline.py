"""The batches of one partition: the one that is filled, those that wait, those that are out.

Flow:   records go into `filling`; the sender asks when a batch is `due`, takes it with `take`, and says what
        became of it with one of the last methods. No waiting happens here.
Shape:  filling -> waiting -> out -> acknowledged, or given up
                      ^--------'    the answer was lost, or is "not now"
Limits: what is out is bounded by the sender, to five batches.
Spec:   KIP-98: the broker takes the batches of a producer in the order of their sequence numbers, without a
        gap, and knows the last five again.
Why:    After a batch came back nothing more goes out until all answers are there: then it is known what the
        broker has, and batches go again in their order, with the numbers that they had.
        A batch that is given up leaves a gap in the numbers: the broker refuses those behind it, for their
        order. Those of which nobody knows whether they are in the log go again with their old numbers, one
        at a time, to find out; the others get new numbers then. If it is not known of the one that was
        given up, those are numbers of a new identity: under the old one, a batch could pass for that one.
        A broker takes any number from a producer that it does not know: until it knows us, one is out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from leveret.log.backoff import Backoff
from leveret.log.batch import SEQUENCE_MASK, Batch, Identity
from leveret.log.record import TopicPartition


class Pipeline:
    """What is on its way to one partition."""

    __slots__ = (
        "_acknowledged",
        "_backoff",
        "_gap",
        "_identity",
        "_introduced",
        "_newest",
        "_next_first",
        "_next_sequence",
        "_out",
        "_renews",
        "_repeating",
        "_spent",
        "_waiting",
        "filling",
        "place",
        "retry_at",
    )

    def __init__(self, place: TopicPartition) -> None:
        self.place = place
        self.retry_at = 0.0
        """Nothing goes before."""
        self.filling: Batch | None = None
        """To which records are added."""
        self._waiting: deque[Batch] = deque()
        self._out: list[Batch] = []
        self._next_first = 0
        self._identity: Identity | None = None
        self._next_sequence = 0
        self._acknowledged = 0
        """What comes behind the last sequence number that was acknowledged."""
        self._newest = 0
        """Which batch that was."""
        self._repeating = False
        """A batch came back while others were out."""
        self._gap = False
        """A batch that had a number was given up."""
        self._renews = False
        """The numbers behind the gap are of a new identity."""
        self._spent: Identity | None = None
        self._introduced = True
        """The broker has acknowledged something of this identity."""
        self._backoff = Backoff()

    def __bool__(self) -> bool:
        return bool(self._out or self._waiting or self.filling is not None)

    def __iter__(self) -> Iterator[Batch]:
        """All batches, the oldest first but for those that are out, which come before."""
        yield from self._out
        yield from self._waiting
        if self.filling is not None:
            yield self.filling

    # ---- in ----

    def begin(self, now: float, deadline: float) -> Batch:
        """Fill a new batch from now on; the one before goes as it is."""
        self.close()
        batch = self.filling = Batch(self.place, self._next_first, now, deadline)
        return batch

    def close(self) -> None:
        """What is being filled need not wait for more."""
        if self.filling is not None:
            self._next_first = self.filling.first + len(self.filling.records)
            self._waiting.append(self.filling)
            self.filling = None

    # ---- out ----

    def due(self, now: float, linger_s: float, size_max: int) -> float | None:
        """When a batch may go: a time, which may be past, or None if not before something was answered."""
        if not self._out:
            self._resume()
        elif self._repeating or self._gap or not self._introduced:
            return None
        if self._waiting:
            return self.retry_at
        filling = self.filling
        if filling is None:
            return None
        if filling.size >= size_max:
            return max(self.retry_at, now)
        # While others are out it gathers more.
        return None if self._out else max(self.retry_at, filling.begun_at + linger_s)

    def _resume(self) -> None:
        """All that was out is answered."""
        self._repeating = False
        if not self._gap or any(batch.sequence >= 0 for batch in self._waiting):
            return
        self._gap = False
        self._next_sequence = self._acknowledged
        if self._renews:
            self._renews = False
            self._spent, self._identity = self._identity, None

    def can_use(self, identity: Identity) -> bool:
        """It can be the next one, if there is need of one."""
        return self._identity is not None or identity is not self._spent

    def take(self, identity: Identity | None) -> Batch:
        """The next batch, when one is due; with an identity it has a sequence number."""
        if not self._waiting:
            self.close()
        batch = self._waiting[0]
        if self._gap:
            batch = next(batch for batch in self._waiting if batch.sequence >= 0)
        self._waiting.remove(batch)
        if identity is not None and batch.sequence < 0:
            if self._identity is None:
                self._identity = identity
                self._introduced = False
                self._next_sequence = self._acknowledged = 0
            self._next_sequence = batch.assign(self._identity, self._next_sequence)
        self._out.append(batch)
        return batch

    # ---- what became of a batch that was out ----

    def acknowledged(self, batch: Batch) -> None:
        self._out.remove(batch)
        self._backoff.reset()
        self._introduced = True
        if batch.sequence >= 0 and batch.first >= self._newest:
            # A batch that was repeated may be acknowledged after those behind it.
            self._newest = batch.first
            self._acknowledged = (batch.sequence + len(batch.records)) & SEQUENCE_MASK

    def refused(self, batch: Batch) -> None:
        """The broker will not have it, now or ever."""
        self._out.remove(batch)
        self._give_up(batch)

    def too_large(self, batch: Batch) -> bool:
        """The broker will not have it as it is, but perhaps in halves; False if it cannot be cut."""
        if len(batch.records) < 2 or batch.maybe_sent:
            return False
        self._out.remove(batch)
        self._give_up(batch)
        for half in batch.cut():
            self._insert(half)
        return True

    def lost(self, batch: Batch, now: float) -> None:
        """Nobody knows whether it is in the log."""
        batch.maybe_sent = True
        self._come_back(batch, now)

    def postponed(self, batch: Batch, now: float) -> None:
        """This attempt has not brought it into the log; the next one may."""
        self._come_back(batch, now)

    def out_of_order(self, batch: Batch, now: float) -> bool:
        """The broker misses batches before this one; False if it has acknowledged all of them."""
        oldest = min(other.first for other in (*self._out, *self._waiting))
        if oldest == batch.first and not self._gap:
            return False
        self._come_back(batch, now)
        if self._gap:
            batch.unassign()
        return True

    def _come_back(self, batch: Batch, now: float) -> None:
        self._out.remove(batch)
        if not self._repeating:
            self._repeating = True
            self.retry_at = now + self._backoff.take()
        self._insert(batch)

    def _insert(self, batch: Batch) -> None:
        before = sum(1 for other in self._waiting if other.first < batch.first)
        self._waiting.insert(before, batch)

    # ---- giving up ----

    def _give_up(self, batch: Batch) -> None:
        if batch.sequence >= 0:
            self._gap = True
            self._renews |= batch.maybe_sent

    def expire(self, now: float) -> list[Batch]:
        """Those that have waited for too long; they are given up."""
        if self.filling is not None and self.filling.deadline <= now:
            self.close()
        late: list[Batch] = []
        while self._waiting and self._waiting[0].deadline <= now:
            batch = self._waiting.popleft()
            self._give_up(batch)
            late.append(batch)
        return late

    @property
    def deadline(self) -> float | None:
        """When something that waits is to be given up."""
        if self._waiting:
            return self._waiting[0].deadline
        return None if self.filling is None else self.filling.deadline

    def give_up_unsent(self) -> list[Batch]:
        """What waits and is certainly not in the log."""
        self.close()
        unsent = [batch for batch in self._waiting if not batch.maybe_sent]
        for batch in unsent:
            self._waiting.remove(batch)
            self._give_up(batch)
        return unsent

    def give_all_up(self) -> list[Batch]:
        """Everything, whether it is out or not: nothing goes any more."""
        given_up = list(self)
        self._out.clear()
        self._waiting.clear()
        self.filling = None
        return given_up
