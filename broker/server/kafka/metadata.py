"""Metadata, DescribeCluster and DescribeTopicPartitions: who leads what, and where.

Flow:   there is one broker, which leads everything; clients are told the address that they came to. A topic
        that is asked for and missing is made, if the client and the settings allow it.
        Of those that make too many partitions for one turn the client is told to ask again, as Kafka tells of each.
        A topic that a request names more than once is in the answer once, as in Kafka.
Limits: an answer names at most `_PARTITIONS_MAX` partitions where the request has a cursor.
"""

from __future__ import annotations

import functools
import uuid
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from broker.kafka import api
from broker.kafka.api import Request
from broker.kafka.errors import ErrorCode
from broker.model.errors import ModelError
from broker.model.user import Right
from broker.node.flusher import Commit
from broker.node.portions import Portions
from broker.node.topics import MADE_AT_ONCE, Topic
from broker.server.kafka import operations
from broker.server.kafka.errors import code_of
from broker.server.kafka.operations import NOT_ASKED
from broker.server.kafka.reply import Reply

if TYPE_CHECKING:
    from broker.server.kafka.connection import KafkaConnection
    from broker.server.kafka.handlers import Handler

_PARTITIONS_MAX: Final = 2000
# What a topic costs beside its partitions, in partitions.
_TOPIC_UNITS: Final = 4
# An enumeration is slow to walk.
_RIGHTS: Final = tuple(Right)


@functools.lru_cache(4)
def cluster_id(node: str) -> str:
    """The same as long as the node has its name."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"leveret:{node}"))


def visible(connection: KafkaConnection, name: str) -> bool:
    """Whoever may do anything with a topic may know that it is there."""
    return any(connection.allows(right, name) for right in _RIGHTS)


def _brokers(connection: KafkaConnection) -> list[dict[str, Any]]:
    host, port = connection.server.address_for(connection)
    return [{"node_id": connection.server.options.node_id, "host": host, "port": port, "rack": None}]


def metadata(connection: KafkaConnection, request: Request, reply: Reply) -> None:
    body = request.body
    vhost = connection.server.options.vhost
    asked = body["topics"]
    commit: Commit | None = None
    if asked is None or (not asked and request.version == 0):
        found = [
            _described(connection, topic, body["include_topic_authorized_operations"])
            for topic in connection.node.topics.topics(vhost)
            if visible(connection, topic.name)
        ]
    else:
        before = connection.node.topics.partition_count
        creates = body["allow_auto_topic_creation"] or request.version < 4
        creation = _Creation(connection, creates and connection.server.options.auto_create_topics)
        once = {(one["name"], one["topic_id"]): one for one in asked}.values()
        found = [_asked(connection, one, creation, body) for one in once]
        if connection.node.topics.partition_count != before:
            commit = connection.node.flusher.open
    cluster_operations = NOT_ASKED
    if body["include_cluster_authorized_operations"]:
        cluster_operations = operations.on_cluster(connection)
    reply.answer_after(
        commit,
        {
            "brokers": _brokers(connection),
            "cluster_id": cluster_id(connection.node.options.name),
            "controller_id": connection.server.options.node_id,
            "topics": found,
            "cluster_authorized_operations": cluster_operations,
        },
    )


def _asked(
    connection: KafkaConnection, one: dict[str, Any], creation: _Creation, body: dict[str, Any]
) -> dict[str, Any]:
    name, id = one["name"], one["topic_id"]
    topics = connection.node.topics
    vhost = connection.server.options.vhost
    if name is None:
        topic = topics.by_id(id)
        if topic is None or topic.vhost != vhost or not visible(connection, topic.name):
            return {"error_code": ErrorCode.UNKNOWN_TOPIC_ID, "name": None, "topic_id": id}
    else:
        if not visible(connection, name):
            return {"error_code": ErrorCode.TOPIC_AUTHORIZATION_FAILED, "name": name}
        topic = topics.find(vhost, name)
        if topic is None:
            made = creation.of(name)
            if isinstance(made, ErrorCode):
                return {"error_code": made, "name": name}
            topic = made
    return _described(connection, topic, body["include_topic_authorized_operations"])


class _Creation:
    """Topics that are made because somebody asked for them: of one request as many as there is time for."""

    def __init__(self, connection: KafkaConnection, allowed: bool) -> None:
        self._connection = connection
        self._allowed = allowed
        self._left = MADE_AT_ONCE

    def of(self, name: str) -> Topic | ErrorCode:
        """The topic, or why there is none, or none yet."""
        connection = self._connection
        vhost, partitions = connection.server.options.vhost, connection.server.options.partitions
        topics = connection.node.topics
        if topics.is_coming(vhost, name):
            return ErrorCode.LEADER_NOT_AVAILABLE
        if not self._allowed or not connection.allows(Right.CONFIGURE, name):
            return ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        try:
            topics.check_new(vhost, name, partitions)
            if self._left <= 0:
                return ErrorCode.LEADER_NOT_AVAILABLE
            self._left -= partitions + _TOPIC_UNITS
            if partitions <= MADE_AT_ONCE:
                return topics.create(vhost, name, partitions)
        except ModelError as error:
            return code_of(error)
        connection.server.start_soon(_create_in_portions, connection, name, partitions)
        return ErrorCode.LEADER_NOT_AVAILABLE


async def _create_in_portions(connection: KafkaConnection, name: str, partitions: int) -> None:
    """Whoever asked for it asks again."""
    vhost = connection.server.options.vhost
    try:
        with suppress(ModelError):
            await connection.node.topics.create_in_portions(Portions(MADE_AT_ONCE), vhost, name, partitions)
    except Exception as error:
        connection.failed(error)
    connection.node.end_pass()


def _described(connection: KafkaConnection, topic: Topic, with_operations: bool) -> dict[str, Any]:
    return {
        "error_code": ErrorCode.NONE,
        "name": topic.name,
        "topic_id": topic.id,
        "is_internal": topic.internal,
        "partitions": [_partition(connection, number) for number in range(len(topic.partitions))],
        "topic_authorized_operations": operations.on_topic(connection, topic.name)
        if with_operations
        else NOT_ASKED,
    }


def _partition(connection: KafkaConnection, number: int) -> dict[str, Any]:
    node_id = connection.server.options.node_id
    return {
        "error_code": ErrorCode.NONE,
        "partition_index": number,
        "leader_id": node_id,
        "leader_epoch": 0,
        "replica_nodes": [node_id],
        "isr_nodes": [node_id],
        "offline_replicas": [],
    }


def describe_cluster(connection: KafkaConnection, request: Request, reply: Reply) -> None:
    host, port = connection.server.address_for(connection)
    node_id = connection.server.options.node_id
    asked = request.body["include_cluster_authorized_operations"]
    reply.answer(
        {
            "error_code": ErrorCode.NONE,
            "endpoint_type": request.body["endpoint_type"],
            "cluster_id": cluster_id(connection.node.options.name),
            "controller_id": node_id,
            "brokers": [{"broker_id": node_id, "host": host, "port": port, "rack": None}],
            "cluster_authorized_operations": operations.on_cluster(connection) if asked else NOT_ASKED,
        }
    )


def describe_topic_partitions(connection: KafkaConnection, request: Request, reply: Reply) -> None:
    """In the order of names, from the cursor on, so many partitions as are asked for."""
    body = request.body
    vhost = connection.server.options.vhost
    cursor = body["cursor"]
    names = sorted({one["name"] for one in body["topics"]})
    if not names:
        names = sorted(topic.name for topic in connection.node.topics.topics(vhost))
        names = [name for name in names if visible(connection, name)]
    room = min(max(body["response_partition_limit"], 1), _PARTITIONS_MAX)
    first = 0
    if cursor is not None:
        names = [name for name in names if name >= cursor["topic_name"]]
        first = max(cursor["partition_index"], 0)
    found: list[dict[str, Any]] = []
    following = None
    for name in names:
        begins = first if cursor is not None and name == cursor["topic_name"] else 0
        if room <= 0:
            following = {"topic_name": name, "partition_index": 0}
            break
        topic = connection.node.topics.find(vhost, name)
        if not visible(connection, name):
            found.append({"error_code": ErrorCode.TOPIC_AUTHORIZATION_FAILED, "name": name})
            continue
        if topic is None:
            found.append({"error_code": ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, "name": name})
            continue
        described = _described(connection, topic, True)
        described["partitions"] = described["partitions"][begins : begins + room]
        for partition in described["partitions"]:
            # Null is allowed, but Java's admin client stumbles over it.
            partition |= {"eligible_leader_replicas": [], "last_known_elr": []}
        found.append(described)
        shown = begins + len(described["partitions"])
        room -= len(described["partitions"])
        if shown < len(topic.partitions):
            following = {"topic_name": name, "partition_index": shown}
            break
    reply.answer({"topics": found, "next_cursor": following})


HANDLERS: Final[dict[int, Handler]] = {
    api.METADATA.key: metadata,
    api.DESCRIBE_CLUSTER.key: describe_cluster,
    api.DESCRIBE_TOPIC_PARTITIONS.key: describe_topic_partitions,
}
