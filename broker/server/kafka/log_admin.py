"""DeleteRecords, DescribeLogDirs and DescribeProducers: what lies in the partitions' logs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

from broker.kafka import api
from broker.kafka.api import Request
from broker.kafka.errors import ErrorCode
from broker.model.errors import ModelError, OffsetOutOfRange
from broker.model.user import Right
from broker.node.flusher import Commit
from broker.server.kafka.errors import Refused, failure, refusal
from broker.server.kafka.metadata import visible
from broker.server.kafka.operations import CLUSTER
from broker.server.kafka.reply import Reply
from broker.server.kafka.topic_admin import check_right

if TYPE_CHECKING:
    from broker.server.kafka.connection import KafkaConnection
    from broker.server.kafka.handlers import Handler

_HIGH_WATERMARK: Final = -1


def delete_records(connection: KafkaConnection, request: Request, reply: Reply) -> None:
    """What lies before an offset is not read any more; the answer says where the partitions begin now."""
    commits: dict[Commit, None] = {}
    topics = []
    for topic in request.body["topics"]:
        results = []
        for one in topic["partitions"]:
            number = one["partition_index"]
            try:
                low = _delete_before(connection, topic["name"], number, one["offset"], commits)
                result = {"low_watermark": low, "error_code": ErrorCode.NONE}
            except (Refused, ModelError) as error:
                result = {"low_watermark": -1, "error_code": refusal(error)["error_code"]}
            results.append({"partition_index": number, **result})
        topics.append({"name": topic["name"], "partitions": results})
    reply.answer_after(next(reversed(commits), None), {"topics": topics})


def _delete_before(
    connection: KafkaConnection, name: str, number: int, offset: int, commits: dict[Commit, None]
) -> int:
    """The offset at which the partition begins then. Raises Refused or ModelError."""
    check_right(connection, name)
    topic = connection.node.topics.topic(connection.server.options.vhost, name)
    partition = topic.partition(number)
    if topic.internal:
        raise Refused(ErrorCode.INVALID_TOPIC_EXCEPTION, f"topic '{name}' is the broker's own")
    if topic.settings.compacts and not topic.settings.deletes:
        raise Refused(ErrorCode.POLICY_VIOLATION, f"the cleanup.policy of topic '{name}' is not to delete")
    if offset == _HIGH_WATERMARK:
        offset = partition.high_watermark
    if offset < 0:
        raise OffsetOutOfRange(f"{partition.name}: there is no offset {offset}")
    commits[partition.move_start(offset)] = None
    return partition.start_offset


def describe_log_dirs(connection: KafkaConnection, request: Request, reply: Reply) -> None:
    """There is one folder; of its topics, those that are asked for and that the client may know of."""
    if not visible(connection, CLUSTER):
        reply.answer({"error_code": ErrorCode.CLUSTER_AUTHORIZATION_FAILED, "results": []})
        return
    asked = request.body["topics"]
    vhost = connection.server.options.vhost
    wanted: dict[str, set[int] | None]
    if asked is None:
        wanted = {topic.name: None for topic in connection.node.topics.topics(vhost)}
    else:
        wanted = {}
        for one in asked:
            numbers = wanted.setdefault(one["topic"], set())
            assert numbers is not None
            numbers.update(one["partitions"])
    topics = []
    for name, numbers in wanted.items():
        topic = connection.node.topics.find(vhost, name)
        if topic is None or not visible(connection, name):
            continue
        partitions = [
            {"partition_index": partition.number, "partition_size": partition.size, "offset_lag": 0}
            for partition in topic.partitions
            if numbers is None or partition.number in numbers
        ]
        if partitions:
            topics.append({"name": name, "partitions": partitions})
    reply.answer({"error_code": ErrorCode.NONE, "results": [{**_folder(connection), "topics": topics}]})


def _folder(connection: KafkaConnection) -> dict[str, Any]:
    path = os.path.abspath(connection.node.options.data)
    disk = os.statvfs(path)
    return {
        "error_code": ErrorCode.NONE,
        "log_dir": path,
        "total_bytes": disk.f_blocks * disk.f_frsize,
        "usable_bytes": disk.f_bavail * disk.f_frsize,
    }


def describe_producers(connection: KafkaConnection, request: Request, reply: Reply) -> None:
    """The idempotent producers of partitions, each once; none has a transaction, as there are none yet."""
    asked: dict[str, dict[int, None]] = {}
    for topic in request.body["topics"]:
        asked.setdefault(topic["name"], {}).update(dict.fromkeys(topic["partition_indexes"]))
    topics = []
    for name, numbers in asked.items():
        results = []
        for number in numbers:
            try:
                result = {
                    **failure(ErrorCode.NONE),
                    "active_producers": _producers(connection, name, number),
                }
            except (Refused, ModelError) as error:
                result = {**refusal(error), "active_producers": []}
            results.append({"partition_index": number, **result})
        topics.append({"name": name, "partitions": results})
    reply.answer({"topics": topics})


def _producers(connection: KafkaConnection, name: str, number: int) -> list[dict[str, Any]]:
    """Raises Refused or UnknownTopic."""
    if not connection.allows(Right.READ, name):
        raise Refused(ErrorCode.TOPIC_AUTHORIZATION_FAILED, f"read access to topic '{name}' refused")
    partition = connection.node.topics.topic(connection.server.options.vhost, name).partition(number)
    return [
        {
            "producer_id": found.producer_id,
            "producer_epoch": found.epoch,
            "last_sequence": found.last_sequence,
            "last_timestamp": found.last_timestamp,
            "coordinator_epoch": -1,
            "current_txn_start_offset": -1,
        }
        for found in partition.producers.describe()
    ]


HANDLERS: Final[dict[int, Handler]] = {
    api.DELETE_RECORDS.key: delete_records,
    api.DESCRIBE_LOG_DIRS.key: describe_log_dirs,
    api.DESCRIBE_PRODUCERS.key: describe_producers,
}
