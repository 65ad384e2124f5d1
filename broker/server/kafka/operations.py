"""What a client may do with a topic, a group or the cluster, as the bits that Kafka's answers have.

Spec:   the numbers of AclOperation; each kind of resource has some of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from broker.model.user import Right

if TYPE_CHECKING:
    from broker.server.kafka.connection import KafkaConnection

# What concerns the broker as a whole is checked under this name: a user with the right on any topic has it.
CLUSTER: Final = ""
NOT_ASKED: Final = -(2**31)

_READ: Final = 1 << 3
_WRITE: Final = 1 << 4
_CREATE: Final = 1 << 5
_DELETE: Final = 1 << 6
_ALTER: Final = 1 << 7
_DESCRIBE: Final = 1 << 8
_CLUSTER_ACTION: Final = 1 << 9
_DESCRIBE_CONFIGS: Final = 1 << 10
_ALTER_CONFIGS: Final = 1 << 11
_IDEMPOTENT_WRITE: Final = 1 << 12

_OF_TOPIC: Final = {
    Right.READ: _READ | _DESCRIBE,
    Right.WRITE: _WRITE | _DESCRIBE,
    Right.CONFIGURE: _CREATE | _DELETE | _ALTER | _DESCRIBE | _DESCRIBE_CONFIGS | _ALTER_CONFIGS,
}
_OF_GROUP: Final = {Right.READ: _READ, Right.CONFIGURE: _DELETE}
_OF_CLUSTER: Final = {
    Right.READ: _DESCRIBE | _DESCRIBE_CONFIGS,
    Right.WRITE: _IDEMPOTENT_WRITE | _DESCRIBE | _DESCRIBE_CONFIGS,
    Right.CONFIGURE: _CREATE | _ALTER | _DESCRIBE | _CLUSTER_ACTION | _DESCRIBE_CONFIGS | _ALTER_CONFIGS,
}


def on_topic(connection: KafkaConnection, name: str) -> int:
    return _allowed(connection, name, _OF_TOPIC)


def on_group(connection: KafkaConnection, group_id: str) -> int:
    """Of a group that the client may see."""
    return _DESCRIBE | _allowed(connection, group_id, _OF_GROUP)


def on_cluster(connection: KafkaConnection) -> int:
    return _allowed(connection, CLUSTER, _OF_CLUSTER)


def _allowed(connection: KafkaConnection, name: str, operations: Mapping[Right, int]) -> int:
    bits = 0
    for right, allowed in operations.items():
        if connection.allows(right, name):
            bits |= allowed
    return bits
