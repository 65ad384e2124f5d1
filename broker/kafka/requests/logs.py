"""Records and log directories seen from outside.

Spec:   DeleteRecords (21), DescribeLogDirs (35).
"""

from broker.kafka.schema import Field, Schema

_DELETE_RECORDS_PARTITION = (
    Field("partition_index", "int32", "0+"),
    Field("offset", "int64", "0+"),
)

_DELETE_RECORDS_TOPIC = (
    Field("name", "string", "0+"),
    Field("partitions", [_DELETE_RECORDS_PARTITION], "0+"),
)

DELETE_RECORDS_REQUEST = Schema(
    "DeleteRecordsRequest",
    (
        Field("topics", [_DELETE_RECORDS_TOPIC], "0+"),
        Field("timeout_ms", "int32", "0+"),
    ),
    flexible_from=2,
)

_DELETE_RECORDS_PARTITION_RESULT = (
    Field("partition_index", "int32", "0+"),
    Field("low_watermark", "int64", "0+"),
    Field("error_code", "int16", "0+"),
)

_DELETE_RECORDS_TOPIC_RESULT = (
    Field("name", "string", "0+"),
    Field("partitions", [_DELETE_RECORDS_PARTITION_RESULT], "0+"),
)

DELETE_RECORDS_RESPONSE = Schema(
    "DeleteRecordsResponse",
    (
        Field("throttle_time_ms", "int32", "0+"),
        Field("topics", [_DELETE_RECORDS_TOPIC_RESULT], "0+"),
    ),
    flexible_from=2,
)

_DESCRIBABLE_LOG_DIR_TOPIC = (
    Field("topic", "string", "0+"),
    Field("partitions", "[]int32", "0+"),
)

DESCRIBE_LOG_DIRS_REQUEST = Schema(
    "DescribeLogDirsRequest",
    (Field("topics", [_DESCRIBABLE_LOG_DIR_TOPIC], "0+", nullable="0+"),),
    flexible_from=2,
)

_DESCRIBE_LOG_DIRS_PARTITION = (
    Field("partition_index", "int32", "0+"),
    Field("partition_size", "int64", "0+"),
    Field("offset_lag", "int64", "0+"),
    Field("is_future_key", "bool", "0+"),
)

_DESCRIBE_LOG_DIRS_TOPIC = (
    Field("name", "string", "0+"),
    Field("partitions", [_DESCRIBE_LOG_DIRS_PARTITION], "0+"),
)

_DESCRIBE_LOG_DIRS_RESULT = (
    Field("error_code", "int16", "0+"),
    Field("log_dir", "string", "0+"),
    Field("topics", [_DESCRIBE_LOG_DIRS_TOPIC], "0+"),
    Field("total_bytes", "int64", "4+", default=-1),
    Field("usable_bytes", "int64", "4+", default=-1),
)

DESCRIBE_LOG_DIRS_RESPONSE = Schema(
    "DescribeLogDirsResponse",
    (
        Field("throttle_time_ms", "int32", "0+"),
        Field("error_code", "int16", "3+"),
        Field("results", [_DESCRIBE_LOG_DIRS_RESULT], "0+"),
    ),
    flexible_from=2,
)
