"""Consumer groups: their members, and those who look at them from outside.

Flow:   everything goes to the node's groups; a join or a sync may be answered much later, with other members'.
Spec:   KIP-62, KIP-345 (static members), KIP-394 (an id before joining), KIP-800, KIP-814. Of rights: Kafka's READ
        on a group is ours to read, DELETE is ours to configure, DESCRIBE is any.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from broker.kafka import api
from broker.kafka.api import Request
from broker.kafka.errors import ErrorCode
from broker.model.group_calls import Join, JoinReply, Leaving, Sync, SyncReply
from broker.model.group_errors import GroupError, GroupRefused
from broker.model.user import Right
from broker.server.kafka.errors import GROUP_CODES, NO_TRANSACTIONS
from broker.server.kafka.metadata import visible
from broker.server.kafka.operations import NOT_ASKED, on_group
from broker.server.kafka.reply import Reply

if TYPE_CHECKING:
    from broker.server.kafka.connection import KafkaConnection
    from broker.server.kafka.handlers import Handler

logger = logging.getLogger("broker.server")

_GROUP_KEY_TYPE: Final = 0
_TRANSACTION_KEY_TYPE: Final = 1
_ID_REQUIRED_FROM: Final = 4
_SKIP_FROM: Final = 9
# In Kafka whoever may read or delete something may describe it.
DESCRIBING: Final = tuple(Right)


def code_of(error: GroupError | None) -> ErrorCode:
    return ErrorCode.NONE if error is None else GROUP_CODES[error]


def group_problem(connection: KafkaConnection, group_id: str, *rights: Right) -> ErrorCode:
    """NONE if this group may be spoken to by who has one of these rights."""
    if not group_id:
        return ErrorCode.INVALID_GROUP_ID
    allowed = any(connection.allows(right, group_id) for right in rights)
    return ErrorCode.NONE if allowed else ErrorCode.GROUP_AUTHORIZATION_FAILED


# ---- members ----


def find_coordinator(connection: KafkaConnection, request: Request, reply: Reply) -> None:
    """That is us, for groups. Who looks for that of transactions or share groups must give up, and know why."""
    body = request.body
    host, port = connection.server.address_for(connection)
    keys = body["coordinator_keys"] if request.version >= 4 else [body["key"]]
    found = []
    for key in keys:
        text: str | None = None
        if body["key_type"] == _TRANSACTION_KEY_TYPE:
            # Java's client does not show the text; with most other errors librdkafka tries again until it has no more time.
            code, text = ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, NO_TRANSACTIONS
            logger.info("connection %s: transactional.id '%.100s' refused: %s", connection.name, key, text)
        elif body["key_type"] != _GROUP_KEY_TYPE:
            code, text = ErrorCode.INVALID_REQUEST, "this broker has no share groups yet"
        else:
            code = group_problem(connection, key, *DESCRIBING)
        here = {"node_id": connection.server.options.node_id, "host": host, "port": port}
        if code is not ErrorCode.NONE:
            here = {"node_id": -1, "host": "", "port": -1}
        found.append({"key": key, "error_code": code, "error_message": text, **here})
    if request.version >= 4:
        reply.answer({"coordinators": found})
    else:
        reply.answer(found[0])


def join_group(connection: KafkaConnection, request: Request, reply: Reply) -> None:
    body = request.body
    problem = group_problem(connection, body["group_id"], Right.READ)
    if problem is not ErrorCode.NONE:
        reply.answer({"error_code": problem, "member_id": body["member_id"]})
        return
    session_ms = body["session_timeout_ms"]
    join = Join(
        body["member_id"],
        body["group_instance_id"],
        connection.client_id,
        f"/{connection.peer_host}",
        session_ms,
        body["rebalance_timeout_ms"] if request.version >= 1 else session_ms,
        body["protocol_type"],
        [(one["name"], bytes(one["metadata"])) for one in body["protocols"]],
        request.version >= _ID_REQUIRED_FROM,
        request.version >= _SKIP_FROM,
        body["reason"] or "",
    )
    version = request.version

    def joined(found: JoinReply) -> None:
        # Without a choice, versions before 7 have an empty text and not null.
        protocol = found.protocol if found.protocol is not None or version >= 7 else ""
        reply.answer(
            {
                "error_code": code_of(found.error),
                "generation_id": found.generation,
                "protocol_type": found.protocol_type,
                "protocol_name": protocol,
                "leader": found.leader,
                "skip_assignment": found.skip_assignment,
                "member_id": found.member_id,
                "members": [
                    {
                        "member_id": member.member_id,
                        "group_instance_id": member.group_instance_id,
                        "metadata": member.metadata,
                    }
                    for member in found.members
                ],
            }
        )

    groups = connection.node.groups
    token = partial(connection.guarded, joined)
    reply.when_gone = partial(groups.forget, body["group_id"], token)
    groups.join(body["group_id"], join, token)


def sync_group(connection: KafkaConnection, request: Request, reply: Reply) -> None:
    body = request.body
    problem = group_problem(connection, body["group_id"], Right.READ)
    if problem is not ErrorCode.NONE:
        reply.answer({"error_code": problem})
        return
    sync = Sync(
        body["member_id"],
        body["group_instance_id"],
        body["generation_id"],
        body["protocol_type"],
        body["protocol_name"],
        [(one["member_id"], bytes(one["assignment"])) for one in body["assignments"]],
    )

    def synced(found: SyncReply) -> None:
        reply.answer(
            {
                "error_code": code_of(found.error),
                "protocol_type": found.protocol_type,
                "protocol_name": found.protocol,
                "assignment": found.assignment,
            }
        )

    groups = connection.node.groups
    token = partial(connection.guarded, synced)
    reply.when_gone = partial(groups.forget, body["group_id"], token)
    groups.sync(body["group_id"], sync, token)


def heartbeat(connection: KafkaConnection, request: Request, reply: Reply) -> None:
    body = request.body
    code = group_problem(connection, body["group_id"], Right.READ)
    if code is ErrorCode.NONE:
        try:
            connection.node.groups.heartbeat(
                body["group_id"], body["member_id"], body["group_instance_id"], body["generation_id"]
            )
        except GroupRefused as refused:
            code = code_of(refused.error)
    reply.answer({"error_code": code})


def leave_group(connection: KafkaConnection, request: Request, reply: Reply) -> None:
    """In old versions one member leaves, and its error is that of the request."""
    body = request.body
    code = group_problem(connection, body["group_id"], Right.READ)
    if code is not ErrorCode.NONE:
        reply.answer({"error_code": code})
        return
    if request.version >= 3:
        leaving = [
            Leaving(one["member_id"], one["group_instance_id"], one["reason"] or "")
            for one in body["members"]
        ]
    else:
        leaving = [Leaving(body["member_id"])]
    try:
        left = connection.node.groups.leave(body["group_id"], leaving)
    except GroupRefused as refused:
        reply.answer({"error_code": code_of(refused.error)})
        return
    if request.version < 3:
        reply.answer({"error_code": code_of(left[0].error)})
        return
    members = [
        {
            "member_id": one.member_id,
            "group_instance_id": one.group_instance_id,
            "error_code": code_of(one.error),
        }
        for one in left
    ]
    reply.answer({"error_code": ErrorCode.NONE, "members": members})


# ---- from outside ----


def describe_groups(connection: KafkaConnection, request: Request, reply: Reply) -> None:
    """Each once, however often it is asked for: a group may be large."""
    with_operations = request.body["include_authorized_operations"]
    reply.answer(
        {
            "groups": [
                _described(connection, name, with_operations, request.version)
                for name in dict.fromkeys(request.body["groups"])
            ]
        }
    )


def _described(connection: KafkaConnection, name: str, with_operations: bool, version: int) -> dict[str, Any]:
    """One that is not there is dead, and from version 6 on an error."""
    problem = group_problem(connection, name, *DESCRIBING)
    if problem is not ErrorCode.NONE:
        return {"error_code": problem, "group_id": name}
    operations = on_group(connection, name) if with_operations else NOT_ASKED
    found = connection.node.groups.find(name)
    if found is None:
        code = ErrorCode.GROUP_ID_NOT_FOUND if version >= 6 else ErrorCode.NONE
        text = f"group '{name}' not found" if version >= 6 else None
        return {
            "error_code": code,
            "error_message": text,
            "group_id": name,
            "group_state": "Dead",
            "authorized_operations": operations,
        }
    group = found.group.describe()
    return {
        "error_code": ErrorCode.NONE,
        "group_id": name,
        "group_state": group.state.value,
        "protocol_type": group.protocol_type or "",
        "protocol_data": group.protocol or "",
        "authorized_operations": operations,
        "members": [
            {
                "member_id": member.member_id,
                "group_instance_id": member.group_instance_id,
                "client_id": member.client_id,
                "client_host": member.client_host,
                "member_metadata": member.metadata,
                "member_assignment": member.assignment,
            }
            for member in group.members
        ],
    }


def list_groups(connection: KafkaConnection, request: Request, reply: Reply) -> None:
    states = {state.lower() for state in request.body["states_filter"]}
    types = {kind.lower() for kind in request.body["types_filter"]}
    found = []
    for hosted in connection.node.groups.all():
        group = hosted.group
        wanted = (not states or group.state.value.lower() in states) and (not types or "classic" in types)
        if wanted and visible(connection, group.group_id):
            found.append(
                {
                    "group_id": group.group_id,
                    "protocol_type": group.protocol_type or "",
                    "group_state": group.state.value,
                    "group_type": "classic",
                }
            )
    reply.answer({"error_code": ErrorCode.NONE, "groups": found})


def delete_groups(connection: KafkaConnection, request: Request, reply: Reply) -> None:
    results = []
    for name in request.body["groups_names"]:
        code = group_problem(connection, name, Right.CONFIGURE)
        if code is ErrorCode.NONE:
            try:
                connection.node.groups.delete(name)
            except GroupRefused as refused:
                code = code_of(refused.error)
        results.append({"group_id": name, "error_code": code})
    reply.answer_after(connection.node.flusher.open, {"results": results})


HANDLERS: Final[dict[int, Handler]] = {
    api.FIND_COORDINATOR.key: find_coordinator,
    api.JOIN_GROUP.key: join_group,
    api.SYNC_GROUP.key: sync_group,
    api.HEARTBEAT.key: heartbeat,
    api.LEAVE_GROUP.key: leave_group,
    api.DESCRIBE_GROUPS.key: describe_groups,
    api.LIST_GROUPS.key: list_groups,
    api.DELETE_GROUPS.key: delete_groups,
}
