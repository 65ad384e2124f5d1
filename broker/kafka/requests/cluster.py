"""Leaders and replicas moved.

Spec:   ElectLeaders (43), AlterPartitionReassignments (45), ListPartitionReassignments (46).
"""

from broker.kafka.schema import Field, Schema

_TOPIC_PARTITIONS = (
    Field("topic", "string", "0+"),
    Field("partitions", "[]int32", "0+"),
)

ELECT_LEADERS_REQUEST = Schema(
    "ElectLeadersRequest",
    (
        Field("election_type", "int8", "1+"),
        Field("topic_partitions", [_TOPIC_PARTITIONS], "0+", nullable="0+"),
        Field("timeout_ms", "int32", "0+", default=60000),
    ),
    flexible_from=2,
)

_PARTITION_RESULT = (
    Field("partition_id", "int32", "0+"),
    Field("error_code", "int16", "0+"),
    Field("error_message", "string", "0+", default=None, nullable="0+"),
)

_REPLICA_ELECTION_RESULT = (
    Field("topic", "string", "0+"),
    Field("partition_result", [_PARTITION_RESULT], "0+"),
)

ELECT_LEADERS_RESPONSE = Schema(
    "ElectLeadersResponse",
    (
        Field("throttle_time_ms", "int32", "0+"),
        Field("error_code", "int16", "1+"),
        Field("replica_election_results", [_REPLICA_ELECTION_RESULT], "0+"),
    ),
    flexible_from=2,
)

_REASSIGNABLE_PARTITION = (
    Field("partition_index", "int32", "0+"),
    Field("replicas", "[]int32", "0+", default=None, nullable="0+"),
)

_REASSIGNABLE_TOPIC = (
    Field("name", "string", "0+"),
    Field("partitions", [_REASSIGNABLE_PARTITION], "0+"),
)

ALTER_PARTITION_REASSIGNMENTS_REQUEST = Schema(
    "AlterPartitionReassignmentsRequest",
    (
        Field("timeout_ms", "int32", "0+", default=60000),
        Field("topics", [_REASSIGNABLE_TOPIC], "0+"),
    ),
    flexible_from=0,
)

_REASSIGNABLE_PARTITION_RESPONSE = (
    Field("partition_index", "int32", "0+"),
    Field("error_code", "int16", "0+"),
    Field("error_message", "string", "0+", default=None, nullable="0+"),
)

_REASSIGNABLE_TOPIC_RESPONSE = (
    Field("name", "string", "0+"),
    Field("partitions", [_REASSIGNABLE_PARTITION_RESPONSE], "0+"),
)

ALTER_PARTITION_REASSIGNMENTS_RESPONSE = Schema(
    "AlterPartitionReassignmentsResponse",
    (
        Field("throttle_time_ms", "int32", "0+"),
        Field("error_code", "int16", "0+"),
        Field("error_message", "string", "0+", default=None, nullable="0+"),
        Field("responses", [_REASSIGNABLE_TOPIC_RESPONSE], "0+"),
    ),
    flexible_from=0,
)

_LIST_PARTITION_REASSIGNMENTS_TOPICS = (
    Field("name", "string", "0+"),
    Field("partition_indexes", "[]int32", "0+"),
)

LIST_PARTITION_REASSIGNMENTS_REQUEST = Schema(
    "ListPartitionReassignmentsRequest",
    (
        Field("timeout_ms", "int32", "0+", default=60000),
        Field("topics", [_LIST_PARTITION_REASSIGNMENTS_TOPICS], "0+", default=None, nullable="0+"),
    ),
    flexible_from=0,
)

_ONGOING_PARTITION_REASSIGNMENT = (
    Field("partition_index", "int32", "0+"),
    Field("replicas", "[]int32", "0+"),
    Field("adding_replicas", "[]int32", "0+"),
    Field("removing_replicas", "[]int32", "0+"),
)

_ONGOING_TOPIC_REASSIGNMENT = (
    Field("name", "string", "0+"),
    Field("partitions", [_ONGOING_PARTITION_REASSIGNMENT], "0+"),
)

LIST_PARTITION_REASSIGNMENTS_RESPONSE = Schema(
    "ListPartitionReassignmentsResponse",
    (
        Field("throttle_time_ms", "int32", "0+"),
        Field("error_code", "int16", "0+"),
        Field("error_message", "string", "0+", default=None, nullable="0+"),
        Field("topics", [_ONGOING_TOPIC_REASSIGNMENT], "0+"),
    ),
    flexible_from=0,
)
