"""Consumer groups: list, show, delete; `offsets.py` sets what they have committed.

Flow:   what the node's groups say of themselves, and how far they are behind (`lag.py`).
Spec:   ours; Kafka's words for states. Groups are of the virtual host that Kafka's clients see, and whoever may
        see that sees them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Final

from broker.kafka.consumer_protocol import Partitions, read_assignment
from broker.management.call import Call
from broker.management.errors import not_there
from broker.management.http import Response
from broker.management.lag import Behind, PartitionLag
from broker.management.listing import Row, listed, shown_once, shown_with
from broker.management.routes import route
from broker.model.group import CONSUMER
from broker.model.group_calls import GroupDescription, MemberDescription
from broker.model.user import Right
from broker.model.vhost import Vhost
from broker.node.hosted import Hosted
from broker.node.node import Node

GROUP: Final = "group"


def key_of(hosted: Hosted) -> tuple[str]:
    return (hosted.group.group_id,)


def vhost_of_groups(call: Call) -> Vhost | None:
    """Where the groups are; None if that is not for this user."""
    name = call.node.options.groups.vhost
    return next((vhost for vhost in call.vhosts() if vhost.name == name), None)


def _group_of(call: Call) -> tuple[Vhost, Hosted]:
    """The group in the path. Raises Refused if there is none, or none that this user may see."""
    vhost = vhost_of_groups(call)
    hosted = call.node.groups.find(call.name("group"))
    if vhost is None or hosted is None:
        raise not_there()
    return vhost, hosted


def show(node: Node, behind: Mapping[str, Behind], hosted: Hosted) -> Row:
    """A row of a list; how far the group is behind is in it if that is known."""
    group = hosted.group
    described = group.describe()
    row: Row = {
        "name": group.group_id,
        "vhost": node.options.groups.vhost,
        "node": node.options.name,
        "state": described.state.value,
        "protocol_type": described.protocol_type or "",
        "protocol": described.protocol or "",
        "generation": described.generation,
        "members": len(group),
        "topics": sorted(hosted.committed.topics),
        "rebalances": hosted.rebalances,
    }
    found = behind.get(group.group_id)
    if found is not None:
        row.update(lag=found.lag, max_lag=found.max_lag, max_lag_ms=found.max_lag_ms)
    return row


async def _behind(call: Call, groups: Sequence[Hosted]) -> dict[str, Behind]:
    return {} if call.flag("disable_stats") else await call.api.lags.behind(groups)


@route("GET", "/api/groups")
async def list_groups(call: Call) -> Response:
    groups = call.node.groups.all() if vhost_of_groups(call) is not None else []
    view = partial(show, call.node, await _behind(call, groups))
    return await listed(call.request.query, groups, view, key_of)


@route("GET", "/api/groups/{group}")
async def get_group(call: Call) -> Response:
    _, hosted = _group_of(call)
    behind = await _behind(call, [hosted])
    lags = await call.api.lags.of([hosted]) if behind else {}
    described = hosted.group.describe()
    assigned = {member.member_id: _assigned(described, member) for member in described.members}
    row = show(call.node, behind, hosted)
    row["member_details"] = [_show_member(member, assigned[member.member_id]) for member in described.members]
    if not lags:
        return shown_once(call.request.query, row)
    (found,) = lags.values()
    owners = {
        (topic, number): member
        for member in described.members
        for topic, numbers in (assigned[member.member_id] or {}).items()
        for number in numbers
    }
    return shown_with(call.request.query, row, "partitions", _partitions(call.node, found, owners))


def _assigned(group: GroupDescription, member: MemberDescription) -> Partitions | None:
    """None if nobody knows: it is another kind of group, is not stable, or the leader sent garbage."""
    if group.protocol_type != CONSUMER:
        return None
    found = read_assignment(member.assignment)
    return found.partitions if found is not None else None


def _show_member(member: MemberDescription, assigned: Partitions | None) -> Row:
    return {
        "member_id": member.member_id,
        "group_instance_id": member.group_instance_id,
        "client_id": member.client_id,
        "client_host": member.client_host,
        "session_timeout_ms": member.session_timeout_ms,
        "rebalance_timeout_ms": member.rebalance_timeout_ms,
        "assignment": None
        if assigned is None
        else [{"topic": topic, "partitions": sorted(numbers)} for topic, numbers in sorted(assigned.items())],
    }


def _partitions(
    node: Node, lags: Sequence[PartitionLag], owners: Mapping[tuple[str, int], MemberDescription]
) -> Iterator[Row]:
    """Those of which something was committed, and those that somebody has."""
    committed = {(lag.topic, lag.number): lag for lag in lags}
    for topic, number in sorted(committed.keys() | owners.keys()):
        owner = owners.get((topic, number))
        yield {
            "topic": topic,
            "partition": number,
            **_show_lag(node, topic, number, committed.get((topic, number))),
            "member_id": owner.member_id if owner is not None else None,
            "client_id": owner.client_id if owner is not None else None,
            "client_host": owner.client_host if owner is not None else None,
        }


def _show_lag(node: Node, topic: str, number: int, found: PartitionLag | None) -> Row:
    if found is not None:
        return {
            "committed_offset": found.committed.offset,
            "committed_at": found.committed.commit_ms,
            "metadata": found.committed.metadata,
            "start_offset": found.start,
            "end_offset": found.end,
            "lag": found.lag,
            "lag_ms": found.lag_ms,
        }
    row: Row = dict.fromkeys(
        ("committed_offset", "committed_at", "metadata", "start_offset", "end_offset", "lag", "lag_ms")
    )
    known = node.topics.find(node.options.groups.vhost, topic)
    if known is not None and 0 <= number < len(known.partitions):
        one = known.partitions[number]
        row |= {"start_offset": one.start_offset, "end_offset": one.high_watermark}
    return row


@route("DELETE", "/api/groups/{group}")
async def delete_group(call: Call) -> Response:
    """With what it has committed; while it has members, it cannot be deleted."""
    vhost, hosted = _group_of(call)
    call.check(Right.CONFIGURE, GROUP, hosted.group.group_id, vhost)
    call.node.groups.delete(hosted.group.group_id)
    await call.node.settled()
    return Response(204)
