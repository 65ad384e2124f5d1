"""What waits to be sent to a client: octets, and parts of files that go from the page cache to the socket.

Limits: its owner handles no more requests while it is too long.
Why:    A part of a file is never read: that saves two copies of what is mostly most of an answer.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Iterable
from itertools import islice
from typing import Final, TypeAlias

from broker.storage.file import FileRange

Part: TypeAlias = "bytes | memoryview | FileRange"

_GATHER_MAX: Final = 256


class Outbox:
    """Parts in their order."""

    __slots__ = ("_parts", "size")

    def __init__(self) -> None:
        self._parts: deque[Part] = deque()
        self.size = 0
        """Octets that are not sent yet."""

    def add(self, parts: Iterable[Part]) -> None:
        for part in parts:
            if len(part):
                self._parts.append(part)
                self.size += len(part)

    def send(self, sock: socket.socket) -> int:
        """As much as the system takes; returns how much that was. Raises OSError if the peer is gone, SyncFailed."""
        before = self.size
        try:
            while self._parts:
                first = self._parts[0]
                if isinstance(first, FileRange):
                    self.size -= first.send(sock.fileno())
                    if not len(first):
                        self._parts.popleft()
                else:
                    self.size -= self._send_octets(sock)
        except BlockingIOError:
            pass
        return before - self.size

    def _send_octets(self, sock: socket.socket) -> int:
        """What lies before the next part of a file, if it is not too many pieces."""
        gathered: list[bytes | memoryview] = []
        for part in islice(self._parts, _GATHER_MAX):
            if isinstance(part, FileRange):
                break
            gathered.append(part)
        sent = sock.send(gathered[0]) if len(gathered) == 1 else sock.sendmsg(gathered)
        self._forget(sent)
        return sent

    def _forget(self, sent: int) -> None:
        while sent:
            first = self._parts[0]
            assert not isinstance(first, FileRange)
            if sent < len(first):
                self._parts[0] = memoryview(first)[sent:]
                return
            sent -= len(first)
            self._parts.popleft()

    def clear(self) -> None:
        self._parts.clear()
        self.size = 0
