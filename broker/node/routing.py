"""Where messages go whose headers have a say in it: the headers exchange, CC and BCC, and dead letters.

Spec:   https://www.rabbitmq.com/docs/sender-selected for CC and BCC.
"""

from __future__ import annotations

from collections.abc import Sequence

from broker.amqp import content, properties, wire
from broker.amqp.envelope import Envelope
from broker.amqp.errors import ProtocolError
from broker.model.dead_letter import is_cycle
from broker.model.errors import ModelError, PreconditionFailed
from broker.model.exchange import Headers
from broker.model.message import Sink
from broker.model.vhost import NO_HEADERS, Vhost
from broker.node.dead_letters import Letters


def _decoded(raw: bytes | None) -> Headers:
    if raw is None:
        return NO_HEADERS
    try:
        return wire.read_table(raw, 0)[0]
    except ProtocolError as error:
        raise PreconditionFailed(f"invalid message: its headers cannot be read: {error.text}") from None


def headers_of(closed: bytes) -> Headers:
    """Raises PreconditionFailed if nobody can read them."""
    return _decoded(properties.split(content.properties_of(closed)).get("headers"))


def headers_decide(vhost: Vhost, exchange: str, envelope: Envelope) -> bool:
    """Where messages go depends on what each has in its headers."""
    facts = envelope.facts
    return facts.has_copies or (facts.has_headers and vhost.headers_matter(exchange))


def copies(headers: Headers) -> list[str]:
    """Further routing keys. Raises PreconditionFailed if they are not a list of strings."""
    keys: list[str] = []
    for name in ("CC", "BCC"):
        value = headers.get(name, [])
        if not isinstance(value, list) or not all(isinstance(key, str) for key in value):
            raise PreconditionFailed(f"invalid message: the header {name} is not an array of strings")
        keys += value
    return keys


def queues_of(vhost: Vhost, envelope: Envelope, headers: Headers) -> Sequence[Sink]:
    """Of a message whose headers may say where it goes, too."""
    further = copies(headers)
    if further:
        return vhost.route_all(envelope.exchange, (envelope.routing_key, *further), headers)
    return vhost.route(envelope.exchange, envelope.routing_key, headers).queues


def without_bcc(closed: bytes, envelope: Envelope) -> bytes:
    """Blind copies are not told to anybody."""
    values = properties.split(content.properties_of(closed))
    fields = wire.split_table(values["headers"])
    del fields["BCC"]
    values["headers"] = wire.join_table(fields)
    return content.build(
        envelope.channel,
        properties.join(values),
        content.body_of(closed),
        envelope.frame_max,
    )


def routes_of_dead(vhost: Vhost, letters: Letters) -> Sequence[Sink]:
    """Without those in which they died before, if nobody rejected them since; nowhere if there is no exchange."""
    run = letters.run
    headers = _decoded(properties.split(content.properties_of(run.contents[0])).get("headers"))
    try:
        queues = queues_of(vhost, run.envelope, headers)
    except ModelError:
        return ()
    return [queue for queue in queues if not is_cycle(letters.history, queue.name)]
