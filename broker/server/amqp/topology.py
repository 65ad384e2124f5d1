"""exchange.* and queue.*: declare, bind, delete, purge.

Spec:   AMQP 0-9-1 section 1.6 and 1.7; RabbitMQ for exchange to exchange bindings, for what "" names,
        for idempotent deletes, and for which right each of them needs.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence

from broker.amqp import methods
from broker.amqp.spec import DIRECT_REPLY_TO
from broker.model.arguments import Arguments
from broker.model.errors import AccessRefused, NotFound
from broker.model.exchange import EXCHANGE, QUEUE, Destination
from broker.model.queue import Queue
from broker.model.resource import cleaned, spoken
from broker.model.user import Right
from broker.node.streams import declare_queue
from broker.node.topics import Topic
from broker.server.amqp import stream
from broker.server.amqp.channel import Channel, handles


def random_name(prefix: str) -> str:
    """`amq.gen-` or `amq.ctag-` and 22 characters that nobody guesses."""
    return prefix + base64.urlsafe_b64encode(os.urandom(16)).decode().rstrip("=")


def queue_of(channel: Channel, name: str) -> Queue:
    """The queue that a method names, "" being the one declared last. Raises NotFound, ResourceLocked."""
    return channel.connection.vhost.queue(name_of(channel, name), channel.connection)


def name_of(channel: Channel, name: str) -> str:
    """Raises NotFound if "" names nothing."""
    if name:
        return name
    if not channel.last_queue:
        raise NotFound("no previously declared queue")
    return channel.last_queue


# ---- exchanges ----


@handles(methods.ExchangeDeclare)
def exchange_declare(channel: Channel, method: methods.ExchangeDeclare) -> None:
    connection = channel.connection
    name = cleaned(method.exchange)
    if not name:
        raise AccessRefused("operation not permitted on the default exchange")
    if method.passive:
        channel.check_any(EXCHANGE, name)
        connection.vhost.exchange(name)
        channel.reply(methods.ExchangeDeclareOk(), nowait=method.nowait)
        return
    channel.check(Right.CONFIGURE, EXCHANGE, name)
    alternate = method.arguments.get("alternate-exchange")
    if isinstance(alternate, str) and name not in connection.vhost.exchanges:
        channel.check(Right.READ, EXCHANGE, name)
        channel.check(Right.WRITE, EXCHANGE, alternate)
    connection.node.topology.declare_exchange(
        connection.vhost,
        name,
        method.type,
        durable=method.durable,
        auto_delete=method.auto_delete,
        internal=method.internal,
        arguments=method.arguments,
    )
    _reply_when_safe(channel, methods.ExchangeDeclareOk(), method.nowait)


@handles(methods.ExchangeDelete)
def exchange_delete(channel: Channel, method: methods.ExchangeDelete) -> None:
    connection = channel.connection
    name = cleaned(method.exchange)
    if name and not name.startswith("amq."):  # those are refused to everybody
        channel.check(Right.CONFIGURE, EXCHANGE, name)
    connection.node.topology.delete_exchange(connection.vhost, name, if_unused=method.if_unused)
    _reply_when_safe(channel, methods.ExchangeDeleteOk(), method.nowait)


@handles(methods.ExchangeBind)
def exchange_bind(channel: Channel, method: methods.ExchangeBind) -> None:
    end = Destination(EXCHANGE, cleaned(method.destination))
    _bind(channel, method.source, end, method.routing_key, method.arguments)
    _reply_when_safe(channel, methods.ExchangeBindOk(), method.nowait)


@handles(methods.ExchangeUnbind)
def exchange_unbind(channel: Channel, method: methods.ExchangeUnbind) -> None:
    end = Destination(EXCHANGE, cleaned(method.destination))
    _unbind(channel, method.source, end, method.routing_key, method.arguments)
    _reply_when_safe(channel, methods.ExchangeUnbindOk(), method.nowait)


def _bind(channel: Channel, source: str, end: Destination, routing_key: str, arguments: Arguments) -> None:
    connection = channel.connection
    source = cleaned(source)
    _check_ends(channel, source, end)
    connection.vhost.exchange(source)
    if end.kind == QUEUE:
        connection.vhost.queue(end.name, connection)
    connection.node.topology.bind(connection.vhost, source, end, routing_key, arguments)


def _unbind(channel: Channel, source: str, end: Destination, routing_key: str, arguments: Arguments) -> None:
    connection = channel.connection
    source = cleaned(source)
    _check_ends(channel, source, end)
    if end.kind == QUEUE and end.name in connection.vhost.queues:
        connection.vhost.queue(end.name, connection)
    connection.node.topology.unbind(connection.vhost, source, end, routing_key, arguments)


def _check_ends(channel: Channel, source: str, end: Destination) -> None:
    channel.check(Right.WRITE, end.kind, end.name)
    if not source or (end.kind == EXCHANGE and not end.name):
        raise AccessRefused("operation not permitted on the default exchange")
    channel.check(Right.READ, EXCHANGE, source)


# ---- queues ----


@handles(methods.QueueDeclare)
def queue_declare(channel: Channel, method: methods.QueueDeclare) -> None:
    name = cleaned(method.queue)
    if name.startswith(DIRECT_REPLY_TO):
        _declare_reply_queue(channel, name, method)
        return
    found = _find(channel, name) if method.passive else _declare(channel, name, method)
    channel.last_queue = found.name
    if isinstance(found, Queue):
        declared = methods.QueueDeclareOk(
            queue=found.name,
            message_count=found.ready_count,
            consumer_count=len(found.consumers),
        )
    else:
        declared = stream.declared(found)
    _reply_when_safe(channel, declared, method.nowait)


def _find(channel: Channel, name: str) -> Queue | Topic:
    """A passive declare: "" is no name here, and who may do anything with the queue may ask for it."""
    connection = channel.connection
    channel.check_any(QUEUE, name)
    topic = stream.topic_of(channel, name)
    if topic is not None:
        return topic
    queue = connection.vhost.queue(name, connection)
    queue.used(connection.node.clock.now_ms())
    return queue


def _declare(channel: Channel, name: str, method: methods.QueueDeclare) -> Queue | Topic:
    connection = channel.connection
    chosen_here = not name
    name = name or random_name("amq.gen-")
    channel.check(Right.CONFIGURE, QUEUE, name)
    letters = method.arguments.get("x-dead-letter-exchange")
    if isinstance(letters, str) and name not in connection.vhost.queues:
        channel.check(Right.READ, QUEUE, name)
        channel.check(Right.WRITE, EXCHANGE, letters)
    found, new = declare_queue(
        connection.node,
        connection.vhost,
        name,
        durable=method.durable and not method.exclusive,
        auto_delete=method.auto_delete,
        owner=connection,
        exclusive=method.exclusive,
        arguments=method.arguments,
        chosen_here=chosen_here,
    )
    if new and method.exclusive:
        assert isinstance(found, Queue)
        connection.own(found)
    return found


def _declare_reply_queue(channel: Channel, name: str, method: methods.QueueDeclare) -> None:
    """The pseudo queue of direct reply-to is there as long as its requester."""
    token = name.removeprefix(DIRECT_REPLY_TO).removeprefix(".")
    if token and token not in channel.connection.server.reply_channels:
        raise NotFound(f"no {spoken('queue', name, channel.connection.vhost.name)}")
    channel.reply(
        methods.QueueDeclareOk(queue=name, message_count=0, consumer_count=1),
        nowait=method.nowait,
    )


@handles(methods.QueueBind)
def queue_bind(channel: Channel, method: methods.QueueBind) -> None:
    name = _bindable(channel, method.queue)
    key = _key_of(method.queue, name, method.routing_key)
    _bind(channel, method.exchange, channel.connection.vhost.destination_of(name), key, method.arguments)
    _reply_when_safe(channel, methods.QueueBindOk(), method.nowait)


@handles(methods.QueueUnbind)
def queue_unbind(channel: Channel, method: methods.QueueUnbind) -> None:
    name = _bindable(channel, method.queue)
    key = _key_of(method.queue, name, method.routing_key)
    _unbind(channel, method.exchange, channel.connection.vhost.destination_of(name), key, method.arguments)
    _reply_when_safe(channel, methods.QueueUnbindOk(), nowait=False)


def _key_of(asked: str, name: str, routing_key: str) -> str:
    """Without a queue name and a key, the key is the name of the queue declared last."""
    return name if not asked and not routing_key else routing_key


def _bindable(channel: Channel, asked: str) -> str:
    """The name of the queue. Raises NotFound as `name_of` does, or AccessRefused."""
    name = cleaned(asked)
    if name.startswith(DIRECT_REPLY_TO):
        raise AccessRefused("cannot bind or unbind to a volatile (direct reply-to) queue")
    return name_of(channel, name)


@handles(methods.QueuePurge)
def queue_purge(channel: Channel, method: methods.QueuePurge) -> None:
    name = name_of(channel, method.queue)
    channel.check(Right.READ, QUEUE, name)
    if (topic := stream.topic_of(channel, name)) is not None:
        raise stream.refuse("queue.purge", topic)
    queue = queue_of(channel, name)
    count = queue.purge()
    channel.connection.node.mark(queue)
    channel.reply(methods.QueuePurgeOk(message_count=count), nowait=method.nowait)


@handles(methods.QueueDelete)
def queue_delete(channel: Channel, method: methods.QueueDelete) -> None:
    name = name_of(channel, cleaned(method.queue))
    channel.check(Right.CONFIGURE, QUEUE, name)
    with (
        channel.connection.answering() as behind
    ):  # its consumers on this connection are told after delete-ok
        count = _delete(channel, name, method)
    _reply_when_safe(channel, methods.QueueDeleteOk(message_count=count), method.nowait, behind)


def _delete(channel: Channel, name: str, method: methods.QueueDelete) -> int:
    """Returns how many messages there were."""
    connection = channel.connection
    topic = stream.topic_of(channel, name)
    if topic is not None:
        if method.if_unused or method.if_empty:
            raise stream.refuse("queue.delete with if-unused or if-empty", topic)
        count = stream.declared(topic).message_count
        connection.node.topics.delete(topic)
        return count
    if name not in connection.vhost.queues:
        return 0
    queue = connection.vhost.queue(name, connection)
    count = connection.node.topology.delete_queue(
        connection.vhost,
        queue,
        if_unused=method.if_unused,
        if_empty=method.if_empty,
    )
    connection.exclusive_queues.pop(queue, None)
    return count


def _reply_when_safe(
    channel: Channel, method: methods.Method, nowait: bool, behind: Sequence[bytes] = ()
) -> None:
    """Definitions are durable before a client is told of them."""
    commit = channel.connection.node.flusher.unsafe_definitions
    channel.reply(method, nowait=nowait, after=commit, behind=behind)
