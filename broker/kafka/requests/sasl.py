"""Who a client is.

Spec:   SaslHandshake (17), SaslAuthenticate (36).
"""

from broker.kafka.schema import Field, Schema

SASL_HANDSHAKE_REQUEST = Schema(
    "SaslHandshakeRequest",
    (Field("mechanism", "string", "0+"),),
    flexible_from=None,
)

SASL_HANDSHAKE_RESPONSE = Schema(
    "SaslHandshakeResponse",
    (
        Field("error_code", "int16", "0+"),
        Field("mechanisms", "[]string", "0+"),
    ),
    flexible_from=None,
)

SASL_AUTHENTICATE_REQUEST = Schema(
    "SaslAuthenticateRequest",
    (Field("auth_bytes", "bytes", "0+"),),
    flexible_from=2,
)

SASL_AUTHENTICATE_RESPONSE = Schema(
    "SaslAuthenticateResponse",
    (
        Field("error_code", "int16", "0+"),
        Field("error_message", "string", "0+", default=None, nullable="0+"),
        Field("auth_bytes", "bytes", "0+"),
        Field("session_lifetime_ms", "int64", "1+"),
    ),
    flexible_from=2,
)
