"""A queue beside a naive twin, which is a list, under whatever can happen to both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from broker.model import queue as queue_module
from broker.model.arguments import DROP_HEAD, REJECT_PUBLISH, REJECT_PUBLISH_DLX, QueueSettings
from broker.model.channel import Unacked
from broker.model.errors import PreconditionFailed
from broker.model.message import Slice
from broker.model.queue import EXPIRED, MAXLEN, REJECTED, Memory, Queue
from dict_store import DictStore
from model_consumer import Channel, Consumer, Delivery
from model_messages import Run, content, envelope, key_of, number_of, numbers_of, size_of

# All times are multiples of this, which is as exactly as messages on the disk expire.
_STEP_MS = 100


@dataclass(eq=False)
class Message:
    number: int
    size: int
    persistent: bool
    expires_at: int | None
    redelivered: bool = False


@dataclass(eq=False)
class Taker:
    """The twin's consumer: the real one beside it is only asked for what was set on it."""

    real: Consumer
    out: int = 0


@dataclass(eq=False)
class Taken:
    """A delivery that is not settled."""

    message: Message
    taker: Taker | None


class NaiveQueue:
    """What a queue does, message by message."""

    def __init__(self, settings: QueueSettings) -> None:
        self.settings = settings
        self.ready: list[Message] = []
        self.takers: list[Taker] = []
        """In turn: who comes first was served the longest ago."""
        self.out: dict[Channel, dict[int, Taken]] = {}
        """Deliveries of each channel by tag."""
        self.tags: dict[Channel, int] = {}
        self.deliveries: list[tuple[Consumer, Delivery]] = []
        self.buried: list[tuple[str, int]] = []

    # ---- coming in ----

    def push(self, messages: list[Message]) -> list[int]:
        refused = []
        for index, message in enumerate(messages):
            if self._rejects(message):
                self.dispatch()
                if self._rejects(message):
                    refused.append(index)
                    continue
            self.ready.append(message)
        if self.settings.limited and self.settings.overflow == DROP_HEAD:
            self.dispatch()
            self._drop_head()
        if self.settings.overflow == REJECT_PUBLISH_DLX:
            self.buried += [(MAXLEN, messages[index].number) for index in refused]
        return refused

    def _rejects(self, message: Message) -> bool:
        return self.settings.overflow != DROP_HEAD and self._is_over(1, message.size)

    def _is_over(self, more: int, more_octets: int) -> bool:
        length, octets = self.settings.max_length, self.settings.max_length_bytes
        return (length is not None and len(self.ready) + more > length) or (
            octets is not None and self.ready_size + more_octets > octets
        )

    @property
    def ready_size(self) -> int:
        return sum(message.size for message in self.ready)

    def due(self, now_ms: int) -> bool:
        return any(_is_due(message, now_ms) for message in self.ready)

    def expire(self, now_ms: int) -> None:
        for message in [message for message in self.ready if _is_due(message, now_ms)]:
            self.ready.remove(message)
            self.buried.append((EXPIRED, message.number))

    # ---- going out ----

    def dispatch(self) -> None:
        while self.ready and (taker := self._next_taker()) is not None:
            message = self.ready.pop(0)
            self.deliveries.append((taker.real, Delivery(message.number, message.redelivered)))
            self._rotate(taker)
            if taker.real.acks:
                taker.out += 1
                self.note(taker.real.channel, message, taker)

    def _rotate(self, served: Taker) -> None:
        """It is behind its equals now, and they stay in their order."""
        self.takers.remove(served)
        self.takers.append(served)

    def _next_taker(self) -> Taker | None:
        able = [taker for taker in self.takers if self._room(taker) > 0]
        highest = max((taker.real.priority for taker in able), default=0)
        return next((taker for taker in able if taker.real.priority == highest), None)

    def _room(self, taker: Taker) -> int:
        real = taker.real
        if real.congested:
            return 0
        shared = real.channel.prefetch.limit
        by_all = sum(1 for taken in self.out[real.channel].values() if taken.taker is not None)
        if not real.acks:
            return 0 if 0 < shared <= by_all else 1
        return min(
            real.prefetch.limit - taker.out if real.prefetch.limit else 1,
            shared - by_all if shared else 1,
        )

    def note(self, channel: Channel, message: Message, taker: Taker | None) -> int:
        tag = self.tags[channel]
        self.tags[channel] += 1
        self.out[channel][tag] = Taken(message, taker)
        return tag

    # ---- coming back ----

    def settle(self, channel: Channel, tags: list[int]) -> list[Message]:
        found = []
        for tag in tags:
            taken = self.out[channel].pop(tag)
            if taken.taker is not None:
                taken.taker.out -= 1
            found.append(taken.message)
        return found

    def requeue(self, messages: list[Message], now_ms: int) -> None:
        for message in messages:
            message.redelivered = True
            if _is_due(message, now_ms):
                self.buried.append((EXPIRED, message.number))
            else:
                self.ready.append(message)
        self.ready.sort(key=lambda message: message.number)
        if self.settings.limited and self.settings.overflow == DROP_HEAD:
            self._drop_head()

    def _drop_head(self) -> None:
        while self._is_over(0, 0) and self.ready:
            self.buried.append((MAXLEN, self.ready.pop(0).number))


def _is_due(message: Message, now_ms: int) -> bool:
    return message.expires_at is not None and message.expires_at <= now_ms


@dataclass
class Limits:
    """The module's constants, as small as it takes to get across them."""

    memory_max: int
    all_memory: int
    memory_min: int
    delivery_size: int
    delivery_count: int
    load_size: int
    unacked_size_max: int
    few: int


_limits = st.builds(
    Limits,
    memory_max=st.sampled_from([0, 30, 2000, 1 << 20]),
    all_memory=st.sampled_from([0, 1 << 20]),
    memory_min=st.sampled_from([0, 500, 1 << 20]),
    delivery_size=st.sampled_from([1, 20, 1 << 18]),
    delivery_count=st.sampled_from([1, 4, 4096]),
    load_size=st.sampled_from([1, 20, 1 << 20]),
    unacked_size_max=st.sampled_from([0, 30, 1 << 24]),
    few=st.sampled_from([0, 2, 8]),
)

_times = st.sampled_from([0, _STEP_MS, 3 * _STEP_MS, 10 * _STEP_MS])

_queue_settings = st.builds(
    QueueSettings,
    message_ttl_ms=st.none() | _times,
    max_length=st.none() | st.integers(0, 12),
    max_length_bytes=st.none() | st.integers(0, 60),
    overflow=st.sampled_from([DROP_HEAD, REJECT_PUBLISH, REJECT_PUBLISH_DLX]),
) | st.builds(QueueSettings, message_ttl_ms=st.none() | _times)


class Wanted(NamedTuple):
    """What a consumer asks for."""

    limit: int
    priority: int
    acks: bool


_windows = st.sampled_from([0, 0, 1, 3])
_consumers = st.builds(
    Wanted,
    limit=st.sampled_from([0, 1, 2, 5]),
    priority=st.sampled_from([0, 0, 0, 7, -1]),
    acks=st.sampled_from([True, True, True, False]),
)


@dataclass(eq=False)
class Grave:
    reason: str
    numbers: list[int]
    piece: Slice


class QueueMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()

    def teardown(self) -> None:
        self.patch.undo()

    @initialize(
        limits=_limits,
        queue_settings=_queue_settings,
        durable=st.booleans(),
        buries_late=st.booleans(),
        windows=st.lists(_windows, min_size=1, max_size=2),
        consumers=st.lists(_consumers, max_size=4),
    )
    def begin(
        self,
        limits: Limits,
        queue_settings: QueueSettings,
        durable: bool,
        buries_late: bool,
        windows: list[int],
        consumers: list[Wanted],
    ) -> None:
        for name, value in (
            ("_MEMORY_MIN", limits.memory_min),
            ("_DELIVERY_SIZE", limits.delivery_size),
            ("_DELIVERY_COUNT", limits.delivery_count),
            ("_LOAD_SIZE", limits.load_size),
            ("_UNACKED_SIZE_MAX", limits.unacked_size_max),
            ("_FEW", limits.few),
        ):
            self.patch.setattr(queue_module, name, value)
        self.limits = limits
        self.settings = queue_settings
        self.durable = durable
        self.buries_late = buries_late
        self.graves: list[Grave] = []
        self.buried: list[tuple[str, int]] = []
        self.channels: list[Channel] = []
        self.now_ms = _STEP_MS
        self.numbers = 0
        self.store = DictStore()
        self.twin = NaiveQueue(queue_settings)
        self._open()
        for window in windows:
            self._open_channel(window)
        for index, wanted in enumerate(consumers):
            self._consume(self.channels[index % len(self.channels)], wanted)

    def _open(self) -> None:
        self.memory = Memory(self.limits.all_memory)
        self.queue = Queue(
            "q",
            "/",
            self.store,
            self._bury,
            durable=self.durable,
            settings=self.settings,
            memory_max=self.limits.memory_max,
            memory=self.memory,
        )

    def _bury(self, queue: Queue, reason: str, piece: Slice) -> None:
        assert queue is self.queue
        numbers = numbers_of(piece.contents)
        assert len(numbers) == len(piece)
        self.buried += [(reason, number) for number in numbers]
        self.graves.append(Grave(reason, numbers, piece))
        if not self.buries_late:
            self._fill_graves()

    def _fill_graves(self) -> None:
        graves, self.graves = self.graves, []
        for grave in graves:
            assert numbers_of(grave.piece.contents) == grave.numbers, "what is buried stays as it is"
            self.queue.forget(grave.piece)

    def _compare(self) -> None:
        """What came of the last step, on both sides."""
        self._fill_graves()
        twin = self.twin
        got = {taker.real: [] for taker in twin.takers}
        by_channel = {channel: [] for channel in self.channels}
        for consumer, delivery in twin.deliveries:
            got[consumer].append(delivery)
            by_channel[consumer.channel].append(delivery)
        assert {taker.real: taker.real.got for taker in twin.takers} == got
        assert {channel: channel.got for channel in self.channels} == by_channel
        # Of several messages that die at once, those that wait in memory go before those on the disk.
        assert sorted(self.buried) == sorted(twin.buried)
        for taker in twin.takers:
            taker.real.got.clear()
        for channel in self.channels:
            channel.got.clear()
        twin.deliveries.clear()
        self.buried.clear()
        twin.buried.clear()

    # ---- what publishers do ----

    @rule(
        sizes=st.lists(st.integers(0, 12), min_size=1, max_size=12),
        alike=st.booleans(),
        persistent=st.booleans(),
        expirations_ms=st.none() | st.none() | st.lists(_times, min_size=1, max_size=3),
        various=st.booleans(),
        dispatches=st.booleans(),
    )
    def push(
        self,
        sizes: list[int],
        alike: bool,
        persistent: bool,
        expirations_ms: list[int] | None,
        various: bool,
        dispatches: bool,
    ) -> None:
        # Of slices that let go of unequal contents, only the size of the whole is known exactly, and what
        # comes one after another is delivered as one slice.
        if self.limits.unacked_size_max < 1 << 24:
            sizes = [5] * len(sizes)
        elif alike:
            sizes = sizes[:1] * len(sizes)
        own = expirations_ms or [0]
        contents = [content(self.numbers + at, size, own[at % len(own)]) for at, size in enumerate(sizes)]
        self.numbers += len(sizes)
        own_ms = None if expirations_ms is None else 0
        envelopes = [envelope(persistent, own_ms, key_of(number_of(c)) if various else "q") for c in contents]
        run = Run(
            envelopes[0],
            list(contents),
            sizes[0] if len(set(sizes)) == 1 else None,
            envelopes if various else None,
        )
        refused = self.queue.push(run, self.now_ms)
        messages = []
        for at, c in enumerate(contents):
            ends = [self.settings.message_ttl_ms, None if expirations_ms is None else own[at % len(own)]]
            expires_at = min([self.now_ms + ms for ms in ends if ms is not None], default=None)
            messages.append(Message(number_of(c), size_of(c), persistent, expires_at))
        expected = self.twin.push(messages)
        assert list(refused) == expected
        if dispatches:
            self._dispatch()
        self._compare()

    # ---- what consumers do ----

    @precondition(lambda self: len(self.channels) < 3)
    @rule(window=_windows)
    def open_channel(self, window: int) -> None:
        self._open_channel(window)

    def _open_channel(self, window: int) -> None:
        channel = Channel(window)
        self.channels.append(channel)
        self.twin.out[channel] = {}
        self.twin.tags[channel] = 1

    @precondition(lambda self: self.channels)
    @rule(data=st.data(), wanted=_consumers)
    def consume(self, data: Any, wanted: Wanted) -> None:
        self._consume(data.draw(st.sampled_from(self.channels)), wanted)

    def _consume(self, channel: Channel, wanted: Wanted) -> None:
        consumer = Consumer(channel, limit=wanted.limit, priority=wanted.priority, acks=wanted.acks)
        self.queue.add_consumer(consumer)
        # Somebody new is behind those who are there.
        self.twin.takers.append(Taker(consumer))

    @precondition(lambda self: self.twin.takers)
    @rule(data=st.data())
    def cancel(self, data: Any) -> None:
        taker = data.draw(st.sampled_from(self.twin.takers))
        self.queue.remove_consumer(taker.real, self.now_ms)
        self.twin.takers.remove(taker)

    @precondition(lambda self: self.twin.takers)
    @rule(data=st.data())
    def congest(self, data: Any) -> None:
        taker = data.draw(st.sampled_from(self.twin.takers))
        taker.real.congested = not taker.real.congested
        self.queue.consumers.wake(taker.real)

    @precondition(lambda self: self.channels)
    @rule(data=st.data(), limit=st.sampled_from([0, 1, 4]))
    def set_shared_window(self, data: Any, limit: int) -> None:
        channel = data.draw(st.sampled_from(self.channels))
        channel.prefetch.limit = limit
        self._wake(channel)

    def _wake(self, channel: Channel) -> None:
        """What its consumers share has changed."""
        for taker in self.twin.takers:
            if taker.real.channel is channel:
                self.queue.consumers.wake(taker.real)

    @rule()
    def dispatch(self) -> None:
        self._dispatch()
        self._compare()

    def _dispatch(self) -> None:
        self.queue.dispatch()
        self.twin.dispatch()

    @precondition(lambda self: self.channels)
    @rule(data=st.data(), acks=st.booleans())
    def get(self, data: Any, acks: bool) -> None:
        channel = data.draw(st.sampled_from(self.channels))
        self._expire_all()
        piece = self.queue.get(self.now_ms, acks=acks)
        if not self.twin.ready:
            assert piece is None
            self._compare()
            return
        message = self.twin.ready.pop(0)
        assert piece is not None
        assert numbers_of(piece.contents) == [message.number]
        assert piece.redelivered is message.redelivered
        if acks:
            self.twin.note(channel, message, None)
            channel.note(piece, self.queue, None)
        self._compare()

    @precondition(lambda self: any(self.twin.out.values()))
    @rule(
        data=st.data(),
        multiple=st.booleans(),
        outcome=st.sampled_from(["ack", "ack", "reject", "requeue", "requeue"]),
        dispatches=st.booleans(),
    )
    def settle(self, data: Any, multiple: bool, outcome: str, dispatches: bool) -> None:
        channel = data.draw(st.sampled_from([channel for channel in self.channels if self.twin.out[channel]]))
        out = self.twin.out[channel]
        first = last = data.draw(st.sampled_from(sorted(out)))
        if multiple:
            tags = [tag for tag in sorted(out) if tag <= last]
            entries = channel.ledger.settle_up_to(last)
        else:
            while last + 1 in out and data.draw(st.booleans()):
                last += 1
            tags = list(range(first, last + 1))
            entries, unknown = channel.ledger.settle_each(first, last)
            assert unknown is None
        self._carry_out(channel, entries, tags, outcome)
        if dispatches:
            self._dispatch()
            self._compare()

    @precondition(lambda self: self.channels)
    @rule(data=st.data())
    def close_channel(self, data: Any) -> None:
        channel = data.draw(st.sampled_from(self.channels))
        for taker in [taker for taker in self.twin.takers if taker.real.channel is channel]:
            self.queue.remove_consumer(taker.real, self.now_ms)
            self.twin.takers.remove(taker)
        self._carry_out(channel, channel.ledger.settle_all(), sorted(self.twin.out[channel]), "requeue")
        self.channels.remove(channel)
        del self.twin.out[channel], self.twin.tags[channel]

    @precondition(lambda self: self.channels)
    @rule(data=st.data())
    def settle_unknown(self, data: Any) -> None:
        channel = data.draw(st.sampled_from(self.channels))
        tag = data.draw(st.integers(0, self.twin.tags[channel] + 1))
        if tag in self.twin.out[channel]:
            return
        assert channel.ledger.settle_each(tag, tag) == ([], tag)
        if tag:
            with pytest.raises(PreconditionFailed, match=f"unknown delivery tag {tag}"):
                channel.ledger.settle_up_to(tag)

    def _carry_out(self, channel: Channel, entries: list[Unacked], tags: list[int], outcome: str) -> None:
        pieces = [entry.piece for entry in entries]
        channel.make_room(entries)
        self._wake(channel)
        messages = self.twin.settle(channel, tags)
        if outcome == "ack":
            for piece in pieces:
                self.queue.acknowledge(piece)
        elif outcome == "reject":
            for piece in pieces:
                self.queue.reject(piece)
            self.twin.buried += [(REJECTED, message.number) for message in messages]
        else:
            self.queue.requeue(pieces, self.now_ms)
            self.twin.requeue(messages, self.now_ms)
        self._compare()

    # ---- what happens besides ----

    @rule(steps=st.integers(1, 4))
    def expire(self, steps: int) -> None:
        self.now_ms += steps * _STEP_MS
        self._expire_all()
        self._compare()

    def _expire_all(self) -> None:
        """As the node does: until nothing is due any more."""
        self.twin.expire(self.now_ms)
        rounds = 0
        while (moment := self.queue.next_moment()) and moment <= self.now_ms:
            self.queue.expire(self.now_ms)
            rounds += 1
            assert rounds < 1000, "a moment that does not pass"

    @rule()
    def purge(self) -> None:
        assert self.queue.purge() == len(self.twin.ready)
        self.twin.ready.clear()
        self._compare()

    @precondition(lambda self: self.durable)
    @rule()
    def restart(self) -> None:
        """The process was killed: what is persistent is there again, in its place."""
        twin = self.twin
        outstanding = [taken.message for by_tag in twin.out.values() for taken in by_tag.values()]
        survivors = [message for message in twin.ready + outstanding if message.persistent]
        survivors.sort(key=lambda message: message.number)
        next_offset = self.queue.next_offset
        self.store = self.store.restarted()
        for message, offset in zip(survivors, sorted(self.store.kept), strict=True):
            message.redelivered = offset < self.store.mark
        self.twin = NaiveQueue(self.settings)
        self.twin.ready = survivors
        self.channels.clear()
        self._open()
        self.queue.restore(next_offset, min(self.store.kept, default=0), len(survivors), self.twin.ready_size)
        for expires_at, offsets in self.store.expiries():
            self.queue.watch_stored(expires_at, offsets)

    # ---- what is always so ----

    @invariant()
    def counts_agree(self) -> None:
        if not hasattr(self, "queue"):
            return
        queue, twin = self.queue, self.twin
        outstanding = [taken.message for by_tag in twin.out.values() for taken in by_tag.values()]
        assert queue.ready_count == len(twin.ready)
        assert queue.ready_size == twin.ready_size
        assert queue.unacked_count == len(outstanding)
        assert queue.unacked_size == sum(message.size for message in outstanding)
        assert len(queue.consumers) == len(twin.takers)
        assert 0 <= queue.resident_count <= queue.ready_count
        assert 0 <= queue.resident_size <= queue.ready_size
        assert self.memory.used >= queue.resident_size - sum(
            message.size for message in twin.ready if message.redelivered
        )
        if not twin.ready:
            assert self.memory.used == 0

    @invariant()
    def store_agrees(self) -> None:
        """It has every message that must outlive the process, and none that nobody will ask for."""
        if not hasattr(self, "queue"):
            return
        outstanding = [taken.message for by_tag in self.twin.out.values() for taken in by_tag.values()]
        waiting = {message.number: message for message in self.twin.ready + outstanding}
        kept = {number_of(kept.content) for kept in self.store.kept.values()}
        assert kept <= waiting.keys()
        if self.durable:
            assert {number for number, message in waiting.items() if message.persistent} <= kept


TestQueue = QueueMachine.TestCase
TestQueue.settings = settings(max_examples=300, stateful_step_count=50)
