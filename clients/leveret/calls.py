"""Questions to the broker on one channel, and its answers.

Shape:  answers come in the order of the questions, but for basic.consume-ok and cancel-ok
Why:    In RabbitMQ those two come from the queue, and the others from the channel; they have the
        consumer's tag to be told by.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, TypeAlias

import anyio
from anyio import Event

from broker.amqp import methods
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

    __slots__ = ("_of_consumers", "_waiting")

    def __init__(self) -> None:
        self._waiting: deque[Call] = deque()
        self._of_consumers: dict[tuple[type[Method], str], Call] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting or self._of_consumers)

    def add(self, call: Call, consumer_tag: str | None = None) -> None:
        """With a tag if it is about a consumer; then it expects one kind of answer."""
        if consumer_tag is None:
            self._waiting.append(call)
        else:
            (kind,) = call.expects
            self._of_consumers[kind, consumer_tag] = call

    def answer(self, reply: Method, content: bytes = b"") -> None:
        """Raises RemoteProtocolError for an answer to something else."""
        if isinstance(reply, methods.BasicConsumeOk | methods.BasicCancelOk):
            call = self._of_consumers.pop((type(reply), reply.consumer_tag), None)
            if call is None:
                raise _unexpected(reply, f"none for the consumer {reply.consumer_tag!r}")
            call.answer(reply)
            return
        if not self._waiting or not isinstance(reply, self._waiting[0].expects):
            asked = self._waiting[0].expects if self._waiting else ()
            raise _unexpected(reply, " or ".join(kind.name for kind in asked) or "no answer")
        self._waiting.popleft().answer(reply, content)

    def fail(self, reason: Reason) -> None:
        """There will be no answers."""
        calls = [*self._waiting, *self._of_consumers.values()]
        self._waiting.clear()
        self._of_consumers.clear()
        for call in calls:
            call.fail(reason)


def _unexpected(reply: Method, asked: str) -> RemoteProtocolError:
    text = f"{reply.name} came where {asked} was expected"
    return RemoteProtocolError(ReplyCode.UNEXPECTED_FRAME, text, *reply.id)
