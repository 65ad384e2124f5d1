"""Static members: an instance that comes back takes its place again, and whoever else claims it is fenced."""

from __future__ import annotations

import pytest

from broker.model.group_calls import Assigned, Leaving, Rebalanced
from broker.model.group_errors import GroupError
from broker.model.group_limits import GroupLimits
from group_host import REBALANCE_MS, SESSION_MS, Host

BOTH = [("range", b""), ("sticky", b"")]


def settled(host: Host, *instances: str) -> list[str]:
    """A stable group of static members; returns their ids in the order of the instances."""
    first = {instance: host.join(instance=instance) for instance in instances}
    ids = {member.group_instance_id: member.member_id for member in host.group.describe().members}
    if len(instances) > 1:
        again = host.join(ids[instances[0]], instance=instances[0])
        assert host.joined(again).leader == ids[instances[0]]
    members = [ids[instance] for instance in instances]
    tokens = [host.sync(member) for member in members[1:]]
    host.sync(members[0], assignments={member: member.encode() for member in members})
    assert [host.synced(token).assignment for token in tokens] == [name.encode() for name in members[1:]]
    assert not host.parked
    assert set(first.values()) <= set(host.answers)
    host.events.clear()
    return members


def test_an_instance_is_counted_at_once_and_named_after_itself() -> None:
    host = Host()
    reply = host.joined(host.join(instance="one"))
    assert reply.member_id == "one-1"
    assert reply.members[0].group_instance_id == "one"


def test_a_follower_that_comes_back_gets_a_new_id_and_its_old_assignment_without_a_rebalance() -> None:
    host = Host()
    leader, old = settled(host, "one", "two")
    reply = host.joined(host.join(instance="two"))
    assert reply.member_id not in (leader, old)
    assert reply.generation == 2
    assert reply.leader == leader
    assert reply.members == ()
    assert not reply.skip_assignment
    assert host.group.state == "Stable"
    assert host.synced(host.sync(reply.member_id, instance="two")).assignment == old.encode()
    assert host.heartbeat(leader) is None
    assert host.gone() == {old: f"replaced by {reply.member_id}"}
    assert host.events[-1] == Assigned(2, 2)


def test_a_leader_that_comes_back_is_told_not_to_assign() -> None:
    host = Host()
    old, follower = settled(host, "one", "two")
    reply = host.joined(host.join(instance="one"))
    assert reply.leader == reply.member_id
    assert reply.skip_assignment
    assert [member.member_id for member in reply.members] == [follower, reply.member_id]
    assert host.synced(host.sync(reply.member_id, assignments={})).assignment == old.encode()


def test_a_leader_that_cannot_be_told_so_takes_itself_for_a_follower() -> None:
    host = Host()
    old, _ = settled(host, "one", "two")
    reply = host.joined(host.join(instance="one", skips=False))
    assert reply.leader == old
    assert reply.members == ()
    assert not reply.skip_assignment
    # It leads nevertheless: when it joins again, all do.
    assert host.join(reply.member_id, instance="one") in host.parked
    assert host.group.state == "PreparingRebalance"


def test_the_id_that_was_replaced_is_fenced() -> None:
    host = Host()
    _, old = settled(host, "one", "two")
    host.join(instance="two")
    fenced = GroupError.FENCED_INSTANCE_ID
    assert host.heartbeat(old, instance="two") is fenced
    assert host.commit(old, instance="two") is fenced
    assert host.error(host.join(old, instance="two")) is fenced
    assert host.error(host.sync(old, instance="two")) is fenced
    (left,) = host.group.leave([Leaving(old, "two")], host.now)
    assert left.error is fenced
    # Who does not say which instance it is has just an unknown id.
    assert host.heartbeat(old) is GroupError.UNKNOWN_MEMBER_ID
    assert host.group.state == "Stable"


def test_an_instance_that_nobody_knows_has_no_member_ids() -> None:
    host = Host()
    (member,) = settled(host, "one")
    unknown = GroupError.UNKNOWN_MEMBER_ID
    assert host.heartbeat(member, instance="other") is unknown
    assert host.error(host.join(member, instance="other")) is unknown
    assert host.error(host.join("nobody", instance="other")) is unknown


def test_an_id_that_was_given_to_a_dynamic_client_is_no_instance() -> None:
    host = Host()
    host.join()
    assert host.error(host.join("client-1", instance="one")) is GroupError.UNKNOWN_MEMBER_ID


def test_who_waits_with_an_id_that_is_replaced_is_answered() -> None:
    host = Host()
    leader, second = settled(host, "one", "two")
    joining = host.join(leader, instance="one")
    again = host.join(instance="one")
    assert host.error(joining) is GroupError.FENCED_INSTANCE_ID
    host.join(second, instance="two")
    new = host.joined(again)
    syncing = host.sync(second, instance="two")
    replaced = host.join(instance="two")
    assert host.error(syncing) is GroupError.FENCED_INSTANCE_ID
    assert replaced in host.parked  # The leader has been shown the old id, so all join again.
    assert host.joined(host.join(new.member_id, instance="one")).generation == 4


def test_an_instance_that_changes_the_chosen_protocol_causes_a_rebalance() -> None:
    host = Host()
    first = host.joined(host.join(instance="one", protocols=BOTH)).member_id
    second = host.join(instance="two", protocols=BOTH[:1])
    host.join(first, instance="one", protocols=BOTH)
    host.sync(first, instance="one")
    assert host.joined(second).protocol == "range"
    same = host.join(instance="two", protocols=BOTH)  # More than before, and the same is chosen.
    assert host.joined(same).generation == 2
    token = host.join(instance="one", protocols=BOTH[1:])
    assert token in host.parked
    host.join(host.joined(same).member_id, instance="two", protocols=BOTH)
    assert host.joined(token).protocol == "sticky"
    assert host.joined(token).leader == host.joined(token).member_id


def test_an_instance_that_suits_nobody_else_is_refused() -> None:
    host = Host()
    settled(host, "one", "two")
    refused = host.join(instance="two", protocols=[("sticky", b"")])
    assert host.error(refused) is GroupError.INCONSISTENT_GROUP_PROTOCOL
    assert host.group.state == "Stable"


def test_an_instance_that_comes_back_while_all_join_is_one_of_them() -> None:
    host = Host()
    leader, second = settled(host, "one", "two")
    token = host.join(leader, instance="one")
    reply = host.joined(host.join(instance="two"))
    assert host.joined(token).generation == reply.generation == 3
    assert second in host.gone()
    assert len(host.group) == 2


def test_static_members_that_do_not_join_in_time_stay() -> None:
    host = Host()
    leader, second = settled(host, "one", "two")
    token = host.join(leader, instance="one")
    host.pass_time_alive(REBALANCE_MS, second)
    reply = host.joined(token)
    assert [member.group_instance_id for member in reply.members] == ["one", "two"]
    host.sync(leader, assignments={second: b"kept for you"})
    assert host.group.state == "Stable"
    # It has missed a generation, joins again with what it had, and goes on.
    assert host.heartbeat(second, generation=2) is GroupError.ILLEGAL_GENERATION
    host.joined(host.join(second, instance="two"))
    assert host.synced(host.sync(second, instance="two")).assignment == b"kept for you"


def test_static_members_that_did_not_join_are_not_waited_for_when_syncing() -> None:
    host = Host()
    leader, second = settled(host, "one", "two")
    host.join(leader, instance="one")
    host.pass_time_alive(REBALANCE_MS, second)
    host.sync(leader, instance="one")
    host.pass_time_alive(2 * REBALANCE_MS, leader, second)
    assert host.gone() == {}
    assert host.group.state == "Stable"


def test_who_did_not_sync_the_generation_before_the_last_is_not_expected_to_either() -> None:
    host = Host()
    leader, second = settled(host, "one", "two")
    host.join(leader, instance="one")
    host.join(second, instance="two")
    host.join(leader, instance="one", protocols=[("range", b"other")])
    host.pass_time_alive(REBALANCE_MS, second)
    host.sync(leader, instance="one")
    host.pass_time_alive(2 * REBALANCE_MS, leader, second)
    assert host.gone() == {}


def test_an_instance_that_has_come_back_is_no_new_member() -> None:
    host = Host()
    new_member_ms = GroupLimits().new_member_join_timeout_ms
    leader, _ = settled(host, "one", "two")
    back = host.joined(host.join(instance="two")).member_id
    token = host.join(back, instance="two", protocols=[("range", b"x")], rebalance_ms=2 * new_member_ms)
    host.pass_time_alive(new_member_ms + 1, leader)
    assert token in host.parked
    assert host.gone().keys().isdisjoint({leader, back})


def test_an_instance_that_has_come_back_has_a_session_of_its_own() -> None:
    host = Host()
    (old,) = settled(host, "one")
    host.pass_time(SESSION_MS - 1)
    new = host.joined(host.join(instance="one")).member_id
    assert host.group.next_moment() == host.now + SESSION_MS
    host.pass_time(SESSION_MS)
    assert host.gone() == {old: f"replaced by {new}", new: "its session timed out"}


def test_a_static_member_goes_when_its_session_ends() -> None:
    host = Host()
    leader, second = settled(host, "one", "two")
    host.pass_time(SESSION_MS - 1)
    host.heartbeat(leader)
    host.pass_time(1)
    assert host.gone() == {second: "its session timed out"}
    assert host.group.state == "PreparingRebalance"


def test_when_no_static_member_joins_the_generation_waits_for_one() -> None:
    host = Host()
    leader, second = settled(host, "one", "two")
    host.join(old=True)
    host.group.leave([Leaving("client-3")], host.now)
    host.drain()
    host.pass_time_alive(2 * REBALANCE_MS, leader, second)
    assert host.group.state == "PreparingRebalance"
    assert host.group.generation == 2
    assert host.gone() == {"client-3": "left"}
    token = host.join(second, instance="two")
    host.pass_time_alive(REBALANCE_MS, leader)
    assert host.joined(token).leader == second
    assert host.joined(token).generation == 3


def test_when_no_static_member_joins_and_all_sessions_end_the_group_is_empty() -> None:
    host = Host()
    settled(host, "one", "two")
    host.join(old=True)
    host.group.leave([Leaving("client-3")], host.now)
    host.drain()
    host.pass_time(SESSION_MS)
    assert host.group.state == "Empty"
    assert host.events[-1] == Rebalanced(3, host.reasons()[-1], 0)


def test_a_tool_may_send_an_instance_away() -> None:
    host = Host()
    leader, second = settled(host, "one", "two")
    left = host.group.leave([Leaving("", "two", "by hand"), Leaving("", "three"), Leaving("")], host.now)
    assert [(one.member_id, one.group_instance_id, one.error) for one in left] == [
        ("", "two", None),
        ("", "three", GroupError.UNKNOWN_MEMBER_ID),
        ("", None, GroupError.UNKNOWN_MEMBER_ID),
    ]
    host.join(leader, instance="one")
    assert host.gone() == {second: "left: by hand"}
    assert len(host.group) == 1


def test_replaced_member_that_leaves_does_not_remove_its_successor() -> None:
    host = Host()
    leader, second, old = settled(host, "one", "two", "three")
    host.join(leader, instance="one", protocols=[("range", b"other")])
    successor = host.join(instance="three")
    assert successor in host.parked
    assert host.leave(Leaving(old, "three")) is GroupError.FENCED_INSTANCE_ID
    assert host.leave(Leaving(old)) is GroupError.UNKNOWN_MEMBER_ID
    assert successor in host.parked
    host.join(second, instance="two")
    assert host.joined(successor).member_id not in ("", old)


def test_instance_that_a_tool_removes_while_its_join_waits_is_told_to_join_as_new() -> None:
    host = Host()
    leader, _ = settled(host, "one", "two")
    joining = host.join(leader, instance="one", protocols=[("range", b"other")])
    assert joining in host.parked
    assert host.leave(Leaving("", "one", "by hand")) is None
    assert host.error(joining) is GroupError.UNKNOWN_MEMBER_ID
    assert host.join(instance="one") in host.parked
    assert len(host.group) == 2


def test_a_full_group_takes_an_instance_back() -> None:
    host = Host(GroupLimits(size_max=2))
    settled(host, "one", "two")
    assert host.error(host.join(instance="three")) is GroupError.GROUP_MAX_SIZE_REACHED
    assert host.joined(host.join(instance="two")).generation == 2


def test_a_static_member_whose_connection_closes_keeps_its_place() -> None:
    host = Host()
    (leader,) = settled(host, "one")
    host.forget(host.join(instance="two"))
    token = host.join(instance="two")
    host.join(leader, instance="one")
    assert host.joined(token).generation == 2
    assert len(host.group) == 2


@pytest.mark.parametrize("state", ["Stable", "CompletingRebalance"])
def test_an_instance_that_is_replaced_before_it_syncs_is_expected_to_sync_still(state: str) -> None:
    host = Host()
    leader, second = settled(host, "one", "two")
    host.join(leader, instance="one")
    host.join(second, instance="two")
    if state == "Stable":
        host.sync(leader)
    assert host.group.state == state
    token = host.join(instance="two")
    if state == "CompletingRebalance":
        host.join(leader, instance="one")
        host.sync(leader)
    new = host.joined(token).member_id
    host.pass_time_alive(REBALANCE_MS, leader, new)
    assert host.gone()[new] == "did not ask for its assignment in time"
