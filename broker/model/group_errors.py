"""What a consumer group refuses, and the exception that says so.

Flow:   a reply of the group carries one of these, or `GroupRefused` is raised with it; the server has one
        table from these to Kafka's error codes.
Spec:   the names are those of Kafka's errors wherever it has one.
"""

from __future__ import annotations

from enum import Enum, auto

from broker.model.errors import ModelError


class GroupError(Enum):
    """Why a request to a group was not carried out."""

    UNKNOWN_MEMBER_ID = auto()
    """There is no such member, or not any more: the client begins anew, without an id."""
    ILLEGAL_GENERATION = auto()
    """The member is known, the generation is not the current one: the client joins again."""
    REBALANCE_IN_PROGRESS = auto()
    """The members are being gathered: the client joins again."""
    MEMBER_ID_REQUIRED = auto()
    """The reply has the new member's id: the client joins again with it."""
    FENCED_INSTANCE_ID = auto()
    """Somebody else has joined with the same instance id since."""
    INCONSISTENT_GROUP_PROTOCOL = auto()
    """Another kind of group, or no protocol that all members support."""
    INVALID_SESSION_TIMEOUT = auto()
    GROUP_MAX_SIZE_REACHED = auto()
    """No room for one more member, or for more of it, in this group or in all of them together."""
    COORDINATOR_NOT_AVAILABLE = auto()
    """The group is being removed: the client looks for its coordinator again."""
    MEMBER_METADATA_TOO_LARGE = auto()
    """Names, metadata or assignments over the limits; Kafka limits them by the size of its own records."""
    NON_EMPTY_GROUP = auto()
    GROUP_ID_NOT_FOUND = auto()
    GROUP_SUBSCRIBED_TO_TOPIC = auto()
    OFFSET_METADATA_TOO_LARGE = auto()
    TOO_MANY_OFFSETS = auto()
    """The group has committed offsets of as many partitions as it may; Kafka knows no such limit."""
    OFFSETS_TOO_LARGE = auto()
    """All groups together keep as much as they may."""


class GroupRefused(ModelError):
    """The one who asked may not, or not now; nothing has changed."""

    def __init__(self, error: GroupError, text: str) -> None:
        super().__init__(text)
        self.error = error
