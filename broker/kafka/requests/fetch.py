"""Record batches out.

Spec:   Fetch (1).
"""

from broker.kafka.schema import Field, Schema

_REPLICA_STATE = (
    Field("replica_id", "int32", "15+", default=-1),
    Field("replica_epoch", "int64", "15+", default=-1),
)

_FETCH_PARTITION = (
    Field("partition", "int32", "0+"),
    Field("current_leader_epoch", "int32", "9+", default=-1),
    Field("fetch_offset", "int64", "0+"),
    Field("last_fetched_epoch", "int32", "12+", default=-1),
    Field("log_start_offset", "int64", "5+", default=-1),
    Field("partition_max_bytes", "int32", "0+"),
)

_FETCH_TOPIC = (
    Field("topic", "string", "0-12"),
    Field("topic_id", "uuid", "13+"),
    Field("partitions", [_FETCH_PARTITION], "0+"),
)

_FORGOTTEN_TOPIC = (
    Field("topic", "string", "7-12"),
    Field("topic_id", "uuid", "13+"),
    Field("partitions", "[]int32", "7+"),
)

FETCH_REQUEST = Schema(
    "FetchRequest",
    (
        Field("cluster_id", "string", "12+", default=None, nullable="12+", tag=0),
        Field("replica_id", "int32", "0-14", default=-1),
        Field("replica_state", _REPLICA_STATE, "15+", tag=1),
        Field("max_wait_ms", "int32", "0+"),
        Field("min_bytes", "int32", "0+"),
        Field("max_bytes", "int32", "3+", default=0x7FFFFFFF),
        Field("isolation_level", "int8", "4+"),
        Field("session_id", "int32", "7+"),
        Field("session_epoch", "int32", "7+", default=-1),
        Field("topics", [_FETCH_TOPIC], "0+"),
        Field("forgotten_topics_data", [_FORGOTTEN_TOPIC], "7+"),
        Field("rack_id", "string", "11+"),
    ),
    flexible_from=12,
)

_EPOCH_END_OFFSET = (
    Field("epoch", "int32", "12+", default=-1),
    Field("end_offset", "int64", "12+", default=-1),
)

_LEADER_ID_AND_EPOCH = (
    Field("leader_id", "int32", "12+", default=-1),
    Field("leader_epoch", "int32", "12+", default=-1),
)

_SNAPSHOT_ID = (
    Field("end_offset", "int64", "0+", default=-1),
    Field("epoch", "int32", "0+", default=-1),
)

_ABORTED_TRANSACTION = (
    Field("producer_id", "int64", "4+"),
    Field("first_offset", "int64", "4+"),
)

_PARTITION_DATA = (
    Field("partition_index", "int32", "0+"),
    Field("error_code", "int16", "0+"),
    Field("high_watermark", "int64", "0+"),
    Field("last_stable_offset", "int64", "4+", default=-1),
    Field("log_start_offset", "int64", "5+", default=-1),
    Field("diverging_epoch", _EPOCH_END_OFFSET, "12+", tag=0),
    Field("current_leader", _LEADER_ID_AND_EPOCH, "12+", tag=1),
    Field("snapshot_id", _SNAPSHOT_ID, "12+", tag=2),
    Field("aborted_transactions", [_ABORTED_TRANSACTION], "4+", default=None, nullable="4+"),
    Field("preferred_read_replica", "int32", "11+", default=-1),
    Field("records", "records", "0+", nullable="0+"),
)

_FETCHABLE_TOPIC_RESPONSE = (
    Field("topic", "string", "0-12"),
    Field("topic_id", "uuid", "13+"),
    Field("partitions", [_PARTITION_DATA], "0+"),
)

_NODE_ENDPOINT = (
    Field("node_id", "int32", "16+"),
    Field("host", "string", "16+"),
    Field("port", "int32", "16+"),
    Field("rack", "string", "16+", default=None, nullable="16+"),
)

FETCH_RESPONSE = Schema(
    "FetchResponse",
    (
        Field("throttle_time_ms", "int32", "1+"),
        Field("error_code", "int16", "7+"),
        Field("session_id", "int32", "7+"),
        Field("responses", [_FETCHABLE_TOPIC_RESPONSE], "0+"),
        Field("node_endpoints", [_NODE_ENDPOINT], "16+", tag=0),
    ),
    flexible_from=12,
)
