"""Serve many sockets in one task: readiness comes in, each connection serves itself, one pass ends for all.

Flow:   listeners add sockets; the pump calls `readable` and `writable` of those that are ready, then `resume`
        of those that have deferred work, then `end_pass` once for all of them.
Limits: a pass serves at most 256 ready sockets and ends after 4 ms; sockets it did not reach come first in
        the next. A socket should stop when its share of 1 ms is over and `defer` the rest. Trio's other
        tasks run between two passes when 4 ms are over.
Why:    An epoll object is itself a file that becomes readable, so that one trio task can wait for all
        sockets. With 50 small connections that is 2.6 times as fast as a task for each, as a wake-up
        of trio costs more than a small message. For the same reason the pump lingers: while there is
        traffic it sleeps in its own epoll, a millisecond at a time, and not in trio's. This file is the
        only one that knows.
        Ready sockets go before deferred ones, so that a client with a small request does not wait for
        32 others that have thousands pipelined.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Callable
from select import EPOLLET, EPOLLIN, EPOLLOUT, EPOLLRDHUP, epoll
from typing import Final, Protocol

import trio

_EVENTS_MAX: Final = 256
_TURN_S: Final = 0.004
_LINGER_S: Final = 0.001
_SHARE_S: Final = 0.001


class Socket(Protocol):
    """Somebody with a file descriptor to watch."""

    def fileno(self) -> int: ...

    def readable(self) -> None:
        """There is something to read, or the peer is gone."""
        ...

    def hung_up(self) -> None:
        """The peer is gone, and nobody waits for what it has still said."""
        ...

    def writable(self) -> None:
        """There is room to write again."""
        ...

    def resume(self) -> None:
        """Go on with the work that was deferred."""
        ...

    def failed(self, error: Exception) -> None:
        """One of them raised this: what is a bug of ours must stay with this socket, else it is raised again."""
        ...


class Pump:
    """Watches sockets."""

    def __init__(
        self,
        end_pass: Callable[[], None],
        turn_is_due: Callable[[], bool],
        end_turn: Callable[[], None],
    ) -> None:
        """`end_pass` is called after each pass.

        Expensive work that all sockets share, as starting a commit, is done in `end_turn`: when `turn_is_due`
        says that there is some, and no socket is ready any more or 4 ms are over.
        """
        self._epoll = epoll()
        self._sockets: dict[int, Socket] = {}
        self._unserved: list[tuple[int, int]] = []
        self._deferred: OrderedDict[Socket, None] = OrderedDict()
        self._bell = os.eventfd(0)
        self._epoll.register(self._bell, EPOLLIN | EPOLLET)
        self.share_ends = 0.0
        """When the socket that is being served should defer the rest, by `time.perf_counter`."""
        self._end_pass = end_pass
        self._turn_is_due = turn_is_due
        self._end_turn = end_turn

    def add(self, socket: Socket) -> None:
        """Raises OSError if the system has no room for it."""
        descriptor = socket.fileno()
        self._epoll.register(descriptor, EPOLLIN)
        self._sockets[descriptor] = socket

    def watch(self, socket: Socket, *, reading: bool, writing: bool, ending: bool = False) -> None:
        """Say what to wait for; a socket with neither is still told when its connection is broken.

        With `ending` it is told, too, when the peer says no more, which `reading` finds out by itself.
        """
        events = (EPOLLIN if reading else 0) | (EPOLLOUT if writing else 0) | (EPOLLRDHUP if ending else 0)
        self._epoll.modify(socket.fileno(), events)

    def remove(self, descriptor: int) -> None:
        """Before the descriptor is closed."""
        socket = self._sockets.pop(descriptor, None)
        if socket is not None:
            self._deferred.pop(socket, None)
            self._epoll.unregister(descriptor)

    def defer(self, socket: Socket) -> None:
        """Have `resume` called behind all ready sockets; calling this again before that changes nothing."""
        if not self._deferred:
            os.eventfd_write(self._bell, 1)  # the pump may be asleep
        self._deferred[socket] = None

    async def run(self) -> None:
        """Forever."""
        while True:
            await trio.lowlevel.wait_readable(self._epoll.fileno())
            lingers = self._serve(0)
            yielded = time.perf_counter()
            while lingers:
                if self._turn_is_due():
                    turn_ends = time.perf_counter() + _TURN_S
                    while self._serve(0) and time.perf_counter() < turn_ends:
                        pass
                    self._end_turn()
                if time.perf_counter() - yielded > _TURN_S:
                    await trio.lowlevel.checkpoint()
                    yielded = time.perf_counter()
                lingers = self._serve(_LINGER_S)

    def _serve(self, timeout_s: float) -> bool:
        """One pass over the sockets that are ready, or get ready in time; False if there were none."""
        ready = self._unserved or self._epoll.poll(0 if self._deferred else timeout_s, _EVENTS_MAX)
        if not ready and not self._deferred:
            return False
        ends = self._serve_ready(ready)
        if self._deferred:
            self._serve_deferred(ends)
        self._end_pass()
        return True

    def _serve_ready(self, ready: list[tuple[int, int]]) -> float:
        """Returns when the pass should end."""
        sockets = self._sockets
        clock = time.perf_counter
        self._unserved = []
        now = clock()
        ends = now + _TURN_S
        for served, (descriptor, events) in enumerate(ready, 1):
            socket = sockets.get(descriptor)
            if socket is None:
                continue  # the bell, or closed by another one in this pass
            self.share_ends = now + _SHARE_S
            try:
                if events == EPOLLIN:
                    socket.readable()
                else:
                    self._serve_rare(socket, descriptor, events)
            except Exception as error:
                socket.failed(error)
            now = clock()
            if now > ends:
                self._unserved = ready[served:]
                break
        return ends

    def _serve_rare(self, socket: Socket, descriptor: int, events: int) -> None:
        if events & EPOLLOUT:
            socket.writable()
        if events & ~EPOLLOUT and descriptor in self._sockets:
            if events & EPOLLIN:
                socket.readable()
            else:
                socket.hung_up()

    def _serve_deferred(self, ends: float) -> None:
        """One of them, and more while there is time; those that defer again wait for the next pass."""
        for _ in range(len(self._deferred)):
            if not self._deferred:
                return  # closed by another one
            socket, _ = self._deferred.popitem(last=False)
            self.share_ends = time.perf_counter() + _SHARE_S
            try:
                socket.resume()
            except Exception as error:
                socket.failed(error)
            if time.perf_counter() > ends:
                return

    def close(self) -> None:
        self._epoll.close()
        os.close(self._bell)
