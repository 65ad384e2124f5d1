"""The body of a request while it comes in: its bytes, and what they become.

Flow:   `IncomingBody.add` takes each piece as it is read and raises BodyError as soon as the body is too much.
Shape:  `weight` is what a JSON text and the objects made of it take in memory: a list of empty lists is 25 times its
        text. Values are counted without parsing, as the commas and opening brackets outside of strings.
Limits: bytes; values; after the first 1,000 chunks an average of 64 bytes for each, as one costs 30 us.
Why:    A parser that counts would hold the interpreter for the whole text before anything can be refused.
"""

from __future__ import annotations

from typing import Final

# Of a text: itself and, at the same time, the string or the message made of it.
_BYTE_WEIGHT: Final = 2
# A dict with one key takes 240 bytes, an empty list 64.
_VALUE_WEIGHT: Final = 256
_FREE_CHUNKS: Final = 1000
_CHUNK_SIZE_MIN: Final = 64


class BodyError(Exception):
    """The body is refused with this HTTP status."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class ValueCount:
    """Counts the values of a JSON text that comes in pieces; those of a text that is no JSON up to its first fault."""

    __slots__ = ("values", "_in_string", "_backslash")

    def __init__(self) -> None:
        self.values = 0
        self._in_string = False
        self._backslash = b""
        """The last byte of the piece before, if it escapes the first one of the next."""

    def add(self, piece: bytes) -> None:
        text = self._backslash + piece
        if b"\\" in text:
            text = text.replace(b"\\\\", b"")
            self._backslash = b"\\" if text.endswith(b"\\") else b""
            text = text.replace(b'\\"', b"")
        else:
            self._backslash = b""
        parts = text.split(b'"')
        outside = b"".join(parts[1::2] if self._in_string else parts[::2])
        self.values += outside.count(b",") + outside.count(b"[") + outside.count(b"{")
        self._in_string ^= len(parts) % 2 == 0


class IncomingBody:
    """What has come of a body, and how much it may become."""

    def __init__(self, announced: int, size_max: int, values_max: int) -> None:
        """`announced` bytes will come, if that is known. Raises BodyError."""
        self.size_max = size_max
        self._values_max = values_max
        self._size = announced
        self._received = 0
        self._pieces: list[bytes] = []
        self._count = ValueCount()
        self._chunks = 0
        self.check()

    @property
    def weight(self) -> int:
        """Bytes of memory."""
        return self._size * _BYTE_WEIGHT + self._count.values * _VALUE_WEIGHT

    def add(self, piece: bytes, *, ends_chunk: bool) -> None:
        """Raises BodyError."""
        self._pieces.append(piece)
        self._received += len(piece)
        self._size = max(self._size, self._received)
        self._count.add(piece)
        self._chunks += ends_chunk
        self.check()

    def check(self) -> None:
        """Raises BodyError if it is too much; `size_max` may have become lower."""
        if self._size > self.size_max:
            raise BodyError(413, f"the body has more than the {self.size_max} bytes allowed")
        if self._count.values > self._values_max:
            raise BodyError(413, f"the body has more than the {self._values_max} values allowed")
        if self._chunks > _FREE_CHUNKS and self._received < self._chunks * _CHUNK_SIZE_MIN:
            raise BodyError(
                400,
                f"the body comes in chunks of {self._received // self._chunks} bytes on average; "
                f"after the first {_FREE_CHUNKS} at least {_CHUNK_SIZE_MIN} are expected",
            )

    def whole(self) -> bytes:
        """All of it, once it has come."""
        return b"".join(self._pieces)
