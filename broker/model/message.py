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


class Run(Protocol):
    """Messages that were published together, alike in all but their contents."""

    @property
    def exchange(self) -> str: ...

    @property
    def routing_key(self) -> str: ...

    @property
    def facts(self) -> Facts: ...

    @property
    def contents(self) -> list[bytes]: ...

    def measure(self, contents: Sequence[bytes]) -> int:
        """The octets of the bodies of some of the contents."""
        ...


class Slice:
    """Some messages of one run, in one queue: `contents[i]` has the offset `offsets[i]`.

    A hollow slice has let go of its contents, which the queue's store has too.
    """

    __slots__ = ("contents", "expires_at", "offsets", "redelivered", "run", "size", "stored", "waiting")

    def __init__(
        self,
        run: Run,
        contents: list[bytes],
        offsets: range,
        size: int,
        expires_at: int,
        *,
        stored: bool,
        redelivered: bool = False,
    ) -> None:
        self.run = run
        self.contents = contents
        self.offsets = offsets
        self.size = size
        """Octets of all bodies together."""
        self.expires_at = expires_at
        """A moment in milliseconds, the same for all; 0 is never."""
        self.stored = stored
        """The queue's store has them: it must hear when they are settled."""
        self.redelivered = redelivered
        self.waiting = False
        """It is ready in its queue, and nobody has it."""

    def __len__(self) -> int:
        return len(self.offsets)

    def __repr__(self) -> str:
        return f"Slice({self.offsets}, {self.size} octets)"

    def part(self, which: slice) -> Slice:
        """Another slice with some of the messages."""
        hollow = not self.contents
        contents = self.contents[which]
        offsets = self.offsets[which]
        size = self.size * len(offsets) // len(self.offsets) if hollow else self.run.measure(contents)
        return Slice(
            self.run,
            contents,
            offsets,
            size,
            self.expires_at,
            stored=self.stored,
            redelivered=self.redelivered,
        )

    def cut(self, count: int) -> Slice:
        """Take the first `count` messages out of this slice, into one of their own."""
        taken = self.part(slice(0, count))
        self.contents = self.contents[count:]
        self.offsets = self.offsets[count:]
        self.size -= taken.size
        return taken

    def singles(self) -> list[Slice]:
        """A slice for each message."""
        return [self.part(slice(at, at + 1)) for at in range(len(self.offsets))]

    @property
    def hollow(self) -> bool:
        return not self.contents

    def release(self) -> None:
        """Let go of the contents; only what is stored may."""
        assert self.stored
        self.contents = []
