"""Lines of Python that become a function.

Flow:   `broker.kafka.reading` and `broker.kafka.writing` add lines; `function` compiles them.
Why:    One plain function for each version of a message costs no call, no look at a row and no test of a
        version for each value. Only names and numbers from our own tables become code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_INDENT = "    "


class Source:
    """The body of one function; `names` are what it sees besides its arguments."""

    def __init__(self, names: dict[str, Any]) -> None:
        self.names = names
        self._lines: list[str] = []
        self._depth = 1
        self._fresh = 0

    def line(self, text: str) -> None:
        self._lines.append(_INDENT * self._depth + text)

    @contextmanager
    def block(self, header: str) -> Iterator[None]:
        self.line(header)
        self._depth += 1
        yield
        self._depth -= 1

    def fresh(self, prefix: str) -> str:
        """A name that nothing else has."""
        self._fresh += 1
        return f"{prefix}{self._fresh}"

    def constant(self, prefix: str, value: Any) -> str:
        """The name under which the function sees a value."""
        name = self.fresh(prefix)
        self.names[name] = value
        return name

    def function(self, header: str, title: str) -> Callable[..., Any]:
        """`title` is what a traceback shows as the file."""
        text = "\n".join((f"def function({header}):", *self._lines))
        exec(compile(text, f"<{title}>", "exec"), self.names)
        function: Callable[..., Any] = self.names["function"]
        return function
