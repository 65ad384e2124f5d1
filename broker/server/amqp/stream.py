"""Streams, as AMQP's clients declare and consume them: topics, behind the methods of queues.

Spec:   RabbitMQ's streams: durable and never exclusive or deleted by themselves; consumers have a prefetch count;
        `basic.get`, `queue.purge` and the global prefetch are not for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from broker.amqp import methods
from broker.model.arguments import OBSOLETE, STREAM, Arguments, check_agree
from broker.model.errors import NotImplementedHere, PreconditionFailed
from broker.model.exchange import QUEUE
from broker.model.resource import check_not_reserved, spoken
from broker.node.stream_reader import INTERVAL_MS, StreamReader
from broker.node.topics import Topic

if TYPE_CHECKING:
    from broker.server.amqp.channel import Channel

# As much as the largest message that an AMQP client may be allowed to publish, and some.
_MESSAGE_SIZE_MAX: Final = 512 * 1024 * 1024
_SEGMENT_BYTES_MAX: Final = 3_000_000_000
_SEGMENT_BYTES_MIN: Final = 1024 * 1024
_IGNORED: Final = frozenset(
    {
        "x-queue-type",
        "x-initial-cluster-size",
        "x-stream-filter-size-bytes",
        "x-queue-leader-locator",
        *OBSOLETE,
    }
)


def is_stream(arguments: Arguments) -> bool:
    return arguments.get("x-queue-type") == STREAM


def topic_of(channel: Channel, name: str) -> Topic | None:
    """The topic that a method calls a queue, if it is one."""
    vhost = channel.connection.vhost
    return channel.connection.node.topics.find(vhost.name, name) if name in vhost.topics else None


def declare(channel: Channel, name: str, method: methods.QueueDeclare) -> Topic:
    """As `queue.declare` with `x-queue-type` stream. Raises PreconditionFailed, AccessRefused."""
    vhost = channel.connection.vhost
    of = spoken(QUEUE, name, vhost.name)
    if not method.queue:
        raise PreconditionFailed("Cannot declare a server-named queue for type rabbit_stream_queue")
    for wrong, flag in (
        (method.exclusive, "exclusive-owner"),
        (method.auto_delete, "auto-delete"),
        (not method.durable, "non-durable"),
    ):
        if wrong:
            raise PreconditionFailed(f"invalid property '{flag}' for {of}")
    configs = _configs(of, method.arguments)
    current = topic_of(channel, name)
    if current is None:
        if name in vhost.queues:
            check_agree(
                "x-queue-type", of, vhost.queues[name].arguments.get("x-queue-type", "classic"), STREAM
            )
        check_not_reserved(QUEUE, name)
        return channel.connection.node.topics.create(vhost.name, name, 1, configs=configs)
    for argument, config in _ARGUMENTS.items():
        if argument in method.arguments and current.configs.get(config[0]) != configs[config[0]]:
            raise PreconditionFailed(
                f"inequivalent arg '{argument}' for {of}: received '{method.arguments[argument]}' "
                f"but the topic has {config[0]}={current.configs.get(config[0], 'default')}"
            )
    return current


def _configs(of: str, arguments: Arguments) -> dict[str, str]:
    """Topic configurations for the arguments of a stream, which keeps everything unless it is told."""
    found = {"retention.ms": "-1", "max.message.bytes": str(_MESSAGE_SIZE_MAX)}
    for argument, value in arguments.items():
        if argument in _ARGUMENTS:
            config, reader = _ARGUMENTS[argument]
            text = reader(value)
            if text is None:
                raise PreconditionFailed(f"invalid arg '{argument}' for {of}: {value!r:.100}")
            found[config] = text
        elif argument.startswith("x-") and argument not in _IGNORED:
            raise PreconditionFailed(f"invalid arg '{argument}' for {of} of queue type rabbit_stream_queue")
    return found


def _age(value: Any) -> str | None:
    unit = value[-1:] if isinstance(value, str) else ""
    if unit in INTERVAL_MS and str(value)[:-1].isdecimal():
        return str(int(value[:-1]) * INTERVAL_MS[unit])
    return None


def _bytes(value: Any) -> str | None:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _segment_bytes(value: Any) -> str | None:
    if _bytes(value) is None or value > _SEGMENT_BYTES_MAX:
        return None
    return str(min(max(value, _SEGMENT_BYTES_MIN), 2**31 - 1))


_ARGUMENTS: Final = {
    "x-max-age": ("retention.ms", _age),
    "x-max-length-bytes": ("retention.bytes", _bytes),
    "x-stream-max-segment-size-bytes": ("segment.bytes", _segment_bytes),
}


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
    node = channel.connection.node
    return StreamReader(topic, method.arguments, node.clock.now_ms(), node.mark, node.mark_later)


def refuse(what: str, topic: Topic) -> NotImplementedHere:
    return NotImplementedHere(
        f"{what} not supported by stream queues {spoken(QUEUE, topic.name, topic.vhost)}"
    )
