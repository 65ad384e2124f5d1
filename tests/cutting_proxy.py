"""A TCP proxy between a client and a broker, which cuts the wire when a test wants that.

Flow:   `async with cutting_proxy(broker_address) as proxy:` listens at `proxy.address`; a client is led there
        by `proxy.dial`, whatever address a broker has told it.
Shape:  `cut` ends all connections. After `swallow_answers` the brokers' next answer on each connection is not
        passed on: the connection ends instead, when the broker has done what it was asked.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from anyio.abc import ByteStream, SocketStream

_SIZE = 64 * 1024
_LOST = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError)


class CuttingProxy:
    """`connections` counts all that there were."""

    def __init__(self, upstream: tuple[str, int]) -> None:
        self.address: tuple[str, int] = ("", 0)
        self.connections = 0
        self.refuses = False
        """New connections end at once."""
        self.upstream = upstream
        """Where new connections lead to; it may be changed."""
        self._swallows = False
        self._swallowed = anyio.Event()
        self._scopes: set[anyio.CancelScope] = set()

    async def dial(self, _: object) -> ByteStream:
        return await anyio.connect_tcp(*self.address)

    def cut(self) -> None:
        for scope in self._scopes:
            scope.cancel()

    def swallow_answers(self, swallows: bool = True) -> None:
        self._swallows = swallows
        self._swallowed = anyio.Event()

    async def has_swallowed(self) -> None:
        """An answer, since it was told to."""
        await self._swallowed.wait()

    async def serve(self, client: SocketStream) -> None:
        self.connections += 1
        with anyio.CancelScope() as scope:
            self._scopes.add(scope)
            async with client:
                if not self.refuses:
                    try:
                        await self._join(client)
                    except OSError:
                        pass  # nobody is there: this connection ends, too
        self._scopes.discard(scope)

    async def _join(self, client: SocketStream) -> None:
        async with await anyio.connect_tcp(*self.upstream) as broker, anyio.create_task_group() as tasks:
            tasks.start_soon(self._pass_on, client, broker, tasks.cancel_scope, False)
            tasks.start_soon(self._pass_on, broker, client, tasks.cancel_scope, True)

    async def _pass_on(
        self, source: SocketStream, target: SocketStream, scope: anyio.CancelScope, answers: bool
    ) -> None:
        try:
            while True:
                octets = await source.receive(_SIZE)
                if answers and self._swallows:
                    self._swallowed.set()
                    break
                await target.send(octets)
        except _LOST:
            pass
        scope.cancel()


@asynccontextmanager
async def cutting_proxy(upstream: tuple[str, int]) -> AsyncIterator[CuttingProxy]:
    proxy = CuttingProxy(upstream)
    async with await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0) as listener:
        host, port = listener.extra(anyio.abc.SocketAttribute.local_address)[:2]
        proxy.address = (str(host), int(port))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, proxy.serve)
            try:
                yield proxy
            finally:
                tasks.cancel_scope.cancel()
