"""What is asked of a consumer group, what it answers, and what it tells of itself.

Spec:   Kafka's JoinGroup, SyncGroup, LeaveGroup and DescribeGroups, without what depends on their versions.
"""

from __future__ import annotations

from dataclasses import dataclass

from broker.model.group_errors import GroupError
from broker.model.group_state import GroupState

NO_GENERATION = -1


@dataclass(slots=True, frozen=True)
class Join:
    """`member_id` is empty for a new member, and for a static one that has forgotten it."""

    member_id: str
    group_instance_id: str | None
    client_id: str
    client_host: str
    session_timeout_ms: int
    rebalance_timeout_ms: int
    protocol_type: str
    protocols: list[tuple[str, bytes]]
    """Names and metadata, the preferred one first."""
    require_known_member_id: bool = True
    """A new member can be told its id and come again (version 4)."""
    supports_skip_assignment: bool = True
    """A leader can be told that everybody keeps what they have (version 9)."""
    reason: str = ""


@dataclass(slots=True, frozen=True)
class Joined:
    """A member as the leader is shown it."""

    member_id: str
    group_instance_id: str | None
    metadata: bytes


@dataclass(slots=True, frozen=True)
class JoinReply:
    error: GroupError | None
    member_id: str
    generation: int = NO_GENERATION
    protocol_type: str | None = None
    protocol: str | None = None
    leader: str = ""
    skip_assignment: bool = False
    members: tuple[Joined, ...] = ()
    """For the leader only."""


@dataclass(slots=True, frozen=True)
class Sync:
    """`assignments` (member id, octets) come from the leader; what others send is passed over."""

    member_id: str
    group_instance_id: str | None
    generation: int
    protocol_type: str | None
    protocol_name: str | None
    assignments: list[tuple[str, bytes]]


@dataclass(slots=True, frozen=True)
class SyncReply:
    error: GroupError | None
    protocol_type: str | None = None
    protocol: str | None = None
    assignment: bytes = b""


@dataclass(slots=True, frozen=True)
class Leaving:
    """One who leaves: by its member id, or sent away by its instance id alone."""

    member_id: str
    group_instance_id: str | None = None
    reason: str = ""


@dataclass(slots=True, frozen=True)
class Left:
    """The answer for one of those, in their order; the ids are those that were asked with."""

    member_id: str
    group_instance_id: str | None
    error: GroupError | None


@dataclass(slots=True, frozen=True)
class Rebalanced:
    """All have joined who will: there is a new generation. With no members, the group is empty now."""

    generation: int
    reason: str
    members: int


@dataclass(slots=True, frozen=True)
class Assigned:
    """Every member has its share: the group is stable, or one of it has another id now.

    This and an empty group are what is worth keeping: a group that is described now can be restored.
    """

    generation: int
    members: int


@dataclass(slots=True, frozen=True)
class MemberGone:
    member_id: str
    reason: str


Event = Rebalanced | Assigned | MemberGone


@dataclass(slots=True, frozen=True)
class MemberDescription:
    member_id: str
    group_instance_id: str | None
    client_id: str
    client_host: str
    session_timeout_ms: int
    rebalance_timeout_ms: int
    protocols: tuple[tuple[str, bytes], ...]
    """All that it supports, the preferred one first."""
    metadata: bytes
    """For the chosen protocol; empty unless the group is stable."""
    assignment: bytes


@dataclass(slots=True, frozen=True)
class GroupDescription:
    """As it is now; it does not change with the group."""

    group_id: str
    state: GroupState
    protocol_type: str | None
    protocol: str | None
    generation: int
    leader: str | None
    empty_since_ms: int | None
    members: tuple[MemberDescription, ...]
