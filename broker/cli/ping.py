"""Ask a broker whether it is there, as far as AMQP goes without a login."""

from __future__ import annotations

import socket

from broker.amqp import methods
from broker.amqp.connection import Connection, Role
from broker.amqp.frames import MethodReceived
from broker.amqp.spec import PROTOCOL_HEADER

_MESSAGE_SIZE_MAX = 1024 * 1024


def ask(address: str, timeout: float) -> str:
    """What the broker says it is. Raises OSError or ValueError if nobody answers, or not with AMQP."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if host in ("", "0.0.0.0", "::"):
        host = "127.0.0.1"
    if not port.isdigit():
        raise ValueError(f"expected host:port, got {address}")
    codec = Connection(Role.CLIENT, _MESSAGE_SIZE_MAX)
    with socket.create_connection((host, int(port)), timeout) as sock:
        sock.sendall(PROTOCOL_HEADER)
        while True:
            data = sock.recv(65_536)
            if not data:
                raise ValueError("it closed the connection")
            for event in codec.receive(data):
                if isinstance(event, MethodReceived) and isinstance(event.method, methods.ConnectionStart):
                    properties = event.method.server_properties
                    return (
                        f"pong from {properties.get('product', '?')} {properties.get('version', '')}".strip()
                    )
                raise ValueError("it does not speak AMQP 0-9-1")
