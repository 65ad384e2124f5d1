"""Queues that are filled, emptied, deleted, killed and crashed at any step of either thread.

The twin knows of each message whether it was confirmed, whether somebody settled it, and whether that was
safe; what the next process finds is held against it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from broker.model.message import Slice
from broker.node.flusher import Commit
from stepped_node import SteppedNode, bodies_of

NAMES = ("q0", "q1", "q2", "q3", "q4")
DEAD = "dead"
DEAD_LETTERS = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": DEAD}


@dataclass
class Message:
    queue: str
    number: int
    place: int
    """Messages of a queue lie in this order."""
    persistent: bool
    confirmed: bool = False
    settled: bool = False
    settled_safe: bool = False
    copy: Message | None = None
    """The dead letter made of it."""

    @property
    def due(self) -> bool:
        """It must be there whatever happens."""
        return self.confirmed and not self.settled


@dataclass
class Transaction:
    published: list[Message]
    settled: list[Message]


@dataclass
class Deleted:
    """A queue whose deletion may not be safe yet: it is there as it was, or it is gone."""

    commit: Commit
    messages: list[Message] = field(default_factory=list)


class CrashMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.under = SteppedNode(segment_size_max=1500, queue_memory_max=600)
        self.messages: dict[str, dict[int, Message]] = {}
        self.held: list[tuple[Message, Slice]] = []
        self.transactions: list[Transaction] = []
        self.deleted: dict[str, Deleted] = {}
        self.numbers = 0
        for name in (*NAMES, DEAD):
            self._declare(name)
        self.under.commit()

    def _declare(self, name: str) -> None:
        self.under.declare(name, **(DEAD_LETTERS if name in NAMES[:2] else {}))
        self.messages.setdefault(name, {})

    @property
    def queues(self):
        return self.under.vhost.queues

    @property
    def flusher(self):
        return self.under.node.flusher

    def _there(self, name: str) -> str:
        """A queue that exists."""
        return name if name in self.queues else DEAD

    # ---- clients ----

    def _publish(self, name: str, count: int, persistent: bool) -> list[Message]:
        made = []
        for _ in range(count):
            self.numbers += 1
            made.append(Message(name, self.numbers, self.numbers, persistent))
        result = self.under.publish(name, *[b"%d" % one.number for one in made], persistent=persistent)
        self.messages[name].update({one.number: one for one in made})
        if result.commit is not None:
            result.commit.waiters.append(lambda: self._confirm(made))
        return made

    def _confirm(self, messages: Sequence[Message]) -> None:
        for message in messages:
            message.confirmed = True

    @rule(
        name=st.sampled_from(NAMES),
        count=st.integers(1, 6),
        persistent=st.sampled_from((True, True, True, False)),
    )
    def publish(self, name, count, persistent):
        self._publish(self._there(name), count, persistent)

    @rule(count=st.integers(1, 3))
    def publish_to_all(self, count):
        """Which goes through the journal."""
        for name in NAMES:
            self._publish(self._there(name), count, True)
        self.under.end_pass()

    @rule(name=st.sampled_from((*NAMES, DEAD)), count=st.integers(1, 8))
    def take(self, name, count):
        queue = self.queues[self._there(name)]
        for _ in range(count):
            piece = queue.get(self.under.clock.now, acks=True)
            if piece is not None:
                (body,) = bodies_of(piece.contents)
                self.held.append((self.messages[queue.name][int(body)], piece))

    @precondition(lambda self: self.held)
    @rule(at=st.integers(0, 100), count=st.integers(1, 8))
    def acknowledge(self, at, count):
        for _ in range(min(count, len(self.held))):
            message, piece = self.held.pop(at % len(self.held))
            self._settle(message, piece)

    def _settle(self, message: Message, piece: Slice) -> None:
        message.settled = True
        if message.queue in self.queues:
            self.queues[message.queue].acknowledge(piece)

    @precondition(lambda self: self.held)
    @rule(at=st.integers(0, 100))
    def reject(self, at):
        message, piece = self.held.pop(at % len(self.held))
        if message.queue not in self.queues:
            return
        self.queues[message.queue].reject(piece)
        message.settled = True
        if message.queue in NAMES[:2]:
            self.numbers += 1
            message.copy = Message(DEAD, message.number, self.numbers, message.persistent)
            self.messages[DEAD][message.number] = message.copy
        self.under.node.end_pass(commit=False)

    @precondition(lambda self: self.held)
    @rule(at=st.integers(0, 100))
    def requeue(self, at):
        message, piece = self.held.pop(at % len(self.held))
        if message.queue in self.queues:
            self.queues[message.queue].requeue([piece], self.under.clock.now)

    @rule(name=st.sampled_from((*NAMES, DEAD)))
    def purge(self, name):
        queue = self.queues[self._there(name)]
        queue.purge()
        out = {message.number for message, _ in self.held if message.queue == queue.name}
        for message in self.messages[queue.name].values():
            if message.number not in out:
                message.settled = True

    @rule(names=st.lists(st.sampled_from(NAMES), min_size=1, max_size=4), acks=st.integers(0, 4))
    def commit_a_transaction(self, names, acks):
        if any(name not in self.queues for name in names):
            return
        taken = [one for one in self.held if one[0].queue in self.queues][:acks]
        if taken:
            self.flusher.open.atomic = True
        else:
            self.flusher.open.atomic_messages = True
        published = [message for name in names for message in self._publish(name, 1, True)]
        settled = []
        for message, piece in taken:
            self.held.remove((message, piece))
            self._settle(message, piece)
            settled.append(message)
        self.transactions.append(Transaction(published, settled))

    @rule(name=st.sampled_from(NAMES))
    def delete_or_declare(self, name):
        if name in self.queues:
            self.under.node.topology.delete_queue(self.under.vhost, self.queues[name])
            self.deleted[name] = Deleted(self.flusher.open, list(self.messages.pop(name).values()))
        elif name not in self.deleted or self.deleted[name].commit.done:
            self.deleted.pop(name, None)
            self._declare(name)

    # ---- the loop and the threads ----

    @rule()
    def end_pass(self):
        self.under.end_pass()

    @rule()
    def writer_works(self):
        self.under.writer.step()
        self.flusher.collect()

    @rule()
    def mover_works(self):
        self.under.mover.step()
        self.flusher.collect()

    @rule()
    def settlements_are_due(self):
        self.flusher.settle_soon()
        self.under.end_pass()

    @rule()
    def a_checkpoint_is_due(self):
        self.flusher.checkpoint_soon()
        self.under.end_pass()

    @rule()
    def tidy(self):
        self.flusher.tidy()
        self.under.end_pass()

    @rule()
    def finish(self):
        self.under.finish()
        for messages in self.messages.values():
            for message in messages.values():
                message.confirmed |= message.persistent
                message.settled_safe = message.settled
        assert not [path for path in self.under.files.paths() if path.endswith(".journal")]

    @rule(room=st.integers(0, 400))
    def the_disk_is_full(self, room):
        self.under.files.room = self.under.files.taken + room
        self.under.end_pass()
        for _ in range(2):
            self.under.work()
        self.under.files.room = None

    # ---- the end ----

    @rule(
        writer=st.integers(0, 20),
        mover=st.integers(0, 20),
        seed=st.integers(0, 2**32),
        mover_first=st.booleans(),
    )
    def crash(self, writer, mover, seed, mover_first):
        self._lose_power(writer, mover, mover_first)
        self._begin(self.under.crash(seed), everything_is_safe=True)

    @rule(writer=st.integers(0, 20), mover=st.integers(0, 20), mover_first=st.booleans())
    def kill(self, writer, mover, mover_first):
        self._lose_power(writer, mover, mover_first)
        self._begin(self.under.kill(), everything_is_safe=False)

    def _lose_power(self, writer: int, mover: int, mover_first: bool) -> None:
        steps = [(self.under.writer, writer), (self.under.mover, mover)]
        for worker, after in reversed(steps) if mover_first else steps:
            self.under.fail_power(worker, after)

    @rule()
    def stop(self):
        for messages in self.messages.values():
            for message in messages.values():
                message.confirmed |= message.persistent
                message.settled_safe = message.settled
        self.transactions.clear()
        self.under.node.close()
        self._begin(self.under._next(self.under.files), everything_is_safe=True)

    def _begin(self, under: SteppedNode, *, everything_is_safe: bool) -> None:
        self.under = under
        self.held.clear()
        self._check_deleted()
        found = {name: [int(body) for body in under.stored(name)] for name in self.messages}
        for name, numbers in found.items():
            known = self.messages[name]
            places = [known[number].place for number in numbers]
            assert places == sorted(places), f"{name} is out of order: {numbers}"
            assert len(set(numbers)) == len(numbers), f"{name} has messages twice: {numbers}"
            for number in numbers:
                assert known[number].persistent, f"{name}: {number} was transient"
                assert not known[number].settled_safe, f"{name}: {number} came back"
            lost = [one.number for one in known.values() if one.due and one.number not in numbers]
            assert not lost, f"{name}: {lost} are lost"
            assert self.queues[name].ready_count == len(numbers)
        there = {(name, number) for name, numbers in found.items() for number in numbers}
        self._check_dead_letters(there)
        for transaction in self.transactions:
            self._check_transaction(transaction, there)
        self.transactions.clear()
        for message in [one for known in self.messages.values() for one in known.values()]:
            if (message.queue, message.number) in there:
                message.settled = False
                message.confirmed |= everything_is_safe
            else:
                message.confirmed = False
                message.settled = True
        for name in (*NAMES, DEAD):
            if name in self.messages and name not in self.queues:
                raise AssertionError(f"{name} itself is lost")
        under.commit()

    def _check_deleted(self) -> None:
        """Each is there with all that it had, or it is not."""
        for name, deleted in self.deleted.items():
            if name in self.queues:
                assert not deleted.commit.done, f"{name} came back"
                self.messages[name] = {one.number: one for one in deleted.messages}
        self.deleted.clear()
        for name in list(self.messages):
            if name not in self.queues:
                # It had been declared, and nobody was told that it was.
                assert not any(one.confirmed for one in self.messages.pop(name).values())

    def _check_dead_letters(self, there: set[tuple[str, int]]) -> None:
        for known in self.messages.values():
            for message in known.values():
                copy = message.copy
                if copy is None:
                    continue
                places = [(message.queue, message.number) in there, (DEAD, copy.number) in there]
                assert not all(places), f"{message.queue}: {message.number} died and is there twice"
                if message.confirmed and not copy.settled:
                    assert any(places), f"{message.queue}: {message.number} died and is nowhere"

    def _check_transaction(self, transaction: Transaction, there: set[tuple[str, int]]) -> None:
        def is_there(message: Message) -> bool:
            return (message.queue, message.number) in there

        published = [one for one in transaction.published if one.queue in self.queues]
        settled = [one for one in transaction.settled if one.queue in self.queues and one.confirmed]
        if any(map(is_there, published)) or not all(map(is_there, settled)):
            assert not any(map(is_there, settled)), "acknowledgements of a transaction were lost"
            for message in published:
                assert is_there(message) or message.settled, "publishes of a transaction were lost"

    # ---- at any time ----

    @invariant()
    def the_stores_have_what_is_not_settled(self):
        for name, known in self.messages.items():
            if name not in self.queues:
                continue
            numbers = [int(body) for body in self.under.stored(name)]
            lasting = [number for number in numbers if known[number].persistent]
            expected = sorted(
                (one for one in known.values() if one.persistent and not one.settled),
                key=lambda one: one.place,
            )
            assert lasting == [one.number for one in expected], name

    def teardown(self):
        self.under.abandon()


TestCrashMachine = CrashMachine.TestCase
