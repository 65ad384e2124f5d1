"""Sockets that listen for HTTP."""

from __future__ import annotations

import errno
from typing import Final, Protocol

import trio
import trio.socket

from broker.node.peers import CannotListen

_BACKLOG: Final = 128
# A name may have addresses of a family that this machine does not have.
_UNAVAILABLE: Final = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


class Place(Protocol):
    """Where to listen: the host is "" for all addresses, port 0 lets the system choose."""

    @property
    def host(self) -> str: ...

    @property
    def port(self) -> int: ...


class Listening:
    """What is open: for the API with metrics, and for metrics alone. Clients wait there until they are served."""

    def __init__(self) -> None:
        self.api: list[trio.SocketListener] = []
        self.metrics: list[trio.SocketListener] = []

    async def open(self, api: Place | None, metrics: Place | None) -> None:
        """Listen where there is a place. Raises CannotListen."""
        if api is not None:
            self.api = await listen(api)
        if metrics is not None:
            self.metrics = await listen(metrics)

    async def close(self) -> None:
        for listener in (*self.api, *self.metrics):
            await trio.aclose_forcefully(listener)


async def listen(place: Place) -> list[trio.SocketListener]:
    """A listener for each address that the name has, all on the same port. Raises CannotListen."""
    listeners: list[trio.SocketListener] = []
    port = place.port
    try:
        for host in await _addresses(place):
            try:
                opened = await trio.open_tcp_listeners(port, host=host, backlog=_BACKLOG)
            except OSError as error:
                if listeners and error.errno in _UNAVAILABLE:
                    continue
                raise
            listeners += opened
            port = opened[0].socket.getsockname()[1]
    except OSError as error:
        for listener in listeners:
            await trio.aclose_forcefully(listener)
        reason = f"cannot listen on {place.host}:{place.port}: {error.strerror}"
        raise CannotListen(error.errno, reason) from None
    return listeners


async def _addresses(place: Place) -> list[str]:
    found = await trio.socket.getaddrinfo(
        place.host or None,
        place.port,
        type=trio.socket.SOCK_STREAM,
        flags=trio.socket.AI_PASSIVE,
    )
    return [str(address[0]) for *_, address in found]
