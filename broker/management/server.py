"""The management server: its listeners, its samples, and how long they live.

Flow:   `management_server` runs as long as its body does; `cli` opens the listeners with those of the other
        protocols, and puts it around the life of a broker.
Limits: see `HttpLimits`; the listener of metrics has connections of its own.
Why:    The API takes 60 ms to import, which is a fifth of a broker's start. So the sockets listen first, and a
        thread imports the rest while the broker serves already: clients that come earlier wait.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from broker.management.listening import Listening
from broker.management.options import ManagementOptions
from broker.node.node import Node
from broker.node.peers import Listener

if TYPE_CHECKING:
    from broker.management.api import Api
    from broker.management.http import HttpServer


@asynccontextmanager
async def management_server(
    node: Node, listening: Listening, options: ManagementOptions | None = None
) -> AsyncIterator[None]:
    """Serve the API, with metrics, and metrics alone.

    What it listens on is in `node.listeners` as long as it does, and closed at the end.
    """
    known = [*_known("http", listening.api), *_known("http/prometheus", listening.metrics)]
    node.listeners += known
    async with trio.open_nursery() as nursery:
        served = _Served(node, options or ManagementOptions())
        nursery.start_soon(served.run, listening, nursery)
        try:
            yield
        finally:
            for listener in known:
                node.listeners.remove(listener)
            with trio.CancelScope(shield=True):
                await served.stop()
            nursery.cancel_scope.cancel()


def _known(protocol: str, listeners: list[trio.SocketListener]) -> list[Listener]:
    return [Listener(protocol, *listener.socket.getsockname()[:2]) for listener in listeners]


def _import() -> None:
    """Takes 60 ms: not in the loop."""
    import broker.management.api  # noqa: F401


class _Served:
    """The API and its two servers, once they are loaded."""

    def __init__(self, node: Node, options: ManagementOptions) -> None:
        self._node = node
        self._options = options
        self._servers: list[HttpServer] = []
        self._api: Api | None = None

    async def run(self, listening: Listening, nursery: trio.Nursery) -> None:
        """Load, and serve until it is stopped."""
        try:
            await trio.to_thread.run_sync(_import)
        except BaseException:
            await listening.close()
            raise
        from broker.management.api import Api
        from broker.management.http import HttpServer

        api = self._api = Api(self._node, self._options)
        limits = self._options.http
        self._servers = [HttpServer(api.handle, limits, api.admit), HttpServer(api.handle_metrics, limits)]
        api.connection_count = lambda: sum(server.connection_count for server in self._servers)
        nursery.start_soon(api.rates.run)
        for server, listeners in zip(self._servers, (listening.api, listening.metrics), strict=True):
            if listeners:
                nursery.start_soon(server.serve, listeners, nursery)

    async def stop(self) -> None:
        if self._api is not None:
            self._api.serving = False
        async with trio.open_nursery() as stopping:
            for server in self._servers:
                stopping.start_soon(server.stop)
