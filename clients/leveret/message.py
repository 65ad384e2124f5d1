"""Messages as they come from the broker, and what can be done with them.

Why:    A message is kept as it came; its body and its properties are taken out when they are asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from broker.amqp import content, properties
from broker.amqp.errors import ProtocolError
from broker.amqp.frames import DeliveryEnvelope
from broker.amqp.properties import Properties
from leveret.errors import AlreadySettled, MalformedMessage

if TYPE_CHECKING:
    from leveret.channel import Channel


class _Received:
    """A body with properties."""

    __slots__ = ("_body", "_content", "_properties")

    def __init__(self, closed: bytes) -> None:
        self._content = closed
        self._body: bytes | None = None
        self._properties: Properties | None = None

    @property
    def body(self) -> bytes:
        if self._body is None:
            self._body = content.body_of(self._content)
        return self._body

    @property
    def properties(self) -> Properties:
        """content_type, correlation_id, reply_to, ...; None is "not set". Raises MalformedMessage."""
        if self._properties is None:
            try:
                self._properties = properties.decode(content.properties_of(self._content))
            except ProtocolError as error:
                raise MalformedMessage(error.text) from None
        return self._properties

    @property
    def headers(self) -> Mapping[str, Any]:
        """The header table; empty if there is none. Raises MalformedMessage."""
        return self.properties.headers or {}


class Message(_Received):
    """A message that a consumer got, or `Channel.get`.

    It is settled once: acknowledged, rejected or given back. Whatever is not settled when its channel
    closes goes back into its queue. Settling does not wait for the broker, which does not answer.
    """

    __slots__ = ("_channel", "_envelope", "_settled", "delivery_tag", "message_count")

    def __init__(
        self,
        channel: Channel,
        envelope: DeliveryEnvelope,
        delivery_tag: int,
        closed: bytes,
        settled: bool,
        message_count: int | None = None,
    ) -> None:
        self._content = closed
        self._body = None
        self._properties = None
        self._channel = channel
        self._envelope = envelope
        self._settled = settled
        self.delivery_tag = delivery_tag
        self.message_count = message_count
        """How many were left in the queue, if this one came from `Channel.get`."""

    @property
    def exchange(self) -> str:
        """Where it was published; "" is the default exchange."""
        return self._envelope.exchange

    @property
    def routing_key(self) -> str:
        return self._envelope.routing_key

    @property
    def redelivered(self) -> bool:
        """Somebody may have had it before."""
        return self._envelope.redelivered

    @property
    def consumer_tag(self) -> str:
        """ "" if it came from `Channel.get`."""
        return self._envelope.consumer_tag

    async def ack(self) -> None:
        """It is done; the broker forgets it. Raises AlreadySettled, and ChannelClosed or ConnectionClosed."""
        if self._settled:
            raise self._already_settled()
        self._channel._acknowledge(self.delivery_tag)
        self._settled = True

    async def nack(self, *, requeue: bool = True) -> None:
        """Give it back, to be delivered again; without `requeue` as `reject`. Raises as `ack` does."""
        if self._settled:
            raise self._already_settled()
        self._channel._refuse(self.delivery_tag, requeue)
        self._settled = True

    async def reject(self, *, requeue: bool = False) -> None:
        """It cannot be done: the broker drops it or makes it a dead letter. Raises as `ack` does."""
        await self.nack(requeue=requeue)

    def _already_settled(self) -> AlreadySettled:
        return AlreadySettled(
            f"message {self.delivery_tag} from routing key {self.routing_key!r} was settled before, "
            "or came without acknowledgement"
        )

    def __repr__(self) -> str:
        return (
            f"<Message {self.delivery_tag} exchange={self.exchange!r} routing_key={self.routing_key!r} "
            f"{content.body_size(self._content)} octets>"
        )


class ReturnedMessage(_Received):
    """A mandatory message that came back."""

    __slots__ = ("code", "exchange", "routing_key", "text")

    def __init__(self, code: int, text: str, exchange: str, routing_key: str, closed: bytes) -> None:
        super().__init__(closed)
        self.code = code
        self.text = text
        self.exchange = exchange
        self.routing_key = routing_key

    def __repr__(self) -> str:
        return (
            f"<ReturnedMessage {self.code} {self.text} exchange={self.exchange!r} "
            f"routing_key={self.routing_key!r} {content.body_size(self._content)} octets>"
        )
