"""Streams, as AMQP's clients consume them: topics, behind the methods of queues.

Spec:   RabbitMQ's streams: consumers have a prefetch count;
        `basic.get`, `queue.purge` and the global prefetch are not for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.amqp import methods
from broker.model.errors import NotImplementedHere, PreconditionFailed
from broker.model.exchange import QUEUE
from broker.model.resource import spoken
from broker.node import streams
from broker.node.stream_reader import MessageLimits, StreamReader
from broker.node.topics import Topic

if TYPE_CHECKING:
    from broker.server.amqp.channel import Channel


def topic_of(channel: Channel, name: str) -> Topic | None:
    """The topic that a method calls a queue, if it is one."""
    return streams.topic_of(channel.connection.node, channel.connection.vhost, name)


def declared(topic: Topic) -> methods.QueueDeclareOk:
    count = sum(partition.high_watermark - partition.start_offset for partition in topic.partitions)
    return methods.QueueDeclareOk(
        queue=topic.name, message_count=min(count, 2**32 - 1), consumer_count=len(topic.readers)
    )


def reader_for(channel: Channel, topic: Topic, method: methods.BasicConsume) -> StreamReader:
    """Raises PreconditionFailed, NotImplementedHere."""
    of = spoken(QUEUE, topic.name, topic.vhost)
    if method.exclusive:
        raise PreconditionFailed(f"{of} is a stream and cannot be consumed exclusively")
    if channel.prefetch.limit:
        raise NotImplementedHere(f"{of} does not support global qos")
    if not channel.consumer_prefetch and not method.no_ack:
        raise PreconditionFailed(f"consumer prefetch count is not set for stream {of}")
    connection = channel.connection
    node = connection.node
    return StreamReader(
        topic,
        method.arguments,
        node.clock.now_ms(),
        node.mark,
        node.mark_later,
        node.pieces,
        node.large_records,
        connection,
        MessageLimits(connection.server.options.message_size_max, connection.frame_max),
    )


def refuse(what: str, topic: Topic) -> NotImplementedHere:
    return NotImplementedHere(
        f"{what} not supported by stream queues {spoken(QUEUE, topic.name, topic.vhost)}"
    )
