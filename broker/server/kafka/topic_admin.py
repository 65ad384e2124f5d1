"""CreateTopics, DeleteTopics and CreatePartitions: topics made and unmade.

Flow:   each topic of a request is judged for itself, in portions between which others have their turn; the answer waits for the
        commit that makes safe what was done, and what somebody else did a moment before: that a topic exists is only
        told when it stays. What is begun is done also if the client goes meanwhile.
Limits: one request makes at most `_PARTITIONS_MAX` partitions, as in Kafka; otherwise it makes none. Configurations
        are told of `_CONFIGS_TOLD_MAX` topics, as writing them costs more than making the topics.
Spec:   KIP-464 (-1 is the broker's default), KIP-525 (the answer has the configurations), KIP-516 (ids). A
        name that stands twice in a request is refused once, and nothing is done for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from broker.kafka import api
from broker.kafka.api import Request
from broker.kafka.errors import ErrorCode
from broker.model.errors import InvalidConfig, ModelError, NotAllowed
from broker.model.user import Right
from broker.node.portions import Portions
from broker.node.topics import MADE_AT_ONCE, Topic
from broker.server.kafka.configs import topic_entries
from broker.server.kafka.errors import Refused, failure, refusal
from broker.server.kafka.metadata import visible
from broker.server.kafka.reply import Reply

if TYPE_CHECKING:
    from broker.server.kafka.connection import KafkaConnection
    from broker.server.kafka.handlers import Handler

_DEFAULT: Final = -1
_PARTITIONS_MAX: Final = 10_000
_CONFIGS_TOLD_MAX: Final = 100
# Of a portion's units, which are partitions: what each topic costs, and what is saved where a partition only goes.
_TOPIC_UNITS: Final = 4
_DELETED_PER_UNIT: Final = 8
_NO_ID: Final = bytes(16)
_TWICE: Final = "the topic stands more than once in this request"


def check_right(connection: KafkaConnection, name: str) -> None:
    """Raises Refused for a topic that the client may not change."""
    if not connection.allows(Right.CONFIGURE, name):
        raise Refused(ErrorCode.TOPIC_AUTHORIZATION_FAILED, f"configure access to topic '{name}' refused")


def clients_topic(connection: KafkaConnection, name: str) -> Topic:
    """A topic to be changed. Raises Refused, UnknownTopic, or NotAllowed for one of the broker's own."""
    check_right(connection, name)
    topic = connection.node.topics.topic(connection.server.options.vhost, name)
    if topic.internal:
        raise NotAllowed(f"topic '{name}' is the broker's own")
    return topic


def check_replicas(connection: KafkaConnection, replicas: Iterable[int]) -> None:
    """All that there can be is one, here. Raises Refused."""
    found = list(replicas)
    node_id = connection.server.options.node_id
    if found != [node_id]:
        raise Refused(
            ErrorCode.INVALID_REPLICA_ASSIGNMENT, f"replicas {found} where broker {node_id} is the only one"
        )


# ---- creating ----


def create_topics(connection: KafkaConnection, request: Request, reply: Reply) -> None:
    connection.start(_create_topics, connection, request, reply)


async def _create_topics(connection: KafkaConnection, request: Request, reply: Reply) -> None:
    body = request.body
    portions = Portions(MADE_AT_ONCE)
    counts = Counter(one["name"] for one in body["topics"])
    wanted = {one["name"]: one for one in body["topics"]}
    partitions = sum(max(one["num_partitions"], len(one["assignments"]), 1) for one in wanted.values())
    results: list[dict[str, Any]] = []
    for name, one in wanted.items():
        try:
            if counts[name] > 1:
                raise Refused(ErrorCode.INVALID_REQUEST, _TWICE)
            _check_extent(partitions)
            result = await _created(portions, connection, one, body["validate_only"])
            if len(results) >= _CONFIGS_TOLD_MAX:
                result["configs"] = []
        except (Refused, ModelError) as error:
            result = {**refusal(error), "configs": None}
        results.append({"name": name, **result})
        await portions.take(_TOPIC_UNITS)
    reply.answer_after(connection.node.flusher.unsafe_definitions, {"topics": results})


def _check_extent(partitions: int) -> None:
    """Raises Refused for more in one request than there is time for."""
    if partitions > _PARTITIONS_MAX:
        raise Refused(
            ErrorCode.POLICY_VIOLATION,
            f"{partitions} partitions in one request, where {_PARTITIONS_MAX} are the limit",
        )


async def _created(
    portions: Portions, connection: KafkaConnection, one: dict[str, Any], only_checked: bool
) -> dict[str, Any]:
    """The result of a topic that was made, or could be. Raises Refused or ModelError."""
    name = one["name"]
    check_right(connection, name)
    topics, vhost = connection.node.topics, connection.server.options.vhost
    partitions, replicas = _extent(connection, one)
    configs = _configs(one)
    id = _NO_ID
    if only_checked:
        await topics.settled(vhost, name)
        topics.check_new(vhost, name, partitions, replicas, configs)
    else:
        made = await topics.create_in_portions(
            portions, vhost, name, partitions, replicas=replicas, configs=configs
        )
        id = made.id
    return {
        "topic_id": id,
        "error_code": ErrorCode.NONE,
        "num_partitions": partitions,
        "replication_factor": 1,
        "configs": topic_entries(configs),
    }


def _configs(one: dict[str, Any]) -> dict[str, str]:
    """Raises InvalidConfig."""
    for config in one["configs"]:
        if config["value"] is None:
            raise InvalidConfig(f"{config['name']}: null is no value")
    return {config["name"]: config["value"] for config in one["configs"]}


def _extent(connection: KafkaConnection, one: dict[str, Any]) -> tuple[int, int]:
    """How many partitions and replicas. Raises Refused for assignments that cannot be."""
    partitions, replicas = one["num_partitions"], one["replication_factor"]
    assignments = one["assignments"]
    if not assignments:
        return (connection.server.options.partitions if partitions == _DEFAULT else partitions), replicas
    if partitions != _DEFAULT or replicas != _DEFAULT:
        raise Refused(
            ErrorCode.INVALID_REQUEST,
            "with assignments, the numbers of partitions and replicas follow from them and must be -1",
        )
    if sorted(each["partition_index"] for each in assignments) != list(range(len(assignments))):
        raise Refused(
            ErrorCode.INVALID_REPLICA_ASSIGNMENT,
            "the partitions of the assignments are not 0, 1, 2 and so on",
        )
    for each in assignments:
        check_replicas(connection, each["broker_ids"])
    return len(assignments), 1


# ---- deleting ----


def delete_topics(connection: KafkaConnection, request: Request, reply: Reply) -> None:
    connection.start(_delete_topics, connection, request, reply)


async def _delete_topics(connection: KafkaConnection, request: Request, reply: Reply) -> None:
    """By names, or from version 6 on by names and ids; a topic that is meant twice is not deleted."""
    body = request.body
    portions = Portions(MADE_AT_ONCE)
    wanted = body["topics"]
    if request.version < 6:
        wanted = [{"name": name, "topic_id": _NO_ID} for name in body["topic_names"]]
    meant = Counter(_meant(connection, one) for one in wanted)
    results = []
    for one in {(one["name"], one["topic_id"]): one for one in wanted}.values():
        topic = None
        try:
            topic = _to_delete(connection, one)
            if meant[_meant(connection, one)] > 1:
                raise Refused(ErrorCode.INVALID_REQUEST, _TWICE)
            connection.node.topics.delete(topic)
            result = failure(ErrorCode.NONE)
        except (Refused, ModelError) as error:
            result = refusal(error)
        name = topic.name if topic is not None else one["name"]
        results.append({"name": name, "topic_id": topic.id if topic else one["topic_id"], **result})
        gone = len(topic.partitions) if topic is not None else 0
        await portions.take(_TOPIC_UNITS + gone // _DELETED_PER_UNIT)
    reply.answer_after(connection.node.flusher.unsafe_definitions, {"responses": results})


def _meant(connection: KafkaConnection, one: dict[str, Any]) -> tuple[str | None, bytes]:
    """The same for a name and an id of the same topic."""
    topic = connection.node.topics.by_id(one["topic_id"])
    if one["name"] is None and topic is not None and topic.vhost == connection.server.options.vhost:
        return topic.name, _NO_ID
    return one["name"], one["topic_id"]


def _to_delete(connection: KafkaConnection, one: dict[str, Any]) -> Topic:
    """Raises Refused or ModelError."""
    name, id = one["name"], one["topic_id"]
    if (name is None) == (id == _NO_ID):
        raise Refused(ErrorCode.INVALID_REQUEST, "expected either a name or an id")
    if name is None:
        topic = connection.node.topics.by_id(id)
        vhost = connection.server.options.vhost
        if topic is None or topic.vhost != vhost or not visible(connection, topic.name):
            raise Refused(ErrorCode.UNKNOWN_TOPIC_ID, "no topic has this id")
        name = topic.name
    return clients_topic(connection, name)


# ---- more partitions ----


def create_partitions(connection: KafkaConnection, request: Request, reply: Reply) -> None:
    connection.start(_create_partitions, connection, request, reply)


async def _create_partitions(connection: KafkaConnection, request: Request, reply: Reply) -> None:
    body = request.body
    portions = Portions(MADE_AT_ONCE)
    counts = Counter(one["name"] for one in body["topics"])
    wanted = {one["name"]: one for one in body["topics"]}
    partitions = sum(max(one["count"], 1) for one in wanted.values())
    results = []
    for name, one in wanted.items():
        try:
            if counts[name] > 1:
                raise Refused(ErrorCode.INVALID_REQUEST, _TWICE)
            _check_extent(partitions)
            await _extend(portions, connection, one, body["validate_only"])
            result = failure(ErrorCode.NONE)
        except (Refused, ModelError) as error:
            result = refusal(error)
        results.append({"name": name, **result})
        await portions.take(_TOPIC_UNITS)
    reply.answer_after(connection.node.flusher.unsafe_definitions, {"results": results})


async def _extend(
    portions: Portions, connection: KafkaConnection, one: dict[str, Any], only_checked: bool
) -> None:
    """Raises Refused or ModelError."""
    topics, count = connection.node.topics, one["count"]
    await topics.settled(connection.server.options.vhost, one["name"])
    topic = clients_topic(connection, one["name"])
    topics.check_more(topic, count)
    assignments = one["assignments"]
    if assignments is not None:
        more = count - len(topic.partitions)
        if len(assignments) != more:
            raise Refused(
                ErrorCode.INVALID_REPLICA_ASSIGNMENT, f"{len(assignments)} assignments for {more} partitions"
            )
        for each in assignments:
            check_replicas(connection, each["broker_ids"])
    if not only_checked:
        await topics.add_partitions(portions, topic, count)


HANDLERS: Final[dict[int, Handler]] = {
    api.CREATE_TOPICS.key: create_topics,
    api.DELETE_TOPICS.key: delete_topics,
    api.CREATE_PARTITIONS.key: create_partitions,
}
