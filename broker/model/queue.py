"""A queue: which messages wait, in which order, who gets them, and which must go.

Flow:   the node pushes runs and asks to dispatch; consumers get slices and give them back through
        `acknowledge`, `requeue` and `reject`. What must go is buried: given to `bury`, whose owner
        makes dead letters of it and then says `forget`.
Shape:  ready messages, head first:  returned (were out before) | resident (in memory) | backlog (in the
        store only). Offsets rise through all three, as whoever was out lies before whoever was not.
Limits: `memory_max` bytes of memory for resident messages, and a share of what all queues may have together; what
        comes beyond that goes to the store alone. The backlog is read a megabyte at a time (64 KiB if there
        is little room), and as much of it expires at a time. A consumer gets 256 KiB and 4,096 messages before it is asked again.
Spec:   AMQP 0-9-1 section 3.1.4; RabbitMQ for requeue order, limits, expiry and overflow.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from broker.model.arguments import (
    DROP_HEAD,
    REJECT_PUBLISH_DLX,
    Arguments,
    QueueSettings,
)
from broker.model.consumers import Consumer, Consumers
from broker.model.expiry import Expiry
from broker.model.message import (
    UNIT,
    Envelope,
    Run,
    Slice,
    earliest,
    envelopes_footprint,
    envelopes_of,
    joined,
)

# How much one consumer gets in one go.
_DELIVERY_SIZE: Final = 256 * 1024
_DELIVERY_COUNT: Final = 4096
_LOAD_SIZE: Final = 1024 * 1024
# What a queue may hold in memory when all queues together hold too much.
_MEMORY_MIN: Final = 64 * 1024
# What a queue takes that is empty, with its store.
_QUEUE_SIZE: Final = 3 * 1024
# What a message counts for beside its bytes in what expires at a time.
_MESSAGE_WORK: Final = 160
# Beyond this, messages that are out keep their contents only in the store.
_UNACKED_SIZE_MAX: Final = 16 * 1024 * 1024
# So many that come back are put in their places one by one; more are sorted in.
_FEW: Final = 8

REJECTED: Final = "rejected"
EXPIRED: Final = "expired"
MAXLEN: Final = "maxlen"


class Store(Protocol):
    """Where a queue's messages are kept beside, or instead of, the memory."""

    def append(self, piece: Slice, transient: bool) -> None:
        """Keep these messages; whoever cuts the slice later does not change what is kept."""
        ...

    def settle(self, offsets: range) -> None:
        """These were appended and will not be asked for again."""
        ...

    def settle_from(self, offset: int) -> None:
        """Neither will anything from this offset on."""
        ...

    def read(self, offset: int, size_max: int) -> list[Slice]:
        """What is not settled from this offset on, in order; at least one message if there is one."""
        ...

    def fill(self, piece: Slice) -> None:
        """Give a hollow slice its contents again, without what cannot be read: it may stay hollow."""
        ...

    def handed_out(self, offset: int) -> None:
        """A consumer got this message."""
        ...


@dataclass(slots=True, eq=False)
class Counters:
    """What happened in a queue since it was opened."""

    published: int = 0
    delivered: int = 0
    delivered_no_ack: int = 0
    got: int = 0
    got_no_ack: int = 0
    got_empty: int = 0
    redelivered: int = 0
    acknowledged: int = 0


class Memory:
    """What all queues together have in memory, and may have.

    Beyond the limit each may have a little, up to a quarter more together.
    """

    __slots__ = ("_most", "limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._most = limit + limit // 4
        self.used = 0

    def has_room(self, held: int) -> bool:
        """A queue may hold so much."""
        return self.used <= self.limit or (held <= _MEMORY_MIN and self.used <= self._most)

    @property
    def load_size(self) -> int:
        """How much of a backlog to read at a time."""
        return _LOAD_SIZE if self.used + _LOAD_SIZE <= self.limit else max(_MEMORY_MIN, 1)


class Queue:
    """One queue."""

    # Slots keep together in memory what a pass over hundreds of queues touches of each.
    __slots__ = (
        "_backlog_count",
        "_backlog_from",
        "_backlog_size",
        "_bury",
        "_envelope",
        "_expiry",
        "limited",
        "_all_memory",
        "_memory",
        "_memory_max",
        "_resident",
        "_returned",
        "_shells",
        "_store",
        "_ttl",
        "_used_ms",
        "arguments",
        "auto_delete",
        "consumers",
        "counters",
        "deleted",
        "durable",
        "eager",
        "keeps_transient",
        "lasting",
        "name",
        "next_offset",
        "owner",
        "ready_count",
        "ready_size",
        "settings",
        "timed",
        "unacked_count",
        "unacked_size",
        "vhost",
    )

    def __init__(
        self,
        name: str,
        vhost: str,
        store: Store,
        bury: Callable[[Queue, str, Slice], None],
        *,
        durable: bool = False,
        auto_delete: bool = False,
        owner: object = None,
        arguments: Arguments | None = None,
        settings: QueueSettings | None = None,
        memory_max: int = 32 * 1024 * 1024,
        memory: Memory | None = None,
        now_ms: int = 0,
    ) -> None:
        self.name = name
        self.vhost = vhost
        self.durable = durable
        self.auto_delete = auto_delete
        self.owner = owner
        """The connection that has it exclusively, if one has."""
        self.arguments: Arguments = arguments or {}
        self.settings = settings or QueueSettings()
        self.limited = self.settings.limited
        """It may refuse messages, or drop some for others."""
        self._ttl = self.settings.message_ttl_ms
        self.consumers = Consumers()
        self.counters = Counters()
        self.lasting = durable and owner is None
        """It outlives the process, and so do its persistent messages."""
        self.deleted = False
        self.timed = self._ttl is not None or self.settings.expires_ms is not None
        """Time may have something to do here: then `next_moment` knows when."""
        self.eager = self.timed
        self.keeps_transient = False
        """After a push there may be something to do: somebody consumes, or messages expire."""
        self.ready_count = 0
        self.ready_size = 0
        self.unacked_count = 0
        self.unacked_size = 0
        self.next_offset = 0
        self._store = store
        self._bury = bury
        self._memory_max = memory_max
        self._memory = 0
        self._all_memory = memory or Memory(memory_max)
        # Of what came last: messages like it share it.
        self._envelope: Envelope | None = None
        # Descending, so that the head is at the cheap end.
        self._returned: list[Slice] = []
        self._resident: deque[Slice] = deque()
        # What expired where it stood, and still stands there: slices of those two that do not wait.
        self._shells = 0
        self._backlog_count = 0
        self._backlog_size = 0
        self._backlog_from = 0
        self._expiry = Expiry()
        self._used_ms = now_ms

    # ---- coming in ----

    def push(self, run: Run, now_ms: int) -> Sequence[int]:
        """Take the messages of a run; returns the indices of those refused for the length limit."""
        self.counters.published += len(run.contents)
        if self.limited:
            return self._push_limited(run, now_ms)
        self._append(run.envelope, run.envelopes, run.contents, run.body_size, run.size, now_ms)
        return ()

    def _append(
        self,
        envelope: Envelope,
        envelopes: Sequence[Envelope] | None,
        contents: list[bytes],
        body_size: int | None,
        size: int,
        now_ms: int,
    ) -> None:
        first = self.next_offset
        count = len(contents)
        offsets = range(first, first + count)
        self.next_offset = offsets.stop
        facts = envelope.facts
        lasting = self.lasting and facts.persistent
        piece = Slice(envelope, contents, offsets, body_size, 0, lasting, size, envelopes)
        if self._ttl is not None or facts.expires:
            self._limit_time(piece, now_ms)
        cost = piece.footprint()
        if self._memory > _MEMORY_MIN:  # a queue that flows has no time for this
            if envelopes is not None or envelope is not self._envelope:
                cost += envelopes_footprint(envelopes or (envelope,))
            self._envelope = envelope
        held = self._memory + cost
        if self._backlog_count or held > self._memory_max or not self._all_memory.has_room(held):
            piece.stored = True
            self._store.append(piece, not lasting)
            self._add_backlog(offsets, count, size)
            for at, moment in enumerate(piece.expiries or (), first):
                self._expiry.add_stored(moment, range(at, at + 1))
        else:
            if lasting:
                self._store.append(piece, False)
            self._add_resident(piece, cost)
        self.ready_count += count
        self.ready_size += size

    def _limit_time(self, piece: Slice, now_ms: int) -> None:
        """Note when the messages expire."""
        self.timed = self.eager = True
        ttl = self._ttl
        if piece.envelope.facts.expires:
            limits = piece.envelope.expirations_ms(piece.contents)
            if ttl is None:
                piece.expiries = [now_ms + limit for limit in limits]
            else:
                piece.expiries = [now_ms + min(limit, ttl) for limit in limits]
            piece.expires_at = earliest(piece.expiries)
        elif ttl is not None:
            piece.expires_at = now_ms + ttl

    def _add_backlog(self, offsets: range, count: int, size: int) -> None:
        if not self._backlog_count:
            self._backlog_from = offsets.start
        self._backlog_count += count
        self._backlog_size += size

    def _add_resident(self, piece: Slice, cost: int) -> None:
        self._resident.append(piece)
        piece.held = units = -(-cost // UNIT)
        self._hold(units)
        piece.waiting = True
        if piece.expiries is not None:
            self._expiry.add(piece)

    def _hold(self, units: int) -> None:
        """So much more is in memory, or less."""
        self._memory += units * UNIT
        self._all_memory.used += units * UNIT

    def let_go(self) -> None:
        """The queue is deleted, and its messages are in memory no more."""
        self._hold(-self._memory // UNIT)

    def _push_limited(self, run: Run, now_ms: int) -> Sequence[int]:
        """Message by message where it matters: who can be handed over at once does not count."""
        if self.settings.overflow == DROP_HEAD:
            self._append(run.envelope, run.envelopes, run.contents, run.body_size, run.size, now_ms)
            self.dispatch()
            self._drop_head()
            return ()
        refused = []
        for index, (envelope, content) in enumerate(zip(envelopes_of([run]), run.contents, strict=True)):
            size = envelope.measure([content])
            if self._would_overflow(size):
                self.dispatch()
                if self._would_overflow(size):
                    refused.append(index)
                    continue
            self._append(envelope, None, [content], size, size, now_ms)
        if refused and self.settings.overflow == REJECT_PUBLISH_DLX:
            whole = Slice(run.envelope, run.contents, range(len(run.contents)), None, 0, False)
            whole.envelopes = run.envelopes
            for index in refused:
                self._bury(self, MAXLEN, whole.part(slice(index, index + 1)))
        return refused

    def _would_overflow(self, size: int) -> bool:
        length, octets = self.settings.max_length, self.settings.max_length_bytes
        return (length is not None and self.ready_count + 1 > length) or (
            octets is not None and self.ready_size + size > octets
        )

    def _drop_head(self) -> None:
        length, octets = self.settings.max_length, self.settings.max_length_bytes
        if length is not None and self.ready_count > length:
            for piece in self.take(self.ready_count - length):
                self._bury(self, MAXLEN, piece)
        while octets is not None and self.ready_size > octets:
            head = self._head()
            if head is None:
                return
            each = head.body_size  # those of one slice mostly are equally long
            excess = self.ready_size - octets
            for piece in self.take(min(-(-excess // each), len(head)) if each else 1):
                self._bury(self, MAXLEN, piece)

    def restore(self, next_offset: int, first: int, count: int, size: int) -> None:
        """Begin with what the store holds: `count` messages from offset `first` on."""
        assert not self.next_offset
        self.next_offset = next_offset
        self.ready_count = self._backlog_count = count
        self.ready_size = self._backlog_size = size
        self._backlog_from = first

    def watch_stored(self, expires_at: int, offsets: range) -> None:
        """Some of the messages restored have a time of their own."""
        self.timed = self.eager = True
        self._expiry.add_stored(expires_at, offsets)

    # ---- the head ----

    def _head(self) -> Slice | None:
        returned, resident = self._returned, self._resident
        while returned:
            last = returned[-1]
            if last.waiting:
                return last
            returned.pop()
            returned += reversed(last.parts)
            self._shells -= 1
        while True:
            while resident:
                first = resident[0]
                if first.waiting:
                    return first
                resident.popleft()
                resident.extendleft(reversed(first.parts))
                self._shells -= 1
            if not self._backlog_count:
                return None
            self._load()

    def _load(self) -> None:
        """Bring the head of the backlog into memory."""
        pieces = self._store.read(self._backlog_from, self._all_memory.load_size)
        if not pieces:  # the store lost them, and has said so
            self.ready_count -= self._backlog_count
            self.ready_size -= self._backlog_size
            self._backlog_count = self._backlog_size = 0
            return
        for piece in pieces:
            self._add_resident(piece, piece.footprint())
            self._backlog_count -= len(piece)
            self._backlog_size -= piece.size
        self._backlog_from = pieces[-1].offsets[-1] + 1
        # After a restart the size is an estimate, and the count too if the disk lost something.
        if self._backlog_count <= 0 or self._backlog_size < 0:
            self.ready_size -= self._backlog_size
            self._backlog_size = 0
        if self._backlog_count < 0:
            self.ready_count -= self._backlog_count
            self._backlog_count = 0
        self._expiry.forget_stored(self._backlog_from if self._backlog_count else self.next_offset)

    def take(self, count_max: int, size_max: int = 1 << 62) -> list[Slice]:
        """Take messages from the head: at most `count_max`, and about `size_max` octets but at least one."""
        taken: list[Slice] = []
        while count_max > 0 and size_max > 0 and self.ready_count:
            piece = self._head()
            if piece is None:
                break
            count = len(piece.offsets)
            if count > count_max or piece.size > size_max:
                fitting = max(1, count * size_max // piece.size) if piece.size else count
                count = min(count_max, fitting, count)
            part = self._take(piece, count)
            if part is not None:
                count_max -= count
                size_max -= part.size
                taken.append(part)
        return taken

    def _take(self, head: Slice, count: int) -> Slice | None:
        """The first messages of the head; None if they are only in the store, and it has lost them."""
        part = self._take_whole(head) if count == len(head.offsets) else self._take_some(head, count)
        self.ready_count -= count
        self.ready_size -= part.size
        if not part.contents:
            self._store.fill(part)
            if not part.contents:
                return None
        return part

    def _take_some(self, piece: Slice, count: int) -> Slice:
        self._hold(-piece.let_go(count))
        return piece.cut(count)

    def _take_whole(self, piece: Slice) -> Slice:
        if self._returned:
            self._returned.pop()
        else:
            self._resident.popleft()
            self._hold(-piece.held)
            piece.held = 0
        piece.waiting = False
        if piece.expiries is not None:
            self._expiry.forget()
        return piece

    # ---- going out ----

    def dispatch(self) -> None:
        """Hand ready messages to consumers, as long as both are there."""
        while self.ready_count:
            able = self.consumers.in_turn(self.ready_count)
            if not able:
                return
            served = 0
            try:
                if len(able) == 1:
                    served = self._serve(*able[0])
                elif _share(able, _window_of):
                    served = self._serve(able[0][0], 1)  # and look again how much room that left
                else:
                    served = self._share(able)
            finally:
                self.consumers.served(able, served)
            if not served:
                return

    def _serve(self, consumer: Consumer, room: int) -> int:
        """Hand messages to one consumer; returns 1 if there were any."""
        pieces = joined(self.take(min(room, _DELIVERY_COUNT), _DELIVERY_SIZE))
        for piece in pieces:
            self._hand(consumer, piece)
        return 1 if pieces else 0

    def _share(self, able: list[tuple[Consumer, int]]) -> int:
        """Hand messages to consumers in turn, one to each; returns how many messages that were.

        Of each slice every consumer gets each n-th message at once, unless some are on one channel: there
        the messages have to arrive in their order.
        """
        turns = len(able)
        served = 0
        room = turns * min(room for _, room in able)
        pieces = joined(self.take(min(room, _DELIVERY_COUNT), _DELIVERY_SIZE))
        if _share(able, _channel_of):
            pieces = [single for piece in pieces for single in piece.singles()]
        for piece in pieces:
            count = len(piece.offsets)
            if count == 1:
                self._hand(able[served % turns][0], piece)
            else:
                for first in range(min(turns, count)):
                    part = piece.part(slice(first, None, turns))
                    self._hand(able[(served + first) % turns][0], part)
            served += count
        return served

    def _hand(self, consumer: Consumer, piece: Slice) -> None:
        count = len(piece.offsets)
        counters = self.counters
        if piece.redelivered:
            counters.redelivered += count
        consumer.deliver(self, piece)
        if consumer.acks:
            counters.delivered += count
            self._out(piece)
        else:
            counters.delivered_no_ack += count
            self.forget(piece)

    def _out(self, piece: Slice) -> None:
        self.unacked_count += len(piece.offsets)
        self.unacked_size += piece.size
        if piece.stored:
            self._store.handed_out(piece.offsets[-1])
            if self.unacked_size > _UNACKED_SIZE_MAX:
                piece.release()

    def get(self, now_ms: int, *, acks: bool) -> Slice | None:
        """One message for somebody who asks."""
        self._used_ms = now_ms
        if self.timed:
            self.expire(now_ms)
        taken = self.take(1)
        if not taken:
            self.counters.got_empty += 1
            return None
        piece = taken[0]
        if piece.redelivered:
            self.counters.redelivered += 1
        if acks:
            self.counters.got += 1
            self.unacked_count += 1
            self.unacked_size += piece.size
            if piece.stored:
                self._store.handed_out(piece.offsets[-1])
        else:
            self.counters.got_no_ack += 1
            self.forget(piece)
        return piece

    # ---- coming back ----

    def acknowledge(self, piece: Slice) -> None:
        count = len(piece.offsets)
        self.unacked_count -= count
        self.unacked_size -= piece.size
        self.counters.acknowledged += count
        if piece.stored:
            self._store.settle(piece.offsets)

    def reject(self, piece: Slice) -> None:
        """It is not wanted: a dead letter, if the queue has a place for them."""
        self.unacked_count -= len(piece.offsets)
        self.unacked_size -= piece.size
        self._bury_filled(REJECTED, piece)

    def requeue(self, pieces: list[Slice], now_ms: int) -> None:
        """They go back to where they were, marked as redelivered."""
        back: list[Slice] = []
        for piece in pieces:
            self.unacked_count -= len(piece.offsets)
            self.unacked_size -= piece.size
            waiting = [piece]
            if piece.expires_at and piece.expires_at <= now_ms:
                expired, waiting = piece.cut_expired(now_ms)
                for part in expired:
                    self._bury_filled(EXPIRED, part)
            # Those of consumers that took turns interleave; everything else lies side by side.
            for part in waiting:
                back += [part] if part.offsets.step == 1 else part.singles()
        for part in back:
            self.ready_count += len(part.offsets)
            self.ready_size += part.size
            part.redelivered = part.waiting = True
            if part.expiries is not None:
                self._expiry.add(part)
        if len(back) <= _FEW:
            for part in back:
                insort(self._returned, part, key=_from_the_end)
        else:
            self._returned += back
            self._returned.sort(key=_from_the_end)
        if self.limited and self.settings.overflow == DROP_HEAD:
            self._drop_head()

    def _bury_filled(self, reason: str, piece: Slice) -> None:
        if piece.hollow:
            self._store.fill(piece)
        if not piece.hollow:
            self._bury(self, reason, piece)

    def forget(self, piece: Slice) -> None:
        """Nobody will ask for these messages again."""
        if piece.stored:
            self._store.settle(piece.offsets)

    # ---- going away ----

    def purge(self) -> int:
        """Drop everything that is ready; returns how many messages that was."""
        count = self.ready_count
        for piece in _waiting((*self._returned, *self._resident)):
            piece.waiting = False
            self.forget(piece)
        if self._backlog_count:
            self._store.settle_from(self._backlog_from)
        self._returned.clear()
        self._resident.clear()
        self._expiry = Expiry()
        self._shells = 0
        self._hold(-self._memory // UNIT)
        self.ready_count = self.ready_size = 0
        self._backlog_count = self._backlog_size = 0
        return count

    def expire(self, now_ms: int) -> None:
        """Bury what has waited too long, wherever it stands.

        Of what comes from the disk that is about a megabyte in one go: `next_moment` tells if there is more.
        """
        room = _LOAD_SIZE
        self._bury_in_place(self._expiry.due(now_ms), now_ms)
        while self._ttl is not None and room > 0 and (head := self._head()) is not None:
            if not head.expires_at or head.expires_at > now_ms:
                break
            if head.expiries is not None:  # it came from the disk only now
                room -= head.size + _MESSAGE_WORK * len(head)
                self._bury_in_place(self._expiry.due(now_ms), now_ms)
                continue
            part = self._take(head, len(head))
            if part is not None:
                room -= part.size + _MESSAGE_WORK * len(part)
                self._bury(self, EXPIRED, part)
        while room > 0 and (spans := self._expiry.due_stored(now_ms)):
            for offsets in spans:
                room -= self._bury_stored(offsets, now_ms)

    def _bury_in_place(self, pieces: list[Slice], now_ms: int) -> None:
        """They stay as empty shells where they are until they come to the head, or most is like that.

        What still waits of a slice stands in its shell.
        """
        if not pieces:
            return
        returned, resident = self._returned, self._resident
        for piece in pieces:
            each = piece.held // len(piece)
            expired, piece.parts = piece.cut_expired(now_ms)
            for part in piece.parts:
                part.waiting = True
                part.held = each * len(part)
                piece.held -= part.held
                self._expiry.add(part)
            self._hold(-piece.held)
            piece.held = 0
            for part in expired:
                self.ready_count -= len(part)
                self.ready_size -= part.size
                self._bury_filled(EXPIRED, part)
        self._shells += len(pieces)
        if 2 * self._shells > len(returned) + len(resident):
            self._returned = list(_waiting(returned, descending=True))
            self._resident = deque(_waiting(resident))
            self._shells = 0

    def _bury_stored(self, offsets: range, now_ms: int) -> int:
        """Of messages that were on the disk, those that still are and have expired; returns their size."""
        found = 0
        at = max(offsets.start, self._backlog_from)
        while self._backlog_count and at < offsets.stop:
            each = max(self._backlog_size, 0) // self._backlog_count + 1
            pieces = self._store.read(at, min(each * (offsets.stop - at), _LOAD_SIZE))
            for piece in pieces:
                if piece.offsets.start >= offsets.stop:
                    return found
                if piece.expires_at and piece.expires_at <= now_ms:
                    for part in piece.cut_expired(now_ms)[0]:
                        found += self._bury_unloaded(part)
            if not pieces:
                return found
            at = pieces[-1].offsets[-1] + 1
        return found

    def _bury_unloaded(self, piece: Slice) -> int:
        size = piece.size
        self._backlog_count -= len(piece)
        self._backlog_size -= size
        self.ready_count -= len(piece)
        self.ready_size -= size
        # It lies behind `_backlog_from`: the store would give it again.
        self._store.settle(piece.offsets)
        piece.stored = False
        self._bury(self, EXPIRED, piece)
        return size + _MESSAGE_WORK * len(piece)

    # ---- time ----

    def used(self, now_ms: int) -> None:
        """Somebody declared the queue again, or its last consumer went."""
        self._used_ms = now_ms

    def add_consumer(self, consumer: Consumer) -> None:
        """Raises AccessRefused if it or somebody there wants the queue alone."""
        self.consumers.add(consumer, self.name, self.vhost)
        self.eager = True

    def remove_consumer(self, consumer: Consumer, now_ms: int) -> None:
        self.consumers.remove(consumer)
        if not len(self.consumers):
            self._used_ms = now_ms
            self.eager = self.timed

    def next_moment(self) -> int:
        """When `expire` or `is_unused` may have something to do next; 0 for never."""
        moments = []
        if self._ttl is not None and self.ready_count:
            head = self._head()
            if head is not None:
                moments.append(head.expires_at)
        if earliest := self._expiry.next_moment():
            moments.append(earliest)
        if self.settings.expires_ms is not None and not self.consumers:
            moments.append(self._used_ms + self.settings.expires_ms)
        return min(moments, default=0)

    def is_unused(self, now_ms: int) -> bool:
        """Nobody used it for as long as `x-expires` gives it."""
        expires_ms = self.settings.expires_ms
        return expires_ms is not None and not self.consumers and self._used_ms + expires_ms <= now_ms

    @property
    def memory(self) -> int:
        """About how many bytes the queue takes with the messages it has in memory, those that are out among them."""
        return _QUEUE_SIZE + max(self._memory, self.resident_size) + min(self.unacked_size, _UNACKED_SIZE_MAX)

    @property
    def resident_count(self) -> int:
        """Ready messages that are in memory."""
        return self.ready_count - self._backlog_count

    @property
    def resident_size(self) -> int:
        return self.ready_size - self._backlog_size


def _waiting(pieces: Iterable[Slice], *, descending: bool = False) -> Iterator[Slice]:
    """Those that wait, and what waits of the others."""
    for piece in pieces:
        stack = [piece]
        while stack:
            one = stack.pop()
            if one.waiting:
                yield one
            stack += one.parts if descending else reversed(one.parts)


def _share(able: list[tuple[Consumer, int]], what: Callable[[Consumer], object]) -> bool:
    """Two or more of the consumers have the same one of these; None is nothing that is shared."""
    found = [shared for consumer, _ in able if (shared := what(consumer)) is not None]
    return len(set(map(id, found))) < len(found)


_window_of: Callable[[Consumer], object] = lambda consumer: consumer.window  # noqa: E731
_channel_of: Callable[[Consumer], object] = lambda consumer: consumer.channel  # noqa: E731
_from_the_end: Callable[[Slice], int] = lambda piece: -piece.offsets.start  # noqa: E731
