"""Cut the bytes of a connection into frames.

Flow:   whoever owns the socket gives bytes; `broker.kafka.api` reads the frames.
Shape:  size i32 | frame[size], big endian
Limits: `frame_size_max`; a larger or negative size is the peer's fault. Memory grows with the bytes that
        came, not with the size that was announced.
"""

from __future__ import annotations

import sys
from struct import Struct

from broker.kafka.errors import RemoteProtocolError

_SIZE = Struct(">i")
# Pieces of a frame below the first are gathered in one of up to the second size, so that a peer which
# sends a byte at a time does not cost an object for each.
_PIECE_SMALL_BYTES = 4096
_PIECE_GATHERED_BYTES = 65536


class Framer:
    """Collects bytes until frames are whole."""

    def __init__(self, frame_size_max: int) -> None:
        self.frame_size_max = frame_size_max
        # What came and is not cut: less than a prefix, or as much as `frames_max` left.
        self._uncut = b""
        # What came of the frame that is not whole, without its prefix, and how many bytes are missing.
        self._pieces: list[bytes | bytearray] = []
        self._missing = 0
        self.coming_size = 0
        """Bytes of that frame, with those that have not come; 0 before its size is known."""
        self.more = False
        """`frames_max` frames were cut and bytes are left; `receive(b"")` goes on."""

    @property
    def more_size(self) -> int:
        """Bytes that `more` speaks of."""
        return len(self._uncut) if self.more else 0

    def begun(self, size: int) -> bytes:
        """The first bytes of the frame that is not whole, as far as they are there."""
        return b"".join(self._pieces[:2])[:size] if self._missing else b""

    def receive(self, data: bytes, frames_max: int = sys.maxsize) -> list[bytes]:
        """The first frames that these bytes made whole, without their length prefix.

        Raises RemoteProtocolError for a negative size or one above `frame_size_max`.
        """
        if len(data) < self._missing:
            self._keep(data)
            return []
        frames = []
        at = 0
        if self._missing:
            at = self._missing
            frames.append(b"".join((*self._pieces, data[:at])))
            self._pieces = []
            self._missing = self.coming_size = 0
        elif self._uncut:
            data = self._uncut + data
            self._uncut = b""
        end = len(data)
        while end - at >= 4 and len(frames) < frames_max:
            size = self._size(data, at)
            at += 4
            if size > end - at:
                self._missing = self.coming_size = size
                self._keep(data[at:])
                self.more = False
                return frames
            frames.append(data[at : at + size])
            at += size
        self._uncut = data[at:]
        self.more = end - at >= 4
        return frames

    def _size(self, data: bytes, at: int) -> int:
        size: int = _SIZE.unpack_from(data, at)[0]
        if not 0 <= size <= self.frame_size_max:
            raise RemoteProtocolError(f"a frame of {size} bytes; at most {self.frame_size_max} are taken")
        return size

    def _keep(self, data: bytes) -> None:
        self._missing -= len(data)
        last = self._pieces[-1] if self._pieces else b""
        if isinstance(last, bytearray) and len(last) + len(data) <= _PIECE_GATHERED_BYTES:
            last += data
        elif len(data) < _PIECE_SMALL_BYTES:
            self._pieces.append(bytearray(data))
        else:
            self._pieces.append(data)
