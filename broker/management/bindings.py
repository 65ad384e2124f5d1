"""Bindings: list, make, delete. In a path a binding is told from its like by its `properties_key`.

Shape:  properties_key: `~` for no key and no arguments; the quoted key; or that, `~` and a hash of the arguments.
Spec:   RabbitMQ, whose hash is Erlang's own: clients take it as it is. Every queue is bound to the default
        exchange with its name; nobody can change that. A topic is a queue here, as its like is for RabbitMQ's clients.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from itertools import chain
from typing import Final
from urllib.parse import quote, quote_plus, unquote_plus

from broker.management.call import NOBODY, Call
from broker.management.errors import not_there
from broker.management.exchanges import exchange_of
from broker.management.http import Response
from broker.management.listing import Row, listed, shown_once
from broker.management.routes import route
from broker.management.tables import shown
from broker.model.exchange import EXCHANGE, QUEUE, TOPIC, Binding, Destination
from broker.model.vhost import Vhost

_KINDS: Final = {"q": QUEUE, "e": EXCHANGE}
_HASH_SIZE: Final = 6

Placed = tuple[str, Binding]


def properties_key(binding: Binding) -> str:
    key = quote_plus(binding.routing_key, safe="").replace("~", "%7E")
    if not binding.arguments:
        return key or "~"
    arguments = repr(sorted(binding.arguments.items())).encode()
    digest = hashlib.sha256(arguments).digest()[:_HASH_SIZE]
    return f"{key}~{base64.urlsafe_b64encode(digest).decode()}"


def show(placed: Placed) -> Row:
    vhost, binding = placed
    return {
        "source": binding.source,
        "vhost": vhost,
        "destination": binding.destination.name,
        "destination_type": _spoken_kind(binding.destination),
        "routing_key": binding.routing_key,
        "arguments": shown(binding.arguments),
        "properties_key": properties_key(binding),
    }


def _spoken_kind(end: Destination) -> str:
    return QUEUE if end.kind == TOPIC else end.kind


def key_of(placed: Placed) -> tuple[str, ...]:
    vhost, binding = placed
    end = binding.destination
    return vhost, binding.source, _spoken_kind(end), end.name, binding.routing_key


def _default(queue: str) -> Binding:
    """What binds every queue to the default exchange."""
    return Binding("", Destination(QUEUE, queue), queue, {}, durable=True)


def _of_source(vhost: Vhost, source: str) -> Iterator[Binding]:
    if not source:
        yield from map(_default, chain(vhost.queues, vhost.topics))
    elif source in vhost.exchanges:
        yield from vhost.exchanges[source].bindings.values()


def _of_destination(vhost: Vhost, destination: Destination) -> Iterator[Binding]:
    if destination.kind == TOPIC or (destination.kind == QUEUE and destination.name in vhost.queues):
        yield _default(destination.name)
    yield from vhost.bindings_to(destination)


def _between(call: Call, vhost: Vhost) -> list[Binding]:
    source, destination = call.exchange_name("source"), _destination(call, vhost)
    return [binding for binding in _of_destination(vhost, destination) if binding.source == source]


def _destination(call: Call, vhost: Vhost) -> Destination:
    """Raises Refused for what is neither `q` nor `e`."""
    kind = _KINDS.get(call.name("kind"))
    if kind is None:
        raise not_there()
    if kind == QUEUE:
        return vhost.destination_of(call.name("destination"))
    return Destination(kind, call.exchange_name("destination"))


async def _listed(call: Call, vhost: Vhost, found: Iterator[Binding] | list[Binding]) -> Response:
    return await listed(call.request.query, [(vhost.name, binding) for binding in found], show, key_of)


# ---- lists ----


@route("GET", "/api/bindings")
@route("GET", "/api/bindings/{vhost}")
async def list_bindings(call: Call) -> Response:
    placed = [
        (vhost.name, binding)
        for vhost in call.vhosts()
        for found in (_of_source(vhost, ""), vhost.bindings())
        for binding in found
    ]
    return await listed(call.request.query, placed, show, key_of)


@route("GET", "/api/exchanges/{vhost}/{exchange}/bindings/source")
async def list_of_source(call: Call) -> Response:
    vhost = call.vhost()
    return await _listed(call, vhost, _of_source(vhost, exchange_of(call, vhost).name))


@route("GET", "/api/exchanges/{vhost}/{exchange}/bindings/destination")
async def list_of_destination(call: Call) -> Response:
    vhost = call.vhost()
    destination = Destination(EXCHANGE, exchange_of(call, vhost).name)
    return await _listed(call, vhost, _of_destination(vhost, destination))


@route("GET", "/api/queues/{vhost}/{queue}/bindings")
async def list_of_queue(call: Call) -> Response:
    vhost = call.vhost()
    name = call.name("queue")
    if name not in vhost.queues and name not in vhost.topics:
        raise not_there()
    return await _listed(call, vhost, _of_destination(vhost, vhost.destination_of(name)))


@route("GET", "/api/bindings/{vhost}/e/{source}/{kind}/{destination}")
async def list_between(call: Call) -> Response:
    vhost = call.vhost()
    return await _listed(call, vhost, _between(call, vhost))


# ---- one ----


@route("POST", "/api/bindings/{vhost}/e/{source}/{kind}/{destination}")
async def post_binding(call: Call) -> Response:
    from broker.management.schema import BindingBody

    vhost = call.vhost()
    source, destination = call.exchange_name("source"), _destination(call, vhost)
    body = call.body(BindingBody)
    call.check_ends(vhost, source, destination.kind, destination.name)
    if destination.kind == QUEUE:
        vhost.queue(destination.name, NOBODY)
    binding, _ = call.node.topology.bind(vhost, source, destination, body.routing_key, body.arguments)
    await call.declared()
    # Relative to the path of the request, whose last segment is the destination.
    there = f"{quote(call.name('destination'), safe='')}/{quote(properties_key(binding), safe='')}"
    return Response(201, [("location", there)])


@route("GET", "/api/bindings/{vhost}/e/{source}/{kind}/{destination}/{properties}")
async def get_binding(call: Call) -> Response:
    vhost = call.vhost()
    return shown_once(call.request.query, show((vhost.name, _named(call, vhost))))


@route("DELETE", "/api/bindings/{vhost}/e/{source}/{kind}/{destination}/{properties}")
async def delete_binding(call: Call) -> Response:
    vhost = call.vhost()
    binding = _named(call, vhost)
    end = binding.destination
    call.check_ends(vhost, binding.source, end.kind, end.name)
    if end.kind == QUEUE:
        vhost.queue(end.name, NOBODY)
    call.node.topology.unbind(vhost, binding.source, end, binding.routing_key, binding.arguments)
    await call.declared()
    return Response(204)


def _named(call: Call, vhost: Vhost) -> Binding:
    """The binding that the path means; a key may stand there unquoted too. Raises Refused if there is none."""
    wanted = call.name("properties")
    for binding in _between(call, vhost):
        if properties_key(binding) == wanted:
            return binding
    for binding in _between(call, vhost):
        if not binding.arguments and binding.routing_key == unquote_plus(wanted):
            return binding
    raise not_there()
