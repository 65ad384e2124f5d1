"""The pump: which sockets a pass serves, in which order, and when it ends."""

from __future__ import annotations

import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio

from broker.server.pump import Pump
from broker_here import until
from patience import WAIT_S

END = "end of pass"
TOO_LONG_S = 0.005


class Peer:
    """A socket of the pump that notes each call, and does with it what the test says."""

    def __init__(self, name: str, calls: list[str]) -> None:
        self.name = name
        self.calls = calls
        self.ours, self.theirs = socket.socketpair()
        self.ours.setblocking(False)
        self.when_readable: Callable[[], None] = lambda: None
        self.when_resumed: Callable[[], None] = lambda: None
        self.errors: list[Exception] = []

    def fileno(self) -> int:
        return self.ours.fileno()

    def readable(self) -> None:
        self.ours.recv(100)
        self.calls.append(f"{self.name} readable")
        self.when_readable()

    def resume(self) -> None:
        self.calls.append(f"{self.name} resumed")
        self.when_resumed()

    def hung_up(self) -> None:
        self.calls.append(f"{self.name} hung up")

    def writable(self) -> None:
        self.calls.append(f"{self.name} writable")

    def failed(self, error: Exception) -> None:
        self.errors.append(error)


class Watched:
    """A pump that does not run yet, and peers in it."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.pump = Pump(lambda: self.calls.append(END), lambda: True, lambda: None)
        self.peers: list[Peer] = []

    def peer(self, name: str) -> Peer:
        peer = Peer(name, self.calls)
        self.peers.append(peer)
        self.pump.add(peer)
        return peer

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.pump.run)
            with trio.fail_after(WAIT_S):
                yield
            nursery.cancel_scope.cancel()

    async def called(self, *calls: str) -> None:
        """Wait for so many calls, which must be these."""
        await until(lambda: len(self.calls) >= len(calls))
        assert self.calls[: len(calls)] == list(calls)


@pytest.fixture
def watched():
    watched = Watched()
    yield watched
    watched.pump.close()
    for peer in watched.peers:
        peer.ours.close()
        peer.theirs.close()


def say(*peers: Peer) -> None:
    for peer in peers:
        peer.theirs.send(b"x")


async def test_one_end_of_pass_for_all_ready_sockets(watched):
    a, b = watched.peer("a"), watched.peer("b")
    say(a, b)
    async with watched.running():
        await watched.called("a readable", "b readable", END)


async def test_a_pass_that_took_too_long_ends_and_the_next_begins_with_the_rest(watched):
    a, b, c = (watched.peer(name) for name in "abc")

    def again() -> None:
        say(a)
        time.sleep(TOO_LONG_S)

    a.when_readable = again
    say(a, b, c)
    async with watched.running():
        await watched.called("a readable", END, "b readable", "c readable", END, "a readable", END)
        a.when_readable = lambda: None


async def test_deferred_work_goes_behind_ready_sockets(watched):
    a, b = watched.peer("a"), watched.peer("b")

    def defer() -> None:
        watched.pump.defer(a)
        time.sleep(TOO_LONG_S)
        say(b)

    a.when_readable = defer
    a.when_resumed = lambda: say(b) or watched.pump.defer(a) if watched.calls.count("a resumed") < 2 else None
    say(a)
    async with watched.running():
        turn = ["b readable", "a resumed", END]
        await watched.called("a readable", "a resumed", END, *turn)


async def test_a_pass_serves_all_deferred_that_there_is_time_for(watched):
    peers = [watched.peer(name) for name in "abc"]
    peers[1].when_resumed = lambda: time.sleep(TOO_LONG_S)
    for peer in peers:
        watched.pump.defer(peer)
    async with watched.running():
        await watched.called("a resumed", "b resumed", END, "c resumed", END)


async def test_deferred_work_goes_on_though_ready_sockets_take_all_the_time(watched):
    a, b = watched.peer("a"), watched.peer("b")

    def busy() -> None:
        time.sleep(TOO_LONG_S)
        if watched.calls.count("a readable") < 5:
            say(a)

    a.when_readable = busy
    b.when_resumed = lambda: watched.pump.defer(b)
    say(a)
    watched.pump.defer(b)
    async with watched.running():
        await until(lambda: watched.calls.count("a readable") >= 5)
    assert watched.calls.count("b resumed") >= 4


async def test_deferring_wakes_the_pump(watched):
    a = watched.peer("a")
    async with watched.running():
        await trio.sleep(0.02)
        watched.pump.defer(a)
        watched.pump.defer(a)
        await watched.called("a resumed", END)
        await trio.sleep(0.02)
        assert watched.calls.count("a resumed") == 1


async def test_a_removed_socket_is_not_resumed(watched):
    a, b = watched.peer("a"), watched.peer("b")
    a.when_resumed = lambda: watched.pump.remove(b.fileno())
    watched.pump.defer(a)
    watched.pump.defer(b)
    async with watched.running():
        await watched.called("a resumed", END)
        await trio.sleep(0.02)
    assert "b resumed" not in watched.calls


async def test_what_a_resumed_socket_raises_is_its_own(watched):
    a, b = watched.peer("a"), watched.peer("b")
    error = ValueError("a bug")

    def fail() -> None:
        raise error

    a.when_resumed = fail
    watched.pump.defer(a)
    watched.pump.defer(b)
    async with watched.running():
        await watched.called("a resumed", "b resumed", END)
    assert a.errors == [error]
    assert b.errors == []


async def test_each_socket_has_its_own_share_of_time(watched):
    a, b = watched.peer("a"), watched.peer("b")
    ends: list[float] = []

    def take_time() -> None:
        ends.append(watched.pump.share_ends)
        time.sleep(0.0005)

    a.when_readable = b.when_readable = b.when_resumed = take_time
    watched.pump.defer(b)
    say(a, b)
    before = time.perf_counter()
    async with watched.running():
        await watched.called("a readable", "b readable", "b resumed", END)
    assert ends[0] >= before
    assert ends[1] >= ends[0] + 0.0005
    assert ends[2] >= ends[1] + 0.0005
