"""The connections that are open, by broker and by use.

Flow:   `get` gives one, which it opens first if need be; any number may wait for the same one.
Shape:  a line: idle -> opening -> open -> idle; after a failure, or a connection on which nothing was
        answered, it waits before it opens again, longer each time.
Limits: one connection for each line: a broker's address and a lane.
Why:    Answers come in the order of the requests, so what may be long in coming has a lane of its own: a
        Fetch that waits for records, a JoinGroup that waits for others, a Produce that waits for the disk.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from functools import partial
from typing import Final, TypeAlias

import anyio
from anyio import CancelScope, Event
from anyio.abc import ByteStream

from leveret.errors import ConnectionClosed, ConnectionFailed
from leveret.log.background import Background
from leveret.log.backoff import Backoff
from leveret.log.connection import LOST, Connection, spoken
from leveret.log.errors import Reason, again
from leveret.log.handshake import shake_hands
from leveret.log.login import Login, OtherMechanism
from leveret.log.url import URL, Address

COMMON: Final = 0
"""The lane for what is answered at once."""

Dial: TypeAlias = Callable[[Address], Awaitable[ByteStream]]


async def dial_tcp(address: Address) -> ByteStream:
    if not 0 < address.port < 65_536:  # a broker may say anything of another one
        raise OSError("there is no such port")
    return await anyio.connect_tcp(address.host, address.port)


class _Line:
    """The connection to one address on one lane."""

    def __init__(self, address: Address, url: URL, login: Login, dial: Dial, background: Background) -> None:
        self._address = address
        self._url = url
        self._login = login
        self._dial = dial
        self._background = background
        self._backoff = Backoff()
        self._pause_s = 0.0
        self._connection: Connection | None = None
        self._opening: Event | None = None
        self._reason: Reason | None = None
        """Why it could not be opened the last time, or will not be any more."""
        self._scope: CancelScope | None = None
        self._over = False

    async def get(self) -> Connection:
        """Raises ConnectionFailed, AuthenticationFailed; ConnectionClosed when we have closed the line."""
        if self._over:
            assert self._reason is not None
            raise self._reason()
        if self._connection is not None and self._connection.reason is None:
            return self._connection
        if self._opening is None:
            self._opening = Event()
            self._background.start(self._run, self._opening)
        await self._opening.wait()
        reason = self._reason if self._connection is None else self._connection.reason
        if reason is not None:
            raise reason()
        assert self._connection is not None
        return self._connection

    def close(self, reason: Reason) -> None:
        self._over = True
        self._reason = reason
        if self._scope is not None:
            self._scope.cancel()

    async def _run(self, opening: Event) -> None:
        """One connection, from before it is open until it is over."""
        self._connection = None
        try:
            with CancelScope(shield=True) as self._scope:
                if not self._over:
                    await anyio.sleep(self._pause_s)
                    await self._connect(opening)
        finally:
            self._opened(opening)

    async def _connect(self, opening: Event) -> None:
        try:
            connection = await self._open()
        except ConnectionFailed as error:
            self._reason = partial(again, error)
            self._pause_s = self._backoff.take()
            return
        greeted = connection.answered
        self._connection = connection
        self._opened(opening)
        try:
            await connection.ended.wait()
        finally:
            connection.close("the connection is closed by this side")
        if connection.answered > greeted:
            self._backoff.reset()
            self._pause_s = 0.0
        else:
            self._pause_s = self._backoff.take()

    def _opened(self, opening: Event) -> None:
        """Or not, but there is nothing to wait for any more."""
        if self._opening is opening:
            self._opening = None
        opening.set()

    async def _open(self) -> Connection:
        """Raises ConnectionFailed, AuthenticationFailed."""
        try:
            return await self._try_to_open()
        except OtherMechanism:
            return await self._try_to_open()

    async def _try_to_open(self) -> Connection:
        seconds = self._url.connection_s
        connection: Connection | None = None
        try:
            with anyio.fail_after(seconds):
                stream = await self._dial(self._address)
                connection = Connection(self._address, stream, self._url.name)
                self._background.start(connection.run)
                await shake_hands(connection, self._url, self._login)
                return connection
        except BaseException as error:
            if connection is not None:
                connection.close("the handshake failed")
            if isinstance(error, TimeoutError) and error.errno is None:  # the deadline's, not the socket's
                what = "the broker did not finish the handshake" if connection else "no connection"
                raise ConnectionFailed(f"{self._address}: {what} within {seconds:g} s") from error
            if isinstance(error, LOST):
                raise ConnectionFailed(f"{self._address}: {spoken(error)}") from error
            if isinstance(error, ConnectionClosed):
                raise ConnectionFailed(str(error)) from error
            raise


class Pool:
    """The lines of a log."""

    def __init__(self, url: URL, dial: Dial, background: Background) -> None:
        self._url = url
        self._login = Login(url)
        self._dial = dial
        self._background = background
        self._lines: dict[tuple[Address, int], _Line] = {}
        self._last_lane = COMMON
        self._over = False

    def lane(self) -> int:
        """A new one, which whoever asked for it closes."""
        self._last_lane += 1
        return self._last_lane

    async def get(self, address: Address, lane: int = COMMON) -> Connection:
        """One that is open. Raises ConnectionFailed, AuthenticationFailed."""
        if self._over:
            raise RuntimeError("the log is not open any more")
        line = self._lines.get((address, lane))
        if line is None:
            line = _Line(address, self._url, self._login, self._dial, self._background)
            self._lines[address, lane] = line
        return await line.get()

    def retain(self, addresses: Collection[Address]) -> None:
        """The other brokers are no more."""
        self._close(lambda address, _: address not in addresses, "the cluster has no such broker any more")

    def close_lane(self, lane: int) -> None:
        self._close(lambda _, of: of == lane, "it is not used any more")

    def close(self) -> None:
        self._over = True
        self._close(lambda _, __: True, "the log was closed by this side")

    def _close(self, which: Callable[[Address, int], bool], text: str) -> None:
        reason = partial(ConnectionClosed, None, text)
        for key in [key for key in self._lines if which(*key)]:
            self._lines.pop(key).close(reason)
