"""What a member of a group makes of what its coordinator says, and of a coordinator that says nothing."""

from __future__ import annotations

from contextlib import asynccontextmanager

import anyio
import pytest

from backends import on_mock_clock
from broker.kafka import api
from broker.kafka.consumer_protocol import (
    Assignment,
    Subscription,
    read_assignment,
    topics_of,
    write_assignment,
    write_subscription,
)
from broker.kafka.errors import ErrorCode
from fake_kafka import CUT, fake_kafka
from leveret.log import (
    BrokerError,
    CommitFailed,
    ConnectionFailed,
    InstanceFenced,
    InvalidValue,
    NotAuthorized,
)


class FakeGroup:
    """The coordinator of a group with one member; `codes` are what is answered instead, by API, once each."""

    def __init__(self, fake):
        self.fake = fake
        self.member = ""
        self.members = 0
        self.generation = 0
        self.heartbeats = []
        self.committed = {}
        self.left = []
        self.instances = set()
        """What members have said that they are."""
        self.codes = {}
        self.hosts = ["fake"]
        fake.answers |= {
            api.FIND_COORDINATOR: self.find,
            api.JOIN_GROUP: self.join,
            api.SYNC_GROUP: self.sync,
            api.HEARTBEAT: self.heartbeat,
            api.OFFSET_COMMIT: self.commit,
            api.OFFSET_FETCH: self.fetch,
            api.LEAVE_GROUP: self.leave,
        }

    def code(self, kind):
        left = self.codes.get(kind)
        return left.pop(0) if left else ErrorCode.NONE

    def find(self, request):
        code = self.code(api.FIND_COORDINATOR)
        host = self.hosts[0] if len(self.hosts) == 1 else self.hosts.pop(0)
        return {"coordinators": [{"key": "g", "error_code": code, "host": host, "port": 9092}]}

    def join(self, request):
        code = self.code(api.JOIN_GROUP)
        if code:
            return {"error_code": code}
        self.instances.add(request.body["group_instance_id"])
        if not request.body["member_id"]:
            self.members += 1
            self.member = f"member {self.members}"
        if not request.body["member_id"] and request.body["group_instance_id"] is None:
            return {"error_code": ErrorCode.MEMBER_ID_REQUIRED, "member_id": self.member}
        assert request.body["member_id"] in (self.member, "")
        self.generation += 1
        (protocol,) = request.body["protocols"]
        assert protocol["name"] == "range"
        assert topics_of(bytes(protocol["metadata"])) == {"t"}
        return {
            "generation_id": self.generation,
            "protocol_type": "consumer",
            "protocol_name": "range",
            "leader": self.member,
            "member_id": self.member,
            "members": [
                {"member_id": self.member, "metadata": bytes(protocol["metadata"])},
                {"member_id": "another", "metadata": b"garbage"},
                {
                    "member_id": "a third",
                    "metadata": write_subscription(Subscription(["", "gone", "t" * 250])),
                },
            ],
        }

    def sync(self, request):
        code = self.code(api.SYNC_GROUP)
        if code:
            return {"error_code": code}
        self.instances.add(request.body["group_instance_id"])
        shares = {one["member_id"]: bytes(one["assignment"]) for one in request.body["assignments"]}
        for other in ("another", "a third"):
            assert read_assignment(shares[other]).partitions == {}
        return {"assignment": shares[self.member]}

    def heartbeat(self, request):
        self.instances.add(request.body["group_instance_id"])
        self.heartbeats.append((request.body["member_id"], request.body["generation_id"]))
        return {"error_code": self.code(api.HEARTBEAT)}

    def commit(self, request):
        code = self.code(api.OFFSET_COMMIT)
        self.instances.add(request.body["group_instance_id"])
        topics = []
        for topic in request.body["topics"]:
            for one in topic["partitions"]:
                if not code:
                    self.committed[one["partition_index"]] = one["committed_offset"]
            partitions = [
                {"partition_index": one["partition_index"], "error_code": code} for one in topic["partitions"]
            ]
            topics.append({"name": topic["name"], "partitions": partitions})
        return {"topics": topics}

    def fetch(self, request):
        code = self.code(api.OFFSET_FETCH)
        (group,) = request.body["groups"]
        topics = [
            {
                "name": topic["name"],
                "partitions": [
                    {"partition_index": number, "committed_offset": self.committed.get(number, -1)}
                    for number in topic["partition_indexes"]
                ],
            }
            for topic in group["topics"]
        ]
        return {"groups": [{"group_id": group["group_id"], "error_code": code, "topics": topics}]}

    def leave(self, request):
        self.left += [one["member_id"] for one in request.body["members"]]
        return {}


@asynccontextmanager
async def grouped(url="kafka://fake"):
    async with fake_kafka() as fake:
        group = FakeGroup(fake)
        fake.missing.add("gone")
        async with fake.connect(url) as log:
            yield fake, group, log


def member(log, **options):
    return log.consumer("t", group="g", **{"offset": "earliest", **options})


@on_mock_clock
async def test_a_member_comes_and_goes():
    async with grouped() as (fake, group, log):
        fake.add("t", b"x", b"y")
        async with member(log) as consumer:
            assert consumer.assignment == {("t", 0)}
            assert (await anext(consumer)).value == b"x"
            await anyio.sleep(10.5)
            assert group.committed == {0: 0}  # that is in hand
            assert (await anext(consumer)).value == b"y"
            await anyio.sleep(5)
            assert group.committed == {0: 1}
        assert group.heartbeats == [("member 1", 1)] * 5
        assert group.committed == {0: 2}
        assert group.left == ["member 1"]


@pytest.mark.parametrize(
    ("code", "who", "committed"),
    [
        (ErrorCode.REBALANCE_IN_PROGRESS, "member 1", {0: 1}),
        (ErrorCode.ILLEGAL_GENERATION, "member 1", {}),
        (ErrorCode.UNKNOWN_MEMBER_ID, "member 2", {}),
    ],
)
@on_mock_clock
async def test_a_heartbeat_is_answered_with_join_again(code, who, committed):
    """If the partitions are others' by then, there is nothing to commit any more."""
    async with grouped() as (fake, group, log):
        fake.add("t", b"x", b"y")
        async with member(log, commit_interval=1000) as consumer:
            assert (await anext(consumer)).value == b"x"
            assert (await anext(consumer)).value == b"y"
            consumer._lay_down()
            consumer._fetcher.assigned["t", 0].position = 1
            group.codes[api.HEARTBEAT] = [code]
            await anyio.sleep(5)
            assert group.heartbeats == [("member 1", 1)]
            assert (group.generation, group.member) == (2, who)
            assert group.committed == committed
            await anyio.sleep(3)
            assert group.heartbeats[-1] == (who, 2)


@pytest.mark.parametrize("kind", [api.FIND_COORDINATOR, api.JOIN_GROUP, api.SYNC_GROUP, api.OFFSET_FETCH])
@pytest.mark.parametrize(
    "code", [ErrorCode.COORDINATOR_NOT_AVAILABLE, ErrorCode.COORDINATOR_LOAD_IN_PROGRESS]
)
@on_mock_clock
async def test_a_coordinator_that_is_not_ready(kind, code):
    async with grouped() as (fake, group, log):
        group.codes[kind] = [code] * 8
        async with member(log) as consumer:
            assert consumer.assignment == {("t", 0)}
            assert 1 < anyio.current_time() < 20
        assert fake.count(kind) <= 10 + fake.count(api.JOIN_GROUP)


@pytest.mark.parametrize("kind", [api.JOIN_GROUP, api.HEARTBEAT, api.OFFSET_COMMIT])
@on_mock_clock
async def test_a_coordinator_that_has_moved(kind):
    async with grouped() as (fake, group, log):
        group.hosts = ["fake", "moved"]
        group.codes[kind] = [ErrorCode.NOT_COORDINATOR]
        fake.add("t", b"x")
        async with member(log, auto_commit=False) as consumer:
            assert (await anext(consumer)).value == b"x"
            await anyio.sleep(10)
            await consumer.commit()
        assert ("moved", 9092) in fake.dialled
        assert group.committed == {0: 1}
        assert group.left == ["member 1"]


@on_mock_clock
async def test_a_coordinator_that_is_away_for_a_while():
    """Shorter than the session: the partitions stay ours."""
    async with grouped() as (fake, group, log):
        fake.add("t", b"x")
        async with member(log) as consumer:
            fake.answers[api.API_VERSIONS] = lambda _: CUT
            await fake.cut()
            await anyio.sleep(30)
            fake.answers[api.API_VERSIONS] = fake.api_versions
            await anyio.sleep(10)
            assert group.generation == 1
            assert len(group.heartbeats) > 1
            assert (await anext(consumer)).value == b"x"


@on_mock_clock
async def test_a_coordinator_that_is_away_for_longer_than_the_session():
    async with grouped() as (fake, group, log), member(log) as consumer:
        fake.answers[api.API_VERSIONS] = lambda _: CUT
        await fake.cut()
        await anyio.sleep(150)
        assert consumer.assignment == frozenset()
        fake.answers[api.API_VERSIONS] = fake.api_versions
        await anyio.sleep(40)
        assert group.generation == 2
        assert consumer.assignment == {("t", 0)}


@pytest.mark.parametrize(
    ("kind", "code", "expected"),
    [
        (api.FIND_COORDINATOR, ErrorCode.GROUP_AUTHORIZATION_FAILED, NotAuthorized),
        (api.JOIN_GROUP, ErrorCode.GROUP_AUTHORIZATION_FAILED, NotAuthorized),
        (api.JOIN_GROUP, ErrorCode.GROUP_MAX_SIZE_REACHED, BrokerError),
        (api.SYNC_GROUP, ErrorCode.GROUP_AUTHORIZATION_FAILED, NotAuthorized),
        (api.OFFSET_FETCH, ErrorCode.GROUP_AUTHORIZATION_FAILED, NotAuthorized),
    ],
)
@on_mock_clock
async def test_a_member_that_is_not_wanted(kind, code, expected):
    async with grouped() as (fake, group, log):
        group.codes[kind] = [code]
        with pytest.raises(expected, match=f"group 'g'.*{code.name}"):
            await member(log).__aenter__()
        assert fake.count(api.HEARTBEAT) == 0


@on_mock_clock
async def test_a_member_that_is_not_wanted_any_more():
    """The others have its partitions: what it has read ahead is not given out."""
    async with grouped() as (fake, group, log):
        fake.add("t", b"x", b"y")
        async with member(log) as consumer:
            assert (await anext(consumer)).value == b"x"
            group.codes[api.HEARTBEAT] = [ErrorCode.GROUP_AUTHORIZATION_FAILED]
            await anyio.sleep(5)
            for _ in range(2):
                with pytest.raises(NotAuthorized, match="group 'g': a heartbeat: GROUP_AUTHORIZATION_FAILED"):
                    await anext(consumer)


@on_mock_clock
async def test_a_heartbeat_that_is_answered_with_not_now():
    async with grouped() as (_, group, log), member(log) as consumer:
        group.codes[api.HEARTBEAT] = [ErrorCode.COORDINATOR_LOAD_IN_PROGRESS] * 5
        await anyio.sleep(20)
        assert group.generation == 1
        group.codes[api.HEARTBEAT] = [ErrorCode.COORDINATOR_LOAD_IN_PROGRESS] * 1000
        await anyio.sleep(50)
        assert group.generation == 2
        assert consumer.assignment == {("t", 0)}


@on_mock_clock
async def test_topics_that_get_more_partitions_are_shared_out_anew():
    async with grouped() as (fake, _, log), member(log) as consumer:
        fake.partitions = 3
        await anyio.sleep(310)
        assert len(consumer.assignment) == 3


@pytest.mark.parametrize(
    "code", [ErrorCode.ILLEGAL_GENERATION, ErrorCode.UNKNOWN_MEMBER_ID, ErrorCode.REBALANCE_IN_PROGRESS]
)
@on_mock_clock
async def test_commits_that_fail(code):
    async with grouped() as (fake, group, log):
        fake.add("t", b"x")
        async with member(log, auto_commit=False) as consumer:
            await anext(consumer)
            group.codes[api.OFFSET_COMMIT] = [code, ErrorCode.OFFSET_METADATA_TOO_LARGE]
            with pytest.raises(CommitFailed, match=code.name):
                await consumer.commit()
            with pytest.raises(BrokerError, match=r"group 'g': t\[0\]: OFFSET_METADATA_TOO_LARGE"):
                await consumer.commit()
            assert group.committed == {}
            group.codes[api.OFFSET_COMMIT] = [ErrorCode.COORDINATOR_LOAD_IN_PROGRESS] * 3
            await consumer.commit()
            assert group.committed == {0: 1}


@on_mock_clock
async def test_a_commit_that_is_not_answered():
    async with grouped("kafka://fake?request_timeout=7000") as (fake, _, log):
        fake.add("t", b"x")
        async with member(log, auto_commit=False) as consumer:
            await anext(consumer)
            fake.answers[api.OFFSET_COMMIT] = lambda _: None
            started = anyio.current_time()
            with pytest.raises(ConnectionFailed, match="OffsetCommit"):
                await consumer.commit()
            assert anyio.current_time() - started == pytest.approx(7, abs=0.1)


@pytest.mark.parametrize("kind", [api.LEAVE_GROUP, api.OFFSET_COMMIT])
@on_mock_clock
async def test_leaving_a_coordinator_that_does_not_answer(kind, caplog):
    async with grouped() as (fake, _, log):
        fake.add("t", b"x")
        async with member(log) as consumer:
            await anext(consumer)
            fake.answers[kind] = lambda _: None
            started = anyio.current_time()
        assert anyio.current_time() - started == pytest.approx(3)
    assert "group 'g': the broker did not answer; what was read last may not be committed" in caplog.text


@on_mock_clock
async def test_a_topic_that_is_deleted_is_not_made_again_by_looking_at_it():
    async with grouped() as (fake, _, log), member(log) as consumer:
        asked = []

        def metadata(request):
            asked.append(request.body["allow_auto_topic_creation"] and bool(request.body["topics"]))
            return fake.metadata(request)

        fake.missing.add("t")
        fake.answers[api.METADATA] = metadata
        await anyio.sleep(700)
        await log.topics()
        assert consumer.assignment == {("t", 0)}
        assert len(asked) > 2
        assert not any(asked)


@on_mock_clock
async def test_a_topic_without_a_leader_does_not_keep_the_leader_of_a_group_from_its_heartbeats():
    async with grouped() as (fake, group, log), member(log, session_timeout=10):
        await anyio.sleep(290)
        fake.leader = 7
        before = len(group.heartbeats)
        await anyio.sleep(60)
        assert len(group.heartbeats) - before >= 15
        assert group.generation == 1


@pytest.mark.parametrize("kind", [api.LIST_OFFSETS, api.OFFSET_FETCH])
@on_mock_clock
async def test_heartbeats_go_on_while_it_is_looked_up_where_to_begin(kind):
    async with grouped() as (fake, group, log):
        answer = fake.answers[kind]

        async def slow(request):
            await anyio.sleep(20)
            return answer(request)

        fake.answers[kind] = slow
        async with member(log, session_timeout=10) as consumer:
            assert anyio.current_time() >= 20
            assert len(group.heartbeats) >= 5
            assert consumer.assignment == {("t", 0)}
            assert group.generation == 1


# ---- instances ----


@on_mock_clock
async def test_an_instance_says_who_it_is_and_does_not_leave():
    async with grouped() as (fake, group, log):
        fake.add("t", b"x")
        async with member(log, group_instance_id="kitchen.1") as consumer:
            assert (await anext(consumer)).value == b"x"
            await anyio.sleep(5)
        assert group.instances == {"kitchen.1"}
        assert group.committed == {0: 1}
        assert group.heartbeats == [("member 1", 1)]
        assert group.left == []
        await anyio.sleep(1)
        assert fake.open_connections == 1  # its own are closed


@on_mock_clock
async def test_an_instance_that_is_fenced():
    """The other one has its partitions: it gives nothing more, and commits nothing."""
    async with grouped() as (fake, group, log):
        fake.add("t", b"x", b"y")
        async with member(log, group_instance_id="kitchen") as consumer:
            assert (await anext(consumer)).value == b"x"
            group.codes[api.HEARTBEAT] = [ErrorCode.FENCED_INSTANCE_ID]
            group.codes[api.OFFSET_COMMIT] = [ErrorCode.FENCED_INSTANCE_ID] * 9
            await anyio.sleep(5)
            for _ in range(2):
                with pytest.raises(InstanceFenced, match=r"another.*'kitchen'.*FENCED_INSTANCE_ID"):
                    await anext(consumer)
            with pytest.raises(InstanceFenced, match=r"another.*'kitchen'.*FENCED_INSTANCE_ID"):
                await consumer.commit()
            await anyio.sleep(100)
        assert fake.count(api.OFFSET_COMMIT) == 0
        assert len(group.heartbeats) == 1
        assert group.generation == 1
        assert group.committed == {}


@pytest.mark.parametrize("kind", [api.JOIN_GROUP, api.SYNC_GROUP])
@on_mock_clock
async def test_an_instance_that_is_fenced_before_it_has_anything(kind):
    async with grouped() as (_, group, log):
        group.codes[kind] = [ErrorCode.FENCED_INSTANCE_ID]
        with pytest.raises(InstanceFenced, match=r"another.*'kitchen'"):
            await member(log, group_instance_id="kitchen").__aenter__()


@on_mock_clock
async def test_a_leader_that_is_back_shares_nothing_out_if_it_is_told_so():
    """But it goes on looking whether topics have more partitions."""
    async with grouped() as (fake, group, log):
        fake.partitions = 2
        skips = [True, False]
        synced = []
        mine = write_assignment(Assignment({"t": [1]}), 0)

        def sync(request):
            synced.append(request.body["assignments"])
            return {"assignment": mine} if len(synced) == 1 else group.sync(request)

        fake.answers[api.JOIN_GROUP] = lambda request: {
            **group.join(request),
            "skip_assignment": skips.pop(0),
        }
        fake.answers[api.SYNC_GROUP] = sync
        async with member(log, group_instance_id="kitchen") as consumer:
            assert synced == [[]]
            assert consumer.assignment == {("t", 1)}
            fake.partitions = 3
            await anyio.sleep(310)
            assert len(consumer.assignment) == 3


@on_mock_clock
async def test_a_coordinator_that_knows_no_instances():
    async with grouped() as (fake, _, log):

        def api_versions(request):
            body = fake.api_versions(request)
            for one in body["api_keys"]:
                if one["api_key"] == api.JOIN_GROUP.key:
                    one["max_version"] = 4
            return body

        fake.answers[api.API_VERSIONS] = api_versions
        await fake.cut()
        with pytest.raises(BrokerError, match="fake:9092 is too old for a group_instance_id"):
            await member(log, group_instance_id="kitchen").__aenter__()
        assert fake.count(api.JOIN_GROUP) == 0
        async with member(log):
            pass


@on_mock_clock
async def test_what_no_instance_can_be_called():
    async with grouped() as (_, __, log):
        for instance in ("", "a b", ".", "..", "ü", 250 * "a", "a\n"):
            with pytest.raises(InvalidValue, match="a group_instance_id is"):
                log.consumer("t", group="g", group_instance_id=instance)
        with pytest.raises(InvalidValue, match="no group"):
            log.consumer("t", group_instance_id="kitchen")
