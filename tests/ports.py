"""A port that is free, and stays so while the broker on it is away."""

from __future__ import annotations

import secrets
import socket
from pathlib import Path

_FIRST = 10_000
_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_port() -> int:
    """On 127.0.0.1. Below those that the system gives to whatever asks for any: between two starts of a
    broker other tests would get its port, for a client's end of a connection, too."""
    end = int(_RANGE.read_text().split()[0])
    while True:
        port = _FIRST + secrets.randbelow(end - _FIRST)
        with socket.socket() as picked:
            try:
                picked.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
