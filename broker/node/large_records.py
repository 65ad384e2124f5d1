"""Large records on their way to AMQP consumers, for which all consumers have one limit.

Flow:   a reader asks before it inflates one, and says when it has handed it out. It is on its way until its client has
        taken it. A reader for which there is no room waits, and is marked when there is some.
Limits: `_SIZE_MAX` bytes, and one record in any case. While a reader waits, a client that has taken nothing of its
        record for 10 s is disconnected.
Why:    Ten consumers that do not read would each have a record of 128 MiB in memory. Records of up to `LARGE_SIZE` are
        not counted: as much may wait in the outbox of any connection.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from broker.node.clock import Clock
from broker.node.scheduler import Scheduler

LARGE_SIZE: Final = 1024 * 1024
_SIZE_MAX: Final = 128 * 1024 * 1024
_LOOK_MS: Final = 100
_PATIENCE_MS: Final = 10_000


class Receiver(Protocol):
    """The connection of a consumer."""

    sent_octets: int

    @property
    def unsent_size(self) -> int:
        """Bytes that wait for the socket."""

    def lost(self, why: str) -> None: ...


class _Sending:
    """A record that was handed out."""

    __slots__ = ("receiver", "sent", "since_ms", "size")

    def __init__(self, receiver: Receiver, size: int, now_ms: int) -> None:
        self.receiver = receiver
        self.size = size
        self.sent = receiver.sent_octets
        self.since_ms = now_ms
        """When its client was last seen to take something."""


class LargeRecords:
    """Keeps count."""

    def __init__(self, scheduler: Scheduler, clock: Clock) -> None:
        self._scheduler = scheduler
        self._clock = clock
        self._sending: dict[object, _Sending] = {}
        self._waiting: dict[Callable[[], None], None] = {}
        self._looks = False

    @property
    def sending_size(self) -> int:
        """Bytes that are on their way, as far as that was looked at."""
        return sum(sending.size for sending in self._sending.values())

    def admit(self, size: int, wake: Callable[[], None]) -> bool:
        """Whether there is room for a record; if not, `wake` is called when it is worth asking again."""
        self._forget_taken()
        if not self._sending or self.sending_size + size <= _SIZE_MAX:
            return True
        self._waiting[wake] = None
        if not self._looks:
            self._looks = True
            self._scheduler.after(_LOOK_MS, self._look)
        return False

    def handed_out(self, reader: object, receiver: Receiver, size: int) -> None:
        self._sending[reader] = _Sending(receiver, size, self._clock.now_ms())

    def forget(self, reader: object, wake: Callable[[], None]) -> None:
        """It has no consumer any more."""
        self._sending.pop(reader, None)
        self._waiting.pop(wake, None)

    def _forget_taken(self) -> None:
        for reader, sending in list(self._sending.items()):
            if sending.receiver.unsent_size <= LARGE_SIZE:
                del self._sending[reader]

    def _look(self) -> None:
        self._looks = False
        now_ms = self._clock.now_ms()
        for sending in list(self._sending.values()):
            if sending.receiver.sent_octets != sending.sent:
                sending.sent = sending.receiver.sent_octets
                sending.since_ms = now_ms
            elif now_ms - sending.since_ms >= _PATIENCE_MS and self._waiting:
                sending.receiver.lost(
                    f"it took nothing of a record of {sending.size} bytes for {_PATIENCE_MS // 1000} s, while others waited"
                )
        waiting, self._waiting = self._waiting, {}
        for wake in waiting:  # those for which there is no room yet wait again
            wake()
