"""What becomes of messages that are published."""

from __future__ import annotations

from collections.abc import Sequence

from broker.node.flusher import Commit


class Published:
    """What became of runs; the indices are those of their contents, counted through."""

    __slots__ = ("commit", "refused", "unroutable")

    def __init__(self) -> None:
        self.commit: Commit | None = None
        """When it is done, the messages may be confirmed; None is now."""
        self.unroutable: Sequence[int] = ()
        self.refused: Sequence[int] = ()
        """A queue had no room for these; in ascending order."""
