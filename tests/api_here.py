"""The management API of a broker inside the test's own process.

Flow:   `async with api_here(tmp_path) as api:` serves AMQP, HTTP and metrics, and Kafka's protocol if it is given
        `kafka`, on ports that the system picks;
        `api.get`, `put`, `post` and `delete` ask as guest, who is an administrator, unless `user` is another.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import trio

from broker.management.listening import Listening
from broker.management.options import ManagementOptions
from broker.management.server import management_server
from broker.node.node import Node
from broker.server.kafka.options import KafkaOptions
from broker.server.serve import Address
from broker_here import BrokerHere, broker_here
from patience import WAIT_S

GUEST = ("guest", "guest")


class ApiHere:
    """A broker, and a client of its API."""

    def __init__(self, broker: BrokerHere, client: httpx2.AsyncClient) -> None:
        self.broker = broker
        self.client = client

    @property
    def node(self) -> Node:
        return self.broker.node

    def port(self, protocol: str) -> int:
        return next(found.port for found in self.node.listeners if found.protocol == protocol)

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        user: tuple[str, str] | None = GUEST,
        **options: Any,
    ) -> httpx2.Response:
        """`path` is what comes behind /api, or begins with // if it is not of the API."""
        url = path[1:] if path.startswith("//") else f"/api{path}"
        if body is not None:
            options["json"] = body
        with trio.fail_after(WAIT_S):
            return await self.client.request(method, url, auth=user, **options)

    async def get(self, path: str, **options: Any) -> Any:
        """The JSON of an answer that must be 200."""
        answer = await self.ask("GET", path, **options)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def put(self, path: str, body: Any = None, **options: Any) -> httpx2.Response:
        return await self.ask("PUT", path, body, **options)

    async def post(self, path: str, body: Any = None, **options: Any) -> httpx2.Response:
        return await self.ask("POST", path, body, **options)

    async def delete(self, path: str, **options: Any) -> httpx2.Response:
        return await self.ask("DELETE", path, **options)

    def add_user(self, name: str, *tags: str, **permission: str) -> tuple[str, str]:
        """With the password `secret` and, in /, everything that is not named."""
        self.broker.add_user(name, tags=tags, **permission)
        return name, "secret"


@asynccontextmanager
async def api_here(
    folder: Path,
    options: ManagementOptions | None = None,
    *,
    kafka: KafkaOptions | None = None,
    **node_options: Any,
) -> AsyncIterator[ApiHere]:
    async with broker_here(folder, node_options=node_options, kafka=kafka) as broker:
        broker.add_user("guest", "guest", tags=("administrator",))
        here = Address("127.0.0.1", 0)
        listening = Listening()
        await listening.open(here, here)
        async with management_server(broker.node, listening, options):
            port = next(found.port for found in broker.node.listeners if found.protocol == "http")
            async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
                yield ApiHere(broker, client)
