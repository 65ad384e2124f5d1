"""basic.qos, consume and cancel.

Spec:   AMQP 0-9-1 section 1.8.3; RabbitMQ: `global` false is for consumers that come later, `global` true
        is one window for the whole channel; `x-priority`.
"""

from __future__ import annotations

from typing import Any

from broker.amqp import methods
from broker.amqp.errors import ProtocolError
from broker.amqp.spec import DIRECT_REPLY_TO, ReplyCode
from broker.model.arguments import erlang_type
from broker.model.errors import NotImplementedHere, PreconditionFailed
from broker.model.exchange import QUEUE
from broker.model.resource import spoken
from broker.model.user import Right
from broker.server.amqp import stream
from broker.server.amqp.channel import Channel, handles
from broker.server.amqp.delivery import AmqpConsumer
from broker.server.amqp.topology import name_of, queue_of, random_name


@handles(methods.BasicQos)
def basic_qos(channel: Channel, method: methods.BasicQos) -> None:
    if method.prefetch_size:
        raise NotImplementedHere(f"prefetch_size!=0 ({method.prefetch_size})")
    if method.global_:
        channel.prefetch.limit = method.prefetch_count
        channel.wake_consumers()
    else:
        channel.consumer_prefetch = method.prefetch_count
    channel.send(methods.BasicQosOk())


@handles(methods.BasicConsume)
def basic_consume(channel: Channel, method: methods.BasicConsume) -> None:
    tag = method.consumer_tag or random_name("amq.ctag-")
    if tag in channel.consumers or tag == channel.reply_tag:
        raise ProtocolError(ReplyCode.NOT_ALLOWED, f"attempt to reuse consumer tag '{tag}'")
    if method.queue == DIRECT_REPLY_TO:
        _consume_replies(channel, tag, method)
        return
    limit = channel.connection.server.options.consumers_per_channel_max
    if len(channel.consumers) >= limit:
        raise ProtocolError(ReplyCode.NOT_ALLOWED, f"reached maximum ({limit}) of consumers per channel")
    name = name_of(channel, method.queue)
    channel.check(Right.READ, QUEUE, name)
    topic = stream.topic_of(channel, name)
    queue = queue_of(channel, name) if topic is None else stream.reader_for(channel, topic, method)
    consumer = AmqpConsumer(
        channel,
        tag,
        queue,
        acks=not method.no_ack,
        exclusive=method.exclusive,
        priority=_priority(name, channel, method.arguments.get("x-priority", 0)),
        prefetch=channel.consumer_prefetch,
        arguments=method.arguments,
    )
    queue.add_consumer(consumer)
    channel.consumers[tag] = consumer
    if not method.nowait:
        channel.send(methods.BasicConsumeOk(consumer_tag=tag))
    channel.connection.node.mark(queue)


def _priority(queue: str, channel: Channel, value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise PreconditionFailed(
        f"invalid arg 'x-priority' for {spoken('queue', queue, channel.connection.vhost.name)}: "
        f'"expected integer, got {erlang_type(value)}"'
    )


def _consume_replies(channel: Channel, tag: str, method: methods.BasicConsume) -> None:
    """Become the requester of direct replies: what is published to its address comes straight here."""
    if not method.no_ack:
        raise PreconditionFailed("reply consumer cannot acknowledge")
    if channel.reply_token:
        raise PreconditionFailed("reply consumer already set")
    channel.reply_token = random_name("")
    channel.reply_tag = tag
    channel.connection.server.reply_channels[channel.reply_token] = channel
    if not method.nowait:
        channel.send(methods.BasicConsumeOk(consumer_tag=tag))


@handles(methods.BasicCancel)
def basic_cancel(channel: Channel, method: methods.BasicCancel) -> None:
    tag = method.consumer_tag
    consumer = channel.consumers.get(tag)
    if consumer is not None:
        channel.remove_consumer(consumer)
    elif channel.reply_token and tag == channel.reply_tag:
        channel.connection.server.reply_channels.pop(channel.reply_token, None)
        channel.reply_token = channel.reply_tag = ""
    if not method.nowait:
        channel.send(methods.BasicCancelOk(consumer_tag=tag))


@handles(methods.BasicCancelOk)
def basic_cancel_ok(channel: Channel, method: methods.BasicCancelOk) -> None:
    """Some clients answer our basic.cancel; nothing hangs on it."""
