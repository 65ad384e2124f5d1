"""The host of consumer groups: what of them is there after a restart, and what their log grows to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from broker.kafka import group_records, records
from broker.kafka.records import Record
from broker.model.committed import CommittedOffset
from broker.model.errors import AlreadyExists
from broker.model.group_calls import Join, JoinReply, Leaving, Sync, SyncReply
from broker.model.group_errors import GroupError, GroupRefused
from broker.model.group_state import GroupState
from broker.model.topic import OFFSETS_TOPIC
from broker.node.groups import GroupOptions
from broker.node.hosted import Hosted
from broker.node.partition import Partition
from stepped_node import SteppedNode

SEEDS = range(6)


@pytest.fixture
def under() -> Iterator[SteppedNode]:
    node = SteppedNode()
    node.create("orders", 4)
    node.commit()
    yield node
    node.abandon()


def commit(
    node: SteppedNode, group: str, offset: int, *, topic: str = "orders", number: int = 0, **more: Any
):
    """As a consumer without members does; returns the commit that makes it safe."""
    groups = node.node.groups
    groups.check_commit(group, "", None, -1)
    committed = CommittedOffset(offset, 0, more.pop("metadata", ""), node.clock.now, **more)
    groups.hosted(group).committed.commit(topic, number, committed)
    return groups.committed(group, {(topic, number): committed})


def committed(node: SteppedNode, group: str) -> dict[tuple[str, int], int]:
    hosted = node.node.groups.find(group)
    return {} if hosted is None else {(topic, number): one.offset for topic, number, one in hosted.committed}


class Member:
    """It joins and syncs, and keeps the answers."""

    def __init__(self, node: SteppedNode, group: str, client: str = "client", instance: str | None = None):
        self.node = node
        self.group = group
        self.client = client
        self.instance = instance
        self.joined: list[JoinReply] = []
        self.synced: list[SyncReply] = []
        self.id = ""

    def join(self) -> None:
        request = Join(
            self.id,
            self.instance,
            self.client,
            "/127.0.0.1",
            10_000,
            60_000,
            "consumer",
            [("range", b"\0\0")],
        )
        self.node.node.groups.join(self.group, request, self.joined.append)
        if self.joined and self.joined[-1].error is GroupError.MEMBER_ID_REQUIRED:
            self.id = self.joined.pop().member_id
            self.join()
        elif self.joined:
            self.id = self.joined[-1].member_id

    def sync(self, assignments: dict[str, bytes] | None = None) -> None:
        generation = self.joined[-1].generation
        given = list((assignments or {}).items())
        request = Sync(self.id, self.instance, generation, "consumer", "range", given)
        self.node.node.groups.sync(self.group, request, self.synced.append)

    def heartbeat(self) -> None:
        self.node.node.groups.heartbeat(self.group, self.id, self.instance, self.joined[-1].generation)


def stable(node: SteppedNode, group: str, **more: Any) -> Member:
    """A group of one member that has got something to do."""
    member = Member(node, group, **more)
    member.join()
    member.sync({member.id: b"all of it"})
    node.commit()
    assert member.synced[-1].assignment == b"all of it"
    return member


def hosted(node: SteppedNode, group: str) -> Hosted:
    found = node.node.groups.find(group)
    assert found is not None
    return found


def log_of(node: SteppedNode) -> Partition:
    return node.partition(OFFSETS_TOPIC)


def due(node: SteppedNode) -> None:
    """The timers of the next milliseconds."""
    node.clock.now += 200
    node.node.scheduler._fire_due()
    node.commit()


# ---- what comes back ----


@pytest.mark.parametrize("end", ["close", "kill", "crash"])
def test_offsets_come_back_with_all_that_belongs_to_them(under, end):
    commit(under, "g", 7, metadata="größe")
    commit(under, "g", 8, number=1, expire_ms=under.clock.now + 5)
    commit(under, "h", 9)
    under.commit()
    commit(under, "h", 10)
    under.commit()
    for seed in SEEDS:
        again = under.crash(seed) if end == "crash" else under.kill() if end == "kill" else under.close()
        found = hosted(again, "g").committed
        assert found.get("orders", 0) == CommittedOffset(7, 0, "größe", under.clock.now)
        assert found.get("orders", 1) == CommittedOffset(8, -1, "", under.clock.now, under.clock.now + 5)
        assert committed(again, "h") == {("orders", 0): 10}
        again.abandon()
        if end != "crash":
            break


def test_a_member_hears_what_to_do_when_its_generation_outlives_a_crash(under):
    """Or another generation would get the same number, and two members the same partitions."""
    member = Member(under, "g")
    member.join()
    member.sync({member.id: b"all of it"})
    under.end_pass()
    assert member.synced == []
    again = SteppedNode(under.files.copy().kill(), under.definitions)
    assert again.node.groups.find("g") is None
    again.abandon()
    under.commit()
    assert [answer.assignment for answer in member.synced] == [b"all of it"]
    again = under.kill()
    assert hosted(again, "g").group.describe().generation == 1
    again.abandon()


def test_what_was_committed_is_safe_with_its_commit_and_not_before(under):
    commit(under, "g", 1)
    under.commit()
    made = commit(under, "g", 2)
    under.end_pass()
    assert not made.done
    again = SteppedNode(under.files.copy().kill(), under.definitions)
    assert committed(again, "g") == {("orders", 0): 1}
    again.abandon()
    under.commit()
    assert made.done


def test_members_come_back_with_their_generation_and_assignment(under):
    member = stable(under, "g", instance="one")
    under.commit()
    again = under.kill()
    found = hosted(again, "g").group.describe()
    assert (found.state, found.generation, found.leader) == (GroupState.STABLE, 1, member.id)
    (described,) = found.members
    assert (described.member_id, described.group_instance_id) == (member.id, "one")
    assert described.assignment == b"all of it"
    member.node = again
    member.heartbeat()
    member.sync()
    assert member.synced[-1].assignment == b"all of it"


def test_members_that_do_not_come_back_are_gone_when_their_session_is_over(under):
    stable(under, "g")
    under.commit()
    again = under.kill()
    again.clock.now += 10_001
    again.node.scheduler._fire_due()
    assert len(hosted(again, "g").group) == 0


def test_a_group_without_offsets_and_members_does_not_come_back(under):
    stable(under, "g")
    commit(under, "h", 1)
    under.commit()
    member = hosted(under, "g").group.describe().members[0].member_id
    under.clock.now += 100_000
    under.node.scheduler._fire_due()
    under.node.groups.tidy(under.clock.now)
    assert under.node.groups.find("g") is None, member
    under.commit()
    assert [one.group.group_id for one in under.kill().node.groups.all()] == ["h"]


def test_what_was_deleted_does_not_come_back(under):
    for number in range(3):
        commit(under, "g", 1, number=number)
    commit(under, "h", 1)
    under.commit()
    under.node.groups.delete_offsets("g", [("orders", 1), ("orders", 3)])
    under.node.groups.delete("h")
    with pytest.raises(GroupRefused):
        under.node.groups.delete("h")
    under.commit()
    for again in (under.kill(), under._following.close()):
        assert committed(again, "g") == {("orders", 0): 1, ("orders", 2): 1}
        assert again.node.groups.find("h") is None


def test_offsets_expire_for_good(under):
    commit(under, "g", 1)
    commit(under, "g", 1, number=1, expire_ms=under.clock.now + 50)
    under.commit()
    under.clock.now += 60_000
    under.node.groups.tidy(under.clock.now)
    under.commit()
    again = under.kill()
    assert committed(again, "g") == {("orders", 0): 1}
    again.clock.now += 8 * 24 * 3600 * 1000
    again.node.groups.tidy(again.clock.now)
    again.commit()
    assert again.close().node.groups.all() == []


# ---- topics that are deleted ----


def test_a_deleted_topic_takes_its_offsets_along_also_for_a_new_one_of_the_same_name(under):
    under.create("others")
    commit(under, "g", 5)
    commit(under, "g", 6, topic="others")
    under.commit()
    old = under.node.topics.topic("/", "orders")
    under.node.topics.delete(old)
    assert committed(under, "g") == {("others", 0): 6}
    with pytest.raises(AlreadyExists):
        under.create("orders")
    under.commit()
    assert under.create("orders").id != old.id
    under.commit()
    again = under.kill()
    assert committed(again, "g") == {("others", 0): 6}


@pytest.mark.parametrize("steps", range(4))
def test_a_topic_that_is_gone_has_no_offsets_wherever_its_deletion_was_cut_short(steps):
    for seed in SEEDS:
        under = SteppedNode()
        under.create("orders")
        commit(under, "g", 5)
        under.commit()
        under.node.topics.delete(under.node.topics.topic("/", "orders"))
        under.end_pass()
        under.fail_power(under.writer, steps)
        again = under.crash(seed)
        assert again.node.topics.find("/", "orders") is None
        assert committed(again, "g") == {}
        with suppress(AlreadyExists):  # as long as that is not safe
            again.create("orders")
        again.commit()
        assert committed(again.kill(), "g") == {}
        under.abandon()


@pytest.mark.parametrize("log_first", [True, False])
def test_a_virtual_host_takes_its_groups_along(under, log_first):
    if log_first:
        commit(under, "g", 1)
        under.node.topics.delete(under.node.topics.topic("/", "orders"))
        under.commit()
        under.create("orders")
    commit(under, "g", 1)
    waiting = Member(under, "h")
    second = Member(under, "h")
    stable(under, "i")
    waiting.join()
    second.join()
    under.commit()
    assert (under.node.groups.find("g"), second.joined) != (None, [])
    under.node.topology.delete_vhost("/")
    assert under.node.groups.all() == []
    under.commit()
    due(under)
    assert [key for key in under.definitions.values if key.startswith("topic/")] == []
    assert [path for path in under.files.paths() if "/partitions/" in path] == []
    again = under.kill()
    assert again.node.topics.topics() == []


def test_who_waits_in_a_group_of_a_virtual_host_that_goes_is_told(under):
    first, second = Member(under, "g"), Member(under, "g")
    first.join()
    first.sync({first.id: b"all of it"})
    second.join()
    assert second.joined == []
    under.node.topology.delete_vhost("/")
    assert [reply.error for reply in second.joined] == [GroupError.COORDINATOR_NOT_AVAILABLE]


# ---- the log ----


@pytest.fixture
def small_logs(monkeypatch) -> None:
    monkeypatch.setattr("broker.node.groups._LOG_SIZE_MIN", 3000)
    monkeypatch.setattr("broker.node.groups._RECORDS_PER_BATCH", 3)


def wear(node: SteppedNode, count: int = 60) -> None:
    """Commit the same few offsets again and again."""
    for number in range(count):
        commit(node, "g", number, number=number % 4)
        node.commit()


def test_a_log_that_has_grown_is_written_anew_and_says_the_same(under, small_logs):
    wear(under)
    stable(under, "h")
    under.commit()
    before = log_of(under).size
    under.node.groups.tidy(under.clock.now)
    for _ in range(5):
        due(under)
    log = log_of(under)
    assert log.start_offset > 0
    assert log.size < before / 2
    expected = {("orders", number): 56 + number for number in range(4)}
    assert committed(under, "g") == expected
    for seed in SEEDS:
        again = SteppedNode(under.files.copy().crash(seed), under.definitions)
        assert committed(again, "g") == expected
        assert hosted(again, "h").group.state is GroupState.STABLE
        again.abandon()


def test_what_happens_while_the_log_is_written_anew_is_not_lost(under, small_logs):
    wear(under)
    for number in range(10):
        commit(under, f"other-{number}", 1)
    under.commit()
    under.node.groups.tidy(under.clock.now)
    commit(under, "g", 1000)
    commit(under, "other-9", 2)
    commit(under, "new", 3)
    due(under)
    under.node.groups.delete("other-8")
    under.node.groups.delete("other-0")
    for _ in range(8):
        due(under)
    assert log_of(under).start_offset > 0
    again = under.kill()
    assert committed(again, "g")["orders", 0] == 1000
    assert committed(again, "other-9") == {("orders", 0): 2}
    assert committed(again, "new") == {("orders", 0): 3}
    assert again.node.groups.find("other-8") is None
    assert again.node.groups.find("other-0") is None
    assert committed(again, "other-1") == {("orders", 0): 1}


def test_a_log_is_not_written_anew_once_more_as_long_as_the_disk_is_full(under, small_logs):
    wear(under)
    log = log_of(under)
    under.files.room = under.files.taken
    for _ in range(5):
        under.node.groups.tidy(under.clock.now)
        due(under)
        under.clock.now += 5000
    written = log.next_offset
    for _ in range(5):
        under.node.groups.tidy(under.clock.now)
        due(under)
        under.clock.now += 5000
    assert log.next_offset == written
    under.files.room = None
    for _ in range(3):
        due(under)
    assert log.start_offset > 0


def test_a_log_that_says_much_is_not_written_anew_again_and_again(under, small_logs):
    """Also where what it says lies in the journal for a time, and no file has grown by it."""
    for number in range(200):
        commit(under, f"group-{number}", 1)
    others = [under.create(name).partition(0) for name in ("a", "b", "c")]
    begun: list[int] = []
    for _ in range(12):
        batch = records.build([Record(0, under.clock.now, None, b"x")])
        for partition in others:
            partition.append(records.read_header(batch), batch)
        commit(under, "g", 1)
        under.node.flusher.checkpoint_soon()
        under.node.groups.tidy(under.clock.now)
        begun.append(log_of(under).start_offset)
        for _ in range(80):
            due(under)
    assert len(set(begun)) == 2


def test_a_group_in_the_middle_of_a_rebalance_keeps_its_generation_in_a_new_log(under, small_logs):
    wear(under)
    first, second = stable(under, "h"), Member(under, "h")
    second.join()
    assert hosted(under, "h").group.state is GroupState.PREPARING_REBALANCE
    under.node.groups.tidy(under.clock.now)
    for _ in range(5):
        due(under)
    assert log_of(under).start_offset > 0
    again = under.kill()
    found = hosted(again, "h").group
    assert (found.state, found.generation, len(found)) == (GroupState.EMPTY, 1, 0)
    first.node = again
    with pytest.raises(GroupRefused):
        first.heartbeat()


def test_records_that_nobody_understands_cost_nothing_else(under, caplog):
    commit(under, "g", 1)
    under.commit()
    strange = [
        Record(
            0, 5, group_records.offset_key("g", "orders", 1), group_records.offset_value(7, 0, "", 5, None)
        ),
        Record(1, 5, b"\0\x63what", b"x"),
        Record(2, 5, None, b"x"),
        Record(3, 5, group_records.offset_key("g", "orders", 2), b"\0\3short"),
        Record(4, 5, group_records.group_key("g"), b"\0\x09"),
        Record(
            5, 5, group_records.offset_key("g", "orders", 3), group_records.offset_value(8, 0, "", 5, None)
        ),
    ]
    batch = records.build(strange)
    log_of(under).append(records.read_header(batch), batch)
    under.commit()
    again = under.kill()
    assert committed(again, "g") == {("orders", 0): 1, ("orders", 1): 7, ("orders", 3): 8}
    assert [line.partition(":")[0] for line in caplog.messages if "passed over" in line] == [
        f"{OFFSETS_TOPIC} at offset {offset}" for offset in (2, 3, 4, 5)
    ]


def test_a_damaged_batch_costs_what_is_in_it(under):
    for number in range(4):
        commit(under, "g", 1, number=number)
        under.commit()
    path = log_of(under).log.segments[0].path(".log")
    under = under.close()
    octets = bytearray(under.files.octets(path))
    octets[len(octets) // 3] ^= 0xFF
    under.files.put(path, bytes(octets))
    again = under.kill()
    assert len(committed(again, "g")) == 3


# ---- limits ----


def test_there_are_so_many_groups_and_no_more(under):
    under.node.groups._options = type(under.node.groups._options)(groups_max=2)
    commit(under, "a", 1)
    commit(under, "b", 1)
    with pytest.raises(GroupRefused):
        commit(under, "c", 1)
    member = Member(under, "c")
    member.join()
    assert [reply.error for reply in member.joined] == [GroupError.GROUP_MAX_SIZE_REACHED]
    under.node.groups.delete("a")
    commit(under, "c", 1)


# ---- room ----


def full(node: SteppedNode, more: int = 0) -> None:
    """From now on there is so much room."""
    room = node.node.groups.room
    room.size_max = room.size + more


def room_is_what_is_there(node: SteppedNode) -> bool:
    groups = node.node.groups
    return groups.room.size == sum(hosted.size for hosted in groups.all())


def test_where_there_is_no_room_nobody_comes_and_whoever_is_there_goes_on(under, caplog):
    member = stable(under, "g")
    full(under)
    newcomer = Member(under, "g")
    newcomer.join()
    assert newcomer.joined[-1].error is GroupError.GROUP_MAX_SIZE_REACHED
    other = Member(under, "another")
    other.join()
    assert other.joined[-1].error is GroupError.GROUP_MAX_SIZE_REACHED
    assert under.node.groups.find("another") is None
    with pytest.raises(GroupRefused) as refused:
        commit(under, "simple", 1)
    assert refused.value.error is GroupError.GROUP_MAX_SIZE_REACHED
    member.heartbeat()
    member.join()
    member.sync({member.id: b"all of IT"})
    under.commit()
    assert member.synced[-1].assignment == b"all of IT"
    member.join()
    member.sync({member.id: b"more than there is room for"})
    assert member.synced[-1].error is GroupError.GROUP_MAX_SIZE_REACHED
    assert "groups take" in caplog.text


def test_offsets_for_which_there_is_no_room_are_refused_and_others_are_moved_on(under):
    commit(under, "g", 1, metadata="four")
    full(under)
    for more in ({"number": 1}, {"metadata": "five!"}):
        with pytest.raises(GroupRefused) as refused:
            commit(under, "g", 2, **more)
        assert refused.value.error is GroupError.OFFSETS_TOO_LARGE
    commit(under, "g", 3, metadata="4444")
    assert committed(under, "g") == {("orders", 0): 3}


def test_room_is_there_again_when_something_goes(under):
    groups = under.node.groups
    empty = groups.room.size
    commit(under, "g", 1, metadata="x" * 1000)
    member = stable(under, "h")
    told: list[JoinReply] = []
    groups.join("h", Join("", None, "c", "/", 10_000, 10_000, "consumer", [("range", b"")]), told.append)
    assert told[0].error is GroupError.MEMBER_ID_REQUIRED
    assert groups.room.size > empty
    assert room_is_what_is_there(under)
    groups.leave("h", [Leaving(member.id)])
    assert room_is_what_is_there(under)
    under.clock.now += 20_000
    under.node.scheduler._fire_due()
    assert room_is_what_is_there(under)
    groups.delete("h")
    groups.delete("g")
    assert groups.room.size == empty


def test_a_group_that_is_gone_is_not_counted_again(under):
    """The walk over groups whose offsets may have expired meets it all the same."""
    for number in range(1500):
        under.node.groups.hosted(f"g{number}")
    under.clock.now += 100_000
    under.node.groups.tidy(under.clock.now)
    left = under.node.groups.all()
    assert 0 < len(left) < 1500
    for hosted in left:
        under.node.groups.delete(hosted.group.group_id)
    under.node.groups.tidy(under.clock.now)
    assert under.node.groups.room.size == 0


def test_what_goes_with_its_topic_or_expires_is_not_counted_any_more(under):
    under.create("mails")
    commit(under, "g", 1, topic="mails", metadata="x" * 100)
    commit(under, "g", 1)
    under.commit()
    under.node.topics.delete(under.node.topics.topic("/", "mails"))
    assert room_is_what_is_there(under)
    under.node.groups.delete_offsets("g", [("orders", 0)])
    assert room_is_what_is_there(under)
    under.clock.now += 8 * 24 * 60 * 60 * 1000
    under.node.groups.tidy(under.clock.now)
    assert under.node.groups.room.size == 0


def test_what_is_there_stays_when_the_limit_has_become_lower(under):
    stable(under, "g")
    commit(under, "h", 5, metadata="kept")
    under.commit()
    again = SteppedNode(under.files.copy().kill(), under.definitions, groups=GroupOptions(size_max=0))
    assert again.node.groups.room.size == under.node.groups.room.size
    assert room_is_what_is_there(again)
    assert committed(again, "h") == {("orders", 0): 5}
    again.abandon()
