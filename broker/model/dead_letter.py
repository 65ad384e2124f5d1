"""What a message that died carries with it, and when it has gone in a circle.

Flow:   the node decodes a message's death headers, has them brought up to date here, and writes them back.
Spec:   RabbitMQ's `docs/dlx.md`, rabbit_dead_letter and mc:record_death.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

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


def recorded(history: Any, death: Death, seconds: Any, count: Any) -> list[Mapping[str, Any]]:
    """The `x-death` array with this death: newest first, one entry for each queue and reason.

    `history` is what the header held, of any type, as clients may put anything there. `seconds` and
    `count` make a time and a 64-bit integer of the protocol of a number.
    """
    entries = [entry for entry in history if isinstance(entry, Mapping)] if isinstance(history, list) else []
    for at, entry in enumerate(entries):
        if entry.get("queue") == death.queue and entry.get("reason") == death.reason:
            times = entry.get("count")
            again = {
                **entry,
                "count": count(min(times + 1, _COUNT_MAX) if isinstance(times, int) else 1),
            }
            return [again, *entries[:at], *entries[at + 1 :]]
    first: dict[str, Any] = {
        "count": count(1),
        "reason": death.reason,
        "queue": death.queue,
    }
    first["time"] = seconds(death.time_ms // 1000)
    first["exchange"] = death.exchange
    first["routing-keys"] = list(death.routing_keys)
    if death.expiration is not None:
        first = {"original-expiration": death.expiration, **first}
    return [first, *entries]


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


def is_cycle(history: Sequence[Mapping[str, Any]], queue: str) -> bool:
    """Whether a message with these deaths came from `queue` and nobody rejected it since then."""
    for entry in history:
        if entry.get("reason") == REJECTED:
            return False
        if entry.get("queue") == queue:
            return True
    return False
