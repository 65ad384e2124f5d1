"""Configuration of topics and brokers.

Spec:   DescribeConfigs (32), AlterConfigs (33), IncrementalAlterConfigs (44), ListConfigResources (74).
"""

from broker.kafka.schema import Field, Schema

_DESCRIBE_CONFIGS_RESOURCE = (
    Field("resource_type", "int8", "0+"),
    Field("resource_name", "string", "0+"),
    Field("configuration_keys", "[]string", "0+", nullable="0+"),
)

DESCRIBE_CONFIGS_REQUEST = Schema(
    "DescribeConfigsRequest",
    (
        Field("resources", [_DESCRIBE_CONFIGS_RESOURCE], "0+"),
        Field("include_synonyms", "bool", "1+"),
        Field("include_documentation", "bool", "3+"),
    ),
    flexible_from=4,
)

_DESCRIBE_CONFIGS_SYNONYM = (
    Field("name", "string", "1+"),
    Field("value", "string", "1+", default=None, nullable="0+"),
    Field("source", "int8", "1+"),
)

_DESCRIBE_CONFIGS_RESOURCE_RESULT = (
    Field("name", "string", "0+"),
    Field("value", "string", "0+", default=None, nullable="0+"),
    Field("read_only", "bool", "0+"),
    Field("config_source", "int8", "1+", default=-1),
    Field("is_sensitive", "bool", "0+"),
    Field("synonyms", [_DESCRIBE_CONFIGS_SYNONYM], "1+"),
    Field("config_type", "int8", "3+"),
    Field("documentation", "string", "3+", default=None, nullable="0+"),
)

_DESCRIBE_CONFIGS_RESULT = (
    Field("error_code", "int16", "0+"),
    Field("error_message", "string", "0+", default=None, nullable="0+"),
    Field("resource_type", "int8", "0+"),
    Field("resource_name", "string", "0+"),
    Field("configs", [_DESCRIBE_CONFIGS_RESOURCE_RESULT], "0+"),
)

DESCRIBE_CONFIGS_RESPONSE = Schema(
    "DescribeConfigsResponse",
    (
        Field("throttle_time_ms", "int32", "0+"),
        Field("results", [_DESCRIBE_CONFIGS_RESULT], "0+"),
    ),
    flexible_from=4,
)

_ALTERABLE_CONFIG = (
    Field("name", "string", "0+"),
    Field("value", "string", "0+", nullable="0+"),
)

_ALTER_CONFIGS_RESOURCE = (
    Field("resource_type", "int8", "0+"),
    Field("resource_name", "string", "0+"),
    Field("configs", [_ALTERABLE_CONFIG], "0+"),
)

ALTER_CONFIGS_REQUEST = Schema(
    "AlterConfigsRequest",
    (
        Field("resources", [_ALTER_CONFIGS_RESOURCE], "0+"),
        Field("validate_only", "bool", "0+"),
    ),
    flexible_from=2,
)

_ALTER_CONFIGS_RESOURCE_RESPONSE = (
    Field("error_code", "int16", "0+"),
    Field("error_message", "string", "0+", default=None, nullable="0+"),
    Field("resource_type", "int8", "0+"),
    Field("resource_name", "string", "0+"),
)

ALTER_CONFIGS_RESPONSE = Schema(
    "AlterConfigsResponse",
    (
        Field("throttle_time_ms", "int32", "0+"),
        Field("responses", [_ALTER_CONFIGS_RESOURCE_RESPONSE], "0+"),
    ),
    flexible_from=2,
)

_CONFIG_CHANGE = (
    Field("name", "string", "0+"),
    Field("config_operation", "int8", "0+"),
    Field("value", "string", "0+", nullable="0+"),
)

_INCREMENTAL_ALTER_CONFIGS_RESOURCE = (
    Field("resource_type", "int8", "0+"),
    Field("resource_name", "string", "0+"),
    Field("configs", [_CONFIG_CHANGE], "0+"),
)

INCREMENTAL_ALTER_CONFIGS_REQUEST = Schema(
    "IncrementalAlterConfigsRequest",
    (
        Field("resources", [_INCREMENTAL_ALTER_CONFIGS_RESOURCE], "0+"),
        Field("validate_only", "bool", "0+"),
    ),
    flexible_from=1,
)

INCREMENTAL_ALTER_CONFIGS_RESPONSE = Schema(
    "IncrementalAlterConfigsResponse",
    (
        Field("throttle_time_ms", "int32", "0+"),
        Field("responses", [_ALTER_CONFIGS_RESOURCE_RESPONSE], "0+"),
    ),
    flexible_from=1,
)

LIST_CONFIG_RESOURCES_REQUEST = Schema(
    "ListConfigResourcesRequest",
    (Field("resource_types", "[]int8", "1+"),),
    flexible_from=0,
)

_CONFIG_RESOURCE = (
    Field("resource_name", "string", "0+"),
    Field("resource_type", "int8", "1+", default=16),
)

LIST_CONFIG_RESOURCES_RESPONSE = Schema(
    "ListConfigResourcesResponse",
    (
        Field("throttle_time_ms", "int32", "0+"),
        Field("error_code", "int16", "0+"),
        Field("config_resources", [_CONFIG_RESOURCE], "0+"),
    ),
    flexible_from=0,
)
