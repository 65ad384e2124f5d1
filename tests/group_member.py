"""A member of a consumer group of a node inside the test's own process, without a client."""

from __future__ import annotations

import trio

from broker.model.group_calls import Join, Sync


class Member:
    """Joins a group, and hears what becomes of that."""

    def __init__(self, node, group, **more):
        self.node = node
        self.group = group
        self.answers = []
        fields = {"group_instance_id": None, "client_id": "hare", "client_host": "/10.1.2.3"} | more
        join = Join("", session_timeout_ms=6000, rebalance_timeout_ms=9000, protocol_type="consumer",
                    protocols=[("range", b"")], require_known_member_id=False, **fields)  # fmt: skip
        node.groups.join(group, join, self.answers.append)

    async def lead(self, octets):
        """As the leader, and only member, give oneself this assignment; waits for the group to be complete."""
        while not self.answers:
            await trio.lowlevel.checkpoint()
        joined = self.answers.pop()
        assert joined.error is None
        assigned = [(joined.member_id, octets)]
        sync = Sync(joined.member_id, None, joined.generation, "consumer", "range", assigned)
        self.node.groups.sync(self.group, sync, self.answers.append)
        await self.node.settled()
        assert self.answers.pop().error is None
        return joined.member_id
