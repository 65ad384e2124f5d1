"""Groups seen from outside.

Spec:   DescribeGroups (15), ListGroups (16), DeleteGroups (42).
"""

from broker.kafka.schema import Field, Schema

DESCRIBE_GROUPS_REQUEST = Schema(
    "DescribeGroupsRequest",
    (
        Field("groups", "[]string", "0+"),
        Field("include_authorized_operations", "bool", "3+"),
    ),
    flexible_from=5,
)

_DESCRIBED_GROUP_MEMBER = (
    Field("member_id", "string", "0+"),
    Field("group_instance_id", "string", "4+", default=None, nullable="4+"),
    Field("client_id", "string", "0+"),
    Field("client_host", "string", "0+"),
    Field("member_metadata", "bytes", "0+"),
    Field("member_assignment", "bytes", "0+"),
)

_DESCRIBED_GROUP = (
    Field("error_code", "int16", "0+"),
    Field("error_message", "string", "6+", default=None, nullable="6+"),
    Field("group_id", "string", "0+"),
    Field("group_state", "string", "0+"),
    Field("protocol_type", "string", "0+"),
    Field("protocol_data", "string", "0+"),
    Field("members", [_DESCRIBED_GROUP_MEMBER], "0+"),
    Field("authorized_operations", "int32", "3+", default=-0x80000000),
)

DESCRIBE_GROUPS_RESPONSE = Schema(
    "DescribeGroupsResponse",
    (
        Field("throttle_time_ms", "int32", "1+"),
        Field("groups", [_DESCRIBED_GROUP], "0+"),
    ),
    flexible_from=5,
)

LIST_GROUPS_REQUEST = Schema(
    "ListGroupsRequest",
    (
        Field("states_filter", "[]string", "4+"),
        Field("types_filter", "[]string", "5+"),
    ),
    flexible_from=3,
)

_LISTED_GROUP = (
    Field("group_id", "string", "0+"),
    Field("protocol_type", "string", "0+"),
    Field("group_state", "string", "4+"),
    Field("group_type", "string", "5+"),
)

LIST_GROUPS_RESPONSE = Schema(
    "ListGroupsResponse",
    (
        Field("throttle_time_ms", "int32", "1+"),
        Field("error_code", "int16", "0+"),
        Field("groups", [_LISTED_GROUP], "0+"),
    ),
    flexible_from=3,
)

DELETE_GROUPS_REQUEST = Schema(
    "DeleteGroupsRequest",
    (Field("groups_names", "[]string", "0+"),),
    flexible_from=2,
)

_DELETABLE_GROUP_RESULT = (
    Field("group_id", "string", "0+"),
    Field("error_code", "int16", "0+"),
)

DELETE_GROUPS_RESPONSE = Schema(
    "DeleteGroupsResponse",
    (
        Field("throttle_time_ms", "int32", "0+"),
        Field("results", [_DELETABLE_GROUP_RESULT], "0+"),
    ),
    flexible_from=2,
)
