"""Record batches in.

Spec:   Produce (0).
"""

from broker.kafka.schema import Field, Schema

_PARTITION_PRODUCE_DATA = (
    Field("index", "int32", "0+"),
    Field("records", "records", "0+", nullable="0+"),
)

_TOPIC_PRODUCE_DATA = (
    Field("name", "string", "0-12"),
    Field("partition_data", [_PARTITION_PRODUCE_DATA], "0+"),
)

PRODUCE_REQUEST = Schema(
    "ProduceRequest",
    (
        Field("transactional_id", "string", "3+", default=None, nullable="3+"),
        Field("acks", "int16", "0+"),
        Field("timeout_ms", "int32", "0+"),
        Field("topic_data", [_TOPIC_PRODUCE_DATA], "0+"),
    ),
    flexible_from=9,
)

_BATCH_INDEX_AND_ERROR_MESSAGE = (
    Field("batch_index", "int32", "8+"),
    Field("batch_index_error_message", "string", "8+", default=None, nullable="8+"),
)

_LEADER_ID_AND_EPOCH = (
    Field("leader_id", "int32", "10+", default=-1),
    Field("leader_epoch", "int32", "10+", default=-1),
)

_PARTITION_PRODUCE_RESPONSE = (
    Field("index", "int32", "0+"),
    Field("error_code", "int16", "0+"),
    Field("base_offset", "int64", "0+"),
    Field("log_append_time_ms", "int64", "2+", default=-1),
    Field("log_start_offset", "int64", "5+", default=-1),
    Field("record_errors", [_BATCH_INDEX_AND_ERROR_MESSAGE], "8+"),
    Field("error_message", "string", "8+", default=None, nullable="8+"),
    Field("current_leader", _LEADER_ID_AND_EPOCH, "10+", tag=0),
)

_TOPIC_PRODUCE_RESPONSE = (
    Field("name", "string", "0-12"),
    Field("partition_responses", [_PARTITION_PRODUCE_RESPONSE], "0+"),
)

_NODE_ENDPOINT = (
    Field("node_id", "int32", "10+"),
    Field("host", "string", "10+"),
    Field("port", "int32", "10+"),
    Field("rack", "string", "10+", default=None, nullable="10+"),
)

PRODUCE_RESPONSE = Schema(
    "ProduceResponse",
    (
        Field("responses", [_TOPIC_PRODUCE_RESPONSE], "0+"),
        Field("throttle_time_ms", "int32", "1+"),
        Field("node_endpoints", [_NODE_ENDPOINT], "10+", tag=0),
    ),
    flexible_from=9,
)
