"""Committed offsets: OffsetCommit, OffsetFetch and OffsetDelete.

Spec:   of rights: who commits or deletes must be allowed to read the topic, too; who fetches may have any right.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from broker.kafka import api
from broker.kafka.api import Request
from broker.kafka.errors import ErrorCode
from broker.model.committed import CommittedOffset
from broker.model.group_errors import GroupRefused
from broker.model.user import Right
from broker.node.hosted import Hosted
from broker.server.kafka.groups import DESCRIBING, code_of, group_problem
from broker.server.kafka.metadata import visible
from broker.server.kafka.reply import Reply

if TYPE_CHECKING:
    from broker.server.kafka.connection import KafkaConnection
    from broker.server.kafka.handlers import Handler

_BY_GROUPS_FROM: Final = 8


def _topic_problem(connection: KafkaConnection, name: str, partition: int) -> ErrorCode:
    if not connection.allows(Right.READ, name):
        return ErrorCode.TOPIC_AUTHORIZATION_FAILED
    topic = connection.node.topics.find(connection.server.options.vhost, name)
    if topic is None or not 0 <= partition < len(topic.partitions):
        return ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    return ErrorCode.NONE


def offset_commit(connection: KafkaConnection, request: Request, reply: Reply) -> None:
    body = request.body
    group_id = body["group_id"]
    groups = connection.node.groups
    problem = group_problem(connection, group_id, Right.READ)
    if problem is ErrorCode.NONE:
        try:
            groups.check_commit(
                group_id, body["member_id"], body["group_instance_id"], body["generation_id_or_member_epoch"]
            )
        except GroupRefused as refused:
            problem = code_of(refused.error)
    retention_ms = body["retention_time_ms"]
    now_ms = connection.node.clock.now_ms()
    expire_ms = now_ms + retention_ms if retention_ms >= 0 else None
    offsets: dict[tuple[str, int], CommittedOffset] = {}
    topics = []
    for topic in body["topics"]:
        results = []
        for one in topic["partitions"]:
            name, number = topic["name"], one["partition_index"]
            code = problem
            if code is ErrorCode.NONE:
                code = _topic_problem(connection, name, number)
            if code is ErrorCode.NONE:
                offset = CommittedOffset(
                    one["committed_offset"],
                    one["committed_leader_epoch"],
                    one["committed_metadata"] or "",
                    now_ms,
                    expire_ms,
                )
                code = _commit(groups.hosted(group_id), name, number, offset)
                if code is ErrorCode.NONE:
                    offsets[name, number] = offset
            results.append({"partition_index": number, "error_code": code})
        topics.append({"name": topic["name"], "partitions": results})
    commit = groups.committed(group_id, offsets) if offsets else None
    reply.answer_after(commit, {"topics": topics})


def _commit(hosted: Hosted, topic: str, partition: int, offset: CommittedOffset) -> ErrorCode:
    try:
        hosted.committed.commit(topic, partition, offset)
    except GroupRefused as refused:
        return code_of(refused.error)
    return ErrorCode.NONE


def offset_fetch(connection: KafkaConnection, request: Request, reply: Reply) -> None:
    body = request.body
    if request.version >= _BY_GROUPS_FROM:
        groups = [_fetched(connection, *one) for one in _asked_once(body["groups"]).items()]
        reply.answer_after(connection.node.groups.unsafe, {"groups": groups})
        return
    found = _fetched(connection, body["group_id"], body["topics"])
    if request.version < 2:  # where there is no place for the group's error, each partition has it
        code = found["error_code"]
        for topic in body["topics"] if code is not ErrorCode.NONE else ():
            numbers = topic["partition_indexes"]
            partitions = [_nothing(number, code) for number in numbers]
            found["topics"].append({"name": topic["name"], "partitions": partitions})
    reply.answer_after(connection.node.groups.unsafe, found)


def _asked_once(groups: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]] | None]:
    """The topics of each group that are asked for, None for all of them."""
    asked: dict[str, list[dict[str, Any]] | None] = {}
    for one in groups:
        known = asked.setdefault(one["group_id"], [])
        if one["topics"] is None or known is None:
            asked[one["group_id"]] = None
        else:
            known += one["topics"]
    return asked


def _fetched(
    connection: KafkaConnection, group_id: str, topics: list[dict[str, Any]] | None
) -> dict[str, Any]:
    """Of each partition once, however often it is asked for: metadata may be large."""
    problem = group_problem(connection, group_id, *DESCRIBING)
    if problem is not ErrorCode.NONE:
        return {"group_id": group_id, "error_code": problem, "topics": []}
    hosted = connection.node.groups.find(group_id)
    asked: dict[str, dict[int, None]] = {}
    if topics is not None:
        for topic in topics:
            asked.setdefault(topic["name"], {}).update(dict.fromkeys(topic["partition_indexes"]))
    elif hosted is not None:
        for name, number, _ in hosted.committed:
            if visible(connection, name):
                asked.setdefault(name, {})[number] = None
    found = []
    for name, numbers in asked.items():
        if visible(connection, name):
            partitions = [_one_fetched(hosted, name, number) for number in numbers]
        else:
            partitions = [_nothing(number, ErrorCode.TOPIC_AUTHORIZATION_FAILED) for number in numbers]
        found.append({"name": name, "partitions": partitions})
    return {"group_id": group_id, "error_code": ErrorCode.NONE, "topics": found}


def _one_fetched(hosted: Hosted | None, name: str, number: int) -> dict[str, Any]:
    known = hosted.committed.get(name, number) if hosted is not None else None
    if known is None:
        return _nothing(number, ErrorCode.NONE)
    return {
        "partition_index": number,
        "committed_offset": known.offset,
        "committed_leader_epoch": known.leader_epoch,
        "metadata": known.metadata,
        "error_code": ErrorCode.NONE,
    }


def _nothing(number: int, code: ErrorCode) -> dict[str, Any]:
    return {"partition_index": number, "committed_offset": -1, "metadata": "", "error_code": code}


def offset_delete(connection: KafkaConnection, request: Request, reply: Reply) -> None:
    body = request.body
    group_id = body["group_id"]
    groups = connection.node.groups
    problem = group_problem(connection, group_id, Right.CONFIGURE)
    hosted = groups.find(group_id)
    if problem is ErrorCode.NONE and hosted is None:
        problem = ErrorCode.GROUP_ID_NOT_FOUND
    if problem is ErrorCode.NONE and hosted is not None:
        try:
            hosted.group.check_delete_offsets()
        except GroupRefused as refused:
            problem = code_of(refused.error)
    if problem is not ErrorCode.NONE or hosted is None:
        reply.answer({"error_code": problem, "topics": []})
        return
    topics = []
    gone: list[tuple[str, int]] = []
    for topic in body["topics"]:
        name = topic["name"]
        subscribed = ErrorCode.NONE
        try:
            hosted.group.check_unsubscribed(name)
        except GroupRefused as refused:
            subscribed = code_of(refused.error)
        results = []
        for one in topic["partitions"]:
            number = one["partition_index"]
            code = _topic_problem(connection, name, number) or subscribed
            if code is ErrorCode.NONE:
                gone.append((name, number))
            results.append({"partition_index": number, "error_code": code})
        topics.append({"name": name, "partitions": results})
    commit = groups.delete_offsets(group_id, gone)
    reply.answer_after(commit, {"error_code": ErrorCode.NONE, "topics": topics})


HANDLERS: Final[dict[int, Handler]] = {
    api.OFFSET_COMMIT.key: offset_commit,
    api.OFFSET_FETCH.key: offset_fetch,
    api.OFFSET_DELETE.key: offset_delete,
}
