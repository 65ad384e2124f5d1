"""What a configuration file declares, applied to a node at start.

Spec:   idempotent: what is there already and the same is left alone; what is there and different stays
        as it is, is said, and does not keep the rest from being applied. A user has the password, the tags and
        the permissions of the file, and besides what permissions it was given elsewhere.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from broker.model.errors import ModelError, PreconditionFailed
from broker.model.exchange import QUEUE, Destination
from broker.model.topic import CONFIGS, same_value, value_of
from broker.node.passwords import ARGON2ID, Credentials, credentials_of, matches, scram_credentials
from broker.node.streams import declare_queue

if TYPE_CHECKING:
    from broker.model.user import User
    from broker.node.node import Node
    from broker.node.topics import Topic

logger = logging.getLogger("broker.node")


@dataclass(slots=True, frozen=True)
class PermissionDeclaration:
    vhost: str
    configure: str = ".*"
    write: str = ".*"
    read: str = ".*"


@dataclass(slots=True, frozen=True)
class UserDeclaration:
    name: str
    password: str | None = None
    password_hash: str | None = None
    hashing_algorithm: str = ARGON2ID
    tags: tuple[str, ...] = ()
    permissions: tuple[PermissionDeclaration, ...] = ()


@dataclass(slots=True, frozen=True)
class ExchangeDeclaration:
    vhost: str
    name: str
    type: str
    durable: bool
    auto_delete: bool
    internal: bool
    arguments: Mapping[str, Any]


@dataclass(slots=True, frozen=True)
class QueueDeclaration:
    vhost: str
    name: str
    durable: bool
    auto_delete: bool
    arguments: Mapping[str, Any]


@dataclass(slots=True, frozen=True)
class BindingDeclaration:
    vhost: str
    source: str
    destination_kind: str
    destination: str
    routing_key: str
    arguments: Mapping[str, Any]


@dataclass(slots=True, frozen=True)
class TopicDeclaration:
    vhost: str
    name: str
    partitions: int
    configs: Mapping[str, str]


@dataclass(slots=True, frozen=True)
class Declarations:
    """Everything that a file declares; the default user is for a new data folder."""

    default_user: UserDeclaration
    vhosts: tuple[str, ...] = ()
    users: tuple[UserDeclaration, ...] = ()
    exchanges: tuple[ExchangeDeclaration, ...] = ()
    queues: tuple[QueueDeclaration, ...] = ()
    bindings: tuple[BindingDeclaration, ...] = ()
    topics: tuple[TopicDeclaration, ...] = ()


async def apply(node: Node, declared: Declarations) -> list[str]:
    """Make what is missing, and wait until it is durable; returns a line for each conflict."""
    conflicts: list[str] = []

    def attempt(what: str, make: Callable[[], object]) -> None:
        try:
            make()
        except ModelError as error:
            conflicts.append(f"{what}: {error}")

    topology = node.topology
    users = declared.users
    if not users and not node.accounts.users and not node.accounts.begun:
        users = (declared.default_user,)
    named = [entry.vhost for user in users for entry in user.permissions]
    named += [exchange.vhost for exchange in declared.exchanges]
    named += [queue.vhost for queue in declared.queues]
    named += [binding.vhost for binding in declared.bindings]
    named += [topic.vhost for topic in declared.topics]
    for name in dict.fromkeys((*declared.vhosts, *named)):
        topology.put_vhost(name)
    for user in users:
        await _apply_user(node, user)
    node.accounts.begin()  # in the same commit as the last of them
    for exchange in declared.exchanges:
        attempt(f"exchange '{exchange.name}'", partial(_apply_exchange, node, exchange))
    for queue in declared.queues:
        attempt(f"queue '{queue.name}'", partial(_apply_queue, node, queue))
    for topic in declared.topics:
        attempt(f"topic '{topic.name}'", partial(_apply_topic, node, topic))
    for binding in declared.bindings:
        what = f"binding of '{binding.destination}' to '{binding.source}'"
        attempt(what, partial(_apply_binding, node, binding))
    await node.settled()
    return conflicts


def _apply_exchange(node: Node, declared: ExchangeDeclaration) -> None:
    node.topology.declare_exchange(
        node.topology.vhost(declared.vhost),
        declared.name,
        declared.type,
        durable=declared.durable,
        auto_delete=declared.auto_delete,
        internal=declared.internal,
        arguments=declared.arguments,
    )


def _apply_queue(node: Node, declared: QueueDeclaration) -> None:
    declare_queue(
        node,
        node.topology.vhost(declared.vhost),
        declared.name,
        durable=declared.durable,
        auto_delete=declared.auto_delete,
        arguments=declared.arguments,
    )


def _apply_topic(node: Node, declared: TopicDeclaration) -> None:
    """Raises PreconditionFailed, too, if it exists and somebody has changed it, or the file, since."""
    topic = node.topics.find(declared.vhost, declared.name)
    if topic is None:
        node.topics.create(declared.vhost, declared.name, declared.partitions, configs=declared.configs)
    elif differing := _differences(topic, declared):
        raise PreconditionFailed("; ".join(differing))


def _differences(topic: Topic, declared: TopicDeclaration) -> list[str]:
    """What is, and what the file says. A configuration that it leaves out is wanted at its default."""
    found = []
    if len(topic.partitions) != declared.partitions:
        found.append(f"partitions are {len(topic.partitions)}, in the file {declared.partitions}")
    for name in CONFIGS:
        if not same_value(name, topic.configs, declared.configs):
            wanted = declared.configs.get(name)
            said = f"in the file {wanted}" if wanted is not None else "not in the file"
            found.append(f"{name} is {value_of(topic.configs, name)}, {said}")
    return found


def _apply_binding(node: Node, declared: BindingDeclaration) -> None:
    vhost = node.topology.vhost(declared.vhost)
    end = Destination(declared.destination_kind, declared.destination)
    if end.kind == QUEUE:
        end = vhost.destination_of(end.name)
    node.topology.bind(vhost, declared.source, end, declared.routing_key, declared.arguments)


async def _apply_user(node: Node, user: UserDeclaration) -> None:
    """Whatever the password, the tags and these permissions were before."""
    accounts = node.accounts
    current = accounts.users.get(user.name)
    if user.password_hash is not None:
        found = Credentials(user.password_hash, user.hashing_algorithm, {})
        if current is not None and (current.password_hash, current.hashing_algorithm) == found[:2]:
            found = found._replace(scram=current.scram)
    else:
        found = await trio.to_thread.run_sync(_credentials, current, user.password or "")
    wanted = (*found, user.tags)
    if current is None or wanted != (
        current.password_hash,
        current.hashing_algorithm,
        current.scram,
        current.tags,
    ):
        accounts.put_user(user.name, found.password_hash, found.hashing_algorithm, user.tags, found.scram)
    for entry in user.permissions:
        known = accounts.user(user.name).permissions.get(entry.vhost)
        patterns = (entry.configure, entry.write, entry.read)
        if known is None or (known.configure, known.write, known.read) != patterns:
            accounts.put_permission(entry.vhost, user.name, *patterns)


def _credentials(current: User | None, password: str) -> Credentials:
    """Of this password, those of before if they are; in a thread."""
    if current is None or not matches(password, current.password_hash, current.hashing_algorithm):
        return credentials_of(password)
    scram = current.scram or scram_credentials(password)
    return Credentials(current.password_hash, current.hashing_algorithm, scram)
