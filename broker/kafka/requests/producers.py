"""Producer ids.

Spec:   InitProducerId (22), DescribeProducers (61).
"""

from broker.kafka.schema import Field, Schema

INIT_PRODUCER_ID_REQUEST = Schema(
    "InitProducerIdRequest",
    (
        Field("transactional_id", "string", "0+", nullable="0+"),
        Field("transaction_timeout_ms", "int32", "0+"),
        Field("producer_id", "int64", "3+", default=-1),
        Field("producer_epoch", "int16", "3+", default=-1),
    ),
    flexible_from=2,
)

INIT_PRODUCER_ID_RESPONSE = Schema(
    "InitProducerIdResponse",
    (
        Field("throttle_time_ms", "int32", "0+"),
        Field("error_code", "int16", "0+"),
        Field("producer_id", "int64", "0+", default=-1),
        Field("producer_epoch", "int16", "0+"),
    ),
    flexible_from=2,
)

_TOPIC_REQUEST = (
    Field("name", "string", "0+"),
    Field("partition_indexes", "[]int32", "0+"),
)

DESCRIBE_PRODUCERS_REQUEST = Schema(
    "DescribeProducersRequest",
    (Field("topics", [_TOPIC_REQUEST], "0+"),),
    flexible_from=0,
)

_PRODUCER_STATE = (
    Field("producer_id", "int64", "0+"),
    Field("producer_epoch", "int32", "0+"),
    Field("last_sequence", "int32", "0+", default=-1),
    Field("last_timestamp", "int64", "0+", default=-1),
    Field("coordinator_epoch", "int32", "0+"),
    Field("current_txn_start_offset", "int64", "0+", default=-1),
)

_PARTITION_RESPONSE = (
    Field("partition_index", "int32", "0+"),
    Field("error_code", "int16", "0+"),
    Field("error_message", "string", "0+", default=None, nullable="0+"),
    Field("active_producers", [_PRODUCER_STATE], "0+"),
)

_TOPIC_RESPONSE = (
    Field("name", "string", "0+"),
    Field("partitions", [_PARTITION_RESPONSE], "0+"),
)

DESCRIBE_PRODUCERS_RESPONSE = Schema(
    "DescribeProducersResponse",
    (
        Field("throttle_time_ms", "int32", "0+"),
        Field("topics", [_TOPIC_RESPONSE], "0+"),
    ),
    flexible_from=0,
)
