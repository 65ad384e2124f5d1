"""ElectLeaders, AlterPartitionReassignments and ListPartitionReassignments, in a cluster of one.

Why:    Tools call these without thinking: the truth is that the leader is the right one, that the replicas
        are where they can be, and that nothing moves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from broker.kafka import api
from broker.kafka.api import Request
from broker.kafka.errors import ErrorCode
from broker.model.errors import ModelError
from broker.server.kafka.errors import Refused, failure, refusal
from broker.server.kafka.reply import Reply
from broker.server.kafka.topic_admin import check_replicas, check_right

if TYPE_CHECKING:
    from broker.server.kafka.connection import KafkaConnection
    from broker.server.kafka.handlers import Handler


def elect_leaders(connection: KafkaConnection, request: Request, reply: Reply) -> None:
    """Without any partitions named, all of them: of those, Kafka leaves out the ones that need no election."""
    results = [
        {
            "topic": topic["topic"],
            "partition_result": [
                {"partition_id": number, **_elected(connection, topic["topic"], number)}
                for number in topic["partitions"]
            ],
        }
        for topic in request.body["topic_partitions"] or ()
    ]
    reply.answer({"error_code": ErrorCode.NONE, "replica_election_results": results})


def _elected(connection: KafkaConnection, name: str, number: int) -> dict[str, Any]:
    try:
        check_right(connection, name)
        connection.node.topics.topic(connection.server.options.vhost, name).partition(number)
    except (Refused, ModelError) as error:
        return refusal(error)
    return failure(ErrorCode.ELECTION_NOT_NEEDED, "the only broker leads it already")


def alter_partition_reassignments(connection: KafkaConnection, request: Request, reply: Reply) -> None:
    responses = [
        {
            "name": topic["name"],
            "partitions": [
                {"partition_index": one["partition_index"], **_reassigned(connection, topic["name"], one)}
                for one in topic["partitions"]
            ],
        }
        for topic in request.body["topics"]
    ]
    reply.answer({**failure(ErrorCode.NONE), "responses": responses})


def _reassigned(connection: KafkaConnection, name: str, one: dict[str, Any]) -> dict[str, Any]:
    """To where it is: done. Null is to cancel what goes on."""
    try:
        check_right(connection, name)
        vhost = connection.server.options.vhost
        connection.node.topics.topic(vhost, name).partition(one["partition_index"])
        if one["replicas"] is None:
            raise Refused(ErrorCode.NO_REASSIGNMENT_IN_PROGRESS, "nothing is being reassigned")
        check_replicas(connection, one["replicas"])
    except (Refused, ModelError) as error:
        return refusal(error)
    return failure(ErrorCode.NONE)


def list_partition_reassignments(connection: KafkaConnection, request: Request, reply: Reply) -> None:
    reply.answer({**failure(ErrorCode.NONE), "topics": []})


HANDLERS: Final[dict[int, Handler]] = {
    api.ELECT_LEADERS.key: elect_leaders,
    api.ALTER_PARTITION_REASSIGNMENTS.key: alter_partition_reassignments,
    api.LIST_PARTITION_REASSIGNMENTS.key: list_partition_reassignments,
}
