"""A raw Kafka client for tests: our codec in the client's role over a socket, right or wrong.

Flow:   `await client.call(api.METADATA, {...})` gives the answer's body; `send` only sends and `answer` takes
        the next one, which must be that of the oldest request without one. `write` sends octets as they are.
Limits: every wait ends after `WAIT_S`, which the loopback never needs.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

import trio

from broker.kafka import api, records
from broker.kafka.api import Api
from broker.kafka.connection import Framer
from broker.kafka.errors import ErrorCode
from broker.kafka.records import Record
from patience import WAIT_S

CLIENT_ID = "wire"


class Ended(Exception):
    """The broker closed the socket."""


class KafkaClient:
    """One connection."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._framer = Framer(1 << 30)
        self._frames: deque[bytes] = deque()
        self._sent: deque[tuple[Api, int, int]] = deque()
        self._correlation_id = 100

    @classmethod
    async def dial(cls, address: tuple[str, int]) -> KafkaClient:
        with trio.fail_after(WAIT_S):
            return cls(await trio.open_tcp_stream(*address))

    async def write(self, octets: bytes) -> None:
        with trio.fail_after(WAIT_S):
            await self.stream.send_all(octets)

    async def send(self, each: Api, body: dict[str, Any] | None = None, version: int | None = None) -> None:
        """In the highest version, unless another one is asked for."""
        await self.write(self.written(each, body, version))

    def written(self, each: Api, body: dict[str, Any] | None = None, version: int | None = None) -> bytes:
        """The octets of a request, whose answer is expected then."""
        version = each.max_version if version is None else version
        self._correlation_id += 1
        self._sent.append((each, version, self._correlation_id))
        parts = api.write_request(each, version, self._correlation_id, CLIENT_ID, body or {})
        return b"".join(map(bytes, parts))

    def forget_last(self) -> None:
        """The newest request gets no answer."""
        self._sent.pop()

    async def answer(self) -> dict[str, Any]:
        """To the oldest request that has none yet. Raises Ended."""
        frame = await self.frame()
        each, version, correlation_id = self._sent.popleft()
        got, body = api.read_response(each, version, frame)
        assert got == correlation_id
        return body

    async def call(
        self, each: Api, body: dict[str, Any] | None = None, version: int | None = None
    ) -> dict[str, Any]:
        await self.send(each, body, version)
        return await self.answer()

    async def frame(self) -> bytes:
        """The next one, whatever it is. Raises Ended."""
        with trio.fail_after(WAIT_S):
            while not self._frames:
                try:
                    data = await self.stream.receive_some(65_536)
                except trio.BrokenResourceError:
                    raise Ended from None
                if not data:
                    raise Ended
                self._frames += self._framer.receive(data)
        return self._frames.popleft()

    async def ends(self) -> None:
        """The broker closes the socket, and says nothing before."""
        try:
            frame = await self.frame()
        except Ended:
            return
        raise AssertionError(f"expected the end, got {frame!r}")

    def drop(self) -> None:
        self.stream.socket.close()

    # ---- what is asked for often ----

    async def create(
        self, name: str, partitions: int = 1, configs: dict[str, str] | None = None
    ) -> dict[str, Any]:
        """A topic; its result."""
        topic = {
            "name": name,
            "num_partitions": partitions,
            "replication_factor": -1,
            "assignments": [],
            "configs": [{"name": key, "value": value} for key, value in (configs or {}).items()],
        }
        (result,) = (await self.call(api.CREATE_TOPICS, {"topics": [topic]}))["topics"]
        assert result["error_code"] == ErrorCode.NONE, result["error_message"]
        return result

    async def produce(
        self,
        topic: str,
        values: Iterable[bytes | None] | bytes,
        partition: int = 0,
        *,
        version: int | None = None,
        acks: int = -1,
        **options: Any,
    ) -> dict[str, Any]:
        """One batch: records with these values, or the octets of a batch. Its result."""
        octets = values if isinstance(values, bytes) else batch(values, **options)
        body = produce_body(topic, octets, partition, acks=acks)
        answer = await self.call(api.PRODUCE, body, version)
        return answer["responses"][0]["partition_responses"][0]

    async def fetch(
        self, topic: str, offset: int = 0, partition: int = 0, version: int = 12, **options: Any
    ) -> dict[str, Any]:
        """What one partition has from an offset on: its part of the answer."""
        answer = await self.call(api.FETCH, fetch_body({(topic, partition): offset}, **options), version)
        assert answer["error_code"] == ErrorCode.NONE
        return answer["responses"][0]["partitions"][0]

    async def offsets_at(self, topic: str, timestamp: int, partition: int = 0) -> tuple[int, int]:
        """ListOffsets: offset and time."""
        one = {"partition_index": partition, "current_leader_epoch": -1, "timestamp": timestamp}
        body = {"replica_id": -1, "topics": [{"name": topic, "partitions": [one]}]}
        found = (await self.call(api.LIST_OFFSETS, body))["topics"][0]["partitions"][0]
        assert found["error_code"] == ErrorCode.NONE
        return found["offset"], found["timestamp"]


def batch(
    values: Iterable[bytes | None], *, timestamp: int | None = None, key: bytes | None = b"k", **options: Any
) -> bytes:
    """Of records with these values, each a millisecond later than the one before; the first is made now."""
    if timestamp is None:
        timestamp = int(time.time() * 1000)
    found = [Record(0, timestamp + number, key, value) for number, value in enumerate(values)]
    return records.build(found, **options)


def produce_body(topic: str, octets: Any, partition: int = 0, *, acks: int = -1) -> dict[str, Any]:
    one = {"index": partition, "records": octets}
    return {
        "transactional_id": None,
        "acks": acks,
        "timeout_ms": 1000,
        "topic_data": [{"name": topic, "partition_data": [one]}],
    }


def fetch_body(
    wanted: dict[tuple[str | bytes, int], int],
    *,
    max_wait_ms: int = 0,
    min_bytes: int = 1,
    max_bytes: int = 1 << 20,
    partition_max_bytes: int = 1 << 20,
    session_id: int = 0,
    session_epoch: int = -1,
    forgotten: Sequence[tuple[str | bytes, int]] = (),
) -> dict[str, Any]:
    """Offsets by topic, or its id, and partition."""
    topics: dict[str | bytes, list[dict[str, Any]]] = {}
    for (topic, partition), offset in wanted.items():
        one = {
            "partition": partition,
            "current_leader_epoch": -1,
            "fetch_offset": offset,
            "last_fetched_epoch": -1,
            "log_start_offset": -1,
            "partition_max_bytes": partition_max_bytes,
        }
        topics.setdefault(topic, []).append(one)
    gone: dict[str | bytes, list[int]] = {}
    for topic, partition in forgotten:
        gone.setdefault(topic, []).append(partition)
    return {
        "replica_id": -1,
        "max_wait_ms": max_wait_ms,
        "min_bytes": min_bytes,
        "max_bytes": max_bytes,
        "isolation_level": 0,
        "session_id": session_id,
        "session_epoch": session_epoch,
        "topics": [{**_named(topic), "partitions": found} for topic, found in topics.items()],
        "forgotten_topics_data": [{**_named(topic), "partitions": found} for topic, found in gone.items()],
        "rack_id": "",
    }


def _named(topic: str | bytes) -> dict[str, Any]:
    return {"topic_id": topic} if isinstance(topic, bytes) else {"topic": topic}


def values_of(octets: Any) -> list[bytes | None]:
    """Of all records in batches."""
    return [record.value for record in records_of(octets)]


def records_of(octets: Any) -> list[Record]:
    """All records in whole batches; the last may be cut short."""
    octets = bytes(octets)
    found: list[Record] = []
    at = 0
    while len(octets) - at >= records.HEADER_SIZE:
        header = records.read_header(octets, at)
        if at + header.size > len(octets):
            break
        found += records.iterate(octets[at : at + header.size])
        at += header.size
    return found
