"""Send records to topics.

Flow:   a record gets its partition and goes into that partition's batch; the sender brings batches to the
        brokers; whoever waits hears where the log has the record.
Shape:  open inside `async with`; failed, if the broker has lost track of it: then everything raises
Limits: `memory_max` octets that are not acknowledged; whoever brings more waits. See `leveret.log.sender` for
        what is under way. Leaving the block by an exception, or cancelled, takes `CLOSE_S` at most.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from types import TracebackType
from typing import Final, Self, TypeAlias

import anyio
from anyio import CancelScope

from broker.kafka.compression import Codec
from broker.kafka.records import Record
from leveret.errors import InvalidValue
from leveret.log.accumulator import Accumulator, ProducerOptions
from leveret.log.background import Background
from leveret.log.batch import Sending, size_of
from leveret.log.cluster import Cluster
from leveret.log.errors import NotAllSent
from leveret.log.record import Appended, TopicPartition, milliseconds
from leveret.log.sender import Sender

CLOSE_S: Final = 3.0
CODECS: Final[Mapping[str | None, Codec]] = {
    None: Codec.NONE,
    "gzip": Codec.GZIP,
    "snappy": Codec.SNAPPY,
    "lz4": Codec.LZ4,
    "zstd": Codec.ZSTD,
}

Headers: TypeAlias = Mapping[str, bytes | None] | Iterable[tuple[str, bytes | None]]


class Producer:
    """Made by `Log.producer`. Any number of tasks may use it; those of one partition keep their order."""

    def __init__(self, cluster: Cluster, options: ProducerOptions) -> None:
        self._cluster = cluster
        self._accumulator = Accumulator(options)
        self._sender = Sender(cluster, self._accumulator)
        self._background: Background | None = None

    async def __aenter__(self) -> Self:
        """Raises ConnectionFailed, AuthenticationFailed, NotAuthorized."""
        if self._background is not None:
            raise RuntimeError("a producer is opened once; make another with `Log.producer`")
        if self._accumulator.options.idempotent:
            await self._sender.identify()
        self._background = Background()
        await self._background.open()
        self._background.start(self._sender.run)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        """Flushes. If all is well otherwise, raises NotAllSent as `flush` does."""
        assert self._background is not None
        try:
            if kind is None:
                await self.flush()
            else:
                with CancelScope(shield=True), anyio.move_on_after(CLOSE_S):
                    await self._all_settled()
        except BaseException as problem:
            self._sender.stop()
            await self._background.close(type(problem), problem, problem.__traceback__)
            raise
        self._sender.stop()
        return await self._background.close(kind, error, traceback)

    # ---- sending ----

    async def send(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None = None,
        headers: Headers = (),
        partition: int | None = None,
        timestamp: int | datetime | None = None,
    ) -> Appended:
        """Returns when all replicas have the record: where it is.

        Records with the same key go to the same partition. A value of None is a tombstone; `timestamp` is in
        milliseconds, and now if it is not given. If it is cancelled, the record may be sent or not.

        Raises SendFailed, ProducerFailed, InvalidValue, UnknownTopic, NotAuthorized, ConnectionFailed.
        """
        sending = await self.send_soon(
            topic, value, key=key, headers=headers, partition=partition, timestamp=timestamp
        )
        return await sending.appended()

    async def send_soon(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None = None,
        headers: Headers = (),
        partition: int | None = None,
        timestamp: int | datetime | None = None,
    ) -> Sending:
        """As `send`, but it waits only for room in memory, and for the topic if it is not known yet.

        What becomes of the record says `await sending.appended()`; or `flush`, of all that were not asked.
        """
        record = _record(value, key, headers, timestamp)
        size = size_of(record)
        room = self._accumulator.room
        if size > room.size_max:
            raise InvalidValue(
                f"a record of about {size} octets is more than all the memory, {room.size_max}"
            )
        count = (self._cluster.known(topic) or await self._cluster.refresh(topic)).partitions
        if partition is None:
            partition = self._accumulator.partition_for(topic, key, size, count, self._cluster.led)
        elif not (isinstance(partition, int) and 0 <= partition < count):
            raise InvalidValue(f"topic {topic!r} has partitions 0 to {count - 1}, and not {partition!r}")
        if not room.try_take(size):
            self._accumulator.close_batches()
            self._sender.ring()
            await room.take(size)
        if self._background is None or self._sender.reason is not None:
            room.give_back(size)
            raise self._why_not()
        sending, begun = self._accumulator.add(TopicPartition(topic, partition), record, size)
        if begun is not None:
            self._sender.ring()
            if begun.first:
                await anyio.lowlevel.checkpoint()  # the one before may go: it is the sender's turn
        return sending

    async def flush(self) -> None:
        """Returns when all that was sent before is acknowledged.

        Raises NotAllSent for records of `send_soon` that were given up and that nobody has asked for.
        """
        await self._all_settled()
        losses = self._accumulator.take_losses()
        if losses.count:
            assert losses.first is not None
            raise NotAllSent(losses.count, losses.first())

    async def _all_settled(self) -> None:
        self._accumulator.close_batches()
        self._sender.ring()
        for batch in self._accumulator.batches():
            await batch.settled()

    def _why_not(self) -> Exception:
        if self._sender.reason is not None:
            return self._sender.reason()
        return RuntimeError("the producer is not open: use it in `async with`")


def _record(
    value: bytes | None, key: bytes | None, headers: Headers, timestamp: int | datetime | None
) -> Record:
    """Raises InvalidValue for what no record can hold."""
    if not headers:
        pairs: list[tuple[str, bytes | None]] = []
    else:
        pairs = list(headers.items() if isinstance(headers, Mapping) else headers)
    if not (_is_octets(value) and _is_octets(key)):
        raise InvalidValue("the value and the key of a record are bytes or None")
    if not all(_is_text(name) and _is_octets(octets) for name, octets in pairs):
        raise InvalidValue("the headers of a record are texts with bytes or None")
    return Record(0, milliseconds(timestamp), key, value, pairs)


def _is_text(name: object) -> bool:
    """It can be written: half of a surrogate pair cannot."""
    if not isinstance(name, str):
        return False
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_octets(value: object) -> bool:
    return value is None or isinstance(value, bytes)
