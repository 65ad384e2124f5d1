"""What consumer groups are limited to, and what they count for in memory.

Spec:   the names in parentheses are Kafka's settings; where there is none, Kafka is limited by
        `message.max.bytes` (1 MiB) of the topic that it keeps its groups in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

# What each costs beside its octets, about (CPython 3.11).
GROUP_COST: Final = 2048
MEMBER_COST: Final = 1024
PENDING_COST: Final = 512
TOPIC_COST: Final = 256
OFFSET_COST: Final = 256

Room: TypeAlias = Callable[[], int]
"""How many octets more all groups together may keep."""


def unlimited() -> int:
    return 1 << 62


def text_size(text: str) -> int:
    """Octets that it takes in memory, at most."""
    return len(text) if text.isascii() else 4 * len(text)


@dataclass(slots=True, frozen=True)
class GroupLimits:
    """The same for all groups of a node."""

    initial_rebalance_delay_ms: int = 0
    """How long a first rebalance waits for more members, again as long as more come
    (`group.initial.rebalance.delay.ms`; 3,000 in Kafka, which every start of a consumer feels)."""
    session_timeout_min_ms: int = 6_000
    """(`group.min.session.timeout.ms`)"""
    session_timeout_max_ms: int = 1_800_000
    """(`group.max.session.timeout.ms`)"""
    new_member_join_timeout_ms: int = 300_000
    """After this a new member whose join is parked must ask again: nobody knows whether it is still there
    (`group.consumer.new.member.join.timeout`, fixed in Kafka)."""
    size_max: int = 10_000
    """Members; and as many that were given an id and have not come with it (`group.max.size`)."""
    protocols_max: int = 100
    """Assignors that a member may offer; clients offer one to three."""
    metadata_size_max: int = 1 << 20
    """Octets of what is kept of a member: its names and the metadata for all its protocols. As much again
    for its assignment."""
    metadata_total_max: int = 64 << 20
    """Octets of the same for all members together: the leader gets most of it in one reply."""
