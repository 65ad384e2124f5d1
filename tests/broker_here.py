"""A broker inside the test's own process and trio: its node and server are there to be looked at.

Flow:   `async with broker_here(tmp_path) as broker:` listens on a port that the system picks.
Shape:  users: guest (everything in /), others as `broker.add_user` makes them; virtual host: /.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from amqp_client import Client
from broker.node.node import Node, NodeOptions, open_node
from broker.server.amqp.options import AmqpOptions
from broker.server.amqp.server import AmqpServer
from broker.server.serve import Address, amqp_server

_ALGORITHM = "rabbit_password_hashing_sha256"


def quick_hash(password: str) -> str:
    """As RabbitMQ makes it: a login with it takes microseconds and not tens of milliseconds."""
    salt = b"salt"
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


@dataclass
class BrokerHere:
    node: Node
    server: AmqpServer
    address: tuple[str, int]

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
        accounts.put_user(name, quick_hash(password), _ALGORITHM, tags)
        accounts.put_permission(vhost, name, configure, write, read)

    async def connect(self, **options: Any) -> Client:
        return await Client.connect(self.address, **options)


@asynccontextmanager
async def broker_here(
    folder: Path, *, node_options: dict[str, Any] | None = None, **options: Any
) -> AsyncIterator[BrokerHere]:
    """`options` are those of `AmqpOptions`; delays for the refused are off unless they are asked for."""
    node = open_node(NodeOptions(str(folder / "data"), **(node_options or {})))
    try:
        amqp_options = replace(AmqpOptions(refused_delay_s=0.0), **options)
        async with amqp_server(node, Address("127.0.0.1", 0), amqp_options) as server:
            listener = node.listeners[0]
            broker = BrokerHere(node, server, (listener.host, listener.port))
            node.topology.put_vhost("/")
            broker.add_user("guest", "guest")
            await node.settled()
            yield broker
    finally:
        node.close()
