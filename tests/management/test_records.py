"""The records of a partition over HTTP."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from api_here import api_here
from broker.kafka import records
from broker.kafka.compression import Codec
from broker.kafka.records import Record
from broker.management import records as browsing
from topic_records import append, append_octets, fill, record

PATH = "/topics/%2F/t/partitions/0/records"


@pytest.fixture
async def one(api):
    await api.put("/topics/%2F/t")
    return api.node.topics.topic("/", "t").partitions[0]


def offsets(rows):
    return [row["offset"] for row in rows]


async def test_text_is_shown_as_text_and_the_rest_as_base64(api, one):
    headers = [("trace", b"1"), ("trace", b"\xff"), ("none", None)]
    await append(
        api.node,
        one,
        Record(0, 5000, "ключ".encode(), b'{"a": 1}', headers),
        Record(0, 6000, b"\xfe\x00", None),
        Record(0, 7000, None, b""),
    )
    assert await api.get(f"{PATH}?offset=0") == [
        {
            "offset": 0,
            "timestamp": 5000,
            "key": "ключ",
            "key_encoding": "string",
            "value": '{"a": 1}',
            "value_encoding": "string",
            "headers": [
                {"key": "trace", "value": "1", "value_encoding": "string"},
                {"key": "trace", "value": "/w==", "value_encoding": "base64"},
                {"key": "none", "value": None, "value_encoding": "string"},
            ],
        },
        {
            "offset": 1,
            "timestamp": 6000,
            "key": "/gA=",
            "key_encoding": "base64",
            "value": None,
            "value_encoding": "string",
            "headers": [],
        },
        {
            "offset": 2,
            "timestamp": 7000,
            "key": None,
            "key_encoding": "string",
            "value": "",
            "value_encoding": "string",
            "headers": [],
        },
    ]


async def test_records_are_found_by_offset_time_or_the_end(api, one):
    await append(api.node, one, *(record(b"v", 1000 + number) for number in range(5)))
    await fill(api.node, one, [b"w"] * 5, timestamp=2000)
    assert offsets(await api.get(f"{PATH}?offset=3&count=4")) == [3, 4, 5, 6]
    assert offsets(await api.get(f"{PATH}?time=1003&count=2")) == [3, 4]
    assert offsets(await api.get(f"{PATH}?time=1500&count=1")) == [5]
    assert offsets(await api.get(f"{PATH}?time=0")) == list(range(10))
    assert await api.get(f"{PATH}?time=9999") == []
    assert offsets(await api.get(f"{PATH}?count=3")) == [7, 8, 9]
    assert offsets(await api.get(PATH)) == list(range(10))
    assert await api.get(f"{PATH}?offset=10") == []
    assert one.start_offset == 0
    assert api.node.groups.all() == []


@pytest.mark.parametrize("codec", list(Codec))
async def test_batches_are_opened_however_they_are_deflated(api, one, codec):
    await append(api.node, one, *(record(b"v%d" % n) for n in range(50)), compression_type=codec)
    rows = await api.get(f"{PATH}?offset=20&count=2")
    assert [(row["offset"], row["value"]) for row in rows] == [(20, "v20"), (21, "v21")]


async def test_records_come_from_files_too(api, one):
    await fill(api.node, one, [b"x" * 100_000] * 10)
    one.log.roll_due = True
    await fill(api.node, one, [b"y" * 10] * 10)
    api.node.flusher.checkpoint_soon()
    await api.node.settled()
    await fill(api.node, one, [b"z"] * 3)
    rows = await api.get(f"{PATH}?offset=0")
    assert offsets(rows) == list(range(23))
    assert [len(row["value"]) for row in rows] == [100_000] * 10 + [10] * 10 + [1] * 3


async def test_what_one_request_gets_is_limited(api, one, monkeypatch):
    await append(api.node, one, *(record(b"v") for _ in range(1500)))
    assert len(await api.get(f"{PATH}?offset=0")) == 100
    assert len(await api.get(f"{PATH}?offset=0&count=1000")) == 1000
    monkeypatch.setattr(browsing, "_SIZE_MAX", 250)
    await append(api.node, one, *(Record(0, 1, b"k" * 50, b"v" * 50, [("h" * 10, b"h" * 10)]) for _ in "abc"))
    assert offsets(await api.get(f"{PATH}?offset=1500")) == [1500, 1501, 1502]
    monkeypatch.setattr(browsing, "_SIZE_MAX", 240)
    assert offsets(await api.get(f"{PATH}?offset=1500")) == [1500, 1501]


@pytest.mark.parametrize("codec", [Codec.NONE, Codec.GZIP, Codec.ZSTD])
async def test_a_record_that_is_too_large_to_be_shown_is_said_and_passed_over(api, one, codec):
    large = records.build([record(b"a"), record(bytes(2_000_000)), record(b"b")], compression_type=codec)
    append_octets(one, large)
    await append(api.node, one, record(b"c" * 600_000), record(b"d" * 600_000), record(b"e"))
    too_large, *rows = await api.get(f"{PATH}?offset=1")
    assert too_large == {
        "offset": 1,
        "next_offset": 2,
        "error": "a record of 2000009 bytes, where at most 1048576 are shown",
    }
    assert offsets(rows) == [2, 3, 4]
    assert offsets(await api.get(f"{PATH}?offset=2")) == [2, 3, 4]
    assert offsets(await api.get(f"{PATH}?offset=5")) == [5]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("offset=1&time=1", "an offset or a time is expected, not both"),
        ("offset=-1", "offset: expected a whole number from 0 to 9223372036854775807, got '-1'"),
        ("offset=1e3", "offset: expected a whole number from 0 to 9223372036854775807, got '1e3'"),
        ("time=" + "9" * 30, "time: expected a whole number from 0 to 9223372036854775807, got '" + "9" * 30),
        ("count=0", "count: expected a whole number from 1 to 1000, got '0'"),
        ("count=1001", "count: expected a whole number from 1 to 1000, got '1001'"),
        ("offset=3", "'/'/t-0: offset 3 where 1 to 2 are"),
        ("offset=0", "'/'/t-0: offset 0 where 1 to 2 are"),
    ],
)
async def test_what_cannot_be_shown_is_refused(api, one, query, said):
    await fill(api.node, one, [b"a", b"b"])
    await api.delete(f"{PATH}?before=1")
    answer = await api.ask("GET", f"{PATH}?{query}")
    assert answer.status_code == 400
    assert answer.json()["reason"].startswith(said)


async def test_a_batch_that_nobody_can_open_is_said_and_passed_over(api, one, monkeypatch):
    await append(api.node, one, record(b"before"))
    garbage = records.build([record(b"abc"), record(b"def")], compression_type=Codec.GZIP)
    append_octets(one, records.sealed(records.read_header(garbage), b"not gzip"))
    await append(api.node, one, record(b"behind"))
    rows = await api.get(f"{PATH}?offset=0")
    assert (rows[0]["value"], rows[2]["value"]) == ("before", "behind")
    assert (rows[1]["offset"], rows[1]["next_offset"]) == (1, 3)
    assert rows[1]["error"].startswith("the records cannot be inflated: ")
    monkeypatch.setattr(browsing, "_INFLATED_MAX", 1000)
    await append(api.node, one, record(b"\0" * 5000), compression_type=Codec.GZIP)
    await append(api.node, one, record(b"x" * 5000))
    rows = await api.get(f"{PATH}?offset=4")
    assert (rows[0]["offset"], "more than 1000 bytes" in rows[0]["error"]) == (4, True)
    assert rows[1]["value"] == "x" * 5000


def _damage(path):
    octets = Path(path).read_bytes()
    assert b"second" in octets
    Path(path).write_bytes(octets.replace(b"second", b"Second"))


async def test_damage_on_the_disk_is_told_and_not_shown(api, one):
    await fill(api.node, one, [b"first", b"second", b"third"])
    for _ in "ab":  # so that nobody has kept what comes before in memory
        await fill(api.node, one, [b"x" * 300_000])
    api.node.flusher.checkpoint_soon()
    await api.node.settled()
    (segment,) = one.log.segments
    _damage(segment.path(".log"))
    rows = await api.get(f"{PATH}?offset=0&count=3")
    assert (rows[0]["value"], rows[2]["value"]) == ("first", "third")
    assert (rows[1]["offset"], rows[1]["next_offset"]) == (1, 2)
    assert rows[1]["error"].startswith("crc ")


def test_batches_whose_offsets_do_not_rise_end_the_walk():
    batch = records.build([record(b"a")], base_offset=5)
    assert [at for _, at in browsing._batches(batch * 3, 5)] == [0]
    assert [at for _, at in browsing._batches(batch, 6)] == []
    assert [at for _, at in browsing._batches(batch[:-1], 5)] == []


async def test_whoever_reads_needs_the_right_to(api, one):
    await append(api.node, one, record(b"secret"))
    user = api.add_user("half", "management", configure=".*", write=".*", read="^other")
    answer = await api.ask("GET", PATH, user=user)
    assert answer.status_code == 401
    assert answer.json()["explanation"] == "read access to topic 't' in vhost '/' refused for user 'half'"
    reader = api.add_user("reader", "management", configure="", write="", read="^t$")
    assert offsets(await api.get(PATH, user=reader)) == [0]
    answer = await api.delete(f"{PATH}?before=1", user=reader)
    assert (answer.status_code, one.start_offset) == (401, 0)


async def test_the_oldest_records_are_deleted(api, one):
    await fill(api.node, one, [b"a", b"b", b"c"])
    answer = await api.delete(f"{PATH}?before=2")
    assert (answer.status_code, answer.content) == (204, b"")
    assert offsets(await api.get(PATH)) == [2]
    assert (await api.delete(f"{PATH}?before=1")).status_code == 204
    assert one.start_offset == 2
    answer = await api.delete(f"{PATH}?before=4")
    assert (answer.status_code, answer.json()["reason"]) == (400, "'/'/t-0: offset 4 lies behind 3")
    assert (await api.delete(PATH)).json()["reason"] == "before: an offset is needed, or -1 for all records"
    assert (await api.delete(f"{PATH}?before=-2")).status_code == 400
    assert (await api.delete(f"{PATH}?before=-1")).status_code == 204
    assert await api.get(PATH) == []
    assert one.start_offset == 3


async def test_deleted_records_stay_deleted(tmp_path):
    async with api_here(tmp_path) as api:
        await api.put("/topics/%2F/t")
        await fill(api.node, api.node.topics.topic("/", "t").partitions[0], [b"a", b"b", b"c"])
        await api.delete(f"{PATH}?before=2")
    async with api_here(tmp_path) as api:
        assert offsets(await api.get(PATH)) == [2]


async def test_a_long_answer_is_one_array(api, one):
    await fill(api.node, one, [b"x" * 1000] * 300)
    answer = await api.ask("GET", f"{PATH}?offset=0&count=1000")
    assert answer.headers["transfer-encoding"] == "chunked"
    assert offsets(json.loads(answer.content)) == list(range(300))
