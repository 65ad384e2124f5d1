"""The flags of a plain `leveret serve`, read without typer.

Limits: only the forms that leave nothing to complain about: `--flag value`, `--flag=value` and `-c value`.
"""

from __future__ import annotations

from typing import Final

# The same ones as those of `commands.serve`; a test compares them.
SERVE_FLAGS: Final = ("config", "data", "amqp", "kafka", "management", "metrics")
_NAMES: Final = {"-c": "config", **{f"--{flag}": flag for flag in SERVE_FLAGS}}


def plain_serve_flags(arguments: list[str]) -> dict[str, str] | None:
    """The flags that were given; None if typer has to look at the arguments."""
    if arguments[:1] != ["serve"]:
        return None
    flags: dict[str, str] = {}
    rest = iter(arguments[1:])
    for argument in rest:
        name, equals, value = argument.partition("=")
        if name not in _NAMES or (equals and name == "-c"):
            return None
        if not equals:
            value = next(rest, "")
        if not value or value.startswith("-"):
            return None
        flags[_NAMES[name]] = value
    return flags
