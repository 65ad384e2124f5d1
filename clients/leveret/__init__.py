"""A client for AMQP 0-9-1 brokers, Leveret and RabbitMQ, for trio and asyncio alike.

    import anyio
    import leveret

    async def main():
        async with leveret.connect("amqp://guest:guest@localhost:5672/%2F?heartbeat=30") as connection:
            async with connection.channel() as channel:
                await channel.declare_queue("orders", durable=True)
                await channel.publish(b"one tea", routing_key="orders", persistent=True, headers={"table": 7})

                async with channel.consume("orders", prefetch=100) as messages:
                    async for message in messages:
                        print(message.body, message.headers)
                        await message.ack()
                        break  # there is no other order

    anyio.run(main)  # trio.run(main) and asyncio.run(main()) do as well

Publishing
    `channel.publish` returns when the broker has confirmed the message. It raises Unroutable if the
    message is `mandatory` and no queue received it, and PublishRefused if the broker did not take it.
    Any number of tasks may publish on one channel; their messages share the way there and the confirms.
    `channel.publish_many` publishes a body after the other with a window of unconfirmed ones, which is the
    fastest way. Both wait while the broker takes no messages (`connection.blocked`).

Consuming
    `channel.consume` is an asynchronous iterator; `async with` cancels it at the end, and gives back what
    was not taken. `async for message in channel.consume(...)` alone does, too, if it goes on as long as its
    channel. A message is settled once, with `ack`, `nack` or `reject`. At most `prefetch` messages are here
    and not settled; with `no_ack`, where the broker forgets what it has sent, the connection stops reading
    while so many wait to be taken. If the broker cancels the consumer, because its queue was deleted for
    example, the iteration raises ConsumerCancelled. `channel.get` gets one message, or None.
    Taking a message from the buffer is no checkpoint; waiting for one is, which happens at least once in
    `prefetch` messages. Nor is settling: its octets go out, with others, when the task waits next.

Errors
    All are LeveretErrors. What the broker refuses closes the channel, as AMQP wants it: ChannelClosed has
    the broker's code and text, and whoever uses or waits for that channel gets it. If the connection ends,
    everybody gets ConnectionClosed; nothing is opened again behind your back. Cancelling is safe
    anywhere: answers that come too late are dropped, messages that nobody took any more go back.

Time and memory
    The URL's `connection_timeout` bounds connecting. Heartbeats go both ways; after two that did not come
    the connection is closed. Saying goodbye to a consumer, a channel or the broker takes three seconds at
    most. Buffers are bounded: by prefetch for what comes in, by a mebibyte and one message for what
    publishers send.

Topics
    What stays when it is read, and is shared by groups of consumers, is for `leveret.log`.
"""

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
