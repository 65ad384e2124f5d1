"""Messages as the model sees them: runs of closed contents, of which only a few facts are known.

A content is a number of four bytes, which tells it from all others, its time limit in milliseconds in four
more, and then the body.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_COVER = 8


@dataclass(frozen=True)
class Facts:
    persistent: bool = False
    expiration_ms: int | None = None

    @property
    def expires(self) -> bool:
        return self.expiration_ms is not None


@dataclass(frozen=True, eq=False)
class Envelope:
    exchange: str
    routing_key: str
    facts: Facts

    def measure(self, contents: Sequence[bytes]) -> int:
        return sum(len(content) - _COVER for content in contents)

    def expirations_ms(self, contents: Sequence[bytes]) -> list[int]:
        assert self.facts.expiration_ms is not None
        return [int.from_bytes(content[4:8]) or self.facts.expiration_ms for content in contents]


@functools.cache
def _facts(persistent: bool, expiration_ms: int | None) -> Facts:
    return Facts(persistent, expiration_ms)


@functools.cache
def envelope(persistent: bool = False, expiration_ms: int | None = None, routing_key: str = "q") -> Envelope:
    """The same one for the same facts and key, as slices are only joined then."""
    return Envelope("", routing_key, _facts(persistent, expiration_ms))


@dataclass(eq=False)
class Run:
    envelope: Envelope
    contents: list[bytes]
    body_size: int | None = None
    envelopes: list[Envelope] | None = None

    @property
    def size(self) -> int:
        return self.envelope.measure(self.contents)


def content(number: int, size: int = 0, expiration_ms: int = 0) -> bytes:
    """With an `expiration_ms` of 0 it has the one of the envelope's facts."""
    return number.to_bytes(4) + expiration_ms.to_bytes(4) + bytes(size)


def key_of(number: int) -> str:
    """The routing key of this message where messages have various ones."""
    return f"k{number % 3}"


def number_of(content: bytes) -> int:
    return int.from_bytes(content[:4])


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
