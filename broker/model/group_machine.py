"""From one generation of a consumer group to the next: gather, hand out, notice who is gone.

Flow:   `group.py` decides what a request is worth and calls the verbs here; who is to be answered, now or
        much earlier, is in `replies`, and what happened in `events`.
Shape:  at most one parked join or sync for each member. Sessions, and those of clients that were told an
        id and have not come with it, are in one set of deadlines; the two phases have one each.
Spec:   Kafka's classic groups (GroupMetadataManager), KIP-62, KIP-134, KIP-345.
Why:    Differs from Kafka where it knows more or leaves somebody waiting: it is told when a connection is
        gone, so a parked member whose id never reached its client goes at once, and nobody who cannot be
        reached is made leader; whoever is removed or asks twice is answered; a static member that did not
        join is not expected to sync, and keeps its own deadline.
"""

from __future__ import annotations

from typing import Generic

from broker.model.deadlines import Deadlines
from broker.model.group_calls import Assigned, Event, Joined, JoinReply, MemberGone, Rebalanced, SyncReply
from broker.model.group_errors import GroupError
from broker.model.group_limits import PENDING_COST, GroupLimits, text_size
from broker.model.group_state import TRANSITIONS, GroupState
from broker.model.member import Member, Members, Token


class GroupMachine(Generic[Token]):
    """The members, the phase they are in, and its time. Requests have been checked."""

    def __init__(self, limits: GroupLimits) -> None:
        self.state = GroupState.EMPTY
        self.generation = 0
        self.protocol_type: str | None = None
        self.protocol: str | None = None
        self.empty_since_ms: int | None = None
        self.members: Members[Token] = Members()
        self.pending: set[str] = set()
        """Ids that were given to clients who have not come with them yet."""
        self._pending_size = 0
        self.replies: list[tuple[Token, JoinReply | SyncReply]] = []
        self.events: list[Event] = []
        self._limits = limits
        self._parked: dict[Token, Member[Token]] = {}
        self._sessions = Deadlines()
        self._unsynced: set[str] = set()
        """Who joined this generation and has not asked for its assignment."""
        self._join_deadline_ms = 0
        self._sync_deadline_ms = 0
        self._initial = False
        """The group was empty: the delay decides when all have joined, and nothing else."""
        self._initial_left_ms = 0
        self._grew = False
        """Somebody has come since the initial delay began, or was last extended."""
        self._reason = ""

    @property
    def kept(self) -> int:
        """About how many octets its members take in memory, and those that are expected."""
        return self.members.kept + self._pending_size + text_size(self.protocol_type or "")

    # Members that come.

    def expect(self, member_id: str, until_ms: int) -> None:
        """A client has been given this id and will join with it."""
        self.pending.add(member_id)
        self._pending_size += _pending_cost(member_id)
        self._sessions.set(member_id, until_ms)

    def add(self, member: Member[Token], token: Token, reason: str, now_ms: int) -> None:
        """A new member has joined, perhaps one that was expected."""
        if member.member_id in self.pending:
            self._expects_no_more(member.member_id)
        self.members.add(member)
        self._grew = True
        self.gather(member, token, reason, now_ms)

    def gather(self, member: Member[Token], token: Token, reason: str, now_ms: int) -> None:
        """A member has joined the next generation; if none is being prepared, that begins now."""
        self._answer_parked(member, GroupError.REBALANCE_IN_PROGRESS)
        self.members.set_joined(member, True)
        member.join_token = token
        self._parked[token] = member
        if member.new:
            self._sessions.set(member.member_id, now_ms + self._limits.new_member_join_timeout_ms)
        else:
            self._sessions.remove(member.member_id)
        self.rebalance_or_go_on(reason, now_ms)

    def replace(self, old: Member[Token], member: Member[Token]) -> None:
        """The same instance under another id."""
        self._answer_parked(old, GroupError.FENCED_INSTANCE_ID)
        self._sessions.remove(old.member_id)
        self.members.replace(old, member)
        if old.member_id in self._unsynced:
            self._unsynced.remove(old.member_id)
            self._unsynced.add(member.member_id)
        self.events.append(MemberGone(old.member_id, f"replaced by {member.member_id}"))

    def resume(self, member: Member[Token], now_ms: int) -> None:
        """One that has replaced another goes on in the generation there is."""
        member.new = False
        self.touch(member, now_ms)
        self.events.append(Assigned(self.generation, len(self.members)))

    def restore(self, members: list[Member[Token]], leader: str | None, now_ms: int) -> None:
        """They were in a stable group before a restart, and have a session's time to show themselves."""
        for member in members:
            self.members.add(member)
            self.touch(member, now_ms)
        if members:
            self.members.leader = leader if self.members.get(leader or "") else members[0].member_id
            self.state = GroupState.STABLE

    # Members that stay.

    def touch(self, member: Member[Token], now_ms: int) -> None:
        """Its session begins anew; while it is parked it has none, or one that is not the client's."""
        if not member.parked:
            self._sessions.set(member.member_id, now_ms + member.session_timeout_ms)

    def synced(self, member: Member[Token]) -> None:
        """It has asked for its assignment."""
        self._unsynced.discard(member.member_id)
        if not self._unsynced:
            self._sync_deadline_ms = 0

    def park_sync(self, member: Member[Token], token: Token) -> None:
        self._answer_parked(member, GroupError.REBALANCE_IN_PROGRESS)
        member.sync_token = token
        self._parked[token] = member
        self._sessions.remove(member.member_id)

    def assign(self, assignments: dict[str, bytes], now_ms: int) -> None:
        """The leader has shared out: whoever waits for it is answered."""
        for member in self.members:
            self.members.assign(member, assignments.get(member.member_id, b""))
        self._move(GroupState.STABLE)
        self._answer_syncs(None, now_ms)
        self.events.append(Assigned(self.generation, len(self.members)))

    # Members that go.

    def remove(self, member: Member[Token], reason: str) -> None:
        """Whoever calls this for a reason of its own calls `rebalance_or_go_on` afterwards."""
        self._answer_parked(member, GroupError.UNKNOWN_MEMBER_ID)
        self.members.remove(member)
        self._sessions.remove(member.member_id)
        self.events.append(MemberGone(member.member_id, reason))

    def expect_no_more(self, member_id: str) -> None:
        """Whoever calls this calls `go_on` afterwards."""
        self._expects_no_more(member_id)
        self._sessions.remove(member_id)

    def _expects_no_more(self, member_id: str) -> None:
        self.pending.remove(member_id)
        self._pending_size -= _pending_cost(member_id)

    def forget(self, token: Token, now_ms: int) -> None:
        """Nobody is there any more to be answered."""
        member = self._parked.pop(token, None)
        if member is None:
            return
        member.join_token = member.sync_token = None
        if member.knows_its_id or member.group_instance_id is not None:
            self.touch(member, now_ms)
        else:
            self.remove(member, "its connection was closed before it knew its id")
            self.rebalance_or_go_on(f"{member.member_id} was disconnected", now_ms)

    def close(self) -> None:
        """All who wait are told to look elsewhere."""
        self._move(GroupState.DEAD)
        for member in self.members:
            self._answer_parked(member, GroupError.COORDINATOR_NOT_AVAILABLE)
            self.members.remove(member)
        self.pending.clear()
        self._pending_size = 0
        self._unsynced.clear()
        self._sessions = Deadlines()
        self._join_deadline_ms = self._sync_deadline_ms = 0

    # Time.

    def next_moment(self) -> int:
        moments = (self._join_deadline_ms, self._sync_deadline_ms, self._sessions.next_moment())
        return min((moment for moment in moments if moment), default=0)

    def expire(self, now_ms: int) -> None:
        if 0 < self._join_deadline_ms <= now_ms:
            self._join_time_over(now_ms)
        if 0 < self._sync_deadline_ms <= now_ms:
            self._sync_time_over(now_ms)
        for member_id in self._sessions.due(now_ms):
            self._session_over(member_id, now_ms)

    def _session_over(self, member_id: str, now_ms: int) -> None:
        member = self.members.get(member_id)
        if member is not None:
            self.remove(member, "its session timed out")
            self.rebalance_or_go_on(f"the session of {member_id} timed out", now_ms)
        elif member_id in self.pending:
            self._expects_no_more(member_id)
            self.go_on(now_ms)

    # The phases.

    def rebalance_or_go_on(self, reason: str, now_ms: int) -> None:
        """Somebody has come or gone."""
        if self.state is GroupState.PREPARING_REBALANCE:
            self.go_on(now_ms)
        else:
            self._rebalance(reason, now_ms)

    def go_on(self, now_ms: int) -> None:
        """If all have joined, those who are expected too, there is nothing more to wait for."""
        if self.state is not GroupState.PREPARING_REBALANCE or (self._initial and self.members):
            return
        if self.members.all_joined and not self.pending:
            self._end_join_phase(now_ms)
        elif not self._join_deadline_ms:
            self._join_deadline_ms = now_ms + self.members.rebalance_timeout_ms

    def _rebalance(self, reason: str, now_ms: int) -> None:
        if self.state is GroupState.COMPLETING_REBALANCE:
            self._answer_syncs(GroupError.REBALANCE_IN_PROGRESS, now_ms)
        self._unsynced.clear()
        self._sync_deadline_ms = self._join_deadline_ms = 0
        self._reason = reason
        self._initial = self.state is GroupState.EMPTY
        self._move(GroupState.PREPARING_REBALANCE)
        if self._initial:
            self._begin_initial_delay(now_ms)
        else:
            self.go_on(now_ms)

    def _begin_initial_delay(self, now_ms: int) -> None:
        delay_ms = self._limits.initial_rebalance_delay_ms
        if not delay_ms:
            self._end_join_phase(now_ms)
            return
        self._grew = False
        self._initial_left_ms = max(self.members.rebalance_timeout_ms - delay_ms, 0)
        self._join_deadline_ms = now_ms + delay_ms

    def _join_time_over(self, now_ms: int) -> None:
        if self._initial and self._grew and self._initial_left_ms:
            delay_ms = self._limits.initial_rebalance_delay_ms
            self._grew = False
            self._join_deadline_ms = now_ms + min(delay_ms, self._initial_left_ms)
            self._initial_left_ms = max(self._initial_left_ms - delay_ms, 0)
        else:
            self._end_join_phase(now_ms)

    def _end_join_phase(self, now_ms: int) -> None:
        """The next generation: those who have joined, and the static ones who may yet."""
        self._join_deadline_ms = 0
        for member in self.members:
            if not member.joined and member.group_instance_id is None:
                self.remove(member, "did not join again in time")
        if self.members and not self.members.elect():
            return  # The sessions of the static ones end, or one joins: either sets the deadline again.
        self.generation += 1
        self.protocol = self.members.vote() if self.members else None
        self.events.append(Rebalanced(self.generation, self._reason, len(self.members)))
        if self.members:
            self._begin_sync_phase(now_ms)
        else:
            self.empty_since_ms = now_ms
            self._move(GroupState.EMPTY)

    def _begin_sync_phase(self, now_ms: int) -> None:
        self._move(GroupState.COMPLETING_REBALANCE)
        self._sync_deadline_ms = now_ms + self.members.rebalance_timeout_ms
        for member in self.members:
            if not member.joined:
                continue
            self.members.set_joined(member, False)
            self._unsynced.add(member.member_id)
            member.new = False
            if member.join_token is not None:
                member.knows_its_id = True
                self._answer(member, self.join_reply(member))
                self.touch(member, now_ms)

    def _sync_time_over(self, now_ms: int) -> None:
        late = [member for member in self.members if member.member_id in self._unsynced]
        for member in late:
            self.remove(member, "did not ask for its assignment in time")
        self._rebalance(f"{len(late)} members did not ask for their assignments in time", now_ms)

    def _move(self, state: GroupState) -> None:
        assert state in TRANSITIONS[self.state], f"{self.state} to {state}"
        self.state = state

    # Replies.

    def join_reply(self, member: Member[Token], *, show_members: bool = True) -> JoinReply:
        """The generation as it is; its leader is shown the members."""
        leads = member.member_id == self.members.leader
        return JoinReply(
            None,
            member.member_id,
            self.generation,
            self.protocol_type,
            self.protocol,
            self.members.leader or "",
            members=self._shown_members() if leads and show_members else (),
        )

    def sync_reply(self, member: Member[Token]) -> SyncReply:
        return SyncReply(None, self.protocol_type, self.protocol, member.assignment)

    def _shown_members(self) -> tuple[Joined, ...]:
        assert self.protocol is not None
        return tuple(
            Joined(member.member_id, member.group_instance_id, member.protocols[self.protocol])
            for member in self.members
        )

    def _answer(self, member: Member[Token], reply: JoinReply | SyncReply) -> None:
        """There is one that is parked; it is no more."""
        token = member.join_token if member.sync_token is None else member.sync_token
        assert token is not None
        member.join_token = member.sync_token = None
        del self._parked[token]
        self.replies.append((token, reply))

    def _answer_parked(self, member: Member[Token], error: GroupError) -> None:
        """If there is one that is parked."""
        if member.join_token is not None:
            self._answer(member, JoinReply(error, member.member_id))
        elif member.sync_token is not None:
            self._answer(member, SyncReply(error))

    def _answer_syncs(self, error: GroupError | None, now_ms: int) -> None:
        """All of them: with the assignments, or with the same error; then nobody has an assignment."""
        for member in self.members:
            if error is not None:
                self.members.assign(member, b"")
            if member.sync_token is not None:
                self._answer(member, self.sync_reply(member) if error is None else SyncReply(error))
                self.touch(member, now_ms)


def _pending_cost(member_id: str) -> int:
    return PENDING_COST + text_size(member_id)
