"""Brokers, topics and partitions: where to go.

Spec:   Metadata (3), DescribeTopicPartitions (75), DescribeCluster (60).
"""

from broker.kafka.schema import Field, Schema

_METADATA_REQUEST_TOPIC = (
    Field("topic_id", "uuid", "10+"),
    Field("name", "string", "0+", nullable="10+"),
)

METADATA_REQUEST = Schema(
    "MetadataRequest",
    (
        Field("topics", [_METADATA_REQUEST_TOPIC], "0+", nullable="1+"),
        Field("allow_auto_topic_creation", "bool", "4+", default=True),
        Field("include_cluster_authorized_operations", "bool", "8-10"),
        Field("include_topic_authorized_operations", "bool", "8+"),
    ),
    flexible_from=9,
)

_METADATA_RESPONSE_BROKER = (
    Field("node_id", "int32", "0+"),
    Field("host", "string", "0+"),
    Field("port", "int32", "0+"),
    Field("rack", "string", "1+", default=None, nullable="1+"),
)

_METADATA_RESPONSE_PARTITION = (
    Field("error_code", "int16", "0+"),
    Field("partition_index", "int32", "0+"),
    Field("leader_id", "int32", "0+"),
    Field("leader_epoch", "int32", "7+", default=-1),
    Field("replica_nodes", "[]int32", "0+"),
    Field("isr_nodes", "[]int32", "0+"),
    Field("offline_replicas", "[]int32", "5+"),
)

_METADATA_RESPONSE_TOPIC = (
    Field("error_code", "int16", "0+"),
    Field("name", "string", "0+", default=None, nullable="12+"),
    Field("topic_id", "uuid", "10+"),
    Field("is_internal", "bool", "1+"),
    Field("partitions", [_METADATA_RESPONSE_PARTITION], "0+"),
    Field("topic_authorized_operations", "int32", "8+", default=-0x80000000),
)

METADATA_RESPONSE = Schema(
    "MetadataResponse",
    (
        Field("throttle_time_ms", "int32", "3+"),
        Field("brokers", [_METADATA_RESPONSE_BROKER], "0+"),
        Field("cluster_id", "string", "2+", default=None, nullable="2+"),
        Field("controller_id", "int32", "1+", default=-1),
        Field("topics", [_METADATA_RESPONSE_TOPIC], "0+"),
        Field("cluster_authorized_operations", "int32", "8-10", default=-0x80000000),
    ),
    flexible_from=9,
)

_TOPIC_REQUEST = (Field("name", "string", "0+"),)

_CURSOR = (
    Field("topic_name", "string", "0+"),
    Field("partition_index", "int32", "0+"),
)

DESCRIBE_TOPIC_PARTITIONS_REQUEST = Schema(
    "DescribeTopicPartitionsRequest",
    (
        Field("topics", [_TOPIC_REQUEST], "0+"),
        Field("response_partition_limit", "int32", "0+", default=2000),
        Field("cursor", _CURSOR, "0+", default=None, nullable="0+"),
    ),
    flexible_from=0,
)

_DESCRIBE_TOPIC_PARTITIONS_RESPONSE_PARTITION = (
    Field("error_code", "int16", "0+"),
    Field("partition_index", "int32", "0+"),
    Field("leader_id", "int32", "0+"),
    Field("leader_epoch", "int32", "0+", default=-1),
    Field("replica_nodes", "[]int32", "0+"),
    Field("isr_nodes", "[]int32", "0+"),
    Field("eligible_leader_replicas", "[]int32", "0+", default=None, nullable="0+"),
    Field("last_known_elr", "[]int32", "0+", default=None, nullable="0+"),
    Field("offline_replicas", "[]int32", "0+"),
)

_DESCRIBE_TOPIC_PARTITIONS_RESPONSE_TOPIC = (
    Field("error_code", "int16", "0+"),
    Field("name", "string", "0+", default=None, nullable="0+"),
    Field("topic_id", "uuid", "0+"),
    Field("is_internal", "bool", "0+"),
    Field("partitions", [_DESCRIBE_TOPIC_PARTITIONS_RESPONSE_PARTITION], "0+"),
    Field("topic_authorized_operations", "int32", "0+", default=-0x80000000),
)

DESCRIBE_TOPIC_PARTITIONS_RESPONSE = Schema(
    "DescribeTopicPartitionsResponse",
    (
        Field("throttle_time_ms", "int32", "0+"),
        Field("topics", [_DESCRIBE_TOPIC_PARTITIONS_RESPONSE_TOPIC], "0+"),
        Field("next_cursor", _CURSOR, "0+", default=None, nullable="0+"),
    ),
    flexible_from=0,
)

DESCRIBE_CLUSTER_REQUEST = Schema(
    "DescribeClusterRequest",
    (
        Field("include_cluster_authorized_operations", "bool", "0+"),
        Field("endpoint_type", "int8", "1+", default=1),
        Field("include_fenced_brokers", "bool", "2+"),
    ),
    flexible_from=0,
)

_DESCRIBE_CLUSTER_BROKER = (
    Field("broker_id", "int32", "0+"),
    Field("host", "string", "0+"),
    Field("port", "int32", "0+"),
    Field("rack", "string", "0+", default=None, nullable="0+"),
    Field("is_fenced", "bool", "2+"),
)

DESCRIBE_CLUSTER_RESPONSE = Schema(
    "DescribeClusterResponse",
    (
        Field("throttle_time_ms", "int32", "0+"),
        Field("error_code", "int16", "0+"),
        Field("error_message", "string", "0+", default=None, nullable="0+"),
        Field("endpoint_type", "int8", "1+", default=1),
        Field("cluster_id", "string", "0+"),
        Field("controller_id", "int32", "0+", default=-1),
        Field("brokers", [_DESCRIBE_CLUSTER_BROKER], "0+"),
        Field("cluster_authorized_operations", "int32", "0+", default=-0x80000000),
    ),
    flexible_from=0,
)
