"""Records of `__consumer_offsets`: what a broker remembers of groups, in Kafka's own form.

Shape:  key: version i16 | fields, where 0 and 1 are a committed offset and 2 is a group; value: version i16 |
        fields. A record without a value says that there is no such thing any more.
Spec:   Kafka's OffsetCommitKey/Value and GroupMetadataKey/Value; tools such as Burrow read them.
"""

from __future__ import annotations

import struct
from typing import Any, Final

from broker.kafka.errors import RemoteProtocolError
from broker.kafka.schema import Field, Schema
from broker.kafka.wire import Struct

_OFFSET_KEY_VERSION: Final = 1
_GROUP_KEY_VERSION: Final = 2
_VALUE_VERSION: Final = 3
_ELEMENTS_MAX: Final = 1_000_000

_OFFSET_KEY = Schema(
    "OffsetCommitKey",
    (Field("group", "string", "0+"), Field("topic", "string", "0+"), Field("partition", "int32", "0+")),
    flexible_from=None,
)
_OFFSET_VALUE = Schema(
    "OffsetCommitValue",
    (
        Field("offset", "int64", "0+"),
        Field("leader_epoch", "int32", "3+", default=-1),
        Field("metadata", "string", "0+"),
        Field("commit_timestamp", "int64", "0+"),
        Field("expire_timestamp", "int64", "1", default=-1),
    ),
    flexible_from=None,
)
_GROUP_KEY = Schema("GroupMetadataKey", (Field("group", "string", "0+"),), flexible_from=None)
_MEMBER = (
    Field("member_id", "string", "0+"),
    Field("group_instance_id", "string", "3+", default=None, nullable="3+"),
    Field("client_id", "string", "0+"),
    Field("client_host", "string", "0+"),
    Field("rebalance_timeout", "int32", "1+"),
    Field("session_timeout", "int32", "0+"),
    Field("subscription", "bytes", "0+"),
    Field("assignment", "bytes", "0+"),
)
_GROUP_VALUE = Schema(
    "GroupMetadataValue",
    (
        Field("protocol_type", "string", "0+"),
        Field("generation", "int32", "0+"),
        Field("protocol", "string", "0+", default=None, nullable="0+"),
        Field("leader", "string", "0+", default=None, nullable="0+"),
        Field("current_state_timestamp", "int64", "2+", default=-1),
        Field("members", [_MEMBER], "0+"),
    ),
    flexible_from=None,
)


def _encode(schema: Schema, version: int, body: Struct) -> bytes:
    parts: list[Any] = []
    rest = schema.writer(version)(body, bytearray(version.to_bytes(2)), parts)
    return b"".join([*parts, rest])


def _decode(schema: Schema, octets: bytes) -> Struct:
    """Octets behind the last field are passed over. Raises RemoteProtocolError."""
    version = int.from_bytes(octets[:2])
    if version > _VALUE_VERSION:
        raise RemoteProtocolError(f"{schema.name}: version {version} is not known")
    try:
        return schema.reader(version)(octets, 2, _ELEMENTS_MAX)[0]
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise RemoteProtocolError(f"{schema.name}: {error}") from None


def offset_key(group: str, topic: str, partition: int) -> bytes:
    return _encode(_OFFSET_KEY, _OFFSET_KEY_VERSION, {"group": group, "topic": topic, "partition": partition})


def offset_value(
    offset: int, leader_epoch: int, metadata: str, commit_ms: int, expire_ms: int | None
) -> bytes:
    """One that expires at a time of its own has the older version that can say so."""
    body = {
        "offset": offset,
        "leader_epoch": leader_epoch,
        "metadata": metadata,
        "commit_timestamp": commit_ms,
        "expire_timestamp": -1 if expire_ms is None else expire_ms,
    }
    return _encode(_OFFSET_VALUE, _VALUE_VERSION if expire_ms is None else 1, body)


def group_key(group: str) -> bytes:
    return _encode(_GROUP_KEY, _GROUP_KEY_VERSION, {"group": group})


def group_value(body: Struct) -> bytes:
    """The fields are those of the table above."""
    return _encode(_GROUP_VALUE, _VALUE_VERSION, body)


def read_key(octets: bytes) -> tuple[str, tuple[str, int] | None]:
    """The group, and topic and partition if it is that of an offset. Raises RemoteProtocolError for another kind."""
    version = int.from_bytes(octets[:2])
    if version <= _OFFSET_KEY_VERSION:
        body = _decode(_OFFSET_KEY, octets)
        return body["group"], (body["topic"], body["partition"])
    if version == _GROUP_KEY_VERSION:
        return _decode(_GROUP_KEY, octets)["group"], None
    raise RemoteProtocolError(f"a key of version {version} is not known")


def read_offset(octets: bytes) -> Struct:
    return _decode(_OFFSET_VALUE, octets)


def read_group(octets: bytes) -> Struct:
    return _decode(_GROUP_VALUE, octets)
