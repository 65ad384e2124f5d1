"""The host of one consumer group: a clock, tokens, and the answers to them, each of which may come once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count

from broker.model.group import Group, nothing_known
from broker.model.group_calls import (
    Assigned,
    Event,
    Join,
    JoinReply,
    Leaving,
    MemberGone,
    Rebalanced,
    Sync,
    SyncReply,
)
from broker.model.group_errors import GroupError, GroupRefused
from broker.model.group_limits import GroupLimits

RANGE = (("range", b"topics"),)

SESSION_MS = 10_000
REBALANCE_MS = 60_000


class Host:
    """Calls the group as a server does; what is parked has no answer yet."""

    def __init__(
        self,
        limits: GroupLimits | None = None,
        topics_of: Callable[[bytes], frozenset[str] | None] = nothing_known,
    ) -> None:
        self.now = 1_000_000
        self.answers: dict[int, JoinReply | SyncReply] = {}
        self.parked: set[int] = set()
        self.waiting_since: dict[int, int] = {}
        """When those came that were not answered at once."""
        self.events: list[Event] = []
        self._tokens = count(1)
        self._numbers = count(1)
        self.topics_of = topics_of
        self.group: Group[int] = self.new_group(limits or GroupLimits())

    def new_group(self, limits: GroupLimits) -> Group[int]:
        return Group("workers", limits, lambda name: f"{name}-{next(self._numbers)}", self.topics_of)

    def join(
        self,
        member_id: str = "",
        *,
        instance: str | None = None,
        client: str = "client",
        protocols: Sequence[tuple[str, bytes]] = RANGE,
        protocol_type: str = "consumer",
        session_ms: int = SESSION_MS,
        rebalance_ms: int = REBALANCE_MS,
        old: bool = False,
        skips: bool = True,
        reason: str = "",
    ) -> int:
        """Returns the token. An old client can neither come again with an id nor skip an assignment."""
        request = Join(
            member_id=member_id,
            group_instance_id=instance,
            client_id=client,
            client_host="/127.0.0.1",
            session_timeout_ms=session_ms,
            rebalance_timeout_ms=rebalance_ms,
            protocol_type=protocol_type,
            protocols=list(protocols),
            require_known_member_id=not old,
            supports_skip_assignment=skips and not old,
            reason=reason,
        )
        token = self._park()
        self.group.join(request, token, self.now)
        return self._asked(token)

    def sync(
        self,
        member_id: str,
        *,
        instance: str | None = None,
        generation: int | None = None,
        assignments: dict[str, bytes] | None = None,
        protocol_type: str | None = None,
        protocol: str | None = None,
    ) -> int:
        request = Sync(
            member_id=member_id,
            group_instance_id=instance,
            generation=self.group.generation if generation is None else generation,
            protocol_type=protocol_type,
            protocol_name=protocol,
            assignments=list((assignments or {}).items()),
        )
        token = self._park()
        self.group.sync(request, token, self.now)
        return self._asked(token)

    def heartbeat(
        self, member_id: str, *, instance: str | None = None, generation: int | None = None
    ) -> GroupError | None:
        """Returns the error instead of raising it."""
        current = self.group.generation if generation is None else generation
        try:
            self.group.heartbeat(member_id, instance, current, self.now)
        except GroupRefused as refused:
            return refused.error
        finally:
            self.drain()
        return None

    def commit(
        self, member_id: str, *, instance: str | None = None, generation: int | None = None
    ) -> GroupError | None:
        """Returns the error instead of raising it."""
        current = self.group.generation if generation is None else generation
        try:
            self.group.check_commit(member_id, instance, current, self.now)
        except GroupRefused as refused:
            return refused.error
        finally:
            self.drain()
        return None

    def leave(self, leaving: Leaving) -> GroupError | None:
        (left,) = self.group.leave([leaving], self.now)
        self.drain()
        return left.error

    def forget(self, token: int) -> None:
        self.parked.discard(token)
        self.group.forget(token, self.now)
        self.drain()

    def pass_time(self, ms: int) -> None:
        """Everything that is due in between happens at its own moment."""
        end = self.now + ms
        while 0 < (moment := self.group.next_moment()) <= end:
            self.now = max(self.now, moment)
            self.group.expire(self.now)
            self.drain()
        self.now = end

    def pass_time_alive(self, ms: int, *members: str) -> None:
        """These send heartbeats all the time."""
        end = self.now + ms
        while self.now < end:
            self.pass_time(min(SESSION_MS // 2, end - self.now))
            for member in members:
                self.heartbeat(member)

    def drain(self) -> None:
        for token, reply in self.group.replies:
            assert token in self.parked, f"{token} is answered twice, or was forgotten: {reply}"
            self.parked.remove(token)
            self.answers[token] = reply
        self.group.replies.clear()
        self.events += self.group.events
        self.group.events.clear()

    def joined(self, token: int) -> JoinReply:
        reply = self.answers[token]
        assert isinstance(reply, JoinReply)
        assert reply.error is None
        return reply

    def synced(self, token: int) -> SyncReply:
        reply = self.answers[token]
        assert isinstance(reply, SyncReply)
        assert reply.error is None
        return reply

    def error(self, token: int) -> GroupError | None:
        return self.answers[token].error

    def reasons(self) -> list[str]:
        """Of the rebalances so far."""
        return [event.reason for event in self.events if isinstance(event, Rebalanced)]

    def gone(self) -> dict[str, str]:
        return {event.member_id: event.reason for event in self.events if isinstance(event, MemberGone)}

    def assigned(self) -> list[int]:
        """The generations that became stable."""
        return [event.generation for event in self.events if isinstance(event, Assigned)]

    def arrive(self, *, protocols: Sequence[tuple[str, bytes]] = RANGE, client: str = "client") -> str:
        """A new dynamic member, which has been told its id and has joined with it; returns the id."""
        reply = self.answers[self.join(client=client, protocols=protocols)]
        assert isinstance(reply, JoinReply)
        assert reply.error is GroupError.MEMBER_ID_REQUIRED
        self.join(reply.member_id, client=client, protocols=protocols)
        return reply.member_id

    def gather(self, instances: dict[str, str] | None = None) -> list[JoinReply]:
        """All members join (again), so that there is a new generation; returns their answers, leader first."""
        members = [member.member_id for member in self.group.describe().members]
        tokens = [self.join(member, instance=(instances or {}).get(member)) for member in members]
        assert self.group.state == "CompletingRebalance"
        replies = [self.joined(token) for token in tokens]
        return sorted(replies, key=lambda reply: reply.member_id != reply.leader)

    def share_out(self, replies: Sequence[JoinReply]) -> None:
        """All members sync, the leader last; each is given its own id."""
        leader = replies[0]
        tokens = {reply.member_id: self.sync(reply.member_id) for reply in replies[1:]}
        assignments = {member.member_id: member.member_id.encode() for member in leader.members}
        tokens[leader.member_id] = self.sync(leader.member_id, assignments=assignments)
        for member_id, token in tokens.items():
            assert self.synced(token).assignment == member_id.encode()

    def settle(self, count: int) -> list[str]:
        """So many dynamic members more, and a stable group; returns the ids, leader first."""
        for _ in range(count):
            self.arrive()
        replies = self.gather()
        self.share_out(replies)
        assert self.group.state == "Stable"
        return [reply.member_id for reply in replies]

    def _park(self) -> int:
        token = next(self._tokens)
        self.parked.add(token)
        return token

    def _asked(self, token: int) -> int:
        self.drain()
        if token in self.parked:
            self.waiting_since[token] = self.now
        return token
