"""A broker with Kafka's listener inside the test's own process and trio: its node and server are there to be looked at.

Flow:   `async with kafka_here(tmp_path) as broker:` listens on a port that the system picks; a second one on
        the same folder is a restart.
Shape:  users: guest (everything in /), others as `broker.add_user` makes them; who does not log in is guest.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from broker.kafka import api
from broker.kafka.errors import ErrorCode
from broker.node.node import Node, NodeOptions, open_node
from broker.node.passwords import scram_credentials
from broker.server.amqp.options import AmqpOptions
from broker.server.kafka.options import KafkaOptions
from broker.server.kafka.server import KafkaServer
from broker.server.serve import Address, serve
from broker_here import HASHING_ALGORITHM, quick_hash
from kafka_wire import KafkaClient


@dataclass
class KafkaHere:
    node: Node
    server: KafkaServer
    address: tuple[str, int]
    clients: list[KafkaClient] = field(default_factory=list)
    """Those that were made here: their sockets are closed at the end."""

    def add_user(
        self,
        name: str,
        password: str = "secret",
        *,
        configure: str = ".*",
        write: str = ".*",
        read: str = ".*",
    ) -> None:
        """Somebody whose password is known as a text, for all mechanisms."""
        scram = scram_credentials(password, iterations=4096)
        self.node.accounts.put_user(name, quick_hash(password), HASHING_ALGORITHM, (), scram)
        self.node.accounts.put_permission("/", name, configure, write, read)

    async def dial(self) -> KafkaClient:
        """Somebody who is the anonymous user, if there is one."""
        client = await KafkaClient.dial(self.address)
        self.clients.append(client)
        return client

    async def log_in(self, name: str, password: str = "secret") -> KafkaClient:
        """Somebody else, with PLAIN."""
        client = await self.dial()
        await client.call(api.SASL_HANDSHAKE, {"mechanism": "PLAIN"})
        token = f"\0{name}\0{password}".encode()
        answer = await client.call(api.SASL_AUTHENTICATE, {"auth_bytes": token})
        assert answer["error_code"] == ErrorCode.NONE, answer["error_message"]
        return client


@asynccontextmanager
async def kafka_here(
    folder: Path, *, node_options: dict[str, Any] | None = None, **options: Any
) -> AsyncIterator[KafkaHere]:
    """`options` are those of `KafkaOptions`; delays for the refused are off unless they are asked for."""
    node = open_node(NodeOptions(str(folder / "data"), reserve_size=0, **(node_options or {})))
    try:
        kafka_options = replace(KafkaOptions(refused_delay_s=0.0), **options)
        kafka_address = Address("127.0.0.1", 0)
        async with serve(node, AmqpOptions(), None, kafka_options, kafka_address) as servers:
            (listener,) = node.listeners
            assert servers.kafka is not None
            broker = KafkaHere(node, servers.kafka, (listener.host, listener.port))
            if "/" not in node.topology.vhosts:
                node.topology.put_vhost("/")
                node.accounts.put_user("guest", "", "", ())
                node.accounts.put_permission("/", "guest", ".*", ".*", ".*")
                await node.settled()
            try:
                yield broker
            finally:
                for client in broker.clients:
                    client.drop()
    finally:
        node.close()
