"""A connection: opened on entering, closed on leaving, with channels in between."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import anyio
from anyio.abc import TaskGroup

from leveret.channel import Channel
from leveret.confirms import OnReturn
from leveret.handshake import Dial, dial_tcp, shake_hands
from leveret.traffic import Traffic
from leveret.url import URL


def connect(url: str | URL, *, dial: Dial = dial_tcp) -> Connection:
    """A connection to the broker at `url`, open inside `async with`.

    `dial` opens the byte stream, for whoever must go through something else than plain TCP. Raises
    InvalidURL; entering raises ConnectionFailed and AuthenticationFailed.
    """
    return Connection(url if isinstance(url, URL) else URL.parse(url), dial)


class Connection:
    """Made by `connect`. Its tasks run inside `async with`, and are gone after it.

    If it is lost, everybody who waits on it or uses it gets ConnectionClosed; the block itself goes on.
    """

    def __init__(self, url: URL, dial: Dial) -> None:
        self.url = url
        self.server_properties: Mapping[str, Any] = {}
        """What the broker says of itself: product, version, capabilities ..."""
        self._dial = dial
        self._traffic: Traffic | None = None
        self._tasks: TaskGroup | None = None

    async def __aenter__(self) -> Self:
        """Raises ConnectionFailed, AuthenticationFailed."""
        if self._traffic is not None:
            raise RuntimeError("a connection is opened once; make another with leveret.connect")
        link = await shake_hands(self.url, self._dial)
        self.server_properties = link.server_properties
        self._traffic = Traffic(link)
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._tasks.start_soon(self._traffic.run)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        assert self._traffic is not None
        assert self._tasks is not None
        await self._traffic.close()
        try:
            return await self._tasks.__aexit__(kind, error, traceback)
        except BaseExceptionGroup as group:
            if len(group.exceptions) != 1:
                raise
            alone = group.exceptions[0]
        # What the block raised goes on as it is, and not in a group for it alone.
        if alone is error:
            return False
        raise alone from alone.__cause__

    def channel(self, *, on_return: OnReturn | None = None) -> Channel:
        """A channel, open inside `async with`.

        `on_return` is called with mandatory messages that came back after `publish` was cancelled, so
        that nobody waits for them; without it they are logged. So is what it raises.
        """
        if self._traffic is None:
            raise RuntimeError("the connection is not open: use it in `async with`")
        return Channel(self._traffic, on_return)

    @property
    def blocked(self) -> str | None:
        """Why the broker takes no messages at the moment, or None. Publishing waits meanwhile."""
        return self._traffic.blocked if self._traffic is not None else None
