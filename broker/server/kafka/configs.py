"""Configurations of topics and of the broker, as Kafka's answers have them.

Shape:  an entry is a dictionary with all the fields that any of the answers has.
Why:    The broker's are those for which Kafka has a name; they come from its configuration file and from
        what is fixed, and none is altered while it runs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from enum import IntEnum
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from broker.model.committed import METADATA_SIZE_MAX
from broker.model.group_limits import GroupLimits
from broker.model.producer import EXPIRY_MS
from broker.model.topic import CONFIGS, ConfigType
from broker.node.groups import GroupOptions
from broker.server.kafka.config_texts import BROKER_NAMES, DOCUMENTATION, NO_EFFECT
from broker.server.kafka.options import KafkaOptions
from broker.server.kafka.sasl import MECHANISMS

if TYPE_CHECKING:
    from broker.server.kafka.connection import KafkaConnection


class Source(IntEnum):
    """Where a value comes from; the numbers are Kafka's."""

    TOPIC = 1
    FILE = 4
    DEFAULT = 5


_TYPES: Final[Mapping[ConfigType, int]] = {
    ConfigType.BOOLEAN: 1,
    ConfigType.STRING: 2,
    ConfigType.INT: 3,
    ConfigType.LONG: 5,
    ConfigType.DOUBLE: 6,
    ConfigType.LIST: 7,
}
_BY_PYTHON: Final[Mapping[type, ConfigType]] = {
    bool: ConfigType.BOOLEAN,
    str: ConfigType.STRING,
    int: ConfigType.INT,
    list: ConfigType.LIST,
}
_MINUTE_MS: Final = 60_000


def topic_entries(configs: Mapping[str, str]) -> list[dict[str, Any]]:
    """All that a topic has, of which it was told these. Not to be changed: topics share what is the same."""
    return [
        _topic_entry(name, configs[name]) if name in configs else _default_entry(name) for name in CONFIGS
    ]


@cache
def _default_entry(name: str) -> dict[str, Any]:
    """Once, as a request may make thousands of topics."""
    return _topic_entry(name, None)


def _topic_entry(name: str, given: str | None) -> dict[str, Any]:
    config = CONFIGS[name]
    synonyms = []
    if given is not None:
        synonyms.append(_synonym(name, given, Source.TOPIC))
    synonyms.append(_synonym(BROKER_NAMES.get(name, name), config.default, Source.DEFAULT))
    return {
        "name": name,
        "value": config.default if given is None else given,
        "read_only": False,
        "config_source": Source.DEFAULT if given is None else Source.TOPIC,
        "is_sensitive": False,
        "synonyms": synonyms,
        "config_type": _TYPES[config.type],
        "documentation": DOCUMENTATION[name] + ("" if config.effective else NO_EFFECT),
    }


def _synonym(name: str, value: str, source: Source) -> dict[str, Any]:
    return {"name": name, "value": value, "source": source}


def broker_entries(connection: KafkaConnection) -> list[dict[str, Any]]:
    """All that the broker has, in the order of their names."""
    entries = [
        _broker_entry(broker, CONFIGS[name].default, Source.DEFAULT, CONFIGS[name].type, DOCUMENTATION[name])
        for name, broker in BROKER_NAMES.items()
        if CONFIGS[name].effective
    ]
    entries += _from_options(connection)
    host, port = connection.server.address_for(connection)
    protocol = "PLAINTEXT" if connection.server.options.anonymous_user else "SASL_PLAINTEXT"
    fixed: Mapping[str, tuple[Any, Source]] = {
        "advertised.listeners": ([f"{protocol}://{host}:{port}"], Source.FILE),
        "compression.type": ("producer", Source.DEFAULT),
        "default.replication.factor": (1, Source.DEFAULT),
        "delete.topic.enable": (True, Source.DEFAULT),
        "log.dirs": ([os.path.abspath(connection.node.options.data)], Source.FILE),
        "min.insync.replicas": (1, Source.DEFAULT),
        "offset.metadata.max.bytes": (METADATA_SIZE_MAX, Source.DEFAULT),
        "offsets.topic.num.partitions": (1, Source.DEFAULT),
        "offsets.topic.replication.factor": (1, Source.DEFAULT),
        "producer.id.expiration.ms": (EXPIRY_MS, Source.DEFAULT),
        "sasl.enabled.mechanisms": (list(MECHANISMS), Source.DEFAULT),
        "unclean.leader.election.enable": (False, Source.DEFAULT),
    }
    entries += [_plain_entry(name, value, source) for name, (value, source) in fixed.items()]
    return sorted(entries, key=lambda entry: str(entry["name"]))


def _from_options(connection: KafkaConnection) -> list[dict[str, Any]]:
    """What may be set, with what it would be if it were not."""
    options, groups = connection.server.options, connection.node.options.groups
    found = _of_server(options) | _of_groups(groups)
    defaults = _of_server(KafkaOptions()) | _of_groups(GroupOptions())
    return [
        _plain_entry(name, value, Source.DEFAULT if value == defaults[name] else Source.FILE)
        for name, value in found.items()
    ]


def _of_server(options: KafkaOptions) -> dict[str, Any]:
    return {
        "auto.create.topics.enable": options.auto_create_topics,
        "broker.id": options.node_id,
        "connection.failed.authentication.delay.ms": int(options.refused_delay_s * 1000),
        "connections.max.idle.ms": int(options.idle_timeout_s * 1000),
        "fetch.max.bytes": options.fetch_size_max,
        "max.connections": options.connections_max,
        "node.id": options.node_id,
        "num.partitions": options.partitions,
        "socket.request.max.bytes": options.request_size_max,
    }


def _of_groups(options: GroupOptions) -> dict[str, Any]:
    limits: GroupLimits = options.limits
    return {
        "group.initial.rebalance.delay.ms": limits.initial_rebalance_delay_ms,
        "group.max.session.timeout.ms": limits.session_timeout_max_ms,
        "group.max.size": limits.size_max,
        "group.min.session.timeout.ms": limits.session_timeout_min_ms,
        "offsets.retention.minutes": options.retention_ms // _MINUTE_MS,
    }


def _plain_entry(name: str, value: Any, source: Source) -> dict[str, Any]:
    kind = _BY_PYTHON[type(value)]
    if kind is ConfigType.BOOLEAN:
        text = "true" if value else "false"
    else:
        text = ",".join(value) if kind is ConfigType.LIST else str(value)
    return _broker_entry(name, text, source, kind, None)


def _broker_entry(
    name: str, value: str, source: Source, kind: ConfigType, documentation: str | None
) -> dict[str, Any]:
    return {
        "name": name,
        "value": value,
        "read_only": True,
        "config_source": source,
        "is_sensitive": False,
        "synonyms": [_synonym(name, value, source)],
        "config_type": _TYPES[kind],
        "documentation": documentation,
    }
