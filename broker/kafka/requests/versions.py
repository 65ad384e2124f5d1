"""What is served, in which versions.

Spec:   ApiVersions (18).
"""

from broker.kafka.schema import Field, Schema

API_VERSIONS_REQUEST = Schema(
    "ApiVersionsRequest",
    (
        Field("client_software_name", "string", "3+"),
        Field("client_software_version", "string", "3+"),
    ),
    flexible_from=3,
)

_API_VERSION = (
    Field("api_key", "int16", "0+"),
    Field("min_version", "int16", "0+"),
    Field("max_version", "int16", "0+"),
)

_SUPPORTED_FEATURE_KEY = (
    Field("name", "string", "3+"),
    Field("min_version", "int16", "3+"),
    Field("max_version", "int16", "3+"),
)

_FINALIZED_FEATURE_KEY = (
    Field("name", "string", "3+"),
    Field("max_version_level", "int16", "3+"),
    Field("min_version_level", "int16", "3+"),
)

API_VERSIONS_RESPONSE = Schema(
    "ApiVersionsResponse",
    (
        Field("error_code", "int16", "0+"),
        Field("api_keys", [_API_VERSION], "0+"),
        Field("throttle_time_ms", "int32", "1+"),
        Field("supported_features", [_SUPPORTED_FEATURE_KEY], "3+", tag=0),
        Field("finalized_features_epoch", "int64", "3+", default=-1, tag=1),
        Field("finalized_features", [_FINALIZED_FEATURE_KEY], "3+", tag=2),
        Field("zk_migration_ready", "bool", "3+", tag=3),
    ),
    flexible_from=3,
)
