"""What a queue holds: runs of closed messages, and slices of them.

Flow:   a publisher's run comes from the protocol; queues cut it into slices, hand them to consumers, and
        get them back as settled or returned.
Why:    The model never opens a message. What it must know, a run says of all its messages at once; this
        file declares that shape, and the protocol's own class fits it without being converted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, Protocol

# What a waiting slice takes in memory beside the bytes of its contents, in bytes, as measured with CPython
# 3.11: itself with its list, range and numbers; each message; times to live; an envelope.
_SLICE_COST: Final = 280
_MESSAGE_COST: Final = 48
_EXPIRIES_COST: Final = 200
_EXPIRY_COST: Final = 40
_ENVELOPE_COST: Final = 430
# Slices count their memory in units of so many bytes: numbers up to 256 are objects that Python shares, a larger
# one takes 32 bytes itself, in each slice.
UNIT: Final = 64


class Facts(Protocol):
    """What queues must know of a message's properties."""

    @property
    def persistent(self) -> bool: ...

    @property
    def expires(self) -> bool:
        """Each message has a time limit of its own."""
        ...


class Envelope(Protocol):
    """What the messages of a run have in common."""

    @property
    def exchange(self) -> str: ...

    @property
    def routing_key(self) -> str: ...

    @property
    def facts(self) -> Facts: ...

    def measure(self, contents: Sequence[bytes]) -> int:
        """The bytes of the bodies of some of the contents."""
        ...

    def expirations_ms(self, contents: Sequence[bytes]) -> list[int]:
        """The time limit of each content; only where the facts say that they expire."""
        ...


class Run(Protocol):
    """Messages that were published together."""

    @property
    def envelope(self) -> Envelope:
        """Of the first message; all have its facts."""
        ...

    @property
    def envelopes(self) -> Sequence[Envelope] | None:
        """One for each message where they differ, else None."""
        ...

    @property
    def contents(self) -> list[bytes]: ...

    @property
    def body_size(self) -> int | None:
        """Bytes of each body where all are equally long, else None."""
        ...

    @property
    def size(self) -> int:
        """Bytes of all bodies together."""
        ...


class Sink(Protocol):
    """Where messages are routed to: a queue, or the log of a topic."""

    name: str
    durable: bool
    limited: bool
    """It may refuse messages."""
    lasting: bool
    """It keeps persistent messages over a restart."""
    keeps_transient: bool
    """It keeps the others, too."""
    eager: bool
    """It wants to be looked at when something was pushed."""

    def push(self, run: Run, now_ms: int) -> Sequence[int]:
        """Take the messages of a run; returns the indices of those refused."""
        ...


class Slice:
    """Some messages in one queue: `contents[i]` has the offset `offsets[i]`.

    A hollow slice has let go of its contents, which the queue's store has too.
    """

    __slots__ = (
        "body_size",
        "contents",
        "envelope",
        "envelopes",
        "expires_at",
        "expiries",
        "held",
        "offsets",
        "parts",
        "redelivered",
        "size",
        "stored",
        "waiting",
    )

    def __init__(
        self,
        envelope: Envelope,
        contents: list[bytes],
        offsets: range,
        body_size: int | None,
        expires_at: int,
        stored: bool,
        size: int = -1,
        envelopes: Sequence[Envelope] | None = None,
        expiries: list[int] | None = None,
    ) -> None:
        self.envelope = envelope
        """Of the first message; all have its facts."""
        self.envelopes = envelopes
        """One for each message where they differ, else None."""
        self.contents = contents
        self.offsets = offsets
        self.body_size = body_size
        """As in a run."""
        self.expires_at = expires_at
        """When the first of them expires, in milliseconds; all of them if `expiries` is None. 0 is never."""
        self.expiries = expiries
        """When each message expires; None if they have no time limit but their queue's."""
        self.stored = stored
        """The queue's store has them: it must hear when they are settled."""
        if size < 0:
            size = envelope.measure(contents) if body_size is None else body_size * len(contents)
        self.size = size
        """Bytes of all bodies together."""
        self.held = 0
        """The units of memory that its queue counts it for, while it waits there."""
        self.redelivered = False
        self.waiting = False
        """It is ready in its queue, and no consumer has it."""
        self.parts: Sequence[Slice] = ()
        """What still waits where this slice stood, after some of its messages expired there."""

    def __len__(self) -> int:
        return len(self.offsets)

    def __repr__(self) -> str:
        return f"Slice({self.offsets}, {self.size} bytes)"

    def footprint(self) -> int:
        """The bytes that it takes in memory, without its envelopes."""
        contents = self.contents
        count = len(contents)
        cost = _SLICE_COST + _MESSAGE_COST * count + sum(map(len, contents))
        if self.expiries is not None:
            cost += _EXPIRIES_COST + _EXPIRY_COST * count
        return cost

    def let_go(self, count: int) -> int:
        """Count the first messages, so many, no more; returns for how many units they were counted."""
        share = self.held * count // len(self.offsets)
        self.held -= share
        return share

    def part(self, which: slice) -> Slice:
        """Another slice with some of the messages."""
        offsets = self.offsets[which]
        # What a hollow slice has in each part can only be guessed, until it is filled.
        size = -1 if self.contents else self.size * len(offsets) // len(self.offsets)
        envelope, envelopes = self.envelope, self.envelopes
        if envelopes is not None:
            envelopes = envelopes[which]
            envelope = envelopes[0]
        expires_at, expiries = self.expires_at, self.expiries
        if expiries is not None:
            expiries = expiries[which]
            expires_at = earliest(expiries)
        part = Slice(
            envelope,
            self.contents[which],
            offsets,
            self.body_size,
            expires_at,
            self.stored,
            size,
            envelopes,
            expiries,
        )
        part.redelivered = self.redelivered
        return part

    def cut(self, count: int) -> Slice:
        """Take the first `count` messages out of this slice, into one of their own.

        `expires_at` may be earlier then than it need be.
        """
        taken = self.part(slice(0, count))
        self.contents = self.contents[count:]
        self.offsets = self.offsets[count:]
        self.size -= taken.size
        if self.envelopes is not None:
            self.envelopes = self.envelopes[count:]
            self.envelope = self.envelopes[0]
        if self.expiries is not None:
            self.expiries = self.expiries[count:]
        return taken

    def singles(self) -> list[Slice]:
        """A slice for each message, of the kind that can be joined again."""
        found = []
        for at, offset in enumerate(self.offsets):
            single = self.part(slice(at, at + 1))
            single.offsets = range(offset, offset + 1)
            found.append(single)
        return found

    def cut_expired(self, now_ms: int) -> tuple[list[Slice], list[Slice]]:
        """Cut the slice into what has expired and what has not, each in slices of consecutive messages."""
        expired: list[Slice] = []
        waiting: list[Slice] = []
        count = len(self.offsets)
        rest = self.part(slice(0, count))
        rest.size = self.size
        dead = [0 < moment <= now_ms for moment in self.expiries or [self.expires_at] * count]
        start = 0
        for at in range(1, count + 1):
            if at == count or dead[at] is not dead[start]:
                piece = rest.cut(at - start) if at < count else rest
                (expired if dead[start] else waiting).append(piece)
                start = at
        for piece in waiting:
            if piece.expiries is not None:
                piece.expires_at = earliest(piece.expiries)
        return expired, waiting

    def goes_on(self, last: Slice) -> bool:
        """Both can be one slice."""
        return (
            self.offsets.start == last.offsets.stop
            and self.offsets.step == last.offsets.step == 1
            and self.stored is last.stored
            and self.redelivered is last.redelivered
            and (self.expiries is None) is (last.expiries is None)
            and (self.expires_at == last.expires_at or self.expiries is not None)
            and (self.envelope is last.envelope or self.envelope.facts is last.envelope.facts)
        )

    @property
    def hollow(self) -> bool:
        return not self.contents

    def fill(self, contents: list[bytes]) -> None:
        """Give the contents back to a hollow slice, of as many messages from its first one on."""
        self.contents = contents
        self.offsets = self.offsets[: len(contents)]
        self.size = self.envelope.measure(contents)

    def release(self) -> None:
        """Let go of the contents; only what is stored may."""
        assert self.stored
        self.contents = []


def envelopes_footprint(envelopes: Sequence[Envelope]) -> int:
    """The bytes that they take in memory, if nothing else has them."""
    return _ENVELOPE_COST * len(set(envelopes))


def earliest(expiries: list[int]) -> int:
    """The first of these moments; 0 if there is none."""
    return min(filter(None, expiries), default=0)


def joined(pieces: list[Slice]) -> list[Slice]:
    """The same messages in as few slices as can be; none may be hollow."""
    if len(pieces) < 2:
        return pieces
    found: list[Slice] = []
    group = [pieces[0]]
    for piece in pieces[1:]:
        if not piece.goes_on(group[-1]):
            found.append(_one_of(group))
            group = []
        group.append(piece)
    found.append(_one_of(group))
    return found


def _one_of(group: list[Slice]) -> Slice:
    first = group[0]
    if len(group) == 1:
        return first
    contents: list[bytes] = []
    size = 0
    body_size = first.body_size
    alike = first.envelopes is None
    for piece in group:
        contents += piece.contents
        size += piece.size
        if piece.body_size != body_size:
            body_size = None
        if piece.envelope is not first.envelope or piece.envelopes is not None:
            alike = False
    one = Slice(
        first.envelope,
        contents,
        range(first.offsets.start, group[-1].offsets.stop),
        body_size,
        first.expires_at,
        first.stored,
        size,
        None if alike else envelopes_of(group),
    )
    if first.expiries is not None:
        one.expiries = [moment for piece in group for moment in piece.expiries or ()]
        one.expires_at = earliest(one.expiries)
    one.redelivered = first.redelivered
    return one


def envelopes_of(group: Iterable[Run | Slice]) -> list[Any]:
    """The envelope of each message of runs or slices."""
    found: list[Any] = []
    for piece in group:
        found += piece.envelopes or [piece.envelope] * len(piece.contents)
    return found
