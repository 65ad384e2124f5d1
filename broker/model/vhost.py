"""A virtual host: its exchanges, queues and bindings, and where a message goes.

Flow:   the node declares, binds and deletes here and asks for routes; what a deletion takes along comes
        back in `Removed`, as the node must forget it on disk too.
Limits: 65,536 remembered routes, dropped together when full and at each change of the topology.
Spec:   AMQP 0-9-1; RabbitMQ: idempotent deletes, exchange-to-exchange bindings, alternate exchanges.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from broker.model.arguments import (
    STREAM,
    Arguments,
    QueueSettings,
    check_agree,
    check_property_agrees,
    check_queue_arguments_agree,
    read_alternate,
    read_queue_arguments,
)
from broker.model.errors import (
    AccessRefused,
    AlreadyExists,
    NotFound,
    PreconditionFailed,
    ResourceLocked,
)
from broker.model.exchange import (
    EXCHANGE,
    QUEUE,
    TOPIC,
    Binding,
    Destination,
    Exchange,
    Headers,
    identity_of,
)
from broker.model.message import Sink
from broker.model.queue import Queue
from broker.model.resource import check_not_reserved, cleaned, spoken

_ROUTES_MAX: Final = 65_536

# What every virtual host has from the beginning.
PREDECLARED: Final = (
    ("", "direct"),
    ("amq.direct", "direct"),
    ("amq.fanout", "fanout"),
    ("amq.topic", "topic"),
    ("amq.headers", "headers"),
    ("amq.match", "headers"),
    ("amq.rabbitmq.trace", "topic"),
)
NO_HEADERS: Final[Headers] = {}


@dataclass(slots=True, eq=False)
class Removed:
    """What went along with something that was deleted."""

    exchanges: list[Exchange] = field(default_factory=list)
    bindings: list[Binding] = field(default_factory=list)


class Route:
    """Where messages with one exchange and routing key go, as long as the topology stays as it is."""

    __slots__ = ("exchange", "keeps_transient", "lasting", "queues")

    def __init__(self, exchange: Exchange, queues: tuple[Sink, ...]) -> None:
        self.exchange = exchange
        self.queues = queues
        """Topics among them."""
        self.lasting = any(queue.lasting for queue in queues)
        """One or more keep persistent messages over a restart."""
        self.keeps_transient = any(queue.keeps_transient for queue in queues)
        """One or more keep all messages."""


class Vhost:
    """One virtual host."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.description = ""
        self.tags: tuple[str, ...] = ()
        """What people say of it; nothing here depends on either."""
        self.exchanges: dict[str, Exchange] = {}
        self.queues: dict[str, Queue] = {}
        self.topics: dict[str, Sink] = {}
        """No queue has the name of one of these."""
        # Every binding again, by where it leads.
        self._bound_to: dict[Destination, dict[Binding, None]] = {}
        self.version = 0
        """Rises whenever an exchange, a queue or a binding comes or goes."""
        self._routes: dict[tuple[str, str], Route] = {}
        self._headers_matter: dict[str, bool] = {}
        for exchange, type in PREDECLARED:
            self.exchanges[exchange] = Exchange(
                exchange, type, durable=True, internal=exchange == "amq.rabbitmq.trace"
            )

    # ---- exchanges ----

    def exchange(self, name: str) -> Exchange:
        """Raises NotFound."""
        exchange = self.exchanges.get(name)
        if exchange is None:
            raise NotFound(f"no {spoken('exchange', name, self.name)}")
        return exchange

    def declare_exchange(
        self,
        name: str,
        type: str,
        *,
        durable: bool,
        auto_delete: bool,
        internal: bool,
        arguments: Arguments,
    ) -> tuple[Exchange, bool]:
        """The exchange, and whether it is new.

        Raises PreconditionFailed if it exists and is another one or if its type or an argument cannot
        be, AccessRefused for a reserved name.
        """
        name = cleaned(name)
        if not name:
            raise AccessRefused("operation not permitted on the default exchange")
        alternate = read_alternate(name, self.name, arguments)
        made = Exchange(name, type, durable, auto_delete, internal, arguments, alternate)
        current = self.exchanges.get(name)
        if current is not None:
            self._check_same_exchange(current, made)
            return current, False
        check_not_reserved(EXCHANGE, name)
        self.exchanges[name] = made
        self._forget_routes()
        return made, True

    def _check_same_exchange(self, current: Exchange, made: Exchange) -> None:
        of = spoken(EXCHANGE, made.name, self.name)
        check_property_agrees("type", of, current.type, made.type)
        for flag in ("durable", "auto_delete", "internal"):
            check_property_agrees(flag, of, getattr(current, flag), getattr(made, flag))
        check_agree("alternate-exchange", of, current.alternate, made.alternate)

    def delete_exchange(self, name: str, *, if_unused: bool = False) -> Removed:
        """Empty if there was none. Raises AccessRefused, or PreconditionFailed if it is in use."""
        removed = Removed()
        if not name:
            raise AccessRefused("operation not permitted on the default exchange")
        if name.startswith("amq."):
            raise AccessRefused(f"deletion of system {spoken('exchange', name, self.name)} not allowed")
        exchange = self.exchanges.get(name)
        if exchange is None:
            return removed
        if if_unused and exchange.bindings:
            raise PreconditionFailed(f"{spoken('exchange', name, self.name)} in use")
        del self.exchanges[name]
        removed.exchanges.append(exchange)
        self._remove_bindings(
            [*exchange.bindings.values(), *self.bindings_to(Destination(EXCHANGE, name))], removed
        )
        return removed

    # ---- queues ----

    def queue(self, name: str, owner: object = None) -> Queue:
        """Raises NotFound, or ResourceLocked if another connection has it exclusively.

        `owner` None is somebody who may see every queue.
        """
        queue = self.queues.get(name)
        if queue is None:
            raise NotFound(f"no {spoken('queue', name, self.name)}")
        if queue.owner is not None and owner is not None and queue.owner is not owner:
            raise self._locked(name)
        return queue

    def _locked(self, name: str) -> ResourceLocked:
        return ResourceLocked(
            f"cannot obtain exclusive access to locked {spoken('queue', name, self.name)}. It could be originally "
            "declared on another connection or the exclusive property value does not match that of the "
            "original declaration."
        )

    def declare_queue(
        self,
        name: str,
        make: Callable[[str, QueueSettings], Queue],
        *,
        durable: bool,
        auto_delete: bool,
        owner: object,
        exclusive: bool,
        arguments: Arguments,
        chosen_here: bool = False,
    ) -> tuple[Queue, bool]:
        """The queue, and whether it is new; then `make` made it. `chosen_here` lets a name be reserved.

        Raises PreconditionFailed if it exists and is another one or if an argument cannot be,
        ResourceLocked if another connection has it, AccessRefused for a reserved name.
        """
        name = cleaned(name)
        current = self.queues.get(name)
        if name in self.topics:
            check_agree("x-queue-type", spoken(QUEUE, name, self.name), STREAM, arguments.get("x-queue-type"))
        if current is None:
            settings = read_queue_arguments(name, self.name, arguments)
            if not chosen_here:
                check_not_reserved(QUEUE, name)
            made = self.queues[name] = make(name, settings)
            self._forget_routes()
            return made, True
        if current.owner is not (owner if exclusive else None):
            raise self._locked(name)
        of = spoken(QUEUE, name, self.name)
        check_property_agrees("durable", of, current.durable, durable)
        check_property_agrees("auto_delete", of, current.auto_delete, auto_delete)
        check_queue_arguments_agree(name, self.name, current.arguments, arguments)
        read_queue_arguments(name, self.name, arguments)
        return current, False

    def remove_queue(self, queue: Queue) -> Removed:
        """Take it out with its bindings; exchanges that lived for them alone go too."""
        removed = Removed()
        del self.queues[queue.name]
        self._remove_bindings(self.bindings_to(Destination(QUEUE, queue.name)), removed)
        return removed

    # ---- topics ----

    def add_topic(self, topic: Sink) -> None:
        """Raises AlreadyExists for the name of a queue."""
        if topic.name in self.queues:
            raise AlreadyExists(f"there is a queue '{topic.name}' in vhost '{self.name}'")
        self.topics[topic.name] = topic
        self._forget_routes()

    def remove_topic(self, name: str) -> Removed:
        """Take it out with its bindings, as a queue."""
        removed = Removed()
        if self.topics.pop(name, None) is not None:
            self._remove_bindings(self.bindings_to(Destination(TOPIC, name)), removed)
        return removed

    def destination_of(self, name: str) -> Destination:
        """What AMQP calls a queue may be a topic."""
        return Destination(TOPIC if name in self.topics else QUEUE, name)

    # ---- bindings ----

    def bind(
        self,
        source: str,
        destination: Destination,
        routing_key: str,
        arguments: Arguments,
    ) -> tuple[Binding, bool]:
        """The binding, and whether it is new.

        Raises NotFound if an end is missing, AccessRefused on the default exchange, PreconditionFailed
        for arguments that the exchange's type cannot have.
        """
        self._check_not_default(source, destination)
        target = self._end(destination)
        exchange = self.exchange(source)
        exchange.matcher.check(routing_key, arguments)
        binding = Binding(
            source,
            destination,
            routing_key,
            arguments,
            exchange.durable and target.durable,
        )
        current = exchange.bindings.get(binding.identity)
        if current is not None:
            return current, False
        exchange.add(binding)
        self._bound_to.setdefault(destination, {})[binding] = None
        self._forget_routes()
        return binding, True

    def unbind(
        self,
        source: str,
        destination: Destination,
        routing_key: str,
        arguments: Arguments,
    ) -> Removed:
        """Empty if there was no such binding. Raises AccessRefused on the default exchange."""
        self._check_not_default(source, destination)
        removed = Removed()
        exchange = self.exchanges.get(source)
        binding = exchange and exchange.bindings.get(identity_of(destination, routing_key, arguments))
        if binding:
            self._remove_bindings([binding], removed)
        return removed

    def _check_not_default(self, source: str, destination: Destination) -> None:
        if not source or (destination.kind == EXCHANGE and not destination.name):
            raise AccessRefused("operation not permitted on the default exchange")

    def _end(self, destination: Destination) -> Sink | Exchange:
        if destination.kind == QUEUE:
            return self.queue(destination.name)
        if destination.kind == TOPIC:
            topic = self.topics.get(destination.name)
            if topic is None:
                raise NotFound(f"no {spoken(TOPIC, destination.name, self.name)}")
            return topic
        return self.exchange(destination.name)

    def _remove_bindings(self, going: list[Binding], removed: Removed) -> None:
        """Take them from both their ends; an auto-delete exchange goes with the last of its bindings.

        What leads to such an exchange goes too, and so on: `going` grows, as a chain of exchanges may be
        longer than calls can nest.
        """
        for binding in going:
            bound = self._bound_to.get(binding.destination, {})
            if binding not in bound:
                continue  # it comes from an exchange to that same one, or from one that has just gone
            del bound[binding]
            if not bound:
                del self._bound_to[binding.destination]
            removed.bindings.append(binding)
            source = self.exchanges.get(binding.source)
            if source is None:
                continue
            source.remove(binding)
            if source.auto_delete and not source.bindings:
                del self.exchanges[source.name]
                removed.exchanges.append(source)
                going += self.bindings_to(Destination(EXCHANGE, source.name))
        self._forget_routes()

    def bindings(self) -> Iterable[Binding]:
        """All of them, those left out that every queue has to the default exchange."""
        for exchange in self.exchanges.values():
            yield from exchange.bindings.values()

    def bindings_to(self, destination: Destination) -> list[Binding]:
        return list(self._bound_to.get(destination, ()))

    # ---- routes ----

    def known_route(self, exchange: str, routing_key: str) -> Route | None:
        """What `route` found before, where that does not depend on the message."""
        return self._routes.get((exchange, routing_key))

    def route(self, exchange: str, routing_key: str, headers: Headers = NO_HEADERS) -> Route:
        """The queues that a message reaches, each once. Raises NotFound."""
        known = self._routes.get((exchange, routing_key))
        if known is not None:
            return known
        start = self.exchange(exchange)
        queues, remember = self._walk(start, (routing_key,), headers)
        found = Route(start, queues)
        if remember:
            if len(self._routes) >= _ROUTES_MAX:
                self._routes.clear()
            self._routes[exchange, routing_key] = found
        return found

    def route_all(self, exchange: str, routing_keys: Sequence[str], headers: Headers) -> tuple[Sink, ...]:
        """The queues that a message with several routing keys reaches, each once. Raises NotFound."""
        return self._walk(self.exchange(exchange), routing_keys, headers)[0]

    def _walk(
        self, start: Exchange, routing_keys: Sequence[str], headers: Headers
    ) -> tuple[tuple[Sink, ...], bool]:
        """From exchange to exchange, each visited once; whether no exchange on the way asked for headers."""
        found: dict[Sink, None] = {}
        visited = {start.name}
        pending = [start]
        remember = True
        while pending:
            exchange = pending.pop()
            if exchange.matcher.needs_headers:
                remember = False
            matched = self._matched(exchange, routing_keys, headers)
            if not matched and exchange.alternate is not None:
                alternate = self.exchanges.get(exchange.alternate)
                matched = [alternate] if alternate is not None else []
            for end in matched:
                if not isinstance(end, Exchange):
                    found[end] = None
                elif end.name not in visited:
                    visited.add(end.name)
                    pending.append(end)
        return tuple(found), remember

    def _matched(
        self, exchange: Exchange, routing_keys: Sequence[str], headers: Headers
    ) -> list[Sink | Exchange]:
        ends: list[Sink | Exchange | None]
        if not exchange.name:
            ends = [self.queues.get(key) or self.topics.get(key) for key in routing_keys]
        else:
            match = exchange.matcher.match
            keys = routing_keys if exchange.matcher.needs_key else routing_keys[:1]
            ends = [self._found(end) for key in keys for end in match(key, headers)]
        return [end for end in ends if end is not None]

    def _found(self, end: Destination) -> Sink | Exchange | None:
        if end.kind == QUEUE:
            return self.queues.get(end.name)
        return (self.topics if end.kind == TOPIC else self.exchanges).get(end.name)

    def headers_matter(self, exchange: str) -> bool:
        """Whether a message's headers can matter on its way from this exchange. Raises NotFound."""
        known = self._headers_matter.get(exchange)
        if known is None:
            known = self._headers_matter[exchange] = self._reaches_headers(self.exchange(exchange))
        return known

    def _reaches_headers(self, start: Exchange) -> bool:
        visited = {start.name}
        pending = [start]
        while pending:
            here = pending.pop()
            if here.matcher.needs_headers:
                return True
            names = [b.destination.name for b in here.bindings.values() if b.destination.kind == EXCHANGE]
            names += [here.alternate] if here.alternate is not None else []
            following = [name for name in names if name in self.exchanges and name not in visited]
            visited.update(following)
            pending += [self.exchanges[name] for name in following]
        return False

    def _forget_routes(self) -> None:
        self.version += 1
        self._routes.clear()
        self._headers_matter.clear()
