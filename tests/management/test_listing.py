"""Lists: order, pages, names and columns, against the plain way to make them."""

from __future__ import annotations

import json
import random

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from broker.management import turns
from broker.management.http import Refused
from broker.management.listing import columns_of, listed, only, rows_answer

ROWS = [
    {"vhost": "/", "name": "b", "messages": 3, "stats": {"publish": 1, "details": {"rate": 0.5}}},
    {"vhost": "/", "name": "A", "messages": 1},
    {"vhost": "a", "name": "c", "messages": 2, "stats": {"publish": 7}},
]


def key_of(row):
    return row["vhost"], row["name"]


async def ask(rows=ROWS, **query):
    response = await listed(query, rows, dict, key_of)
    body = response.body if isinstance(response.body, bytes) else b"".join(response.body)
    return json.loads(body)


def names(rows):
    return [row["name"] for row in rows]


async def test_a_list_is_ordered_by_virtual_host_and_name():
    assert names(await ask()) == ["A", "b", "c"]
    assert names(await ask(sort="")) == ["A", "b", "c"]
    assert names(await ask(sort="name", sort_reverse="true")) == ["c", "b", "A"]


async def test_a_list_can_be_ordered_by_what_it_shows():
    assert names(await ask(sort="messages")) == ["A", "c", "b"]
    assert names(await ask(sort="messages", sort_reverse="true")) == ["b", "c", "A"]
    assert names(await ask(sort="stats.publish", sort_reverse="true")) == ["c", "b", "A"]
    assert names(await ask(sort="stats.details.rate")) == ["A", "c", "b"]
    assert names(await ask(sort="stats")) == ["A", "b", "c"]
    assert names(await ask(sort="nobody.has.it")) == ["A", "b", "c"]


async def test_values_of_all_kinds_can_be_ordered():
    values = [None, 3, "x", True, {"a": 1}, [1], 0.5, "", {"a": 0}]
    rows = [{"vhost": "/", "name": str(number), "v": value} for number, value in enumerate(values)]
    found = [row["v"] for row in await ask(rows, sort="v")]
    assert found == [None, 0.5, True, 3, "", "x", [1], {"a": 0}, {"a": 1}]


async def test_a_page_tells_how_much_there_is():
    found = await ask(page="1", page_size="2", columns="name")
    assert found == {
        "total_count": 3,
        "filtered_count": 3,
        "item_count": 2,
        "page": 1,
        "page_size": 2,
        "page_count": 2,
        "items": [{"name": "A"}, {"name": "b"}],
    }
    assert names((await ask(page="2", page_size="2"))["items"]) == ["c"]
    assert (await ask(page="1"))["page_size"] == 100


async def test_names_are_filtered_in_pages_only():
    assert names((await ask(page="1", name="B"))["items"]) == ["b"]
    assert names((await ask(page="1", name="^[ab]$", use_regex="true"))["items"]) == ["A", "b"]
    assert names((await ask(page="1", name="^[ab]$"))["items"]) == []
    assert names(await ask(name="b")) == ["A", "b", "c"]
    empty = await ask(page="1", name="nothing")
    assert (empty["filtered_count"], empty["total_count"], empty["page_count"]) == (0, 3, 0)


@pytest.mark.parametrize(
    ("query", "error", "reason"),
    [
        ({"page": "x"}, "bad_request", "Pagination parameters are invalid"),
        ({"page": ""}, "bad_request", "Pagination parameters are invalid"),
        ({"page": "1", "page_size": "x"}, "bad_request", "Pagination parameters are invalid"),
        (
            {"page": "1", "name": "(", "use_regex": "true"},
            "bad_request",
            "Pagination parameters are invalid: name: there is a ( without a )",
        ),
        (
            {"page": "0"},
            "invalid_pagination_parameters",
            "Invalid pagination parameters: page number 0, page size 100",
        ),
        (
            {"page": "1", "page_size": "501"},
            "invalid_pagination_parameters",
            "Invalid pagination parameters: page number 1, page size 501",
        ),
        (
            {"page": "3", "page_size": "2"},
            "page_out_of_range",
            "Page out of range, page: 3 page size: 2, len: 3",
        ),
    ],
)
async def test_a_page_that_cannot_be_is_refused(query, error, reason):
    with pytest.raises(Refused) as refused:
        await ask(**query)
    response = refused.value.response
    assert response.status == 400
    assert json.loads(response.body) == {"error": error, "reason": reason}


async def test_a_pattern_that_takes_too_long_for_all_names_is_refused():
    choose = random.Random(1)
    rows = [{"vhost": "/", "name": "".join(choose.choices("ab", k=250))} for _ in range(100)]
    with pytest.raises(Refused) as refused:
        await ask(rows, page="1", name="a.{300}b", use_regex="true")
    assert refused.value.response.status == 400
    assert json.loads(refused.value.response.body)["reason"] == (
        "Pagination parameters are invalid: name: it takes too long to look for in these names"
    )
    assert len((await ask(rows, page="1", name="a.{10}b", use_regex="true"))["items"]) == 100


def test_columns_reach_into_what_is_nested():
    row = {"a": 1, "b": {"c": 2, "d": {"e": 3, "f": 4}}, "g": [1]}
    assert only(row, columns_of({"columns": "a"})) == {"a": 1}
    assert only(row, columns_of({"columns": "b.c,g"})) == {"b": {"c": 2}, "g": [1]}
    assert only(row, columns_of({"columns": "b.d.f,b.c"})) == {"b": {"c": 2, "d": {"f": 4}}}
    assert only(row, columns_of({"columns": "b,b.c"})) == {"b": row["b"]}
    assert only(row, columns_of({"columns": "a.x,z"})) == {"a": 1}
    assert columns_of({"columns": ",,"}) == []


@pytest.mark.parametrize("count", [0, 1, 5, 2000])
def test_a_list_is_the_same_in_one_piece_and_in_many(count):
    rows = [{"name": str(number), "filler": "x" * 40} for number in range(count)]
    body = rows_answer(rows).body
    assert isinstance(body, bytes) == (count < 100)
    whole = body if isinstance(body, bytes) else b"".join(body)
    assert json.loads(whole) == rows


def test_the_rows_of_a_long_list_are_made_as_they_are_sent():
    made = 0

    def rows():
        nonlocal made
        for number in range(10_000):
            made = number
            yield {"filler": "x" * 100}

    body = rows_answer(rows()).body
    assert made < 1000
    next(body)
    assert made < 1000


@given(st.lists(st.tuples(st.sampled_from("ab"), st.text(max_size=3), st.integers(0, 5)), max_size=1300))
def test_long_lists_are_sorted_in_parts_as_short_ones_are(entries):
    rows = [{"vhost": vhost, "name": name, "v": v} for vhost, name, v in entries]

    async def run():
        by_name = await ask(rows)
        assert [key_of(row) for row in by_name] == sorted(map(key_of, rows))
        by_value = await ask(rows, sort="v", sort_reverse="true")
        assert by_value == sorted(by_name, key=lambda row: row["v"], reverse=True)

    trio.run(run, clock=MockClock())


async def test_others_run_while_a_long_list_is_made(monkeypatch):
    monkeypatch.setattr(turns, "TURN_S", 0.0)
    rows = [{"vhost": "/", "name": str(number), "v": -number} for number in range(3000)]
    others = 0

    async def count():
        nonlocal others
        while True:
            others += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        await ask(rows, sort="v", page="1", name="1")
        nursery.cancel_scope.cancel()
    assert others > 1000
