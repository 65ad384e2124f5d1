"""A client for AMQP 0-9-1 brokers, Leveret and RabbitMQ, for trio and asyncio alike."""

from broker.amqp.properties import Properties
from leveret.channel import Channel
from leveret.connection import Connection, connect
from leveret.consumer import Consumer
from leveret.errors import (
    AlreadySettled,
    AuthenticationFailed,
    ChannelClosed,
    ConnectionClosed,
    ConnectionFailed,
    ConsumerCancelled,
    ConsumerOverrun,
    InvalidURL,
    InvalidValue,
    LeveretError,
    MalformedMessage,
    NotAllConfirmed,
    PublishFailed,
    PublishRefused,
    TooManyChannels,
    Unroutable,
)
from leveret.message import Message, ReturnedMessage
from leveret.topology import DeclaredQueue
from leveret.url import URL

__all__ = [
    "connect",
    "URL",
    "Connection",
    "Channel",
    "Consumer",
    "Message",
    "ReturnedMessage",
    "Properties",
    "DeclaredQueue",
    "LeveretError",
    "InvalidURL",
    "InvalidValue",
    "ConnectionFailed",
    "AuthenticationFailed",
    "ConnectionClosed",
    "ChannelClosed",
    "TooManyChannels",
    "PublishFailed",
    "PublishRefused",
    "Unroutable",
    "NotAllConfirmed",
    "ConsumerCancelled",
    "ConsumerOverrun",
    "AlreadySettled",
    "MalformedMessage",
]
