"""How settings are written: sizes, shares of the memory, listeners, and what topics are configured with."""

from __future__ import annotations

import re
from typing import Any, Final

from broker.node.alarms import memory_total
from broker.server.serve import Address

OFF: Final = "off"

_UNITS: Final = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "k": 2**10,
    "m": 2**20,
    "g": 2**30,
}


def read_size(value: Any) -> Any:
    """`64 MiB`, `50MB` or a number of octets."""
    if isinstance(value, str):
        found = re.fullmatch(r"\s*([0-9]{1,18}(?:\.[0-9]{1,9})?)\s*([a-zA-Z]*)\s*", value)
        if found and found[2].lower() in _UNITS:
            return int(float(found[1]) * _UNITS[found[2].lower()])
    if isinstance(value, str | bool):
        raise ValueError("expected a size as 16 MiB, 50MB or a number of octets")
    return value


def read_memory(value: Any) -> Any:
    """A size, or a share of the memory there is: `60%`."""
    if isinstance(value, str) and (found := re.fullmatch(r"\s*([0-9]{1,3}(?:\.[0-9]{1,9})?)\s*%\s*", value)):
        return int(memory_total() * float(found[1]) / 100)
    try:
        return read_size(value)
    except ValueError:
        raise ValueError("expected a size as 512 MiB or a share of the memory as 60%") from None


def read_listener(value: Any) -> Any:
    """`host:port`, `:port` for all addresses, a port, or `off`."""
    if value is None or isinstance(value, Address):
        return value
    text = str(value).strip()
    if text.lower() in (OFF, "false"):
        return None
    host, colon, port = text.rpartition(":")
    if (
        not re.fullmatch("[0-9]{1,5}", port)
        or int(port) > 65_535
        or (colon and ":" in host and not host.startswith("["))
    ):
        raise ValueError("expected host:port, :port, a port or off")
    return Address(host.strip("[]"), int(port))


def topic_text(value: str | bool | int | float) -> str:
    """A topic's configurations are texts; TOML has better ones."""
    return str(value).lower() if isinstance(value, bool) else str(value)
