"""What is wrong with the settings, in words: the file, the key path, what was expected and what was found."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from broker.config.settings import DECLARED
from broker.config.values import ArgumentError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

UNKNOWN_KEY: Final = "there is no such key"


def spoken(problem: ErrorDetails, key: str) -> str:
    """One of pydantic's errors in the value of a key of the top level."""
    place = (key, *problem["loc"])
    where = _spoken_path(place)
    value = problem["input"]
    reason = problem.get("ctx", {}).get("error")
    if isinstance(reason, ArgumentError):
        where, value = f"{where}.{reason.argument}", value[reason.argument]
    shown = "" if where.endswith(_SECRETS) else _spoken_value(problem["type"], value)
    return f"{where}: {_spoken_problem(problem, place[-1], reason)}{shown}"


def _spoken_path(place: tuple[int | str, ...]) -> str:
    """`queue[2].arguments`; the first entry is `queue[0]`."""
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


_SPOKEN: Final = {
    "missing": "this key is missing",
    "unexpected_keyword_argument": UNKNOWN_KEY,
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
    "dataclass_type": "expected a table",
}
_TABLES: Final = (*DECLARED, "permission")
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


def _spoken_problem(problem: ErrorDetails, key: int | str, reason: Exception | None) -> str:
    kind = problem["type"]
    if reason is not None:
        return str(reason)
    if kind in _BOUNDS:
        return f"expected {_BOUNDS[kind].format(**problem['ctx'])}"
    if kind == "list_type" and key in _TABLES:
        return f"expected tables, as [[{key}]] begins one"
    return _SPOKEN.get(kind) or str(problem["msg"])


def _spoken_value(kind: str, value: Any) -> str:
    if kind in ("missing", "unexpected_keyword_argument") or isinstance(value, dict | list):
        return ""
    return f", got {json.dumps(value, default=str)}"
