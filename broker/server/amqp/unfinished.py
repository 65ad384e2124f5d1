"""What messages that have come in part take in memory, over all connections.

Flow:   a connection says after each read how much it keeps. Beyond the limit, connections that keep
        something are read one at a time, each until it has finished a message; the others wait, with their
        data in their sockets. Connections that keep nothing, as all do that publish small messages, go on.
Limits: `size_max` bytes. On top of that comes what the connection whose turn it is may keep (see
        `broker.amqp.frames`), and of each other one what a read brings; up to 16 KiB are not counted. While
        the limit is exceeded, a connection that sends nothing for 10 s, or does not finish a message in a
        turn of 30 s, is closed.
Why:    Counted is what has come and not what was announced: an announcement costs nothing, and takes no
        room from others. By turns, since many parts could fill the room and wait for each other for ever.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

SMALL: Final = 16 * 1024
_TICK_MS: Final = 1000
_SILENT_TICKS_MAX: Final = 10
_TURN_TICKS_MAX: Final = 30
# All go on when so much of the room is taken: a limit that is crossed with each read would stop and start all.
_RELAXED_QUARTERS: Final = 3


class Keeper(Protocol):
    """A connection that keeps parts of messages."""

    @property
    def able(self) -> bool:
        """It is read unless it is paused."""
        ...

    @property
    def unread(self) -> int:
        """Bytes that wait in its socket."""
        ...

    def pause(self) -> None: ...

    def unpause(self) -> None: ...

    def give_up(self, size_max: int) -> None:
        """Drop what it keeps, and close it."""
        ...


class _Kept:
    """What one connection keeps, and for how many ticks nothing has come."""

    __slots__ = ("silent_ticks", "size")

    def __init__(self) -> None:
        self.size = 0
        self.silent_ticks = 0


class Unfinished:
    """Keeps count, and decides which connections are read."""

    def __init__(self, size_max: int, after: Callable[[int, Callable[[], None]], object]) -> None:
        """`after` calls in so many milliseconds."""
        self.size_max = size_max
        self.taken = 0
        """Bytes."""
        self._after = after
        # In the order of their turns.
        self._keepers: dict[Keeper, _Kept] = {}
        self._pressed = False
        self._ticking = False
        self._turn: Keeper | None = None
        self._turn_ticks = 0

    def keep(self, keeper: Keeper, size: int) -> None:
        """It was read, and keeps so much now."""
        if size <= SMALL:
            self.forget(keeper)
            return
        kept = self._keepers.get(keeper)
        if kept is None:
            kept = self._keepers[keeper] = _Kept()
        finished = size < kept.size
        self.taken += size - kept.size
        kept.size = size
        kept.silent_ticks = 0
        if finished:
            self._keepers[keeper] = self._keepers.pop(keeper)  # its next turn is the last
        if not self._pressed:
            if self.taken > self.size_max:
                self._press()
        elif keeper is not self._turn:
            keeper.pause()
        elif finished:
            self._next_turn()

    def forget(self, keeper: Keeper) -> None:
        """It keeps nothing any more, or is gone."""
        kept = self._keepers.pop(keeper, None)
        if kept is None:
            return
        self.taken -= kept.size
        if self._pressed and keeper is self._turn:
            self._next_turn()
        elif self._pressed:
            keeper.unpause()

    def _press(self) -> None:
        self._pressed = True
        for keeper in list(self._keepers):
            keeper.pause()
        self._next_turn()
        if not self._ticking:
            self._ticking = True
            self._after(_TICK_MS, self._tick)

    def _next_turn(self) -> None:
        if self._turn in self._keepers:
            self._turn.pause()
        self._turn = None
        self._turn_ticks = 0
        if self._has_room:
            self._pressed = False
            for keeper in list(self._keepers):
                keeper.unpause()
            return
        self._turn = next((keeper for keeper in self._keepers if keeper.able), None)
        if self._turn is not None:
            self._turn.unpause()

    def _tick(self) -> None:
        self._ticking = self._pressed
        if not self._pressed:
            return
        self._after(_TICK_MS, self._tick)
        self._turn_ticks += 1
        for kept in self._keepers.values():
            kept.silent_ticks += 1
        for keeper, kept in list(self._keepers.items()):
            if self._pressed and self._delays(keeper, kept):
                self.forget(keeper)
                keeper.give_up(self.size_max)
        if self._pressed and (self._has_room or self._turn is None or not self._turn.able):
            self._next_turn()

    @property
    def _has_room(self) -> bool:
        return 4 * self.taken <= _RELAXED_QUARTERS * self.size_max

    def _delays(self, keeper: Keeper, kept: _Kept) -> bool:
        if keeper is self._turn and self._turn_ticks > _TURN_TICKS_MAX:
            return True
        return kept.silent_ticks > _SILENT_TICKS_MAX and keeper.able and not keeper.unread
