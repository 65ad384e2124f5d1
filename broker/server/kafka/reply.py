"""The answer to one request, now or later.

Flow:   a handler gets a `Reply` and calls one of its methods once; answers go out in the order of the requests.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from broker.kafka import api
from broker.kafka.api import Request
from broker.node.flusher import Commit

if TYPE_CHECKING:
    from broker.server.kafka.connection import KafkaConnection


class Reply:
    """A place among the answers of a connection."""

    __slots__ = (
        "_api",
        "_correlation_id",
        "_parts",
        "_version",
        "connection",
        "done",
        "dropped",
        "when_gone",
    )

    def __init__(self, connection: KafkaConnection, request: Request) -> None:
        self.connection = connection
        # Not the request itself, which may be large, while the answer may take long.
        self._api = request.api
        self._version = request.version
        self._correlation_id = request.correlation_id
        self.done = False
        """There is nothing more to do for it."""
        self.dropped = False
        """Nobody gets it any more."""
        self.when_gone: Callable[[], None] | None = None
        """Called if the connection goes before the answer: whoever waits lets go. Who waits for the disk has none."""
        self._parts: list[Any] = []

    def answer(self, body: dict[str, Any]) -> None:
        """Give the response; whoever has gone meanwhile does not get it."""
        if self.dropped:
            return
        self.give(api.write_response(self._api, self._version, self._correlation_id, body))

    def give(self, parts: list[Any]) -> None:
        """The same as octets."""
        assert not self.done
        self._parts = parts
        self.done = True
        self.when_gone = None
        self.connection.answered()

    def drop(self) -> None:
        """The connection goes."""
        self.done = self.dropped = True
        let_go, self.when_gone = self.when_gone, None
        if let_go is not None:
            let_go()

    def skip(self) -> None:
        """There is no response to this request."""
        self.give([])

    def answer_after(self, commit: Commit | None, body: dict[str, Any]) -> None:
        """Give it when the commit is safe."""
        if commit is None or commit.done:
            self.answer(body)
        else:
            commit.waiters.append(partial(self.connection.guard, partial(self.answer, body)))

    def take(self) -> list[Any]:
        parts, self._parts = self._parts, []
        return parts
