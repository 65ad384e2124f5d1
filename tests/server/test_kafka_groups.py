"""Consumer groups over Kafka's protocol, in the lowest and the highest versions; the rules are the model's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import trio.testing

from broker.kafka import api
from broker.kafka.errors import ErrorCode
from broker.model.group_limits import GroupLimits
from broker.node.groups import GroupOptions
from broker_here import until
from kafka_here import KafkaHere, kafka_here
from kafka_wire import CLIENT_ID, KafkaClient

PROTOCOLS = [{"name": "range", "metadata": b"for range"}, {"name": "other", "metadata": b"for other"}]


@dataclass
class Versions:
    """Of each request."""

    highest: bool

    def of(self, each: api.Api) -> int:
        return each.max_version if self.highest else each.min_version


@pytest.fixture(params=["lowest", "highest"])
def versions(request):
    return Versions(request.param == "highest")


@dataclass
class Member:
    """One that is in a group, on a connection of its own."""

    client: KafkaClient
    versions: Versions
    group: str = "g"
    id: str = ""
    instance: str | None = None
    generation: int = -1
    session_ms: int = 10_000
    answer: dict[str, Any] | None = None

    def _body(self, **more: Any) -> dict[str, Any]:
        return {
            "group_id": self.group,
            "member_id": self.id,
            "group_instance_id": self.instance,
            "generation_id": self.generation,
            "generation_id_or_member_epoch": self.generation,
            **more,
        }

    async def call(self, each: api.Api, **more: Any) -> dict[str, Any]:
        return await self.client.call(each, self._body(**more), self.versions.of(each))

    async def send_join(self, protocols: Any = PROTOCOLS) -> None:
        """Twice if it is a new member, from version 4 on: the first answer is its id."""
        await self.ask_to_join(protocols)
        if self.versions.highest and not self.id and self.instance is None:
            answer = await self.client.answer()
            assert answer["error_code"] == ErrorCode.MEMBER_ID_REQUIRED
            self.id = answer["member_id"]
            await self.ask_to_join(protocols)

    async def ask_to_join(self, protocols: Any) -> None:
        body = self._body(
            session_timeout_ms=self.session_ms,
            rebalance_timeout_ms=60_000,
            protocol_type="consumer",
            protocols=protocols,
        )
        await self.client.send(api.JOIN_GROUP, body, self.versions.of(api.JOIN_GROUP))

    async def joined(self) -> dict[str, Any]:
        """The answer to a join."""
        answer = await self.client.answer()
        assert answer["error_code"] == ErrorCode.NONE
        self.id, self.generation = answer["member_id"], answer["generation_id"]
        self.answer = answer
        return answer

    async def join(self) -> dict[str, Any]:
        await self.send_join()
        return await self.joined()

    @property
    def leads(self) -> bool:
        return self.answer is not None and self.answer["leader"] == self.id

    async def sync(self, assignments: dict[str, bytes] | None = None) -> dict[str, Any]:
        given = [
            {"member_id": member, "assignment": octets} for member, octets in (assignments or {}).items()
        ]
        return await self.call(
            api.SYNC_GROUP, assignments=given, protocol_type="consumer", protocol_name="range"
        )

    async def heartbeat(self) -> int:
        return (await self.call(api.HEARTBEAT))["error_code"]

    async def leave(self) -> int:
        members = [{"member_id": self.id, "group_instance_id": self.instance}]
        answer = await self.call(api.LEAVE_GROUP, members=members)
        return answer["error_code"] or max([one["error_code"] for one in answer["members"]], default=0)


async def member(kafka: KafkaHere, versions: Versions, **options: Any) -> Member:
    return Member(await kafka.dial(), versions, **options)


async def alone(kafka: KafkaHere, versions: Versions, **options: Any) -> Member:
    """A member that has its assignment."""
    one = await member(kafka, versions, **options)
    await one.join()
    answer = await one.sync({one.id: b"everything"})
    assert (answer["error_code"], bytes(answer["assignment"])) == (ErrorCode.NONE, b"everything")
    return one


def group_of(kafka, name="g"):
    return kafka.node.groups.find(name).group


async def test_the_coordinator_is_here(kafka, wire, versions):
    if versions.highest:
        answer = await wire.call(api.FIND_COORDINATOR, {"key_type": 0, "coordinator_keys": ["g", ""]})
        found, nobodys = answer["coordinators"]
        assert nobodys["error_code"] == ErrorCode.INVALID_GROUP_ID
        assert found["key"] == "g"
    else:
        found = await wire.call(api.FIND_COORDINATOR, {"key": "g"}, 0)
    assert (found["error_code"], found["node_id"]) == (ErrorCode.NONE, 1)
    assert (found["host"], found["port"]) == kafka.address


@pytest.mark.parametrize("version", range(1, 7))
async def test_who_looks_for_the_coordinator_of_transactions_is_told_why_there_is_none(wire, version):
    body = {"key_type": 1, "key": "t", "coordinator_keys": ["t"]}
    answer = await wire.call(api.FIND_COORDINATOR, body, version)
    found = answer["coordinators"][0] if version >= 4 else answer
    assert found["error_code"] == ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED
    assert "no transactions" in found["error_message"]
    assert found["node_id"] == -1


async def test_share_groups_have_no_coordinator(wire):
    answer = await wire.call(api.FIND_COORDINATOR, {"key_type": 2, "coordinator_keys": ["g:t:0"]})
    assert answer["coordinators"][0]["error_code"] == ErrorCode.INVALID_REQUEST


async def test_a_member_alone_has_everything(kafka, versions):
    one = await alone(kafka, versions)
    assert one.id.startswith(f"{CLIENT_ID}-")
    answer = one.answer
    assert (answer["protocol_name"], answer["leader"], answer["generation_id"]) == ("range", one.id, 1)
    assert [(each["member_id"], bytes(each["metadata"])) for each in answer["members"]] == [
        (one.id, b"for range")
    ]
    if versions.highest:
        assert answer["protocol_type"] == "consumer"
        assert answer["skip_assignment"] is False
    assert await one.heartbeat() == ErrorCode.NONE
    assert await one.leave() == ErrorCode.NONE
    assert await one.heartbeat() == ErrorCode.UNKNOWN_MEMBER_ID


async def test_two_members_share(kafka, versions):
    first = await alone(kafka, versions)
    second = await member(kafka, versions)
    await second.send_join()
    await until(lambda: group_of(kafka).state.value == "PreparingRebalance")
    assert await first.heartbeat() == ErrorCode.REBALANCE_IN_PROGRESS
    await first.join()
    await second.joined()
    assert first.generation == second.generation == 2
    assert (first.leads, second.leads) == (True, False)
    assert {each["member_id"] for each in first.answer["members"]} == {first.id, second.id}
    assert second.answer["members"] == []
    async with trio.open_nursery() as nursery:

        async def follow():
            assert bytes((await second.sync())["assignment"]) == b"half"

        nursery.start_soon(follow)
        answer = await first.sync({first.id: b"other half", second.id: b"half"})
        assert bytes(answer["assignment"]) == b"other half"
    assert await second.leave() == ErrorCode.NONE
    assert await first.heartbeat() == ErrorCode.REBALANCE_IN_PROGRESS
    await first.join()
    assert first.generation == 3


async def test_a_member_that_says_nothing_is_gone(tmp_path, mock_clock, versions):
    async with kafka_here(tmp_path) as kafka:
        quiet = await alone(kafka, versions)
        mock_clock.jump(9.9)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert group_of(kafka).state.value == "Stable"
        mock_clock.jump(0.2)
        await until(lambda: group_of(kafka).state.value == "Empty")
        assert await quiet.heartbeat() == ErrorCode.UNKNOWN_MEMBER_ID


async def test_heartbeats_keep_a_member(tmp_path, mock_clock, versions):
    async with kafka_here(tmp_path) as kafka:
        one = await alone(kafka, versions)
        for _ in range(5):
            mock_clock.jump(7)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert await one.heartbeat() == ErrorCode.NONE


async def test_a_first_rebalance_waits_for_others_if_it_is_told_to(tmp_path, mock_clock, versions):
    groups = GroupOptions(limits=GroupLimits(initial_rebalance_delay_ms=3000))
    async with kafka_here(tmp_path, node_options={"groups": groups}) as kafka:
        members = [await member(kafka, versions) for _ in range(3)]
        async with trio.open_nursery() as nursery:
            for one in members:
                nursery.start_soon(one.join)
            await until(lambda: kafka.node.groups.find("g") and len(group_of(kafka).describe().members) == 3)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert group_of(kafka).state.value == "PreparingRebalance"
            for _ in range(8):  # as others came, it waits once more
                mock_clock.jump(1)
                await trio.testing.wait_all_tasks_blocked(0.01)
        assert {one.generation for one in members} == {1}


async def test_who_has_gone_while_it_waited_is_not_waited_for(kafka, versions):
    first = await alone(kafka, versions)
    second = await member(kafka, versions)
    await second.send_join()
    await until(lambda: group_of(kafka).state.value == "PreparingRebalance")
    second.client.drop()
    await until(lambda: len(kafka.node.peers) == 1)
    await first.join()
    assert {each["member_id"] for each in first.answer["members"]} >= {first.id}


async def test_strangers_are_refused(kafka, versions):
    await alone(kafka, versions)
    stranger = await member(kafka, versions, id="stranger", generation=1)
    assert await stranger.heartbeat() == ErrorCode.UNKNOWN_MEMBER_ID
    assert (await stranger.sync())["error_code"] == ErrorCode.UNKNOWN_MEMBER_ID
    assert await stranger.leave() == ErrorCode.UNKNOWN_MEMBER_ID
    await stranger.send_join()
    assert (await stranger.client.answer())["error_code"] == ErrorCode.UNKNOWN_MEMBER_ID


async def test_another_generation_is_refused(kafka, versions):
    one = await alone(kafka, versions)
    one.generation = 9
    assert await one.heartbeat() == ErrorCode.ILLEGAL_GENERATION
    assert (await one.sync())["error_code"] == ErrorCode.ILLEGAL_GENERATION


async def test_what_cannot_be_a_member_is_refused(kafka, versions):
    await alone(kafka, versions)
    other = await member(kafka, versions)
    await other.ask_to_join([{"name": "unknown", "metadata": b""}])
    assert (await other.client.answer())["error_code"] == ErrorCode.INCONSISTENT_GROUP_PROTOCOL
    hasty = await member(kafka, versions, session_ms=10)
    await hasty.ask_to_join(PROTOCOLS)
    assert (await hasty.client.answer())["error_code"] == ErrorCode.INVALID_SESSION_TIMEOUT
    nameless = await member(kafka, versions, group="")
    await nameless.ask_to_join(PROTOCOLS)
    assert (await nameless.client.answer())["error_code"] == ErrorCode.INVALID_GROUP_ID


async def test_members_commit_in_their_generation(kafka, wire, versions):
    await wire.create("t")
    one = await alone(kafka, versions)
    topics = [{"name": "t", "partitions": [{"partition_index": 0, "committed_offset": 4}]}]
    answer = await one.call(api.OFFSET_COMMIT, topics=topics)
    assert answer["topics"][0]["partitions"][0]["error_code"] == ErrorCode.NONE
    one.generation = 7
    answer = await one.call(api.OFFSET_COMMIT, topics=topics)
    assert answer["topics"][0]["partitions"][0]["error_code"] == ErrorCode.ILLEGAL_GENERATION


async def test_a_static_member_comes_back(kafka):
    versions = Versions(True)
    first = await member(kafka, versions, instance="one")
    await first.send_join()
    await first.joined()
    await first.sync({first.id: b"mine"})
    again = await member(kafka, versions, instance="one")
    await again.send_join()
    await again.joined()
    assert again.id != first.id
    assert again.generation == 1
    assert bytes((await again.sync())["assignment"]) == b"mine"
    assert await first.heartbeat() == ErrorCode.FENCED_INSTANCE_ID
    assert await again.heartbeat() == ErrorCode.NONE


async def test_a_group_is_full(tmp_path):
    groups = GroupOptions(limits=GroupLimits(size_max=1), groups_max=1)
    async with kafka_here(tmp_path, node_options={"groups": groups}) as kafka:
        await alone(kafka, Versions(False))
        for name in ("g", "another"):
            other = await member(kafka, Versions(False), group=name)
            await other.send_join()
            assert (await other.client.answer())["error_code"] == ErrorCode.GROUP_MAX_SIZE_REACHED


# ---- from outside ----


async def test_groups_are_described(kafka, wire, versions):
    one = await alone(kafka, versions)
    body = {"groups": ["g", "missing"]}
    answer = await wire.call(api.DESCRIBE_GROUPS, body, versions.of(api.DESCRIBE_GROUPS))
    found, missing = answer["groups"]
    assert (found["error_code"], found["group_state"]) == (ErrorCode.NONE, "Stable")
    assert (found["protocol_type"], found["protocol_data"]) == ("consumer", "range")
    (described,) = found["members"]
    assert (described["member_id"], described["client_id"]) == (one.id, CLIENT_ID)
    assert described["client_host"] == "/127.0.0.1"
    assert bytes(described["member_metadata"]) == b"for range"
    assert bytes(described["member_assignment"]) == b"everything"
    code = ErrorCode.GROUP_ID_NOT_FOUND if versions.highest else ErrorCode.NONE
    assert (missing["error_code"], missing["group_state"]) == (code, "Dead")


async def test_groups_are_listed(kafka, wire, versions):
    await alone(kafka, versions)
    gone = await alone(kafka, versions, group="h")
    await gone.leave()

    async def listed(**filters):
        version = versions.of(api.LIST_GROUPS)
        answer = await wire.call(api.LIST_GROUPS, filters, version)
        assert answer["error_code"] == ErrorCode.NONE
        return {one["group_id"]: one["protocol_type"] for one in answer["groups"]}

    assert await listed() == {"g": "consumer", "h": "consumer"}
    if versions.highest:
        assert await listed(states_filter=["Stable"]) == {"g": "consumer"}
        assert await listed(states_filter=["empty", "dead"]) == {"h": "consumer"}
        assert await listed(types_filter=["consumer"]) == {}
        assert set(await listed(types_filter=["classic"])) == {"g", "h"}


async def test_empty_groups_are_deleted(kafka, wire, versions):
    one = await alone(kafka, versions)

    async def deleted(*names):
        version = versions.of(api.DELETE_GROUPS)
        answer = await wire.call(api.DELETE_GROUPS, {"groups_names": list(names)}, version)
        return [(found["group_id"], found["error_code"]) for found in answer["results"]]

    assert await deleted("g", "missing") == [
        ("g", ErrorCode.NON_EMPTY_GROUP),
        ("missing", ErrorCode.GROUP_ID_NOT_FOUND),
    ]
    await one.leave()
    assert await deleted("g") == [("g", ErrorCode.NONE)]
    assert kafka.node.groups.find("g") is None


async def test_a_member_is_removed_from_outside(kafka, wire):
    one = await alone(kafka, Versions(True))
    body = {"group_id": "g", "members": [{"member_id": one.id}, {"member_id": "other"}]}
    answer = await wire.call(api.LEAVE_GROUP, body)
    assert answer["error_code"] == ErrorCode.NONE
    assert [found["error_code"] for found in answer["members"]] == [
        ErrorCode.NONE,
        ErrorCode.UNKNOWN_MEMBER_ID,
    ]
    assert await one.heartbeat() == ErrorCode.UNKNOWN_MEMBER_ID


# ---- restart ----


async def test_a_group_goes_on_after_a_restart(tmp_path, versions):
    """Its members have not noticed: they go on in their generation."""
    async with kafka_here(tmp_path) as kafka:
        first = await alone(kafka, versions)
        second = await member(kafka, versions)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(second.join)
            await until(lambda: group_of(kafka).state.value == "PreparingRebalance")
            nursery.start_soon(first.join)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(second.sync)
            nursery.start_soon(first.sync, {first.id: b"one", second.id: b"two"})
        await until(lambda: group_of(kafka).state.value == "Stable")
    async with kafka_here(tmp_path) as kafka:
        for one, assignment in ((first, b"one"), (second, b"two")):
            one.client = await kafka.dial()
            assert await one.heartbeat() == ErrorCode.NONE
            assert bytes((await one.sync())["assignment"]) == assignment
        assert await second.leave() == ErrorCode.NONE
        assert await first.heartbeat() == ErrorCode.REBALANCE_IN_PROGRESS
        await first.join()
        assert first.generation == 3
