"""A client of HTTP for tests: it sends octets, right or wrong, and reads what comes back with h11.

Flow:   `HttpClient(stream)`; `send` writes octets, `answer` gives the next response whole.
Limits: every wait ends after `WAIT_S` of the clock that runs.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import h11
import trio

WAIT_S = 1000.0  # of a mock clock; on loopback nothing waits


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class HttpClient:
    """One connection."""

    def __init__(self, stream: trio.abc.HalfCloseableStream) -> None:
        self.stream = stream
        self._protocol = h11.Connection(h11.CLIENT)
        self.continues = 0
        """How often it was told to go on."""

    async def send(self, octets: bytes) -> None:
        with trio.fail_after(WAIT_S):
            await self.stream.send_all(octets)

    async def answer(self, method: str = "GET") -> Answer:
        """The next answer, to a request of this method. Raises EOFError if there is none."""
        protocol = self._protocol
        if protocol.our_state is h11.DONE:
            protocol.start_next_cycle()
        # h11 must know what was asked; what it says of it is not sent.
        protocol.send(h11.Request(method=method, target="/", headers=[("host", "x")]))
        protocol.send(h11.EndOfMessage())
        head = await self._event()
        while isinstance(head, h11.InformationalResponse):
            self.continues += 1
            head = await self._event()
        if isinstance(head, h11.ConnectionClosed):
            raise EOFError
        assert isinstance(head, h11.Response), head
        body = b""
        while isinstance(event := await self._event(), h11.Data):
            body += event.data
        headers = {name.decode(): value.decode() for name, value in head.headers}
        return Answer(head.status_code, headers, body)

    async def _event(self) -> Any:
        while (event := self._protocol.next_event()) is h11.NEED_DATA:
            with trio.fail_after(WAIT_S):
                self._protocol.receive_data(await self.stream.receive_some(65_536))
        return event

    async def ended(self) -> bytes:
        """What came until the server closed."""
        rest = self._protocol.trailing_data[0]
        with trio.fail_after(WAIT_S):
            while some := await self.stream.receive_some(65_536):
                rest += some
        return rest
