"""Questions to the broker on one channel, and its answers, which come in the order of the questions."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, TypeAlias

import anyio
from anyio import Event

from broker.amqp.errors import RemoteProtocolError
from broker.amqp.methods import Method
from broker.amqp.spec import ReplyCode
from leveret.confirms import Reason

CLOSE_S: Final = 3.0
"""How long a goodbye is waited for."""

Answered: TypeAlias = Callable[[Method], object]


class Call:
    """A method that is answered by one of a few others.

    Whoever waits may go away; the answer comes all the same, and `unwanted` gets it.
    """

    __slots__ = (
        "_abandoned",
        "_answered",
        "_event",
        "_reason",
        "content",
        "done",
        "expects",
        "reply",
        "unwanted",
    )

    def __init__(
        self,
        *expects: type[Method],
        answered: Answered | None = None,
        unwanted: Answered | None = None,
    ) -> None:
        """`answered` is called at once when the answer is there, before anything behind it is read."""
        self.expects = expects
        self.unwanted = unwanted
        self.reply: Method | None = None
        self.content = b""
        self.done = False
        """There is an answer, or there will be none."""
        self._answered = answered
        self._abandoned = False
        self._reason: Reason | None = None
        self._event: Event | None = None

    async def wait(self) -> Method:
        """The answer. Raises ChannelClosed or ConnectionClosed."""
        await self.settled()
        if self.reply is None:
            assert self._reason is not None
            raise self._reason()
        return self.reply

    async def settled(self, seconds: float | None = None) -> None:
        """Until there is an answer, or there will be none, or the time is over."""
        if self.done:
            return
        if self._event is None:
            self._event = Event()
        try:
            with anyio.move_on_after(seconds):
                await self._event.wait()
        except BaseException:
            self._abandoned = True
            if self.reply is not None and self.unwanted is not None:
                self.unwanted(self.reply)
            raise

    def answer(self, reply: Method, content: bytes = b"") -> None:
        self.done = True
        self.reply = reply
        self.content = content
        if self._answered is not None:
            self._answered(reply)
        if self._event is not None:
            self._event.set()
        if self._abandoned and self.unwanted is not None:
            self.unwanted(reply)

    def fail(self, reason: Reason) -> None:
        self.done = True
        self._reason = reason
        if self._event is not None:
            self._event.set()


class Calls:
    """The questions of a channel that are not answered yet."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: deque[Call] = deque()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, call: Call) -> None:
        self._waiting.append(call)

    def answer(self, reply: Method, content: bytes = b"") -> None:
        """Raises RemoteProtocolError for an answer to something else."""
        if not self._waiting or not isinstance(reply, self._waiting[0].expects):
            asked = (
                " or ".join(kind.name for kind in self._waiting[0].expects) if self._waiting else "nothing"
            )
            raise RemoteProtocolError(
                ReplyCode.UNEXPECTED_FRAME, f"{reply.name} came where {asked} was expected", *reply.id
            )
        self._waiting.popleft().answer(reply, content)

    def fail(self, reason: Reason) -> None:
        """There will be no answers."""
        waiting, self._waiting = self._waiting, deque()
        for call in waiting:
            call.fail(reason)
