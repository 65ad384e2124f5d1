"""What a channel has published and the broker has not confirmed yet.

Flow:   publishing adds a message with its batch; basic.ack, nack and return take it out; whoever
        published waits for the batch. `publish` is a batch of one.
Shape:  messages are numbered from 1; an ack or nack is for one number, or with `multiple` for all up to it
Limits: `UNCONFIRMED_MAX` messages of a channel; then publishers wait.
Why:    A returned message comes without its number, but before its ack and in the order of publishing:
        it is the first mandatory one to the same address with the same body, and the mandatory ones
        before it will not come back any more.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, TypeAlias

from anyio import Event

from leveret.errors import LeveretError, PublishFailed, PublishRefused, Unroutable
from leveret.message import ReturnedMessage

logger = logging.getLogger("leveret")

UNCONFIRMED_MAX: Final = 65_536

# Each that waits raises an exception of its own.
Reason: TypeAlias = Callable[[], LeveretError]
OnReturn: TypeAlias = Callable[[ReturnedMessage], None]


class Batch:
    """Messages to one address, whose confirms somebody waits for together."""

    __slots__ = (
        "_event",
        "_wake_at",
        "abandoned",
        "exchange",
        "failures",
        "mandatory",
        "outstanding",
        "reason",
        "routing_key",
    )

    def __init__(self, exchange: str, routing_key: str, mandatory: bool) -> None:
        self.exchange = exchange
        self.routing_key = routing_key
        self.mandatory = mandatory
        self.outstanding = 0
        self.failures: dict[int, PublishFailed] = {}
        self.reason: Reason | None = None
        """Why the rest will never be confirmed."""
        self.abandoned = False
        """Nobody waits any more."""
        self._event: Event | None = None
        self._wake_at = 0

    async def wait(self, at_most: int) -> None:
        """Until no more than so many are unconfirmed. Raises ChannelClosed or ConnectionClosed."""
        while self.outstanding > at_most:
            if self.reason is not None:
                raise self.reason()
            self._wake_at = at_most
            self._event = Event()
            await self._event.wait()

    def answered(self) -> None:
        """One less to wait for."""
        self.outstanding -= 1
        if self._event is not None and self.outstanding <= self._wake_at:
            self._event.set()
            self._event = None

    def fail(self, reason: Reason) -> None:
        self.reason = reason
        if self._event is not None:
            self._event.set()
            self._event = None


class _Unconfirmed:
    """One message; `body` is that of a mandatory one, which may come back."""

    __slots__ = ("batch", "body", "index", "returned")

    def __init__(self, batch: Batch, index: int, body: bytes | None) -> None:
        self.batch = batch
        self.index = index
        self.body = body
        self.returned: ReturnedMessage | None = None


class Confirms:
    """The unconfirmed messages of a channel."""

    __slots__ = ("_answered", "_mandatory", "_next", "_on_return", "_unconfirmed")

    def __init__(self, on_return: OnReturn | None) -> None:
        self._on_return = on_return
        self._next = 1
        self._answered = 0
        """Up to this number all are answered."""
        self._unconfirmed: dict[int, _Unconfirmed] = {}
        self._mandatory: dict[int, _Unconfirmed] = {}

    @property
    def full(self) -> bool:
        return len(self._unconfirmed) >= UNCONFIRMED_MAX

    def __bool__(self) -> bool:
        return bool(self._unconfirmed)

    def add(self, batch: Batch, index: int, body: bytes) -> None:
        """A message is on its way; `index` is its place in the batch."""
        number = self._next
        self._next = number + 1
        batch.outstanding += 1
        if batch.mandatory:
            self._unconfirmed[number] = self._mandatory[number] = _Unconfirmed(batch, index, body)
        else:
            self._unconfirmed[number] = _Unconfirmed(batch, index, None)

    def acknowledged(self, first: int, last: int, multiple: bool) -> None:
        """The broker has taken responsibility for these."""
        for record in self._take(first, last, multiple):
            batch = record.batch
            if record.returned is not None:
                if batch.abandoned:
                    self._unclaimed(record.returned)
                else:
                    batch.failures[record.index] = Unroutable(record.returned)
            batch.answered()

    def refused(self, number: int, multiple: bool) -> None:
        """The broker has not taken responsibility."""
        for record in self._take(number, number, multiple):
            batch = record.batch
            error = PublishRefused(batch.exchange, batch.routing_key)
            if batch.abandoned:
                logger.warning("%s, and nobody waits for it any more", error)
            else:
                batch.failures[record.index] = error
            batch.answered()

    def _take(self, first: int, last: int, multiple: bool) -> list[_Unconfirmed]:
        if multiple:
            first = self._answered + 1
            if not last:
                last = self._next - 1  # 0 is "all"
        last = min(last, self._next - 1)
        if first <= self._answered + 1 and last > self._answered:
            self._answered = last
        take = self._unconfirmed.pop
        taken = [record for number in range(first, last + 1) if (record := take(number, None)) is not None]
        if self._mandatory:
            for number in range(first, last + 1):
                self._mandatory.pop(number, None)
        return taken

    def returned(self, message: ReturnedMessage) -> None:
        """It comes before its ack, and is that message's failure then."""
        passed = []
        for number, record in self._mandatory.items():
            passed.append(number)
            batch = record.batch
            if (
                batch.routing_key == message.routing_key
                and batch.exchange == message.exchange
                and record.body == message.body
            ):
                record.returned = message
                for earlier in passed:
                    del self._mandatory[earlier]
                return
        self._unclaimed(message)

    def _unclaimed(self, message: ReturnedMessage) -> None:
        if self._on_return is None:
            logger.warning("a message came back that nobody waits for: %r", message)
            return
        try:
            self._on_return(message)
        except Exception:
            # The reader calls it, on which everybody depends.
            logger.exception("on_return failed for %r", message)

    def fail(self, reason: Reason) -> None:
        """None of them will be confirmed any more."""
        for record in self._unconfirmed.values():
            record.batch.fail(reason)
        self._unconfirmed.clear()
        self._mandatory.clear()
