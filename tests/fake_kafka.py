"""A broker with Kafka's protocol in memory, which answers as a test wants it to.

Flow:   `async with fake_kafka() as fake:` and `fake.connect()` is our client's log. `fake.answers[api]` is called
        with each request of that API, and gives the body of the answer; or bytes, which are sent as they are;
        or None for no answer; or CUT, which ends the connection. It may be asynchronous.
Shape:  one broker, id 1 at fake:9092, which leads all partitions of whatever topic is asked for. What is
        produced can be fetched, by itself; there are no groups.
"""

from __future__ import annotations

import inspect
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio
from anyio.abc import ByteStream, TaskGroup

import leveret.log
from broker.kafka import api, records
from broker.kafka.api import Api, Request
from broker.kafka.connection import Framer
from broker.kafka.errors import ErrorCode, UnsupportedVersion
from broker.kafka.records import Record
from fake_broker import Pipe, pipes

CUT: Final = object()


class _ClientEnd(Pipe):
    """Of a connection; it notes when it is closed."""

    def __init__(self, pipe: Pipe) -> None:
        super().__init__(pipe._out, pipe._into)
        self.is_open = True

    async def aclose(self) -> None:
        self.is_open = False
        await super().aclose()


class FakeKafka:
    """Its attributes may be changed at any time."""

    def __init__(self, tasks: TaskGroup) -> None:
        self.partitions = 1
        self.leader = 1
        self.missing: set[str] = set()
        """Topics that are not there."""
        self.dialled: list[leveret.log.Address] = []
        self.requests: list[Request] = []
        self.log: dict[tuple[str, int], list[bytes]] = {}
        """Batches with their offsets."""
        self.next_producer_id = 100
        self.answers: dict[Api, Callable[[Request], Any]] = {
            api.API_VERSIONS: self.api_versions,
            api.METADATA: self.metadata,
            api.INIT_PRODUCER_ID: self.init_producer_id,
            api.PRODUCE: self.produce,
            api.LIST_OFFSETS: self.list_offsets,
            api.FETCH: self.fetch,
        }
        self.connections: list[_ClientEnd] = []
        self._streams: list[Pipe] = []
        self._tasks = tasks

    # ---- the client's side ----

    def connect(self, url: str = "kafka://fake") -> leveret.log.Log:
        return leveret.log.connect(url, dial=self.dial)

    async def dial(self, address: leveret.log.Address) -> ByteStream:
        await anyio.lowlevel.checkpoint()
        self.dialled.append(address)
        here, there = pipes()
        self._streams.append(there)
        self.connections.append(_ClientEnd(here))
        self._tasks.start_soon(self._serve, there)
        return self.connections[-1]

    def count(self, kind: Api) -> int:
        """How many requests of it came."""
        return Counter(request.api.name for request in self.requests)[kind.name]

    async def cut(self) -> None:
        """All connections end."""
        for stream in self._streams:
            await stream.aclose()

    @property
    def open_connections(self) -> int:
        return sum(connection.is_open for connection in self.connections)

    # ---- the broker's side ----

    async def _serve(self, stream: Pipe) -> None:
        framer = Framer(1 << 30)
        try:
            while True:
                for frame in framer.receive(await stream.receive()):
                    await self._handle(stream, frame)
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass
        finally:
            with anyio.CancelScope(shield=True):
                await stream.aclose()

    async def _handle(self, stream: Pipe, frame: bytes) -> None:
        try:
            request = api.read_request(frame)
        except UnsupportedVersion as error:
            request = Request(api.API_VERSIONS, 0, error.correlation_id, None, {})
        for topic in request.body.get("topic_data", ()):
            for one in topic["partition_data"]:
                one["records"] = bytes(one["records"])
        self.requests.append(request)
        answer = self.answers[request.api](request)
        if inspect.isawaitable(answer):
            answer = await answer
        if answer is CUT:
            raise anyio.ClosedResourceError
        if isinstance(answer, bytes):
            await stream.send(answer)
        elif answer is not None:
            parts = api.write_response(request.api, request.version, request.correlation_id, answer)
            await stream.send(b"".join(parts))

    # ---- answers ----

    def api_versions(self, _: Request) -> Any:
        known = [api.APIS[kind.key] for kind in self.answers]
        keys = [
            {"api_key": kind.key, "min_version": kind.min_version, "max_version": kind.max_version}
            for kind in known
        ]
        return {"api_keys": keys}

    def metadata(self, request: Request) -> Any:
        topics = [self.topic(one["name"]) for one in request.body["topics"] or ()]
        brokers = [{"node_id": 1, "host": "fake", "port": 9092}]
        return {"brokers": brokers, "controller_id": 1, "topics": topics}

    def topic(self, name: str) -> dict[str, Any]:
        if name in self.missing:
            return {"name": name, "error_code": ErrorCode.UNKNOWN_TOPIC_OR_PARTITION}
        partitions = [
            {"partition_index": number, "leader_id": self.leader} for number in range(self.partitions)
        ]
        return {"name": name, "partitions": partitions}

    def init_producer_id(self, _: Request) -> Any:
        self.next_producer_id += 1
        return {"producer_id": self.next_producer_id, "producer_epoch": 0}

    def produce(self, request: Request) -> Any:
        return self.produced(request, lambda *_: ErrorCode.NONE)

    def produced(self, request: Request, code_of: Callable[[str, int, bytes], ErrorCode]) -> Any:
        """Append what `code_of` (topic, partition, batch) lets through."""
        responses = []
        for topic in request.body["topic_data"]:
            results = []
            for one in topic["partition_data"]:
                code = code_of(topic["name"], one["index"], one["records"])
                offset = -1
                if code == ErrorCode.NONE:
                    offset = self.append(topic["name"], one["index"], one["records"])
                results.append({"index": one["index"], "error_code": code, "base_offset": offset})
            responses.append({"name": topic["name"], "partition_responses": results})
        return {"responses": responses}

    def append(self, topic: str, partition: int, batch: bytes) -> int:
        batches = self.log.setdefault((topic, partition), [])
        offset = self.end(topic, partition)
        batches.append(struct.pack(">q", offset) + batch[8:])
        return offset

    def add(self, topic: str, *values: bytes, partition: int = 0) -> None:
        """Records, in one batch."""
        self.append(topic, partition, records.build([Record(0, 0, None, value) for value in values]))

    def values(self, topic: str, partition: int = 0) -> list[bytes | None]:
        batches = self.log.get((topic, partition), [])
        return [record.value for batch in batches for record in records.iterate(batch)]

    def end(self, topic: str, partition: int) -> int:
        batches = self.log.get((topic, partition))
        if not batches:
            return 0
        header = records.read_header(batches[-1])
        return header.base_offset + header.last_offset_delta + 1

    def list_offsets(self, request: Request) -> Any:
        return {
            "topics": [
                {
                    "name": topic["name"],
                    "partitions": [
                        {
                            "partition_index": one["partition_index"],
                            "offset": 0
                            if one["timestamp"] == -2
                            else self.end(topic["name"], one["partition_index"]),
                        }
                        for one in topic["partitions"]
                    ],
                }
                for topic in request.body["topics"]
            ]
        }

    async def fetch(self, request: Request) -> Any:
        """Waits as long as it was told to if there is nothing."""
        responses = self.fetched(request)
        if not any(one["records"] for topic in responses for one in topic["partitions"]):
            await anyio.sleep(request.body["max_wait_ms"] / 1000)
            responses = self.fetched(request)
        return {"responses": responses}

    def fetched(self, request: Request) -> list[dict[str, Any]]:
        return [
            {
                "topic": topic["topic"],
                "partitions": [
                    {
                        "partition_index": one["partition"],
                        "records": self.batches(topic["topic"], one["partition"], one["fetch_offset"]),
                    }
                    for one in topic["partitions"]
                ],
            }
            for topic in request.body["topics"]
        ]

    def batches(self, topic: str, partition: int, offset: int) -> bytes:
        """The one with this offset and all behind it."""
        found = []
        for batch in self.log.get((topic, partition), []):
            header = records.read_header(batch)
            if header.base_offset + header.last_offset_delta >= offset:
                found.append(batch)
        return b"".join(found)


@asynccontextmanager
async def fake_kafka() -> AsyncIterator[FakeKafka]:
    async with anyio.create_task_group() as tasks:
        try:
            yield FakeKafka(tasks)
        finally:
            tasks.cancel_scope.cancel()
