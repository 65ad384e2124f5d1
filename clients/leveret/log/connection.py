"""One socket to one broker: requests go out one behind the other, and are answered in that order.

Flow:   `start` writes a request into the outbox and gives a Call, whose answer comes later; the writer sends
        what is in the outbox, all at once; the reader gives each answer to the oldest Call.
Shape:  open -> closed, for a reason that everybody who waits or comes later hears
Limits: each Call has a deadline, after which the connection is closed: the answers behind that one are stuck,
        too. A response has at most `RESPONSE_SIZE_MAX` octets; `request` lets `UNANSWERED_MAX` be under way,
        and whoever uses `start` counts for himself.
Spec:   KIP-35: of each API the newest version that both sides know.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, TypeAlias

import anyio
from anyio import CancelScope, Event
from anyio.abc import ByteStream

from broker.kafka import api as apis
from broker.kafka.api import Api
from broker.kafka.connection import Framer
from broker.kafka.errors import ErrorCode, RemoteProtocolError
from broker.kafka.wire import Part, Struct
from leveret.errors import ConnectionClosed
from leveret.log.errors import BrokerError, Reason
from leveret.log.url import Address

RESPONSE_SIZE_MAX: Final = 256 * 1024 * 1024
UNANSWERED_MAX: Final = 32
_RECEIVE_SIZE_MIN: Final = 4 * 1024
_RECEIVE_SIZE_MAX: Final = 1024 * 1024
# From version 13 on a Fetch names topics by their ids only.
_NEWEST: Final = {apis.FETCH: 12}
_ERROR_AT: Final = 4

# What a broken stream of anyio raises.
LOST: Final = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)

Versions: TypeAlias = Mapping[int, tuple[int, int]]
"""API key to the oldest and the newest version that the broker knows."""


class Call:
    """A request that is on its way, and its answer."""

    __slots__ = ("_answered", "_event", "_reason", "api", "body", "correlation_id", "deadline", "version")

    def __init__(
        self,
        api: Api,
        version: int,
        correlation_id: int,
        deadline: float,
        answered: Callable[[Call], None] | None,
    ) -> None:
        self.api = api
        self.version = version
        self.correlation_id = correlation_id
        self.deadline = deadline
        self.body: Struct | None = None
        """The answer; None if there is none, or none yet."""
        self._answered = answered
        self._reason: Reason | None = None
        self._event: Event | None = None

    async def wait(self) -> Struct:
        """The answer. Raises ConnectionClosed. Whoever is cancelled just does not get it."""
        if self.body is None and self._reason is None:
            self._event = Event()
            await self._event.wait()
        if self.body is None:
            assert self._reason is not None
            raise self._reason()
        return self.body

    def answer(self, body: Struct) -> None:
        self.body = body
        self._tell()

    def fail(self, reason: Reason) -> None:
        self._reason = reason
        self._tell()

    def _tell(self) -> None:
        if self._answered is not None:
            self._answered(self)
        if self._event is not None:
            self._event.set()


class Connection:
    """Open from the beginning; `run` must be running while it is used."""

    def __init__(self, address: Address, stream: ByteStream, client_id: str) -> None:
        self.address = address
        self.versions: Versions = {}
        """Empty until the handshake."""
        self.answered = 0
        """How many requests the broker has answered."""
        self.reason: Reason | None = None
        """Why it is closed, once it is."""
        self.ended = Event()
        self._stream = stream
        self._client_id = client_id
        self._framer = Framer(RESPONSE_SIZE_MAX)
        self._outbox: list[Part] = []
        self._calls: deque[Call] = deque()
        self._slots = anyio.Semaphore(UNANSWERED_MAX)
        self._next_id = 0
        self._scope = CancelScope(shield=True)
        self._watch = CancelScope()
        self._wake = Event()

    # ---- asking ----

    async def request(self, api: Api, body: Struct, seconds: float, version: int | None = None) -> Struct:
        """The answer, within so many seconds. Raises ConnectionClosed, BrokerError for an API it has not."""
        await self._slots.acquire()
        try:
            call = self.start(api, body, seconds, lambda _: self._slots.release(), version)
        except BaseException:
            self._slots.release()
            raise
        return await call.wait()  # whoever does not wait until then leaves its place taken

    def start(
        self,
        api: Api,
        body: Struct,
        seconds: float,
        answered: Callable[[Call], None] | None = None,
        version: int | None = None,
    ) -> Call:
        """Send it behind what was sent before; `answered` is called when there is an answer or will be none.

        Raises ConnectionClosed, BrokerError for an API that the broker has not.
        """
        if self.reason is not None:
            raise self.reason()
        if version is None:
            version = self.version_of(api)
        self._next_id = (self._next_id + 1) & 0x7FFFFFFF
        call = Call(api, version, self._next_id, anyio.current_time() + seconds, answered)
        self._outbox += apis.write_request(api, version, call.correlation_id, self._client_id, body)
        self._calls.append(call)
        if call.deadline < self._watch.deadline:
            self._watch.deadline = call.deadline
        self._wake.set()
        return call

    def version_of(self, api: Api) -> int:
        """Raises BrokerError if there is none that both sides know."""
        oldest, newest = self.versions.get(api.key, (-1, -1))
        version = min(newest, _NEWEST.get(api, api.max_version))
        if version < max(oldest, api.min_version):
            theirs = f"versions {oldest} to {newest}" if newest >= 0 else "no version"
            text = f"{self.address} speaks {theirs} of {api.name}, we {api.min_version} to {api.max_version}"
            raise BrokerError(ErrorCode.UNSUPPORTED_VERSION, text)
        return version

    # ---- the tasks ----

    async def run(self) -> None:
        """Until the connection is over, however it ends."""
        try:
            with self._scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._read)
                    tasks.start_soon(self._write)
                    tasks.start_soon(self._watch_deadlines)
        finally:
            self.close("the connection is closed")
            with CancelScope(shield=True):
                await anyio.aclose_forcefully(self._stream)

    def close(self, text: str) -> None:
        """Everybody who waits hears the text; the tasks end."""
        if self.reason is None:
            self.reason = partial(ConnectionClosed, None, f"{self.address}: {text}")
            calls, self._calls = self._calls, deque()
            for call in calls:
                call.fail(self.reason)
            self.ended.set()
        self._scope.cancel()

    async def _read(self) -> None:
        size = _RECEIVE_SIZE_MIN
        try:
            while True:
                octets = await self._stream.receive(size)
                for frame in self._framer.receive(octets):
                    self._take(frame)
                if len(octets) == size:
                    size = min(4 * size, _RECEIVE_SIZE_MAX)
                elif len(octets) * 64 < size:
                    size = max(size // 4, _RECEIVE_SIZE_MIN)
        except RemoteProtocolError as error:
            self.close(f"the broker broke a rule: {error}")
        except LOST as error:
            self.close(spoken(error))

    def _take(self, frame: bytes) -> None:
        """The answer to the oldest call. Raises RemoteProtocolError."""
        if not self._calls:
            raise RemoteProtocolError("an answer came that nobody asked for")
        call = self._calls[0]
        version = call.version
        if call.api is apis.API_VERSIONS and _is_unsupported(frame):
            version = 0  # whatever was asked, as the broker does not know that
        correlation_id, body = apis.read_response(call.api, version, frame)
        if correlation_id != call.correlation_id:
            raise RemoteProtocolError(f"answer {correlation_id} came where {call.correlation_id} is next")
        self._calls.popleft()
        self.answered += 1
        call.answer(body)

    async def _write(self) -> None:
        try:
            while True:
                if not self._outbox:
                    self._wake = Event()
                    await self._wake.wait()
                parts, self._outbox = self._outbox, []
                await self._stream.send(parts[0] if len(parts) == 1 else b"".join(parts))
        except LOST as error:
            self.close(spoken(error))

    async def _watch_deadlines(self) -> None:
        while True:
            deadline = min((call.deadline for call in self._calls), default=math.inf)
            with CancelScope(deadline=deadline) as self._watch:
                await anyio.sleep_forever()
            now = anyio.current_time()
            late = next((call for call in self._calls if call.deadline <= now), None)
            if late is not None:
                self.close(f"{late.api.name} was not answered in time")
                return


def _is_unsupported(frame: bytes) -> bool:
    code = int.from_bytes(frame[_ERROR_AT : _ERROR_AT + 2])
    return code == ErrorCode.UNSUPPORTED_VERSION


def spoken(error: BaseException) -> str:
    """What a broken stream means."""
    if isinstance(error, anyio.EndOfStream):
        return "the broker closed the connection"
    reason = error.__cause__ or error
    if isinstance(reason, OSError) and reason.errno is not None and reason.errno > 0:
        return os.strerror(reason.errno)
    return str(reason) or type(reason).__name__
