"""What a client has sent and nobody has handled yet: whole frames, and one in pieces.

Flow:   the connection gives octets and takes frames; after each turn it asks whether it may go on to read.
Limits: a frame has at most `frame_size_max` octets. What is kept is counted in `RequestRoom`; of a frame larger than
        `SMALL_SIZE` no more is read than its beginning before it is let in. At most `_CUT_MAX` frames are cut at a
        time, as a read of a mebibyte may have 40,000.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from broker.kafka import api
from broker.kafka.connection import Framer
from broker.server.kafka.request_room import RequestRoom, Share

SMALL_SIZE: Final = 4 * 1024
_KEY_SIZE: Final = 2
_CUT_MAX: Final = 256


class Inbox:
    """Of one connection."""

    __slots__ = ("_announced", "_counted", "_framer", "_frames", "_room", "_size", "_when_let_in", "waits")

    def __init__(self, room: RequestRoom, frame_size_max: int, when_let_in: Callable[[], None]) -> None:
        """`when_let_in` is called when it is worth asking again."""
        self.waits = False
        """There is no room for the frame that is coming."""
        self._framer = Framer(frame_size_max)
        self._frames: deque[bytes] = deque()
        self._size = 0
        self._announced = 0
        """Of the large frame that is coming and was let in."""
        self._counted = 0
        self._room = room
        self._when_let_in = when_let_in

    @property
    def counts_what_comes(self) -> bool:
        """What is read next is counted already."""
        return self._announced > 0

    def __bool__(self) -> bool:
        """There are frames to take, or bytes to cut."""
        return bool(self._frames) or self._framer.more

    @property
    def frame_size_max(self) -> int:
        return self._framer.frame_size_max

    @frame_size_max.setter
    def frame_size_max(self, size: int) -> None:
        self._framer.frame_size_max = size

    def receive(self, data: bytes) -> None:
        """Raises RemoteProtocolError for a frame that cannot be."""
        frames = self._framer.receive(data, _CUT_MAX)
        if frames:
            self._announced = 0
        for frame in frames:
            self._frames.append(frame)
            self._size += len(frame)

    def take(self) -> bytes | None:
        """The next frame; None if it is not whole yet. Raises RemoteProtocolError for one that cannot be."""
        if not self._frames and self._framer.more:
            self.receive(b"")
        if not self._frames:
            return None
        frame = self._frames.popleft()
        self._size -= len(frame)
        return frame

    def settle(self, held_size: int, *, stranger: bool) -> bool:
        """Count what is kept, with the request that is held up; whether the frame that is coming may come."""
        coming = self._framer.coming_size
        self.waits = False
        if coming > SMALL_SIZE and not self._announced:
            share = self._share(stranger)
            if self._room.full(share):
                self.waits = True
                self._room.wait(share, self._when_let_in)
            else:
                self._announced = coming
        self._count(self._size + self._framer.more_size + held_size + self._announced)
        return not self.waits

    def _share(self, stranger: bool) -> Share:
        if stranger:
            return Share.STRANGERS
        begun = self._framer.begun(_KEY_SIZE)
        may_produce = len(begun) < _KEY_SIZE or int.from_bytes(begun, "big") == api.PRODUCE.key
        return Share.PRODUCERS if may_produce else Share.OTHERS

    def _count(self, size: int) -> None:
        more, self._counted = size - self._counted, size
        if more:
            self._room.take(more)

    def clear(self) -> None:
        """Nothing of it is wanted any more, and nothing comes."""
        self._frames.clear()
        self._framer = Framer(0)
        self._size = self._announced = 0
        self.waits = False
        self._room.wait_no_more(self._when_let_in)
        self._count(0)
