"""Set what a consumer group has committed: to an end of a topic, an offset or a time.

Flow:   all partitions are looked at, in turns; then all of it is committed at once, and safe before it is answered.
Spec:   Kafka's tool: not while the group has members, who would commit over it; an offset that is not there is the
        nearest that is; a time behind the last record is the end; a time without a zone is UTC; a group that is not
        there is made. Of rights: as who commits, read for the group and for the topic.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from broker.management.call import Call
from broker.management.errors import bad_request, conflict, not_there
from broker.management.groups import GROUP, vhost_of_groups
from broker.management.http import Response
from broker.management.listing import Row, rows_answer
from broker.management.routes import route
from broker.management.topics import TOPIC, check_not_internal
from broker.management.turns import Turns
from broker.model.committed import NO_EPOCH, CommittedOffset
from broker.model.group_errors import GroupRefused
from broker.model.group_state import GroupState
from broker.model.user import Right
from broker.node.node import Node
from broker.node.partition import Partition

if TYPE_CHECKING:
    from broker.management.schema import OffsetsBody

logger = logging.getLogger("broker.management")

_TOOL: Final = -1
"""The generation of who is no member."""


@route("POST", "/api/groups/{group}/offsets")
async def reset_offsets(call: Call) -> Response:
    """Answers with each partition's offset, and what it was."""
    from broker.management.schema import OffsetsBody

    vhost = vhost_of_groups(call)
    if vhost is None:
        raise not_there()
    body = call.body(OffsetsBody)
    name = call.name("group")
    if call.node.groups.find(name) is None and not call.new_name("group"):
        raise bad_request("a group needs a name")
    call.check(Right.READ, GROUP, name, vhost)
    call.check(Right.READ, TOPIC, body.topic, vhost)
    topic = call.node.topics.topic(vhost.name, body.topic)
    check_not_internal(topic)
    numbers = range(len(topic.partitions)) if body.partitions is None else sorted(set(body.partitions))
    partitions = [topic.partition(number) for number in numbers]
    _check_empty(call.node, name)
    found: dict[tuple[str, int], int] = {}
    turns = Turns()
    for one in partitions:
        await turns.take_break()
        found[topic.name, one.number] = _offset(one, body)
    if topic.deleted:
        raise not_there()
    rows = await _commit(call.node, name, found)
    said = "group %s: user '%s' has set its offsets of %d partitions of topic '%s'"
    logger.info(said, name, call.user.name, len(rows), topic.name)
    return rows_answer(rows)


def _offset(one: Partition, body: OffsetsBody) -> int:
    if body.time is not None:
        timed = one.offset_of_time(body.time)
        return timed.offset if timed is not None else one.high_watermark
    if body.to == "earliest":
        return one.start_offset
    if body.to == "latest":
        return one.high_watermark
    assert isinstance(body.to, int)
    return max(one.start_offset, min(body.to, one.high_watermark))


def _check_empty(node: Node, name: str) -> None:
    """Raises Refused while there are members, or may be."""
    hosted = node.groups.find(name)
    if hosted is not None and hosted.group.state is not GroupState.EMPTY:
        state, count = hosted.group.state.value, len(hosted.group)
        raise conflict(
            f"group '{name}' is {state} with {count} members: its offsets are set when they have left"
        )


async def _commit(node: Node, name: str, found: Mapping[tuple[str, int], int]) -> list[Row]:
    """All of it or, raising GroupRefused, nothing."""
    _check_empty(node, name)
    node.groups.check_commit(name, "", None, _TOOL)
    committed = node.groups.hosted(name).committed
    before = {key: committed.get(*key) for key in found}
    now_ms = node.clock.now_ms()
    offsets = {key: CommittedOffset(offset, NO_EPOCH, "", now_ms) for key, offset in found.items()}
    try:
        for key, offset in offsets.items():
            committed.commit(*key, offset)
    except GroupRefused:
        for key, known in before.items():
            if known is not None:
                committed.restore(*key, known)
            else:
                committed.delete(*key)
        raise
    await node.settled(node.groups.committed(name, offsets))
    return [
        {
            "topic": topic,
            "partition": number,
            "offset": offset,
            "previous_offset": known.offset if (known := before[topic, number]) is not None else None,
        }
        for (topic, number), offset in found.items()
    ]
