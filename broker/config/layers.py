"""The settings as each layer takes them."""

from __future__ import annotations

import os

from broker import __version__
from broker.config.notation import topic_text
from broker.config.settings import Config
from broker.management.options import ManagementOptions
from broker.model.group_limits import GroupLimits
from broker.node.declarations import (
    BindingDeclaration,
    Declarations,
    ExchangeDeclaration,
    PermissionDeclaration,
    QueueDeclaration,
    TopicDeclaration,
    UserDeclaration,
)
from broker.node.groups import GroupOptions
from broker.node.node import NodeOptions
from broker.server.amqp.options import AmqpOptions
from broker.server.kafka.options import KafkaOptions


def node_options(config: Config) -> NodeOptions:
    limits = config.limits
    return NodeOptions(
        data=os.fspath(config.data),
        name=config.name,
        arguments_size_max=config.amqp.frame_max,
        queue_memory_max=limits.queue_memory,
        queues_memory_max=limits.queues_memory,
        segment_size_max=limits.segment_size,
        partitions_max=limits.partitions,
        groups=GroupOptions(
            vhost=config.kafka.vhost,
            groups_max=config.kafka.groups_max,
            size_max=config.kafka.groups_memory,
            limits=GroupLimits(
                initial_rebalance_delay_ms=config.kafka.initial_rebalance_delay_ms,
                session_timeout_min_ms=config.kafka.session_timeout_min_ms,
                session_timeout_max_ms=config.kafka.session_timeout_max_ms,
                size_max=config.kafka.group_size_max,
            ),
            retention_ms=int(config.kafka.offsets_retention_s * 1000),
        ),
        memory_limit=limits.memory,
        disk_free_limit=limits.disk_free,
    )


def amqp_options(config: Config) -> AmqpOptions:
    amqp = config.amqp
    return AmqpOptions(
        product=amqp.product,
        version=amqp.version,
        own_version=__version__,
        channel_max=amqp.channel_max,
        frame_max=amqp.frame_max,
        heartbeat_s=amqp.heartbeat_s,
        connection_max=config.limits.connections,
        message_size_max=amqp.message_size_max,
        unfinished_size_max=amqp.unfinished_memory,
        handshake_timeout_s=amqp.handshake_timeout_s,
        close_timeout_s=amqp.close_timeout_s,
        refused_delay_s=amqp.refused_delay_s,
        loopback_users=frozenset(config.loopback_users),
        transaction_size_max=amqp.transaction_size_max,
    )


def kafka_options(config: Config) -> KafkaOptions:
    kafka = config.kafka
    return KafkaOptions(
        vhost=kafka.vhost,
        anonymous_user=kafka.anonymous_user,
        loopback_users=frozenset(config.loopback_users),
        advertised_host=kafka.advertised.host if kafka.advertised is not None else "",
        advertised_port=kafka.advertised.port if kafka.advertised is not None else 0,
        auto_create_topics=kafka.auto_create_topics,
        partitions=kafka.partitions,
        connections_max=config.limits.connections,
        request_size_max=kafka.request_size_max,
        requests_size_max=kafka.requests_memory,
        fetch_size_max=kafka.fetch_size_max,
        idle_timeout_s=kafka.idle_timeout_s,
        login_timeout_s=kafka.login_timeout_s,
    )


def management_options(config: Config) -> ManagementOptions:
    amqp = config.amqp
    return ManagementOptions(
        product=amqp.product,
        version=amqp.version,
        own_version=__version__,
        connection_max=config.limits.connections,
        message_size_max=amqp.message_size_max,
        loopback_users=frozenset(config.loopback_users),
    )


def declarations(config: Config) -> Declarations:
    return Declarations(
        default_user=UserDeclaration(
            config.default_user.name,
            password=config.default_user.password,
            tags=("administrator",),
            permissions=(PermissionDeclaration(config.default_user.vhost),),
        ),
        vhosts=tuple(entry.name for entry in config.vhost),
        users=tuple(
            UserDeclaration(
                user.name,
                password=user.password,
                password_hash=user.password_hash,
                hashing_algorithm=user.hashing_algorithm,
                tags=tuple(user.tags),
                permissions=tuple(
                    PermissionDeclaration(entry.vhost, entry.configure, entry.write, entry.read)
                    for entry in user.permission
                ),
            )
            for user in config.user
        ),
        exchanges=tuple(
            ExchangeDeclaration(
                entry.vhost,
                entry.name,
                entry.type,
                entry.durable,
                entry.auto_delete,
                entry.internal,
                entry.arguments,
            )
            for entry in config.exchange
        ),
        queues=tuple(
            QueueDeclaration(entry.vhost, entry.name, entry.durable, entry.auto_delete, entry.arguments)
            for entry in config.queue
        ),
        bindings=tuple(
            BindingDeclaration(
                entry.vhost,
                entry.source,
                entry.destination_type,
                entry.destination,
                entry.routing_key,
                entry.arguments,
            )
            for entry in config.binding
        ),
        topics=tuple(
            TopicDeclaration(
                entry.vhost,
                entry.name,
                entry.partitions,
                {name: topic_text(value) for name, value in entry.configs.items()},
            )
            for entry in config.topic
        ),
    )
