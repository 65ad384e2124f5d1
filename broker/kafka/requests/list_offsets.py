"""Offsets by time and by leader epoch.

Spec:   ListOffsets (2), OffsetForLeaderEpoch (23).
"""

from broker.kafka.schema import Field, Schema

_LIST_OFFSETS_PARTITION = (
    Field("partition_index", "int32", "0+"),
    Field("current_leader_epoch", "int32", "4+", default=-1),
    Field("timestamp", "int64", "0+"),
)

_LIST_OFFSETS_TOPIC = (
    Field("name", "string", "0+"),
    Field("partitions", [_LIST_OFFSETS_PARTITION], "0+"),
)

LIST_OFFSETS_REQUEST = Schema(
    "ListOffsetsRequest",
    (
        Field("replica_id", "int32", "0+"),
        Field("isolation_level", "int8", "2+"),
        Field("topics", [_LIST_OFFSETS_TOPIC], "0+"),
    ),
    flexible_from=6,
)

_LIST_OFFSETS_PARTITION_RESPONSE = (
    Field("partition_index", "int32", "0+"),
    Field("error_code", "int16", "0+"),
    Field("timestamp", "int64", "1+", default=-1),
    Field("offset", "int64", "1+", default=-1),
    Field("leader_epoch", "int32", "4+", default=-1),
)

_LIST_OFFSETS_TOPIC_RESPONSE = (
    Field("name", "string", "0+"),
    Field("partitions", [_LIST_OFFSETS_PARTITION_RESPONSE], "0+"),
)

LIST_OFFSETS_RESPONSE = Schema(
    "ListOffsetsResponse",
    (
        Field("throttle_time_ms", "int32", "2+"),
        Field("topics", [_LIST_OFFSETS_TOPIC_RESPONSE], "0+"),
    ),
    flexible_from=6,
)

_OFFSET_FOR_LEADER_PARTITION = (
    Field("partition", "int32", "0+"),
    Field("current_leader_epoch", "int32", "2+", default=-1),
    Field("leader_epoch", "int32", "0+"),
)

_OFFSET_FOR_LEADER_TOPIC = (
    Field("topic", "string", "0+"),
    Field("partitions", [_OFFSET_FOR_LEADER_PARTITION], "0+"),
)

OFFSET_FOR_LEADER_EPOCH_REQUEST = Schema(
    "OffsetForLeaderEpochRequest",
    (
        Field("replica_id", "int32", "3+", default=-2),
        Field("topics", [_OFFSET_FOR_LEADER_TOPIC], "0+"),
    ),
    flexible_from=4,
)

_EPOCH_END_OFFSET = (
    Field("error_code", "int16", "0+"),
    Field("partition", "int32", "0+"),
    Field("leader_epoch", "int32", "1+", default=-1),
    Field("end_offset", "int64", "0+", default=-1),
)

_OFFSET_FOR_LEADER_TOPIC_RESULT = (
    Field("topic", "string", "0+"),
    Field("partitions", [_EPOCH_END_OFFSET], "0+"),
)

OFFSET_FOR_LEADER_EPOCH_RESPONSE = Schema(
    "OffsetForLeaderEpochResponse",
    (
        Field("throttle_time_ms", "int32", "2+"),
        Field("topics", [_OFFSET_FOR_LEADER_TOPIC_RESULT], "0+"),
    ),
    flexible_from=4,
)
