"""A consumer group of dynamic members: who leads, who is told what and when, and who is dropped."""

from __future__ import annotations

from dataclasses import replace

import pytest

from broker.model.committed import Retention
from broker.model.group_calls import Assigned, JoinReply, Leaving, MemberGone, Rebalanced
from broker.model.group_errors import GroupError, GroupRefused
from broker.model.group_limits import GroupLimits
from group_host import REBALANCE_MS, SESSION_MS, Host

NEW_MEMBER_MS = GroupLimits().new_member_join_timeout_ms


# Who comes.


def test_a_new_client_is_told_its_id_and_counted_when_it_comes_with_it() -> None:
    host = Host()
    first = host.answers[host.join(client="reader")]
    assert first == JoinReply(GroupError.MEMBER_ID_REQUIRED, "reader-1")
    assert len(host.group) == 0
    assert not host.group.idle
    reply = host.joined(host.join("reader-1"))
    assert (reply.member_id, reply.leader, reply.generation) == ("reader-1", "reader-1", 1)
    assert reply.protocol_type == "consumer"
    assert reply.protocol == "range"
    assert not reply.skip_assignment
    assert len(host.group) == 1


def test_who_does_not_come_with_its_id_is_forgotten_after_its_session() -> None:
    host = Host()
    host.join(session_ms=SESSION_MS)
    host.pass_time(SESSION_MS - 1)
    assert not host.group.idle
    host.pass_time(1)
    assert host.group.idle
    assert host.error(host.join("client-1")) is GroupError.UNKNOWN_MEMBER_ID
    assert host.group.next_moment() == 0


def test_a_rebalance_waits_for_who_was_given_an_id() -> None:
    host = Host()
    (leader,) = host.settle(1)
    host.join()
    again = host.join(leader)
    assert again in host.parked
    host.pass_time(SESSION_MS)  # The other one has not come back.
    assert host.joined(again).generation == 2


def test_who_was_given_an_id_may_leave_without_having_been_a_member() -> None:
    host = Host()
    (leader,) = host.settle(1)
    host.join(client="late")
    again = host.join(leader)
    (left,) = host.group.leave([Leaving("late-2")], host.now)
    host.drain()
    assert left.error is None
    assert host.joined(again).generation == 2
    assert "late-2" not in host.gone()


def test_an_id_that_was_given_and_has_left_is_not_waited_for() -> None:
    host = Host()
    host.join()
    host.group.leave([Leaving("client-1")], host.now)
    assert host.group.idle
    assert host.group.next_moment() == 0


def test_leaving_with_an_id_that_was_only_given_does_not_disturb_a_stable_group() -> None:
    host = Host()
    host.settle(2)
    host.join(client="late")
    host.group.leave([Leaving("late-3")], host.now)
    assert host.group.state == "Stable"


def test_the_first_one_leads_and_only_the_leader_sees_the_members() -> None:
    host = Host()
    first = host.arrive(protocols=[("range", b"a")])
    second = host.arrive(protocols=[("range", b"b")])
    third = host.arrive(protocols=[("range", b"c")])
    tokens = [
        host.join(member_id, protocols=[("range", metadata)])
        for member_id, metadata in ((third, b"c"), (second, b"b"), (first, b"a"))
    ]
    replies = {reply.member_id: reply for reply in map(host.joined, tokens)}
    assert {reply.leader for reply in replies.values()} == {first}
    assert [(member.member_id, member.metadata) for member in replies[first].members] == [
        (first, b"a"),
        (second, b"b"),
        (third, b"c"),
    ]
    assert replies[second].members == replies[third].members == ()


def test_another_leads_when_the_leader_leaves() -> None:
    host = Host()
    leader, second, _ = host.settle(3)
    host.group.leave([Leaving(leader)], host.now)
    assert {reply.leader for reply in host.gather()} == {second}


def test_another_leads_when_the_leader_does_not_join_again() -> None:
    host = Host()
    leader, second, third = host.settle(3)
    tokens = [host.join(third, protocols=[("range", b"new")]), host.join(second)]
    host.pass_time_alive(REBALANCE_MS, leader)  # It lives, but does not join.
    assert {host.joined(token).leader for token in tokens} == {second}
    assert {host.joined(token).generation for token in tokens} == {3}
    assert host.gone()[leader] == "did not join again in time"


def test_generations_count_up() -> None:
    host = Host()
    host.settle(2)
    assert host.group.generation == 2  # One alone, then both together.
    assert [reply.generation for reply in host.gather()] == [3, 3]


# The delay of a first rebalance.

DELAY_MS = 3_000
DELAYED = GroupLimits(initial_rebalance_delay_ms=DELAY_MS)


def test_the_first_rebalance_waits_for_more_members() -> None:
    host = Host(DELAYED)
    first = host.join(old=True)
    host.pass_time(DELAY_MS - 1)
    second = host.join(old=True)
    host.pass_time(1)
    assert host.parked == {first, second}  # There was another one, so it waits once more.
    host.pass_time(DELAY_MS)
    assert [host.joined(token).generation for token in (first, second)] == [1, 1]


def test_the_first_rebalance_does_not_wait_longer_than_a_rebalance_may_take() -> None:
    host = Host(DELAYED)
    began = host.now
    token = host.join(old=True, rebalance_ms=10_000)
    while token in host.parked:
        host.join(old=True, rebalance_ms=10_000)
        host.pass_time(1_000)
    assert host.now - began == 10_000


def test_the_first_rebalance_ends_at_once_when_all_are_gone() -> None:
    host = Host(DELAYED)
    token = host.join(old=True)
    host.group.leave([Leaving("client-1")], host.now)
    host.drain()
    assert host.error(token) is GroupError.UNKNOWN_MEMBER_ID
    assert host.group.state == "Empty"
    assert host.group.next_moment() == 0


def test_later_rebalances_do_not_wait() -> None:
    host = Host(DELAYED)
    host.join(old=True)
    host.pass_time(DELAY_MS)
    token = host.join(old=True)
    host.join("client-1")
    assert host.joined(token).generation == 2


# Protocols.


def test_the_protocol_is_one_that_all_support() -> None:
    host = Host()
    host.arrive(protocols=[("sticky", b"1"), ("range", b"2")])
    newcomer = host.arrive(protocols=[("range", b"3"), ("fair", b"4")])
    host.join("client-1", protocols=[("sticky", b"1"), ("range", b"2")])
    reply = host.joined(host.join(newcomer, protocols=[("range", b"3"), ("fair", b"4")]))
    assert reply.protocol == "range"


def test_of_those_that_all_support_the_one_with_most_votes_is_taken() -> None:
    host = Host()
    both = [("range", b""), ("sticky", b"")]
    wishes = {
        host.arrive(protocols=wish): wish for wish in ([both[0], both[1]], [both[1], both[0]], both[::-1])
    }
    replies = [host.join(member, protocols=wish) for member, wish in wishes.items()]
    assert {host.joined(token).protocol for token in replies} == {"sticky"}


def test_of_equal_votes_the_earlier_member_decides() -> None:
    host = Host()
    both = [("sticky", b""), ("range", b"")]
    first, second = host.arrive(protocols=both), host.arrive(protocols=both[::-1])
    tokens = [host.join(second, protocols=both[::-1]), host.join(first, protocols=both)]
    assert {host.joined(token).protocol for token in tokens} == {"sticky"}


def test_a_newcomer_must_support_something_that_all_do() -> None:
    host = Host()
    first = host.arrive(protocols=[("sticky", b""), ("range", b"")])
    host.join(old=True, protocols=[("range", b"")])
    host.join(first, protocols=[("sticky", b""), ("range", b"")])
    refused = host.join(old=True, protocols=[("sticky", b"")])  # The first has it, the second not.
    assert host.error(refused) is GroupError.INCONSISTENT_GROUP_PROTOCOL
    assert len(host.group) == 2


def test_who_is_alone_may_change_to_any_protocol() -> None:
    host = Host()
    (alone,) = host.settle(1)
    assert host.joined(host.join(alone, protocols=[("sticky", b"")])).protocol == "sticky"


def test_a_protocol_named_twice_counts_once() -> None:
    host = Host()
    host.arrive(protocols=[("range", b"1"), ("range", b"2")])
    token = host.join(old=True, protocols=[("sticky", b""), ("range", b"")])
    host.join("client-1", protocols=[("range", b"2")])
    assert host.joined(token).protocol == "range"


# Syncing.


def test_followers_wait_for_the_leader_and_all_get_their_assignment() -> None:
    host = Host()
    for _ in range(3):
        host.arrive()
    leader, second, third = (reply.member_id for reply in host.gather())
    early = host.sync(second)
    assert early in host.parked
    lead = host.sync(leader, assignments={leader: b"1", second: b"2", third: b"3", "stranger": b"4"})
    late = host.sync(third)
    assert [host.synced(token).assignment for token in (lead, early, late)] == [b"1", b"2", b"3"]
    assert host.synced(late).protocol_type == "consumer"
    assert host.synced(late).protocol == "range"
    assert host.group.state == "Stable"


def test_whom_the_leader_forgets_gets_an_empty_assignment() -> None:
    host = Host()
    leader, second = host.settle(2)
    host.gather()
    waiting = host.sync(second)
    host.sync(leader, assignments={leader: b"all"})
    assert host.synced(waiting).assignment == b""


def test_what_a_follower_assigns_is_passed_over() -> None:
    host = Host()
    leader, second = host.settle(2)
    host.gather()
    token = host.sync(second, assignments={second: b"mine"})
    assert host.group.state == "CompletingRebalance"
    host.sync(leader, assignments={second: b"yours"})
    assert host.synced(token).assignment == b"yours"


def test_a_rebalance_sends_waiting_followers_back_to_join() -> None:
    host = Host()
    _, second, _ = host.settle(3)
    host.gather()
    token = host.sync(second)
    host.join(old=True)
    assert host.error(token) is GroupError.REBALANCE_IN_PROGRESS
    assert {member.assignment for member in host.group.describe().members} == {b""}


def test_who_does_not_sync_in_time_is_dropped_and_the_others_share_anew() -> None:
    host = Host()
    leader, second, third = host.settle(3)
    host.gather()
    host.sync(leader)
    host.sync(second)
    host.pass_time_alive(REBALANCE_MS - 1, leader, second, third)
    assert host.group.state == "Stable"
    host.pass_time(1)
    assert host.gone() == {third: "did not ask for its assignment in time"}
    assert host.group.state == "PreparingRebalance"
    assert len(host.gather()) == 2


def test_the_sync_deadline_is_over_when_all_have_synced() -> None:
    host = Host()
    members = host.settle(2)
    host.pass_time_alive(2 * REBALANCE_MS, *members)
    assert host.group.state == "Stable"
    assert host.group.generation == 2


# Time.


def test_a_silent_member_is_dropped_after_its_session_and_the_others_rebalance() -> None:
    host = Host()
    leader, second = host.settle(2)
    host.pass_time(SESSION_MS - 1)
    assert host.heartbeat(leader) is None
    host.pass_time(1)
    assert host.gone() == {second: "its session timed out"}
    assert host.heartbeat(leader) is GroupError.REBALANCE_IN_PROGRESS
    assert host.joined(host.join(leader)).generation == 3


@pytest.mark.parametrize("keep", ["heartbeat", "commit", "sync", "join"])
def test_a_session_begins_anew_with(keep: str) -> None:
    host = Host()
    leader, second = host.settle(2)
    for _ in range(3):
        host.pass_time(SESSION_MS - 1)
        host.heartbeat(leader)
        getattr(host, keep)(second)
    assert host.group.state == "Stable"
    assert host.gone() == {}


def test_a_refused_commit_does_not_keep_a_session() -> None:
    host = Host()
    leader, second = host.settle(2)
    host.gather()
    host.pass_time(SESSION_MS - 1)
    host.heartbeat(leader)
    assert host.commit(second) is GroupError.REBALANCE_IN_PROGRESS
    host.pass_time(1)
    assert second in host.gone()


def test_who_is_parked_needs_no_heartbeat() -> None:
    host = Host()
    leader, second, third = host.settle(3)
    host.join(leader)
    host.pass_time_alive(REBALANCE_MS - 1, second, third)
    token = host.join(second)
    host.join(third)
    assert host.joined(token).generation == 3
    assert host.gone() == {}


def test_who_is_parked_may_send_heartbeats_and_need_not_go_on() -> None:
    host = Host()
    leader, second = host.settle(2)
    host.join(leader)
    assert host.heartbeat(leader) is GroupError.REBALANCE_IN_PROGRESS
    host.pass_time_alive(2 * SESSION_MS, second)
    assert host.gone() == {}


def test_a_join_phase_does_not_become_longer_by_those_who_join() -> None:
    host = Host()
    leader, second, third = host.settle(3)
    token = host.join(leader)
    host.pass_time_alive(REBALANCE_MS - 1, second, third)
    host.join(second)
    host.pass_time(1)
    assert host.joined(token).generation == 3
    assert third in host.gone()


def test_who_has_seen_a_generation_may_be_parked_for_longer_than_a_new_member() -> None:
    host = Host()
    leader, second = host.settle(2)
    token = host.join(leader, rebalance_ms=2 * NEW_MEMBER_MS)
    host.pass_time_alive(NEW_MEMBER_MS + 1, second)
    assert token in host.parked
    assert host.gone() == {}


def test_the_session_of_who_was_parked_begins_with_the_answer() -> None:
    host = Host()
    leader, second, third = host.settle(3)
    for member in (leader, second):
        host.join(member)
    host.pass_time(SESSION_MS)  # The third one is gone, which ends the join phase.
    host.sync(second)
    host.pass_time(SESSION_MS - 1)
    assert third in host.gone()
    assert leader not in host.gone()
    host.pass_time(1)
    assert leader in host.gone()
    assert second not in host.gone()  # Its sync was parked, and has been answered just now.


def test_who_does_not_join_again_in_time_is_dropped() -> None:
    host = Host()
    leader, second = host.settle(2)
    token = host.join(leader, rebalance_ms=1_000)
    while token in host.parked:
        host.pass_time(SESSION_MS // 2)
        host.heartbeat(second)
    assert host.gone() == {second: "did not join again in time"}
    assert host.joined(token).members[0].member_id == leader


def test_a_new_member_that_is_parked_for_long_must_ask_again() -> None:
    host = Host()
    (leader,) = host.settle(1)
    host.join(leader, rebalance_ms=2 * NEW_MEMBER_MS, protocols=[("range", b"x")])
    host.sync(leader)
    token = host.join(old=True, rebalance_ms=2 * NEW_MEMBER_MS)
    host.pass_time_alive(NEW_MEMBER_MS - 1, leader)
    assert token in host.parked
    host.pass_time(1)
    assert host.error(token) is GroupError.UNKNOWN_MEMBER_ID


def test_a_negative_rebalance_timeout_is_none() -> None:
    host = Host()
    first = host.join(old=True, rebalance_ms=-(2**31))
    token = host.join(old=True, rebalance_ms=-(2**31))
    host.pass_time(0)
    assert host.joined(token).generation == 2
    assert host.gone()[host.joined(first).member_id] == "did not join again in time"


def test_nothing_is_due_in_an_empty_group() -> None:
    host = Host()
    (member,) = host.settle(1)
    assert host.group.next_moment() == host.now + SESSION_MS
    host.pass_time(SESSION_MS)
    assert member in host.gone()
    assert host.group.state == "Empty"
    assert host.group.next_moment() == 0
    assert host.group.idle


def test_expire_before_its_time_does_nothing() -> None:
    host = Host()
    host.settle(2)
    before = host.group.describe()
    host.group.expire(host.group.next_moment() - 1)
    host.drain()
    assert host.group.describe() == before


# Connections that close.


def test_a_forgotten_request_is_not_answered() -> None:
    host = Host()
    leader, second = host.settle(2)
    token = host.join(leader)
    host.forget(token)
    host.join(second)
    assert token not in host.answers
    assert len(host.group) == 2


def test_a_client_that_was_disconnected_may_come_back_within_its_session() -> None:
    host = Host()
    leader, second = host.settle(2)
    host.forget(host.join(leader))
    host.join(second)
    reply = host.joined(host.join(leader))  # The reply that it missed.
    assert reply.generation == host.group.generation
    assert host.group.state == "CompletingRebalance"


def test_a_client_that_was_disconnected_and_does_not_come_back_is_dropped() -> None:
    host = Host()
    leader, second = host.settle(2)
    host.forget(host.join(leader))
    host.join(second)
    host.sync(second)
    host.pass_time(SESSION_MS - 1)
    host.heartbeat(second)
    host.pass_time(1)
    assert host.gone() == {leader: "its session timed out"}


def test_who_cannot_be_reached_does_not_lead() -> None:
    host = Host()
    leader, second = host.settle(2)
    host.forget(host.join(leader))
    reply = host.joined(host.join(second))
    assert reply.leader == second
    assert len(reply.members) == 2


def test_a_disconnected_client_that_was_not_told_its_id_goes_at_once() -> None:
    host = Host()
    (leader,) = host.settle(1)
    host.forget(host.join(old=True))
    assert len(host.group) == 1
    assert host.gone() == {"client-2": "its connection was closed before it knew its id"}
    assert host.joined(host.join(leader)).generation == 2


def test_who_has_been_answered_knows_its_id() -> None:
    host = Host()
    first, second = host.join(old=True), host.join(old=True)
    leader, follower = host.joined(first).member_id, "client-2"
    host.join(leader)
    assert host.joined(second).member_id == follower
    host.forget(host.sync(follower))
    assert len(host.group) == 2


def test_who_asks_with_its_id_knows_it() -> None:
    host = Host()
    host.join(old=True)
    host.join(old=True)
    host.forget(host.join("client-2"))
    assert len(host.group) == 2


def test_a_forgotten_sync_leaves_the_member_its_session() -> None:
    host = Host()
    leader, second = host.settle(2)
    host.gather()
    host.forget(host.sync(second))
    host.sync(leader, assignments={second: b"yours"})
    assert host.synced(host.sync(second)).assignment == b"yours"


def test_forgetting_what_is_not_parked_changes_nothing() -> None:
    host = Host()
    (member,) = host.settle(1)
    token = host.join(member)
    before = host.group.describe()
    host.forget(token)
    host.forget(999)
    assert host.group.describe() == before


def test_who_asks_twice_is_answered_twice() -> None:
    host = Host()
    leader, second, _ = host.settle(3)
    first = host.join(leader)
    again = host.join(leader)
    assert host.error(first) is GroupError.REBALANCE_IN_PROGRESS
    assert again in host.parked
    host.gather()
    first = host.sync(second)
    again = host.sync(second)
    assert host.error(first) is GroupError.REBALANCE_IN_PROGRESS
    host.sync(leader)
    assert host.synced(again).assignment == b""


def test_who_leaves_while_parked_is_answered() -> None:
    host = Host()
    leader, second, third = host.settle(3)
    joining = host.join(leader)
    host.group.leave([Leaving(leader)], host.now)
    host.drain()
    assert host.error(joining) is GroupError.UNKNOWN_MEMBER_ID
    host.join(second)
    host.join(third)
    syncing = host.sync(third)
    host.group.leave([Leaving(third)], host.now)
    host.drain()
    assert host.error(syncing) is GroupError.UNKNOWN_MEMBER_ID


def test_several_leave_together_with_one_rebalance() -> None:
    host = Host()
    leader, second, third = host.settle(3)
    host.events.clear()
    left = host.group.leave([Leaving(second), Leaving("nobody"), Leaving(third, None, "done")], host.now)
    assert [one.error for one in left] == [None, GroupError.UNKNOWN_MEMBER_ID, None]
    host.join(leader)
    assert host.gone() == {second: "left", third: "left: done"}
    assert host.reasons() == ["2 members left"]


# Limits.


@pytest.mark.parametrize(
    ("session_ms", "error"),
    [
        (5_999, GroupError.INVALID_SESSION_TIMEOUT),
        (6_000, GroupError.MEMBER_ID_REQUIRED),
        (1_800_000, GroupError.MEMBER_ID_REQUIRED),
        (1_800_001, GroupError.INVALID_SESSION_TIMEOUT),
        (-1, GroupError.INVALID_SESSION_TIMEOUT),
    ],
)
def test_session_timeouts_have_limits(session_ms: int, error: GroupError) -> None:
    host = Host()
    assert host.error(host.join(session_ms=session_ms)) is error


def test_the_limits_of_session_timeouts_may_be_others() -> None:
    host = Host(GroupLimits(session_timeout_min_ms=1_000, session_timeout_max_ms=2_000))
    assert host.error(host.join(session_ms=1_000)) is GroupError.MEMBER_ID_REQUIRED
    assert host.error(host.join(session_ms=2_000)) is GroupError.MEMBER_ID_REQUIRED
    assert host.error(host.join(session_ms=999)) is GroupError.INVALID_SESSION_TIMEOUT
    assert host.error(host.join(session_ms=2_001)) is GroupError.INVALID_SESSION_TIMEOUT


def test_a_group_has_a_largest_size() -> None:
    host = Host(GroupLimits(size_max=2))
    members = host.settle(2)
    assert host.error(host.join(old=True)) is GroupError.GROUP_MAX_SIZE_REACHED
    assert host.error(host.join()) is GroupError.GROUP_MAX_SIZE_REACHED
    assert host.group.state == "Stable"
    assert len(host.gather()) == len(members)


def test_ids_that_are_given_have_the_same_limit() -> None:
    host = Host(GroupLimits(size_max=2))
    host.join()
    host.join()
    assert host.error(host.join()) is GroupError.GROUP_MAX_SIZE_REACHED
    host.pass_time(SESSION_MS)
    assert host.error(host.join()) is GroupError.MEMBER_ID_REQUIRED


def test_of_more_that_were_given_an_id_than_there_is_room_for_the_last_are_refused() -> None:
    host = Host(GroupLimits(size_max=2))
    host.settle(1)
    for _ in range(2):
        host.join()
    assert host.join("client-2") in host.parked
    assert host.error(host.join("client-3")) is GroupError.GROUP_MAX_SIZE_REACHED


@pytest.mark.parametrize(
    "protocols",
    [
        [("range", b"x" * 1_000)],
        [("range", b"x" * 500), ("sticky", b"x" * 500)],
        [(f"protocol {number}", b"") for number in range(4)],
        [("range", b"") for _ in range(4)],
    ],
)
def test_metadata_have_limits(protocols: list[tuple[str, bytes]]) -> None:
    host = Host(GroupLimits(metadata_size_max=1_000, protocols_max=3))
    assert host.error(host.join(protocols=protocols)) is GroupError.MEMBER_METADATA_TOO_LARGE
    assert host.group.idle


def test_the_metadata_of_all_members_have_a_limit() -> None:
    host = Host(GroupLimits(metadata_total_max=1_000))
    member = host.arrive(protocols=[("range", b"x" * 600)])
    refused = host.join(old=True, protocols=[("range", b"x" * 600)])
    assert host.error(refused) is GroupError.MEMBER_METADATA_TOO_LARGE
    host.joined(host.join(member, protocols=[("range", b"y" * 700)]))  # Instead of its own, not beside them.
    host.group.leave([Leaving(member)], host.now)
    host.joined(host.join(old=True, protocols=[("range", b"x" * 700)]))


def test_assignments_have_limits() -> None:
    host = Host(GroupLimits(metadata_size_max=100, metadata_total_max=150))
    leader, second = host.settle(2)
    host.gather()
    for assignments in ({second: b"x" * 101}, {leader: b"x" * 80, second: b"x" * 80}):
        token = host.sync(leader, assignments=assignments)
        assert host.error(token) is GroupError.MEMBER_METADATA_TOO_LARGE
        assert host.group.state == "CompletingRebalance"
    host.synced(host.sync(leader, assignments={leader: b"x" * 80, second: b"x" * 70, "stranger": b"x" * 99}))


def test_the_reason_of_a_client_is_cut() -> None:
    host = Host()
    host.join(old=True, reason="r" * 10_000)
    assert host.reasons() == ["client-1 joined: " + "r" * 255]


# What is told.


def test_each_rebalance_is_told_with_its_reason() -> None:
    host = Host()
    leader, second = host.settle(2)
    host.events.clear()
    host.join(leader, reason="topics changed")
    host.join(second)
    host.group.leave([Leaving(second)], host.now)
    host.join(leader)
    assert host.events == [
        Rebalanced(3, f"{leader}, the leader, joined again: topics changed", 2),
        MemberGone(second, "left"),
        Rebalanced(4, f"{second} left", 1),
    ]


def test_a_stable_group_is_told_of_and_an_empty_one() -> None:
    host = Host()
    (member,) = host.settle(1)
    assert host.events == [Rebalanced(1, f"{member} joined", 1), Assigned(1, 1)]
    host.events.clear()
    host.pass_time(SESSION_MS)
    assert host.events == [
        MemberGone(member, "its session timed out"),
        Rebalanced(2, f"the session of {member} timed out", 0),
    ]


def test_a_description_shows_members_and_what_they_have() -> None:
    host = Host()
    leader, second = host.settle(2)
    description = host.group.describe()
    assert (description.group_id, description.state) == ("workers", "Stable")
    assert (description.protocol_type, description.protocol) == ("consumer", "range")
    assert (description.generation, description.leader) == (2, leader)
    assert [
        (member.member_id, member.client_id, member.client_host, member.metadata, member.assignment)
        for member in description.members
    ] == [
        (leader, "client", "/127.0.0.1", b"topics", leader.encode()),
        (second, "client", "/127.0.0.1", b"topics", second.encode()),
    ]


def test_a_description_of_a_group_that_is_not_stable_has_no_metadata() -> None:
    host = Host()
    host.settle(2)
    host.gather()
    description = host.group.describe()
    assert description.protocol is None
    assert {member.metadata for member in description.members} == {b""}


# After a restart.


def test_a_restored_group_goes_on_without_a_rebalance() -> None:
    host = Host()
    leader, second = host.settle(2)
    description = host.group.describe()
    host.group = host.new_group(GroupLimits())
    host.group.restore(description, host.now)
    assert host.group.describe() == description
    assert host.heartbeat(leader, generation=2) is None
    assert host.commit(second, generation=2) is None
    assert host.synced(host.sync(second)).assignment == second.encode()
    host.pass_time(SESSION_MS)
    assert set(host.gone()) == {leader, second}


def test_a_restored_group_has_the_leader_that_it_had() -> None:
    host = Host()
    leader, second = host.settle(2)
    host.forget(host.join(leader))
    reply = host.joined(host.join(second))
    assert reply.leader == second
    host.sync(second, assignments={})
    host.joined(host.join(leader))
    description = host.group.describe()
    host.group = host.new_group(GroupLimits())
    host.group.restore(description, host.now)
    assert host.group.describe().leader == second


def test_a_restored_group_whose_leader_is_not_there_is_led_by_the_first() -> None:
    host = Host()
    leader, second = host.settle(2)
    description = replace(host.group.describe(), leader="")
    host.group = host.new_group(GroupLimits())
    host.group.restore(description, host.now)
    assert host.group.describe().leader == leader
    host.join(second, protocols=[("range", b"other")])
    assert host.joined(host.join(leader)).leader == leader


def test_a_restored_empty_group_knows_since_when() -> None:
    host = Host()
    host.settle(1)
    host.pass_time(SESSION_MS)
    emptied = host.now
    description = host.group.describe()
    host.group = host.new_group(GroupLimits())
    host.group.restore(description, emptied + 1_000)
    assert host.group.describe() == description
    assert host.group.retention() == Retention(emptied, frozenset())
    assert host.joined(host.join(old=True)).generation == 3


# Topics and offsets.


def topics_of(metadata: bytes) -> frozenset[str] | None:
    return None if metadata == b"garbage" else frozenset(metadata.decode().split())


def test_the_topics_of_all_members_are_subscribed() -> None:
    host = Host(topics_of=topics_of)
    first = host.arrive(protocols=[("range", b"a b")])
    second = host.arrive(protocols=[("range", b"b c")])
    host.join(first, protocols=[("range", b"a b")])
    host.join(second, protocols=[("range", b"b c")])
    host.sync(first)
    assert host.group.subscribed_topics() == {"a", "b", "c"}
    assert host.group.retention() == Retention(None, frozenset("abc"))
    with pytest.raises(GroupRefused) as refused:
        host.group.check_unsubscribed("c")
    assert refused.value.error is GroupError.GROUP_SUBSCRIBED_TO_TOPIC
    host.group.check_unsubscribed("d")
    host.group.check_delete_offsets()
    host.group.leave([Leaving(second)], host.now)
    assert host.group.subscribed_topics() == {"a", "b"}


def test_a_subscription_counts_as_soon_as_it_is_known() -> None:
    host = Host(topics_of=topics_of)
    leader, _ = host.settle(2)
    assert host.group.subscribed_topics() == {"topics"}
    host.join(leader, protocols=[("range", b"more")])
    assert host.group.state == "PreparingRebalance"
    assert host.group.subscribed_topics() == {"topics", "more"}
    host.join(old=True, protocols=[("range", b"new")])
    assert host.group.subscribed_topics() == {"topics", "more", "new"}


def test_subscriptions_that_cannot_be_read_may_be_anything() -> None:
    host = Host(topics_of=topics_of)
    member = host.arrive(protocols=[("range", b"garbage")])
    host.sync(member)
    assert host.group.state == "Stable"
    assert host.group.subscribed_topics() is None
    assert host.group.is_subscribed("whatever")
    assert host.group.retention() is None


def test_a_group_that_is_not_of_consumers_is_subscribed_to_nothing() -> None:
    host = Host(topics_of=topics_of)
    host.join(old=True, protocol_type="connect")
    assert not host.group.is_subscribed("topics")
    assert host.group.retention() is None
    with pytest.raises(GroupRefused) as refused:
        host.group.check_delete_offsets()
    assert refused.value.error is GroupError.NON_EMPTY_GROUP


def test_offsets_expire_from_when_a_group_became_empty() -> None:
    host = Host(topics_of=topics_of)
    assert host.group.retention() == Retention(None, frozenset())  # Nobody has ever joined.
    (member,) = host.settle(1)
    host.pass_time(1_000)
    host.group.leave([Leaving(member)], host.now)
    assert host.group.retention() == Retention(host.now, frozenset())
    assert not host.group.is_subscribed("topics")


def test_no_offsets_expire_during_a_rebalance() -> None:
    host = Host(topics_of=topics_of)
    leader, second = host.settle(2)
    host.join(leader)
    assert host.group.retention() is None
    host.join(second)
    assert host.group.retention() is None


def test_only_an_empty_group_may_be_deleted() -> None:
    host = Host()
    (member,) = host.settle(1)
    with pytest.raises(GroupRefused) as refused:
        host.group.check_delete()
    assert refused.value.error is GroupError.NON_EMPTY_GROUP
    host.group.leave([Leaving(member)], host.now)
    host.group.check_delete()
    host.group.close()
    for check in (host.group.check_delete, host.group.check_delete_offsets):
        with pytest.raises(GroupRefused) as refused:
            check()
        assert refused.value.error is GroupError.GROUP_ID_NOT_FOUND
