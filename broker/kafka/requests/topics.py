"""Topics and partitions made and deleted.

Spec:   CreateTopics (19), DeleteTopics (20), CreatePartitions (37).
"""

from broker.kafka.schema import Field, Schema

_CREATABLE_REPLICA_ASSIGNMENT = (
    Field("partition_index", "int32", "0+"),
    Field("broker_ids", "[]int32", "0+"),
)

_CREATABLE_TOPIC_CONFIG = (
    Field("name", "string", "0+"),
    Field("value", "string", "0+", nullable="0+"),
)

_CREATABLE_TOPIC = (
    Field("name", "string", "0+"),
    Field("num_partitions", "int32", "0+"),
    Field("replication_factor", "int16", "0+"),
    Field("assignments", [_CREATABLE_REPLICA_ASSIGNMENT], "0+"),
    Field("configs", [_CREATABLE_TOPIC_CONFIG], "0+"),
)

CREATE_TOPICS_REQUEST = Schema(
    "CreateTopicsRequest",
    (
        Field("topics", [_CREATABLE_TOPIC], "0+"),
        Field("timeout_ms", "int32", "0+", default=60000),
        Field("validate_only", "bool", "1+"),
    ),
    flexible_from=5,
)

_CREATABLE_TOPIC_CONFIGS = (
    Field("name", "string", "5+"),
    Field("value", "string", "5+", default=None, nullable="5+"),
    Field("read_only", "bool", "5+"),
    Field("config_source", "int8", "5+", default=-1),
    Field("is_sensitive", "bool", "5+"),
)

_CREATABLE_TOPIC_RESULT = (
    Field("name", "string", "0+"),
    Field("topic_id", "uuid", "7+"),
    Field("error_code", "int16", "0+"),
    Field("error_message", "string", "1+", default=None, nullable="0+"),
    Field("topic_config_error_code", "int16", "5+", tag=0),
    Field("num_partitions", "int32", "5+", default=-1),
    Field("replication_factor", "int16", "5+", default=-1),
    Field("configs", [_CREATABLE_TOPIC_CONFIGS], "5+", nullable="5+"),
)

CREATE_TOPICS_RESPONSE = Schema(
    "CreateTopicsResponse",
    (
        Field("throttle_time_ms", "int32", "2+"),
        Field("topics", [_CREATABLE_TOPIC_RESULT], "0+"),
    ),
    flexible_from=5,
)

_DELETE_TOPIC_STATE = (
    Field("name", "string", "6+", default=None, nullable="6+"),
    Field("topic_id", "uuid", "6+"),
)

DELETE_TOPICS_REQUEST = Schema(
    "DeleteTopicsRequest",
    (
        Field("topics", [_DELETE_TOPIC_STATE], "6+"),
        Field("topic_names", "[]string", "0-5"),
        Field("timeout_ms", "int32", "0+"),
    ),
    flexible_from=4,
)

_DELETABLE_TOPIC_RESULT = (
    Field("name", "string", "0+", default=None, nullable="6+"),
    Field("topic_id", "uuid", "6+"),
    Field("error_code", "int16", "0+"),
    Field("error_message", "string", "5+", default=None, nullable="5+"),
)

DELETE_TOPICS_RESPONSE = Schema(
    "DeleteTopicsResponse",
    (
        Field("throttle_time_ms", "int32", "1+"),
        Field("responses", [_DELETABLE_TOPIC_RESULT], "0+"),
    ),
    flexible_from=4,
)

_CREATE_PARTITIONS_ASSIGNMENT = (Field("broker_ids", "[]int32", "0+"),)

_CREATE_PARTITIONS_TOPIC = (
    Field("name", "string", "0+"),
    Field("count", "int32", "0+"),
    Field("assignments", [_CREATE_PARTITIONS_ASSIGNMENT], "0+", nullable="0+"),
)

CREATE_PARTITIONS_REQUEST = Schema(
    "CreatePartitionsRequest",
    (
        Field("topics", [_CREATE_PARTITIONS_TOPIC], "0+"),
        Field("timeout_ms", "int32", "0+"),
        Field("validate_only", "bool", "0+"),
    ),
    flexible_from=2,
)

_CREATE_PARTITIONS_TOPIC_RESULT = (
    Field("name", "string", "0+"),
    Field("error_code", "int16", "0+"),
    Field("error_message", "string", "0+", default=None, nullable="0+"),
)

CREATE_PARTITIONS_RESPONSE = Schema(
    "CreatePartitionsResponse",
    (
        Field("throttle_time_ms", "int32", "0+"),
        Field("results", [_CREATE_PARTITIONS_TOPIC_RESULT], "0+"),
    ),
    flexible_from=2,
)
