"""Messages as the model sees them: runs of closed contents, of which only a few facts are known.

A content is a number of four octets, which tells it from all others, and then the body.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_COVER = 4


@dataclass(frozen=True)
class Facts:
    persistent: bool = False
    expiration_ms: int | None = None


@dataclass(frozen=True, eq=False)
class Envelope:
    exchange: str
    routing_key: str
    facts: Facts

    def measure(self, contents: Sequence[bytes]) -> int:
        return sum(len(content) - _COVER for content in contents)


@functools.cache
def envelope(persistent: bool = False, expiration_ms: int | None = None) -> Envelope:
    """The same facts have the same envelope, as slices are only joined then."""
    return Envelope("", "q", Facts(persistent, expiration_ms))


@dataclass(eq=False)
class Run:
    envelope: Envelope
    contents: list[bytes]
    body_size: int | None = None


def content(number: int, size: int = 0) -> bytes:
    return number.to_bytes(_COVER) + bytes(size)


def number_of(content: bytes) -> int:
    return int.from_bytes(content[:_COVER])


def size_of(content: bytes) -> int:
    return len(content) - _COVER


def numbers_of(contents: Iterable[bytes]) -> list[int]:
    return [number_of(content) for content in contents]


def run(
    numbers: Iterable[int], *, size: int = 1, persistent: bool = False, expiration_ms: int | None = None
) -> Run:
    """Messages with these numbers and bodies of `size` octets."""
    contents = [content(number, size) for number in numbers]
    return Run(envelope(persistent, expiration_ms), contents, size)
