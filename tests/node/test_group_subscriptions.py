"""The node reads what consumers are subscribed to, so that offsets of other topics can go."""

from __future__ import annotations

import pytest

from broker.kafka.consumer_protocol import Subscription, write_subscription
from broker.model.group_calls import Join, JoinReply, Sync, SyncReply
from broker.model.group_errors import GroupError, GroupRefused
from stepped_node import SteppedNode


def test_offsets_of_topics_that_consumers_do_not_read_may_be_deleted() -> None:
    stepped = SteppedNode()
    groups = stepped.node.groups
    joins: list[JoinReply] = []
    metadata = write_subscription(Subscription(["read"]))
    join = Join("", None, "client", "/127.0.0.1", 10_000, 60_000, "consumer", [("range", metadata)], False)
    groups.join("readers", join, joins.append)
    syncs: list[SyncReply] = []
    member_id = joins[0].member_id
    groups.sync("readers", Sync(member_id, None, 1, "consumer", "range", []), syncs.append)
    stepped.commit()
    assert syncs[0].error is None
    group = groups.hosted("readers").group
    assert group.subscribed_topics() == {"read"}
    group.check_unsubscribed("other")
    with pytest.raises(GroupRefused) as refused:
        group.check_unsubscribed("read")
    assert refused.value.error is GroupError.GROUP_SUBSCRIBED_TO_TOPIC
