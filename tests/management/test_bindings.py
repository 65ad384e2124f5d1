"""Bindings over HTTP."""

from urllib.parse import quote, unquote

import pytest

from api_here import api_here

NOT_THERE = {"error": "Object Not Found", "reason": "Not Found"}


@pytest.fixture
async def bound(api):
    """An exchange `x` and a queue `q`, of which nothing is bound yet."""
    await api.put("/exchanges/%2F/x", {"type": "topic"})
    await api.put("/queues/%2F/q")
    return api


async def test_a_binding_is_made_found_and_deleted(bound):
    answer = await bound.post("/bindings/%2F/e/x/q/q", {"routing_key": "a.b"})
    assert (answer.status_code, answer.content, answer.headers["location"]) == (201, b"", "q/a.b")
    row = {
        "source": "x",
        "vhost": "/",
        "destination": "q",
        "destination_type": "queue",
        "routing_key": "a.b",
        "arguments": {},
        "properties_key": "a.b",
    }
    assert await bound.get("/bindings/%2F/e/x/q/q") == [row]
    assert await bound.get("/bindings/%2F/e/x/q/q/a.b") == row
    assert await bound.get("/exchanges/%2F/x/bindings/source") == [row]
    assert (await bound.get("/queues/%2F/q/bindings"))[1] == row
    assert (await bound.post("/bindings/%2F/e/x/q/q", {"routing_key": "a.b"})).status_code == 201
    answer = await bound.delete("/bindings/%2F/e/x/q/q/a.b")
    assert (answer.status_code, answer.content) == (204, b"")
    assert (await bound.delete("/bindings/%2F/e/x/q/q/a.b")).json() == NOT_THERE
    assert await bound.get("/bindings/%2F/e/x/q/q") == []


@pytest.mark.parametrize(
    ("body", "key"),
    [
        ({}, "~"),
        ({"routing_key": ""}, "~"),
        ({"routing_key": "a.#"}, "a.%23"),
        ({"routing_key": "~ x/%ü"}, "%7E+x%2F%25%C3%BC"),
        ({"routing_key": "~"}, "%7E"),
        ({"routing_key": "k", "arguments": {"a": 1}}, None),
        ({"arguments": {"a": 1, "b": {"c": [True]}}}, None),
    ],
)
async def test_the_location_leads_to_the_binding(bound, body, key):
    location = (await bound.post("/bindings/%2F/e/x/q/q", body)).headers["location"]
    destination, _, last = location.partition("/")
    assert destination == "q"
    row = await bound.get(f"/bindings/%2F/e/x/q/q/{last}")
    assert row["routing_key"] == body.get("routing_key", "")
    assert row["arguments"] == body.get("arguments", {})
    assert row["properties_key"] == unquote(last)
    if key is not None:
        assert row["properties_key"] == key
    assert (await bound.delete(f"/bindings/%2F/e/x/q/q/{last}")).status_code == 204
    assert await bound.get("/bindings/%2F/e/x/q/q") == []


async def test_keys_are_the_same_after_the_next_start_and_tell_bindings_apart(tmp_path):
    bodies = [
        {"routing_key": "k", "arguments": arguments}
        for arguments in ({}, {"a": 1}, {"a": 2}, {"a": 1, "b": 2}, {"b": 2, "a": 1})
    ]
    async with api_here(tmp_path) as api:
        await api.put("/queues/%2F/q", {"durable": True})
        for body in bodies:
            await api.post("/bindings/%2F/e/amq.topic/q/q", body)
        before = await api.get("/bindings/%2F/e/amq.topic/q/q?sort=properties_key")
        assert len({row["properties_key"] for row in before}) == 4
    async with api_here(tmp_path) as api:
        assert await api.get("/bindings/%2F/e/amq.topic/q/q?sort=properties_key") == before


async def test_a_key_may_stand_in_the_path_as_it_is(bound):
    await bound.post("/bindings/%2F/e/x/q/q", {"routing_key": "a/b c"})
    assert (await bound.get(f"/bindings/%2F/e/x/q/q/{quote('a/b c', safe='')}"))["routing_key"] == "a/b c"
    assert (await bound.get("/bindings/%2F/e/x/q/q/a%2Fb+c"))["routing_key"] == "a/b c"


async def test_exchanges_are_bound_to_exchanges(bound):
    answer = await bound.post("/bindings/%2F/e/amq.topic/e/x", {"routing_key": "#"})
    assert answer.headers["location"] == "x/%2523"
    (row,) = await bound.get("/exchanges/%2F/x/bindings/destination")
    assert (row["source"], row["destination_type"], row["routing_key"]) == ("amq.topic", "exchange", "#")
    assert await bound.get("/bindings/%2F/e/amq.topic/e/x") == [row]
    assert (await bound.delete("/bindings/%2F/e/amq.topic/e/x/%2523")).status_code == 204


async def test_every_queue_is_bound_to_the_default_exchange(bound):
    row = {
        "source": "",
        "vhost": "/",
        "destination": "q",
        "destination_type": "queue",
        "routing_key": "q",
        "arguments": {},
        "properties_key": "q",
    }
    assert await bound.get("/queues/%2F/q/bindings") == [row]
    assert await bound.get("/bindings") == [row]
    assert await bound.get("/bindings/%2F/e/amq.default/q/q") == [row]
    assert await bound.get("/bindings/%2F/e/amq.default/q/q/q") == row
    assert await bound.get("/exchanges/%2F/amq.default/bindings/source") == [row]
    for answer in [
        await bound.post("/bindings/%2F/e/amq.default/q/q", {}),
        await bound.delete("/bindings/%2F/e/amq.default/q/q/q"),
    ]:
        assert answer.status_code == 401
        assert answer.json()["explanation"] == "operation not permitted on the default exchange"


async def test_what_is_not_there_cannot_be_bound(bound):
    for path, reason in [
        ("/bindings/%2F/e/none/q/q", "no exchange 'none' in vhost '/'"),
        ("/bindings/%2F/e/x/q/none", "no queue 'none' in vhost '/'"),
        ("/bindings/%2F/e/x/e/none", "no exchange 'none' in vhost '/'"),
        ("/bindings/none/e/x/q/q", "vhost_not_found"),
    ]:
        answer = await bound.post(path, {})
        assert (answer.status_code, answer.json()) == (404, {"error": "not_found", "reason": reason})
    assert (await bound.post("/bindings/%2F/e/x/z/q", {})).status_code == 404
    assert await bound.get("/bindings/%2F/e/none/q/q") == []
    for path in ("/queues/%2F/none/bindings", "/exchanges/%2F/none/bindings/source", "/bindings/none"):
        assert (await bound.ask("GET", path)).json() == NOT_THERE


async def test_arguments_are_those_of_the_type(bound):
    answer = await bound.post("/bindings/%2F/e/amq.headers/q/q", {"arguments": {"x-match": "most"}})
    assert answer.status_code == 400
    assert "x-match" in answer.json()["reason"]


async def test_rights_are_those_of_amqp(bound):
    user = bound.add_user("half", "management", configure="", write="^q$", read="^x$")
    assert (await bound.post("/bindings/%2F/e/x/q/q", {}, user=user)).status_code == 201
    assert (await bound.delete("/bindings/%2F/e/x/q/q/~", user=user)).status_code == 204
    answer = await bound.post("/bindings/%2F/e/amq.topic/q/q", {}, user=user)
    assert "read access to exchange 'amq.topic'" in answer.json()["explanation"]
    answer = await bound.post("/bindings/%2F/e/x/e/x", {}, user=user)
    assert "write access to exchange 'x'" in answer.json()["explanation"]
    await bound.post("/bindings/%2F/e/amq.topic/q/q", {})
    assert (await bound.delete("/bindings/%2F/e/amq.topic/q/q/~", user=user)).status_code == 401


async def test_a_list_has_all_of_them_in_order(bound):
    await bound.put("/vhosts/second")
    await bound.put("/queues/second/q")
    await bound.post("/bindings/%2F/e/x/q/q", {"routing_key": "b"})
    await bound.post("/bindings/%2F/e/amq.direct/e/x", {"routing_key": "a"})
    columns = "?columns=vhost,source,destination"
    assert await bound.get(f"/bindings{columns}") == [
        {"vhost": "/", "source": "", "destination": "q"},
        {"vhost": "/", "source": "amq.direct", "destination": "x"},
        {"vhost": "/", "source": "x", "destination": "q"},
        {"vhost": "second", "source": "", "destination": "q"},
    ]
    assert await bound.get("/bindings/second?columns=source") == [{"source": ""}]


async def test_a_stream_is_bound_as_a_queue_is(api):
    await api.put("/topics/%2F/s")
    (default,) = await api.get("/queues/%2F/s/bindings")
    assert (default["source"], default["destination_type"], default["routing_key"]) == ("", "queue", "s")
    answer = await api.post("/bindings/%2F/e/amq.topic/q/s", {"routing_key": "a.#"})
    assert (answer.status_code, answer.headers["location"]) == (201, "s/a.%2523")
    rows = await api.get("/queues/%2F/s/bindings")
    assert rows == await api.get("/bindings") == await api.get("/bindings/%2F")
    assert rows[0] == default
    bound = rows[1]
    assert (bound["source"], bound["destination"], bound["destination_type"]) == ("amq.topic", "s", "queue")
    assert await api.get("/exchanges/%2F/amq.topic/bindings/source") == [bound]
    assert await api.get("/exchanges/%2F/amq.default/bindings/source") == [default]
    assert await api.get("/bindings/%2F/e/amq.topic/q/s") == [bound]
    path = "/bindings/%2F/e/amq.topic/q/s/a.%2523"
    assert await api.get(path) == bound
    assert (await api.delete(path)).status_code == 204
    assert await api.get("/queues/%2F/s/bindings") == [default]
    assert (await api.ask("GET", "/queues/%2F/none/bindings")).status_code == 404
    assert (await api.post("/bindings/%2F/e/amq.topic/q/none", {})).status_code == 404
