"""A broker inside the test's own process and trio: its node and server are there to be looked at.

Flow:   `async with broker_here(tmp_path) as broker:` listens on a port that the system picks; on another one for
        Kafka, if it is given `kafka`.
Shape:  users: guest (everything in /), others as `broker.add_user` makes them; virtual host: /.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import trio

from amqp_client import Client
from broker.node.node import Node, NodeOptions, open_node
from broker.server.amqp.options import AmqpOptions
from broker.server.amqp.server import AmqpServer
from broker.server.kafka.options import KafkaOptions
from broker.server.serve import Address, serve


async def until(condition: Callable[[], object]) -> None:
    """Let everybody else run until it is true, whatever the clock says."""
    while not condition():
        await trio.lowlevel.checkpoint()


HASHING_ALGORITHM = "rabbit_password_hashing_sha256"


def quick_hash(password: str) -> str:
    """As RabbitMQ makes it: a login with it takes microseconds and not tens of milliseconds."""
    salt = b"salt"
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


@dataclass
class BrokerHere:
    node: Node
    server: AmqpServer
    address: tuple[str, int]
    clients: list[Client] = field(default_factory=list)
    """Those that were made here: their sockets are closed at the end."""

    def add_user(
        self,
        name: str,
        password: str = "secret",
        *,
        vhost: str = "/",
        configure: str = ".*",
        write: str = ".*",
        read: str = ".*",
        tags: tuple[str, ...] = (),
    ) -> None:
        accounts = self.node.accounts
        accounts.put_user(name, quick_hash(password), HASHING_ALGORITHM, tags)
        accounts.put_permission(vhost, name, configure, write, read)

    async def connect(self, **options: Any) -> Client:
        client = await Client.connect(self.address, **options)
        self.clients.append(client)
        return client

    async def dial(self) -> Client:
        """A socket on which nothing was said yet."""
        client = await Client.dial(self.address)
        self.clients.append(client)
        return client


@asynccontextmanager
async def broker_here(
    folder: Path,
    *,
    node_options: dict[str, Any] | None = None,
    kafka: KafkaOptions | None = None,
    **options: Any,
) -> AsyncIterator[BrokerHere]:
    """`options` are those of `AmqpOptions`; delays for the refused are off unless they are asked for."""
    node = open_node(NodeOptions(str(folder / "data"), **(node_options or {})))
    try:
        amqp_options = replace(AmqpOptions(refused_delay_s=0.0), **options)
        here = Address("127.0.0.1", 0)
        async with serve(node, amqp_options, here, kafka, here) as servers:
            listener = node.listeners[0]
            broker = BrokerHere(node, servers.amqp, (listener.host, listener.port))
            node.topology.put_vhost("/")
            broker.add_user("guest", "guest")
            await node.settled()
            try:
                yield broker
            finally:
                for client in broker.clients:
                    client.drop()
    finally:
        node.close()
