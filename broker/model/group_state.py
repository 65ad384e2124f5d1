"""The states of a consumer group, which may follow which, and what is refused in each.

Spec:   Kafka's classic groups (ClassicGroupState, GroupMetadataManager).

    Empty ──► PreparingRebalance ──► CompletingRebalance ──► Stable
      ▲          │   ▲     ▲                  │                │
      └──────────┘   │     └──────────────────┘                │        all of them ──► Dead
                     └─────────────────────────────────────────┘
"""

from __future__ import annotations

from enum import Enum, StrEnum, auto
from typing import Final

from broker.model.group_errors import GroupError


class GroupState(StrEnum):
    """The values are what clients and tools are shown."""

    EMPTY = "Empty"
    """No members; perhaps committed offsets. A join begins a rebalance, a commit without generation is taken."""
    PREPARING_REBALANCE = "PreparingRebalance"
    """Joins are parked until all members have joined or their time is up."""
    COMPLETING_REBALANCE = "CompletingRebalance"
    """Members know the new generation; their syncs are parked until the leader's brings the assignments."""
    STABLE = "Stable"
    """Every member has, or can fetch, its assignment."""
    DEAD = "Dead"
    """Removed; whoever still holds on to it must look for the group anew."""


TRANSITIONS: Final[dict[GroupState, frozenset[GroupState]]] = {
    GroupState.EMPTY: frozenset({GroupState.PREPARING_REBALANCE, GroupState.DEAD}),
    GroupState.PREPARING_REBALANCE: frozenset(
        {GroupState.COMPLETING_REBALANCE, GroupState.EMPTY, GroupState.DEAD}
    ),
    GroupState.COMPLETING_REBALANCE: frozenset(
        {GroupState.STABLE, GroupState.PREPARING_REBALANCE, GroupState.DEAD}
    ),
    GroupState.STABLE: frozenset({GroupState.PREPARING_REBALANCE, GroupState.DEAD}),
    GroupState.DEAD: frozenset(),
}


class Request(Enum):
    """What may be asked of a group on behalf of a member."""

    JOIN = auto()
    SYNC = auto()
    HEARTBEAT = auto()
    COMMIT = auto()
    LEAVE = auto()


UNSERVED: Final[dict[Request, GroupError]] = {
    Request.JOIN: GroupError.COORDINATOR_NOT_AVAILABLE,
    Request.SYNC: GroupError.COORDINATOR_NOT_AVAILABLE,
    Request.HEARTBEAT: GroupError.UNKNOWN_MEMBER_ID,
    Request.COMMIT: GroupError.COORDINATOR_NOT_AVAILABLE,
    Request.LEAVE: GroupError.UNKNOWN_MEMBER_ID,
}
"""What a dead group answers to everybody."""

UNTIMELY: Final[dict[tuple[Request, GroupState], GroupError]] = {
    (Request.SYNC, GroupState.PREPARING_REBALANCE): GroupError.REBALANCE_IN_PROGRESS,
    (Request.HEARTBEAT, GroupState.PREPARING_REBALANCE): GroupError.REBALANCE_IN_PROGRESS,
    (Request.COMMIT, GroupState.COMPLETING_REBALANCE): GroupError.REBALANCE_IN_PROGRESS,
}
"""What a member of the current generation is refused; everything else it may."""

KEEPS_SESSION: Final[dict[Request, frozenset[GroupState]]] = {
    Request.SYNC: frozenset({GroupState.COMPLETING_REBALANCE, GroupState.STABLE}),
    Request.HEARTBEAT: frozenset(
        {GroupState.PREPARING_REBALANCE, GroupState.COMPLETING_REBALANCE, GroupState.STABLE}
    ),
    Request.COMMIT: frozenset({GroupState.PREPARING_REBALANCE, GroupState.STABLE}),
}
"""Where a request of a member of the current generation begins its session timeout anew, refused or not."""
