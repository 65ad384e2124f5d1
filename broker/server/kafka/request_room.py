"""What all requests that are not handled yet may take in memory together.

Flow:   each connection's inbox counts here what it keeps. A large frame of which the first octets have come is let in, and
        counts with the size that it announces, or waits; the connection reads no more of it until it is let in.
Limits: `size_max` octets, of which clients without a login get a quarter, and producers, who may all have to wait for an alarm
        to end, a half: so others are still heard. Whoever finds any room is let in. Beyond the limit there is what was
        let in last, and of each connection what one read brings.
Spec:   Kafka's `queued.max.request.bytes`.
Why:    Counted by what has come, many halves could fill the room, and none would ever be whole.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Final

_QUARTERS: Final = 4


class Share(IntEnum):
    """Who asks, as quarters of the room that may be taken by everybody before it is full for them."""

    STRANGERS = 1
    PRODUCERS = 2
    OTHERS = 4


class RequestRoom:
    """Keeps count."""

    def __init__(self, size_max: int) -> None:
        self.size_max = size_max
        self.taken = 0
        """Octets."""
        self._waiting: dict[Share, dict[Callable[[], None], None]] = {share: {} for share in Share}

    def full(self, share: Share) -> bool:
        return self.taken * _QUARTERS >= self.size_max * share

    def take(self, more: int) -> None:
        """So many octets more, or fewer: then whoever has waited longest may be let in."""
        self.taken += more
        if more < 0:
            self._let_in()

    def wait(self, share: Share, call: Callable[[], None]) -> None:
        """Call it once when there is room."""
        self._waiting[share][call] = None

    def wait_no_more(self, call: Callable[[], None]) -> None:
        for waiting in self._waiting.values():
            waiting.pop(call, None)

    def _let_in(self) -> None:
        for share, waiting in self._waiting.items():
            while waiting and not self.full(share):
                call = next(iter(waiting))
                del waiting[call]
                call()
