"""DescribeConfigs, AlterConfigs, IncrementalAlterConfigs and ListConfigResources.

Flow:   each resource of a request is judged for itself, and altered as a whole or not at all; the answer waits
        for the commit that makes it safe.
Spec:   KIP-133, KIP-226, KIP-339. Of the resources of Kafka there are topics and this broker, which is not
        altered while it runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final

from broker.kafka import api
from broker.kafka.api import Request
from broker.kafka.errors import ErrorCode
from broker.model.errors import InvalidConfig, ModelError
from broker.model.topic import CONFIGS, ConfigType, check_configs, check_name, split_list, value_of
from broker.model.user import Right
from broker.server.kafka.configs import broker_entries, topic_entries
from broker.server.kafka.errors import Refused, failure, refusal
from broker.server.kafka.metadata import visible
from broker.server.kafka.operations import CLUSTER
from broker.server.kafka.reply import Reply
from broker.server.kafka.topic_admin import clients_topic

if TYPE_CHECKING:
    from broker.node.topics import Topic
    from broker.server.kafka.connection import KafkaConnection
    from broker.server.kafka.handlers import Handler


class Resource(IntEnum):
    """What has configurations; the numbers are Kafka's."""

    TOPIC = 2
    BROKER = 4
    BROKER_LOGGER = 8
    CLIENT_METRICS = 16
    GROUP = 32


class Operation(IntEnum):
    """What becomes of a configuration; the numbers are Kafka's."""

    SET = 0
    DELETE = 1
    APPEND = 2
    SUBTRACT = 3


def _check_broker(connection: KafkaConnection, name: str) -> None:
    """Raises Refused if it is another one, or not for this client. "" is all brokers."""
    if not visible(connection, CLUSTER):
        raise Refused(ErrorCode.CLUSTER_AUTHORIZATION_FAILED, "access to the cluster refused")
    node_id = str(connection.server.options.node_id)
    if name not in ("", node_id):
        raise Refused(ErrorCode.INVALID_REQUEST, f"there is no broker '{name}', only {node_id}")


def _no_configs(kind: int) -> Refused:
    return Refused(
        ErrorCode.INVALID_REQUEST,
        f"resources of type {kind} have no configurations here, only topics and the broker",
    )


# ---- describing ----


def describe_configs(connection: KafkaConnection, request: Request, reply: Reply) -> None:
    body = request.body
    results = []
    once = {(one["resource_type"], one["resource_name"]): one for one in body["resources"]}.values()
    for one in once:
        try:
            result = {**failure(ErrorCode.NONE), "configs": _described(connection, one, body)}
        except (Refused, ModelError) as error:
            result = {**refusal(error), "configs": []}
        result |= {"resource_type": one["resource_type"], "resource_name": one["resource_name"]}
        results.append(result)
    reply.answer({"results": results})


def _described(
    connection: KafkaConnection, one: dict[str, Any], body: dict[str, Any]
) -> list[dict[str, Any]]:
    """The entries that are asked for. Raises Refused or ModelError."""
    kind, name = one["resource_type"], one["resource_name"]
    if kind == Resource.TOPIC:
        entries = topic_entries(_visible_topic(connection, name).configs)
    elif kind == Resource.BROKER:
        _check_broker(connection, name)
        entries = broker_entries(connection)
    else:
        raise _no_configs(kind)
    keys = one["configuration_keys"]
    if keys:
        entries = [entry for entry in entries if entry["name"] in keys]
    if not body["include_synonyms"]:
        entries = [entry | {"synonyms": []} for entry in entries]
    if not body["include_documentation"]:
        entries = [entry | {"documentation": None} for entry in entries]
    return entries


def _visible_topic(connection: KafkaConnection, name: str) -> Topic:
    if not visible(connection, name):
        raise Refused(ErrorCode.TOPIC_AUTHORIZATION_FAILED, f"access to topic '{name}' refused")
    check_name(name)
    return connection.node.topics.topic(connection.server.options.vhost, name)


def list_config_resources(connection: KafkaConnection, request: Request, reply: Reply) -> None:
    """Version 0 is only for client metrics, which there are none of. No types are all."""
    asked = set(request.body["resource_types"]) if request.version >= 1 else {Resource.CLIENT_METRICS}
    if asked - set(Resource):
        reply.answer({"error_code": ErrorCode.UNSUPPORTED_VERSION, "config_resources": []})
        return
    found = []
    if not asked or Resource.TOPIC in asked:
        topics = connection.node.topics.topics(connection.server.options.vhost)
        found += [(Resource.TOPIC, topic.name) for topic in topics if visible(connection, topic.name)]
    if (not asked or Resource.BROKER in asked) and visible(connection, CLUSTER):
        found.append((Resource.BROKER, str(connection.server.options.node_id)))
    resources = [{"resource_type": kind, "resource_name": name} for kind, name in found]
    reply.answer({"error_code": ErrorCode.NONE, "config_resources": resources})


# ---- altering ----


def alter_configs(connection: KafkaConnection, request: Request, reply: Reply) -> None:
    """A topic gets these configurations and no others."""
    _alter(connection, request, reply, _replaced)


def incremental_alter_configs(connection: KafkaConnection, request: Request, reply: Reply) -> None:
    _alter(connection, request, reply, _changed)


_Change = Callable[["dict[str, str]", "list[dict[str, Any]]"], "dict[str, str]"]


def _alter(connection: KafkaConnection, request: Request, reply: Reply, change: _Change) -> None:
    body = request.body
    counts = Counter((one["resource_type"], one["resource_name"]) for one in body["resources"])
    wanted = {(one["resource_type"], one["resource_name"]): one for one in body["resources"]}
    responses = []
    for (kind, name), one in wanted.items():
        try:
            if counts[kind, name] > 1:
                raise Refused(ErrorCode.INVALID_REQUEST, "the resource stands more than once in this request")
            topic = _alterable(connection, kind, name)
            configs = change(topic.configs, one["configs"])
            check_configs(configs)
            if not body["validate_only"]:
                connection.node.topics.configure(topic, configs)
            result = failure(ErrorCode.NONE)
        except (Refused, ModelError) as error:
            result = refusal(error)
        responses.append({**result, "resource_type": kind, "resource_name": name})
    reply.answer_after(connection.node.flusher.unsafe_definitions, {"responses": responses})


def _alterable(connection: KafkaConnection, kind: int, name: str) -> Topic:
    """Raises Refused or ModelError."""
    if kind == Resource.TOPIC:
        return clients_topic(connection, name)
    if kind != Resource.BROKER:
        raise _no_configs(kind)
    if not connection.allows(Right.CONFIGURE, CLUSTER):
        raise Refused(ErrorCode.CLUSTER_AUTHORIZATION_FAILED, "configure access to the cluster refused")
    _check_broker(connection, name)
    raise Refused(
        ErrorCode.INVALID_REQUEST,
        "the broker is configured by its file and the environment, and not while it runs",
    )


def _check_once(asked: list[dict[str, Any]]) -> None:
    """Raises Refused for a configuration that is named twice."""
    for name, count in Counter(one["name"] for one in asked).items():
        if count > 1:
            raise Refused(ErrorCode.INVALID_REQUEST, f"{name} stands more than once in this request")


def _value(one: dict[str, Any]) -> str:
    """Raises Refused for null."""
    value = one["value"]
    if value is None:
        raise Refused(ErrorCode.INVALID_REQUEST, f"{one['name']}: null is no value")
    return str(value)


def _replaced(current: dict[str, str], asked: list[dict[str, Any]]) -> dict[str, str]:
    """Raises Refused."""
    _check_once(asked)
    return {one["name"]: _value(one) for one in asked}


def _changed(current: dict[str, str], asked: list[dict[str, Any]]) -> dict[str, str]:
    """Raises Refused or InvalidConfig."""
    _check_once(asked)
    configs = dict(current)
    for one in asked:
        name, operation = one["name"], one["config_operation"]
        if name not in CONFIGS:
            raise InvalidConfig(f"there is no topic configuration '{name:.100}'")
        if operation == Operation.DELETE:
            configs.pop(name, None)
        elif operation == Operation.SET:
            configs[name] = _value(one)
        elif operation in (Operation.APPEND, Operation.SUBTRACT):
            configs[name] = _list_changed(configs, name, operation, _value(one))
        else:
            raise Refused(ErrorCode.INVALID_REQUEST, f"{name}: there is no operation {operation}")
    return configs


def _list_changed(configs: dict[str, str], name: str, operation: int, value: str) -> str:
    """The list with these elements more, or without them. Raises InvalidConfig for what is no list."""
    if CONFIGS[name].type is not ConfigType.LIST:
        raise InvalidConfig(f"{name}: only a list can get or lose elements")
    elements = split_list(value_of(configs, name))
    given = split_list(value)
    if operation == Operation.SUBTRACT:
        return ",".join(element for element in elements if element not in given)
    return ",".join(dict.fromkeys([*elements, *given]))


HANDLERS: Final[dict[int, Handler]] = {
    api.DESCRIBE_CONFIGS.key: describe_configs,
    api.ALTER_CONFIGS.key: alter_configs,
    api.INCREMENTAL_ALTER_CONFIGS.key: incremental_alter_configs,
    api.LIST_CONFIG_RESOURCES.key: list_config_resources,
}
