"""Exchanges: which destinations a routing key, or a message's headers, selects.

Flow:   a virtual host keeps the exchanges and walks from one to the next (`vhost`); an exchange only
        knows what is bound to itself.
Spec:   AMQP 0-9-1 section 3.1.3; RabbitMQ's `-with-x` and its comparing of header values, where an
        integer is equal by value whatever its width, and 1 is neither 1.0 nor "1".
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from broker.model.arguments import Arguments, erlang_type
from broker.model.errors import PreconditionFailed
from broker.model.topic_trie import TopicTrie

Headers: TypeAlias = Mapping[str, Any]

QUEUE: Final = "queue"
EXCHANGE: Final = "exchange"
TOPIC: Final = "topic"


@dataclass(slots=True, frozen=True)
class Destination:
    """What a binding leads to: the kind and the name say it, in one virtual host."""

    kind: str
    name: str


@dataclass(slots=True, eq=False)
class Binding:
    """One binding. Two with the same source, destination, key and arguments are the same one."""

    source: str
    destination: Destination
    routing_key: str
    arguments: Arguments
    durable: bool = False

    @property
    def identity(self) -> tuple[Destination, str, str]:
        return identity_of(self.destination, self.routing_key, self.arguments)


def identity_of(
    destination: Destination, routing_key: str, arguments: Arguments
) -> tuple[Destination, str, str]:
    """What tells a binding of one exchange from its others."""
    return (
        destination,
        routing_key,
        repr(sorted(arguments.items())) if arguments else "",
    )


class Matcher(ABC):
    """The bindings of one exchange, arranged for its type."""

    needs_headers = False
    needs_key = True

    @abstractmethod
    def add(self, binding: Binding) -> None: ...

    @abstractmethod
    def remove(self, binding: Binding) -> None: ...

    @abstractmethod
    def match(self, routing_key: str, headers: Headers) -> Iterable[Destination]:
        """The destinations, each once."""

    def check(self, routing_key: str, arguments: Arguments) -> None:
        """Raises PreconditionFailed for a binding that this type cannot have."""
        return


class DirectMatcher(Matcher):
    """The binding's key is the routing key."""

    def __init__(self) -> None:
        self._by_key: dict[str, dict[Destination, int]] = {}

    def add(self, binding: Binding) -> None:
        bound = self._by_key.setdefault(binding.routing_key, {})
        bound[binding.destination] = bound.get(binding.destination, 0) + 1

    def remove(self, binding: Binding) -> None:
        bound = self._by_key[binding.routing_key]
        bound[binding.destination] -= 1
        if not bound[binding.destination]:
            del bound[binding.destination]
        if not bound:
            del self._by_key[binding.routing_key]

    def match(self, routing_key: str, headers: Headers) -> Iterable[Destination]:
        return self._by_key.get(routing_key, ())


class FanoutMatcher(Matcher):
    """Everything goes everywhere."""

    needs_key = False

    def __init__(self) -> None:
        self._bound: dict[Destination, int] = {}

    def add(self, binding: Binding) -> None:
        self._bound[binding.destination] = self._bound.get(binding.destination, 0) + 1

    def remove(self, binding: Binding) -> None:
        self._bound[binding.destination] -= 1
        if not self._bound[binding.destination]:
            del self._bound[binding.destination]

    def match(self, routing_key: str, headers: Headers) -> Iterable[Destination]:
        return self._bound


class TopicMatcher(Matcher):
    """The binding's key is a pattern of words."""

    def __init__(self) -> None:
        self._trie: TopicTrie[Destination] = TopicTrie()

    def add(self, binding: Binding) -> None:
        self._trie.add(binding.routing_key, binding.destination)

    def remove(self, binding: Binding) -> None:
        self._trie.remove(binding.routing_key, binding.destination)

    def match(self, routing_key: str, headers: Headers) -> Iterable[Destination]:
        return self._trie.match(routing_key)


MATCH_KINDS: Final = ("all", "any", "all-with-x", "any-with-x")


class HeadersMatcher(Matcher):
    """The binding's arguments are compared with the message's headers."""

    needs_headers = True
    needs_key = False

    def __init__(self) -> None:
        self._bindings: dict[tuple[Destination, str, str], tuple[Binding, bool, dict[str, Any]]] = {}

    def add(self, binding: Binding) -> None:
        kind = binding.arguments.get("x-match", "all")
        wanted = {
            name: value
            for name, value in binding.arguments.items()
            if name != "x-match" and (kind.endswith("-with-x") or not name.startswith("x-"))
        }
        self._bindings[binding.identity] = (binding, kind.startswith("any"), wanted)

    def remove(self, binding: Binding) -> None:
        del self._bindings[binding.identity]

    def match(self, routing_key: str, headers: Headers) -> Iterable[Destination]:
        found: dict[Destination, None] = {}
        for binding, any_of_them, wanted in self._bindings.values():
            if any_of_them:
                hit = any(_header_fits(headers, name, value) for name, value in wanted.items())
            else:
                hit = all(_header_fits(headers, name, value) for name, value in wanted.items())
            if hit:
                found[binding.destination] = None
        return found

    def check(self, routing_key: str, arguments: Arguments) -> None:
        kind = arguments.get("x-match", "all")
        if not isinstance(kind, str):
            raise PreconditionFailed(
                f"Invalid x-match field type {erlang_type(kind)} (value {kind}); expected longstr"
            )
        if kind not in MATCH_KINDS:
            raise PreconditionFailed(
                f'Invalid x-match field value <<"{kind}">>; expected all, any, all-with-x, or any-with-x'
            )


def _header_fits(headers: Headers, name: str, wanted: Any) -> bool:
    if name not in headers:
        return False
    if wanted is None:  # a void value asks only that the header is there
        return True
    value = headers[name]
    return type(value) is type(wanted) and bool(value == wanted)


MATCHERS: Final[dict[str, type[Matcher]]] = {
    "direct": DirectMatcher,
    "fanout": FanoutMatcher,
    "topic": TopicMatcher,
    "headers": HeadersMatcher,
}


@dataclass(slots=True, eq=False)
class Exchange:
    """An exchange and what is bound to it as a source."""

    name: str
    type: str
    durable: bool = False
    auto_delete: bool = False
    internal: bool = False
    arguments: Arguments = field(default_factory=dict)
    alternate: str | None = None
    bindings: dict[tuple[Destination, str, str], Binding] = field(default_factory=dict)
    matcher: Matcher = field(init=False)
    messages_in: int = 0
    messages_out: int = 0
    """Each as often as queues got it."""

    def __post_init__(self) -> None:
        matcher = MATCHERS.get(self.type)
        if matcher is None:
            raise PreconditionFailed(f"unknown exchange type '{self.type}'")
        self.matcher = matcher()

    def add(self, binding: Binding) -> None:
        self.bindings[binding.identity] = binding
        self.matcher.add(binding)

    def remove(self, binding: Binding) -> None:
        del self.bindings[binding.identity]
        self.matcher.remove(binding)
