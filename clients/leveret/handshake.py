"""Open a connection: from a socket to the point where channels can be opened.

Flow:   `shake_hands` connects, logs in, agrees on limits and opens the vhost, within the URL's timeout.
Spec:   AMQP 0-9-1 section 2.2.4; of each limit the smaller one holds, 0 being none. The heartbeat is the
        URL's, or what the broker suggests.
"""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypeVar

import anyio
from anyio.abc import ByteStream

from broker import __version__
from broker.amqp import methods, wire
from broker.amqp.connection import Connection as Codec
from broker.amqp.connection import Event, Role
from broker.amqp.frames import MethodReceived, ProtocolFailed
from broker.amqp.methods import Method
from broker.amqp.spec import FRAME_SIZE_MIN, PROTOCOL_HEADER
from leveret.errors import AuthenticationFailed, ConnectionFailed
from leveret.url import URL

# RabbitMQ's hard limit for a message.
MESSAGE_SIZE_MAX: Final = 512 * 1024 * 1024
_RECEIVE_SIZE: Final = 64 * 1024

CAPABILITIES: Final = {
    "publisher_confirms": True,
    "exchange_exchange_bindings": True,
    "basic.nack": True,
    "consumer_cancel_notify": True,
    "connection.blocked": True,
    "authentication_failure_close": True,
}

M = TypeVar("M", bound=Method)

Dial: TypeAlias = Callable[[URL], Awaitable[ByteStream]]

# What a broken stream of anyio raises.
LOST: Final = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)


async def dial_tcp(url: URL) -> ByteStream:
    return await anyio.connect_tcp(url.host, url.port)


@dataclass(slots=True, eq=False)
class Link:
    """An open connection, and what was agreed on."""

    stream: ByteStream
    codec: Codec
    channel_max: int
    heartbeat_s: int
    server_properties: Mapping[str, Any]
    events: list[Event]
    """What came behind the handshake."""


async def shake_hands(url: URL, dial: Dial) -> Link:
    """Raises ConnectionFailed or AuthenticationFailed."""
    seconds = url.connection_timeout / 1000
    stream: ByteStream | None = None
    try:
        with anyio.fail_after(seconds):
            stream = await dial(url)
            return await _Handshake(url, stream).run()
    except BaseException as error:
        if stream is not None:
            await anyio.aclose_forcefully(stream)
        if isinstance(error, TimeoutError) and error.errno is None:  # the deadline's, not the socket's
            what = "the broker did not finish the handshake" if stream else "no connection"
            raise ConnectionFailed(f"{url.host}:{url.port}: {what} within {seconds:g} s") from error
        if isinstance(error, OSError):
            raise ConnectionFailed(f"{url.host}:{url.port}: {error}") from error
        raise


class _Handshake:
    """The conversation up to connection.open-ok."""

    def __init__(self, url: URL, stream: ByteStream) -> None:
        self._url = url
        self._stream = stream
        self._codec = Codec(Role.CLIENT, MESSAGE_SIZE_MAX)
        self._events: list[Event] = []
        self._refusal: type[ConnectionFailed] = ConnectionFailed

    async def run(self) -> Link:
        await self._send(PROTOCOL_HEADER)
        start = await self._next(methods.ConnectionStart)
        self._refusal = AuthenticationFailed
        await self._send(self._codec.send(_start_ok(self._url, start)))
        tune = await self._next(methods.ConnectionTune)
        self._refusal = ConnectionFailed
        tuned = _agree(self._url, tune)
        open_vhost = methods.ConnectionOpen(self._url.vhost)
        await self._send(self._codec.send(tuned) + self._codec.send(open_vhost))
        self._codec.frame_max = tuned.frame_max
        await self._next(methods.ConnectionOpenOk)
        return Link(
            self._stream,
            self._codec,
            tuned.channel_max,
            tuned.heartbeat,
            start.server_properties,
            self._events,
        )

    async def _send(self, octets: bytes) -> None:
        try:
            await self._stream.send(octets)
        except LOST as error:
            raise self._failed("the broker closed the socket during the handshake") from error

    async def _next(self, kind: type[M]) -> M:
        while not self._events:
            try:
                self._events = self._codec.receive(await self._stream.receive(_RECEIVE_SIZE))
            except LOST as error:
                raise self._failed("the broker closed the socket during the handshake") from error
        event = self._events.pop(0)
        if isinstance(event, MethodReceived):
            if isinstance(event.method, kind):
                return event.method
            if isinstance(event.method, methods.ConnectionClose):
                raise await self._closed(event.method)
        # The codec lets nothing through that is out of order, and connection.secure belongs to
        # mechanisms that were not chosen.
        reason = str(event.error) if isinstance(event, ProtocolFailed) else "it sent something unexpected"
        raise self._failed(f"the peer does not speak AMQP 0-9-1 as we do: {reason}")

    async def _closed(self, method: methods.ConnectionClose) -> ConnectionFailed:
        """The broker says why not, and closes the socket when it has our answer."""
        with contextlib.suppress(*LOST):
            await self._stream.send(self._codec.send(methods.ConnectionCloseOk()))
        return self._failed(f"{method.reply_code} {method.reply_text}", method.reply_code)

    def _failed(self, text: str, code: int | None = None) -> ConnectionFailed:
        return self._refusal(f"{self._url.host}:{self._url.port}: {text}", code)


def _start_ok(url: URL, start: methods.ConnectionStart) -> methods.ConnectionStartOk:
    client_properties: dict[str, Any] = {
        "product": "leveret",
        "version": __version__,
        "platform": f"Python {platform.python_version()}",
        "capabilities": CAPABILITIES,
    }
    if url.name:
        client_properties["connection_name"] = url.name
    offered = start.mechanisms.split()
    if b"PLAIN" in offered:
        return methods.ConnectionStartOk(client_properties, "PLAIN", f"\0{url.user}\0{url.password}".encode())
    if b"AMQPLAIN" in offered:
        fields = wire.table({"LOGIN": url.user, "PASSWORD": url.password})
        return methods.ConnectionStartOk(client_properties, "AMQPLAIN", fields[4:])  # without its length
    mechanisms = start.mechanisms.decode(errors="replace")
    raise AuthenticationFailed(
        f"{url.host}:{url.port}: of the broker's mechanisms ({mechanisms}) this client knows none; "
        "it knows PLAIN and AMQPLAIN"
    )


def _agree(url: URL, tune: methods.ConnectionTune) -> methods.ConnectionTuneOk:
    frame_max = min(tune.frame_max or url.frame_max, url.frame_max)
    if frame_max < FRAME_SIZE_MIN:
        raise ConnectionFailed(
            f"{url.host}:{url.port}: the broker's frame_max of {frame_max} is less than AMQP's minimum"
        )
    return methods.ConnectionTuneOk(
        channel_max=min(tune.channel_max or url.channel_max, url.channel_max),
        frame_max=frame_max,
        heartbeat=tune.heartbeat if url.heartbeat is None else url.heartbeat,
    )
