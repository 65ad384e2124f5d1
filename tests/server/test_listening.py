"""Accepting: whatever goes wrong with one connection, the next one is served."""

from __future__ import annotations

import errno
import logging
import os
import resource
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from amqp_client import Client, Ended
from broker.amqp.spec import PROTOCOL_HEADER
from broker.node.node import NodeOptions, open_node
from broker.server import serve
from broker.server.amqp.options import AmqpOptions
from broker.server.amqp.server import AmqpServer
from broker_here import until
from patience import WAIT_S
from process import BrokerProcess


class Connected:
    """What accept gives: a socket on which one call fails."""

    def __init__(self, sock: socket.socket, call: str) -> None:
        self._sock = sock
        self._call = call

    def __getattr__(self, name: str) -> Any:
        if name == self._call:
            return partial(self._fail, name)
        return getattr(self._sock, name)

    def _fail(self, name: str, *arguments: Any) -> None:
        raise OSError(errno.EINVAL, f"{name} failed")


class Listening:
    """A listening socket, to which something happens before it accepts as ever."""

    def __init__(self, sock: socket.socket, happenings: list[OSError | str]) -> None:
        self._sock = sock
        self._happenings = happenings
        self.accepted = 0

    def fileno(self) -> int:
        return self._sock.fileno()

    def accept(self) -> tuple[Any, Any]:
        happening = self._happenings.pop(0) if self._happenings else ""
        if isinstance(happening, OSError):
            raise happening
        connected, peer = self._sock.accept()
        self.accepted += 1
        return (Connected(connected, happening) if happening else connected), peer

    def __enter__(self) -> Listening:
        return self

    def __exit__(self, *exception: object) -> None:
        self._sock.close()


async def check_served(address: tuple[str, int]) -> None:
    client = await Client.dial(address)
    try:
        await client.start()
    finally:
        client.drop()


async def is_served(address: tuple[str, int]) -> bool:
    try:
        await check_served(address)
    except (Ended, trio.BrokenResourceError):
        return False
    return True


@asynccontextmanager
async def unlucky(
    folder: Path, happenings: list[OSError | str]
) -> AsyncIterator[tuple[AmqpServer, tuple[str, int]]]:
    node = open_node(NodeOptions(str(folder / "data")))
    try:
        async with serve.amqp_server(node, None, AmqpOptions()) as server, trio.open_nursery() as nursery:
            (sock,) = serve.listen(serve.Address("127.0.0.1", 0))
            address = sock.getsockname()[:2]
            listening: Any = Listening(sock, happenings)
            nursery.start_soon(serve._accept, listening, server.accept, trio.CancelScope())
            yield server, address
            nursery.cancel_scope.cancel()
    finally:
        node.close()


@pytest.mark.parametrize(
    "number", [errno.ECONNABORTED, errno.EAGAIN, errno.ENETDOWN, errno.EPROTO, errno.EPERM]
)
async def test_accept_may_fail(tmp_path, number):
    async with unlucky(tmp_path, [OSError(number, os.strerror(number))]) as (server, address):
        await check_served(address)
        await until(lambda: server.connection_count == 0)


async def test_a_turn_accepts_several_and_not_all() -> None:
    """One a turn would be 200 a second beside a client that keeps the broker busy."""
    turns: list[list[str]] = [[]]

    def accept(sock: socket.socket, peer: tuple[str, int], here: tuple[str, int]) -> None:
        sock.close()
        turns[-1].append(peer[0])

    (sock,) = serve.listen(serve.Address("127.0.0.1", 0))
    dialled = [socket.create_connection(sock.getsockname()) for _ in range(40)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve._accept, sock, accept, trio.CancelScope())
        while sum(map(len, turns)) < len(dialled):
            turns.append([])
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    for each in dialled:
        each.close()
    # Of two tasks either may have its turn first, and so twice between two of the other's.
    assert max(map(len, turns)) in (16, 24, 32)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
async def test_no_room_is_said_once_and_tried_again(tmp_path, autojump_clock, caplog, number):
    failures: list[OSError | str] = [OSError(number, os.strerror(number)) for _ in range(3)]
    async with unlucky(tmp_path, failures) as (_, address):
        await check_served(address)
    errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert errors == [f"listener: cannot accept: {os.strerror(number)}"]


@pytest.mark.parametrize("call", ["setblocking", "getsockname", "setsockopt"])
async def test_a_socket_that_broke_before_it_was_served_is_closed(tmp_path, caplog, call):
    async with unlucky(tmp_path, [call]) as (server, address):
        broken = await Client.dial(address)
        await broken.ended()
        await check_served(address)
        await until(lambda: server.connection_count == 0)
    assert not any(record.exc_info for record in caplog.records)


async def test_a_socket_that_cannot_be_watched_is_closed(broker, monkeypatch):
    def full(socket: object) -> None:
        raise OSError(errno.ENOSPC, "no more watches")

    with monkeypatch.context() as patched:
        patched.setattr(broker.server.pump, "add", full)
        broken = await broker.dial()
        await broken.ended()
    assert broker.server.connection_count == 0
    await check_served(broker.address)


async def test_a_bug_is_the_first_connections_own(broker, monkeypatch, caplog):
    def bug(*arguments: Any) -> None:
        raise AssertionError

    with monkeypatch.context() as patched:
        patched.setattr(broker.server.pump, "add", bug)
        broken = await broker.dial()
        await broken.ended()
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [AssertionError]
    assert broker.server.connection_count == 0
    await check_served(broker.address)


async def test_a_crowd_leaves_descriptors_for_the_disk(tmp_path):
    """Otherwise anybody who can connect could stop the broker, without a password."""
    with BrokerProcess(tmp_path) as broker:
        client = await Client.connect(broker.amqp)
        channel = await client.channel(1)
        await channel.confirm_mode()
        hard = resource.prlimit(broker.pid, resource.RLIMIT_NOFILE)[1]
        resource.prlimit(broker.pid, resource.RLIMIT_NOFILE, (150, hard))
        crowd = [socket.create_connection(broker.amqp) for _ in range(300)]
        for number in range(20):
            await channel.declare(f"q{number}", durable=True)
            await channel.publish(b"", to=f"q{number}", delivery_mode=2)
        assert len(await channel.confirms(20)) == 20
        for sock in crowd:
            sock.close()
        with trio.fail_after(WAIT_S):
            while not await is_served(broker.amqp):
                pass
        await client.close()
        assert broker.stop() == 0
        assert broker.log.read_text().count("cannot accept: too many open files") >= 1


async def test_a_name_with_several_addresses_is_served_on_each(tmp_path, monkeypatch):
    def two_addresses(host: str, port: int, **options: object) -> list[Any]:
        kind = socket.AF_INET, socket.SOCK_STREAM, 0, ""
        return [(*kind, ("127.0.0.1", port)), (*kind, ("127.0.0.2", port))]

    monkeypatch.setattr(serve.socket, "getaddrinfo", two_addresses)
    node = open_node(NodeOptions(str(tmp_path)))
    async with serve.amqp_server(node, serve.Address("both", 0), AmqpOptions()):
        monkeypatch.undo()
        places = [(listener.host, listener.port) for listener in node.listeners]
        assert [host for host, _ in places] == ["127.0.0.1", "127.0.0.2"]
        for place in places:
            client = await Client.dial(place)
            client.drop()
    node.close()


async def test_whoever_comes_while_the_broker_prepares_is_served_when_it_has(tmp_path):
    node = open_node(NodeOptions(str(tmp_path / "data"), reserve_size=0))
    with socket.socket() as client:

        async def prepare() -> None:
            client.connect((node.listeners[0].host, node.listeners[0].port))
            client.setblocking(False)
            client.sendall(PROTOCOL_HEADER)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(BlockingIOError):
                client.recv(1)

        try:
            async with serve.serve(node, AmqpOptions(), serve.Address("127.0.0.1", 0), prepare=prepare):
                with trio.fail_after(WAIT_S):
                    await trio.lowlevel.wait_readable(client)
                assert client.recv(1) == b"\x01"
                client.close()  # otherwise it is waited for
        finally:
            node.close()


async def test_when_preparing_fails_nobody_is_served_and_the_port_is_free(tmp_path):
    node = open_node(NodeOptions(str(tmp_path / "data"), reserve_size=0))

    async def prepare() -> None:
        raise ValueError("no")

    try:
        with pytest.RaisesGroup(pytest.RaisesExc(ValueError, match="no")):
            async with serve.serve(node, AmqpOptions(), serve.Address("127.0.0.1", 0), prepare=prepare):
                raise AssertionError("it serves")
        port = node.listeners[0].port
        with serve.listen(serve.Address("127.0.0.1", port))[0] as sock:
            assert sock.getsockname()[1] == port
    finally:
        node.close()


@pytest.mark.parametrize(("host", "said"), [("no host", "no host:0"), ("2001:db8::1", r"\[2001:db8::1\]:0")])
def test_a_host_that_is_not_here_is_named(host, said):
    with pytest.raises(OSError, match=f"cannot listen on {said}: "):
        serve.listen(serve.Address(host, 0))
