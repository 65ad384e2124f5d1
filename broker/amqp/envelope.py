"""What the messages of a publisher have in common, and runs of messages.

Flow:   frames makes an envelope of a basic.publish frame and the facts of the properties behind it, and runs of
        messages with the same one; the node makes one run of what a pass brings for a queue.
Limits: 4,096 envelopes are remembered for all connections together, and dropped together when full.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

from broker.amqp import content, wire
from broker.amqp.properties import Facts, expiration_ms
from broker.amqp.spec import DIRECT_REPLY_TO, FRAME_END

_ENVELOPES_MAX: Final = 4096

Kind: TypeAlias = tuple[str, Facts, bool]


class Envelope:
    """What messages of a publisher have in common: where they go, and the facts of their properties."""

    __slots__ = (
        "_delivered",
        "_redelivered",
        "channel",
        "exchange",
        "facts",
        "frame_max",
        "immediate",
        "kind",
        "mandatory",
        "plain",
        "routing_key",
    )

    def __init__(
        self,
        channel: int,
        frame_max: int,
        exchange: str,
        routing_key: str,
        facts: Facts,
        *,
        mandatory: bool = False,
        immediate: bool = False,
    ) -> None:
        self.channel = channel
        """The number in the contents' frames."""
        self.frame_max = frame_max
        """No frame of the contents is larger."""
        self.exchange = exchange
        self.routing_key = routing_key
        self.facts = facts
        self.mandatory = mandatory
        self.immediate = immediate
        self.plain = not (
            facts.asks_direct_reply or (not exchange and routing_key.startswith(DIRECT_REPLY_TO))
        )
        """Direct reply-to has nothing to do with these messages."""
        self.kind = (exchange, facts, immediate)
        """What rights and checks depend on: the same for whatever routing keys."""
        self._delivered = self._redelivered = b""

    def with_facts(self, facts: Facts) -> Envelope:
        """The same for messages with other properties."""
        return envelope_of(
            self.channel,
            self.frame_max,
            self.exchange,
            self.routing_key,
            facts,
            self.mandatory,
            self.immediate,
        )

    def delivery_end(self, redelivered: bool) -> bytes:
        """The basic.deliver frame behind its delivery tag: the same for all consumers."""
        end = self._redelivered if redelivered else self._delivered
        if not end:
            exchange, routing_key = wire.shortstr(self.exchange), wire.shortstr(self.routing_key)
            end = b"%c%b%b%c" % (redelivered, exchange, routing_key, FRAME_END)
            if redelivered:
                self._redelivered = end
            else:
                self._delivered = end
        return end

    def measure(self, contents: Sequence[bytes]) -> int:
        """The bytes of the bodies of some contents."""
        return content.body_sizes(contents)

    def expirations_ms(self, contents: Sequence[bytes]) -> list[int]:
        """The expiration of each content; only where the facts say that they expire."""
        return [expiration_ms(closed, content.PROPERTIES_AT) for closed in contents]


_envelopes: dict[tuple[object, ...], Envelope] = {}


def envelope_of(
    channel: int,
    frame_max: int,
    exchange: str,
    routing_key: str,
    facts: Facts,
    mandatory: bool = False,
    immediate: bool = False,
) -> Envelope:
    """The envelope of these values: as long as it is remembered, the same object for all connections.

    So that a queue can tell by identity that what fifty publishers sent may go on as one.
    """
    key = (channel, frame_max, exchange, routing_key, facts, mandatory, immediate)
    known = _envelopes.get(key)
    if known is None:
        if len(_envelopes) >= _ENVELOPES_MAX:
            _envelopes.clear()
        known = _envelopes[key] = Envelope(
            channel,
            frame_max,
            exchange,
            routing_key,
            facts,
            mandatory=mandatory,
            immediate=immediate,
        )
    return known


class PublishRun:
    """Messages with the same facts; as they come from a connection they have the same envelope."""

    __slots__ = ("body_size", "contents", "envelope", "envelopes", "size")

    def __init__(
        self, envelope: Envelope, contents: list[bytes], body_size: int | None, size: int = -1
    ) -> None:
        self.envelope = envelope
        self.envelopes: list[Envelope] | None = None
        """One for each message where they differ."""
        self.contents = contents
        self.body_size = body_size
        """Bytes of each body where all are equally long, else None."""
        if size < 0:
            size = envelope.measure(contents) if body_size is None else body_size * len(contents)
        self.size = size
        """Bytes of all bodies together."""

    @classmethod
    def of(cls, runs: Sequence[PublishRun]) -> PublishRun:
        """One run with the messages of several, which have the same facts."""
        first = runs[0]
        body_size = first.body_size
        contents: list[bytes] = []
        envelopes: list[Envelope] = []
        size = 0
        alike = True
        for run in runs:
            contents += run.contents
            envelopes += [run.envelope] * len(run.contents)
            size += run.size
            if run.body_size != body_size:
                body_size = None
            if run.envelope is not first.envelope:
                alike = False
        one = cls(first.envelope, contents, body_size, size)
        if not alike:
            one.envelopes = envelopes
        return one

    def add(self, contents: list[bytes], body_size: int | None, size: int) -> None:
        """Lengthen the run by messages with the same envelope; `size` is that of their bodies together."""
        self.contents += contents
        self.size += size
        if self.body_size != body_size:
            self.body_size = None
