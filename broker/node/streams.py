"""Queues of every type: a stream is a topic, all else is a queue.

Flow:   AMQP, HTTP and the configuration file declare with `declare_queue`, so that they are told the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.model.arguments import STREAM, Arguments, check_agree
from broker.model.errors import PreconditionFailed
from broker.model.exchange import QUEUE
from broker.model.resource import check_not_reserved, cleaned, spoken
from broker.model.stream import check_configs_agree, check_flags, is_stream, stream_configs

if TYPE_CHECKING:
    from broker.model.queue import Queue
    from broker.model.vhost import Vhost
    from broker.node.node import Node
    from broker.node.topics import Topic


def topic_of(node: Node, vhost: Vhost, name: str) -> Topic | None:
    """The topic that AMQP calls a queue, if it is one."""
    return node.topics.find(vhost.name, name) if name in vhost.topics else None


def declare_queue(
    node: Node,
    vhost: Vhost,
    name: str,
    *,
    durable: bool,
    auto_delete: bool,
    owner: object = None,
    exclusive: bool = False,
    arguments: Arguments,
    chosen_here: bool = False,
) -> tuple[Queue | Topic, bool]:
    """What there is now, and whether it is new; a topic if it is declared as a stream.

    Raises as `Vhost.declare_queue` and, for a stream, as `Topics.create`.
    """
    name = cleaned(name)
    if not is_stream(arguments):
        return node.topology.declare_queue(
            vhost,
            name,
            durable=durable,
            auto_delete=auto_delete,
            owner=owner,
            exclusive=exclusive,
            arguments=arguments,
            chosen_here=chosen_here,
        )
    if chosen_here:
        raise PreconditionFailed("Cannot declare a server-named queue for type rabbit_stream_queue")
    of = spoken(QUEUE, name, vhost.name)
    check_flags(of, durable=durable, auto_delete=auto_delete, exclusive=exclusive)
    configs = stream_configs(of, arguments)
    current = topic_of(node, vhost, name)
    if current is not None:
        check_configs_agree(of, current.configs, arguments)
        return current, False
    if name in vhost.queues:
        check_agree("x-queue-type", of, vhost.queues[name].arguments.get("x-queue-type", "classic"), STREAM)
    check_not_reserved(QUEUE, name)
    return node.topics.create(vhost.name, name, 1, configs=configs), True
