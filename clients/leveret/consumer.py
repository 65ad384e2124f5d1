"""The messages of a queue, one after the other.

Flow:   the channel's deliveries go into the buffer; whoever iterates takes them out.
Shape:  new -> started -> cancelling -> over; the broker or a closed channel may end it at any point
Limits: the broker delivers at most `prefetch` messages that are not settled. Without acknowledgements
        it delivers as fast as it can: with `prefetch` messages in the buffer the connection stops
        reading until half of them are taken.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from itertools import repeat
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from anyio import Event

from broker.amqp.frames import DeliveryEnvelope
from leveret.calls import CLOSE_S
from leveret.confirms import Reason
from leveret.errors import ConsumerCancelled, ConsumerOverrun
from leveret.message import Message

if TYPE_CHECKING:
    from leveret.calls import Call
    from leveret.channel import Channel


class Consumer:
    """An asynchronous iterator of messages, and a context manager that cancels it at the end.

    Iterating starts it, if entering has not. Several tasks may iterate, and each message goes to one of
    them. A loop that is left early without the context manager leaves the consumer there, with up to
    `prefetch` messages, until it or its channel is closed.
    """

    def __init__(
        self,
        channel: Channel,
        queue: str,
        tag: str,
        *,
        prefetch: int,
        no_ack: bool,
        exclusive: bool,
        arguments: Mapping[str, Any],
    ) -> None:
        self.queue = queue
        self.tag = tag
        self.prefetch = prefetch
        self.no_ack = no_ack
        self.exclusive = exclusive
        self.arguments = arguments
        self._channel = channel
        self._buffer: deque[tuple[int, bytes, DeliveryEnvelope]] = deque()
        self._started = False
        self._agreed = False
        """The broker has said yes."""
        self._overfull = False
        self._cancelling: Call | None = None
        self._over: Callable[[], Exception] | None = None
        """What to raise when the buffer is empty."""
        self._event: Event | None = None

    # ---- for whoever consumes ----

    async def __aenter__(self) -> Self:
        """The broker has agreed. Raises ChannelClosed, and what else closes a channel."""
        started = self._start()
        try:
            await started.wait()
        except BaseException:
            self._cancel()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        """Raises ConsumerCancelled, ChannelClosed or ConnectionClosed when no message can come any more."""
        buffer = self._buffer
        if not buffer:
            await self._wait()
        tag, closed, envelope = buffer.popleft()
        if self._overfull and len(buffer) <= self.prefetch // 2:
            self._overfull = False
            self._channel._has_room(self)
        return Message(self._channel, envelope, tag, closed, self.no_ack)

    async def aclose(self) -> None:
        """Cancel it at the broker; what it has delivered and nobody has taken goes back into the queue."""
        cancelled = self._cancel()
        if cancelled is not None:
            await cancelled.settled(CLOSE_S)

    async def _wait(self) -> None:
        if not self._started:
            self._start()
        while not self._buffer:
            if self._over is not None:
                raise self._over()
            if self._event is None:
                self._event = Event()
            await self._event.wait()

    def _start(self) -> Call:
        if self._over is not None:
            raise self._over()
        if self._started:
            raise RuntimeError("a consumer is started once")
        started = self._channel._consume(self)
        self._started = True
        return started

    def _cancel(self) -> Call | None:
        if self._over is None:
            self._end(StopAsyncIteration)
            if self._started:
                self._cancelling = self._channel._cancel(self)
        self._give_back()
        return self._cancelling

    # ---- for the channel ----

    def _deliver(self, envelope: DeliveryEnvelope, first: int, contents: list[bytes]) -> None:
        buffer = self._buffer
        buffer.extend(zip(range(first, first + len(contents)), contents, repeat(envelope)))
        if self._cancelling is not None:
            self._give_back()
            return
        if self._event is not None:
            self._wake()
        if self.no_ack and len(buffer) >= self.prefetch and not self._overfull and self._over is None:
            self._overfull = True
            self._channel._is_overfull(self)

    def _give_back(self) -> None:
        tags = [tag for tag, _, _ in self._buffer]
        self._buffer.clear()
        if tags and not self.no_ack:
            self._channel._requeue(tags)

    def _cancelled_by_broker(self) -> None:
        text = f"the broker cancelled the consumer of queue {self.queue!r}; the queue may be gone"
        self._end(lambda: ConsumerCancelled(text))

    def _overrun(self) -> None:
        """Too much came while the connection had to read on."""
        text = (
            f"the consumer of queue {self.queue!r} without acknowledgements took its messages too slowly, "
            "while something else on its connection waited for replies"
        )
        self._channel._cancel(self)
        self._end(lambda: ConsumerOverrun(text))

    def _fail(self, reason: Reason) -> None:
        """The channel is closed: what is not acknowledged goes back into the queue by itself."""
        if not self.no_ack:
            self._buffer.clear()
        if self._cancelling is not None:
            self._cancelling.fail(reason)
        self._end(reason)

    def _end(self, reason: Callable[[], Exception]) -> None:
        if self._over is None:
            self._over = reason
        if self._overfull:
            self._overfull = False
            self._channel._has_room(self)
        self._wake()

    def _wake(self) -> None:
        if self._event is not None:
            self._event.set()
            self._event = None
