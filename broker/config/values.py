"""Kinds of values in the settings: numbers, sizes, shares of the memory, listeners, names, arguments."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
)

from broker.amqp import wire
from broker.amqp.errors import LocalProtocolError
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


def _no_flag(expected: str) -> BeforeValidator:
    """Python, and so pydantic, takes true for 1."""

    def check(value: Any) -> Any:
        if isinstance(value, bool):
            raise ValueError(f"expected {expected}")
        return value

    return BeforeValidator(check)


def _size(value: Any) -> Any:
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
        return _size(value)
    except ValueError:
        raise ValueError("expected a size as 512 MiB or a share of the memory as 60%") from None


def _listener(value: Any) -> Any:
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


def _short(value: str) -> str:
    """AMQP has no room for longer ones."""
    if len(value.encode()) > 255:
        raise ValueError(f"expected at most 255 octets, these are {len(value.encode())}")
    return value


def _names(value: Any) -> Any:
    """A list, or as the environment has one: `guest,admin`; nothing is none."""
    if isinstance(value, str):
        return [name.strip() for name in value.split(",") if name.strip()]
    return value


def _arguments(value: dict[str, Any]) -> dict[str, Any]:
    for name, one in value.items():
        try:
            wire.table({name: one})
        except LocalProtocolError as error:
            raise ArgumentError(name, f"expected what AMQP has a type for: {error.text}") from None
    return value


class ArgumentError(ValueError):
    """An argument of a queue, an exchange or a binding, or a topic's configuration, that cannot be."""

    def __init__(self, argument: str, text: str) -> None:
        super().__init__(text)
        self.argument = argument


Whole = Annotated[int, _no_flag("an integer")]
Number = Annotated[float, _no_flag("a number")]
Size = Annotated[int, BeforeValidator(_size), Field(ge=0)]
Memory = Annotated[int, BeforeValidator(read_memory), Field(ge=0)]
Listener = Annotated[Address | None, BeforeValidator(_listener)]
Short = Annotated[str, AfterValidator(_short)]
Name = Annotated[str, Field(min_length=1), AfterValidator(_short)]
Names = Annotated[list[str], BeforeValidator(_names)]
Arguments = Annotated[dict[str, Any], AfterValidator(_arguments)]


class Table(BaseModel):
    model_config = ConfigDict(
        extra="forbid", defer_build=True, arbitrary_types_allowed=True, frozen=True, allow_inf_nan=False
    )
