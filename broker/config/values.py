"""Kinds of values in the settings, for pydantic: numbers, sizes, listeners, names, arguments.

Why:    The annotations of `settings` and `entries` name them; only `checking` imports this file (see there).
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
)

from broker.amqp import wire
from broker.amqp.errors import LocalProtocolError
from broker.config.notation import read_listener, read_memory, read_size
from broker.server.serve import Address


def _no_flag(expected: str) -> BeforeValidator:
    """Python, and so pydantic, takes true for 1."""

    def check(value: Any) -> Any:
        if isinstance(value, bool):
            raise ValueError(f"expected {expected}")
        return value

    return BeforeValidator(check)


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
Size = Annotated[int, BeforeValidator(read_size), Field(ge=0)]
Memory = Annotated[int, BeforeValidator(read_memory), Field(ge=0)]
# What connections have in hand, where less than one frame would stop them.
Buffers = Annotated[int, Field(ge=2**20), BeforeValidator(read_memory)]
Listener = Annotated[Address | None, BeforeValidator(read_listener)]
Short = Annotated[str, AfterValidator(_short)]
Name = Annotated[str, Field(min_length=1), AfterValidator(_short)]
Names = Annotated[list[str], BeforeValidator(_names)]
Arguments = Annotated[dict[str, Any], AfterValidator(_arguments)]
