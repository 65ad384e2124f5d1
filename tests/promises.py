"""What a broker has promised, and what it may have done without having said so: a twin for crash tests.

Flow:   clients note what they send and what is answered; after a crash `check_queue` and the others hold what
        is found against that, and what is there from then on must stay.
Shape:  a copy is a message in one queue, known by its publisher and number; the body says both, in an octet
        string that only they determine, so that nothing else can pass for it.
"""

from __future__ import annotations

import time
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

DEAD: Final = "dead"
# Settlements wait for 0.1 s; what was settled so long before a message was sent that is confirmed is on the disk.
SETTLED_S: Final = 0.5


class Identity(NamedTuple):
    publisher: str
    number: int


def body_of(identity: Identity) -> bytes:
    """The one body that this message may have: up to 700 octets, one in a hundred up to 30,000."""
    head = f"{identity.publisher}:{identity.number}:".encode()
    chance = zlib.crc32(head)
    size = chance % 700 if chance % 100 else chance % 30_000
    filler = chance.to_bytes(4) * (size // 4)
    return b"%b%b:%08x" % (head, filler, zlib.crc32(filler, chance))


def identity_of(body: bytes) -> Identity:
    """Of a message that has come; fails the test if anything of its body is not what was sent."""
    publisher, number, _ = body.split(b":", 2)
    identity = Identity(publisher.decode(), int(number))
    assert body == body_of(identity), f"{identity}: the body is not what was sent: {body[:80]!r}"
    return identity


@dataclass(eq=False, slots=True)
class Copy:
    """A message in one queue."""

    queue: str
    identity: Identity
    confirmed: bool = False
    """It must be there, unless somebody settled it."""
    settled: bool = False
    """Somebody settled it: it may be gone."""
    settled_at: float | None = None
    """When it was certain that the broker had taken the settlement."""
    settled_safe: bool = False
    """It was answered that this is safe: it must be gone."""
    died: bool = False
    """It was settled by a rejection: its letter may be there in its place."""


@dataclass(eq=False, slots=True)
class Letters:
    """Copies of one message among the dead letters: an original that comes back may die again."""

    there: int = 0
    acked: int = 0


@dataclass(eq=False, slots=True)
class Transaction:
    """It happened if any part of it did."""

    published: list[Copy]
    settled: list[Copy]


@dataclass(eq=False)
class Promises:
    """Of one broker, over all its processes."""

    copies: dict[str, dict[Identity, Copy]] = field(default_factory=lambda: defaultdict(dict))
    gone: dict[str, set[Identity]] = field(default_factory=lambda: defaultdict(set))
    """What a process that was started since did not have any more."""
    waiting: Counter[str] = field(default_factory=Counter)
    """About how many messages are in a queue."""
    letters: dict[Identity, Letters] = field(default_factory=lambda: defaultdict(Letters))
    transactions: list[Transaction] = field(default_factory=list)
    """Those asked for that were not answered."""
    definitions: dict[str, bool | None] = field(default_factory=dict)
    """Whether there is such a thing; None if it was not answered."""
    numbers: Counter[str] = field(default_factory=Counter)
    confirms: int = 0
    settlements: int = 0
    _sent_at: float = 0.0
    """When the last message was sent that is confirmed."""

    # ---- what clients do ----

    def next(self, publisher: str) -> Identity:
        self.numbers[publisher] += 1
        return Identity(publisher, self.numbers[publisher])

    def publish(self, identity: Identity, queues: Sequence[str]) -> list[Copy]:
        """Before it is sent."""
        made = []
        for queue in queues:
            made.append(Copy(queue, identity))
            self.copies[queue][identity] = made[-1]
            self.waiting[queue] += 1
        return made

    def confirm(self, copies: Iterable[Copy], sent_at: float) -> None:
        self._sent_at = max(self._sent_at, sent_at)
        self.confirms += 1
        for copy in copies:
            copy.confirmed = True

    def deliver(self, queue: str, body: bytes) -> Copy:
        """It has come from this queue."""
        copy = self._find(queue, body)
        assert not copy.settled, f"{queue}: {copy.identity} comes after it was settled"
        return copy

    def _find(self, queue: str, body: bytes) -> Copy:
        identity = identity_of(body)
        assert identity not in self.gone[queue], f"{queue}: {identity} is back from the dead"
        assert identity in self.copies[queue], f"{queue}: {identity} was never published"
        return self.copies[queue][identity]

    def settle(self, copy: Copy, *, died: bool = False) -> None:
        """Before it is sent."""
        self.settlements += 1
        self.waiting[copy.queue] -= 1
        copy.settled = True
        copy.died = died

    @staticmethod
    def settled(copies: Iterable[Copy]) -> None:
        """The broker has answered something that was sent behind their settlements."""
        now = time.monotonic()
        for copy in copies:
            copy.settled_at = now

    # ---- what is there after a crash ----

    def check_queue(self, queue: str, bodies: Sequence[bytes]) -> list[Copy]:
        """All that a queue holds, from the first to the last; returns it as copies."""
        found: list[Copy] = []
        newest: dict[str, int] = {}
        for body in bodies:
            copy = self._find(queue, body)
            identity = copy.identity
            assert not self._surely_settled(copy), f"{queue}: {identity} was settled, and that was safe"
            last = newest.get(identity.publisher, 0)
            assert identity.number > last, f"{queue}: {identity} comes behind {last}"
            newest[identity.publisher] = identity.number
            found.append(copy)
        there = set(map(id, found))
        due = [copy for copy in self.copies[queue].values() if copy.confirmed and not copy.settled]
        lost = [copy.identity for copy in due if id(copy) not in there]
        assert not lost, f"{queue}: {len(lost)} confirmed messages are lost: {lost[:10]}"
        return found

    def _surely_settled(self, copy: Copy) -> bool:
        since = copy.settled_at
        return copy.settled_safe or (since is not None and since + SETTLED_S < self._sent_at)

    def check_letters(self, bodies: Sequence[bytes], there: dict[str, list[Copy]]) -> None:
        """All dead letters, when `there` is what the queues hold."""
        found = Counter(map(identity_of, bodies))
        originals = {id(copy) for copies in there.values() for copy in copies}
        died = {
            copy.identity: copy for copies in self.copies.values() for copy in copies.values() if copy.died
        }
        for identity in found.keys() | died.keys() | self.letters.keys():
            known = self.letters[identity]
            copy = died.get(identity)
            certain = copy is not None and copy.confirmed and id(copy) not in originals
            at_least = known.there + certain
            at_most = known.there + known.acked + (copy is not None)
            count = found[identity]
            assert at_least <= count <= at_most, f"{identity}: {count} dead letters, not {at_least}-{at_most}"
            known.there, known.acked = count, 0

    def check_transactions(self, there: dict[str, list[Copy]]) -> None:
        known = {id(copy) for copies in there.values() for copy in copies}
        for transaction in self.transactions:
            published = [id(copy) in known for copy in transaction.published]
            settled = [id(copy) not in known for copy in transaction.settled if copy.confirmed]
            happened = published + settled
            assert all(happened) or not any(happened), f"half a transaction: {published} {settled}"
        self.transactions.clear()

    def go_on(self, there: dict[str, list[Copy]]) -> None:
        """From now on, what is there stays, and what is not never comes back."""
        for queue, found in there.items():
            self.gone[queue] |= self.copies[queue].keys() - {copy.identity for copy in found}
            self.copies[queue] = {copy.identity: copy for copy in found}
            self.waiting[queue] = len(found)
            for copy in found:
                copy.confirmed = True
                copy.settled = copy.died = False
                copy.settled_at = None
