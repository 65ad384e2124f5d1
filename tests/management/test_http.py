"""The HTTP server: what it answers, what it refuses, how long it waits, and how it stops."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from broker.management import turns
from broker.management.http import HttpServer, Refused, Request, Response, as_json, refusal
from broker.management.options import HttpLimits
from http_client import WAIT_S, HttpClient

GET = b"GET /a HTTP/1.1\r\nhost: x\r\n\r\n"
LIMITS = HttpLimits()


async def echo(request: Request) -> Response:
    return as_json(
        {
            "method": request.method,
            "segments": request.segments,
            "query": dict(request.query),
            "body": request.body.decode(),
            "peer": request.peer,
        }
    )


@asynccontextmanager
async def served(handle=echo, limits=LIMITS, *, slow=False):
    """A server and one client that is connected to it; a `slow` one must read before more is sent."""
    pair = trio.testing.lockstep_stream_pair if slow else trio.testing.memory_stream_pair
    mine, theirs = pair()
    server = HttpServer(handle, limits)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_serve, server, theirs)
        yield HttpClient(mine), server
        nursery.cancel_scope.cancel()


async def _serve(server, stream):
    async with stream:
        await server.serve_stream(stream, "127.0.0.1")


async def test_a_connection_serves_one_request_after_another():
    async with served() as (client, server):
        for number in range(3):
            await client.send(b"GET /a/%d?x=y HTTP/1.1\r\nhost: x\r\n\r\n" % number)
            answer = await client.answer()
            assert answer.status == 200
            assert answer.json()["segments"] == ["a", str(number)]
            assert answer.json()["query"] == {"x": "y"}
            assert answer.json()["peer"] == "127.0.0.1"
        assert server.connection_count == 1


async def test_pipelined_requests_are_answered_in_order():
    async with served() as (client, _):
        posts = b"".join(
            b"POST /%d HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nb%d" % (number, number)
            for number in range(5)
        )
        await client.send(posts)
        for number in range(5):
            answer = (await client.answer("POST")).json()
            assert (answer["segments"], answer["body"]) == ([str(number)], f"b{number}")


async def test_a_request_may_come_octet_by_octet():
    async with served() as (client, _):
        for octet in b"PUT /a HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc":
            await client.send(bytes([octet]))
        assert (await client.answer("PUT")).json()["body"] == "abc"


async def test_a_chunked_body_is_put_together():
    async with served() as (client, _):
        head = b"PUT /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
        await client.send(head + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
        assert (await client.answer("PUT")).json()["body"] == "abcde"


async def test_a_body_in_thousands_of_chunks_lets_others_run(monkeypatch):
    monkeypatch.setattr(turns, "TURN_S", 0.0)
    async with served() as (client, _):
        others = 0

        async def count():
            nonlocal others
            while True:
                others += 1
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(count)
            head = b"PUT /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
            await client.send(head + b"1\r\na\r\n" * 1000 + b"0\r\n\r\n")
            assert (await client.answer("PUT")).json()["body"] == "a" * 1000
            nursery.cancel_scope.cancel()
        assert others > 1000


async def test_thousands_of_tiny_chunks_are_refused():
    head = b"PUT /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    async with served() as (client, _):
        await client.send(head + b"3f\r\n" + b"x" * 63 + b"\r\n")
        await client.send((b"3f\r\n" + b"x" * 63 + b"\r\n") * 1000)
        answer = await client.answer("PUT")
        assert (answer.status, answer.headers["connection"]) == (400, "close")
        assert answer.json()["reason"] == (
            "the body comes in chunks of 63 bytes on average; after the first 1000 at least 64 are expected"
        )
    async with served() as (client, _):
        await client.send(head + (b"40\r\n" + b"x" * 64 + b"\r\n") * 1010 + b"0\r\n\r\n")
        assert (await client.answer("PUT")).status == 200


async def test_a_client_that_sends_byte_by_byte_is_read_ever_less_often(autojump_clock):
    reads = 0

    async def count():
        nonlocal reads
        reads += 1

    mine, theirs = trio.testing.memory_stream_pair()
    theirs.receive_stream.receive_some_hook = count
    server = HttpServer(echo, LIMITS)
    client = HttpClient(mine)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_serve, server, theirs)
        await client.send(b"PUT /a HTTP/1.1\r\nhost: x\r\ncontent-length: 4000\r\n\r\n")
        for _ in range(4000):  # in 4 s
            await trio.sleep(0.001)
            await client.send(b"a")
        assert (await client.answer("PUT")).json()["body"] == "a" * 4000
        nursery.cancel_scope.cancel()
    assert reads < 100


async def test_who_asks_whether_to_go_on_is_told_to():
    async with served() as (client, _):
        await client.send(b"PUT /a HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_send_when_told, client)
            answer = await client.answer("PUT")
        assert client.continues == 1
        assert answer.json()["body"] == "ok"


async def _send_when_told(client):
    while not client.continues:
        await trio.lowlevel.checkpoint()
    await client.send(b"ok")


async def test_head_tells_the_length_and_sends_nothing():
    async with served() as (client, _):
        await client.send(GET)
        whole = await client.answer()
        await client.send(GET.replace(b"GET", b"HEAD"))
        head = await client.answer("HEAD")
        assert head.status == 200
        assert head.body == b""
        # The word HEAD in the answer is longer by one.
        assert int(head.headers["content-length"]) == int(whole.headers["content-length"]) + 1
        await client.send(GET)
        assert (await client.answer()).body == whole.body


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /a HTTP/1.0\r\n\r\n",
        b"GET /a HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    ],
)
async def test_who_wants_no_more_is_let_go(request_):
    async with served() as (client, server):
        await client.send(request_)
        assert (await client.answer()).status == 200
        await client.stream.send_eof()
        assert await client.ended() == b""
        await trio.testing.wait_all_tasks_blocked()
        assert server.connection_count == 0


@pytest.mark.parametrize(
    ("target", "segments"),
    [
        (b"/", []),
        (b"/api/queues/%2F/orders", ["api", "queues", "/", "orders"]),
        (b"/api/queues/%2f/a%20b+c", ["api", "queues", "/", "a b+c"]),
        (b"/api/queues/", ["api", "queues"]),
        (b"/%C3%BC/%25", ["ü", "%"]),
        (b"http://proxied:80/a/b?c", ["a", "b"]),
        (b"*", []),
    ],
)
async def test_paths_are_decoded_once(target, segments):
    async with served() as (client, _):
        await client.send(b"GET " + target + b" HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await client.answer()).json()["segments"] == segments


async def test_a_path_that_is_no_text_is_refused():
    async with served() as (client, _):
        await client.send(b"GET /%ff HTTP/1.1\r\nhost: x\r\n\r\n")
        answer = await client.answer()
        assert answer.status == 400
        assert answer.json()["error"] == "bad_request"


async def test_too_many_fields_in_a_query_are_refused():
    async with served() as (client, _):
        query = b"&".join([b"a=b"] * 101)
        await client.send(b"GET /?" + query + b" HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await client.answer()).status == 400


@pytest.mark.parametrize(
    ("octets", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),  # somebody tries TLS
        (b"AMQP\0\0\x09\x01\r\n\r\n", 400),
        (b"GET /a HTTP/1.1\r\n\r\n", 400),  # without a host
        (b"GET /a HTTP/1.1\r\nhost: x\r\nbad header\r\n\r\n", 400),
        (b"GET /a HTTP/1.1\r\nhost: x\r\ncontent-length: x\r\n\r\n", 400),
        (b"GET /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: zip\r\n\r\n", 501),
        (b"GET /a HTTP/1.1\r\nhost: x\r\na: " + b"b" * 40_000 + b"\r\n\r\n", 431),
        (b"GET /" + b"a" * 40_000, 431),
        (b"PUT /a HTTP/1.1\r\nhost: x\r\ncontent-length: 20000001\r\n\r\n", 413),
    ],
)
async def test_what_breaks_the_rules_is_answered_and_the_connection_closed(octets, status):
    async with served() as (client, server):
        await client.send(octets)
        answer = await client.answer()
        assert answer.status == status
        assert set(answer.json()) == {"error", "reason"}
        assert answer.headers["connection"] == "close"
        await client.stream.send_eof()
        await client.ended()
        await trio.testing.wait_all_tasks_blocked()
        assert server.connection_count == 0


async def test_a_body_that_does_not_end_is_refused():
    limits = replace(LIMITS, body_size_max=1000)
    async with served(limits=limits) as (client, _):
        await client.send(b"PUT /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(11):
            await client.send(b"64\r\n" + b"x" * 100 + b"\r\n")
        assert (await client.answer("PUT")).status == 413


async def test_the_body_limit_itself_is_allowed():
    limits = replace(LIMITS, body_size_max=1000)
    async with served(limits=limits) as (client, _):
        await client.send(b"PUT /a HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n" + b"x" * 1000)
        assert (await client.answer("PUT")).status == 200


# ---- large bodies ----

LARGE = 64 * 1024 + 1


@asynccontextmanager
async def guarded(limits=LIMITS, *, open_to_all=True, size_max=20_000_000):
    """A server that asks who sends it a large body, and how often it asked."""
    asked = []

    async def admit(request):
        asked.append(request.path)
        if not open_to_all:
            raise Refused(refusal(401, "not you"))
        return size_max

    mine, theirs = trio.testing.memory_stream_pair()
    server = HttpServer(echo, limits, admit)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_serve, server, theirs)
        yield HttpClient(mine), server, asked
        nursery.cancel_scope.cancel()


def head(size, *headers):
    lines = [b"PUT /a HTTP/1.1", b"host: x", b"content-length: %d" % size, *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n"


async def test_whoever_sends_much_is_looked_at_first():
    async with guarded() as (client, _, asked):
        await client.send(head(LARGE - 1) + b"x" * (LARGE - 1))
        assert (await client.answer("PUT")).status == 200
        assert asked == []
        await client.send(head(LARGE) + b"x" * LARGE)
        assert len((await client.answer("PUT")).json()["body"]) == LARGE
        assert asked == ["/a"]


async def test_a_stranger_with_much_is_not_listened_to():
    async with guarded(open_to_all=False) as (client, _, _):
        await client.send(head(LARGE, b"expect: 100-continue"))
        answer = await client.answer("PUT")
        assert (answer.status, answer.headers["connection"], client.continues) == (401, "close", 0)
    async with guarded(open_to_all=False) as (client, _, _):
        await client.send(b"PUT /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        await client.send(b"10001\r\n" + b"x" * LARGE)
        assert (await client.answer("PUT")).status == 401


async def test_where_no_bodies_are_wanted_large_ones_are_refused():
    async with served() as (client, _):
        await client.send(head(LARGE))
        assert (await client.answer("PUT")).status == 413


async def test_a_body_of_few_bytes_and_many_values_is_large():
    async with guarded() as (client, _, asked):
        few, many = b"[" + b"1," * 300 + b"1]", b"[" + b"1," * 600 + b"1]"
        await client.send(head(len(few)) + few)
        assert (await client.answer("PUT")).status == 200
        assert asked == []
        await client.send(head(len(many)) + many)
        assert (await client.answer("PUT")).status == 200
        assert asked == ["/a"]


async def test_a_body_with_too_many_values_is_refused_before_it_has_come():
    limits = replace(LIMITS, body_values_max=1000)
    async with guarded(limits) as (client, _, _):
        await client.send(head(1_000_000) + b"[" + b"[]," * 1000)
        answer = await client.answer("PUT")
        assert answer.status == 413
        assert answer.json()["reason"] == "the body has more than the 1000 values allowed"


async def test_a_large_body_has_the_limit_of_its_path():
    async with guarded(size_max=100_000) as (client, _, _):
        await client.send(head(100_000) + b"x" * 100_000)
        assert (await client.answer("PUT")).status == 200
        await client.send(head(100_001))
        answer = await client.answer("PUT")
        assert answer.status == 413
        assert answer.json()["reason"] == "the body has more than the 100000 bytes allowed"


async def test_all_large_bodies_together_have_a_limit():
    limits = replace(LIMITS, body_size_max=LARGE, bodies_memory_max=2 * LARGE)
    async with guarded(limits) as (client, server, _):
        mine, theirs = trio.testing.memory_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_serve, server, theirs)
            other = HttpClient(mine)
            await client.send(head(LARGE))
            await trio.testing.wait_all_tasks_blocked()
            await other.send(head(LARGE))
            answer = await other.answer("PUT")
            assert (answer.status, answer.json()["reason"]) == (503, "too many large requests are being read")
            await client.send(b"x" * LARGE)
            assert (await client.answer("PUT")).status == 200
            await client.send(head(LARGE) + b"x" * LARGE)
            assert (await client.answer("PUT")).status == 200
            nursery.cancel_scope.cancel()


# ---- waiting ----


async def test_a_silent_connection_is_closed(autojump_clock):
    async with served() as (client, server):
        started = trio.current_time()
        assert await client.ended() == b""
        assert trio.current_time() - started == pytest.approx(LIMITS.first_timeout_s)
        assert server.connection_count == 0


async def test_a_connection_is_kept_longer_after_a_request(autojump_clock):
    async with served() as (client, server):
        await trio.sleep(LIMITS.first_timeout_s - 1)
        await client.send(GET)
        await client.answer()
        started = trio.current_time()
        assert await client.ended() == b""
        assert trio.current_time() - started == pytest.approx(LIMITS.idle_timeout_s)
        assert server.connection_count == 0


@pytest.mark.parametrize(
    ("octets", "limit_s"),
    [
        (b"GET /a HTTP/1.1\r\nhost:", LIMITS.header_timeout_s),
        (b"AMQP\0\0\x09\x01", LIMITS.header_timeout_s),
        (b"PUT /a HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nab", LIMITS.body_timeout_s),
    ],
)
async def test_a_slow_request_is_refused(octets, limit_s, autojump_clock):
    async with served() as (client, _):
        started = trio.current_time()
        await client.send(octets)
        answer = await client.answer()
        assert answer.status == 408
        assert trio.current_time() - started == pytest.approx(limit_s)


async def test_a_trickle_does_not_move_the_deadline(autojump_clock):
    async with served() as (client, _):
        started = trio.current_time()
        await client.send(b"GET /a HTTP/1.1\r\n")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_trickle, client)
            assert (await client.answer()).status == 408
            nursery.cancel_scope.cancel()
        assert trio.current_time() - started == pytest.approx(LIMITS.header_timeout_s)


async def _trickle(client):
    while True:
        await trio.sleep(1)
        await client.send(b"a: b\r\n")


async def large(request: Request) -> Response:
    return Response(200, [], b"x" * 1_000_000)


async def endless(request: Request) -> Response:
    def pieces():
        while True:
            yield b"x" * 1000

    return Response(200, [], pieces())


@pytest.mark.parametrize("handle", [large, endless])
async def test_a_client_that_does_not_read_is_dropped(handle, autojump_clock):
    async with served(handle, slow=True) as (client, server):
        started = trio.current_time()
        await client.send(GET)
        await trio.sleep(LIMITS.send_timeout_s + 1)
        assert server.connection_count == 0
        assert trio.current_time() - started < 2 * LIMITS.send_timeout_s


async def test_a_long_answer_is_made_while_it_is_read():
    made = 0

    async def handle(request: Request) -> Response:
        def pieces():
            nonlocal made
            for number in range(1000):
                made = number
                yield b"%03d" % number

        return Response(200, [], pieces())

    async with served(handle, slow=True) as (client, _):
        await client.send(GET)
        await trio.testing.wait_all_tasks_blocked()
        assert made < 5
        answer = await client.answer()
        assert answer.headers["transfer-encoding"] == "chunked"
        assert answer.body == b"".join(b"%03d" % number for number in range(1000))


async def test_an_old_client_gets_a_long_answer_up_to_the_end_of_the_connection():
    async def handle(request: Request) -> Response:
        return Response(200, [], iter([b"one", b"two"]))

    async with served(handle) as (client, _):
        await client.send(b"GET /a HTTP/1.0\r\n\r\n")
        await client.stream.send_eof()
        assert (await client.ended()).endswith(b"\r\n\r\nonetwo")


# ---- errors of ours ----


async def test_an_error_of_ours_is_said_and_the_connection_goes_on(caplog):
    async def handle(request: Request) -> Response:
        if request.segments == ("wrong",):
            raise ZeroDivisionError
        return await echo(request)

    async with served(handle) as (client, _):
        await client.send(b"GET /wrong HTTP/1.1\r\nhost: x\r\n\r\n" + GET)
        answer = await client.answer()
        assert answer.status == 500
        assert "ZeroDivisionError" not in answer.body.decode()
        assert (await client.answer()).status == 200
    assert "ZeroDivisionError" in caplog.text


async def test_an_error_within_an_answer_ends_the_connection(caplog):
    async def handle(request: Request) -> Response:
        return Response(200, [], (b"%d" % (1 // number) for number in (1, 0)))

    async with served(handle) as (client, server):
        await client.send(GET)
        rest = await client.ended()
        assert rest.startswith(b"HTTP/1.1 200 ")
        assert not rest.endswith(b"0\r\n\r\n")
        assert server.connection_count == 0
    assert "ZeroDivisionError" in caplog.text


async def test_a_refusal_of_the_handler_is_the_answer():
    async def handle(request: Request) -> Response:
        raise Refused(refusal(405, "no"))

    async with served(handle) as (client, _):
        await client.send(GET + GET)
        for _ in range(2):
            answer = await client.answer()
            assert (answer.status, answer.json()) == (405, {"error": "method_not_allowed", "reason": "no"})


# ---- many, and the end ----


@asynccontextmanager
async def crowded(limit, handle=echo, **options):
    """A server with a limit of connections, and what connects one more client to it."""
    server = HttpServer(handle, replace(LIMITS, connections=limit), **options)
    async with trio.open_nursery() as nursery:

        async def connect():
            mine, theirs = trio.testing.memory_stream_pair()
            nursery.start_soon(_serve, server, theirs)
            await trio.testing.wait_all_tasks_blocked()
            return HttpClient(mine)

        yield server, connect
        nursery.cancel_scope.cancel()


async def asks(client):
    await client.send(GET)
    return (await client.answer()).status


@pytest.mark.parametrize(
    "sent", [b"", b"GET /a HTTP/1.1\r\nhost:", b"PUT /a HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nab"]
)
async def test_the_connection_that_waits_longest_makes_room(sent, caplog):
    async with crowded(2) as (server, connect):
        first, second = await connect(), await connect()
        await first.send(sent)
        await second.send(sent)
        third = await connect()
        assert await first.ended() == b""
        assert await asks(third) == 200
        fourth = await connect()
        assert await second.ended() == b""
        assert await asks(third) == await asks(fourth) == 200
        assert server.connection_count == 2
    said = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert said == ["http: 2 connections, the most allowed; silent ones make room"]


async def test_a_connection_without_a_request_makes_room_before_one_that_had_an_answer():
    async with crowded(2) as (_, connect):
        known = await connect()
        assert await asks(known) == 200
        stranger = await connect()
        third = await connect()
        assert await stranger.ended() == b""
        assert await asks(third) == 200
        fourth = await connect()  # now it is the one that waits longest
        assert await known.ended() == b""
        assert await asks(fourth) == 200


async def test_a_request_that_is_handled_makes_no_room():
    done = trio.Event()

    async def handle(request: Request) -> Response:
        await done.wait()
        return await echo(request)

    async with crowded(2, handle) as (server, connect):
        clients = [await connect(), await connect()]
        for client in clients:
            await client.send(GET)
        await trio.testing.wait_all_tasks_blocked()
        third = await connect()
        assert (await third.answer()).status == 503
        done.set()
        for client in clients:
            assert (await client.answer()).status == 200
        assert server.connection_count == 2


async def test_a_large_body_that_was_let_in_makes_no_room():
    async def admit(request):
        return LARGE

    async with crowded(1, admit=admit) as (_, connect):
        client = await connect()
        await client.send(head(LARGE))
        await trio.testing.wait_all_tasks_blocked()
        assert (await (await connect()).answer()).status == 503
        await client.send(b"x" * LARGE)
        assert (await client.answer("PUT")).status == 200


async def test_few_requests_are_begun_in_one_pass():
    """Others wait for the next one: messages are handed out in between."""
    handled = most = 0

    async def handle(request: Request) -> Response:
        nonlocal handled
        handled += 1
        return Response(204)

    async def watch():
        nonlocal handled, most
        while True:
            handled = 0
            await trio.lowlevel.checkpoint()
            most = max(most, handled)

    async with crowded(100, handle) as (_, connect):
        clients = [await connect() for _ in range(100)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            for client in clients:
                nursery.start_soon(client.send, GET * 5)  # all in the same pass
            for _ in range(5):
                for client in clients:
                    assert (await client.answer()).status == 204
            nursery.cancel_scope.cancel()
    # One pass may end before, and the next one begin behind, the watcher.
    assert 1 <= most <= 32


async def test_a_stop_closes_idle_connections_at_once(autojump_clock):
    async with served() as (client, server):
        await client.send(GET)
        await client.answer()
        await trio.testing.wait_all_tasks_blocked()
        started = trio.current_time()
        await server.stop()
        assert trio.current_time() == started
        assert await client.ended() == b""


async def test_a_stop_lets_a_request_be_answered(autojump_clock):
    async def handle(request: Request) -> Response:
        await trio.sleep(1)
        return await echo(request)

    async with served(handle) as (client, server):
        await client.send(GET)
        await trio.testing.wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.stop)
            answer = await client.answer()
            assert answer.status == 200
            assert answer.headers["connection"] == "close"
            await client.stream.send_eof()


async def test_a_stop_does_not_wait_for_a_stuck_client(autojump_clock):
    async with served(endless, slow=True) as (client, server):
        await client.send(GET)
        await trio.testing.wait_all_tasks_blocked()
        started = trio.current_time()
        await server.stop()
        assert trio.current_time() - started == pytest.approx(LIMITS.stop_timeout_s)


# ---- anything ----


@given(st.lists(st.binary(max_size=60), max_size=8))
def test_octets_are_answered_or_the_connection_closed(pieces):
    trio.run(_fuzz, pieces, clock=trio.testing.MockClock(autojump_threshold=0))


@given(
    st.lists(
        st.sampled_from(
            [
                GET,
                b"GET / HTTP/1.1\r\n",
                b"host: x\r\n",
                b"content-length: 3\r\n",
                b"\r\n",
                b"abc",
                b"0\r\n\r\n",
                b"transfer-encoding: chunked\r\n",
                b"3\r\nabc\r\n",
                b"expect: 100-continue\r\n",
                b"\0",
                b"\n",
            ]
        ),
        max_size=12,
    )
)
def test_pieces_of_requests_are_answered_or_the_connection_closed(pieces):
    trio.run(_fuzz, pieces, clock=trio.testing.MockClock(autojump_threshold=0))


async def _fuzz(pieces):
    mine, theirs = trio.testing.memory_stream_pair()
    server = HttpServer(echo, LIMITS)
    with trio.fail_after(WAIT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_serve, server, theirs)
            try:
                for piece in pieces:
                    await mine.send_all(piece)
                await mine.send_eof()
            except trio.BrokenResourceError:
                pass
            while await mine.receive_some(65_536):
                pass
    assert server.connection_count == 0
