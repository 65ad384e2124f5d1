"""What members of the type "consumer" put into their joins and syncs, where a broker looks inside.

Flow:   a subscription is a member's metadata, an assignment what the leader gives it. Broker, client and tests
        use the same.
Shape:  version i16 | fields (no version is flexible); a later version only adds fields at the end.
            subscription  [topic]                      | user data | v1 [topic, [partition i32]] owned
                                                       | v2 generation i32 | v3 rack
            assignment    [topic, [partition i32]]     | user data
Limits: 262,144 elements, which is 1 MiB of partitions.
Spec:   Kafka's ConsumerProtocolSubscription and ConsumerProtocolAssignment 0 to 3. What claims to be newer is
        read as 3, and octets behind that are passed over. A subscription that does not have all the fields
        of its version is read as version 0, which is all that Kafka's own broker reads of any.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from broker.kafka.errors import RemoteProtocolError
from broker.kafka.schema import Field, Fields, Schema
from broker.kafka.wire import Struct

VERSION_MAX: Final = 3
NO_GENERATION: Final = -1

_ELEMENTS_MAX: Final = 1 << 18
_GARBAGE: Final = (RemoteProtocolError, struct.error, IndexError, UnicodeDecodeError)

_PARTITIONS: Fields = (Field("topic", "string", "0+"), Field("partitions", "[]int32", "0+"))
_SUBSCRIPTION = Schema(
    "ConsumerProtocolSubscription",
    (
        Field("topics", "[]string", "0+"),
        Field("user_data", "bytes", "0+", default=None, nullable="0+"),
        Field("owned_partitions", [_PARTITIONS], "1+"),
        Field("generation_id", "int32", "2+", default=NO_GENERATION),
        Field("rack_id", "string", "3+", default=None, nullable="3+"),
    ),
    flexible_from=None,
)
_ASSIGNMENT = Schema(
    "ConsumerProtocolAssignment",
    (
        Field("assigned_partitions", [_PARTITIONS], "0+"),
        Field("user_data", "bytes", "0+", default=None, nullable="0+"),
    ),
    flexible_from=None,
)

Partitions: TypeAlias = Mapping[str, Sequence[int]]


@dataclass(slots=True, frozen=True)
class Subscription:
    """`owned` is what the member had in `generation`, for assignors that move as little as they can."""

    topics: Sequence[str]
    user_data: bytes | None = None
    owned: Partitions = field(default_factory=dict)
    generation: int = NO_GENERATION
    rack: str | None = None


@dataclass(slots=True, frozen=True)
class Assignment:
    partitions: Partitions
    user_data: bytes | None = None


def read_subscription(octets: bytes) -> Subscription | None:
    """None for garbage."""
    body = _read(_SUBSCRIPTION, octets)
    if body is None:
        body = _read(_SUBSCRIPTION, octets, version_max=0)
    if body is None:
        return None
    return Subscription(
        body["topics"],
        body["user_data"],
        _partitions(body["owned_partitions"]),
        body["generation_id"],
        body["rack_id"],
    )


def write_subscription(subscription: Subscription, version: int = VERSION_MAX) -> bytes:
    """What the version has no field for is left out."""
    body = {
        "topics": list(subscription.topics),
        "user_data": subscription.user_data,
        "owned_partitions": _rows(subscription.owned),
        "generation_id": subscription.generation,
        "rack_id": subscription.rack,
    }
    return _write(_SUBSCRIPTION, version, body)


def read_assignment(octets: bytes) -> Assignment | None:
    """None for garbage, and for no octets: a member that was given nothing, not even that."""
    body = _read(_ASSIGNMENT, octets)
    if body is None:
        return None
    return Assignment(_partitions(body["assigned_partitions"]), body["user_data"])


def write_assignment(assignment: Assignment, version: int = VERSION_MAX) -> bytes:
    body = {"assigned_partitions": _rows(assignment.partitions), "user_data": assignment.user_data}
    return _write(_ASSIGNMENT, version, body)


def topics_of(octets: bytes) -> frozenset[str] | None:
    """The topics of a subscription, whatever version it has; None for garbage."""
    body = _read(_SUBSCRIPTION, octets, version_max=0)
    return None if body is None else frozenset(body["topics"])


def _read(schema: Schema, octets: bytes, version_max: int = VERSION_MAX) -> Struct | None:
    version = int.from_bytes(octets[:2], signed=True)
    if len(octets) < 2 or version < 0:
        return None
    try:
        return schema.reader(min(version, version_max))(octets, 2, _ELEMENTS_MAX)[0]
    except _GARBAGE:
        return None


def _write(schema: Schema, version: int, body: Struct) -> bytes:
    parts: list[Any] = []
    rest = schema.writer(version)(body, bytearray(version.to_bytes(2)), parts)
    return b"".join([*parts, rest])


def _partitions(rows: list[Struct]) -> dict[str, list[int]]:
    """A topic that is there more than once has all of its partitions."""
    found: dict[str, list[int]] = {}
    for row in rows:
        found.setdefault(row["topic"], []).extend(row["partitions"])
    return found


def _rows(partitions: Partitions) -> list[Struct]:
    return [{"topic": topic, "partitions": list(numbers)} for topic, numbers in partitions.items()]
