"""What fetches may cost the broker: the size of an answer, what is read in vain, and what is remembered."""

from __future__ import annotations

import pytest

from broker.kafka import api
from broker.kafka.errors import ErrorCode
from broker.server.kafka import fetch
from broker_here import until
from kafka_here import kafka_here
from kafka_wire import batch, fetch_body, values_of

MANY = 400


def counts_of(answer):
    """How many records came of each partition."""
    return {
        one["partition_index"]: len(values_of(one["records"] or b""))
        for topic in answer["responses"]
        for one in topic["partitions"]
    }


async def test_only_the_first_batch_comes_whatever_its_size(wire):
    await wire.create("t", 3)
    for partition in (1, 2):
        await wire.produce("t", [b"v"], partition)
    wanted = {("t", partition): 0 for partition in range(3)}
    for max_bytes in (0, -5, 1):
        answer = await wire.call(api.FETCH, fetch_body(wanted, max_bytes=max_bytes), 12)
        assert counts_of(answer) == {0: 0, 1: 1, 2: 0}


@pytest.fixture
async def mock_kafka(tmp_path, mock_clock):
    async with kafka_here(tmp_path) as here:
        yield here


async def test_who_wants_much_does_not_look_at_each_batch_that_comes(mock_kafka, mock_clock, monkeypatch):
    looks = []

    def counting(asked, *, final, look=fetch._try):
        looks.append(final)
        return look(asked, final=final)

    monkeypatch.setattr(fetch, "_try", counting)
    reader, writer = await mock_kafka.dial(), await mock_kafka.dial()
    await writer.create("t")
    partition = mock_kafka.node.topics.find("/", "t").partitions[0]
    size = len(batch([b"v"]))
    await reader.send(api.FETCH, fetch_body({("t", 0): 0}, max_wait_ms=60_000, min_bytes=20 * size), 12)
    await until(lambda: partition.bells)
    for _ in range(19):
        await writer.produce("t", [b"v"])
    assert looks == [False, False]  # when it came, and when the first batch came
    mock_clock.jump(0.006)
    await until(lambda: partition.bells)
    assert looks == [False] * 3
    await writer.produce("t", [b"v"])
    assert counts_of(await reader.answer()) == {0: 20}
    assert looks == [False] * 4


async def test_what_comes_while_a_fetch_rests_is_found_behind_it(mock_kafka, mock_clock):
    reader, writer = await mock_kafka.dial(), await mock_kafka.dial()
    await writer.create("t")
    partition = mock_kafka.node.topics.find("/", "t").partitions[0]
    size = len(batch([b"v"]))
    await reader.send(api.FETCH, fetch_body({("t", 0): 0}, max_wait_ms=60_000, min_bytes=2 * size), 12)
    await until(lambda: partition.bells)
    for _ in range(2):
        await writer.produce("t", [b"v"])
        assert not partition.bells
    mock_clock.jump(0.006)
    assert counts_of(await reader.answer()) == {0: 2}


async def test_while_a_large_fetch_waits_it_is_counted_and_nothing_else_is_handled(wire, kafka):
    await wire.create("t", MANY)
    reader = await kafka.dial()
    room = kafka.server.request_room
    wanted = {("t", partition): 0 for partition in range(MANY)}
    await reader.send(api.FETCH, fetch_body(wanted, max_wait_ms=60_000), 12)
    await reader.send(api.CREATE_TOPICS, {"topics": []})
    await until(lambda: room.taken > 16 * MANY)
    await wire.call(api.METADATA, {"topics": None})
    assert sorted(len(one._replies) for one in kafka.server._connections) == [0, 1]
    await wire.produce("t", [b"v"], 7)
    assert counts_of(await reader.answer())[7] == 1
    assert (await reader.answer())["topics"] == []
    assert room.taken == 0


# ---- sessions ----


async def session(client, wanted, id=0, epoch=0, forgotten=()):
    gone = [{"topic": name, "partitions": numbers} for name, numbers in forgotten]
    body = fetch_body(wanted, session_id=id, session_epoch=epoch) | {"forgotten_topics_data": gone}
    return await client.call(api.FETCH, body, 12)


async def test_all_sessions_together_have_a_limit(wire, kafka, monkeypatch):
    monkeypatch.setattr(fetch, "SESSIONS_SIZE_MAX", 4000)
    await wire.create("t", MANY)
    first, second = await kafka.dial(), await kafka.dial()
    few = {("t", partition): 0 for partition in range(6)}
    id = (await session(first, few))["session_id"]
    assert id > 0
    assert kafka.server.sessions_size == 6 * 401
    answer = await session(second, few)
    assert (answer["session_id"], len(answer["responses"][0]["partitions"])) == (0, 6)
    assert kafka.server.sessions_size == 6 * 401
    await session(first, {("t", 7): 0, ("t", 5): 0}, id, 1, forgotten=[("t", [0, 1, 2, 3, 99])])
    assert kafka.server.sessions_size == 3 * 401
    assert (await session(second, few))["session_id"] > 0
    assert kafka.server.sessions_size == 9 * 401
    answer = await session(first, {("t", partition): 0 for partition in range(9)}, id, 2)
    assert answer["error_code"] == ErrorCode.FETCH_SESSION_ID_NOT_FOUND
    assert kafka.server.sessions_size == 6 * 401
    assert (await session(second, {}, 0, -1))["session_id"] == 0
    assert kafka.server.sessions_size == 0


async def test_a_session_is_not_counted_any_more_when_its_connection_is_gone(kafka):
    client = await kafka.dial()
    assert (await session(client, {("t", 0): 0}))["session_id"] > 0
    assert kafka.server.sessions_size > 0
    client.drop()
    await until(lambda: not kafka.server.sessions_size)
