"""Ask a broker whether it is there, as far as AMQP goes without a login.

Limits: the timeout is for all of it, however little the other side sends at a time.
"""

from __future__ import annotations

import re
import socket
import time

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
    if not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65_535:
        raise ValueError("expected host:port")
    deadline = time.monotonic() + timeout
    codec = Connection(Role.CLIENT, _MESSAGE_SIZE_MAX)
    with socket.create_connection((host, int(port)), timeout) as sock:
        sock.sendall(PROTOCOL_HEADER)
        while (left := deadline - time.monotonic()) > 0:
            sock.settimeout(left)
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
    raise TimeoutError("timed out")
