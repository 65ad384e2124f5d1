"""Reads the partitions of a consumer ahead.

Flow:   a task for each broker asks for all that it leads of ours, again and again; what comes is cut into
        batches, which wait to be taken. Whoever takes one opens it.
Limits: about `prefetch` octets wait, as they came; then nothing is asked for until half of them are taken. A
        batch is as large as its producer was allowed to make it, and comes even if it is larger than all that.
Spec:   Fetch (1) without sessions. KIP-74: a batch always comes whole.
Why:    Each partition has an era: what was asked for before a seek, or before the partitions were shared out
        anew, may come after it, and is not ours any more.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple

import anyio
import google_crc32c
from anyio import Event
from anyio.abc import TaskGroup

from broker.kafka import api as apis
from broker.kafka import records
from broker.kafka.errors import ErrorCode
from broker.kafka.records import BatchHeader
from broker.kafka.wire import Struct
from leveret.errors import LeveretError
from leveret.log.cluster import MISSING_S, Cluster
from leveret.log.errors import (
    RETRIABLE,
    STALE,
    UNREACHED,
    MalformedRecords,
    OffsetOutOfRange,
    Reason,
    again,
    may_pass,
    refused,
)
from leveret.log.offsets import Offset, look_up
from leveret.log.record import TopicPartition
from leveret.log.url import Address

logger = logging.getLogger("leveret")

RETRY_S: Final = 0.1
"""How long a partition is left alone after its leader had nothing but an error."""
_MAGIC_AT: Final = 16
_CRC_AT: Final = 17
_CRC_FROM: Final = 21


@dataclass(slots=True, frozen=True)
class FetchOptions:
    """What `Log.consumer` was told of fetching."""

    offset: Offset
    """Where to begin, and to go on where there is nothing any more."""
    min_bytes: int
    max_bytes: int
    max_wait_s: float
    prefetch: int


@dataclass(slots=True, eq=False)
class Assigned:
    """A partition that is ours to read."""

    place: TopicPartition
    position: int
    """The offset of the record that is handed out next, or one before it."""
    fetch_at: int
    """What is asked for next."""
    committed: int | None = None
    era: int = 0
    waiting: int = 0
    """Batches that were not taken yet."""
    retry_at: float = 0.0
    resetting: bool = False
    """Where to go on is being looked up."""

    def moved(self) -> None:
        """If nothing waits, what is handed out next is what is asked for next."""
        if not self.waiting:
            self.position = self.fetch_at


class Fetched(NamedTuple):
    """A batch."""

    assigned: Assigned
    era: int
    first: int
    """The offset that was asked for; what is before it in the batch is not."""
    header: BatchHeader
    octets: memoryview


class Fetcher:
    """The running part of a consumer; `fail` is called when it cannot go on."""

    def __init__(self, cluster: Cluster, options: FetchOptions, fail: Callable[[Reason], None]) -> None:
        self.assigned: dict[TopicPartition, Assigned] = {}
        self._cluster = cluster
        self._options = options
        self._fail = fail
        self._lane = cluster.pool.lane()
        self._held = True
        self._stopped = False
        self._buffer: deque[Fetched] = deque()
        self._size = 0
        self._full = False
        self._room = Event()
        self._news = Event()
        self._bell = Event()
        self._under_way: set[object] = set()
        """What has a task: brokers that are read from, topics and partitions that are looked up."""
        self._tasks: TaskGroup | None = None

    # ---- what is ours ----

    def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        """These are ours now, and no others."""
        self.hold()
        self.assigned = {}
        self.add(positions)
        self._held = False

    def add(self, positions: Mapping[TopicPartition, int]) -> None:
        """These are ours, too."""
        for place, offset in positions.items():
            self.assigned[place] = Assigned(place, offset, offset)
        self._bell.set()

    def hold(self) -> None:
        """Give nothing more until the next `assign`."""
        self._held = True
        for assigned in self.assigned.values():
            assigned.era += 1
        self._drop_old()

    def seek(self, assigned: Assigned, offset: int) -> None:
        assigned.era += 1
        assigned.position = assigned.fetch_at = offset
        assigned.resetting = False
        self._drop_old()
        self._bell.set()

    def _drop_old(self) -> None:
        kept = deque(fetched for fetched in self._buffer if fetched.era == fetched.assigned.era)
        for fetched in self._buffer:
            if fetched.era != fetched.assigned.era:
                fetched.assigned.waiting -= 1
        self._buffer = kept
        self._size = sum(fetched.header.size for fetched in kept)
        self._make_room()

    # ---- what came ----

    def take(self) -> Fetched | None:
        """The next batch, if there is one."""
        if self._held or not self._buffer:
            return None
        fetched = self._buffer.popleft()
        fetched.assigned.waiting -= 1
        self._size -= fetched.header.size
        self._make_room()
        return fetched

    async def wait(self) -> None:
        """Until there may be something to take, or to hear."""
        await self._news.wait()
        self._news = Event()

    def wake(self) -> None:
        self._news.set()

    def _make_room(self) -> None:
        if self._full and 2 * self._size <= self._options.prefetch:
            self._full = False
            self._room.set()

    # ---- the tasks ----

    async def run(self) -> None:
        try:
            async with anyio.create_task_group() as self._tasks:
                while True:
                    self._bell = Event()
                    self._see_to_all()
                    await self._bell.wait()
        finally:
            self._cluster.pool.close_lane(self._lane)

    def _see_to_all(self) -> None:
        """Each partition has a leader, and each leader is asked."""
        if self._held or self._stopped:
            return
        for place, assigned in self.assigned.items():
            leader = self._cluster.leader(place)
            if leader is None:
                self._start(place.topic, partial(self._find_leaders, place.topic))
            elif not assigned.resetting:
                self._start(leader, partial(self._read_from, leader))

    def _start(self, what: object, task: Callable[[], Awaitable[None]]) -> None:
        """Unless it is under way."""
        if what not in self._under_way:
            self._under_way.add(what)
            assert self._tasks is not None
            self._tasks.start_soon(self._do, what, task)

    async def _do(self, what: object, task: Callable[[], Awaitable[None]]) -> None:
        """What may pass is tried again; what a broker refuses is the end."""
        try:
            await task()
        except LeveretError as error:
            if not may_pass(error):
                self._stop(partial(again, error))
            else:
                logger.warning("reading goes on when that has passed: %s", error)
                await anyio.sleep(RETRY_S)
        self._under_way.discard(what)
        self._bell.set()

    async def _find_leaders(self, topic: str) -> None:
        """Of a topic that was there. It may be deleted; we do not make it again."""
        await self._cluster.refresh(topic, creates=False, patience_s=MISSING_S)
        for place in self.assigned:
            if place.topic == topic and self._cluster.lacks(place):
                raise refused(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, str(place))

    async def _read_from(self, leader: Address) -> None:
        """As long as it leads something of ours."""
        while True:
            while self._full:
                await self._room.wait()
            asked, again = self._asked(leader)
            if asked:
                began = anyio.current_time()
                try:
                    answer = await self._fetch(leader, asked)
                except UNREACHED:
                    for assigned, _ in asked:
                        self._cluster.is_stale(assigned.place.topic)
                    raise
                if (
                    not self._receive(asked, answer)
                    and anyio.current_time() < began + self._options.max_wait_s
                ):
                    await anyio.sleep(RETRY_S)  # it should have waited for records; it must not hurry us
            elif again < math.inf:
                await anyio.sleep(max(0.0, again - anyio.current_time()))
            else:
                return

    def _asked(self, leader: Address) -> tuple[list[tuple[Assigned, int]], float]:
        """What to ask of it, each with its era; and when there may be more to ask."""
        now = anyio.current_time()
        asked: list[tuple[Assigned, int]] = []
        again = math.inf
        for assigned in () if self._held or self._stopped else self.assigned.values():
            if assigned.resetting or self._cluster.leader(assigned.place) != leader:
                continue
            if assigned.retry_at > now:
                again = min(again, assigned.retry_at)
            else:
                asked.append((assigned, assigned.era))
        return asked, again

    async def _fetch(self, leader: Address, asked: list[tuple[Assigned, int]]) -> Struct:
        options = self._options
        size_max = max(1, min(options.max_bytes, options.prefetch - self._size))
        topics: dict[str, list[Struct]] = {}
        for assigned, _ in asked:
            one = {
                "partition": assigned.place.partition,
                "fetch_offset": assigned.fetch_at,
                "partition_max_bytes": size_max,
            }
            topics.setdefault(assigned.place.topic, []).append(one)
        body = {
            "max_wait_ms": round(options.max_wait_s * 1000),
            "min_bytes": options.min_bytes,
            "max_bytes": size_max,
            "topics": [{"topic": name, "partitions": wanted} for name, wanted in topics.items()],
        }
        connection = await self._cluster.pool.get(leader, self._lane)
        return await connection.request(apis.FETCH, body, options.max_wait_s + self._cluster.url.request_s)

    # ---- answers ----

    def _receive(self, asked: list[tuple[Assigned, int]], answer: Struct) -> bool:
        """Whether there were records."""
        came = False
        results: dict[TopicPartition, Struct] = {}
        for topic in answer["responses"]:
            for one in topic["partitions"]:
                results[TopicPartition(topic["topic"], one["partition_index"])] = one
        for assigned, era in asked:
            result = results.get(assigned.place)
            if assigned.era != era:
                continue
            code = answer["error_code"] if result is None else result["error_code"]
            if code:
                self._refused(assigned, code)
            elif result is not None and result["records"]:
                came = True
                self._cut(assigned, result["records"])
                # Who was served comes last the next time.
                self.assigned[assigned.place] = self.assigned.pop(assigned.place)
        if self._size >= self._options.prefetch and not self._full:
            self._full = True
            self._room = Event()
        if self._buffer:
            self._news.set()
        return came

    def _cut(self, assigned: Assigned, octets: memoryview) -> None:
        """Into batches, of which the last may not be whole."""
        at = 0
        while len(octets) - at >= records.HEADER_SIZE:
            header = records.read_header(octets, at)
            end = at + header.size
            if header.size < records.HEADER_SIZE or (end > len(octets) and not at):
                self._malformed(assigned, f"a batch of {header.size} octets where {len(octets) - at} are")
                return
            if end > len(octets):
                return
            if octets[at + _MAGIC_AT] != records.MAGIC:
                self._malformed(assigned, f"records of format {octets[at + _MAGIC_AT]}")
                return
            crc = int.from_bytes(octets[at + _CRC_AT : at + _CRC_FROM])
            if google_crc32c.value(bytes(octets[at + _CRC_FROM : end])) != crc:
                self._malformed(assigned, "a batch with a wrong crc")
                return
            following = header.base_offset + header.last_offset_delta + 1
            if following > assigned.fetch_at:
                first, assigned.fetch_at = assigned.fetch_at, following
                if header.attributes & records.CONTROL:
                    assigned.moved()
                else:
                    self._buffer.append(Fetched(assigned, assigned.era, first, header, octets[at:end]))
                    self._size += header.size
                    assigned.waiting += 1
            at = end

    def _stop(self, reason: Reason) -> None:
        """Nothing more is asked for; what has come can still be taken."""
        self._stopped = True
        self._fail(reason)

    def _malformed(self, assigned: Assigned, what: str) -> None:
        self._stop(partial(MalformedRecords, f"{assigned.place} at offset {assigned.fetch_at}: {what}"))

    def _refused(self, assigned: Assigned, code: int) -> None:
        if code == ErrorCode.OFFSET_OUT_OF_RANGE:
            self._reset(assigned)
        elif code in RETRIABLE or code == ErrorCode.UNKNOWN_SERVER_ERROR:
            assigned.retry_at = anyio.current_time() + RETRY_S
            if code in STALE:
                self._cluster.is_stale(assigned.place.topic)
                self._bell.set()
        else:
            self._stop(partial(refused, code, str(assigned.place)))

    def _reset(self, assigned: Assigned) -> None:
        """There is nothing any more where we are, or nothing yet."""
        offset = self._options.offset
        text = f"{assigned.place} has no offset {assigned.fetch_at}"
        if isinstance(offset, int):
            self._stop(partial(OffsetOutOfRange, ErrorCode.OFFSET_OUT_OF_RANGE, text))
            return
        logger.warning("%s: going on at %s", text, offset)
        assigned.resetting = True
        what = (assigned.place, assigned.era)  # a seek may come meanwhile, and lead nowhere, too
        self._start(what, partial(self._find_offset, assigned, offset))

    async def _find_offset(self, assigned: Assigned, offset: Offset) -> None:
        era = assigned.era
        try:
            found = await look_up(self._cluster, [assigned.place], offset)
        finally:
            if assigned.era == era:
                assigned.resetting = False
        if assigned.era == era:
            assigned.fetch_at = found[assigned.place]
            assigned.moved()
