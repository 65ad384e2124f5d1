"""Paths and methods to functions."""

from broker.management.http import Response
from broker.management.routes import SEGMENTS_MAX, Needs, Routes, allowed


async def nothing(call):
    return Response(204)


def made(*paths):
    routes = Routes()
    for path in paths:
        method, _, path = path.partition(" ")
        routes.add(method, path, Needs.NOTHING, nothing)
    return routes


def test_braces_take_any_segment():
    routes = made("GET /a/{b}/c/{d}")
    found, values = routes.find(("a", "x/y", "c", ""))
    assert found["GET"].names == ("b", "d")
    assert values == ["x/y", ""]


def test_a_literal_segment_goes_first():
    routes = made("GET /users/{user}", "POST /users/bulk-delete")
    assert list(routes.find(("users", "bulk-delete"))[0]) == ["POST"]
    assert routes.find(("users", "bulk"))[1] == ["bulk"]


def test_what_begins_as_a_literal_may_go_on_as_a_name():
    routes = made("GET /queues/detailed", "GET /queues/{vhost}/{queue}")
    assert routes.find(("queues", "detailed", "q"))[1] == ["detailed", "q"]


def test_no_path_no_route():
    routes = made("GET /a/{b}")
    for segments in ((), ("a",), ("a", "b", "c"), ("b", "b"), ("a",) * (SEGMENTS_MAX + 1)):
        assert routes.find(segments) == ({}, [])


def test_the_methods_of_a_path_are_told():
    routes = made("GET /a", "PUT /a", "POST /b")
    assert allowed(routes.find(("a",))[0]) == "HEAD, GET, PUT, OPTIONS"
    assert allowed(routes.find(("b",))[0]) == "POST, OPTIONS"
