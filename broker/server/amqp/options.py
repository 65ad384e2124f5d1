"""What the AMQP server must be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(slots=True, frozen=True)
class AmqpOptions:
    """Limits and names, each with RabbitMQ's default unless a comment says otherwise."""

    product: str = "RabbitMQ"
    version: str = "3.13.7"
    own_version: str = ""
    channel_max: int = 2047
    frame_max: int = 131_072
    heartbeat_s: int = 60
    connection_max: int = 65_536
    message_size_max: int = 128 * 1024 * 1024  # as RabbitMQ 3
    unfinished_size_max: int = 256 * 1024 * 1024  # RabbitMQ has none
    handshake_timeout_s: float = 10.0
    close_timeout_s: float = 30.0
    refused_delay_s: float = 3.0
    loopback_users: frozenset[str] = frozenset({"guest"})
    transaction_size_max: int = 64 * 1024 * 1024  # RabbitMQ has none
    consumers_per_channel_max: int = 65_536  # RabbitMQ has none

    def server_properties(self, cluster_name: str) -> dict[str, Any]:
        """What `connection.start` tells; clients decide by the capabilities, and kombu by the product."""
        return {
            "capabilities": dict.fromkeys(CAPABILITIES, True),
            "cluster_name": cluster_name,
            "copyright": "The Leveret developers",
            "information": "Licensed under the Apache License, Version 2.0",
            "platform": "Python",
            "product": self.product,
            "version": self.version,
            "leveret_version": self.own_version,
            "broker": "Leveret",
        }


CAPABILITIES = (
    "publisher_confirms",
    "exchange_exchange_bindings",
    "basic.nack",
    "consumer_cancel_notify",
    "connection.blocked",
    "consumer_priorities",
    "authentication_failure_close",
    "per_consumer_qos",
    "direct_reply_to",
)

MECHANISMS = b"PLAIN AMQPLAIN"
