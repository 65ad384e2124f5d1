"""Which function answers a path and a method, and who may ask.

Flow:   the files of the resources note their functions with `route`; `api` looks them up.
Shape:  a tree of path segments; what stands in braces takes any segment. A literal segment goes first.
Limits: 16 segments.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Final, TypeAlias

from broker.management.http import Response

if TYPE_CHECKING:
    from broker.management.call import Call

Handler: TypeAlias = Callable[["Call"], Awaitable[Response]]

SEGMENTS_MAX: Final = 16
# The arguments of a declaration, which a frame of AMQP limits, are smaller than their JSON.
_BODY_SIZE_MAX: Final = 1024 * 1024


class Needs(Enum):
    """What a user must be to ask; the value is RabbitMQ's word for one who is not."""

    NOTHING = ""
    MANAGEMENT = "Not management user"
    MONITORING = "Not monitor user"
    ADMINISTRATOR = "Not administrator user"


# Tags that are enough for each.
TAGS: Final[dict[Needs, frozenset[str]]] = {
    Needs.MANAGEMENT: frozenset({"administrator", "monitoring", "policymaker", "management"}),
    Needs.MONITORING: frozenset({"administrator", "monitoring"}),
    Needs.ADMINISTRATOR: frozenset({"administrator"}),
}


@dataclass(slots=True, frozen=True)
class Route:
    """One way to ask for one path."""

    handler: Handler
    needs: Needs
    names: tuple[str, ...]
    """Of the segments in braces."""
    body_size_max: int


@dataclass(slots=True)
class _Node:
    literal: dict[str, _Node] = field(default_factory=dict)
    any: _Node | None = None
    routes: dict[str, Route] = field(default_factory=dict)
    """By method."""


class Routes:
    """All paths."""

    def __init__(self) -> None:
        self._root = _Node()

    def add(
        self, method: str, path: str, needs: Needs, handler: Handler, body_size_max: int = _BODY_SIZE_MAX
    ) -> None:
        node = self._root
        names = []
        for segment in path.strip("/").split("/"):
            if segment.startswith("{"):
                names.append(segment.strip("{}"))
                node.any = node.any or _Node()
                node = node.any
            else:
                node = node.literal.setdefault(segment, _Node())
        assert method not in node.routes, f"two handlers for {method} {path}"
        node.routes[method] = Route(handler, needs, tuple(names), body_size_max)

    def find(self, segments: tuple[str, ...]) -> tuple[dict[str, Route], list[str]]:
        """The routes of a path by method, and what its braces took; no routes if there is no such path."""
        if len(segments) > SEGMENTS_MAX:
            return {}, []
        return _find(self._root, segments, 0) or ({}, [])


def _find(node: _Node, segments: tuple[str, ...], at: int) -> tuple[dict[str, Route], list[str]] | None:
    if at == len(segments):
        return (node.routes, []) if node.routes else None
    literal = node.literal.get(segments[at])
    if literal is not None and (found := _find(literal, segments, at + 1)) is not None:
        return found
    if node.any is not None and (found := _find(node.any, segments, at + 1)) is not None:
        routes, values = found
        return routes, [segments[at], *values]
    return None


def allowed(routes: dict[str, Route]) -> str:
    """The methods of a path, for the header of this name."""
    methods = list(routes)
    if "GET" in routes:
        methods.insert(0, "HEAD")
    return ", ".join([*methods, "OPTIONS"])


ROUTES: Final = Routes()


def route(
    method: str, path: str, needs: Needs = Needs.MANAGEMENT, *, body_size_max: int = _BODY_SIZE_MAX
) -> Callable[[Handler], Handler]:
    """Make a function the one that answers this."""

    def note(handler: Handler) -> Handler:
        ROUTES.add(method, path, needs, handler, body_size_max)
        return handler

    return note
