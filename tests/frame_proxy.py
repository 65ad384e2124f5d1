"""A TCP proxy between an AMQP client and a broker, which changes frames on their way.

Flow:   `async with frame_proxy(broker_address, answers=edit) as address:` gives an address for clients; `edit` is
        called with the number of the connection and each frame from the broker (`requests`: from the client), and returns the
        bytes that go on.
Shape:  `MessageEdit` does so with whole messages, or methods without content, of one kind.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeAlias

import trio

Edit: TypeAlias = Callable[[int, bytes], bytes]
Frames: TypeAlias = list[bytes]
"""A method's frame, and those of its content."""

_SIZE = 64 * 1024
_PROTOCOL_HEADER = 8
_METHOD, _HEADER, _BODY = 1, 2, 3
_AROUND = 8


class MessageEdit:
    """Give each message whose method begins with `id` to `change`, with its number from 0.

    Its bodies have one frame. What the change returns goes on instead, at once.
    """

    def __init__(
        self, id: tuple[int, int], change: Callable[[int, Frames], Frames], *, content: bool
    ) -> None:
        self._id = struct.pack(">HH", *id)
        self._change = change
        self._last = _BODY if content else _METHOD
        self._frames: dict[tuple[int, bytes], Frames] = {}
        self.count = 0

    def __call__(self, connection: int, frame: bytes) -> bytes:
        channel = connection, frame[1:3]
        frames = self._frames.setdefault(channel, [])
        if not frames and (frame[0] != _METHOD or frame[7:11] != self._id):
            return frame
        frames.append(frame)
        if frame[0] != self._last:
            return b""
        del self._frames[channel]
        self.count += 1
        return b"".join(self._change(self.count - 1, frames))


def as_it_is(connection: int, frame: bytes) -> bytes:
    return frame


async def _pass_on(
    source: trio.SocketStream, target: trio.SocketStream, edit: Callable[[bytes], bytes], skip: int
) -> None:
    """The first `skip` bytes are no frames."""
    there = bytearray()
    while some := await source.receive_some(_SIZE):
        there += some
        out = bytearray()
        if skip and len(there) >= skip:
            out += there[:skip]
            del there[:skip]
            skip = 0
        while not skip and len(there) >= _AROUND:
            end = _AROUND + int.from_bytes(there[3:7], "big")
            if len(there) < end:
                break
            out += edit(bytes(there[:end]))
            del there[:end]
        if out:
            await target.send_all(out)
    await target.aclose()


@asynccontextmanager
async def frame_proxy(
    upstream: tuple[str, int], *, answers: Edit = as_it_is, requests: Edit = as_it_is
) -> AsyncIterator[tuple[str, int]]:
    numbers = itertools.count()

    async def join(client: trio.SocketStream) -> None:
        number = next(numbers)
        broker = await trio.open_tcp_stream(*upstream)
        try:
            async with client, broker, trio.open_nursery() as tasks:
                tasks.start_soon(_pass_on, client, broker, partial(requests, number), _PROTOCOL_HEADER)
                tasks.start_soon(_pass_on, broker, client, partial(answers, number), 0)
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, join, listeners)
        host, port = listeners[0].socket.getsockname()
        yield host, port
        nursery.cancel_scope.cancel()
