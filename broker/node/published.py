"""What becomes of messages that are published, at once or together with others of the same pass."""

from __future__ import annotations

from collections.abc import Sequence

from broker.amqp.frames import PublishRun
from broker.model.vhost import Route, Vhost
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


class Gathered:
    """Single messages with one envelope, of different publishers, that are pushed as one run."""

    __slots__ = ("commit", "route", "run", "vhost")

    def __init__(self, vhost: Vhost, run: PublishRun, route: Route, commit: Commit | None) -> None:
        self.vhost = vhost
        self.run = run
        self.route = route
        self.commit = commit
        """As of `Published`."""
