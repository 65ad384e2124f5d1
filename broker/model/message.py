"""What a queue holds: runs of closed messages, and slices of them.

Flow:   a publisher's run comes from the protocol; queues cut it into slices, hand them to consumers, and
        get them back as settled or returned.
Why:    The model never opens a message. What it must know, a run says of all its messages at once; this
        file declares that shape, and the protocol's own class fits it without being converted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Facts(Protocol):
    """What queues must know of a message's properties."""

    @property
    def persistent(self) -> bool: ...

    @property
    def expiration_ms(self) -> int | None: ...


class Envelope(Protocol):
    """What the messages of a run have in common."""

    @property
    def exchange(self) -> str: ...

    @property
    def routing_key(self) -> str: ...

    @property
    def facts(self) -> Facts: ...

    def measure(self, contents: Sequence[bytes]) -> int:
        """The octets of the bodies of some of the contents."""
        ...


class Run(Protocol):
    """Messages that were published together, alike in all but their contents."""

    @property
    def envelope(self) -> Envelope: ...

    @property
    def contents(self) -> list[bytes]: ...

    @property
    def body_size(self) -> int | None:
        """Octets of each body where all are equally long, else None."""
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
    """Some messages of one run, in one queue: `contents[i]` has the offset `offsets[i]`.

    A hollow slice has let go of its contents, which the queue's store has too.
    """

    __slots__ = (
        "body_size",
        "contents",
        "envelope",
        "expires_at",
        "offsets",
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
    ) -> None:
        self.envelope = envelope
        self.contents = contents
        self.offsets = offsets
        self.body_size = body_size
        """As in a run."""
        self.expires_at = expires_at
        """A moment in milliseconds, the same for all; 0 is never."""
        self.stored = stored
        """The queue's store has them: it must hear when they are settled."""
        if size < 0:
            size = envelope.measure(contents) if body_size is None else body_size * len(contents)
        self.size = size
        """Octets of all bodies together."""
        self.redelivered = False
        self.waiting = False
        """It is ready in its queue, and nobody has it."""

    def __len__(self) -> int:
        return len(self.offsets)

    def __repr__(self) -> str:
        return f"Slice({self.offsets}, {self.size} octets)"

    def part(self, which: slice) -> Slice:
        """Another slice with some of the messages."""
        offsets = self.offsets[which]
        # What a hollow slice has in each part can only be guessed, until it is filled.
        size = -1 if self.contents else self.size * len(offsets) // len(self.offsets)
        part = Slice(
            self.envelope,
            self.contents[which],
            offsets,
            self.body_size,
            self.expires_at,
            self.stored,
            size,
        )
        part.redelivered = self.redelivered
        return part

    def cut(self, count: int) -> Slice:
        """Take the first `count` messages out of this slice, into one of their own."""
        taken = self.part(slice(0, count))
        self.contents = self.contents[count:]
        self.offsets = self.offsets[count:]
        self.size -= taken.size
        return taken

    def singles(self) -> list[Slice]:
        """A slice for each message, of the kind that can be joined again."""
        found = []
        for at, offset in enumerate(self.offsets):
            single = self.part(slice(at, at + 1))
            single.offsets = range(offset, offset + 1)
            found.append(single)
        return found

    def goes_on(self, last: Slice) -> bool:
        """Both can be one slice."""
        return (
            self.envelope is last.envelope
            and self.offsets.start == last.offsets.stop
            and self.offsets.step == last.offsets.step == 1
            and self.body_size == last.body_size
            and self.expires_at == last.expires_at
            and self.stored is last.stored
            and self.redelivered is last.redelivered
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
    one = Slice(
        first.envelope,
        [content for piece in group for content in piece.contents],
        range(first.offsets.start, group[-1].offsets.stop),
        first.body_size,
        first.expires_at,
        first.stored,
    )
    one.redelivered = first.redelivered
    return one
