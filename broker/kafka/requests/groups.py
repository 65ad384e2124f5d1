"""Members of a group: from finding its coordinator to leaving.

Spec:   FindCoordinator (10), JoinGroup (11), SyncGroup (14), Heartbeat (12), LeaveGroup (13).
"""

from broker.kafka.schema import Field, Schema

FIND_COORDINATOR_REQUEST = Schema(
    "FindCoordinatorRequest",
    (
        Field("key", "string", "0-3"),
        Field("key_type", "int8", "1+"),
        Field("coordinator_keys", "[]string", "4+"),
    ),
    flexible_from=3,
)

_COORDINATOR = (
    Field("key", "string", "4+"),
    Field("node_id", "int32", "4+"),
    Field("host", "string", "4+"),
    Field("port", "int32", "4+"),
    Field("error_code", "int16", "4+"),
    Field("error_message", "string", "4+", default=None, nullable="4+"),
)

FIND_COORDINATOR_RESPONSE = Schema(
    "FindCoordinatorResponse",
    (
        Field("throttle_time_ms", "int32", "1+"),
        Field("error_code", "int16", "0-3"),
        Field("error_message", "string", "1-3", default=None, nullable="1-3"),
        Field("node_id", "int32", "0-3"),
        Field("host", "string", "0-3"),
        Field("port", "int32", "0-3"),
        Field("coordinators", [_COORDINATOR], "4+"),
    ),
    flexible_from=3,
)

_JOIN_GROUP_REQUEST_PROTOCOL = (
    Field("name", "string", "0+"),
    Field("metadata", "bytes", "0+"),
)

JOIN_GROUP_REQUEST = Schema(
    "JoinGroupRequest",
    (
        Field("group_id", "string", "0+"),
        Field("session_timeout_ms", "int32", "0+"),
        Field("rebalance_timeout_ms", "int32", "1+", default=-1),
        Field("member_id", "string", "0+"),
        Field("group_instance_id", "string", "5+", default=None, nullable="5+"),
        Field("protocol_type", "string", "0+"),
        Field("protocols", [_JOIN_GROUP_REQUEST_PROTOCOL], "0+"),
        Field("reason", "string", "8+", default=None, nullable="8+"),
    ),
    flexible_from=6,
)

_JOIN_GROUP_RESPONSE_MEMBER = (
    Field("member_id", "string", "0+"),
    Field("group_instance_id", "string", "5+", default=None, nullable="5+"),
    Field("metadata", "bytes", "0+"),
)

JOIN_GROUP_RESPONSE = Schema(
    "JoinGroupResponse",
    (
        Field("throttle_time_ms", "int32", "2+"),
        Field("error_code", "int16", "0+"),
        Field("generation_id", "int32", "0+", default=-1),
        Field("protocol_type", "string", "7+", default=None, nullable="7+"),
        Field("protocol_name", "string", "0+", default=None, nullable="7+"),
        Field("leader", "string", "0+"),
        Field("skip_assignment", "bool", "9+"),
        Field("member_id", "string", "0+"),
        Field("members", [_JOIN_GROUP_RESPONSE_MEMBER], "0+"),
    ),
    flexible_from=6,
)

_SYNC_GROUP_REQUEST_ASSIGNMENT = (
    Field("member_id", "string", "0+"),
    Field("assignment", "bytes", "0+"),
)

SYNC_GROUP_REQUEST = Schema(
    "SyncGroupRequest",
    (
        Field("group_id", "string", "0+"),
        Field("generation_id", "int32", "0+"),
        Field("member_id", "string", "0+"),
        Field("group_instance_id", "string", "3+", default=None, nullable="3+"),
        Field("protocol_type", "string", "5+", default=None, nullable="5+"),
        Field("protocol_name", "string", "5+", default=None, nullable="5+"),
        Field("assignments", [_SYNC_GROUP_REQUEST_ASSIGNMENT], "0+"),
    ),
    flexible_from=4,
)

SYNC_GROUP_RESPONSE = Schema(
    "SyncGroupResponse",
    (
        Field("throttle_time_ms", "int32", "1+"),
        Field("error_code", "int16", "0+"),
        Field("protocol_type", "string", "5+", default=None, nullable="5+"),
        Field("protocol_name", "string", "5+", default=None, nullable="5+"),
        Field("assignment", "bytes", "0+"),
    ),
    flexible_from=4,
)

HEARTBEAT_REQUEST = Schema(
    "HeartbeatRequest",
    (
        Field("group_id", "string", "0+"),
        Field("generation_id", "int32", "0+"),
        Field("member_id", "string", "0+"),
        Field("group_instance_id", "string", "3+", default=None, nullable="3+"),
    ),
    flexible_from=4,
)

HEARTBEAT_RESPONSE = Schema(
    "HeartbeatResponse",
    (
        Field("throttle_time_ms", "int32", "1+"),
        Field("error_code", "int16", "0+"),
    ),
    flexible_from=4,
)

_MEMBER_IDENTITY = (
    Field("member_id", "string", "3+"),
    Field("group_instance_id", "string", "3+", default=None, nullable="3+"),
    Field("reason", "string", "5+", default=None, nullable="5+"),
)

LEAVE_GROUP_REQUEST = Schema(
    "LeaveGroupRequest",
    (
        Field("group_id", "string", "0+"),
        Field("member_id", "string", "0-2"),
        Field("members", [_MEMBER_IDENTITY], "3+"),
    ),
    flexible_from=4,
)

_MEMBER_RESPONSE = (
    Field("member_id", "string", "3+"),
    Field("group_instance_id", "string", "3+", default=None, nullable="3+"),
    Field("error_code", "int16", "3+"),
)

LEAVE_GROUP_RESPONSE = Schema(
    "LeaveGroupResponse",
    (
        Field("throttle_time_ms", "int32", "1+"),
        Field("error_code", "int16", "0+"),
        Field("members", [_MEMBER_RESPONSE], "3+"),
    ),
    flexible_from=4,
)
