"""Every request in every state, as Kafka's classic groups answer it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest

from broker.model.group_calls import JoinReply, Leaving, SyncReply
from broker.model.group_errors import GroupError
from broker.model.group_state import TRANSITIONS, GroupState
from group_host import RANGE, Host

EMPTY, PREPARING, COMPLETING, STABLE, DEAD = GroupState

UNKNOWN = GroupError.UNKNOWN_MEMBER_ID
UNAVAILABLE = GroupError.COORDINATOR_NOT_AVAILABLE
REBALANCING = GroupError.REBALANCE_IN_PROGRESS
ILLEGAL = GroupError.ILLEGAL_GENERATION
INCONSISTENT = GroupError.INCONSISTENT_GROUP_PROTOCOL
ID_REQUIRED = GroupError.MEMBER_ID_REQUIRED


class World(NamedTuple):
    host: Host
    leader: str
    follower: str


def in_state(state: GroupState) -> World:
    """Two members, or who they were. In PreparingRebalance the leader has joined and the follower not yet."""
    host = Host()
    leader, follower = host.settle(2)
    if state is EMPTY:
        host.group.leave([Leaving(leader), Leaving(follower)], host.now)
    elif state is DEAD:
        host.group.close()
    elif state is not STABLE:
        host.join(leader)
        if state is COMPLETING:
            host.join(follower)
    host.drain()
    assert host.group.state is state
    return World(host, leader, follower)


class Parked:
    """No answer yet."""


class Now(NamedTuple):
    """An answer without an error; with members for a leader, without for others."""

    members: int = 0


Answer = type[Parked] | Now | GroupError | None


def answer(world: World, token: int) -> Answer:
    if token in world.host.parked:
        return Parked
    reply = world.host.answers[token]
    if reply.error is not None:
        return reply.error
    return Now(len(reply.members)) if isinstance(reply, JoinReply) else Now()


JOINS: dict[str, Callable[[World], int]] = {
    "new, told its id first": lambda world: world.host.join(),
    "new, counted at once": lambda world: world.host.join(old=True),
    "leader, unchanged": lambda world: world.host.join(world.leader),
    "leader, changed": lambda world: world.host.join(world.leader, protocols=[("range", b"more")]),
    "follower, unchanged": lambda world: world.host.join(world.follower),
    "follower, changed": lambda world: world.host.join(world.follower, protocols=[("range", b"more")]),
    "nobody": lambda world: world.host.join("nobody"),
    "another type": lambda world: world.host.join(world.follower, protocol_type="connect"),
    "another protocol": lambda world: world.host.join(world.follower, protocols=[("sticky", b"topics")]),
    "no protocol": lambda world: world.host.join(world.follower, protocols=[]),
}


@pytest.mark.parametrize(
    ("who", "state", "expected", "after"),
    [
        ("new, told its id first", EMPTY, ID_REQUIRED, EMPTY),
        ("new, told its id first", PREPARING, ID_REQUIRED, PREPARING),
        ("new, told its id first", COMPLETING, ID_REQUIRED, COMPLETING),
        ("new, told its id first", STABLE, ID_REQUIRED, STABLE),
        ("new, told its id first", DEAD, UNAVAILABLE, DEAD),
        ("new, counted at once", EMPTY, Now(1), COMPLETING),
        ("new, counted at once", PREPARING, Parked, PREPARING),
        ("new, counted at once", COMPLETING, Parked, PREPARING),
        ("new, counted at once", STABLE, Parked, PREPARING),
        ("new, counted at once", DEAD, UNAVAILABLE, DEAD),
        ("leader, unchanged", EMPTY, UNKNOWN, EMPTY),
        ("leader, unchanged", PREPARING, Parked, PREPARING),
        ("leader, unchanged", COMPLETING, Now(2), COMPLETING),
        ("leader, unchanged", STABLE, Parked, PREPARING),
        ("leader, unchanged", DEAD, UNAVAILABLE, DEAD),
        ("leader, changed", EMPTY, UNKNOWN, EMPTY),
        ("leader, changed", PREPARING, Parked, PREPARING),
        ("leader, changed", COMPLETING, Parked, PREPARING),
        ("leader, changed", STABLE, Parked, PREPARING),
        ("leader, changed", DEAD, UNAVAILABLE, DEAD),
        ("follower, unchanged", EMPTY, UNKNOWN, EMPTY),
        ("follower, unchanged", PREPARING, Now(0), COMPLETING),
        ("follower, unchanged", COMPLETING, Now(0), COMPLETING),
        ("follower, unchanged", STABLE, Now(0), STABLE),
        ("follower, unchanged", DEAD, UNAVAILABLE, DEAD),
        ("follower, changed", EMPTY, UNKNOWN, EMPTY),
        ("follower, changed", PREPARING, Now(0), COMPLETING),
        ("follower, changed", COMPLETING, Parked, PREPARING),
        ("follower, changed", STABLE, Parked, PREPARING),
        ("follower, changed", DEAD, UNAVAILABLE, DEAD),
        ("nobody", EMPTY, UNKNOWN, EMPTY),
        ("nobody", PREPARING, UNKNOWN, PREPARING),
        ("nobody", COMPLETING, UNKNOWN, COMPLETING),
        ("nobody", STABLE, UNKNOWN, STABLE),
        ("nobody", DEAD, UNAVAILABLE, DEAD),
        ("another type", PREPARING, INCONSISTENT, PREPARING),
        ("another type", COMPLETING, INCONSISTENT, COMPLETING),
        ("another type", STABLE, INCONSISTENT, STABLE),
        ("another type", DEAD, UNAVAILABLE, DEAD),
        ("another protocol", PREPARING, INCONSISTENT, PREPARING),
        ("another protocol", COMPLETING, INCONSISTENT, COMPLETING),
        ("another protocol", STABLE, INCONSISTENT, STABLE),
        ("another protocol", DEAD, UNAVAILABLE, DEAD),
        ("no protocol", EMPTY, INCONSISTENT, EMPTY),
        ("no protocol", PREPARING, INCONSISTENT, PREPARING),
        ("no protocol", COMPLETING, INCONSISTENT, COMPLETING),
        ("no protocol", STABLE, INCONSISTENT, STABLE),
        ("no protocol", DEAD, UNAVAILABLE, DEAD),
    ],
)
def test_join(who: str, state: GroupState, expected: Answer, after: GroupState) -> None:
    world = in_state(state)
    token = JOINS[who](world)
    assert answer(world, token) == expected
    assert world.host.group.state is after


def test_a_group_of_another_type_may_follow_an_empty_one() -> None:
    world = in_state(EMPTY)
    token = world.host.join(old=True, protocol_type="connect", protocols=[("compatible", b"")])
    assert world.host.joined(token).protocol_type == "connect"


SYNCS: dict[str, Callable[[World], int]] = {
    "leader": lambda world: world.host.sync(world.leader, assignments={world.follower: b"all"}),
    "follower": lambda world: world.host.sync(world.follower),
    "nobody": lambda world: world.host.sync("nobody"),
    "former generation": lambda world: world.host.sync(
        world.follower, generation=world.host.group.generation - 1
    ),
    "another type": lambda world: world.host.sync(world.follower, protocol_type="connect"),
    "another protocol": lambda world: world.host.sync(world.follower, protocol="sticky"),
    "right type and protocol": lambda world: world.host.sync(
        world.follower, protocol_type="consumer", protocol="range"
    ),
}


@pytest.mark.parametrize(
    ("who", "state", "expected", "after"),
    [
        ("leader", EMPTY, UNKNOWN, EMPTY),
        ("leader", PREPARING, REBALANCING, PREPARING),
        ("leader", COMPLETING, Now(), STABLE),
        ("leader", STABLE, Now(), STABLE),
        ("leader", DEAD, UNAVAILABLE, DEAD),
        ("follower", EMPTY, UNKNOWN, EMPTY),
        ("follower", PREPARING, REBALANCING, PREPARING),
        ("follower", COMPLETING, Parked, COMPLETING),
        ("follower", STABLE, Now(), STABLE),
        ("follower", DEAD, UNAVAILABLE, DEAD),
        ("nobody", EMPTY, UNKNOWN, EMPTY),
        ("nobody", PREPARING, UNKNOWN, PREPARING),
        ("nobody", COMPLETING, UNKNOWN, COMPLETING),
        ("nobody", STABLE, UNKNOWN, STABLE),
        ("nobody", DEAD, UNAVAILABLE, DEAD),
        ("former generation", EMPTY, UNKNOWN, EMPTY),
        ("former generation", PREPARING, ILLEGAL, PREPARING),
        ("former generation", COMPLETING, ILLEGAL, COMPLETING),
        ("former generation", STABLE, ILLEGAL, STABLE),
        ("another type", PREPARING, INCONSISTENT, PREPARING),
        ("another type", COMPLETING, INCONSISTENT, COMPLETING),
        ("another type", STABLE, INCONSISTENT, STABLE),
        ("another protocol", PREPARING, INCONSISTENT, PREPARING),
        ("another protocol", COMPLETING, INCONSISTENT, COMPLETING),
        ("another protocol", STABLE, INCONSISTENT, STABLE),
        ("right type and protocol", COMPLETING, Parked, COMPLETING),
        ("right type and protocol", STABLE, Now(), STABLE),
    ],
)
def test_sync(who: str, state: GroupState, expected: Answer, after: GroupState) -> None:
    world = in_state(state)
    token = SYNCS[who](world)
    assert answer(world, token) == expected
    assert world.host.group.state is after


ASKED_BY_MEMBERS: dict[str, tuple[str, int]] = {
    "member": ("follower", 0),
    "nobody": ("nobody", 0),
    "former generation": ("follower", -1),
}


def ask(world: World, call: Callable[..., GroupError | None], who: str, generation: int) -> GroupError | None:
    member_id = world.follower if who == "follower" else who
    return call(member_id, generation=world.host.group.generation + generation)


@pytest.mark.parametrize(
    ("who", "state", "expected"),
    [
        ("member", EMPTY, UNKNOWN),
        ("member", PREPARING, REBALANCING),
        ("member", COMPLETING, None),
        ("member", STABLE, None),
        ("member", DEAD, UNKNOWN),
        ("nobody", EMPTY, UNKNOWN),
        ("nobody", PREPARING, UNKNOWN),
        ("nobody", COMPLETING, UNKNOWN),
        ("nobody", STABLE, UNKNOWN),
        ("nobody", DEAD, UNKNOWN),
        ("former generation", PREPARING, ILLEGAL),
        ("former generation", COMPLETING, ILLEGAL),
        ("former generation", STABLE, ILLEGAL),
    ],
)
def test_heartbeat(who: str, state: GroupState, expected: GroupError | None) -> None:
    world = in_state(state)
    assert ask(world, world.host.heartbeat, *ASKED_BY_MEMBERS[who]) is expected
    assert world.host.group.state is state


@pytest.mark.parametrize(
    ("who", "state", "expected"),
    [
        ("member", EMPTY, UNKNOWN),
        ("member", PREPARING, None),
        ("member", COMPLETING, REBALANCING),
        ("member", STABLE, None),
        ("member", DEAD, UNAVAILABLE),
        ("nobody", EMPTY, UNKNOWN),
        ("nobody", PREPARING, UNKNOWN),
        ("nobody", COMPLETING, UNKNOWN),
        ("nobody", STABLE, UNKNOWN),
        ("nobody", DEAD, UNAVAILABLE),
        ("former generation", PREPARING, ILLEGAL),
        ("former generation", COMPLETING, ILLEGAL),
        ("former generation", STABLE, ILLEGAL),
    ],
)
def test_commit(who: str, state: GroupState, expected: GroupError | None) -> None:
    world = in_state(state)
    assert ask(world, world.host.commit, *ASKED_BY_MEMBERS[who]) is expected
    assert world.host.group.state is state


@pytest.mark.parametrize(
    ("state", "expected"),
    [(EMPTY, None), (PREPARING, UNKNOWN), (COMPLETING, UNKNOWN), (STABLE, UNKNOWN), (DEAD, UNAVAILABLE)],
)
def test_commit_of_a_simple_consumer(state: GroupState, expected: GroupError | None) -> None:
    assert in_state(state).host.commit("", generation=-1) is expected


def test_a_member_must_not_commit_without_its_generation() -> None:
    world = in_state(STABLE)
    assert world.host.commit(world.follower, generation=-1) is ILLEGAL


@pytest.mark.parametrize(
    ("state", "expected", "after"),
    [
        (EMPTY, UNKNOWN, EMPTY),
        (PREPARING, None, COMPLETING),  # The one who stays had joined already.
        (COMPLETING, None, PREPARING),
        (STABLE, None, PREPARING),
        (DEAD, UNKNOWN, DEAD),
    ],
)
def test_leave(state: GroupState, expected: GroupError | None, after: GroupState) -> None:
    world = in_state(state)
    (left,) = world.host.group.leave([Leaving(world.follower)], world.host.now)
    world.host.drain()
    assert left.error is expected
    assert world.host.group.state is after


@pytest.mark.parametrize("state", [PREPARING, COMPLETING, STABLE])
def test_leave_of_nobody_changes_nothing(state: GroupState) -> None:
    world = in_state(state)
    (left,) = world.host.group.leave([Leaving("nobody")], world.host.now)
    assert left.error is UNKNOWN
    assert world.host.group.state is state


@pytest.mark.parametrize("state", [PREPARING, COMPLETING, STABLE])
def test_the_last_one_to_leave_empties_the_group(state: GroupState) -> None:
    world = in_state(state)
    world.host.group.leave([Leaving(world.follower), Leaving(world.leader)], world.host.now)
    world.host.drain()
    assert world.host.group.state is EMPTY
    assert not world.host.parked


@pytest.mark.parametrize("state", [PREPARING, COMPLETING])
def test_close_answers_who_is_parked(state: GroupState) -> None:
    world = in_state(state)
    if state is COMPLETING:
        world.host.sync(world.follower)
    (token,) = world.host.parked
    world.host.group.close()
    world.host.drain()
    assert answer(world, token) is UNAVAILABLE
    assert isinstance(world.host.answers[token], JoinReply if state is PREPARING else SyncReply)
    assert world.host.group.next_moment() == 0
    assert len(world.host.group) == 0


def test_states_lead_where_the_table_says() -> None:
    """Spelled out once more: what a change of the table would break is here to be seen."""
    assert {state: set(after) for state, after in TRANSITIONS.items()} == {
        EMPTY: {PREPARING, DEAD},
        PREPARING: {COMPLETING, EMPTY, DEAD},
        COMPLETING: {STABLE, PREPARING, DEAD},
        STABLE: {PREPARING, DEAD},
        DEAD: set(),
    }


def test_a_dead_group_does_not_come_back() -> None:
    world = in_state(DEAD)
    with pytest.raises(AssertionError):
        world.host.group.close()


def test_a_join_with_the_same_metadata_is_recognised_by_order_too() -> None:
    host = Host()
    host.arrive(protocols=[*RANGE, ("sticky", b"topics")])
    (member,) = host.group.describe().members
    token = host.join(member.member_id, protocols=[("sticky", b"topics"), *RANGE])
    assert host.joined(token).generation == 2
    assert host.joined(token).protocol == "sticky"
