"""Committed offsets.

Spec:   OffsetCommit (8), OffsetFetch (9), OffsetDelete (47).
"""

from broker.kafka.schema import Field, Schema

_OFFSET_COMMIT_REQUEST_PARTITION = (
    Field("partition_index", "int32", "0+"),
    Field("committed_offset", "int64", "0+"),
    Field("committed_leader_epoch", "int32", "6+", default=-1),
    Field("committed_metadata", "string", "0+", nullable="0+"),
)

_OFFSET_COMMIT_REQUEST_TOPIC = (
    Field("name", "string", "0-9"),
    Field("partitions", [_OFFSET_COMMIT_REQUEST_PARTITION], "0+"),
)

OFFSET_COMMIT_REQUEST = Schema(
    "OffsetCommitRequest",
    (
        Field("group_id", "string", "0+"),
        Field("generation_id_or_member_epoch", "int32", "1+", default=-1),
        Field("member_id", "string", "1+"),
        Field("group_instance_id", "string", "7+", default=None, nullable="7+"),
        Field("retention_time_ms", "int64", "2-4", default=-1),
        Field("topics", [_OFFSET_COMMIT_REQUEST_TOPIC], "0+"),
    ),
    flexible_from=8,
)

_OFFSET_COMMIT_RESPONSE_PARTITION = (
    Field("partition_index", "int32", "0+"),
    Field("error_code", "int16", "0+"),
)

_OFFSET_COMMIT_RESPONSE_TOPIC = (
    Field("name", "string", "0-9"),
    Field("partitions", [_OFFSET_COMMIT_RESPONSE_PARTITION], "0+"),
)

OFFSET_COMMIT_RESPONSE = Schema(
    "OffsetCommitResponse",
    (
        Field("throttle_time_ms", "int32", "3+"),
        Field("topics", [_OFFSET_COMMIT_RESPONSE_TOPIC], "0+"),
    ),
    flexible_from=8,
)

_OFFSET_FETCH_REQUEST_TOPIC = (
    Field("name", "string", "0-7"),
    Field("partition_indexes", "[]int32", "0-7"),
)

_OFFSET_FETCH_REQUEST_TOPICS = (
    Field("name", "string", "8-9"),
    Field("partition_indexes", "[]int32", "8+"),
)

_OFFSET_FETCH_REQUEST_GROUP = (
    Field("group_id", "string", "8+"),
    Field("member_id", "string", "9+", default=None, nullable="9+"),
    Field("member_epoch", "int32", "9+", default=-1),
    Field("topics", [_OFFSET_FETCH_REQUEST_TOPICS], "8+", nullable="8+"),
)

OFFSET_FETCH_REQUEST = Schema(
    "OffsetFetchRequest",
    (
        Field("group_id", "string", "0-7"),
        Field("topics", [_OFFSET_FETCH_REQUEST_TOPIC], "0-7", nullable="2-7"),
        Field("groups", [_OFFSET_FETCH_REQUEST_GROUP], "8+"),
        Field("require_stable", "bool", "7+"),
    ),
    flexible_from=6,
)

_OFFSET_FETCH_RESPONSE_PARTITION = (
    Field("partition_index", "int32", "0-7"),
    Field("committed_offset", "int64", "0-7"),
    Field("committed_leader_epoch", "int32", "5-7", default=-1),
    Field("metadata", "string", "0-7", default=None, nullable="0-7"),
    Field("error_code", "int16", "0-7"),
)

_OFFSET_FETCH_RESPONSE_TOPIC = (
    Field("name", "string", "0-7"),
    Field("partitions", [_OFFSET_FETCH_RESPONSE_PARTITION], "0-7"),
)

_OFFSET_FETCH_RESPONSE_PARTITIONS = (
    Field("partition_index", "int32", "8+"),
    Field("committed_offset", "int64", "8+"),
    Field("committed_leader_epoch", "int32", "8+", default=-1),
    Field("metadata", "string", "8+", default=None, nullable="8+"),
    Field("error_code", "int16", "8+"),
)

_OFFSET_FETCH_RESPONSE_TOPICS = (
    Field("name", "string", "8-9"),
    Field("partitions", [_OFFSET_FETCH_RESPONSE_PARTITIONS], "8+"),
)

_OFFSET_FETCH_RESPONSE_GROUP = (
    Field("group_id", "string", "8+"),
    Field("topics", [_OFFSET_FETCH_RESPONSE_TOPICS], "8+"),
    Field("error_code", "int16", "8+"),
)

OFFSET_FETCH_RESPONSE = Schema(
    "OffsetFetchResponse",
    (
        Field("throttle_time_ms", "int32", "3+"),
        Field("topics", [_OFFSET_FETCH_RESPONSE_TOPIC], "0-7"),
        Field("error_code", "int16", "2-7"),
        Field("groups", [_OFFSET_FETCH_RESPONSE_GROUP], "8+"),
    ),
    flexible_from=6,
)

_OFFSET_DELETE_REQUEST_PARTITION = (Field("partition_index", "int32", "0+"),)

_OFFSET_DELETE_REQUEST_TOPIC = (
    Field("name", "string", "0+"),
    Field("partitions", [_OFFSET_DELETE_REQUEST_PARTITION], "0+"),
)

OFFSET_DELETE_REQUEST = Schema(
    "OffsetDeleteRequest",
    (
        Field("group_id", "string", "0+"),
        Field("topics", [_OFFSET_DELETE_REQUEST_TOPIC], "0+"),
    ),
    flexible_from=None,
)

_OFFSET_DELETE_RESPONSE_PARTITION = (
    Field("partition_index", "int32", "0+"),
    Field("error_code", "int16", "0+"),
)

_OFFSET_DELETE_RESPONSE_TOPIC = (
    Field("name", "string", "0+"),
    Field("partitions", [_OFFSET_DELETE_RESPONSE_PARTITION], "0+"),
)

OFFSET_DELETE_RESPONSE = Schema(
    "OffsetDeleteResponse",
    (
        Field("error_code", "int16", "0+"),
        Field("throttle_time_ms", "int32", "0+"),
        Field("topics", [_OFFSET_DELETE_RESPONSE_TOPIC], "0+"),
    ),
    flexible_from=None,
)
