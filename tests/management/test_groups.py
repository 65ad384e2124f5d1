"""Consumer groups over HTTP, and how far they are behind."""

from __future__ import annotations

import pytest
import trio

from api_here import api_here
from broker.kafka.consumer_protocol import Assignment, write_assignment
from broker.management import lag, turns
from broker.model.group_limits import GroupLimits
from broker.node.groups import GroupOptions
from group_member import Member
from topic_records import append, commit, fill, record

NOT_THERE = {"error": "Object Not Found", "reason": "Not Found"}


def quick_groups():
    """A rebalance waits for nobody else."""
    return GroupOptions(limits=GroupLimits(initial_rebalance_delay_ms=0))


@pytest.fixture
async def api(tmp_path):
    async with api_here(tmp_path, groups=quick_groups()) as here:
        yield here


@pytest.fixture
async def topic(api):
    await api.put("/topics/%2F/t", {"partitions": 3})
    return api.node.topics.topic("/", "t")


async def test_a_group_of_which_only_offsets_are_known(api, topic):
    now_ms = api.node.clock.now_ms()
    for one in topic.partitions:
        await fill(api.node, one, [b"x"] * 10, timestamp=now_ms - 60_000)
    await commit(api.node, "g", "t", 0, 10)
    await commit(api.node, "g", "t", 2, 4)
    (row,) = await api.get("/groups")
    max_lag_ms = row.pop("max_lag_ms")
    assert 59_000 <= max_lag_ms <= 70_000
    expected = {
        "name": "g",
        "vhost": "/",
        "node": api.node.options.name,
        "state": "Empty",
        "protocol_type": "",
        "protocol": "",
        "generation": 0,
        "members": 0,
        "topics": ["t"],
        "rebalances": 0,
        "lag": 6,
        "max_lag": 6,
    }
    assert row == expected
    row = await api.get("/groups/g")
    done, behind = row.pop("partitions")
    assert row.pop("member_details") == []
    assert row.pop("max_lag_ms") >= max_lag_ms
    assert row == expected
    assert (behind["topic"], behind["partition"], behind["committed_offset"], behind["lag"]) == ("t", 2, 4, 6)
    assert 59_000 <= behind["lag_ms"] <= 70_000
    assert abs(behind["committed_at"] - now_ms) < 10_000
    del done["committed_at"]
    assert done == {
        "topic": "t",
        "partition": 0,
        "committed_offset": 10,
        "metadata": "",
        "start_offset": 0,
        "end_offset": 10,
        "lag": 0,
        "lag_ms": 0,
        "member_id": None,
        "client_id": None,
        "client_host": None,
    }


async def test_members_are_shown_with_what_they_have(api, topic):
    await fill(api.node, topic.partitions[1], [b"x"] * 3)
    await commit(api.node, "g", "t", 0, 0)
    member = Member(api.node, "g", group_instance_id="static")
    assignment = write_assignment(Assignment({"t": [1, 0], "gone": [7]}))
    member_id = await member.lead(assignment)
    row = await api.get("/groups/g")
    assert (row["state"], row["protocol_type"], row["protocol"]) == ("Stable", "consumer", "range")
    assert (row["generation"], row["members"], row["rebalances"]) == (1, 1, 1)
    assert row["member_details"] == [
        {
            "member_id": member_id,
            "group_instance_id": "static",
            "client_id": "hare",
            "client_host": "/10.1.2.3",
            "session_timeout_ms": 6000,
            "rebalance_timeout_ms": 9000,
            "assignment": [
                {"topic": "gone", "partitions": [7]},
                {"topic": "t", "partitions": [0, 1]},
            ],
        }
    ]
    gone, committed, unread = row["partitions"]
    owner = {"member_id": member_id, "client_id": "hare", "client_host": "/10.1.2.3"}
    nothing = {"committed_offset": None, "committed_at": None, "metadata": None, "lag": None, "lag_ms": None}
    assert gone == {
        "topic": "gone",
        "partition": 7,
        "start_offset": None,
        "end_offset": None,
        **nothing,
        **owner,
    }
    assert (committed["partition"], committed["lag"], committed["member_id"]) == (0, 0, member_id)
    assert unread == {"topic": "t", "partition": 1, "start_offset": 0, "end_offset": 3, **nothing, **owner}


async def test_an_assignment_that_nobody_can_read_is_not_shown(api, topic):
    member = Member(api.node, "g")
    await member.lead(b"garbage")
    row = await api.get("/groups/g")
    assert row["member_details"][0]["assignment"] is None
    assert row["partitions"] == []


async def test_columns_are_those_that_were_asked_for(api, topic):
    await commit(api.node, "g", "t", 0, 0)
    assert await api.get("/groups/g?columns=name,lag") == {"name": "g", "lag": 0}
    row = await api.get("/groups/g?columns=partitions")
    assert [one["partition"] for one in row.pop("partitions")] == [0]
    assert row == {}
    for path in ("/groups/g?disable_stats=true", "/groups?disable_stats=true"):
        row = await api.get(path)
        row = row[0] if isinstance(row, list) else row
        assert not {"lag", "max_lag", "partitions"} & row.keys()


async def test_groups_are_sorted_and_paged(api, topic):
    await fill(api.node, topic.partitions[0], [b"x"] * 9)
    for group, offset in (("a", 8), ("b", 2), ("c", 5)):
        await commit(api.node, group, "t", 0, offset)
    rows = await api.get("/groups?sort=lag&sort_reverse=true&columns=name,lag")
    assert rows == [{"name": "b", "lag": 7}, {"name": "c", "lag": 4}, {"name": "a", "lag": 1}]
    page = await api.get("/groups?page=1&page_size=2&name=c&columns=name")
    assert (page["items"], page["total_count"]) == ([{"name": "c"}], 3)


# ---- deleting ----


async def test_a_group_is_deleted_for_good(tmp_path):
    async with api_here(tmp_path, groups=quick_groups()) as api:
        await api.put("/topics/%2F/t")
        for group in ("kept", "gone"):
            await commit(api.node, group, "t", 0, 0)
        answer = await api.delete("/groups/gone")
        assert (answer.status_code, answer.content) == (204, b"")
        for method in ("GET", "DELETE"):
            answer = await api.ask(method, "/groups/gone")
            assert (answer.status_code, answer.json()) == (404, NOT_THERE)
    async with api_here(tmp_path, groups=quick_groups()) as api:
        assert [row["name"] for row in await api.get("/groups")] == ["kept"]


async def test_a_group_with_members_is_not_deleted(api, topic):
    await Member(api.node, "g").lead(write_assignment(Assignment({"t": [0]})))
    answer = await api.delete("/groups/g")
    assert (answer.status_code, answer.json()["error"]) == (400, "bad_request")
    assert "member" in answer.json()["reason"]
    assert api.node.groups.find("g") is not None


async def test_rights_are_those_of_amqp(api, topic):
    await commit(api.node, "mine", "t", 0, 0)
    await commit(api.node, "other", "t", 0, 0)
    user = api.add_user("half", "management", configure="^mine$", write="", read="")
    assert [row["name"] for row in await api.get("/groups", user=user)] == ["mine", "other"]
    answer = await api.delete("/groups/other", user=user)
    assert answer.status_code == 401
    assert (
        answer.json()["explanation"]
        == "configure access to group 'other' in vhost '/' refused for user 'half'"
    )
    assert (await api.delete("/groups/mine", user=user)).status_code == 204


async def test_groups_are_of_the_virtual_host_that_kafka_has(tmp_path):
    async with api_here(tmp_path, groups=GroupOptions(vhost="log")) as api:
        await api.put("/vhosts/log")
        await api.put("/topics/log/t")
        await fill(api.node, api.node.topics.topic("log", "t").partitions[0], [b"x"] * 4)
        await commit(api.node, "g", "t", 0, 1)
        user, watcher = api.add_user("one", "management"), api.add_user("all", "monitoring")
        assert await api.get("/groups", user=user) == []
        assert (await api.ask("GET", "/groups/g", user=user)).status_code == 404
        assert (await api.delete("/groups/g", user=user)).status_code == 404
        (row,) = await api.get("/groups", user=watcher)
        assert (row["name"], row["vhost"], row["lag"]) == ("g", "log", 3)
        assert (await api.delete("/groups/g", user=watcher)).status_code == 401


# ---- lag ----


@pytest.fixture
def lags(api):
    return lag.Lags(api.node)


async def of(lags, api, group="g"):
    return (await lags.of([api.node.groups.find(group)]))[group]


@pytest.mark.parametrize(
    ("committed", "start", "expected"),
    [(0, 0, 10), (9, 0, 1), (10, 0, 0), (11, 0, 0), (2, 5, 5), (2, 10, 0), (-1, 0, None)],
)
async def test_the_lag_is_what_can_still_be_read(api, topic, lags, committed, start, expected):
    one = topic.partitions[0]
    await fill(api.node, one, [b"x"] * 10)
    await api.node.settled(one.move_start(start))
    await commit(api.node, "g", "t", 0, committed)
    assert [found.lag for found in await of(lags, api)] == ([expected] if expected is not None else [])


async def test_the_lag_in_time_is_the_age_of_what_was_not_read(api, topic, lags):
    one = topic.partitions[0]
    now_ms = api.node.clock.now_ms()
    await append(api.node, one, record(b"a", now_ms - 90_000), record(b"b", now_ms - 80_000))
    await append(api.node, one, record(b"c", now_ms - 30_000))
    ages = []
    for offset in (0, 1, 2, 3):
        await commit(api.node, "g", "t", 0, offset)
        (found,) = await of(lags, api)
        ages.append(found.lag_ms)
    # A batch is not opened for that: its newest record counts.
    for age, expected in zip(ages, (80_000, 80_000, 30_000, 0), strict=True):
        assert expected <= age <= expected + 10_000 * bool(expected)


async def test_what_has_no_time_or_one_that_has_not_come_yet(api, topic, lags):
    await append(api.node, topic.partitions[0], record(b"a", -1))
    await append(api.node, topic.partitions[1], record(b"a", api.node.clock.now_ms() + 3_600_000))
    await commit(api.node, "g", "t", 0, 0)
    await commit(api.node, "g", "t", 1, 0)
    assert [found.lag_ms for found in await of(lags, api)] == [None, 0]
    assert (await lags.behind(api.node.groups.all())) == {"g": lag.Behind(2, 1, 0, {"t": (0, 2)})}


async def test_times_are_remembered_up_to_a_limit(api, topic, lags, monkeypatch):
    monkeypatch.setattr(lag, "_TIMES_MAX", 2)
    await fill(api.node, topic.partitions[0], [b"x"] * 10, timestamp=5000)
    for offset in (1, 2, 3, 1):
        await commit(api.node, "g", "t", 0, offset)
        await of(lags, api)
        assert len(lags._times) <= 2
    log = topic.partitions[0].log.id
    assert lags._times == {(log, 3): 5003, (log, 1): 5001}


async def test_others_have_their_turn_while_lags_are_found_out(api, topic, lags, monkeypatch):
    monkeypatch.setattr(turns, "TURN_S", 0.0)
    for number in range(3):
        await commit(api.node, "g", "t", number, 0)

    async def other():
        api.node.topics.delete(topic)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        found = await of(lags, api)
    assert len(found) <= 1  # what came before the first break
    assert len(api.node.groups.find("g").committed) == 0
