"""ListOffsets and OffsetForLeaderEpoch: which offsets there are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from broker.kafka import api
from broker.kafka.api import Request
from broker.kafka.errors import ErrorCode
from broker.model.errors import ModelError
from broker.node.partition import Partition
from broker.node.portions import Portions
from broker.server.kafka.errors import code_of
from broker.server.kafka.metadata import visible
from broker.server.kafka.reply import Reply

if TYPE_CHECKING:
    from broker.server.kafka.connection import KafkaConnection
    from broker.server.kafka.handlers import Handler

_LATEST: Final = -1
_EARLIEST: Final = -2
_LARGEST_TIME: Final = -3
_EARLIEST_LOCAL: Final = -4
_UNTIL_COMMITTED: Final = 1


def _partition(
    connection: KafkaConnection, name: str, number: int, leader_epoch: int
) -> Partition | ErrorCode:
    if not visible(connection, name):
        return ErrorCode.TOPIC_AUTHORIZATION_FAILED
    try:
        found = connection.node.topics.topic(connection.server.options.vhost, name).partition(number)
    except ModelError as error:
        return code_of(error)
    return ErrorCode.UNKNOWN_LEADER_EPOCH if leader_epoch > 0 else found


def list_offsets(connection: KafkaConnection, request: Request, reply: Reply) -> None:
    connection.start(_list_offsets, connection, request, reply)


async def _list_offsets(connection: KafkaConnection, request: Request, reply: Reply) -> None:
    """Each partition may be asked for once; a second time is answered with INVALID_REQUEST, as Kafka does.

    For a time a batch is opened, and then others have their turn.
    """
    portions = Portions(1)
    asked: set[tuple[str, int]] = set()
    topics = []
    for topic in request.body["topics"]:
        results = []
        for one in topic["partitions"]:
            key = (topic["name"], one["partition_index"])
            found = _partition(connection, *key, one["current_leader_epoch"])
            if key in asked:
                found = ErrorCode.INVALID_REQUEST
            asked.add(key)
            results.append(_offset(found, one, request))
            by_time = one["timestamp"] >= 0 or one["timestamp"] == _LARGEST_TIME
            await portions.take(1 if by_time and isinstance(found, Partition) else 0)
        topics.append({"name": topic["name"], "partitions": results})
    reply.answer({"topics": topics})


def _offset(found: Partition | ErrorCode, one: dict[str, Any], request: Request) -> dict[str, Any]:
    number = one["partition_index"]
    if isinstance(found, ErrorCode):
        return {
            "partition_index": number,
            "error_code": found,
            "timestamp": -1,
            "offset": -1,
            "leader_epoch": -1,
        }
    offset, timestamp = _looked_up(found, one["timestamp"], request.body["isolation_level"])
    return {
        "partition_index": number,
        "error_code": ErrorCode.NONE,
        "timestamp": timestamp,
        "offset": offset,
        "leader_epoch": 0 if offset >= 0 else -1,
    }


def _looked_up(partition: Partition, timestamp: int, isolation: int) -> tuple[int, int]:
    """An offset and a time, -1 for none."""
    if timestamp == _LATEST:
        until = partition.last_stable_offset if isolation == _UNTIL_COMMITTED else partition.high_watermark
        return until, -1
    if timestamp in (_EARLIEST, _EARLIEST_LOCAL):
        return partition.start_offset, -1
    if timestamp == _LARGEST_TIME:
        found = partition.latest_time()
    elif timestamp >= 0:
        found = partition.offset_of_time(timestamp)
    else:
        found = None
    return (found.offset, found.timestamp) if found is not None else (-1, -1)


def offset_for_leader_epoch(connection: KafkaConnection, request: Request, reply: Reply) -> None:
    """There has been one leader only, with epoch 0, which ends where the log does."""
    topics = []
    for topic in request.body["topics"]:
        results = []
        for one in topic["partitions"]:
            found = _partition(connection, topic["topic"], one["partition"], one["current_leader_epoch"])
            result: dict[str, Any] = {"partition": one["partition"], "leader_epoch": -1, "end_offset": -1}
            if isinstance(found, ErrorCode):
                result["error_code"] = found
            elif one["leader_epoch"] == 0:
                result |= {"leader_epoch": 0, "end_offset": found.high_watermark}
            results.append(result)
        topics.append({"topic": topic["topic"], "partitions": results})
    reply.answer({"topics": topics})


HANDLERS: Final[dict[int, Handler]] = {
    api.LIST_OFFSETS.key: list_offsets,
    api.OFFSET_FOR_LEADER_EPOCH.key: offset_for_leader_epoch,
}
