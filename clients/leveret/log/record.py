"""Records, and where and when they are."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, NamedTuple

from leveret.errors import InvalidValue

_TIME_MAX: Final = (1 << 63) - 1


class TopicPartition(NamedTuple):
    """A partition of a topic."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}]"


class Appended(NamedTuple):
    """Where the log has a record that was sent."""

    topic: str
    partition: int
    offset: int
    """-1 if the broker knows only that it has it: the answer to the first attempt was lost long ago."""
    timestamp: int
    """Milliseconds: the record's own, or the broker's if the topic wants that."""


@dataclass(slots=True)
class LogRecord:
    """A record that a consumer got."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    """Milliseconds since 1970."""
    key: bytes | None
    value: bytes | None
    """None is a tombstone: in a compacted topic the key is to be forgotten."""
    headers: list[tuple[str, bytes | None]]
    """In their order; a name may be there more than once."""

    @property
    def time(self) -> datetime:
        """The timestamp, in UTC. Raises ValueError or OverflowError for one that no calendar has."""
        return datetime.fromtimestamp(self.timestamp / 1000, UTC)

    def header(self, name: str) -> bytes | None:
        """The last header of this name, or None."""
        return next((value for found, value in reversed(self.headers) if found == name), None)


def milliseconds(timestamp: int | datetime | None) -> int:
    """Of a moment, or now. Raises InvalidValue for a number that is not one."""
    if timestamp is None:
        return time.time_ns() // 1_000_000
    found = round(timestamp.timestamp() * 1000) if isinstance(timestamp, datetime) else timestamp
    if not (isinstance(found, int) and 0 <= found <= _TIME_MAX):
        raise InvalidValue(f"a timestamp is a number of milliseconds since 1970, and not {timestamp}")
    return found
