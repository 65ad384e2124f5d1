"""What is wrong with the settings, in words: the file, the key path, what was expected and what was found."""

from __future__ import annotations

import json
from typing import Any, Final

from pydantic import (
    ValidationError,
)

from broker.config.values import ArgumentError


def lines(error: ValidationError, origin: str) -> list[str]:
    lines = []
    for problem in error.errors():
        where = _spoken_path(problem["loc"])
        value = problem["input"]
        reason = problem.get("ctx", {}).get("error")
        if isinstance(reason, ArgumentError):
            where, value = f"{where}.{reason.argument}", value[reason.argument]
        lines.append(
            f"{origin}: {where}: {_spoken_problem(problem, reason)}"
            f"{'' if where.endswith(_SECRETS) else _spoken_value(problem['type'], value)}"
        )
    return lines


def _spoken_path(place: tuple[int | str, ...]) -> str:
    """`queue[2].arguments`; the first entry is `queue[0]`."""
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


_SPOKEN: Final = {
    "missing": "this key is missing",
    "extra_forbidden": "there is no such key",
    "int_type": "expected an integer",
    "int_parsing": "expected an integer",
    "int_from_float": "expected an integer",
    "float_type": "expected a number",
    "float_parsing": "expected a number",
    "bool_type": "expected true or false",
    "bool_parsing": "expected true or false",
    "string_type": "expected a string",
    "list_type": "expected a list",
    "path_type": "expected a path",
    "finite_number": "expected a number that is finite",
    "dict_type": "expected a table",
    "model_type": "expected a table",
    "model_attributes_type": "expected a table",
}
_TABLES: Final = ("user", "permission", "vhost", "exchange", "queue", "binding", "topic")
# What nobody wants to read in a log.
_SECRETS: Final = ("password", "password_hash")
_BOUNDS: Final = {
    "greater_than_equal": ">= {ge}",
    "greater_than": "> {gt}",
    "less_than_equal": "<= {le}",
    "string_too_short": "at least {min_length} characters",
    "string_too_long": "at most {max_length} characters",
    "literal_error": "{expected}",
}


def _spoken_problem(problem: Any, reason: Exception | None) -> str:
    kind = problem["type"]
    if reason is not None:
        return str(reason)
    if kind in _BOUNDS:
        return f"expected {_BOUNDS[kind].format(**problem['ctx'])}"
    if kind == "list_type" and problem["loc"][-1] in _TABLES:
        return f"expected tables, as [[{problem['loc'][-1]}]] begins one"
    return _SPOKEN.get(kind) or str(problem["msg"])


def _spoken_value(kind: str, value: Any) -> str:
    if kind in ("missing", "extra_forbidden") or isinstance(value, dict | list):
        return ""
    return f", got {json.dumps(value, default=str)}"
