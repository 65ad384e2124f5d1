"""The death history of a message, and when it has gone in a circle.

Flow:   the node reads the entries of `x-death`, has them brought up to date here, and writes what changed.
Spec:   RabbitMQ's `docs/dlx.md`, rabbit_dead_letter and mc:record_death.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from broker.model.queue import REJECTED

X_DEATH: Final = "x-death"

# What 64 bits hold: a client may have sent us any number.
_COUNT_MAX: Final = 2**63 - 1


@dataclass(slots=True, frozen=True)
class Death:
    """One event: a message left a queue without being acknowledged."""

    queue: str
    reason: str
    time_ms: int
    exchange: str
    routing_keys: Sequence[str]
    expiration: str | None = None
    """The expiration property, which the message loses so that it does not die of it twice."""


class Entry(NamedTuple):
    """An entry of `x-death`. Clients may send one of their own: each field may have any type."""

    queue: Any
    reason: Any
    count: Any
    """None if there is none, as in what RabbitMQ wrote before 3.5."""
    at: int | None = None
    """Its place in the header that came; None for a new one."""


def recorded(history: Sequence[Entry], death: Death) -> list[Entry]:
    """The history with this death, newest first.

    Entries with the same queue and reason become one; without a count it counts them.
    """
    alike: dict[object, list[Entry]] = {}
    for entry in history:
        named = isinstance(entry.queue, str) and isinstance(entry.reason, str)
        alike.setdefault((entry.queue, entry.reason) if named else entry.at, []).append(entry)
    before = alike.pop((death.queue, death.reason), None)
    first = Entry(death.queue, death.reason, 1) if before is None else _once_more(_merged(before))
    return [first, *map(_merged, alike.values())]


def _merged(alike: list[Entry]) -> Entry:
    first = alike[0]
    return first._replace(count=len(alike)) if first.count is None else first


def _once_more(entry: Entry) -> Entry:
    times = entry.count + 1 if isinstance(entry.count, int) else 1
    return entry._replace(count=min(times, _COUNT_MAX))


def first_and_last(headers: Mapping[str, Any], death: Death) -> dict[str, str]:
    """The plain headers beside `x-death`: the first death is said once, the last one always."""
    found = {} if "x-first-death-reason" in headers else _named("first", death)
    return {**found, **_named("last", death)}


def _named(which: str, death: Death) -> dict[str, str]:
    return {
        f"x-{which}-death-queue": death.queue,
        f"x-{which}-death-reason": death.reason,
        f"x-{which}-death-exchange": death.exchange,
    }


def is_cycle(history: Sequence[Entry], queue: str) -> bool:
    """Whether a message with these deaths came from `queue` and nobody rejected it since then."""
    for entry in history:
        if entry.reason == REJECTED:
            return False
        if entry.queue == queue:
            return True
    return False
