"""Topics and their partitions over HTTP."""

from __future__ import annotations

import uuid

import pytest
import trio

from api_here import api_here
from broker.management import turns
from broker.management.held import held_by
from broker.model.topic import CONFIGS
from topic_records import append, fill, record

NOT_THERE = {"error": "Object Not Found", "reason": "Not Found"}


def counted(records_in=0, octets_in=0, octets_out=0, delivered=0):
    """As it is shown before there are rates."""
    counts = {
        "records_in": records_in,
        "octets_in": octets_in,
        "octets_out": octets_out,
        "records_delivered": delivered,
    }
    return counts | {f"{name}_details": {"rate": 0.0} for name in counts}


async def test_a_topic_is_made_shown_and_deleted(api):
    body = {"partitions": 3, "configs": {"retention.ms": 60_000, "cleanup.policy": "compact"}}
    answer = await api.put("/topics/%2F/orders", body)
    assert (answer.status_code, answer.content) == (201, b"")
    row = await api.get("/topics/%2f/orders")
    effective = row.pop("effective_configs")
    assert uuid.UUID(row.pop("id")).bytes == api.node.topics.topic("/", "orders").id
    assert row == {
        "name": "orders",
        "vhost": "/",
        "node": api.node.options.name,
        "internal": False,
        "partitions": 3,
        "replication_factor": 1,
        "configs": {"retention.ms": "60000", "cleanup.policy": "compact"},
        "records": 0,
        "size": 0,
        "record_stats": counted(),
    }
    assert effective.keys() == CONFIGS.keys()
    assert (effective["retention.ms"], effective["retention.bytes"]) == ("60000", "-1")
    answer = await api.delete("/topics/%2F/orders")
    assert (answer.status_code, answer.content) == (204, b"")
    for method in ("GET", "DELETE"):
        answer = await api.ask(method, "/topics/%2F/orders")
        assert (answer.status_code, answer.json()) == (404, NOT_THERE)


async def test_what_is_not_said_is_one_partition_and_kafkas_defaults(api):
    assert (await api.put("/topics/%2F/t")).status_code == 201
    row = await api.get("/topics/%2F/t")
    assert (row["partitions"], row["configs"]) == (1, {})


async def test_a_topic_gets_more_partitions_and_other_configurations(api):
    await api.put("/topics/%2F/t", {"partitions": 2, "configs": {"retention.ms": 1, "flush": "os"}})
    topic = api.node.topics.topic("/", "t")
    assert (await api.put("/topics/%2F/t", {"partitions": 4})).status_code == 204
    assert (len(topic.partitions), topic.configs) == (4, {"retention.ms": "1", "flush": "os"})
    assert (await api.put("/topics/%2F/t", {"configs": {"preallocate": True}})).status_code == 204
    assert (len(topic.partitions), topic.configs) == (4, {"preallocate": "true"})
    assert (await api.put("/topics/%2F/t", {"partitions": 4, "configs": {}})).status_code == 204
    assert topic.configs == {}
    assert all(one.settings.syncs for one in topic.partitions)


async def test_a_topic_is_there_after_the_next_start(tmp_path):
    async with api_here(tmp_path) as api:
        await api.put("/topics/%2F/kept", {"partitions": 2, "configs": {"retention.ms": 5}})
        await api.put("/topics/%2F/kept", {"partitions": 3})
        await api.put("/topics/%2F/gone")
        await api.delete("/topics/%2F/gone")
        assert api.node.flusher.unsafe_definitions is None
    async with api_here(tmp_path) as api:
        (row,) = await api.get("/topics")
        assert (row["name"], row["partitions"], row["configs"]) == ("kept", 3, {"retention.ms": "5"})


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("there", {"partitions": 1}, 400, "topic 'there' has 2 partitions already, 1 are asked for"),
        (
            "there",
            {"partitions": 1000, "configs": {"flush": "os"}},
            400,
            "998 more partitions would be more than 5 in all, the limit",
        ),
        (
            "there",
            {"partitions": 3, "configs": {"flush": "never"}},
            400,
            "flush: expected one of sync, os, got 'never'",
        ),
        ("new", {"configs": {"colour": "red"}}, 400, "there is no topic configuration 'colour'"),
        ("new", {"configs": {"flush": None}}, 400, "configs: flush: expected a string, a whole number, true"),
        ("new", {"configs": []}, 400, "configs: expected an object, got []"),
        ("new", {"partitions": 0}, 400, "partitions: expected a number >= 1, got 0"),
        ("new", {"partitions": 10_001}, 400, "partitions: expected a number <= 10000, got 10001"),
        ("new", {"partitions": "many"}, 400, 'partitions: expected an integer, got "many"'),
        (
            "a%20b",
            {},
            400,
            "the topic name 'a b' has characters other than ASCII letters, digits, '.', '_' and '-'",
        ),
        ("x" * 250, {}, 400, "the name of a topic has at most 249 characters, this has 250"),
        ("q", {}, 400, "there is a queue 'q' in vhost '/'"),
    ],
)
async def test_what_cannot_be_is_refused_and_changes_nothing(tmp_path, path, body, status, said):
    async with api_here(tmp_path, partitions_max=5) as api:
        await api.put("/topics/%2F/there", {"partitions": 2, "configs": {"retention.ms": 1}})
        await api.put("/queues/%2F/q")
        answer = await api.put(f"/topics/%2F/{path}", body)
        assert answer.status_code == status
        assert answer.json()["reason"].startswith(said)
        (topic,) = api.node.topics.topics()
        assert (topic.name, len(topic.partitions), topic.configs) == ("there", 2, {"retention.ms": "1"})


async def test_the_brokers_own_topic_is_shown_and_left_alone(api):
    api.node.topics.create("/", "own", 1, internal=True)
    assert (await api.get("/topics/%2F/own"))["internal"] is True
    await append(api.node, api.node.topics.topic("/", "own").partitions[0], record(b"kept"))
    path = "/topics/%2F/own"
    for answer in (
        await api.put(path, {"partitions": 2}),
        await api.delete(path),
        await api.delete(f"{path}/partitions/0/records?before=-1"),
    ):
        assert (answer.status_code, answer.json()["reason"]) == (400, "topic 'own' is the broker's own")
    assert (await api.get(path))["records"] == 1


async def test_rights_are_those_of_amqp(api):
    user = api.add_user("half", "management", configure="^mine", write="", read="^mine")
    answer = await api.put("/topics/%2F/other", user=user)
    assert (answer.status_code, answer.json()) == (
        401,
        {
            "error": "not_authorised",
            "reason": "Access refused.",
            "explanation": "configure access to topic 'other' in vhost '/' refused for user 'half'",
        },
    )
    assert (await api.put("/topics/none/mine", user=user)).json()["error"] == "not_found"
    assert (await api.put("/topics/%2F/mine", user=user)).status_code == 201
    await api.put("/topics/%2F/other")
    assert (await api.put("/topics/%2F/other", {"partitions": 2}, user=user)).status_code == 401
    assert (await api.delete("/topics/%2F/other", user=user)).status_code == 401
    assert (await api.ask("GET", "/topics/%2F/other", user=user)).status_code == 200
    assert (await api.delete("/topics/%2F/mine", user=user)).status_code == 204
    assert (await api.put("/topics/%2F/mine", user=api.add_user("nobody"))).status_code == 401


async def test_lists_show_what_one_may_see(api):
    await api.put("/vhosts/second")
    await api.put("/topics/second/t2")
    await api.put("/topics/%2F/t1")
    user, watcher = api.add_user("one", "management"), api.add_user("all", "monitoring")

    async def names(path, who):
        return [row["name"] for row in await api.get(path, user=who)]

    assert await names("/topics", ("guest", "guest")) == ["t1", "t2"]
    assert await names("/topics", user) == ["t1"]
    assert await names("/topics", watcher) == ["t1", "t2"]
    assert await names("/topics/second", watcher) == ["t2"]
    assert (await api.ask("GET", "/topics/second", user=user)).status_code == 401
    assert (await api.ask("GET", "/topics/second/t2", user=user)).status_code == 401
    assert (await api.ask("GET", "/topics/none")).json() == NOT_THERE


async def test_topics_are_added_up_and_come_in_pages(api):
    for name, count in (("a", 1), ("b", 3), ("c", 2)):
        await api.put(f"/topics/%2F/{name}", {"partitions": 2})
        for one in api.node.topics.topic("/", name).partitions:
            await fill(api.node, one, [b"x" * 100] * count)
    rows = await api.get("/topics?sort=records&sort_reverse=true&columns=name,records")
    assert rows == [{"name": "b", "records": 6}, {"name": "c", "records": 4}, {"name": "a", "records": 2}]
    page = await api.get("/topics?page=2&page_size=2&columns=name")
    assert (page["items"], page["total_count"]) == ([{"name": "c"}], 3)
    (row, *_) = await api.get("/topics?disable_stats=true")
    assert not {"records", "record_stats"} & row.keys()
    topic = api.node.topics.topic("/", "b")
    assert (await api.get("/topics/%2F/b"))["size"] == sum(one.size for one in topic.partitions)


async def test_many_partitions_are_added_up_in_turns(api, monkeypatch):
    monkeypatch.setattr(turns, "TURN_S", 0.0)
    topic = api.node.topics.create("/", "t", 50)
    others = 0

    async def other():
        nonlocal others
        while True:
            await trio.lowlevel.checkpoint()
            others += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        await held_by([topic])
        nursery.cancel_scope.cancel()
    assert others >= 40


# ---- partitions ----


async def test_partitions_are_shown(api):
    await api.put("/topics/%2F/t", {"partitions": 12, "configs": {"segment.bytes": 1 << 20}})
    topic = api.node.topics.topic("/", "t")
    one = topic.partitions[10]
    await append(api.node, one, record(b"a", 7000), record(b"b", 5000), producer_id=9, producer_epoch=2)
    one.log.roll_due = True
    await append(api.node, one, record(b"c", 6000))
    api.node.flusher.checkpoint_soon()
    await api.node.settled()
    rows = await api.get("/topics/%2F/t/partitions")
    assert [row["partition"] for row in rows] == list(range(12))
    expected = {
        "partition": 10,
        "start_offset": 0,
        "high_watermark": 3,
        "size": one.size,
        "segments": 2,
        "last_timestamp": 7000,
        "producers": 1,
        "record_stats": counted(3, one.size),
    }
    assert rows[10] == expected
    assert await api.get("/topics/%2F/t/partitions/10") == expected
    nothing = {"start_offset": 0, "high_watermark": 0, "size": 0, "segments": 0, "producers": 0}
    assert rows[11] == {"partition": 11, **nothing, "last_timestamp": None, "record_stats": counted()}
    assert "record_stats" not in await api.get("/topics/%2F/t/partitions/10?disable_stats=true")
    assert await api.get("/topics/%2F/t/partitions?columns=partition&sort=high_watermark&page=1&page_size=1")


async def test_what_went_in_and_out_is_counted(api):
    await api.put("/topics/%2F/t", {"partitions": 2})
    first, second = api.node.topics.topic("/", "t").partitions
    for _ in range(2):  # the second time it is known
        batch = [record(b"x" * 10)] * 30
        await append(api.node, first, *batch, producer_id=9, producer_epoch=0, base_sequence=0)
    await append(api.node, second, record(b"y"))
    client = await api.broker.connect()
    channel = await client.channel(1)
    await channel.qos(100)
    await channel.consume("t", arguments={"x-stream-offset": "first"})
    await channel.messages(31)
    row = await api.get("/topics/%2F/t")
    assert row["record_stats"] == counted(31, first.size + second.size, 301, 31)
    rows = await api.get("/topics/%2F/t/partitions?sort=record_stats.records_in")
    assert [row["record_stats"] for row in rows] == [
        counted(1, second.size, 1, 1),
        counted(30, first.size, 300, 30),
    ]


async def test_producers_are_shown(api):
    await api.put("/topics/%2F/t")
    one = api.node.topics.topic("/", "t").partitions[0]
    for producer in (70, 9):
        await append(
            api.node, one, record(b"a", 7000), record(b"b", 5000), producer_id=producer, producer_epoch=2,
            base_sequence=0,
        )  # fmt: skip
    row = {"producer_epoch": 2, "last_sequence": 1, "last_timestamp": 7000}
    assert await api.get("/topics/%2F/t/partitions/0/producers") == [
        {"producer_id": 9, **row},
        {"producer_id": 70, **row},
    ]


@pytest.mark.parametrize("number", ["1", "-1", "x", "%D9%A1", "9" * 5000, "1e0"])
async def test_a_partition_that_is_not_there_is_not_found(api, number):
    await api.put("/topics/%2F/t")
    for path in ("", "/producers", "/records"):
        answer = await api.ask("GET", f"/topics/%2F/t/partitions/{number}{path}")
        assert answer.status_code == 404
    assert (await api.ask("GET", "/topics/%2F/none/partitions")).status_code == 404
    assert (await api.ask("GET", "/topics/%2F/none/partitions/0")).status_code == 404
