"""What a group has committed, set over HTTP."""

from __future__ import annotations

import pytest

from api_here import api_here
from broker.kafka import api as apis
from broker.kafka.consumer_protocol import Assignment, write_assignment
from broker.management import turns
from broker.model.group_calls import Leaving
from broker.node.groups import GroupOptions
from broker.server.kafka.options import KafkaOptions
from group_member import Member
from kafka_wire import KafkaClient
from topic_records import commit, fill

PATH = "/groups/g/offsets"


@pytest.fixture
async def topic(api):
    """Three partitions with the offsets 0 to 9, a millisecond apart; of the last, what is before 4 is gone."""
    topic = api.node.topics.create("/", "t", 3)
    for one in topic.partitions:
        await fill(api.node, one, [b"x"] * 10, timestamp=1_700_000_000_000)
    await api.node.settled(topic.partitions[2].move_start(4))
    return topic


def committed(api, group="g"):
    found = api.node.groups.find(group)
    return {} if found is None else {(topic, number): one.offset for topic, number, one in found.committed}


@pytest.mark.parametrize(
    ("place", "offsets"),
    [
        ({"to": "earliest"}, [0, 0, 4]),
        ({"to": "latest"}, [10, 10, 10]),
        ({"to": 7}, [7, 7, 7]),
        ({"to": 0}, [0, 0, 4]),
        ({"to": 2**63 - 1}, [10, 10, 10]),
        ({"time": 1_700_000_000_003}, [3, 3, 4]),
        ({"time": 0}, [0, 0, 4]),
        ({"time": 1_700_000_000_010}, [10, 10, 10]),
        ({"time": "2023-11-14T22:13:20.005Z"}, [5, 5, 5]),
        ({"time": "2023-11-14T22:13:20.005"}, [5, 5, 5]),
        ({"time": "2023-11-15T00:13:20.0059+02:00"}, [5, 5, 5]),
        ({"time": "0001-01-01"}, [0, 0, 4]),
    ],
)
async def test_offsets_are_set_to_a_place(api, topic, place, offsets):
    await commit(api.node, "g", "t", 1, 2)
    answer = await api.post(PATH, {"topic": "t", **place})
    assert answer.status_code == 200
    assert answer.json() == [
        {"topic": "t", "partition": number, "offset": offset, "previous_offset": 2 if number == 1 else None}
        for number, offset in enumerate(offsets)
    ]
    assert committed(api) == {("t", number): offset for number, offset in enumerate(offsets)}


async def test_only_the_partitions_that_are_named(api, topic):
    await commit(api.node, "g", "t", 0, 1)
    answer = await api.post(PATH, {"topic": "t", "partitions": [2, 1, 2], "to": "latest"})
    assert [row["partition"] for row in answer.json()] == [1, 2]
    assert committed(api) == {("t", 0): 1, ("t", 1): 10, ("t", 2): 10}


async def test_what_was_set_is_there_after_a_start(tmp_path):
    async with api_here(tmp_path) as api:
        one = api.node.topics.create("/", "t", 1).partitions[0]
        await fill(api.node, one, [b"x"] * 10)
        assert (await api.post(PATH, {"topic": "t", "to": 6})).status_code == 200
        assert api.node.groups.unsafe is None  # and safe when it is answered
    async with api_here(tmp_path) as api:
        (row,) = (await api.get("/groups/g"))["partitions"]
        assert (row["committed_offset"], row["metadata"], row["lag"]) == (6, "", 4)


async def test_a_client_goes_on_there(tmp_path):
    async with api_here(tmp_path, kafka=KafkaOptions()) as api:
        await fill(api.node, api.node.topics.create("/", "t", 1).partitions[0], [b"x"] * 10)
        await api.post(PATH, {"topic": "t", "to": 6})
        client = await KafkaClient.dial(("127.0.0.1", api.port("kafka")))
        asked = {"groups": [{"group_id": "g", "topics": None}], "require_stable": True}
        answer = await client.call(apis.OFFSET_FETCH, asked, 8)
        client.drop()
    (found,) = answer["groups"]
    assert found["topics"][0]["partitions"][0]["committed_offset"] == 6


async def test_not_while_the_group_has_members(api, topic):
    await commit(api.node, "g", "t", 0, 1)
    member_id = await Member(api.node, "g").lead(write_assignment(Assignment({"t": [0]})))
    answer = await api.post(PATH, {"topic": "t", "to": "latest"})
    assert (answer.status_code, answer.json()) == (
        409,
        {
            "error": "conflict",
            "reason": "group 'g' is Stable with 1 members: its offsets are set when they have left",
        },
    )
    assert committed(api) == {("t", 0): 1}
    api.node.groups.leave("g", [Leaving(member_id, None, "")])
    await api.node.settled()
    assert (await api.post(PATH, {"topic": "t", "to": "latest"})).status_code == 200
    assert committed(api)["t", 0] == 10


async def test_somebody_who_joins_meanwhile_is_not_committed_over(api, topic, monkeypatch):
    monkeypatch.setattr(turns, "TURN_S", 0.0)
    await commit(api.node, "g", "t", 0, 1)
    partition = type(topic.partitions[0])
    looked = partition.offset_of_time

    def join_then_look(self, timestamp):
        if self.number == 0:
            Member(api.node, "g")
        return looked(self, timestamp)

    monkeypatch.setattr(partition, "offset_of_time", join_then_look)
    answer = await api.post(PATH, {"topic": "t", "time": 0})
    assert answer.status_code == 409
    assert committed(api) == {("t", 0): 1}


async def test_a_topic_that_goes_meanwhile_is_not_there(api, topic, monkeypatch):
    monkeypatch.setattr(turns, "TURN_S", 0.0)
    partition = type(topic.partitions[0])
    looked = partition.offset_of_time

    def delete_then_look(self, timestamp):
        found = looked(self, timestamp)
        if self.number == 2:
            api.node.topics.delete(topic)
        return found

    monkeypatch.setattr(partition, "offset_of_time", delete_then_look)
    assert (await api.post(PATH, {"topic": "t", "time": 0})).status_code == 404
    assert committed(api) == {}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"topic": "t"}, "the body: expected either to or time"),
        ({"topic": "t", "to": "latest", "time": 1}, "the body: expected either to or time"),
        ({"topic": "t", "to": "end"}, 'to: expected earliest, latest or an offset, got "end"'),
        ({"topic": "t", "to": -1}, "to: expected earliest, latest or an offset, got -1"),
        ({"topic": "t", "to": 2**63}, "to: expected earliest, latest or an offset"),
        ({"topic": "t", "to": True}, "to: expected earliest, latest or an offset, got true"),
        ({"topic": "t", "to": 1.0}, "to: expected earliest, latest or an offset, got 1.0"),
        ({"topic": "t", "time": "noon"}, "time: expected milliseconds, or a time as 2026-01-31T12:00:00Z"),
        ({"topic": "t", "time": -1}, "time: expected milliseconds, or a time as 2026-01-31T12:00:00Z"),
        ({"topic": "t", "time": True}, "time: expected milliseconds, or a time as 2026-01-31T12:00:00Z"),
        ({"to": "latest"}, "topic: this key is missing"),
        ({"topic": 5, "to": "latest"}, "topic: expected a string, got 5"),
        ({"topic": "t", "partitions": [], "to": 1}, "partitions: expected one at least, got []"),
        ({"topic": "t", "partitions": [True], "to": 1}, "partitions.0: expected an integer, got true"),
    ],
)
async def test_bodies_that_cannot_be(api, topic, body, reason):
    answer = await api.post(PATH, body)
    assert answer.status_code == 400
    assert answer.json()["reason"].startswith(reason)
    assert api.node.groups.find("g") is None


async def test_what_is_not_there(api, topic):
    for body in (
        {"topic": "none", "to": 1},
        {"topic": "t", "partitions": [0, 3], "to": 1},
        {"topic": "t", "partitions": [-1], "to": 1},
    ):
        assert (await api.post(PATH, body)).status_code == 404
    assert (await api.post("/groups//offsets", {"topic": "t", "to": 1})).status_code == 400
    long = await api.post(f"/groups/{'g' * 256}/offsets", {"topic": "t", "to": 1})
    assert "256 octets" in long.json()["reason"]
    api.node.topics.create("/", "own", 1, internal=True)
    answer = await api.post(PATH, {"topic": "own", "to": 1})
    assert (answer.status_code, answer.json()["reason"]) == (400, "topic 'own' is the broker's own")
    assert api.node.groups.find("g") is None


async def test_who_may_is_who_may_commit(api, topic):
    body = {"topic": "t", "to": "latest"}
    for read, kind in (("^t$", "group 'g'"), ("^g$", "topic 't'")):
        user = api.add_user("half", "management", read=read)
        answer = await api.post(PATH, body, user=user)
        assert answer.status_code == 401
        said = f"read access to {kind} in vhost '/' refused for user 'half'"
        assert answer.json()["explanation"] == said
    user = api.add_user("reads", "management", configure="", write="", read="^[gt]$")
    assert (await api.post(PATH, body, user=user)).status_code == 200
    assert (await api.post(PATH, body, user=api.add_user("untagged"))).status_code == 401


async def test_groups_of_another_virtual_host(tmp_path):
    async with api_here(tmp_path, groups=GroupOptions(vhost="log")) as api:
        await api.put("/vhosts/log")
        await api.put("/topics/log/t")
        user = api.add_user("one", "management")
        assert (await api.post(PATH, {"topic": "t", "to": 0}, user=user)).status_code == 404
        assert (await api.post(PATH, {"topic": "t", "to": 0})).status_code == 200


async def test_without_room_nothing_is_set(tmp_path):
    async with api_here(tmp_path, groups=GroupOptions(size_max=4000)) as api:
        api.node.topics.create("/", "t", 100)
        await commit(api.node, "g", "t", 1, 0)
        size = api.node.groups.room.size
        for one in api.node.topics.topic("/", "t").partitions[:2]:
            await fill(api.node, one, [b"x"])
        answer = await api.post(PATH, {"topic": "t", "to": "latest"})
        assert (answer.status_code, "all groups keep" in answer.json()["reason"]) == (400, True)
        assert committed(api) == {("t", 1): 0}
        assert api.node.groups.room.size == size
