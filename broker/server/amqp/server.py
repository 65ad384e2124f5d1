"""All AMQP connections of a broker.

Flow:   `serve` gives accepted sockets; the pump rings their connections; at the end of each pass `end_pass`
        confirms what needs no disk and sends what every connection has collected.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any

import trio

from broker.model.vhost import Vhost
from broker.node.node import Node
from broker.server.amqp import basic, consume, topology, transaction
from broker.server.amqp.channel import Channel
from broker.server.amqp.connection import AmqpConnection
from broker.server.amqp.options import AmqpOptions
from broker.server.amqp.unfinished import Unfinished
from broker.server.pump import Pump
from broker.storage.errors import StorageError

logger = logging.getLogger("broker.server")

# Their handlers are found by method (see `channel.handles`).
HANDLER_MODULES = (basic, consume, topology, transaction)


class AmqpServer:
    """The connections, and what they share."""

    def __init__(self, node: Node, pump: Pump, nursery: trio.Nursery, options: AmqpOptions) -> None:
        self.node = node
        self.pump = pump
        self.options = options
        self.no_vhost = Vhost("")
        """Of connections that have not opened one yet."""
        self.reply_channels: dict[str, Channel] = {}
        """Channels that consume direct replies, by their token."""
        size_max = min(options.unfinished_size_max, node.options.memory_limit // 4)
        self.unfinished = Unfinished(size_max, node.scheduler.after)
        self._nursery = nursery
        self._connections: dict[AmqpConnection, None] = {}
        # Closed ones, whose clients have not closed their half of the socket yet.
        self._draining: dict[AmqpConnection, None] = {}
        self._unflushed: dict[AmqpConnection, None] = {}
        self._closing: dict[AmqpConnection, None] = {}
        self._failing: dict[AmqpConnection, Exception] = {}
        self._confirming: dict[Channel, None] = {}
        self._empty = trio.Event()
        node.pass_ends.append(self.end_pass)
        node.alarms.changed.append(self._alarms_changed)
        node.topology.vhost_deleted.append(self._vhost_deleted)

    def accept(self, sock: socket.socket, peer: tuple[str, int], here: tuple[str, int]) -> None:
        """Serve a connected socket, which does not block. Raises OSError if it cannot be."""
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = AmqpConnection(self, sock, peer, here)
        self._connections[connection] = None
        try:
            self.pump.add(connection)
        except Exception:
            connection.lost("")
            raise

    def start_soon(self, call: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        """Run what must wait, in a task."""
        self._nursery.start_soon(call, *arguments)

    @property
    def connection_count(self) -> int:
        return len(self._connections)

    def opened(self, connection: AmqpConnection) -> None:
        self.node.peers[connection] = None

    def drain(self, connection: AmqpConnection) -> bool:
        """It is closed, and its socket not yet; False if that was known."""
        if connection in self._draining:
            return False
        self.closed(connection)
        self._draining[connection] = None
        return True

    def closed(self, connection: AmqpConnection) -> None:
        self._connections.pop(connection, None)
        self._draining.pop(connection, None)
        self._unflushed.pop(connection, None)
        self._closing.pop(connection, None)
        self.unfinished.forget(connection)
        if self.node.peers.pop(connection, connection) is None:
            self.node.metrics.connections_closed += 1
        if not self._connections:
            self._empty.set()

    # ---- the end of a pass ----

    def flush_soon(self, connection: AmqpConnection) -> None:
        self._unflushed[connection] = None

    def close_soon(self, connection: AmqpConnection) -> None:
        self._closing[connection] = None

    def fail_soon(self, connection: AmqpConnection, error: Exception) -> None:
        """For a bug that comes up where a connection must not be closed, as in the midst of a queue."""
        self._failing.setdefault(connection, error)

    def confirm_soon(self, channel: Channel) -> None:
        self._confirming[channel] = None

    def end_pass(self) -> None:
        if self._failing:
            failing, self._failing = self._failing, {}
            for connection, error in failing.items():
                connection.failed(error)
        if self._confirming:
            confirming, self._confirming = self._confirming, {}
            for channel in confirming:
                if channel.confirms is not None:
                    try:
                        channel.confirms.send()
                    except Exception as error:
                        channel.connection.failed(error)
        if self._unflushed:
            unflushed, self._unflushed = self._unflushed, {}
            for connection in unflushed:
                try:
                    connection.flush()
                except Exception as error:
                    connection.failed(error)
        if self._closing:
            closing, self._closing = self._closing, {}
            for connection in closing:
                connection.guard(connection.finish)

    # ---- what concerns many ----

    def _alarms_changed(self) -> None:
        """Publishers are blocked when they publish next, and set free together."""
        if not self.node.alarms.active:
            for connection in list(self._connections):
                connection.guard(connection.unblock)
            self.end_pass()

    def _vhost_deleted(self, vhost: Vhost) -> None:
        for connection in list(self._connections):
            if connection.vhost is vhost:
                connection.guard(partial(connection.close_by_operator, f"vhost '{vhost.name}' is deleted"))

    async def stop(self) -> None:
        """Tell all clients that the broker goes, and wait until they are gone; the caller has the deadline."""
        reason = "broker forced connection closure with reason 'shutdown'"
        for connection in list(self._connections):
            connection.guard(partial(connection.close_by_operator, reason))
        self.node.end_pass()
        if self._connections:
            self._empty = trio.Event()
            await self._empty.wait()

    def drop_all(self) -> None:
        """Close the sockets of those that did not go."""
        for connection in (*self._connections, *self._draining):
            with suppress(StorageError):  # the end of the pass says it again
                connection.guard(partial(connection.lost, ""))
        self.node.end_pass()
