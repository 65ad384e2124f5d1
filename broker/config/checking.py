"""Check settings with pydantic.

Shape:  the annotations of `settings` and `entries` name the kinds in `values`.
Why:    pydantic takes 65 ms to import: `reading` imports this file when there is something to check. Each table that
        is not there saves a millisecond, and the entries, when a file declares nothing, five.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic import (
    ConfigDict,
    TypeAdapter,
    ValidationError,
)

from broker.config import settings, values
from broker.config.errors import ConfigError
from broker.config.problems import UNKNOWN_KEY, spoken
from broker.config.settings import DECLARED, Config

_KINDS = Config.__annotations__


def check(found: dict[str, Any], origin: str) -> Config:
    """Raises ConfigError with a line for each mistake."""
    checked: dict[str, Any] = {}
    lines: list[str] = []
    for name in _KINDS:
        if name in found:
            try:
                checked[name] = _adapter(name).validate_python(found[name])
            except ValidationError as error:
                lines += [spoken(problem, name) for problem in error.errors()]
    lines += [f"{name}: {UNKNOWN_KEY}" for name in found if name not in _KINDS]
    if lines:
        raise ConfigError("\n".join(f"{origin}: {line}" for line in lines))
    return Config(**checked)


@cache
def _adapter(name: str) -> TypeAdapter[Any]:
    """What checks one key of the top level."""
    names = {**vars(settings), **vars(values)}
    if name in DECLARED:
        from broker.config import entries

        names.update(vars(entries))
    adapter: TypeAdapter[Any] = TypeAdapter(_KINDS[name], config=ConfigDict(defer_build=True))
    adapter.rebuild(_types_namespace=names)
    return adapter
