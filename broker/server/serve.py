"""Run a broker: listeners, the pump, the node's timers, and a stop that has a deadline.

Flow:   `serve` opens the listeners, has everything prepared that clients expect, accepts them, and runs until it is
        told to stop.
Limits: 1,024 connections wait to be accepted, of which 16 are in one turn; 64 file descriptors are not for connections, so that the
        disk can be written whatever clients do; a stop takes at most `stop_timeout_s`.
"""

from __future__ import annotations

import errno
import logging
import resource
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

import trio

from broker.node.node import Node
from broker.node.peers import CannotListen, Listener
from broker.server.amqp.options import AmqpOptions
from broker.server.amqp.server import AmqpServer
from broker.server.kafka.options import KafkaOptions
from broker.server.kafka.server import KafkaServer
from broker.server.pump import Pump

logger = logging.getLogger("broker.server")

_BACKLOG = 1024
_ACCEPTED_MAX = 16
_SPARE_DESCRIPTORS = 64
_PAUSE_S = 0.1


class _Bell:
    """The flusher among the pump's sockets: it rings when a commit is safe."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def fileno(self) -> int:
        return self._node.flusher.fileno()

    def readable(self) -> None:
        self._node.flusher.collect()

    def hung_up(self) -> None:
        return

    def writable(self) -> None:
        return

    def resume(self) -> None:
        return

    def failed(self, error: Exception) -> None:
        """What storage cannot do ends the process."""
        raise error


@dataclass(slots=True, frozen=True)
class Address:
    """Where to listen; port 0 lets the system choose."""

    host: str
    port: int


class Servers:
    """What runs: one server for each protocol."""

    def __init__(self, amqp: AmqpServer, kafka: KafkaServer | None) -> None:
        self.amqp = amqp
        self.kafka = kafka

    async def stop(self) -> None:
        """Tell all clients, and wait until they are gone; the caller has the deadline."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.amqp.stop)
            if self.kafka is not None:
                nursery.start_soon(self.kafka.stop)

    def drop_all(self) -> None:
        self.amqp.drop_all()
        if self.kafka is not None:
            self.kafka.drop_all()


@asynccontextmanager
async def amqp_server(
    node: Node, address: Address | None, options: AmqpOptions, stop_timeout_s: float = 10.0
) -> AsyncIterator[AmqpServer]:
    """A server for AMQP alone, as `serve` makes it."""
    async with serve(node, options, address, stop_timeout_s=stop_timeout_s) as servers:
        yield servers.amqp


@asynccontextmanager
async def serve(
    node: Node,
    amqp: AmqpOptions,
    amqp_address: Address | None,
    kafka: KafkaOptions | None = None,
    kafka_address: Address | None = None,
    stop_timeout_s: float = 10.0,
    prepare: Callable[[], Awaitable[None]] | None = None,
) -> AsyncIterator[Servers]:
    """Servers that run as long as the body does, each on its address if there is one.

    `prepare` is done before anybody is accepted, and whoever comes meanwhile waits. At the end they stop accepting,
    tell their clients, and leave within the timeout.
    """
    pump = Pump(partial(node.end_pass, commit=False), lambda: node.flusher.due, node.flusher.flush)
    try:
        async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
            servers = Servers(
                AmqpServer(node, pump, nursery, amqp),
                KafkaServer(node, pump, nursery, kafka) if kafka is not None else None,
            )
            pump.add(_Bell(node))
            nursery.start_soon(node.run)
            nursery.start_soon(pump.run)
            accepting: list[trio.CancelScope] = []
            listening: list[tuple[socket.socket, Accept]] = []
            addresses = [("amqp", amqp_address, servers.amqp.accept)]
            if servers.kafka is not None:
                addresses.append(("kafka", kafka_address, servers.kafka.accept))
            for protocol, address, accept in addresses:
                for sock in listen(address) if address is not None else ():
                    node.listeners.append(Listener(protocol, *sock.getsockname()[:2]))
                    stack.enter_context(sock)
                    listening.append((sock, accept))
            try:
                if prepare is not None:
                    await prepare()
                for sock, call in listening:
                    accepting.append(trio.CancelScope())
                    nursery.start_soon(_accept, sock, call, accepting[-1])
                yield servers
                _cancel(accepting)
                with trio.move_on_after(stop_timeout_s):
                    await servers.stop()
            finally:  # whoever fails, or is told a second time to stop, does not wait for clients
                _cancel(accepting)
                nursery.cancel_scope.cancel()
                servers.drop_all()
    finally:
        pump.close()


def listen(address: Address) -> list[socket.socket]:
    """Sockets that listen, one for each address that the name has. Raises CannotListen."""
    flags = socket.AI_PASSIVE
    try:
        found = socket.getaddrinfo(address.host or None, address.port, type=socket.SOCK_STREAM, flags=flags)
    except socket.gaierror as error:
        raise _cannot(address, error) from None
    sockets: list[socket.socket] = []
    for family, kind, protocol, _, place in found:
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if sockets and not address.port:  # the same port on the other addresses
                place = (place[0], sockets[0].getsockname()[1], *place[2:])
            sock.bind(place)
            sock.listen(_BACKLOG)
        except OSError as error:
            sock.close()
            if sockets and error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                continue
            for other in sockets:
                other.close()
            raise _cannot(address, error) from None
        sock.setblocking(False)
        sockets.append(sock)
    return sockets


def _cannot(address: Address, error: OSError) -> CannotListen:
    host = f"[{address.host}]" if ":" in address.host else address.host
    return CannotListen(error.errno, f"cannot listen on {host}:{address.port}: {error.strerror}")


Accept = Callable[[socket.socket, tuple[str, int], tuple[str, int]], None]


def _cancel(scopes: list[trio.CancelScope]) -> None:
    for scope in scopes:
        scope.cancel()


async def _accept(sock: socket.socket, accept: Accept, scope: trio.CancelScope) -> None:
    with scope, sock:
        told = ""
        while True:
            await trio.lowlevel.wait_readable(sock)
            trouble = _accept_some(sock, accept)
            if trouble and trouble != told:  # once, and not as often as clients try again
                logger.error("listener: cannot accept: %s", trouble)
            told = trouble
            if trouble:
                await trio.sleep(_PAUSE_S)


def _accept_some(sock: socket.socket, accept: Accept) -> str:
    """Accept the connections that wait; returns what the trouble is if there is some that is not the peer's.

    While other clients keep the broker busy a turn comes every few milliseconds.
    """
    for _ in range(_ACCEPTED_MAX):
        try:
            connected, peer = sock.accept()
        except BlockingIOError:
            break
        except ConnectionError:
            continue
        except OSError as error:
            return error.strerror or str(error)
        trouble = _take(connected, peer, accept)
        if trouble:
            return trouble
    return ""


def _take(connected: socket.socket, peer: tuple[str, int], accept: Accept) -> str:
    if connected.fileno() >= resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _SPARE_DESCRIPTORS:
        connected.close()
        return "too many open files"
    try:
        connected.setblocking(False)
        accept(connected, peer[:2], connected.getsockname()[:2])
    except OSError as error:
        logger.warning("listener: %s was not served: %s", peer[0], error.strerror)
        connected.close()
    except Exception:
        logger.exception("listener: %s was not served after an error of ours", peer[0])
        connected.close()
    return ""
