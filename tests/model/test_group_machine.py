"""Consumers that come, work, die, hang and return, in any order, and a group that must make sense to all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from broker.model.group_calls import Assigned, GroupDescription, Leaving, Rebalanced
from broker.model.group_errors import GroupError
from broker.model.group_limits import GROUP_COST, MEMBER_COST, PENDING_COST, GroupLimits
from broker.model.group_state import GroupState
from group_client import DEAD, JOINED, JOINING, OUT, PARTITIONS, RUNNING, SYNCING, Client
from group_host import Host

SIZE_MAX = 5
CLIENTS_MAX = 7
INTERVAL_MS = 2_000
"""Between heartbeats."""
SESSIONS_MS = (6_000, 10_000)
REBALANCES_MS = (10_000, 60_000)

# Whatever has happened before, so long does it take at most until all who live share the work: members
# whose clients are gone are noticed one after the other.
PATIENCE_MS = GroupLimits().new_member_join_timeout_ms + CLIENTS_MAX * (max(SESSIONS_MS) + max(REBALANCES_MS))


class Kind(NamedTuple):
    """What a client is from beginning to end."""

    instance: str | None
    old: bool
    session_ms: int
    rebalance_ms: int


kinds = st.builds(
    Kind,
    st.sampled_from([None, None, None, "one", "two", "three"]),
    st.booleans(),
    st.sampled_from(SESSIONS_MS),
    st.sampled_from(REBALANCES_MS),
)


class Consumers(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.clients: list[Client] = []
        self.generation = 0
        self.kept: GroupDescription | None = None

    @initialize(delay_ms=st.sampled_from([0, 3_000]), first=st.lists(kinds, max_size=CLIENTS_MAX - 2))
    def begin(self, delay_ms: int, first: list[Kind]) -> None:
        self.limits = GroupLimits(size_max=SIZE_MAX, initial_rebalance_delay_ms=delay_ms)
        self.host = Host(self.limits, topics_of=lambda metadata: frozenset({metadata.decode()}))
        for made in first:
            self._start(made)

    # What clients do.

    @precondition(lambda self: len(self.clients) < CLIENTS_MAX)
    @rule(made=kinds)
    def start(self, made: Kind) -> None:
        self._start(made)

    @precondition(lambda self: self._some(alive=False))
    @rule(data=st.data())
    def come_back(self, data: st.DataObject) -> None:
        self._choose(data, alive=False).start()

    @precondition(lambda self: self._some())
    @rule(data=st.data(), turns=st.lists(st.integers(0, CLIENTS_MAX - 1), min_size=1, max_size=12))
    def steps(self, data: st.DataObject, turns: list[int]) -> None:
        """In any order, some more often than others."""
        alive = [client for client in self.clients if client.alive]
        for turn in turns:
            self._step(alive[turn % len(alive)])

    @rule()
    def everybody_steps(self) -> None:
        for client in self.clients:
            self._step(client)

    @precondition(lambda self: self._some())
    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        client = self._choose(data)
        if client.phase != RUNNING:
            return
        current = client.generation == self.host.group.generation and self._is_member(client)
        state = self.host.group.state
        error = client.commit()
        if current:
            rebalancing = GroupError.REBALANCE_IN_PROGRESS
            assert error is (rebalancing if state is GroupState.COMPLETING_REBALANCE else None)
        else:
            assert error is not None

    @precondition(lambda self: sum(client.alive for client in self.clients) > 2)
    @rule(data=st.data(), what=st.sampled_from([Client.leave, Client.die, Client.vanish]))
    def lose(self, data: st.DataObject, what: Callable[[Client], None]) -> None:
        what(self._choose(data))
        self._listen()

    @rule(instance=st.sampled_from(["one", "two", "three"]))
    def remove_by_hand(self, instance: str) -> None:
        """As Kafka's tools do: they name the instance and no member id."""
        for client in self.clients:
            client.removed = client.instance == instance
        self.host.leave(Leaving("", instance, "by hand"))
        self._listen()
        for client in self.clients:
            client.removed = False

    @precondition(lambda self: self._some())
    @rule(data=st.data(), what=st.sampled_from([Client.disconnect, Client.lose_patience]))
    def connect_anew(self, data: st.DataObject, what: Callable[[Client], None]) -> None:
        what(self._choose(data))
        self._listen()

    @precondition(lambda self: self._some())
    @rule(data=st.data(), busy=st.booleans())
    def be_busy(self, data: st.DataObject, busy: bool) -> None:
        self._choose(data).busy = busy

    @precondition(lambda self: self._some())
    @rule(data=st.data(), metadata=st.sampled_from([b"topics", b"more"]), both=st.booleans())
    def subscribe(self, data: st.DataObject, metadata: bytes, both: bool) -> None:
        """With its next join; a client that is in a group joins because of it."""
        client = self._choose(data)
        client.protocols = [*([("sticky", b"topics")] if both else []), ("range", metadata)]
        if client.phase in (JOINED, RUNNING):
            client.phase = OUT

    # What happens to all.

    @rule(intervals=st.integers(1, 40))
    def wait(self, intervals: int) -> None:
        for _ in range(intervals):
            self._interval()

    @rule()
    def restart(self) -> None:
        """The broker comes back with what it has kept; all connections are gone."""
        self.host.group = self.host.new_group(self.limits)
        self.host.parked.clear()
        if self.kept is not None:
            self.host.group.restore(self.kept, self.host.now)
        self.generation = self.host.group.generation
        for client in self.clients:
            client.lose_patience()

    @rule()
    def calm_down(self) -> None:
        """Nobody dies any more: all who live get a share, and keep it."""
        for client in self.clients:
            client.busy = False
        end = self.host.now + PATIENCE_MS
        while not self._settled():
            assert self.host.now < end, f"{self.host.group.describe()} {[c.phase for c in self.clients]}"
            self._interval()
        generation = self.host.group.generation
        for _ in range(2 * max(REBALANCES_MS) // INTERVAL_MS):
            self._interval()
        assert self._settled()
        assert self.host.group.generation == generation
        assert not self.host.parked

    def teardown(self) -> None:
        if hasattr(self, "host"):
            self.calm_down()

    # What must always be true.

    @invariant()
    def generations_count_up(self) -> None:
        assert self.host.group.generation >= self.generation
        self.generation = self.host.group.generation

    @invariant()
    def limits_are_kept(self) -> None:
        assert len(self.host.group) <= SIZE_MAX

    @invariant()
    def its_size_is_that_of_what_it_keeps(self) -> None:
        group = self.host.group
        found = group.describe()
        members = sum(
            MEMBER_COST
            + len(member.member_id + (member.group_instance_id or "") + member.client_id + member.client_host)
            + sum(len(name) + len(metadata) for name, metadata in member.protocols)
            + len(member.assignment)
            for member in found.members
        )
        pending = sum(PENDING_COST + len(member_id) for member_id in group._machine.pending)
        names = len(group.group_id + (group.protocol_type or ""))
        assert group.size == GROUP_COST + names + members + pending

    @invariant()
    def the_state_fits_the_members(self) -> None:
        group = self.host.group
        description = group.describe()
        members = [member.member_id for member in description.members]
        assert len(set(members)) == len(members) == len(group)
        if group.state is GroupState.EMPTY:
            assert not members
        elif group.state is not GroupState.PREPARING_REBALANCE:
            assert members
        assert (description.leader in members) if members else (description.leader is None)
        instances = [m.group_instance_id for m in description.members if m.group_instance_id is not None]
        assert len(set(instances)) == len(instances)

    @invariant()
    def whoever_waits_is_parked_and_will_be_answered(self) -> None:
        waiting = {JOINING: GroupState.PREPARING_REBALANCE, SYNCING: GroupState.COMPLETING_REBALANCE}
        for client in self.clients:
            if client.phase in waiting:
                assert client.token in self.host.parked
                assert self.host.group.state is waiting[client.phase]
        if self.host.parked:
            assert self.host.group.state in waiting.values()
            assert self.host.group.next_moment() > 0
        for token in self.host.parked:
            assert self.host.now - self.host.waiting_since[token] <= max(REBALANCES_MS)

    @invariant()
    def nobody_shares_a_partition(self) -> None:
        working = [client for client in self.clients if self._takes_part(client)]
        owned = Counter(partition for client in working for partition in client.assignment)
        assert set(owned.values()) <= {1}
        if self.host.group.state is GroupState.STABLE and len(working) == len(self.host.group):
            assert set(owned) == PARTITIONS

    @invariant()
    def counts_are_what_counting_gives(self) -> None:
        members = self.host.group._members
        there = list(members)
        assert members.all_joined == all(member.joined for member in there)
        assert members.size == sum(member.size for member in there)
        common = set.intersection(*(set(member.protocols) for member in there)) if there else set()
        for name in ("range", "sticky"):
            assert members.supports([name], None) == (name in common or not there)
            for one in there:
                others = [set(member.protocols) for member in there if member is not one]
                assert members.supports([name], one) == all(name in other for other in others)
        if there:
            assert members.vote() in common

    @invariant()
    def subscriptions_are_those_of_the_members(self) -> None:
        group = self.host.group
        if group.state is GroupState.STABLE:
            described = group.describe().members
            assert group.subscribed_topics() == {member.metadata.decode() for member in described}

    # Small things.

    def _start(self, made: Kind) -> None:
        self.clients.append(
            Client(
                self.host,
                made.instance,
                old=made.old,
                session_ms=made.session_ms,
                rebalance_ms=made.rebalance_ms,
            )
        )

    def _some(self, *, alive: bool = True) -> bool:
        return any(client.alive == alive for client in self.clients)

    def _choose(self, data: st.DataObject, *, alive: bool = True) -> Client:
        return data.draw(st.sampled_from([client for client in self.clients if client.alive == alive]))

    def _step(self, client: Client) -> None:
        client.step()
        self._listen()

    def _interval(self) -> None:
        self.host.pass_time(INTERVAL_MS)
        self._listen()
        for client in self.clients:
            self._step(client)

    def _listen(self) -> None:
        for client in self.clients:
            client.listen()
        for event in self.host.events:
            if isinstance(event, Assigned) or (isinstance(event, Rebalanced) and not event.members):
                self.kept = self.host.group.describe()
        self.host.events.clear()

    def _is_member(self, client: Client) -> bool:
        return self.host.group._members.get(client.member_id) is not None

    def _takes_part(self, client: Client) -> bool:
        """It works, and nobody has told it or is to tell it that it must not."""
        return (
            client.phase == RUNNING
            and client.generation == self.host.group.generation
            and self._is_member(client)
        )

    def _settled(self) -> bool:
        alive = [client for client in self.clients if client.phase != DEAD]
        if not alive:
            return self.host.group.idle
        return (
            self.host.group.state is GroupState.STABLE
            and all(self._takes_part(client) for client in alive)
            and len(self.host.group) == len(alive)
        )


def test_static_client_that_closes_before_it_has_a_member_id_removes_no_member() -> None:
    machine = Consumers()
    dynamic = Kind(None, old=False, session_ms=6_000, rebalance_ms=10_000)
    static = dynamic._replace(instance="one")
    machine.begin(delay_ms=3_000, first=[dynamic, static, static])
    _, waiting, closing = machine.clients
    machine.steps(None, [0, 0, 1])
    assert (waiting.phase, closing.member_id) == (JOINING, "")
    closing.leave()
    machine._listen()
    assert waiting.phase == JOINING
    machine.calm_down()
    assert waiting.phase == RUNNING


TestConsumers = Consumers.TestCase
TestConsumers.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
