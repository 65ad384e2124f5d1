"""All protocols listen before the start goes on with what takes longer, as a password to hash."""

from __future__ import annotations

import pytest
import trio

from broker.cli import serve
from broker.config.reading import read_config
from ports import free_port


class Stopped(Exception):
    pass


async def test_all_listen_before_the_declarations_are_applied(tmp_path, monkeypatch):
    ports = {protocol: free_port() for protocol in ("amqp", "kafka", "management", "metrics")}
    connected = []

    async def apply(node, declared):
        for protocol, port in ports.items():
            await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
            connected.append(protocol)
        raise Stopped

    monkeypatch.setattr(serve, "apply", apply)
    flags = {protocol: f"127.0.0.1:{port}" for protocol, port in ports.items()}
    with pytest.raises(BaseExceptionGroup) as caught:
        await serve._serve(read_config(None, {}, {"data": tmp_path / "data", **flags}))
    assert [type(cause) for cause in serve._causes(caught.value)] == [Stopped]
    assert connected == list(ports)
    for port in ports.values():
        with pytest.raises(OSError):
            await trio.open_tcp_stream("127.0.0.1", port)
