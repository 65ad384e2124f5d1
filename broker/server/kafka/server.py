"""All Kafka connections of a broker.

Flow:   `serve` gives accepted sockets; the pump rings their connections; at the end of each pass `end_pass`
        looks again at fetches that waited, and sends what every connection has collected.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import trio

from broker.node.flusher import Commit
from broker.node.node import Node
from broker.server.kafka import (
    cluster_admin,
    config_admin,
    fetch,
    groups,
    log_admin,
    metadata,
    offsets,
    positions,
    produce,
    sasl,
    topic_admin,
    versions,
)
from broker.server.kafka.connection import KafkaConnection
from broker.server.kafka.options import KafkaOptions
from broker.server.kafka.reply import Reply
from broker.server.kafka.request_room import RequestRoom
from broker.server.pump import Pump
from broker.storage.errors import StorageError

if TYPE_CHECKING:
    from broker.server.kafka.handlers import Handler

logger = logging.getLogger("broker.server")

_IDLE_CHECK_MS: Final = 30_000

HANDLER_MODULES: Final = (
    versions,
    metadata,
    produce,
    fetch,
    positions,
    groups,
    offsets,
    sasl,
    topic_admin,
    config_admin,
    log_admin,
    cluster_admin,
)


class KafkaServer:
    """The connections, and what they share."""

    def __init__(self, node: Node, pump: Pump, nursery: trio.Nursery, options: KafkaOptions) -> None:
        self.node = node
        self.pump = pump
        self.options = options
        self.handlers: dict[int, Handler] = {}
        """By API key: what is here is what clients are told that they may ask for."""
        for module in HANDLER_MODULES:
            self.handlers |= module.HANDLERS
        self._nursery = nursery
        self._connections: dict[KafkaConnection, None] = {}
        self._unflushed: dict[KafkaConnection, None] = {}
        self._rung: dict[Callable[[], None], None] = {}
        self.sessions_size = 0
        """Octets that all sessions of fetches take in memory, about."""
        self.request_room = RequestRoom(options.requests_size_max)
        self._blocked: dict[Reply, tuple[Callable[[], None], Callable[[], None]]] = {}
        self._empty = trio.Event()
        self._told_address = False
        node.pass_ends.append(self.end_pass)
        node.alarms.changed.append(self._alarms_changed)
        node.scheduler.after(_IDLE_CHECK_MS, self._check_idle)

    def accept(self, sock: socket.socket, peer: tuple[str, int], here: tuple[str, int]) -> None:
        """Serve a connected socket, which does not block. Raises OSError if it cannot be."""
        if len(self._connections) >= self.options.connections_max:
            logger.warning("kafka: %s:%d refused: %d clients are connected", *peer, len(self._connections))
            sock.close()
            return
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection = KafkaConnection(self, sock, peer, here)
        self._connections[connection] = None
        self.node.peers[connection] = None
        self.node.metrics.connections_opened += 1
        try:
            self.pump.add(connection)
        except Exception:
            connection.lost()
            raise

    def start_soon(self, call: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        """Run what must wait, in a task."""
        self._nursery.start_soon(call, *arguments)

    @property
    def connection_count(self) -> int:
        return len(self._connections)

    def closed(self, connection: KafkaConnection) -> None:
        if self._connections.pop(connection, connection) is None:
            self.node.metrics.connections_closed += 1
        if connection.session is not None:
            self.sessions_size -= connection.session.size
            connection.session = None
        self._unflushed.pop(connection, None)
        self.node.peers.pop(connection, None)
        if not self._connections:
            self._empty.set()

    def address_for(self, connection: KafkaConnection) -> tuple[str, int]:
        """Where clients are told to connect to."""
        here = connection.address
        host = self.options.advertised_host or here[0]
        port = self.options.advertised_port or here[1]
        if (host, port) != here and not self._told_address:
            self._told_address = True
            logger.info(
                "kafka: a client that came to %s:%d is told to connect to %s:%d, as configured; it must reach that",
                *here,
                host,
                port,
            )
        return host, port

    # ---- the end of a pass ----

    def flush_soon(self, connection: KafkaConnection) -> None:
        self._unflushed[connection] = None

    def ring_soon(self, call: Callable[[], None]) -> None:
        """Call it at the end of the pass, once however often it was asked for."""
        self._rung[call] = None

    def end_pass(self) -> None:
        if self._rung:
            rung, self._rung = self._rung, {}
            for call in rung:
                call()
        while self._unflushed:  # a connection that is lost in sending may set others free
            unflushed, self._unflushed = self._unflushed, {}
            for connection in unflushed:
                connection.guard(connection.flush)

    # ---- what concerns many ----

    def block(self, reply: Reply, again: Callable[[], None]) -> None:
        """Handle nothing more of its connection until no alarm is on any more; `again` is called then."""
        self._blocked[reply] = (again, reply.connection.hold(with_request=True))
        reply.when_gone = partial(self._give_up, reply)

    def postpone(self, reply: Reply, commit: Commit, again: Callable[[], None]) -> None:
        """The same until a commit is safe."""
        connection = reply.connection
        release = connection.hold(with_request=True)

        def go_on() -> None:
            if not reply.dropped:
                reply.when_gone = None
                connection.guard(again)
                release()

        reply.when_gone = release
        commit.waiters.append(go_on)

    def _give_up(self, reply: Reply) -> None:
        _, release = self._blocked.pop(reply)
        release()

    def _alarms_changed(self) -> None:
        if self.node.alarms.active:
            return
        while self._blocked:
            reply, (again, release) = self._blocked.popitem()
            reply.when_gone = None
            reply.connection.guard(again)
            release()
        self.node.end_pass()

    def _check_idle(self) -> None:
        self.node.scheduler.after(_IDLE_CHECK_MS, self._check_idle)
        silent_since = self.node.clock.now_ms() - int(self.options.idle_timeout_s * 1000)
        for connection in list(self._connections):
            if connection.heard_ms < silent_since and not connection.busy:
                connection.guard(connection.lost)

    async def stop(self) -> None:
        """Let go of those who wait, and wait until what was answered is sent; the caller has the deadline."""
        for connection in list(self._connections):
            connection.guard(partial(connection.close_by_operator, "the broker stops"))
        self.node.end_pass()
        if self._connections:
            self._empty = trio.Event()
            await self._empty.wait()

    def drop_all(self) -> None:
        """Close the sockets of those that did not go."""
        for connection in list(self._connections):
            with suppress(StorageError):
                connection.guard(connection.lost)
        self.node.end_pass()
