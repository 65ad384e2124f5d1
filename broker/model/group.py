"""A consumer group: members that share the partitions of topics, and who may ask it for what.

Flow:   the host gives each request with a token, and after each call takes the replies to send: some come
        much later, out of another call or out of `expire`. It takes events for its log and counters.
Limits: `GroupLimits`; nothing is kept of who is refused.
Spec:   Kafka's classic groups (GroupMetadataManager, ClassicGroup), KIP-345, KIP-394, KIP-814.
Why:    Differs from Kafka in that a member's own former protocols do not keep it from joining with others,
        in that a full group still takes an instance back, and in what `group_machine.py` says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, Generic, NoReturn

from broker.model.committed import Retention
from broker.model.group_calls import (
    Event,
    GroupDescription,
    Join,
    JoinReply,
    Leaving,
    Left,
    MemberDescription,
    Sync,
    SyncReply,
)
from broker.model.group_errors import GroupError, GroupRefused
from broker.model.group_limits import GROUP_COST, MEMBER_COST, GroupLimits, Room, text_size, unlimited
from broker.model.group_machine import GroupMachine
from broker.model.group_state import KEEPS_SESSION, UNSERVED, UNTIMELY, GroupState, Request
from broker.model.member import Member, Token, member_size, new_member, restored_member

CONSUMER: Final = "consumer"
"""The protocol type whose metadata are subscriptions to topics."""

# Of what a client gives as its reason, so much goes into events.
_REASON_MAX = 255


def nothing_known(metadata: bytes) -> frozenset[str] | None:
    """The topics of a subscription, for a group whose host does not read them."""
    return None


class Group(Generic[Token]):
    """One group and its members; its committed offsets are beside it (`committed.py`)."""

    def __init__(
        self,
        group_id: str,
        limits: GroupLimits,
        new_member_id: Callable[[str], str],
        topics_of: Callable[[bytes], frozenset[str] | None] = nothing_known,
        room: Room = unlimited,
    ) -> None:
        """`new_member_id` makes a unique id from a client's name; `topics_of` reads a subscription."""
        self.group_id = group_id
        self._limits = limits
        self._new_member_id = new_member_id
        self._topics_of = topics_of
        self._room = room
        self._machine: GroupMachine[Token] = GroupMachine(limits)
        self._members = self._machine.members
        self._subscribed: frozenset[str] | None = None
        self._subscribed_at: tuple[int, int] | None = None
        """The generation and the revision of the members for which that was found out."""

    def __len__(self) -> int:
        """Members; clients that were only given an id are none."""
        return len(self._members)

    @property
    def state(self) -> GroupState:
        return self._machine.state

    @property
    def generation(self) -> int:
        return self._machine.generation

    @property
    def protocol_type(self) -> str | None:
        """None as long as nobody has ever joined: offsets were committed by simple consumers."""
        return self._machine.protocol_type

    @property
    def idle(self) -> bool:
        """Nobody is there or expected: without offsets there is no reason to keep it."""
        return self.state is GroupState.EMPTY and not self._machine.pending

    @property
    def size(self) -> int:
        """Octets that it takes in memory, about."""
        return GROUP_COST + text_size(self.group_id) + self._machine.kept

    @property
    def replies(self) -> list[tuple[Token, JoinReply | SyncReply]]:
        """To be sent, and to be cleared by whoever sends them."""
        return self._machine.replies

    @property
    def events(self) -> list[Event]:
        """To be told, and to be cleared by whoever tells them."""
        return self._machine.events

    # Requests.

    def join(self, request: Join, token: Token, now_ms: int) -> None:
        """Answers with a `JoinReply`, at once or when all have joined."""
        try:
            self._join(request, dict(request.protocols), token, now_ms)
        except GroupRefused as refused:
            self.replies.append((token, JoinReply(refused.error, request.member_id)))

    def sync(self, request: Sync, token: Token, now_ms: int) -> None:
        """Answers with a `SyncReply`, at once or when the leader has sent the assignments."""
        try:
            self._sync(request, token, now_ms)
        except GroupRefused as refused:
            self.replies.append((token, SyncReply(refused.error)))

    def heartbeat(self, member_id: str, instance_id: str | None, generation: int, now_ms: int) -> None:
        """Keep the member's session. Raises GroupRefused, also where it keeps it."""
        self._check_served(Request.HEARTBEAT)
        member = self._current_member(member_id, instance_id, generation)
        self._serve(Request.HEARTBEAT, member, now_ms)

    def check_commit(self, member_id: str, instance_id: str | None, generation: int, now_ms: int) -> None:
        """May offsets be committed? Keeps the member's session. Raises GroupRefused.

        A generation below 0 is that of simple consumers and tools, who may while there are no members.
        """
        self._check_served(Request.COMMIT)
        if generation < 0 and self.state is GroupState.EMPTY:
            return
        member = self._current_member(member_id, instance_id, generation)
        self._serve(Request.COMMIT, member, now_ms)

    def leave(self, leaving: Sequence[Leaving], now_ms: int) -> list[Left]:
        """Members go, and others take over; ids that were given and not used are forgotten."""
        answers = []
        gone: list[str] = []
        for one in leaving:
            error = None
            try:
                self._check_served(Request.LEAVE)
                gone += self._leave(one)
            except GroupRefused as refused:
                error = refused.error
            answers.append(Left(one.member_id, one.group_instance_id, error))
        if gone:
            reason = f"{gone[0]} left" if len(gone) == 1 else f"{len(gone)} members left"
            self._machine.rebalance_or_go_on(reason, now_ms)
        else:
            self._machine.go_on(now_ms)
        return answers

    def forget(self, token: Token, now_ms: int) -> None:
        """The connection of a request is gone; if that is parked, it is not answered any more.

        The member stays for the length of its session, so that the client can come back; unless the client
        cannot, because it has not been told the id.
        """
        self._machine.forget(token, now_ms)

    def close(self) -> None:
        """It is not served here any more; it must not be dead already."""
        self._machine.close()

    def restore(self, description: GroupDescription, now_ms: int) -> None:
        """Be as a group that was described when it was stable or empty. This one is new."""
        machine = self._machine
        machine.generation = description.generation
        machine.protocol_type = description.protocol_type
        machine.protocol = description.protocol
        machine.empty_since_ms = description.empty_since_ms
        members: list[Member[Token]] = [restored_member(member) for member in description.members]
        machine.restore(members, description.leader, now_ms)

    # Time.

    def next_moment(self) -> int:
        """When `expire` is to be called (ms); 0 if there is nothing to wait for."""
        return self._machine.next_moment()

    def expire(self, now_ms: int) -> None:
        """Do what is due: end the phases whose time is up, remove whose session is over."""
        self._machine.expire(now_ms)

    # What it shows.

    def describe(self) -> GroupDescription:
        machine = self._machine
        protocol = machine.protocol if machine.state is GroupState.STABLE else None
        return GroupDescription(
            group_id=self.group_id,
            state=machine.state,
            protocol_type=machine.protocol_type,
            protocol=protocol,
            generation=machine.generation,
            leader=self._members.leader,
            empty_since_ms=machine.empty_since_ms,
            members=tuple(
                MemberDescription(
                    member.member_id,
                    member.group_instance_id,
                    member.client_id,
                    member.client_host,
                    member.session_timeout_ms,
                    member.rebalance_timeout_ms,
                    tuple(member.protocols.items()),
                    b"" if protocol is None else member.protocols[protocol],
                    member.assignment,
                )
                for member in self._members
            ),
        )

    def subscribed_topics(self) -> frozenset[str] | None:
        """Of all members; None if that is not known, or the group is not one of consumers."""
        at = (self.generation, self._members.revision)
        if self._subscribed_at != at:
            self._subscribed, self._subscribed_at = self._read_subscriptions(), at
        return self._subscribed

    def is_subscribed(self, topic: str) -> bool:
        """Consumers whose subscriptions cannot be read are taken for subscribed to everything."""
        topics = self.subscribed_topics()
        return self.protocol_type == CONSUMER if topics is None else topic in topics

    def _read_subscriptions(self) -> frozenset[str] | None:
        if self.protocol_type != CONSUMER:
            return None
        protocol = self._machine.protocol or ""
        found: set[str] = set()
        for member in self._members:
            topics = self._topics_of(member.protocols.get(protocol, b""))
            if topics is None:
                return None
            found |= topics
        return frozenset(found)

    def retention(self) -> Retention | None:
        """From when on the time counts after which offsets expire; None while none does."""
        if self.protocol_type is None:
            return Retention(None, frozenset())
        if self.state is GroupState.EMPTY:
            return Retention(self._machine.empty_since_ms, frozenset())
        topics = self.subscribed_topics()
        if self.state is GroupState.STABLE and topics is not None:
            return Retention(None, topics)
        return None

    def check_delete(self) -> None:
        """May it be removed? Raises GroupRefused."""
        self._check_exists()
        if self.state is not GroupState.EMPTY:
            _refuse(GroupError.NON_EMPTY_GROUP, f"group '{self.group_id}' has members")

    def check_delete_offsets(self) -> None:
        """May offsets of topics to which nobody is subscribed be deleted? Raises GroupRefused."""
        self._check_exists()
        if self.state is not GroupState.EMPTY and self.protocol_type != CONSUMER:
            what = f"group '{self.group_id}' has members of the type '{self.protocol_type}'"
            _refuse(GroupError.NON_EMPTY_GROUP, what)

    def check_unsubscribed(self, topic: str) -> None:
        """Raises GroupRefused if members may be reading the topic."""
        if self.is_subscribed(topic):
            what = f"group '{self.group_id}' is subscribed to topic '{topic}'"
            _refuse(GroupError.GROUP_SUBSCRIBED_TO_TOPIC, what)

    # Joining.

    def _join(self, request: Join, protocols: dict[str, bytes], token: Token, now_ms: int) -> None:
        self._check_served(Request.JOIN)
        replaced = None if request.member_id else self._members.of_instance(request.group_instance_id)
        self._check_join(request, protocols, replaced or self._members.get(request.member_id))
        if replaced is not None:
            self._replace(replaced, request, protocols, token, now_ms)
        elif request.member_id in self._machine.pending and request.group_instance_id is None:
            self._add(request.member_id, request, protocols, token, now_ms)
        elif request.member_id:
            member = self._known_member(request.member_id, request.group_instance_id)
            self._rejoin(member, request, protocols, token, now_ms)
        elif request.group_instance_id is None and request.require_known_member_id:
            self._give_id(request, token, now_ms)
        else:
            member_id = self._new_member_id(request.group_instance_id or request.client_id)
            self._add(member_id, request, protocols, token, now_ms)

    def _check_join(self, request: Join, protocols: dict[str, bytes], known: Member[Token] | None) -> None:
        limits, members = self._limits, self._members
        least, most = limits.session_timeout_min_ms, limits.session_timeout_max_ms
        if not least <= request.session_timeout_ms <= most:
            what = f"session timeout of {request.session_timeout_ms} ms is not between {least} and {most}"
            _refuse(GroupError.INVALID_SESSION_TIMEOUT, what)
        if known is None and len(members) >= limits.size_max:
            what = f"group '{self.group_id}' has {limits.size_max} members"
            _refuse(GroupError.GROUP_MAX_SIZE_REACHED, what)
        size = member_size(request.group_instance_id, request.client_id, request.client_host, protocols)
        total = members.size + size - (known.size if known else 0)
        count = len(request.protocols)
        if (
            count > limits.protocols_max
            or size > limits.metadata_size_max
            or total > limits.metadata_total_max
        ):
            what = f"group '{self.group_id}': a member with {count} protocols and {size} octets"
            _refuse(GroupError.MEMBER_METADATA_TOO_LARGE, what)
        self._check_room(size - known.size if known else size + MEMBER_COST)
        if not self._suits(request.protocol_type, protocols, known):
            what = f"group '{self.group_id}' is a {self.protocol_type}, and its members have other protocols"
            _refuse(GroupError.INCONSISTENT_GROUP_PROTOCOL, what)

    def _check_room(self, more: int) -> None:
        """Whoever does not need more room may stay."""
        if 0 < more > self._room():
            what = f"group '{self.group_id}': {more} octets more, where all groups keep as much as they may"
            _refuse(GroupError.GROUP_MAX_SIZE_REACHED, what)

    def _suits(self, protocol_type: str, protocols: dict[str, bytes], known: Member[Token] | None) -> bool:
        if not self._members:
            return bool(protocol_type and protocols)
        return protocol_type == self.protocol_type and self._members.supports(protocols, known)

    def _give_id(self, request: Join, token: Token, now_ms: int) -> None:
        """A client that knows its id before it is counted does not leave a member behind that nobody is."""
        if len(self._machine.pending) >= self._limits.size_max:
            what = f"group '{self.group_id}' waits for {self._limits.size_max} clients to come back"
            _refuse(GroupError.GROUP_MAX_SIZE_REACHED, what)
        member_id = self._new_member_id(request.client_id)
        self._machine.expect(member_id, now_ms + request.session_timeout_ms)
        self.replies.append((token, JoinReply(GroupError.MEMBER_ID_REQUIRED, member_id)))

    def _add(
        self, member_id: str, request: Join, protocols: dict[str, bytes], token: Token, now_ms: int
    ) -> None:
        if not self._members:
            self._machine.protocol_type = request.protocol_type
        member: Member[Token] = new_member(member_id, request, protocols)
        instance = f" ({member.group_instance_id})" if member.group_instance_id is not None else ""
        self._machine.add(member, token, _because(f"{member_id}{instance} joined", request), now_ms)

    def _rejoin(
        self,
        member: Member[Token],
        request: Join,
        protocols: dict[str, bytes],
        token: Token,
        now_ms: int,
    ) -> None:
        """A known member is counted, or told again what it may have missed.

        A leader of a stable group asks because something has changed that its metadata do not show, such as
        the number of a topic's partitions.
        """
        machine = self._machine
        changed = not member.offers(protocols)
        leads = self._members.leader == member.member_id
        self._members.update(member, request, protocols)
        if changed or machine.state is GroupState.PREPARING_REBALANCE:
            why = f"{member.member_id} joined {'with other metadata' if changed else 'again'}"
        elif leads and machine.state is GroupState.STABLE:
            why = f"{member.member_id}, the leader, joined again"
        else:
            machine.touch(member, now_ms)
            self.replies.append((token, machine.join_reply(member)))
            return
        machine.gather(member, token, _because(why, request), now_ms)

    def _replace(
        self, old: Member[Token], request: Join, protocols: dict[str, bytes], token: Token, now_ms: int
    ) -> None:
        """An instance is back without its id: it gets a new one, and whoever has the old one is fenced."""
        machine = self._machine
        old_leader = self._members.leader
        member: Member[Token] = new_member(
            self._new_member_id(request.group_instance_id or ""), request, protocols
        )
        member.assignment = old.assignment
        machine.replace(old, member)
        if machine.state is GroupState.STABLE and self._members.vote() == machine.protocol:
            machine.resume(member, now_ms)
            self.replies.append((token, self._resumption(member, request, old_leader or "")))
        else:
            why = f"{member.member_id} replaced {old.member_id} as {member.group_instance_id}"
            machine.gather(member, token, _because(why, request), now_ms)

    def _resumption(self, member: Member[Token], request: Join, old_leader: str) -> JoinReply:
        """A leader that resumes must not share out anew: the others would not ask for it.

        One that cannot be told so is shown its old id as the leader's, and takes itself for a follower.
        """
        if not request.supports_skip_assignment:
            return replace(self._machine.join_reply(member, show_members=False), leader=old_leader)
        leads = self._members.leader == member.member_id
        return replace(self._machine.join_reply(member), skip_assignment=leads)

    # Syncing, leaving.

    def _sync(self, request: Sync, token: Token, now_ms: int) -> None:
        self._check_served(Request.SYNC)
        machine = self._machine
        member = self._current_member(request.member_id, request.group_instance_id, request.generation)
        self._check_protocol(request.protocol_type, machine.protocol_type)
        self._check_protocol(request.protocol_name, machine.protocol)
        leads = self._members.leader == member.member_id
        assignments = self._assignments(request) if leads else {}
        self._serve(Request.SYNC, member, now_ms)
        machine.synced(member)
        if machine.state is GroupState.STABLE:
            self.replies.append((token, machine.sync_reply(member)))
            return
        machine.park_sync(member, token)
        if leads:
            machine.assign(assignments, now_ms)

    def _check_protocol(self, asked: str | None, have: str | None) -> None:
        if asked is not None and asked != have:
            what = f"group '{self.group_id}' has '{have}', not '{asked}'"
            _refuse(GroupError.INCONSISTENT_GROUP_PROTOCOL, what)

    def _assignments(self, request: Sync) -> dict[str, bytes]:
        """What the leader gives to whom."""
        found = {
            member_id: assignment
            for member_id, assignment in request.assignments
            if self._members.get(member_id) is not None
        }
        most = max(map(len, found.values()), default=0)
        total = sum(map(len, found.values()))
        if most > self._limits.metadata_size_max or total > self._limits.metadata_total_max:
            what = f"group '{self.group_id}': assignments of {total} octets, one of {most}"
            _refuse(GroupError.MEMBER_METADATA_TOO_LARGE, what)
        self._check_room(total - sum(len(member.assignment) for member in self._members))
        return found

    def _leave(self, one: Leaving) -> list[str]:
        """The id of the member that is gone, if it was one."""
        if one.member_id in self._machine.pending:
            self._machine.expect_no_more(one.member_id)
            return []
        named = None if one.member_id else self._members.of_instance(one.group_instance_id)
        member = named or self._known_member(one.member_id, one.group_instance_id)
        self._machine.remove(member, f"left: {one.reason[:_REASON_MAX]}" if one.reason else "left")
        return [member.member_id]

    # Who may.

    def _check_served(self, request: Request) -> None:
        if self.state is GroupState.DEAD:
            _refuse(UNSERVED[request], f"group '{self.group_id}' is gone")

    def _check_exists(self) -> None:
        if self.state is GroupState.DEAD:
            _refuse(GroupError.GROUP_ID_NOT_FOUND, f"no group '{self.group_id}'")

    def _known_member(self, member_id: str, instance_id: str | None) -> Member[Token]:
        """The member that has both ids, if the instance id is given."""
        holder = self._members.of_instance(instance_id)
        if holder is not None and holder.member_id != member_id:
            what = f"instance '{instance_id}' of group '{self.group_id}' is {holder.member_id} now"
            _refuse(GroupError.FENCED_INSTANCE_ID, what)
        member = self._members.get(member_id)
        if member is None or (instance_id is not None and holder is None):
            _refuse(GroupError.UNKNOWN_MEMBER_ID, f"no member '{member_id}' in group '{self.group_id}'")
        return member

    def _current_member(self, member_id: str, instance_id: str | None, generation: int) -> Member[Token]:
        member = self._known_member(member_id, instance_id)
        if generation != self.generation:
            what = f"group '{self.group_id}' is in generation {self.generation}, not {generation}"
            _refuse(GroupError.ILLEGAL_GENERATION, what)
        return member

    def _serve(self, request: Request, member: Member[Token], now_ms: int) -> None:
        """A member of the current generation asks for something that depends on the state."""
        if self.state in KEEPS_SESSION[request]:
            self._machine.touch(member, now_ms)
        refusal = UNTIMELY.get((request, self.state))
        if refusal is not None:
            _refuse(refusal, f"group '{self.group_id}' is {self.state}")


def _because(what: str, request: Join) -> str:
    return f"{what}: {request.reason[:_REASON_MAX]}" if request.reason else what


def _refuse(error: GroupError, text: str) -> NoReturn:
    raise GroupRefused(error, text)
