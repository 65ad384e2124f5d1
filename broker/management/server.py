"""The management server: its listeners, its samples, and how long they live.

Flow:   `management_server` runs as long as its body does; `cli` puts it around the life of a broker.
Limits: see `HttpLimits`; the listener of metrics has connections of its own.
Why:    The API takes a tenth of a second to import, which is a fifth of a broker's start. So the sockets listen
        first, and a thread imports the rest while the broker serves already: clients that come earlier wait.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from broker.management.listening import Place, listen
from broker.management.options import ManagementOptions
from broker.node.node import Node
from broker.node.peers import Listener

if TYPE_CHECKING:
    from broker.management.api import Api
    from broker.management.http import HttpServer

Listeners = list[trio.SocketListener]


@asynccontextmanager
async def management_server(
    node: Node,
    address: Place | None,
    metrics_address: Place | None,
    options: ManagementOptions | None = None,
) -> AsyncIterator[None]:
    """Serve the API, with metrics, on the first address, and metrics alone on the second one.

    Raises OSError if it cannot listen there. What it listens on is in `node.listeners` as long as it does.
    """
    whole = await listen(address) if address is not None else []
    metrics = await _listen_too(metrics_address, whole)
    known = [*_known("http", whole), *_known("http/prometheus", metrics)]
    node.listeners += known
    async with trio.open_nursery() as nursery:
        served = _Served(node, options or ManagementOptions())
        nursery.start_soon(served.run, whole, metrics, nursery)
        try:
            yield
        finally:
            for listener in known:
                node.listeners.remove(listener)
            with trio.CancelScope(shield=True):
                await served.stop()
            nursery.cancel_scope.cancel()


async def _listen_too(address: Place | None, opened: Listeners) -> Listeners:
    """The second listeners; the first ones go if there can be none. Raises OSError."""
    if address is None:
        return []
    try:
        return await listen(address)
    except OSError:
        for listener in opened:
            await trio.aclose_forcefully(listener)
        raise


def _known(protocol: str, listeners: Listeners) -> list[Listener]:
    return [Listener(protocol, *listener.socket.getsockname()[:2]) for listener in listeners]


def _import() -> None:
    """Takes a tenth of a second: not in the loop."""
    import broker.management.api  # noqa: F401


class _Served:
    """The API and its two servers, once they are loaded."""

    def __init__(self, node: Node, options: ManagementOptions) -> None:
        self._node = node
        self._options = options
        self._servers: list[HttpServer] = []
        self._api: Api | None = None

    async def run(self, whole: Listeners, metrics: Listeners, nursery: trio.Nursery) -> None:
        """Load, and serve until it is stopped."""
        try:
            await trio.to_thread.run_sync(_import)
        except BaseException:
            for listener in (*whole, *metrics):
                await trio.aclose_forcefully(listener)
            raise
        from broker.management.api import Api
        from broker.management.http import HttpServer

        api = self._api = Api(self._node, self._options)
        limits = self._options.http
        self._servers = [HttpServer(api.handle, limits, api.admit), HttpServer(api.handle_metrics, limits)]
        api.connection_count = lambda: sum(server.connection_count for server in self._servers)
        nursery.start_soon(api.rates.run)
        for server, listeners in zip(self._servers, (whole, metrics), strict=True):
            if listeners:
                nursery.start_soon(server.serve, listeners, nursery)

    async def stop(self) -> None:
        if self._api is not None:
            self._api.serving = False
        async with trio.open_nursery() as stopping:
            for server in self._servers:
                stopping.start_soon(server.stop)
