"""The management server: its listeners, its samples, and how long they live.

Flow:   `management_server` runs as long as its body does; `cli` puts it around the life of a broker.
Limits: see `HttpLimits`; the listener of metrics has connections of its own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from broker.management.api import Api
from broker.management.http import HttpServer, Place, listen
from broker.management.options import ManagementOptions
from broker.node.node import Node
from broker.node.peers import Listener


@asynccontextmanager
async def management_server(
    node: Node,
    address: Place | None,
    metrics_address: Place | None,
    options: ManagementOptions | None = None,
) -> AsyncIterator[Api]:
    """Serve the API, with metrics, on the first address, and metrics alone on the second one.

    Raises OSError if it cannot listen there. What it listens on is in `node.listeners` as long as it does.
    """
    options = options or ManagementOptions()
    api = Api(node, options)
    whole = HttpServer(api.handle, options.http)
    metrics = HttpServer(api.handle_metrics, options.http)
    api.connection_count = lambda: whole.connection_count + metrics.connection_count
    async with trio.open_nursery() as nursery:
        mine = await _open(nursery, whole, address, "http")
        mine += await _open(nursery, metrics, metrics_address, "http/prometheus")
        node.listeners += mine
        nursery.start_soon(api.rates.run)
        try:
            yield api
        finally:
            api.serving = False
            for listener in mine:
                node.listeners.remove(listener)
            with trio.CancelScope(shield=True):
                async with trio.open_nursery() as stopping:
                    stopping.start_soon(whole.stop)
                    stopping.start_soon(metrics.stop)
            nursery.cancel_scope.cancel()


async def _open(
    nursery: trio.Nursery, server: HttpServer, address: Place | None, protocol: str
) -> list[Listener]:
    if address is None:
        return []
    listeners = await listen(address)
    nursery.start_soon(server.serve, listeners, nursery)
    places = [listener.socket.getsockname()[:2] for listener in listeners]
    return [Listener(protocol, host, port) for host, port in places]
