"""A small HTTP/1.1 server: h11 knows the protocol, trio does the waiting.

Flow:   `serve` accepts; each connection is a task that reads one request whole, has `handle` answer it, sends
        the answer, and goes on with the next one, which may lie in the buffer already.
Limits: `HttpLimits`: connections, bytes of header and body, and a deadline for every wait on a client. A body
        that becomes more than 128 KiB (`body.py`) is read only if `admit` lets it in, and counts with all others
        of its kind. A client that sends a few bytes at a time is read less and less often. An answer that is
        long is made piece by piece, each when the one before is sent. When there are too many connections, the
        one that waits longest for its client makes room; if none waits, the new one hears 503. In one pass of
        trio's scheduler few requests are begun, so that messages need not wait for hundreds. A stop closes
        idle connections at once and gives the others `stop_timeout_s`.
Spec:   RFC 9110, RFC 9112.
Why:    Hypercorn took four times the CPU for a request, and one client that had stopped reading kept it from
        shutting down.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import parse_qsl, unquote_to_bytes

import h11
import trio

from broker.management.body import BodyError, IncomingBody
from broker.management.options import HttpLimits
from broker.management.turns import Turns

logger = logging.getLogger("broker.management")

_RECEIVE_SIZE: Final = 64 * 1024
_SEND_SIZE: Final = 64 * 1024
_SMALL_WEIGHT: Final = 128 * 1024
# Reads of fewer bytes are small. So many in a request are free; then bytes gather in the socket ever longer before
# the next one, as each costs 60 us.
_SMALL_READ: Final = 512
_SMALL_READS_FREE: Final = 8
_GATHER_S_MIN: Final = 0.001
_GATHER_S_MAX: Final = 0.1
_QUERY_FIELDS_MAX: Final = 100
# A client that was told to go has this long to read it, and this many reads of what it still says.
_LINGER_S: Final = 2.0
_LINGER_READS: Final = 64
# Requests that are begun in one pass of trio's scheduler, in which messages wait: one takes 0.2 ms.
_BEGUN_IN_PASS: Final = 16
# Connections beyond the limit that may hear so at the same time; further ones are closed without a word.
_REFUSALS_MAX: Final = 32

_WITHOUT_BODY: Final = (204, 304)


@dataclass(slots=True, frozen=True)
class Request:
    """A request that came whole. Header names are in lower case."""

    method: str
    path: str
    """As it came, without the query."""
    segments: tuple[str, ...]
    """The parts of the path between slashes, decoded; those at the end that are empty left out."""
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    peer: str
    """The address it came from, without the port."""

    @property
    def announces_body(self) -> bool:
        return "content-length" in self.headers or "transfer-encoding" in self.headers


@dataclass(slots=True)
class Response:
    """An answer. A body that is an iterator is sent while it is made, and must not wait."""

    status: int
    headers: Sequence[tuple[str, str]] = ()
    body: bytes | Iterator[bytes] = b""
    close: bool = False
    """The connection ends with this answer."""


class Refused(Exception):
    """The request is answered with an error."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status)
        self.response = response


class _Hangup(Exception):
    """The client is gone, or takes too long to read what it asked for."""


JSON: Final = (("content-type", "application/json"), ("cache-control", "no-cache"))


def as_json(value: Any, status: int = 200, headers: Sequence[tuple[str, str]] = ()) -> Response:
    body = json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
    return Response(status, [*JSON, *headers], body)


def refusal(status: int, reason: str, error: str = "", headers: Sequence[tuple[str, str]] = ()) -> Response:
    """An error as RabbitMQ's API tells it; `error` is the status in words if it is not given."""
    error = error or HTTPStatus(status).phrase.lower().replace(" ", "_")
    return as_json({"error": error, "reason": reason}, status, headers)


Handler = Callable[[Request], Awaitable[Response]]
Admit = Callable[[Request], Awaitable[int]]


async def refuse_large(request: Request) -> int:
    """For a server that has no use for bodies."""
    raise Refused(refusal(413, f"the body is larger than the {_SMALL_WEIGHT // 2} bytes allowed"))


class HttpServer:
    """The connections of one or more listeners, and what they share."""

    def __init__(self, handle: Handler, limits: HttpLimits, admit: Admit = refuse_large) -> None:
        """`handle` answers a request; `admit` says how many bytes a large body may have. Both may raise Refused."""
        self.handle = handle
        self.admit = admit
        self.limits = limits
        self.stopping = False
        self.receiving: dict[_Connection, None] = {}
        """Connections that wait for their clients, the one that has waited longest first."""
        self.beginning = trio.Semaphore(_BEGUN_IN_PASS)
        self._bodies_weight = 0
        self._full = False
        """The log has said that there are too many connections."""
        self._accepting = trio.CancelScope()
        self._connections = 0
        self._refusals = 0
        self._empty = trio.Event()

    @property
    def connection_count(self) -> int:
        return self._connections

    async def serve(self, listeners: Sequence[trio.SocketListener], nursery: trio.Nursery) -> None:
        """Accept until it is stopped; connections live in the nursery, the listeners end with this."""
        with self._accepting:
            await trio.serve_listeners(self._accepted, list(listeners), handler_nursery=nursery)

    async def _accepted(self, stream: trio.SocketStream) -> None:
        try:
            peer = stream.socket.getpeername()[0]
        except OSError:
            return  # it went before it was accepted
        await self.serve_stream(stream, peer)

    async def serve_stream(self, stream: trio.abc.HalfCloseableStream, peer: str) -> None:
        """Serve one connection to its end; the caller closes the stream."""
        if self._connections >= self.limits.connections and not self._make_room():
            await self._refuse(stream, peer)
            return
        self._connections += 1
        try:
            await _Connection(self, stream, peer).run()
        finally:
            self._connections -= 1
            self._full = self._full and self._connections > self.limits.connections // 2
            if not self._connections:
                self._empty.set()

    def _make_room(self) -> bool:
        """Close a connection that waits for its client, one that never had a request answered before others."""
        if not self._full:
            self._full = True
            logger.warning("http: %d connections, the most allowed; silent ones make room", self._connections)
        strangers = (connection for connection in self.receiving if not connection.served)
        found = next(strangers, None) or next(iter(self.receiving), None)
        if found is None:
            return False
        found.stop_receiving()
        return True

    async def _refuse(self, stream: trio.abc.HalfCloseableStream, peer: str) -> None:
        if self._refusals >= _REFUSALS_MAX:
            return
        self._refusals += 1
        try:
            logger.info("http %s: refused, there are %d connections", peer, self._connections)
            await _Connection(self, stream, peer).refuse(
                refusal(503, f"there are {self._connections} connections, and no more are allowed")
            )
        finally:
            self._refusals -= 1

    def reserve(self, weight: int) -> None:
        """Room for a large body; less than none gives it back. Raises Refused."""
        if weight > 0 and self._bodies_weight + weight > self.limits.bodies_memory_max:
            raise Refused(refusal(503, "too many large requests are being read"))
        self._bodies_weight += weight

    async def stop(self) -> None:
        """Let the requests that have come be answered, within the limit; the caller cancels the rest."""
        self.stopping = True
        self._accepting.cancel()
        for connection in list(self.receiving):
            if connection.idle:
                connection.stop_receiving()
        with trio.move_on_after(self.limits.stop_timeout_s):
            while self._connections:
                self._empty = trio.Event()
                await self._empty.wait()


class _Connection:
    """One client."""

    def __init__(self, server: HttpServer, stream: trio.abc.HalfCloseableStream, peer: str) -> None:
        self.served = False
        """It had a request answered."""
        self.idle = False
        """It waits for the first byte of a request."""
        self._server = server
        self._limits = server.limits
        self._stream = stream
        self._peer = peer
        self._protocol = h11.Connection(h11.SERVER, max_incomplete_event_size=self._limits.header_size_max)
        self._reserved = 0
        self._receiving = trio.CancelScope()
        self._small_reads = 0

    async def run(self) -> None:
        """Request after request."""
        try:
            while await self._exchange():
                self.served = True
                self._protocol.start_next_cycle()
                self._reserve(0)
        except (_Hangup, trio.BrokenResourceError, trio.ClosedResourceError):
            return
        except Exception:
            logger.exception("http %s: closed after an error of ours", self._peer)
        finally:
            self._reserve(0)

    async def refuse(self, response: Response) -> None:
        """Answer whatever may come, and hang up."""
        response.close = True
        try:
            await self._send(response)
            await self._linger()
        except (_Hangup, trio.BrokenResourceError, trio.ClosedResourceError):
            return

    async def _exchange(self) -> bool:
        """One request and its answer; whether there may be another one."""
        request: Request | None = None
        try:
            request = await self._receive_or_stop()
            if request is None:
                return False
            response = await self._answer(request)
        except h11.RemoteProtocolError as error:
            response = refusal(error.error_status_hint, str(error))
        except BodyError as error:
            response = refusal(error.status, error.reason)
        except Refused as refused:
            response = refused.response
        if request is None:
            response.close = True  # what follows in the stream cannot be told apart
        await self._send(response, without_body=request is not None and request.method == "HEAD")
        if self._protocol.our_state is not h11.DONE or self._protocol.their_state is not h11.DONE:
            await self._linger()
            return False
        return True

    async def _answer(self, request: Request) -> Response:
        try:
            return await self._server.handle(request)
        except Refused as refused:
            return refused.response
        except Exception:
            logger.exception("http %s: %s %s failed", self._peer, request.method, request.path)
            return refusal(500, "an error of the broker's own; its log has the details")

    # ---- coming in ----

    def stop_receiving(self) -> None:
        """Close the connection unless a whole request has come."""
        self._server.receiving.pop(self, None)
        self._receiving.cancel()

    async def _receive_or_stop(self) -> Request | None:
        """As `_receive`; None, too, if it is stopped."""
        receiving = self._server.receiving
        with trio.CancelScope() as self._receiving:
            receiving[self] = None
            try:
                return await self._receive()
            finally:
                receiving.pop(self, None)
        return None

    async def _receive(self) -> Request | None:
        """The next request, or None if there is none. Raises Refused or RemoteProtocolError."""
        if not self._protocol.trailing_data[0] and not await self._wait_for_bytes():
            return None
        self._small_reads = 0
        async with self._server.beginning:
            pass  # whichever of them leaves lets the next one in, in the next pass
        with trio.move_on_after(self._limits.header_timeout_s) as scope:
            head = await self._next_event()
        if scope.cancelled_caught:
            raise Refused(refusal(408, f"no whole header within {self._limits.header_timeout_s:g} s"))
        if not isinstance(head, h11.Request):
            return None
        request = self._read_head(head)
        with trio.move_on_after(self._limits.body_timeout_s) as scope:
            body = await self._receive_body(request)
        if scope.cancelled_caught:
            raise Refused(refusal(408, f"no whole body within {self._limits.body_timeout_s:g} s"))
        return replace(request, body=body)

    async def _wait_for_bytes(self) -> bool:
        """Wait as long as a client may be silent; False if it has gone or time is up."""
        if self._server.stopping:
            return False
        limits = self._limits
        self.idle = True
        with trio.move_on_after(limits.idle_timeout_s if self.served else limits.first_timeout_s):
            data = await self._stream.receive_some(_RECEIVE_SIZE)
            self.idle = False
            self._protocol.receive_data(bytes(data))
            return bool(data)
        return False

    async def _next_event(self) -> Any:
        while (event := self._protocol.next_event()) is h11.NEED_DATA:
            if self._protocol.they_are_waiting_for_100_continue:
                await self._write(self._protocol.send(h11.InformationalResponse(status_code=100, headers=[])))
            if self._small_reads > _SMALL_READS_FREE:
                more = self._small_reads - _SMALL_READS_FREE
                await trio.sleep(min(_GATHER_S_MIN * 2**more, _GATHER_S_MAX))
            data = bytes(await self._stream.receive_some(_RECEIVE_SIZE))
            self._small_reads += len(data) < _SMALL_READ
            self._protocol.receive_data(data)
        return event

    def _read_head(self, head: h11.Request) -> Request:
        """Raises Refused for a header that is too large, and for a target that cannot be read."""
        # h11 limits what is not whole yet; a larger header may come in one piece.
        size = len(head.target) + sum(len(name) + len(value) + 4 for name, value in head.headers)
        if size > self._limits.header_size_max:
            limit = self._limits.header_size_max
            raise Refused(refusal(431, f"the header has more than the {limit} octets allowed"))
        return _request(head, self._peer)

    async def _receive_body(self, request: Request) -> bytes:
        """Raises Refused for a body that is too large, or that this client may not send."""
        announced = int(request.headers.get("content-length", 0))
        body = IncomingBody(announced, self._limits.body_size_max, self._limits.body_values_max)
        await self._let_in(request, body)
        turns = Turns()
        while isinstance(event := await self._next_event(), h11.Data):
            body.add(bytes(event.data), ends_chunk=event.chunk_end)
            await self._let_in(request, body)
            await turns.take_break()  # one read may bring thousands of chunks
        return body.whole()

    async def _let_in(self, request: Request, body: IncomingBody) -> None:
        """Take room for a large body. Raises Refused and BodyError."""
        if body.weight <= _SMALL_WEIGHT:
            return
        if not self._reserved:
            body.size_max = min(body.size_max, await self._server.admit(request))
            body.check()
            self._server.receiving.pop(self, None)  # it is known, and makes no room for others
        self._reserve(body.weight)

    def _reserve(self, weight: int) -> None:
        """This connection holds so much of the room for large bodies. Raises Refused."""
        self._server.reserve(weight - self._reserved)
        self._reserved = weight

    # ---- going out ----

    async def _send(self, response: Response, *, without_body: bool = False) -> None:
        protocol = self._protocol
        headers = [("date", _http_date()), ("server", "Leveret"), *response.headers]
        body = response.body
        if isinstance(body, bytes) and response.status not in _WITHOUT_BODY:
            headers.append(("content-length", str(len(body))))
        if response.close or self._server.stopping:
            headers.append(("connection", "close"))
        status = HTTPStatus(response.status)
        octets = protocol.send(h11.Response(status_code=status, headers=headers, reason=status.phrase))
        if without_body:
            body = b""
        if isinstance(body, bytes):
            octets += protocol.send(h11.Data(data=body)) if body else b""
        else:
            for piece in body:
                await self._write(octets + protocol.send(h11.Data(data=piece)))
                octets = b""
        await self._write(octets + protocol.send(h11.EndOfMessage()))

    async def _write(self, octets: bytes) -> None:
        """Raises _Hangup when the client does not take a piece in time."""
        view = memoryview(octets)
        for start in range(0, len(view), _SEND_SIZE):
            with trio.move_on_after(self._limits.send_timeout_s) as scope:
                await self._stream.send_all(view[start : start + _SEND_SIZE])
            if scope.cancelled_caught:
                logger.warning("http %s: closed, it does not read its answer", self._peer)
                raise _Hangup

    async def _linger(self) -> None:
        """Let the last answer arrive: to close with octets unread would reset the connection."""
        with trio.move_on_after(_LINGER_S):
            await self._stream.send_eof()
            for _ in range(_LINGER_READS):
                if not await self._stream.receive_some(_RECEIVE_SIZE):
                    return


def _request(head: h11.Request, peer: str) -> Request:
    """Without its body. Raises Refused for a target that cannot be read."""
    headers = {name.decode(): value.decode("latin-1") for name, value in head.headers}
    target = head.target.decode()
    if not target.startswith("/"):  # the absolute form, as clients ask proxies; or "*"
        target = "/" + target.partition("://")[2].partition("/")[2]
    path, _, query = target.partition("?")
    try:
        fields = dict(parse_qsl(query, keep_blank_values=True, max_num_fields=_QUERY_FIELDS_MAX))
        segments = [unquote_to_bytes(segment).decode() for segment in path.split("/")[1:]]
    except ValueError as error:
        raise Refused(refusal(400, f"the path or the query cannot be read: {error}")) from None
    while segments and not segments[-1]:
        segments.pop()
    return Request(head.method.decode(), path, tuple(segments), fields, headers, b"", peer)


def _http_date() -> str:
    return time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())
