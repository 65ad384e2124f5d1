"""What can go wrong, as exceptions; all of them are LeveretErrors.

Shape:  LeveretError
            InvalidURL, InvalidValue      what was asked for cannot be; these are ValueErrors, too
            ConnectionFailed              no connection could be opened
                AuthenticationFailed
            ConnectionClosed              it was open, and is no more
            ChannelClosed                 the broker refused something on this channel, or it was left
            TooManyChannels
            PublishFailed                 a message is not where it should be
                Unroutable, PublishRefused, NotAllConfirmed
            ConsumerCancelled             the broker ended it; its queue is gone, for example
                ConsumerOverrun
            AlreadySettled
            MalformedMessage
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from leveret.message import ReturnedMessage


class LeveretError(Exception):
    """Something went wrong between us and the broker."""


class InvalidURL(LeveretError, ValueError):
    """The text is no URL of a broker that we can connect to."""


class InvalidValue(LeveretError, ValueError):
    """AMQP cannot carry this: a name that is too long, a header of a type that it does not have."""


class ConnectionFailed(LeveretError):
    """No connection: nobody listens there, it took too long, or the broker did not want us.

    `code` is the broker's, if it gave one.
    """

    def __init__(self, text: str, code: int | None = None) -> None:
        super().__init__(text)
        self.code = code


class AuthenticationFailed(ConnectionFailed):
    """The broker does not know this user with this password."""


class _Closed(LeveretError):
    def __init__(self, code: int | None, text: str) -> None:
        super().__init__(text if code is None else f"{code} {text}")
        self.code = code
        """AMQP's reply code, or None if nobody said one."""
        self.text = text


class ConnectionClosed(_Closed):
    """The connection is closed: by the broker, which said why, by a network that failed, or by us."""


class ChannelClosed(_Closed):
    """The channel is closed: `code` and `text` say what the broker refused, or that we closed it."""


class TooManyChannels(LeveretError):
    """All the channels that the broker allows on a connection are open."""


class PublishFailed(LeveretError):
    """A message was not taken by the broker as it was meant to be."""


class Unroutable(PublishFailed):
    """A mandatory message that no queue was bound to receive; it came back."""

    def __init__(self, message: ReturnedMessage) -> None:
        super().__init__(
            f"{message.code} {message.text}: exchange {message.exchange!r} has no queue "
            f"for routing key {message.routing_key!r}"
        )
        self.message = message


class PublishRefused(PublishFailed):
    """The broker answered with a nack: it did not take responsibility; a full queue may say so."""

    def __init__(self, exchange: str, routing_key: str) -> None:
        super().__init__(
            f"the broker refused a message to exchange {exchange!r} with routing key {routing_key!r}"
        )
        self.exchange = exchange
        self.routing_key = routing_key


class NotAllConfirmed(PublishFailed):
    """Of many messages some failed.

    The first `published` bodies were published, none after them; those were confirmed whose index is
    not in `failures`.
    """

    def __init__(self, published: int, failures: Mapping[int, PublishFailed]) -> None:
        first = next(iter(failures.values()))
        super().__init__(f"{len(failures)} of {published} messages failed, the first because {first}")
        self.published = published
        self.failures = failures


class ConsumerCancelled(LeveretError):
    """The broker cancelled the consumer; what it had delivered before was still handed out."""


class ConsumerOverrun(ConsumerCancelled):
    """We cancelled it: unacknowledged messages came faster than they were taken.

    Reading less would have stopped them, but there was a reply to be waited for behind them. A consumer
    without acknowledgements that also publishes needs a connection of its own.
    """


class AlreadySettled(LeveretError):
    """The message was acknowledged, rejected or given back before, or is none to be acknowledged."""


class MalformedMessage(LeveretError):
    """The properties or headers of a message are not what AMQP allows, so that only its body can be read."""
